//! The outbox: what the projector found while it folded, for the pump to state on the bus.

use bus_schema::{Timestamp, chain::ChainPoint, fact::Fact};

/// Something to state on the bus; kept until [`crate::Store::settle`] is told its id.
#[derive(Clone, Debug, PartialEq)]
pub struct Pending {
    /// Counted up; the same until it is settled.
    pub id: u64,
    /// A name that is the same whenever the same log is read: use it in the message id.
    pub name: String,
    /// What to state.
    pub what: Stated,
}

/// What is to be stated.
#[derive(Clone, Debug, PartialEq)]
pub enum Stated {
    /// A message that could not be taken in: goes to the dead letters, and `log.parked` to the target log.
    DeadLetter(DeadLetter),
    /// A fact for the target log.
    Fact(Fact),
}

/// A message that could not be taken in.
#[derive(Clone, Debug, PartialEq)]
pub struct DeadLetter {
    /// The log's stream.
    pub stream: String,
    /// The message's sequence in it.
    pub seq: u64,
    /// When the log stored it: a log that was rewound may have another message there now.
    pub stored_at: Timestamp,
    /// What is wrong and what to do.
    pub reason: String,
    /// Where the fault is: JSON path, CloudEvents attribute, header, or `subject`.
    pub path: String,
    /// The message's place in its chain, if it was read that far.
    pub at: Option<ChainPoint>,
    /// The message; absent when the fault showed only at the commit (a retired epoch): read it from the log.
    pub message: Option<DeadMessage>,
}

/// A message as it was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadMessage {
    /// The subject.
    pub subject: String,
    /// Names and values.
    pub headers: Vec<(String, String)>,
    /// The payload.
    pub body: Vec<u8>,
}
