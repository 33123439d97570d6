//! Redriving: copies of parked messages, page by page, published to the log that the originals stand in.
//!
//! ```text
//! the pool has all of the log ─► a page of parked messages ─► each one's original ─► mend ─► would it be taken in?
//!        ▲                                                                  no: told why ◄──┤
//!        └── the pool has the copies: what became of each is told ◄── publish the copy ◄────┘ yes
//! ```
//! Who is killed in between asks again: what was taken in is parked no more, and a copy that was published twice is
//! taken in once, because the pool remembers. The originals stand in the pool, so the log may be trimmed in front of
//! its copies; only what the pool has never read, or had no room for, is looked for in the log. Only the holder of the lease does it; the site's log knows nothing of
//! the lease, so a holder that was one may publish a last page, which changes nothing either.

use std::{collections::BTreeSet, time::Duration};

use bus::{Bus, BusError, LogMessage, Outgoing, PublishError, PublishErrorKind, Published};
use bus_schema::{
    Envelope, Hash32, Name,
    envelope::Stored,
    redrive::{Redrive, upcaster::Upcasting},
    subject,
};
use futures_util::{StreamExt, TryStreamExt, stream};
use projector::{Batch, DeadMessage, ParkedRecord, Refusal, Store};
use serde_json::Value;
use tokio::sync::watch;

use super::{applied::Progress, parked::in_log};
use crate::{error::ConsumersError, task::blocking};

/// Most messages of one page: a page is what is lost when somebody is killed, and what is told at once.
pub const PAGE_MAX: usize = 500;
/// A page ends when the bodies that it has read are so large, in bytes: a dry run tells all of them in one answer.
const PAGE_BYTES_MAX: usize = 16 << 20;
/// Messages that are looked at at once; each may have a megabyte.
const AT_ONCE: usize = 16;
/// How long the pool may take to have what the log has.
const APPLIED_WAIT: Duration = Duration::from_secs(120);
/// Most attempts to publish one copy while the link is down or no answer comes; the message id keeps it single.
const ATTEMPTS_MAX: u32 = 10;
/// The wait between two attempts: ten of them outlast the restart of a nats-server.
const ATTEMPT_WAIT: Duration = Duration::from_millis(500);

/// What is to be redriven.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Which messages.
    pub which: Which,
    /// What mends them; none = as they are, for a build that reads more than the one that parked them.
    pub upcasting: Option<Upcasting>,
    /// Only tell what would become of them.
    pub dry_run: bool,
    /// Who asks.
    pub actor: String,
    /// Only those behind this place.
    pub after: Option<(String, u64)>,
    /// At most so many, [`PAGE_MAX`] at most.
    pub limit: usize,
}

/// Which parked messages are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// The one at this place of a log.
    Place(String, u64),
    /// Those whose reason is of this kind.
    Reason(String),
    /// Those of this part of a log, both ends included.
    Range(String, u64, u64),
}

impl Which {
    /// Whether a parked message is meant.
    fn has(&self, record: &ParkedRecord) -> bool {
        match self {
            Self::Place(stream, seq) => (&record.stream, record.seq) == (stream, *seq),
            Self::Reason(text) => record.is_of_kind(text),
            Self::Range(stream, from, to) => record.stream == *stream && (*from..=*to).contains(&record.seq),
        }
    }

    /// The place before the first one that can be meant.
    fn begins_behind(&self) -> Option<(String, u64)> {
        let (Self::Place(stream, seq) | Self::Range(stream, seq, _)) = self else { return None };
        // A sequence is 1 at least.
        Some((stream.clone(), seq.checked_sub(1)?))
    }
}

/// What became of some messages.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// Each, in order of their places.
    pub letters: Vec<Looked>,
    /// There may be more: ask again with this as `after`.
    pub next: Option<(String, u64)>,
}

/// What became of one message.
#[derive(Clone, Debug, PartialEq)]
pub struct Looked {
    /// What is known of it.
    pub record: ParkedRecord,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a message, or would.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Its copy at this sequence was taken in.
    Redriven(u64),
    /// It would be taken in, as this event.
    Decodes(Box<Decoded>),
    /// It cannot be taken in.
    Dead(Refusal),
}

/// An event that a message would be.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// `<stem>.<event>`.
    pub event_type: String,
    /// CloudEvents `source`.
    pub source: String,
    /// The data.
    pub data: Value,
    /// Whether it would change anything; not when what is newer stands, or its source has said since what there is.
    pub changes: bool,
}

/// One page that is under way.
pub(crate) struct Redriving<'a> {
    /// The bus.
    pub bus: &'a Bus,
    /// The pool.
    pub store: &'a Store,
    /// How far it is.
    pub progress: &'a Progress,
    /// The target.
    pub target: &'a Name,
    /// The sites whose logs are read.
    pub sites: &'a [Name],
    /// Whether this process holds the lease.
    pub holding: &'a watch::Receiver<bool>,
    /// What is asked.
    pub asked: &'a Asked,
}

/// What is known of a message after it was looked at.
enum Step {
    Published(ParkedRecord, u64),
    Told(Looked),
}

impl Redriving<'_> {
    /// Does it. Errors: as [`super::service::Handle::redrive`].
    pub(crate) async fn page(&self) -> Result<Page, ConsumersError> {
        self.holds()?;
        let limit = self.asked.limit.clamp(1, PAGE_MAX);
        let mut records = self.records(limit).await?;
        let is_full = records.len() == limit;
        let steps = self.look_at(&mut records).await?;
        let has_more = is_full || !records.is_empty();
        let mut letters = Vec::with_capacity(steps.len());
        for step in steps {
            letters.push(match step {
                Step::Told(looked) => looked,
                Step::Published(record, copy) => self.became(record, copy).await?,
            });
        }
        let last = letters.last().filter(|_| has_more);
        let next = last.map(|Looked { record, .. }| (record.stream.clone(), record.seq));
        Ok(Page { letters, next })
    }

    /// Looks at one after the other, and takes those away that it has looked at: the others are for the next page.
    async fn look_at(&self, records: &mut Vec<ParkedRecord>) -> Result<Vec<Step>, ConsumersError> {
        let (mut steps, mut bytes) = (Vec::with_capacity(records.len()), 0);
        while bytes < PAGE_BYTES_MAX && !records.is_empty() {
            let some: Vec<ParkedRecord> = records.drain(..records.len().min(AT_ONCE)).collect();
            let looked: Vec<(Step, usize)> =
                stream::iter(some).map(|record| self.look(record)).buffered(AT_ONCE).try_collect().await?;
            bytes += looked.iter().map(|(_, bytes)| bytes).sum::<usize>();
            steps.extend(looked.into_iter().map(|(step, _)| step));
        }
        Ok(steps)
    }

    fn holds(&self) -> Result<(), ConsumersError> {
        if *self.holding.borrow() {
            return Ok(());
        }
        Err(ConsumersError::NotHolder { target: self.target.to_string() })
    }

    /// The next ones that are meant, as the pool has them when it has all of their logs. Errors: the one that is asked
    /// for was never parked.
    async fn records(&self, limit: usize) -> Result<Vec<ParkedRecord>, ConsumersError> {
        let (which, after) = (self.asked.which.clone(), self.asked.after.clone());
        self.is_of_a_log(&which)?;
        self.is_applied().await?;
        let (reader, wanted) = (self.store.reader(), which.clone());
        let records = tokio::task::spawn_blocking(move || {
            let after = after.or_else(|| wanted.begins_behind());
            let after = after.as_ref().map(|(stream, seq)| (stream.as_str(), *seq));
            // One that is named is told of, also when its copy was taken in already.
            let meant = |record: &ParkedRecord| {
                wanted.has(record) && (record.redriven.is_none() || matches!(wanted, Which::Place(..)))
            };
            let limit = if matches!(wanted, Which::Place(..)) { 1 } else { limit };
            reader.parked_after(after, limit, meant)
        });
        let records =
            records.await.map_err(|source| ConsumersError::Task { task: "redrive", source })??.value;
        match &which {
            Which::Place(stream, seq) if records.is_empty() && self.asked.after.is_none() => {
                Err(ConsumersError::NotParked(format!(
                    "{stream}:{seq} is no dead letter; 'farside dlq list --all' shows those that there are"
                )))
            }
            _ => Ok(records),
        }
    }

    /// Errors: what is asked for names a log that there is not, so nothing in it is parked whatever the pool knows.
    fn is_of_a_log(&self, which: &Which) -> Result<(), ConsumersError> {
        let Which::Range(stream, ..) = which else { return Ok(()) };
        let logs = self.progress.all();
        if logs.contains_key(stream) {
            return Ok(());
        }
        let logs: Vec<_> = logs.keys().map(String::as_str).collect();
        Err(ConsumersError::NotParked(format!("there is no log {stream}; name one of {}", logs.join(", "))))
    }

    /// Waits until the pool has every copy that was published before: it must not be published again.
    async fn is_applied(&self) -> Result<(), ConsumersError> {
        let streams: BTreeSet<String> = self.progress.all().into_keys().collect();
        for stream in streams.iter().filter(|stream| **stream != subject::target_stream(self.target)) {
            let last = self.bus.stream_state(stream).await?.last_seq;
            self.progress.passes(stream, last, APPLIED_WAIT).await?;
        }
        Ok(())
    }

    /// Looks at one; answers the size of its body, too. Errors: those that the others would meet as well.
    async fn look(&self, record: ParkedRecord) -> Result<(Step, usize), ConsumersError> {
        let told = |record, outcome, bytes| Ok((Step::Told(Looked { record, outcome }), bytes));
        if let Some(copy) = record.redriven {
            return told(record, Outcome::Redriven(copy), 0);
        }
        let copy = match self.copy(&record).await.or_else(|error| of_one(error).map(Err))? {
            Ok(copy) => copy,
            Err(refusal) => return told(record, Outcome::Dead(refusal), 0),
        };
        let bytes = copy.body.len();
        let decoded = match decoded(&record, &copy) {
            Ok(decoded) => decoded,
            Err(refusal) => return told(record, Outcome::Dead(refusal), bytes),
        };
        if self.asked.dry_run {
            let changes = self.rehearse(&record, copy).await?;
            return told(record, Outcome::Decodes(Box::new(Decoded { changes, ..decoded })), bytes);
        }
        match self.publish(&record.stream, &copy).await {
            Ok(published) => Ok((Step::Published(record, published.seq), bytes)),
            Err(error) => told(record, Outcome::Dead(of_one(error)?), bytes),
        }
    }

    /// The copy of a message, or why there can be none.
    async fn copy(&self, record: &ParkedRecord) -> Result<Result<Outgoing, Refusal>, ConsumersError> {
        let dead = |reason: String| Ok(Err(Refusal { reason, path: "$".to_owned() }));
        if record.stream == subject::target_stream(self.target) {
            return dead("it is a fact of the target itself, which a newer farside states and reads: run that one, then 'farside rebuild'".to_owned());
        }
        // Its log may be there or not: nobody would see what became of a copy.
        if !self.sites.iter().any(|site| subject::site_stream(site) == record.stream) {
            return dead(format!(
                "{} is a log that this farside does not read; put its site into `service.sites`",
                record.stream
            ));
        }
        if record.is_over {
            return Ok(Err(Refusal { reason: record.reason.clone(), path: record.path.clone() }));
        }
        // Of the log itself: the pool may not know yet.
        let last = self.bus.stream_state(&record.stream).await?.last_seq;
        if last < record.seq {
            return dead(format!(
                "{} was made anew or has lost its end, and gives out its sequences again: it is at {last}, and a copy has to stand behind {}; redrive it when the log is there",
                record.stream,
                record.place()
            ));
        }
        let Some(original) = self.original(record).await? else {
            let dead_letters = subject::dead_letter_stream(self.target);
            return dead(format!(
                "neither the pool nor the log holds {} any more, so it cannot be copied; {dead_letters} has its headers and body: have it published again",
                record.place()
            ));
        };
        Ok(Ok(self.copy_of(record, &original)))
    }

    /// The message that is parked: from the pool, or else from the log, which may have another one at its place.
    async fn original(&self, record: &ParkedRecord) -> Result<Option<LogMessage>, ConsumersError> {
        let (reader, of) = (self.store.reader(), record.clone());
        let kept = blocking("redrive", move || Ok(reader.original(&of)?.value)).await?;
        if let Some(DeadMessage { subject, headers, body }) = kept {
            let stored_at = record.stored_at.unwrap_or_default();
            return Ok(Some(LogMessage::kept(&record.stream, record.seq, stored_at, subject, headers, body)));
        }
        in_log(self.bus, record).await
    }

    fn copy_of(&self, record: &ParkedRecord, original: &LogMessage) -> Outgoing {
        let is_ours = |name: &str| {
            let starts =
                |with: &str| name.get(..with.len()).is_some_and(|name| name.eq_ignore_ascii_case(with));
            starts("Nats-") || starts("Farside-")
        };
        let headers = original.headers().into_iter().filter(|(name, _)| !is_ours(name));
        let mut headers: Vec<_> = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let upcasting = self.asked.upcasting.as_ref();
        let patch = upcasting.and_then(|upcasting| {
            let schema = dataschema(original);
            upcasting.patch(&type_of(original.subject()), schema.as_deref(), &record.reason)
        });
        let upcaster = upcasting.filter(|_| patch.is_some()).map(|upcasting| upcasting.upcaster.clone());
        let (stream, seq, actor) = (record.stream.as_str(), record.seq, self.asked.actor.as_str());
        headers.extend(Redrive { stream, seq, actor, patch, upcaster }.headers());
        let how = Hash32::of(patch.unwrap_or_default().as_bytes());
        Outgoing {
            subject: original.subject().to_owned(),
            headers,
            body: original.body().clone(),
            message_id: format!("redrive/{}/{}/{how}", record.place(), record.attempts),
        }
    }

    /// Whether a copy would change anything, by the projector's own doing.
    async fn rehearse(&self, record: &ParkedRecord, copy: Outgoing) -> Result<bool, ConsumersError> {
        let (store, record) = (self.store.clone(), record.clone());
        blocking("redrive", move || {
            let mut batch = Batch::new(&record.stream);
            with_stored(&record, &copy, |stored| batch.push(stored));
            Ok(store.rehearse(batch)?.contains(&record.seq))
        })
        .await
    }

    async fn publish(&self, stream: &str, copy: &Outgoing) -> Result<Published, ConsumersError> {
        let publisher = self.bus.publisher();
        let mut attempt = 1;
        loop {
            self.holds()?;
            match publisher.publish(stream, copy, None).await {
                Ok(published) => return Ok(published),
                Err(error) if attempt < ATTEMPTS_MAX && is_passing(&error) => {
                    attempt += 1;
                    tokio::time::sleep(ATTEMPT_WAIT).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// What the pool made of a copy.
    async fn became(&self, record: ParkedRecord, copy: u64) -> Result<Looked, ConsumersError> {
        self.progress.passes(&record.stream, copy, APPLIED_WAIT).await?;
        let (reader, stream, seq) = (self.store.reader(), record.stream.clone(), record.seq);
        let known = tokio::task::spawn_blocking(move || reader.parked_record(&stream, seq)).await;
        let known = known.map_err(|source| ConsumersError::Task { task: "redrive", source })??.value;
        let record = known.unwrap_or(record);
        let outcome = match record.redriven {
            Some(copy) => Outcome::Redriven(copy),
            None => Outcome::Dead(Refusal { reason: record.reason.clone(), path: record.path.clone() }),
        };
        Ok(Looked { record, outcome })
    }
}

/// What a copy would be taken in as, or why it would not: by the projector's own check.
fn decoded(record: &ParkedRecord, copy: &Outgoing) -> Result<Decoded, Refusal> {
    with_stored(record, copy, decoded_as)
}

/// Lends a copy as it will be stored, somewhere behind its original.
fn with_stored<R>(record: &ParkedRecord, copy: &Outgoing, read: impl FnOnce(Stored<'_>) -> R) -> R {
    let headers: Vec<_> = copy.headers.iter().map(|(name, value)| (&**name, &**value)).collect();
    let stored_at = record.stored_at.unwrap_or_default();
    let (subject, body, stream) = (copy.subject.as_str(), &copy.body[..], record.stream.as_str());
    read(Stored { subject, headers: &headers, body, stream, seq: u64::MAX, stored_at })
}

fn decoded_as(stored: Stored<'_>) -> Result<Decoded, Refusal> {
    projector::check(stored)?;
    let Stored { headers, body, .. } = stored;
    let wrong =
        |error: bus_schema::envelope::EnvelopeError| Refusal { reason: error.reason, path: error.path };
    let mended = match Redrive::read(headers) {
        Some(redrive) => redrive.map_err(wrong)?.mended(body).map_err(wrong)?,
        None => body.into(),
    };
    let envelope = Envelope::read(Stored { body: &mended, ..stored }).map_err(wrong)?;
    Ok(Decoded {
        event_type: envelope.event_type.to_string(),
        source: envelope.source.to_string(),
        data: serde_json::from_slice(&envelope.data).unwrap_or_default(),
        changes: false,
    })
}

/// `<stem>.<event>` of a subject.
fn type_of(subject: &str) -> String {
    let mut parts = subject.split('.').skip(5);
    let stem = parts.next().unwrap_or_default();
    format!("{stem}.{}", parts.nth(1).unwrap_or_default())
}

/// CloudEvents `dataschema`, from a header or a structured body.
fn dataschema(original: &LogMessage) -> Option<String> {
    let header = original.headers().into_iter().find(|(name, _)| name.eq_ignore_ascii_case("ce-dataschema"));
    match header {
        Some((_, schema)) => Some(schema.to_owned()),
        None => {
            serde_json::from_slice::<Value>(original.body()).ok()?["dataschema"].as_str().map(str::to_owned)
        }
    }
}

/// Why one message stays dead. Errors: what is wrong is not this message, but the link, the lease, a disk or a log, so
/// that every other one would meet it too.
fn of_one(error: ConsumersError) -> Result<Refusal, ConsumersError> {
    let is_its_own = match &error {
        // The block that it stands in cannot be read.
        ConsumersError::Bus(error @ (BusError::Server { .. } | BusError::Answer { .. })) => {
            !error.is_passing()
        }
        ConsumersError::Publish(error) => matches!(
            error.kind,
            PublishErrorKind::TooLarge
                | PublishErrorKind::Invalid
                | PublishErrorKind::Refused
                | PublishErrorKind::Server
        ),
        _ => false,
    };
    if !is_its_own {
        return Err(error);
    }
    Ok(Refusal { reason: error.to_string(), path: "$".to_owned() })
}

fn is_passing(error: &PublishError) -> bool {
    matches!(error.kind, PublishErrorKind::Unknown | PublishErrorKind::Link | PublishErrorKind::Busy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_type_of_a_message_stands_in_its_subject() {
        assert_eq!(type_of("far.v1.local.evt.dc1.resource.Pod=2Fa.changed"), "resource.changed");
        assert_eq!(type_of("far.v1"), ".");
    }

    #[test]
    fn what_is_wrong_with_one_message_does_not_end_the_page() {
        let published = |kind| {
            let (stream, what, reason) = ("S".to_owned(), "a".to_owned(), "it is so".to_owned());
            of_one(PublishError { kind, stream, what, reason, code: None, source: None }.into())
        };
        assert!(published(PublishErrorKind::TooLarge).unwrap().reason.contains("it is so"));
        for kind in [PublishErrorKind::Link, PublishErrorKind::Fenced, PublishErrorKind::Full] {
            published(kind).unwrap_err();
        }
        let unreadable = |code| {
            let (object, reason) = ("S".to_owned(), "the block is damaged".to_owned());
            of_one(BusError::Server { verb: "read a message of", object, reason, code }.into())
        };
        assert!(unreadable(10_000).unwrap().reason.contains("damaged"));
        assert!(of_one(BusError::NoStream { stream: "S".to_owned() }.into()).is_err());
    }
}
