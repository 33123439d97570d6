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
//! A fork is stated once; until a new epoch, what cannot be told apart from its branch is refused.

use bus_schema::{
    Epoch, Hash32, Timestamp,
    chain::ChainPoint,
    fact::log::{Forked, GapFound, LogFact},
};

use super::{
    Commit, Outcome,
    owners::{OwnerRecord, Owners, short},
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

/// What was decided about a run.
struct Verdict {
    /// Index of the first step that is taken in; none = nothing is.
    from: Option<usize>,
    /// What is to be stated, each with the stream sequence of the event that shows it.
    facts: Vec<(LogFact, u64)>,
    /// Index of the first step that is refused because its epoch is over; none = no such step.
    retired: Option<usize>,
}

impl Commit<'_, '_> {
    /// Decides what of a run is taken in, and brings its owner up to date.
    pub(super) fn resolve(&mut self, run: usize, stored_at: i64) -> Db<()> {
        let runs = self.runs;
        let (stream, run_data, log) = (self.stream, &runs[run], self.log.clone());
        let (pool, number) = self.pool_of(run)?;
        let owner = &mut pool.side.owners.get(number)?.owner;
        owner.last_event_at = owner.last_event_at.max(Timestamp::from_unix_ms(run_data.last_stored_at));
        let Some(chain) = &run_data.chain else {
            take_in_unchained(owner, run_data, &log);
            let epoch = u64::from(log.incarnation);
            self.outcomes[run] = Some(Outcome { after: 0, owner: number, epoch });
            return Ok(());
        };
        let stretch = Stretch { chain, stream, stored_at: Timestamp::from_unix_ms(stored_at) };
        let verdict = judge(&mut pool.side.owners, number, &stretch)?;
        if let Some(from) = verdict.from {
            take_in(&mut pool.side.owners, number, chain, from)?;
        }
        let source = pool.side.owners.get(number)?.owner.source.clone();
        self.outcomes[run] = verdict.from.map(|from| Outcome {
            after: chain.first.seq + from as u64 - 1,
            owner: number,
            epoch: chain.first.epoch.0,
        });
        for (fact, seq) in verdict.facts {
            self.tell(fact, seq)?;
        }
        if let Some(from) = verdict.retired {
            self.refuse_retired(&source, chain.first.epoch, &chain.steps[from..])?;
        }
        Ok(())
    }

    fn refuse_retired(&mut self, source: &str, epoch: Epoch, steps: &[Step]) -> Db<()> {
        for step in steps {
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
                message: None,
            };
            self.park(letter)?;
        }
        Ok(())
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
    let all = chain.steps.len() as u64;
    let over = owners.last_of_retired(number, chain.first.epoch)?;
    let owner = &mut owners.get(number)?.owner;
    if let Some(last_seq) = over {
        let known = known_steps(last_seq, chain);
        owner.repeats += known as u64;
        owner.refused += all - known as u64;
        return Ok(Verdict { from: None, facts: Vec::new(), retired: Some(known) });
    }
    match owner.at {
        Some(last) if last.epoch == chain.first.epoch => {
            let mut facts = Vec::new();
            let from = judge_current(owners, number, last, stretch, &mut facts)?;
            Ok(Verdict { from, facts, retired: None })
        }
        last => {
            begin_epoch(owners, number, last)?;
            let record = owners.get(number)?;
            let gap = if chain.first.seq > 1 {
                let after = ChainPoint { epoch: chain.first.epoch, seq: 0 };
                Some(note_gap(record, after, stretch))
            } else {
                None
            };
            owners.forget_hashes(number)?;
            Ok(Verdict { from: Some(0), facts: gap.into_iter().collect(), retired: None })
        }
    }
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
    facts.push(note_gap(record, last, stretch));
    Ok(Some(known))
}

fn note_gap(record: &mut OwnerRecord, after: ChainPoint, stretch: &Stretch<'_>) -> (LogFact, u64) {
    let Stretch { chain, stream, stored_at } = *stretch;
    let OwnerRecord { owner, marks, .. } = record;
    marks.gap_seq = chain.steps.first().map_or(0, |step| step.seq);
    let (before, place) = (chain.first, format!("{stream}:{}", marks.gap_seq));
    // The latest one: only a full answer that began after it can fill it.
    owner.gap = Some(Gap { after, before, place: place.clone(), stored_at });
    break_window(owner, &format!("events before {place} are missing"));
    let owner = owner.source.clone();
    let fact = GapFound { owner, after, before, place, after_hash: None, before_prev: None, applied: false };
    (LogFact::GapFound(fact), marks.gap_seq)
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
