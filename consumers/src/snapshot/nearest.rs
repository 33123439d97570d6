//! A replay that starts from the nearest snapshot: the newest one that is not behind any of the points, that the logs
//! still bear out, and that is not damaged.

use std::path::Path;

use bus::{Bus, PositionVerdict};
use projector::{Store, StoreOptions};
use tempfile::TempDir;

use super::shelf::{Label, Place, Shelf};
use crate::{
    error::ConsumersError,
    runtime::replay::{POOL, Replayed, Until},
    task::blocking,
};

/// Puts a copy of the nearest snapshot into a store that is to be replayed on; without one it stays empty. A damaged
/// snapshot is told, taken from the shelf, and the next older one used. Errors: the bus, the disk.
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
        if let Some(store) = blocking("snapshot", move || copied(&of, &from, &to)).await? {
            return Ok(Replayed { store, started_from: Some(label), directory });
        }
        let (path, checkpoint) = (shelf.file(&label).display().to_string(), label.checkpoint);
        tracing::error!(
            path,
            checkpoint,
            "a snapshot is damaged: it is not what its label says, and is taken away; an older one is used. Look at the disk"
        );
        shelf.remove(&label)?;
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
    // The message at its place shows that a snapshot is of this log.
    let oldest = places.find(|place| place.stream == stream && place.seq >= state.first_seq);
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

/// The snapshot's pool in a file of its own; none = it is damaged.
fn copied(shelf: &Shelf, label: &Label, to: &Path) -> Result<Option<Store>, ConsumersError> {
    if shelf.take(label, to)? {
        // Every byte was hashed just now.
        let options = StoreOptions { check: false, compact: false, ..StoreOptions::default() };
        let store = Store::open(to, options)?;
        if label.is_of(&store.positions()?) {
            return Ok(Some(store));
        }
    }
    match std::fs::remove_file(to) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(ConsumersError::File { verb: "remove", path: to.display().to_string(), source })
        }
        _ => Ok(None),
    }
}
