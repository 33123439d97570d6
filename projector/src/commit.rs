//! A commit: what a batch holds, put into the pools in one transaction.
//!
//! Segments are taken one after the other: first everything that is no row, in order (which also decides
//! what of each run counts), then the rows in order of their keys, then the one event, if any, that
//! looks at the whole pool.

mod chain;
mod damage;
mod events;
mod facts;
mod holes;
pub(crate) mod originals;
mod outbox;
mod owners;
mod parked;
mod pool;
mod rows;
mod window;

use std::collections::{BTreeMap, BTreeSet};

use bus_schema::fact::{Fact, log::LogFact};
use redb::WriteTransaction;

pub(crate) use outbox::{pending_key, read_pending};
pub(crate) use owners::OwnerRecord;
pub(crate) use parked::recall;
pub(crate) use pool::PoolState;
pub use window::is_harmless;

use self::{
    holes::Late,
    outbox::Outbox,
    parked::{Lot, Original},
    pool::PoolWriter,
};
use crate::{
    batch::{Batch, Effect, Item, OwnerSlot, Run, Segment},
    log::LogState,
    pending::Stated,
    tables::Db,
};

/// What a transaction has done so far.
pub(crate) struct Commit<'t, 'b> {
    txn: &'t WriteTransaction,
    log: LogState,
    stream: &'b str,
    runs: &'b [Run],
    owners: &'b [OwnerSlot],
    /// By run: what of it counts; none = nothing does, or it was not looked at yet.
    outcomes: Vec<Option<Outcome>>,
    names: Vec<String>,
    pools: BTreeMap<String, PoolWriter<'t>>,
    outbox: Outbox<'t>,
    rows: u64,
    /// Sequences of the parked messages whose copies changed something.
    changed: BTreeSet<u64>,
}

/// Whether an event of a run is taken in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Counts {
    No,
    Yes,
    /// It fills a hole, or was parked: what came after it is newer.
    Late {
        /// Whether it may write a row: no full answer has come since, which said what there was.
        rows: bool,
    },
}

/// What of a run counts.
#[derive(Clone)]
struct Outcome {
    /// Chained events count when their sequence is greater.
    after: u64,
    /// And these, as far as nothing newer is undone.
    late: Vec<Late>,
    /// The owner's number in its pool.
    owner: u32,
    /// The epoch of the run, or the log's incarnation for unchained events.
    epoch: u64,
    /// The run is a copy of a message that was parked: where that stands.
    origin: Option<Original>,
}

/// How much a transaction wrote.
pub(crate) struct Written {
    pub(crate) rows: u64,
    pub(crate) pending: u64,
    pub(crate) changed: BTreeSet<u64>,
}

/// Puts a batch of the log into the pools.
pub(crate) fn apply(txn: &WriteTransaction, log: &LogState, mut batch: Batch) -> Db<Written> {
    let segments = std::mem::take(&mut batch.segments);
    let mut commit = Commit {
        txn,
        log: log.clone(),
        stream: &batch.stream,
        runs: &batch.runs,
        owners: &batch.owners,
        outcomes: vec![None; batch.runs.len()],
        names: batch.pools.iter().map(|pool| format!("{}/{}", pool.site, pool.cluster)).collect(),
        pools: BTreeMap::new(),
        outbox: Outbox::open(txn)?,
        rows: 0,
        changed: BTreeSet::new(),
    };
    for segment in segments {
        commit.segment(segment)?;
    }
    commit.finish()
}

impl<'t> Commit<'t, '_> {
    fn segment(&mut self, segment: Segment) -> Db<()> {
        let mut items = segment.items;
        let last = if segment.closed { items.pop() } else { None };
        for item in items {
            self.item(item)?;
        }
        for (pool, rows) in segment.rows.into_iter().enumerate() {
            if !rows.is_empty() {
                self.write_rows(pool, rows)?;
            }
        }
        last.map_or(Ok(()), |item| self.item(item))
    }

    fn item(&mut self, item: Item) -> Db<()> {
        let of_run = |run| self.counts(run, item.chain_seq, item.seq, item.stored_at);
        let counts = item.run.map_or(Counts::Yes, of_run);
        match item.effect {
            Effect::Run => item.run.map_or(Ok(()), |run| self.resolve(run, item.stored_at)),
            Effect::StillDead(dead) => self.still_dead(&dead.0, dead.1, item.stored_at),
            _ if item.run.is_none() && self.log.has_read(item.seq, item.stored_at) => Ok(()),
            Effect::Fact(fact) => self.fact(fact, item.seq, item.stored_at),
            _ if counts == Counts::No => Ok(()),
            Effect::DeadLetter(letter) => {
                let source = item.run.map(|run| self.owners[self.runs[run].owner].source.to_string());
                if let Some(run) = item.run {
                    let reason =
                        format!("an event of the answer is a dead letter ({}:{})", letter.stream, letter.seq);
                    if counts == Counts::Yes {
                        self.break_window(run, &reason)?;
                    }
                }
                let late = if let Counts::Late { rows } = counts { Some(rows) } else { None };
                self.park(letter, Lot { source, late, is_over: false })
            }
            effect if matches!(counts, Counts::Late { .. }) => item
                .run
                .map_or(Ok(()), |run| self.late_event(run, item.chain_seq, item.seq, item.stored_at, effect)),
            effect => item
                .run
                .map_or(Ok(()), |run| self.event(run, item.chain_seq, item.seq, item.stored_at, effect)),
        }
    }

    /// Whether an event of a run is taken in: a chained one by its place in the chain, another one unless it
    /// was taken in before its log was rewound (see `docs/decisions/0004-rewound-logs.md`).
    fn counts(&self, run: usize, chain_seq: u64, seq: u64, stored_at: i64) -> Counts {
        let Some(outcome) = &self.outcomes[run] else { return Counts::No };
        if let Some(origin) = outcome.origin {
            return Counts::Late { rows: origin.rows };
        }
        let is_new = match chain_seq {
            0 => !self.log.has_read(seq, stored_at),
            place => place > outcome.after,
        };
        if is_new {
            return Counts::Yes;
        }
        let late = outcome.late.iter().find(|late| late.has(chain_seq));
        late.map_or(Counts::No, |late| Counts::Late { rows: late.rows })
    }

    /// The tables of a pool, made if the pool is new.
    fn pool(&mut self, name: &str) -> Db<&mut PoolWriter<'t>> {
        if !self.pools.contains_key(name) {
            let writer = PoolWriter::open(self.txn, name)?;
            self.pools.insert(name.to_owned(), writer);
        }
        self.pools.get_mut(name).ok_or_else(|| crate::tables::damaged("a pool"))
    }

    /// The pool of a run, and the run's owner in it.
    fn pool_of(&mut self, run: usize) -> Db<(&mut PoolWriter<'t>, u32)> {
        let owner = &self.owners[self.runs[run].owner];
        let name = self.names[owner.pool].clone();
        let pool = self.pool(&name)?;
        let number = pool.side.owners.number(&owner.source, &name)?;
        Ok((pool, number))
    }

    /// Puts what is to be stated about a place of the log into the outbox.
    fn tell(&mut self, fact: LogFact, seq: u64) -> Db<()> {
        self.outbox.add(&outbox::name(&fact), self.log.reused(seq), &Stated::Fact(Fact::Log(fact)))
    }

    fn place(&self, seq: u64) -> String {
        format!("{}:{seq}", self.stream)
    }

    fn finish(mut self) -> Db<Written> {
        for pool in self.pools.values_mut() {
            pool.flush()?;
        }
        let pending = self.outbox.finish()?;
        Ok(Written { rows: self.rows, pending, changed: self.changed })
    }
}
