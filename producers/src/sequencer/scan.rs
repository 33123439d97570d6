//! One reading of the source, taken in as it goes: every seen resource at once, what is missing only
//! when the whole has been seen and may be believed.

use std::{
    collections::{HashSet, hash_map::RandomState},
    hash::BuildHasher,
    path::Path,
};

use bus_schema::{ResourceKey, Timestamp};

use super::Sequencer;
use crate::{
    ledger::{LedgerError, Reading, inventory::is_at_or_below},
    resource::{
        Fault, ListEnd, Place, Record, Scope, Seen,
        guard::{Count, Guard, Verdict},
    },
};

/// Faults that are repeated in words; the others are counted.
const FAULTS_TOLD_MAX: usize = 20;
/// How long a file that lost all its documents at once is not believed, in milliseconds.
pub(crate) const SECOND_LOOK_MS: u64 = 1_500;

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
    faults: Vec<Fault>,
    faults_count: u64,
    kept_paths: HashSet<String>,
    kept_trees: Vec<String>,
    empty: Vec<Place>,
    contested: HashSet<String>,
}

/// What a reading came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ScanReport {
    /// What is wrong with the source, in words.
    pub(crate) trouble: Vec<String>,
    /// What has to be read again soon.
    pub(crate) again: Option<Scope>,
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
            faults_count: 0,
            kept_paths: HashSet::new(),
            kept_trees: Vec::new(),
            empty: Vec::new(),
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
        self.faults_count += 1;
        if fault.subtree {
            self.kept_trees.push(fault.place.path.clone());
        }
        self.kept_paths.insert(fault.place.path.clone());
        if self.faults.len() < FAULTS_TOLD_MAX {
            self.faults.push(fault);
        }
    }

    fn keeps(&self, path: &str) -> bool {
        self.kept_paths.contains(path) || self.kept_trees.iter().any(|tree| is_at_or_below(path, tree))
    }

    fn covers(&self, path: &str) -> bool {
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
                Seen::Empty(place) => scan.empty.push(place),
                Seen::Record(record) => {
                    self.emptied.remove(&record.place.path);
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
        scan.faults_count += 1;
        if scan.faults.len() < FAULTS_TOLD_MAX {
            scan.faults.push(Fault { place: record.place.clone(), subtree: false, reason });
        }
        Ok(None)
    }

    /// Ends a reading that saw the whole of its scope.
    pub(crate) fn finish(
        &mut self,
        mut scan: Scan,
        end: ListEnd,
        guard: &mut Guard,
        now: Timestamp,
    ) -> Result<ScanReport, LedgerError> {
        let mut report = ScanReport::default();
        self.look_twice(&mut scan, &mut report, now)?;
        let missing = self.missing(&scan)?;
        let whole = scan.scope == Scope::Everything;
        if whole {
            self.contested = std::mem::take(&mut scan.contested);
        } else if missing.iter().any(|key| self.contested.contains(key.as_str())) {
            // It may stand in its other place still; only a whole reading can tell.
            report.again = Some(Scope::Everything);
            return Ok(report);
        }
        let count = Count { known: self.known(), lost: missing.len() as u64 };
        match guard.judge(count, end.explicit_empty, scan.timed && whole) {
            Verdict::Pass => self.delete(&missing, scan.sync.as_deref(), now)?,
            Verdict::Hold(reason) => report.trouble.push(reason),
        }
        if let Some(id) = &scan.sync {
            self.close_sync(id, now)?;
        }
        if scan.stale {
            report.again = Some(Scope::Everything);
        }
        report.trouble.extend(self.tell(&scan));
        Ok(report)
    }

    /// Says each fault once, and all of them in short.
    fn tell(&mut self, scan: &Scan) -> Option<String> {
        for fault in scan.faults.iter().filter(|fault| !self.faults.contains(&fault.to_string())) {
            tracing::warn!(pool = %self.source.pool, %fault, "not taken in; what was known from there is kept");
        }
        if scan.scope == Scope::Everything {
            self.faults = scan.faults.iter().map(ToString::to_string).collect();
        }
        let (first, count) = (scan.faults.first()?, scan.faults_count);
        Some(format!("{count} documents could not be taken in; the first is {first}"))
    }

    /// A file that held resources and is empty now may be half-written: it is looked at twice.
    fn look_twice(
        &mut self,
        scan: &mut Scan,
        report: &mut ScanReport,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        let reading = self.ledger.reading()?;
        let mut again = Vec::new();
        for place in std::mem::take(&mut scan.empty) {
            if reading.keys_at(&self.cluster, &place.path)?.is_empty() {
                continue;
            }
            let since = *self.emptied.entry(place.path.clone()).or_insert(now);
            if now.ms_since(since) >= SECOND_LOOK_MS {
                self.emptied.remove(&place.path);
                continue;
            }
            scan.kept_paths.insert(place.path.clone());
            again.push(place.path);
        }
        if !again.is_empty() {
            report.again = Some(Scope::Places(again));
        }
        Ok(())
    }

    fn missing(&self, scan: &Scan) -> Result<Vec<ResourceKey>, LedgerError> {
        let reading = self.ledger.reading()?;
        let mut missing = Vec::new();
        match &scan.scope {
            Scope::Everything => reading.each_item(&self.cluster, |key, item| {
                if !scan.has_seen(key) && !scan.keeps(&item.path) {
                    missing.extend(key.parse::<ResourceKey>());
                }
                true
            })?,
            Scope::Places(places) => {
                for place in places {
                    for key in reading.keys_at(&self.cluster, place)? {
                        let path = reading.item(&self.cluster, key.as_str())?.map(|item| item.path);
                        if !scan.has_seen(key.as_str()) && path.is_some_and(|path| !scan.keeps(&path)) {
                            missing.push(key);
                        }
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
