//! The plot: sessions over virtual time as SVG, one panel for the site and one for the clients of the dead.

use std::fmt::{self, Write};
use std::time::Duration;

use crate::report::{Report, Sample, grouped};

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 640.0;
/// Left and right edge of both panels.
const LEFT: f64 = 110.0;
const RIGHT: f64 = 870.0;
const PANEL_HEIGHT: f64 = 190.0;

/// How much of the time before the death the second panel shows.
const BEFORE_DEATH: f64 = 20.0;

const STYLE: &str = "text{font-family:sans-serif;font-size:13px;fill:#222}.title{font-size:15px;font-weight:bold}\
.grid{stroke:#ddd}.axis{stroke:#222;fill:none}.death{stroke:#c33;stroke-dasharray:5 4}.curve{stroke:#15a;\
stroke-width:2;fill:none;stroke-linejoin:round}";

/// One panel: where it is and what its axes say.
struct Panel {
    top: f64,
    title: String,
    x_label: &'static str,
    /// First and last second, and the second of the death.
    from: f64,
    to: f64,
    death: f64,
    most: u64,
}

impl Panel {
    fn x(&self, seconds: f64) -> f64 {
        LEFT + (seconds - self.from) / (self.to - self.from) * (RIGHT - LEFT)
    }

    fn y(&self, sessions: u64) -> f64 {
        self.bottom() - as_f64(sessions) / as_f64(self.most) * PANEL_HEIGHT
    }

    fn bottom(&self) -> f64 {
        self.top + PANEL_HEIGHT
    }

    fn draw(&self, points: &[(f64, u64)], out: &mut String) -> fmt::Result {
        let bottom = self.bottom();
        writeln!(out, r#"<text class="title" x="16" y="{:.1}">{}</text>"#, self.top - 14.0, self.title)?;
        let step = nice_step(as_f64(self.most), 5.0);
        for tick in ticks(0.0, as_f64(self.most), step) {
            let y = bottom - tick / as_f64(self.most) * PANEL_HEIGHT;
            writeln!(out, r#"<path class="grid" d="M{LEFT} {y:.1}H{RIGHT}"/>"#)?;
            let (x, text) = (LEFT - 8.0, whole(tick));
            writeln!(out, r#"<text x="{x}" y="{:.1}" text-anchor="end">{text}</text>"#, y + 4.5)?;
        }
        for tick in ticks(self.from, self.to, nice_step(self.to - self.from, 9.0)) {
            let x = self.x(tick);
            writeln!(out, r#"<path class="axis" d="M{x:.1} {bottom}v5"/>"#)?;
            writeln!(out, r#"<text x="{x:.1}" y="{}" text-anchor="middle">{tick:.0}</text>"#, bottom + 20.0)?;
        }
        let (middle, below) = ((LEFT + RIGHT) / 2.0, bottom + 40.0);
        writeln!(out, r#"<text x="{middle}" y="{below}" text-anchor="middle">{}</text>"#, self.x_label)?;
        let beside = self.top + PANEL_HEIGHT / 2.0;
        writeln!(
            out,
            r#"<text transform="translate(22 {beside}) rotate(-90)" text-anchor="middle">sessions up</text>"#
        )?;
        writeln!(out, r#"<path class="axis" d="M{LEFT} {}V{bottom}H{RIGHT}"/>"#, self.top)?;
        let death = self.x(self.death);
        writeln!(out, r#"<path class="death" d="M{death:.1} {}V{bottom}"/>"#, self.top)?;
        writeln!(out, r#"<text x="{:.1}" y="{}">death</text>"#, death + 5.0, bottom - 8.0)?;
        write!(out, r#"<polyline class="curve" points=""#)?;
        for &(seconds, sessions) in points {
            write!(out, "{:.1},{:.1} ", self.x(seconds), self.y(sessions))?;
        }
        writeln!(out, r#""/>"#)
    }
}

/// Draws what the report has sampled.
pub(crate) fn svg(report: &Report) -> Result<String, fmt::Error> {
    let death = report.death.as_secs_f64();
    let end = report.virtual_time.as_secs_f64();
    let points = |value: fn(&Sample) -> u64, since: f64, from: f64| -> Vec<(f64, u64)> {
        let samples = report.samples.iter().map(|sample| (sample.at.as_secs_f64() - since, value(sample)));
        samples.filter(|(at, _)| *at >= from).collect()
    };
    let mut out = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">"#
    );
    write!(out, "\n<style>{STYLE}</style>\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n")?;
    let after = |time: Option<Duration>| {
        time.map_or_else(|| "never".to_owned(), |time| format!("{:.0} s", time.as_secs_f64()))
    };
    let site = Panel {
        top: 50.0,
        title: format!(
            "All sessions of the site: {} before the death",
            grouped(report.sessions_before_death)
        ),
        x_label: "virtual seconds since the start",
        from: 0.0,
        to: end,
        death,
        most: report.sessions_before_death.max(1),
    };
    site.draw(&points(|sample| sample.up, 0.0, 0.0), &mut out)?;
    let dead = Panel {
        top: 370.0,
        title: format!(
            "Clients of the dead: {} (50 % back after {}, 99 % after {}, 100 % after {})",
            grouped(report.victims),
            after(report.recovery.half),
            after(report.recovery.most),
            after(report.recovery.all)
        ),
        x_label: "virtual seconds since the death",
        from: -BEFORE_DEATH,
        to: end - death,
        death: 0.0,
        most: report.victims.max(1),
    };
    dead.draw(&points(|sample| sample.of_the_doomed, death, -BEFORE_DEATH), &mut out)?;
    out.push_str("</svg>\n");
    Ok(out)
}

/// The multiples of `step` from `from` to `to`.
fn ticks(from: f64, to: f64, step: f64) -> impl Iterator<Item = f64> {
    let first = (from / step).ceil() * step;
    // Zero is added so that none is written as -0.
    let all = std::iter::successors(Some(first), move |tick| Some(tick + step)).map(|tick| tick + 0.0);
    all.take_while(move |tick| *tick <= to)
}

/// 1, 2 or 5 times a power of ten, so that `span` has about `count` steps; at least 1.
fn nice_step(span: f64, count: f64) -> f64 {
    let rough = (span / count).max(1.0);
    let power = 10_f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= rough).unwrap_or(10.0);
    factor * power
}

fn as_f64(number: u64) -> f64 {
    // Counts of sessions are far below 2^53.
    number as f64
}

fn whole(number: f64) -> String {
    grouped(format!("{number:.0}").parse().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round_numbers() {
        let steps = [3.0, 10.0, 48.0, 700.0, 1_000_000.0].map(|span| nice_step(span, 5.0));
        assert_eq!(steps, [1.0, 2.0, 10.0, 200.0, 200_000.0]);
        let ticks: Vec<_> = ticks(-15.0, 21.0, 10.0).map(|tick| format!("{tick:.0}")).collect();
        assert_eq!(ticks, ["-10", "0", "10", "20"]);
    }
}
