//! Where lines go: a bounded queue and one thread that writes.
//!
//! A line that finds the queue full is lost and counted; nobody ever waits (R58). As soon as a write
//! succeeds again the thread tells how many were lost. A write that fails (disk full, reader gone)
//! loses its line the same way. Memory: [`MAX_QUEUED_LINES`] times the longest line of `line`.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use super::line;
use crate::config::LogFormat;

/// Lines that wait: a burst of some seconds at a thousand lines a second, 16 MiB at the very worst.
pub(super) const MAX_QUEUED_LINES: usize = 4096;

/// How long the end of the process waits for the last lines.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// All lines that any sink of this process lost.
static LOST: AtomicU64 = AtomicU64::new(0);

/// How many log lines were lost since the start because the sink was blocked, full or gone.
pub fn lost_lines() -> u64 {
    LOST.load(Ordering::Relaxed)
}

enum Message {
    Line(String),
    Flush(SyncSender<()>),
}

/// The way to the writing thread.
#[derive(Clone)]
pub(super) struct Sink {
    queue: SyncSender<Message>,
    lost: std::sync::Arc<AtomicU64>,
}

impl std::fmt::Debug for Sink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sink").finish_non_exhaustive()
    }
}

impl Sink {
    /// Starts the thread, which ends with the last clone of the sink.
    pub(super) fn start(to: impl Write + Send + 'static, format: LogFormat) -> io::Result<Self> {
        let (queue, lines) = sync_channel(MAX_QUEUED_LINES);
        let lost = std::sync::Arc::<AtomicU64>::default();
        let writer = Writer { to, format, lost: lost.clone(), told: 0 };
        std::thread::Builder::new().name("log".to_owned()).spawn(move || writer.run(&lines))?;
        Ok(Self { queue, lost })
    }

    /// Hands over one line with its line feed, or counts it as lost.
    pub(super) fn write(&self, line: String) {
        if self.queue.try_send(Message::Line(line)).is_err() {
            count(&self.lost);
        }
    }

    /// Waits until the writer has come this far, but not for long; says whether it has.
    pub(super) fn flush(&self) -> bool {
        let (done, wait) = sync_channel(1);
        // A full queue is a blocked sink: there is nothing to wait for.
        self.queue.try_send(Message::Flush(done)).is_ok() && wait.recv_timeout(FLUSH_TIMEOUT).is_ok()
    }
}

fn count(lost: &AtomicU64) {
    lost.fetch_add(1, Ordering::Relaxed);
    LOST.fetch_add(1, Ordering::Relaxed);
}

struct Writer<W> {
    to: W,
    format: LogFormat,
    lost: std::sync::Arc<AtomicU64>,
    told: u64,
}

impl<W: Write> Writer<W> {
    fn run(mut self, lines: &Receiver<Message>) {
        for message in lines {
            match message {
                Message::Line(line) => self.write(&line),
                Message::Flush(done) => {
                    let _ = self.to.flush();
                    let _ = done.try_send(());
                }
            }
        }
    }

    fn write(&mut self, line: &str) {
        if self.to.write_all(line.as_bytes()).is_err() {
            count(&self.lost);
            return;
        }
        let lost = self.lost.load(Ordering::Relaxed);
        if lost > self.told && self.to.write_all(line::lost(self.format, lost - self.told).as_bytes()).is_ok()
        {
            self.told = lost;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Condvar, Mutex};

    /// A writer that stands still until released, and then keeps what it gets.
    #[derive(Clone, Default)]
    struct Gate(Arc<Gated>);

    /// Whether writes pass, and what was written.
    type Gated = (Mutex<(bool, Vec<u8>)>, Condvar);

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let (state, released) = &*self.0;
            let mut state = released.wait_while(state.lock().unwrap(), |state| !state.0).unwrap();
            state.1.extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Gate {
        fn release(&self) {
            self.0.0.lock().unwrap().0 = true;
            self.0.1.notify_all();
        }

        fn text(&self) -> String {
            String::from_utf8(self.0.0.lock().unwrap().1.clone()).unwrap()
        }
    }

    /// Covers: P-086, P-116, R58
    #[test]
    fn a_blocked_sink_blocks_nobody_and_the_lost_lines_are_told() {
        let gate = Gate::default();
        let sink = Sink::start(gate.clone(), LogFormat::Text).unwrap();
        let total = MAX_QUEUED_LINES + 1000;
        for number in 0..total {
            sink.write(format!("{number}\n"));
        }
        gate.release();
        // Flushing is refused while the queue is full; the writer empties it in no time.
        while !gate.text().ends_with("end\n") {
            sink.write("end\n".to_owned());
            let _ = sink.flush();
        }
        let text = gate.text();
        let written = text.lines().filter(|line| line.parse::<usize>().is_ok()).count();
        let told: usize =
            text.lines().filter_map(|line| line.split_once("lost=")?.1.parse::<usize>().ok()).sum();
        assert!(written >= MAX_QUEUED_LINES && told > 0, "{written} written, {told} lost");
        assert!(written + told >= total, "{written} written, {told} lost of {total}");
        assert!(lost_lines() >= told as u64);
    }

    #[test]
    fn a_failing_write_loses_its_line_and_the_sink_recovers() {
        #[derive(Clone, Default)]
        struct Flaky(Arc<Mutex<(usize, String)>>);
        impl Write for Flaky {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                let mut state = self.0.lock().unwrap();
                state.0 += 1;
                if state.0 <= 2 {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                state.1.push_str(&String::from_utf8_lossy(bytes));
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let disk = Flaky::default();
        let sink = Sink::start(disk.clone(), LogFormat::Json).unwrap();
        for line in ["a\n", "b\n", "c\n"] {
            sink.write(line.to_owned());
        }
        while !sink.flush() {}
        let text = disk.0.lock().unwrap().1.clone();
        assert!(text.starts_with("c\n{"), "{text}");
        assert!(text.contains("\"lost\":2"), "{text}");
    }
}
