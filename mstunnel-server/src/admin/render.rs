//! Answers as text for people: aligned columns, units, nothing that could steer a terminal.
//!
//! User agents and user names are a peer's text. In a table they are escaped and cut; in JSON the
//! characters that JSON itself lets through (C1 controls, line separators, text direction) are
//! escaped, too.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use super::rows::{BanRow, Event, ServerState, SessionRow, Status, UserRow};
use crate::logs::{clock, escape};

/// The widest a peer's text gets in a table.
const MAX_CELL_CHARS: usize = 40;

/// The state of the server: `State:` and `Health:` first, as the original tool prints them.
pub(super) fn status(status: &Status) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name}: {value}");
    };
    line("State", status.state.name());
    line("Health", health_word(status));
    for problem in &status.problems {
        line("Problem", &safe(problem));
    }
    for warning in &status.warnings {
        line("Warning", &safe(warning));
    }
    line("Version", &safe(&status.version));
    line("Uptime", &duration(status.uptime_seconds));
    line("Workers", &status.workers.to_string());
    line("Sessions", &status.sessions.to_string());
    line("Logins", &format!("{} ok, {} failed", status.logins.ok, status.logins.failed));
    let connections = status.connections;
    line("Connections", &format!("{} accepted, {} refused", connections.accepted, connections.refused));
    let traffic = |bytes_, packets| format!("{} in {packets} packets", bytes(bytes_));
    line("From clients", &traffic(status.bytes_in, status.packets_in));
    line("To clients", &traffic(status.bytes_out, status.packets_out));
    line("Closed", &counts(&status.closes));
    line("Dropped", &counts(&status.drops));
    text
}

/// `healthy` or `unhealthy`.
pub(super) fn health_word(status: &Status) -> &'static str {
    if status.is_healthy() { "healthy" } else { "unhealthy" }
}

/// The reasons for an unhealthy server, one a line.
pub(super) fn health(status: &Status) -> String {
    let mut text = format!("Health: {}\n", health_word(status));
    if status.state != ServerState::Running && status.problems.is_empty() {
        let _ = writeln!(text, "Problem: the server is {}", status.state.name());
    }
    for problem in &status.problems {
        let _ = writeln!(text, "Problem: {}", safe(problem));
    }
    text
}

/// The connected users.
pub(super) fn users(rows: &[UserRow]) -> String {
    let head =
        ["ID", "USER", "GROUPS", "IPV4", "IPV6", "REMOTE", "CHANNEL", "IN", "OUT", "CONNECTED", "AGENT"];
    table(&head, rows.iter().map(|row| user_cells(row).to_vec()))
}

/// All sessions.
pub(super) fn sessions(rows: &[SessionRow]) -> String {
    let head = ["ID", "STATE", "USER", "IPV4", "IPV6", "REMOTE", "CHANNEL", "IDLE", "EXPIRES", "DROPPED"];
    let cells = |session: &SessionRow| {
        let row = &session.row;
        vec![
            row.id.to_string(),
            cell(&session.state),
            cell(&row.user),
            or_dash(row.ipv4),
            or_dash(row.ipv6),
            or_dash(row.remote),
            cell(&row.channel),
            duration(session.idle_seconds),
            session.expires_in_seconds.map_or_else(|| "never".to_owned(), duration),
            session.drops.values().sum::<u64>().to_string(),
        ]
    };
    table(&head, rows.iter().map(cells))
}

/// One session in full, one field a line.
pub(super) fn session(session: &SessionRow) -> String {
    let row = &session.row;
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name}: {value}");
    };
    line("ID", row.id.to_string());
    line("State", safe(&session.state));
    line("User", safe(&row.user));
    line("Groups", if row.groups.is_empty() { "-".to_owned() } else { safe(&row.groups.join(", ")) });
    line("IPv4", or_dash(row.ipv4));
    line("IPv6", or_dash(row.ipv6));
    line("Remote", or_dash(row.remote));
    line("Channel", safe(&row.channel));
    line("Cipher", safe(&row.cipher));
    line("User agent", safe(&row.user_agent));
    line("MTU", session.mtu.to_string());
    line("Worker", session.worker.to_string());
    line("From client", bytes(row.bytes_in));
    line("To client", bytes(row.bytes_out));
    line("Connected", duration(row.connected_seconds));
    line("Idle", duration(session.idle_seconds));
    line("Expires in", session.expires_in_seconds.map_or_else(|| "never".to_owned(), duration));
    line("Dropped", counts(&session.drops));
    text
}

/// Sources with ban points.
pub(super) fn bans(rows: &[BanRow]) -> String {
    let cells = |row: &BanRow| {
        vec![
            row.source.to_string(),
            row.points.to_string(),
            if row.banned { "yes" } else { "no" }.to_owned(),
            row.expires_in_seconds.map_or_else(|| "never".to_owned(), duration),
        ]
    };
    table(&["SOURCE", "POINTS", "BANNED", "EXPIRES"], rows.iter().map(cells))
}

/// One event, on one line.
pub(super) fn event(event: &Event) -> String {
    let when = clock::utc(Duration::from_secs(event.unix_seconds), clock::Precision::Seconds);
    let mut text = format!("{when} {}", event.kind.name());
    let mut field = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            let _ = write!(text, " {name}={value}");
        }
    };
    field("id", event.id.map(|id| id.to_string()));
    field("user", event.user.as_deref().map(cell));
    field("remote", event.remote.map(|remote| remote.to_string()));
    field("reason", event.reason.as_deref().map(safe));
    text
}

/// JSON without characters that steer a terminal; they only occur inside of strings.
pub(super) fn json(value: &impl serde::Serialize) -> Result<String, serde_json::Error> {
    let plain = serde_json::to_string(value)?;
    let mut text = String::with_capacity(plain.len());
    for letter in plain.chars() {
        escape::push(&mut text, letter);
    }
    Ok(text)
}

fn user_cells(row: &UserRow) -> [String; 11] {
    [
        row.id.to_string(),
        cell(&row.user),
        if row.groups.is_empty() { "-".to_owned() } else { cell(&row.groups.join(",")) },
        or_dash(row.ipv4),
        or_dash(row.ipv6),
        or_dash(row.remote),
        cell(&row.channel),
        bytes(row.bytes_in),
        bytes(row.bytes_out),
        duration(row.connected_seconds),
        cell(&row.user_agent),
    ]
}

/// Columns as wide as their widest cell, two spaces between, none at the end of a line.
fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let head: Vec<String> = head.iter().map(|&name| name.to_owned()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
    let columns = rows[0].len();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// The reasons that occurred, the most frequent first.
fn counts(counts: &BTreeMap<String, u64>) -> String {
    let mut present: Vec<_> = counts.iter().filter(|(_, count)| **count > 0).collect();
    present.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    if present.is_empty() {
        return "none".to_owned();
    }
    present.iter().map(|(reason, count)| format!("{} {count}", safe(reason))).collect::<Vec<_>>().join(", ")
}

/// A peer's text on one line, whole.
fn safe(text: &str) -> String {
    let mut out = String::new();
    text.chars().for_each(|letter| escape::push(&mut out, letter));
    out
}

/// A peer's text as a cell of a table.
fn cell(text: &str) -> String {
    let whole = safe(text);
    if whole.is_empty() {
        return "-".to_owned();
    }
    if whole.chars().count() <= MAX_CELL_CHARS {
        return whole;
    }
    let mut cut: String = whole.chars().take(MAX_CELL_CHARS - 1).collect();
    cut.push('…');
    cut
}

/// `1.5 KiB`: at most three digits before the unit, one after the point below 100.
fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut unit = 0;
    let mut whole = count;
    while whole >= 1024 * 1024 && unit + 1 < UNITS.len() {
        whole >>= 10;
        unit += 1;
    }
    let (whole, tenths) = (whole >> 10, ((whole & 1023) * 10) >> 10);
    if whole >= 100 {
        format!("{whole} {}", UNITS[unit])
    } else {
        format!("{whole}.{tenths} {}", UNITS[unit])
    }
}

/// The two largest units: `1d 2h`, `1h 2m`, `3m 4s`, `5s`.
fn duration(seconds: u64) -> String {
    let (days, hours) = (seconds / 86_400, seconds / 3600 % 24);
    let (minutes, rest) = (seconds / 60 % 60, seconds % 60);
    match (days, hours, minutes) {
        (1.., _, _) => format!("{days}d {hours}h"),
        (0, 1.., _) => format!("{hours}h {minutes}m"),
        (0, 0, 1..) => format!("{minutes}m {rest}s"),
        (0, 0, 0) => format!("{rest}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::testing;
    use proptest::prelude::*;

    #[test]
    fn the_status_starts_with_the_two_lines_of_the_original() {
        let text = status(&Status::default());
        assert!(text.starts_with("State: running\nHealth: healthy\n"), "{text}");
    }

    #[test]
    fn a_problem_and_a_drain_make_the_server_unhealthy() {
        let mut now = Status { problems: vec!["certificate expires in 3 days".into()], ..Status::default() };
        assert!(status(&now).contains("Health: unhealthy\nProblem: certificate expires in 3 days\n"));
        now.problems.clear();
        now.warnings.push("sessions are not saved".into());
        assert!(status(&now).contains("Health: healthy\nWarning: sessions are not saved\n"));
        now.state = ServerState::Draining;
        assert_eq!(health(&now), "Health: unhealthy\nProblem: the server is draining\n");
    }

    #[test]
    fn only_drops_that_occurred_are_told_the_most_frequent_first() {
        let now = Status {
            drops: [("a".to_owned(), 1), ("b".to_owned(), 0), ("c".to_owned(), 9)].into(),
            ..Status::default()
        };
        assert!(status(&now).contains("Dropped: c 9, a 1\n"));
        assert!(status(&now).contains("Closed: none\n"));
    }

    #[test]
    fn columns_are_aligned_and_lines_end_with_their_last_word() {
        let mut long = testing::user();
        long.user = "a-user-with-a-rather-long-name".into();
        let text = users(&[testing::user(), long]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        let place = lines[0].find("IPV4").unwrap();
        assert!(
            lines[1][place..].starts_with("10.8.0.5") && lines[2][place..].starts_with("10.8.0.5"),
            "{text}"
        );
        assert!(lines.iter().all(|line| line.trim_end() == *line));
    }

    /// Covers: P-136, R58, R84
    #[test]
    fn a_user_agent_cannot_steer_the_terminal_in_text_or_json() {
        let mut row = testing::user();
        row.user_agent = "\u{1b}]0;x\u{7}\r\n\u{9b}31m\u{202e}\u{2028}end".into();
        let mut all = testing::session();
        all.row = row.clone();
        for text in [users(&[row.clone()]), session(&all), json(&row).unwrap()] {
            for line in text.lines() {
                assert!(!line.chars().any(escape::is_unsafe), "{line:?}");
            }
        }
        let back: UserRow = serde_json::from_str(&json(&row).unwrap()).unwrap();
        assert_eq!(back, row, "the JSON says the same");
    }

    #[test]
    fn a_long_text_is_cut_in_a_table_and_whole_in_the_details() {
        let mut all = testing::session();
        all.row.user_agent = "x".repeat(500);
        assert!(users(&[all.row.clone()]).lines().all(|line| line.chars().count() < 200));
        assert!(session(&all).contains(&all.row.user_agent));
    }

    #[test]
    fn numbers_have_units_for_people() {
        let shown: Vec<String> =
            [0, 1023, 1024, 1536, 102_400, 1_048_575, 1_048_576, u64::MAX].map(bytes).to_vec();
        assert_eq!(
            shown,
            ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "100 KiB", "1023 KiB", "1.0 MiB", "15.9 EiB"]
        );
        let shown: Vec<String> = [0, 59, 61, 3725, 90_000].map(duration).to_vec();
        assert_eq!(shown, ["0s", "59s", "1m 1s", "1h 2m", "1d 1h"]);
    }

    #[test]
    fn an_event_is_one_line() {
        let mut happened = testing::event(7);
        happened.reason = Some("two\nlines".into());
        let line = event(&happened);
        assert!(!line.contains('\n'));
        assert!(
            line.starts_with("2023-11-14T22:13:20Z open id=7 user=ada remote=198.51.100.20:51234"),
            "{line}"
        );
    }

    proptest! {
        #[test]
        fn a_cell_is_bounded_and_harmless(text in ".{0,300}") {
            let cell = cell(&text);
            prop_assert!(cell.chars().count() <= MAX_CELL_CHARS);
            prop_assert!(!cell.chars().any(escape::is_unsafe));
        }
    }
}
