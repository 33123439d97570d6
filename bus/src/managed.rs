//! A nats-server of our own: found, configured, started, kept alive and ended with its parent.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
};

use crate::{ConnectOptions, Credentials};

pub mod exec;

/// Why there is no managed server.
#[derive(Debug, thiserror::Error)]
pub enum ManagedError {
    /// No nats-server binary was found.
    #[error(
        "no nats-server binary found in {looked_in}; run 'make tools', or name one with FARSIDE_NATS_SERVER"
    )]
    NoBinary {
        /// Where it was looked for.
        looked_in: String,
    },
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
    /// The address that it listens on.
    pub host: IpAddr,
    /// The port; none = a free one, the same as the last time if that is still free.
    pub port: Option<u16>,
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
        }
    }
}

/// A running nats-server that belongs to this process.
#[derive(Debug)]
pub struct ManagedServer {
    _todo: (),
}

impl ManagedServer {
    /// Starts the server and waits until it answers. Restarts it when it dies, until it is stopped.
    pub async fn start(options: ManagedOptions) -> Result<Self, ManagedError> {
        let _ = options;
        unimplemented!()
    }

    /// `nats://host:port`.
    pub fn url(&self) -> &str {
        unimplemented!()
    }

    /// The key that may do everything.
    pub fn service_credentials(&self) -> Credentials {
        unimplemented!()
    }

    /// The key of the agents: it publishes events and answers commands.
    pub fn agent_credentials(&self) -> Credentials {
        unimplemented!()
    }

    /// How the target connects.
    pub fn service_options(&self, name: &str) -> ConnectOptions {
        let (servers, credentials) = (self.url().to_owned(), self.service_credentials());
        ConnectOptions { servers, name: name.to_owned(), credentials, ..ConnectOptions::default() }
    }

    /// How an agent connects.
    pub fn agent_options(&self, name: &str) -> ConnectOptions {
        let (servers, credentials) = (self.url().to_owned(), self.agent_credentials());
        ConnectOptions { servers, name: name.to_owned(), credentials, ..ConnectOptions::default() }
    }

    /// A size limit for each log that leaves room on the disk, in bytes.
    pub fn log_bytes_max(&self) -> i64 {
        unimplemented!()
    }

    /// The process id of the server that runs now; none while it is being started again.
    pub fn pid(&self) -> Option<u32> {
        unimplemented!()
    }

    /// Ends the server: SIGTERM, and SIGKILL when that is not heeded in time.
    pub async fn stop(self) -> Result<(), ManagedError> {
        unimplemented!()
    }
}

/// Finds the nats-server binary: `explicit`, then `FARSIDE_NATS_SERVER`, `PATH`, and `.tools/nats-server`
/// beside the workspace or the executable.
pub fn find_binary(explicit: Option<&Path>) -> Result<PathBuf, ManagedError> {
    let _ = explicit;
    unimplemented!()
}
