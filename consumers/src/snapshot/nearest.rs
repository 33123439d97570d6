//! Which snapshot a reading starts from: one that is not behind any of the points, that the logs still bear out, that
//! this build can read, and that is not damaged.

use std::{collections::BTreeSet, path::Path};

use bus::{Bus, BusError, PositionVerdict, StreamState};
use bus_schema::{Name, subject};
use projector::{Store, StoreError, StoreOptions};

use super::shelf::{Label, Place, Shelf};
use crate::{error::ConsumersError, runtime::replay::Until, task::blocking};

/// Which of those that can be started from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// The one with the fewest events behind it.
    Newest,
    /// The one with the most: what is read is proved most by the logs themselves.
    Oldest,
}

/// A store that holds what a snapshot held.
pub(crate) struct Started {
    /// The store.
    pub store: Store,
    /// What it started from.
    pub label: Label,
}

/// Copies a snapshot to `path`, into a store that is to be read on up to the points of these logs; none = there is none
/// to start from, and no file. A damaged one is told and taken from the shelf, one of another build is told and passed
/// over, and the next one used.
///
/// A log that was made anew while another one is trimmed begins again in the store, as it did in the live pool: the
/// trimmed one is to be had from a snapshot only. Errors: the bus, the disk.
pub(crate) async fn started(
    bus: &Bus,
    shelf: &Shelf,
    streams: &[(String, Until)],
    choice: Choice,
    path: &Path,
) -> Result<Option<Started>, ConsumersError> {
    let begin_late = begin_late(bus, streams).await?;
    let mut labels = shelf.labels()?;
    labels.retain(|label| fits(label, streams, &begin_late));
    if choice == Choice::Newest {
        labels.reverse();
    }
    let mut with_losses = Vec::new();
    for label in labels {
        let lost = lost(bus, label.places(), streams).await?;
        if !lost.is_empty() {
            with_losses.push((label, lost));
        } else if let Some(started) = begun(bus, shelf, &label, &[], path).await? {
            return Ok(Some(started));
        }
    }
    if begin_late.is_empty() {
        return Ok(None);
    }
    for (label, lost) in &with_losses {
        if lost.iter().all(|state| !state.begins_late())
            && let Some(started) = begun(bus, shelf, label, lost, path).await?
        {
            return Ok(Some(started));
        }
    }
    Ok(None)
}

/// Puts the newest snapshot into `path` when a log that is to be read was trimmed: what went is to be had from there only.
/// False = the logs have everything, or no snapshot can be used. Errors: the bus, the disk.
pub async fn seeded(
    bus: &Bus,
    shelf: &Shelf,
    target: &Name,
    sites: &[Name],
    path: &Path,
) -> Result<bool, ConsumersError> {
    let streams = streams_of(bus, target, sites).await?;
    if begin_late(bus, &streams).await?.is_empty() {
        return Ok(false);
    }
    Ok(started(bus, shelf, &streams, Choice::Newest, path).await?.is_some())
}

/// Takes the pool of a farside that does not run for a snapshot, when a log was trimmed and no snapshot can be started from:
/// the shelf was lost, or stood still for too long. It proves nothing; the next one, which begins with it, is held against
/// all that is signed. False = there was nothing to do, or nothing to begin with. Errors: the bus, the disk.
pub async fn adopted(
    bus: &Bus,
    shelf: &Shelf,
    target: &Name,
    sites: &[Name],
    pool: &Path,
) -> Result<bool, ConsumersError> {
    let streams = streams_of(bus, target, sites).await?;
    let begin_late = begin_late(bus, &streams).await?;
    if !pool.exists() || begin_late.is_empty() {
        return Ok(false);
    }
    for label in shelf.labels()?.into_iter().filter(|label| fits(label, &streams, &begin_late)) {
        if lost(bus, label.places(), &streams).await?.is_empty() {
            return Ok(false);
        }
    }
    let (shelf, pool, target) = (shelf.clone(), pool.to_owned(), target.clone());
    let path = pool.clone();
    let places = blocking("snapshot", move || places_of(&path)).await?;
    // One that lacks what went is of no use, and another one would be left at each start.
    let has_all = begin_late.iter().all(|stream| places.iter().any(|place| place.stream == *stream));
    if !has_all || !lost(bus, &places, &streams).await?.is_empty() {
        return Ok(false);
    }
    blocking("snapshot", move || shelf.adopt(&pool, &target)).await
}

/// How far a pool that nobody has open has read each log.
fn places_of(pool: &Path) -> Result<Vec<Place>, ConsumersError> {
    // Whoever uses it looks at all of it.
    let store = Store::open(pool, StoreOptions { check: false, compact: false, ..StoreOptions::default() })?;
    Ok(store.positions()?.into_iter().map(Place::from).collect())
}

/// The logs of a target that are there, whole.
async fn streams_of(
    bus: &Bus,
    target: &Name,
    sites: &[Name],
) -> Result<Vec<(String, Until)>, ConsumersError> {
    let mut streams = Vec::new();
    for stream in [subject::target_stream(target)].into_iter().chain(sites.iter().map(subject::site_stream)) {
        match bus.stream_state(&stream).await {
            Ok(_) => streams.push((stream, Until::Now)),
            // Nothing of it can have gone.
            Err(BusError::NoStream { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(streams)
}

/// Those of these logs that begin behind their first message. Errors: the bus.
async fn begin_late(bus: &Bus, streams: &[(String, Until)]) -> Result<BTreeSet<String>, ConsumersError> {
    let mut late = BTreeSet::new();
    for (stream, _) in streams {
        if bus.stream_state(stream).await?.begins_late() {
            late.insert(stream.clone());
        }
    }
    Ok(late)
}

/// The copy of a snapshot, in which these logs begin again; none = it is of no use.
async fn begun(
    bus: &Bus,
    shelf: &Shelf,
    label: &Label,
    lost: &[StreamState],
    path: &Path,
) -> Result<Option<Started>, ConsumersError> {
    let (of, from, to) = (shelf.clone(), label.clone(), path.to_owned());
    match blocking("snapshot", move || copied(&of, &from, &to)).await? {
        Copied::Whole(store) => {
            for state in lost {
                store.rewind(&state.stream, state.created)?;
            }
            Ok(Some(Started { store, label: label.clone() }))
        }
        Copied::Unusable(why) => {
            set_aside(shelf, label, why, may_be_all_that_is_left(bus, label).await?)?;
            Ok(None)
        }
    }
}

/// Whether it may be the only place of something: a log that it holds begins late, or is gone, be it one that is read now or
/// not.
async fn may_be_all_that_is_left(bus: &Bus, label: &Label) -> Result<bool, ConsumersError> {
    for place in label.places() {
        match bus.stream_state(&place.stream).await {
            Ok(state) if !state.begins_late() => {}
            Ok(_) | Err(BusError::NoStream { .. }) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(false)
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
    if state.first_seq <= at + 1 {
        return Ok(());
    }
    let labels = shelf.map_or(Ok(vec![]), Shelf::labels)?;
    let mut places = labels.iter().filter_map(|label| label.place(stream));
    // The message at its place can show that a snapshot is of this log.
    let oldest = places.find(|place| place.created == state.created && place.seq >= state.first_seq);
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

/// Whether it holds these logs, and none of them beyond its point; one that has its first message can be read from there. What
/// it holds of other logs is of no pool of theirs.
fn fits(label: &Label, streams: &[(String, Until)], begin_late: &BTreeSet<String>) -> bool {
    streams.iter().all(|(stream, until)| match (label.place(stream), until) {
        (None, _) => *stream != label.target.stream && !begin_late.contains(stream.as_str()),
        (Some(place), Until::Seq(seq)) => place.seq <= *seq,
        // Nothing up to there is newer, so a reading up to this time would have come there.
        (Some(place), Until::Time(time)) => place.time <= *time,
        (Some(_), Until::Now) => true,
    })
}

/// The logs among these that are not any more what was read up to these places.
async fn lost(
    bus: &Bus,
    places: impl IntoIterator<Item = &Place>,
    streams: &[(String, Until)],
) -> Result<Vec<StreamState>, ConsumersError> {
    let mut lost = Vec::new();
    let is_read = |place: &&Place| streams.iter().any(|(stream, _)| *stream == place.stream);
    for place in places.into_iter().filter(is_read) {
        let Place { stream, created, seq, hash, .. } = place.clone();
        if let PositionVerdict::Rewound { state, .. } =
            bus.check_position(&bus::Position { stream, created, seq, hash }).await?
        {
            lost.push(state);
        }
    }
    Ok(lost)
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

/// Tells why a snapshot is passed over, and takes it from the shelf if nobody can use it any more. One of an older format is
/// kept when it may be the only place of what went from a log.
fn set_aside(shelf: &Shelf, label: &Label, why: Unusable, keeps_older: bool) -> Result<(), ConsumersError> {
    let (path, checkpoint) = (shelf.file(label).display().to_string(), label.checkpoint);
    match why {
        Unusable::Damaged if keeps_older => {
            tracing::error!(
                path,
                checkpoint,
                "a snapshot is damaged: it is not what its label says; it is put aside as .damaged, because a log was trimmed and it may be the only place of what went; another one is used. Look at the disk"
            );
            return shelf.retire(label);
        }
        Unusable::Damaged => tracing::error!(
            path,
            checkpoint,
            "a snapshot is damaged: it is not what its label says, and is taken away; an older one is used. Look at the disk"
        ),
        Unusable::Older(format) if keeps_older => {
            tracing::error!(
                path,
                checkpoint,
                format,
                "a snapshot has the pool format of an older farside, and a log was trimmed behind it: it is left where it is; the farside that wrote it reads it"
            );
            return Ok(());
        }
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
        set_aside(&shelf, &older, Unusable::Older(1), true).unwrap();
        assert_eq!(shelf.labels().unwrap().len(), 3, "it may be the only place of what was trimmed");
        set_aside(&shelf, &older, Unusable::Older(1), false).unwrap();
        set_aside(&shelf, &newer, Unusable::Newer(99), false).unwrap();
        set_aside(&shelf, &damaged, Unusable::Damaged, true).unwrap();
        assert!(shelf.file(&damaged).with_extension("redb.damaged").exists());
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
