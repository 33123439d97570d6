//! Commands of the stem `resource`: the first, second and third request (R1, R4, R6), the read before
//! a task (R4), and the descent through the digest.

use serde::{Deserialize, Serialize};

use crate::{
    chain::ChainPoint,
    digest::Digest,
    event::resource::SyncScope,
    hash::Hash32,
    id::{Name, ResourceKey, Revision},
    text::decimal,
    time::Timestamp,
};

/// The verb of [`SyncRequest`].
pub const SYNC: &str = "sync";
/// The verb of [`ReadRequest`].
pub const READ: &str = "read";
/// The verb of [`DigestRequest`].
pub const DIGEST: &str = "digest";
/// Most keys in one request, so that it fits one message.
pub const KEYS_MAX: usize = 500;
/// Most nodes that one descent names or gets, so that the reply fits one message.
pub const NODES_MAX: usize = 65_536;

/// Why a sync is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SyncReason {
    /// By the timer of the pool's schedule: the *first* request (R1).
    First,
    /// A confirmation found a mismatch: the *second* request (R4).
    Second,
    /// Outstanding changes crossed a threshold: the *third* request (R6).
    Third,
    /// A person asked (`farside sync`).
    Manual,
    /// The digests differ, or the log lost events.
    Repair,
}

/// What the target knows when it asks (R5): the source answers with what is missing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct UpdateInfo {
    /// The last event of the owner that is in the pool; absent = none, so send everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<ChainPoint>,
    /// Notices whose state the pool lacks.
    #[serde(with = "decimal")]
    #[schemars(with = "crate::text::Decimal")]
    pub outstanding: u64,
    /// The pool's digest of the owner at `since`.
    pub digest: Digest,
}

/// "Send what I miss" (`resource.sync`). Answered at once by [`SyncReply`], and then by events with
/// this sync id: `sync_opened`, one event per resource on its own subject, `sync_closed`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct SyncRequest {
    /// The agent that is meant; others of the cluster stay silent.
    pub agent: Name,
    /// The sync's id; asking again with the same id resumes it.
    pub sync_id: String,
    /// Why.
    pub reason: SyncReason,
    /// What the answer shall cover. An agent may widen it to `Full`.
    pub scope: SyncScope,
    /// What the target knows.
    pub update_info: UpdateInfo,
    /// The resources, for the scope `Keys`; at most [`KEYS_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<ResourceKey>,
    /// More resources for the scope `Keys`, whose keys the target does not know: a descent through the
    /// digest found only the first 48 bits of their addresses ([`crate::digest::Address::short`]);
    /// at most [`KEYS_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<u64>,
    /// The target refused the agent's chain (a fork, or places that it had already): the agent shall
    /// start a new epoch before it answers.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rebase: bool,
    /// The lease's fencing token.
    #[serde(with = "decimal")]
    #[schemars(with = "crate::text::Decimal")]
    pub lease: u64,
    /// When the log was made whose sequence the token is; tokens of different logs are not compared, the
    /// later log counts. Absent = unknown, earlier than any other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_log: Option<Timestamp>,
}

/// The agent's answer to [`SyncRequest`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum SyncReply {
    /// The events follow.
    Accepted {
        /// What the answer covers: `Full` when the agent no longer knows what changed since then.
        scope: SyncScope,
    },
    /// Not now.
    Refused {
        /// Why, and what to do.
        reason: String,
    },
}

/// "What do you have under these keys, right now?" (`resource.read`): read from the source itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ReadRequest {
    /// The agent that is meant.
    pub agent: Name,
    /// The resources; at most [`KEYS_MAX`].
    pub keys: Vec<ResourceKey>,
    /// The lease's fencing token.
    #[serde(with = "decimal")]
    #[schemars(with = "crate::text::Decimal")]
    pub lease: u64,
    /// When the log was made whose sequence the token is; tokens of different logs are not compared, the
    /// later log counts. Absent = unknown, earlier than any other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_log: Option<Timestamp>,
}

/// What the source has under one key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ReadResource {
    /// The resource.
    pub key: ResourceKey,
    /// Its revision and state hash; absent = the source has no such resource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<(Revision, Hash32)>,
}

/// The agent's answer to [`ReadRequest`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum ReadReply {
    /// Read from the source.
    Read {
        /// Each resource that was asked for.
        resources: Vec<ReadResource>,
        /// The last event of the agent's chain when it had read; what the read found new is in it.
        at: ChainPoint,
    },
    /// The source could not be read.
    Refused {
        /// Why, and what to do.
        reason: String,
    },
}

/// "Which nodes, which items are below these?" (`resource.digest`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct DigestRequest {
    /// The agent that is meant.
    pub agent: Name,
    /// The depth that the answer's nodes shall have.
    pub depth: u8,
    /// The numbers of their ancestors at `above`; empty = the whole level.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub below: Vec<u32>,
    /// The depth of `below`.
    pub above: u8,
    /// Whether the items below these nodes are wanted instead of nodes.
    pub items: bool,
}

/// The agent's answer to [`DigestRequest`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct DigestReply {
    /// The place of the chain that the answer is true at.
    pub at: ChainPoint,
    /// Root and count at that place.
    pub digest: Digest,
    /// For nodes: base64 (RFC 4648) of 6 bytes each, the first 48 bits of every node, in order.
    /// For items: base64 of 12 bytes each, the first 48 bits of the address and of the item.
    pub frame: String,
}
