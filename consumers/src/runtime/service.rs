//! The target service: `Config -> build -> Service -> run -> drain`.
//!
//! Every process pumps every log into its own pool. Only the one that holds the lease acts: it states,
//! answers, asks. When the lease goes, what acts is stopped and joined before anything else happens.

use std::{path::Path, sync::Arc, time::Duration};

use audit::KeyFile;
use bus::{Bus, Lease, LeaseOptions};
use bus_schema::{
    Name,
    fact::{key::Rotated, log::Scrubbed},
    subject,
};
use projector::Store;
use tokio::{
    sync::{Mutex, Notify, mpsc, oneshot, watch},
    task::{JoinError, JoinSet},
};
use tokio_util::sync::CancellationToken;

use super::{
    applied::{Applied, Progress},
    bounds::Bounds,
    export::{Export, Exported, one_log},
    facts::FactPublisher,
    hello::Greeter,
    logs::Logs,
    outbox::Outbox,
    pipeline::Gate,
    pump::{Pump, Troubles},
    rebuild::{Rebuild, Rebuilt},
    redrive::{Asked, Page, Redriving},
    replay::{Replayed, Until, Watcher, replay},
    verify::{Verification, Verified},
};
use crate::{
    config::ServiceConfig,
    error::ConsumersError,
    log::{
        self, AskedScrub, ScrubProgress,
        checkpoint::{AskedRotation, Signing, Stater},
        heal::Obstacles,
        refused::Unscrubbed,
        retention::{Keep, Trimmer, Waits},
    },
    resource::{Acting, Shown},
    snapshot::{Shelf, keeper::Keeper},
};

/// The wait before the service begins again, when NATS went away meanwhile.
const BEGIN_AGAIN_AFTER: Duration = Duration::from_millis(500);
/// The wait before acting is tried again after an error that ended it.
const ACT_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What somebody is told who asks a process that does not act.
const ELSEWHERE: &str =
    "another farside acts for this target, or none; ask the one that does: 'farside status' names it";
/// Rotations of the signing key that may wait: a person asks for one.
const ROTATIONS_MAX: usize = 1;

/// The target service, built and not running yet.
pub struct Service {
    config: Arc<ServiceConfig>,
    bus: Bus,
    logs: Logs,
    store: Store,
    handle: Handle,
    ends: Ends,
}

/// The writing ends of what the handle shows.
struct Ends {
    applied: watch::Sender<Applied>,
    troubles: watch::Sender<Troubles>,
    shown: watch::Sender<Vec<Shown>>,
    holding: watch::Sender<bool>,
    log: log::Shown,
    scrubs: Arc<Mutex<mpsc::Receiver<AskedScrub>>>,
    signing: watch::Sender<Signing>,
    rotations: Arc<Mutex<mpsc::Receiver<AskedRotation>>>,
    unkept: watch::Sender<Option<String>>,
}

/// What others may see and ask of a service; cheap to clone.
#[derive(Clone)]
pub struct Handle {
    bus: Bus,
    store: Store,
    gate: Gate,
    progress: Progress,
    troubles: watch::Receiver<Troubles>,
    shown: watch::Receiver<Vec<Shown>>,
    holding: watch::Receiver<bool>,
    log: log::Seen,
    scrubs: mpsc::Sender<AskedScrub>,
    target: Name,
    sites: Vec<Name>,
    keys: Option<KeyFile>,
    shelf: Option<Shelf>,
    signing: watch::Receiver<Signing>,
    unkept: watch::Receiver<Option<String>>,
    rotations: mpsc::Sender<AskedRotation>,
}

impl Handle {
    /// How far the pool is in every log.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// The pumps that stand still, and why.
    pub fn troubles(&self) -> Troubles {
        self.troubles.borrow().clone()
    }

    /// Every owner's schedule and what is under way with it; empty without the lease.
    pub fn owners(&self) -> Vec<Shown> {
        self.shown.borrow().clone()
    }

    /// Whether this process holds the lease.
    pub fn holds_lease(&self) -> bool {
        *self.holding.borrow()
    }

    /// Why gaps of the logs are open still; empty without the lease.
    pub fn obstacles(&self) -> Obstacles {
        self.log.obstacles.borrow().clone()
    }

    /// Why the last snapshot could not be kept; none = it could.
    pub fn unkept(&self) -> Option<String> {
        self.unkept.borrow().clone()
    }

    /// What is in the way of trimming logs; empty without the lease.
    pub fn waits(&self) -> Waits {
        self.log.waits.borrow().clone()
    }

    /// Why logs could not be scrubbed for a while; empty without the lease.
    pub fn unscrubbed(&self) -> Unscrubbed {
        self.log.unscrubbed.borrow().clone()
    }

    /// How far the scrub is that runs, if one does.
    pub fn scrub_progress(&self) -> ScrubProgress {
        self.log.progress.borrow().clone()
    }

    /// Reads a log again and compares it with what was read of it; answers when that is done. Errors: this process
    /// does not act for the target, or the log cannot be read.
    pub async fn scrub(&self, stream: &str) -> Result<Scrubbed, String> {
        let (reply, done) = oneshot::channel();
        let asked = AskedScrub { stream: stream.to_owned(), reply };
        if !self.holds_lease() || self.scrubs.send(asked).await.is_err() {
            return Err(ELSEWHERE.to_owned());
        }
        done.await.unwrap_or_else(|_| Err(ELSEWHERE.to_owned()))
    }

    /// Why no checkpoint is stated, and which agents were told others.
    pub fn signing(&self) -> Signing {
        self.signing.borrow().clone()
    }

    /// Lets a new key sign from here on; answers when the target log says so. Errors: this process does not act for the
    /// target, or has not its key.
    pub async fn rotate_key(&self, actor: &str) -> Result<Rotated, String> {
        let (reply, done) = oneshot::channel();
        let asked = AskedRotation { actor: actor.to_owned(), reply };
        if !self.holds_lease() || self.keys.is_none() || self.rotations.send(asked).await.is_err() {
            return Err(ELSEWHERE.to_owned());
        }
        done.await.unwrap_or_else(|_| Err(ELSEWHERE.to_owned()))
    }

    /// Holds the logs against everything that is known of them. Errors: the bus, the disk, a range that is none.
    pub async fn verify(&self, bounds: Bounds, watcher: &dyn Watcher) -> Result<Verified, ConsumersError> {
        let sites = self.sites.iter().map(subject::site_stream).collect();
        let (bus, live, target) = (&self.bus, &self.store, &self.target);
        let shelf = self.shelf.as_ref();
        Verification { bus, live, target, sites, shelf, bounds, watcher }.run().await
    }

    /// A part of one log as evidence. Errors: nothing signs it, this process has not the key, the bus.
    pub async fn export(&self, bounds: Bounds) -> Result<Exported, ConsumersError> {
        let bounds = one_log(&self.target, &self.sites, bounds)?;
        let keys = self.keys.clone().ok_or_else(|| {
            ConsumersError::Unprovable("this process has no signing key, so it signs nothing".to_owned())
        })?;
        Export { bus: self.bus.clone(), target: self.target.clone(), keys, bounds }.begin().await
    }

    /// Has copies of some parked messages taken in, or looks whether that could be. Errors: this process does not act
    /// for the target, nothing like that was parked, the bus, the disk.
    pub async fn redrive(&self, asked: &Asked) -> Result<Page, ConsumersError> {
        let (bus, store, progress) = (&self.bus, &self.store, &self.progress);
        let (target, sites, holding) = (&self.target, &self.sites, &self.holding);
        Redriving { bus, store, progress, target, sites, holding, asked }.page().await
    }

    /// The watch on whether this process holds the lease.
    pub fn lease(&self) -> watch::Receiver<bool> {
        self.holding.clone()
    }

    /// The logs up to a point in a throw-away store, from the nearest snapshot on. Errors: the bus, the disk.
    pub async fn replay(
        &self,
        streams: &[(String, Until)],
        watcher: &dyn Watcher,
    ) -> Result<Replayed, ConsumersError> {
        replay(&self.bus, &self.target, self.shelf.as_ref(), streams, Some(&self.store), watcher).await
    }

    /// Where snapshots are kept; none = nowhere.
    pub fn shelf(&self) -> Option<&Shelf> {
        self.shelf.as_ref()
    }

    /// The pool once more from the logs in a new file, compared with the live one. Errors: the bus, the disk.
    pub async fn rebuild(&self, path: &Path, watcher: &dyn Watcher) -> Result<Rebuilt, ConsumersError> {
        let Self { bus, target, sites, store: live, gate, .. } = self;
        Rebuild { bus, target, sites, live, gate, shelf: self.shelf.as_ref(), watcher }.run(path).await
    }
}

impl Service {
    /// Builds the service. Errors: the first mistake in the configuration.
    pub fn build(config: ServiceConfig, bus: Bus, store: Store) -> Result<Self, ConsumersError> {
        config.check()?;
        let (applied, progress) = Progress::channel();
        let (troubles, troubles_seen) = watch::channel(Troubles::new());
        let (shown, shown_seen) = watch::channel(Vec::new());
        let (holding, holding_seen) = watch::channel(false);
        let (log, log_seen) = log::Shown::channel();
        let (scrubs, scrubs_asked) = mpsc::channel(log::ASKED_MAX);
        let (unkept, unkept_seen) = watch::channel(None);
        let (signing, signing_seen) = watch::channel(Signing::default());
        let (rotations, rotations_asked) = mpsc::channel(ROTATIONS_MAX);
        let handle = Handle {
            bus: bus.clone(),
            store: store.clone(),
            gate: Arc::new(Mutex::new(())),
            progress,
            troubles: troubles_seen,
            shown: shown_seen,
            holding: holding_seen,
            log: log_seen,
            scrubs,
            target: config.target.clone(),
            sites: config.sites.clone(),
            keys: None,
            shelf: None,
            signing: signing_seen,
            unkept: unkept_seen,
            rotations,
        };
        let (scrubs, rotations) = (Arc::new(Mutex::new(scrubs_asked)), Arc::new(Mutex::new(rotations_asked)));
        let ends = Ends { applied, troubles, shown, holding, log, scrubs, signing, rotations, unkept };
        let config = Arc::new(config);
        let logs = Logs::new(bus.clone(), config.clone());
        Ok(Self { config, bus, logs, store, handle, ends })
    }

    /// Lets it sign checkpoints with the key in this file, which is made when it is not there. Without one it states none.
    #[must_use]
    pub fn signing_with(mut self, keys: KeyFile) -> Self {
        self.handle.keys = Some(keys);
        self
    }

    /// Lets it keep snapshots there. Without a shelf it takes none, and every replay starts with the logs.
    #[must_use]
    pub fn keeping(mut self, shelf: Shelf) -> Self {
        self.handle.shelf = Some(shelf);
        self
    }

    /// What others may see and ask.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Makes the logs that are not there, now and whenever one is missed, and runs until `shutdown`;
    /// everything is joined. A NATS that goes away meanwhile is waited for.
    ///
    /// Errors: a log that is too weak, a task that broke down.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), ConsumersError> {
        let Some(lease) = self.begin(&shutdown).await? else { return Ok(()) };
        let facts = FactPublisher::new(&self.bus, &self.config.target, lease.token());
        let outbox = Arc::new(Notify::new());
        let mut tasks = JoinSet::new();
        tasks.spawn(self.logs.clone().keep(shutdown.clone()));
        for stream in self.logs.streams() {
            tasks.spawn(self.pump(stream, facts.clone(), outbox.clone()).run(shutdown.clone()));
        }
        let (bus, store) = (self.bus.clone(), self.store.clone());
        let emptying = Outbox { bus, store, facts: facts.clone(), called: outbox, logs: self.logs.clone() };
        tasks.spawn(emptying.run(shutdown.clone()));
        tasks.spawn(self.actor(facts).run(shutdown.clone()));
        if let Some(shelf) = self.handle.shelf.clone() {
            tasks.spawn(self.keeper(shelf).run(shutdown.clone()));
        }
        let result = join_all(tasks, &shutdown).await;
        lease.release().await;
        result
    }

    /// Makes the logs and stands for the lease; none = the shutdown came first.
    async fn begin(&self, shutdown: &CancellationToken) -> Result<Option<Lease>, ConsumersError> {
        loop {
            let begun = async {
                self.logs.ensure().await?;
                Ok(Lease::contend(&self.bus, self.lease_options()?).await?)
            };
            match begun.await {
                Err(ConsumersError::Bus(error)) if error.is_passing() => {
                    tracing::warn!(%error, "NATS is not ready while the service begins; it begins again");
                }
                begun => return begun.map(Some),
            }
            tokio::select! {
                () = shutdown.cancelled() => return Ok(None),
                () = tokio::time::sleep(BEGIN_AGAIN_AFTER) => {}
            }
        }
    }

    fn lease_options(&self) -> Result<LeaseOptions, ConsumersError> {
        let lease = subject::TARGET_LEASE.parse::<Name>().map_err(|error| ConsumersError::Config {
            what: "the lease".to_owned(),
            reason: error.to_string(),
        })?;
        Ok(LeaseOptions {
            target: self.config.target.clone(),
            lease,
            holder: format!("{}-{}", std::process::id(), uuid::Uuid::now_v7()),
            ttl: Duration::from_millis(self.config.lease_ttl.ms()),
            replicas: self.config.log_replicas,
        })
    }

    fn pump(&self, stream: String, facts: FactPublisher, outbox: Arc<Notify>) -> Pump {
        Pump {
            bus: self.bus.clone(),
            store: self.store.clone(),
            stream,
            facts,
            applied: self.ends.applied.clone(),
            outbox,
            gate: self.handle.gate.clone(),
            troubles: self.ends.troubles.clone(),
            logs: self.logs.clone(),
        }
    }

    fn keeper(&self, shelf: Shelf) -> Keeper {
        Keeper {
            bus: self.bus.clone(),
            store: self.store.clone(),
            target: self.config.target.clone(),
            sites: self.config.sites.clone(),
            shelf,
            when: self.config.snapshot.read(),
            unkept: self.ends.unkept.clone(),
        }
    }

    fn actor(&self, facts: FactPublisher) -> Actor {
        Actor {
            config: self.config.clone(),
            bus: self.bus.clone(),
            store: self.store.clone(),
            streams: self.logs.streams().collect(),
            progress: self.handle.progress.clone(),
            facts,
            shown: self.ends.shown.clone(),
            holding: self.ends.holding.clone(),
            log: self.ends.log.clone(),
            scrubs: self.ends.scrubs.clone(),
            keys: self.handle.keys.clone(),
            shelf: self.handle.shelf.clone(),
            signing: self.ends.signing.clone(),
            rotations: self.ends.rotations.clone(),
        }
    }
}

/// What acts for the target while this process holds the lease.
struct Actor {
    config: Arc<ServiceConfig>,
    bus: Bus,
    store: Store,
    streams: Vec<String>,
    progress: Progress,
    facts: FactPublisher,
    shown: watch::Sender<Vec<Shown>>,
    holding: watch::Sender<bool>,
    log: log::Shown,
    scrubs: Arc<Mutex<mpsc::Receiver<AskedScrub>>>,
    keys: Option<KeyFile>,
    shelf: Option<Shelf>,
    signing: watch::Sender<Signing>,
    rotations: Arc<Mutex<mpsc::Receiver<AskedRotation>>>,
}

type Tasks = JoinSet<Result<(), ConsumersError>>;

impl Actor {
    async fn run(self, shutdown: CancellationToken) {
        let mut lease = self.facts.lease();
        loop {
            let token = tokio::select! {
                // The end comes first: a lease that is still held begins nothing any more.
                biased;
                () = shutdown.cancelled() => return,
                token = lease.wait_for(Option::is_some) => match token {
                    Ok(token) => token.clone(),
                    Err(_) => return,
                },
            };
            tracing::info!(token = token.as_ref().map(|token| token.seq), "this process acts for the target");
            let stop = shutdown.child_token();
            let mut tasks = Tasks::new();
            let started = self.start(&mut tasks, &stop).await;
            self.holding.send_replace(started.is_ok());
            let (lost, began) = (lease.wait_for(|now| *now != token), started.is_ok());
            let ended = tokio::select! {
                _ = lost, if began => None,
                () = shutdown.cancelled(), if began => None,
                ended = tasks.join_next(), if began => ended,
                else => Some(Ok(started)),
            };
            stop.cancel();
            self.holding.send_replace(false);
            self.shown.send_replace(Vec::new());
            self.log.waits.send_replace(Waits::new());
            self.log.unscrubbed.send_replace(Unscrubbed::new());
            let broke_off = ended.is_some();
            if let Err(error) = settle(ended, tasks).await {
                tracing::error!(%error, "acting for the target broke off, and begins again");
            }
            if broke_off {
                tokio::time::sleep(ACT_AGAIN_AFTER).await;
            }
        }
    }

    async fn start(&self, tasks: &mut Tasks, stop: &CancellationToken) -> Result<(), ConsumersError> {
        let Self { config, bus, progress, facts, shown, .. } = self;
        let reader = self.store.reader();
        for site in &config.sites {
            let (bus, site, reader, progress) = (bus.clone(), site.clone(), reader.clone(), progress.clone());
            let target = config.target.clone();
            let greeter = Greeter { bus, target, site, reader, progress };
            let requests = greeter.open().await?;
            tasks.spawn(greeter.run(requests, stop.clone()));
        }
        let (bus, config, facts) = (bus.clone(), config.clone(), facts.clone());
        let acting = Acting { bus, config, facts, reader, progress: progress.clone() };
        acting.start(tasks, shown.clone(), stop).await?;
        self.logs().start(tasks, stop);
        if let Some(keys) = self.keys.clone() {
            tasks.spawn(self.stater(keys).run(stop.clone()));
        }
        if let Some(shelf) = self.shelf.clone().filter(|_| self.config.retention.keep() != Keep::default()) {
            tasks.spawn(self.trimmer(shelf).run(stop.clone()));
        }
        Ok(())
    }

    fn stater(&self, keys: KeyFile) -> Stater {
        Stater {
            bus: self.bus.clone(),
            store: self.store.clone(),
            progress: self.progress.clone(),
            streams: self.streams.clone(),
            facts: self.facts.clone(),
            keys,
            when: self.config.checkpoint.read(),
            shown: self.signing.clone(),
            asked: self.rotations.clone(),
        }
    }

    fn trimmer(&self, shelf: Shelf) -> Trimmer {
        Trimmer {
            bus: self.bus.clone(),
            store: self.store.clone(),
            facts: self.facts.clone(),
            streams: self.config.sites.iter().map(subject::site_stream).collect(),
            shelf,
            keep: self.config.retention.keep(),
            mirrors: self.config.retention.mirrors.clone(),
            waits: self.log.waits.clone(),
        }
    }

    fn logs(&self) -> log::Acting {
        log::Acting {
            bus: self.bus.clone(),
            store: self.store.clone(),
            progress: self.progress.clone(),
            facts: self.facts.clone(),
            streams: self.streams.clone(),
            scrubs: self.config.scrub.read(),
            shown: self.log.clone(),
            asked: self.scrubs.clone(),
        }
    }
}

/// Joins what acted; the first error is the result.
async fn settle(
    first: Option<Result<Result<(), ConsumersError>, JoinError>>,
    mut tasks: Tasks,
) -> Result<(), ConsumersError> {
    let mut result = Ok(());
    let mut next = match first {
        Some(first) => Some(first),
        None => tasks.join_next().await,
    };
    while let Some(ended) = next {
        let ended = ended.unwrap_or_else(|source| Err(ConsumersError::Task { task: "reaction", source }));
        result = result.and(ended);
        next = tasks.join_next().await;
    }
    result
}

/// Joins every task; one that breaks down ends the others.
async fn join_all(mut tasks: JoinSet<()>, shutdown: &CancellationToken) -> Result<(), ConsumersError> {
    let mut result = Ok(());
    while let Some(ended) = tasks.join_next().await {
        if let Err(source) = ended {
            shutdown.cancel();
            result = result.and(Err(ConsumersError::Task { task: "pump", source }));
        }
    }
    result
}
