//! Durable pull consumers: every message is handled until it is acknowledged or parked.

use std::{future::Future, time::Duration};

use bus_schema::Name;
use tokio_util::sync::CancellationToken;

use crate::{Bus, BusError, Fence, LogMessage};

/// A reaction's durable consumer.
#[derive(Clone, Debug)]
pub struct DurableOptions {
    /// The log to read.
    pub stream: String,
    /// The consumer's name; its place in the log is kept under it.
    pub consumer: Name,
    /// Subject filters; empty = the whole log.
    pub filters: Vec<String>,
    /// The target that the dead letters belong to.
    pub target: Name,
    /// Messages handled side by side, at least 1; 1 keeps their order.
    pub in_flight_max: usize,
}

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Handled.
    Ack,
    /// Not yet: deliver it again after this time.
    RetryAfter(Duration),
    /// It can never be handled: it becomes a dead letter.
    Reject {
        /// Why, and what to do.
        reason: String,
        /// JSON path or header of the fault.
        path: String,
    },
}

impl Bus {
    /// Opens (makes, if need be) a durable consumer for a reaction.
    pub async fn subscribe(&self, options: DurableOptions) -> Result<Durable, BusError> {
        let _ = options;
        unimplemented!()
    }
}

/// An open durable consumer.
#[derive(Debug)]
pub struct Durable {
    _todo: (),
}

impl Durable {
    /// Gives every message to `handler` until `shutdown`, and turns each outcome into an ack, a delayed
    /// redelivery, or a dead letter that the stream has stored before the message is given up.
    ///
    /// A handler may take as long as it needs; the server is told that it works.
    pub async fn run<H, F>(self, shutdown: CancellationToken, handler: H) -> Result<(), BusError>
    where
        H: Fn(LogMessage) -> F,
        F: Future<Output = Outcome>,
    {
        let _ = (shutdown, handler, None::<Fence>);
        unimplemented!()
    }
}
