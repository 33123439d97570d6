//! Copies: whether events that an owner sent once more are those that a log had lost. They are when their hashes join
//! the event before the gap, each other, and the event behind it.

use bus_schema::{Hash32, chain::Link, fact::log::GapFound};

/// What has come of the events of a gap.
#[derive(Clone, Debug)]
pub struct Copies {
    gap: GapFound,
    /// The place of the last copy, or of the event before the gap.
    filled_seq: u64,
    /// Its hash; none = unknown.
    joins: Option<Hash32>,
}

impl Copies {
    /// None have come yet.
    pub fn of(gap: GapFound) -> Self {
        let (filled_seq, joins) = (gap.after.seq, gap.after_hash);
        Self { gap, filled_seq, joins }
    }

    /// Takes in an event of the log, whoever's it is; answers whether it was the next copy.
    pub fn push(&mut self, source: &str, link: Link, hash: Hash32) -> bool {
        let is_next = source == self.gap.owner
            && link.at.epoch == self.gap.after.epoch
            && link.at.seq == self.filled_seq + 1
            && link.at.seq < self.gap.before.seq
            && self.joins.is_none_or(|joins| joins == link.prev);
        let is_last = link.at.seq + 1 == self.gap.before.seq;
        let ends = !is_last || self.gap.before_prev.is_none_or(|ends| ends == hash);
        if is_next && ends {
            (self.filled_seq, self.joins) = (link.at.seq, Some(hash));
        }
        is_next && ends
    }

    /// The place of the first event that is missing still; none = every one has come.
    pub fn next_seq(&self) -> Option<u64> {
        let next = self.filled_seq + 1;
        (next < self.gap.before.seq).then_some(next)
    }
}

#[cfg(test)]
mod tests {
    use bus_schema::{Epoch, chain::ChainPoint};

    use super::*;

    const OWNER: &str = "/local/dc1/resource/inv";

    fn hash(seq: u64) -> Hash32 {
        Hash32::of(&seq.to_be_bytes())
    }

    fn at(seq: u64) -> ChainPoint {
        ChainPoint { epoch: Epoch(7), seq }
    }

    fn gap() -> GapFound {
        GapFound {
            owner: OWNER.to_owned(),
            after: at(4),
            before: at(7),
            place: "S:9".to_owned(),
            after_hash: Some(hash(4)),
            before_prev: Some(hash(6)),
            applied: true,
        }
    }

    fn push(copies: &mut Copies, seq: u64) -> bool {
        copies.push(OWNER, Link { at: at(seq), prev: hash(seq - 1) }, hash(seq))
    }

    #[test]
    fn a_gap_is_full_when_every_event_has_come_in_order() {
        let mut copies = Copies::of(gap());
        assert!(!push(&mut copies, 6) && push(&mut copies, 5) && !push(&mut copies, 5));
        assert_eq!(copies.next_seq(), Some(6));
        assert!(push(&mut copies, 6));
        assert_eq!(copies.next_seq(), None);
        assert!(!push(&mut copies, 7), "that one was there");
    }

    #[test]
    fn events_of_another_hand_are_no_copies() {
        let mut copies = Copies::of(gap());
        let link = Link { at: at(5), prev: hash(4) };
        assert!(!copies.push("/local/dc1/resource/other", link, hash(5)));
        assert!(!copies.push(OWNER, Link { prev: hash(99), ..link }, hash(5)));
        assert!(!copies.push(OWNER, Link { at: ChainPoint { epoch: Epoch(8), seq: 5 }, ..link }, hash(5)));
        assert!(copies.push(OWNER, link, hash(5)));
        assert!(!copies.push(OWNER, Link { at: at(6), prev: hash(5) }, hash(66)), "not what is named behind");
        assert!(push(&mut copies, 6));
    }
}
