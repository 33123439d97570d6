//! One cluster of an agent at run time: its sequencer, its source, and what of both is under way.
//!
//! Must not know: NATS. It says what should be done now; the agent does it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bus_schema::{Timestamp, event::resource::SyncScope};
use tokio::{sync::mpsc, time::Instant};

use crate::{
    ledger::LedgerError,
    resource::{Go, Inventory, ListEnd, Scope, Seen, SourceError, guard::Guard},
    sequencer::{Scan, Sequencer, sync::SYNC_PAUSE_PERCENT},
};

/// Records that a reading hands over at once.
const PART_RECORDS_MAX: usize = 1_000;
/// … or as many as hold this many bytes of state.
const PART_BYTES_MAX: usize = 4 << 20;
/// Parts that wait between the reading thread and the agent.
const PARTS_QUEUED_MAX: usize = 2;
/// A reading waits while more than this share of the outbox is filled and the log takes events, in percent.
const READING_PAUSE_PERCENT: u64 = 50;
/// A source that could not be read is tried again for a sync after this time.
const SOURCE_RETRY: Duration = Duration::from_secs(5);
/// Readings for one incremental sync before it is given up; the target asks again.
const SYNC_TRIES_MAX: u32 = 3;
/// What a reading left in doubt is read again after this time: what disturbed it may be over.
const SECOND_LOOK: Duration = Duration::from_millis(1_600);

/// A part of a reading.
#[derive(Debug)]
pub(crate) enum Part {
    /// Some of what was seen.
    Seen(Vec<Seen>),
    /// The reading ended.
    End(Result<ListEnd, SourceError>),
}

/// A cluster at run time.
pub(crate) struct Cluster {
    pub(crate) sequencer: Sequencer,
    pub(crate) inventory: Arc<dyn Inventory>,
    /// Whether the greeting at start is over; before, nothing is read or sent.
    pub(crate) greeted: bool,
    /// Readings of single resources under way; a reading of the whole waits for them.
    pub(crate) gets: usize,
    every: Duration,
    guard: Guard,
    scan: Option<Scan>,
    pub(crate) parts: Option<mpsc::Receiver<Part>>,
    next_timed: Instant,
    next_asked: Instant,
    pending: Option<(Scope, Instant)>,
    tries: BTreeMap<String, u32>,
    /// Why the source cannot be read.
    pub(crate) source_trouble: Option<String>,
    reading_trouble: Vec<String>,
}

impl Cluster {
    pub(crate) fn new(sequencer: Sequencer, inventory: Arc<dyn Inventory>, every: Duration) -> Self {
        let now = Instant::now();
        Self {
            sequencer,
            inventory,
            greeted: false,
            gets: 0,
            every,
            guard: Guard::default(),
            scan: None,
            parts: None,
            next_timed: now,
            next_asked: now,
            pending: None,
            tries: BTreeMap::new(),
            source_trouble: None,
            reading_trouble: Vec::new(),
        }
    }

    /// What keeps the agent from seeing its source, in words.
    pub(crate) fn trouble(&self) -> Vec<String> {
        self.source_trouble.iter().chain(&self.reading_trouble).cloned().collect()
    }

    /// Wants a reading; one that is wanted already grows.
    pub(crate) fn want(&mut self, scope: Scope, at: Instant) {
        self.pending = Some(match (self.pending.take(), scope) {
            (None, scope) => (scope, at),
            (Some((Scope::Places(mut places), when)), Scope::Places(more)) => {
                places.extend(more);
                (Scope::Places(places), when.min(at))
            }
            (Some((_, when)), _) => (Scope::Everything, when.min(at)),
        });
    }

    /// Whether a part of a reading may be taken in now.
    pub(crate) fn takes_parts(&self, link_up: bool) -> bool {
        let Some(scan) = &self.scan else { return false };
        let pause = match scan.sync {
            Some(_) => self.sequencer.is_filled(SYNC_PAUSE_PERCENT),
            // While the log takes nothing, the outbox may fill up to its cap: that is what it is for.
            None => link_up && self.sequencer.is_filled(READING_PAUSE_PERCENT),
        };
        self.gets == 0 && !pause
    }

    /// When the next reading is due; none while one runs.
    pub(crate) fn due(&self) -> Option<Instant> {
        if self.scan.is_some() || !self.greeted {
            return None;
        }
        let pending = self.pending.as_ref().map(|(_, at)| *at);
        let asked = self.asked_scan().map(|_| self.next_asked);
        [Some(self.next_timed), pending, asked].into_iter().flatten().min()
    }

    fn asked_scan(&self) -> Option<String> {
        let syncs = self.sequencer.syncs_under_way();
        let to_read =
            |(id, scope): &(String, SyncScope)| *scope != SyncScope::Keys && !self.sequencer.is_closing(id);
        syncs.into_iter().find(to_read).map(|(id, _)| id)
    }

    /// Starts the reading that is due, if none runs.
    pub(crate) fn start_scan(&mut self, now: Instant) {
        if self.scan.is_some() || !self.greeted {
            return;
        }
        let scan = match self.asked_scan().filter(|_| self.next_asked <= now) {
            Some(id) => Scan::new(Scope::Everything, Some(id), false),
            None if self.next_timed <= now => {
                self.next_timed = now + self.every;
                self.pending = None;
                Scan::new(Scope::Everything, None, true)
            }
            None => match self.pending.take_if(|(_, at)| *at <= now) {
                Some((scope, _)) => Scan::new(scope, None, false),
                None => return,
            },
        };
        let (send, receive) = mpsc::channel(PARTS_QUEUED_MAX);
        let (inventory, scope) = (Arc::clone(&self.inventory), scan.scope.clone());
        tokio::task::spawn_blocking(move || read(&*inventory, &scope, &send));
        (self.scan, self.parts) = (Some(scan), Some(receive));
    }

    /// Takes in a part of the reading that runs.
    pub(crate) fn take(&mut self, part: Part, now: Timestamp, at: Instant) -> Result<(), LedgerError> {
        let Some(mut scan) = self.scan.take() else { return Ok(()) };
        match part {
            Part::Seen(seen) => {
                self.sequencer.absorb(&mut scan, seen, now)?;
                self.scan = Some(scan);
            }
            Part::End(Ok(end)) => {
                self.parts = None;
                if let Some(id) = &scan.sync {
                    self.tries.remove(id);
                }
                let before = self.trouble();
                let report = self.sequencer.finish(scan, end, &mut self.guard, (now, at.into_std()))?;
                self.source_trouble = None;
                if let Some(scope) = report.again {
                    self.want(scope, at + SECOND_LOOK);
                }
                if let Some((scope, after)) = report.settling {
                    self.want(scope, at + after);
                }
                self.reading_trouble = report.trouble;
                self.tell(&before);
            }
            Part::End(Err(error)) => {
                self.parts = None;
                let before = self.trouble();
                self.source_trouble = Some(error.to_string());
                self.tell(&before);
                self.next_asked = at + SOURCE_RETRY;
                self.count_failure(&scan)?;
            }
        }
        Ok(())
    }

    fn tell(&self, before: &[String]) {
        let (now, pool) = (self.trouble(), &self.sequencer.source().pool);
        if now.is_empty() && !before.is_empty() {
            tracing::info!(%pool, "the source is read without trouble again");
        }
        now.iter().filter(|text| !before.contains(text)).for_each(|trouble| tracing::warn!(%pool, %trouble));
    }

    /// A full answer is owed until it is given; an incremental one is asked for again.
    fn count_failure(&mut self, scan: &Scan) -> Result<(), LedgerError> {
        let Some(id) = &scan.sync else { return Ok(()) };
        let tries = self.tries.entry(id.clone()).or_insert(0);
        *tries += 1;
        let full = self.sequencer.sync(id).is_none_or(|sync| sync.scope == SyncScope::Full);
        if *tries >= SYNC_TRIES_MAX && !full {
            self.tries.remove(id);
            self.sequencer.abandon_sync(id)?;
            tracing::warn!(sync = id, "the sync is given up: its source cannot be read");
        }
        Ok(())
    }

    /// Single resources were read while the whole is being read.
    pub(crate) fn overtaken(&mut self, keys: impl Iterator<Item = bus_schema::ResourceKey>) {
        if let Some(scan) = &mut self.scan {
            scan.overtaken(keys);
        }
    }
}

fn read(inventory: &dyn Inventory, scope: &Scope, parts: &mpsc::Sender<Part>) {
    let (mut part, mut bytes) = (Vec::new(), 0);
    let end = inventory.list(scope, &mut |seen| {
        if let Seen::Record(record) = &seen {
            bytes += record.state.len();
        }
        part.push(seen);
        if part.len() < PART_RECORDS_MAX && bytes < PART_BYTES_MAX {
            return Go::On;
        }
        bytes = 0;
        match parts.blocking_send(Part::Seen(std::mem::take(&mut part))) {
            Ok(()) => Go::On,
            Err(_) => Go::Stop,
        }
    });
    // A receiver that is gone wants neither.
    if parts.blocking_send(Part::Seen(part)).is_ok() {
        let _ = parts.blocking_send(Part::End(end));
    }
}
