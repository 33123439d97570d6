//! A batch: stored messages, parsed and folded to what a commit will write.

use bus_schema::{Hash32, Timestamp, envelope::Stored};

/// Messages of one log in order. Fill it on any thread, then hand it to [`crate::Store::commit`].
#[derive(Debug)]
pub struct Batch {
    stream: String,
}

impl Batch {
    /// An empty batch of a stream.
    pub fn new(stream: &str) -> Self {
        Self { stream: stream.to_owned() }
    }

    /// Takes in the next message: parses, checks and folds it. What cannot be read becomes a dead letter
    /// inside the batch. `message_hash` covers the message as stored, for the position check.
    pub fn push(&mut self, _message: Stored<'_>, _message_hash: Hash32) {
        unimplemented!()
    }

    /// Messages taken in.
    pub fn len(&self) -> usize {
        unimplemented!()
    }

    /// Whether no message was taken in.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// An estimate of the memory that the batch holds, in bytes.
    pub fn bytes(&self) -> usize {
        unimplemented!()
    }

    /// The stream sequence of the last message.
    pub fn last_seq(&self) -> Option<u64> {
        unimplemented!()
    }

    /// The largest time at which the log stored one of the messages.
    pub fn last_time(&self) -> Option<Timestamp> {
        unimplemented!()
    }

    /// The stream.
    pub fn stream(&self) -> &str {
        &self.stream
    }
}
