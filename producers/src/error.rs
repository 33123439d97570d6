//! What can stop an agent. Whatever can be waited for or repeated is not an error of this room.

use bus::BusError;

use crate::{ledger::LedgerError, resource::SourceError};

/// Why an agent cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum ProducersError {
    /// The configuration makes no sense.
    #[error("the agent's configuration is wrong: {0}")]
    Config(String),
    /// A key cannot be announced.
    #[error("the access key {id} cannot be announced: {reason}")]
    Key {
        /// The key's public name.
        id: String,
        /// Why, and what to do.
        reason: String,
    },
    /// The ledger failed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A source is refused.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The bus refused a subscription.
    #[error("cannot serve commands: {0}")]
    Bus(#[from] BusError),
    /// A task of the agent ended by itself.
    #[error("a task of the agent ended by itself: {0}; this is a defect, please report it")]
    Task(#[from] tokio::task::JoinError),
}
