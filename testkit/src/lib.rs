//! Farside in the tests of those who build on it: starts a NATS server of its own (a binary of this machine, or a
//! container), starts a Farside on it, publishes, and waits until the pool shows what it must. All of it is real, on
//! loopback, in a temporary directory, and gone when it is dropped.
//!
//! ```no_run
//! # async fn test() -> Result<(), testkit::KitError> {
//! use serde_json::json;
//! use testkit::Farside;
//!
//! let farside = Farside::start().await?;
//! farside.publish("dc1", "VM/db-1", &json!({ "cpus": 4 })).await?;
//! farside.shows("dc1", "VM/db-1", |row| row["state"]["cpus"] == 4).await?;
//! # Ok(())
//! # }
//! ```
//! `docs/testing.md` has a whole example. Must not know how Farside works inside: it uses what everybody can use, the
//! program's verbs and the log's contract.

mod error;
mod farside;
mod nats;
mod wait;

pub use error::KitError;
pub use farside::Farside;
pub use nats::{NatsOptions, NatsServer, Place};
