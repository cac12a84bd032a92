//! An HTTP answer as it came, read just strictly enough to test with.

/// The status line, the fields and the body of an answer.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// The status code; 0 when the server closed without a whole answer.
    pub status: u16,
    /// What follows the code.
    pub reason: String,
    /// The fields in order, names as spelled.
    pub fields: Vec<(String, String)>,
    /// The body, as long as Content-Length said.
    pub body: String,
    /// Head and body as they came.
    pub raw: Vec<u8>,
}

impl Answer {
    /// Reads a head that ends with an empty line.
    pub(crate) fn parse_head(head: &str) -> Option<Self> {
        let mut lines = head.split("\r\n");
        let mut status_line = lines.next()?.splitn(3, ' ');
        if !status_line.next()?.starts_with("HTTP/1.") {
            return None;
        }
        let status = status_line.next()?.parse().ok()?;
        let reason = status_line.next().unwrap_or_default().to_owned();
        let fields = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect();
        Some(Self { status, reason, fields, ..Self::default() })
    }

    /// The first field of that name, whatever its case.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Every field with exactly this spelling.
    pub fn fields_spelled(&self, name: &str) -> Vec<&str> {
        self.fields.iter().filter(|(n, _)| n == name).map(|(_, value)| value.as_str()).collect()
    }

    /// The last value that `Set-Cookie` gave to `name`; an empty one deletes.
    pub fn cookie(&self, name: &str) -> Option<String> {
        let values = self.fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case("set-cookie"));
        values
            .filter_map(|(_, value)| value.split(';').next()?.split_once('='))
            .rfind(|(n, _)| *n == name)
            .map(|(_, value)| value.to_owned())
            .filter(|value| !value.is_empty())
    }

    /// Head and body with the value of every cookie, and nothing else, blanked: two such texts are compared
    /// where two refusals must not be told apart.
    pub fn without_cookies(&self) -> String {
        let text = String::from_utf8_lossy(&self.raw);
        let blank = |line: &str| match line.split_once("webvpncontext=") {
            Some((before, after)) => {
                let rest = after.find(';').map_or("", |at| &after[at..]);
                format!("{before}webvpncontext={rest}")
            }
            None => line.to_owned(),
        };
        text.split("\r\n").map(blank).collect::<Vec<_>>().join("\r\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_that_is_emptied_first_and_set_later_counts() {
        let head =
            "HTTP/1.1 200 OK\r\nSet-Cookie: webvpn=; path=/\r\nset-cookie: webvpn=AA==; Secure\r\n\r\n";
        let answer = Answer::parse_head(head).unwrap();
        assert_eq!(answer.cookie("webvpn").as_deref(), Some("AA=="));
        assert_eq!(answer.cookie("other"), None);
        assert_eq!(answer.fields_spelled("set-cookie").len(), 1);
    }
}
