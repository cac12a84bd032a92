//! Reads JSON into a tree that keeps the order and the doubles of its members, and walks it with
//! JSON pointers (RFC 6901), collecting every problem on the way.
//!
//! `serde_json`'s own tree lets the last of two equal names win in silence; two values for one
//! setting are a question to the operator, so both are kept here and the second is refused.
//!
//! Limits: [`MAX_FILE_LEN`] bytes of text; nesting as `serde_json` (128 levels); problems as
//! [`MAX_PROBLEMS`].

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use super::locate::line_of;
use super::problem::{MAX_PROBLEMS, Parsed, Problem, Problems, nearest};

/// The longest configuration file that is read, in bytes. A Graph export with 500 rules and every
/// field filled has under 100 KB; 4 MiB leaves room for whole collections and bounds the memory.
pub const MAX_FILE_LEN: usize = 4 << 20;

/// A JSON value as it was written.
#[derive(Debug)]
pub(crate) enum Json {
    Null,
    Bool(bool),
    Number(serde_json::Number),
    Text(String),
    Array(Vec<Self>),
    Object(Vec<(String, Self)>),
}

impl Json {
    /// How the value is shown in a problem: scalars as written, the rest by kind.
    fn shown(&self) -> String {
        match self {
            Self::Null => "null".to_owned(),
            Self::Bool(value) => value.to_string(),
            Self::Number(value) => value.to_string(),
            Self::Text(value) => format!("{value:?}"),
            Self::Array(items) => format!("a list of {}", items.len()),
            Self::Object(_) => "an object".to_owned(),
        }
    }

    fn to_value(&self) -> serde_json::Value {
        match self {
            Self::Null => serde_json::Value::Null,
            Self::Bool(value) => (*value).into(),
            Self::Number(value) => serde_json::Value::Number(value.clone()),
            Self::Text(value) => value.as_str().into(),
            Self::Array(items) => items.iter().map(Self::to_value).collect(),
            Self::Object(members) => members.iter().map(|(k, v)| (k.clone(), v.to_value())).collect(),
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Tree;

        impl<'de> Visitor<'de> for Tree {
            type Value = Json;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON value")
            }

            fn visit_unit<E>(self) -> Result<Json, E> {
                Ok(Json::Null)
            }

            fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
                Ok(Json::Bool(value))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
                Ok(Json::Number(value.into()))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
                Ok(Json::Number(value.into()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
                Ok(serde_json::Number::from_f64(value).map_or(Json::Null, Json::Number))
            }

            fn visit_str<E>(self, value: &str) -> Result<Json, E> {
                Ok(Json::Text(value.to_owned()))
            }

            fn visit_string<E>(self, value: String) -> Result<Json, E> {
                Ok(Json::Text(value))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Json::Array(items))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Json::Object(members))
            }
        }

        deserializer.deserialize_any(Tree)
    }
}

/// Parses `text`; a file that is too long or not JSON is one problem with its line.
pub(crate) fn parse(text: &str, file: &str) -> Result<Json, Problems> {
    if text.len() > MAX_FILE_LEN {
        let value = format!("{} bytes", text.len());
        return Err(Problem::new(file, "", &value, format!("at most {MAX_FILE_LEN} bytes")).into());
    }
    serde_json::from_str(without_mark(text)).map_err(|error| {
        let what = error.to_string();
        // serde_json ends its messages with " at line L column C"; the line is said once, in front.
        let what = what.split(" at line ").next().unwrap_or(&what);
        let value = format!("{what} (column {})", error.column());
        Problem::new(file, "", &value, "well-formed JSON").at_line(error.line()).into()
    })
}

/// The text without the byte order mark that some editors put in front.
fn without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

/// Collects what is wrong with one file and what is worth a word.
#[derive(Debug)]
pub(crate) struct Report<'f> {
    file: &'f str,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
    left_out: usize,
}

impl<'f> Report<'f> {
    pub(crate) fn new(file: &'f str) -> Self {
        Self { file, problems: Vec::new(), warnings: Vec::new(), left_out: 0 }
    }

    /// The file cannot be used.
    pub(crate) fn refuse(&mut self, node: &Node<'_>, want: impl Into<String>) {
        self.refuse_at(&node.pointer, &node.json.shown(), want);
    }

    /// As [`Report::refuse`] for a value that is not simply the one at `pointer`.
    pub(crate) fn refuse_at(&mut self, pointer: &str, value: &str, want: impl Into<String>) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(Problem::new(self.file, pointer, value, want));
        } else {
            self.left_out += 1;
        }
    }

    /// The file can be used, but not quite as it is written.
    pub(crate) fn warn(&mut self, node: &Node<'_>, want: impl Into<String>) {
        self.warn_at(&node.pointer, &node.json.shown(), want);
    }

    /// As [`Report::warn`] for a value that is not simply the one at `pointer`.
    pub(crate) fn warn_at(&mut self, pointer: &str, value: &str, want: impl Into<String>) {
        if self.warnings.len() < MAX_PROBLEMS {
            self.warnings.push(Problem::new(self.file, pointer, value, want));
        }
    }

    /// Whether nothing was refused yet.
    pub(crate) fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }

    /// Ends the reading of `text`: gives every problem its line, and `value` only if there is none.
    ///
    /// A missing value without a problem is refused too, so that a reader which forgot to say why
    /// cannot let a file through.
    pub(crate) fn finish<T>(mut self, text: &str, value: Option<T>) -> Result<Parsed<T>, Problems> {
        let text = without_mark(text);
        for problem in self.problems.iter_mut().chain(&mut self.warnings) {
            problem.line = line_of(text, &problem.pointer);
        }
        if self.left_out > 0 {
            let value = format!("{} more problems", self.left_out);
            self.problems.push(Problem::new(self.file, "", &value, "a file of the right kind"));
        }
        match (Problems::new(self.problems), value) {
            (None, Some(value)) => Ok(Parsed { value, warnings: self.warnings }),
            (Some(problems), _) => Err(problems),
            (None, None) => Err(Problem::new(self.file, "", "unusable", "a complete file").into()),
        }
    }
}

/// A value and the pointer that leads to it.
#[derive(Debug)]
pub(crate) struct Node<'j> {
    pub(crate) json: &'j Json,
    pub(crate) pointer: String,
}

impl<'j> Node<'j> {
    pub(crate) fn root(json: &'j Json) -> Self {
        Self { json, pointer: String::new() }
    }

    /// The elements of a list; anything else is refused.
    pub(crate) fn items(&self, want: &str, report: &mut Report<'_>) -> Vec<Self> {
        let Json::Array(items) = self.json else {
            report.refuse(self, want);
            return Vec::new();
        };
        let place = |index: usize| format!("{}/{index}", self.pointer);
        items.iter().enumerate().map(|(index, json)| Node { json, pointer: place(index) }).collect()
    }

    pub(crate) fn text(&self, want: &str, report: &mut Report<'_>) -> Option<&'j str> {
        if let Json::Text(text) = self.json {
            return Some(text);
        }
        report.refuse(self, want);
        None
    }

    pub(crate) fn boolean(&self, report: &mut Report<'_>) -> Option<bool> {
        if let Json::Bool(value) = self.json {
            return Some(*value);
        }
        report.refuse(self, "true or false");
        None
    }

    /// A whole number inside `range`. A number written as a string is refused (product.md b.5).
    pub(crate) fn integer(&self, range: RangeInclusive<i64>, report: &mut Report<'_>) -> Option<i64> {
        let number = if let Json::Number(number) = self.json { number.as_i64() } else { None };
        if let Some(number) = number.filter(|number| range.contains(number)) {
            return Some(number);
        }
        report.refuse(self, format!("a whole number from {} to {}", range.start(), range.end()));
        None
    }

    /// The object here, to be read by name; anything else is refused.
    pub(crate) fn object(&self, want: &str, report: &mut Report<'_>) -> Option<Object<'j>> {
        let Json::Object(members) = self.json else {
            report.refuse(self, want);
            return None;
        };
        let mut seen = BTreeMap::new();
        for (index, (name, json)) in members.iter().enumerate() {
            if seen.insert(name.as_str(), index).is_some() {
                let pointer = join(&self.pointer, name);
                report.refuse_at(&pointer, &json.shown(), "one value, the name is there twice");
            }
        }
        Some(Object { members, seen, pointer: self.pointer.clone(), taken: Vec::new() })
    }
}

/// An object that remembers which of its names were asked for.
#[derive(Debug)]
pub(crate) struct Object<'j> {
    members: &'j [(String, Json)],
    seen: BTreeMap<&'j str, usize>,
    pointer: String,
    taken: Vec<&'static str>,
}

impl<'j> Object<'j> {
    /// The value called `name`; `null` is the same as absent (product.md b.5).
    pub(crate) fn take(&mut self, name: &'static str) -> Option<Node<'j>> {
        self.taken.push(name);
        let (_, json) = self.members.get(*self.seen.get(name)?)?;
        if matches!(json, Json::Null) {
            return None;
        }
        Some(Node { json, pointer: self.place(name) })
    }

    /// As [`Object::take`]; an absent value is refused.
    pub(crate) fn demand(
        &mut self,
        name: &'static str,
        want: &str,
        report: &mut Report<'_>,
    ) -> Option<Node<'j>> {
        let node = self.take(name);
        if node.is_none() {
            report.refuse_at(&self.place(name), "missing", want);
        }
        node
    }

    /// The pointer of a member, there or not.
    pub(crate) fn place(&self, name: &str) -> String {
        join(&self.pointer, name)
    }

    /// Whether a member of this name is written, even as `null`.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.seen.contains_key(name)
    }

    /// The names as written.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'j str> + '_ {
        self.seen.keys().copied()
    }

    /// What nobody asked for: kept, and each reported once. OData annotations are neither.
    pub(crate) fn unknown(self, report: &mut Report<'_>) -> BTreeMap<String, serde_json::Value> {
        let mut unknown = BTreeMap::new();
        for (name, json) in self.members {
            if name.contains("@odata.") || self.taken.contains(&name.as_str()) {
                continue;
            }
            // Looking for the nearest name is the dearest step, so it stops where the report does.
            if unknown.len() < MAX_PROBLEMS {
                let want = match nearest(name, &self.taken) {
                    Some(known) => format!("a known name (did you mean {known:?}?); it is kept but not used"),
                    None => "a known name; it is kept but not used".to_owned(),
                };
                report.warn_at(&join(&self.pointer, name), "unknown property", want);
            }
            unknown.insert(name.clone(), json.to_value());
        }
        unknown
    }
}

/// Appends one reference token to a JSON pointer.
pub(crate) fn join(pointer: &str, name: &str) -> String {
    format!("{pointer}/{}", name.replace('~', "~0").replace('/', "~1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Vec<String>, Vec<String>) {
        let json = parse(text, "f").unwrap();
        let mut report = Report::new("f");
        let root = Node::root(&json);
        if let Some(mut object) = root.object("an object", &mut report) {
            if let Some(port) = object.demand("port", "a port", &mut report) {
                port.integer(1..=65_535, &mut report);
            }
            object.unknown(&mut report);
        }
        let lines = |problems: &[Problem]| problems.iter().map(ToString::to_string).collect();
        match report.finish(text, Some(())) {
            Ok(parsed) => (Vec::new(), lines(&parsed.warnings)),
            Err(problems) => (lines(&problems.into_vec()), Vec::new()),
        }
    }

    #[test]
    fn null_is_absent_and_a_number_in_quotes_is_no_number() {
        assert_eq!(read(r#"{"port": null}"#).0, ["f:1: /port: missing; want a port"]);
        assert_eq!(
            read("{\n\"port\": \"443\"}").0,
            ["f:2: /port: \"443\"; want a whole number from 1 to 65535"]
        );
        assert_eq!(read(r#"{"port": 443.5}"#).0.len(), 1);
        assert_eq!(read(r#"{"port": 1e9}"#).0.len(), 1);
    }

    #[test]
    fn a_name_that_is_there_twice_is_refused() {
        let (problems, _) = read("{\"port\": 1,\n \"port\": 2}");
        assert_eq!(problems, ["f:2: /port: 2; want one value, the name is there twice"]);
    }

    #[test]
    fn an_unknown_name_is_reported_with_the_nearest_known_one_and_annotations_are_not() {
        let (problems, warnings) = read(r#"{"port": 1, "Prt": [], "@odata.etag": 1, "x@odata.type": 2}"#);
        assert!(problems.is_empty());
        assert_eq!(
            warnings,
            [
                "f:1: /Prt: unknown property; want a known name (did you mean \"port\"?); it is kept but not used"
            ]
        );
    }

    #[test]
    fn broken_json_is_one_problem_with_its_line() {
        let problem = parse("{\n \"a\": }", "f").unwrap_err().to_string();
        assert!(problem.starts_with("f:2: expected value (column "), "{problem}");
        assert!(problem.ends_with("; want well-formed JSON"), "{problem}");
    }

    #[test]
    fn size_and_depth_are_bounded() {
        assert!(parse(&" ".repeat(MAX_FILE_LEN + 1), "f").unwrap_err().to_string().contains("at most"));
        assert!(parse(&"[".repeat(100_000), "f").unwrap_err().to_string().contains("recursion limit"));
    }

    #[test]
    fn the_list_of_problems_is_bounded_and_says_how_many_were_left_out() {
        let mut report = Report::new("f");
        for index in 0..MAX_PROBLEMS + 7 {
            report.refuse_at(&format!("/{index}"), "x", "y");
        }
        let problems = report.finish("[]", Some(())).unwrap_err().into_vec();
        assert_eq!(problems.len(), MAX_PROBLEMS + 1);
        assert_eq!(problems[MAX_PROBLEMS].value, "7 more problems");
    }

    #[test]
    fn a_byte_order_mark_is_not_a_mistake() {
        assert!(parse("\u{feff}{}", "f").is_ok());
    }
}
