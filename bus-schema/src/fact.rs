//! Facts of a target log: what the target itself states. Written by the lease holder only, in the
//! binary form of CloudEvents, each fenced by the lease.

use crate::{event::DecodeError, id::Stem};

pub mod agent;
pub mod key;
pub mod log;
pub mod resource;
pub mod tenant;

/// A fact of a target log, decoded.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    /// About synchronising and confirming resources.
    Resource(resource::ResourceFact),
    /// About tenants.
    Tenant(tenant::TenantFact),
    /// About access keys that the target made.
    Key(key::KeyFact),
    /// About who may speak for a source.
    Agent(agent::AgentFact),
    /// About the logs themselves.
    Log(log::LogFact),
}

impl Fact {
    /// Decodes a fact. Errors: an unknown fact, or what is wrong in the data and where.
    pub fn decode(stem: Stem, event: &str, data: &[u8]) -> Result<Self, DecodeError> {
        match stem {
            Stem::Resource => resource::ResourceFact::decode(event, data).map(Self::Resource),
            Stem::Tenant => tenant::TenantFact::decode(event, data).map(Self::Tenant),
            Stem::Key => key::KeyFact::decode(event, data).map(Self::Key),
            Stem::Agent => agent::AgentFact::decode(event, data).map(Self::Agent),
            Stem::Log => log::LogFact::decode(event, data).map(Self::Log),
            _ => Err(DecodeError::unknown(stem, event)),
        }
    }

    /// The stem on the fact's subject.
    pub fn stem(&self) -> Stem {
        match self {
            Self::Resource(_) => Stem::Resource,
            Self::Tenant(_) => Stem::Tenant,
            Self::Key(_) => Stem::Key,
            Self::Agent(_) => Stem::Agent,
            Self::Log(_) => Stem::Log,
        }
    }

    /// The fact's name, the last part of its subject.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Resource(fact) => fact.name(),
            Self::Tenant(fact) => fact.name(),
            Self::Key(fact) => fact.name(),
            Self::Agent(fact) => fact.name(),
            Self::Log(fact) => fact.name(),
        }
    }

    /// The key of the entity that the fact speaks of.
    pub fn entity(&self) -> String {
        match self {
            Self::Resource(fact) => fact.entity(),
            Self::Tenant(fact) => fact.entity(),
            Self::Key(fact) => fact.entity(),
            Self::Agent(fact) => fact.entity(),
            Self::Log(fact) => fact.entity(),
        }
    }

    /// The fact's data as JSON text.
    pub fn data(&self) -> serde_json::Result<Vec<u8>> {
        match self {
            Self::Resource(fact) => fact.data(),
            Self::Tenant(fact) => fact.data(),
            Self::Key(fact) => fact.data(),
            Self::Agent(fact) => fact.data(),
            Self::Log(fact) => fact.data(),
        }
    }
}
