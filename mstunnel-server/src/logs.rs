//! Log lines: text or JSON to standard error, one line each whatever a peer sent, never in the way.
//!
//! ```text
//! info!(session = 7, %user, "closed")
//!   -> line layer: escapes and cuts every value, one line     (line)
//!   -> bounded queue, never waited for                        (sink)
//!   -> one thread writes; what did not fit is counted and told
//! 2026-01-02T03:04:05.678Z INFO mstunnel_server::worker: closed session=7 user=ada
//! {"time":"2026-01-02T03:04:05.678Z","level":"INFO","target":"mstunnel_server::worker",
//!  "message":"closed","fields":{"session":7,"user":"ada"}}
//! ```
//!
//! The format layer of `tracing-subscriber` is not used: it writes a value's line feeds as they are in
//! text, leaves C1 controls and text direction in JSON, and bounds nothing (threats.md R58, P-086).
//!
//! Of other crates nothing below INFO is written, so that no library's debug line tells a secret;
//! `MSTUNNEL_LOG` (the syntax of `EnvFilter`) overrules that and the configured level.

pub(crate) mod clock;
pub(crate) mod escape;
mod limit;
mod line;
mod sink;

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use tracing_subscriber::filter::ParseError;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Registry, reload};

pub use self::limit::{MAX_SOURCES, RateLimit, SourceRateLimit};
pub use self::sink::lost_lines;

use self::line::LineLayer;
use self::sink::Sink;
use crate::config::{LogLevel, LogSettings};

/// Overrules the configured level.
const VARIABLE: &str = "MSTUNNEL_LOG";

/// Why there are no logs.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The variable is not a filter.
    #[error(
        "{VARIABLE}: {text:?} is not a log filter ({source}); want for example info,mstunnel_server=debug"
    )]
    Filter {
        /// Its value.
        text: String,
        /// What is wrong.
        source: ParseError,
    },
    /// Standard error or a thread could not be had.
    #[error("could not start the log: {0}")]
    Start(#[from] io::Error),
    /// Somebody was first.
    #[error("the log was started twice")]
    Twice(#[from] TryInitError),
}

/// Keeps the log going; waits a moment for the last lines when dropped.
#[derive(Debug)]
#[must_use]
pub struct LogGuard {
    sink: Sink,
    level: reload::Handle<EnvFilter, Registry>,
    overruled: bool,
}

impl LogGuard {
    /// Takes up another level, as a reload brings it; `MSTUNNEL_LOG` still overrules it.
    pub fn set_level(&self, level: LogLevel) {
        if !self.overruled {
            // Fails only when the subscriber is gone, and the log with it.
            let _ = self.level.reload(EnvFilter::new(filter(level)));
        }
    }
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        // What a blocked sink has not taken by now is lost.
        let _ = self.sink.flush();
    }
}

/// Starts the log of this process on standard error.
///
/// # Errors
/// [`LogError`] when `MSTUNNEL_LOG` is not a filter or the log runs already.
pub fn init(settings: &LogSettings) -> Result<LogGuard, LogError> {
    let variable = std::env::var(VARIABLE).ok().filter(|text| !text.is_empty());
    let overruled = variable.is_some();
    let text = variable.unwrap_or_else(|| filter(settings.level));
    let filter = EnvFilter::try_new(&text).map_err(|source| LogError::Filter { text, source })?;
    let (filter, level) = reload::Layer::new(filter);
    // A descriptor of our own: a blocked write must not hold the lock that panic messages need.
    let stderr = File::from(io::stderr().as_fd().try_clone_to_owned()?);
    let sink = Sink::start(stderr, settings.format)?;
    let lines = LineLayer::new(settings.format, sink.clone());
    tracing_subscriber::registry().with(filter).with(lines).try_init()?;
    Ok(LogGuard { sink, level, overruled })
}

/// Our crates at `level`, the others at most at INFO.
fn filter(level: LogLevel) -> String {
    let name = level.name();
    if level <= LogLevel::Info {
        return name.to_owned();
    }
    format!("info,mstunnel_server={name},mstunnel_proto={name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Covers: P-135
    #[test]
    fn other_crates_never_write_below_info() {
        assert_eq!(filter(LogLevel::Warn), "warn");
        assert_eq!(filter(LogLevel::Trace), "info,mstunnel_server=trace,mstunnel_proto=trace");
        for level in [LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug, LogLevel::Trace] {
            EnvFilter::try_new(filter(level)).unwrap();
        }
    }
}
