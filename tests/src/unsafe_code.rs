//! Where unsafe code is, held to what the tree says of it.

#![cfg(test)]

use std::fs;

use crate::coverage::{root, sources};

/// The files that may have some; `tests/miri` says of each what Miri runs of it.
const FILES: &[&str] = &[
    "examples/src/site_simulation/memory.rs",
    "mstunnel-client/src/sys.rs",
    "tests/src/sys.rs",
    "tests/tests/allocations.rs",
    "tests/tests/dtls_memory.rs",
];

/// Crates that must do without any.
const WITHOUT: &[&str] = &["mstunnel-proto/src/lib.rs", "mstunnel-server/src/lib.rs"];

fn has_unsafe(text: &str) -> bool {
    let code = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern", "unsafe trait", "[unsafe("]
        .iter()
        .any(|form| code.clone().any(|line| line.contains(form) && !line.contains('"')))
}

/// Covers: R87, P-133
#[test]
fn unsafe_code_is_where_it_is_said_to_be_and_nowhere_in_the_core() {
    let sources = sources();
    let with: Vec<_> = sources.iter().filter(|(_, text)| has_unsafe(text)).map(|(path, _)| path).collect();
    assert_eq!(with, FILES);
    for root in WITHOUT {
        assert!(sources[*root].contains("\n#![forbid(unsafe_code)]\n"), "{root}");
    }
    let miri = fs::read_to_string(root().join("tests/miri")).unwrap();
    for file in FILES {
        assert!(miri.contains(file), "tests/miri says nothing of {file}");
    }
}

/// Covers: R87, P-133
#[test]
fn a_release_checks_for_overflow() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let release = manifest.split("\n[").find(|section| section.starts_with("profile.release]")).unwrap();
    assert!(release.contains("\noverflow-checks = true\n"));
    assert_eq!(manifest.matches("overflow-checks").count(), 1, "no profile turns them off again");
}
