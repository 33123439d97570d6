//! Rebuild: the pool once more from the logs, beside the live one, compared with it.

use std::path::{Path, PathBuf};

use bus::Bus;
use bus_schema::Name;
use projector::{
    Position, Store, StoreOptions,
    compare::{self, Difference, Of},
};

use super::{
    parked::recall,
    pipeline::Gate,
    replay::{Until, Watcher, feed},
};
use crate::{error::ConsumersError, task::blocking};

/// What the name of a target's log begins with.
const TARGET_LOGS: &str = "FARSIDE_TGT_";

/// A second pool, built from the logs.
#[derive(Debug)]
pub struct Rebuilt {
    /// Its file, closed: swap it with the live one while the service does not run.
    pub path: PathBuf,
    /// Where both pools were in each log when they were compared.
    pub positions: Vec<Position>,
    /// What differs, at most [`compare::DIFFERENCES_MAX`] entries; none = the live pool is what the logs say.
    pub differences: Vec<Difference>,
}

impl Rebuilt {
    /// Whether users would see something else in the rebuilt pool than in the live one.
    pub fn differs_in_content(&self) -> bool {
        self.differences.iter().any(|found| found.of == Of::Content)
    }
}

/// Builds the pool again in `path`, which must not exist, while the live one goes on; commits of the live
/// one wait only for the last stretch and the comparison.
///
/// Errors: the file is there, the bus, the disk.
pub(crate) async fn rebuild(
    bus: &Bus,
    target: &Name,
    live: &Store,
    gate: &Gate,
    path: &Path,
    watcher: &dyn Watcher,
) -> Result<Rebuilt, ConsumersError> {
    if path.exists() {
        let source = std::io::Error::from(std::io::ErrorKind::AlreadyExists);
        let path = path.display().to_string();
        return Err(ConsumersError::File { verb: "build the pool in", path, source });
    }
    let store = Store::open(path, StoreOptions { compact: false, ..StoreOptions::default() })?;
    recall(bus, &store, target).await?;
    catch_up(bus, live, &store, watcher).await?;
    let _live_stands_still = gate.lock().await;
    let positions = catch_up(bus, live, &store, watcher).await?;
    let (left, right) = (live.reader(), store.reader());
    let differences = blocking("comparison", move || Ok(compare::diff(&left, &right)?)).await?;
    Ok(Rebuilt { path: path.to_owned(), positions, differences })
}

async fn catch_up(
    bus: &Bus,
    live: &Store,
    store: &Store,
    watcher: &dyn Watcher,
) -> Result<Vec<Position>, ConsumersError> {
    let mut positions = live.positions()?;
    // The pool does not depend on the order, but what a person confirmed need not be held first.
    positions.sort_by_key(|position| !position.stream.starts_with(TARGET_LOGS));
    for position in &positions {
        feed(bus, store, &position.stream, Until::Seq(position.seq), watcher).await?;
    }
    Ok(positions)
}
