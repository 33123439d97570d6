//! Retention: the beginning of a site log goes when it is older or larger than the configuration allows, step by step:
//!
//! ```text
//! a snapshot at a signed checkpoint, with a newer one behind it ─► nobody needs what is before (consumers, mirrors)
//!    ─► log.trimmed is stated ─► a later checkpoint signs that ─► the snapshot's file is hashed ─► purge
//! ```
//! Who is killed in between goes on from what is stated. The target log is never trimmed: it holds what is signed, and what
//! people decided. Runs on the lease holder only. Must not know what a snapshot holds.

mod plan;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bus::{Bus, BusError, Holder, Position, PositionVerdict, RemoteMirror, StreamState};
use bus_schema::{
    Timestamp,
    fact::{
        Fact,
        log::{LogFact, Trimmed},
    },
    subject,
};
use projector::{ParkedRecord, Store};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

pub use plan::Keep;
use plan::{Candidate, Wish, Wished, wished};

use crate::{
    error::ConsumersError,
    runtime::{clock, facts::FactPublisher, floor::Floor, parked::in_log},
    snapshot::{Label, Shelf, shelf::Place},
    task::blocking,
};

/// How often it is looked whether something is to go.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How often those are asked who stand against it.
const ASK_EVERY: Duration = Duration::from_secs(10);

/// What is in the way of trimming each log; a log that is not there has nothing to trim.
pub type Waits = BTreeMap<String, Wait>;

/// What is in the way of trimming a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    /// Since when there is anything in the way, in the time of this process on the lease.
    pub since: Timestamp,
    /// What it is now, in words.
    pub why: String,
}

/// Trims the site logs.
pub(crate) struct Trimmer {
    /// The bus.
    pub bus: Bus,
    /// The pool, which knows the last checkpoint.
    pub store: Store,
    /// States facts.
    pub facts: FactPublisher,
    /// The logs.
    pub streams: Vec<String>,
    /// Where snapshots are.
    pub shelf: Shelf,
    /// What is kept.
    pub keep: Keep,
    /// Mirrors in other domains.
    pub mirrors: Vec<RemoteMirror>,
    /// What is in the way, for people.
    pub waits: watch::Sender<Waits>,
}

/// What is remembered between two looks.
#[derive(Default)]
struct Known {
    /// Statements that cannot be done: their snapshot is not here, or not what it was.
    refused: BTreeSet<(String, u64)>,
    /// Who stood against a place of a log, and when that was asked.
    held: BTreeMap<String, (u64, String, Instant)>,
}

impl Trimmer {
    /// Runs until `stop`; what goes wrong is told, shown, and tried again.
    pub(crate) async fn run(self, stop: CancellationToken) -> Result<(), ConsumersError> {
        let mut known = Known::default();
        loop {
            for stream in &self.streams {
                let turned = stop.run_until_cancelled(self.turn(stream, &mut known)).await;
                let Some(turned) = turned else { return Ok(()) };
                self.show(stream, turned);
            }
            let pause = tokio::time::sleep(LOOK_EVERY);
            if stop.run_until_cancelled(pause).await.is_none() {
                return Ok(());
            }
        }
    }

    fn show(&self, stream: &str, turned: Result<Option<String>, ConsumersError>) {
        let is_error = turned.is_err();
        let wait = turned.unwrap_or_else(|error| Some(error.to_string()));
        let is_news = self.waits.send_if_modified(|waits| show(waits, stream, wait.clone(), clock::now()));
        match wait.filter(|_| is_news) {
            Some(error) if is_error => {
                tracing::warn!(stream, error, "a log cannot be trimmed; it is tried again")
            }
            Some(wait) => tracing::info!(stream, wait, "a log is not trimmed yet"),
            None => {}
        }
    }

    /// The next step of one log; answers what it waits for.
    async fn turn(&self, stream: &str, known: &mut Known) -> Result<Option<String>, ConsumersError> {
        let state = self.bus.stream_state(stream).await?;
        let floor = Floor::of(&self.bus, &self.store.reader(), self.facts.target(), &state).await?;
        let labels = self.shelf.labels()?;
        if let Some(floor) = floor.as_ref().filter(|floor| !floor.is_done) {
            match self.carry_out(&state, floor, &labels, known).await? {
                Carried::Done => return Ok(None),
                Carried::Waits(wait) => return Ok(Some(wait)),
                Carried::Never => {}
            }
        }
        // Behind what was stated, also if that cannot be done any more.
        let stated = floor.as_ref().map_or(1, |floor| floor.trimmed.first_seq);
        let wished = self.wished(&state, &labels, stated.max(state.first_seq)).await?;
        let Wish { candidate, reason } = match wished {
            Wished::Goes(wish) => wish,
            Wished::Waits(why) => return Ok(Some(why.to_owned())),
            Wished::Nothing if floor.is_some_and(|floor| !floor.is_done) => {
                return Ok(Some(REFUSED.to_owned()));
            }
            Wished::Nothing => return Ok(self.never_reached(&state)),
        };
        match self.held(&state, candidate.seq, known).await? {
            Some(held) => Ok(Some(held)),
            None => self.state(&state, floor.as_ref(), &candidate, &labels[candidate.label], reason).await,
        }
    }

    /// What goes next, behind a proved snapshot that the logs bear out.
    async fn wished(
        &self,
        state: &StreamState,
        labels: &[Label],
        begins_at: u64,
    ) -> Result<Wished, ConsumersError> {
        let now = self.now(&state.stream).await?;
        let wished_of = |places: &[Candidate]| wished(self.keep, state.bytes, now, places);
        let candidates = candidates(labels, state, begins_at).into_iter();
        let (mut proved, unproved): (Vec<_>, Vec<_>) =
            candidates.partition(|candidate| labels[candidate.label].is_proved);
        let mut went_back = false;
        loop {
            match wished_of(&proved) {
                Wished::Goes(wish) => {
                    if self.is_borne_out(&labels[wish.candidate.label], &state.stream).await? {
                        return Ok(Wished::Goes(wish));
                    }
                    // Another one may be of these logs.
                    proved.retain(|candidate| *candidate != wish.candidate);
                    went_back = true;
                }
                _ if matches!(wished_of(&unproved), Wished::Goes(_)) => return Ok(Wished::Waits(UNPROVED)),
                Wished::Nothing if went_back => return Ok(Wished::Waits(GONE_BACK)),
                nothing => return Ok(nothing),
            }
        }
    }

    /// The time by which age is measured: not ahead of the log's newest message, so a clock that jumps ahead makes nothing
    /// old in a log that did not see the jump, or sees no more of it.
    async fn now(&self, stream: &str) -> Result<Timestamp, ConsumersError> {
        let newest = self.bus.last_message(stream, ">").await?;
        Ok(newest.map_or_else(Timestamp::default, |message| message.stored_at()).min(clock::now()))
    }

    /// What is to be said of a size at which the log is full before.
    fn never_reached(&self, state: &StreamState) -> Option<String> {
        let full = state.bytes_max.filter(|full| self.keep.bytes.is_some_and(|keeps| keeps >= *full))?;
        Some(format!(
            "`service.retention.mib` is never reached: the log is full at {full} bytes; write less, or raise `service.log_bytes_max`"
        ))
    }

    /// Whether the log still is what a snapshot was read from, up to its place, and every other one that begins late is, too:
    /// else nothing could be started from it, and what goes would be nowhere.
    async fn is_borne_out(&self, label: &Label, stream: &str) -> Result<bool, ConsumersError> {
        for place in label.places() {
            let is_meant = place.stream == stream;
            let Place { stream, created, seq, hash, .. } = place.clone();
            match self.bus.check_position(&Position { stream, created, seq, hash }).await {
                Ok(PositionVerdict::Rewound { state, .. }) if is_meant || state.begins_late() => {
                    return Ok(false);
                }
                Ok(_) => {}
                Err(BusError::NoStream { .. }) if !is_meant => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(label.place(stream).is_some())
    }

    /// States that what is before a snapshot goes.
    async fn state(
        &self,
        state: &StreamState,
        floor: Option<&Floor>,
        candidate: &Candidate,
        label: &Label,
        reason: String,
    ) -> Result<Option<String>, ConsumersError> {
        let Some(Place { stream, created, seq, hash, time, .. }) = label.place(&state.stream).cloned() else {
            return Ok(None);
        };
        let first_seq = candidate.seq;
        let fact = Trimmed {
            stream,
            created,
            before_seq: Floor::first_seq(floor),
            first_seq: seq,
            first_hash: hash,
            not_before: time,
            checkpoint: label.checkpoint,
            snapshot: label.sha256,
            reason,
        };
        let id = format!("trimmed/{}/{}/{}/{hash}", fact.stream, created.unix_ms(), first_seq);
        self.facts.state(&Fact::Log(LogFact::Trimmed(fact)), &id).await?;
        Ok(Some(format!("it is stated that {}:{first_seq} will be the first; {UNSIGNED}", state.stream)))
    }

    /// Does what was stated, once it is signed and nothing stands against it. What takes long comes first: who needs
    /// something, and whether it still is the log that was meant, is asked directly before the purge.
    async fn carry_out(
        &self,
        state: &StreamState,
        floor: &Floor,
        labels: &[Label],
        known: &mut Known,
    ) -> Result<Carried, ConsumersError> {
        let Trimmed { stream, first_seq, snapshot, not_before, .. } = &floor.trimmed;
        let refused = (stream.clone(), *first_seq);
        // One that only the pool remembers is in no evidence.
        if known.refused.contains(&refused) || floor.stated_seq.is_none() {
            return Ok(Carried::Never);
        }
        if !self.is_signed(floor)? {
            return Ok(Carried::Waits(UNSIGNED.to_owned()));
        }
        // A clock may have been wrong when it was stated, and is not any more.
        if !self.keep.lets_go(state.bytes, self.now(stream).await?, *not_before) {
            return Ok(Carried::Waits(format!(
                "it is stated that {stream}:{first_seq} will be the first, but what is before that is younger than `service.retention` keeps (up to {not_before}); it waits until that is old or large enough"
            )));
        }
        if let Some(held) = self.held(state, *first_seq, known).await? {
            return Ok(Carried::Waits(held));
        }
        let label = labels.iter().find(|label| label.sha256 == *snapshot).cloned();
        let is_whole = match label.clone() {
            Some(label) => {
                let shelf = self.shelf.clone();
                blocking("retention", move || shelf.is_whole(&label)).await?
            }
            None => false,
        };
        let Some(label) = label.filter(|label| is_whole && label.is_proved) else {
            tracing::error!(stream, first_seq, "{REFUSED}");
            known.refused.insert(refused);
            return Ok(Carried::Never);
        };
        known.held.remove(stream);
        if let Some(held) = self.held(state, *first_seq, known).await? {
            return Ok(Carried::Waits(held));
        }
        if !self.is_borne_out(&label, stream).await? {
            tracing::error!(stream, first_seq, "{GONE_BACK}");
            known.refused.insert(refused);
            return Ok(Carried::Never);
        }
        let gone = self.bus.trim(stream, *first_seq).await?;
        tracing::info!(stream, first_seq, messages = gone, "a log is trimmed behind its snapshot");
        Ok(Carried::Done)
    }

    /// Who needs something before a sequence, in words; none = nobody does. Asked again only after a while: it makes the
    /// server look at everything that reads.
    async fn held(
        &self,
        state: &StreamState,
        first_seq: u64,
        known: &mut Known,
    ) -> Result<Option<String>, ConsumersError> {
        if let Some((seq, held, asked_at)) = known.held.get(&state.stream)
            && *seq == first_seq
            && asked_at.elapsed() < ASK_EVERY
        {
            return Ok(Some(held.clone()));
        }
        let mut holders = self.bus.holders(state, &self.mirrors).await?;
        // It reads as a consumer only while it can: one that stands still has none.
        let read_seq = self.store.position(&state.stream)?.map_or(0, |position| position.seq);
        holders.push(Holder { name: "the pool of this farside".to_owned(), needs_seq: read_seq + 1 });
        let held = match held(&holders, first_seq) {
            Some(held) => Some(held),
            None => self.letter(&state.stream, first_seq).await?.map(|place| {
                format!("the log alone has the dead letter {place}, which would go; see 'farside dlq list'")
            }),
        };
        match &held {
            Some(held) => {
                drop(known.held.insert(state.stream.clone(), (first_seq, held.clone(), Instant::now())))
            }
            None => drop(known.held.remove(&state.stream)),
        }
        Ok(held)
    }

    /// The place of a dead letter before a sequence whose message stands in the log only: the pool had no room for it.
    async fn letter(&self, stream: &str, first_seq: u64) -> Result<Option<String>, ConsumersError> {
        let mut after = 0;
        loop {
            let (reader, of) = (self.store.reader(), stream.to_owned());
            let next = blocking("retention", move || {
                let is_meant = |record: &ParkedRecord| record.seq < first_seq && record.is_open();
                Ok(reader.parked_without_original((&of, after), is_meant)?.value)
            });
            let Some(record) = next.await? else { return Ok(None) };
            if in_log(&self.bus, &record).await?.is_some() {
                return Ok(Some(record.place()));
            }
            after = record.seq;
        }
    }

    /// Whether a checkpoint covers the statement.
    fn is_signed(&self, floor: &Floor) -> Result<bool, ConsumersError> {
        let target = self.facts.target();
        let last = self.store.reader().latest_fact("checkpoint", target.as_str())?.value;
        let Some(LogFact::Checkpoint(last)) = last.map(|record| record.fact) else { return Ok(false) };
        let target = subject::target_stream(target);
        let signed = last.logs.iter().find(|mark| mark.stream == target).map_or(0, |mark| mark.seq);
        Ok(floor.stated_seq.is_some_and(|stated| stated <= signed))
    }
}

/// Notes what a log waits for; since when it waits does not change with the words. Answers whether that is news.
fn show(waits: &mut Waits, stream: &str, why: Option<String>, now: Timestamp) -> bool {
    let known = waits.get(stream);
    if known.map(|wait| &wait.why) == why.as_ref() {
        return false;
    }
    let since = known.map_or(now, |wait| wait.since);
    match why {
        Some(why) => drop(waits.insert(stream.to_owned(), Wait { since, why })),
        None => drop(waits.remove(stream)),
    }
    true
}

/// What became of a statement.
enum Carried {
    /// It was done.
    Done,
    /// It waits for this.
    Waits(String),
    /// It cannot be done any more.
    Never,
}

/// What is to be said of a statement that cannot be done.
const REFUSED: &str = "the snapshot behind which it was to be trimmed is not here, damaged, or of what the log was before; it waits for a \
                       later one";
/// What is to be said when no snapshot may be the only place of something.
const UNPROVED: &str = "no snapshot was held against all rows that are signed, so none may stand for the log: it lost something (see \
                        'farside audit verify', and 'farside rebuild --swap' if the log is right), or more owners change between two \
                        checkpoints than one names (make `service.checkpoint` more frequent)";
/// What is to be said when a snapshot is of other logs.
const GONE_BACK: &str = "the logs are not any more what the snapshot was read from; it waits for a later one";
/// What a statement waits for.
const UNSIGNED: &str = "it waits for the next signed checkpoint";

/// The places behind which a log could be trimmed, in order: of every snapshot of the log but the newest, so that a second
/// one is there. One of what the log was before it was made anew or lost its end is no second one.
fn candidates(labels: &[Label], state: &StreamState, begins_at: u64) -> Vec<Candidate> {
    let places = labels.iter().enumerate().filter_map(|(at, label)| Some((at, label.place(&state.stream)?)));
    let of_log = places.filter(|(_, place)| place.created == state.created && place.seq <= state.last_seq);
    let mut candidates: Vec<_> =
        of_log.map(|(label, place)| Candidate { label, seq: place.seq, time: place.time }).collect();
    candidates.pop();
    candidates.retain(|candidate| candidate.seq > begins_at);
    // The labels are in order of time: a log that lost its end gives sequences out again.
    candidates.sort_by_key(|candidate| candidate.seq);
    candidates
}

/// Who needs something before a sequence, in words.
fn held(holders: &[Holder], first_seq: u64) -> Option<String> {
    let holder = holders.iter().min_by_key(|holder| holder.needs_seq)?;
    (holder.needs_seq < first_seq).then(|| {
        let Holder { name, needs_seq } = holder;
        match needs_seq {
            0 => format!("{name} may need all of it"),
            _ => format!("{name} needs it from {needs_seq} on, which would go"),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::shelf::tests::put;

    #[test]
    fn a_log_waits_since_anything_was_in_the_way_whatever_that_is_by_now() {
        let (mut waits, at) = (Waits::new(), Timestamp::from_unix_ms);
        let mut told = |why: Option<&str>, ms| {
            let is_news = show(&mut waits, "FARSIDE_LOCAL", why.map(str::to_owned), at(ms));
            (is_news, waits.get("FARSIDE_LOCAL").map(|wait| wait.since))
        };
        assert_eq!(told(None, 1), (false, None));
        assert_eq!(told(Some("a consumer"), 2), (true, Some(at(2))));
        assert_eq!(told(Some("a consumer"), 3), (false, Some(at(2))));
        assert_eq!(told(Some("a mirror"), 4), (true, Some(at(2))));
        assert_eq!(told(None, 5), (true, None));
        assert_eq!(told(Some("a mirror"), 6), (true, Some(at(6))));
    }

    #[test]
    fn a_snapshot_of_what_a_log_was_before_is_no_second_one_behind_which_it_could_be_trimmed() {
        let directory = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(directory.path()).unwrap();
        let labels = [put(&shelf, 100), put(&shelf, 200)];
        let site = labels[0].sites[0].clone();
        let seqs = |created: Timestamp, last_seq: u64| -> Vec<u64> {
            let (stream, first_seq) = (site.stream.clone(), 1);
            let (messages, deleted, bytes, bytes_max) = (last_seq, 0, 0, None);
            let state =
                StreamState { stream, created, first_seq, last_seq, messages, deleted, bytes, bytes_max };
            candidates(&labels, &state, 1).into_iter().map(|candidate| candidate.seq).collect()
        };
        assert_eq!(seqs(site.created, 250), [100]);
        assert_eq!(seqs(site.created, 150), [0; 0], "it lost its end: the second one is of what went");
        assert_eq!(seqs(Timestamp::from_unix_ms(1), 250), [0; 0], "it was made anew");
    }
}
