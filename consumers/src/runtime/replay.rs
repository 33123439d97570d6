//! Time travel: the logs up to a point, projected into a throw-away store.

use std::sync::Arc;

use bus::Bus;
use bus_schema::{Name, Timestamp};
use projector::{Store, StoreOptions};
use tempfile::TempDir;
use tokio::sync::Mutex;

use super::{
    parked::recall_anew,
    pipeline::{Chunk, Pipeline},
    pump::CHUNK_EVENTS_MAX,
    replaced::Replaced,
};
use crate::{
    error::ConsumersError,
    snapshot::{self, Choice, Label, Shelf, Started},
};

/// How far to read a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Up to and with this sequence.
    Seq(u64),
    /// Up to the last message that the log stored at this moment or before.
    Time(Timestamp),
    /// Up to what the log holds now.
    Now,
}

/// Hears how far a long reading is.
pub trait Watcher: Send + Sync {
    /// So many of so many messages of a stream are read.
    fn read(&self, stream: &str, done: u64, of: u64);
}

/// Nobody hears it.
pub struct Unwatched;

impl Watcher for Unwatched {
    fn read(&self, _: &str, _: u64, _: u64) {}
}

/// The pool's file in the directory of a replay.
pub(crate) const POOL: &str = "pool.redb";

/// A store that holds a moment of the past, gone with its directory when this is dropped.
pub struct Replayed {
    /// The store.
    pub store: Store,
    /// The snapshot that it started from; none = it started with the logs.
    pub started_from: Option<Label>,
    pub(crate) directory: TempDir,
}

impl Replayed {
    /// With nothing in it yet. Errors: the disk.
    fn empty(directory: TempDir) -> Result<Self, ConsumersError> {
        let store = Store::open(&directory.path().join(POOL), StoreOptions::default())?;
        Ok(Self { store, started_from: None, directory })
    }

    /// With what a snapshot held that these logs bear out; with nothing, when there is none. Errors: the bus, the disk.
    pub(crate) async fn begun(
        bus: &Bus,
        shelf: &Shelf,
        streams: &[(String, Until)],
        choice: Choice,
        directory: TempDir,
    ) -> Result<Self, ConsumersError> {
        let path = directory.path().join(POOL);
        match snapshot::started(bus, shelf, streams, choice, &path).await? {
            Some(Started { store, label }) => Ok(Self { store, started_from: Some(label), directory }),
            None => Self::empty(directory),
        }
    }
}

/// Projects each stream up to its point, from the nearest snapshot on; a live pool knows what stands in a log in place of
/// something else. Errors: the bus, the disk.
pub async fn replay(
    bus: &Bus,
    target: &Name,
    shelf: Option<&Shelf>,
    streams: &[(String, Until)],
    live: Option<&Store>,
    watcher: &dyn Watcher,
) -> Result<Replayed, ConsumersError> {
    let replayed = match shelf {
        Some(shelf) => Replayed::begun(bus, shelf, streams, Choice::Newest, directory()?).await?,
        None => Replayed::empty(directory()?)?,
    };
    replayed.store.throw_away();
    // A snapshot knows of what was parked up to its own moment only.
    recall_anew(bus, &replayed.store, target).await?;
    for (stream, until) in streams {
        snapshot::reaches(bus, shelf, &replayed.store, stream).await?;
        feed(bus, &replayed.store, stream, *until, live, watcher).await?;
    }
    Ok(replayed)
}

/// An empty store that is gone with what is returned. Errors: the disk.
pub(crate) fn throw_away() -> Result<Replayed, ConsumersError> {
    let replayed = Replayed::empty(directory()?)?;
    replayed.store.throw_away();
    Ok(replayed)
}

pub(crate) fn directory() -> Result<TempDir, ConsumersError> {
    tempfile::Builder::new().prefix("farside-replay-").tempdir().map_err(|source| {
        let path = std::env::temp_dir().display().to_string();
        ConsumersError::File { verb: "make a directory for the replay in", path, source }
    })
}

/// What was read of a log is all that there was behind a sequence. Errors: the log was trimmed meanwhile, the bus.
pub(crate) async fn still_has(bus: &Bus, stream: &str, first_seq: u64) -> Result<(), ConsumersError> {
    if bus.stream_state(stream).await?.first_seq <= first_seq {
        return Ok(());
    }
    Err(ConsumersError::Unprovable(format!("{stream} was trimmed while it was read; ask for it once more")))
}

/// Reads a log on from where the store is, up to a point, without what a live pool, if there is one, knows to stand in place of
/// something else. Answers the sequence that was reached. Errors: the bus, the disk;
/// the log was trimmed meanwhile.
pub(crate) async fn feed(
    bus: &Bus,
    store: &Store,
    stream: &str,
    until: Until,
    live: Option<&Store>,
    watcher: &dyn Watcher,
) -> Result<u64, ConsumersError> {
    let state = bus.stream_state(stream).await?;
    let position = match store.position(stream)? {
        Some(position) => position,
        None => store.begin_log(stream, state.created)?,
    };
    let last = match until {
        Until::Seq(seq) => seq.min(state.last_seq),
        Until::Time(_) | Until::Now => state.last_seq,
    };
    if position.seq >= last || state.messages == 0 {
        return Ok(position.seq);
    }
    let mut reader = bus.read_log(stream, position.seq + 1, None).await?;
    let replaced = live.map(|live| Replaced::of(live, stream)).transpose()?.unwrap_or_default();
    let pipeline = Pipeline::start(store.clone(), stream, Arc::new(Mutex::new(())), replaced, |_| {});
    let mut reached = position.seq;
    while let Some(mut messages) = reader.next_stored(CHUNK_EVENTS_MAX, last).await? {
        let wanted = messages.iter().take_while(|message| match until {
            Until::Time(time) => message.stored_at() <= time,
            Until::Seq(_) | Until::Now => true,
        });
        let wanted = wanted.count();
        let past_the_point = wanted < messages.len();
        messages.truncate(wanted);
        reached = messages.last().map_or(reached, bus::LogMessage::seq);
        watcher.read(stream, reached, last);
        if !messages.is_empty() && pipeline.input.send(Chunk { messages, behind: true }).await.is_err() {
            break;
        }
        if past_the_point {
            break;
        }
    }
    pipeline.finish().await?;
    still_has(bus, stream, state.first_seq.max(position.seq + 1)).await?;
    Ok(store.position(stream)?.map_or(0, |position| position.seq))
}
