//! Facts about the logs themselves: what was lost, doubled or refused, and who holds the lease.

use serde::{Deserialize, Serialize};

pub mod checkpoint;
pub mod damage;
pub mod parked;
pub mod trimmed;

pub use checkpoint::{Checkpoint, LogMark, OwnerMark};
pub use damage::{Damage, DamageAcknowledged, GapFound, GapHealed, Loss, LossFound, Scrubbed, Stretch};
pub use parked::{Parked, Redriven};
pub use trimmed::Trimmed;

use crate::{chain::ChainPoint, event::events, hash::Hash32, id::Name, text::decimal};

events! {
    /// A fact about a log.
    Log LogFact {
        /// This process is the one that acts; the message's sequence is its fencing token.
        LeaseAcquired(LeaseAcquired) = "lease_acquired",
        /// A message could not be taken in and is among the dead letters.
        Parked(Parked) = "parked",
        /// A copy of a parked message was taken in.
        Redriven(Redriven) = "redriven",
        /// The log does not hold any more what the projector had read from it.
        Rewound(Rewound) = "rewound",
        /// Two different events claim one place of a chain.
        Forked(Forked) = "forked",
        /// Events of a chain are missing.
        GapFound(GapFound) = "gap_found",
        /// They are in the log again.
        GapHealed(GapHealed) = "gap_healed",
        /// Messages that were read are not in the log any more.
        LossFound(LossFound) = "loss_found",
        /// A person knows of a damage that cannot be healed.
        DamageAcknowledged(DamageAcknowledged) = "damage_acknowledged",
        /// A log was read again and compared with what was read before.
        Scrubbed(Scrubbed) = "scrubbed",
        /// The beginning of a log goes, behind a snapshot that holds it.
        Trimmed(Trimmed) = "trimmed",
        /// What the logs and the pools are, signed.
        Checkpoint(Checkpoint) = "checkpoint",
        /// A window close would delete too much of an owner's rows and waits for a person.
        WindowHeld(WindowHeld) = "window_held",
    }
}

/// This process is the one that acts (`log.lease_acquired`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct LeaseAcquired {
    /// The lease's name.
    pub lease: Name,
    /// The holder: host, process id and a random part.
    pub holder: String,
}

impl LeaseAcquired {
    /// The lease's name.
    pub fn entity(&self) -> String {
        self.lease.to_string()
    }
}

/// The log does not hold any more what was read from it (`log.rewound`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Rewound {
    /// The log's stream.
    pub stream: String,
    /// The last sequence that the projector had applied.
    #[serde(with = "decimal")]
    #[schemars(with = "crate::text::Decimal")]
    pub applied_seq: u64,
    /// The hash of the message at that sequence, when it was applied.
    pub applied_hash: Hash32,
    /// The last sequence that the log has now.
    #[serde(with = "decimal")]
    #[schemars(with = "crate::text::Decimal")]
    pub log_last_seq: u64,
    /// What differs, in words.
    pub reason: String,
}

impl Rewound {
    /// The log's stream.
    pub fn entity(&self) -> String {
        self.stream.clone()
    }
}

/// Two different events claim one place of a chain (`log.forked`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Forked {
    /// The owner of the chain.
    pub owner: String,
    /// The place.
    pub at: ChainPoint,
    /// The hash of the event that was applied.
    pub applied: Hash32,
    /// The hash of the event that was refused.
    pub refused: Hash32,
    /// The refused event's `stream:seq`.
    pub place: String,
}

impl Forked {
    /// The owner.
    pub fn entity(&self) -> String {
        self.owner.clone()
    }
}

/// A window close waits for a person (`log.window_held`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct WindowHeld {
    /// The owner.
    pub owner: String,
    /// The sync whose close is held.
    pub sync_id: String,
    /// Rows that it would delete.
    #[serde(with = "decimal")]
    #[schemars(with = "crate::text::Decimal")]
    pub would_delete: u64,
    /// Rows that the owner has.
    #[serde(with = "decimal")]
    #[schemars(with = "crate::text::Decimal")]
    pub rows: u64,
}

impl WindowHeld {
    /// The owner.
    pub fn entity(&self) -> String {
        self.owner.clone()
    }
}
