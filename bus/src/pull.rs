//! One pull consumer's deliveries: asks the server for a batch at a time and tells messages from the
//! server's remarks. The base of the ordered reader and of the durable loop.
//!
//! Messages are told by their reply subject, not by the absence of a status: a stored message may carry
//! any header block, also one that looks like a remark.

use std::{sync::Arc, time::Duration};

use async_nats::{Message, StatusCode, Subscriber};
use futures_util::{FutureExt, StreamExt};
use serde_json::json;
use tokio::{
    sync::watch,
    task::unconstrained,
    time::{Instant, timeout_at},
};

use crate::{Bus, LinkState, message::Place};

/// How long one request stays open on an idle log.
const REQUEST_EXPIRES: Duration = Duration::from_secs(30);
/// How often the server says that it lives while there is nothing to deliver.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// After this silence (two heartbeats and some slack) the request counts as lost.
const SILENCE_MAX: Duration = Duration::from_secs(12);

/// How much one request asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PullSize {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
}

/// What a pull brought.
#[derive(Debug)]
pub(crate) enum Pulled {
    /// A stored message.
    Message(Place, Message),
    /// The consumer or the connection is not what it was; open another one. Says why.
    Gone(String),
}

/// The deliveries of one consumer over one connection.
#[derive(Debug)]
pub(crate) struct Pull {
    bus: Bus,
    subject: String,
    inbox: String,
    subscriber: Subscriber,
    link: watch::Receiver<LinkState>,
    made_on: LinkState,
    open: Option<PullSize>,
    size: PullSize,
    heard: Instant,
}

impl Pull {
    /// Listens for a consumer that exists. `made_on` is the link's state before the consumer was looked up.
    pub(crate) async fn open(
        bus: &Bus,
        stream: &Arc<str>,
        consumer: &str,
        made_on: LinkState,
        size: PullSize,
    ) -> Result<Self, async_nats::SubscribeError> {
        let inbox = bus.client().new_inbox();
        let subscriber = bus.client().subscribe(inbox.clone()).await?;
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}");
        let (bus, link, heard) = (bus.clone(), bus.link(), Instant::now());
        Ok(Self { bus, subject, inbox, subscriber, link, made_on, open: None, size, heard })
    }

    /// Changes how much the next request asks for.
    pub(crate) fn resize(&mut self, messages: usize) {
        self.size.messages = messages;
    }

    /// Whether the server owes messages: it was asked for more than has come.
    pub(crate) fn is_asking(&self) -> bool {
        self.open.is_some()
    }

    /// Waits for the next message, or for the end of this consumer. Cancel safe.
    pub(crate) async fn next(&mut self) -> Pulled {
        loop {
            if self.open.is_none()
                && let Err(reason) = self.request().await
            {
                return Pulled::Gone(reason);
            }
            let made_on = self.made_on;
            let received = tokio::select! {
                // What is buffered is taken in before a change of the link ends this consumer.
                biased;
                received = timeout_at(self.heard + SILENCE_MAX, self.subscriber.next()) => received,
                _ = self.link.wait_for(|now| *now != made_on) => {
                    return Pulled::Gone("the connection was lost".to_owned());
                }
            };
            let message = match received {
                Ok(Some(message)) => message,
                Ok(None) => return Pulled::Gone("the connection was closed".to_owned()),
                Err(_) => return Pulled::Gone("the server fell silent".to_owned()),
            };
            self.heard = Instant::now();
            if let Some(pulled) = self.take(message) {
                return pulled;
            }
        }
    }

    /// The next message if it is there already.
    pub(crate) fn ready(&mut self) -> Option<Pulled> {
        while self.open.is_some() {
            // Without tokio's budget, which would end the take after 128 messages.
            let message = unconstrained(self.subscriber.next()).now_or_never()??;
            if let Some(pulled) = self.take(message) {
                return Some(pulled);
            }
        }
        None
    }

    async fn request(&mut self) -> Result<(), String> {
        let PullSize { messages, bytes } = self.size;
        let request = json!({
            "batch": messages,
            "max_bytes": bytes,
            "expires": REQUEST_EXPIRES.as_nanos() as u64,
            "idle_heartbeat": HEARTBEAT.as_nanos() as u64,
        });
        let (subject, inbox) = (self.subject.clone(), self.inbox.clone());
        let sent = self.bus.client().publish_with_reply(subject, inbox, request.to_string().into()).await;
        sent.map_err(|e| e.to_string())?;
        self.open = Some(self.size);
        self.heard = Instant::now();
        Ok(())
    }

    fn take(&mut self, message: Message) -> Option<Pulled> {
        let Some(place) = message.reply.as_deref().and_then(Place::read) else {
            return self.remark(&message);
        };
        // The server ends a request at the same counts, and says so only for the first of them.
        self.open = self.open.and_then(|open| {
            let messages = open.messages.checked_sub(1).filter(|left| *left > 0)?;
            let bytes = open.bytes.checked_sub(message.length).filter(|left| *left > 0)?;
            Some(PullSize { messages, bytes })
        });
        Some(Pulled::Message(place, message))
    }

    fn remark(&mut self, message: &Message) -> Option<Pulled> {
        let description = message.description.as_deref().unwrap_or_default();
        let status = message.status?;
        match status.as_u16() {
            // An idle heartbeat: that it came is all it says.
            100 => None,
            404 | 408 => {
                self.open = None;
                None
            }
            // Said behind the last message of a request, which was counted already.
            409 if description.starts_with("Batch Completed") => None,
            409 if description.starts_with("Message Size Exceeds") => {
                self.open = None;
                None
            }
            _ if status == StatusCode::NO_RESPONDERS => {
                Some(Pulled::Gone("the consumer does not exist any more".to_owned()))
            }
            code => Some(Pulled::Gone(format!("{code} {description}"))),
        }
    }
}
