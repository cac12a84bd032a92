//! Which test is for which statement: the table of `tests/README.md`, checked against the tests.
//!
//! A test names what it covers in its documentation: the word `Covers` with a colon, then `statement 35`
//! (the protocol's conformance list), `R2` (a requirement of the threat model), `P-003` (one of its cases).
//! The table has a row for each of [`REQUIRED`]: the files with its tests, or what it still waits for.

#![cfg(test)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// What server and client owe on both channels: the kind of number, and the numbers.
const REQUIRED: &[(&str, &[RangeInclusive<u32>])] =
    &[("statement", &[1..=67, 70..=74]), ("R", &[1..=89]), ("P", &[1..=148])];

/// The column of the table that says so when there is no test yet.
const WAITS: &str = "waits for";

/// `P-003`, `R2`, `statement 35`.
type Name = String;

fn name(kind: &str, number: u32) -> Name {
    match kind {
        "P" => format!("P-{number:03}"),
        "R" => format!("R{number}"),
        _ => format!("statement {number}"),
    }
}

fn required() -> impl Iterator<Item = Name> {
    REQUIRED
        .iter()
        .flat_map(|&(kind, ranges)| ranges.iter().cloned().flatten().map(move |number| name(kind, number)))
}

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace").to_owned()
}

/// Every source file of the workspace, by its path from the root.
pub(crate) fn sources() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut open: Vec<PathBuf> =
        ["mstunnel-proto", "mstunnel-server", "mstunnel-client", "examples", "fuzz", "tests"]
            .map(|member| root().join(member))
            .to_vec();
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if entry.file_type().unwrap().is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let from_root = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
                found.insert(from_root, fs::read_to_string(&path).unwrap());
            }
        }
    }
    found
}

/// What one line of a test's documentation says that it covers.
fn names_in(line: &str) -> Option<Vec<Name>> {
    let list = line.trim_start().strip_prefix("/// ")?.strip_prefix(concat!("Covers", ":"))?;
    let mut names = Vec::new();
    let mut in_statements = false;
    let words = list
        .split(|c: char| c == ',' || c.is_whitespace())
        .map(|word| word.trim_matches(['.', ':', '(', ')']));
    for word in words.filter(|word| !word.is_empty()) {
        match word {
            "statement" | "statements" => in_statements = true,
            "and" => {}
            _ => match word.parse() {
                Ok(number) if in_statements => names.push(name("statement", number)),
                _ => {
                    in_statements = false;
                    names.push(word.to_owned());
                }
            },
        }
    }
    Some(names)
}

/// Whether a test begins below line `at` of a file, behind more documentation.
fn is_on_a_test(lines: &[&str], at: usize) -> bool {
    let below = lines[at + 1..].iter().map(|line| line.trim_start()).find(|line| !line.starts_with("//"));
    below.is_some_and(|line| line.starts_with("#[") && (line.contains("test]") || line.contains("test(")))
}

/// Name -> the files with tests for it.
fn covered(sources: &BTreeMap<String, String>) -> BTreeMap<Name, BTreeSet<&str>> {
    let mut covered: BTreeMap<Name, BTreeSet<&str>> = BTreeMap::new();
    for (path, text) in sources {
        let lines: Vec<&str> = text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let Some(names) = names_in(line) else { continue };
            assert!(is_on_a_test(&lines, at), "{path}:{}: this covers nothing: no test follows", at + 1);
            for name in names {
                covered.entry(name).or_default().insert(path.as_str());
            }
        }
    }
    covered
}

/// The rows of the table: name -> the other column.
fn table(text: &str) -> BTreeMap<Name, String> {
    let rows = text.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |")?.split_once(" | "));
    rows.map(|(name, place)| (name.to_owned(), place.to_owned())).collect()
}

#[test]
fn every_required_statement_has_a_row_and_every_row_is_true() {
    let sources = sources();
    let covered = covered(&sources);
    let table = table(&fs::read_to_string(root().join("tests/README.md")).unwrap());
    let mut wrong = Vec::new();
    for name in required() {
        let files = covered.get(&name);
        let want = files.map(|files| files.iter().copied().collect::<Vec<_>>().join(", "));
        match (table.get(&name), want) {
            (Some(row), _) if row.starts_with(WAITS) => {}
            (Some(row), _) => {
                for file in row.split(", ").filter(|file| files.is_none_or(|files| !files.contains(file))) {
                    wrong.push(format!("{name}: no test in {file:?} covers it"));
                }
            }
            (None, Some(want)) => wrong.push(format!("missing: | {name} | {want} |")),
            (None, None) => {
                wrong.push(format!("{name}: neither a test nor a row that says what it waits for"))
            }
        }
    }
    assert!(wrong.is_empty(), "tests/README.md:\n{}", wrong.join("\n"));
}

#[test]
fn a_line_names_what_it_covers_in_any_of_the_usual_ways() {
    let line = |list: &str| names_in(&format!("    /// {}: {list}", "Covers")).unwrap();
    assert_eq!(line("statement 35, P-003, R2"), ["statement 35", "P-003", "R2"]);
    assert_eq!(line("statements 41 and 42, R6"), ["statement 41", "statement 42", "R6"]);
    assert_eq!(names_in("//! Covers the rest"), None);
}

#[test]
fn a_line_above_something_else_than_a_test_is_found() {
    let on = |below: &str| is_on_a_test(&["/// first", "/// more", below], 0);
    assert!(on("#[test]") && on("#[tokio::test(start_paused = true)]"));
    assert!(!on("fn helper() {}") && !on("#[derive(Debug)]"));
}
