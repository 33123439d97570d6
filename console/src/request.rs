//! What the API is asked to do, as types that the command line writes and the server reads.

use std::collections::{BTreeMap, BTreeSet};

use bus_schema::{Name, PoolId, ResourceKey, Stem, TenantId, Timestamp, redrive::upcaster::Upcasting};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// How long a confirmation waits for the source when nobody says, in milliseconds.
pub const CONFIRM_WAIT_MS_DEFAULT: u64 = 10_000;

/// `POST …/sync`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sync {
    /// Ask for everything instead of what changed.
    pub full: bool,
}

/// `POST /v1/confirm`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Confirm {
    /// The pool.
    pub pool: PoolId,
    /// The resources that a task needs.
    pub keys: Vec<ResourceKey>,
    /// The task that waits for the answer, in words without secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// Let the task go although the source does not answer, and record that.
    #[serde(default)]
    pub allow_unreachable: bool,
    /// How long to wait for the source, in milliseconds.
    #[serde(default = "confirm_wait_ms_default")]
    pub wait_ms_max: u64,
}

fn confirm_wait_ms_default() -> u64 {
    CONFIRM_WAIT_MS_DEFAULT
}

/// `POST /v1/recheck`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recheck {
    /// The pool.
    pub pool: PoolId,
    /// The confirmation that guarded the command; what it found is read from the pool, not believed.
    pub confirm_id: String,
    /// How long to wait for the source, in milliseconds.
    #[serde(default = "confirm_wait_ms_default")]
    pub wait_ms_max: u64,
}

/// `POST /v1/dead-letters/redrive`: which dead letters are to be taken in again; exactly one of the first three.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Redrive {
    /// The one at this place, `stream:seq`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// Those whose reason contains this; what is quoted in it, and numbers, make no difference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Those of a part of a log, `stream:from-to`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range: Option<String>,
    /// What mends them; none = as they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upcaster: Option<Upcasting>,
    /// Only tell what would become of them.
    pub dry_run: bool,
    /// Only those behind this place: what the answer before named as `next`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// At most so many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

/// `POST …/empty-confirmed`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmptyConfirmed {
    /// The sync whose close is held.
    pub sync_id: String,
}

/// `POST …/schedule/paused`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SchedulePaused {
    /// Pause, or resume.
    pub paused: bool,
}

/// `POST /v1/events`, when the body is no CloudEvent: either a subject, or a pool and a type, of which
/// the subject is made.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlainEvent {
    /// The whole subject.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The pool, without a subject.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<PoolId>,
    /// `<stem>.<event>`, without a subject.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub event_type: Option<String>,
    /// What the log's duplicate window knows the event by: sent again with the same id, it is stored once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The event's data.
    pub data: Box<RawValue>,
}

/// `POST /v1/tenants/{create|bind|unbind|grant|remove}`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tenant {
    /// The tenant.
    pub tenant: TenantId,
    /// For `grant`: the pools that it may see from now on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pools: Vec<PoolId>,
    /// For `grant`: only resources with all of these labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// `POST /v1/keys`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MakeKey {
    /// The level-1 tenant that it belongs to.
    pub tenant: TenantId,
    /// Its public name; one that is there gets a new secret. Absent: a new name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<Name>,
    /// When it ends; absent = it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<Timestamp>,
}

/// Who asks knows of a damage of a log that cannot be healed: `POST /v1/audit/acknowledge`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Acknowledge {
    /// The damage, as `GET /v1/audit/damage` names it.
    pub damage: String,
    /// Why it may stay, for whoever reads the log later.
    pub reason: String,
}

/// `POST /v1/agents`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrollAgent {
    /// Its site.
    pub site: Name,
    /// Its name, unique at its site.
    pub name: Name,
    /// The clusters that it may speak for.
    pub clusters: BTreeSet<Name>,
    /// The systems whose commands it hears.
    #[serde(default = "only_resource")]
    pub stems: BTreeSet<Stem>,
    /// The public half of its nkey; the seed stays where it was made.
    pub public_key: String,
}

fn only_resource() -> BTreeSet<Stem> {
    [Stem::Resource].into()
}

/// `POST /v1/readers`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrollReader {
    /// Its name.
    pub name: Name,
    /// For whom it reads.
    pub tenant: TenantId,
    /// The clusters that it reads; empty = all that its tenant may see.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub pools: BTreeSet<PoolId>,
    /// The public half of its nkey; the seed stays where it was made.
    pub public_key: String,
}
