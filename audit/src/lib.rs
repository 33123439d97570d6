//! The proof of a log: whether its chains are whole, whether it is what was signed, and files that show it to
//! somebody who has nothing else.
//!
//! * [`Walk`] reads a log from its start and tells where a chain is broken or events are missing;
//! * [`Copies`] tells whether copies of lost events are what was lost.
//!
//! Must not know: NATS, redb, tokio, the clock, who asks.

mod copies;
mod history;
mod key_file;
mod ranges;
mod walk;

pub mod evidence;
pub mod signing;

pub use copies::Copies;
pub use history::{History, HistoryError};
pub use key_file::{KeyFile, KeyFileError};
pub use ranges::{Checked, Mark, Ranges, Verdict};
pub use signing::{SignatureError, SigningKey};
pub use walk::{Break, Expected, Missing, Walk, Walked};
