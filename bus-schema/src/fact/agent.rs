//! Facts about who may speak for a source: agents that were enrolled at the target's NATS. Public keys only.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{
    event::events,
    id::{Name, Stem},
};

events! {
    /// A fact about an agent's right to come in.
    Agent AgentFact {
        /// The agent may come in from now on.
        Enrolled(Enrolled) = "enrolled",
        /// It may no longer.
        Revoked(Revoked) = "revoked",
    }
}

/// The agent may come in from now on (`agent.enrolled`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Enrolled {
    /// Its site.
    pub site: Name,
    /// Its name, unique at its site.
    pub agent: Name,
    /// The clusters that it may speak for.
    pub clusters: BTreeSet<Name>,
    /// The systems that it serves.
    pub stems: BTreeSet<Stem>,
    /// The public half of its nkey.
    pub public_key: String,
    /// Who enrolled it.
    pub actor: String,
}

/// It may no longer (`agent.revoked`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Revoked {
    /// Its site.
    pub site: Name,
    /// Its name.
    pub agent: Name,
    /// The public half of the nkey that opens nothing any more.
    pub public_key: String,
    /// Who revoked it.
    pub actor: String,
}

macro_rules! entity_is_agent {
    ($($type:ty),+) => { $(impl $type {
        /// The agent, with its site.
        pub fn entity(&self) -> String {
            format!("{}/{}", self.site, self.agent)
        }
    })+ };
}
entity_is_agent!(Enrolled, Revoked);
