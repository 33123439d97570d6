//! Publishing to a log: plain, or as one atomic batch, each with a fence if need be.
//!
//! A batch is staged by the server message by message and stored when its last message, the commit, is
//! there. The server answers every message that names an inbox: a staged one with an empty payload, a
//! refused one with an error, the commit with the acknowledgement. A thousand answers cost as much as a
//! thousand messages, so only the first message and the commit ask for one. When a message between them
//! was refused, the commit is answered "incomplete" without a reason: then, and only then, the batch is
//! sent once more with an answer to every message, to learn it.

use std::{str::FromStr, time::Duration};

use async_nats::{
    HeaderMap, HeaderName, HeaderValue, Message, Request, StatusCode, Subscriber, header,
    jetstream::{ErrorCode, publish::PublishAck, response::Response},
};
use bus_schema::stream::BATCH_EVENTS_MAX;
use bytes::Bytes;
use futures_util::StreamExt;

use crate::{
    Bus, LinkState, PublishError, PublishErrorKind,
    error::Cause,
    link::{Denial, Denials},
};

/// How long an acknowledgement may take before the outcome counts as unknown: a busy disk that syncs
/// every message needs seconds, not more.
const ACK_WAIT: Duration = Duration::from_secs(10);
/// What nats-server 2.15 does when it cannot write a stream: it answers no publish to it any more, until it
/// is started again. So a silence is all that a publisher sees of a full disk.
pub const STORES_NOTHING: &str = "if this goes on, nats-server cannot write its store: make room on that disk, then start nats-server again";
/// Longest batch id that JetStream takes, in bytes.
const BATCH_ID_BYTES_MAX: usize = 64;
/// The fence's subject, when it is another than the message's. The client library has no name for it.
const EXPECTED_SUBJECT: HeaderName = HeaderName::from_static("Nats-Expected-Last-Subject-Sequence-Subject");

/// A message to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// The subject that it is stored under.
    pub subject: String,
    /// Its headers, without those of NATS (`Nats-…`), which the publisher sets.
    pub headers: Vec<(String, String)>,
    /// The payload.
    pub body: Bytes,
    /// What the duplicate window knows it by; empty = none.
    pub message_id: String,
}

/// A condition of a publish: the last message of the stream under `subject` has the sequence `seq`
/// (0 = there is none). It is checked when the message is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    /// The subject, which may be another than the message's.
    pub subject: String,
    /// The last sequence under it.
    pub seq: u64,
}

/// Where a message is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// Its sequence.
    pub seq: u64,
    /// It was there before, under the same message id; `seq` is the first one's.
    pub duplicate: bool,
}

/// Where a batch is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishedBatch {
    /// The sequence of its first message; the others follow without a gap.
    pub first_seq: u64,
    /// The sequence of its last message.
    pub last_seq: u64,
}

/// Publishes to logs. Clones share the connection; calls may run side by side.
#[derive(Clone, Debug)]
pub struct Publisher {
    bus: Bus,
}

/// Which messages of a batch the server is asked to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answers {
    /// The first, which shows an early refusal, and the commit.
    Ends,
    /// All of them.
    Every,
}

/// What is being published where, for the text of an error.
struct Attempt<'a> {
    stream: &'a str,
    what: String,
}

impl Attempt<'_> {
    fn error(&self, kind: PublishErrorKind, reason: impl Into<String>) -> PublishError {
        let (stream, what, reason) = (self.stream.to_owned(), self.what.clone(), reason.into());
        PublishError { kind, stream, what, reason, code: None, source: None }
    }

    fn caused(&self, kind: PublishErrorKind, reason: &str, source: impl Into<Cause>) -> PublishError {
        PublishError { source: Some(source.into()), ..self.error(kind, reason) }
    }

    fn denied(&self, denial: Denial) -> PublishError {
        self.error(PublishErrorKind::Refused, format!("{}; use credentials that may", denial.reason))
    }

    fn unknown(&self, reason: &str) -> PublishError {
        let reason = format!("{reason}; it may be stored or not, so publish it again unchanged");
        self.error(PublishErrorKind::Unknown, reason)
    }
}

impl Publisher {
    pub(crate) fn new(bus: Bus) -> Self {
        Self { bus }
    }

    /// Stores one message and waits until the stream has it.
    pub async fn publish(
        &self,
        stream: &str,
        message: &Outgoing,
        fence: Option<&Fence>,
    ) -> Result<Published, PublishError> {
        let attempt = Attempt { stream, what: message.subject.clone() };
        let mut headers = self.headers_of(&attempt, message)?;
        set_conditions(&attempt, &mut headers, fence)?;
        let link = self.link_up(&attempt)?;
        let mut denials = self.bus.denials();
        let request = Request::new().headers(headers).payload(message.body.clone()).timeout(None);
        let answer = self.bus.client().send_request(message.subject.clone(), request);
        let answer = async {
            match answer.await {
                Ok(answer) => acknowledged(&attempt, &answer),
                Err(e) if e.kind() == async_nats::RequestErrorKind::NoResponders => Err(no_stream(&attempt)),
                Err(e) => Err(attempt.caused(PublishErrorKind::Link, "the connection was closed", e)),
            }
        };
        let ack =
            self.decided(&attempt, link, &mut denials, |subject| subject == message.subject, answer).await?;
        Ok(Published { seq: ack.sequence, duplicate: ack.duplicate })
    }

    /// Stores all of the messages or none, without a gap between them, and waits until the stream has them.
    ///
    /// `batch_id`: 1 to 64 bytes, another one for every attempt. At most [`BATCH_EVENTS_MAX`] messages.
    pub async fn publish_batch(
        &self,
        stream: &str,
        batch_id: &str,
        messages: &[Outgoing],
        fence: Option<&Fence>,
    ) -> Result<PublishedBatch, PublishError> {
        let published = self.try_batch(stream, batch_id, messages, fence, Answers::Ends).await;
        match published {
            Err(error) if error.code == Some(ErrorCode::ATOMIC_PUBLISH_INCOMPLETE_BATCH.0) => {
                let again = format!("again-{:016x}", getrandom::u64().unwrap_or_default());
                self.try_batch(stream, &again, messages, fence, Answers::Every).await
            }
            published => published,
        }
    }

    async fn try_batch(
        &self,
        stream: &str,
        batch_id: &str,
        messages: &[Outgoing],
        fence: Option<&Fence>,
        asked: Answers,
    ) -> Result<PublishedBatch, PublishError> {
        let attempt = Attempt { stream, what: format!("a batch of {}", messages.len()) };
        let staged = self.stage(&attempt, batch_id, messages, fence)?;
        let link = self.link_up(&attempt)?;
        let mut denials = self.bus.denials();
        let client = self.bus.client();
        let inbox = client.new_inbox();
        let closed = "the connection was closed";
        let subscriber = client.subscribe(inbox.clone()).await;
        let mut answers = subscriber.map_err(|e| attempt.caused(PublishErrorKind::Link, closed, e))?;
        let last = messages.len().saturating_sub(1);
        let sent = async {
            for (index, (message, headers)) in messages.iter().zip(staged).enumerate() {
                let (subject, body) = (message.subject.clone(), message.body.clone());
                let sent = if asked == Answers::Every || index == 0 || index == last {
                    client.publish_with_reply_and_headers(subject, inbox.clone(), headers, body).await
                } else {
                    client.publish_with_headers(subject, headers, body).await
                };
                sent.map_err(|e| attempt.caused(PublishErrorKind::Unknown, closed, e))?;
            }
            // The answer decides; sending alone never ends the attempt well.
            std::future::pending().await
        };
        let answer = async {
            tokio::select! {
                failed = sent => failed,
                answer = commit_answer(&attempt, &mut answers) => answer,
            }
        };
        let ours = |subject: &str| messages.iter().any(|message| message.subject == subject);
        let ack = self.decided(&attempt, link, &mut denials, ours, answer).await?;
        let others = messages.len().saturating_sub(1) as u64;
        Ok(PublishedBatch { first_seq: ack.sequence.saturating_sub(others), last_seq: ack.sequence })
    }

    /// Waits for what decides an attempt: the answer, a denial, the loss of the link, or its time.
    async fn decided(
        &self,
        attempt: &Attempt<'_>,
        link: LinkState,
        denials: &mut Denials,
        ours: impl Fn(&str) -> bool,
        answer: impl Future<Output = Result<PublishAck, PublishError>>,
    ) -> Result<PublishAck, PublishError> {
        let mut now = self.bus.link();
        tokio::select! {
            biased;
            answer = answer => answer.inspect(|_| self.bus.acknowledged(true)),
            denial = denials.of(ours) => Err(attempt.denied(denial)),
            _ = now.wait_for(|now| *now != link) => Err(attempt.unknown("the connection was lost")),
            () = tokio::time::sleep(ACK_WAIT) => {
                self.bus.acknowledged(false);
                let reason = format!("no acknowledgement came within {} s", ACK_WAIT.as_secs());
                Err(attempt.error(PublishErrorKind::Unknown, format!("{reason}{}", advice(PublishErrorKind::Unknown))))
            }
        }
    }

    fn link_up(&self, attempt: &Attempt<'_>) -> Result<LinkState, PublishError> {
        let state = *self.bus.link().borrow();
        match state {
            LinkState::Up { .. } => Ok(state),
            LinkState::Down { since } => {
                let reason = format!(
                    "the connection is down since {since}; nothing was sent, it comes back by itself"
                );
                Err(attempt.error(PublishErrorKind::Link, reason))
            }
        }
    }

    /// The headers of every message of a batch; checked as a whole before the first is sent.
    fn stage(
        &self,
        attempt: &Attempt<'_>,
        batch_id: &str,
        messages: &[Outgoing],
        fence: Option<&Fence>,
    ) -> Result<Vec<HeaderMap>, PublishError> {
        if messages.is_empty() || batch_id.is_empty() || batch_id.len() > BATCH_ID_BYTES_MAX {
            let reason = format!("a batch needs a message and an id of 1 to {BATCH_ID_BYTES_MAX} bytes");
            return Err(attempt.error(PublishErrorKind::Invalid, reason));
        }
        if messages.len() > BATCH_EVENTS_MAX {
            let reason = format!("a batch has at most {BATCH_EVENTS_MAX} messages; publish it in parts");
            return Err(attempt.error(PublishErrorKind::TooLarge, reason));
        }
        let id = header_value(attempt, header::NATS_BATCH_ID.as_ref(), batch_id)?;
        let mut staged = Vec::with_capacity(messages.len());
        for (index, message) in messages.iter().enumerate() {
            let mut headers = self.headers_of(attempt, message)?;
            // JetStream takes a fence on the first message only; it holds for the commit of them all. So does
            // the stream's name: no other stream stages a message whose batch it did not see begin.
            if index == 0 {
                set_conditions(attempt, &mut headers, fence)?;
            }
            headers.insert(header::NATS_BATCH_ID, id.clone());
            headers.insert(header::NATS_BATCH_SEQUENCE, HeaderValue::from(index as u64 + 1));
            if index + 1 == messages.len() {
                headers.insert(header::NATS_BATCH_COMMIT, header::NATS_BATCH_COMMIT_FINAL);
            }
            staged.push(headers);
        }
        Ok(staged)
    }

    /// The headers of a message, without the conditions under which it is stored.
    fn headers_of(&self, attempt: &Attempt<'_>, message: &Outgoing) -> Result<HeaderMap, PublishError> {
        let mut headers = HeaderMap::new();
        let mut bytes = message.body.len();
        for (name, value) in &message.headers {
            let parsed = HeaderName::from_str(name).map_err(|e| {
                let reason =
                    format!("the name of the header {name:?} cannot be sent; use letters, digits and -");
                attempt.caused(PublishErrorKind::Invalid, &reason, e)
            })?;
            headers.append(parsed, header_value(attempt, name, value)?);
            bytes += name.len() + value.len();
        }
        if !message.message_id.is_empty() {
            let id = header_value(attempt, header::NATS_MESSAGE_ID.as_ref(), &message.message_id)?;
            headers.insert(header::NATS_MESSAGE_ID, id);
        }
        let bytes_max = self.bus.client().max_payload();
        if bytes > bytes_max {
            let reason = format!("a message of {bytes} bytes is larger than the server takes ({bytes_max})");
            return Err(attempt.error(PublishErrorKind::TooLarge, reason));
        }
        Ok(headers)
    }
}

/// The stream that shall store it, and the fence.
fn set_conditions(
    attempt: &Attempt<'_>,
    headers: &mut HeaderMap,
    fence: Option<&Fence>,
) -> Result<(), PublishError> {
    headers.insert(header::NATS_EXPECTED_STREAM, header_value(attempt, "stream", attempt.stream)?);
    if let Some(fence) = fence {
        headers.insert(header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, HeaderValue::from(fence.seq));
        headers.insert(EXPECTED_SUBJECT, header_value(attempt, "fence", &fence.subject)?);
    }
    Ok(())
}

fn header_value(attempt: &Attempt<'_>, name: &str, value: &str) -> Result<HeaderValue, PublishError> {
    HeaderValue::from_str(value).map_err(|e| {
        let reason = format!("the value of the header {name} has a line break; leave it out");
        attempt.caused(PublishErrorKind::Invalid, &reason, e)
    })
}

/// Waits for the answer to the commit, or for the first refusal.
async fn commit_answer(attempt: &Attempt<'_>, answers: &mut Subscriber) -> Result<PublishAck, PublishError> {
    while let Some(answer) = answers.next().await {
        let staged = answer.payload.is_empty() && answer.status.is_none();
        if !staged {
            return acknowledged(attempt, &answer);
        }
    }
    Err(attempt.unknown("the connection was closed"))
}

fn acknowledged(attempt: &Attempt<'_>, answer: &Message) -> Result<PublishAck, PublishError> {
    if answer.status == Some(StatusCode::NO_RESPONDERS) {
        return Err(no_stream(attempt));
    }
    match serde_json::from_slice::<Response<PublishAck>>(&answer.payload) {
        Ok(Response::Ok(ack)) => Ok(ack),
        Ok(Response::Err { error }) => {
            let code = error.error_code();
            let kind = kind_of(code);
            let refused = attempt.error(kind, format!("{error}{}", advice(kind)));
            Err(PublishError { code: Some(code.0), ..refused })
        }
        Err(e) => {
            let reason = "what answered is not JetStream; look at who else listens on the subject";
            Err(attempt.caused(PublishErrorKind::Unknown, reason, e))
        }
    }
}

fn no_stream(attempt: &Attempt<'_>) -> PublishError {
    attempt.error(PublishErrorKind::NoStream, "no stream takes it; start the target once, which makes it")
}

fn kind_of(code: ErrorCode) -> PublishErrorKind {
    match code {
        ErrorCode::ATOMIC_PUBLISH_CONTAINS_DUPLICATE_MESSAGE => PublishErrorKind::Duplicate,
        ErrorCode::STREAM_WRONG_LAST_SEQUENCE | ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT => {
            PublishErrorKind::Fenced
        }
        ErrorCode::STREAM_STORE_FAILED
        | ErrorCode::INSUFFICIENT_RESOURCES
        | ErrorCode::STORAGE_RESOURCES_EXCEEDED
        | ErrorCode::ACCOUNT_RESOURCES_EXCEEDED => PublishErrorKind::Full,
        ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM
        | ErrorCode::STREAM_HEADER_EXCEEDS_MAXIMUM
        | ErrorCode::ATOMIC_PUBLISH_TOO_LARGE_BATCH => PublishErrorKind::TooLarge,
        ErrorCode::ATOMIC_PUBLISH_TOO_MANY_INFLIGHT | ErrorCode::STREAM_TOO_MANY_REQUESTS => {
            PublishErrorKind::Busy
        }
        ErrorCode::STREAM_NOT_MATCH | ErrorCode::STREAM_NOT_FOUND => PublishErrorKind::NoStream,
        // Each of these means that the attempt was not stored, but that an earlier one may have been.
        ErrorCode::ATOMIC_PUBLISH_INCOMPLETE_BATCH
        | ErrorCode::STREAM_DUPLICATE_MESSAGE_CONFLICT
        | ErrorCode::STREAM_EXPECTED_LAST_SEQ_PER_SUBJECT_NOT_READY
        | ErrorCode::CLUSTER_NOT_AVAILABLE
        | ErrorCode::CLUSTER_NOT_LEADER => PublishErrorKind::Unknown,
        _ => PublishErrorKind::Server,
    }
}

fn advice(kind: PublishErrorKind) -> String {
    let advice = match kind {
        PublishErrorKind::Duplicate => "a part of it is stored already",
        PublishErrorKind::Fenced => "another process has the lease, so stop acting",
        PublishErrorKind::Full => {
            "raise the log's size limit (service.log_bytes_max), then start the service again"
        }
        PublishErrorKind::TooLarge => "publish less at once",
        PublishErrorKind::Busy => "wait a random moment, then publish plain",
        PublishErrorKind::NoStream => "the subject belongs to another stream, or to none",
        PublishErrorKind::Unknown => return format!("; publish it again unchanged; {STORES_NOTHING}"),
        _ => return String::new(),
    };
    format!("; {advice}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_codes_have_the_kinds_that_callers_branch_on() {
        for (code, kind) in [
            (10_201, PublishErrorKind::Duplicate),
            (10_071, PublishErrorKind::Fenced),
            (10_077, PublishErrorKind::Full),
            (10_054, PublishErrorKind::TooLarge),
            (10_199, PublishErrorKind::TooLarge),
            (10_210, PublishErrorKind::Busy),
            (10_060, PublishErrorKind::NoStream),
            (10_176, PublishErrorKind::Unknown),
            (10_174, PublishErrorKind::Server),
        ] {
            assert_eq!(kind_of(ErrorCode(code)), kind, "{code}");
        }
    }
}
