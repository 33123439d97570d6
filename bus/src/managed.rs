//! A nats-server of our own: found, configured, started, kept alive and ended with its parent.
//!
//! ```text
//! <store_dir>/lock              held by the one process that owns the directory
//!             nats-server.conf  written at every start, 0600
//!             nats-server.pid   written by nats-server
//!             nats-server.log   written by nats-server; .out what it says before it has opened its log
//!             port              the port of the last start
//!             enrolled.json     who was enrolled, public keys only, 0600
//!             keys/             service.nk, system.nk: nkey seeds, made at the first start, 0600
//!                               agents/<site>.<name>.nk: those of the agents of the owner's configuration
//!                               publisher.password: made at the first start, 0600
//!                               publisher.url: the address with that password, written at every start, 0600
//!             jetstream/        the logs
//! ```
//! Must not know: streams and who uses them.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use bus_schema::stream::LOG_BYTES_MAX;
use tokio::sync::watch;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::AbortOnDropHandle,
};

use crate::{ConnectOptions, Credentials};
use child::{Launch, Supervisor};

mod binary;
mod child;
mod config;
pub mod description;
pub mod exec;
mod health;
pub mod identity;
mod keys;
mod owner;
mod port;
pub mod roster;

pub use binary::find_binary;
pub use identity::{AgentId, AgentIdentity, AgentScope, PublicKey, ReaderIdentity};
pub use keys::make_seed_file;
pub use roster::{Roster, RosterError};

/// How often another free port is tried when somebody else takes the chosen one first.
const PORT_TRIES: usize = 3;
/// Each log may take this part of the disk that is free when it is made.
const LOG_PARTS_OF_DISK: u64 = 4;

/// Why there is no managed server.
#[derive(Debug, thiserror::Error)]
pub enum ManagedError {
    /// No nats-server binary was found.
    #[error(
        "no nats-server binary found ({looked_in}); run 'make tools', or name one with FARSIDE_NATS_SERVER"
    )]
    NoBinary {
        /// Where it was looked for.
        looked_in: String,
    },
    /// Another process owns the store directory.
    #[error(
        "the store {store_dir} is in use by {holder}; stop that, or use another directory: two servers on one store lose events"
    )]
    InUse {
        /// The directory.
        store_dir: PathBuf,
        /// Who holds it.
        holder: String,
    },
    /// Something else listens on the port.
    #[error("port {port} on {host} is taken by another program; choose another with --nats-port, or stop it")]
    PortTaken {
        /// The address.
        host: IpAddr,
        /// The port.
        port: u16,
    },
    /// An address that others can reach needs TLS.
    #[error(
        "nats-server would listen on {host} without TLS; give it a certificate and a key (nats.tls_cert_file, nats.tls_key_file), or let it listen on 127.0.0.1"
    )]
    NoTls {
        /// The address.
        host: IpAddr,
    },
    /// A file of the store directory could not be read or written.
    #[error("cannot {verb} {path}: {source}; check its permissions and the room on its disk")]
    File {
        /// What was tried.
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// An agent that cannot be.
    #[error("{0}")]
    Agent(String),
    /// An agent of the configuration has the name of another one.
    #[error(
        "the agent {agent} of the configuration has the name of one that was enrolled with a key of its own; give it another name, or start without it and run 'farside agent revoke {agent}' first"
    )]
    Enrolled {
        /// Its name.
        agent: AgentId,
    },
    /// The server could not be started.
    #[error("cannot start {binary}: {source}")]
    Start {
        /// The binary.
        binary: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The server ended, or did not answer in time.
    #[error("nats-server did not come up: {reason}; its last words: {last_words:?} (more in {log})")]
    NotReady {
        /// What happened.
        reason: String,
        /// The end of its output.
        last_words: String,
        /// Its log.
        log: PathBuf,
    },
}

pub(crate) fn file_error(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ManagedError {
    let path = path.to_owned();
    move |source| ManagedError::File { verb, path, source }
}

/// A certificate and its key, PEM.
#[derive(Clone, Debug)]
pub struct ManagedTls {
    /// The certificate's file.
    pub cert_file: PathBuf,
    /// The key's file.
    pub key_file: PathBuf,
    /// The authority that signed the certificate, if it is not a public one; clients need it.
    pub ca_file: Option<PathBuf>,
}

/// How the managed server runs.
#[derive(Clone, Debug)]
pub struct ManagedOptions {
    /// The nats-server binary; none = [`find_binary`].
    pub binary: Option<PathBuf>,
    /// The farside binary, whose hidden verb `nats-exec` makes the server end with its parent.
    /// None: the server is started directly, and ends when the [`ManagedServer`] is dropped.
    pub launcher: Option<PathBuf>,
    /// Where it keeps its data, configuration, keys and log; made if need be, mode 0700.
    pub store_dir: PathBuf,
    /// The address that it listens on; off loopback it needs `tls`.
    pub host: IpAddr,
    /// The port; none = a free one, the same as the last time if that is still free.
    pub port: Option<u16>,
    /// Its certificate; none = plain text, on loopback only.
    pub tls: Option<ManagedTls>,
    /// The agents that run with the server's owner: each gets a key of its own.
    pub agents: Vec<AgentScope>,
    /// Whether each message is on the disk before it is acknowledged. Not for a store that is being filled and nobody
    /// relies on yet: who fills it syncs its files when it is full.
    pub syncs_each: bool,
}

impl ManagedOptions {
    /// A server on loopback at a free port.
    pub fn new(store_dir: impl Into<PathBuf>) -> Self {
        Self {
            binary: None,
            launcher: None,
            store_dir: store_dir.into(),
            host: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: None,
            tls: None,
            agents: vec![],
            syncs_each: true,
        }
    }
}

/// A running nats-server that belongs to this process.
#[derive(Debug)]
pub struct ManagedServer {
    url: String,
    roster: Roster,
    tls_ca_file: Option<PathBuf>,
    log_bytes_max: i64,
    pid: watch::Receiver<Option<u32>>,
    stop: DropGuard,
    supervisor: AbortOnDropHandle<()>,
    /// Declared last, so the directory is released when the server has ended.
    _owner: owner::Owner,
}

impl ManagedServer {
    /// Starts the server and waits until it answers. Restarts it when it dies, until it is stopped.
    pub async fn start(options: ManagedOptions) -> Result<Self, ManagedError> {
        if options.tls.is_none() && !options.host.is_loopback() {
            return Err(ManagedError::NoTls { host: options.host });
        }
        let binary = find_binary(options.binary.as_deref())?;
        let store_dir = options.store_dir.clone();
        let owner = owner::Owner::take(&store_dir)?;
        let store_dir = store_dir.canonicalize().map_err(file_error("open", &store_dir))?;
        owner::end_leftover(&store_dir).await?;
        let keys = keys::Keys::load_or_make(&store_dir.join("keys"))?;
        let members = roster::Members::load(&options, &store_dir, &keys)?;
        let mut tries = PORT_TRIES;
        let (url, roster, (supervisor, pid)) = loop {
            let config = configure(&options, &store_dir, &keys)?;
            config.write(&members)?;
            let launch = launch(&config, &binary);
            let (url, system) = (launch.probe.servers.clone(), launch.system.clone());
            tries -= 1;
            match Supervisor::start(launch).await {
                Ok(started) => break (url, Roster::new(config, system, members), started),
                // Another program took the free port in between; any other will do.
                Err(ManagedError::NotReady { .. })
                    if tries > 0 && !port::last_is_free(&store_dir, &options) => {}
                Err(error) => return Err(error),
            }
        };
        let stop = CancellationToken::new();
        let supervisor = tokio::spawn(supervisor.run(stop.clone()));
        Ok(Self {
            url,
            roster,
            tls_ca_file: options.tls.and_then(|tls| tls.ca_file),
            log_bytes_max: log_bytes_max(&store_dir)?,
            pid,
            stop: stop.drop_guard(),
            supervisor: AbortOnDropHandle::new(supervisor),
            _owner: owner,
        })
    }

    /// `nats://host:port`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The key that may do everything.
    pub fn service_credentials(&self) -> Credentials {
        Credentials::NkeySeedFile(self.roster.keys().service.clone())
    }

    /// The file with the URL of the publishers, user and password in it: what any program that publishes
    /// events of resources, volumes and images connects with. It may do nothing else.
    pub fn publisher_url_file(&self) -> &Path {
        &self.roster.keys().publisher_url
    }

    /// How the target connects.
    pub fn service_options(&self, name: &str) -> ConnectOptions {
        connect_options(&self.url, name, &self.roster.keys().service, self.tls_ca_file.as_ref())
    }

    /// How an agent of the owner's configuration connects, as `name`.
    pub fn agent_options(&self, id: &AgentId, name: &str) -> ConnectOptions {
        connect_options(&self.url, name, &self.roster.keys().agent_seed(id), self.tls_ca_file.as_ref())
    }

    /// Where the seeds of the agents of the owner's configuration are: [`agent_seed_file`] names one.
    pub fn agent_seeds(&self) -> &Path {
        &self.roster.keys().agents
    }

    /// The file of the authority that signed the server's certificate, if clients need it.
    pub fn tls_ca_file(&self) -> Option<&Path> {
        self.tls_ca_file.as_deref()
    }

    /// Who may come in; lets others in, and out.
    pub fn roster(&self) -> Roster {
        self.roster.clone()
    }

    /// A size limit for a log that is made now: what the contract says, or less on a small disk, in bytes.
    /// The server itself sets no limit, because one that shrinks with the disk would refuse its own logs
    /// at a restart.
    pub fn log_bytes_max(&self) -> i64 {
        self.log_bytes_max
    }

    /// The process id of the server that runs now; none while it is being started again.
    pub fn pid(&self) -> Option<u32> {
        *self.pid.borrow()
    }

    /// Ends the server: SIGTERM, and SIGKILL when that is not heeded in time.
    pub async fn stop(self) {
        drop(self.stop);
        if let Err(error) = self.supervisor.await {
            tracing::error!(%error, "the managed server's task failed");
        }
    }
}

/// The seed file of an agent among those of the agents of the owner's configuration.
pub fn agent_seed_file(seeds: &Path, id: &AgentId) -> PathBuf {
    keys::agent_seed(seeds, id)
}

/// Chooses the port and a name, and says what the server is configured with.
fn configure(
    options: &ManagedOptions,
    store_dir: &Path,
    keys: &keys::Keys,
) -> Result<config::Config, ManagedError> {
    let port = port::choose(store_dir, options)?;
    let name = format!("farside-{:016x}", getrandom::u64().unwrap_or_default());
    keys.write_publisher_url(scheme(options), address(options, port))?;
    let (store_dir, options, keys) = (store_dir.to_owned(), options.clone(), keys.clone());
    Ok(config::Config { store_dir, options, port, name, keys })
}

fn scheme(options: &ManagedOptions) -> &'static str {
    if options.tls.is_some() { "tls" } else { "nats" }
}

/// Where the server is reached from this machine.
fn address(options: &ManagedOptions, port: u16) -> SocketAddr {
    let host = match options.host {
        IpAddr::V4(any) if any.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(any) if any.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        host => host,
    };
    SocketAddr::new(host, port)
}

/// Says what is to be started.
fn launch(config: &config::Config, binary: &Path) -> Launch {
    let config::Config { store_dir, options, port, name, keys } = config;
    let url = format!("{}://{}", scheme(options), address(options, *port));
    let tls_ca_file = options.tls.as_ref().and_then(|tls| tls.ca_file.as_ref());
    let probe = connect_options(&url, "farside managed server", &keys.service, tls_ca_file);
    let system = connect_options(&url, "farside managed server's health", &keys.system, tls_ca_file);
    let (binary, launcher) = (binary.to_owned(), options.launcher.clone());
    Launch { binary, launcher, store_dir: store_dir.clone(), probe, system, name: name.clone() }
}

fn connect_options(url: &str, name: &str, seed: &Path, tls_ca_file: Option<&PathBuf>) -> ConnectOptions {
    ConnectOptions {
        servers: url.to_owned(),
        name: name.to_owned(),
        credentials: Credentials::NkeySeedFile(seed.to_owned()),
        tls_ca_file: tls_ca_file.cloned(),
        ..ConnectOptions::default()
    }
}

fn log_bytes_max(store_dir: &Path) -> Result<i64, ManagedError> {
    let disk = rustix::fs::statvfs(store_dir).map_err(|e| file_error("measure", store_dir)(e.into()))?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    Ok(i64::try_from(free / LOG_PARTS_OF_DISK).unwrap_or(i64::MAX).min(LOG_BYTES_MAX))
}

/// How long a store may take to be recovered before it answers; a large one is read through after a crash.
const READY_WAIT: Duration = Duration::from_secs(120);
