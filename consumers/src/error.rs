//! The errors of this room. Each text says what happened to what, and what to do next.

use bus::{BusError, PublishError, PublishErrorKind};
use projector::StoreError;

/// What can go wrong between the log and the pool.
#[derive(Debug, thiserror::Error)]
pub enum ConsumersError {
    /// The bus failed.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// The pool could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A fact or a dead letter could not be stored.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// Another process holds the lease.
    #[error(
        "this farside does not hold the lease of the target {target}: ask the one that does; `farside status` names it"
    )]
    NotHolder {
        /// The target.
        target: String,
    },
    /// The configuration says something that cannot be.
    #[error("the configuration of {what} is wrong: {reason}")]
    Config {
        /// The pool, or the part of the configuration.
        what: String,
        /// What is wrong and what to write.
        reason: String,
    },
    /// A fact could not be written as JSON.
    #[error("cannot write the fact {fact} as JSON: {source}")]
    Encode {
        /// `<stem>.<event>`.
        fact: String,
        /// What is wrong in it.
        source: serde_json::Error,
    },
    /// The pool did not reach a place in time.
    #[error("the pool did not reach {stream}:{seq} within {wait_ms} ms; see the lag in `farside status`")]
    Late {
        /// The log.
        stream: String,
        /// The sequence that was waited for.
        seq: u64,
        /// How long it was waited for, in milliseconds.
        wait_ms: u64,
    },
    /// A directory or a file of a replay or rebuild failed.
    #[error("cannot {verb} {path}: {source}")]
    File {
        /// What was tried.
        verb: &'static str,
        /// On what.
        path: String,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// Another key signs for the target than the one that is here.
    #[error(
        "the signing key {path} is {has}, but the target's is {named}, so this process signs nothing: put the file of the farside that signed last in its place"
    )]
    WrongSigningKey {
        /// The file.
        path: String,
        /// Its public key.
        has: String,
        /// The one that the target log names.
        named: String,
    },
    /// The signing key cannot be read or written.
    #[error(transparent)]
    KeyFile(#[from] audit::KeyFileError),
    /// Something cannot be signed.
    #[error("cannot sign: {0}")]
    Signature(audit::SignatureError),
    /// A log makes no evidence.
    #[error(transparent)]
    Evidence(#[from] audit::evidence::EvidenceError),
    /// A log begins behind the moment that was asked for.
    #[error("{floor}: the log {stream} was trimmed, and begins with {stream}:{first_seq}; {cure}")]
    Trimmed {
        /// The earliest moment that can be shown, in words.
        floor: String,
        /// The log.
        stream: String,
        /// The first sequence that it has.
        first_seq: u64,
        /// What to do.
        cure: &'static str,
    },
    /// The pool lacks what went from a log.
    #[error(
        "the pool has read {stream} up to {seq}, but that log was trimmed and begins with {first_seq}: run 'farside rebuild --swap', which begins with a snapshot"
    )]
    BehindFloor {
        /// The log.
        stream: String,
        /// How far the pool has read it.
        seq: u64,
        /// The first sequence that it has.
        first_seq: u64,
    },
    /// What was asked cannot be shown.
    #[error("{0}")]
    Unprovable(String),
    /// What was asked to be taken in again is not there.
    #[error("{0}")]
    NotParked(String),
    /// A log that reads differently each time.
    #[error(
        "the log {stream} reads differently each time, so nothing is stated of it; look at the log of nats-server and at its disk, it is read again later"
    )]
    Unsteady {
        /// The stream.
        stream: String,
    },
    /// A task of the service ended in a way that nobody planned.
    #[error("the task {task} of the service broke down: {source}; this is a bug, report it with the log")]
    Task {
        /// The task.
        task: &'static str,
        /// What happened to it.
        source: tokio::task::JoinError,
    },
}

impl ConsumersError {
    /// Whether the lease is (or may be) with another process.
    pub fn is_fenced(&self) -> bool {
        match self {
            Self::NotHolder { .. } => true,
            Self::Publish(error) => error.kind == PublishErrorKind::Fenced,
            _ => false,
        }
    }

    /// Whether a log is not there that should be.
    pub(crate) fn is_missing_log(&self) -> bool {
        match self {
            Self::Bus(error) => matches!(error, BusError::NoStream { .. }),
            Self::Publish(error) => error.kind == PublishErrorKind::NoStream,
            _ => false,
        }
    }
}
