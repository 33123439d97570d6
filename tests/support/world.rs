//! A world of three processes that can be killed each: a nats-server of its own, `farside serve`, and `farside agent`
//! over a directory of resources.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{eventually, nats::free_port};

/// A farside process that is started again with the same arguments.
pub(crate) struct Process {
    binary: PathBuf,
    arguments: Vec<String>,
    pub(crate) log: PathBuf,
    child: Child,
}

impl Process {
    fn start(binary: &Path, arguments: &[&str], log: PathBuf) -> Self {
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let (binary, child) = (binary.to_owned(), Self::spawn(binary, &arguments, &log));
        Self { binary, arguments, log, child }
    }

    fn spawn(binary: &Path, arguments: &[String], log: &Path) -> Child {
        let log = fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
        let mut command = Command::new(binary);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        command.spawn().unwrap()
    }

    /// Ends it like a crash does.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again after it was killed.
    pub(crate) fn start_again(&mut self) {
        self.child = Self::spawn(&self.binary, &self.arguments, &self.log);
    }

    /// Lets it stand still until [`Process::go_on`].
    pub(crate) fn stand_still(&self) {
        kill_process(Pid::from_child(&self.child), Signal::STOP).unwrap();
    }

    /// Lets it go on.
    pub(crate) fn go_on(&self) {
        kill_process(Pid::from_child(&self.child), Signal::CONT).unwrap();
    }

    pub(crate) fn kill_and_start_again(&mut self) {
        self.child.kill().unwrap();
        let ended = self.child.wait().unwrap();
        assert_eq!(
            ended.signal(),
            Some(9),
            "it ended by itself before it was killed: {ended}; {}",
            self.tail()
        );
        self.start_again();
    }

    fn tail(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let from = log.len().saturating_sub(2_000);
        log.get(from..).unwrap_or_default().to_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("the end of {}:\n{}", self.log.display(), self.tail());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The programs of a world.
pub(crate) struct Releases {
    pub(crate) agent: PathBuf,
    pub(crate) service: PathBuf,
}

impl Default for Releases {
    fn default() -> Self {
        let ours = PathBuf::from(env!("CARGO_BIN_EXE_farside"));
        Self { agent: ours.clone(), service: ours }
    }
}

/// One agent and one service in a directory of their own.
pub(crate) struct World {
    dir: tempfile::TempDir,
    binary: PathBuf,
    pub(crate) agent: Process,
    pub(crate) service: Process,
}

impl World {
    pub(crate) fn start(nats: &str) -> Self {
        Self::start_with(nats, "")
    }

    /// Starts them with these lines more under `[service]`.
    pub(crate) fn start_with(nats: &str, service: &str) -> Self {
        Self::start_of(Releases::default(), nats, service)
    }

    /// Starts them from these programs.
    pub(crate) fn start_of(releases: Releases, nats: &str, service: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        fs::create_dir(dir.path().join("source")).unwrap();
        let listen = format!("127.0.0.1:{}", free_port());
        let config = |service: &str| {
            format!(
                "data_dir = {data:?}\n[nats]\nservers = {nats:?}\n[console]\nlisten = {listen:?}\n\
             [service]\nlog_bytes_max = 1073741824\nlease_ttl = \"1s\"\n{service}\n[service.schedule]\nevery = \"2s\"\n\
             [service.patience]\nstalled = \"3s\"\n\
             [[agent.resource]]\nname = \"inv\"\nledger = {ledger:?}\nheartbeat_s = 1\n\
             [[agent.resource.clusters]]\nname = \"kill\"\n\
             source = {{ adapter = \"directory\", path = {source:?}, every_s = 5 }}\n\
             keys = [{{ id = \"ak\", tenant = \"acme\", salt = \"{salt}\", hash = \"{salt}\" }}]\n",
                data = path("data"),
                ledger = path("ledger.redb"),
                source = path("source"),
                salt = "0".repeat(64),
            )
        };
        // An agent of another release may not know what the service is told.
        let (file, agents) = (path("farside.toml"), path("agent.toml"));
        fs::write(&file, config(service)).unwrap();
        fs::write(&agents, config("")).unwrap();
        let service =
            Process::start(&releases.service, &["serve", "-c", &file], dir.path().join("service.log"));
        let agent = Process::start(
            &releases.agent,
            &["agent", "resource", "-c", &agents],
            dir.path().join("agent.log"),
        );
        Self { dir, binary: releases.service, agent, service }
    }

    pub(crate) fn source(&self) -> PathBuf {
        self.dir.path().join("source")
    }

    pub(crate) fn pool_file(&self) -> PathBuf {
        self.dir.path().join("data/pool.redb")
    }

    pub(crate) async fn ask(&self, arguments: &[&str]) -> Output {
        let config = self.dir.path().join("farside.toml");
        let mut command = Command::new(&self.binary);
        command.arg("-c").arg(config).args(arguments).stdin(Stdio::null());
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    }

    pub(crate) async fn status(&self) -> Option<Value> {
        serde_json::from_slice(&self.ask(&["status", "-o", "json"]).await.stdout).ok()
    }

    /// Waits until the pool has taken in something that it did not have.
    pub(crate) async fn moves_on(&self) {
        let applied = async || {
            let status = self.status().await?;
            status["pools"].get(0)?["owners"].get(0)?["applied"].as_u64()
        };
        let before = eventually("farside answers", &applied).await;
        eventually("the pool moves on", async || applied().await.filter(|now| *now > before)).await;
    }

    pub(crate) async fn owner(&self) -> Value {
        self.status().await.unwrap()["pools"][0]["owners"][0].clone()
    }

    /// Waits until the digests are equal and the pool holds exactly what the source holds.
    pub(crate) async fn agrees_with(&self, truth: &BTreeMap<String, u64>) {
        eventually("pool and source agree", async || {
            let status = self.status().await?;
            let pool = status["pools"].get(0)?;
            (pool["in_sync"] == "yes" && self.pool().await == *truth).then_some(())
        })
        .await;
    }

    /// What the pool holds: key and number of each live resource.
    pub(crate) async fn pool(&self) -> BTreeMap<String, u64> {
        let export = self.ask(&["pool", "export", "kill"]).await.stdout;
        let lines = export.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
        let rows = lines.map(|line| serde_json::from_slice::<Value>(line).unwrap());
        let live = rows.filter(|row| row.get("deleted_at").is_none());
        live.map(|row| (row["key"].as_str().unwrap().to_owned(), row["state"]["n"].as_u64().unwrap()))
            .collect()
    }
}
