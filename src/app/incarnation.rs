//! The service and its pool, which a rebuild replaces while the process and its connection live on.
//!
//! ```text
//! run ──► shutdown asked ──► ended
//!  ▲ └──► swap asked ──► service stopped ──► file renamed ──► service on the new pool ─┐
//!  └───────────────────────────────────────────────────────────────────────────────────┘
//! ```

use std::path::{Path, PathBuf};

use audit::KeyFile;
use bus::Bus;
use consumers::{
    Handle, Service, ServiceConfig,
    snapshot::{self, Shelf},
};
use projector::{Reader, Store, StoreOptions};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::{AppError, files::forget, open_store, store_options};
use crate::config::Config;

/// Swaps that wait: one rebuild at a time asks for one.
const SWAPS_MAX: usize = 1;

/// The service that runs now, and its pool.
#[derive(Clone)]
pub(super) struct Current {
    pub(super) handle: Handle,
    pub(super) store: Store,
}

/// Asks for the pool's file to be replaced.
pub(super) struct Swap {
    /// The file that takes its place.
    pub(super) by: PathBuf,
    /// Told when it has, or why not.
    pub(super) done: oneshot::Sender<Result<(), String>>,
}

/// What others may see and ask of the service that runs now.
#[derive(Clone)]
pub(super) struct Control {
    pub(super) current: watch::Receiver<Current>,
    pub(super) swaps: mpsc::Sender<Swap>,
    /// Where a rebuilt pool is built.
    pub(super) rebuild_file: PathBuf,
}

/// The service, one incarnation after the other.
pub(super) struct Incarnations {
    config: ServiceConfig,
    options: StoreOptions,
    bus: Bus,
    file: PathBuf,
    keys: KeyFile,
    shelf: Shelf,
    next: Service,
    current: watch::Sender<Current>,
    reader: watch::Sender<Reader>,
    swaps: mpsc::Receiver<Swap>,
    ask: mpsc::Sender<Swap>,
}

/// Where a pool is built again.
fn rebuild_file(pool: &Path) -> PathBuf {
    pool.with_extension("rebuilt.redb")
}

/// A shelf that holds nothing to start from is begun with the pool, when the logs do not have everything any more.
pub(super) async fn adopt(config: &Config, bus: &Bus) -> Result<(), AppError> {
    let (shelf, service) = (Shelf::open(&config.snapshot_dir())?, &config.service);
    match snapshot::adopted(bus, &shelf, &service.target, &service.sites, &config.pool_file()).await {
        Ok(true) => {
            tracing::warn!(
                "a log is trimmed and no snapshot can be used: a new one is begun with the pool, and held against what is signed"
            );
        }
        Ok(false) => {}
        // The keeper says why there are no snapshots.
        Err(error) => tracing::warn!(%error, "no snapshot could be begun with the pool"),
    }
    Ok(())
}

/// A pool that has read nothing is begun with the newest snapshot when the logs do not have everything any more.
pub(super) async fn seeded(config: &Config, bus: &Bus, store: Store) -> Result<Store, AppError> {
    if !store.positions()?.is_empty() {
        return Ok(store);
    }
    let (pool, shelf) = (config.pool_file(), Shelf::open(&config.snapshot_dir())?);
    let draft = rebuild_file(&pool);
    forget(&draft);
    let service = &config.service;
    match snapshot::seeded(bus, &shelf, &service.target, &service.sites, &draft).await {
        Ok(true) => {}
        Ok(false) => return Ok(store),
        Err(error) => {
            // The service waits for what is not there yet, and says what it lacks.
            tracing::warn!(%error, "an empty pool could not be begun with a snapshot");
            return Ok(store);
        }
    }
    drop(store);
    std::fs::rename(&draft, &pool).map_err(|source| AppError::File {
        verb: "put a snapshot in the place of",
        path: pool.clone(),
        source,
    })?;
    tracing::info!("the pool was empty and a log is trimmed: it begins with the newest snapshot");
    open_store(&pool, store_options(config)).await
}

impl Incarnations {
    pub(super) fn new(config: &Config, bus: Bus, store: Store) -> Result<Self, AppError> {
        let keys = KeyFile::new(&config.signing_key_file());
        let shelf = Shelf::open(&config.snapshot_dir())?;
        let next = Service::build(config.service.clone(), bus.clone(), store.clone())?
            .signing_with(keys.clone())
            .keeping(shelf.clone());
        let (ask, swaps) = mpsc::channel(SWAPS_MAX);
        let reader = watch::Sender::new(store.reader());
        let current = watch::Sender::new(Current { handle: next.handle(), store });
        let (service, options, file) = (config.service.clone(), store_options(config), config.pool_file());
        // A rebuild that was killed left it.
        forget(&rebuild_file(&file));
        Ok(Self { config: service, options, bus, file, keys, shelf, next, current, reader, swaps, ask })
    }

    pub(super) fn reader(&self) -> watch::Receiver<Reader> {
        self.reader.subscribe()
    }

    /// Whether the service that is built first holds the lease.
    pub(super) fn lease(&self) -> watch::Receiver<bool> {
        self.current.borrow().handle.lease()
    }

    /// Where snapshots are kept.
    pub(super) fn shelf(&self) -> Option<Shelf> {
        Some(self.shelf.clone())
    }

    pub(super) fn control(&self) -> Control {
        Control {
            current: self.current.subscribe(),
            swaps: self.ask.clone(),
            rebuild_file: rebuild_file(&self.file),
        }
    }

    pub(super) async fn run(mut self, shutdown: CancellationToken) -> Result<(), AppError> {
        loop {
            let stop = shutdown.child_token();
            let mut running = tokio::spawn(self.next.run(stop.clone()));
            let broke = |source| AppError::Broke { task: "the service".to_owned(), source };
            let swap = tokio::select! {
                ended = &mut running => return Ok(ended.map_err(broke)??),
                Some(swap) = self.swaps.recv() => swap,
            };
            stop.cancel();
            running.await.map_err(broke)??;
            let renamed = std::fs::rename(&swap.by, &self.file).map_err(|e| {
                format!("cannot put {} in the place of {}: {e}", swap.by.display(), self.file.display())
            });
            let store = match &renamed {
                Ok(()) => open_store(&self.file, self.options.clone()).await?,
                Err(_) => self.current.borrow().store.clone(),
            };
            let next = Service::build(self.config.clone(), self.bus.clone(), store.clone())?;
            self.next = next.signing_with(self.keys.clone()).keeping(self.shelf.clone());
            self.reader.send_replace(store.reader());
            self.current.send_replace(Current { handle: self.next.handle(), store });
            // Whoever asked may have gone away.
            let _ = swap.done.send(renamed);
        }
    }
}
