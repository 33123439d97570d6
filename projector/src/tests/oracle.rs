//! The naive pool: maps in memory, one event after the other, nothing coalesced. What the real one must
//! agree with.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bus_schema::{
    Envelope, Epoch, Hash32, Timestamp, canonical,
    chain::{ChainPoint, Link},
    digest::{Address, Digest, Trie, item},
    envelope::Stored,
    event::{
        Event,
        agent::AgentEvent,
        resource::{ResourceEvent, SyncClosed, SyncScope},
    },
    fact::resource::EmptyConfirmed,
    token,
};
use serde_json::{Value, json};

use super::support::{Message, TARGET, at};

#[derive(Default)]
pub(super) struct Oracle {
    pub(super) pools: BTreeMap<String, OraclePool>,
    confirmed: BTreeSet<(String, String, String)>,
}

#[derive(Default)]
pub(super) struct OraclePool {
    rows: BTreeMap<String, OracleRow>,
    pub(super) owners: BTreeMap<String, OracleOwner>,
}

#[derive(Clone)]
struct OracleRow {
    owner: String,
    state: Option<(String, Value, Hash32)>,
    notice: Option<(String, Hash32, u64, Timestamp)>,
    tenant: Option<String>,
    labels: BTreeMap<String, String>,
    chain: Option<ChainPoint>,
    seq: u64,
    source_time: Timestamp,
    stored_at: Timestamp,
    deleted_at: Option<Timestamp>,
}

#[derive(Default)]
pub(super) struct OracleOwner {
    at: Option<ChainPoint>,
    hash: Hash32,
    hashes: HashMap<(Epoch, u64), Hash32>,
    retired: Vec<ChainPoint>,
    pub(super) applied: u64,
    pub(super) repeats: u64,
    pub(super) refused: u64,
    pub(super) unchained: u64,
    pub(super) changes: u64,
    pub(super) bytes: u64,
    pub(super) gap: Option<u64>,
    pub(super) is_forked: bool,
    pub(super) heartbeat: Option<Option<bool>>,
    pub(super) equal_close: Option<bool>,
    windows: Vec<Window>,
    held: Vec<Held>,
    holes: Vec<Hole>,
}

/// Events that never came: those behind `filled` and before `before`.
#[derive(Clone)]
struct Hole {
    epoch: Epoch,
    filled: u64,
    joins: Hash32,
    before: u64,
    ends: Option<Hash32>,
    place: u64,
    is_mended: bool,
}

/// How an event is taken in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Taken {
    No,
    Yes,
    /// Long after what follows it.
    Late {
        counts: bool,
    },
}

/// A close that was held.
#[derive(Clone)]
struct Held {
    window: Window,
    seq: u64,
    closed_at: Timestamp,
    is_confirmed: bool,
}

#[derive(Clone)]
struct Window {
    sync_id: String,
    low: ChainPoint,
    opened_seq: u64,
    is_broken: bool,
}

impl Oracle {
    pub(super) fn read(&mut self, message: &Message) {
        if message.stream == TARGET {
            return self.confirm(&serde_json::from_slice(&message.body).unwrap());
        }
        let headers: Vec<(&str, &str)> =
            message.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let (seq, stored_at) = (message.seq, at(message.stored_at));
        let (subject, body, stream) = (message.subject.as_str(), message.body.as_slice(), message.stream);
        let stored = Stored { subject, headers: &headers, body, stream, seq, stored_at };
        let Ok(envelope) = Envelope::read(stored) else { return };
        let pool = self.pools.entry(envelope.subject.pool().unwrap().to_string()).or_default();
        let owner = pool.owners.entry(envelope.source.to_string()).or_default();
        let taken = match envelope.link {
            None => {
                owner.unchained += 1;
                Taken::Yes
            }
            Some(link) => owner.chain(link, envelope.hash.unwrap(), seq),
        };
        if taken == (Taken::Late { counts: true }) {
            pool.take_in_late(&envelope, seq, stored_at);
        }
        if taken == Taken::Yes {
            let of = |id: &String| {
                (envelope.subject.pool().unwrap().to_string(), envelope.source.to_string(), id.clone())
            };
            pool.take_in(&envelope, seq, stored_at, &|id| self.confirmed.contains(&of(id)));
        }
    }

    fn confirm(&mut self, confirmed: &EmptyConfirmed) {
        let name = confirmed.pool.to_string();
        self.confirmed.insert((name.clone(), confirmed.owner.clone(), confirmed.sync_id.clone()));
        let Some(pool) = self.pools.get_mut(&name) else { return };
        let Some(owner) = pool.owners.get_mut(&confirmed.owner) else { return };
        let found = owner.held.iter().position(|held| held.window.sync_id == confirmed.sync_id);
        if let Some(tier) = found.filter(|tier| !owner.held[*tier].is_confirmed) {
            owner.held[tier].is_confirmed = true;
            let (seq, closed_at) = (owner.held[tier].seq, owner.held[tier].closed_at);
            owner.gap.take_if(|gap| *gap <= seq);
            pool.bury(&confirmed.owner, Some(tier), None, seq, closed_at);
        }
    }
}

impl OracleOwner {
    /// Whether the event is taken in.
    fn chain(&mut self, link: Link, hash: Hash32, seq: u64) -> Taken {
        let Link { at: ChainPoint { epoch, seq: chain_seq }, prev } = link;
        if let Some(last) = self.retired.iter().find(|last| last.epoch == epoch).copied() {
            if let Some(late) = self.fill(link, hash) {
                return late;
            }
            *(if chain_seq <= last.seq { &mut self.repeats } else { &mut self.refused }) += 1;
            return Taken::No;
        }
        match self.at {
            Some(last) if last.epoch == epoch => {
                if chain_seq <= last.seq {
                    if let Some(late) = self.fill(link, hash) {
                        return late;
                    }
                    let is_fork = self.hashes.get(&(epoch, chain_seq)).is_some_and(|known| *known != hash);
                    self.is_forked |= is_fork;
                    *(if is_fork { &mut self.refused } else { &mut self.repeats }) += 1;
                    return Taken::No;
                }
                let is_next = chain_seq == last.seq + 1;
                if (is_next && prev != self.hash) || (!is_next && self.is_forked) {
                    self.is_forked = true;
                    self.refused += 1;
                    return Taken::No;
                }
                if !is_next {
                    self.lose(last, link.at, Some(prev), seq);
                } else if self.holes.iter().any(|hole| hole.epoch == epoch && hole.filled + 1 == chain_seq) {
                    self.fill(link, hash);
                    self.applied -= 1;
                }
            }
            last => {
                self.retired.extend(last);
                (self.is_forked, self.windows) = (false, Vec::new());
                if chain_seq > 1 {
                    self.hash = Hash32::ZERO;
                    self.lose(ChainPoint { epoch, seq: 0 }, link.at, Some(prev), seq);
                }
            }
        }
        (self.at, self.hash) = (Some(link.at), hash);
        self.hashes.insert((epoch, chain_seq), hash);
        self.applied += 1;
        Taken::Yes
    }

    /// What became of an event that may be missing; none = it is not.
    fn fill(&mut self, link: Link, hash: Hash32) -> Option<Taken> {
        let Link { at, prev } = link;
        let found = self.holes.iter().position(|hole| {
            let is_next = hole.epoch == at.epoch && hole.filled + 1 == at.seq && hole.joins == prev;
            is_next && (at.seq + 1 < hole.before || hole.ends.is_none_or(|ends| ends == hash))
        })?;
        let hole = &mut self.holes[found];
        (hole.filled, hole.joins) = (at.seq, hash);
        let counts = !hole.is_mended;
        if at.seq + 1 == hole.before {
            let whole = self.holes.remove(found);
            if counts && self.gap == Some(whole.place) {
                self.gap = self.holes.iter().filter(|hole| !hole.is_mended).map(|hole| hole.place).max();
            }
        }
        self.applied += 1;
        Some(Taken::Late { counts })
    }

    /// The log had acknowledged everything up to here.
    fn lose_before(&mut self, at: ChainPoint, hash: Option<Hash32>, place: u64) {
        let is_behind = |last: &ChainPoint| last.epoch == at.epoch && last.seq < at.seq && !self.is_forked;
        if let Some(last) = self.at.filter(is_behind) {
            self.lose(last, ChainPoint { seq: at.seq + 1, ..at }, hash, place);
        }
    }

    fn lose(&mut self, after: ChainPoint, before: ChainPoint, ends: Option<Hash32>, place: u64) {
        let ChainPoint { epoch, seq: filled } = after;
        let known = self.holes.iter_mut().find(|hole| hole.epoch == epoch && hole.filled == filled);
        let shown = match known {
            Some(hole) if hole.before == before.seq => {
                hole.ends = ends.or(hole.ends);
                hole.place
            }
            Some(hole) => {
                (hole.before, hole.ends, hole.place) = (before.seq, ends, place);
                place
            }
            None => {
                let (joins, before, is_mended) = (self.hash, before.seq, false);
                self.holes.push(Hole { epoch, filled, joins, before, ends, place, is_mended });
                place
            }
        };
        self.gap = Some(shown);
        self.windows.iter_mut().for_each(|window| window.is_broken = true);
    }

    /// Whether the answer lacks a row of the owner.
    fn is_before(&self, row: &OracleRow, window: &Window) -> bool {
        let Some(at) = row.chain else { return row.seq < window.opened_seq };
        let order = |epoch| self.retired.iter().chain(&self.at).position(|last| last.epoch == epoch);
        (order(at.epoch), at.seq) <= (order(window.low.epoch), window.low.seq)
    }

    /// Which held close a row of the owner belongs to.
    fn tier(&self, row: &OracleRow) -> Option<usize> {
        self.held.iter().position(|held| match row.deleted_at {
            None => self.is_before(row, &held.window),
            Some(_) => row.seq == held.seq,
        })
    }
}

impl OraclePool {
    /// Only a row of which nothing newer is known.
    fn take_in_late(&mut self, envelope: &Envelope<'_>, seq: u64, stored_at: Timestamp) {
        let Ok(Event::Resource(event)) =
            Event::decode(envelope.subject.stem, envelope.subject.event, &envelope.data)
        else {
            return;
        };
        if matches!(event, ResourceEvent::SyncOpened(_) | ResourceEvent::SyncClosed(_)) {
            return;
        }
        let (at, owner) = (envelope.link.unwrap().at, envelope.source.to_string());
        let is_newer = self.rows.get(&event.entity()).is_some_and(|old| {
            old.owner != owner || old.chain.is_none_or(|old| old.epoch != at.epoch || old.seq > at.seq)
        });
        if is_newer {
            return;
        }
        let (changes, bytes) = (self.owners[&owner].changes, self.owners[&owner].bytes);
        self.take_in(envelope, seq, stored_at, &|_| false);
        let owner = self.owners.get_mut(&owner).unwrap();
        (owner.changes, owner.bytes) = (changes, bytes);
    }

    fn take_in(
        &mut self,
        envelope: &Envelope<'_>,
        seq: u64,
        stored_at: Timestamp,
        is_confirmed: &dyn Fn(&String) -> bool,
    ) {
        let source = envelope.source.to_string();
        let owner = self.owners.get_mut(&source).unwrap();
        let decoded = Event::decode(envelope.subject.stem, envelope.subject.event, &envelope.data);
        let Ok(event) = decoded else {
            owner.windows.iter_mut().for_each(|window| window.is_broken = true);
            return;
        };
        assert!(token::matches(envelope.subject.token, &event.entity()));
        let mut count = |bytes: u64| {
            if envelope.sync.is_none() {
                owner.changes += 1;
                owner.bytes += bytes;
            }
        };
        let mut row = OracleRow::empty(envelope, seq, stored_at);
        let key = event.entity();
        match event {
            Event::Resource(ResourceEvent::Changed(changed)) => {
                count(changed.state.get().len() as u64);
                let value = serde_json::from_str(changed.state.get()).unwrap();
                let hash = Hash32::of(canonical::text(&value).unwrap().as_bytes());
                row.state = Some((changed.revision.to_string(), value, hash));
                row.labels = changed
                    .labels
                    .iter()
                    .map(|(name, value)| (name.to_string(), value.to_string()))
                    .collect();
                self.rows.insert(key, row);
            }
            Event::Resource(ResourceEvent::Noticed(noticed)) => {
                count(noticed.size_bytes);
                let old = self.rows.get(&key).filter(|old| old.deleted_at.is_none()).cloned();
                // A held close would have the row gone: a notice builds nothing on it.
                let old = old.filter(|old| self.owners[&old.owner].tier(old).is_none());
                let since =
                    old.as_ref().and_then(|old| old.notice.as_ref()).map_or(stored_at, |notice| notice.3);
                row.notice =
                    Some((noticed.revision.to_string(), noticed.state_hash, noticed.size_bytes, since));
                if let Some(old) = old {
                    (row.state, row.labels) = (old.state, old.labels);
                    row.tenant = row.tenant.or(old.tenant);
                }
                self.rows.insert(key, row);
            }
            Event::Resource(ResourceEvent::Deleted(_)) => {
                count(0);
                (row.deleted_at, row.tenant) = (Some(stored_at), None);
                self.rows.insert(key, row);
            }
            Event::Resource(ResourceEvent::SyncOpened(opened)) => {
                let (sync_id, low) = (opened.sync_id, opened.low);
                owner.windows.push(Window { sync_id, low, opened_seq: seq, is_broken: false });
            }
            Event::Resource(ResourceEvent::SyncClosed(closed)) => {
                let is_confirmed = is_confirmed(&closed.sync_id);
                self.close(&source, &closed, seq, stored_at, is_confirmed);
            }
            Event::Agent(AgentEvent::Heartbeat(beat)) => {
                let digest = self.digest(&source);
                let owner = self.owners.get_mut(&source).unwrap();
                owner.lose_before(beat.at, beat.hash, seq);
                let here = owner.at == Some(beat.at);
                owner.heartbeat = Some(beat.digest.filter(|_| here).map(|theirs| theirs == digest));
            }
            other => panic!("{other:?}"),
        }
    }

    fn close(
        &mut self,
        source: &str,
        closed: &SyncClosed,
        seq: u64,
        stored_at: Timestamp,
        is_confirmed: bool,
    ) {
        let owner = self.owners.get_mut(source).unwrap();
        let at = owner.windows.iter().position(|window| window.sync_id == closed.sync_id);
        let window = at.map(|at| owner.windows.remove(at)).filter(|window| !window.is_broken);
        if closed.scope != SyncScope::Keys {
            (owner.changes, owner.bytes) = (0, 0);
            // Those who never spoke in a chain, nor as an agent, cannot be asked.
            for plain in self.owners.values_mut().filter(|owner| owner.at.is_none()) {
                (plain.changes, plain.bytes) = (0, 0);
            }
        }
        if let Some(window) = window.filter(|_| closed.scope == SyncScope::Full) {
            self.owners.get_mut(source).unwrap().holes.iter_mut().for_each(|hole| hole.is_mended = true);
            self.close_full(source, window, seq, stored_at, is_confirmed);
        }
        let equal = self.digest(source) == closed.digest;
        self.owners.get_mut(source).unwrap().equal_close = Some(equal);
    }

    fn close_full(
        &mut self,
        source: &str,
        window: Window,
        seq: u64,
        closed_at: Timestamp,
        is_confirmed: bool,
    ) {
        let owner = &self.owners[source];
        let mine = || self.rows.values().filter(|row| row.owner == source);
        let live = mine().filter(|row| row.deleted_at.is_none());
        let kept = |tier: Option<usize>| {
            mine()
                .filter(|row| tier.map_or(owner.tier(row).is_some(), |tier| owner.tier(row) == Some(tier)))
                .count()
        };
        let is_absent = |row: &&OracleRow| owner.tier(row).is_none() && owner.is_before(row, &window);
        let absent = live.clone().filter(is_absent).count();
        let rows = live.clone().filter(|row| owner.tier(row).is_none()).count();
        let harmless = |absent: usize, rows: usize| absent < 10 || absent * 2 <= rows;
        let settles = harmless(absent + kept(None), rows + kept(None));
        let empty: Vec<bool> = (0..owner.held.len()).map(|tier| kept(Some(tier)) == 0).collect();
        let is_held = !harmless(absent, rows);
        if settles {
            for tier in 0..empty.len() {
                let Held { seq, closed_at, .. } = self.owners[source].held[tier];
                self.bury(source, Some(tier), None, seq, closed_at);
            }
        }
        if !is_held || is_confirmed {
            self.owners.get_mut(source).unwrap().gap = None;
            self.bury(source, None, Some(&window), seq, closed_at);
        }
        let owner = self.owners.get_mut(source).unwrap();
        for (held, _) in owner.held.iter().zip(&empty).filter(|(_, empty)| settles || **empty) {
            owner.gap.take_if(|gap| *gap <= held.seq);
        }
        let mut empty = empty.into_iter();
        owner.held.retain(|_| !settles && !empty.next().unwrap());
        if is_held {
            owner.held.push(Held { window, seq, closed_at, is_confirmed });
        }
    }

    /// Makes tombstones of the rows of a held close, or of those that an answer lacks and no held close has.
    fn bury(
        &mut self,
        source: &str,
        tier: Option<usize>,
        window: Option<&Window>,
        seq: u64,
        closed_at: Timestamp,
    ) {
        let owner = &self.owners[source];
        for row in self.rows.values_mut() {
            let is_it = row.owner == source
                && row.deleted_at.is_none()
                && owner.tier(row) == tier
                && window.is_none_or(|window| owner.is_before(row, window));
            if is_it {
                (row.state, row.notice, row.tenant, row.labels) = (None, None, None, BTreeMap::new());
                (row.seq, row.stored_at, row.source_time) = (seq, closed_at, closed_at);
                row.deleted_at = Some(closed_at);
            }
        }
    }

    pub(super) fn digest(&self, source: &str) -> Digest {
        let items = self.rows.iter().filter(|(_, row)| row.owner == source && row.deleted_at.is_none());
        let items = items.map(|(key, row)| {
            let (revision, hash) = match (&row.notice, &row.state) {
                (Some((revision, hash, _, _)), _) | (None, Some((revision, _, hash))) => (revision, hash),
                (None, None) => panic!("{key} has nothing"),
            };
            (Address::of(key), item(key, revision, hash))
        });
        Trie::build(items.collect::<Vec<_>>().into_iter()).digest()
    }

    pub(super) fn outstanding(&self, source: &str) -> (u64, Option<Timestamp>) {
        let mine = self.rows.values().filter(|row| row.owner == source);
        let since: Vec<_> = mine.filter_map(|row| row.notice.as_ref().map(|notice| notice.3)).collect();
        (since.len() as u64, since.into_iter().min())
    }

    pub(super) fn export(&self) -> String {
        self.rows.iter().map(|(key, row)| row.line(key)).collect()
    }
}

impl OracleRow {
    fn empty(envelope: &Envelope<'_>, seq: u64, stored_at: Timestamp) -> Self {
        Self {
            owner: envelope.source.to_string(),
            state: None,
            notice: None,
            tenant: envelope.tenant.as_ref().map(ToString::to_string),
            labels: BTreeMap::new(),
            chain: envelope.link.map(|link| link.at),
            seq,
            source_time: envelope.time,
            stored_at,
            deleted_at: None,
        }
    }

    fn line(&self, key: &str) -> String {
        let mut line = json!({
            "key": key,
            "owner": self.owner,
            "place": format!("FARSIDE_LOCAL:{}", self.seq),
            "source_time": self.source_time.to_string(),
            "stored_at": self.stored_at.to_string(),
        });
        if let Some((revision, state, hash)) = &self.state {
            line["revision"] = json!(revision);
            line["state"] = state.clone();
            line["state_hash"] = json!(hash.to_string());
        }
        if let Some((revision, hash, size, since)) = &self.notice {
            line["notice"] = json!({
                "revision": revision,
                "state_hash": hash.to_string(),
                "size_bytes": size.to_string(),
                "since": since.to_string(),
            });
        }
        if let Some(at) = self.chain {
            (line["epoch"], line["seq"]) = (json!(at.epoch.to_string()), json!(at.seq.to_string()));
        }
        if let Some(tenant) = &self.tenant {
            line["tenant"] = json!(tenant);
        }
        if !self.labels.is_empty() {
            line["labels"] = json!(self.labels);
        }
        if let Some(deleted_at) = self.deleted_at {
            line["deleted_at"] = json!(deleted_at.to_string());
        }
        canonical::text(&line).unwrap() + "\n"
    }
}
