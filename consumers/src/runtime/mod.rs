//! What every reaction stands on: the pump from the logs to the pool, stating facts under the lease,
//! replay and rebuild, and the service that runs it all.
//!
//! Must not know: any of the five systems' rules.

pub mod applied;
pub mod batching;
pub mod bounds;
pub mod export;
pub mod facts;
pub mod hello;
pub mod pump;
pub mod rebuild;
pub mod replay;
pub mod scrub;
pub mod service;
pub mod verify;

pub(crate) mod clock;
pub(crate) mod floor;
pub(crate) mod logs;
pub(crate) mod losses;
pub(crate) mod outbox;
pub(crate) mod parked;
pub(crate) mod pipeline;
pub mod redrive;
pub(crate) mod replaced;
pub(crate) mod signed;
pub(crate) mod suspected;
pub(crate) mod unread;
