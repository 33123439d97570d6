//! The agent: Config → build → Agent → run → drain. One owner holds everything that changes; `select`
//! says what happened as a closed enum, `apply` changes state without waiting for anything but the
//! ledger, and after each turn the agent asks again what should be under way.
//!
//! Must not know: how a source is read, how an event is made, or what a target does with it.

use std::{
    collections::VecDeque,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bus::{Bus, LinkState, Publisher, Request};
use bus_schema::{
    Epoch, Name, PoolId, Stem, Timestamp,
    command::{agent::REPLAY, resource::ReadRequest},
    event::agent::{AgentEvent, CheckpointSeen, Started, Stopped},
    event::resource::SyncScope,
    stream::MESSAGE_BYTES_MAX,
    subject,
};
use tokio::{
    runtime::Handle,
    sync::{mpsc, watch},
    task::JoinSet,
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    LedgerError, ProducersError,
    cluster::Cluster,
    config::{AgentConfig, ClusterConfig, SourceConfig},
    keys,
    ledger::Ledger,
    redact::Redactor,
    resource::{
        Inventory,
        directory::Directory,
        exec::{Exec, ExecOptions},
        format::Reader,
    },
    seal::{self, Saying},
    sequencer::{Preface, Rules, Sequencer},
};

mod command;
mod greeting;
mod heartbeat;
mod outlet;
mod replay;
mod rest;
mod turn;

use outlet::Outlet;

/// Largest event body, in bytes: with its headers it stays below [`MESSAGE_BYTES_MAX`].
pub const INLINE_BYTES_MAX: usize = 900_000;
/// What headers and protocol may add to a body, in bytes.
const HEADER_BYTES: usize = MESSAGE_BYTES_MAX - INLINE_BYTES_MAX;
/// Commands and notes of change that wait for the agent.
const NOTES_QUEUED_MAX: usize = 64;

/// A source agent, built and not yet running.
pub struct Agent {
    config: AgentConfig,
    name: Name,
    heartbeat: Duration,
    hello_wait: Duration,
    drain: Duration,
    bus: Bus,
    publisher: Publisher,
    stream: String,
    ledger: Ledger,
    /// The checkpoint that a target told of last.
    checkpoint: Option<CheckpointSeen>,
    lanes: Vec<Lane>,
    tasks: JoinSet<turn::Done>,
    link: watch::Receiver<LinkState>,
    link_up: bool,
    stopping: Option<Instant>,
}

/// A cluster and its way to the log.
struct Lane {
    cluster: Cluster,
    outlet: Outlet,
    greeting: greeting::Greeting,
    /// The replay under way.
    replay: Option<replay::Replaying>,
    /// Reads that wait for those under way.
    reads: VecDeque<(ReadRequest, Request)>,
    pulse: heartbeat::Pulse,
    /// The epoch in which the goodbye was said.
    stopped_in: Option<Epoch>,
}

impl Lane {
    /// Whether all was said, and the log has it.
    fn is_drained(&self) -> bool {
        let sequencer = &self.cluster.sequencer;
        self.stopped_in == Some(sequencer.chain().epoch) && sequencer.waiting().events == 0
    }
}

/// The present, by the source's clock. Order never depends on it.
fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_unix_ms(since.as_millis().try_into().unwrap_or(i64::MAX))
}

impl Agent {
    /// Opens the ledger and checks the sources. Errors: the configuration, the ledger, a key, an unsafe command.
    pub fn build(config: AgentConfig, bus: Bus) -> Result<Self, ProducersError> {
        config.check().map_err(ProducersError::Config)?;
        let ledger = Ledger::open(&config.ledger)?;
        let inline_bytes_max =
            INLINE_BYTES_MAX.min(bus.server().payload_bytes_max.saturating_sub(HEADER_BYTES));
        let mut lanes = Vec::new();
        for cluster in &config.clusters {
            lanes.push(lane(&config, cluster, &ledger, inline_bytes_max)?);
        }
        let link = bus.link();
        let link_up = matches!(*link.borrow(), LinkState::Up { .. });
        Ok(Self {
            heartbeat: heartbeat(&config),
            name: config.name.clone(),
            hello_wait: Duration::from_millis(config.hello_wait_ms),
            drain: Duration::from_secs(u64::from(config.drain_s)),
            publisher: bus.publisher(),
            stream: subject::site_stream(&config.site),
            bus,
            checkpoint: ledger.last_checkpoint()?,
            ledger,
            config,
            lanes,
            tasks: JoinSet::new(),
            link_up,
            link,
            stopping: None,
        })
    }

    /// Runs until `shutdown`, then sends what it has, with a deadline. What is left waits in the ledger.
    /// A full disk is waited for.
    ///
    /// Errors: the ledger fails, or commands cannot be served.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), ProducersError> {
        // The owner waits for its ledger's disk; on a thread of its own it holds up nobody else.
        let runtime = Handle::current();
        tokio::task::spawn_blocking(move || runtime.block_on(self.live(shutdown))).await?
    }

    async fn live(mut self, shutdown: CancellationToken) -> Result<(), ProducersError> {
        loop {
            match self.own(&shutdown).await {
                Err(ProducersError::Ledger(full @ LedgerError::Full { .. })) => {
                    let Some(rested) = self.rest(&full, &shutdown).await? else { return Ok(()) };
                    self = rested;
                }
                ended => return ended,
            }
        }
    }

    async fn own(&mut self, shutdown: &CancellationToken) -> Result<(), ProducersError> {
        let (notes, mut noted) = mpsc::channel(NOTES_QUEUED_MAX);
        let mut listeners = self.listen(&notes).await?;
        drop(notes);
        self.greet();
        while !self.is_drained() {
            let deadline = self.turn()?;
            let event = self.select(shutdown, &mut noted, deadline).await;
            self.apply(event)?;
        }
        listeners.shutdown().await;
        // Readings of single resources run on threads that nobody can cancel; they end by themselves.
        self.tasks.abort_all();
        for lane in &self.lanes {
            let (waiting, pool) = (lane.cluster.sequencer.waiting(), &lane.cluster.sequencer.source().pool);
            tracing::info!(%pool, events = waiting.events, "the agent stopped; what waits goes out at the next start");
        }
        Ok(())
    }

    async fn listen(&self, notes: &mpsc::Sender<turn::Note>) -> Result<JoinSet<()>, ProducersError> {
        let mut listeners = JoinSet::new();
        for (index, lane) in self.lanes.iter().enumerate() {
            let source = lane.cluster.sequencer.source();
            // Not all of its own stem: the greetings there are the target's to hear.
            for (stem, verb) in [(Stem::Resource, "*"), (Stem::Agent, REPLAY)] {
                let requests = self.bus.serve(&subject::command(&source.pool, stem, verb)).await?;
                listeners.spawn(command::listen(requests, source.clone(), index, notes.clone()));
            }
            if let Some(dirty) = lane.cluster.inventory.dirt() {
                listeners.spawn(turn::watch(dirty, index, notes.clone()));
            }
        }
        Ok(listeners)
    }

    /// The first words of a run: keys before anything else, so that they stand before every sync's answer.
    fn begin(&mut self, index: usize) -> Result<(), ProducersError> {
        let cluster = &mut self.lanes[index].cluster;
        cluster.greeted = true;
        Ok(cluster.sequencer.introduce(now())?)
    }

    fn say_stopped(&mut self, index: usize) -> Result<(), ProducersError> {
        let stopped = AgentEvent::Stopped(Stopped { agent: self.name.clone() });
        let lane = &mut self.lanes[index];
        lane.cluster.sequencer.say(Saying::agent(&stopped)?, now())?;
        lane.stopped_in = Some(lane.cluster.sequencer.chain().epoch);
        Ok(())
    }

    /// An epoch whose log lacks something is mended as soon as the way is free: everything, once.
    fn open_window(&mut self, index: usize) -> Result<(), ProducersError> {
        let sequencer = &mut self.lanes[index].cluster.sequencer;
        let owed = sequencer.chain().window_due && sequencer.waiting().events == 0;
        if owed && self.link_up && self.stopping.is_none() {
            let id = format!("window-{}", Uuid::now_v7());
            sequencer.open_sync(&id, SyncScope::Full, 0, Vec::new(), now())?;
        }
        Ok(())
    }

    fn is_drained(&self) -> bool {
        match self.stopping {
            None => false,
            Some(deadline) => Instant::now() >= deadline || self.lanes.iter().all(Lane::is_drained),
        }
    }
}

fn lane(
    config: &AgentConfig,
    cluster: &ClusterConfig,
    ledger: &Ledger,
    inline_bytes_max: usize,
) -> Result<Lane, ProducersError> {
    let pool = PoolId { site: config.site.clone(), cluster: cluster.name.clone() };
    let rules = Rules {
        push: cluster.push.clone(),
        inline_bytes_max,
        outbox_bytes_max: config.outbox_bytes_max,
        journal_events_max: config.journal_events_max,
        journal_bytes_max: config.journal_bytes_max,
    };
    let mut sequencer = Sequencer::open(ledger.clone(), seal::source(pool, &config.name), rules)?;
    let keys = keys::read(ledger, cluster.name.as_str(), &cluster.keys)?;
    sequencer.set_preface(Preface { keys, started: Saying::agent(&started(config))? });
    let inventory = inventory(cluster, ledger, config.config_file.as_deref())?;
    Ok(Lane {
        cluster: Cluster::new(sequencer, inventory, cluster.source.every()),
        outlet: Outlet::default(),
        greeting: greeting::Greeting::default(),
        replay: None,
        reads: VecDeque::new(),
        pulse: heartbeat::Pulse::default(),
        stopped_in: None,
    })
}

fn started(config: &AgentConfig) -> AgentEvent {
    let heartbeat_ms = heartbeat(config).as_millis().try_into().unwrap_or(u32::MAX);
    let (agent, version) = (config.name.clone(), env!("CARGO_PKG_VERSION").to_owned());
    AgentEvent::Started(Started { agent, stem: Stem::Resource, version, heartbeat_ms })
}

fn heartbeat(config: &AgentConfig) -> Duration {
    Duration::from_secs(u64::from(config.heartbeat_s.max(1)))
}

fn inventory(
    cluster: &ClusterConfig,
    ledger: &Ledger,
    config_file: Option<&Path>,
) -> Result<Arc<dyn Inventory>, ProducersError> {
    let reader = |format| -> Result<Reader, ProducersError> {
        let redactor = Redactor::new(ledger.salt()?, &cluster.redact);
        let (tenant_label, tenant) = (cluster.tenant_label.clone(), cluster.tenant.clone());
        Ok(Reader { redactor, tenant_label, tenant, format })
    };
    Ok(match &cluster.source {
        SourceConfig::Directory { path, .. } => Arc::new(Directory::new(path, reader(None)?)),
        SourceConfig::Exec { command, timeout_s, output_bytes_max, format, .. } => {
            let options = ExecOptions {
                command: command.clone(),
                timeout: Duration::from_secs(u64::from(*timeout_s)),
                output_bytes_max: *output_bytes_max,
                config_file: config_file.map(Path::to_owned),
            };
            Arc::new(Exec::new(options, reader(*format)?)?)
        }
    })
}
