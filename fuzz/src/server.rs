//! What the server reads from its files and from its control socket.

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use mstunnel_proto::pool::{Pool, PoolConfig};
use mstunnel_proto::prefix::Prefix;
use mstunnel_proto::session::{Registry, RegistryConfig};
use mstunnel_server::admin::{Request, Response};
use mstunnel_server::config::Settings;
use mstunnel_server::identity::password::PasswordFile;
use mstunnel_server::serve::fuzz_session_file;
use serde_json::Value;

use crate::folder::Folder;

thread_local! {
    static FOLDER: Folder = {
        let folder = Folder::new();
        folder.write("configuration.json", br#"{"id":"c1","displayName":"hq","network":"10.9.0.0/16","listenPort":8443}"#);
        folder.write("site.json", br#"{"id":"s1","displayName":"hq","publicAddress":"vpn.example","microsoftTunnelConfiguration":{"id":"c1"}}"#);
        folder.write("site.crt", include_bytes!("../../mstunnel-server/src/tls/golden/site.crt"));
        folder.write("site.key", include_bytes!("../../mstunnel-server/src/tls/golden/site.key"));
        folder.write("oidc.json", b"{}");
        folder.write("users.passwd", b"");
        folder
    };
}

/// `gateway.toml`, beside the files that it may name. A refusal says the file and what was wanted.
pub fn gateway_file(data: &[u8]) {
    FOLDER.with(|folder| {
        let path = folder.write("gateway.toml", data);
        match Settings::load(&path) {
            Ok((settings, _)) => assert!(settings.listen_addresses().count() > 0, "a server for nobody"),
            Err(error) => assert!(error.problems().count() > 0 && !error.to_string().is_empty()),
        }
    });
}

/// The password file: as many users as lines at most, and whoever is active has a line.
pub fn password_file(data: &[u8]) {
    FOLDER.with(|folder| {
        let path = folder.write("fuzzed.passwd", data);
        let Ok(file) = PasswordFile::open(&path) else { return };
        assert!(file.user_count() <= data.split(|&byte| byte == b'\n').count());
        assert!(!file.is_active(""), "nobody is a user");
        let text = String::from_utf8_lossy(data);
        let active =
            text.lines().filter_map(|line| line.split(':').next()).filter(|name| file.is_active(name));
        assert!(active.count() == 0 || file.user_count() > 0, "a user without a line");
    });
}

/// A line on the control socket, in either direction: what was understood is written as something that is
/// understood to be the same.
pub fn control_line(data: &[u8]) {
    if let Ok(request) = serde_json::from_slice::<Request>(data) {
        let line = serde_json::to_string(&request).expect("a request can be written");
        assert!(!line.contains('\n'), "a request of two lines");
        assert_eq!(serde_json::from_str::<Request>(&line).expect("a request"), request);
    }
    if let Ok(response) = serde_json::from_slice::<Response>(data) {
        let line = serde_json::to_string(&response).expect("a response can be written");
        assert!(!line.contains('\n'), "a response of two lines");
        assert_eq!(serde_json::from_str::<Response>(&line).expect("a response"), response);
    }
}

const WINDOW: Duration = Duration::from_secs(300);
const MAX_SESSIONS: usize = 8;

fn registry() -> Registry {
    let config = RegistryConfig {
        cookie_timeout: WINDOW,
        session_timeout: Some(Duration::from_secs(3_600)),
        max_sessions: MAX_SESSIONS,
        max_per_user: None,
    };
    let pool = |prefix: &str| Pool::new(prefix.parse().expect("a prefix"), &PoolConfig::default()).ok();
    Registry::new(config, pool("10.9.0.0/28"), pool("fd00:9::/120"))
}

/// The sessions of a former process: no address twice, none outside the pools, nobody longer than anybody else; what
/// is stored of them comes back as it was, and all of it ends.
pub fn session_file(data: &[u8]) {
    let now = Instant::now();
    let mut first = registry();
    let Ok(stored) = fuzz_session_file(data, &mut first, WINDOW, now) else { return };
    assert!(first.len() <= MAX_SESSIONS, "too many came back");
    let pools = ["10.9.0.0/28", "fd00:9::/120"].map(|text| text.parse().expect("a prefix"));
    let mut addresses = HashSet::new();
    for record in first.records() {
        assert!(record.ends_at().is_some_and(|end| end > now && end <= now + Duration::from_secs(3_600)));
        let leases = record.leases();
        addresses.extend(leases.v4.map(IpAddr::V4).into_iter().chain(leases.v6.map(IpAddr::V6)));
    }
    let leased: usize = first
        .records()
        .map(|record| record.leases().v4.iter().count() + record.leases().v6.iter().count())
        .sum();
    for held in first.held_back() {
        assert!(addresses.insert(held.address), "an address is leased and held back");
        assert!(held.until > now && held.until <= now + WINDOW, "an address is held back for too long");
    }
    assert_eq!(addresses.len(), leased + first.held_back().count(), "an address twice");
    assert!(addresses.iter().all(|&address| pools.iter().any(|pool: &Prefix| pool.contains(address))));

    let again = fuzz_session_file(&stored, &mut registry(), WINDOW, now).expect("what we write we read");
    assert_eq!(in_order(&again), in_order(&stored), "what was stored came back as something else");

    first.handle_timeout(now + WINDOW);
    first.handle_timeout(now + 2 * WINDOW);
    assert!(first.is_empty() && first.held_back().next().is_none(), "something is left for ever");
}

/// A session file without the order that a map gave its sessions.
fn in_order(file: &[u8]) -> Value {
    let mut file = serde_json::from_slice::<Value>(file).expect("JSON");
    let sessions = file["sessions"].as_array_mut().expect("sessions");
    sessions.sort_by_key(|session| session["cookie_sha256"].to_string());
    file
}

/// What the seeds reach: a target whose folder is broken would refuse everything and find nothing.
#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed;

    #[test]
    fn a_good_gateway_file_and_a_good_password_file_are_taken() {
        FOLDER.with(|folder| {
            let gateway = folder.write("gateway.toml", &seed("gateway_file/good"));
            Settings::load(&gateway).unwrap_or_else(|error| panic!("{error}"));
            let users = folder.write("fuzzed.passwd", &seed("password_file/stock"));
            let users = PasswordFile::open(&users).unwrap();
            assert_eq!(users.user_count(), 3);
            assert!(users.is_active("bob") && !users.is_active("carol"));
        });
    }
    #[test]
    fn the_sessions_of_the_corpus_come_back() {
        let mut registry = registry();
        fuzz_session_file(&seed("session_file/three"), &mut registry, WINDOW, Instant::now()).unwrap();
        assert_eq!((registry.len(), registry.held_back().count()), (3, 2));
    }
}
