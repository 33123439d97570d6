//! What of a run is taken in: repeats are dropped, forks and retired epochs refused, gaps noted.
//!
//! ```text
//! run's epoch          run's first event                           outcome
//! ------------------   -----------------------------------------   -----------------------------------
//! retired              up to the epoch's last that was taken in    repeats
//! retired              behind it                                   refused, each a dead letter
//! new                  seq 1                                       taken in; the old epoch is retired
//! new                  later                                       taken in, a gap
//! current              next, names the last one's hash             taken in
//! current              next, names another hash                    refused, a fork
//! current              later                                       taken in, a gap; refused after a fork
//! current              one that is known already                   equal hashes: repeats, and what follows
//!                                                                  them is looked at as above;
//!                                                                  another hash: refused, a fork
//! ```
//! Known places that are missing (see [`super::holes`]) are filled on the way, in a retired epoch too.
//! A fork is stated once; until a new epoch, what cannot be told apart from its branch is refused.

use bus_schema::{
    Hash32, Timestamp,
    chain::ChainPoint,
    event::agent::Heartbeat,
    fact::log::{Forked, GapFound, LogFact},
};

use super::{
    Commit, Outcome,
    holes::{self, Hole, Late},
    owners::{OwnerRecord, Owners, short},
    parked::Lot,
};
use crate::{
    batch::{Run, RunChain, Step},
    log::LogState,
    owner::{Fork, Gap, Owner},
    pending::DeadLetter,
    tables::Db,
};

/// A stretch of a chain, and where it was read.
struct Stretch<'a> {
    chain: &'a RunChain,
    stream: &'a str,
    /// When the log stored the first event.
    stored_at: Timestamp,
}

impl<'a> Stretch<'a> {
    /// That everything between this place and the stretch is missing.
    fn shown(&self, after: ChainPoint) -> Shown<'a> {
        let Self { chain, stream, stored_at } = *self;
        let (before, before_prev) = (chain.first, Some(chain.first_prev));
        let seq = chain.steps.first().map_or(0, |step| step.seq);
        Shown { after, before, before_prev, stream, seq, stored_at }
    }
}

/// What was decided about a run.
#[derive(Default)]
struct Verdict {
    /// Index of the first step that is taken in; none = nothing is.
    from: Option<usize>,
    /// Copies among the steps before it that fill holes.
    late: Vec<Late>,
    /// What is to be stated, each with the stream sequence of the event that shows it.
    facts: Vec<(LogFact, u64)>,
    /// Index of the first step that is refused because its epoch is over; none = no such step.
    retired: Option<usize>,
}

/// Where the log shows that events of a chain are missing.
struct Shown<'a> {
    /// The last event before them.
    after: ChainPoint,
    /// The first place behind them.
    before: ChainPoint,
    /// The hash that the last missing one has, if the event behind it names that.
    before_prev: Option<Hash32>,
    stream: &'a str,
    /// The stream sequence of the event that shows it.
    seq: u64,
    /// When the log stored that one.
    stored_at: Timestamp,
}

impl Commit<'_, '_> {
    /// Decides what of a run is taken in, and brings its owner up to date.
    pub(super) fn resolve(&mut self, run: usize, stored_at: i64) -> Db<()> {
        let runs = self.runs;
        if let Some(copy) = &runs[run].copy {
            return self.resolve_copy(run, copy);
        }
        let (stream, run_data, log) = (self.stream, &runs[run], self.log.clone());
        let (pool, number) = self.pool_of(run)?;
        let owner = &mut pool.side.owners.get(number)?.owner;
        owner.last_event_at = owner.last_event_at.max(Timestamp::from_unix_ms(run_data.last_stored_at));
        let Some(chain) = &run_data.chain else {
            take_in_unchained(owner, run_data, &log);
            let epoch = u64::from(log.incarnation);
            let (late, origin) = (Vec::new(), None);
            self.outcomes[run] = Some(Outcome { after: 0, late, owner: number, epoch, origin });
            return Ok(());
        };
        let stretch = Stretch { chain, stream, stored_at: Timestamp::from_unix_ms(stored_at) };
        let verdict = judge(&mut pool.side.owners, number, &stretch)?;
        if let Some(from) = verdict.from {
            take_in(&mut pool.side.owners, number, chain, from)?;
        }
        let source = pool.side.owners.get(number)?.owner.source.clone();
        let after = verdict.from.map(|from| chain.first.seq + from as u64 - 1);
        self.outcomes[run] = (after.is_some() || !verdict.late.is_empty()).then(|| Outcome {
            after: after.unwrap_or(u64::MAX),
            late: verdict.late,
            owner: number,
            epoch: chain.first.epoch.0,
            origin: None,
        });
        for (fact, seq) in verdict.facts {
            self.tell(fact, seq)?;
        }
        if let Some(from) = verdict.retired {
            self.refuse_retired(&source, chain, from)?;
        }
        Ok(())
    }

    fn refuse_retired(&mut self, source: &str, chain: &RunChain, from: usize) -> Db<()> {
        let epoch = chain.first.epoch;
        for (seq, step) in (chain.first.seq..).zip(&chain.steps).skip(from) {
            if self.log.has_read(step.seq, step.stored_at) {
                continue;
            }
            let letter = DeadLetter {
                stream: self.stream.to_owned(),
                seq: step.seq,
                reason: format!(
                    "epoch {epoch} of {source} is over: a newer one has begun; the agent must start a new epoch and send everything"
                ),
                path: "farepoch".to_owned(),
                stored_at: Timestamp::from_unix_ms(step.stored_at),
                at: Some(ChainPoint { epoch, seq }),
                message: None,
            };
            self.park(letter, Lot { source: Some(source.to_owned()), late: None, is_over: true })?;
        }
        Ok(())
    }

    /// Notes what a heartbeat tells: the log had acknowledged everything up to its place, so that what has not come
    /// by now is missing.
    pub(super) fn note_missing(
        &mut self,
        run: usize,
        beat: &Heartbeat,
        seq: u64,
        stored_at: Timestamp,
    ) -> Db<()> {
        let stream = self.stream;
        let (pool, number) = self.pool_of(run)?;
        let owner = &pool.side.owners.get(number)?.owner;
        let behind = owner.at.filter(|at| at.epoch == beat.at.epoch && at.seq < beat.at.seq);
        let Some(after) = behind.filter(|_| owner.fork.is_none()) else { return Ok(()) };
        let Some(next) = beat.at.seq.checked_add(1) else { return Ok(()) };
        let before = ChainPoint { seq: next, ..beat.at };
        let shown = Shown { after, before, before_prev: beat.hash, stream, seq, stored_at };
        let fact = note_gap(&mut pool.side.owners, number, &shown)?;
        fact.map_or(Ok(()), |(fact, seq)| self.tell(fact, seq))
    }

    /// Notes that the sync answer that the run's owner is sending has a hole.
    pub(super) fn break_window(&mut self, run: usize, reason: &str) -> Db<()> {
        let (pool, number) = self.pool_of(run)?;
        break_window(&mut pool.side.owners.get(number)?.owner, reason);
        Ok(())
    }
}

fn break_window(owner: &mut Owner, reason: &str) {
    for window in &mut owner.windows {
        window.broken.get_or_insert_with(|| reason.to_owned());
    }
}

fn take_in_unchained(owner: &mut Owner, run: &Run, log: &LogState) {
    for event in &run.unchained {
        if log.has_read(event.seq, event.stored_at) {
            owner.repeats += 1;
            continue;
        }
        owner.unchained += 1;
        owner.since_sync.count(event.counted);
    }
}

fn take_in(owners: &mut Owners<'_>, number: u32, chain: &RunChain, from: usize) -> Db<()> {
    let steps = &chain.steps[from..];
    let Some(last) = steps.last() else { return Ok(()) };
    let owner = &mut owners.get(number)?.owner;
    owner.at = Some(ChainPoint { epoch: chain.first.epoch, seq: chain.last_seq() });
    owner.hash = Some(last.hash);
    owner.applied += steps.len() as u64;
    steps.iter().for_each(|step| owner.since_sync.count(step.counted));
    owners.keep_hashes(number, chain.first.seq + from as u64, steps.iter().map(|step| step.hash))
}

fn judge(owners: &mut Owners<'_>, number: u32, stretch: &Stretch<'_>) -> Db<Verdict> {
    let chain = stretch.chain;
    if let Some(last_seq) = owners.last_of_retired(number, chain.first.epoch)? {
        return judge_retired(owners, number, last_seq, stretch);
    }
    let mut facts = Vec::new();
    match owners.get(number)?.owner.at {
        Some(last) if last.epoch == chain.first.epoch => {
            let from = judge_current(owners, number, last, stretch, &mut facts)?;
            let late = fill(owners, number, stretch)?;
            // What a hole at the end of the chain lacked are simply the next ones.
            let next = |late: &Late| from.is_some_and(|from| late.first_seq >= chain.first.seq + from as u64);
            let late: Vec<Late> = late.into_iter().filter(|late| !next(late)).collect();
            let copies = count(&late);
            let owner = &mut owners.get(number)?.owner;
            owner.repeats -= copies;
            owner.applied += copies;
            Ok(Verdict { from, late, facts, retired: None })
        }
        last => {
            begin_epoch(owners, number, last)?;
            if chain.first.seq > 1 {
                let after = ChainPoint { epoch: chain.first.epoch, seq: 0 };
                facts.extend(note_gap(owners, number, &stretch.shown(after))?);
            }
            owners.forget_hashes(number)?;
            Ok(Verdict { from: Some(0), facts, ..Verdict::default() })
        }
    }
}

/// Of an epoch that is over nothing is taken in but what holes lack.
fn judge_retired(owners: &mut Owners<'_>, number: u32, last_seq: u64, stretch: &Stretch<'_>) -> Db<Verdict> {
    let late = fill(owners, number, stretch)?;
    // A hole may be at the very end of the epoch.
    let last_seq = late.iter().map(|late| late.last_seq).fold(last_seq, u64::max);
    let known = known_steps(last_seq, stretch.chain);
    let copies = count(&late);
    let owner = &mut owners.get(number)?.owner;
    owner.repeats += known as u64 - copies;
    owner.applied += copies;
    owner.refused += (stretch.chain.steps.len() - known) as u64;
    Ok(Verdict { late, retired: Some(known), ..Verdict::default() })
}

fn count(late: &[Late]) -> u64 {
    late.iter().map(|late| late.last_seq + 1 - late.first_seq).sum()
}

/// Fills holes with what a run brings, and shows what is missing still.
fn fill(owners: &mut Owners<'_>, number: u32, stretch: &Stretch<'_>) -> Db<Vec<Late>> {
    let chain = stretch.chain;
    let filled = holes::fill(&mut owners.holes, number, chain.first.epoch, chain)?;
    for hole in filled.whole.iter().filter(|hole| !hole.is_mended) {
        let rest = holes::all(&owners.holes, number)?.into_iter().filter(|rest| !rest.is_mended);
        let rest = rest.max_by_key(|rest| rest.place_seq);
        let OwnerRecord { owner, marks, .. } = owners.get(number)?;
        if marks.gap_seq == hole.place_seq {
            marks.gap_seq = rest.as_ref().map_or(0, |rest| rest.place_seq);
            owner.gap = rest.map(|rest| gap(stretch.stream, &rest));
        }
    }
    Ok(filled.late)
}

/// How many steps stand at or before a place that the chain has reached.
fn known_steps(last_seq: u64, chain: &RunChain) -> usize {
    last_seq.saturating_add(1).saturating_sub(chain.first.seq).min(chain.steps.len() as u64) as usize
}

/// A new epoch makes an end of what spoke of the old one's chain; a full sync follows it.
fn begin_epoch(owners: &mut Owners<'_>, number: u32, last: Option<ChainPoint>) -> Db<()> {
    if let Some(last) = last {
        owners.retire(number, last)?;
    }
    let owner = &mut owners.get(number)?.owner;
    owner.fork = None;
    owner.proof = None;
    owner.windows.clear();
    Ok(())
}

fn judge_current(
    owners: &mut Owners<'_>,
    number: u32,
    last: ChainPoint,
    stretch: &Stretch<'_>,
    facts: &mut Vec<(LogFact, u64)>,
) -> Db<Option<usize>> {
    let Stretch { chain, stream, .. } = *stretch;
    let known = known_steps(last.seq, chain);
    let mut prev = chain.first_prev;
    for (seq, step) in (chain.first.seq..).zip(&chain.steps[..known]) {
        let applied = owners.recent_hash(number, seq)?;
        let owner = &mut owners.get(number)?.owner;
        if applied.is_some_and(|applied| applied != short(&step.hash)) {
            owner.refused += 1;
            let applied = if seq == last.seq { owner.hash } else { None };
            let at = ChainPoint { epoch: last.epoch, seq };
            facts.extend(note_fork(owner, at, applied, step.hash, stream, step));
        } else {
            owner.repeats += 1;
        }
        prev = step.hash;
    }
    let record = owners.get(number)?;
    let owner = &mut record.owner;
    let Some(next) = chain.steps.get(known) else { return Ok(None) };
    let rest = (chain.steps.len() - known) as u64;
    if chain.first.seq.saturating_add(known as u64) == last.seq.saturating_add(1) {
        if owner.hash == Some(prev) {
            return Ok(Some(known));
        }
        owner.refused += rest;
        facts.extend(note_fork(owner, last, owner.hash, prev, stream, next));
        return Ok(None);
    }
    if owner.fork.is_some() {
        owner.refused += rest;
        return Ok(None);
    }
    facts.extend(note_gap(owners, number, &stretch.shown(last))?);
    Ok(Some(known))
}

/// Notes a hole, and that the pool lacks what was in it; none = it was stated already.
fn note_gap(owners: &mut Owners<'_>, number: u32, shown: &Shown<'_>) -> Db<Option<(LogFact, u64)>> {
    let Shown { after, before, before_prev, stream, seq, stored_at } = *shown;
    let known = holes::open_at(&owners.holes, number, after)?;
    let OwnerRecord { owner, marks, .. } = owners.get(number)?;
    let is_known = known.as_ref().is_some_and(|hole| hole.before == before);
    let hole = match known {
        Some(hole) if is_known => Hole { before_prev: before_prev.or(hole.before_prev), ..hole },
        Some(hole) => Hole { before, before_prev, place_seq: seq, stored_at, ..hole },
        None => {
            let joins = if after.seq == 0 { Some(Hash32::ZERO) } else { owner.hash };
            let (filled_seq, place_seq, is_mended) = (after.seq, seq, false);
            Hole { after, before, joins, filled_seq, before_prev, place_seq, stored_at, is_mended }
        }
    };
    // The latest one: only a full answer that began after it, or copies of everything, can fill it.
    marks.gap_seq = hole.place_seq;
    let gap = gap(stream, &hole);
    break_window(owner, &format!("events before {} are missing", gap.place));
    let (owner_name, place) = (owner.source.clone(), gap.place.clone());
    owner.gap = Some(gap);
    holes::put(&mut owners.holes, number, &hole)?;
    let Hole { after, before, joins, filled_seq, before_prev, .. } = hole;
    let after_hash = joins.filter(|_| filled_seq == after.seq);
    let fact = GapFound { owner: owner_name, after, before, place, after_hash, before_prev, applied: false };
    Ok((!is_known).then_some((LogFact::GapFound(fact), seq)))
}

/// A hole as it is shown.
fn gap(stream: &str, hole: &Hole) -> Gap {
    let Hole { after, before, place_seq, stored_at, .. } = hole.clone();
    Gap { after, before, place: format!("{stream}:{place_seq}"), stored_at }
}

/// States a fork, once: what follows on the refused branch is of the same fork.
fn note_fork(
    owner: &mut Owner,
    at: ChainPoint,
    applied: Option<Hash32>,
    refused: Hash32,
    stream: &str,
    step: &Step,
) -> Option<(LogFact, u64)> {
    if owner.fork.is_some() {
        return None;
    }
    let place = format!("{stream}:{}", step.seq);
    let applied = applied.unwrap_or_default();
    owner.fork = Some(Fork { at, applied, refused, place: place.clone() });
    let fact = Forked { owner: owner.source.clone(), at, applied, refused, place };
    Some((LogFact::Forked(fact), step.seq))
}
