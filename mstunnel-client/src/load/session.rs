//! The life of one session: up, held, brought back as often as it is told to, and closed.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mstunnel_proto::session::DatagramChange;
use tokio::sync::watch;

use super::echo::Echo;
use super::pace::Turn;
use super::setup::{self, Up};
use super::stats::Series;
use super::{Order, Shared};
use crate::transport::{Channels, LinkEnd, Scratch};

/// Reads of one turn before other sessions get theirs.
const READS_PER_TURN: usize = 4;

/// What is said in the goodbye.
const FAREWELL: &str = "load test over";

thread_local! {
    /// The buffers of all sessions of a thread.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// How holding a session ended.
enum Held {
    /// It ended without being asked to.
    Lost(LinkEnd),
    /// It is to be cut and brought back, and its turn has come.
    Reconnect(Turn),
    /// It is to say goodbye, and its turn has come.
    Leave(Turn),
}

type Waiting<'s> = Pin<Box<dyn Future<Output = Held> + Send + 's>>;

/// Sets session `number` up, and keeps it until it is told to leave.
pub(super) async fn live(shared: Arc<Shared>, number: u32, turn: Turn) {
    let mut order = shared.order.subscribe();
    // One that was given before counts too.
    order.mark_changed();
    shared.stats.begin(Series::SetUp);
    let set_up = Box::pin(setup::from_credentials(&shared, number));
    let up = tokio::select! {
        up = set_up => up,
        () = told_to_leave(&mut order) => return shared.stats.give_up(Series::SetUp),
    };
    let mut up = match up {
        Ok(up) => up,
        Err(error) => return shared.stats.failed(Series::SetUp, setup::kind(&error), &error),
    };
    let mut round = shared.stats.opened(Series::SetUp, &up.times);
    drop(turn);
    loop {
        let held = hold(&shared, number, round, &mut up, &mut order).await;
        shared.stats.closed(up.channels.counters(), up.has_datagrams);
        match held {
            Held::Lost(end) => {
                let (kind, why) = match end {
                    LinkEnd::Lost(why) | LinkEnd::Fault(why) => ("connection lost", why),
                    LinkEnd::KeysDue => ("connection lost", "new keys are due".to_owned()),
                    LinkEnd::Left | LinkEnd::Ended => {
                        ("ended by the server", "the server ended the session".to_owned())
                    }
                };
                return shared.stats.lost(round, kind, &why);
            }
            Held::Leave(_turn) => {
                let now = Instant::now();
                up.channels.leave(FAREWELL);
                let sent = SCRATCH.with_borrow_mut(|scratch| {
                    let sent = up.channels.transmit_control(scratch, now);
                    up.channels.close_datagrams(scratch, now);
                    sent
                });
                if sent.is_ok() {
                    up.channels.say_goodbye().await;
                }
                return shared.stats.left(round);
            }
            Held::Reconnect(turn) => {
                let Up { channels, cookie, leases, .. } = up;
                channels.cut();
                shared.stats.begin(Series::Reconnect);
                let came_back = Box::pin(setup::from_cookie(&shared, number, cookie, leases)).await;
                up = match came_back {
                    Ok(up) => up,
                    Err(error) => {
                        shared.stats.failed(Series::Reconnect, setup::kind(&error), &error);
                        return shared.stats.left(round);
                    }
                };
                round = shared.stats.opened(Series::Reconnect, &up.times);
                drop(turn);
            }
        }
    }
}

async fn told_to_leave(order: &mut watch::Receiver<Order>) {
    // The sender is as old as the test.
    let _ = order.wait_for(|order| *order == Order::Leave).await;
}

/// Keeps a live session, as a client does whose user says nothing.
async fn hold(
    shared: &Shared,
    number: u32,
    round: u32,
    up: &mut Up,
    order: &mut watch::Receiver<Order>,
) -> Held {
    let mut echo =
        shared.traffic.map(|traffic| Echo::new(traffic, number, up.leases, up.mtu, Instant::now()));
    let channels = &mut *up.channels;
    let mut waiting: Option<Waiting<'_>> = None;
    let sleep = tokio::time::sleep(Duration::ZERO);
    tokio::pin!(sleep);
    loop {
        let more = match turn(channels, echo.as_mut()) {
            Ok(more) => more,
            Err(error) => {
                channels.handle_stream_closed();
                let end = channels.take_end().unwrap_or_else(|| LinkEnd::Lost(error.to_string()));
                return Held::Lost(match end {
                    LinkEnd::Lost(_) => LinkEnd::Lost(error.to_string()),
                    LinkEnd::KeysDue | LinkEnd::Left | LinkEnd::Ended | LinkEnd::Fault(_) => end,
                });
            }
        };
        if let Some(end) = channels.take_end() {
            return Held::Lost(end);
        }
        if let Some(change) = channels.take_change() {
            up.has_datagrams = matches!(change, DatagramChange::Opened(_));
            shared.stats.datagrams_changed(up.has_datagrams);
        }
        if let Some(echo) = &mut echo {
            shared.stats.traffic(echo.take_counts());
        }
        if more {
            tokio::task::yield_now().await;
            continue;
        }
        let next_echo = echo.as_ref().map(Echo::deadline);
        let wake = channels.deadline().into_iter().chain(next_echo).min();
        if let Some(at) = wake.map(tokio::time::Instant::from_std)
            && sleep.deadline() != at
        {
            sleep.as_mut().reset(at);
        }
        tokio::select! {
            () = channels.stream_readable() => {}
            () = channels.stream_writable(), if channels.is_blocked() => {}
            () = channels.datagrams_readable() => {}
            () = sleep.as_mut(), if wake.is_some() => {}
            held = turn_of(&mut waiting) => return held,
            Ok(()) = order.changed() => {
                waiting = match *order.borrow_and_update() {
                    Order::Leave => Some(Box::pin(async { Held::Leave(shared.pace.place().await) })),
                    Order::Reconnect(due) if due > round => {
                        Some(Box::pin(async { Held::Reconnect(shared.pace.turn().await) }))
                    }
                    Order::Hold | Order::Reconnect(_) => None,
                };
            }
        }
    }
}

async fn turn_of(waiting: &mut Option<Waiting<'_>>) -> Held {
    match waiting {
        Some(waiting) => waiting.await,
        None => std::future::pending().await,
    }
}

/// One turn: inputs, then outputs. Returns whether there is more to do at once.
fn turn(channels: &mut Channels, mut echo: Option<&mut Echo>) -> io::Result<bool> {
    SCRATCH.with_borrow_mut(|scratch| {
        let now = Instant::now();
        channels.handle_timeout(scratch, now);
        let mut take = |packet: &mut [u8]| {
            if let Some(echo) = &mut echo {
                echo.take(packet);
            }
        };
        let mut more = channels.read_datagrams(scratch, now, &mut take);
        let mut reads = 0;
        while reads < READS_PER_TURN && channels.read_stream(scratch, now, &mut take)? {
            reads += 1;
        }
        more |= reads == READS_PER_TURN;
        channels.transmit_control(scratch, now)?;
        if let Some(echo) = echo
            && channels.takes_packets()
            && echo.poll_packet(&mut scratch.control, now)
        {
            channels.seal(&mut scratch.control, &mut scratch.datagrams, now);
            channels.flush(&mut scratch.datagrams)?;
        }
        Ok(more)
    })
}
