//! The projector's outbox: what it found while it folded (dead letters, gaps, forks, held windows), stated
//! once. The entries were committed with the events that caused them; they leave after they were stated,
//! so a crash in between repeats a publish that the message id keeps single.
//!
//! A process without the lease states nothing: it only drops what it sees stated by the holder.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bus::{Bus, LogMessage, Outgoing, PublishErrorKind, dead_letter};
use bus_schema::{
    Name,
    fact::{
        Fact,
        log::{LogFact, Parked},
    },
    subject,
};
use projector::{DeadLetter, DeadMessage, Pending, Stated, Store};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{facts::FactPublisher, logs::Logs};
use crate::{error::ConsumersError, task::blocking};

/// Entries that are stated before they are settled in one transaction.
const ENTRIES_MAX: usize = 256;
/// How often the outbox is looked at without being called: after an error, and without the lease.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How often an entry that cannot be stated as it is is told of: it stays, and somebody who looks once a day sees it.
const STUCK_SAID_EVERY: Duration = Duration::from_secs(3_600);
/// The consumer's name on the dead letters of the projector.
const CONSUMER: &str = "projector";

/// Empties the projector's outbox.
pub(crate) struct Outbox {
    /// The bus.
    pub bus: Bus,
    /// The pool.
    pub store: Store,
    /// States the facts.
    pub facts: FactPublisher,
    /// Called after a commit that put something in.
    pub called: Arc<Notify>,
    /// Makes a log again that is gone.
    pub logs: Logs,
}

impl Outbox {
    /// Runs until `shutdown`; an error is logged and tried again.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let (mut lease, mut stuck) = (self.facts.lease(), Stuck::default());
        loop {
            if let Err(error) = self.empty(&mut stuck).await {
                self.logs.miss(&error);
                tracing::warn!(%error, "cannot state what the projector found; it is kept and tried again");
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.called.notified() => {}
                _ = lease.changed() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    async fn empty(&self, said: &mut Stuck) -> Result<(), ConsumersError> {
        // Those that no log takes stay where they are, before the others: so many more are looked at.
        let mut stuck = 0;
        loop {
            let (store, limit) = (self.store.clone(), ENTRIES_MAX + stuck);
            let entries = blocking("outbox", move || Ok(store.pending(limit)?)).await?;
            let Dealt { done, stuck: found, failed } = self.deal_with_all(&entries, said).await;
            let moved = !done.is_empty() || found > stuck;
            stuck = found;
            if !done.is_empty() {
                let store = self.store.clone();
                blocking("outbox", move || Ok(store.settle(&done)?)).await?;
            }
            match failed {
                Some(error) => return Err(error),
                None if entries.len() == limit && moved => {}
                None => return Ok(()),
            }
        }
    }

    async fn deal_with_all(&self, entries: &[Pending], said: &mut Stuck) -> Dealt {
        let mut dealt = Dealt { done: Vec::with_capacity(entries.len()), stuck: 0, failed: None };
        for entry in entries {
            match self.deal_with(entry).await {
                Ok(true) => dealt.done.push(entry.id),
                Ok(false) => {}
                Err(error) if is_of_the_entry(&error) => {
                    if said.is_to_be_said(entry.id, Instant::now()) {
                        tracing::error!(%error, entry = entry.name, "what the projector found cannot be stated as it is; it is kept, and the others go on");
                    }
                    dealt.stuck += 1;
                }
                Err(error) => {
                    dealt.failed = Some(error);
                    break;
                }
            }
        }
        dealt
    }

    /// Whether the entry is stated now, by this process or by another one.
    async fn deal_with(&self, entry: &Pending) -> Result<bool, ConsumersError> {
        let (fact, letter) = match &entry.what {
            Stated::Fact(fact) => (fact.clone(), None),
            Stated::DeadLetter(letter) => {
                let original = self.original(letter).await?;
                let parked = Fact::Log(LogFact::Parked(parked(letter, original.as_ref())));
                (parked, Some((letter, original)))
            }
        };
        if self.is_stated(&fact, &entry.name).await? {
            return Ok(true);
        }
        if self.facts.token().is_none() {
            return Ok(false);
        }
        if let Some((letter, Some(original))) = letter {
            self.park(letter, &original).await?;
        }
        self.facts.state(&fact, &entry.name).await?;
        Ok(true)
    }

    /// The message that is dead: as it was kept with the letter, or from the log if that still holds it. A
    /// log that was rewound may hold another one at its place.
    async fn original(&self, letter: &DeadLetter) -> Result<Option<LogMessage>, ConsumersError> {
        let DeadLetter { stream, seq, stored_at, message, .. } = letter;
        if let Some(DeadMessage { subject, headers, body }) = message.clone() {
            return Ok(Some(LogMessage::kept(stream, *seq, *stored_at, subject, headers, body)));
        }
        let found = self.bus.message_unless_unsure(stream, *seq).await?;
        Ok(found.filter(|found| found.stored_at().unix_ms() == stored_at.unix_ms()))
    }

    /// The message id keeps a fact single for two minutes only; the log itself tells for ever.
    async fn is_stated(&self, fact: &Fact, name: &str) -> Result<bool, ConsumersError> {
        let last = self.bus.last_message(self.facts.stream(), &self.facts.subject(fact)).await?;
        Ok(last.is_some_and(|last| header(&last, "ce-id") == Some(name)))
    }

    async fn park(&self, letter: &DeadLetter, original: &LogMessage) -> Result<(), ConsumersError> {
        let target = self.facts.target();
        let Ok(consumer) = CONSUMER.parse::<Name>() else { return Ok(()) };
        let (reason, path) = (letter.reason.as_str(), letter.path.as_str());
        let message: Outgoing =
            dead_letter::DeadLetter { target, consumer: &consumer, reason, path }.of(original);
        let stream = subject::dead_letter_stream(target);
        match self.bus.publisher().publish(&stream, &message, None).await {
            Ok(_) => {
                let origin = format!("{}:{}", letter.stream, letter.seq);
                tracing::warn!(
                    origin,
                    subject = original.subject(),
                    path,
                    reason,
                    "a message became a dead letter"
                );
                Ok(())
            }
            // It can never be stored; the fact still says where the original stands.
            Err(error) if is_unpublishable(error.kind) => {
                tracing::warn!(%error, origin = %format!("{}:{}", letter.stream, letter.seq), "dead letter left out");
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// What came of some entries.
struct Dealt {
    /// Those that are stated now.
    done: Vec<u64>,
    /// How many can never be, as they are.
    stuck: usize,
    /// Why those behind were not looked at.
    failed: Option<ConsumersError>,
}

/// Entries that cannot be stated as they are, by their ids: when each was told of last. The outbox looks at them again
/// and again, which nobody is to read.
#[derive(Default)]
struct Stuck(BTreeMap<u64, Instant>);

impl Stuck {
    /// Whether it is new, or was told of long ago; it is told of now.
    fn is_to_be_said(&mut self, id: u64, now: Instant) -> bool {
        let is_due = self.0.get(&id).is_none_or(|said| now.duration_since(*said) >= STUCK_SAID_EVERY);
        if is_due {
            self.0.insert(id, now);
        }
        is_due
    }
}

/// Whether an error is of one entry alone: the one behind it may be stated all the same.
fn is_of_the_entry(error: &ConsumersError) -> bool {
    match error {
        ConsumersError::Publish(error) => is_unpublishable(error.kind),
        ConsumersError::Encode { .. } => true,
        _ => false,
    }
}

/// Whether a message can never be stored as it is, however often it is published.
fn is_unpublishable(kind: PublishErrorKind) -> bool {
    matches!(kind, PublishErrorKind::TooLarge | PublishErrorKind::Invalid)
}

fn parked(letter: &DeadLetter, original: Option<&LogMessage>) -> Parked {
    let subject = original.map(LogMessage::subject).unwrap_or_default().to_owned();
    let DeadLetter { stream, seq, stored_at, reason, path, at, .. } = letter.clone();
    Parked { stream, seq, subject, reason, path, stored_at: Some(stored_at), at, copy_of: None }
}

fn header<'a>(message: &'a LogMessage, name: &str) -> Option<&'a str> {
    message.headers().into_iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_that_cannot_be_stated_is_told_of_once_and_then_rarely() {
        let (mut stuck, start) = (Stuck::default(), Instant::now());
        let said = (0..4_000).filter(|look| stuck.is_to_be_said(7, start + LOOK_EVERY * *look));
        assert_eq!(said.count(), 3, "at once, after one hour and after two");
        assert!(stuck.is_to_be_said(8, start), "another one is told of by itself");
    }
}
