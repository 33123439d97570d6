//! The contract of Farside's bus: names, subjects, streams, the envelope, the chain, the digest,
//! and the types of every event, fact and command, with the JSON Schemas and the AsyncAPI document
//! made from them.
//!
//! Other languages depend on what is decided here; the files under `golden/` and `schema/` are the
//! contract's readable form and a test compares them with the code.
//!
//! Must not know: tokio, NATS, redb, the present time, or any behaviour beyond building and parsing.

mod text;

pub mod canonical;
pub mod chain;
pub mod command;
pub mod digest;
pub mod envelope;
pub mod event;
pub mod fact;
pub mod hash;
pub mod id;
pub mod proof;
pub mod redrive;
pub mod schema;
pub mod stream;
pub mod subject;
pub mod time;
pub mod token;

pub use envelope::Envelope;
pub use hash::Hash32;
pub use id::{Epoch, Name, PoolId, ResourceKey, Revision, Source, Stem, TenantId};
pub use subject::EventSubject;
pub use time::Timestamp;
