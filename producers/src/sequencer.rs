//! The sequencer of one cluster: the only place where something becomes an event. It compares what a
//! reading saw with what was known, gives the difference its place in the chain, and stores both in
//! one transaction. No I/O but the ledger's, no clock: time is an argument.
//!
//! Must not know: NATS, sources' technologies, tasks or timers.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    time::Instant,
};

use bus_schema::{
    Hash32, Name, Source, Timestamp,
    chain::{ChainPoint, Link},
    digest::{self, Address, Digest, Trie},
    event::{
        agent::{AgentEvent, EpochClosed},
        resource::SyncScope,
    },
};

use crate::{
    config::PushConfig,
    ledger::{
        Ledger, LedgerError, Writing,
        chain::{self, Chain},
        inventory::{Item, Told},
        marks,
        outbox::{Cut, Waiting},
    },
    seal::{Effect, Fact, Saying},
};

pub(crate) mod digests;
mod faults;
pub(crate) mod observe;
pub(crate) mod preface;
pub(crate) mod replay;
pub(crate) mod scan;
pub(crate) mod shipment;
pub(crate) mod sync;
#[cfg(test)]
mod tests;

pub(crate) use observe::ReadFailure;
pub(crate) use preface::Preface;
pub(crate) use replay::Run;
pub(crate) use scan::Scan;
pub(crate) use shipment::Shipment;

/// Most events in one transaction: about 60 ms of the ledger's disk.
pub(crate) const COMMIT_EVENTS_MAX: usize = 1_000;

/// What a sequencer is told.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    /// What is only announced.
    pub(crate) push: PushConfig,
    /// The largest event body that can travel, in bytes.
    pub(crate) inline_bytes_max: usize,
    /// Most bytes in the outbox.
    pub(crate) outbox_bytes_max: u64,
    /// Most events of which the journal remembers what they spoke of.
    pub(crate) journal_events_max: u64,
    /// Most bytes of acknowledged events that the journal keeps whole; 0 = none.
    pub(crate) journal_bytes_max: u64,
}

/// The sequencer of one cluster.
pub(crate) struct Sequencer {
    ledger: Ledger,
    source: Source,
    cluster: String,
    pub(crate) rules: Rules,
    chain: Chain,
    waiting: Waiting,
    trie: Trie,
    syncs: BTreeMap<String, sync::Sync>,
    /// Syncs that ended lately, so that asking again does not run them again.
    finished: VecDeque<(String, SyncScope)>,
    /// What every new epoch begins with.
    preface: Option<Preface>,
    /// Whether this run has said it.
    introduced: bool,
    /// Withdrawn keys and where they were withdrawn, until the log has that.
    withdrawn: BTreeMap<String, ChainPoint>,
    /// Syncs whose source was read and whose end has to wait for room, and the last key that they looked at.
    closing: BTreeMap<String, String>,
    cut: Option<shipment::Underway>,
    /// Keys that stood in two places at the last whole reading.
    contested: HashSet<String>,
    /// What could not be taken in, which was said.
    faults: faults::Faults,
    /// Why deletions are held back.
    held: Option<String>,
    /// Files from which resources are missing: their stamp, and since when it is the same.
    shrunk: HashMap<String, (u64, Instant)>,
    /// States that cannot travel, by key, with their sizes in bytes.
    too_large: BTreeMap<String, u64>,
}

impl Sequencer {
    /// Takes up the chain where the ledger has it, or begins one.
    pub(crate) fn open(ledger: Ledger, source: Source, rules: Rules) -> Result<Self, LedgerError> {
        let cluster = source.pool.cluster.to_string();
        let reading = ledger.reading()?;
        let chain = match chain::get(&reading.chains, &cluster)? {
            Some(chain) => chain,
            None => {
                let chain = Chain::begin()?;
                ledger.change(|writing| writing.put_chain(&cluster, &chain))?;
                chain
            }
        };
        let chain = trimmed(&ledger, &cluster, chain, rules.journal_bytes_max)?;
        let reading = ledger.reading()?;
        let waiting = reading.sum(&cluster, chain.acked_row() + 1..=u64::MAX)?;
        let cut = reading.mark::<Cut>(&cluster, marks::CUT)?;
        let syncs = reading.marks(&cluster, marks::SYNC)?.into_iter().collect();
        let withdrawn = reading.marks(&cluster, marks::GONE)?.into_iter().collect();
        let mut sequencer = Self {
            cut: shipment::Underway::after_restart(cut, chain.acked_seq, waiting.events),
            ledger,
            source,
            cluster,
            rules,
            chain,
            waiting,
            trie: Trie::default(),
            syncs,
            finished: VecDeque::new(),
            preface: None,
            introduced: false,
            withdrawn,
            closing: BTreeMap::new(),
            contested: HashSet::new(),
            faults: faults::Faults::default(),
            held: None,
            shrunk: HashMap::new(),
            too_large: BTreeMap::new(),
        };
        sequencer.build_trie()?;
        Ok(sequencer)
    }

    fn build_trie(&mut self) -> Result<(), LedgerError> {
        let reading = self.ledger.reading()?;
        let mut count = 0;
        reading.each_item(&self.cluster, |_, _| {
            count += 1;
            true
        })?;
        let mut trie = Trie::with_depth(digest::depth_for(count));
        let mut too_large = BTreeMap::new();
        reading.each_item(&self.cluster, |key, item| {
            trie.insert(Address::of(key), node(key, &item));
            if item.told == Told::TooLarge {
                too_large.insert(key.to_owned(), item.size_bytes);
            }
            true
        })?;
        (self.trie, self.too_large) = (trie, too_large);
        Ok(())
    }

    /// The end of the chain.
    pub(crate) const fn chain(&self) -> &Chain {
        &self.chain
    }

    /// Who speaks.
    pub(crate) const fn source(&self) -> &Source {
        &self.source
    }

    /// What waits for the log.
    pub(crate) const fn waiting(&self) -> Waiting {
        self.waiting
    }

    /// How many resources are known.
    pub(crate) fn known(&self) -> u64 {
        self.trie.digest().count
    }

    /// The digest, when it can be compared: everything is in the log.
    pub(crate) fn settled_digest(&self) -> Option<Digest> {
        let settled = self.waiting.events == 0 && !self.chain.window_due && self.syncs.is_empty();
        settled.then(|| self.trie.digest())
    }

    /// Which states cannot travel, in words; none = all can.
    pub(crate) fn oversize(&self) -> Option<String> {
        let (key, bytes) = self.too_large.first_key_value()?;
        let others = match self.too_large.len() - 1 {
            0 => String::new(),
            1 => " (and of one more)".to_owned(),
            count => format!(" (and of {count} more)"),
        };
        Some(format!(
            "the state of {key}{others} is too large to travel, {bytes} bytes: an event holds at most {}; its row stays stale until the resource is made smaller",
            self.rules.inline_bytes_max
        ))
    }

    /// Says something that is about no resource.
    pub(crate) fn say(&mut self, saying: Saying, now: Timestamp) -> Result<(), LedgerError> {
        self.commit(vec![Fact { saying: Some(saying), effect: Effect::None }], None, now, |_| Ok(()))
    }

    /// Gives up the epoch: drops what the log has not acknowledged and begins a new one, in which
    /// everything is sent again before anything else. Returns how many events were dropped.
    pub(crate) fn close_epoch(&mut self, reason: &str, now: Timestamp) -> Result<u64, LedgerError> {
        let old = self.chain.epoch;
        let dropped = self.waiting.events;
        let agent: Name = self.source.agent.clone();
        let closed = EpochClosed { agent, epoch: old, reason: reason.to_owned(), dropped };
        let closed = Saying::agent(&AgentEvent::EpochClosed(closed))?;
        let mut facts = vec![Fact { saying: Some(closed), effect: Effect::None }];
        let words = self.words(true)?;
        facts.extend(words.facts()?);
        let (ended, chain) = (self.chain, self.chain.follow()?);
        (self.chain, self.waiting) = (chain, Waiting::default());
        (self.cut, self.syncs) = (None, BTreeMap::new());
        self.finished.clear();
        self.closing.clear();
        let cluster = self.cluster.clone();
        let before = ChainPoint { epoch: chain.epoch, seq: 1 };
        self.commit(facts, None, now, |writing| {
            writing.end_epoch(&cluster, &ended)?;
            writing.remove_mark(&cluster, marks::CUT)?;
            writing.remove_marks(&cluster, marks::SYNC)?;
            words.remember(writing, &cluster, before)
        })?;
        self.introduced(&words, before);
        tracing::warn!(cluster = %self.source.pool, %old, new = %self.chain.epoch, dropped, reason, "the epoch was given up; everything is sent again");
        Ok(dropped)
    }

    /// ONE transaction: `first`, then for each fact its event, its place in the inventory and its entry
    /// in the journal, then the chain's new end. Memory follows only after it is durable.
    pub(crate) fn commit(
        &mut self,
        facts: Vec<Fact>,
        sync: Option<&str>,
        now: Timestamp,
        first: impl FnOnce(&mut Writing<'_>) -> Result<(), LedgerError>,
    ) -> Result<(), LedgerError> {
        let (cluster, source) = (self.cluster.as_str(), &self.source);
        let mut chain = self.chain;
        let retention = self.rules.journal_events_max;
        let (stored, added) = self.ledger.change(|writing| {
            first(writing)?;
            let mut added = Waiting::default();
            let mut stored = Vec::with_capacity(facts.len());
            for mut fact in facts {
                let silent = chain.window_due && !matches!(fact.effect, Effect::None);
                let saying = fact.saying.take().filter(|_| !silent);
                let spoke = saying.is_some();
                if let Some(saying) = saying {
                    let at = ChainPoint { epoch: chain.epoch, seq: chain.last_seq + 1 };
                    let link = Link { at, prev: chain.last_hash };
                    let (parcel, hash) = saying.seal(source, Some(link), sync, now);
                    added.bytes += writing.put_parcel(cluster, chain.row(at.seq), &parcel)?;
                    added.events += 1;
                    (chain.last_seq, chain.last_hash) = (at.seq, hash);
                }
                apply(writing, cluster, &chain, &mut fact.effect, spoke)?;
                stored.push(fact.effect);
            }
            let floor = chain.last_seq.saturating_sub(retention);
            // Trimmed in steps, so that most transactions do not touch the journal's other end.
            if floor >= chain.journal_floor + COMMIT_EVENTS_MAX as u64 {
                writing.trim_journal(cluster, floor)?;
                chain.journal_floor = floor;
            }
            writing.put_chain(cluster, &chain)?;
            Ok((stored, added))
        })?;
        self.chain = chain;
        self.waiting.events += added.events;
        self.waiting.bytes += added.bytes;
        self.toggle(&stored);
        if self.trie.is_crowded() { self.build_trie() } else { Ok(()) }
    }

    fn toggle(&mut self, effects: &[Effect]) {
        for effect in effects {
            match effect {
                Effect::None => {}
                Effect::Put { key, before, now } => {
                    if let Some(before) = before {
                        self.trie.remove(Address::of(key), node(key, before));
                    }
                    self.trie.insert(Address::of(key), node(key, now));
                    if now.told == Told::TooLarge {
                        self.too_large.insert(key.clone(), now.size_bytes);
                    } else {
                        self.too_large.remove(key);
                    }
                }
                Effect::Remove { key, before } => {
                    self.trie.remove(Address::of(key), node(key, before));
                    self.too_large.remove(key);
                }
            }
        }
    }
}

/// The chain, with no more acknowledged events kept than there may be now.
fn trimmed(ledger: &Ledger, cluster: &str, mut chain: Chain, bytes_max: u64) -> Result<Chain, LedgerError> {
    while chain.kept_bytes > bytes_max {
        ledger.change(|writing| {
            writing.trim_kept(cluster, &mut chain, bytes_max)?;
            writing.put_chain(cluster, &chain)
        })?;
    }
    Ok(chain)
}

fn node(key: &str, item: &Item) -> digest::Node {
    digest::item(key, &item.revision, &item.state_hash)
}

fn apply(
    writing: &mut Writing<'_>,
    cluster: &str,
    chain: &Chain,
    effect: &mut Effect,
    spoke: bool,
) -> Result<(), LedgerError> {
    match effect {
        Effect::None => return Ok(()),
        Effect::Put { key, before, now } => {
            if spoke {
                (now.epoch, now.seq) = (chain.epoch, chain.last_seq);
            }
            writing.put_item(cluster, key, before.as_ref(), now)?;
        }
        Effect::Remove { key, before } => writing.remove_item(cluster, key, before)?,
    }
    if spoke {
        let (Effect::Put { key, .. } | Effect::Remove { key, .. }) = effect else { return Ok(()) };
        writing.put_journal(cluster, chain.last_seq, key)?;
    }
    Ok(())
}

/// A number that changes with what stands beside the state.
fn extras(record: &crate::resource::Record) -> u64 {
    let mut hasher = bus_schema::hash::FieldHasher::new("farside extras v1");
    for (name, value) in &record.labels {
        hasher = hasher.field(name.as_bytes()).field(value.as_bytes());
    }
    let tenant = record.tenant.as_ref().map(ToString::to_string).unwrap_or_default();
    let Hash32(bytes) = hasher.field(tenant.as_bytes()).finish();
    bytes.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}
