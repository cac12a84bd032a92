//! The `nft` program: run with JSON on its input, its complaints kept.
//!
//! The `nftables` crate builds and parses the JSON; its own runner leaves the program's complaints on
//! our standard error, so that they could neither be logged nor told apart.

use std::io::{self, Write};
use std::process::{Command, Output, Stdio};

use super::EgressError;

/// Where the program is, in the order of the search. Services often run without the last two in `PATH`.
const PROGRAMS: [&str; 3] = ["nft", "/usr/sbin/nft", "/sbin/nft"];

/// How much of the program's complaint is kept.
const MAX_REASON_CHARS: usize = 300;

/// Runs `nft -j` with `arguments`, feeds it `input` and returns its output.
pub(super) fn run(what: &'static str, arguments: &[&str], input: &str) -> Result<String, EgressError> {
    run_one_of(&PROGRAMS, what, arguments, input)
}

fn run_one_of(
    programs: &[&str],
    what: &'static str,
    arguments: &[&str],
    input: &str,
) -> Result<String, EgressError> {
    let output = spawn(programs, arguments, input).map_err(|source| {
        if source.kind() == io::ErrorKind::NotFound {
            return EgressError::NoNft;
        }
        EgressError::Resource { what: "run nft", source }
    })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(explain(what, &String::from_utf8_lossy(&output.stderr)))
}

fn spawn(programs: &[&str], arguments: &[&str], input: &str) -> io::Result<Output> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for program in programs {
        let child = Command::new(program)
            .arg("-j")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = match child {
            Ok(child) => child,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                last = error;
                continue;
            }
            Err(error) => return Err(error),
        };
        // A program that ends early closes the pipe; its exit status tells more than the write.
        if let Some(mut pipe) = child.stdin.take() {
            let _ = pipe.write_all(input.as_bytes());
        }
        return child.wait_with_output();
    }
    Err(last)
}

fn explain(what: &'static str, complaint: &str) -> EgressError {
    if complaint.contains("Operation not permitted") {
        return EgressError::NotPermitted { what: "changing nftables rules" };
    }
    let words = complaint.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut reason: String = words.chars().take(MAX_REASON_CHARS).collect();
    if complaint.contains("not supported") {
        reason.push_str(" (does the kernel have nf_tables, nft_masq and nf_conntrack?)");
    }
    EgressError::Nft { what, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_of_several_lines_becomes_one_bounded_line() {
        let text = explain("apply the rules", &format!("Error: a\n\t^^^\n{}", "x".repeat(5000))).to_string();
        assert!(!text.contains('\n'));
        assert!(text.len() < 400, "{}", text.len());
    }

    #[test]
    fn a_missing_program_is_told_with_the_package_to_install() {
        let error = run_one_of(&["no-such-program-of-ours"], "apply", &[], "").unwrap_err();
        assert!(matches!(error, EgressError::NoNft));
        assert!(error.to_string().contains("install the package nftables"));
    }

    #[test]
    fn missing_rights_and_missing_kernel_parts_are_told_apart() {
        let denied = explain("apply", "Error: Operation not permitted (you must be root)");
        assert!(matches!(denied, EgressError::NotPermitted { .. }));
        assert!(explain("apply", "Error: Operation not supported").to_string().contains("nf_tables"));
    }
}
