//! Unread messages: the log has them, at sequences that the pool has passed, and the pool has never read them, because
//! nats-server could not give them out at that time. What they say is not in the pool, unless somebody made up for it:
//! the agent sent a copy, or the next heartbeat said more. The pool cannot take them in at their place any more: whatever
//! came behind them is in it. A pool that is built again from the log has them. Pure.

use std::collections::BTreeMap;

use audit::Expected;
use bus_schema::{
    Envelope, Epoch, Hash32, Stem,
    chain::ChainPoint,
    envelope::Stored,
    fact::log::{GapFound, Stretch},
};
use projector::{DamageFound, DamageRecord};

/// Stretches that are named one by one: what is told of them fits one message with room to spare.
const STRETCHES_MAX: usize = 100;
/// The event that the next one of its kind makes up for.
const HEARTBEAT: &str = "heartbeat";

/// Sequences of a log, gathered to stretches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stretches {
    /// The first of them.
    pub at: Vec<Stretch>,
    /// All of them.
    pub messages: u64,
}

impl Stretches {
    fn push(&mut self, seq: u64) {
        self.messages += 1;
        let is_full = self.at.len() >= STRETCHES_MAX;
        match self.at.last_mut() {
            Some(last) if last.last_seq + 1 == seq => last.last_seq = seq,
            Some(_) if is_full => {}
            _ => self.at.push(Stretch { first_seq: seq, last_seq: seq }),
        }
    }
}

/// Gathers what the pool passed by.
#[derive(Debug, Default)]
pub(crate) struct Unread {
    /// How far each chain is in the pool, gaps left out of account.
    taken: BTreeMap<(String, Epoch), u64>,
    /// What of the chains has not come again.
    gaps: Vec<GapFound>,
    /// All that the pool has no seal of.
    pub passed: Stretches,
    /// What of it nothing made up for.
    pub lacking: Stretches,
}

impl Unread {
    /// Nothing yet, of a pool that is so far in each chain and whose logs are known to be damaged so.
    pub(crate) fn of(known: &[DamageRecord], expected: &[Expected]) -> Self {
        let mut taken = BTreeMap::new();
        for Expected { owner, at, .. } in expected {
            let seq = taken.entry((owner.clone(), at.epoch)).or_insert(0);
            *seq = at.seq.max(*seq);
        }
        let gaps = known.iter().filter(|record| record.healed.is_none());
        let gaps = gaps.filter_map(|record| match &record.found {
            DamageFound::Gap(gap) if !gap.applied => Some(gap.clone()),
            DamageFound::Gap(_) | DamageFound::Loss(_) => None,
        });
        Self { taken, gaps: gaps.collect(), ..Self::default() }
    }

    /// The next message that the pool has not read.
    pub(crate) fn push(&mut self, message: Stored<'_>, body: Hash32) {
        self.passed.push(message.seq);
        let is_made_up_for =
            Envelope::read_with(message, || body).is_ok_and(|envelope| match envelope.link {
                Some(link) => self.is_taken(&envelope.source, link.at),
                None => envelope.subject.stem == Stem::Agent && envelope.subject.event == HEARTBEAT,
            });
        if !is_made_up_for {
            self.lacking.push(message.seq);
        }
    }

    /// Whether the pool has this event of a chain, be it from a copy.
    fn is_taken(&self, owner: &str, at: ChainPoint) -> bool {
        self.are_taken(owner, at.epoch, at.seq, at.seq)
    }

    /// Whether the pool had all events that a log lacks: one that is behind, or that missed some of them too, had not.
    pub(crate) fn is_taken_all(&self, gap: &GapFound) -> bool {
        let (first, last) = (gap.after.seq.saturating_add(1), gap.before.seq.saturating_sub(1));
        self.are_taken(&gap.owner, gap.after.epoch, first, last)
    }

    fn are_taken(&self, owner: &str, epoch: Epoch, first: u64, last: u64) -> bool {
        let is_missed = |gap: &GapFound| {
            gap.owner == owner && gap.after.epoch == epoch && gap.after.seq < last && first < gap.before.seq
        };
        let taken = self.taken.get(&(owner.to_owned(), epoch));
        taken.is_some_and(|seq| last <= *seq) && !self.gaps.iter().any(is_missed)
    }
}

#[cfg(test)]
mod tests {
    use bus_schema::Timestamp;

    use super::*;

    const OWNER: &str = "/local/dc1/resource/inv";

    fn at(seq: u64) -> ChainPoint {
        ChainPoint { epoch: Epoch(7), seq }
    }

    fn gap(after: u64, before: u64, healed: bool) -> DamageRecord {
        let found = GapFound {
            owner: OWNER.to_owned(),
            after: at(after),
            before: at(before),
            place: "S:9".to_owned(),
            after_hash: None,
            before_prev: None,
            applied: false,
        };
        let healed = healed.then(|| projector::Healed { place: "S:20".to_owned(), at: Timestamp::default() });
        DamageRecord {
            found: DamageFound::Gap(found),
            place: "T:1".to_owned(),
            found_at: Timestamp::default(),
            healed,
            acknowledged: None,
        }
    }

    #[test]
    fn an_event_of_a_chain_is_lacking_until_its_copy_has_come() {
        let pool = "local/dc1".parse().unwrap();
        let expected = [Expected { pool, owner: OWNER.to_owned(), at: at(9), hash: None }];
        let lacks = |known: &[DamageRecord], seq| !Unread::of(known, &expected).is_taken(OWNER, at(seq));
        assert!(lacks(&[gap(3, 6, false)], 4) && lacks(&[gap(3, 6, false)], 5));
        assert!(!lacks(&[gap(3, 6, false)], 3) && !lacks(&[gap(3, 6, false)], 6));
        assert!(!lacks(&[gap(3, 6, true)], 4), "its copy was taken in");
        assert!(lacks(&[], 10), "the pool is not there yet");
        let other = ChainPoint { epoch: Epoch(8), seq: 4 };
        assert!(!Unread::of(&[], &expected).is_taken(OWNER, other), "another epoch");
    }

    #[test]
    fn a_gap_of_the_log_is_none_of_the_pool_only_when_it_had_all_of_it() {
        let pool = "local/dc1".parse().unwrap();
        let expected = [Expected { pool, owner: OWNER.to_owned(), at: at(9), hash: None }];
        let found = |after, before| match gap(after, before, false).found {
            DamageFound::Gap(gap) => gap,
            DamageFound::Loss(loss) => panic!("{loss:?}"),
        };
        let has = |known: &[DamageRecord], after, before| {
            Unread::of(known, &expected).is_taken_all(&found(after, before))
        };
        assert!(has(&[], 2, 10) && !has(&[], 2, 11), "the pool is not there yet");
        let known = [gap(3, 6, false)];
        assert!(!has(&known, 3, 9) && !has(&known, 2, 5) && !has(&known, 4, 10) && !has(&known, 3, 6));
        assert!(has(&known, 5, 8) && has(&known, 1, 4), "beside what the pool missed");
        assert!(has(&[gap(3, 6, true)], 3, 9), "its copies were taken in");
    }

    #[test]
    fn an_event_without_a_chain_is_lacking_and_a_heartbeat_is_not() {
        let mut unread = Unread::default();
        for (seq, subject) in [
            (4, "far.v1.local.evt.dc1.resource.Pod=2Fa.changed"),
            (5, "far.v1.local.evt.dc1.agent.inv.heartbeat"),
            (6, "far.v1.local.evt.dc1.resource.Pod=2Fa.changed"),
            (7, "no subject of an event"),
        ] {
            let stored_at = Timestamp::default();
            let stored = Stored { subject, headers: &[], body: b"{}", stream: "S", seq, stored_at };
            unread.push(stored, Hash32::of(b"{}"));
        }
        assert_eq!((unread.passed.messages, unread.passed.at.len()), (4, 1));
        let stretch = |first_seq, last_seq| Stretch { first_seq, last_seq };
        assert_eq!(unread.lacking.at, [stretch(4, 4), stretch(6, 7)]);
        assert_eq!(unread.lacking.messages, 3);
    }

    #[test]
    fn stretches_are_bounded_and_their_messages_are_counted() {
        let mut found = Stretches::default();
        (1..=1_000).for_each(|n| found.push(n * 2));
        assert_eq!((found.at.len(), found.messages), (STRETCHES_MAX, 1_000));
    }
}
