//! Takes snapshots: after so many events of the site logs or so much time, at the last signed checkpoint. A snapshot is
//! the one before it, read on from the logs up to the checkpoint's marks, so the live pool and its writer are not
//! touched; it is kept only if the rows of every owner are what is signed, and says whether the logs are to the letter.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use audit::signing::verify_checkpoint;
use bus::{Bus, BusError};
use bus_schema::{
    Name, PoolId,
    fact::log::{Checkpoint, LogFact, LogMark, OwnerMark, checkpoint::OWNERS_MAX},
    subject,
};
use projector::{Position, Store, StoreOptions};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    nearest::{Choice, reaches},
    shelf::{Fresh, Label, Place, Shelf},
    thin::Bounds,
};
use crate::{
    error::ConsumersError,
    runtime::{
        floor::Floor,
        parked::recall_anew,
        replay::{POOL, Replayed, Until, Unwatched, feed},
        signed::SignedFacts,
    },
    task::blocking,
};

/// How often it is looked whether one is due.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// When snapshots are taken; with neither, never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct When {
    /// After so many events of the site logs.
    pub events: Option<u64>,
    /// After this time, in milliseconds, when there was any event.
    pub every_ms: Option<u64>,
    /// How many are kept.
    pub bounds: Bounds,
}

/// Takes the snapshots.
pub(crate) struct Keeper {
    /// The bus.
    pub bus: Bus,
    /// The live pool, which knows the last checkpoint.
    pub store: Store,
    /// The target.
    pub target: Name,
    /// The sites.
    pub sites: Vec<Name>,
    /// Where they are kept.
    pub shelf: Shelf,
    /// When one is due.
    pub when: When,
    /// Why the last one could not be kept, for people.
    pub unkept: watch::Sender<Option<String>>,
}

impl Keeper {
    /// Runs until `stop`; what goes wrong is told, and tried again with the next checkpoint.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut tried = None;
        loop {
            if let Some(due) = self.due().unwrap_or_default()
                && tried.replace(due.number) != Some(due.number)
            {
                let Some(taken) = stop.run_until_cancelled(self.take(&due)).await else { return };
                let unkept = taken.err().map(|error| error.to_string());
                if let Some(error) = &unkept {
                    tracing::error!(%error, checkpoint = due.number, "no snapshot could be kept; it is tried again with the next checkpoint");
                }
                self.unkept.send_replace(unkept);
            }
            let pause = tokio::time::sleep(LOOK_EVERY);
            if stop.run_until_cancelled(pause).await.is_none() {
                return;
            }
        }
    }

    /// The last checkpoint that the pool has read, if a snapshot is due at it.
    fn due(&self) -> Result<Option<Checkpoint>, ConsumersError> {
        let last = self.store.reader().latest_fact("checkpoint", self.target.as_str())?.value;
        let Some(LogFact::Checkpoint(last)) = last.map(|record| record.fact) else { return Ok(None) };
        let marks = self.marks(&last);
        let is_due = is_due(self.when, &last, &marks, newest_of(&self.shelf.labels()?, &marks));
        Ok(is_due.then_some(last))
    }

    /// What a checkpoint says of the site logs.
    fn marks<'a>(&self, checkpoint: &'a Checkpoint) -> Vec<&'a LogMark> {
        let streams = self.sites.iter().map(subject::site_stream);
        streams.filter_map(|stream| mark(checkpoint, &stream)).collect()
    }

    async fn take(&self, due: &Checkpoint) -> Result<(), ConsumersError> {
        // The pool's word is as good as the log's only after a look at the log.
        let Some((at, last)) = SignedFacts::of(&self.bus, &self.target).last_checkpoint().await? else {
            return Ok(());
        };
        let Some(of_target) = mark(&last, &subject::target_stream(&self.target)) else { return Ok(()) };
        if last.number < due.number {
            return Err(unkept(&last, "the target log has lost checkpoints that were read from it"));
        }
        verify_checkpoint(&last).map_err(ConsumersError::Signature)?;
        let streams = self.streams(&last, of_target).await?;
        let (shelf, drafts) = (&self.shelf, self.shelf.drafts()?);
        let base = Replayed::begun(&self.bus, shelf, &streams, Choice::Newest, drafts).await?;
        recall_anew(&self.bus, &base.store, &self.target).await?;
        for (stream, until) in &streams {
            reaches(&self.bus, Some(shelf), &base.store, stream).await?;
            feed(&self.bus, &base.store, stream, *until, Some(&self.store), &Unwatched).await?;
        }
        // What was proved of the one before need not be proved again.
        let proved = base.started_from.as_ref().filter(|label| label.is_proved);
        let signed = self.signed(&last, &streams, proved.map_or(0, |label| label.checkpoint_seq)).await?;
        let (checkpoint, store, wanted) = (last.clone(), base.store.clone(), signed.len() as u64);
        let read = streams.iter().map(|(stream, _)| stream.clone()).collect();
        let held = blocking("snapshot", move || verified(&store, &checkpoint, &read, &signed));
        let (owners, is_whole) = held.await?;
        let positions = base.store.positions()?;
        let mut places = streams.iter().filter_map(|(stream, _)| place(&positions, stream)).map(Place::from);
        let Some(target) = places.next() else { return Ok(()) };
        let (number, bytes) = (last.number, base.store.size()?.file_bytes);
        let fresh = Fresh {
            target,
            sites: places.collect(),
            checkpoint: number,
            checkpoint_seq: at,
            stated_at: last.stated_at,
            owners,
            is_proved: owners == wanted && !is_full(&last),
            is_whole,
        };
        let (shelf, bounds) = (self.shelf.clone(), self.when.bounds);
        blocking("snapshot", move || put(&shelf, base, fresh)).await?;
        tracing::info!(checkpoint = number, bytes, owners, "a snapshot is kept");
        // After that, which takes long: nothing may be thinned out behind which a log is trimmed meanwhile.
        let (shelf, floors) = (self.shelf.clone(), self.floors(&streams).await?);
        blocking("snapshot", move || thin(&shelf, bounds, &floors)).await
    }

    /// The logs of which a checkpoint speaks, as far as they are there: the target's first, then those of sites, also of those that the
    /// configuration does not name any more.
    async fn streams(
        &self,
        last: &Checkpoint,
        of_target: &LogMark,
    ) -> Result<Vec<(String, Until)>, ConsumersError> {
        let others = last.logs.iter().filter(|mark| mark.stream != of_target.stream);
        let mut streams = Vec::new();
        for mark in [of_target].into_iter().chain(others) {
            match self.bus.stream_state(&mark.stream).await {
                Ok(_) => streams.push((mark.stream.clone(), Until::Seq(mark.seq))),
                Err(BusError::NoStream { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(streams)
    }

    /// Where each trimmed log begins.
    async fn floors(&self, streams: &[(String, Until)]) -> Result<Floors, ConsumersError> {
        let mut floors = Floors::new();
        for (stream, _) in streams {
            let state = self.bus.stream_state(stream).await?;
            let floor = Floor::of(&self.bus, &self.store.reader(), &self.target, &state).await?;
            floors.extend(floor.map(|floor| (stream.clone(), floor)));
        }
        Ok(floors)
    }

    /// What is signed of the owners of these logs at a checkpoint, as far as that changed behind another one.
    async fn signed(
        &self,
        last: &Checkpoint,
        streams: &[(String, Until)],
        since: u64,
    ) -> Result<BTreeMap<(PoolId, String), OwnerMark>, ConsumersError> {
        let is_full = is_full(last);
        let is_meant = |mark: &OwnerMark| {
            let stream = subject::site_stream(&mark.pool.site);
            streams.iter().any(|(meant, _)| *meant == stream)
        };
        let mut signed = BTreeMap::new();
        let facts = SignedFacts::of(&self.bus, &self.target);
        facts
            .checkpoints_behind(since, last.number, |checkpoint| {
                if is_full && checkpoint.number < last.number {
                    return;
                }
                let meant = checkpoint.owners.into_iter().filter(is_meant);
                signed.extend(meant.map(|mark| ((mark.pool.clone(), mark.owner.clone()), mark)));
            })
            .await?;
        Ok(signed)
    }
}

/// Whether a checkpoint names as many owners as it can: others may have changed, too, and wait for their turn.
fn is_full(checkpoint: &Checkpoint) -> bool {
    checkpoint.owners.len() >= OWNERS_MAX
}

/// What is stated of the beginning of each log that is trimmed or will be.
type Floors = BTreeMap<String, Floor>;

/// Whether a log begins where it ends, or will.
fn is_floor(label: &Label, floors: &Floors) -> bool {
    let is_at = |place: &Place, floor: &Floor| {
        floor.trimmed.created == place.created
            && [floor.begins_at(), floor.trimmed.first_seq].contains(&place.seq)
    };
    label.places().any(|place| floors.get(&place.stream).is_some_and(|floor| is_at(place, floor)))
}

/// Whether what is behind it went from every site log. What was only lost is no reason: the snapshot may be all that is left.
fn is_left_behind(label: &Label, floors: &Floors) -> bool {
    let is_before = |place: &Place, floor: &Floor| {
        floor.trimmed.created == place.created && place.seq < floor.begins_at()
    };
    label.sites.iter().all(|place| floors.get(&place.stream).is_some_and(|floor| is_before(place, floor)))
}

/// The newest of these that can be of the logs of these marks; of one that was made anew or lost its end, older ones cannot.
fn newest_of<'a>(labels: &'a [Label], marks: &[&LogMark]) -> Option<&'a Label> {
    let is_of = |label: &&Label| {
        marks.iter().all(|mark| {
            let place = label.place(&mark.stream);
            place.is_none_or(|place| place.created == mark.created && place.seq <= mark.seq)
        })
    };
    labels.iter().rfind(is_of)
}

/// Whether a snapshot is due at a checkpoint that says this of the site logs.
fn is_due(when: When, last: &Checkpoint, marks: &[&LogMark], newest: Option<&Label>) -> bool {
    let known =
        |mark: &LogMark| newest.and_then(|label| label.place(&mark.stream)).map_or(0, |place| place.seq);
    let events: u64 = marks.iter().map(|mark| mark.seq - known(mark)).sum();
    let oldest = marks.iter().map(|mark| mark.created).min().unwrap_or(last.stated_at);
    let age_ms = last.stated_at.ms_since(newest.map_or(oldest, |label| label.stated_at));
    events > 0
        && (when.events.is_some_and(|due| events >= due) || when.every_ms.is_some_and(|due| age_ms >= due))
}

fn mark<'a>(checkpoint: &'a Checkpoint, stream: &str) -> Option<&'a LogMark> {
    checkpoint.logs.iter().find(|mark| mark.stream == stream)
}

fn place(positions: &[Position], stream: &str) -> Option<Position> {
    positions.iter().find(|position| position.stream == stream).cloned()
}

/// Holds a replayed store against a checkpoint; answers how many owners have the rows that are signed, and whether the
/// logs are to the letter what is signed of them.
fn verified(
    store: &Store,
    checkpoint: &Checkpoint,
    read: &BTreeSet<String>,
    signed: &BTreeMap<(PoolId, String), OwnerMark>,
) -> Result<(u64, bool), ConsumersError> {
    let (mut rewound, mut is_whole) = (BTreeSet::new(), true);
    for position in store.positions()? {
        // Of a log that is not there any more, the snapshot holds what the one before did.
        let Some(mark) = mark(checkpoint, &position.stream).filter(|mark| read.contains(&mark.stream)) else {
            continue;
        };
        if mark.incarnation > 1 {
            rewound.insert(mark.stream.clone());
        }
        if position.seq != mark.seq {
            let found = format!("{} ends before {}, which it signs", mark.stream, mark.seq);
            return Err(unkept(checkpoint, &found));
        }
        is_whole &= position.running == mark.running;
    }
    let stand = store.reader().stand(|owners| vec![true; owners.len()])?;
    let has: BTreeMap<_, _> = stand
        .owners
        .iter()
        .map(|stand| {
            ((&stand.owner.pool, &stand.owner.source), (stand.rows, stand.rows_sha256, stand.owner.at))
        })
        .collect();
    let mut equal = 0;
    for ((pool, owner), mark) in signed {
        if has.get(&(pool, owner)) == Some(&(mark.rows, mark.rows_sha256, mark.at)) {
            equal += 1;
        } else if !rewound.contains(&subject::site_stream(&pool.site)) {
            // After a loss the pool may know more than its log, and signs that.
            return Err(unkept(checkpoint, &format!("the log gives other rows of {owner} than it signs")));
        }
    }
    Ok((equal, is_whole))
}

fn unkept(checkpoint: &Checkpoint, why: &str) -> ConsumersError {
    ConsumersError::Unprovable(format!(
        "no snapshot at checkpoint {}: {why}; run 'farside audit verify'",
        checkpoint.number
    ))
}

/// Closes a pool and puts it on the shelf.
fn put(shelf: &Shelf, replayed: Replayed, fresh: Fresh) -> Result<(), ConsumersError> {
    let Replayed { store, directory, .. } = replayed;
    drop(store);
    let path = directory.path().join(POOL);
    // Opening makes it smaller when more than half of it is dead.
    drop(Store::open(&path, StoreOptions { check: false, ..StoreOptions::default() })?);
    shelf.put(&path, fresh).map(drop)
}

fn thin(shelf: &Shelf, bounds: Bounds, floors: &Floors) -> Result<(), ConsumersError> {
    let labels = shelf.labels()?;
    labels.iter().filter(|label| is_left_behind(label, floors)).try_for_each(|label| shelf.remove(label))?;
    shelf.thin(bounds, |label| is_floor(label, floors))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::shelf::tests::put;

    #[test]
    fn a_log_that_was_made_anew_or_lost_its_end_has_the_snapshots_that_can_be_of_it() {
        let directory = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(directory.path()).unwrap();
        let labels = [put(&shelf, 10), put(&shelf, 20)];
        let site = labels[0].sites[0].clone();
        let newest = |seq: u64, created_ms: i64| {
            let created = bus_schema::Timestamp::from_unix_ms(created_ms);
            let (stream, running) = (site.stream.clone(), bus_schema::Hash32::ZERO);
            let mark = LogMark { stream, created, incarnation: 1, seq, running };
            newest_of(&labels, &[&mark]).map(|label| label.sites[0].seq)
        };
        let created_ms = site.created.unix_ms();
        assert_eq!(newest(25, created_ms), Some(20));
        assert_eq!(newest(15, created_ms), Some(10), "its end was lost");
        assert_eq!(newest(25, created_ms + 1), None, "it was made anew");
    }
}
