//! `show`: what the server assigns.

use std::io::{self, Write};
use std::process::ExitCode;

use mstunnel_client::params::TunnelParams;
use serde_json::{Value, json};

use super::online::block_on;
use super::target::Target;

/// Sign in, show what the server assigns, and leave
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(crate) fn execute(self) -> anyhow::Result<ExitCode> {
        let (params, banner) = block_on(async {
            let tunnel = self.target.open().await?;
            let (params, banner) = (tunnel.params(), tunnel.banner().map(str::to_owned));
            tunnel.leave("done").await;
            anyhow::Ok((params, banner))
        })??;
        let value = describe(&params, banner.as_deref());
        let mut out = io::stdout().lock();
        if self.json {
            writeln!(out, "{value:#}")?;
        } else {
            for (name, value) in value.as_object().into_iter().flatten() {
                writeln!(out, "{name:<20} {}", plain(value))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn describe(params: &TunnelParams, banner: Option<&str>) -> Value {
    let said = &params.said;
    let texts = |prefixes: &[mstunnel_proto::prefix::Prefix]| -> Vec<String> {
        prefixes.iter().map(ToString::to_string).collect()
    };
    let seconds = |duration: Option<std::time::Duration>| duration.map(|duration| duration.as_secs());
    json!({
        "banner": banner,
        "ipv4": said.v4.map(|v4| v4.address),
        "ipv6": said.v6.map(|v6| v6.address),
        "mtu": said.mtu.get(),
        "dns": said.dns,
        "domain": said.default_domain,
        "split_dns": said.split_dns,
        "include": texts(&said.include),
        "exclude": texts(&said.exclude),
        "dpd_seconds": seconds(said.dpd),
        "idle_timeout_seconds": seconds(said.idle_timeout),
        "session_timeout_seconds": seconds(said.session_timeout_remaining.or(said.session_timeout)),
    })
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() => "-".to_owned(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(" "),
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => value.to_string(),
    }
}
