//! A Farside on a NATS server of its own: the program as users run it, asked by its verbs.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    sync::atomic::{AtomicU64, Ordering},
};

use bus::{Bus, ConnectOptions, Outgoing};
use bus_schema::{Name, PoolId, Stem, subject};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::{KitError, NatsServer, nats::free_port, wait};

/// The site whose log is on the same machine.
const SITE: &str = "local";
/// Room that a log may take, in bytes: a test needs no more.
const LOG_BYTES_MAX: u64 = 1 << 30;
/// How much of what a program said stands in an error, in bytes.
const SAID_BYTES_MAX: usize = 2_000;

/// A running `farside serve`, its NATS, and their directory.
#[derive(Debug)]
pub struct Farside {
    // Dropped in this order: the program ends before its log and its directory go.
    child: Child,
    bus: Bus,
    nats: NatsServer,
    dir: TempDir,
    published: AtomicU64,
}

impl Farside {
    /// Starts a NATS server, and a Farside on it. Errors: one of them does not start.
    pub async fn start() -> Result<Self, KitError> {
        Self::start_on(NatsServer::start().await?, "").await
    }

    /// Starts a Farside on a NATS server, with more in its configuration (`farside.example.toml` has what there is).
    /// Errors: it does not start.
    pub async fn start_on(nats: NatsServer, config: &str) -> Result<Self, KitError> {
        // The path of its socket must be short.
        let dir = tempfile::Builder::new().prefix("fs").tempdir();
        let dir = dir.map_err(KitError::io("make", "a directory for farside"))?;
        let text = format!(
            "data_dir = {:?}\n{config}\n[nats]\nservers = {:?}\n[console]\nlisten = \"127.0.0.1:{}\"\n\
             [service]\nlog_bytes_max = {LOG_BYTES_MAX}\n",
            dir.path().join("data"),
            nats.url(),
            free_port()?
        );
        fs::write(dir.path().join(CONFIG), text).map_err(KitError::io("write", CONFIG))?;
        let child = serve(dir.path())?;
        let options =
            ConnectOptions { servers: nats.url(), name: "testkit".to_owned(), ..ConnectOptions::default() };
        let bus = Bus::connect(options).await?;
        let mut farside = Self { child, bus, nats, dir, published: AtomicU64::new(0) };
        farside.ready().await?;
        Ok(farside)
    }

    /// Its NATS server: to connect a client of one's own, or to let it fail.
    pub fn nats(&mut self) -> &mut NatsServer {
        &mut self.nats
    }

    /// The directory of its configuration and its data.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Publishes that a resource (`<kind>/<id>`) of a cluster has a state, as any program does: a subject and JSON. Each
    /// has another revision. Answers its sequence in the log. Errors: a name that is none; the log does not take it.
    pub async fn publish(&self, cluster: &str, key: &str, state: &Value) -> Result<u64, KitError> {
        let wrong = |what, text: &str, reason: String| KitError::Name { what, text: text.to_owned(), reason };
        let (kind, id) = key
            .split_once('/')
            .ok_or_else(|| wrong("key of a resource", key, "it is <kind>/<id>, like VM/db-1".to_owned()))?;
        let pool: PoolId = format!("{SITE}/{cluster}")
            .parse()
            .map_err(|error| wrong("cluster", cluster, format!("{error}")))?;
        let subject =
            format!("{}changed", subject::entity_events(&pool, Stem::Resource, key).trim_end_matches('*'));
        let number = self.published.fetch_add(1, Ordering::Relaxed);
        let body = json!({ "kind": kind, "id": id, "revision": number.to_string(), "state": state })
            .to_string()
            .into();
        let message_id = format!("testkit/{number}");
        let event = Outgoing { subject, headers: Vec::new(), body, message_id };
        let published = self.bus.publisher().publish(&subject::site_stream(&pool.site), &event, None).await?;
        Ok(published.seq)
    }

    /// What the pool has of a resource; none = nothing. Errors: farside cannot be asked.
    pub async fn resource(&self, cluster: &str, key: &str) -> Result<Option<Value>, KitError> {
        let output = self.ask(&["-o", "json", "pool", "get", cluster, key]).await?;
        Ok(serde_json::from_slice(&output.stdout).ok().filter(|_| output.status.success()))
    }

    /// Waits until the pool shows a resource so. Errors: it does not within a minute; it says what it showed last.
    pub async fn shows(
        &self,
        cluster: &str,
        key: &str,
        so: impl Fn(&Value) -> bool,
    ) -> Result<Value, KitError> {
        wait::until(&format!("the pool {cluster} shows {key} as it should"), async || {
            Ok(match self.resource(cluster, key).await? {
                Some(row) if so(&row) => Ok(row),
                Some(row) => Err(row.to_string()),
                None => Err("it has no such resource".to_owned()),
            })
        })
        .await
    }

    /// Runs a verb of farside against it, like `["status"]`, and answers what it said. Errors: there is no program.
    pub async fn ask(&self, arguments: &[&str]) -> Result<Output, KitError> {
        let mut command = program(self.dir.path())?;
        command.args(arguments).output().await.map_err(KitError::io("run", "farside"))
    }

    /// Ends it like a crash does, and starts it again. Errors: it does not start.
    pub async fn kill_and_start_again(&mut self) -> Result<(), KitError> {
        self.child.kill().await.map_err(KitError::io("kill", "farside"))?;
        self.child = serve(self.dir.path())?;
        self.ready().await
    }

    async fn ready(&mut self) -> Result<(), KitError> {
        let log = subject::site_stream(&name(SITE)?);
        wait::until("farside serves", async || {
            if let Some(status) = self.child.try_wait().map_err(KitError::io("look at", "farside"))? {
                let (arguments, said) = ("serve".to_owned(), said(self.dir.path()));
                return Err(KitError::Farside { arguments, status, said });
            }
            let status = self.ask(&["-o", "json", "status"]).await?;
            if serde_json::from_slice::<Value>(&status.stdout).is_err() {
                return Ok(Err(String::from_utf8_lossy(&status.stderr).into_owned()));
            }
            Ok(self.bus.stream_state(&log).await.map(|_| ()).map_err(|error| error.to_string()))
        })
        .await
    }
}

const CONFIG: &str = "farside.toml";
const OUTPUT: &str = "farside.log";

fn serve(dir: &Path) -> Result<Child, KitError> {
    let output = fs::OpenOptions::new().create(true).append(true).open(dir.join(OUTPUT));
    let output = output.map_err(KitError::io("write", OUTPUT))?;
    let mut command = program(dir)?;
    command.arg("serve").stdout(Stdio::null()).stderr(output).kill_on_drop(true);
    command.spawn().map_err(KitError::io("start", "farside"))
}

/// The program with this directory's configuration, and nothing of this process's own.
fn program(dir: &Path) -> Result<Command, KitError> {
    let path = binary();
    if !path.is_file() {
        return Err(KitError::NoFarside { path });
    }
    let mut command = Command::new(path);
    for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("FARSIDE_")) {
        command.env_remove(name);
    }
    command.arg("-c").arg(dir.join(CONFIG)).current_dir(dir).stdin(Stdio::null());
    Ok(command)
}

/// `FARSIDE_BIN`, or the one that cargo has put beside the test.
fn binary() -> PathBuf {
    // It is started in another directory.
    let named = env::var_os("FARSIDE_BIN").and_then(|named| std::path::absolute(named).ok());
    named.unwrap_or_else(|| {
        let test = env::current_exe().unwrap_or_default();
        // target/<profile>/deps/<test>
        test.parent().and_then(Path::parent).unwrap_or(Path::new(".")).join("farside")
    })
}

fn said(dir: &Path) -> String {
    let text = fs::read_to_string(dir.join(OUTPUT)).unwrap_or_default();
    let from = text.ceil_char_boundary(text.len().saturating_sub(SAID_BYTES_MAX));
    text[from..].to_owned()
}

fn name(text: &str) -> Result<Name, KitError> {
    let wrong = |error: bus_schema::id::IdError| KitError::Name {
        what: "name",
        text: text.to_owned(),
        reason: error.to_string(),
    };
    text.parse().map_err(wrong)
}
