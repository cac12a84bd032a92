//! A running server: what is started, in which order, and how it ends.
//!
//! ```text
//!   settings -> egress -> listeners -> workers (threads) -> control socket -> ready
//!   stop     -> drain  -> goodbye    -> workers end      -> store saved    -> egress gone
//! ```

mod bans;
mod conditions;
mod control;
pub(crate) mod effective;
mod handover;
mod housekeeping;
mod limits;
mod signals;
mod store;
mod upkeep;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, anyhow, bail};
use mstunnel_proto::auth::LoginDesk;
use mstunnel_proto::close::CloseReason;
use mstunnel_proto::pool::{Pool, PoolConfig};
use mstunnel_proto::session::Registry;
use tokio::sync::{Notify, mpsc};

use self::conditions::Conditions;
use self::effective::Effective;
use self::handover::Handover;
use self::signals::{Request, Signals};
use self::store::{Clocks, FileStore, Snapshot};
use crate::admin::{AdminSocket, ServerControl, ServerState};
use crate::config::{EgressMode, Settings, StateStore};
use crate::egress::userspace::{Plan, UserspaceConfig};
use crate::egress::{EgressConfig, Kept, KernelEgress, OpenEgress, Part};
use crate::identity::Verifier;
use crate::identity::oidc::Oidc;
use crate::identity::password::PasswordFile;
use crate::logs::LogGuard;
use crate::worker::{self, Parts, Shared, Worker};

/// Threads of the runtime for logins, the control socket and the store.
const CONTROL_THREADS: usize = 2;

/// How long the workers may take for their goodbyes (R78).
const GOODBYE: Duration = Duration::from_secs(4);

/// Takes a file of stored sessions up into `registry`, 2,000,000,000 seconds after 1970, and returns what would be
/// stored of it then: the way in for fuzzers.
#[doc(hidden)]
pub fn fuzz_session_file(
    file: &[u8],
    registry: &mut Registry,
    window: Duration,
    now: Instant,
) -> io::Result<Vec<u8>> {
    let clocks = Clocks { monotonic: now, wall: SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000) };
    store::take_up(file, registry, window, clocks)?;
    Ok(Snapshot::of(registry, clocks).to_json()?)
}

/// The parts of a server that its administrator's commands reach.
pub(crate) struct Running {
    pub(crate) shared: Arc<Shared>,
    settings: Mutex<Settings>,
    /// The kernel's egress, if that is the one.
    kept: Option<Kept>,
    conditions: Conditions,
    logs: OnceLock<Weak<LogGuard>>,
    stop: Notify,
}

/// A server with everything it has started.
pub struct Server {
    running: Arc<Running>,
    control: tokio::runtime::Runtime,
    workers: Vec<JoinHandle<()>>,
    failures: mpsc::UnboundedReceiver<String>,
    store: Option<FileStore>,
    listening: Vec<SocketAddr>,
}

impl Server {
    /// Starts a server; it serves when this returns.
    ///
    /// # Errors
    /// What could not be started, and what to do about it. Nothing is left running then.
    pub fn start(settings: Settings) -> Result<Self> {
        limits::raise_descriptors(settings.configuration.advanced.max_clients);
        let effective = Effective::new(&settings)?;
        let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let control = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(CONTROL_THREADS)
            .thread_name("control")
            .enable_all()
            .build()
            .context("cannot start the control runtime")?;
        // First of all: whoever starts a second server by mistake takes nothing away from the first one.
        let socket = {
            let _inside = control.enter();
            AdminSocket::bind(&settings.admin.socket)?
        };
        let addresses: Vec<SocketAddr> = settings.listen_addresses().collect();
        let listeners = bind_all(&addresses, workers)?;
        let sockets =
            if effective.offers_datagrams() { bind_datagrams(&addresses, workers)? } else { Vec::new() };
        let (pool_v4, pool_v6) = pools(&settings)?;
        let own_addresses: Vec<IpAddr> =
            pool_v4.iter().chain(&pool_v6).map(mstunnel_proto::pool::Pool::server_address).collect();
        let egress = open_egress(&settings, &effective, &own_addresses, workers)?;
        for warning in egress.warnings() {
            tracing::warn!("{warning}");
        }
        let verifier = open_verifier(&settings, control.handle(), None)?;
        let mut registry = Registry::new(effective.registry.clone(), pool_v4, pool_v6);
        let store = open_store(&settings, &mut registry)?;
        let shared = Arc::new(Shared::new(Parts {
            desk: LoginDesk::new(Arc::clone(&effective.login)),
            max_packet: usize::from(effective.device_mtu),
            effective,
            verifier,
            control: control.handle().clone(),
            registry,
            workers,
            cookie_keys: housekeeping::new_cookie_keys()?,
            has_datagrams: !sockets.is_empty(),
        }));
        let (parts, kept) = egress.into_parts(workers);
        let conditions = Conditions::default();
        let handover = Handover::open(kept.as_ref(), &shared.registry(), conditions.addresses.clone())
            .context("cannot open the kernel egress")?;
        let running = Arc::new(Running {
            shared: Arc::clone(&shared),
            settings: Mutex::new(settings),
            kept,
            conditions,
            logs: OnceLock::new(),
            stop: Notify::new(),
        });
        let (report, failures) = mpsc::unbounded_channel();
        let threads = start_workers(listeners, sockets, parts, &own_addresses, &shared, &report)?;
        let server = Self { running, control, workers: threads, failures, store, listening: addresses };
        server.start_control(socket, handover, report);
        Ok(server)
    }

    fn start_control(&self, socket: AdminSocket, handover: Handover, report: mpsc::UnboundedSender<String>) {
        self.control.spawn(socket.serve(Arc::clone(&self.running) as Arc<dyn ServerControl>));
        self.control.spawn(housekeeping::rotate_cookie_keys(Arc::clone(&self.running.shared)));
        self.control.spawn(housekeeping::revoke(Arc::clone(&self.running.shared)));
        self.control.spawn(housekeeping::run(
            Arc::clone(&self.running.shared),
            self.store.clone(),
            self.running.conditions.clone(),
        ));
        self.control.spawn(handover.run(Arc::clone(&self.running.shared)));
        if let Some(kept) = self.running.kept.clone() {
            self.control.spawn(upkeep::run(kept, self.running.conditions.egress.clone(), report));
        }
    }

    /// The addresses that are listened on.
    pub fn listening(&self) -> &[SocketAddr] {
        &self.listening
    }

    /// Where the control socket is.
    pub fn control_socket(&self) -> PathBuf {
        self.running.settings().admin.socket.clone()
    }

    /// Waits until somebody wants the server to end: the control socket, or a worker that failed.
    ///
    /// # Errors
    /// The worker's failure.
    pub async fn ended(&mut self) -> Result<()> {
        tokio::select! {
            () = self.running.stop.notified() => Ok(()),
            failure = self.failures.recv() => {
                bail!(failure.unwrap_or_else(|| "every worker has ended".to_owned()))
            }
        }
    }

    /// Reads the configuration again; see `mst-cli reload`.
    ///
    /// # Errors
    /// Every problem of the new configuration; the old one stays in force.
    pub fn reload(&self) -> Result<String, String> {
        self.running.reload_configuration()
    }

    /// Takes no new sessions from now on.
    pub fn drain(&self) {
        self.running.shared.advance(ServerState::Draining);
    }

    /// How long sessions go on after a request to end.
    pub fn drain_time(&self) -> Duration {
        self.running.settings().configuration.advanced.server_drain
    }

    /// Ends the server: sessions are told to come back, workers end, the kernel is left as it was.
    ///
    /// # Errors
    /// What could not be undone.
    pub fn stop(self) -> Result<()> {
        let shared = &self.running.shared;
        // Saved first: to come back is what the clients are told.
        let saved = self.store.as_ref().map_or(Ok(()), |store| housekeeping::save(shared, store));
        shared.advance(ServerState::Stopping);
        for live in shared.live.all() {
            live.close(CloseReason::ServerShutdown);
        }
        let until = Instant::now() + GOODBYE;
        for worker in self.workers {
            while !worker.is_finished() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(5));
            }
            if worker.is_finished() && worker.join().is_err() {
                tracing::error!("a worker had panicked");
            }
        }
        self.control.shutdown_timeout(Duration::from_millis(200));
        let closed = self.running.kept.as_ref().map_or(Ok(()), Kept::close);
        if let Err(error) = saved {
            // Not a failure: who starts the server again for it would start what an operator has ended.
            tracing::error!("the sessions are not saved, and some clients have to sign in again: {error}");
        }
        closed.context("cannot clean up the egress")
    }
}

impl Running {
    fn settings(&self) -> std::sync::MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Validates the whole new configuration, then swaps it in (R76).
    pub(crate) fn reload_configuration(&self) -> Result<String, String> {
        let mut settings = self.settings();
        let (mut new, warnings) = Settings::load(&settings.path).map_err(|error| error.to_string())?;
        let restart = settings.restart_needed(&new, self.shared.has_datagrams);
        new.keep_until_restart(&settings, self.shared.has_datagrams);
        new.refuse_dns_in_a_pool()?;
        let shared = &self.shared;
        let effective = Effective::new(&new).map_err(|error| format!("{error:#}"))?;
        let verifier = open_verifier(&new, &shared.control, Some(&shared.verifier.load()));
        let verifier = verifier.map_err(|error| format!("{error:#}"))?;
        if let (Some(new), Some(old)) = (verifier.bearer(), shared.verifier.load().bearer()) {
            new.take_over(old);
        }
        shared.desk().set_config(Arc::clone(&effective.login));
        shared.registry().set_config(effective.registry.clone());
        shared.verifier.store(Arc::new(verifier));
        shared.effective.store(Arc::new(effective));
        if let Some(logs) = self.logs.get().and_then(Weak::upgrade) {
            logs.set_level(new.log.level);
        }
        let opened = self.kept.as_ref().map_or(Ok(()), |kept| kept.set_dns(new.configuration.dns.clone()));
        let opened = opened
            .map_err(|error| format!("the name servers of before stay open instead of the new: {error}"));
        *settings = new;
        let mut report = String::from("configuration reloaded; sessions opened from now on use it");
        for warning in warnings.into_iter().chain(opened.err()) {
            tracing::warn!("{warning}");
            report.push_str("\nwarning: ");
            report.push_str(&warning);
        }
        for key in restart {
            tracing::warn!(key, "changed, and needs a restart");
            report.push_str(&format!("\nneeds a restart: {key}"));
        }
        Ok(report)
    }
}

/// Checks what the files that `settings` names say, as a start would, and returns the warnings.
///
/// # Errors
/// Every problem, one a line: what a start would refuse.
pub fn check(settings: &Settings) -> Result<Vec<String>, String> {
    let mut warnings = Vec::new();
    let mut problems = Vec::new();
    if let Some(password) = &settings.auth.password {
        match PasswordFile::check(&password.file) {
            Ok(more) => warnings.extend(more),
            Err(error) => problems.push(error.to_string()),
        }
    }
    if let Some(bearer) = &settings.auth.bearer {
        match Oidc::check(&bearer.oidc) {
            Ok(more) => warnings.extend(more),
            Err(error) => problems.push(error.to_string()),
        }
    }
    problems.extend(Effective::new(settings).err().map(|error| format!("{error:#}")));
    problems.extend(pools(settings).err().map(|error| format!("{error:#}")));
    if problems.is_empty() { Ok(warnings) } else { Err(problems.join("\n")) }
}

fn bind_all(addresses: &[SocketAddr], workers: usize) -> Result<Vec<Vec<std::net::TcpListener>>> {
    (0..workers)
        .map(|_| {
            addresses
                .iter()
                .map(|&address| worker::bind(address).with_context(|| bind_failed(address)))
                .collect()
        })
        .collect()
}

fn bind_datagrams(addresses: &[SocketAddr], workers: usize) -> Result<Vec<Vec<std::net::UdpSocket>>> {
    let bind = |&address| {
        worker::bind_datagrams(address).with_context(|| {
            format!("cannot receive datagrams on {address} (is UDP of this port in use? `disableUdpConnections` does without)")
        })
    };
    (0..workers).map(|_| addresses.iter().map(bind).collect()).collect()
}

fn bind_failed(address: SocketAddr) -> String {
    format!("cannot listen on {address} (is another server running there, is the address this machine's?)")
}

/// A password file that `before` has already stays: it takes changes up when they are whole.
fn open_verifier(
    settings: &Settings,
    control: &tokio::runtime::Handle,
    before: Option<&Verifier>,
) -> Result<Verifier> {
    let _runtime = control.enter();
    let known = before.and_then(Verifier::password);
    let open = |file: &PathBuf| match known.filter(|known| known.path() == *file) {
        Some(known) => PasswordFile::check(file).map(|_| known.clone()),
        None => PasswordFile::open(file),
    };
    let password = settings.auth.password.as_ref().map(|password| open(&password.file)).transpose()?;
    let bearer = settings.auth.bearer.as_ref();
    let cache = Some(&*settings.state.directory).filter(|_| settings.state.store == StateStore::File);
    let bearer = bearer.map(|bearer| Oidc::from_file(&bearer.oidc, cache, control)).transpose()?;
    Ok(Verifier::new(password, bearer))
}

fn pools(settings: &Settings) -> Result<(Option<Pool>, Option<Pool>)> {
    let configuration = &settings.configuration;
    let config = PoolConfig {
        hold_back: configuration.advanced.cookie_timeout,
        reserved: Vec::new(),
        excluded: configuration.dns.clone(),
    };
    let pool = |prefix: Option<_>| {
        prefix
            .map(|prefix| {
                Pool::new(prefix, &config).with_context(|| format!("cannot use the network {prefix}"))
            })
            .transpose()
    };
    Ok((pool(configuration.pool_v4)?, pool(configuration.pool_v6)?))
}

fn open_egress(
    settings: &Settings,
    effective: &Effective,
    own_addresses: &[IpAddr],
    workers: usize,
) -> Result<OpenEgress> {
    let configuration = &settings.configuration;
    let prefixes = configuration.pool_v4.into_iter().chain(configuration.pool_v6);
    if settings.egress.mode == EgressMode::Userspace {
        let plan = Plan::new(UserspaceConfig {
            pools: prefixes.collect(),
            own_addresses: own_addresses.to_vec(),
            dns: configuration.dns.clone(),
            allow: settings.egress.allow.clone(),
            publish: settings.egress.publish.clone(),
            max_descriptors: limits::descriptors_for_flows(),
        });
        return Ok(OpenEgress::Userspace(Arc::new(plan.context("cannot open the userspace egress")?)));
    }
    let addresses = own_addresses.iter().copied().zip(prefixes).collect();
    let mut config = EgressConfig::new(settings.egress.interface.clone(), effective.device_mtu, addresses);
    config.queues = workers;
    config.offload = settings.egress.offload;
    config.listen_ports = vec![configuration.listen_port];
    config.masquerade = match settings.egress.mode {
        EgressMode::Kernel => true,
        EgressMode::Routed => false,
        EgressMode::Userspace | EgressMode::Nat => {
            bail!("egress mode {:?} is not available in this version", settings.egress.mode)
        }
    };
    config.permitted = settings.egress.allow.iter().map(|allowed| allowed.prefix).collect();
    config.dns = configuration.dns.clone();
    Ok(OpenEgress::Kernel(KernelEgress::open(config).context("cannot open the kernel egress")?))
}

fn open_store(settings: &Settings, registry: &mut Registry) -> Result<Option<FileStore>> {
    let directory = match settings.state.store {
        StateStore::Memory => return Ok(None),
        StateStore::Etcd => bail!("state store etcd is not available in this version"),
        StateStore::File => &settings.state.directory,
    };
    let store = FileStore::open(directory)
        .with_context(|| format!("cannot use the state directory {}", directory.display()))?;
    let window = settings.configuration.advanced.cookie_timeout;
    match store.load_into(registry, window, Clocks::now()) {
        Ok(0) => {}
        Ok(sessions) => tracing::info!(sessions, "sessions restored"),
        Err(error) => tracing::warn!(%error, "stored sessions are lost"),
    }
    Ok(Some(store))
}

fn start_workers(
    listeners: Vec<Vec<std::net::TcpListener>>,
    sockets: Vec<Vec<std::net::UdpSocket>>,
    parts: Vec<Part>,
    own_addresses: &[IpAddr],
    shared: &Arc<Shared>,
    report: &mpsc::UnboundedSender<String>,
) -> Result<Vec<JoinHandle<()>>> {
    if parts.len() != listeners.len() {
        return Err(anyhow!("the egress has {} parts for {} workers", parts.len(), listeners.len()));
    }
    let mut sockets = sockets.into_iter();
    listeners
        .into_iter()
        .zip(parts)
        .enumerate()
        .map(|(index, (listeners, egress))| {
            let worker = Worker {
                index,
                listeners,
                sockets: sockets.next().unwrap_or_default(),
                egress,
                own_addresses: own_addresses.to_vec(),
                shared: Arc::clone(shared),
            };
            let report = report.clone();
            std::thread::Builder::new()
                .name(format!("worker-{index}"))
                .spawn(move || report_end(index, worker, &report))
                .context("cannot start a worker thread")
        })
        .collect()
}

fn report_end(index: usize, worker: Worker, report: &mpsc::UnboundedSender<String>) {
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| worker.run()));
    let failure = match ended {
        Ok(Ok(())) => return,
        Ok(Err(error)) => format!("worker {index} failed: {error}"),
        Err(_) => format!("worker {index} panicked"),
    };
    // The server may be past listening.
    let _ = report.send(failure);
}

/// Runs a server as the binary does, until a signal or the control socket ends it; a reload sets the level of `logs`.
///
/// # Errors
/// The server could not start, or a worker failed.
pub fn run(settings: Settings, logs: LogGuard) -> Result<()> {
    let logs = Arc::new(logs);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Before anybody is told that it serves: who hears that may send a signal.
    let mut signals = {
        let _inside = runtime.enter();
        Signals::new().context("cannot watch for signals")?
    };
    let mut server = Server::start(settings)?;
    // Set once: the server is new.
    let _ = server.running.logs.set(Arc::downgrade(&logs));
    for address in server.listening() {
        tracing::info!(%address, "listening");
        announce(&format!("listening on {address}"));
    }
    notify(&[sd_notify::NotifyState::Ready]);
    let outcome = runtime.block_on(until_ended(&mut server, &mut signals));
    notify(&[sd_notify::NotifyState::Stopping]);
    let stopped = server.stop();
    outcome.and(stopped)
}

async fn until_ended(server: &mut Server, signals: &mut Signals) -> Result<()> {
    loop {
        tokio::select! {
            // The control socket asks for what a signal asks for.
            ended = server.ended() => break ended?,
            request = signals.next() => match request {
                Request::End => break,
                Request::Reload => reload(server).await,
            },
        }
    }
    server.drain();
    let drain = server.drain_time();
    tracing::info!(?drain, "going down");
    tokio::select! {
        () = tokio::time::sleep(drain) => Ok(()),
        () = signals.end() => Ok(()),
        ended = server.ended() => ended,
    }
}

async fn reload(server: &Server) {
    let running = Arc::clone(&server.running);
    match tokio::task::spawn_blocking(move || running.reload_configuration()).await {
        Ok(Ok(report)) => tracing::info!("{report}"),
        Ok(Err(problems)) => {
            tracing::error!("configuration not reloaded, the old one stays");
            // One line each: a long one is cut.
            problems.lines().for_each(|problem| tracing::error!("{problem}"));
        }
        Err(panic) => tracing::error!(%panic, "the reload failed"),
    }
}

/// Writes the line that scripts wait for; it must reach stderr whatever the log filter.
fn announce(line: &str) {
    use io::Write;
    // A closed stderr is the operator's choice.
    let _ = writeln!(io::stderr(), "{line}");
}

fn notify(states: &[sd_notify::NotifyState<'_>]) {
    // Not run by systemd is the usual case.
    let _ = sd_notify::notify(states);
}
