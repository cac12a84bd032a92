//! Finds the line of a JSON pointer, so that a problem can name it.
//!
//! `serde_json` gives positions for syntax only. This walks text that it has already accepted, and
//! only when there is something to report; on text that is not JSON it answers `None`.

/// The line (from 1) where the value at `pointer` begins, or the nearest value around it that is written.
///
/// Of two equal names the last one counts.
pub(super) fn line_of(text: &str, pointer: &str) -> Option<usize> {
    let mut walk = Walk { bytes: text.as_bytes(), at: 0 };
    walk.skip_space();
    let mut found = walk.at;
    for token in pointer.split('/').skip(1) {
        let token = token.replace("~1", "/").replace("~0", "~");
        let Some(place) = walk.enter(&token) else { break };
        walk.at = place;
        found = place;
    }
    let before = walk.bytes.get(..found)?;
    Some(before.iter().filter(|&&byte| byte == b'\n').count() + 1)
}

struct Walk<'t> {
    bytes: &'t [u8],
    at: usize,
}

impl Walk<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while self.peek().is_some_and(|byte| byte.is_ascii_whitespace()) {
            self.at += 1;
        }
    }

    /// Where the member or element `token` of the value at the cursor begins.
    fn enter(&mut self, token: &str) -> Option<usize> {
        match self.peek()? {
            b'{' => self.member(token),
            b'[' => self.element(token.parse().ok()?),
            _ => None,
        }
    }

    fn member(&mut self, name: &str) -> Option<usize> {
        let mut found = None;
        self.at += 1;
        loop {
            self.skip_space();
            let start = self.at;
            if self.peek() != Some(b'"') {
                return found;
            }
            self.skip_value();
            let key: Option<String> = serde_json::from_slice(self.bytes.get(start..self.at)?).ok();
            self.skip_space();
            self.at += 1; // the colon
            self.skip_space();
            if key.as_deref() == Some(name) {
                found = Some(self.at);
            }
            self.skip_value();
            self.skip_space();
            if self.peek() != Some(b',') {
                return found;
            }
            self.at += 1;
        }
    }

    fn element(&mut self, index: usize) -> Option<usize> {
        self.at += 1;
        for _ in 0..index {
            self.skip_value();
            self.skip_space();
            if self.peek()? != b',' {
                return None;
            }
            self.at += 1;
        }
        self.skip_space();
        (self.peek()? != b']').then_some(self.at)
    }

    /// Moves behind the value at the cursor, counting brackets instead of recursing.
    fn skip_value(&mut self) {
        self.skip_space();
        let mut depth = 0_usize;
        while let Some(byte) = self.peek() {
            match byte {
                b'"' => self.skip_string(),
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                }
                b'}' | b']' if depth == 0 => return,
                b'}' | b']' => {
                    depth -= 1;
                    self.at += 1;
                }
                b',' if depth == 0 => return,
                _ if depth == 0 => self.skip_word(),
                _ => self.at += 1,
            }
            if depth == 0 {
                return;
            }
        }
    }

    fn skip_string(&mut self) {
        self.at += 1;
        while let Some(byte) = self.peek() {
            self.at += 1;
            match byte {
                b'\\' => self.at += 1,
                b'"' => return,
                _ => {}
            }
        }
    }

    fn skip_word(&mut self) {
        while self.peek().is_some_and(|byte| !b",]} \t\r\n".contains(&byte)) {
            self.at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = r#"{
  "a": [1, "two, ]}", {"x": true}],
  "b/c": {
    "d~e": null,
    "f\"g": [
      10,
      20
    ]
  },
  "a": 2
}"#;

    #[test]
    fn pointers_lead_to_their_lines() {
        for (pointer, line) in [
            ("", 1),
            ("/b~1c", 3),
            ("/b~1c/d~0e", 4),
            ("/b~1c/f\"g", 5),
            ("/b~1c/f\"g/1", 7),
            ("/a", 10),
            ("/b~1c/missing", 3),
            ("/b~1c/f\"g/9", 5),
        ] {
            assert_eq!(line_of(TEXT, pointer), Some(line), "{pointer}");
        }
    }

    proptest! {
        #[test]
        fn any_text_and_pointer_end_without_a_panic(text in "[\\[\\]{}\",:\\\\ a1\n]{0,60}", pointer in "[/a0-3~]{0,12}") {
            let line = line_of(&text, &pointer);
            prop_assert!(line.is_none_or(|line| line <= text.lines().count().max(1) + 1));
        }
    }
}
