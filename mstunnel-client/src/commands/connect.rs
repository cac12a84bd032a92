//! `connect`: the whole machine behind the tunnel.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use mstunnel_client::device::Plan;
use mstunnel_client::host::{Host, MARK, ResolverKind, default_directory};
use mstunnel_client::{Tunnel, TunnelState};
use serde_json::{Value, json};

use super::online::{Interrupts, block_on};
use super::target::Target;

/// Send this machine's traffic through the tunnel, by a TUN device; needs CAP_NET_ADMIN
///
/// What the tunnel carries is decided by routes of its own, before this machine's; no route of a local network pulls
/// anything out. Everything is put back at the end. After a kill nothing gets out in clear until the next start, or
/// `restore`, puts it back.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    /// Call the device NAME
    #[arg(long, value_name = "NAME", default_value = "mst0")]
    tun: String,
    /// Let nothing out when the tunnel ends by itself, until the next start or `restore`
    #[arg(long)]
    lockdown: bool,
    /// Print each step as a JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    state: StateArgs,
}

/// Where is written what there is to undo.
#[derive(Debug, clap::Args)]
pub(crate) struct StateArgs {
    /// Keep what there is to undo in DIRECTORY [default: /run/mstunnel]
    #[arg(long, value_name = "DIRECTORY")]
    state_directory: Option<PathBuf>,
}

impl StateArgs {
    pub(crate) fn directory(&self) -> PathBuf {
        self.state_directory.clone().unwrap_or_else(default_directory)
    }
}

/// Why the work is over.
enum End {
    /// Somebody asked for it.
    Asked,
    /// The tunnel or the device is gone.
    Lost(anyhow::Error),
}

impl Args {
    pub(crate) fn execute(self) -> anyhow::Result<ExitCode> {
        block_on(async {
            let report = Report { json: self.json };
            let mut asked = Interrupts::or_hangup().context("cannot watch for signals")?;
            let (mut host, undone) = Host::open(&self.tun, &self.state.directory()).await?;
            for what in undone {
                report.step("restored", &json!({ "what": what }), &format!("put back after a kill: {what}"));
            }
            let opened = tokio::select! {
                opened = self.target.open_marked(Some(MARK)) => opened,
                () = asked.next() => return Ok(ExitCode::SUCCESS),
            };
            let mut tunnel = opened?;
            let end = match serve(&mut host, &mut tunnel, &report, &mut asked).await {
                Ok(end) => end,
                Err(error) => End::Lost(error),
            };
            self.finish(host, tunnel, end, &report).await
        })?
    }

    async fn finish(
        &self,
        host: Host,
        tunnel: Tunnel,
        end: End,
        report: &Report,
    ) -> anyhow::Result<ExitCode> {
        match end {
            End::Lost(error) if self.lockdown => {
                report.step(
                    "locked",
                    &json!({}),
                    "nothing gets out beside the tunnel: connect again, or run `mstunnel-client restore`",
                );
                Err(error)
            }
            End::Lost(error) => {
                host.close().await.context("cannot put everything back")?;
                report.step("restored", &json!({}), "put back: routes, rules and resolver");
                Err(error)
            }
            End::Asked => {
                let closed = host.close().await.context("cannot put everything back");
                tunnel.leave("done").await;
                closed?;
                report.step("restored", &json!({}), "put back: routes, rules and resolver");
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

async fn serve(
    host: &mut Host,
    tunnel: &mut Tunnel,
    report: &Report,
    asked: &mut Interrupts,
) -> anyhow::Result<End> {
    let server = tunnel.server();
    report.step("connected", &json!({ "server": server }), &format!("connected to {server}"));
    let packets = tunnel.take_packets();
    let max_packet = packets.max_packet();
    let mut params = tunnel.watch_params();
    let mut states = tunnel.events();
    let plan = Plan::new(&params.borrow_and_update().clone(), max_packet)?;
    host.apply(&plan).await?;
    report.plan(host, &plan);
    let tun = host.take_tun().context("cannot use the device")?;
    let mut carrying = tokio::spawn(tun.carry(packets, tunnel.watch_params()));
    report.step("up", &json!({ "interface": host.interface() }), "the tunnel is up");
    let mut is_up = true;
    loop {
        tokio::select! {
            () = asked.next() => return Ok(End::Asked),
            reason = tunnel.ended() => return Ok(End::Lost(anyhow::anyhow!("the tunnel ended: {reason}"))),
            gone = &mut carrying => {
                let error = gone.unwrap_or_else(io::Error::other);
                let reason = format!("the device {} is gone", host.interface());
                return Ok(End::Lost(anyhow::Error::new(error).context(reason)));
            }
            changed = params.changed() => {
                if changed.is_err() {
                    continue; // the tunnel has ended, and says why
                }
                let new = Plan::new(&params.borrow_and_update().clone(), max_packet)?;
                host.apply(&new).await?;
                report.plan(host, &new);
            }
            changed = states.changed() => {
                if changed.is_err() {
                    continue;
                }
                let state = states.borrow_and_update().clone();
                match state {
                    TunnelState::Up(_) if !is_up => {
                        is_up = true;
                        let server = tunnel.server();
                        report.step("connected", &json!({ "server": server }), &format!("connected again to {server}"));
                    }
                    TunnelState::Reconnecting { why, .. } if is_up => {
                        is_up = false;
                        report.step("reconnecting", &json!({ "why": why }), &format!("connection lost ({why}), reconnecting"));
                    }
                    TunnelState::Up(_) | TunnelState::Reconnecting { .. } | TunnelState::Ended(_) => {}
                }
            }
        }
    }
}

/// Tells each step: a line for people on standard error, or a JSON object for programs on standard output.
struct Report {
    json: bool,
}

impl Report {
    fn step(&self, event: &str, fields: &Value, line: &str) {
        // A closed stream is the caller's choice.
        if self.json {
            let mut object = json!({ "event": event });
            if let (Some(object), Some(fields)) = (object.as_object_mut(), fields.as_object()) {
                object.extend(fields.clone());
            }
            let _ = writeln!(io::stdout(), "{object}");
        } else {
            let _ = writeln!(io::stderr(), "{line}");
        }
    }

    fn plan(&self, host: &Host, plan: &Plan) {
        let addresses: Vec<String> = plan.addresses.iter().map(ToString::to_string).collect();
        let interface = host.interface();
        self.step(
            "device",
            &json!({ "interface": interface, "addresses": addresses, "mtu": plan.mtu }),
            &format!("{interface} has {}, mtu {}", addresses.join(" and "), plan.mtu),
        );
        let routes: Vec<String> =
            plan.routes.iter().map(|route| format!("{} {}", route.prefix, route.way.name())).collect();
        let kind = if plan.is_full { "full tunnel" } else { "split tunnel" };
        self.step(
            "routes",
            &json!({ "full": plan.is_full, "routes": routes }),
            &format!("{kind}: {}", routes.join(", ")),
        );
        let resolver = match host.resolver() {
            Some(ResolverKind::Resolved) => "systemd-resolved",
            Some(ResolverKind::File) => "/etc/resolv.conf",
            None => "nobody: the server told no name servers",
        };
        let dns: Vec<String> = plan.dns.iter().map(ToString::to_string).collect();
        self.step(
            "names",
            &json!({ "servers": dns, "search": plan.search, "split": plan.split_dns }),
            &format!("names are asked through the tunnel by {resolver} {}", dns.join(" ")),
        );
        for note in &plan.notes {
            self.step("note", &json!({ "text": note }), note);
        }
    }
}
