//! A replay that starts from the nearest snapshot: the newest one that is not behind any of the points, that the logs
//! still bear out, that this build can read, and that is not damaged.

use std::path::Path;

use bus::{Bus, PositionVerdict};
use projector::{Store, StoreError, StoreOptions};
use tempfile::TempDir;

use super::shelf::{Label, Place, Shelf};
use crate::{
    error::ConsumersError,
    runtime::replay::{POOL, Replayed, Until},
    task::blocking,
};

/// Puts a copy of the nearest snapshot into a store that is to be replayed on; without one it stays empty. A damaged
/// snapshot is told, taken from the shelf, and the next older one used; one of another build is told and passed over.
/// Errors: the bus, the disk.
pub(crate) async fn started(
    bus: &Bus,
    shelf: &Shelf,
    streams: &[(String, Until)],
    directory: TempDir,
) -> Result<Replayed, ConsumersError> {
    let path = directory.path().join(POOL);
    for label in shelf.labels()?.into_iter().rev().filter(|label| fits(label, streams)) {
        if !is_borne_out(bus, &label.site).await? || !is_borne_out(bus, &label.target).await? {
            continue;
        }
        let (of, from, to) = (shelf.clone(), label.clone(), path.clone());
        match blocking("snapshot", move || copied(&of, &from, &to)).await? {
            Copied::Whole(store) => return Ok(Replayed { store, started_from: Some(label), directory }),
            Copied::Unusable(why) => set_aside(shelf, &label, why)?,
        }
    }
    Replayed::empty(directory)
}

/// Whether a store can be read on in a log without leaving anything out. Errors: [`ConsumersError::Trimmed`] says from which
/// moment on the past can be shown; the bus.
pub(crate) async fn reaches(
    bus: &Bus,
    shelf: Option<&Shelf>,
    store: &Store,
    stream: &str,
) -> Result<(), ConsumersError> {
    let (state, at) = (bus.stream_state(stream).await?, store.position(stream)?.map_or(0, |at| at.seq));
    if state.messages == 0 || state.first_seq <= at + 1 {
        return Ok(());
    }
    let labels = shelf.map_or(Ok(vec![]), Shelf::labels)?;
    let mut places = labels.into_iter().flat_map(|label| [label.site, label.target]);
    // The message at its place can show that a snapshot is of this log.
    let oldest = places.find(|place| {
        place.stream == stream && place.created == state.created && place.seq >= state.first_seq
    });
    let (floor, cure) = match oldest {
        Some(Place { seq, time, .. }) => (
            format!("not before {time} ({stream}:{seq})"),
            "the oldest snapshot is of that moment: name it, or a later one",
        ),
        None => (
            "no moment can be shown".to_owned(),
            "no snapshot holds what was before that: put back those that did, or restore a backup",
        ),
    };
    Err(ConsumersError::Trimmed { floor, stream: stream.to_owned(), first_seq: state.first_seq, cure })
}

/// Whether it holds these logs and no other, and none of them beyond its point.
fn fits(label: &Label, streams: &[(String, Until)]) -> bool {
    let is_before = |place: &Place| {
        streams.iter().any(|(stream, until)| {
            *stream == place.stream
                && match until {
                    Until::Seq(seq) => place.seq <= *seq,
                    // Nothing up to there is newer, so a reading up to this time would have come there.
                    Until::Time(time) => place.time <= *time,
                    Until::Now => true,
                }
        })
    };
    is_before(&label.site) && is_before(&label.target)
}

/// Whether the log still is what was read.
async fn is_borne_out(bus: &Bus, place: &Place) -> Result<bool, ConsumersError> {
    let Place { stream, created, seq, hash, .. } = place.clone();
    let verdict = bus.check_position(&bus::Position { stream, created, seq, hash }).await?;
    Ok(matches!(verdict, PositionVerdict::Same(_)))
}

/// A snapshot's pool in a file of its own.
enum Copied {
    Whole(Store),
    /// There is no such file then.
    Unusable(Unusable),
}

/// Why a snapshot is not started from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unusable {
    /// It is not what its label says.
    Damaged,
    /// It has the format of an older build: the logs give it again.
    Older(u64),
    /// It has the format of a newer build, which may come back.
    Newer(u64),
}

fn copied(shelf: &Shelf, label: &Label, to: &Path) -> Result<Copied, ConsumersError> {
    let why = if shelf.take(label, to)? {
        // Every byte was hashed just now.
        let options = StoreOptions { check: false, compact: false, ..StoreOptions::default() };
        match Store::open(to, options) {
            Ok(store) if label.is_of(&store.positions()?) => return Ok(Copied::Whole(store)),
            Ok(_) => Unusable::Damaged,
            Err(error) => unusable(&error).ok_or(error)?,
        }
    } else {
        Unusable::Damaged
    };
    match std::fs::remove_file(to) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(ConsumersError::File { verb: "remove", path: to.display().to_string(), source })
        }
        _ => Ok(Copied::Unusable(why)),
    }
}

/// Whether it is the snapshot that is wrong, and not the machine.
fn unusable(error: &StoreError) -> Option<Unusable> {
    match error {
        StoreError::Damaged { .. } => Some(Unusable::Damaged),
        StoreError::Older { found, .. } => Some(Unusable::Older(*found)),
        StoreError::Newer { found, .. } => Some(Unusable::Newer(*found)),
        _ => None,
    }
}

/// Tells why a snapshot is passed over, and takes it from the shelf if nobody can use it any more.
fn set_aside(shelf: &Shelf, label: &Label, why: Unusable) -> Result<(), ConsumersError> {
    let (path, checkpoint) = (shelf.file(label).display().to_string(), label.checkpoint);
    match why {
        Unusable::Damaged => tracing::error!(
            path,
            checkpoint,
            "a snapshot is damaged: it is not what its label says, and is taken away; an older one is used. Look at the disk"
        ),
        Unusable::Older(format) => tracing::warn!(
            path,
            checkpoint,
            format,
            "a snapshot has the pool format of an older farside, and is taken away: the logs give it again; an older one is used"
        ),
        Unusable::Newer(format) => {
            tracing::warn!(
                path,
                checkpoint,
                format,
                "a snapshot has the pool format of a newer farside: it is left where it is and passed over; an older one is used"
            );
            return Ok(());
        }
    }
    shelf.remove(label)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::shelf::tests::put;

    #[test]
    fn a_snapshot_of_an_older_build_is_taken_away_and_one_of_a_newer_build_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(directory.path()).unwrap();
        let (older, newer, damaged) = (put(&shelf, 10), put(&shelf, 20), put(&shelf, 30));
        set_aside(&shelf, &older, Unusable::Older(1)).unwrap();
        set_aside(&shelf, &newer, Unusable::Newer(99)).unwrap();
        set_aside(&shelf, &damaged, Unusable::Damaged).unwrap();
        assert_eq!(shelf.labels().unwrap(), [newer]);
    }

    #[test]
    fn only_another_format_is_another_build() {
        let path = Path::new("pool.redb").to_owned();
        let of = |error: StoreError| unusable(&error);
        assert_eq!(of(StoreError::Older { path: path.clone(), found: 1 }), Some(Unusable::Older(1)));
        assert_eq!(of(StoreError::Newer { path: path.clone(), found: 99 }), Some(Unusable::Newer(99)));
        assert_eq!(of(StoreError::Locked { path }), None);
    }
}
