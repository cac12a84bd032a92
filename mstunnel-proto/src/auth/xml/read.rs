//! What a client's config-auth document says.
//!
//! ```text
//! <config-auth client="vpn" type="auth-reply" ...>
//!   ...
//!   <auth><username>alice</username> or <password>...</password></auth>
//!   <group-select>staff</group-select>
//! </config-auth>
//! ```
//!
//! Everything else (version, device-id, capabilities, posture) is ignored. A field that is there
//! twice or holds elements is refused: two readers could disagree about what it says.
//!
//! # Source
//! protocol.md sections 2.3 and 2.4; statements 5 and 8 of its section 12.

use roxmltree::{Document, Node, ParsingOptions};
use zeroize::Zeroizing;

use super::{MAX_NODES, XmlError, checked};
use crate::auth::fields::{LoginFields, Step};

/// Reads the login fields of a config-auth document.
///
/// # Errors
/// If the body is not such a document, or passes a limit.
pub(crate) fn read(body: &[u8]) -> Result<LoginFields, XmlError> {
    let text = std::str::from_utf8(body).map_err(|_| XmlError::NotUtf8)?;
    let text = checked(text)?;
    let options = ParsingOptions { allow_dtd: false, nodes_limit: MAX_NODES, entity_resolver: None };
    let document = Document::parse_with_options(text, options).map_err(|_| XmlError::Malformed)?;
    let root = document.root_element();
    if !root.has_tag_name("config-auth") {
        return Err(XmlError::NotConfigAuth);
    }
    let auth = only(root, "auth")?;
    let field = |name| match auth {
        Some(auth) => only(auth, name)?.map(content).transpose(),
        None => Ok(None),
    };
    let group = match (only(root, "group-select")?, field("group-select")?) {
        (Some(_), Some(_)) => return Err(XmlError::AmbiguousField),
        (Some(node), None) => Some(content(node)?),
        (None, inner) => inner,
    };
    Ok(LoginFields {
        step: if root.attribute("type") == Some("init") { Step::Init } else { Step::Reply },
        username: field("username")?.map(|name| name.to_string()),
        password: field("password")?,
        group: group.map(|name| name.to_string()),
    })
}

/// The one child element of that name.
fn only<'a, 'input>(parent: Node<'a, 'input>, name: &str) -> Result<Option<Node<'a, 'input>>, XmlError> {
    let mut found = parent.children().filter(|child| child.has_tag_name(name));
    let first = found.next();
    match found.next() {
        Some(_) => Err(XmlError::AmbiguousField),
        None => Ok(first),
    }
}

/// The text of an element that holds nothing else.
fn content(node: Node<'_, '_>) -> Result<Zeroizing<String>, XmlError> {
    let mut text = Zeroizing::new(String::with_capacity(node.range().len()));
    for child in node.children() {
        if !child.is_text() {
            return Err(XmlError::AmbiguousField);
        }
        text.push_str(child.text().unwrap_or_default());
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEAD: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<config-auth client=\"vpn\" ";

    fn reply(inner: &str) -> Result<LoginFields, XmlError> {
        read(format!("{HEAD}type=\"auth-reply\">{inner}</config-auth>\n").as_bytes())
    }

    fn username(text: &str) -> Option<String> {
        reply(&format!("<auth><username>{text}</username></auth>")).unwrap().username
    }

    /// Covers: statement 3, statement 5, statement 8
    #[test]
    fn the_stock_init_and_replies_are_read() {
        let init = format!(
            "{HEAD}type=\"init\" aggregate-auth-version=\"2\"><version who=\"vpn\">v9.01-3</version>\
             <device-id>linux-64</device-id><capabilities><auth-method>single-sign-on-v2</auth-method>\
             </capabilities><group-select>grpB</group-select><group-access>https://h/</group-access></config-auth>\n"
        );
        let init = read(init.as_bytes()).unwrap();
        assert_eq!((init.step, init.username, init.group.as_deref()), (Step::Init, None, Some("grpB")));

        let both = reply("<auth><username>u</username><password>p</password></auth><group-select/>").unwrap();
        assert_eq!(both.step, Step::Reply);
        assert_eq!(both.username.as_deref(), Some("u"));
        assert_eq!(both.password.as_deref().map(String::as_str), Some("p"));
        assert_eq!(both.group.as_deref(), Some(""));
    }

    /// Covers: statement 8
    #[test]
    fn named_decimal_and_hexadecimal_references_are_decoded() {
        assert_eq!(username("&amp;&lt;&gt;&quot;&apos;&#65;&#x42;").as_deref(), Some("&<>\"'AB"));
        assert_eq!(username("a&#13;b").as_deref(), Some("a\rb"));
        assert_eq!(username("z\u{f6}&#xf6;").as_deref(), Some("z\u{f6}\u{f6}"));
        assert_eq!(username("<![CDATA[a<b]]>").as_deref(), Some("a<b"));
    }

    /// Covers: P-036, R26
    #[test]
    fn documents_that_reach_out_or_blow_up_are_refused() {
        let bomb = "<!DOCTYPE l [<!ENTITY a \"aa\"><!ENTITY b \"&a;&a;\">]><config-auth>&b;</config-auth>";
        assert_eq!(read(bomb.as_bytes()), Err(XmlError::Declaration));
        let file = "<!DOCTYPE r SYSTEM \"file:///etc/passwd\"><config-auth/>";
        assert_eq!(read(file.as_bytes()), Err(XmlError::Declaration));
        assert_eq!(reply("&xxe;"), Err(XmlError::Malformed));
        assert_eq!(reply("<?x y?>"), Err(XmlError::ProcessingInstruction));
        let utf16: Vec<u8> = "<config-auth/>".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(read(&utf16), Err(XmlError::Malformed));
        assert_eq!(read(b"\xff\xfe<"), Err(XmlError::NotUtf8));
    }

    /// Covers: P-037, R26
    #[test]
    fn duplicate_and_nested_fields_are_refused() {
        for inner in [
            "<auth><username>a</username><username>b</username></auth>",
            "<auth><username>a</username></auth><auth><username>b</username></auth>",
            "<auth><username>a<b/></username></auth>",
            "<auth><username>a<!-- b -->c</username></auth>",
            "<group-select>a</group-select><auth><group-select>b</group-select></auth>",
        ] {
            assert_eq!(reply(inner), Err(XmlError::AmbiguousField), "{inner}");
        }
        assert_eq!(reply("<auth a='1' a='2'/>"), Err(XmlError::Malformed));
        assert_eq!(read(b"<html></html>"), Err(XmlError::NotConfigAuth));
        assert_eq!(read(b""), Err(XmlError::Malformed));
    }

    #[test]
    fn a_field_outside_of_its_place_is_not_a_field() {
        let fields = reply("<username>a</username><x><auth><password>b</password></auth></x>").unwrap();
        assert_eq!((fields.username, fields.password.is_some()), (None, false));
    }

    proptest! {
        /// Covers: P-036, P-037
        #[test]
        fn no_bytes_panic_the_reader(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&bytes);
        }

        #[test]
        fn no_soup_of_tags_panics_the_reader(parts in prop::collection::vec(prop::sample::select(vec![
            "<", ">", "/", "</", "<a", "config-auth", "<auth>", "</auth>", "<username>", "=", "\"", "'", "&amp;", "&#",
            ";", "<!--", "-->", "<![CDATA[", "]]>", "<?xml", "?>", "xmlns:a=", " ", "x", "\u{e9}",
        ]), 0..40)) {
            let _ = read(parts.concat().as_bytes());
        }

        #[test]
        fn an_escaped_name_is_read_as_it_was(name in "[ -~\u{a1}-\u{ff}]{0,40}") {
            let escaped = name.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
            prop_assert_eq!(username(&escaped), Some(name));
        }
    }
}
