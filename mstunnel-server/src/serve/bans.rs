//! The ban table as rows for the administrator.

use std::time::Instant;

use mstunnel_proto::auth::BanTable;

use crate::admin::BanRow;

/// Every source with points.
pub(crate) fn rows(bans: &BanTable, now: Instant) -> Vec<BanRow> {
    bans.iter()
        .filter_map(|entry| {
            Some(BanRow {
                source: entry.source?.address(),
                points: entry.points,
                banned: entry.is_banned,
                expires_in_seconds: Some(entry.until.saturating_duration_since(now).as_secs()),
            })
        })
        .collect()
}
