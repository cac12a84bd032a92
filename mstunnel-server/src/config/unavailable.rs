//! What the keys of `gateway.toml` and the `advancedSettings` may say, but this version cannot do yet.
//!
//! Each row is deleted by the change that builds the thing. A row of [`REFUSED`] stops the start,
//! because going on without it would be less safe or not at all what was asked for; a row of
//! [`WITHOUT_EFFECT`] is a warning.

use mstunnel_proto::config::Advanced;

use super::document::{Item, Report};

/// Key, value (`None`: any), and what can be written instead.
const REFUSED: &[(&str, Option<&str>, &str)] = &[
    ("auth.methods", Some("certificate"), "\"bearer\" or \"password\""),
    ("policy.file", None, "no [policy] section"),
    ("egress.mode", Some("nat"), "\"kernel\", \"routed\" or \"userspace\""),
    ("state.store", Some("etcd"), "\"memory\" or \"file\""),
];

const WITHOUT_EFFECT: &[(&str, Option<&str>, &str)] =
    &[("admin.metrics", None, "no metrics address; none will be opened")];

/// Reports `item`, which is the value (or one element of the list) at `key`, if it is not built yet.
pub(super) fn check(item: &Item<'_>, key: &str, report: &mut Report) {
    let shown = item.shown();
    let concerns = |row: &&(&str, Option<&str>, &str)| {
        row.0 == key && row.1.is_none_or(|value| shown == format!("{value:?}"))
    };
    let value = format!("{shown} is not available in this version");
    if let Some((_, _, want)) = REFUSED.iter().find(concerns) {
        report.refuse_with(item, &value, *want);
    }
    if let Some((_, _, want)) = WITHOUT_EFFECT.iter().find(concerns) {
        report.warn(item, &value, *want);
    }
}

/// A warning for each of the `advancedSettings` that says something else than what is done.
pub(super) fn without_effect(advanced: &Advanced) -> impl Iterator<Item = String> {
    let default = Advanced::default();
    [
        ("rx-data-per-sec", advanced.rx_data_per_sec != default.rx_data_per_sec),
        ("tx-data-per-sec", advanced.tx_data_per_sec != default.tx_data_per_sec),
        ("rekey-method", advanced.rekey_method != default.rekey_method),
        ("switch-to-tcp-timeout", advanced.switch_to_tcp_timeout != default.switch_to_tcp_timeout),
        ("try-mtu-discovery", advanced.try_mtu_discovery != default.try_mtu_discovery),
    ]
    .into_iter()
    .filter(|(_, differs)| *differs)
    .map(|(name, _)| format!("advancedSettings: {name} has no effect in this version; want none"))
}
