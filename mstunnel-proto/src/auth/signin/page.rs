//! What a server's sign-in document says: texts for the user, a form, or success.
//!
//! ```text
//! <config-auth client="vpn" type="auth-request">
//!   <auth id="main"> <banner/> <message/> <error/>
//!     <form action="/auth"> <input type= name= label= value=/> <select name="group_list"> <option/> </select> </form>
//!   </auth>
//! </config-auth>
//! ```
//!
//! All of it is the server's word: bounded, and without control characters before anybody sees it. ocserv does
//! not escape its texts, so a bare `&` is taken as one.
//!
//! # Source
//! protocol.md 2.5 and 2.6; R62, R63.

use std::borrow::Cow;

use roxmltree::{Document, Node, ParsingOptions};

use crate::auth::xml::{self, XmlError};

/// The longest text of a server that is kept: a screenful.
pub const MAX_TEXT_CHARS: usize = 2_000;

/// The most inputs of a form; real ones have three.
pub const MAX_INPUTS: usize = 16;

/// The most groups to choose from.
pub const MAX_GROUPS: usize = 256;

/// The longest name, value or target in a form.
const MAX_WORD_BYTES: usize = 1_024;

/// The name of the input that holds the groups.
const GROUP_LIST: &str = "group_list";

/// One document of the server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) success: bool,
    pub(super) banner: Option<String>,
    pub(super) message: Option<String>,
    pub(super) error: Option<String>,
    pub(super) form: Option<Form>,
    pub(super) session_token: Option<String>,
    pub(super) wants_certificate: bool,
    /// The element to be sent back unread, as it stands.
    pub(super) opaque: Option<String>,
}

/// Questions of a server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Form {
    /// What the server says above it.
    pub message: Option<String>,
    /// Why the last answer was not taken.
    pub error: Option<String>,
    /// What is asked, in order; hidden ones are answered already.
    pub inputs: Vec<Input>,
    /// The groups to choose from; none if the server asks for none.
    pub groups: Vec<Group>,
    /// Where the answer goes: a path.
    pub(super) action: String,
}

/// One question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// Names the answer.
    pub name: String,
    /// What a person is shown.
    pub label: String,
    /// What kind of answer it is.
    pub kind: InputKind,
    /// What the server filled in.
    pub(super) value: String,
}

/// What kind of answer an input takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputKind {
    /// May be seen.
    Text,
    /// Must not be seen.
    Secret,
    /// Answered by the server itself; nobody is asked.
    Hidden,
}

/// A group that a user may choose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// What is sent.
    pub name: String,
    /// What a person is shown.
    pub label: String,
}

/// Why a document of the server is not one that we read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// Not a document of this protocol.
    #[error("the server's answer is not a sign-in document: {0}")]
    Xml(#[source] XmlProblem),
    /// More than anybody could answer.
    #[error("the server's form has more than {limit} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many are taken.
        limit: usize,
    },
    /// A form that cannot be answered as it wants.
    #[error("the server's form wants something else than a POST to a path")]
    Target,
}

/// What is wrong with an XML document, in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct XmlProblem(XmlError);

impl From<XmlError> for PageError {
    fn from(error: XmlError) -> Self {
        Self::Xml(XmlProblem(error))
    }
}

impl Page {
    /// Reads a response body.
    pub(super) fn read(body: &[u8]) -> Result<Self, PageError> {
        let text = std::str::from_utf8(body).map_err(|_| XmlError::NotUtf8)?;
        let text = with_escaped_tags(text);
        let text = with_escaped_ampersands(xml::checked(&text)?);
        let options = ParsingOptions { allow_dtd: false, nodes_limit: xml::MAX_NODES, entity_resolver: None };
        let document = Document::parse_with_options(&text, options).map_err(|_| XmlError::Malformed)?;
        let root = document.root_element();
        if !matches!(root.tag_name().name(), "config-auth" | "auth") {
            return Err(XmlError::NotConfigAuth.into());
        }
        let auth = if root.has_tag_name("auth") { Some(root) } else { child(root, "auth") };
        let said = |name| auth.and_then(|auth| child(auth, name)).or_else(|| child(root, name)).map(words);
        let form = auth.and_then(|auth| child(auth, "form")).map(read_form).transpose()?;
        Ok(Self {
            success: auth.is_some_and(|auth| auth.attribute("id") == Some("success")),
            banner: said("banner").flatten(),
            message: said("message").flatten(),
            error: auth
                .and_then(|auth| child(auth, "error"))
                .or_else(|| child(root, "error"))
                .and_then(error_words),
            form,
            session_token: child(root, "session-token")
                .and_then(|node| node.text())
                .map(bounded)
                .transpose()?,
            wants_certificate: child(root, "client-cert-request").is_some(),
            opaque: child(root, "opaque").map(|node| text[node.range()].to_owned()),
        })
    }
}

fn read_form(node: Node<'_, '_>) -> Result<Form, PageError> {
    if node.attribute("method").is_some_and(|method| !method.eq_ignore_ascii_case("post")) {
        return Err(PageError::Target);
    }
    let action = bounded(node.attribute("action").unwrap_or("/"))?;
    let is_path = action.starts_with('/') && !action.starts_with("//");
    if !is_path || action.bytes().any(|byte| byte <= b' ' || byte >= 0x7f) {
        return Err(PageError::Target);
    }
    let mut form = Form { action, ..Form::default() };
    for field in node.descendants().filter(Node::is_element) {
        let name = field.attribute("name").map(bounded).transpose()?;
        match (field.tag_name().name(), name) {
            ("select", Some(name)) if name == GROUP_LIST => form.groups = read_groups(field)?,
            ("input", Some(name)) => {
                let kind = match field.attribute("type").unwrap_or("text") {
                    "text" => InputKind::Text,
                    "password" => InputKind::Secret,
                    "hidden" => InputKind::Hidden,
                    _ => continue, // buttons, and what later servers may think of
                };
                if form.inputs.len() == MAX_INPUTS {
                    return Err(PageError::TooMany { what: "inputs", limit: MAX_INPUTS });
                }
                // The name becomes an element of our answer.
                if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
                    || !name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
                {
                    return Err(PageError::Target);
                }
                let label = clean(field.attribute("label").unwrap_or(&name));
                let value = bounded(field.attribute("value").unwrap_or_default())?;
                form.inputs.push(Input { name, label, kind, value });
            }
            _ => {}
        }
    }
    Ok(form)
}

fn read_groups(select: Node<'_, '_>) -> Result<Vec<Group>, PageError> {
    let mut groups = Vec::new();
    for option in select.children().filter(|node| node.has_tag_name("option")) {
        if groups.len() == MAX_GROUPS {
            return Err(PageError::TooMany { what: "groups", limit: MAX_GROUPS });
        }
        let label = option.text().unwrap_or_default();
        let name = bounded(option.attribute("value").unwrap_or(label))?;
        groups.push(Group { name, label: clean(label) });
    }
    Ok(groups)
}

fn child<'a, 'input>(parent: Node<'a, 'input>, name: &str) -> Option<Node<'a, 'input>> {
    parent.children().find(|node| node.has_tag_name(name))
}

fn words(node: Node<'_, '_>) -> Option<String> {
    node.text().map(clean).filter(|text| !text.is_empty())
}

/// The text of an error, with what belongs into its `%s`.
fn error_words(node: Node<'_, '_>) -> Option<String> {
    let mut text = words(node)?;
    for name in ["param1", "param2"] {
        if let Some(parameter) = node.attribute(name) {
            text = text.replacen("%s", &clean(parameter), 1);
        }
    }
    Some(clean(&text))
}

/// A server's text for a terminal: bounded, lines kept, every other control character a space.
pub(super) fn clean(text: &str) -> String {
    let shown = |c: char| if c.is_control() && c != '\n' { ' ' } else { c };
    text.trim().chars().filter(|c| !is_reordering(*c)).map(shown).take(MAX_TEXT_CHARS).collect()
}

/// Characters that make a terminal show text in another order than it has.
fn is_reordering(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn bounded(text: &str) -> Result<String, PageError> {
    if text.len() > MAX_WORD_BYTES {
        return Err(PageError::TooMany { what: "bytes in a name or value", limit: MAX_WORD_BYTES });
    }
    Ok(text.to_owned())
}

/// The longest name of a reference: `#x10FFFF`.
const MAX_REFERENCE_BYTES: usize = 8;

/// Escapes every `&` that begins no reference; ocserv's own texts have such.
fn with_escaped_ampersands(text: &str) -> Cow<'_, str> {
    let is_reference = |rest: &str| {
        // No further than a name can reach: a page of ampersands would be searched once for each of them.
        let end = rest.bytes().take(MAX_REFERENCE_BYTES + 1).position(|byte| byte == b';');
        let Some(name) = end.map(|end| &rest[..end]) else { return false };
        matches!(name, "amp" | "lt" | "gt" | "quot" | "apos")
            || name.strip_prefix('#').is_some_and(|digits| {
                !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'x')
            })
    };
    if text.match_indices('&').all(|(at, _)| is_reference(&text[at + 1..])) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 64);
    for (index, part) in text.split('&').enumerate() {
        if index > 0 {
            let at = part.as_ptr() as usize - text.as_ptr() as usize;
            out.push_str(if is_reference(&text[at..]) { "&" } else { "&amp;" });
        }
        out.push_str(part);
    }
    Cow::Owned(out)
}

/// Elements whose text stock ocserv inserts as its operator wrote it (protocol.md 3, statement 19).
const TEXTS: [&str; 5] = ["banner", "message", "title", "error", "option"];

/// Makes what looks like a tag inside of these elements text, up to the first end tag of the element.
fn with_escaped_tags(text: &str) -> Cow<'_, str> {
    let (mut out, mut copied, mut at) = (String::new(), 0, 0);
    // Elements that nothing ends from here on: a page of start tags would be searched once for each of them.
    let mut endless = [false; TEXTS.len()];
    while let Some(found) = text[at..].find('<') {
        at += found + 1;
        let starts = |name: &str| {
            let behind = text[at..].strip_prefix(name);
            behind.is_some_and(|rest| rest.starts_with(['>', ' ', '\t', '\r', '\n']))
        };
        let Some(which) = TEXTS.iter().position(|name| starts(name)).filter(|which| !endless[*which]) else {
            continue;
        };
        let Some(tag) = tag_len(&text[at..]) else { break };
        let content = at + tag;
        if text[..content].ends_with("/>") {
            at = content;
            continue;
        }
        let Some(len) = text[content..].find(&format!("</{}", TEXTS[which])) else {
            endless[which] = true;
            continue;
        };
        let inner = &text[content..content + len];
        at = content + len;
        if inner.contains('<') && !inner.trim_start().starts_with("<![CDATA[") {
            out.push_str(&text[copied..content]);
            out.push_str(&inner.replace('<', "&lt;"));
            copied = at;
        }
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    out.push_str(&text[copied..]);
    Cow::Owned(out)
}

/// The length of a start tag behind its `<`, with its `>`.
fn tag_len(tag: &str) -> Option<usize> {
    let mut quote = None;
    for (at, byte) in tag.bytes().enumerate() {
        match (quote, byte) {
            (None, b'>') => return Some(at + 1),
            (None, b'"' | b'\'') => quote = Some(byte),
            (Some(open), _) if open == byte => quote = None,
            (None | Some(_), _) => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEAD: &str =
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<config-auth client=\"vpn\" type=\"auth-request\">";

    fn page(inner: &str) -> Result<Page, PageError> {
        Page::read(format!("{HEAD}{inner}</config-auth>").as_bytes())
    }

    fn form(inner: &str) -> Result<Form, PageError> {
        page(&format!("<auth id=\"main\">{inner}</auth>")).map(|page| page.form.unwrap())
    }

    /// Covers: R63: a page of a megabyte costs a megabyte's work, not its square.
    #[test]
    fn ampersands_without_end_are_escaped_one_by_one() {
        let text = "&".repeat(1 << 20);
        assert_eq!(with_escaped_ampersands(&text).len(), 5 << 20);
        assert_eq!(
            with_escaped_ampersands("&123456789;&#x10FFFF;&lt;&;&"),
            "&amp;123456789;&#x10FFFF;&lt;&amp;;&amp;"
        );
    }

    /// Covers: statement 19: the document of the transcript, and what else an operator may write.
    #[test]
    fn an_unescaped_banner_loses_no_cookie() {
        let recorded = "<config-auth client=\"vpn\" type=\"complete\">\n<version who=\"sg\">0.1(1)</version>\n\
             <auth id=\"success\">\n<title>SSL VPN Service</title><banner>Welcome <all> & sundry</banner></auth>\
             </config-auth>";
        let read = Page::read(recorded.as_bytes()).unwrap();
        assert!(read.success);
        assert_eq!(read.banner.as_deref(), Some("Welcome <all> & sundry"));
        for said in ["a < b", "</b> first", "<br/>", "<!DOCTYPE", "<?php ?>", "<message>", "<a b='"] {
            let read = page(&format!("<auth id=\"success\"><banner>{said}</banner></auth>")).unwrap();
            assert_eq!((read.success, read.banner.as_deref()), (true, Some(said.trim())));
        }
        let read = page(
            "<auth id=\"main\"><message a='>'>1 < 2</message><form action=\"/auth\"><select name=\"group_list\">\
             <option value=\"a\">R<D</option><option>b</option></select></form></auth>",
        );
        let read = read.unwrap();
        assert_eq!(read.message.as_deref(), Some("1 < 2"));
        assert_eq!(read.form.unwrap().groups[0].label, "R<D");
        let read = page("<auth id=\"main\"><banner/><message><![CDATA[1 < 2]]></message></auth>").unwrap();
        assert_eq!((read.banner, read.message.as_deref()), (None, Some("1 < 2")));
    }

    /// Covers: R26, R63: what is not text is as strictly read as ever, and however often nothing ends costs once.
    #[test]
    fn a_banner_without_an_end_changes_nothing() {
        for text in ["<banner>", "<banner", "<banner a='", "<banners></banner>", "<a><b></a>"] {
            assert_eq!(with_escaped_tags(text), text);
            assert!(page(text).is_err(), "{text}");
        }
        let many = "<banner>".repeat(1 << 17);
        assert_eq!(with_escaped_tags(&many), many);
    }

    #[test]
    fn the_forms_of_ocserv_are_read() {
        let page = page(
            "<version who=\"sg\">0.1(1)</version><auth id=\"main\"><banner>all & sundry</banner>\
             <message>Please enter your username.</message><form method=\"post\" action=\"/auth\">\
             <input type=\"text\" name=\"username\" label=\"Username:\" />\
             <input type=\"hidden\" name=\"hid\" value=\"v&amp;1\"/><input type=\"submit\" name=\"go\"/>\
             <select name=\"group_list\" label=\"Group:\"><option value=\"grpA\">Group A</option>\
             <option>DEFAULT</option></select></form></auth>",
        )
        .unwrap();
        assert_eq!(page.banner.as_deref(), Some("all & sundry"));
        let form = page.form.unwrap();
        assert_eq!(form.action, "/auth");
        let kinds: Vec<_> = form.inputs.iter().map(|input| (input.name.as_str(), input.kind)).collect();
        assert_eq!(kinds, [("username", InputKind::Text), ("hid", InputKind::Hidden)]);
        assert_eq!(form.inputs[1].value, "v&1");
        let groups: Vec<_> =
            form.groups.iter().map(|group| (group.name.as_str(), group.label.as_str())).collect();
        assert_eq!(groups, [("grpA", "Group A"), ("DEFAULT", "DEFAULT")]);
    }

    #[test]
    fn success_comes_with_a_banner_and_perhaps_a_token() {
        let page =
            page("<session-token>TOK@1</session-token><auth id=\"success\"><banner>Hi</banner></auth>")
                .unwrap();
        assert!(page.success);
        assert_eq!((page.banner.as_deref(), page.session_token.as_deref()), (Some("Hi"), Some("TOK@1")));
        assert!(Page::read(b"<auth id=\"success\"/>").unwrap().success, "the old dialect");
    }

    /// Covers: R62
    #[test]
    fn texts_are_bounded_and_without_control_characters() {
        let evil =
            format!("<auth id=\"main\"><message>a\u{9b}31m\u{202e}b{}</message></auth>", "x".repeat(5_000));
        let message = page(&evil).unwrap().message.unwrap();
        assert!(message.starts_with("a 31mb") && message.chars().count() == MAX_TEXT_CHARS, "{message:.20}");
        let error = page("<auth id=\"main\"><error param1=\"bob\">no %s%n</error></auth>").unwrap().error;
        assert_eq!(error.as_deref(), Some("no bob%n"));
    }

    /// Covers: R61, R62
    #[test]
    fn a_form_that_leads_elsewhere_is_refused() {
        for action in ["https://evil.example/", "//evil.example/", "auth", "/a b", "/a\u{e9}"] {
            let refused = form(&format!("<form action=\"{action}\"><input name=\"username\"/></form>"));
            assert_eq!(refused, Err(PageError::Target), "{action}");
        }
        assert_eq!(form("<form method=\"get\"/>"), Err(PageError::Target));
        assert_eq!(form("<form><input name=\"a&gt;&lt;b\"/></form>"), Err(PageError::Target));
    }

    /// Covers: R63
    #[test]
    fn documents_that_blow_up_are_refused() {
        let bomb = "<!DOCTYPE l [<!ENTITY a \"aa\"><!ENTITY b \"&a;&a;\">]><config-auth>&b;</config-auth>";
        assert!(matches!(Page::read(bomb.as_bytes()), Err(PageError::Xml(_))));
        let inputs = "<input name=\"a\"/>".repeat(MAX_INPUTS + 1);
        assert!(matches!(form(&format!("<form>{inputs}</form>")), Err(PageError::TooMany { .. })));
        let groups = "<option>a</option>".repeat(MAX_GROUPS + 1);
        let groups = form(&format!("<form><select name=\"group_list\">{groups}</select></form>"));
        assert!(matches!(groups, Err(PageError::TooMany { .. })));
        let long = format!("<form><input name=\"a\" value=\"{}\"/></form>", "v".repeat(MAX_WORD_BYTES + 1));
        assert!(matches!(form(&long), Err(PageError::TooMany { .. })));
        assert!(Page::read(b"<html></html>").is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_panic_the_reader(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Page::read(&bytes);
        }

        #[test]
        fn no_soup_panics_the_reader(parts in prop::collection::vec(prop::sample::select(vec![
            "<", ">", "/", "</", "<config-auth>", "</config-auth>", "<auth id=\"main\">", "</auth>", "<form action=\"/\">",
            "</form>", "<input name=\"", "\"/>", "&", "&amp;", "&#x4", ";", "<opaque>", "</opaque>", "x", "\u{e9}",
        ]), 0..40)) {
            let _ = Page::read(parts.concat().as_bytes());
        }
    }
}
