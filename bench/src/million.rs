//! A million resources: what `farside serve` needs for them, how fast one is read, and what it costs to
//! find out that a pool differs from its source. All of it on the log of one real agent.

use std::{path::Path, time::Instant};

use bus::{Bus, managed::ManagedServer};
use bus_schema::PoolId;
use consumers::{Handle, Service, ServiceConfig, config::ThresholdConfig};
use projector::{Owner, Store, StoreOptions};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    DEADLINE, Outcome,
    source::{Running, Source},
};

/// The site of the million.
pub(crate) const SITE: &str = "million";
/// Resources in one file of the source.
const RECORDS_A_FILE: u64 = 1_000;

/// The source, its agent, and a bus whose answers can be watched.
pub(crate) struct Million<'a> {
    pub(crate) server: &'a ManagedServer,
    pub(crate) bus: Bus,
    pub(crate) stream: String,
    pub(crate) pool: PoolId,
    pub(crate) resources: u64,
    agent: Running,
}

/// A service that runs on a pool.
pub(crate) struct Served {
    pub(crate) store: Store,
    pub(crate) handle: Handle,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), consumers::ConsumersError>>,
}

impl Served {
    /// Ends it, and gives the file free.
    pub(crate) async fn stop(self) -> Outcome<()> {
        self.shutdown.cancel();
        Ok(self.task.await??)
    }
}

impl<'a> Million<'a> {
    /// Writes the source, and lets a real agent bring all of it into a pool.
    pub(crate) async fn prepare(server: &'a ManagedServer, resources: u64, scratch: &Path) -> Outcome<Self> {
        let inbox_prefix = Some(INBOX.to_owned());
        let bus =
            Bus::connect(bus::ConnectOptions { inbox_prefix, ..server.service_options("bench") }).await?;
        let stream = crate::site_stream(&bus, SITE).await?;
        let dir = scratch.join(SITE);
        let source = Source::write(&dir, SITE, resources / RECORDS_A_FILE, RECORDS_A_FILE)?;
        let start = Instant::now();
        let agent = source.agent(server).await?;
        let million = Self { server, bus, stream, pool: source.pool()?, resources, agent };
        let served = million.serve(&dir.join("pool.redb")).await?;
        million.equal(&served).await?;
        eprintln!(
            "  {resources} resources from files to an equal pool in {:.0} s",
            start.elapsed().as_secs_f64()
        );
        served.stop().await?;
        Ok(million)
    }

    /// Runs the service on a pool's file.
    pub(crate) async fn serve(&self, path: &Path) -> Outcome<Served> {
        let store = Store::open(path, StoreOptions::default())?;
        // No third request in between: the digest alone has to find what differs.
        let threshold = ThresholdConfig { changes: 0, bytes: 0, ..ThresholdConfig::default() };
        let config = ServiceConfig { sites: vec![SITE.parse()?], threshold, ..ServiceConfig::default() };
        let service = Service::build(config, self.bus.clone(), store.clone())?;
        let (handle, shutdown) = (service.handle(), CancellationToken::new());
        let task = tokio::spawn(service.run(shutdown.clone()));
        Ok(Served { store, handle, shutdown, task })
    }

    /// Waits until the pool is proven equal to the source.
    pub(crate) async fn equal(&self, served: &Served) -> Outcome<()> {
        let proven = || self.owner(&served.store).filter(Owner::in_sync);
        let until = served.handle.progress().until(DEADLINE, proven);
        let owner = until.await.ok_or("the pool does not become equal to its source")?;
        if owner.digest.count != self.resources {
            return Err(format!("the pool has {} of {} resources", owner.digest.count, self.resources).into());
        }
        Ok(())
    }

    /// The one owner of the pool.
    pub(crate) fn owner(&self, store: &Store) -> Option<Owner> {
        store.reader().owners(&self.pool).ok()?.value.into_iter().next()
    }

    /// Ends the agent.
    pub(crate) async fn stop(self) -> Outcome<()> {
        self.agent.stop().await
    }
}

/// Where the answers to the service's requests go.
pub(crate) const INBOX: &str = "_INBOX_bench";
