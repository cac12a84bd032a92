//! How far a run is, on stderr: a bar on a terminal, else a line for each stage.

use std::io::{IsTerminal, Write, stderr};

use indicatif::{ProgressBar, ProgressStyle};

use crate::options::Options;
use crate::report::{Sample, grouped};
use crate::simulation::Stage;

/// Shows where a run stands.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    stage: Option<Stage>,
}

impl Progress {
    pub(crate) fn new(options: &Options) -> Self {
        let style = ProgressStyle::with_template("{prefix:8} {bar:40} {human_pos}/{human_len} up {msg}")
            .expect("the template is well formed");
        let bar = || ProgressBar::new(options.clients.into()).with_style(style);
        Self { bar: stderr().is_terminal().then(bar), stage: None }
    }

    /// One virtual second has passed.
    pub(crate) fn tell(&mut self, stage: Stage, sample: &Sample) {
        let name = match stage {
            Stage::Ramp => "ramp",
            Stage::Steady => "steady",
            Stage::Storm => "storm",
            Stage::Tail => "tail",
        };
        let at = sample.at.as_secs();
        if let Some(bar) = &self.bar {
            bar.set_prefix(name);
            bar.set_message(format!("at {at} s"));
            bar.set_position(sample.up);
        } else if self.stage.replace(stage) != Some(stage) {
            // Who does not read the progress loses nothing else.
            let _ = writeln!(stderr(), "{name}: {} sessions up at {at} s", grouped(sample.up));
        }
    }

    /// Leaves the terminal as it was.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
