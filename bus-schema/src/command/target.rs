//! Commands to a target: what the API and the command line ask of the process that holds the lease.
//! Subject: `far.v1.<target>.cmd.target.<stem>.<verb>`, see [`crate::subject::target_command`].

use serde::{Deserialize, Serialize};

use crate::{
    fact::resource::ConfirmedResource,
    id::{PoolId, ResourceKey, Stem},
    text::decimal,
};

/// The verb of [`SyncCommand`], stem `resource`.
pub const SYNC: &str = "sync";
/// The verb of [`ConfirmCommand`], stem `resource`.
pub const CONFIRM: &str = "confirm";
/// The verb of [`RecheckCommand`], stem `resource`.
pub const RECHECK: &str = "recheck";
/// The verb of [`StateCommand`], stem `log`.
pub const STATE: &str = "state";

/// "Synchronise this pool now."
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct SyncCommand {
    /// The pool.
    pub pool: PoolId,
    /// Ask for everything instead of what changed.
    pub full: bool,
    /// Who asks.
    pub actor: String,
}

/// "Compare these resources with their source, and mend the pool where it differs" (R4).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ConfirmCommand {
    /// The pool.
    pub pool: PoolId,
    /// The resources that a task needs; at most [`crate::command::resource::KEYS_MAX`].
    pub keys: Vec<ResourceKey>,
    /// Who asks.
    pub actor: String,
    /// The task that waits for the answer, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// Let the task go although the source does not answer, and record that.
    #[serde(default)]
    pub allow_unreachable: bool,
    /// How long to wait for the source, in milliseconds.
    pub wait_ms_max: u64,
}

/// "The guarded command has ended: read its resources again and record what changed meanwhile."
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct RecheckCommand {
    /// The confirmation that guarded the command, as it was answered.
    pub confirmed: Confirmation,
    /// The pool.
    pub pool: PoolId,
    /// Who asks.
    pub actor: String,
    /// How long to wait for the source, in milliseconds.
    pub wait_ms_max: u64,
}

/// "State this fact": tenants, keys, paused schedules, confirmed empties.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct StateCommand {
    /// The fact's stem.
    pub stem: Stem,
    /// The fact's name.
    pub event: String,
    /// The fact's data.
    pub data: serde_json::Value,
}

/// The answer to every command to a target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum Reply<T> {
    /// Done.
    Done {
        /// What came of it.
        answer: T,
    },
    /// Not done.
    Refused {
        /// Why, and what to do.
        reason: String,
    },
}

/// What came of a [`SyncCommand`]: the syncs that run now, one per owner.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct SyncsStarted {
    /// Their ids.
    pub sync_ids: Vec<String>,
}

/// What came of a [`ConfirmCommand`] or a [`RecheckCommand`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Confirmation {
    /// Its id, also in the fact `resource.confirmed`.
    pub confirm_id: String,
    /// Whether the task may go: everything is true, or let pass by policy.
    pub go: bool,
    /// Each resource.
    pub resources: Vec<ConfirmedResource>,
}

/// What came of a [`StateCommand`]: where the fact stands in the target log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Stated {
    /// The fact's sequence.
    #[serde(with = "decimal")]
    #[schemars(with = "crate::text::Decimal")]
    pub seq: u64,
}
