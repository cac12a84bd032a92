//! The simulation of a site at a size that takes a moment: what it says is true of every size.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

/// Runs the example on four servers and 2,000 clients; `more` overrules or adds.
fn run(more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_site_simulation"));
    command.args(["--servers", "4", "--clients", "2000", "--json"]).args(more);
    command.output().expect("the example runs")
}

fn report(more: &[&str]) -> Value {
    let output = run(more);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("--json prints JSON")
}

fn number(report: &Value, name: &str) -> u64 {
    report["virtual"][name].as_u64().unwrap_or_else(|| panic!("{name} in {report}"))
}

fn seconds(report: &Value, name: &str) -> f64 {
    report["virtual"][name].as_f64().unwrap_or_else(|| panic!("{name} in {report}"))
}

/// The example itself fails when an address has two holders or a session two owners.
///
/// Covers: R4, R51
#[test]
fn after_the_death_of_a_server_everybody_is_back_with_their_address() {
    let report = report(&[]);
    let victims = number(&report, "clients_of_the_dead");
    assert!(victims > 300, "{report}");
    assert_eq!(number(&report, "sessions_before_death"), 2_000);
    assert_eq!(number(&report, "sessions_up"), 2_000);
    assert_eq!(number(&report, "recovered_with_their_address"), victims);
    assert_eq!(number(&report, "reconnects_with_another_address"), 0);
    assert_eq!(number(&report, "signed_in_again"), 0);
    assert_eq!(number(&report, "wrong_passwords"), 20);
    // One packet at every connect, with the address as its source.
    let connects = 2_000 + victims + number(&report, "roamed");
    assert_eq!(number(&report, "packets_delivered"), connects);
}

/// Covers: statement 45
#[test]
fn who_hears_nothing_finds_out_by_dpd_and_who_is_told_does_not_wait() {
    // Dead 2 D after the last word, which is at most D old; the way back takes less than a second.
    let silent = report(&["--told", "0", "--dpd", "40"]);
    assert!(seconds(&silent, "recovered_50_percent_seconds") > 40.0, "{silent}");
    assert!(seconds(&silent, "recovered_100_percent_seconds") < 81.0, "{silent}");
    // Until the balancer looks, after 10 s, tries meet the dead server; a wait begun by then is at most 24 s.
    let told = report(&["--told", "100", "--dpd", "40"]);
    assert!(seconds(&told, "recovered_50_percent_seconds") > 10.0, "{told}");
    assert!(seconds(&told, "recovered_100_percent_seconds") < 35.0, "{told}");
}

#[test]
fn a_storm_fills_the_queues_is_refused_and_ends() {
    let report = report(&["--kill", "3", "--rate", "10", "--queue", "100", "--told", "100"]);
    assert_eq!(number(&report, "longest_queue_after_death"), 100);
    assert!(number(&report, "refused_busy_after_death") > 0, "{report}");
    let (up, gave_up) = (number(&report, "sessions_up"), number(&report, "gave_up"));
    assert_eq!(up + gave_up, 2_000, "{report}");
    assert_eq!(number(&report, "reconnects_with_another_address"), 0);
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_seed_another() {
    let (once, again) = (report(&["--seed", "7"]), report(&["--seed", "7"]));
    assert_eq!(once["virtual"], again["virtual"]);
    assert_ne!(once["virtual"], report(&["--seed", "8"])["virtual"]);
}

#[test]
fn the_plot_is_an_svg_with_a_curve_in_each_panel() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let file = directory.join("site_simulation.svg");
    report(&["--svg", file.to_str().expect("a path of text")]);
    let text = std::fs::read_to_string(&file).unwrap();
    let document = roxmltree::Document::parse(&text).unwrap();
    assert_eq!(document.root_element().tag_name().name(), "svg");
    let curves: Vec<_> = document.descendants().filter(|node| node.has_tag_name("polyline")).collect();
    assert_eq!(curves.len(), 2);
    for curve in curves {
        let points = curve.attribute("points").unwrap().split_whitespace().count();
        assert!(points > 100, "{points} points");
    }
    let labels: Vec<_> = document.descendants().filter_map(|node| node.text()).collect();
    for label in ["virtual seconds since the start", "virtual seconds since the death", "sessions up"] {
        assert!(labels.contains(&label), "{label} in {labels:?}");
    }
    std::fs::remove_file(file).unwrap();
}

#[test]
fn what_cannot_be_run_is_refused_with_the_reason() {
    for (arguments, reason) in [
        (["--kill", "4"], "at least one has to be left"),
        (["--queue", "5000"], "a client's patience is 15 s"),
        (["--clients", "0"], "0 is not in 1..=4000000"),
        (["--clients", "4000001"], "4000001 is not in 1..=4000000"),
        (["--told", "101"], "101 is not in 0..=100"),
        (["--rate", "1"], "a client's patience is 15 s"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_site_simulation"));
        let output = command.args(["--servers", "4"]).args(arguments).output().expect("the example runs");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(reason), "{arguments:?}: {said}");
    }
}
