//! A message of a log as a reader gets it. Must not know what the message says.

use bus_schema::{Hash32, Timestamp, envelope::Stored};
use bytes::Bytes;

/// One stored message: where it stands, when it was stored, and what it carries. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LogMessage {
    _todo: (),
}

impl LogMessage {
    /// Its sequence in the stream, from 1.
    pub fn seq(&self) -> u64 {
        unimplemented!()
    }

    /// The stream's name.
    pub fn stream(&self) -> &str {
        unimplemented!()
    }

    /// The subject that it is stored under.
    pub fn subject(&self) -> &str {
        unimplemented!()
    }

    /// When the log stored it.
    pub fn stored_at(&self) -> Timestamp {
        unimplemented!()
    }

    /// The payload.
    pub fn body(&self) -> &Bytes {
        unimplemented!()
    }

    /// The headers, in no particular order; a header that is there twice comes twice.
    pub fn headers(&self) -> Vec<(&str, &str)> {
        unimplemented!()
    }

    /// Lends the message to the contract's reading code.
    pub fn with_stored<R>(&self, read: impl FnOnce(Stored<'_>) -> R) -> R {
        let _ = read;
        unimplemented!()
    }

    /// SHA-256 over subject, sorted headers and body: what a remembered position is compared with.
    pub fn hash(&self) -> Hash32 {
        unimplemented!()
    }
}
