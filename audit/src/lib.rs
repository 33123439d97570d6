//! The proof of a log: whether its chains are whole, whether it is what was signed, and files that show it to
//! somebody who has nothing else.
//!
//! * [`Walk`] reads a log from its start and tells where a chain is broken or events are missing;
//! * [`Copies`] tells whether copies of lost events are what was lost.
//!
//! Must not know: NATS, redb, tokio, the clock, who asks.

mod copies;
mod walk;

pub use copies::Copies;
pub use walk::{Break, Expected, Missing, Walk, Walked};
