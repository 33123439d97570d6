//! Takes snapshots: after so many events or so much time, at the last signed checkpoint. A snapshot is the one before
//! it, read on from the logs up to the checkpoint's marks, so the live pool and its writer are not touched; it is kept
//! only if the rows of every owner are what is signed, and says whether the logs are to the letter.

use std::{collections::BTreeMap, time::Duration};

use audit::signing::verify_checkpoint;
use bus::Bus;
use bus_schema::{
    Name, PoolId,
    fact::log::{Checkpoint, LogFact, LogMark, OwnerMark, checkpoint::OWNERS_MAX},
    subject,
};
use projector::{Position, Store, StoreOptions};
use tokio_util::sync::CancellationToken;

use super::{
    nearest::started,
    shelf::{Fresh, Label, Shelf},
    thin::Bounds,
};
use crate::{
    error::ConsumersError,
    runtime::{
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
    /// After so many events of a site log.
    pub events: Option<u64>,
    /// After this time, in milliseconds, when there was any event.
    pub every_ms: Option<u64>,
    /// How many are kept.
    pub bounds: Bounds,
}

/// Takes the snapshots of every site log.
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
}

impl Keeper {
    /// Runs until `stop`; what goes wrong is told, and tried again with the next checkpoint.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut tried: BTreeMap<&Name, u64> = BTreeMap::new();
        loop {
            for site in &self.sites {
                let Some(due) = self.due(site).unwrap_or_default() else { continue };
                if tried.insert(site, due.number) == Some(due.number) {
                    continue;
                }
                let Some(taken) = stop.run_until_cancelled(self.take(site, &due)).await else { return };
                if let Err(error) = taken {
                    tracing::error!(%error, %site, checkpoint = due.number, "no snapshot could be kept; it is tried again with the next checkpoint");
                }
            }
            let pause = tokio::time::sleep(LOOK_EVERY);
            if stop.run_until_cancelled(pause).await.is_none() {
                return;
            }
        }
    }

    /// The last checkpoint that the pool has read, if a snapshot is due at it.
    fn due(&self, site: &Name) -> Result<Option<Checkpoint>, ConsumersError> {
        let last = self.store.reader().latest_fact("checkpoint", self.target.as_str())?.value;
        let Some(LogFact::Checkpoint(last)) = last.map(|record| record.fact) else { return Ok(None) };
        let stream = subject::site_stream(site);
        let labels = self.shelf.labels()?;
        let mark = last.logs.iter().find(|mark| mark.stream == stream);
        let is_due = mark.is_some_and(|mark| is_due(self.when, &last, mark, newest_of(&labels, mark)));
        Ok(is_due.then_some(last))
    }

    async fn take(&self, site: &Name, due: &Checkpoint) -> Result<(), ConsumersError> {
        let stream = subject::site_stream(site);
        // The pool's word is as good as the log's only after a look at the log.
        let Some((at, last)) = SignedFacts::of(&self.bus, &self.target).last_checkpoint().await? else {
            return Ok(());
        };
        let target = subject::target_stream(&self.target);
        let (Some(of_site), Some(of_target)) = (mark(&last, &stream), mark(&last, &target)) else {
            return Ok(());
        };
        if last.number < due.number {
            return Err(unkept(&last, "the target log has lost checkpoints that were read from it"));
        }
        verify_checkpoint(&last).map_err(ConsumersError::Signature)?;
        let streams =
            [(target.clone(), Until::Seq(of_target.seq)), (stream.clone(), Until::Seq(of_site.seq))];
        let base = started(&self.bus, &self.shelf, &streams, self.shelf.drafts()?).await?;
        recall_anew(&self.bus, &base.store, &self.target).await?;
        for (stream, until) in &streams {
            feed(&self.bus, &base.store, stream, *until, &Unwatched).await?;
        }
        let since = base.started_from.as_ref().map_or(0, |label| label.checkpoint_seq);
        let signed = self.signed(&last, &stream, since).await?;
        let (checkpoint, store) = (last.clone(), base.store.clone());
        let (owners, is_whole) =
            blocking("snapshot", move || verified(&store, &checkpoint, &stream, &signed)).await?;
        let positions = base.store.positions()?;
        let (Some(site), Some(target)) = (place(&positions, &of_site.stream), place(&positions, &target))
        else {
            return Ok(());
        };
        let (number, bytes) = (last.number, base.store.size()?.file_bytes);
        let fresh = Fresh {
            site: site.into(),
            target: target.into(),
            checkpoint: number,
            checkpoint_seq: at,
            stated_at: last.stated_at,
            owners,
            is_whole,
        };
        let (shelf, bounds) = (self.shelf.clone(), self.when.bounds);
        let label = blocking("snapshot", move || put(&shelf, base, fresh, bounds)).await?;
        tracing::info!(place = %format!("{}:{}", label.site.stream, label.site.seq), checkpoint = number, bytes, owners, "a snapshot is kept");
        Ok(())
    }

    /// What is signed of the owners of a site at a checkpoint, as far as that changed behind another one.
    async fn signed(
        &self,
        last: &Checkpoint,
        stream: &str,
        since: u64,
    ) -> Result<BTreeMap<(PoolId, String), OwnerMark>, ConsumersError> {
        // With that many at once, others may have changed and wait for their turn.
        let is_full = last.owners.len() >= OWNERS_MAX;
        let mut signed = BTreeMap::new();
        let facts = SignedFacts::of(&self.bus, &self.target);
        facts
            .checkpoints_behind(since, last.number, |checkpoint| {
                if is_full && checkpoint.number < last.number {
                    return;
                }
                let of_site = checkpoint
                    .owners
                    .into_iter()
                    .filter(|mark| subject::site_stream(&mark.pool.site) == stream);
                signed.extend(of_site.map(|mark| ((mark.pool.clone(), mark.owner.clone()), mark)));
            })
            .await?;
        Ok(signed)
    }
}

/// The newest of these that can be of the log of a mark; of one that was made anew or lost its end, older ones cannot.
fn newest_of<'a>(labels: &'a [Label], mark: &LogMark) -> Option<&'a Label> {
    let is_of = |label: &&Label| {
        let site = &label.site;
        site.stream == mark.stream && site.created == mark.created && site.seq <= mark.seq
    };
    labels.iter().rfind(is_of)
}

/// Whether a snapshot is due at a checkpoint that says this of the log.
fn is_due(when: When, last: &Checkpoint, mark: &LogMark, newest: Option<&Label>) -> bool {
    let (seq, at) = newest.map_or((0, mark.created), |label| (label.site.seq, label.stated_at));
    let (events, age_ms) = (mark.seq - seq, last.stated_at.ms_since(at));
    events > 0
        && (when.events.is_some_and(|due| events >= due) || when.every_ms.is_some_and(|due| age_ms >= due))
}

fn mark(checkpoint: &Checkpoint, stream: &str) -> Option<LogMark> {
    checkpoint.logs.iter().find(|mark| mark.stream == stream).cloned()
}

fn place(positions: &[Position], stream: &str) -> Option<Position> {
    positions.iter().find(|position| position.stream == stream).cloned()
}

/// Holds a replayed store against a checkpoint; answers how many owners have the rows that are signed, and whether the
/// logs are to the letter what is signed of them.
fn verified(
    store: &Store,
    checkpoint: &Checkpoint,
    site: &str,
    signed: &BTreeMap<(PoolId, String), OwnerMark>,
) -> Result<(u64, bool), ConsumersError> {
    let (mut is_rewound, mut is_whole) = (false, true);
    for position in store.positions()? {
        let Some(mark) = mark(checkpoint, &position.stream) else { continue };
        is_rewound |= mark.stream == site && mark.incarnation > 1;
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
        } else if !is_rewound {
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
fn put(shelf: &Shelf, replayed: Replayed, fresh: Fresh, bounds: Bounds) -> Result<Label, ConsumersError> {
    let Replayed { store, directory, .. } = replayed;
    drop(store);
    let (path, site) = (directory.path().join(POOL), fresh.site.stream.clone());
    // Opening makes it smaller when more than half of it is dead.
    drop(Store::open(&path, StoreOptions { check: false, ..StoreOptions::default() })?);
    let label = shelf.put(&path, fresh)?;
    shelf.thin(&site, bounds)?;
    Ok(label)
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
        let newest = |seq: u64, created_ms: i64| {
            let created = bus_schema::Timestamp::from_unix_ms(created_ms);
            let mark = LogMark {
                stream: labels[0].site.stream.clone(),
                created,
                incarnation: 1,
                seq,
                running: bus_schema::Hash32::ZERO,
            };
            newest_of(&labels, &mark).map(|label| label.site.seq)
        };
        let created_ms = labels[0].site.created.unix_ms();
        assert_eq!(newest(25, created_ms), Some(20));
        assert_eq!(newest(15, created_ms), Some(10), "its end was lost");
        assert_eq!(newest(25, created_ms + 1), None, "it was made anew");
    }
}
