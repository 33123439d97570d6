//! Reactions: the pump from the log to the pool, and what the target does about what it sees there.
//!
//! Must not know: the code of the agents (it talks to them by commands on the bus), HTTP, or NATS
//! itself (that is `bus`).

pub mod resource;
pub mod span;
