//! Facts about synchronising (R1, R5, R6) and confirming (R4) resources.

use serde::{Deserialize, Serialize};

use crate::{
    chain::ChainPoint,
    command::resource::{SyncReason, UpdateInfo},
    event::{events, resource::SyncScope},
    id::{PoolId, ResourceKey, Revision},
    text::decimal,
    time::Timestamp,
};

events! {
    /// A fact about synchronising or confirming.
    Resource ResourceFact {
        /// A sync was asked for.
        SyncRequested(SyncRequested) = "sync_requested",
        /// A sync's answer is in the pool.
        SyncCompleted(SyncCompleted) = "sync_completed",
        /// A sync did not happen; the pool is stale since then.
        SyncFailed(SyncFailed) = "sync_failed",
        /// Resources were compared with their source before a task (R4).
        Confirmed(Confirmed) = "confirmed",
        /// A person says that a held window close may delete what it would delete.
        EmptyConfirmed(EmptyConfirmed) = "empty_confirmed",
        /// A person paused or resumed the schedule of a pool.
        SchedulePaused(SchedulePaused) = "schedule_paused",
    }
}

/// A sync was asked for (`resource.sync_requested`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct SyncRequested {
    /// The pool.
    pub pool: PoolId,
    /// The owner that was asked: the CloudEvents source of its agent.
    pub owner: String,
    /// The sync's id.
    pub sync_id: String,
    /// First, second, third request, or why else.
    pub reason: SyncReason,
    /// What the answer shall cover.
    pub scope: SyncScope,
    /// What the target knew when it asked.
    pub update_info: UpdateInfo,
}

/// A sync's answer is in the pool (`resource.sync_completed`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct SyncCompleted {
    /// The pool.
    pub pool: PoolId,
    /// The owner.
    pub owner: String,
    /// The sync's id.
    pub sync_id: String,
    /// What the answer covered in the end (an incremental request may be answered in full).
    pub scope: SyncScope,
    /// Resources in the answer.
    #[serde(with = "decimal")]
    #[schemars(with = "crate::text::Decimal")]
    pub resources: u64,
    /// Bytes of state in the answer.
    #[serde(with = "decimal")]
    #[schemars(with = "crate::text::Decimal")]
    pub bytes: u64,
    /// From the request to the pool, in milliseconds.
    pub took_ms: u64,
    /// Whether pool and source had equal digests at the end.
    pub equal: bool,
}

/// A sync did not happen (`resource.sync_failed`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct SyncFailed {
    /// The pool.
    pub pool: PoolId,
    /// The owner.
    pub owner: String,
    /// The sync's id.
    pub sync_id: String,
    /// Why, and what to do.
    pub reason: String,
    /// When it is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Timestamp>,
}

/// What a confirmation found for one resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Pool and source were equal.
    Confirmed,
    /// They were not; the pool has now what the source has.
    Updated,
    /// Neither the source has it (any more).
    Missing,
    /// The source did not answer in time.
    SourceUnreachable,
    /// Nobody can call the pool's entry true: no agent answers for the resource, or the two are known to
    /// differ and the second request did not change that. `reason` says which.
    Unconfirmable,
}

impl Verdict {
    /// Whether the pool's entry is true after the confirmation.
    pub const fn is_true(self) -> bool {
        matches!(self, Self::Confirmed | Self::Updated)
    }
}

/// One resource of a confirmation, with the revisions before and after.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ConfirmedResource {
    /// The resource.
    pub key: ResourceKey,
    /// What was found.
    pub verdict: Verdict,
    /// The pool's revision before; absent = the pool had no entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Revision>,
    /// The source's revision; absent = the source has no such resource, or did not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Revision>,
    /// The place in the owner's chain as of which the entry is true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub true_as_of: Option<ChainPoint>,
    /// Whether the source changed it while the guarded command ran.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub changed_during_run: bool,
    /// Why the entry cannot be called true, and what to do; absent when it can, or is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Resources were compared with their source before a task (`resource.confirmed`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Confirmed {
    /// The pool.
    pub pool: PoolId,
    /// The confirmation's id.
    pub confirm_id: String,
    /// Who asked: an operator, or a tenant and its key.
    pub actor: String,
    /// The task that the confirmation guards, if any; its words, secrets removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// Whether an unreachable source was let pass by policy, with this warning on record.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allowed_unreachable: bool,
    /// Each resource.
    pub resources: Vec<ConfirmedResource>,
}

/// A held window close may delete (`resource.empty_confirmed`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct EmptyConfirmed {
    /// The pool.
    pub pool: PoolId,
    /// The owner.
    pub owner: String,
    /// The sync whose close is held.
    pub sync_id: String,
    /// Who said so.
    pub actor: String,
}

/// A person paused or resumed a schedule (`resource.schedule_paused`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct SchedulePaused {
    /// The pool.
    pub pool: PoolId,
    /// Paused, or resumed.
    pub paused: bool,
    /// Who did it.
    pub actor: String,
}

macro_rules! entity_is_pool {
    ($($type:ty),+) => { $(impl $type {
        /// The pool.
        pub fn entity(&self) -> String {
            self.pool.to_string()
        }
    })+ };
}
entity_is_pool!(SyncRequested, SyncCompleted, SyncFailed, Confirmed, EmptyConfirmed, SchedulePaused);
