//! Rows: what is left of each key's changes, written once, and everything that follows from it.

use std::{borrow::Cow, collections::HashMap};

use bus_schema::{
    Hash32, canonical,
    digest::{Address, Node, item},
};
use redb::ReadableTable;
use serde_json::value::RawValue;

use super::{
    Commit, Counts,
    pool::{PoolWriter, Side},
    window::Tiers,
};
use crate::{
    batch::{Candidate, Change, Changes, NoticeChange},
    cell::{Cell, CellNotice, EMPTY_TAIL, Head, Tail},
    tables::Db,
};

/// A change that counts: whose it is, and the epoch (or the log's incarnation) that its place is of.
struct Counted {
    owner: u32,
    epoch: u64,
    age: Age,
    candidate: Candidate,
}

/// How a change came.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Age {
    /// In its turn: it is newer than whatever stands there.
    New,
    /// It fills a hole, or is a copy of what came to fill one: whatever stands there now is newer, unless it is of the
    /// same chain and older.
    Late,
    /// As a copy of what was parked: what stands there is newer, unless it stood there before that.
    Redriven,
}

impl Counted {
    /// Whether it may write over a row.
    fn is_newer_than(&self, old: &Head, log: u16) -> bool {
        let Candidate { chain_seq, seq, stored_at, .. } = self.candidate;
        let same = old.chained && chain_seq > 0 && (old.owner, old.epoch) == (self.owner, self.epoch);
        let follows = same && old.chain_seq < chain_seq;
        // After a rewind a log gives its sequences out again, later.
        let stands_behind = old.log == log && (old.stored_at, old.seq) < (stored_at, seq);
        match self.age {
            Age::New => true,
            Age::Late => follows,
            // A tombstone of a full answer keeps the place of the row that it buried.
            Age::Redriven if same && old.deleted_at.is_none() => follows,
            Age::Redriven => stands_behind && (!same || follows),
        }
    }
}

impl Commit<'_, '_> {
    /// Writes the rows of one pool in order of their keys.
    pub(super) fn write_rows(&mut self, pool: usize, rows: HashMap<Box<str>, Changes>) -> Db<()> {
        let mut rows: Vec<(Box<str>, Changes)> = rows.into_iter().collect();
        rows.sort_unstable_by(|left, right| left.0.cmp(&right.0));
        // A pool that is not open yet has no run that counts.
        let Some(mut pool) = self.pools.remove(&self.names[pool]) else { return Ok(()) };
        let log = self.log.number;
        for (key, Changes { earlier, last }) in rows {
            // A copy is alone in its segment.
            let run = last.run as usize;
            if earlier.is_empty() && !matches!(last.change, Change::Notice(_)) {
                if let Some(change) = self.counted(last) {
                    if change.age != Age::New {
                        if pool.fold_row(&key, [change].into_iter(), log)? {
                            self.rows += 1;
                            self.note_changed(run)?;
                        }
                        continue;
                    }
                    pool.put(&key, &after(None, &key, &change, log)?)?;
                    self.rows += 1;
                }
                continue;
            }
            let changes = earlier.into_iter().chain([last]).filter_map(|candidate| self.counted(candidate));
            if pool.fold_row(&key, changes, log)? {
                self.rows += 1;
                self.note_changed(run)?;
            }
        }
        self.pools.insert(pool.name.clone(), pool);
        Ok(())
    }

    fn counted(&self, mut candidate: Candidate) -> Option<Counted> {
        let run = candidate.run as usize;
        let counts = self.counts(run, candidate.chain_seq, candidate.seq, candidate.stored_at);
        let mut age = match counts {
            Counts::No | Counts::Late { rows: false } => return None,
            Counts::Late { rows: true } => Age::Late,
            Counts::Yes => Age::New,
        };
        let outcome = self.outcomes[run].as_ref()?;
        if let Some(origin) = outcome.origin {
            age = if origin.is_late { Age::Late } else { Age::Redriven };
            // What names no time of its own has that of its place.
            if candidate.source_time == candidate.stored_at {
                candidate.source_time = origin.stored_at;
            }
            (candidate.chain_seq, candidate.seq, candidate.stored_at) =
                (origin.chain_seq, origin.seq, origin.stored_at);
        }
        Some(Counted { owner: outcome.owner, epoch: outcome.epoch, age, candidate })
    }
}

impl PoolWriter<'_> {
    /// Takes a row through several changes, and writes it once; answers whether there was one.
    fn fold_row(&mut self, key: &str, changes: impl Iterator<Item = Counted>, log: u16) -> Db<bool> {
        let mut row: Option<Vec<u8>> = self.rows.get(key)?.map(|row| row.value().to_vec());
        let mut changed = false;
        for change in changes {
            let old = row.as_deref().map(Cell::read).transpose()?;
            if old.as_ref().is_some_and(|old| !change.is_newer_than(&old.head, log)) {
                continue;
            }
            let old = match (old, &change.candidate.change) {
                (Some(old), Change::Notice(_)) if self.side.is_kept(&old)? => None,
                (old, _) => old,
            };
            let mut bytes = Vec::new();
            after(old.as_ref(), key, &change, log)?.write(&mut bytes);
            row = Some(bytes);
            changed = true;
        }
        match row {
            Some(row) if changed => self.put(key, &Cell::read(&row)?).map(|()| true),
            _ => Ok(false),
        }
    }

    /// Writes a row and what follows from it.
    pub(super) fn put(&mut self, key: &str, new: &Cell<'_>) -> Db<()> {
        new.write(&mut self.buffer);
        let stored = self.rows.insert(key, self.buffer.as_slice())?;
        let old = stored.as_ref().map(|row| Cell::read(row.value())).transpose()?;
        let old_bytes = stored.as_ref().map_or(0, |row| key.len() + row.value().len());
        let new_bytes = key.len() + self.buffer.len();
        self.side.state.bytes = self.side.state.bytes + new_bytes as u64 - old_bytes as u64;
        self.side.follow(key, old.as_ref(), new)
    }
}

impl Side<'_> {
    /// Whether a row is there only because a close that would delete it is held: a notice builds nothing
    /// on such a row, since a person's word, which may be read sooner or later, would have it gone.
    fn is_kept(&mut self, cell: &Cell<'_>) -> Db<bool> {
        let record = self.owners.get(cell.head.owner)?;
        Ok(!record.marks.held.is_empty() && Tiers::of(record).find(cell).is_some())
    }

    /// Brings digests, indexes and counters from the old row to the new one.
    fn follow(&mut self, key: &str, old: Option<&Cell<'_>>, new: &Cell<'_>) -> Db<()> {
        let owner_stays = old.is_some_and(|old| old.head.owner == new.head.owner);
        if !owner_stays {
            if let Some(old) = old {
                self.owner_rows.remove((old.head.owner, key))?;
            }
            self.owner_rows.insert((new.head.owner, key), ())?;
        }
        let digest_stays =
            owner_stays && old.is_some_and(|old| old.head.item == new.head.item && old.is_live());
        if !(digest_stays && new.is_live()) {
            let address = Address::of(key);
            if let Some(old) = old.filter(|old| old.is_live()) {
                self.toggle(old.head.owner, address, old.head.item, |count| count - 1)?;
            }
            if new.is_live() {
                self.toggle(new.head.owner, address, new.head.item, |count| count + 1)?;
            }
        }
        let was_deleted = old.is_some_and(|old| !old.is_live());
        self.state.deleted = self.state.deleted + u64::from(!new.is_live()) - u64::from(was_deleted);
        self.index(key, old.map_or(EMPTY_TAIL, |old| old.tail()), new.tail())?;
        let stale = |cell: &Cell<'_>| cell.notice.as_ref().map(|notice| (cell.head.owner, notice.since));
        self.outstanding(key, old.and_then(stale), stale(new))
    }

    fn toggle(&mut self, owner: u32, address: Address, item: Node, count: impl FnOnce(u64) -> u64) -> Db<()> {
        let record = self.owners.get(owner)?;
        record.owner.digest.root.toggle(item);
        record.owner.digest.count = count(record.owner.digest.count);
        self.leaves.toggle(owner, record.depth, address, item)
    }

    fn index(&mut self, key: &str, old: Tail<'_>, new: Tail<'_>) -> Db<()> {
        if old.indexed()? == new.indexed()? {
            return Ok(());
        }
        let (old, new) = (old.parts()?, new.parts()?);
        if !old.tenant.is_empty() {
            self.tenant_rows.remove((old.tenant, key))?;
        }
        if !new.tenant.is_empty() {
            self.tenant_rows.insert((new.tenant, key), ())?;
        }
        for (name, value) in old.labels {
            self.labels.remove((name, value, key))?;
        }
        for (name, value) in new.labels {
            self.labels.insert((name, value, key), ())?;
        }
        Ok(())
    }

    fn outstanding(&mut self, key: &str, old: Option<(u32, i64)>, new: Option<(u32, i64)>) -> Db<()> {
        if old == new {
            return Ok(());
        }
        if let Some((owner, since)) = old {
            self.stale.remove(key)?;
            self.stale_order.remove((owner, since, key))?;
            self.owners.get(owner)?.owner.since_sync.outstanding -= 1;
        }
        if let Some((owner, since)) = new {
            self.stale.insert(key, (owner, since))?;
            self.stale_order.insert((owner, since, key), ())?;
            self.owners.get(owner)?.owner.since_sync.outstanding += 1;
        }
        Ok(())
    }
}

/// The row after a change. Only a notice needs to know what was there before.
fn after<'c>(old: Option<&Cell<'c>>, key: &str, change: &'c Counted, log: u16) -> Db<Cell<'c>> {
    let Counted { owner, epoch, candidate, .. } = change;
    let mut head = Head {
        owner: *owner,
        chained: candidate.chain_seq > 0,
        epoch: *epoch,
        chain_seq: candidate.chain_seq,
        log,
        seq: candidate.seq,
        stored_at: candidate.stored_at,
        source_time: candidate.source_time,
        item: Node::default(),
        state_hash: Hash32::ZERO,
        has_state: false,
        deleted_at: None,
    };
    match &candidate.change {
        Change::Full { tail, state_at } => {
            head.has_state = true;
            head.state_hash = state_hash(tail.get(*state_at as usize..).unwrap_or_default());
            head.item = item(key, Tail(tail).revision()?, &head.state_hash);
            Ok(Cell { head, notice: None, tail: Cow::Borrowed(tail) })
        }
        Change::Deleted => {
            head.deleted_at = Some(candidate.stored_at);
            Ok(Cell { head, notice: None, tail: Cow::Borrowed(EMPTY_TAIL.0) })
        }
        Change::Notice(notice) => {
            let NoticeChange { revision, state_hash, size_bytes, tenant, since } = notice.as_ref();
            head.item = item(key, revision, state_hash);
            let old = old.filter(|old| old.is_live());
            let (mut since, mut tail) = (*since, Cow::Borrowed(EMPTY_TAIL.0));
            if let Some(old) = old {
                (head.has_state, head.state_hash) = (old.head.has_state, old.head.state_hash);
                since = old.notice.as_ref().map_or(since, |notice| notice.since);
                tail = old.tail.clone();
            }
            if let Some(tenant) = tenant {
                tail = Cow::Owned(with_tenant(Tail(&tail), tenant)?);
            }
            let (state_hash, size_bytes, revision) = (*state_hash, *size_bytes, revision.clone());
            Ok(Cell { head, notice: Some(CellNotice { since, size_bytes, state_hash, revision }), tail })
        }
    }
}

/// The hash of a state. A batch lets no state in that has no canonical form, so the text itself is
/// hashed only if that check were wrong: a digest that differs shows then, and nothing stops.
fn state_hash(state: &[u8]) -> Hash32 {
    let canonical = serde_json::from_slice::<&RawValue>(state).and_then(canonical::state_hash);
    canonical.unwrap_or_else(|_| Hash32::of(state))
}

fn with_tenant(tail: Tail<'_>, tenant: &str) -> Db<Vec<u8>> {
    let parts = tail.parts()?;
    let mut changed = Vec::with_capacity(tail.0.len() + tenant.len());
    Tail::write(&mut changed, tenant, parts.labels.into_iter(), parts.revision, parts.state);
    Ok(changed)
}
