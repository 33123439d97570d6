//! Commands of the stem `agent`: an agent and the target find a common place in the chain.

use serde::{Deserialize, Serialize};

use crate::{chain::ChainPoint, hash::Hash32, id::Source};

/// The verb of [`Hello`], sent by an agent to the target.
pub const HELLO: &str = "hello";

/// "Here I am; what do you have of me?" (`agent.hello`): at start, after every new connection, and now and
/// then, so that neither a target that was rebuilt nor an agent that was refused stays so.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Hello {
    /// The agent's source.
    pub source: Source,
    /// The last event that it has made.
    pub at: ChainPoint,
    /// That event's hash.
    pub hash: Hash32,
    /// The last event that a log acknowledged; seq 0 = none of this epoch. A pool that has read its whole log
    /// and has nothing of the epoch stands on another log. Absent = as `at`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acked: Option<ChainPoint>,
}

/// The target's answer to [`Hello`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct HelloReply {
    /// The last event of this source that the pool has; absent = none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<(ChainPoint, Hash32)>,
    /// What the agent shall do.
    pub verdict: HelloVerdict,
}

/// What an agent shall do after [`Hello`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HelloVerdict {
    /// Go on: what the pool has is a part of the agent's chain, as far as the target can see.
    Continue,
    /// The agent is behind what the pool has, on another branch (a restored backup), in an epoch that is
    /// over, or unknown to a log that was made anew: start a new epoch and send everything.
    Rebase,
}
