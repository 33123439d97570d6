//! What the API answers, as types that the server writes and the command line reads.
//!
//! Times are RFC 3339; counts are JSON numbers; a place in a log is `stream:seq`. New fields may come.
//! Secrets have no place here, except in [`KeyMade`], which is written once and never kept.

use bus_schema::{Name, PoolId, TenantId, Timestamp};
use projector::{AccessKey, AsOf, Grant, KeyOrigin, TenantState};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::ports::JobProgress;

pub mod audit;
pub mod trail;

mod dead_letter;
mod enrolment;
mod resource;
mod status;

pub use dead_letter::{
    DeadLetterGroupView, DeadLetterGroupsView, DeadLetterView, DeadLettersView, LetterView, OriginalView,
    RedriveItem, RedriveOutcome, RedriveView,
};
pub use enrolment::{AgentView, EnrolledView, ReaderView, RevokedView};
pub use resource::{HistoryEntry, HistoryView, ResourcePage, ResourceView};
pub use status::{
    Acting, Alarm, AlarmKind, InSync, LeaseView, LinkView, LogView, OwnerView, PoolView, StatusView,
};

/// What an answer is true as of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AsOfView {
    /// For each log, `stream:seq` of the last message taken in.
    pub places: Vec<String>,
    /// The largest time at which a log stored a message up to there.
    pub time: Timestamp,
}

impl From<AsOf> for AsOfView {
    fn from(as_of: AsOf) -> Self {
        let places = as_of.logs.iter().map(|(stream, seq)| format!("{stream}:{seq}")).collect();
        Self { places, time: as_of.time }
    }
}

/// Some things, and what they are true as of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ListView<T> {
    /// What the list is true as of.
    pub as_of: AsOfView,
    /// The things.
    pub items: Vec<T>,
}

/// Where an event was stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedView {
    /// `stream:seq`.
    pub place: String,
    /// The log had it already under the same message id.
    pub duplicate: bool,
}

/// Where a fact was stated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatedView {
    /// `stream:seq` in the target log.
    pub place: String,
    /// What the fact does not do although somebody may expect it, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
}

/// A tenant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TenantView {
    /// The tenant.
    pub tenant: TenantId,
    /// Whether it may use the key of its level-1 tenant; true for level 1.
    pub bound: bool,
    /// The pools that were granted to it; absent = no explicit grant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<Grant>,
    /// When it was made.
    pub since: Timestamp,
}

impl From<TenantState> for TenantView {
    fn from(tenant: TenantState) -> Self {
        let TenantState { tenant, bound, grant, since } = tenant;
        Self { tenant, bound, grant, since }
    }
}

/// An access key, without salt and hash: nobody outside needs them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeyView {
    /// Its public name.
    pub key_id: Name,
    /// The level-1 tenant that it belongs to.
    pub tenant: TenantId,
    /// The pool whose source announced it; absent = the target made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub announced_by: Option<PoolId>,
    /// When it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<Timestamp>,
    /// When it was made known.
    pub since: Timestamp,
    /// When it was revoked or withdrawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<Timestamp>,
}

impl From<AccessKey> for KeyView {
    fn from(key: AccessKey) -> Self {
        let AccessKey { key_id, origin, tenant, not_after, since, revoked_at, .. } = key;
        let announced_by = match origin {
            KeyOrigin::Source { pool, .. } => Some(pool),
            KeyOrigin::Target => None,
        };
        Self { key_id, tenant, announced_by, not_after, since, revoked_at }
    }
}

/// A key that was just made. The secret is shown here and nowhere else.
#[derive(Serialize, Deserialize)]
pub struct KeyMade {
    /// Its public name.
    pub key_id: Name,
    /// The level-1 tenant that it belongs to.
    pub tenant: TenantId,
    /// `<key_id>.<secret>`: what goes behind `Authorization: Bearer`.
    pub credential: String,
    /// When it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<Timestamp>,
    /// `stream:seq` of the fact `key.issued`, which holds salt and hash only.
    pub place: String,
}

/// One line of the answer to what takes long (`POST /v1/rebuild`, `/v1/audit/scrub`, `/v1/audit/replay`); the last one is a report or a
/// failure.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobLine<T> {
    /// It goes on.
    Progress(JobProgress),
    /// The next line of what was asked for.
    Row(Box<RawValue>),
    /// It is done.
    Report(T),
    /// It failed, and changed nothing.
    Failed(String),
}
