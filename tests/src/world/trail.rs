//! What happened, in words: printed when a run fails, and searched for secrets.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

/// Lines that are kept: the last ones tell most.
const MAX_LINES: usize = 400;

/// The last lines of a run. Whatever is written here is written with `Debug` of what the machines give out, as a
/// careless embedder would log it.
#[derive(Debug, Default)]
pub(crate) struct Trail {
    lines: VecDeque<String>,
    secrets: Vec<String>,
}

impl Trail {
    /// No line may hold `secret` from now on.
    pub(crate) fn keep_secret(&mut self, secret: &str) {
        if !self.secrets.iter().any(|known| known == secret) {
            self.secrets.push(secret.to_owned());
        }
    }

    /// Writes a line; returns the secret in it, if there is one.
    #[must_use]
    pub(crate) fn note(&mut self, at: Duration, line: fmt::Arguments<'_>) -> Option<String> {
        let line = format!("{:>10.3}  {line}", at.as_secs_f64());
        let leaked = self.secrets.iter().find(|secret| line.contains(secret.as_str())).cloned();
        if self.lines.len() >= MAX_LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
        leaked
    }

    pub(crate) fn tail(&self, count: usize) -> String {
        let skip = self.lines.len().saturating_sub(count);
        self.lines.iter().skip(skip).map(|line| format!("{line}\n")).collect()
    }
}
