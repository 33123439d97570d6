//! The errors of this room: a kind that the caller branches on, and a source. Each text says what
//! happened to what, and what to do next. Must not know who handles them.

use std::{error::Error, io, path::PathBuf};

use async_nats::jetstream::ErrorCode;

/// The cause below an error of this room.
pub(crate) type Cause = Box<dyn Error + Send + Sync>;

/// What can go wrong between this process and NATS.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// Nobody listens at the address.
    #[error("cannot reach NATS at {servers}: {source}; start it, or run 'farside up', which brings its own")]
    Unreachable {
        /// The addresses as configured.
        servers: String,
        /// What the operating system said.
        source: Cause,
    },
    /// The address cannot be read, or its use would leak a password.
    #[error("the NATS address {servers:?} cannot be used: {reason}")]
    Address {
        /// The addresses as configured.
        servers: String,
        /// Why, and what to write.
        reason: String,
    },
    /// The credentials cannot be read.
    #[error("cannot read the NATS credentials {path}: {source}; name a readable file")]
    Credentials {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The server does not know the credentials.
    #[error(
        "NATS at {servers} refused the credentials of {name:?}; use those that the server's configuration names"
    )]
    Unauthorized {
        /// The addresses as configured.
        servers: String,
        /// The connection's name.
        name: String,
    },
    /// The server is older than what Farside's logs need.
    #[error(
        "nats-server {version} at {servers} is too old: it lacks atomic batches and fenced publishing; run 2.15.1 or newer"
    )]
    ServerTooOld {
        /// The addresses as configured.
        servers: String,
        /// The server's version.
        version: String,
    },
    /// The server, or this account, has no JetStream.
    #[error(
        "NATS at {servers} has no JetStream; add `jetstream {{ store_dir: …, sync_interval: always }}` to its configuration"
    )]
    NoJetStream {
        /// The addresses as configured.
        servers: String,
    },
    /// The stream does not exist.
    #[error("the stream {stream} does not exist; start the target once, which makes it")]
    NoStream {
        /// The stream.
        stream: String,
    },
    /// A stream of this name exists and keeps less than Farside needs.
    #[error("the stream {stream} is weaker than a Farside log has to be: {}; change it, or move it out of the way", differences.join("; "))]
    WeakerStream {
        /// The stream.
        stream: String,
        /// Each difference: what it has, and what it should have.
        differences: Vec<String>,
    },
    /// The server cannot set aside the room that the log may need.
    #[error(
        "the server has no room to set aside {bytes_max} bytes for the stream {stream}: {reason}; lower `log_bytes_max` under [service] in farside's configuration, or raise the server's max_file_store (or the account's limit)"
    )]
    NoRoom {
        /// The stream.
        stream: String,
        /// The size limit that was asked for, in bytes.
        bytes_max: i64,
        /// What the server said.
        reason: String,
    },
    /// The log is not the one that was being read.
    #[error("the log {stream} changed under its reader: {reason}; check the position and read again")]
    LogChanged {
        /// The stream.
        stream: String,
        /// What differs.
        reason: String,
    },
    /// The server says that it does not have a message, and takes no new connection: it may lack file handles, and
    /// have the message all the same.
    #[error(
        "NATS says that {stream} lacks a message, and takes no new connection ({source}): it may be out of file handles, and is not believed; raise its limit of open files (ulimit -n, LimitNOFILE), it is asked again"
    )]
    Unsure {
        /// The stream.
        stream: String,
        /// Why there is no new connection.
        source: Cause,
    },
    /// The server denied a subject to this connection.
    #[error(
        "NATS denied this connection the subject {subject}: {reason}; use credentials that may, or grant it"
    )]
    Denied {
        /// The subject.
        subject: String,
        /// What the server said.
        reason: String,
    },
    /// JetStream answered with an error that has no kind of its own.
    #[error("cannot {verb} {object}: JetStream says {reason} (code {code})")]
    Server {
        /// What was tried, as a verb.
        verb: &'static str,
        /// On what.
        object: String,
        /// JetStream's text.
        reason: String,
        /// JetStream's error code.
        code: u64,
    },
    /// No answer came, or the connection is lost; it comes back by itself.
    #[error("cannot {verb} {object}: {source}; the connection is retried for ever, so try again")]
    Link {
        /// What was tried, as a verb.
        verb: &'static str,
        /// On what.
        object: String,
        /// What the client library said.
        source: Cause,
    },
    /// An answer of the server could not be read.
    #[error("cannot {verb} {object}: the server's answer is not what JetStream's API says ({source})")]
    Answer {
        /// What was tried, as a verb.
        verb: &'static str,
        /// On what.
        object: String,
        /// What is wrong in it.
        source: Cause,
    },
    /// The managed nats-server could not be started or kept.
    #[error(transparent)]
    Managed(#[from] crate::managed::ManagedError),
}

impl BusError {
    /// Whether it passes without anybody's doing: the link is lost, a cluster has no leader yet, or the server may lack file handles.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Link { .. } | Self::Unsure { .. } => true,
            Self::Server { code, .. } => *code == ErrorCode::CLUSTER_NOT_AVAILABLE.0,
            _ => false,
        }
    }
}

/// What a failed publish means for the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublishErrorKind {
    /// The batch holds a message id that the stream has stored already: nothing of it was stored now.
    Duplicate,
    /// The fence does not hold any more: another process has the lease. Nothing was stored.
    Fenced,
    /// The log is full. Nothing was stored; keep the events and raise the limit.
    Full,
    /// A message is larger than the server takes, or a batch has too many. Nothing was stored.
    TooLarge,
    /// Too many batches are open on the stream. Nothing was stored; wait a random moment, then publish plain.
    Busy,
    /// This connection may not publish there. Nothing was stored.
    Refused,
    /// A header or a batch id cannot be sent. Nothing was sent.
    Invalid,
    /// No stream takes this subject, or another one does. Nothing was stored.
    NoStream,
    /// No answer came: it may be stored or not. Publish again unchanged; the message ids keep it single.
    Unknown,
    /// The link is down, and nothing was sent.
    Link,
    /// The server refused for a reason that has no kind of its own. Nothing was stored.
    Server,
}

/// A publish that was not acknowledged.
#[derive(Debug, thiserror::Error)]
#[error("cannot publish {what} to {stream}: {reason}")]
pub struct PublishError {
    /// What it means for the caller.
    pub kind: PublishErrorKind,
    /// The stream that was to store it.
    pub stream: String,
    /// The subject, or the batch and its size.
    pub what: String,
    /// What happened and what to do.
    pub reason: String,
    /// JetStream's own code, when it was JetStream that refused.
    pub code: Option<u64>,
    /// The cause below, where there is one.
    #[source]
    pub source: Option<Cause>,
}

/// A request that got no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Nobody serves the subject.
    #[error("nobody answers on {subject}: start the process that serves it, then ask again")]
    NoResponders {
        /// The subject.
        subject: String,
    },
    /// No answer came in time; the request may have been carried out.
    #[error(
        "no answer on {subject} within {wait_ms} ms: it may have been carried out; look before asking again"
    )]
    TimedOut {
        /// The subject.
        subject: String,
        /// How long the caller waited, in milliseconds.
        wait_ms: u64,
    },
    /// The answer is not what was expected.
    #[error("the answer on {subject} cannot be read: {source}; both sides must run the same version")]
    Malformed {
        /// The subject.
        subject: String,
        /// What is wrong in it.
        source: serde_json::Error,
    },
    /// The bus itself failed.
    #[error(transparent)]
    Bus(#[from] BusError),
}
