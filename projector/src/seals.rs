//! Seals: what was read of each message of a log, in 64 bits. The running hash proves that a log is what it was; the
//! seals tell which message is not. Must not know what a message says.

use bus_schema::{Hash32, fact::log::Trimmed};
use redb::{ReadableTable, Table, WriteTransaction};

use crate::{
    log,
    tables::{self, Db, damaged},
};

/// Seals in one entry of the table: 4 KiB, a page.
pub const FRAME: usize = 512;
/// Bytes of a seal.
const BYTES: usize = size_of::<u64>();
/// The bit of a seal that says whether somebody else makes up for the message.
const COVERED: u64 = 1;
/// Set in the seal of every message that was read, because zero stands for a sequence at which nothing was; not set when
/// the message was passed by.
const READ: u64 = 2;

/// What was read at one sequence of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seal(u64);

impl Seal {
    /// The seal of a message: the first 62 bits of its hash, and whether its loss is covered.
    pub fn of(hash: Hash32, covered: bool) -> Self {
        let [a, b, c, d, e, f, g, h, ..] = hash.0;
        let first = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
        Self((first & !COVERED) | READ | u64::from(covered))
    }

    /// Whether somebody makes up for the message when it is lost: it has a place in a chain, so that its owner can be
    /// asked for it, or it is a heartbeat, and the next one says more.
    pub const fn is_covered(self) -> bool {
        self.0 & COVERED != 0
    }

    /// The same of a message that stands in place of another one, and was passed by.
    #[must_use]
    pub const fn passed(self) -> Self {
        Self(self.0 & !READ)
    }

    /// Whether the message was passed by.
    pub const fn is_passed(self) -> bool {
        self.0 & READ == 0
    }

    /// Whether it is the seal of the message with this hash.
    pub fn is_of(self, hash: Hash32) -> bool {
        Self::of(hash, self.is_covered()).0 == self.0 | READ
    }
}

/// The seals of one stretch of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    first_seq: u64,
    seals: [u64; FRAME],
}

impl Frame {
    /// What was read at a sequence; none = nothing was, or the sequence is of another frame.
    pub fn seal(&self, seq: u64) -> Option<Seal> {
        let at = usize::try_from(seq.checked_sub(self.first_seq)?).ok()?;
        self.seals.get(at).copied().filter(|seal| *seal != 0).map(Seal)
    }

    /// Whether a sequence is of this frame.
    pub const fn covers(&self, seq: u64) -> bool {
        self.first_seq <= seq && seq < self.first_seq + FRAME as u64
    }

    fn read(number: u32, stored: &[u8]) -> Db<Self> {
        let mut frame = Self { first_seq: first_seq(number), seals: [0; FRAME] };
        if stored.len() != FRAME * BYTES {
            return Err(damaged("seals"));
        }
        for (seal, bytes) in frame.seals.iter_mut().zip(stored.as_chunks::<BYTES>().0) {
            *seal = u64::from_le_bytes(*bytes);
        }
        Ok(frame)
    }

    fn bytes(&self) -> Vec<u8> {
        self.seals.iter().flat_map(|seal| seal.to_le_bytes()).collect()
    }
}

/// The number of the frame that a sequence (from 1) belongs to.
pub(crate) fn number_of(seq: u64) -> u32 {
    u32::try_from(seq.saturating_sub(1) / FRAME as u64).unwrap_or(u32::MAX)
}

fn first_seq(number: u32) -> u64 {
    u64::from(number) * FRAME as u64 + 1
}

/// A message as a batch remembers it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sealed {
    pub(crate) seq: u64,
    pub(crate) hash: Hash32,
    pub(crate) seal: Seal,
}

/// Writes the seals of messages that were read in order.
pub(crate) fn write(
    table: &mut Table<'_, (u16, u32), &'static [u8]>,
    log: u16,
    messages: &[Sealed],
) -> Db<()> {
    for frame_of in messages.chunk_by(|left, right| number_of(left.seq) == number_of(right.seq)) {
        let Some(first) = frame_of.first() else { continue };
        let number = number_of(first.seq);
        let mut frame = match read(table, log, number)? {
            Some(frame) => frame,
            None => Frame { first_seq: first_seq(number), seals: [0; FRAME] },
        };
        for message in frame_of {
            frame.seals[(message.seq - frame.first_seq) as usize] = message.seal.0;
        }
        table.insert((log, number), frame.bytes().as_slice())?;
    }
    Ok(())
}

/// Forgets what was read before the place where a log has begun so far; frames go as a whole. Not what goes now: it is
/// there until it is purged, and compared until then.
pub(crate) fn forget_before(txn: &WriteTransaction, trimmed: &Trimmed) -> Db<()> {
    let known = log::read(&txn.open_table(tables::LOGS)?, &trimmed.stream)?;
    if let Some(log) = known.filter(|log| log.created == trimmed.created) {
        let gone = (log.number, 0)..(log.number, number_of(trimmed.before_seq));
        txn.open_table(tables::SEALS)?.retain_in(gone, |_, _| false)?;
    }
    Ok(())
}

/// The seals of a frame; none = nothing of it was read.
pub(crate) fn read(
    table: &impl ReadableTable<(u16, u32), &'static [u8]>,
    log: u16,
    number: u32,
) -> Db<Option<Frame>> {
    table.get((log, number))?.map(|stored| Frame::read(number, stored.value())).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_knows_its_message_and_whether_its_loss_is_covered() {
        let (hash, other) = (Hash32::of(b"a"), Hash32::of(b"b"));
        for covered in [true, false] {
            let seal = Seal::of(hash, covered);
            assert!(seal.is_of(hash) && !seal.is_of(other));
            assert_eq!(seal.is_covered(), covered);
        }
        assert_ne!(Seal::of(Hash32::ZERO, false).0, 0, "zero stands for nothing");
    }

    #[test]
    fn every_sequence_has_its_frame() {
        let last = FRAME as u64;
        assert_eq!((number_of(1), number_of(last), number_of(last + 1)), (0, 0, 1));
        assert_eq!((first_seq(0), first_seq(1)), (1, last + 1));
    }
}
