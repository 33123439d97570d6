//! Sync answers: a full one that is complete makes tombstones of what it does not have.
//!
//! An answer deletes nothing when its opening was not seen, or events inside it are missing or dead
//! letters: what was not received must not look absent. A close that would delete most of an owner's
//! rows is held until a person says so; the tombstones bear the close's time and place either way, so
//! that the pool does not depend on when that was.

use bus_schema::{
    Timestamp,
    chain::ChainPoint,
    digest::Node,
    event::resource::{SyncClosed, SyncOpened, SyncScope},
    fact::{
        Fact,
        log::{LogFact, WindowHeld},
        resource::EmptyConfirmed,
    },
};
use redb::ReadableTable;

use super::{Commit, outbox, owners::OwnerRecord, pool::PoolWriter};
use crate::{
    cell::{Cell, EMPTY_TAIL},
    owner::{HeldWindow, LastSync, Proof, Window},
    pending::Stated,
    tables::{self, Db},
};

/// A close that would delete a greater share of an owner's rows is held, in percent.
const DELETE_PERCENT_MAX: u64 = 50;
/// A close that would delete fewer rows is never held.
const GUARDED_ROWS_MIN: usize = 10;

/// What came of the end of a full answer.
enum Swept {
    Deleted(u64),
    Held { would_delete: u64, rows: u64 },
}

/// Which rows are absent from a full answer, and what their tombstones say.
struct Sweep {
    number: u32,
    low: ChainPoint,
    incarnation: u32,
    opened_seq: u64,
    log: u16,
    closed_seq: u64,
    closed_at: i64,
}

impl Commit<'_, '_> {
    pub(super) fn open_window(
        &mut self,
        run: usize,
        opened: SyncOpened,
        seq: u64,
        stored_at: Timestamp,
    ) -> Db<()> {
        let incarnation = self.log.incarnation;
        let (pool, number) = self.pool_of(run)?;
        let SyncOpened { sync_id, scope, low } = opened;
        let record = pool.side.owners.get(number)?;
        record.marks.window_incarnation = incarnation;
        record.owner.window =
            Some(Window { sync_id, scope, low, opened_seq: seq, opened_at: stored_at, broken: None });
        Ok(())
    }

    pub(super) fn close_window(
        &mut self,
        run: usize,
        chain_seq: u64,
        closed: SyncClosed,
        seq: u64,
        stored_at: Timestamp,
    ) -> Db<()> {
        let (log, place) = (self.log.number, self.place(seq));
        let is_confirmed = self.is_confirmed(run, &closed.sync_id)?;
        let (pool, number) = self.pool_of(run)?;
        let OwnerRecord { owner, marks, .. } = pool.side.owners.get(number)?;
        let (source, incarnation) = (owner.source.clone(), marks.window_incarnation);
        let window = owner.window.take().filter(|window| window.sync_id == closed.sync_id);
        let broken = match &window {
            None => Some("its opening was not seen".to_owned()),
            Some(_) if chain_seq == 0 => Some("it is not in a chain".to_owned()),
            Some(window) => window.broken.clone(),
        };
        let mut swept = Swept::Deleted(0);
        if let (Some(window), None, SyncScope::Full) = (&window, &broken, closed.scope) {
            let (low, opened_seq) = (window.low, window.opened_seq);
            let closed_at = stored_at.unix_ms();
            let sweep = Sweep { number, low, incarnation, opened_seq, log, closed_seq: seq, closed_at };
            swept = pool.sweep(&sweep, is_confirmed)?;
            pool.note_swept(&sweep, &closed.sync_id, &swept, stored_at)?;
        }
        pool.note_closed(number, chain_seq, &closed, place, stored_at, broken, &swept)?;
        if let Swept::Held { would_delete, rows } = swept {
            let held = WindowHeld { owner: source, sync_id: closed.sync_id, would_delete, rows };
            let fact = LogFact::WindowHeld(held);
            self.outbox.add(&outbox::name(&fact), &Stated::Fact(Fact::Log(fact)))?;
        }
        Ok(())
    }

    fn is_confirmed(&self, run: usize, sync_id: &str) -> Db<bool> {
        let owner = &self.owners[self.runs[run].owner];
        let key = (self.names[owner.pool].as_str(), &*owner.source, sync_id);
        Ok(self.txn.open_table(tables::EMPTY_CONFIRMED)?.get(key)?.is_some())
    }

    /// A person lets a held close pass; or one that is still to come, when logs are read again.
    pub(super) fn confirm_empty(&mut self, confirmed: &EmptyConfirmed) -> Db<()> {
        let name = confirmed.pool.to_string();
        let key = (name.as_str(), confirmed.owner.as_str(), confirmed.sync_id.as_str());
        self.txn.open_table(tables::EMPTY_CONFIRMED)?.insert(key, ())?;
        if self.txn.open_table(tables::POOLS)?.get(name.as_str())?.is_none() {
            return Ok(());
        }
        let pool = self.pool(&name)?;
        let Some(number) = pool.side.owners.find(&confirmed.owner)? else { return Ok(()) };
        let OwnerRecord { owner, marks, .. } = pool.side.owners.get(number)?;
        let Some(held) = owner.held_window.take_if(|held| held.sync_id == confirmed.sync_id) else {
            return Ok(());
        };
        let sweep = Sweep {
            number,
            low: held.low,
            incarnation: marks.held_incarnation,
            opened_seq: held.opened_seq,
            log: marks.held_log,
            closed_seq: held.closed_seq,
            closed_at: held.closed_at.unix_ms(),
        };
        let swept = pool.sweep(&sweep, true)?;
        pool.note_swept(&sweep, &confirmed.sync_id, &swept, held.closed_at)?;
        if let (Swept::Deleted(rows), Some(last)) =
            (swept, &mut pool.side.owners.get(number)?.owner.last_sync)
            && last.sync_id == confirmed.sync_id
        {
            last.swept = rows;
        }
        Ok(())
    }
}

impl PoolWriter<'_> {
    /// Makes tombstones of the owner's rows that the answer does not have, unless they are too many.
    fn sweep(&mut self, sweep: &Sweep, is_confirmed: bool) -> Db<Swept> {
        let mut absent: Vec<String> = Vec::new();
        for entry in self.rows.iter()? {
            let (key, row) = entry?;
            let cell = Cell::read(row.value())?;
            if cell.head.owner == sweep.number
                && cell.is_live()
                && cell.is_before_window(sweep.low, sweep.incarnation, sweep.opened_seq)
            {
                absent.push(key.value().to_owned());
            }
        }
        let rows = self.side.owners.get(sweep.number)?.owner.digest.count;
        let would_delete = absent.len() as u64;
        let too_many = would_delete * 100 > rows * DELETE_PERCENT_MAX && absent.len() >= GUARDED_ROWS_MIN;
        if too_many && !is_confirmed {
            return Ok(Swept::Held { would_delete, rows });
        }
        for key in absent {
            self.bury(&key, sweep)?;
        }
        Ok(Swept::Deleted(would_delete))
    }

    fn bury(&mut self, key: &str, sweep: &Sweep) -> Db<()> {
        let Some(old) = self.rows.get(key)?.map(|row| row.value().to_vec()) else { return Ok(()) };
        let mut head = Cell::read(&old)?.head;
        (head.item, head.has_state, head.state_hash) = (Node::default(), false, Default::default());
        (head.log, head.seq) = (sweep.log, sweep.closed_seq);
        (head.stored_at, head.source_time) = (sweep.closed_at, sweep.closed_at);
        head.deleted_at = Some(sweep.closed_at);
        self.put(key, &Cell { head, notice: None, tail: EMPTY_TAIL.0.into() })
    }

    /// Notes on the owner what came of a full answer that can be trusted.
    fn note_swept(&mut self, sweep: &Sweep, sync_id: &str, swept: &Swept, closed_at: Timestamp) -> Db<()> {
        let OwnerRecord { owner, marks, .. } = self.side.owners.get(sweep.number)?;
        (marks.held_incarnation, marks.held_log) = (sweep.incarnation, sweep.log);
        owner.held_window = match swept {
            Swept::Held { would_delete, rows } => Some(HeldWindow {
                sync_id: sync_id.to_owned(),
                low: sweep.low,
                opened_seq: sweep.opened_seq,
                would_delete: *would_delete,
                rows: *rows,
                closed_seq: sweep.closed_seq,
                closed_at,
            }),
            Swept::Deleted(_) => {
                owner.gap.take_if(|_| marks.gap_seq <= sweep.closed_seq);
                None
            }
        };
        Ok(())
    }

    #[allow(clippy::too_many_arguments, reason = "what a close says and what came of it, noted in one place")]
    fn note_closed(
        &mut self,
        number: u32,
        chain_seq: u64,
        closed: &SyncClosed,
        place: String,
        closed_at: Timestamp,
        broken: Option<String>,
        swept: &Swept,
    ) -> Db<()> {
        let owner = &mut self.side.owners.get(number)?.owner;
        let equal = closed.digest == owner.digest;
        if let Some(at) = owner.at.filter(|_| chain_seq > 0) {
            owner.proof = Some(Proof { at, equal, stored_at: closed_at });
        }
        // An answer about some keys is no sync of the owner: what it did not cover still counts.
        if closed.scope != SyncScope::Keys {
            (owner.since_sync.changes, owner.since_sync.bytes) = (0, 0);
        }
        owner.last_sync = Some(LastSync {
            sync_id: closed.sync_id.clone(),
            scope: closed.scope,
            place,
            closed_at,
            resources: closed.resources,
            deleted: closed.deleted,
            bytes: closed.bytes,
            swept: if let Swept::Deleted(rows) = swept { *rows } else { 0 },
            broken,
            equal,
        });
        Ok(())
    }
}
