//! Refuses a document by its shape, in one pass and without memory, before the parser sees it.
//!
//! ```text
//! <name attribute="value" xmlns:n="value" ...>   counted: depth, elements, attributes, namespaces
//! <!-- ... -->  <![CDATA[ ... ]]>                skipped
//! <! ...  <? ...                                 refused: DTD, entities, processing instructions
//! ```
//!
//! On every well-formed prefix this scan and the parser see the same tags, and the parser stops at
//! the first place that is not well-formed. So no input makes the parser work on more than what
//! these limits allow; its work per element is at most quadratic in 32 attributes.
//!
//! # Source
//! threats.md R26, P-036, P-037 (RUSTSEC-2026-0194/0195, CVE-2024-22024).

use super::XmlError;

/// The deepest nesting; config-auth needs 4, a posture report 8.
pub(super) const MAX_DEPTH: usize = 16;
/// The most elements; a posture report has some dozens.
pub(super) const MAX_ELEMENTS: usize = 512;
/// The most attributes of an element.
pub(super) const MAX_ATTRIBUTES: usize = 32;
/// The most namespace declarations of an element.
pub(super) const MAX_NAMESPACES: usize = 32;

/// Checks the shape of `document`, which begins behind its prologue.
pub(super) fn check(document: &str) -> Result<(), XmlError> {
    let mut rest = document.as_bytes();
    let (mut depth, mut elements) = (0usize, 0usize);
    while let Some(start) = rest.iter().position(|&byte| byte == b'<') {
        rest = &rest[start..];
        rest = if rest.starts_with(b"<!--") {
            behind(&rest[4..], b"-->")?
        } else if rest.starts_with(b"<![CDATA[") {
            behind(&rest[9..], b"]]>")?
        } else if rest.starts_with(b"<!") {
            return Err(XmlError::Declaration);
        } else if rest.starts_with(b"<?") {
            return Err(XmlError::ProcessingInstruction);
        } else if rest.starts_with(b"</") {
            depth = depth.checked_sub(1).ok_or(XmlError::Malformed)?;
            behind(rest, b">")?
        } else {
            elements += 1;
            if elements > MAX_ELEMENTS {
                return Err(XmlError::TooManyElements);
            }
            if depth >= MAX_DEPTH {
                return Err(XmlError::TooDeep);
            }
            let (len, form) = start_tag(&rest[1..])?;
            if form == Form::Opens {
                depth += 1;
            }
            &rest[1 + len..]
        };
    }
    if depth > 0 { Err(XmlError::Malformed) } else { Ok(()) }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Opens,
    IsEmpty,
}

/// Measures a start tag behind its `<`, counting what it declares.
fn start_tag(tag: &[u8]) -> Result<(usize, Form), XmlError> {
    let (mut attributes, mut namespaces) = (0usize, 0usize);
    let mut quote = None;
    let mut name_start = 0;
    for (at, &byte) in tag.iter().enumerate() {
        match (quote, byte) {
            (Some(open), _) if byte == open => {
                quote = None;
                name_start = at + 1;
            }
            (Some(_), _) => {}
            (None, b'"' | b'\'') => quote = Some(byte),
            (None, b'=') => {
                if tag[name_start..at].trim_ascii().starts_with(b"xmlns") {
                    namespaces += 1;
                } else {
                    attributes += 1;
                }
                if attributes > MAX_ATTRIBUTES {
                    return Err(XmlError::TooManyAttributes);
                }
                if namespaces > MAX_NAMESPACES {
                    return Err(XmlError::TooManyNamespaces);
                }
            }
            (None, b'>') => {
                let form = if at > 0 && tag[at - 1] == b'/' { Form::IsEmpty } else { Form::Opens };
                return Ok((at + 1, form));
            }
            // The name of the element ends at the first white space.
            (None, b' ' | b'\t' | b'\r' | b'\n') if attributes + namespaces == 0 => name_start = at,
            (None, b'<') => return Err(XmlError::Malformed),
            (None, _) => {}
        }
    }
    Err(XmlError::Malformed)
}

fn behind<'a>(bytes: &'a [u8], end: &[u8]) -> Result<&'a [u8], XmlError> {
    let at = bytes.windows(end.len()).position(|window| window == end).ok_or(XmlError::Malformed)?;
    Ok(&bytes[at + end.len()..])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Covers: P-037, R26
    #[test]
    fn each_limit_is_reached_and_not_passed() {
        let nested = |n: usize| format!("{}{}", "<a>".repeat(n), "</a>".repeat(n));
        assert_eq!(check(&nested(16)), Ok(()));
        assert_eq!(check(&nested(17)), Err(XmlError::TooDeep));
        assert_eq!(check(&"<a>".repeat(100_000)), Err(XmlError::TooDeep));

        let many = |n: usize| format!("<r>{}</r>", "<a/>".repeat(n));
        assert_eq!(check(&many(511)), Ok(()));
        assert_eq!(check(&many(512)), Err(XmlError::TooManyElements));

        let attributes = |n: usize| format!("<a {}/>", "b='c'".repeat(n));
        assert_eq!(check(&attributes(32)), Ok(()));
        assert_eq!(check(&attributes(33)), Err(XmlError::TooManyAttributes));

        let namespaces = |n: usize| format!("<a {} d='e'/>", "xmlns:b=\"c\" ".repeat(n));
        assert_eq!(check(&namespaces(32)), Ok(()));
        assert_eq!(check(&namespaces(33)), Err(XmlError::TooManyNamespaces));
    }

    /// Covers: P-036, R26
    #[test]
    fn declarations_and_instructions_are_refused_wherever_they_stand() {
        for text in ["<!DOCTYPE a>", "<a/><!ENTITY b 'c'>", "<a><!ELEMENT b></a>", "<![INCLUDE[<a/>]]>"] {
            assert_eq!(check(text), Err(XmlError::Declaration), "{text}");
        }
        for text in ["<a/><?php ?>", "<a><?xml version='1.0'?></a>"] {
            assert_eq!(check(text), Err(XmlError::ProcessingInstruction), "{text}");
        }
    }

    #[test]
    fn comments_character_data_and_quotes_hide_tags() {
        assert_eq!(check("<a><!-- <?x?> <!DOCTYPE> <b> --><![CDATA[<!DOCTYPE><c>]]></a>"), Ok(()));
        assert_eq!(check("<a b='>' c=\"/>\">d</a>"), Ok(()));
        for cut in ["<a", "<a b='", "<!--", "<![CDATA[", "</a>", "<a>", "<a <b>"] {
            assert_eq!(check(cut), Err(XmlError::Malformed), "{cut}");
        }
    }
}
