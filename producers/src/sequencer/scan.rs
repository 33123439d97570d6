//! One reading of the source, taken in as it goes: every seen resource at once, what is missing only
//! when the whole has been seen and may be believed.

use std::{
    collections::{BTreeMap, HashMap, HashSet, hash_map::RandomState},
    hash::BuildHasher,
    path::Path,
    time::{Duration, Instant},
};

use bus_schema::{ResourceKey, Timestamp};

use super::Sequencer;
use crate::{
    ledger::{LedgerError, Reading, inventory::is_at_or_below},
    resource::{
        Fault, ListEnd, Record, Scope, Seen,
        guard::{Count, Guard, Verdict},
    },
};

/// Faults that are repeated in words; the others are counted.
const FAULTS_TOLD_MAX: usize = 20;
/// How long a file must have been left alone before it is believed that what is missing from it is gone: a
/// program that writes it slowly, or pauses between two documents, looks the same.
pub(crate) const SETTLE: Duration = Duration::from_secs(10);

/// A reading under way.
pub(crate) struct Scan {
    /// How much is read.
    pub(crate) scope: Scope,
    /// The sync that it answers.
    pub(crate) sync: Option<String>,
    /// Whether the timer made it: only those are witnesses for the empty guard.
    pub(crate) timed: bool,
    hashes: RandomState,
    /// 64-bit hashes of the keys seen; a collision keeps one resource until the next reading.
    seen: HashSet<u64>,
    /// Resources that were read singly while this ran: newer than what this saw.
    fresh: HashSet<ResourceKey>,
    stale: bool,
    /// Some of the faults in words.
    pub(super) faults: Vec<Fault>,
    /// How many there are of them at each path.
    pub(super) faults_at: BTreeMap<String, u64>,
    kept_paths: HashSet<String>,
    kept_trees: Vec<String>,
    /// Stamps of the files that were read, by the hash of their paths.
    files: HashMap<u64, u64>,
    contested: HashSet<String>,
}

/// What a reading came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ScanReport {
    /// What is wrong with the source, here and where this reading did not look, in words.
    pub(crate) trouble: Vec<String>,
    /// What has to be read again soon.
    pub(crate) again: Option<Scope>,
    /// What has to be read again after a time, when it may have settled.
    pub(crate) settling: Option<(Scope, Duration)>,
}

impl Scan {
    pub(crate) fn new(scope: Scope, sync: Option<String>, timed: bool) -> Self {
        Self {
            scope,
            sync,
            timed,
            hashes: RandomState::new(),
            seen: HashSet::new(),
            fresh: HashSet::new(),
            stale: false,
            faults: Vec::new(),
            faults_at: BTreeMap::new(),
            kept_paths: HashSet::new(),
            kept_trees: Vec::new(),
            files: HashMap::new(),
            contested: HashSet::new(),
        }
    }

    /// Resources were read singly: what this reading has of them may be older.
    pub(crate) fn overtaken(&mut self, keys: impl Iterator<Item = ResourceKey>) {
        self.fresh.extend(keys);
    }

    fn see(&mut self, key: &str) -> bool {
        self.seen.insert(self.hashes.hash_one(key))
    }

    fn has_seen(&self, key: &str) -> bool {
        self.seen.contains(&self.hashes.hash_one(key))
    }

    fn fault(&mut self, fault: Fault) {
        if fault.subtree {
            self.kept_trees.push(fault.place.path.clone());
        }
        self.kept_paths.insert(fault.place.path.clone());
        self.count(fault);
    }

    fn count(&mut self, fault: Fault) {
        *self.faults_at.entry(fault.place.path.clone()).or_default() += 1;
        if self.faults.len() < FAULTS_TOLD_MAX {
            self.faults.push(fault);
        }
    }

    fn keeps(&self, path: &str) -> bool {
        self.kept_paths.contains(path) || self.kept_trees.iter().any(|tree| is_at_or_below(path, tree))
    }

    pub(super) fn covers(&self, path: &str) -> bool {
        match &self.scope {
            Scope::Everything => true,
            Scope::Places(places) => places.iter().any(|place| is_at_or_below(path, place)),
        }
    }
}

impl Sequencer {
    /// Takes in a part of a reading.
    pub(crate) fn absorb(
        &mut self,
        scan: &mut Scan,
        part: Vec<Seen>,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        let reading = self.ledger.reading()?;
        let job = scan.sync.as_ref().and_then(|id| self.syncs.get(id)).cloned();
        let mut facts = Vec::new();
        for seen in part {
            match seen {
                Seen::Fault(fault) => scan.fault(fault),
                Seen::File(file) => {
                    scan.files.insert(scan.hashes.hash_one(file.place.path.as_str()), file.stamp);
                }
                Seen::Record(record) => {
                    let Some(before) = self.place_of(&reading, scan, &record)? else { continue };
                    let Some(fact) = self.meaning(&record, before, job.as_ref())? else { continue };
                    if scan.fresh.contains(&record.key) {
                        scan.stale = true;
                        continue;
                    }
                    self.note_size(&record, &fact);
                    facts.push(fact);
                }
            }
        }
        drop(reading);
        let sync = scan.sync.clone();
        self.page(facts, sync.as_deref(), now)
    }

    /// What was known of a record; none = the record does not count, because its key stands in another
    /// place too, and the first place in path order has it.
    #[expect(clippy::option_option, reason = "unknown, and not to be counted, are different answers")]
    fn place_of(
        &self,
        reading: &Reading,
        scan: &mut Scan,
        record: &Record,
    ) -> Result<Option<Option<crate::ledger::inventory::Item>>, LedgerError> {
        let key = record.key.as_str();
        let before = reading.item(&self.cluster, key)?;
        let first = scan.see(key);
        let elsewhere = before.as_ref().filter(|before| {
            before.path != record.place.path
                && !scan.covers(&before.path)
                && Path::new(&before.path) < Path::new(&record.place.path)
        });
        if first && elsewhere.is_none() {
            return Ok(Some(before));
        }
        let known =
            before.as_ref().map(|before| before.path.as_str()).filter(|path| *path != record.place.path);
        let other = known.unwrap_or("an earlier file");
        let reason =
            format!("{key} stands in {other} too; the first in path order counts, rename one of them");
        scan.contested.insert(key.to_owned());
        // Nothing at this path is in doubt, so it is told without keeping anything.
        scan.count(Fault::new(record.place.clone(), reason));
        Ok(None)
    }

    /// Ends a reading that saw the whole of its scope.
    pub(crate) fn finish(
        &mut self,
        mut scan: Scan,
        end: ListEnd,
        guard: &mut Guard,
        (now, at): (Timestamp, Instant),
    ) -> Result<ScanReport, LedgerError> {
        let mut report = ScanReport::default();
        let missing = self.missing(&scan)?;
        let missing = self.settled(&scan, missing, &mut report, at);
        let whole = scan.scope == Scope::Everything;
        if whole {
            self.contested = std::mem::take(&mut scan.contested);
        } else if missing.iter().any(|key| self.contested.contains(key.as_str())) {
            // It may stand in its other place still; only a whole reading can tell.
            report.again = Some(Scope::Everything);
            self.tell(&scan, &mut report);
            return Ok(report);
        }
        let count = Count { known: self.known(), lost: missing.len() as u64 };
        match guard.judge(count, end.explicit_empty, scan.timed && whole) {
            Verdict::Pass => {
                self.delete(&missing, scan.sync.as_deref(), now)?;
                // What some places say does not make up for what is missing elsewhere.
                self.held.take_if(|_| whole);
            }
            Verdict::Hold(reason) => self.held = Some(reason),
        }
        if let Some(id) = &scan.sync {
            self.close_sync(id, now)?;
        }
        if scan.stale {
            report.again = Some(Scope::Everything);
        }
        self.tell(&scan, &mut report);
        Ok(report)
    }

    /// Says each fault once, and what stands in short.
    fn tell(&mut self, scan: &Scan, report: &mut ScanReport) {
        for fault in self.faults.take(scan) {
            let detail = fault.detail.as_deref();
            tracing::warn!(pool = %self.source.pool, %fault, detail, "not taken in; what was known from there is kept");
        }
        report.trouble = self.held.iter().cloned().chain(self.faults.summary()).collect();
    }

    /// What of the missing is gone: its file is gone too, or has been left alone for a while. The rest is kept.
    fn settled(
        &mut self,
        scan: &Scan,
        missing: Vec<(ResourceKey, String)>,
        report: &mut ScanReport,
        at: Instant,
    ) -> Vec<ResourceKey> {
        let (mut shrunk, mut waiting, mut gone) = (HashMap::new(), BTreeMap::new(), Vec::new());
        for (key, path) in missing {
            let Some(stamp) = scan.files.get(&scan.hashes.hash_one(path.as_str())) else {
                gone.push(key);
                continue;
            };
            let before = self.shrunk.get(&path).filter(|(before, _)| before == stamp);
            let since = before.map_or(at, |(_, since)| *since);
            let age = at.saturating_duration_since(since);
            shrunk.insert(path.clone(), (*stamp, since));
            match SETTLE.checked_sub(age).filter(|left| !left.is_zero()) {
                Some(left) => _ = waiting.insert(path, left),
                None => gone.push(key),
            }
        }
        let left = waiting.values().max().copied();
        report.settling = left.map(|left| (Scope::Places(waiting.into_keys().collect()), left));
        // What this reading did not cover stays as it was.
        self.shrunk.retain(|path, _| !scan.covers(path));
        self.shrunk.extend(shrunk);
        gone
    }

    /// What was known in the scope of a reading and was not seen, each with its path.
    fn missing(&self, scan: &Scan) -> Result<Vec<(ResourceKey, String)>, LedgerError> {
        let reading = self.ledger.reading()?;
        let mut missing = Vec::new();
        match &scan.scope {
            Scope::Everything => reading.each_item(&self.cluster, |key, item| {
                if !scan.has_seen(key) && !scan.keeps(&item.path) {
                    missing.extend(key.parse::<ResourceKey>().map(|key| (key, item.path.clone())));
                }
                true
            })?,
            Scope::Places(places) => {
                for place in places {
                    for key in reading.keys_at(&self.cluster, place)? {
                        let path = reading.item(&self.cluster, key.as_str())?.map(|item| item.path);
                        let path = path.filter(|path| !scan.has_seen(key.as_str()) && !scan.keeps(path));
                        missing.extend(path.map(|path| (key, path)));
                    }
                }
                missing.sort_unstable();
                missing.dedup();
            }
        }
        Ok(missing)
    }

    fn delete(
        &mut self,
        keys: &[ResourceKey],
        sync: Option<&str>,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        for some in keys.chunks(super::COMMIT_EVENTS_MAX) {
            let reading = self.ledger.reading()?;
            let mut facts = Vec::with_capacity(some.len());
            for key in some {
                if let Some(before) = reading.item(&self.cluster, key.as_str())? {
                    facts.push(self.gone(key.as_str(), before)?);
                }
            }
            drop(reading);
            self.page(facts, sync, now)?;
        }
        Ok(())
    }
}
