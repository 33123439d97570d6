//! Holes: stretches of a chain that the log lacks, until a copy of every event in them has come.
//!
//! A copy is told from a mere repeat by its place, and taken in only when its hashes join the chain on both sides.
//! It may come long after what follows it, so of its event only that counts which cannot undo anything newer: a
//! row that nothing later has touched, a key of which nothing was said. When a full answer came in between, no row:
//! it said which there were.

use bus_schema::{Epoch, Hash32, Timestamp, chain::ChainPoint};
use redb::{ReadableTable, Table};
use serde::{Deserialize, Serialize};

use crate::{
    batch::RunChain,
    tables::{Db, read_json, write_json},
};

/// A stretch of a chain that the log lacks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Hole {
    /// The last event before it.
    pub(super) after: ChainPoint,
    /// The first place behind it.
    pub(super) before: ChainPoint,
    /// The hash of the event before it, or of its last copy; none = unknown.
    pub(super) joins: Option<Hash32>,
    /// Copies have come up to here.
    pub(super) filled_seq: u64,
    /// The hash that the last copy must have; none = nothing names it.
    pub(super) before_prev: Option<Hash32>,
    /// The stream sequence of the event that showed it.
    pub(super) place_seq: u64,
    /// When the log stored that event.
    pub(super) stored_at: Timestamp,
    /// Everything was sent since: copies change no row any more.
    pub(super) is_mended: bool,
}

/// Copies in a run that fill a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Late {
    /// The place of the first one.
    pub(super) first_seq: u64,
    /// The place of the last one.
    pub(super) last_seq: u64,
    /// Whether their events may write rows.
    pub(super) rows: bool,
}

impl Late {
    /// Whether an event of the run is one of the copies.
    pub(super) fn has(&self, chain_seq: u64) -> bool {
        (self.first_seq..=self.last_seq).contains(&chain_seq)
    }
}

/// The holes of a pool's owners: by owner, epoch and the place before the hole.
pub(super) type Holes<'t> = Table<'t, (u32, u64, u64), &'static [u8]>;

/// Keeps a hole.
pub(super) fn put(holes: &mut Holes<'_>, owner: u32, hole: &Hole) -> Db<()> {
    holes.insert((owner, hole.after.epoch.0, hole.after.seq), write_json(hole)?.as_slice())?;
    Ok(())
}

/// The hole that is filled up to this place of a chain and not behind it.
pub(super) fn open_at(holes: &Holes<'_>, owner: u32, at: ChainPoint) -> Db<Option<Hole>> {
    let up_to = (owner, at.epoch.0, 0)..=(owner, at.epoch.0, at.seq);
    let Some(last) = holes.range(up_to)?.next_back().transpose()? else { return Ok(None) };
    let hole: Hole = read_json("a hole", last.1.value())?;
    Ok((hole.filled_seq == at.seq).then_some(hole))
}

/// Every hole of an owner.
pub(super) fn all(holes: &Holes<'_>, owner: u32) -> Db<Vec<Hole>> {
    let range = holes.range((owner, 0, 0)..=(owner, u64::MAX, u64::MAX))?;
    range.map(|entry| read_json("a hole", entry?.1.value())).collect()
}

/// Everything was sent: copies change no row any more.
pub(super) fn mend(holes: &mut Holes<'_>, owner: u32) -> Db<()> {
    for hole in all(holes, owner)?.iter().filter(|hole| !hole.is_mended) {
        put(holes, owner, &Hole { is_mended: true, ..hole.clone() })?;
    }
    Ok(())
}

/// What a run brought that holes lacked.
#[derive(Debug, Default)]
pub(super) struct Filled {
    /// The copies, in order of their places.
    pub(super) late: Vec<Late>,
    /// The holes that are whole now.
    pub(super) whole: Vec<Hole>,
}

/// Fills the holes of this owner's epoch with what of a run is missing there.
pub(super) fn fill(holes: &mut Holes<'_>, owner: u32, epoch: Epoch, chain: &RunChain) -> Db<Filled> {
    let mut touched = Vec::new();
    for entry in holes.range((owner, epoch.0, 0)..=(owner, epoch.0, chain.last_seq()))? {
        let hole: Hole = read_json("a hole", entry?.1.value())?;
        touched.extend(copies(&hole, chain).map(|found| (hole, found)));
    }
    let mut filled = Filled::default();
    for (mut hole, (late, joins)) in touched {
        (hole.filled_seq, hole.joins) = (late.last_seq, Some(joins));
        filled.late.push(late);
        if hole.filled_seq.saturating_add(1) < hole.before.seq {
            put(holes, owner, &hole)?;
        } else {
            holes.remove((owner, epoch.0, hole.after.seq))?;
            filled.whole.push(hole);
        }
    }
    Ok(filled)
}

/// The copies for a hole in a run, with the hash of the last one. None: there are none, or their hashes do not join
/// the chain. All but the last one may be taken when that is not the one which the event behind the hole names.
fn copies(hole: &Hole, chain: &RunChain) -> Option<(Late, Hash32)> {
    let hash_at = |seq: u64| {
        let at = usize::try_from(seq.checked_sub(chain.first.seq)?).ok()?;
        Some(chain.steps.get(at)?.hash)
    };
    let first_seq = hole.filled_seq + 1;
    let mut last_seq = chain.last_seq().min(hole.before.seq - 1);
    let prev = if first_seq == chain.first.seq { chain.first_prev } else { hash_at(hole.filled_seq)? };
    let ends = hole.before_prev.filter(|_| last_seq + 1 == hole.before.seq);
    if ends.is_some_and(|hash| hash_at(last_seq) != Some(hash)) {
        last_seq -= 1;
    }
    let joins = hole.joins.is_none_or(|hash| hash == prev) && first_seq <= last_seq;
    let late = Late { first_seq, last_seq, rows: !hole.is_mended };
    hash_at(last_seq).filter(|_| joins).map(|last| (late, last))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Step;

    fn at(seq: u64) -> ChainPoint {
        ChainPoint { epoch: Epoch(7), seq }
    }

    fn hash(seq: u64) -> Hash32 {
        Hash32::of(&seq.to_be_bytes())
    }

    fn chain(first: u64, last: u64) -> RunChain {
        let steps = (first..=last).map(|seq| Step { hash: hash(seq), seq, stored_at: 0, counted: None });
        RunChain { first: at(first), first_prev: hash(first - 1), steps: steps.collect() }
    }

    /// Events 5 to 8 are missing.
    fn hole() -> Hole {
        Hole {
            after: at(4),
            before: at(9),
            joins: Some(hash(4)),
            filled_seq: 4,
            before_prev: Some(hash(8)),
            place_seq: 30,
            stored_at: Timestamp::default(),
            is_mended: false,
        }
    }

    #[test]
    fn copies_are_taken_from_the_left_and_only_when_their_hashes_join() {
        let range = |late: Option<(Late, Hash32)>| late.map(|(late, _)| (late.first_seq, late.last_seq));
        assert_eq!(range(copies(&hole(), &chain(5, 8))), Some((5, 8)));
        assert_eq!(range(copies(&hole(), &chain(3, 12))), Some((5, 8)), "in the middle of repeats");
        assert_eq!(range(copies(&hole(), &chain(5, 6))), Some((5, 6)), "a part from the left");
        assert_eq!(range(copies(&hole(), &chain(6, 8))), None, "not from the right");
        assert_eq!(range(copies(&hole(), &chain(9, 12))), None);
        let other = Hole { joins: Some(Hash32::ZERO), ..hole() };
        assert_eq!(range(copies(&other, &chain(5, 8))), None, "it follows another event");
        let other = Hole { before_prev: Some(Hash32::ZERO), ..hole() };
        assert_eq!(range(copies(&other, &chain(5, 8))), Some((5, 7)), "another event is named behind it");
        assert_eq!(range(copies(&other, &chain(5, 7))), Some((5, 7)), "which shows at the end only");
        let last = Hole { filled_seq: 7, joins: Some(hash(7)), ..other };
        assert_eq!(range(copies(&last, &chain(8, 9))), None);
        let unknown = Hole { joins: None, before_prev: None, ..hole() };
        assert_eq!(range(copies(&unknown, &chain(5, 8))), Some((5, 8)));
    }
}
