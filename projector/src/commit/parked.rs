//! Messages that could not be taken in, and what becomes of their copies.
//!
//! ```text
//! the original is        the copy              outcome
//! --------------------   -------------------   ---------------------------------------------------------------
//! not parked             whatever              dropped: a repeat
//! taken in again         whatever              dropped: a repeat
//! parked, epoch over     whatever              stays parked, one attempt more
//! parked                 cannot be taken in    stays parked, with the new reason, one attempt more
//! parked                 can be taken in       stands where the original stands, and undoes nothing newer
//! ```
//! A copy may come years after its original. So it writes over a row only what stood there before the original, and
//! no row at all when a full answer came in between: that said which there were. Where the original came late itself,
//! its place in the log says nothing of what is newer, and its copy is held to the rules of [`super::holes`].
//!
//! A copy is one to the letter: what has another body, or names another source or place in a chain than the original
//! did, is none, and is dropped as well.

use bus_schema::{
    Hash32, Timestamp,
    fact::log::{LogFact, Parked, Redriven},
};
use redb::{ReadableTable, WriteTransaction};

use super::{Commit, Outcome, originals, outbox, owners::OwnerRecord};
use crate::{
    batch::{RedriveCopy, Refusal},
    pending::{DeadLetter, Stated},
    records::ParkedRecord,
    tables::{self, Db, read_json, write_json},
};

/// Where the original of a copy stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Original {
    /// Its place in its chain; 0 = it has none.
    pub(super) chain_seq: u64,
    /// The stream sequence.
    pub(super) seq: u64,
    pub(super) stored_at: i64,
    /// Whether the copy may write a row: no full answer came in between.
    pub(super) rows: bool,
    /// The original came late, or nobody here knows when: whatever stands there is newer.
    pub(super) is_late: bool,
}

/// What is known of a message that is parked, beside its dead letter.
#[derive(Debug, Default)]
pub(super) struct Lot {
    /// Its source; none = it could not be read that far.
    pub(super) source: Option<String>,
    /// It fills a hole, see [`ParkedRecord::late`].
    pub(super) late: Option<bool>,
    /// It was refused because its epoch is over.
    pub(super) is_over: bool,
}

impl Commit<'_, '_> {
    /// Parks a message: notes it, and puts its dead letter into the outbox.
    pub(super) fn park(&mut self, letter: DeadLetter, lot: Lot) -> Db<()> {
        let known = read(self.txn, &letter.stream, letter.seq)?;
        let subject = letter.message.as_ref().map(|message| message.subject.as_str()).unwrap_or_default();
        let same = known.filter(|known| subject.is_empty() || known.is_of(subject, letter.stored_at));
        let DeadLetter { stream, seq, reason, path, .. } = letter.clone();
        let mut record =
            same.unwrap_or_else(|| ParkedRecord::new(stream, seq, subject.to_owned(), reason, path));
        if record.subject.is_empty() {
            record.subject = subject.to_owned();
        }
        (record.stored_at, record.incarnation) = (Some(letter.stored_at), self.log.incarnation);
        record.body = letter.message.as_ref().map(|message| Hash32::of(&message.body));
        (record.chained, record.source) = (lot.source.clone().zip(letter.at), lot.source);
        (record.late, record.is_over) = (lot.late, lot.is_over);
        originals::forget(self.txn, &record.stream, record.seq)?;
        if let Some(message) = letter.message.clone().filter(|_| record.is_open()) {
            originals::keep(self.txn, &record.stream, record.seq, message)?;
        }
        write(self.txn, &record)?;
        let (key, seq) = (outbox::parked(&letter.stream, letter.seq), letter.seq);
        self.outbox.add(&key, self.log.reused(seq), &Stated::DeadLetter(letter))
    }

    /// Decides whether a copy counts, and as what.
    pub(super) fn resolve_copy(&mut self, run: usize, copy: &RedriveCopy) -> Db<()> {
        let incarnation = self.log.incarnation;
        let last_stored_at = Timestamp::from_unix_ms(self.runs[run].last_stored_at);
        let source = &self.owners[self.runs[run].owner].source;
        let record = self.parked_original(copy)?.filter(|record| is_said_by(record, copy, source));
        // Of what this pool has not read, an old fact does not say when it was.
        let record = record.and_then(|record| Some((record.stored_at?, record)));
        let (pool, number) = self.pool_of(run)?;
        let OwnerRecord { owner, marks, .. } = pool.side.owners.get(number)?;
        owner.last_event_at = owner.last_event_at.max(last_stored_at);
        let Some((stored_at, mut record)) = record else {
            owner.repeats += 1;
            return Ok(());
        };
        if record.is_over {
            record.attempts += 1;
            return write(self.txn, &record);
        }
        let answered = owner.last_full.max(marks.held_at());
        let rows = answered.is_none_or(|answered| answered < stored_at) && record.late != Some(false);
        let (epoch, origin) = stands(&record, stored_at, incarnation, rows);
        let (late, origin) = (Vec::new(), Some(origin));
        self.outcomes[run] = Some(Outcome { after: u64::MAX, late, owner: number, epoch, origin });
        self.note_redriven(record, copy)
    }

    fn note_redriven(&mut self, mut record: ParkedRecord, copy: &RedriveCopy) -> Db<()> {
        record.redriven = Some(copy.seq);
        originals::forget(self.txn, &record.stream, record.seq)?;
        write(self.txn, &record)?;
        let fact = Redriven {
            stream: record.stream,
            seq: record.seq,
            copy_seq: copy.seq,
            subject: record.subject,
            actor: copy.actor.to_string(),
            upcaster: copy.upcaster.clone(),
        };
        self.tell(LogFact::Redriven(fact), copy.seq)
    }

    /// Notes that a run changed something, if it is a copy.
    pub(super) fn note_changed(&mut self, run: usize) -> Db<()> {
        let origin = self.outcomes[run].as_ref().and_then(|outcome| outcome.origin);
        let Some(Original { seq, .. }) = origin else { return Ok(()) };
        self.changed.insert(seq);
        let Some(mut record) = read(self.txn, self.stream, seq)? else { return Ok(()) };
        record.changed = true;
        write(self.txn, &record)
    }

    /// Notes that a copy could not be taken in either.
    pub(super) fn still_dead(&mut self, copy: &RedriveCopy, refusal: Refusal, stored_at: i64) -> Db<()> {
        if self.log.has_read(copy.seq, stored_at) {
            return Ok(());
        }
        let Some(mut record) = self.parked_original(copy)? else { return Ok(()) };
        let Refusal { reason, path } = refusal;
        (record.reason, record.path) = (reason.clone(), path.clone());
        record.attempts += 1;
        write(self.txn, &record)?;
        self.park_copy(copy, &record, Timestamp::from_unix_ms(stored_at))
    }

    /// Notes at the copy's own place, and states, that it was not taken in there: the past stays that, also for a build
    /// that could read it.
    fn park_copy(&mut self, copy: &RedriveCopy, original: &ParkedRecord, stored_at: Timestamp) -> Db<()> {
        let ParkedRecord { stream, subject, reason, path, .. } = original.clone();
        let (incarnation, stored_at, at) = (self.log.incarnation, Some(stored_at), copy.at);
        let known =
            ParkedRecord::new(stream.clone(), copy.seq, subject.clone(), reason.clone(), path.clone());
        originals::forget(self.txn, &stream, copy.seq)?;
        write(self.txn, &ParkedRecord { stored_at, incarnation, is_copy: true, ..known })?;
        let copy_of = Some(original.place());
        let fact = Parked { stream, seq: copy.seq, subject, reason, path, stored_at, at, copy_of };
        self.tell(LogFact::Parked(fact), copy.seq)
    }

    /// The original of a copy, if it is parked.
    fn parked_original(&self, copy: &RedriveCopy) -> Db<Option<ParkedRecord>> {
        let known = read(self.txn, self.stream, copy.origin_seq)?;
        let is_same = |known: &ParkedRecord| {
            known.subject == *copy.subject && known.body.is_none_or(|body| body == copy.body)
        };
        Ok(known.filter(|known| known.is_parked() && is_same(known)))
    }
}

/// Whether a copy names the source and the place in a chain that its original does, as far as those were read: else
/// somebody else could speak for a source, or give it a place that is newer than everything.
fn is_said_by(record: &ParkedRecord, copy: &RedriveCopy, source: &str) -> bool {
    let is_place = match &record.chained {
        Some((_, at)) => copy.at == Some(*at),
        // What was not read that far has no place; that this copy could be read further gives it none.
        None => record.source.is_none() || copy.at.is_none(),
    };
    is_place && record.source.as_deref().is_none_or(|known| known == source)
}

/// Where the copy of a message stands: its original's epoch (or the log's incarnation) and place.
fn stands(record: &ParkedRecord, stored_at: Timestamp, incarnation: u32, rows: bool) -> (u64, Original) {
    let was_read = record.incarnation > 0;
    let incarnation = if was_read { record.incarnation } else { incarnation };
    let at = record.chained.as_ref().map(|(_, at)| at);
    let (epoch, chain_seq) = at.map_or((u64::from(incarnation), 0), |at| (at.epoch.0, at.seq));
    let is_late = record.late.is_some() || !was_read;
    (epoch, Original { chain_seq, seq: record.seq, stored_at: stored_at.unix_ms(), rows, is_late })
}

/// What is known of a message that was parked.
fn read(txn: &WriteTransaction, stream: &str, seq: u64) -> Db<Option<ParkedRecord>> {
    let table = txn.open_table(tables::PARKED)?;
    table.get((stream, seq))?.map(|known| read_json("a parked message", known.value())).transpose()
}

/// Writes it, and keeps count of those that are parked.
fn write(txn: &WriteTransaction, record: &ParkedRecord) -> Db<()> {
    let bytes = write_json(record)?;
    let mut table = txn.open_table(tables::PARKED)?;
    let before = table.insert((record.stream.as_str(), record.seq), bytes.as_slice())?;
    let before: Option<ParkedRecord> =
        before.map(|before| read_json("a parked message", before.value())).transpose()?;
    let counts = |record: &ParkedRecord| u64::from(record.is_parked());
    let (before, now) = (before.as_ref().map_or(0, counts), counts(record));
    if before != now {
        let mut meta = txn.open_table(tables::META)?;
        let count = meta.get(tables::META_PARKED)?.map_or(0, |count| count.value());
        meta.insert(tables::META_PARKED, (count + now).saturating_sub(before))?;
    }
    Ok(())
}

/// Takes over what the target log says of parked messages: so a pool that is made anew, by whatever build, parks them
/// again and for the same reasons.
pub(crate) fn recall(txn: &WriteTransaction, facts: &[Parked]) -> Db<()> {
    facts.iter().try_for_each(|fact| recall_one(txn, fact))
}

fn recall_one(txn: &WriteTransaction, fact: &Parked) -> Db<()> {
    let Parked { stream, seq, subject, reason, path, stored_at, at, copy_of } = fact.clone();
    let is_it = |known: &ParkedRecord| stored_at.is_none_or(|at| known.is_of(&subject, at));
    let known = read(txn, &stream, seq)?;
    // It speaks of what a rewound log has no more; at its place another one is parked.
    if stored_at.is_some() && known.as_ref().is_some_and(|known| known.stored_at > stored_at) {
        return Ok(());
    }
    let record = match known.filter(is_it) {
        Some(known) if known.redriven.is_some() || known.attempts > 0 => return Ok(()),
        Some(known) => ParkedRecord { reason, path, ..known },
        None => {
            originals::forget(txn, &stream, seq)?;
            // The source stands in the message itself; until that is read, only that it had a place is known.
            let chained = at.map(|at| (String::new(), at));
            let known = ParkedRecord::new(stream, seq, subject, reason, path);
            ParkedRecord { stored_at, chained, is_copy: copy_of.is_some(), ..known }
        }
    };
    write(txn, &record)
}
