//! A scrub: a log read again from its start (that of a trimmed one is its stated floor), and compared with what was read
//! of it before (the seals) and with itself (the chains). It finds what JetStream loses without a word: a flipped bit hides a message, or all behind
//! it, and lets the sequences be used again.
//!
//! What is believed of one message is the business of `bus`: a log that cannot be read now for want of file handles is
//! an error there, and no loss. What is *stated* is decided here: a fact stays for ever, so what one reading finds is
//! suspected and told in the log of this process, and what the next one finds too is stated.

use std::time::Duration;

use audit::{Checked, Expected, Ranges, Walk, Walked};
use bus::{Bus, BusError, LogMessage, StreamState};
use bus_schema::{
    Hash32, Name, Timestamp,
    fact::{
        Fact,
        log::{GapFound, LogFact, Loss, LossFound, Scrubbed},
    },
    subject,
};
use projector::{DamageRecord, Frame, Owner, Position, Reader, Store};
use tokio::time::Instant;

use super::{
    facts::FactPublisher,
    floor::{Floor, Heads},
    losses::Losses,
    replaced::Replaced,
    replay::Watcher,
    suspected::Suspected,
    unread::Unread,
};
use crate::{error::ConsumersError, task::blocking};

/// Most messages that are compared at once.
const CHUNK_EVENTS_MAX: usize = 4_096;
/// Stretches that a log does not have and that are named one by one.
const ABSENT_MAX: usize = 1_000;
/// Readings until two in a row agree: a log that differs each time is not stated to be anything.
const READINGS_MAX: usize = 4;
/// The time between a reading that finds something new and the next one.
const READ_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// How fast a scrub may read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Bytes a second; none = as fast as it goes.
    pub bytes_per_s: Option<u64>,
}

impl Pace {
    /// As fast as it goes.
    pub const FULL: Self = Self { bytes_per_s: None };

    /// Waits until so many bytes since `start` are not too fast.
    async fn keep(self, start: Instant, bytes: u64) {
        let Some(rate) = self.bytes_per_s.filter(|rate| *rate > 0) else { return };
        tokio::time::sleep_until(start + Duration::from_millis(bytes.saturating_mul(1_000) / rate)).await;
    }
}

/// What a scrub found.
#[derive(Clone, Debug)]
pub struct Findings {
    /// What is to be stated: what nobody knew, and the scrub itself.
    pub facts: Vec<LogFact>,
    /// The scrub in figures.
    pub scrubbed: Scrubbed,
    /// Whether two readings agreed. Else only what the last two both found is to be stated, and the log read again.
    pub is_steady: bool,
}

/// Reads a log from its start up to its present end; again when something new is found, until that is found twice.
///
/// Errors: the bus, the pool's file; a log that changes meanwhile.
pub(crate) async fn scrub(
    bus: &Bus,
    store: &Store,
    target: &Name,
    stream: &str,
    pace: Pace,
    watcher: &dyn Watcher,
) -> Result<Findings, ConsumersError> {
    let (mut suspected, mut last) = (Suspected::default(), None);
    for _ in 0..READINGS_MAX {
        let beginning = Beginning::of(bus, store, target, stream).await?;
        let found = read_once(bus, store, stream, &beginning, pace, watcher).await?;
        if beginning.seq != Floor::first_seq(floor(bus, store, target, stream).await?.as_ref()) {
            // What was trimmed while it was read would look lost. Trims wait for whoever reads, so this is rare.
            continue;
        }
        let Some(first) = found.facts.iter().find(|fact| !suspected.has(fact)) else { return Ok(found) };
        let news = Suspected::of(&found.facts);
        tracing::warn!(
            stream,
            count = news.count(),
            ?first,
            "a scrub suspects losses; the log is read again before they are stated"
        );
        last = Some(found.believed(&suspected));
        suspected = news;
        tokio::time::sleep(READ_AGAIN_AFTER).await;
    }
    last.ok_or_else(|| ConsumersError::Unsteady { stream: stream.to_owned() })
}

impl Findings {
    /// What is to be stated to be lost.
    pub(crate) fn lost(&self) -> Vec<LossFound> {
        let losses = self.facts.iter().filter_map(|fact| match fact {
            LogFact::LossFound(loss) => Some(loss.clone()),
            _ => None,
        });
        losses.collect()
    }

    /// Of a log that reads differently each time, what was suspected before: the rest may be none. The scrub itself is
    /// not stated, so that it stays due.
    fn believed(mut self, suspected: &Suspected) -> Self {
        self.facts.retain(|fact| !matches!(fact, LogFact::Scrubbed(_)) && suspected.has(fact));
        self.is_steady = false;
        self
    }
}

async fn floor(
    bus: &Bus,
    store: &Store,
    target: &Name,
    stream: &str,
) -> Result<Option<Floor>, ConsumersError> {
    Floor::of(bus, &store.reader(), target, &bus.stream_state(stream).await?).await
}

/// Where a log begins, and where chains were then.
struct Beginning {
    seq: u64,
    heads: Heads,
}

impl Beginning {
    async fn of(bus: &Bus, store: &Store, target: &Name, stream: &str) -> Result<Self, ConsumersError> {
        let floor = floor(bus, store, target, stream).await?;
        let heads = Heads::of(bus, target, floor.as_ref()).await?;
        Ok(Self { seq: Floor::first_seq(floor.as_ref()), heads })
    }
}

async fn read_once(
    bus: &Bus,
    store: &Store,
    stream: &str,
    beginning: &Beginning,
    pace: Pace,
    watcher: &dyn Watcher,
) -> Result<Findings, ConsumersError> {
    let start = Instant::now();
    let reader = store.reader();
    // The pool first: what it has must be in the log, which may have more by the time that it is read.
    let of = stream.to_owned();
    let (known, expected) = blocking("scrub", move || expectations(&reader, &of)).await?;
    let position = store.position(stream)?;
    let state = bus.stream_state(stream).await?;
    let incarnation = position.as_ref().map(|position| position.incarnation);
    let mut comparison = Comparison::new(stream, &state, position, store.reader())
        .from(beginning.seq, &beginning.heads)
        .knowing(&known, &expected);
    let (mut read, mut messages) = (0, 0);
    if state.messages > 0 {
        let mut log = bus.read_log(stream, beginning.seq, None).await?;
        while let Some(chunk) = log.next_stored(CHUNK_EVENTS_MAX, state.last_seq).await? {
            messages += chunk.len() as u64;
            read += chunk.iter().map(|message| message.body().len() as u64).sum::<u64>();
            comparison = blocking("scrub", move || comparison.take(&chunk)).await?;
            watcher.read(stream, comparison.next_seq - 1, state.last_seq);
            pace.keep(start, read).await;
        }
    }
    let stream = stream.to_owned();
    if incarnation.is_some() && store.position(&stream)?.map(|position| position.incarnation) != incarnation {
        // The seals are others than those that the first messages were held against.
        let reason = "the pool began to read it from its start meanwhile".to_owned();
        return Err(BusError::LogChanged { stream, reason }.into());
    }
    blocking("scrub", move || {
        let compared = comparison.finish(&expected)?;
        let took_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(findings(&stream, &state, messages, took_ms, compared, &known))
    })
    .await
}

/// What is known to be damaged, and what the pool has taken in of each chain.
pub(super) fn expectations(
    reader: &Reader,
    stream: &str,
) -> Result<(Vec<DamageRecord>, Vec<Expected>), ConsumersError> {
    let mut expected = Vec::new();
    for pool in reader.pools()?.value {
        if subject::site_stream(&pool.pool.site) != stream {
            continue;
        }
        for owner in reader.owners(&pool.pool)?.value {
            expected.extend(expected_of(&owner));
        }
    }
    Ok((reader.damages()?.value, expected))
}

fn expected_of(owner: &Owner) -> Vec<Expected> {
    let of = |at, hash| Expected { pool: owner.pool.clone(), owner: owner.source.clone(), at, hash };
    let retired = owner.retired.iter().filter(|last| last.seq > 0).map(|last| of(*last, None));
    retired.chain(owner.at.map(|at| of(at, owner.hash))).collect()
}

/// A comparison that is under way.
pub(super) struct Comparison {
    stream: String,
    reader: Reader,
    walk: Walk,
    losses: Losses,
    replaced: Replaced,
    unread: Unread,
    /// When the log was made that was read before.
    created: Timestamp,
    /// The largest time at which it had stored what was read.
    read_until: Timestamp,
    /// The last sequence that was read before; 0 = nothing was.
    read_seq: u64,
    frame: Option<Frame>,
    next_seq: u64,
    /// What checkpoints sign of it.
    ranges: Ranges,
    checked: Vec<Checked>,
    /// What the log does not have, as far as it was looked at; the first of them only.
    absent: Vec<(u64, u64)>,
}

/// What a comparison came to.
pub(super) struct Compared {
    /// The chains.
    pub walked: Walked,
    /// What is not as it was read.
    pub losses: Vec<LossFound>,
    /// What checkpoints sign.
    pub checked: Vec<Checked>,
    /// What the log does not have; the first stretches only.
    pub absent: Vec<(u64, u64)>,
    /// What it has and the pool never read.
    pub unread: Unread,
}

impl Comparison {
    /// Knows what is damaged, and what the pool has taken in of the chains: tells what it passed by, as far as nothing
    /// made up for it.
    pub(super) fn knowing(self, known: &[DamageRecord], expected: &[Expected]) -> Self {
        let replaced = Replaced::known(known, &self.stream, self.created);
        Self { replaced, unread: Unread::of(known, expected), ..self }
    }

    /// Looks no further than this sequence, and holds the log against what checkpoints sign of it.
    pub(super) fn signed(self, last_seq: u64, ranges: Ranges) -> Self {
        Self { read_seq: self.read_seq.min(last_seq), ranges, ..self }
    }

    /// Begins at the floor of a trimmed log, where chains were here.
    pub(super) fn from(self, begins_at: u64, heads: &Heads) -> Self {
        let walk = Walk::begin(&self.stream, begins_at).behind(&heads.marks, heads.are_exact);
        Self { walk, next_seq: begins_at, ..self }
    }

    pub(super) fn new(stream: &str, state: &StreamState, position: Option<Position>, reader: Reader) -> Self {
        let (created, read_seq, read_until) = position
            .map_or((state.created, 0, Timestamp::default()), |position| {
                (position.created, position.seq, position.time)
            });
        Self {
            stream: stream.to_owned(),
            reader,
            walk: Walk::begin(stream, 1),
            losses: Losses::of(stream, created, read_until),
            replaced: Replaced::default(),
            unread: Unread::default(),
            created,
            read_until,
            read_seq,
            frame: None,
            next_seq: 1,
            ranges: Ranges::new(1, []),
            checked: Vec::new(),
            absent: Vec::new(),
        }
    }

    pub(super) fn take(mut self, chunk: &[LogMessage]) -> Result<Self, ConsumersError> {
        for message in chunk {
            self.miss_up_to(message.seq())?;
            let body = Hash32::of(message.body());
            let hash = message.with_stored(|stored| stored.hash_with(body));
            if message.seq() > self.next_seq && self.absent.len() < ABSENT_MAX {
                self.absent.push((self.next_seq, message.seq() - 1));
            }
            self.checked.extend(self.ranges.push(message.seq(), hash));
            if self.stands_for_another(message, body, hash)? {
                self.walk.pass(message.seq());
            } else {
                message.with_stored(|stored| self.walk.push(stored, body));
            }
            self.next_seq = message.seq() + 1;
        }
        Ok(self)
    }

    /// What was read between the last message and this sequence is missing.
    fn miss_up_to(&mut self, seq: u64) -> Result<(), ConsumersError> {
        for missing in self.next_seq..seq.min(self.read_seq + 1) {
            if let Some(seal) = self.seal(missing)? {
                self.losses.push(missing, Loss::Missing, seal.is_covered());
            }
        }
        Ok(())
    }

    /// Compares a message with what was read at its place. Answers whether it stood there by then and is not that.
    fn stands_for_another(
        &mut self,
        message: &LogMessage,
        body: Hash32,
        hash: Hash32,
    ) -> Result<bool, ConsumersError> {
        let (seq, stored_at) = (message.seq(), message.stored_at());
        match self.seal(seq)? {
            Some(seal) if !seal.is_of(hash) => {
                self.losses.push(seq, Loss::Replaced, seal.is_covered());
                return Ok(stored_at <= self.read_until);
            }
            // Also when it was replaced for a while: another replica of the log may have it still.
            Some(seal) => return Ok(seal.is_passed()),
            None if seq <= self.read_seq => message.with_stored(|stored| self.unread.push(stored, body)),
            None => {}
        }
        Ok(self.replaced.states(seq, stored_at))
    }

    fn seal(&mut self, seq: u64) -> Result<Option<projector::Seal>, ConsumersError> {
        if seq > self.read_seq {
            return Ok(None);
        }
        if self.frame.as_ref().is_none_or(|frame| !frame.covers(seq)) {
            self.frame = self.reader.seals(&self.stream, seq)?;
        }
        Ok(self.frame.as_ref().and_then(|frame| frame.seal(seq)))
    }

    pub(super) fn finish(mut self, expected: &[Expected]) -> Result<Compared, ConsumersError> {
        self.miss_up_to(u64::MAX)?;
        self.checked.extend(self.ranges.finish());
        let (walked, losses) = (self.walk.finish(expected), self.losses.found());
        Ok(Compared { walked, losses, checked: self.checked, absent: self.absent, unread: self.unread })
    }
}

fn findings(
    stream: &str,
    state: &StreamState,
    messages: u64,
    took_ms: u64,
    compared: Compared,
    known: &[DamageRecord],
) -> Findings {
    let Compared { walked, losses, unread, .. } = compared;
    let known_gaps: Vec<_> = known.iter().filter_map(|record| Some((record, record.gap()?))).collect();
    let has = |gap: &GapFound, is_meant: fn(&DamageRecord) -> bool| {
        known_gaps.iter().any(|(record, known)| is_meant(record) && known.is_of_the_same(gap))
    };
    let gaps = walked.missing.into_iter().map(|missing| missing.gap);
    let gaps: Vec<_> = gaps.filter(|gap| !has(gap, |record| record.acknowledged.is_some())).collect();
    let is_known_loss = |loss: &LossFound| {
        let dated = known.iter().filter_map(DamageRecord::loss).filter(|known| known.read_until.is_some());
        dated.into_iter().any(|known| known.is_of_the_same(loss))
    };
    for found in &walked.breaks {
        tracing::error!(owner = found.owner, place = found.place, names = %found.names, found = %found.found, "an event does not follow the one before it in its chain");
    }
    let scrubbed = Scrubbed {
        stream: stream.to_owned(),
        first_seq: state.first_seq,
        last_seq: state.last_seq,
        messages,
        gaps: gaps.len() as u64,
        lost: losses.iter().map(LossFound::messages).sum(),
        unread: unread.lacking.messages,
        unread_at: unread.lacking.at.clone(),
        took_ms,
    };
    let losses = losses.into_iter().filter(|loss| !is_known_loss(loss)).map(LogFact::LossFound);
    let gaps = gaps.into_iter().filter(|gap| !has(gap, |record| record.healed.is_none()));
    let gaps = gaps.map(|gap| {
        let applied = unread.is_taken_all(&gap);
        LogFact::GapFound(GapFound { applied, ..gap })
    });
    let facts = losses.chain(gaps).chain([LogFact::Scrubbed(scrubbed.clone())]).collect();
    Findings { facts, scrubbed, is_steady: true }
}

/// States what a scrub found.
pub(crate) async fn state(facts: &FactPublisher, found: Vec<LogFact>) -> Result<(), ConsumersError> {
    for fact in found {
        let id = format!("{}/{}", fact.name(), uuid::Uuid::now_v7());
        facts.state(&Fact::Log(fact), &id).await?;
    }
    Ok(())
}
