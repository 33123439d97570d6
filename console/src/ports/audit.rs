//! The proof of the logs, as the console asks for it.

use std::io;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::{JobProgress, Moment, Pending};

/// Which part of which log is meant, both ends included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditRange {
    /// One log; none = all, or the only one.
    pub stream: Option<String>,
    /// Where it begins; none = with the log.
    pub from: Option<Moment>,
    /// Where it ends; none = with the log.
    pub to: Option<Moment>,
}

/// What a verification came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditReport {
    /// The logs that were read.
    pub logs: Vec<AuditedLog>,
    /// Checkpoints of the target that were followed.
    pub checkpoints: u64,
    /// The public key that signs now; absent = nothing was signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Ranges between two of them that were held against the logs.
    pub ranges: u64,
    /// Sources whose rows, projected once more from the logs, were compared with what is signed.
    pub owners: u64,
    /// The checkpoint that signs those rows; absent = there is none in the range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows_of_checkpoint: Option<u64>,
    /// What is wrong; empty = nothing is.
    pub faults: Vec<AuditFault>,
    /// What is no fault and should be known.
    pub notes: Vec<String>,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

/// One log that was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditedLog {
    /// The stream.
    pub stream: String,
    /// The first sequence of the range.
    pub from: u64,
    /// The last.
    pub to: u64,
    /// The last one in the range that a checkpoint signs; 0 = none.
    pub signed: u64,
    /// Messages that were read, those before the range included.
    pub messages: u64,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditFault {
    /// What is wrong.
    pub kind: AuditFaultKind,
    /// The log.
    pub stream: String,
    /// The first sequence; absent = it is of no single place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<u64>,
    /// The last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<u64>,
    /// In words.
    pub text: String,
}

/// What is wrong with something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AuditFaultKind {
    /// A signature, a key, or the order of the checkpoints.
    Checkpoint,
    /// Messages are not there.
    Missing,
    /// A message is not what it was.
    Altered,
    /// A range is not what a checkpoint signs.
    Range,
    /// A chain is broken, or lacks events.
    Chain,
    /// The logs give other rows than a checkpoint signs.
    Rows,
}

/// A key that signs from here on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SigningKeyView {
    /// The public key.
    pub key: String,
    /// The one before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
}

/// Evidence that is being written: its pieces in order. One that is an error is the last, and makes the file worthless.
pub struct Evidence {
    /// The pieces.
    pub pieces: mpsc::Receiver<io::Result<Vec<u8>>>,
}

/// Proves the logs.
pub trait Auditor: Send + Sync {
    /// Holds the logs against everything that is known of them; progress goes to `progress` as long as somebody listens.
    fn verify(&self, range: AuditRange, progress: mpsc::Sender<JobProgress>) -> Pending<'_, AuditReport>;
    /// A part of one log as a file that shows by itself what was signed of it.
    fn export(&self, range: AuditRange) -> Pending<'_, Evidence>;
    /// Lets a new key sign.
    fn rotate_key(&self, actor: String) -> Pending<'_, SigningKeyView>;
}
