//! The logs told to people: each message as one entry, what of a log somebody asked for, several logs in one order, and
//! what an event did to its resource. What cannot be decoded is told as such, never left out.
//!
//! Must not know: who asks, HTTP, and what the pool has. An entry says what a message says, the pool what came of it.

mod diff;
mod document;
mod entry;
mod filter;
mod reading;

pub(crate) use diff::changes;
pub(crate) use document::Document;
pub(crate) use entry::entry;
pub(crate) use filter::Filter;
pub(crate) use reading::{Reading, Span};
