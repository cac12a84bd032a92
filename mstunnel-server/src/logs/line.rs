//! Turns an event into one line, whatever its values hold.
//!
//! | bound | bytes | why |
//! | --- | --- | --- |
//! | [`MAX_MESSAGE_BYTES`] | 1024 | a problem of a configuration file is the longest |
//! | [`MAX_VALUE_BYTES`] | 256 | a user agent or a name; the rest is a peer's noise |
//! | fields | | at most 32 (`tracing`), their names are ours |
//!
//! Values are measured before they are escaped. What was cut ends in `…`. In text a value that is more
//! than a word is quoted, so that `user="x reason=y"` cannot pass for two fields.

use std::fmt::{self, Write};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::sink::Sink;
use super::{clock, escape};
use crate::config::LogFormat;

/// The longest message.
const MAX_MESSAGE_BYTES: usize = 1024;

/// The longest value of a field.
const MAX_VALUE_BYTES: usize = 256;

/// Writes every event that it sees to a sink.
pub(super) struct LineLayer {
    format: LogFormat,
    sink: Sink,
}

impl LineLayer {
    pub(super) fn new(format: LogFormat, sink: Sink) -> Self {
        Self { format, sink }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for LineLayer {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        span.extensions_mut().insert(fields);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(fields) = span.extensions_mut().get_mut::<Fields>() {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        // Fields of the spans around the event first, the outermost before all.
        let mut fields = Fields::default();
        if let Some(scope) = context.event_scope(event) {
            for span in scope.from_root() {
                if let Some(of_span) = span.extensions().get::<Fields>() {
                    fields.values.extend(of_span.values.iter().cloned());
                }
            }
        }
        event.record(&mut fields);
        let metadata = event.metadata();
        let target = fields.target.take();
        let target = target.as_deref().unwrap_or_else(|| metadata.target());
        self.sink.write(compose(self.format, *metadata.level(), target, &fields));
    }
}

/// The line that tells of lost ones.
pub(super) fn lost(format: LogFormat, count: u64) -> String {
    let values = vec![("lost", Value::Plain(count.to_string()))];
    let fields = Fields { message: "log lines were lost".to_owned(), values, target: None };
    compose(format, Level::WARN, "mstunnel_server::logs", &fields)
}

fn compose(format: LogFormat, level: Level, target: &str, fields: &Fields) -> String {
    let mut line = String::with_capacity(160);
    // Writing to a string does not fail.
    let _ = match format {
        LogFormat::Text => compose_text(&mut line, level, target, fields),
        LogFormat::Json => compose_json(&mut line, level, target, fields),
    };
    line.push('\n');
    line
}

fn compose_text(line: &mut String, level: Level, target: &str, fields: &Fields) -> fmt::Result {
    write!(line, "{} {level} ", clock::now())?;
    push_escaped(line, target);
    line.push_str(": ");
    push_escaped(line, &fields.message);
    for (name, value) in &fields.values {
        write!(line, " {name}=")?;
        match value {
            Value::Plain(text) => line.push_str(text),
            Value::Text(text) if is_word(text) => line.push_str(text),
            Value::Text(text) => push_quoted(line, text),
        }
    }
    Ok(())
}

fn compose_json(line: &mut String, level: Level, target: &str, fields: &Fields) -> fmt::Result {
    write!(line, "{{\"time\":\"{}\",\"level\":\"{level}\",\"target\":", clock::now())?;
    push_quoted(line, target);
    line.push_str(",\"message\":");
    push_quoted(line, &fields.message);
    line.push_str(",\"fields\":{");
    for (index, (name, value)) in fields.values.iter().enumerate() {
        if fields.values[index + 1..].iter().any(|(later, _)| later == name) {
            // Of two equal names (a span's and the event's) the inner one counts: JSON has one each.
            continue;
        }
        if !line.ends_with('{') {
            line.push(',');
        }
        push_quoted(line, name);
        line.push(':');
        match value {
            Value::Plain(text) => line.push_str(text),
            Value::Text(text) => push_quoted(line, text),
        }
    }
    line.push_str("}}");
    Ok(())
}

fn is_word(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/@+[]()<>,#%*".contains(&byte);
    !text.is_empty() && text.bytes().all(plain)
}

fn push_escaped(line: &mut String, text: &str) {
    text.chars().for_each(|letter| escape::push(line, letter));
}

/// Quoted as JSON does, which is unambiguous in text, too.
fn push_quoted(line: &mut String, text: &str) {
    line.push('"');
    for letter in text.chars() {
        if matches!(letter, '"' | '\\') {
            line.push('\\');
        }
        escape::push(line, letter);
    }
    line.push('"');
}

/// What an event or a span carries, cut to its bounds.
#[derive(Default)]
struct Fields {
    message: String,
    values: Vec<(&'static str, Value)>,
    /// The target of a line that came through the `log` crate.
    target: Option<String>,
}

#[derive(Clone)]
enum Value {
    /// A number or a truth value, as JSON has them.
    Plain(String),
    Text(String),
}

impl Fields {
    fn set(&mut self, name: &'static str, value: Value) {
        self.values.push((name, value));
    }

    fn set_text(&mut self, field: &Field, value: &dyn fmt::Display) {
        match field.name() {
            "message" => self.message = bounded(value, MAX_MESSAGE_BYTES),
            "log.target" => self.target = Some(bounded(value, MAX_VALUE_BYTES)),
            name if name.starts_with("log.") => {}
            name => self.set(name, Value::Text(bounded(value, MAX_VALUE_BYTES))),
        }
    }

    fn set_plain(&mut self, field: &Field, value: String) {
        if !field.name().starts_with("log.") {
            self.set(field.name(), Value::Plain(value));
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set_text(field, &format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.set_text(field, &value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set_plain(field, value.to_string());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set_plain(field, value.to_string());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set_plain(field, value.to_string());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no infinity.
        if value.is_finite() {
            self.set_plain(field, value.to_string());
        } else {
            self.set_text(field, &value);
        }
    }
}

/// The text of `value`, at most `most` bytes of it and a mark when that was not all. The value is not
/// rendered any further than that.
fn bounded(value: &dyn fmt::Display, most: usize) -> String {
    struct Bounded {
        text: String,
        most: usize,
    }
    impl Write for Bounded {
        fn write_str(&mut self, part: &str) -> fmt::Result {
            let room = self.most - self.text.len();
            if part.len() <= room {
                self.text.push_str(part);
                return Ok(());
            }
            self.text.push_str(&part[..part.floor_char_boundary(room)]);
            self.text.push('…');
            Err(fmt::Error)
        }
    }
    let mut bounded = Bounded { text: String::new(), most };
    let _ = write!(bounded, "{value}");
    bounded.text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};
    use tracing_subscriber::layer::SubscriberExt;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, work: impl FnOnce()) -> Vec<String> {
        let kept = Kept::default();
        let sink = Sink::start(kept.clone(), format).unwrap();
        let subscriber = tracing_subscriber::registry().with(LineLayer::new(format, sink.clone()));
        tracing::subscriber::with_default(subscriber, work);
        while !sink.flush() {}
        let bytes = kept.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
    }

    const NASTY: &str = "x\u{1b}[2J\r\nFAKE INFO line\u{9b}\u{202e}\u{2028}\" reason=\"forged\\";

    #[test]
    fn a_text_line_reads_as_documented() {
        let lines = logged(LogFormat::Text, || {
            tracing::info!(target: "mstunnel_server::worker", session = 7, user = %"ada", ok = true, "closed");
        });
        assert_eq!(lines.len(), 1);
        let (time, rest) = lines[0].split_once(' ').unwrap();
        assert_eq!(time.len(), "2026-01-02T03:04:05.678Z".len());
        assert_eq!(rest, "INFO mstunnel_server::worker: closed session=7 user=ada ok=true");
    }

    /// Covers: P-035, P-086, R58
    #[test]
    fn no_value_breaks_a_line_or_steers_a_terminal_in_either_format() {
        for format in [LogFormat::Text, LogFormat::Json] {
            let lines = logged(format, || {
                tracing::warn!(agent = NASTY, shown = %NASTY, debugged = ?NASTY, "said {NASTY}");
            });
            assert_eq!(lines.len(), 1, "{lines:?}");
            assert!(!lines[0].chars().any(escape::is_unsafe), "{}", lines[0]);
        }
    }

    #[test]
    fn a_value_with_spaces_or_quotes_cannot_pass_for_another_field() {
        let lines = logged(LogFormat::Text, || {
            tracing::info!(user = %"ada reason=user_left", agent = %"a\" reason=\"b", empty = %"", "m");
        });
        assert!(
            lines[0].ends_with(r#"m user="ada reason=user_left" agent="a\" reason=\"b" empty="""#),
            "{}",
            lines[0]
        );
    }

    /// Covers: P-035, R58
    #[test]
    fn json_says_exactly_what_was_logged() {
        let lines = logged(LogFormat::Json, || {
            tracing::error!(
                agent = NASTY,
                count = 3_u64,
                below = -2,
                part = 0.5,
                endless = f64::INFINITY,
                "said {NASTY}"
            );
        });
        let value: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!(value["level"], "ERROR");
        assert_eq!(value["message"], format!("said {NASTY}"));
        assert_eq!(value["fields"]["agent"], NASTY);
        assert_eq!(value["fields"]["count"], 3);
        assert_eq!(value["fields"]["below"], -2);
        assert_eq!(value["fields"]["part"], 0.5);
        assert_eq!(value["fields"]["endless"], "inf");
    }

    /// Covers: P-086, R58
    #[test]
    fn a_line_is_bounded_and_says_where_it_was_cut() {
        for format in [LogFormat::Text, LogFormat::Json] {
            let long = "é\u{1b}".repeat(100_000);
            let lines = logged(format, || tracing::info!(a = %long, b = long, c = ?long, "{long}"));
            assert_eq!(lines.len(), 1);
            assert!(lines[0].len() < 12_000, "{}", lines[0].len());
            assert_eq!(lines[0].matches('…').count(), 4);
            if format == LogFormat::Json {
                serde_json::from_str::<serde_json::Value>(&lines[0]).unwrap();
            }
        }
    }

    #[test]
    fn fields_of_the_spans_around_come_first_and_the_innermost_counts_in_json() {
        let work = || {
            let outer = tracing::info_span!("worker", worker = 1, late = tracing::field::Empty).entered();
            outer.record("late", "yes");
            let _inner = tracing::info_span!("session", worker = 2).entered();
            tracing::info!(id = 3, "m");
        };
        assert!(logged(LogFormat::Text, work)[0].ends_with("m worker=1 late=yes worker=2 id=3"));
        let line = logged(LogFormat::Json, work).remove(0);
        assert!(line.ends_with(r#""fields":{"late":"yes","worker":2,"id":3}}"#), "{line}");
    }

    #[test]
    fn the_lost_lines_are_told_in_the_chosen_format() {
        assert!(
            lost(LogFormat::Text, 3).ends_with("WARN mstunnel_server::logs: log lines were lost lost=3\n")
        );
        let value: serde_json::Value = serde_json::from_str(&lost(LogFormat::Json, 3)).unwrap();
        assert_eq!(value["fields"]["lost"], 3);
    }
}
