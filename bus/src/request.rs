//! Commands: request and reply, both JSON, not stored.

use std::time::Duration;

use async_nats::{RequestErrorKind, Subject, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    Bus, BusError, LinkState, RequestError,
    api::Call,
    link::{Denial, Denials},
};

/// How long [`Bus::serve`] waits until the server has taken the subscription in.
const SERVE_WAIT: Duration = Duration::from_secs(5);
/// How long a denial that the server has told already may be on its way through the client library, which
/// hands denials over in a task of its own while answers overtake them.
const DENIAL_WAIT: Duration = Duration::from_millis(20);

impl Bus {
    /// Sends a command and waits for its answer, both JSON.
    pub async fn request<C: Serialize + Sync, R: DeserializeOwned>(
        &self,
        subject: &str,
        command: &C,
        wait: Duration,
    ) -> Result<R, RequestError> {
        let call = Call { verb: "ask on", object: subject };
        if let LinkState::Down { since } = *self.link().borrow() {
            // It would wait in a buffer and be carried out when nobody waits for it any more.
            return Err(call.link(format!("the connection is down since {since}")).into());
        }
        let body = serde_json::to_vec(command).map_err(|e| call.answer(e))?;
        let mut denials = self.denials();
        let request = async_nats::Request::new().payload(body.into()).timeout(Some(wait));
        let answer = tokio::select! {
            answer = self.client().send_request(subject.to_owned(), request) => answer,
            denial = denials.of(|denied| denied == subject) => {
                let (subject, reason) = (denial.subject, denial.reason);
                return Err(BusError::Denied { subject, reason }.into());
            }
        };
        let subject = subject.to_owned();
        let answer = answer.map_err(|e| match e.kind() {
            RequestErrorKind::NoResponders => RequestError::NoResponders { subject: subject.clone() },
            RequestErrorKind::TimedOut => {
                let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
                RequestError::TimedOut { subject: subject.clone(), wait_ms }
            }
            _ => RequestError::Bus(call.link(e)),
        })?;
        serde_json::from_slice(&answer.payload).map_err(|source| RequestError::Malformed { subject, source })
    }

    /// Serves commands on a subject (wildcards allowed) until the [`Requests`] are dropped.
    ///
    /// When it returns, the server knows of it: a request is answered from then on.
    /// Errors: [`BusError::Denied`], the link.
    pub async fn serve(&self, subject: &str) -> Result<Requests, BusError> {
        let call = Call { verb: "serve", object: subject };
        let mut denials = self.denials();
        let subscriber = self.client().subscribe(subject.to_owned()).await.map_err(|e| call.link(e))?;
        let settled = async {
            self.round_trip().await;
            tokio::time::sleep(DENIAL_WAIT).await;
        };
        tokio::select! {
            biased;
            Denial { subject, reason } = denials.of(|denied| denied == subject) => {
                Err(BusError::Denied { subject, reason })
            }
            () = settled => Ok(Requests { bus: self.clone(), subject: subject.to_owned(), subscriber, denials }),
        }
    }

    /// Waits until the server has worked off what was sent before. Whatever answers, it answers behind that;
    /// a connection that may not ask gets its answer as a denial.
    async fn round_trip(&self) {
        const PROBE: &str = "$JS.API.INFO";
        let mut denials = self.denials();
        let request = async_nats::Request::new().payload(Bytes::new()).timeout(Some(SERVE_WAIT));
        tokio::select! {
            _ = self.client().send_request(PROBE, request) => {}
            _ = denials.of(|denied| denied == PROBE) => {}
        }
    }
}

/// The commands that come in on one subject.
#[derive(Debug)]
pub struct Requests {
    bus: Bus,
    subject: String,
    subscriber: Subscriber,
    denials: Denials,
}

impl Requests {
    /// The next command; none when the connection was drained. Cancel safe.
    ///
    /// A server whose permissions were changed may take the subscription away without ending it: that is
    /// written to the log of this process. The next connect that is granted it brings the commands again.
    pub async fn next(&mut self) -> Option<Request> {
        let message = loop {
            tokio::select! {
                message = self.subscriber.next() => break message?,
                denial = self.denials.of(|denied| denied == self.subject) => {
                    let (subject, reason) = (denial.subject, denial.reason);
                    tracing::warn!(subject, reason, "NATS denies the commands to this connection; grant them again");
                }
            }
        };
        let (subject, body) = (message.subject.to_string(), message.payload);
        Some(Request { subject, body, answer_to: message.reply, bus: self.bus.clone() })
    }
}

/// One command.
#[derive(Debug)]
pub struct Request {
    /// The subject that it came in on.
    pub subject: String,
    /// Its body: JSON text.
    pub body: Bytes,
    answer_to: Option<Subject>,
    bus: Bus,
}

impl Request {
    /// Answers. A request without a return address is answered with silence.
    pub async fn reply<R: Serialize + Sync>(&self, answer: &R) -> Result<(), BusError> {
        let call = Call { verb: "answer on", object: &self.subject };
        let Some(answer_to) = &self.answer_to else { return Ok(()) };
        let body = serde_json::to_vec(answer).map_err(|e| call.answer(e))?;
        let sent = self.bus.client().publish(answer_to.clone(), body.into()).await;
        sent.map_err(|e| call.link(e))
    }
}
