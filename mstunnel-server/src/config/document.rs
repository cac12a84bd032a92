//! `gateway.toml` as a tree whose values know their dotted key and their line.
//!
//! Sections are read by name; what nobody asked for is refused with the nearest known key, because
//! a misspelt key in a security product must not fall back to a default in silence. Everything wrong
//! is collected, as in the JSON files.

use std::ops::{Range, RangeInclusive};

use mstunnel_proto::config::{MAX_PROBLEMS, Problem, nearest};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The problems and warnings of all files of one configuration.
#[derive(Debug, Default)]
pub(super) struct Report {
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
    file: String,
}

impl Report {
    /// Starts a report on `gateway.toml`, by the name that the operator gave it.
    pub(super) fn new(file: String) -> Self {
        Self { file, ..Self::default() }
    }

    pub(super) fn refuse(&mut self, item: &Item<'_>, want: impl Into<String>) {
        self.refuse_with(item, &item.shown(), want);
    }

    /// As [`Report::refuse`], saying something about the value besides how it is written.
    pub(super) fn refuse_with(&mut self, item: &Item<'_>, value: &str, want: impl Into<String>) {
        let problem = Problem::new(&self.file, &item.key, value, want);
        self.push(problem.at_line(item.line));
    }

    pub(super) fn warn(&mut self, item: &Item<'_>, value: &str, want: impl Into<String>) {
        let problem = Problem::new(&self.file, &item.key, value, want);
        self.push_warnings([problem.at_line(item.line)]);
    }

    /// Takes over a problem that already knows its file.
    pub(super) fn push(&mut self, problem: Problem) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(problem);
        }
    }

    pub(super) fn push_warnings(&mut self, warnings: impl IntoIterator<Item = Problem>) {
        self.warnings.extend(warnings);
    }

    /// Problems, then warnings.
    pub(super) fn into_parts(self) -> (Vec<Problem>, Vec<Problem>) {
        (self.problems, self.warnings)
    }
}

/// A parsed file.
#[derive(Debug)]
pub(super) struct Document<'s> {
    source: &'s str,
    root: Spanned<DeTable<'s>>,
}

impl<'s> Document<'s> {
    /// Parses the file; each syntax error is a problem with its line. What could be recovered behind
    /// one is not looked at: it would be reported for what it was mistaken for.
    pub(super) fn parse(source: &'s str, report: &mut Report) -> Option<Self> {
        let (root, mut errors) = DeTable::parse_recoverable(source);
        errors.sort_by_key(|error| error.span().map(|span| span.start));
        let clean = errors.is_empty();
        for error in errors {
            let value = error.message().lines().collect::<Vec<_>>().join(" ");
            let problem = Problem::new(&report.file, "", &value, "well-formed TOML");
            report.push(match error.span() {
                Some(span) => problem.at_line(line_of(source, &span)),
                None => problem,
            });
        }
        clean.then_some(Self { source, root })
    }

    pub(super) fn root(&self) -> Section<'_> {
        Section {
            source: self.source,
            table: self.root.get_ref(),
            path: String::new(),
            line: 1,
            taken: Vec::new(),
        }
    }
}

fn line_of(source: &str, span: &Range<usize>) -> usize {
    source.bytes().take(span.start).filter(|&byte| byte == b'\n').count() + 1
}

/// A table that remembers which of its keys were asked for.
#[derive(Debug)]
pub(super) struct Section<'d> {
    source: &'d str,
    table: &'d DeTable<'d>,
    path: String,
    line: usize,
    taken: Vec<&'static str>,
}

impl<'d> Section<'d> {
    /// The value of `key`, if it is there.
    pub(super) fn take(&mut self, key: &'static str) -> Option<Item<'d>> {
        self.taken.push(key);
        let (name, value) = self.table.get_key_value(key)?;
        Some(Item {
            source: self.source,
            value: value.get_ref(),
            key: self.key(key),
            line: line_of(self.source, &name.span()),
        })
    }

    /// As [`Section::take`]; an absent key is refused.
    pub(super) fn demand(&mut self, key: &'static str, want: &str, report: &mut Report) -> Option<Item<'d>> {
        let item = self.take(key);
        if item.is_none() {
            self.refuse_missing(key, want, report);
        }
        item
    }

    /// Says that `key` should have been here.
    pub(super) fn refuse_missing(&self, key: &str, want: &str, report: &mut Report) {
        let problem = Problem::new(&report.file, &self.key(key), "missing", want);
        report.push(problem.at_line(self.line));
    }

    /// The table under `key`.
    pub(super) fn section(&mut self, key: &'static str, report: &mut Report) -> Option<Self> {
        self.take(key)?.section(report)
    }

    /// Every key with its value, for a table whose keys are the operator's; their number must lie in `lengths`.
    pub(super) fn entries(
        self,
        lengths: RangeInclusive<usize>,
        report: &mut Report,
    ) -> Vec<(&'d str, Item<'d>)> {
        if !lengths.contains(&self.table.len()) {
            let value = format!("a table of {}", self.table.len());
            let want = format!("a table of {} to {}", lengths.start(), lengths.end());
            report.push(Problem::new(&report.file, &self.path, &value, want).at_line(self.line));
            return Vec::new();
        }
        let mut entries = Vec::with_capacity(self.table.len());
        for (name, value) in self.table {
            let key: &'d str = name.get_ref();
            let item = Item {
                source: self.source,
                value: value.get_ref(),
                key: self.key(&format!("{key:?}")),
                line: line_of(self.source, &name.span()),
            };
            entries.push((key, item));
        }
        entries
    }

    /// Refuses every key that nobody asked for.
    pub(super) fn finish(self, report: &mut Report) {
        for (name, _) in self.table {
            let key: &str = name.get_ref();
            if self.taken.contains(&key) {
                continue;
            }
            let want = match nearest(key, &self.taken) {
                Some(known) => format!("a known key (did you mean {known:?}?)"),
                None => format!("one of {}", self.taken.join(", ")),
            };
            let problem = Problem::new(&report.file, &self.key(key), "unknown key", want);
            report.push(problem.at_line(line_of(self.source, &name.span())));
        }
    }

    fn key(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
}

/// A value with its place.
#[derive(Clone, Debug)]
pub(super) struct Item<'d> {
    source: &'d str,
    value: &'d DeValue<'d>,
    key: String,
    line: usize,
}

impl<'d> Item<'d> {
    pub(super) fn shown(&self) -> String {
        match self.value {
            DeValue::String(text) => format!("{text:?}"),
            DeValue::Integer(number) => number.to_string(),
            DeValue::Float(number) => number.as_str().to_owned(),
            DeValue::Boolean(value) => value.to_string(),
            DeValue::Datetime(time) => time.to_string(),
            DeValue::Array(items) => format!("a list of {}", items.len()),
            DeValue::Table(_) => "a table".to_owned(),
        }
    }

    pub(super) fn section(self, report: &mut Report) -> Option<Section<'d>> {
        let DeValue::Table(table) = self.value else {
            report.refuse(&self, format!("a table [{}]", self.key));
            return None;
        };
        Some(Section { source: self.source, table, path: self.key, line: self.line, taken: Vec::new() })
    }

    /// The elements of a list whose length lies in `lengths`; `want` is what the list should be.
    pub(super) fn items(&self, lengths: RangeInclusive<usize>, want: &str, report: &mut Report) -> Vec<Self> {
        let items = match self.value {
            DeValue::Array(items) if lengths.contains(&items.len()) => items,
            DeValue::Array(_) => {
                report.refuse(self, format!("{want}, {} to {} of them", lengths.start(), lengths.end()));
                return Vec::new();
            }
            DeValue::String(_)
            | DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_)
            | DeValue::Table(_) => {
                report.refuse(self, want);
                return Vec::new();
            }
        };
        let place = |(index, item): (usize, &'d Spanned<DeValue<'d>>)| Self {
            source: self.source,
            value: item.get_ref(),
            key: format!("{}[{index}]", self.key),
            line: line_of(self.source, &item.span()),
        };
        items.iter().enumerate().map(place).collect()
    }

    /// A text that is not empty.
    pub(super) fn text(&self, want: &str, report: &mut Report) -> Option<&'d str> {
        if let DeValue::String(text) = self.value
            && !text.is_empty()
        {
            return Some(text);
        }
        report.refuse(self, want);
        None
    }

    /// A text that `parse` understands.
    pub(super) fn read<T>(
        &self,
        parse: impl FnOnce(&str) -> Option<T>,
        want: &str,
        report: &mut Report,
    ) -> Option<T> {
        let value = parse(self.text(want, report)?);
        if value.is_none() {
            report.refuse(self, want);
        }
        value
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&self, words: &[(&str, T)], report: &mut Report) -> Option<T> {
        let names: Vec<&str> = words.iter().map(|(name, _)| *name).collect();
        let want = format!("one of {}", names.join(", "));
        let text = self.text(&want, report)?;
        if let Some((_, value)) = words.iter().find(|(name, _)| *name == text) {
            return Some(*value);
        }
        let hint = nearest(text, &names).map(|name| format!(" (did you mean {name:?}?)"));
        report.refuse(self, want + &hint.unwrap_or_default());
        None
    }

    /// A whole number inside `range`.
    pub(super) fn integer(&self, range: Range<i64>, report: &mut Report) -> Option<i64> {
        let number = match self.value {
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix()).ok(),
            DeValue::String(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_)
            | DeValue::Array(_)
            | DeValue::Table(_) => None,
        };
        let number = number.filter(|number| range.contains(number));
        if number.is_none() {
            report.refuse(self, format!("a whole number from {} to {}", range.start, range.end - 1));
        }
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(source: &str, read: impl FnOnce(Section<'_>, &mut Report)) -> Vec<String> {
        let mut report = Report::new("gateway.toml".to_owned());
        if let Some(document) = Document::parse(source, &mut report) {
            read(document.root(), &mut report);
        }
        report.into_parts().0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line_and_the_nearest_known_one() {
        let lines = problems("a = 1\n\n[tls]\ncertficate = \"x\"\n", |mut root, report| {
            root.take("a");
            let mut tls = root.section("tls", report).unwrap();
            tls.take("certificate");
            tls.finish(report);
            root.finish(report);
        });
        let expected =
            "gateway.toml:4: tls.certficate: unknown key; want a known key (did you mean \"certificate\"?)";
        assert_eq!(lines, [expected]);
    }

    #[test]
    fn a_missing_key_has_the_line_of_its_table() {
        let lines = problems("\n[tls]\n", |mut root, report| {
            root.section("tls", report).unwrap().demand("key", "a file", report);
        });
        assert_eq!(lines, ["gateway.toml:2: tls.key: missing; want a file"]);
    }

    #[test]
    fn broken_toml_is_reported_with_its_lines_and_nothing_else_is() {
        let lines = problems("a = \nb = 1\nc = = 2\n", |root, report| root.finish(report));
        assert!(
            lines[0].starts_with("gateway.toml:1: ") && lines[0].ends_with("well-formed TOML"),
            "{lines:?}"
        );
        assert!(lines.iter().all(|line| line.ends_with("well-formed TOML")), "{lines:?}");
        assert!(lines.iter().any(|line| line.starts_with("gateway.toml:3: ")), "{lines:?}");
    }

    #[test]
    fn lists_and_words_and_numbers_have_their_places() {
        let lines = problems("l = [\n \"x\",\n 3 ]\nw = \"kernal\"\nn = 0x10\n", |mut root, report| {
            let list = root.take("l").unwrap().items(0..=2, "a list", report);
            assert_eq!(list[0].text("a text", report), Some("x"));
            list[1].text("a text", report);
            root.take("w").unwrap().choice(&[("kernel", 1), ("routed", 2)], report);
            assert_eq!(root.take("n").unwrap().integer(0..17, report), Some(16));
            root.take("n").unwrap().integer(0..16, report);
        });
        assert_eq!(
            lines,
            [
                "gateway.toml:3: l[1]: 3; want a text",
                "gateway.toml:4: w: \"kernal\"; want one of kernel, routed (did you mean \"kernel\"?)",
                "gateway.toml:5: n: 0x10; want a whole number from 0 to 15",
            ]
        );
    }
}
