//! A target service of a test: a pool of its own, run until the test stops it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use audit::KeyFile;
use bus::{Bus, RequestError};
use bus_schema::{PoolId, ResourceKey, Stem, command::target::Reply, subject};
use consumers::{ConsumersError, Handle, Service, ServiceConfig, snapshot::Shelf};
use projector::{Owner, Reader, Row, Store, StoreOptions};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::{PATIENCE, eventually, nats::TEST_LOG_BYTES, within};

/// A running target.
pub(crate) struct Target {
    pub(crate) bus: Bus,
    pub(crate) reader: Reader,
    pub(crate) handle: Handle,
    directory: Arc<TempDir>,
    shutdown: CancellationToken,
    running: JoinHandle<Result<(), ConsumersError>>,
}

impl Target {
    /// Starts one with a new pool, and waits until it holds the lease.
    pub(crate) async fn start(bus: &Bus, config: Value) -> Self {
        let target = Self::start_in(bus, config, Arc::new(tempfile::tempdir().unwrap())).await;
        target.acting().await;
        target
    }

    /// Starts one with a new pool while another one holds the lease.
    pub(crate) async fn standby(bus: &Bus, config: Value) -> Self {
        Self::start_in(bus, config, Arc::new(tempfile::tempdir().unwrap())).await
    }

    /// The same with the pool in this directory.
    pub(crate) async fn standby_in(bus: &Bus, config: Value, directory: TempDir) -> Self {
        Self::start_in(bus, config, Arc::new(directory)).await
    }

    async fn start_in(bus: &Bus, config: Value, directory: Arc<TempDir>) -> Self {
        // Who names a key signs with it; the others sign nothing.
        let mut config = config;
        let keys = config.as_object_mut().unwrap().remove("signing_key");
        // Who says when takes snapshots.
        let snapshots = directory.path().join("snapshots");
        let shelf = config.get("snapshot").map(|_| Shelf::open(&snapshots).unwrap());
        let mut config: ServiceConfig = serde_json::from_value(config).unwrap();
        config.log_bytes_max = Some(TEST_LOG_BYTES);
        let store = Store::open(&directory.path().join("pool.redb"), StoreOptions::default()).unwrap();
        let reader = store.reader();
        let mut service = Service::build(config, bus.clone(), store).unwrap();
        if let Some(keys) = keys {
            service = service.signing_with(KeyFile::new(Path::new(keys.as_str().unwrap())));
        }
        if let Some(shelf) = shelf {
            service = service.keeping(shelf);
        }
        let (handle, shutdown) = (service.handle(), CancellationToken::new());
        let running = tokio::spawn(service.run(shutdown.clone()));
        Self { bus: bus.clone(), reader, handle, directory, shutdown, running }
    }

    /// Waits until it holds the lease.
    pub(crate) async fn acting(&self) {
        let mut lease = self.handle.lease();
        within("the lease", lease.wait_for(|holds| *holds)).await.unwrap();
    }

    /// Stops it and answers what it needs to start again with the same pool.
    pub(crate) async fn stop(self) -> Arc<TempDir> {
        self.shutdown.cancel();
        within("the service drains", self.running).await.unwrap().unwrap();
        self.directory
    }

    /// Starts it again with the pool that it had.
    pub(crate) async fn start_again(bus: &Bus, config: Value, directory: Arc<TempDir>) -> Self {
        let target = Self::start_in(bus, config, directory).await;
        target.acting().await;
        target
    }

    /// A new path beside the pool.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Sends a command to the target.
    pub(crate) async fn command<C: Serialize + Sync, A: DeserializeOwned>(
        &self,
        stem: Stem,
        verb: &str,
        command: &C,
    ) -> Reply<A> {
        self.try_command(stem, verb, command).await.unwrap()
    }

    /// The same, when perhaps nobody acts for it.
    pub(crate) async fn try_command<C: Serialize + Sync, A: DeserializeOwned>(
        &self,
        stem: Stem,
        verb: &str,
        command: &C,
    ) -> Result<Reply<A>, RequestError> {
        let subject = subject::target_command(&"local".parse().unwrap(), stem, verb);
        self.bus.request(&subject, command, PATIENCE).await
    }

    /// Asks for a fact to be stated; the reason when it was refused.
    pub(crate) async fn state(&self, stem: Stem, event: &str, data: Value) -> Result<(), String> {
        let command = json!({ "stem": stem, "event": event, "data": data });
        match self.command::<_, Value>(Stem::Log, "state", &command).await {
            Reply::Done { .. } => Ok(()),
            Reply::Refused { reason } => Err(reason),
        }
    }

    /// Asks after every commit until there is an answer.
    pub(crate) async fn until<T>(&self, what: &str, mut ask: impl FnMut(&Reader) -> Option<T>) -> T {
        let found = self.handle.progress().until(PATIENCE, || ask(&self.reader)).await;
        found.unwrap_or_else(|| panic!("waited in vain: {what}"))
    }

    pub(crate) fn owner(&self, pool: &PoolId, owner: &str) -> Option<Owner> {
        self.reader.owner(pool, owner).unwrap().value
    }

    pub(crate) fn row(&self, pool: &PoolId, key: &str) -> Option<Row> {
        let key: ResourceKey = key.parse().unwrap();
        self.reader.row(pool, &key).unwrap().value.filter(|row| row.deleted_at.is_none())
    }

    /// The rows of a pool, as the canonical export writes them.
    pub(crate) fn export(&self, pool: &PoolId) -> String {
        export(&self.reader, pool)
    }

    /// Waits until the pool has everything that a stream holds now.
    pub(crate) async fn caught_up(&self, stream: &str) {
        let last = eventually("the stream's state", async || self.bus.stream_state(stream).await.ok()).await;
        self.handle.progress().passes(stream, last.last_seq, PATIENCE).await.unwrap();
    }

    /// Waits for a while in which nothing may happen: the one thing that cannot be awaited.
    pub(crate) async fn nothing_for(&self, time: Duration) {
        assert!(self.handle.progress().until(time, || None::<()>).await.is_none());
    }
}

/// The rows of a pool, as the canonical export writes them.
pub(crate) fn export(reader: &Reader, pool: &PoolId) -> String {
    let mut text = Vec::new();
    reader.export(pool, &mut text).unwrap();
    String::from_utf8(text).unwrap()
}
