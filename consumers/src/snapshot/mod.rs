//! Snapshots: stored pools from which a replay starts, so that a moment of the past costs the events behind the nearest
//! snapshot and not the whole log, and behind which a log may be trimmed. Each holds the site logs and the target log as
//! far as a signed checkpoint speaks of them, was projected from the logs themselves, and was held against that
//! checkpoint before it was kept.
//!
//! Three words: the *position* says where the projector is, a *checkpoint* is a signed statement, a *snapshot* is a file.
//! Must not know: the live pool (a snapshot proves the logs, not what the pool made of them), any system's rules.

pub mod shelf;
pub mod thin;

pub(crate) mod keeper;
mod nearest;

pub(crate) use nearest::{Choice, Started, reaches, started};
pub use nearest::{adopted, seeded};
pub use shelf::{Label, Shelf};
