//! Streams: a [`StreamSpec`](bus_schema::stream::StreamSpec) as a JetStream configuration, and what a stream holds.

use bus_schema::Timestamp;

/// What a stream holds now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamState {
    /// The stream's name.
    pub stream: String,
    /// When it was made: a stream of the same name with another time is another log.
    pub created: Timestamp,
    /// The first sequence that it still has; `last_seq + 1` when it is empty.
    pub first_seq: u64,
    /// The last sequence that it gave out; 0 when it never had a message.
    pub last_seq: u64,
    /// Messages in it.
    pub messages: u64,
    /// Messages between first and last that it does not have (any more).
    pub deleted: u64,
    /// Bytes in it.
    pub bytes: u64,
    /// Its size limit in bytes; none = without limit.
    pub bytes_max: Option<u64>,
}
