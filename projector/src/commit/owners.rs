//! The owners of one pool inside a transaction.

use std::collections::{BTreeMap, HashMap};

use bus_schema::{
    Epoch, Hash32, PoolId, Timestamp,
    chain::ChainPoint,
    digest::{DEPTH_MIN, Digest, Node},
};
use redb::{ReadableTable, Table};
use serde::{Deserialize, Serialize};

use super::{holes::Holes, window::Held};
use crate::{
    owner::{Owner, SinceSync},
    tables::{Db, damaged, read_json, write_json},
};

/// Hashes of an owner's last events that are kept, so that a repeat can be told from a fork.
pub(crate) const RECENT_MAX: u64 = 1024;

/// Epochs that are over and stand in their owner's record. None is ever forgotten, because a log that is read again
/// would bring back what it says; but the record is read and written with every commit, so the older ones stand in a
/// table. An agent ends an epoch when it is made anew, restored or told to; a few are all that people look at.
const RETIRED_AT_HAND: usize = 16;

/// An owner as it stands in the file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct OwnerRecord {
    /// Its short name inside the pool.
    pub(crate) number: u32,
    /// The depth of its digest's leaves.
    pub(crate) depth: u8,
    /// What is shown.
    pub(crate) owner: Owner,
    /// What is not.
    pub(crate) marks: Marks,
}

/// What the next decisions about an owner need beside what is shown.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Marks {
    /// The stream sequence of the event behind the gap.
    pub(super) gap_seq: u64,
    /// Ends of full syncs that were held when they came and still have rows, oldest first.
    pub(super) held: Vec<Held>,
}

impl Marks {
    /// When the last close came that is held.
    pub(super) fn held_at(&self) -> Option<Timestamp> {
        self.held.iter().map(Held::closed_at).max()
    }
}

/// The owners that a transaction touches.
pub(super) struct Owners<'t> {
    table: Table<'t, &'static str, &'static [u8]>,
    names: Table<'t, u32, &'static str>,
    recent: Table<'t, (u32, u64), u64>,
    retired: Table<'t, (u32, u64), u64>,
    pub(super) holes: Holes<'t>,
    numbers: HashMap<Box<str>, u32>,
    records: BTreeMap<u32, OwnerRecord>,
    next: u32,
}

impl<'t> Owners<'t> {
    pub(super) fn new(
        table: Table<'t, &'static str, &'static [u8]>,
        names: Table<'t, u32, &'static str>,
        recent: Table<'t, (u32, u64), u64>,
        retired: Table<'t, (u32, u64), u64>,
        holes: Holes<'t>,
        next: u32,
    ) -> Self {
        Self { table, names, recent, retired, holes, numbers: HashMap::new(), records: BTreeMap::new(), next }
    }

    /// The number of a source; a new one gets the next.
    pub(super) fn number(&mut self, source: &str, pool: &str) -> Db<u32> {
        if let Some(number) = self.find(source)? {
            return Ok(number);
        }
        let number = self.next;
        self.next += 1;
        let pool = pool.parse().map_err(|_| damaged("a pool's name"))?;
        self.names.insert(number, source)?;
        self.numbers.insert(source.into(), number);
        let (depth, marks) = (DEPTH_MIN, Marks::default());
        self.records.insert(number, OwnerRecord { number, depth, owner: unheard(pool, source), marks });
        Ok(number)
    }

    /// The number of a source that is known.
    pub(super) fn find(&mut self, source: &str) -> Db<Option<u32>> {
        if let Some(number) = self.numbers.get(source) {
            return Ok(Some(*number));
        }
        let Some(stored) = self.table.get(source)? else { return Ok(None) };
        let record: OwnerRecord = read_json("an owner", stored.value())?;
        drop(stored);
        let number = record.number;
        self.numbers.insert(source.into(), number);
        self.records.insert(number, record);
        Ok(Some(number))
    }

    /// The record of a number.
    pub(super) fn get(&mut self, number: u32) -> Db<&mut OwnerRecord> {
        if !self.records.contains_key(&number) {
            let name = self.names.get(number)?.ok_or_else(|| damaged("an owner's name"))?;
            let source = name.value().to_owned();
            drop(name);
            self.find(&source)?;
        }
        self.records.get_mut(&number).ok_or_else(|| damaged("an owner"))
    }

    /// An agent has sent what the pool lacked: what other publishers, whom nobody can ask, told before counts no
    /// more either (R6 counts by cluster).
    pub(super) fn reset_unaskable(&mut self) -> Db<()> {
        let counts = |owner: &Owner| owner.askable().is_none() && owner.since_sync.changes > 0;
        for entry in self.table.iter()? {
            let record: OwnerRecord = read_json("an owner", entry?.1.value())?;
            if !self.records.contains_key(&record.number) && counts(&record.owner) {
                self.numbers.insert(record.owner.source.as_str().into(), record.number);
                self.records.insert(record.number, record);
            }
        }
        let owners = self.records.values_mut().map(|record| &mut record.owner);
        owners.filter(|owner| counts(owner)).for_each(|owner| owner.since_sync.reset());
        Ok(())
    }

    /// The owners that were touched.
    pub(super) fn touched(&self) -> Vec<u32> {
        self.records.keys().copied().collect()
    }

    /// Notes that an epoch is over, and the last event of it that was taken in.
    pub(super) fn retire(&mut self, number: u32, last: ChainPoint) -> Db<()> {
        let OwnerRecord { owner, marks, .. } = self.get(number)?;
        owner.retired.push(last);
        // Which rows a held close speaks of depends on the order of the epochs since its own.
        let is_held = |last: &ChainPoint| marks.held.iter().any(|held| held.is_of(last.epoch));
        let needed = owner.retired.iter().position(is_held).unwrap_or(usize::MAX);
        let older = owner.retired.len().saturating_sub(RETIRED_AT_HAND).min(needed);
        for last in owner.retired.drain(..older).collect::<Vec<_>>() {
            self.retired.insert((number, last.epoch.0), last.seq)?;
        }
        Ok(())
    }

    /// The last event that was taken in of an epoch that is over; none = it is not over.
    pub(super) fn last_of_retired(&mut self, number: u32, epoch: Epoch) -> Db<Option<u64>> {
        let owner = &self.get(number)?.owner;
        if owner.at.is_some_and(|at| at.epoch == epoch) {
            return Ok(None);
        }
        match owner.retired.iter().find(|last| last.epoch == epoch) {
            Some(last) => Ok(Some(last.seq)),
            None => Ok(self.retired.get((number, epoch.0))?.map(|seq| seq.value())),
        }
    }

    /// Puts an epoch that is over and is spoken of again where [`Owner::has_retired`] sees it: before all others, since
    /// it is older.
    pub(super) fn recall(&mut self, number: u32, epoch: Epoch) -> Db<()> {
        let last = self.last_of_retired(number, epoch)?;
        let owner = &mut self.get(number)?.owner;
        if let Some(seq) = last.filter(|_| !owner.has_retired(epoch)) {
            owner.retired.insert(0, ChainPoint { epoch, seq });
        }
        Ok(())
    }

    /// The first 64 bits of the hash of an owner's event, if they are still kept.
    pub(super) fn recent_hash(&self, number: u32, seq: u64) -> Db<Option<u64>> {
        Ok(self.recent.get((number, seq))?.map(|hash| hash.value()))
    }

    /// Forgets the hashes of an epoch that is over.
    pub(super) fn forget_hashes(&mut self, number: u32) -> Db<()> {
        self.recent.retain_in((number, 0)..=(number, u64::MAX), |_, _| false)?;
        Ok(())
    }

    /// Keeps the hashes of the last events of an owner; `hashes` belong to `first_seq` and on.
    pub(super) fn keep_hashes(
        &mut self,
        number: u32,
        first_seq: u64,
        hashes: impl ExactSizeIterator<Item = Hash32>,
    ) -> Db<()> {
        let end = first_seq.saturating_add(hashes.len() as u64);
        let oldest = end.saturating_sub(RECENT_MAX);
        let skip = oldest.saturating_sub(first_seq);
        for (seq, hash) in (first_seq.saturating_add(skip)..=end).zip(hashes.skip(skip as usize)) {
            self.recent.insert((number, seq), short(&hash))?;
        }
        self.recent.retain_in((number, 0)..(number, oldest), |_, _| false)?;
        Ok(())
    }

    /// Writes the owners that were touched; answers the number that the next new one gets.
    pub(super) fn flush(&mut self) -> Db<u32> {
        for record in self.records.values() {
            self.table.insert(record.owner.source.as_str(), write_json(record)?.as_slice())?;
        }
        Ok(self.next)
    }
}

/// The first 64 bits of a hash: enough to tell a repeat from a fork.
pub(super) fn short(hash: &Hash32) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = hash.0;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// An owner of whom nothing was heard.
fn unheard(pool: PoolId, source: &str) -> Owner {
    Owner {
        pool,
        source: source.to_owned(),
        agent: None,
        at: None,
        hash: None,
        retired: Vec::new(),
        digest: Digest { root: Node::default(), count: 0 },
        applied: 0,
        repeats: 0,
        refused: 0,
        unchained: 0,
        last_event_at: Timestamp::default(),
        last_heartbeat: None,
        proof: None,
        gap: None,
        fork: None,
        windows: Vec::new(),
        held_window: None,
        last_sync: None,
        last_full: None,
        last_first: None,
        since_sync: SinceSync::default(),
    }
}
