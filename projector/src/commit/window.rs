//! Sync answers: a full one that is whole makes tombstones of what it does not have.
//!
//! An answer deletes nothing when its opening was not seen, or events inside it are missing or dead
//! letters: what was not received must not look absent. Answers may overlap; each is known by its id.
//!
//! A close that would delete most of an owner's rows is held until a person says so. The person's word
//! stands in another log, so it may be read long before the close or long after it, with other answers
//! in between. The pool must not depend on that, so no decision here does:
//!
//! * a held close keeps its rows: they are counted apart by the guard of every later answer, whether
//!   they have become tombstones meanwhile or not;
//! * the word makes tombstones of them, with the time and the place of the close;
//! * an answer that is no cause for alarm even with them counted in settles every close that is held.

use bus_schema::{
    Epoch, Timestamp,
    chain::ChainPoint,
    digest::Node,
    event::resource::{SyncClosed, SyncOpened, SyncScope},
    fact::{
        log::{LogFact, WindowHeld},
        resource::EmptyConfirmed,
    },
};
use redb::ReadableTable;
use serde::{Deserialize, Serialize};

use super::{Commit, holes, owners::OwnerRecord, pool::PoolWriter};
use crate::{
    cell::{Cell, EMPTY_TAIL, Head},
    owner::{HeldWindow, LastSync, Owner, Proof, Window},
    tables::{self, Db},
};

/// A close that would delete a greater share of an owner's rows is held, in percent.
const DELETE_PERCENT_MAX: u64 = 50;
/// A close that would delete fewer rows is never held.
const GUARDED_ROWS_MIN: u64 = 10;
/// Answers of one owner that may be open at once; an agent that opens more has given up the oldest.
const WINDOWS_MAX: usize = 16;

/// What came of the end of a full answer.
enum Swept {
    Deleted(u64),
    Held { would_delete: u64, rows: u64 },
}

/// A close that was held when it came, and still has rows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Held {
    /// What is shown of it.
    window: HeldWindow,
    /// The log's incarnation when its window was opened.
    incarnation: u32,
    /// The number of the log that holds it.
    log: u16,
    /// Whether a person has let it pass: its rows are tombstones.
    confirmed: bool,
}

/// The rows that a full answer speaks of: those that were not touched since its opening.
pub(super) struct Cover {
    low: ChainPoint,
    /// Epochs that came after the answer's.
    newer: Vec<u64>,
    incarnation: u32,
    opened_seq: u64,
}

impl Cover {
    fn new(owner: &Owner, low: ChainPoint, incarnation: u32, opened_seq: u64) -> Self {
        let epochs = owner.retired.iter().chain(&owner.at).map(|last| last.epoch);
        let newer = epochs.skip_while(|epoch| *epoch != low.epoch).skip(1).map(|epoch| epoch.0).collect();
        Self { low, newer, incarnation, opened_seq }
    }

    fn has(&self, head: &Head) -> bool {
        if !head.chained {
            return (head.epoch, head.seq) < (u64::from(self.incarnation), self.opened_seq);
        }
        if head.epoch == self.low.epoch.0 {
            return head.chain_seq <= self.low.seq;
        }
        !self.newer.contains(&head.epoch)
    }
}

/// What the tombstones of a close say.
#[derive(Clone, Copy)]
struct Grave {
    log: u16,
    closed_seq: u64,
    closed_at: i64,
}

impl Held {
    /// Whether its answer was opened in this epoch.
    pub(super) fn is_of(&self, epoch: Epoch) -> bool {
        self.window.low.epoch == epoch
    }

    /// When the log stored it.
    pub(super) fn closed_at(&self) -> Timestamp {
        self.window.closed_at
    }

    fn cover(&self, owner: &Owner) -> Cover {
        Cover::new(owner, self.window.low, self.incarnation, self.window.opened_seq)
    }

    fn grave(&self) -> Grave {
        let HeldWindow { closed_seq, closed_at, .. } = self.window;
        Grave { log: self.log, closed_seq, closed_at: closed_at.unix_ms() }
    }
}

/// The closes of one owner that are held, to sort its rows by.
pub(super) struct Tiers(Vec<(Cover, Grave)>);

impl Tiers {
    pub(super) fn of(record: &OwnerRecord) -> Self {
        Self(record.marks.held.iter().map(|held| (held.cover(&record.owner), held.grave())).collect())
    }

    /// The first held close that a row of the owner belongs to, also when it is a tombstone because of it.
    pub(super) fn find(&self, cell: &Cell<'_>) -> Option<usize> {
        let head = &cell.head;
        self.0.iter().position(|(cover, grave)| match head.deleted_at {
            None => cover.has(head),
            Some(_) => (head.log, head.seq) == (grave.log, grave.closed_seq),
        })
    }
}

/// An owner's rows at the end of a full answer.
struct Absent {
    /// Live rows of each close that is held.
    kept: Vec<Vec<String>>,
    /// Rows of each, those that are tombstones because of it too.
    kept_rows: Vec<u64>,
    /// Other live rows that the answer does not have.
    others: Vec<String>,
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
        let windows = &mut pool.side.owners.get(number)?.owner.windows;
        windows.retain(|window| window.sync_id != sync_id);
        if windows.len() >= WINDOWS_MAX {
            windows.remove(0);
        }
        let (opened_seq, opened_at, broken) = (seq, stored_at, None);
        windows.push(Window { sync_id, scope, low, opened_seq, incarnation, opened_at, broken });
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
        let confirmed = self.is_confirmed(run, &closed.sync_id)?;
        let (pool, number) = self.pool_of(run)?;
        let owner = &mut pool.side.owners.get(number)?.owner;
        let source = owner.source.clone();
        let opened = owner.windows.iter().position(|window| window.sync_id == closed.sync_id);
        let window = opened.map(|at| owner.windows.remove(at));
        let broken = match &window {
            None => Some("its opening was not seen".to_owned()),
            Some(_) if chain_seq == 0 => Some("it is not in a chain".to_owned()),
            Some(window) => window.broken.clone(),
        };
        let mut swept = Swept::Deleted(0);
        if let (Some(window), None, SyncScope::Full) = (window, &broken, closed.scope) {
            holes::mend(&mut pool.side.owners.holes, number)?;
            let Window { sync_id, low, incarnation, opened_seq, .. } = window;
            let (closed_seq, closed_at, would_delete, rows) = (seq, stored_at, 0, 0);
            let window = HeldWindow { sync_id, low, opened_seq, would_delete, rows, closed_seq, closed_at };
            swept = pool.sweep(number, Held { window, incarnation, log, confirmed })?;
        }
        pool.note_closed(number, chain_seq, &closed, place, stored_at, broken, &swept)?;
        if let Swept::Held { would_delete, rows } = swept {
            let held = WindowHeld { owner: source, sync_id: closed.sync_id, would_delete, rows };
            self.tell(LogFact::WindowHeld(held), seq)?;
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
        pool.release(number, &confirmed.sync_id)
    }
}

impl PoolWriter<'_> {
    /// The end of a full answer that can be trusted.
    fn sweep(&mut self, number: u32, mut close: Held) -> Db<Swept> {
        let record = self.side.owners.get(number)?;
        let (live, cover) = (record.owner.digest.count, close.cover(&record.owner));
        let absent = self.absent(number, &cover)?;
        let kept = absent.kept_rows.iter().sum::<u64>();
        let buried = kept - absent.kept.iter().map(|keys| keys.len() as u64).sum::<u64>();
        let others = absent.others.len() as u64;
        let rows = live + buried;
        let held = &mut self.side.owners.get(number)?.marks.held;
        // One that has nothing left to delete passes as if a person had let it.
        let settles = is_harmless(kept + others, rows);
        let tiers = std::mem::take(held).into_iter().zip(&absent.kept).zip(&absent.kept_rows);
        let (passed, waiting): (Vec<_>, Vec<_>) = tiers.partition(|(_, rows)| settles || **rows == 0);
        *held = waiting.into_iter().map(|((held, _), _)| held).collect();
        let mut deleted = 0;
        for ((held, keys), _) in passed {
            deleted += self.bury_all(keys, held.grave())?;
            self.note_full(number, held.grave())?;
        }
        let is_held = !is_harmless(others, rows - kept);
        let grave = close.grave();
        if is_held {
            (close.window.would_delete, close.window.rows) = (others, rows - kept);
            let confirmed = close.confirmed;
            self.side.owners.get(number)?.marks.held.push(close);
            if !confirmed {
                self.show_held(number)?;
                return Ok(Swept::Held { would_delete: others, rows: rows - kept });
            }
        }
        deleted += self.bury_all(&absent.others, grave)?;
        self.show_held(number)?;
        self.note_full(number, grave)?;
        Ok(Swept::Deleted(deleted))
    }

    /// A person has let a close pass; nothing happens unless it is held.
    fn release(&mut self, number: u32, sync_id: &str) -> Db<()> {
        let record = self.side.owners.get(number)?;
        let held = &mut record.marks.held;
        let found = held.iter().position(|held| held.window.sync_id == sync_id && !held.confirmed);
        let Some(tier) = found else { return Ok(()) };
        held[tier].confirmed = true;
        let grave = held[tier].grave();
        let keys = std::mem::take(&mut self.kept(number)?.kept[tier]);
        let deleted = self.bury_all(&keys, grave)?;
        self.show_held(number)?;
        self.note_full(number, grave)?;
        let last_sync = &mut self.side.owners.get(number)?.owner.last_sync;
        if let Some(last) = last_sync.as_mut().filter(|last| last.sync_id == sync_id) {
            last.swept = deleted;
        }
        Ok(())
    }

    /// The rows that a full answer lacks, those of held closes apart.
    fn absent(&mut self, number: u32, cover: &Cover) -> Db<Absent> {
        self.sorted(number, Some(cover))
    }

    /// The rows of held closes.
    fn kept(&mut self, number: u32) -> Db<Absent> {
        self.sorted(number, None)
    }

    fn sorted(&mut self, number: u32, cover: Option<&Cover>) -> Db<Absent> {
        let tiers = Tiers::of(self.side.owners.get(number)?);
        let count = tiers.0.len();
        let mut absent =
            Absent { kept: vec![Vec::new(); count], kept_rows: vec![0; count], others: Vec::new() };
        for entry in self.rows.iter()? {
            let (key, row) = entry?;
            let cell = Cell::read(row.value())?;
            if cell.head.owner != number {
                continue;
            }
            let tier = tiers.find(&cell);
            if let Some(tier) = tier {
                absent.kept_rows[tier] += 1;
            }
            let keys = match tier {
                _ if !cell.is_live() => continue,
                Some(tier) => &mut absent.kept[tier],
                None if cover.is_some_and(|cover| cover.has(&cell.head)) => &mut absent.others,
                None => continue,
            };
            keys.push(key.value().to_owned());
        }
        Ok(absent)
    }

    fn bury_all(&mut self, keys: &[String], grave: Grave) -> Db<u64> {
        keys.iter().try_for_each(|key| self.bury(key, grave))?;
        Ok(keys.len() as u64)
    }

    fn bury(&mut self, key: &str, grave: Grave) -> Db<()> {
        let Some(old) = self.rows.get(key)?.map(|row| row.value().to_vec()) else { return Ok(()) };
        let mut head = Cell::read(&old)?.head;
        (head.item, head.has_state, head.state_hash) = (Node::default(), false, Default::default());
        (head.log, head.seq) = (grave.log, grave.closed_seq);
        (head.stored_at, head.source_time) = (grave.closed_at, grave.closed_at);
        head.deleted_at = Some(grave.closed_at);
        self.buried.insert((key, grave.log, grave.closed_seq), ())?;
        self.put(key, &Cell { head, notice: None, tail: EMPTY_TAIL.0.into() })
    }

    /// Shows the oldest close that waits for a person.
    fn show_held(&mut self, number: u32) -> Db<()> {
        let OwnerRecord { owner, marks, .. } = self.side.owners.get(number)?;
        owner.held_window = marks.held.iter().find(|held| !held.confirmed).map(|held| held.window.clone());
        Ok(())
    }

    /// Notes on the owner that everything was sent, and counts.
    fn note_full(&mut self, number: u32, grave: Grave) -> Db<()> {
        let OwnerRecord { owner, marks, .. } = self.side.owners.get(number)?;
        owner.gap.take_if(|_| marks.gap_seq <= grave.closed_seq);
        owner.last_full = owner.last_full.max(Some(Timestamp::from_unix_ms(grave.closed_at)));
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
        // An answer about some keys is no sync of the owner: what it did not cover still counts.
        if closed.scope != SyncScope::Keys {
            self.note_synchronised(number)?;
        }
        let owner = &mut self.side.owners.get(number)?.owner;
        let equal = closed.digest == owner.digest;
        if let Some(at) = owner.at.filter(|_| chain_seq > 0) {
            owner.proof = Some(Proof { at, equal, stored_at: closed_at });
        }
        owner.last_sync = Some(LastSync {
            sync_id: closed.sync_id.clone(),
            scope: closed.scope,
            place,
            closed_at,
            low: Some(closed.low),
            resources: closed.resources,
            deleted: closed.deleted,
            bytes: closed.bytes,
            swept: if let Swept::Deleted(rows) = swept { *rows } else { 0 },
            broken,
            equal,
        });
        Ok(())
    }

    /// Counts from here on what the owner tells, and if it is an agent, also what those tell who are none.
    fn note_synchronised(&mut self, number: u32) -> Db<()> {
        let owner = &mut self.side.owners.get(number)?.owner;
        owner.since_sync.reset();
        if owner.askable().is_none() { Ok(()) } else { self.side.owners.reset_unaskable() }
    }
}

/// Whether so many rows of so many may vanish without a person's word: the guard of every full answer, and
/// of whoever would have rows deleted in another way.
pub fn is_harmless(absent: u64, rows: u64) -> bool {
    absent < GUARDED_ROWS_MIN || absent.saturating_mul(100) <= rows.saturating_mul(DELETE_PERCENT_MAX)
}
