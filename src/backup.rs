//! Backups of the target: one tar file that any system can look into, with a manifest of hashes at its end and a signature
//! over that. docs/decisions/0010 says why it looks like this.
//!
//! ```text
//! farside-backup                     the form, so that another file is known at once
//! data/keys/signing.nk …             files of the data directory, by their path there
//! logs/<STREAM>/meta.inf, meta.sum   nats-server's description of a log
//! logs/<STREAM>/000001 …             the log as JetStream packs it, in parts
//! snapshots/<file>/000001 …          the newest snapshot, and the oldest if a log was trimmed, in parts
//! manifest.json, manifest.sig        everything before with its hash; the signature of the target's key over that
//! ```
//! Must not know: what is in a log, other than which key it names.

use std::{io, path::Path};

use bus_schema::{Hash32, Name, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub(crate) mod read;
pub(crate) mod restore;
pub(crate) mod write;

/// The form of the backups that this build writes and reads.
const FORM: u32 = 1;
/// The first entry.
const MARK: &str = "farside-backup";
/// The last two.
const MANIFEST: &str = "manifest.json";
const SIGNATURE: &str = "manifest.sig";
/// Where files of the data directory stand.
const DATA: &str = "data/";
/// Where logs stand.
const LOGS: &str = "logs/";
/// Where snapshots stand.
const SNAPSHOTS: &str = "snapshots/";
/// The file of the signing key among those of the data directory.
const SIGNING_KEY: &str = "data/keys/signing.nk";
/// Bytes of one part: what is held in memory at once.
const PART_BYTES: usize = 4 << 20;
/// A larger entry is of no backup.
const ENTRY_BYTES_MAX: u64 = 64 << 20;

/// What a backup holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    form: u32,
    /// The farside that wrote it.
    version: String,
    /// The target.
    pub(crate) target: Name,
    /// Its sites.
    pub(crate) sites: Vec<Name>,
    /// When it was begun.
    pub(crate) made_at: Timestamp,
    /// The hash of the configuration file; absent = there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) config_sha256: Option<Hash32>,
    /// The logs that it holds.
    pub(crate) logs: Vec<PackedLog>,
    /// Where the logs are that it does not hold; empty = it holds them all.
    pub(crate) logs_elsewhere: String,
    /// The public key of the target.
    pub(crate) key: String,
    /// Every entry before this one.
    entries: Vec<Entry>,
}

/// A log in a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PackedLog {
    /// The stream.
    pub(crate) stream: String,
    /// When it was made.
    created: Timestamp,
    /// The first sequence that it has.
    first_seq: u64,
    /// The last.
    pub(crate) last_seq: u64,
    /// Messages in it.
    messages: u64,
    /// The hash of the last message; zero = it has none.
    last_hash: Hash32,
    /// What JetStream needs to unpack it.
    head: Value,
}

/// One entry of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    path: String,
    bytes: u64,
    sha256: Hash32,
}

/// Who has signed a manifest.
#[derive(Debug, Serialize, Deserialize)]
struct Signed {
    key: String,
    signature: String,
}

/// Why there is no backup, or none that can be restored: each text says what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BackupError {
    #[error("cannot {verb} {path}: {source}; check its permissions and the room on its disk")]
    File { verb: &'static str, path: String, source: io::Error },
    #[error("{0} is no backup of farside")]
    Foreign(String),
    #[error("{file} is cut off: it ends behind {last}, without its signed end; use another backup")]
    CutOff { file: String, last: String },
    #[error("{file} was changed or is damaged: {what}; use another backup")]
    Altered { file: String, what: String },
    #[error(
        "{file} is a backup of another build of farside (form {found}, this one reads {FORM}); use that one"
    )]
    OtherForm { file: String, found: u32 },
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    Bus(#[from] bus::BusError),
    #[error(transparent)]
    Managed(#[from] bus::managed::ManagedError),
    #[error(transparent)]
    Service(#[from] consumers::ConsumersError),
}

fn failed(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BackupError {
    let path = path.display().to_string();
    move |source| BackupError::File { verb, path, source }
}
