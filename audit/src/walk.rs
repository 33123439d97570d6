//! A walk over a log from its start: every owner's chain is followed, and where events are missing or an event names
//! another predecessor than the one before it, that is told. The event that it names is missing then, as if nothing stood
//! in its place. Copies of lost events that stand later in the log close the gaps that they fill. Memory: one small record per
//! owner and epoch, and one per gap.

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
    /// The hash of the event before it; none = this one is not in the log, so that nothing can stand in its place.
    before: Option<Hash32>,
    certainty: Certainty,
}

impl Last {
    /// Where the chain was before it, if the log shows that.
    fn replaced(self) -> Option<Self> {
        let hash = self.before?;
        Some(Self { seq: self.seq.checked_sub(1)?, hash, before: None, certainty: self.certainty })
    }
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
const BEGINNING: Last = Last { seq: 0, hash: Hash32::ZERO, before: None, certainty: Certainty::There };

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
                self.chains.insert(key, Last { seq: at.seq, hash, before: None, certainty });
            }
        }
        self
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
            None => Last { certainty: Certainty::Somewhere, ..BEGINNING },
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
        let is_next = at.seq == before.seq + 1;
        if before.certainty == Certainty::There && !is_next {
            self.miss(&key.0, gap(&key.1, at.epoch, before, at.seq, Some(prev), place));
        } else if is_next && before.hash != prev {
            // Copies join each other as their originals did.
            let (owner, names, found) = (key.1.clone(), prev, before.hash);
            self.breaks.push(Break { owner, at, place: place.clone(), names, found });
            if let Some(replaced) = before.replaced().filter(|_| before.certainty == Certainty::There) {
                self.miss(&key.0, gap(&key.1, at.epoch, replaced, at.seq, Some(prev), place));
            }
        }
        // What stands in the place of another event may name another one before it, too.
        let before = Some(if is_next { before.hash } else { prev });
        self.chains.insert(key, Last { seq: at.seq, hash, before, certainty });
    }

    fn miss(&mut self, pool: &PoolId, gap: GapFound) {
        self.missing.push(Missing { pool: pool.clone(), copies: Copies::of(gap.clone()), gap });
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
            let is_replaced = before.seq == at.seq && hash.is_some_and(|hash| hash != before.hash);
            let before = if is_replaced { before.replaced() } else { Some(before) };
            if let Some(before) = before.filter(|before| before.seq < at.seq) {
                let place = format!("{}:{}", self.stream, self.last_seq);
                self.miss(pool, gap(owner, at.epoch, before, at.seq + 1, *hash, place));
            }
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

    /// The walk over a log that holds these places of the chain, in this order.
    fn walked(places: &[u64], expected: Option<u64>) -> Walked {
        let chain = chain(20);
        let mut walk = Walk::begin("S", 1);
        for (at, place) in places.iter().enumerate() {
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

    #[test]
    fn an_event_that_another_one_stands_for_is_missing_until_its_copy_comes() {
        let owner = || ("local/dc1".parse::<PoolId>().unwrap(), SOURCE.to_owned());
        let hash = |seq: u64| if seq == 0 { Hash32::ZERO } else { Hash32::of(&seq.to_be_bytes()) };
        let gaps = |events: &[(u64, Hash32)], expected: u64| {
            let mut walk = Walk::begin("S", 1);
            for (at, (seq, is)) in (1..).zip(events) {
                let (link, (pool, name)) = (link(*seq, hash(seq - 1)), owner());
                if !walk.is_copy(&name, link, *is) {
                    walk.follow(pool, name, link, *is, at);
                }
            }
            let ((pool, owner), at) = (owner(), ChainPoint { epoch: Epoch(7), seq: expected });
            let walked = walk.finish(&[Expected { pool, owner, at, hash: Some(hash(expected)) }]);
            walked.missing.iter().map(|found| (found.gap.after.seq, found.gap.before.seq)).collect::<Vec<_>>()
        };
        let rotten = Hash32::of(b"rotten");
        let log = [(1, hash(1)), (2, rotten), (3, hash(3)), (4, hash(4))];
        assert_eq!(gaps(&log, 4), [(1, 3)]);
        assert_eq!(gaps(&[&log[..], &[(2, hash(2))]].concat(), 4), [], "its copy");
        assert_eq!(gaps(&[&log[..], &[(2, Hash32::of(b"other"))]].concat(), 4), [(1, 3)], "no copy of it");
        assert_eq!(gaps(&log[..2], 2), [(1, 3)], "the last one, by what the pool had");
        assert_eq!(gaps(&[(1, rotten), (2, hash(2))], 2), [(0, 2)], "the first one");
    }

    fn link(seq: u64, prev: Hash32) -> Link {
        Link { at: ChainPoint { epoch: Epoch(7), seq }, prev }
    }
}
