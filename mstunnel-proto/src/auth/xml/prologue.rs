//! Takes the XML declaration off a document.
//!
//! Some known clients write `<?xml version: "1.0" encoding="UTF-8"?>`, which no parser takes
//! (threats.md P-038). Nothing in the declaration is of use to us but the encoding, so it is cut off
//! before parsing, and a document that claims another encoding than UTF-8 is refused.

use super::XmlError;

/// The longest declaration; real ones have 38 bytes.
const MAX_PROLOGUE_BYTES: usize = 256;

/// Returns the document behind its declaration, byte order mark and leading white space.
pub(super) fn strip(text: &str) -> Result<&str, XmlError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text).trim_ascii_start();
    let Some(rest) = text.strip_prefix("<?xml") else {
        return Ok(text);
    };
    // <?xml-stylesheet ...?> and the like are processing instructions.
    if !rest.starts_with([' ', '\t', '\r', '\n', '?']) {
        return Err(XmlError::ProcessingInstruction);
    }
    let end = rest.find("?>").filter(|&end| end <= MAX_PROLOGUE_BYTES).ok_or(XmlError::Prologue)?;
    let (declaration, document) = (rest[..end].to_ascii_lowercase(), &rest[end + 2..]);
    if declaration.contains(['<', '>']) {
        return Err(XmlError::Prologue);
    }
    if let Some((_, encoding)) = declaration.split_once("encoding") {
        let name = encoding.trim_start_matches([' ', '\t', '\r', '\n', '=', ':']);
        let name = name.strip_prefix(['"', '\'']).unwrap_or(name);
        let name = name.split(['"', '\'', ' ']).next().unwrap_or_default();
        if !matches!(name, "utf-8" | "utf8" | "us-ascii") {
            return Err(XmlError::Prologue);
        }
    }
    Ok(document.trim_ascii_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Covers: P-038, R26
    #[test]
    fn the_prologues_of_known_clients_are_taken_off() {
        for prologue in [
            "",
            "\u{feff}",
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n",
            "<?xml version: \"1.0\" encoding=\"UTF-8\"?>\n",
            "<?xml version='1.0' encoding='utf-8' standalone='yes' ?>",
            "\r\n<?xml?>",
        ] {
            assert_eq!(strip(&format!("{prologue}<a/>")), Ok("<a/>"), "{prologue:?}");
        }
    }

    /// Covers: P-036, R26
    #[test]
    fn other_encodings_and_instructions_are_refused() {
        for (text, want) in [
            ("<?xml version=\"1.0\" encoding=\"UTF-16\"?><a/>", XmlError::Prologue),
            ("<?xml version=\"1.0\" encoding='UTF-7'?><a/>", XmlError::Prologue),
            ("<?xml version=\"1.0\"><a/>", XmlError::Prologue),
            ("<?xml <!DOCTYPE a>?><a/>", XmlError::Prologue),
            ("<?xml-stylesheet href=\"x\"?><a/>", XmlError::ProcessingInstruction),
        ] {
            assert_eq!(strip(text), Err(want), "{text:?}");
        }
        assert_eq!(strip(&format!("<?xml {}?><a/>", " ".repeat(300))), Err(XmlError::Prologue));
    }
}
