//! Sessions on disk, so that a restart keeps them: a client comes back by its cookie onto its address.
//!
//! One file, `sessions.json`, in the state directory, written whole to a temporary name, synced and
//! renamed. It holds hashes of cookies, never cookies. A file that cannot be read or written costs the
//! sessions of a restart and nothing else.
//!
//! # Source
//! R10, R31, R79, R81; design.md 9.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use mstunnel_proto::auth::{AuthMethod, CookieHash};
use mstunnel_proto::pool::{HeldBack, OwnerKey};
use mstunnel_proto::session::{Admit, Leases, Record, Registry, Stage};
use rustc_hash::FxHashSet;
use serde::{Deserialize, Serialize};

use crate::identity::secret_file::{self, SecretFileError};

/// The most bytes of a session: its fields, and names of 255 bytes, each of which JSON may write as two, for a user, a
/// chosen group and 256 groups, which is the most that `identity` takes. Usual ones have about 300.
const MAX_SESSION_BYTES: u64 = 512 + (2 + 256) * (2 * 255 + 3);

/// And of what is beside the sessions: over a million addresses in hold-back.
const MAX_OTHER_BYTES: u64 = 128 << 20;

const VERSION: u32 = 1;

/// Where the sessions are kept.
#[derive(Clone, Debug)]
pub(crate) struct FileStore {
    path: PathBuf,
    /// Held by who saves: the slow clock and the end of the server come from threads of their own.
    saved: Arc<Mutex<Saved>>,
}

/// Whom the file lets in: `None` while it is that of an earlier process.
type Saved = Option<FxHashSet<CookieHash>>;

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    sessions: Vec<StoredSession>,
    /// Addresses in hold-back.
    #[serde(default)]
    held_back: Vec<StoredHoldBack>,
}

#[derive(Clone, Serialize, Deserialize)]
struct StoredHoldBack {
    address: IpAddr,
    owner: u64,
    /// Seconds since 1970.
    until: u64,
}

#[derive(Serialize, Deserialize)]
struct StoredSession {
    cookie_sha256: String,
    user: String,
    groups: Vec<String>,
    group: Option<String>,
    method: StoredMethod,
    ipv4: Option<Ipv4Addr>,
    ipv6: Option<Ipv6Addr>,
    /// Seconds since 1970: the session timeout.
    ends_at: Option<u64>,
    /// Seconds since 1970: when the cookie dies; absent while a connection is live.
    cookie_until: Option<u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredMethod {
    Bearer,
    Certificate,
    Password,
}

impl From<AuthMethod> for StoredMethod {
    fn from(method: AuthMethod) -> Self {
        match method {
            AuthMethod::Bearer => Self::Bearer,
            AuthMethod::Certificate => Self::Certificate,
            AuthMethod::Password => Self::Password,
        }
    }
}

impl From<StoredMethod> for AuthMethod {
    fn from(method: StoredMethod) -> Self {
        match method {
            StoredMethod::Bearer => Self::Bearer,
            StoredMethod::Certificate => Self::Certificate,
            StoredMethod::Password => Self::Password,
        }
    }
}

/// The two clocks, read at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clocks {
    pub(crate) monotonic: Instant,
    pub(crate) wall: SystemTime,
}

impl Clocks {
    /// Reads both clocks.
    pub(crate) fn now() -> Self {
        Self { monotonic: Instant::now(), wall: SystemTime::now() }
    }

    fn to_unix(self, at: Instant) -> u64 {
        let wall = self.wall + at.saturating_duration_since(self.monotonic);
        wall.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }

    /// `None` for a moment that is past.
    fn to_instant(self, unix: u64) -> Option<Instant> {
        let wall = UNIX_EPOCH.checked_add(Duration::from_secs(unix))?;
        let ahead = wall.duration_since(self.wall).ok().filter(|ahead| !ahead.is_zero())?;
        self.monotonic.checked_add(ahead)
    }
}

impl FileStore {
    /// Keeps sessions in `directory`, which is made when it is missing.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub(crate) fn open(directory: &Path) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        Ok(Self { path: directory.join("sessions.json"), saved: Arc::default() })
    }

    /// Writes the sessions that `take` finds when it is this call's turn: the file never becomes older.
    ///
    /// # Errors
    /// The file cannot be written. The former one stays if everybody whom it lets in still has a session; else it is
    /// removed, if that can be.
    pub(crate) fn save(&self, take: impl FnOnce() -> Snapshot) -> io::Result<()> {
        // What a panic leaves behind is an old temporary file, which goes first.
        let mut saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
        let snapshot = take();
        let present: FxHashSet<CookieHash> = snapshot.sessions.iter().map(|kept| kept.admit.cookie).collect();
        self.write(&snapshot.to_json()?).map_err(|error| {
            let is_true = saved.as_ref().is_some_and(|saved| saved.is_subset(&present));
            if !is_true && fs::remove_file(&self.path).is_ok() {
                *saved = Some(FxHashSet::default());
            }
            io::Error::new(error.kind(), format!("{}: {error}", self.path.display()))
        })?;
        *saved = Some(present);
        Ok(())
    }

    fn temporary(&self) -> (PathBuf, io::Result<File>) {
        let path = self.path.with_extension("json.new");
        let made = match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path),
        };
        (path, made)
    }

    fn write(&self, json: &[u8]) -> io::Result<()> {
        let (temporary, file) = self.temporary();
        let mut file = file?;
        file.write_all(json)?;
        file.sync_all()?;
        fs::rename(&temporary, &self.path)
    }

    /// Takes the stored sessions up into `registry`; returns how many came back.
    ///
    /// A connection that was live when the file was written waits `window` for its client.
    ///
    /// # Errors
    /// The file is there and cannot be read, others could have written it, or it cannot be replaced, so that it may let in
    /// whose session has ended since. A missing file is an empty one.
    pub(crate) fn load_into(
        &self,
        registry: &mut Registry,
        window: Duration,
        clocks: Clocks,
    ) -> io::Result<usize> {
        let failed =
            |error: &dyn std::fmt::Display| io::Error::other(format!("{}: {error}", self.path.display()));
        let (temporary, made) = self.temporary();
        made.and_then(|_| fs::remove_file(temporary)).map_err(|error| failed(&error))?;
        let limit = usize::try_from(max_file_bytes(registry)).unwrap_or(usize::MAX - 1);
        match secret_file::read(&self.path, limit) {
            Ok((file, _)) => take_up(&file, registry, window, clocks),
            Err(SecretFileError::Io(error)) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(failed(&error)),
        }
    }
}

/// The largest file that is read: what a full `registry` may have written.
fn max_file_bytes(registry: &Registry) -> u64 {
    let sessions = u64::try_from(registry.max_sessions()).unwrap_or(u64::MAX);
    sessions.saturating_mul(MAX_SESSION_BYTES).saturating_add(MAX_OTHER_BYTES)
}

/// Takes what `file` holds up into `registry`; returns how many sessions came back.
///
/// # Errors
/// It is not a file of this version.
pub(crate) fn take_up(
    file: &[u8],
    registry: &mut Registry,
    window: Duration,
    clocks: Clocks,
) -> io::Result<usize> {
    let stored = serde_json::from_slice::<Stored>(file)?;
    if stored.version != VERSION {
        return Err(io::Error::other(format!("version {}, want {VERSION}", stored.version)));
    }
    let now = clocks.monotonic;
    let mut held: Vec<HeldBack> =
        stored.held_back.iter().filter_map(|held| held.revived(window, clocks)).collect();
    held.extend(stored.sessions.iter().flat_map(|session| session.ended_meanwhile(window, clocks)));
    held.sort_by_key(|held| held.until);
    held.into_iter().for_each(|held| registry.restore_held_back(held));
    let restored = stored.sessions.into_iter().filter_map(|session| {
        let ends_at = match session.ends_at {
            None => None,
            Some(unix) => Some(clocks.to_instant(unix)?),
        };
        let until = match session.cookie_until {
            None => now + window,
            Some(unix) => clocks.to_instant(unix)?.min(now + window),
        };
        let admit = Admit {
            owner: OwnerKey::of_device(&session.user, ""),
            user: session.user,
            groups: session.groups,
            group: session.group,
            method: session.method.into(),
            cookie: hash_of(&session.cookie_sha256)?,
        };
        let leases = Leases { v4: session.ipv4, v6: session.ipv6 };
        registry.restore(admit, leases, ends_at, until, now).ok()
    });
    Ok(restored.count())
}

impl StoredHoldBack {
    fn new(held: HeldBack, clocks: Clocks) -> Self {
        Self { address: held.address, owner: held.owner.get(), until: clocks.to_unix(held.until) }
    }

    /// `None` when it has ended; a clock that ran ahead makes it no longer than `window`.
    fn revived(&self, window: Duration, clocks: Clocks) -> Option<HeldBack> {
        let until = clocks.to_instant(self.until)?.min(clocks.monotonic + window);
        Some(HeldBack { address: self.address, owner: OwnerKey::new(self.owner), until })
    }
}

impl StoredSession {
    /// The hold-back of the addresses of a session that ended while no server ran.
    fn ended_meanwhile(&self, window: Duration, clocks: Clocks) -> Vec<HeldBack> {
        let ends = self.ends_at.into_iter().chain(self.cookie_until);
        let Some(ended) = ends.min().filter(|end| clocks.to_instant(*end).is_none()) else {
            return Vec::new();
        };
        let Some(until) = clocks.to_instant(ended.saturating_add(window.as_secs())) else {
            return Vec::new();
        };
        let owner = OwnerKey::of_device(&self.user, "");
        let addresses = self.ipv4.map(IpAddr::V4).into_iter().chain(self.ipv6.map(IpAddr::V6));
        addresses.map(|address| HeldBack { address, owner, until }).collect()
    }
}

/// The sessions of a registry at one moment, to be written without holding its lock.
pub(crate) struct Snapshot {
    sessions: Vec<Kept>,
    held_back: Vec<StoredHoldBack>,
}

impl Snapshot {
    /// Takes what has to be kept; copies no name, since others wait for the registry meanwhile.
    pub(crate) fn of(registry: &Registry, clocks: Clocks) -> Self {
        Self {
            sessions: registry.records().map(|record| Kept::of(record, clocks)).collect(),
            held_back: registry.held_back().map(|held| StoredHoldBack::new(held, clocks)).collect(),
        }
    }

    /// The content of the file.
    pub(crate) fn to_json(&self) -> serde_json::Result<Vec<u8>> {
        let sessions = self.sessions.iter().map(StoredSession::from).collect();
        serde_json::to_vec(&Stored { version: VERSION, sessions, held_back: self.held_back.clone() })
    }
}

/// One session of a [`Snapshot`]; see [`StoredSession`].
struct Kept {
    admit: Arc<Admit>,
    leases: Leases,
    ends_at: Option<u64>,
    cookie_until: Option<u64>,
}

impl Kept {
    fn of(record: &Record, clocks: Clocks) -> Self {
        Self {
            admit: record.shared_admit(),
            leases: record.leases(),
            ends_at: record.ends_at().map(|at| clocks.to_unix(at)),
            cookie_until: match record.stage() {
                Stage::Attached { .. } => None,
                Stage::Admitted { until } | Stage::Detached { until } => Some(clocks.to_unix(until)),
            },
        }
    }
}

impl From<&Kept> for StoredSession {
    fn from(kept: &Kept) -> Self {
        let Kept { admit, leases, ends_at, cookie_until } = kept;
        Self {
            cookie_sha256: BASE64.encode(admit.cookie.as_bytes()),
            user: admit.user.clone(),
            groups: admit.groups.clone(),
            group: admit.group.clone(),
            method: admit.method.into(),
            ipv4: leases.v4,
            ipv6: leases.v6,
            ends_at: *ends_at,
            cookie_until: *cookie_until,
        }
    }
}

fn hash_of(text: &str) -> Option<CookieHash> {
    let bytes = BASE64.decode(text).ok()?;
    bytes.try_into().ok().map(CookieHash::from_bytes)
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use mstunnel_proto::close::CloseReason;
    use mstunnel_proto::pool::{Pool, PoolConfig};
    use mstunnel_proto::session::{Attach, RegistryConfig, SessionCounters};

    use super::*;

    const WINDOW: Duration = Duration::from_secs(300);

    fn config() -> RegistryConfig {
        RegistryConfig {
            cookie_timeout: WINDOW,
            session_timeout: Some(Duration::from_secs(3600)),
            max_sessions: 200,
            max_per_user: None,
        }
    }

    fn registry() -> Registry {
        let pool = PoolConfig { hold_back: WINDOW, reserved: Vec::new(), excluded: Vec::new() };
        Registry::new(config(), Some(Pool::new("10.9.0.0/24".parse().unwrap(), &pool).unwrap()), None)
    }

    fn admit(user: &str, cookie: u8) -> Admit {
        Admit {
            user: user.to_owned(),
            groups: Vec::new(),
            group: None,
            method: AuthMethod::Password,
            cookie: CookieHash::from_bytes([cookie; 32]),
            owner: OwnerKey::of_device(user, ""),
        }
    }

    fn attach(cookie: CookieHash) -> Attach {
        Attach { cookie, wants_v4: true, wants_v6: false, holder: 0 }
    }

    /// Covers: R10, R31, R79
    #[test]
    fn a_session_survives_a_restart_with_its_address_and_its_remaining_time() {
        let directory = tempfile::tempdir().unwrap();
        let store = FileStore::open(directory.path()).unwrap();
        let before = Clocks::now();
        let cookie = CookieHash::from_bytes([7; 32]);
        let mut registry_before = registry();
        let admit = Admit {
            user: "ada".to_owned(),
            groups: vec!["staff".to_owned()],
            group: None,
            method: AuthMethod::Password,
            cookie,
            owner: OwnerKey::of_device("ada", ""),
        };
        registry_before.admit(admit, before.monotonic).unwrap();
        let first = registry_before.attach(attach(cookie), before.monotonic).unwrap();
        store.save(|| Snapshot::of(&registry_before, before)).unwrap();

        // An hour is the session timeout: half of it later half of it is left.
        let later = Duration::from_secs(1800);
        let after = Clocks { monotonic: before.monotonic, wall: before.wall + later };
        let mut registry_after = registry();
        assert_eq!(store.load_into(&mut registry_after, WINDOW, after).unwrap(), 1);
        let again = registry_after.attach(attach(cookie), after.monotonic).unwrap();
        assert_eq!(again.leases, first.leases);
        let left = again.ends_at.unwrap() - after.monotonic;
        assert!(left <= later && left > later - Duration::from_secs(2), "{left:?}");

        let over = Clocks { monotonic: before.monotonic, wall: before.wall + 2 * later };
        assert_eq!(store.load_into(&mut registry(), WINDOW, over).unwrap(), 0);
    }

    /// Covers: R50: neither a restart nor a session's end while nothing ran gives an address away too early.
    #[test]
    fn an_address_is_held_back_across_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let store = FileStore::open(directory.path()).unwrap();
        let before = Clocks::now();
        let mut registry_before = registry();
        let mut addresses = Vec::new();
        for (user, cookie) in [("ada", 1), ("bob", 2)] {
            let id = registry_before.admit(admit(user, cookie), before.monotonic).unwrap();
            let attached = registry_before
                .attach(attach(CookieHash::from_bytes([cookie; 32])), before.monotonic)
                .unwrap();
            addresses.push(IpAddr::from(attached.leases.v4.unwrap()));
            if user == "ada" {
                let _ = registry_before.end(id, before.monotonic);
            } else {
                let lost = CloseReason::StreamClosed;
                let counters = SessionCounters::default();
                registry_before.detach(id, attached.generation, lost, &counters, before.monotonic);
            }
        }
        store.save(|| Snapshot::of(&registry_before, before)).unwrap();
        let held_after = |later: u64| {
            let wall = before.wall + Duration::from_secs(later);
            let mut after = registry();
            store.load_into(&mut after, WINDOW, Clocks { monotonic: before.monotonic, wall }).unwrap();
            after.held_back().map(|held| held.address).collect::<Vec<_>>()
        };
        assert_eq!(held_after(100), addresses[..1], "of the session that had ended");
        assert_eq!(held_after(302), addresses[1..], "of the one whose window closed while nothing ran");
        assert!(held_after(602).is_empty());
    }

    /// Covers: R50, R81: a clock that ran ten years ahead when the file was written gives no session more time than a
    /// new one has, and keeps no address longer than a release now would.
    #[test]
    fn a_file_of_a_clock_that_ran_ahead_outlasts_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let store = FileStore::open(directory.path()).unwrap();
        let now = Clocks::now();
        let ahead = Clocks { monotonic: now.monotonic, wall: now.wall + Duration::from_secs(315_360_000) };
        let mut registry_before = registry();
        for (user, number) in [("ada", 1), ("bob", 2)] {
            let cookie = CookieHash::from_bytes([number; 32]);
            let id = registry_before.admit(admit(user, number), now.monotonic).unwrap();
            registry_before.attach(attach(cookie), now.monotonic).unwrap();
            if user == "ada" {
                let _ = registry_before.end(id, now.monotonic);
            }
        }
        store.save(|| Snapshot::of(&registry_before, ahead)).unwrap();

        let mut registry_after = registry();
        assert_eq!(store.load_into(&mut registry_after, WINDOW, now).unwrap(), 1);
        let held: Vec<_> = registry_after.held_back().collect();
        assert_eq!(held.len(), 1);
        assert_eq!(held[0].until, now.monotonic + WINDOW);
        let bob = registry_after.records().next().unwrap();
        assert_eq!(bob.ends_at(), Some(now.monotonic + Duration::from_secs(3600)));
    }

    /// Covers: R79, R81: the end of the server and its slow clock both save, from threads of their own.
    #[test]
    fn two_that_save_at_once_leave_the_newer_sessions_and_a_whole_file() {
        let directory = tempfile::tempdir().unwrap();
        let store = FileStore::open(directory.path()).unwrap();
        let clocks = Clocks::now();
        let sessions = Mutex::new(registry());
        let grow = |user: u8| {
            let mut registry = sessions.lock().unwrap();
            registry.admit(admit(&format!("user-{user}"), user), clocks.monotonic).unwrap();
            Snapshot::of(&registry, clocks)
        };
        let save_all = |store: FileStore, users: std::ops::Range<u8>| {
            for user in users {
                store.save(|| grow(user)).unwrap();
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(|| save_all(store.clone(), 0..100));
            scope.spawn(|| save_all(store.clone(), 100..200));
        });
        assert_eq!(store.load_into(&mut registry(), WINDOW, clocks).unwrap(), 200);
    }

    /// Covers: R10, R79: names of the greatest length, of characters that JSON writes as two.
    #[test]
    fn what_a_full_registry_writes_is_not_too_large_to_be_read() {
        let clocks = Clocks { monotonic: Instant::now(), wall: UNIX_EPOCH + Duration::from_secs(1 << 40) };
        let longest = StoredSession {
            cookie_sha256: BASE64.encode([7; 32]),
            user: "\"".repeat(255),
            groups: vec!["\\".repeat(255); 256],
            group: Some("\\".repeat(255)),
            method: StoredMethod::Certificate,
            ipv4: Some(Ipv4Addr::BROADCAST),
            ipv6: Some(Ipv6Addr::from([0xff; 16])),
            ends_at: Some(clocks.to_unix(clocks.monotonic)),
            cookie_until: Some(clocks.to_unix(clocks.monotonic)),
        };
        let bytes = u64::try_from(serde_json::to_vec(&longest).unwrap().len()).unwrap();
        let mut registry = registry();
        for max_sessions in [1, 2_000, 64_000] {
            registry.set_config(RegistryConfig { max_sessions, ..config() });
            let full = bytes * u64::try_from(max_sessions).unwrap();
            let room = max_file_bytes(&registry) - MAX_OTHER_BYTES;
            assert!(room > full, "{max_sessions} sessions of {bytes} bytes");
        }
    }

    /// Covers: R81
    #[test]
    fn a_torn_or_foreign_file_is_an_error_and_not_a_panic() {
        let directory = tempfile::tempdir().unwrap();
        let store = FileStore::open(directory.path()).unwrap();
        assert_eq!(store.load_into(&mut registry(), WINDOW, Clocks::now()).unwrap(), 0);
        store.save(|| Snapshot::of(&registry(), Clocks::now())).unwrap();
        for (bytes, why) in [
            (&b"{\"version\":1,\"sess"[..], "EOF"),
            (b"{\"version\":9,\"sessions\":[]}", "version 9"),
            (b"", "EOF"),
        ] {
            fs::write(directory.path().join("sessions.json"), bytes).unwrap();
            let error = store.load_into(&mut registry(), WINDOW, Clocks::now()).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    /// Covers: R6, R81: an administrator ends a session while the disk is full, and the server restarts.
    #[test]
    fn sessions_that_cannot_be_saved_leave_nobody_behind_whose_session_has_ended() {
        let directory = tempfile::tempdir().unwrap();
        let store = FileStore::open(directory.path()).unwrap();
        let clocks = Clocks::now();
        let mut sessions = registry();
        let ada = sessions.admit(admit("ada", 7), clocks.monotonic).unwrap();
        sessions.admit(admit("bob", 8), clocks.monotonic).unwrap();
        store.save(|| Snapshot::of(&sessions, clocks)).unwrap();
        let (file, way) =
            (directory.path().join("sessions.json"), directory.path().join("sessions.json.new"));
        // Neither root nor a full disk can write over it.
        fs::create_dir(&way).unwrap();
        sessions.admit(admit("carl", 9), clocks.monotonic).unwrap();
        let error = store.save(|| Snapshot::of(&sessions, clocks)).unwrap_err();
        assert!(error.to_string().contains("sessions.json"), "{error}");
        assert!(file.exists(), "it lets in nobody who should not come in");
        // A server that cannot replace the file believes nothing of it.
        let mut after = registry();
        assert!(store.load_into(&mut after, WINDOW, clocks).is_err() && after.is_empty());
        let _ = sessions.end(ada, clocks.monotonic);
        store.save(|| Snapshot::of(&sessions, clocks)).unwrap_err();
        assert!(!file.exists(), "it lets ada in");
        fs::remove_dir(&way).unwrap();
        store.save(|| Snapshot::of(&sessions, clocks)).unwrap();
        assert_eq!(store.load_into(&mut after, WINDOW, clocks).unwrap(), 2);
    }

    /// Covers: P-137, R86: whoever writes the file decides who gets in.
    #[test]
    fn a_file_that_others_could_have_written_lets_nobody_in() {
        let directory = tempfile::tempdir().unwrap();
        let store = FileStore::open(directory.path()).unwrap();
        let clocks = Clocks::now();
        let mut before = registry();
        before.admit(admit("ada", 7), clocks.monotonic).unwrap();
        store.save(|| Snapshot::of(&before, clocks)).unwrap();
        let file = directory.path().join("sessions.json");
        for (mode, restored) in [(0o606, None), (0o660, None), (0o600, Some(1))] {
            fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
            let mut after = registry();
            let outcome = store.load_into(&mut after, WINDOW, clocks);
            assert_eq!(outcome.as_ref().ok().copied(), restored, "{mode:o}: {outcome:?}");
            assert_eq!(after.len(), restored.unwrap_or(0));
        }
    }
}
