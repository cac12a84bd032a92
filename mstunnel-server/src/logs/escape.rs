//! Characters that would break a line, steer a terminal or turn text around, made visible.
//!
//! What is escaped: C0 and C1 controls and DEL, the line and paragraph separators, the marks that
//! change the text direction, the byte order mark, interlinear and tag characters. The escapes are
//! those of JSON, so that they may stand in a JSON string too.

/// Whether a log line or a terminal must not see `letter`.
pub(crate) fn is_unsafe(letter: char) -> bool {
    letter.is_control()
        || matches!(
            letter,
            '\u{061c}'
                | '\u{200e}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2066}'..='\u{2069}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// Appends `letter`, escaped if it is unsafe.
pub(crate) fn push(text: &mut String, letter: char) {
    match letter {
        '\n' => text.push_str("\\n"),
        '\r' => text.push_str("\\r"),
        '\t' => text.push_str("\\t"),
        letter if is_unsafe(letter) => {
            for unit in letter.encode_utf16(&mut [0; 2]) {
                text.push_str(&format!("\\u{unit:04x}"));
            }
        }
        letter => text.push(letter),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_known_tricks_are_visible() {
        let mut text = String::new();
        "a\u{1b}[31m\r\n\u{9b}\u{202e}\u{2028}\u{e0041}é".chars().for_each(|letter| push(&mut text, letter));
        assert_eq!(text, "a\\u001b[31m\\r\\n\\u009b\\u202e\\u2028\\udb40\\udc41é");
    }

    proptest! {
        #[test]
        fn nothing_unsafe_stays_and_json_reads_it_back(original in any::<String>()) {
            let mut escaped = String::new();
            serde_json::to_string(&original).unwrap().chars().for_each(|letter| push(&mut escaped, letter));
            prop_assert!(!escaped.chars().any(is_unsafe));
            prop_assert_eq!(serde_json::from_str::<String>(&escaped).unwrap(), original);
        }
    }
}
