//! Replays the committed corpora through every target.

use std::fs;
use std::path::Path;

use mstunnel_fuzz::TARGETS;

/// Covers: R89, P-030
#[test]
fn every_corpus_replays_without_a_panic() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for target in TARGETS {
        let mut replayed = 0;
        for entry in fs::read_dir(corpora.join(target.name)).unwrap() {
            (target.run)(&fs::read(entry.unwrap().path()).unwrap());
            replayed += 1;
        }
        assert!(replayed > 0, "{} has no corpus", target.name);
    }
}

#[test]
fn every_target_has_its_binary_and_every_binary_its_target() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz_targets");
    let mut files: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    files.sort();
    let mut names: Vec<_> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    names.sort();
    assert_eq!(files, names);
}
