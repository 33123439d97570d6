//! Config → build → App → run → drain: the target service, the console, the agents, and with `farside up`
//! a nats-server. Everything is joined; the first error becomes the exit code.
//!
//! Must not know: any rule of the five systems.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bus::{
    Bus, BusError,
    managed::{ManagedError, ManagedOptions, ManagedServer},
};
use bus_schema::Name;
use console::{Console, ListenError};
use consumers::ConsumersError;
use producers::ProducersError;
use projector::{Store, StoreError, StoreOptions};
use tokio::{
    net::{TcpListener, UnixListener},
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::config::{Config, ConfigError};

mod agents;
mod auditor;
mod backups;
mod causes;
mod desk;
mod durability;
mod files;
mod incarnation;
mod ports;
mod redriver;

pub(crate) use agents::{agents, id as agent_id, run_agents};
use desk::Desk;
pub(crate) use durability::SYNC_ADVICE;
pub(crate) use files::NatsAddress;
use incarnation::Incarnations;

/// How long the service and the console may take to finish what they do.
const CORE_DRAIN_MAX: Duration = Duration::from_secs(15);
/// How long the connection may take to send what is buffered.
const BUS_DRAIN_MAX: Duration = Duration::from_secs(5);

/// What the console says while something is waited for.
const AWAITS_OWN_NATS: &str = "its nats-server is waited for, which reads its store first after a crash; if this lasts, look at farside's log";
const AWAITS_NATS: &str =
    "NATS is waited for, and tried again for ever; look at the server, and at farside's log for the reason";
const AWAITS_POOL: &str = "the pool's file is being opened, which takes minutes when a large one is repaired after a crash; wait for it";
const AWAITS_AGENTS: &str = "its agents are being made ready; if this lasts, look at farside's log";

/// What taking over a dead holder's lease takes beyond its time, or making the logs on a busy disk.
const LEASE_MARGIN: Duration = Duration::from_secs(10);

/// Why farside does not run: each text says what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AppError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Bus(#[from] BusError),
    #[error(transparent)]
    Managed(#[from] ManagedError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Service(#[from] ConsumersError),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("agent {name}: {source}")]
    Agent { name: String, source: ProducersError },
    #[error(
        "the agent {name} has no key here: run 'farside agent enroll {name} --cluster {clusters}' where 'farside up' runs, or name its key with --nkey-seed-file"
    )]
    NotEnrolled { name: Name, clusters: String },
    #[error("cannot {verb} {path}: {source}; check that it is writable and that its disk has room")]
    File { verb: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "others may enter the data directory {path}, and it is not farside's alone (it holds {holds}); run 'chmod go= {path}', or name another directory with --data-dir"
    )]
    Shared { path: PathBuf, holds: PathBuf },
    #[error("{0} ended by itself; look at the log above, then start farside again")]
    Ended(String),
    #[error("{task} broke down: {source}; this is a defect, please report it with the log above")]
    Broke { task: String, source: tokio::task::JoinError },
    #[error("{0} did not end in time and was cut off; nothing acknowledged is lost")]
    CutOff(&'static str),
    #[error(
        "no NATS is configured; set nats.servers or --nats nats://host:port, or run 'farside up', which brings its own"
    )]
    NoNats,
}

/// What runs in one process, built and not running yet, except for its front.
pub(crate) struct App {
    config: Config,
    managed: Option<ManagedServer>,
    bus: Bus,
    service: Incarnations,
    front: Front,
    agents: Vec<agents::Ready>,
    desk: Arc<Desk>,
}

/// The console, which is served from the moment that somebody can connect: what is opened behind it may take
/// long.
struct Front {
    console: Console,
    address: SocketAddr,
    stop: CancellationToken,
    tasks: JoinSet<End>,
}

impl Front {
    fn served(tcp: TcpListener, socket: UnixListener, config: &Config, nats: Nats) -> Self {
        let awaits = match nats {
            Nats::Managed => AWAITS_OWN_NATS,
            Nats::Configured => AWAITS_NATS,
        };
        let (console, stop) = (Console::starting(awaits), CancellationToken::new());
        let address = tcp.local_addr().unwrap_or(config.console.listen);
        let serving = console.run(tcp, socket, stop.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            serving.await;
            ended("the console", Ok(()))
        });
        Self { console, address, stop, tasks }
    }
}

/// Which NATS is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nats {
    /// One of our own, as a child.
    Managed,
    /// The one that the configuration names.
    Configured,
}

impl App {
    /// Opens everything that can fail at the start, the agents' ledgers and keys too. None: `shutdown` came
    /// while something was waited for.
    pub(crate) async fn build(
        config: Config,
        nats: Nats,
        shutdown: &CancellationToken,
    ) -> Result<Option<Self>, AppError> {
        config.service.check()?;
        let signing_key = config.signing_key_file();
        let keys = signing_key.parent().unwrap_or(&config.data_dir);
        files::make_private_dir(&config.data_dir, &[&config.nats_dir(), &config.snapshot_dir(), keys])?;
        let (path, address) = (config.socket(), config.nats_address_file());
        let socket = console::bind_socket(&path).await?;
        let built = Self::behind(socket, config, nats, shutdown).await;
        if !matches!(built, Ok(Some(_))) {
            files::forget(&path);
            if nats == Nats::Managed {
                files::forget(&address);
            }
        }
        built
    }

    /// Behind the socket, which tells a second farside that this data directory is taken.
    async fn behind(
        socket: UnixListener,
        mut config: Config,
        nats: Nats,
        shutdown: &CancellationToken,
    ) -> Result<Option<Self>, AppError> {
        let tcp = console::bind_tcp(config.console.listen).await?;
        let front = Front::served(tcp, socket, &config, nats);
        let managed = match nats {
            Nats::Managed => match shutdown.run_until_cancelled(start_nats(&mut config)).await {
                Some(started) => Some(started?),
                None => return Ok(told_to_end()),
            },
            Nats::Configured => None,
        };
        let service_name = format!("farside {}", config.service.target);
        let options = match &managed {
            Some(server) => server.service_options(&service_name),
            None => config.nats.connect_options(&service_name)?.ok_or(AppError::NoNats)?,
        };
        // After a power failure everything starts at once, in any order.
        let Some(bus) = agents::reach(options, shutdown).await? else { return Ok(told_to_end()) };
        front.console.waits_for(AWAITS_POOL);
        incarnation::adopt(&config, &bus).await?;
        let store = open_store(&config.pool_file(), store_options(&config)).await?;
        let store = incarnation::seeded(&config, &bus, store).await?;
        let service = Incarnations::new(&config, bus.clone(), store)?;
        front.console.waits_for(AWAITS_AGENTS);
        let agents = match &managed {
            Some(server) => {
                agents(&config, |agent, name| Ok(server.agent_options(&agents::id(agent), name)))?
            }
            None => vec![],
        };
        let agents = agents::make_ready(agents, shutdown).await?;
        let (target, control) = (&config.service.target, service.control());
        let desk = Desk::new(managed.as_ref(), bus.clone(), target, control, service.reader());
        let desk = Arc::new(desk);
        let keeper = backups::Keeper::new(&config, bus.clone(), managed.is_some(), service.shelf());
        front.console.open(parts(&config, &bus, &service, desk.clone(), keeper)?);
        Ok(Some(Self { config, managed, bus, service, front, agents, desk }))
    }

    /// Where the console listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.front.address
    }

    /// Where the managed NATS listens.
    pub(crate) fn nats_url(&self) -> Option<&str> {
        self.managed.as_ref().map(ManagedServer::url)
    }

    /// The file with the URL that publishers use with the managed NATS.
    pub(crate) fn publisher_url_file(&self) -> Option<&Path> {
        self.managed.as_ref().map(ManagedServer::publisher_url_file)
    }

    /// Runs until `shutdown`, or until something fails; then drains, agents first. `ready` is called when
    /// the logs are there and somebody acts for the target, so that whoever waits for it can begin.
    pub(crate) async fn run(
        self,
        shutdown: CancellationToken,
        ready: impl FnOnce() + Send + 'static,
    ) -> Result<(), AppError> {
        let Self { managed, bus, service, front, agents, desk, config } = self;
        let telling = tokio::spawn(when_acting(service.lease(), config.service.lease_ttl.ms(), ready));
        // The managed server is configured to keep what it acknowledges.
        let asking =
            managed.is_none().then(|| tokio::spawn(durability::ask(config.nats.monitor_url.clone())));
        let Front { tasks: mut core, stop: of_core, .. } = front;
        let (of_agents, stop) = (CancellationToken::new(), of_core.clone());
        core.spawn(async move { ended("the service", service.run(stop).await) });
        let kept = of_core.clone();
        core.spawn(async move {
            desk.keep(kept).await;
            ended("the desk", Ok(()))
        });
        let agents = agents::start(agents, &of_agents);
        let first = first_end(&mut core, &shutdown).await;
        telling.abort();
        asking.inspect(JoinHandle::abort);
        if first.is_ok() {
            tracing::info!("draining");
        }
        of_agents.cancel();
        let agents = drain(agents, "an agent", agents::DRAIN_MAX).await;
        of_core.cancel();
        let core = drain(core, "the service", CORE_DRAIN_MAX).await;
        let _ = timeout(BUS_DRAIN_MAX, bus.drain()).await;
        if let Some(managed) = managed {
            managed.stop().await;
            files::forget(&config.nats_address_file());
        }
        files::forget(&config.socket());
        first.and(agents).and(core)
    }
}

/// Calls `ready` when this process acts; when another one keeps the lease, after the time in which a dead
/// holder would have lost it.
async fn when_acting(mut lease: watch::Receiver<bool>, lease_ttl_ms: u64, ready: impl FnOnce()) {
    let limit = Duration::from_millis(lease_ttl_ms) + LEASE_MARGIN;
    match timeout(limit, lease.wait_for(|held| *held)).await {
        Ok(Err(_)) => {}
        Ok(Ok(_)) | Err(_) => ready(),
    }
}

/// What a task came to: its name, and its error if it had one.
type End = (String, Result<(), AppError>);

fn ended(task: &str, result: Result<(), AppError>) -> End {
    (task.to_owned(), result)
}

/// Waits for the shutdown, or for the first task that ends before it: that is an error, whatever it says.
async fn first_end(tasks: &mut JoinSet<End>, shutdown: &CancellationToken) -> Result<(), AppError> {
    let end = tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        Some(end) = tasks.join_next() => end,
    };
    match end {
        Ok((_, Err(error))) => Err(error),
        Ok((task, Ok(()))) => Err(AppError::Ended(task)),
        Err(source) => Err(AppError::Broke { task: "a part of farside".to_owned(), source }),
    }
}

/// Joins what was asked to end, within a deadline; the first error is the result.
async fn drain(mut tasks: JoinSet<End>, what: &'static str, limit: Duration) -> Result<(), AppError> {
    let joined = timeout(limit, async {
        let mut result = Ok(());
        while let Some(end) = tasks.join_next().await {
            let end = match end {
                Ok((_, end)) => end,
                Err(source) => Err(AppError::Broke { task: what.to_owned(), source }),
            };
            result = result.and(end);
        }
        result
    });
    joined.await.unwrap_or(Err(AppError::CutOff(what)))
}

/// What is nothing yet is told to end.
fn told_to_end() -> Option<App> {
    tracing::info!("told to end while NATS was waited for; nothing was begun, and nothing is lost");
    None
}

/// What the console answers from.
fn parts(
    config: &Config,
    bus: &Bus,
    service: &Incarnations,
    desk: Arc<Desk>,
    keeper: backups::Keeper,
) -> Result<console::Parts, AppError> {
    let ports = Arc::new(ports::Ports::new(bus.clone(), &config.service.target, service.control()));
    Ok(console::Parts {
        target: config.service.target.clone(),
        sites: config.service.sites.clone(),
        lease_ttl_ms: config.service.lease_ttl.ms(),
        bus: bus.clone(),
        reader: service.reader(),
        past: ports.clone(),
        rebuilder: ports.clone(),
        redriver: ports.clone(),
        scrubber: ports.clone(),
        enrolment: desk,
        auditor: ports.clone(),
        backups: Arc::new(keeper),
        health: ports,
        operator: files::token(&config.token_file())?,
        scraper: files::token(&config.metrics_token_file())?,
    })
}

async fn start_nats(config: &mut Config) -> Result<ManagedServer, AppError> {
    // Before a key is made for one that cannot be.
    producers::config::check_together(&config.agent.resource).map_err(ConfigError::Unfit)?;
    let launcher = std::env::current_exe();
    let launcher =
        launcher.map_err(|source| AppError::File { verb: "find", path: "this program".into(), source })?;
    let own = ManagedOptions::new(config.nats_dir());
    let options = ManagedOptions {
        host: config.nats.host.unwrap_or(own.host),
        tls: config.nats.managed_tls()?,
        binary: config.nats.binary.clone(),
        launcher: Some(launcher),
        port: config.nats.port,
        agents: config.agent.resource.iter().map(agents::scope).collect(),
        ..own
    };
    let server = ManagedServer::start(options).await?;
    config.service.log_bytes_max.get_or_insert(server.log_bytes_max());
    files::write_address(&config.nats_address_file(), &NatsAddress::of(&server))?;
    Ok(server)
}

pub(crate) fn store_options(config: &Config) -> StoreOptions {
    let cache_bytes = usize::try_from(config.store.cache.0).unwrap_or(usize::MAX);
    StoreOptions { cache_bytes, compact: config.store.compact, ..StoreOptions::default() }
}

/// Opening may compact or repair the file, which takes a thread that may wait.
async fn open_store(path: &Path, options: StoreOptions) -> Result<Store, AppError> {
    let path = path.to_owned();
    let opened = tokio::task::spawn_blocking(move || Store::open(&path, options)).await;
    Ok(opened.map_err(|source| AppError::Broke { task: "opening the pool".to_owned(), source })??)
}
