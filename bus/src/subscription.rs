//! Durable pull consumers: every message is handled until it is acknowledged or parked.
//!
//! The server redelivers without end what was not settled. Only this file acknowledges; a message is
//! given up only behind its dead letter.

use std::{future::Future, sync::Arc, time::Duration};

use async_nats::Subject;
use bus_schema::{Name, subject};
use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use serde::de::IgnoredAny;
use serde_json::json;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::{
    Bus, BusError, LinkState, LogMessage,
    api::Call,
    dead_letter::DeadLetter,
    message::Place,
    pull::{Pull, PullSize, Pulled},
    stream::no_stream,
};

/// When a message that was not settled is delivered again: what a crash swallowed, of ours or of the server,
/// waits for so long, and so does all behind it. The server's growing `backoff` is not used: with it, 2.15.1
/// redelivers a delayed message too late by the difference of its steps.
const UNSETTLED_WAIT: Duration = Duration::from_secs(10);
/// How often the server is told that a handler works: three times before the message would come again.
const PROGRESS_EVERY: Duration = Duration::from_secs(3);
/// How long the server may take to confirm an acknowledgement; unconfirmed, it is sent again.
const SETTLE_WAIT: Duration = Duration::from_secs(5);
/// Pause before an unconfirmed acknowledgement is sent again.
const SETTLE_PAUSE: Duration = Duration::from_millis(100);
/// Pause before the message of a dead letter that could not be stored comes again; doubles up to a minute.
const PARK_AGAIN: Duration = Duration::from_secs(1);
/// Pause before a failed open is tried again.
const REOPEN_PAUSE: Duration = Duration::from_millis(200);
/// Most bytes that one request brings: some messages of the largest size.
const PULL_BYTES: usize = 16 << 20;

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
    /// Opens (makes, if need be) a durable consumer for a reaction; it starts at the log's first message.
    ///
    /// Errors: [`BusError::NoStream`], [`BusError::Denied`], the link.
    pub async fn subscribe(&self, options: DurableOptions) -> Result<Durable, BusError> {
        let durable = Durable { bus: self.clone(), stream: options.stream.as_str().into(), options };
        durable.make_consumer().await?;
        Ok(durable)
    }
}

/// An open durable consumer.
#[derive(Debug)]
pub struct Durable {
    bus: Bus,
    stream: Arc<str>,
    options: DurableOptions,
}

/// A message on its way through a handler.
struct Delivery {
    message: LogMessage,
    deliveries: u64,
    settle_at: Subject,
}

impl Durable {
    /// Gives every message to `handler` until `shutdown`, and turns each outcome into an ack, a delayed
    /// redelivery, or a dead letter that the stream has stored before the message is given up.
    ///
    /// A handler may take as long as it needs; the server is told that it works. At shutdown, what is being
    /// handled is finished first. Lost connections are no errors.
    pub async fn run<H, F>(self, shutdown: CancellationToken, handler: H) -> Result<(), BusError>
    where
        H: Fn(LogMessage) -> F,
        F: Future<Output = Outcome>,
    {
        let in_flight_max = self.options.in_flight_max.max(1);
        let mut handled = FuturesUnordered::new();
        let mut pull = None;
        let result = loop {
            let free = in_flight_max - handled.len();
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break Ok(()),
                Some(()) = handled.next() => {}
                delivery = self.next(&mut pull, free), if free > 0 => match delivery {
                    Ok(delivery) => handled.push(self.handle(delivery, &handler)),
                    Err(e) => break Err(e),
                },
            }
        };
        while handled.next().await.is_some() {}
        result
    }

    /// The next delivery; opens again when the connection was lost. Cancel safe.
    async fn next(&self, pull: &mut Option<Pull>, free: usize) -> Result<Delivery, BusError> {
        loop {
            let Some(open) = pull else {
                *pull = Some(self.open().await?);
                continue;
            };
            open.resize(free);
            match open.next().await {
                Pulled::Message(place, message) => {
                    let Some(settle_at) = message.reply.clone() else { continue };
                    let Place { deliveries, .. } = place;
                    let message = LogMessage::delivered(Arc::clone(&self.stream), place, message);
                    return Ok(Delivery { message, deliveries, settle_at });
                }
                Pulled::Gone(reason) => {
                    let consumer = self.options.consumer.as_str();
                    tracing::debug!(stream = %self.stream, consumer, reason, "the durable consumer opens again");
                    *pull = None;
                }
            }
        }
    }

    async fn open(&self) -> Result<Pull, BusError> {
        let call = Call { verb: "consume", object: &self.stream };
        let mut link = self.bus.link();
        loop {
            let up = link.wait_for(|state| matches!(state, LinkState::Up { .. })).await;
            let made_on = *up.map_err(|e| call.link(e))?;
            match self.make_consumer().await {
                Ok(()) => {
                    let size = PullSize { messages: 1, bytes: PULL_BYTES };
                    let consumer = self.options.consumer.as_str();
                    let pull = Pull::open(&self.bus, &self.stream, consumer, made_on, size).await;
                    return pull.map_err(|e| call.link(e));
                }
                Err(BusError::Link { .. }) => tokio::time::sleep(REOPEN_PAUSE).await,
                Err(e) => return Err(e),
            }
        }
    }

    async fn make_consumer(&self) -> Result<(), BusError> {
        let DurableOptions { consumer, filters, in_flight_max, .. } = &self.options;
        let stream = &self.stream;
        let mut config = json!({
            "durable_name": consumer,
            "name": consumer,
            "ack_policy": "explicit",
            "deliver_policy": "all",
            "replay_policy": "instant",
            "max_deliver": -1,
            "max_ack_pending": in_flight_max.max(&1),
            "ack_wait": UNSETTLED_WAIT.as_nanos() as u64,
        });
        if !filters.is_empty() {
            config["filter_subjects"] = json!(filters);
        }
        let request = json!({ "stream_name": &**stream, "config": config });
        let call = Call { verb: "consume", object: stream };
        let subject = format!("CONSUMER.CREATE.{stream}.{consumer}");
        let made = self.bus.call::<_, IgnoredAny>(call, &subject, &request).await;
        made.map(|_| ()).map_err(|e| no_stream(stream, e))
    }

    async fn handle<H, F>(&self, delivery: Delivery, handler: &H)
    where
        H: Fn(LogMessage) -> F,
        F: Future<Output = Outcome>,
    {
        let handling = handler(delivery.message.clone());
        tokio::pin!(handling);
        let outcome = loop {
            tokio::select! {
                outcome = &mut handling => break outcome,
                () = tokio::time::sleep(PROGRESS_EVERY) => {
                    // Unsent, the message may come a second time, which handlers have to bear anyway.
                    let _ = self.bus.client().publish(delivery.settle_at.clone(), "+WPI".into()).await;
                }
            }
        };
        match outcome {
            Outcome::Ack => self.settle(&delivery, "+ACK".into()).await,
            Outcome::RetryAfter(wait) => self.settle(&delivery, not_yet(wait)).await,
            Outcome::Reject { reason, path } => self.park(&delivery, &reason, &path).await,
        }
    }

    async fn park(&self, delivery: &Delivery, reason: &str, path: &str) {
        let DurableOptions { target, consumer, .. } = &self.options;
        let letter = DeadLetter { target, consumer, reason, path }.of(&delivery.message);
        let stream = subject::dead_letter_stream(target);
        match self.bus.publisher().publish(&stream, &letter, None).await {
            Ok(_) => self.settle(delivery, format!("+TERM {}", one_line(reason)).into()).await,
            Err(error) => {
                let wait = park_again(delivery.deliveries);
                let seq = delivery.message.seq();
                tracing::warn!(stream = %self.stream, seq, %error, "a dead letter was not stored; the message comes again");
                self.settle(delivery, not_yet(wait)).await;
            }
        }
    }

    /// Tells the server, and waits until it has taken it in; over a lost link too, until the message
    /// would come again anyway.
    async fn settle(&self, delivery: &Delivery, word: Bytes) {
        let mut link = self.bus.link();
        let settled = async {
            loop {
                let up = link.wait_for(|state| matches!(state, LinkState::Up { .. })).await;
                let Ok(made_on) = up.map(|state| *state) else { return };
                let request = async_nats::Request::new().payload(word.clone()).timeout(Some(SETTLE_WAIT));
                let request = self.bus.client().send_request(delivery.settle_at.clone(), request);
                tokio::select! {
                    answer = request => if answer.is_ok() { return },
                    _ = link.wait_for(|now| *now != made_on) => {}
                }
                tokio::time::sleep(SETTLE_PAUSE).await;
            }
        };
        if timeout(UNSETTLED_WAIT, settled).await.is_err() {
            let seq = delivery.message.seq();
            tracing::debug!(stream = %self.stream, seq, "the server did not confirm; the message comes again");
        }
    }
}

fn not_yet(wait: Duration) -> Bytes {
    format!("-NAK {{\"delay\": {}}}", wait.as_nanos()).into()
}

fn park_again(deliveries: u64) -> Duration {
    let doublings = u32::try_from(deliveries.saturating_sub(1)).unwrap_or(u32::MAX).min(6);
    PARK_AGAIN.saturating_mul(1 << doublings).min(Duration::from_secs(60))
}

/// The server keeps a reason of one line; the dead letter has the whole text.
fn one_line(text: &str) -> String {
    text.chars().take(200).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
