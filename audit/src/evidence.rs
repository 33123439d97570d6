//! Evidence: a stretch of a log in a file that shows by itself what was signed of it. JSON lines, each an object with
//! one field that says what it is:
//!
//! ```text
//! header       what it shows: target, stream, the first and the last sequence, the running hash before them
//! rotation     each key of the target, introduced by the one before it, in its place among the checkpoints
//! checkpoint   the one whose mark the file begins behind, then each one behind the message that its mark names
//! message      every message as the log stores it, with its hash
//! absent       sequences that the log did not have when it was signed
//! trailer      the range, the count, the last running hash, SHA-256 of all lines before, signed
//! ```
//! 64-bit numbers are decimal strings. `docs/verify.py` reads the same without Farside. Must not know where the messages
//! come from.

mod read;
mod write;

use bus_schema::{
    Hash32, Name, Timestamp,
    fact::{key::Rotated, log::Checkpoint},
};
use serde::{Deserialize, Serialize};

pub use read::{Examined, Fault, examine};
pub use write::{EvidenceError, Writer};

/// The form of the file.
pub const FORMAT: &str = "farside evidence v1";

/// Longest line that is read, in bytes: a message of 1 MiB in base64 with its headers, and a checkpoint with every
/// owner that one may name, stay well below.
const LINE_BYTES_MAX: u64 = 16 << 20;

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Header(Header),
    Rotation(Rotated),
    Checkpoint(Box<Checkpoint>),
    Message(Message),
    Absent(Absent),
    Trailer(Trailer),
}

/// What a file shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// [`FORMAT`].
    pub format: String,
    /// The target that read the log.
    pub target: Name,
    /// The log's stream.
    pub stream: String,
    /// When the stream was made.
    pub created: Timestamp,
    /// How often the log had been read from its start: the running hash begins anew each time.
    pub incarnation: u32,
    /// The first sequence.
    #[serde(with = "decimal")]
    pub from: u64,
    /// The last sequence.
    #[serde(with = "decimal")]
    pub to: u64,
    /// The running hash before the first one.
    pub running: Hash32,
    /// The checkpoint that it is taken from; 0 = none, the log begins there.
    #[serde(with = "decimal")]
    pub checkpoint: u64,
}

/// A message as the log stores it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Message {
    #[serde(with = "decimal")]
    seq: u64,
    stored_at_unix_ms: i64,
    subject: String,
    headers: Vec<(String, String)>,
    /// Base64.
    body: String,
    hash: Hash32,
}

/// Sequences that the log did not have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Absent {
    #[serde(with = "decimal")]
    first: u64,
    #[serde(with = "decimal")]
    last: u64,
}

/// The signed end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Trailer {
    #[serde(with = "decimal")]
    from: u64,
    #[serde(with = "decimal")]
    to: u64,
    /// Messages.
    #[serde(with = "decimal")]
    count: u64,
    /// The running hash behind the last one.
    running: Hash32,
    /// SHA-256 of all lines before, their ends included.
    sha256: Hash32,
    /// The public key that signs it.
    key: String,
    /// Base64 of the ed25519 signature over the RFC 8785 text of the trailer without its signature.
    signature: String,
}

impl Trailer {
    fn signed(&self) -> serde_json::Result<String> {
        let mut value = serde_json::to_value(self)?;
        if let Some(fields) = value.as_object_mut() {
            fields.remove("signature");
        }
        bus_schema::canonical::text(&value)
    }
}

/// 64-bit numbers as decimal strings: JSON readers of other languages round numbers above 2^53.
mod decimal {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(number: &u64, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(number)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        let text = String::deserialize(from)?;
        let number = text.parse::<u64>().ok().filter(|number| number.to_string() == text);
        number.ok_or_else(|| D::Error::custom(format!("{text:?} is not a decimal 64-bit number")))
    }
}

#[cfg(test)]
mod tests;
