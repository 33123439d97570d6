//! Rebuild: the pool once more from the logs, beside the live one, compared with it. What was before the floor of a
//! trimmed log is taken from the oldest snapshot, so that as much as can be is projected anew.

use std::path::{Path, PathBuf};

use bus::Bus;
use bus_schema::{Name, Timestamp, subject};
use projector::{
    Position, Store, StoreOptions,
    compare::{self, Difference, Of},
};

use super::{
    floor::Floor,
    parked::recall_anew,
    pipeline::Gate,
    replay::{Until, Watcher, feed},
};
use crate::{
    error::ConsumersError,
    snapshot::{Choice, Shelf, Started, reaches, started},
    task::blocking,
};

/// A second pool, built from the logs.
#[derive(Debug)]
pub struct Rebuilt {
    /// Its file, closed: swap it with the live one while the service does not run.
    pub path: PathBuf,
    /// Where both pools were in each log when they were compared.
    pub positions: Vec<Position>,
    /// When the checkpoint of the snapshot was stated that it begins with; none = it is of the logs alone.
    pub begins_at: Option<Timestamp>,
    /// What differs, at most [`compare::DIFFERENCES_MAX`] entries; none = the live pool is what the logs say.
    pub differences: Vec<Difference>,
}

impl Rebuilt {
    /// Whether users would see something else in the rebuilt pool than in the live one.
    pub fn differs_in_content(&self) -> bool {
        self.differences.iter().any(|found| found.of == Of::Content)
    }
}

/// What is rebuilt, and with what.
pub(crate) struct Rebuild<'a> {
    /// The bus.
    pub bus: &'a Bus,
    /// The target.
    pub target: &'a Name,
    /// Its sites.
    pub sites: &'a [Name],
    /// The live pool.
    pub live: &'a Store,
    /// Holds its commits back.
    pub gate: &'a Gate,
    /// Where snapshots are; none = nowhere.
    pub shelf: Option<&'a Shelf>,
    /// Hears how far it is.
    pub watcher: &'a dyn Watcher,
}

impl Rebuild<'_> {
    /// Builds the pool again in `path`, which must not exist, while the live one goes on; commits of the live one wait only
    /// for the last stretch and the comparison.
    ///
    /// Errors: the file is there, no snapshot holds what was trimmed, the bus, the disk.
    pub(crate) async fn run(self, path: &Path) -> Result<Rebuilt, ConsumersError> {
        if path.exists() {
            let source = std::io::Error::from(std::io::ErrorKind::AlreadyExists);
            let path = path.display().to_string();
            return Err(ConsumersError::File { verb: "build the pool in", path, source });
        }
        let (store, begins_at) = self.begun(path).await?;
        recall_anew(self.bus, &store, self.target).await?;
        self.catch_up(&store).await?;
        let _live_stands_still = self.gate.lock().await;
        let positions = self.catch_up(&store).await?;
        let (left, right) = (self.live.reader(), store.reader());
        let differences = blocking("comparison", move || Ok(compare::diff(&left, &right)?)).await?;
        Ok(Rebuilt { path: path.to_owned(), positions, begins_at, differences })
    }

    /// The store to begin with, and of which moment it is.
    async fn begun(&self, path: &Path) -> Result<(Store, Option<Timestamp>), ConsumersError> {
        let streams = self.streams().await?;
        let mut is_trimmed = false;
        for (stream, _) in &streams {
            let state = self.bus.stream_state(stream).await?;
            let floor = Floor::of(self.bus, &self.live.reader(), self.target, &state).await?;
            is_trimmed |= floor.is_some_and(|floor| state.begins_late() && floor.trimmed.first_seq > 1);
        }
        if let Some(shelf) = self.shelf.filter(|_| is_trimmed)
            && let Some(Started { store, label }) =
                started(self.bus, shelf, &streams, Choice::Oldest, path).await?
        {
            return Ok((store, Some(label.stated_at)));
        }
        let store = Store::open(path, StoreOptions { compact: false, ..StoreOptions::default() })?;
        if is_trimmed {
            for (stream, _) in &streams {
                reaches(self.bus, self.shelf, &store, stream).await?;
            }
        }
        Ok((store, None))
    }

    /// How far each log is to be read: as far as the live pool is, or all of it when that lacks what was trimmed. The pool
    /// does not depend on the order, but what a person confirmed need not be held first.
    async fn streams(&self) -> Result<Vec<(String, Until)>, ConsumersError> {
        let target = subject::target_stream(self.target);
        let (mut streams, mut lacks) = (Vec::new(), false);
        for stream in [target].into_iter().chain(self.sites.iter().map(subject::site_stream)) {
            let has = self.live.position(&stream)?.map_or(0, |position| position.seq);
            lacks |= self.bus.stream_state(&stream).await?.first_seq > has + 1;
            streams.push((stream, Until::Seq(has)));
        }
        if lacks {
            streams.iter_mut().for_each(|(_, until)| *until = Until::Now);
        }
        Ok(streams)
    }

    async fn catch_up(&self, store: &Store) -> Result<Vec<Position>, ConsumersError> {
        for (stream, until) in self.streams().await? {
            feed(self.bus, store, &stream, until, Some(self.live), self.watcher).await?;
        }
        self.live.positions().map_err(Into::into)
    }
}
