//! The documents that we answer with, as ocserv spells them, but with every text escaped.
//!
//! ```text
//! <config-auth client="vpn" type="auth-request">     a form: main
//! <config-auth client="vpn" type="complete">         success
//! ```
//!
//! # Source
//! protocol.md section 2.5 and appendix A; statements 8 to 10 of its section 12; threats.md R25.

use std::fmt::{self, Write};

use crate::auth::config::GroupChoice;

const REQUEST_HEAD: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
    <config-auth client=\"vpn\" type=\"auth-request\">\n<version who=\"sg\">0.1(1)</version>\n<auth id=\"main\">\n";
const REQUEST_TAIL: &str = "</form></auth>\n</config-auth>";
const FORM_HEAD: &str = "\n<form method=\"post\" action=\"/auth\">\n";

/// The groups to choose from, and which one the client has chosen so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GroupOptions<'a> {
    /// What the operator offers, in that order.
    pub(crate) choices: &'a [GroupChoice],
    /// The chosen one; it is listed first.
    pub(crate) selected: Option<&'a GroupChoice>,
}

/// The form that asks for the user name and, if there are groups, for the group.
pub(crate) fn username_form(banner: Option<&str>, groups: GroupOptions<'_>) -> String {
    let mut out = String::from(REQUEST_HEAD);
    push_banner(&mut out, banner);
    out.push_str("<message>Please enter your username.</message>");
    out.push_str(FORM_HEAD);
    out.push_str("<input type=\"text\" name=\"username\" label=\"Username:\" />\n");
    if !groups.choices.is_empty() {
        out.push_str("<select name=\"group_list\" label=\"Group:\">\n");
        let others = groups
            .choices
            .iter()
            .filter(|choice| groups.selected.is_none_or(|first| first.name != choice.name));
        for choice in groups.selected.into_iter().chain(others) {
            push_option(&mut out, choice);
        }
        out.push_str("</select>\n");
    }
    out.push_str(REQUEST_TAIL);
    out
}

/// The form that asks for the password; `is_retry` says that the last one was wrong.
pub(crate) fn password_form(notice: Option<&str>) -> String {
    let mut out = String::from(REQUEST_HEAD);
    out.push_str("<message>");
    if let Some(notice) = notice {
        push(&mut out, format_args!("{}\n", Escaped(notice)));
    }
    out.push_str("Please enter your password.</message>");
    out.push_str(FORM_HEAD);
    out.push_str("<input type=\"password\" name=\"password\" label=\"Password:\" />\n");
    out.push_str(REQUEST_TAIL);
    out
}

/// The document that ends a login; the cookie travels beside it.
pub(crate) fn success(banner: Option<&str>) -> String {
    let mut out = String::from(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<config-auth client=\"vpn\" type=\"complete\">\n\
         <version who=\"sg\">0.1(1)</version>\n<auth id=\"success\">\n<title>SSL VPN Service</title>",
    );
    push_banner(&mut out, banner);
    out.push_str("</auth></config-auth>\n");
    out
}

fn push_banner(out: &mut String, banner: Option<&str>) {
    if let Some(banner) = banner {
        push(out, format_args!("<banner>{}</banner>", Escaped(banner)));
    }
}

fn push_option(out: &mut String, choice: &GroupChoice) {
    if choice.label == choice.name {
        push(out, format_args!("<option>{}</option>\n", Escaped(&choice.name)));
    } else {
        push(
            out,
            format_args!("<option value=\"{}\">{}</option>\n", Escaped(&choice.name), Escaped(&choice.label)),
        );
    }
}

fn push(out: &mut String, text: fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing to a string does not fail");
}

/// Text in element or attribute content. What XML cannot carry becomes U+FFFD.
pub(crate) struct Escaped<'a>(pub(crate) &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&apos;")?,
                '\r' => f.write_str("&#13;")?,
                '\t' | '\n' => f.write_char(c)?,
                '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => f.write_char(char::REPLACEMENT_CHARACTER)?,
                _ => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NO_GROUPS: GroupOptions<'_> = GroupOptions { choices: &[], selected: None };

    /// Covers: statement 3
    #[test]
    fn forms_and_success_have_the_lengths_of_the_real_transcript() {
        assert_eq!(username_form(Some("Pre login"), NO_GROUPS).len(), 332);
        assert_eq!(password_form(None).len(), 310);
        assert_eq!(success(None).len(), 189);
        // ocserv does not escape: "Welcome <all> & sundry" has 228 bytes there, and three references here.
        assert_eq!(success(Some("Welcome <all> & sundry")).len(), 228 + 3 + 3 + 4);
    }

    /// Covers: statement 9, statement 10
    #[test]
    fn the_selected_group_is_listed_first_and_only_once() {
        let choices = [
            GroupChoice { name: "a".into(), label: "Group A".into() },
            GroupChoice { name: "b".into(), label: "b".into() },
        ];
        let list = |selected| {
            let form = username_form(None, GroupOptions { choices: &choices, selected });
            let (_, rest) = form.split_once("label=\"Group:\">\n").unwrap();
            rest.split_once("</select>").unwrap().0.to_owned()
        };
        let (a, b) = ("<option value=\"a\">Group A</option>\n", "<option>b</option>\n");
        assert_eq!(list(None), format!("{a}{b}"));
        assert_eq!(list(Some(&choices[1])), format!("{b}{a}"));
    }

    /// Covers: statement 8, R25
    #[test]
    fn every_text_is_escaped() {
        let text = "<b>&\"'\r\u{0}\u{ffff}]]>";
        let escaped = "&lt;b&gt;&amp;&quot;&apos;&#13;\u{fffd}\u{fffd}]]&gt;";
        let choice = GroupChoice { name: text.into(), label: format!("{text}!") };
        let groups = GroupOptions { choices: std::slice::from_ref(&choice), selected: None };
        let form = username_form(Some(text), groups);
        assert!(form.contains(&format!("<banner>{escaped}</banner>")), "{form}");
        assert!(form.contains(&format!("<option value=\"{escaped}\">{escaped}!</option>")), "{form}");
        assert!(success(Some(text)).contains(&format!("<banner>{escaped}</banner>")));
        assert!(password_form(Some(text)).contains(&format!("<message>{escaped}\n")));
    }

    proptest! {
        /// Covers: statement 8, R25
        #[test]
        fn whatever_the_texts_our_documents_are_well_formed(banner in any::<String>(), name in any::<String>()) {
            let choice = GroupChoice { label: format!("{name}{banner}"), name };
            let groups = GroupOptions { choices: std::slice::from_ref(&choice), selected: Some(&choice) };
            for document in [username_form(Some(&banner), groups), password_form(Some(&banner)), success(Some(&banner))] {
                prop_assert!(roxmltree::Document::parse(&document).is_ok(), "{document}");
            }
        }
    }
}
