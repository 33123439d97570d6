//! Positions: whether a log still is what a reader remembers of it. Sequences can be used twice after
//! damage, so a position is the stream, its creation time, the sequence and the message's hash.

use bus_schema::{Hash32, Timestamp};

use crate::StreamState;

/// What a reader remembers of the last message that it took in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The stream.
    pub stream: String,
    /// When the stream was made.
    pub created: Timestamp,
    /// The sequence of the last message that was taken in; 0 = none yet.
    pub seq: u64,
    /// That message's [`LogMessage::hash`](crate::LogMessage::hash); [`Hash32::ZERO`] for none yet.
    pub hash: Hash32,
}

/// What the log says about a position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PositionVerdict {
    /// The log still holds what was read: go on at `seq + 1`.
    Same(StreamState),
    /// It does not.
    Rewound {
        /// What differs, in words.
        reason: String,
        /// What the stream holds now.
        state: StreamState,
    },
}
