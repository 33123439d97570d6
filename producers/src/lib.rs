//! Source agents: they read what a source has, give every change its place in a chain, keep it until
//! the log has it, and answer the target's commands.
//!
//! Read in this order: [`config`], [`Agent`] (the run loop), `sequencer` (what becomes an event),
//! `ledger` (the agent's file), [`resource`] (the adapters).
//!
//! Must not know: the pool, thresholds and schedules of the target, other agents, consumers.

mod agent;
mod answer;
mod cluster;
pub mod config;
mod error;
mod keys;
mod ledger;
pub mod redact;
pub mod resource;
mod seal;
mod sender;
mod sequencer;

pub use agent::{Agent, INLINE_BYTES_MAX};
pub use config::{AgentConfig, ClusterConfig, KeyConfig, PushConfig, SourceConfig};
pub use error::ProducersError;
pub use ledger::LedgerError;
