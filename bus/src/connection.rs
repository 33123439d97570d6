//! The connection to NATS: made once, kept for ever, its state there to be watched.

use std::{path::PathBuf, time::Duration};

use bus_schema::Timestamp;
use bus_schema::stream::StreamSpec;
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::watch;

use crate::{
    BusError, Durable, DurableOptions, LogMessage, LogReader, Position, PositionVerdict, Publisher,
    RequestError, Requests, StreamState,
};

/// How a connection proves who it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Credentials {
    /// It does not; the server decides what an anonymous connection may do.
    #[default]
    None,
    /// A file with one nkey seed (`SU…`).
    NkeySeedFile(PathBuf),
    /// A `.creds` file: a user JWT and its nkey seed.
    CredsFile(PathBuf),
    /// A name and a password; refused in plain text off loopback.
    UserPassword {
        /// The name.
        user: String,
        /// The password.
        password: String,
    },
}

/// Where and how to connect.
#[derive(Clone, Debug, Default)]
pub struct ConnectOptions {
    /// `nats://127.0.0.1:4222`, several separated by commas.
    pub servers: String,
    /// What the server shows in its list of connections.
    pub name: String,
    /// How the connection proves who it is.
    pub credentials: Credentials,
    /// Refuse a connection without TLS.
    pub tls_required: bool,
    /// PEM file of the authority that signed the server's certificate, if it is not a public one.
    pub tls_ca_file: Option<PathBuf>,
    /// Prefix of the inboxes for answers, without the trailing dot. None: `_INBOX`, or with an nkey seed
    /// `_INBOX_<public key>`, so that no two identities read each other's answers.
    pub inbox_prefix: Option<String>,
}

/// Whether the connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// It stands; `generation` counts the connects from 1, so a change means that something may have been missed.
    Up {
        /// Counts the connects, from 1.
        generation: u64,
    },
    /// It is lost and is being made again.
    Down {
        /// When it was lost.
        since: Timestamp,
    },
}

/// What Farside thinks of a server's version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerVerdict {
    /// 2.15.1 or newer: what Farside is tested with.
    Fine,
    /// 2.11 to 2.15.0: it works, and this is missing.
    Missing(Vec<String>),
    /// Older, or not to be recognised: refused.
    TooOld,
}

/// What the server says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerFacts {
    /// Its version, like `2.15.1`.
    pub version: String,
    /// Its name.
    pub name: String,
    /// Largest message that it takes, in bytes.
    pub payload_bytes_max: usize,
    /// Whether it has JetStream.
    pub jetstream: bool,
    /// What Farside thinks of the version.
    pub verdict: ServerVerdict,
}

/// A connection to NATS. Clones share it; it reconnects for ever.
#[derive(Clone, Debug)]
pub struct Bus {
    _todo: (),
}

impl Bus {
    /// Connects, and from then on reconnects for ever with a jittered backoff.
    ///
    /// Errors: nobody listens, the credentials are refused, the server is too old or has no JetStream.
    pub async fn connect(options: ConnectOptions) -> Result<Self, BusError> {
        let _ = options;
        unimplemented!()
    }

    /// The state of the link, to be watched.
    pub fn link(&self) -> watch::Receiver<LinkState> {
        unimplemented!()
    }

    /// What the server said about itself at the latest connect.
    pub fn server(&self) -> ServerFacts {
        unimplemented!()
    }

    /// Makes the stream, or verifies the one that is there. It never weakens and never changes one.
    ///
    /// Errors: [`BusError::WeakerStream`] names every difference; [`BusError::NoRoom`].
    pub async fn ensure_stream(&self, spec: &StreamSpec) -> Result<StreamState, BusError> {
        let _ = spec;
        unimplemented!()
    }

    /// What a stream holds now. Errors: [`BusError::NoStream`], the link.
    pub async fn stream_state(&self, stream: &str) -> Result<StreamState, BusError> {
        let _ = stream;
        unimplemented!()
    }

    /// One message of a stream by its sequence; none when the stream does not have it (any more).
    pub async fn message(&self, stream: &str, seq: u64) -> Result<Option<LogMessage>, BusError> {
        let _ = (stream, seq);
        unimplemented!()
    }

    /// The latest message under a subject (wildcards allowed); none when there is none.
    pub async fn last_message(&self, stream: &str, subject: &str) -> Result<Option<LogMessage>, BusError> {
        let _ = (stream, subject);
        unimplemented!()
    }

    /// Reads a log in order from `from_seq` (1 = from the start), all of it or one subject filter.
    pub async fn read_log(
        &self,
        stream: &str,
        from_seq: u64,
        filter: Option<&str>,
    ) -> Result<LogReader, BusError> {
        let _ = (stream, from_seq, filter);
        unimplemented!()
    }

    /// Compares a remembered position with the log.
    pub async fn check_position(&self, position: &Position) -> Result<PositionVerdict, BusError> {
        let _ = position;
        unimplemented!()
    }

    /// Publishes to logs.
    pub fn publisher(&self) -> Publisher {
        unimplemented!()
    }

    /// Sends a command and waits for its answer, both JSON.
    pub async fn request<C: Serialize + Sync, R: DeserializeOwned>(
        &self,
        subject: &str,
        command: &C,
        wait: Duration,
    ) -> Result<R, RequestError> {
        let _ = (subject, command, wait);
        unimplemented!()
    }

    /// Serves commands on a subject (wildcards allowed) until the [`Requests`] are dropped.
    pub async fn serve(&self, subject: &str) -> Result<Requests, BusError> {
        let _ = subject;
        unimplemented!()
    }

    /// Opens (makes, if need be) a durable consumer for a reaction.
    pub async fn subscribe(&self, options: DurableOptions) -> Result<Durable, BusError> {
        let _ = options;
        unimplemented!()
    }

    /// Sends what is buffered, then ends the connection.
    pub async fn drain(self) {
        unimplemented!()
    }
}
