//! The only room that knows NATS: connecting, the logs (streams), publishing with fences, reading in
//! order, durable reactions, request/reply, the lease, and a managed nats-server.
//!
//! Read in this order: [`Bus`] (connection), [`StreamState`] (streams), [`Publisher`], [`LogReader`],
//! [`Durable`], [`lease`], [`managed`].
//!
//! Must not know: any event's fields, redb, the five systems, thresholds or schedules. The one fact
//! that is written here is `log.lease_acquired`, because its sequence is the lease.

mod absence;
mod api;
mod breakers;
mod connection;
mod error;
mod feed;
mod link;
mod message;
mod options;
mod publisher;
mod pull;
mod reader;
mod request;
mod seek;
mod server;
mod stream;
mod subscription;
mod transfer;
mod trim;

pub mod dead_letter;
pub mod doctor;
pub mod lease;
pub mod managed;
pub mod position;

pub use connection::Bus;
pub use error::{BusError, PublishError, PublishErrorKind, RequestError};
pub use lease::{Lease, LeaseOptions, LeaseToken};
pub use link::LinkState;
pub use message::LogMessage;
pub use options::{ConnectOptions, Credentials};
pub use position::{Position, PositionVerdict};
pub use publisher::{Fence, Outgoing, Published, PublishedBatch, Publisher, STORES_NOTHING};
pub use reader::LogReader;
pub use request::{Request, Requests};
pub use server::{ServerFacts, ServerVerdict};
pub use stream::StreamState;
pub use subscription::{Durable, DurableOptions, Outcome};
pub use transfer::{PIECE_BYTES, PackedStream, UnpackedStream};
pub use trim::{Holder, RemoteMirror};
