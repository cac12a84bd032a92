//! What is wrong with a configuration: file, place, value, want.
//!
//! A file is read to its end and every problem is kept, so that an operator mends all of them at
//! once. `Display` is one line a problem:
//!
//! ```text
//! configuration.json:4: /network: "10.0.0.0/33"; want an IPv4 prefix from /8 to /30 (length 33, at most 32)
//! ```
//!
//! Text of the file that is repeated here is cut to [`MAX_VALUE_CHARS`] and has no control
//! characters, because the line goes to logs and terminals (R58).

use std::fmt;

/// How many problems of one file are kept; past it a file is of another kind, and only a count helps.
pub const MAX_PROBLEMS: usize = 100;

/// How much of a wrong value is repeated, in characters: enough to find it, too little to fill a log.
pub const MAX_VALUE_CHARS: usize = 80;

/// Pointers hold names from the file; deep ones with long names are cut here.
const MAX_POINTER_CHARS: usize = 200;

/// One thing that is wrong, or that was read differently from how it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file as the operator named it.
    pub file: String,
    /// The line, counted from 1, if one could be told.
    pub line: Option<usize>,
    /// The place inside the file: a JSON pointer, or a dotted TOML key. Empty for the whole document.
    pub pointer: String,
    /// The value as written, or `missing`.
    pub value: String,
    /// What belongs there.
    pub want: String,
}

impl Problem {
    /// Builds a problem; `pointer` and `value` are made printable and cut.
    pub fn new(file: &str, pointer: &str, value: &str, want: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            line: None,
            pointer: printable(pointer, MAX_POINTER_CHARS),
            value: printable(value, MAX_VALUE_CHARS),
            want: want.into(),
        }
    }

    /// The same problem with its line.
    #[must_use]
    pub fn at_line(self, line: usize) -> Self {
        Self { line: Some(line), ..self }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file)?;
        if let Some(line) = self.line {
            write!(f, "{line}:")?;
        }
        if !self.pointer.is_empty() {
            write!(f, " {}:", self.pointer)?;
        }
        write!(f, " {}; want {}", self.value, self.want)
    }
}

/// All problems of a refused file; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// Wraps `problems`; an empty list is `None`, so that "refused without a reason" cannot be said.
    pub fn new(problems: Vec<Problem>) -> Option<Self> {
        (!problems.is_empty()).then_some(Self(problems))
    }

    /// The problems in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> + '_ {
        self.0.iter()
    }

    /// The problems as a list.
    pub fn into_vec(self) -> Vec<Problem> {
        self.0
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// A value that could be used, with what an operator should know about how it was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed<T> {
    /// The value.
    pub value: T,
    /// Places that were read differently from how they were written, or not at all.
    pub warnings: Vec<Problem>,
}

/// The name in `known` that `name` was probably meant to be.
///
/// Letter case and one wrong, missing, swapped or additional character in three are forgiven.
pub fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    // A name longer than any of ours is not a slip of the finger, and the table below is quadratic.
    const LONGEST: usize = 64;
    if name.chars().count() > LONGEST {
        return None;
    }
    let distance = |candidate: &str| edit_distance(&name.to_lowercase(), &candidate.to_lowercase());
    let best = known.iter().copied().min_by_key(|candidate| distance(candidate))?;
    (distance(best) <= best.chars().count().div_ceil(3).max(1)).then_some(best)
}

/// Levenshtein's distance, with one row of the table kept.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, &to) in b.iter().enumerate() {
            let change = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

fn printable(text: &str, most: usize) -> String {
    let mut out = String::new();
    for (index, char) in text.chars().enumerate() {
        if index == most {
            out.push('…');
            break;
        }
        if char.is_control() {
            out.extend(char.escape_unicode());
        } else {
            out.push(char);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_one_line_with_file_place_value_and_want() {
        let problem = Problem::new("site.json", "/id", "missing", "a text");
        assert_eq!(problem.to_string(), "site.json: /id: missing; want a text");
        assert_eq!(problem.at_line(3).to_string(), "site.json:3: /id: missing; want a text");
        assert_eq!(Problem::new("a", "", "x", "y").to_string(), "a: x; want y");
    }

    /// Covers: R58
    #[test]
    fn a_value_is_cut_and_has_no_control_characters() {
        let problem = Problem::new("f", "/a\u{1b}[2Jb", &"x\n".repeat(500), "y");
        let line = problem.to_string();
        assert!(!line.contains(char::is_control), "{line}");
        assert!(line.len() < 1_000);
    }

    #[test]
    fn the_nearest_known_name_is_found_and_a_stranger_has_none() {
        let known = ["routeIncludes", "routeExcludes", "network", "dnsServers"];
        assert_eq!(nearest("routeInclude", &known), Some("routeIncludes"));
        assert_eq!(nearest("DNSservers", &known), Some("dnsServers"));
        assert_eq!(nearest("colour", &known), None);
        assert_eq!(nearest(&"n".repeat(1_000_000), &known), None);
        assert_eq!(nearest("network", &[]), None);
    }
}
