//! A walk over a log from its start: every owner's chain is followed, and where events are missing or an event names
//! another predecessor than the one before it, that is told. Copies of lost events that stand later in the log close
//! the gaps that they fill. Memory: one small record per owner and epoch, and one per gap.

use std::collections::BTreeMap;

use bus_schema::{
    Envelope, Epoch, Hash32, PoolId,
    chain::{ChainPoint, Link},
    fact::log::{GapFound, OwnerMark},
};

use crate::Copies;

/// Events that a log lacks.
#[derive(Clone, Debug)]
pub struct Missing {
    /// The pool of their owner.
    pub pool: PoolId,
    /// The gap. Its `applied` is false: a log does not tell what was read of it before.
    pub gap: GapFound,
    copies: Copies,
}

/// An event that does not follow the one before it in its chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Break {
    /// The owner.
    pub owner: String,
    /// The event's place in the chain.
    pub at: ChainPoint,
    /// Its `stream:seq`.
    pub place: String,
    /// The hash that it names as its predecessor's.
    pub names: Hash32,
    /// The hash of the event that stands before it.
    pub found: Hash32,
}

/// What an owner's chain is known to have had.
#[derive(Clone, Debug)]
pub struct Expected {
    /// The pool.
    pub pool: PoolId,
    /// The owner.
    pub owner: String,
    /// The last event of an epoch.
    pub at: ChainPoint,
    /// Its hash; none = unknown.
    pub hash: Option<Hash32>,
}

/// The last event of one epoch of an owner.
#[derive(Clone, Copy, Debug)]
struct Last {
    seq: u64,
    hash: Hash32,
    certainty: Certainty,
}

/// How much is known of a chain's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Certainty {
    /// That is where it is.
    There,
    /// It came at least so far before the log was trimmed.
    AtLeast,
    /// It was seen first behind the beginning of a trimmed log: it may be a copy of what went.
    Somewhere,
}

/// Before the first event of an epoch.
const BEGINNING: Last = Last { seq: 0, hash: Hash32::ZERO, certainty: Certainty::There };

/// A walk that is under way.
#[derive(Debug)]
pub struct Walk {
    stream: String,
    /// Whether the log begins with its first message: the first event of an epoch is the first one then.
    is_whole: bool,
    last_seq: u64,
    chains: BTreeMap<(PoolId, String, u64), Last>,
    missing: Vec<Missing>,
    breaks: Vec<Break>,
    unchained: u64,
    unreadable: u64,
}

impl Walk {
    /// Before the first message of a stream that is known to begin at this sequence: more than 1 after it was trimmed.
    pub fn begin(stream: &str, begins_at: u64) -> Self {
        Self {
            stream: stream.to_owned(),
            is_whole: begins_at <= 1,
            last_seq: 0,
            chains: BTreeMap::new(),
            missing: Vec::new(),
            breaks: Vec::new(),
            unchained: 0,
            unreadable: 0,
        }
    }

    /// Of a trimmed log: the last events of chains before it begins, or (not `are_exact`) earlier ones. What repeats them is no
    /// news, and what does not follow the last ones is missing.
    #[must_use]
    pub fn behind(mut self, heads: &[OwnerMark], are_exact: bool) -> Self {
        let certainty = if are_exact { Certainty::There } else { Certainty::AtLeast };
        for OwnerMark { pool, owner, at, hash, .. } in heads {
            if let Some((at, hash)) = at.zip(*hash) {
                let key = (pool.clone(), owner.clone(), at.epoch.0);
                self.chains.insert(key, Last { seq: at.seq, hash, certainty });
            }
        }
        self
    }

    /// Passes a message by: nobody sent it, and what it stands for is missing.
    pub fn pass(&mut self, seq: u64) {
        self.last_seq = seq;
    }

    /// Takes in the next message. What is no event of a chain is counted only.
    pub fn push(&mut self, message: bus_schema::envelope::Stored<'_>, body: Hash32) {
        self.last_seq = message.seq;
        let Ok(envelope) = Envelope::read_with(message, || body) else {
            self.unreadable += 1;
            return;
        };
        let (Some((link, hash)), Ok(pool)) = (envelope.link.zip(envelope.hash), envelope.subject.pool())
        else {
            self.unchained += 1;
            return;
        };
        let source = envelope.source.into_owned();
        if !self.is_copy(&source, link, hash) {
            self.follow(pool, source, link, hash, message.seq);
        }
    }

    fn is_copy(&mut self, source: &str, link: Link, hash: Hash32) -> bool {
        self.missing.iter_mut().any(|missing| missing.copies.push(source, link, hash))
    }

    fn follow(&mut self, pool: PoolId, owner: String, link: Link, hash: Hash32, seq: u64) {
        let Link { at, prev } = link;
        let (place, is_whole) = (format!("{}:{seq}", self.stream), self.is_whole);
        let key = (pool, owner, at.epoch.0);
        let known = self.chains.get(&key).copied();
        let before = match known {
            // Of a trimmed log nobody knows where an epoch had come to, unless it begins here.
            None if is_whole || at.seq == 1 => BEGINNING,
            None => Last { seq: 0, hash: Hash32::ZERO, certainty: Certainty::Somewhere },
            Some(known) => known,
        };
        if at.seq <= before.seq {
            // A repeat: the outbox sends again what was not acknowledged.
            return;
        }
        let certainty = match before.certainty {
            Certainty::Somewhere => Certainty::Somewhere,
            Certainty::There | Certainty::AtLeast => Certainty::There,
        };
        if before.certainty == Certainty::There && at.seq > before.seq + 1 {
            let (pool, owner) = (key.0.clone(), &key.1);
            let found = gap(owner, at.epoch, before, at.seq, Some(prev), place);
            self.missing.push(Missing { pool, copies: Copies::of(found.clone()), gap: found });
        } else if at.seq == before.seq + 1 && before.hash != prev {
            // Copies join each other as their originals did.
            let owner = key.1.clone();
            self.breaks.push(Break { owner, at, place, names: prev, found: before.hash });
        }
        self.chains.insert(key, Last { seq: at.seq, hash, certainty });
    }

    /// Ends the walk: what of the chains is missing, the ends included that are known to have been there.
    pub fn finish(mut self, expected: &[Expected]) -> Walked {
        for Expected { pool, owner, at, hash } in expected {
            let key = (pool.clone(), owner.clone(), at.epoch.0);
            let before = match self.chains.get(&key).copied() {
                None if self.is_whole => BEGINNING,
                Some(last) if last.certainty == Certainty::There => last,
                None | Some(_) => continue,
            };
            if before.seq >= at.seq {
                continue;
            }
            let place = format!("{}:{}", self.stream, self.last_seq);
            let found = gap(owner, at.epoch, before, at.seq + 1, *hash, place);
            let (pool, copies) = (pool.clone(), Copies::of(found.clone()));
            self.missing.push(Missing { pool, copies, gap: found });
        }
        self.missing.retain(|missing| missing.copies.next_seq().is_some());
        let Self { missing, breaks, unchained, unreadable, .. } = self;
        Walked { missing, breaks, unchained, unreadable }
    }
}

/// What a walk found.
#[derive(Debug)]
pub struct Walked {
    /// Events that the log lacks, whole gaps only.
    pub missing: Vec<Missing>,
    /// Events that do not follow the one before them.
    pub breaks: Vec<Break>,
    /// Events without a place in a chain.
    pub unchained: u64,
    /// Messages that are no events.
    pub unreadable: u64,
}

fn gap(
    owner: &str,
    epoch: Epoch,
    before: Last,
    next_seq: u64,
    before_prev: Option<Hash32>,
    place: String,
) -> GapFound {
    GapFound {
        owner: owner.to_owned(),
        after: ChainPoint { epoch, seq: before.seq },
        before: ChainPoint { epoch, seq: next_seq },
        place,
        after_hash: Some(before.hash),
        before_prev,
        applied: false,
    }
}

#[cfg(test)]
mod tests {
    use bus_schema::{Timestamp, chain::Sealed, envelope::Stored};

    use super::*;

    const SOURCE: &str = "/local/dc1/resource/inv";
    const SUBJECT: &str = "far.v1.local.evt.dc1.resource.Pod=2Fa.changed";

    /// Headers and hash of the event at each place of a chain.
    fn chain(count: u64) -> Vec<(Vec<(String, String)>, Hash32)> {
        let (mut prev, mut events) = (Hash32::ZERO, Vec::new());
        for seq in 1..=count {
            let (id, at) = (format!("e{seq}"), ChainPoint { epoch: Epoch(7), seq });
            let (event_type, time) = ("resource.changed", "2026-11-22T04:31:48.123Z");
            let (subject, link) = (SUBJECT, Link { at, prev });
            let sealed = Sealed { source: SOURCE, id: &id, event_type, subject, time, link, body: b"{}" };
            let hash = sealed.hash();
            let headers = [
                ("ce-specversion", "1.0".to_owned()),
                ("ce-id", id.clone()),
                ("ce-source", SOURCE.to_owned()),
                ("ce-type", event_type.to_owned()),
                ("ce-time", time.to_owned()),
                ("ce-farepoch", at.epoch.to_string()),
                ("ce-farseq", seq.to_string()),
                ("ce-farprev", prev.to_string()),
            ];
            events.push((headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(), hash));
            prev = hash;
        }
        events
    }

    /// The walk over a log that holds these places of the chain, in this order; 0 is what stands in place of another one.
    fn walked(places: &[u64], expected: Option<u64>) -> Walked {
        let chain = chain(20);
        let mut walk = Walk::begin("S", 1);
        for (at, place) in places.iter().enumerate() {
            if *place == 0 {
                walk.pass(at as u64 + 1);
                continue;
            }
            let headers: Vec<_> = chain[*place as usize - 1].0.iter().map(|(n, v)| (&**n, &**v)).collect();
            let (seq, stored_at) = (at as u64 + 1, Timestamp::default());
            let (subject, headers) = (SUBJECT, &headers[..]);
            let stored = Stored { subject, headers, body: b"{}", stream: "S", seq, stored_at };
            walk.push(stored, Hash32::of(b"{}"));
        }
        let expected = expected.map(|seq| Expected {
            pool: "local/dc1".parse().unwrap(),
            owner: SOURCE.to_owned(),
            at: ChainPoint { epoch: Epoch(7), seq },
            hash: Some(chain[seq as usize - 1].1),
        });
        walk.finish(expected.as_slice())
    }

    fn gaps(places: &[u64], expected: Option<u64>) -> Vec<(u64, u64)> {
        let walked = walked(places, expected);
        assert_eq!(walked.breaks, []);
        walked.missing.iter().map(|missing| (missing.gap.after.seq, missing.gap.before.seq)).collect()
    }

    #[test]
    fn a_whole_chain_with_repeats_has_no_gap() {
        assert_eq!(gaps(&[1, 2, 3, 2, 3, 4], Some(4)), []);
    }

    #[test]
    fn missing_events_are_found_in_the_middle_at_the_start_and_at_the_known_end() {
        assert_eq!(gaps(&[1, 2, 5, 6], None), [(2, 5)]);
        assert_eq!(gaps(&[3, 4], None), [(0, 3)]);
        assert_eq!(gaps(&[1, 2], Some(6)), [(2, 7)]);
        assert_eq!(gaps(&[], Some(6)), [(0, 7)], "all of it");
    }

    #[test]
    fn copies_later_in_the_log_close_the_gap_once_all_have_come() {
        assert_eq!(gaps(&[1, 2, 5, 3, 6, 4], Some(6)), []);
        assert_eq!(gaps(&[1, 2, 5, 3, 6], Some(6)), [(2, 5)]);
        assert_eq!(gaps(&[1, 4, 8, 5, 6, 7, 2, 3], None), []);
    }

    #[test]
    fn an_event_that_something_else_stands_for_is_missing_until_its_copy_comes() {
        assert_eq!(gaps(&[1, 0, 3, 4], Some(4)), [(1, 3)]);
        assert_eq!(gaps(&[1, 0, 3, 4, 2], Some(4)), []);
        assert_eq!(gaps(&[1, 0, 0, 4, 2, 3], Some(4)), [], "two neighbours");
        assert_eq!(gaps(&[0, 2, 1], Some(2)), [], "the first one");
        assert_eq!(gaps(&[1, 2, 0], Some(3)), [(2, 4)], "the last one");
        assert_eq!(gaps(&[1, 2, 0, 3], Some(3)), []);
        assert_eq!(gaps(&[1, 2, 0, 3, 4], Some(4)), []);
    }

    #[test]
    fn a_chain_that_has_parted_in_two_lacks_nothing() {
        let mut walk = Walk::begin("S", 1);
        let (old, new) = (|seq: u64| Hash32::of(&[0, seq as u8]), |seq: u64| Hash32::of(&[1, seq as u8]));
        let chain = [
            (1, Hash32::ZERO, old(1)),
            (2, old(1), old(2)),
            (3, old(2), old(3)),
            (2, old(1), new(2)),
            (3, new(2), new(3)),
            (4, new(3), new(4)),
        ];
        for (at, (seq, prev, hash)) in (1..).zip(chain) {
            walk.follow("local/dc1".parse().unwrap(), SOURCE.to_owned(), link(seq, prev), hash, at);
        }
        let walked = walk.finish(&[]);
        assert_eq!((walked.missing.len(), walked.breaks.len()), (0, 1), "{walked:?}");
    }

    #[test]
    fn an_event_that_names_another_one_before_it_is_told() {
        let mut walk = Walk::begin("S", 1);
        walk.follow(
            "local/dc1".parse().unwrap(),
            SOURCE.to_owned(),
            link(1, Hash32::ZERO),
            Hash32::of(b"1"),
            1,
        );
        walk.follow(
            "local/dc1".parse().unwrap(),
            SOURCE.to_owned(),
            link(2, Hash32::of(b"x")),
            Hash32::of(b"2"),
            2,
        );
        let breaks = walk.finish(&[]).breaks;
        assert_eq!((breaks.len(), breaks[0].place.as_str(), breaks[0].found), (1, "S:2", Hash32::of(b"1")));
    }

    fn link(seq: u64, prev: Hash32) -> Link {
        Link { at: ChainPoint { epoch: Epoch(7), seq }, prev }
    }
}
