//! Commands: requests over NATS request/reply, imperative, one module per stem. A command's effect is
//! an event; its reply says only whether it was taken. Commands to agents carry the lease token, and
//! an agent refuses a token that is lower than one it has seen.

pub mod agent;
pub mod resource;
pub mod target;
