//! `[log]`: how much is logged, and as what.

use super::document::{Report, Section};

/// The least important lines that are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Only what ends the server.
    Error,
    /// What an operator should look at.
    Warn,
    /// Logins and sessions too.
    Info,
    /// Decisions.
    Debug,
    /// Packets.
    Trace,
}

impl LogLevel {
    /// The name that log filters use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }

    /// The nearest of ocserv's ten levels: 1 basic, 2 info, 3 debug, 4 http, 8 sensitive, 9 TLS.
    fn from_ocserv(level: u8) -> Self {
        match level {
            0 => Self::Warn,
            1 | 2 => Self::Info,
            3..=8 => Self::Debug,
            9.. => Self::Trace,
        }
    }
}

/// The shape of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The checked `[log]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// How much.
    pub level: LogLevel,
    /// As what.
    pub format: LogFormat,
}

const LEVELS: [(&str, LogLevel); 5] = [
    ("error", LogLevel::Error),
    ("warn", LogLevel::Warn),
    ("info", LogLevel::Info),
    ("debug", LogLevel::Debug),
    ("trace", LogLevel::Trace),
];

const FORMATS: [(&str, LogFormat); 2] = [("text", LogFormat::Text), ("json", LogFormat::Json)];

/// Reads the section; where it is silent, `imported` is the `log-level` of the configuration.
pub(super) fn read(section: Option<Section<'_>>, imported: Option<u8>, report: &mut Report) -> LogSettings {
    let level = imported.map_or(LogLevel::Info, LogLevel::from_ocserv);
    let mut settings = LogSettings { level, format: LogFormat::Text };
    let Some(mut section) = section else { return settings };
    if let Some(item) = section.take("level") {
        settings.level = item.choice(&LEVELS, report).unwrap_or(settings.level);
    }
    if let Some(item) = section.take("format") {
        settings.format = item.choice(&FORMATS, report).unwrap_or(settings.format);
    }
    section.finish(report);
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_is_written_as_it_is_read() {
        for (name, level) in LEVELS {
            assert_eq!(level.name(), name);
        }
        assert_eq!(LogLevel::from_ocserv(2), LogLevel::Info);
        assert!(LogLevel::from_ocserv(0) < LogLevel::from_ocserv(9));
    }
}
