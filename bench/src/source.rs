//! A source: a directory of records, and the real agent that watches it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use bus::{
    Bus, ConnectOptions, Credentials,
    managed::{AgentId, AgentIdentity, AgentScope, ManagedServer, make_seed_file},
};
use bus_schema::{Hash32, Name, PoolId, ResourceKey, Stem};
use producers::{Agent, AgentConfig, ClusterConfig, KeyConfig, ProducersError, SourceConfig};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{Outcome, load};

/// The cluster that every source of the measurements stands for.
const CLUSTER: &str = "bench";

/// A directory of files with some records each.
pub(crate) struct Source {
    dir: PathBuf,
    site: Name,
    records_a_file: u64,
}

/// An agent that runs.
pub(crate) struct Running {
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), ProducersError>>,
}

impl Running {
    /// Lets it drain, and waits for its end.
    pub(crate) async fn stop(self) -> Outcome<()> {
        self.shutdown.cancel();
        Ok(self.task.await??)
    }
}

impl Source {
    /// Writes `files` files of `records_a_file` records.
    pub(crate) fn write(dir: &Path, site: &str, files: u64, records_a_file: u64) -> Outcome<Self> {
        fs::create_dir_all(dir.join("files"))?;
        let source = Self { dir: dir.to_owned(), site: site.parse()?, records_a_file };
        for file in 0..files {
            source.rewrite(file, 0)?;
        }
        Ok(source)
    }

    /// Writes a file once more, in place: its records have another revision and another state.
    pub(crate) fn rewrite(&self, file: u64, round: u64) -> io::Result<()> {
        let first = file * self.records_a_file;
        let records = first..first + self.records_a_file;
        let lines: String = records.map(|number| load::record(number, round) + "\n").collect();
        fs::write(self.dir.join(format!("files/{file}.json")), lines)
    }

    /// The pool that its resources are in.
    pub(crate) fn pool(&self) -> Outcome<PoolId> {
        Ok(PoolId { site: self.site.clone(), cluster: CLUSTER.parse()? })
    }

    /// How its agent comes in: with a key of its own, enrolled when it starts first.
    async fn identity(&self, server: &ManagedServer) -> Outcome<ConnectOptions> {
        let seed = self.dir.join("agent.nk");
        if !seed.exists() {
            let id = AgentId { site: self.site.clone(), name: "bench".parse()? };
            let (clusters, stems) = ([CLUSTER.parse()?].into(), [Stem::Resource].into());
            let (scope, public_key) = (AgentScope { id, clusters, stems }, make_seed_file(&seed)?);
            server.roster().enroll_agent(AgentIdentity { scope, public_key }).await?;
        }
        let (servers, credentials) = (server.url().to_owned(), Credentials::NkeySeedFile(seed));
        Ok(ConnectOptions { servers, name: "bench".to_owned(), credentials, ..ConnectOptions::default() })
    }

    /// Starts the agent, with its ledger beside the files.
    pub(crate) async fn agent(&self, server: &ManagedServer) -> Outcome<Running> {
        let bus = Bus::connect(self.identity(server).await?).await?;
        let cluster = ClusterConfig {
            name: CLUSTER.parse()?,
            source: SourceConfig::Directory { path: self.dir.join("files"), every_s: 3_600 },
            push: producers::PushConfig::default(),
            redact: producers::redact::RedactConfig::default(),
            // The target asks no source that has not announced an access key.
            keys: vec![KeyConfig {
                id: "ak-bench".parse()?,
                tenant: "bench".parse()?,
                not_after: None,
                secret_file: None,
                salt: Some(Hash32::of(b"salt")),
                hash: Some(Hash32::of(b"no secret opens it")),
            }],
            tenant_label: "farside/tenant".to_owned(),
            tenant: None,
        };
        let config = AgentConfig {
            site: self.site.clone(),
            name: "bench".parse()?,
            ledger: self.dir.join("ledger.redb"),
            heartbeat_s: 1,
            hello_wait_ms: 2_000,
            drain_s: 10,
            outbox_bytes_max: 256 << 20,
            journal_events_max: 200_000,
            journal_bytes_max: 256 << 20,
            clusters: vec![cluster],
            config_file: None,
        };
        let (agent, shutdown) = (Agent::build(config, bus)?, CancellationToken::new());
        let task = tokio::spawn(agent.run(shutdown.clone()));
        Ok(Running { shutdown, task })
    }
}

/// The key of a record.
pub(crate) fn key(number: u64) -> Outcome<ResourceKey> {
    Ok(load::key(number).parse()?)
}
