//! What can go wrong before a test has begun to test.

use std::path::PathBuf;

/// Why the kit could not do something.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KitError {
    /// A directory, a file or a process.
    #[error("cannot {verb} {what}: {source}")]
    Io {
        /// What was done.
        verb: &'static str,
        /// To what.
        what: String,
        /// Why not.
        source: std::io::Error,
    },
    /// There is no nats-server to be started.
    #[error(transparent)]
    NatsServer(#[from] bus::managed::ManagedError),
    /// nats-server ended at once.
    #[error("nats-server ended with {status} when it was started: {said}")]
    NatsEnded {
        /// The exit status.
        status: std::process::ExitStatus,
        /// What it said.
        said: String,
    },
    /// `FARSIDE_TESTKIT_NATS` says something else than `local` or `container`.
    #[error("FARSIDE_TESTKIT_NATS says {found:?}; write local or container")]
    Place {
        /// What it says.
        found: String,
    },
    /// The kit was built without containers.
    #[error(
        "a container is asked for, and testkit was built without its feature `container`: add it to Cargo.toml"
    )]
    NoContainers,
    /// Docker.
    #[error(
        "cannot {verb} the container of NATS: {reason}; is Docker running, and is there an image {image}?"
    )]
    Container {
        /// What was done.
        verb: &'static str,
        /// The image.
        image: String,
        /// What Docker says.
        reason: String,
    },
    /// There is no farside to be started.
    #[error("there is no farside at {path}: build it (cargo build --bin farside), or name it in FARSIDE_BIN")]
    NoFarside {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The program ended, or refused something.
    #[error("farside {arguments} failed with {status}: {said}")]
    Farside {
        /// The arguments.
        arguments: String,
        /// The exit status.
        status: std::process::ExitStatus,
        /// The end of what it said.
        said: String,
    },
    /// The log did not take an event.
    #[error(transparent)]
    Publish(#[from] bus::PublishError),
    /// The log could not be asked.
    #[error(transparent)]
    Bus(#[from] bus::BusError),
    /// A cluster's or a resource's name.
    #[error("{text:?} is no {what}: {reason}")]
    Name {
        /// What it should be.
        what: &'static str,
        /// What was given.
        text: String,
        /// Why it is none.
        reason: String,
    },
    /// It did not happen in time.
    #[error("waited {seconds} s in vain: {what}; what was seen last: {last}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        seconds: u64,
        /// What was seen last.
        last: String,
    },
}

impl KitError {
    pub(crate) fn io(
        verb: &'static str,
        what: impl std::fmt::Display,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.to_string();
        move |source| Self::Io { verb, what, source }
    }
}
