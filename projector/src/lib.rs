//! Events to redb: folds site logs and a target log into the resource pools, in one file.
//!
//! * [`Batch`] parses stored messages and folds them to what will be written;
//! * [`Store::commit`] writes a batch and the position it reaches in ONE transaction;
//! * [`Reader`] answers questions about what was committed, and says as of when;
//! * [`Store::pending`] is the outbox of what the projector wants stated: dead letters and facts.
//!
//! What is in the pool is a function of the logs alone, however they were cut into batches and whichever
//! log was read first. A log that loses what was read from it takes nothing out of the pool again, see
//! `docs/decisions/0004-rewound-logs.md`.
//!
//! Must not know: NATS, tokio, the clock (time is the largest stream timestamp seen), decisions.

mod batch;
mod cell;
mod commit;
mod error;
mod file;
mod leaves;
mod log;
mod owner;
mod pending;
mod reader;
mod records;
mod row;
mod seals;
mod snapshot;
mod store;
mod tables;

#[cfg(test)]
mod tests;

pub mod compare;

pub use batch::{Batch, Refusal, check};
pub use commit::{is_harmless, originals::ORIGINALS_BYTES_MAX};
pub use error::StoreError;
pub use owner::{
    AgentState, Fork, Gap, HeartbeatSeen, HeldWindow, LastSync, Owner, Proof, SinceSync, Window,
};
pub use pending::{DeadLetter, DeadMessage, Pending, Stated};
pub use reader::{
    Answer, AsOf, Contradiction, DigestItem, DigestItems, DigestNodes, Filter, OwnerStand, Page, ParkedGroup,
    PoolCounters, PoolSummary, Reader, Stand,
};
pub use records::{
    AccessKey, Acknowledged, ConfirmationRecord, DamageFound, DamageRecord, Grant, Healed, ImageEntry,
    KeyOrigin, LogFactRecord, ParkedRecord, SyncRecord, TenantState, VolumeState,
};
pub use row::{Notice, Order, Row};
pub use seals::{FRAME, Frame, Seal};
pub use store::{Committed, Position, Size, Store, StoreOptions};
