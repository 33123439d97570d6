//! Publishing to a log: plain, or as one atomic batch, each with a fence if need be.

use bytes::Bytes;

use crate::PublishError;

/// A message to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// The subject that it is stored under.
    pub subject: String,
    /// Its headers, without those of NATS (`Nats-…`), which the publisher sets.
    pub headers: Vec<(String, String)>,
    /// The payload.
    pub body: Bytes,
    /// What the duplicate window knows it by; empty = none.
    pub message_id: String,
}

/// A condition of a publish: the last message of the stream under `subject` has the sequence `seq`
/// (0 = there is none). It is checked when the message is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    /// The subject, which may be another than the message's.
    pub subject: String,
    /// The last sequence under it.
    pub seq: u64,
}

/// Where a message is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// Its sequence.
    pub seq: u64,
    /// It was there before, under the same message id; `seq` is the first one's.
    pub duplicate: bool,
}

/// Where a batch is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishedBatch {
    /// The sequence of its first message; the others follow without a gap.
    pub first_seq: u64,
    /// The sequence of its last message.
    pub last_seq: u64,
}

/// Publishes to logs. Clones share the connection; calls may run side by side.
#[derive(Clone, Debug)]
pub struct Publisher {
    _todo: (),
}

impl Publisher {
    /// Stores one message and waits until the stream has it.
    pub async fn publish(
        &self,
        stream: &str,
        message: &Outgoing,
        fence: Option<&Fence>,
    ) -> Result<Published, PublishError> {
        let _ = (stream, message, fence);
        unimplemented!()
    }

    /// Stores all of the messages or none, without a gap between them, and waits until the stream has them.
    ///
    /// `batch_id`: 1 to 64 characters, another one for every attempt. At most
    /// [`BATCH_EVENTS_MAX`](bus_schema::stream::BATCH_EVENTS_MAX) messages.
    pub async fn publish_batch(
        &self,
        stream: &str,
        batch_id: &str,
        messages: &[Outgoing],
        fence: Option<&Fence>,
    ) -> Result<PublishedBatch, PublishError> {
        let _ = (stream, batch_id, messages, fence);
        unimplemented!()
    }
}
