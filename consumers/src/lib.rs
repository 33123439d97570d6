//! Reactions: the pump from the log to the pool, and what the target does about what it sees there.
//!
//! Must not know: the code of the agents (it talks to them by commands on the bus), HTTP, or NATS
//! itself (that is `bus`).

pub mod config;
pub mod error;
pub mod log;
pub mod resource;
pub mod runtime;
pub mod snapshot;
pub mod span;
mod task;

pub use config::ServiceConfig;
pub use error::ConsumersError;
pub use runtime::service::{Handle, Service};
