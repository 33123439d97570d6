//! A real nats-server for one test: its own directory and ports, on loopback, killed and started again at will, ended
//! when it is dropped. As a process of this machine, or in a container; the test sees no difference.

#[cfg(feature = "container")]
mod container;
mod local;

use std::{
    env, fs, io,
    net::TcpListener,
    path::{Path, PathBuf},
};

use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpStream,
};

use crate::{KitError, wait};

/// Where the server runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A process: the binary that `FARSIDE_NATS_SERVER` names, or the first one on the path.
    Local,
    /// A container of the image `nats:<version>`; needs the feature `container`, and Docker.
    Container,
}

impl Place {
    /// What `FARSIDE_TESTKIT_NATS` says, `local` or `container`; local without it. Errors: another word.
    pub fn from_env() -> Result<Self, KitError> {
        match env::var("FARSIDE_TESTKIT_NATS").unwrap_or_default().as_str() {
            "" | "local" => Ok(Self::Local),
            "container" => Ok(Self::Container),
            found => Err(KitError::Place { found: found.to_owned() }),
        }
    }
}

/// How a server is set up.
#[derive(Clone, Debug)]
pub struct NatsOptions {
    /// Where it runs; none = what [`Place::from_env`] says.
    pub place: Option<Place>,
    /// Where it stores; none = in its own directory. A container can store in its own directory only.
    pub store: Option<PathBuf>,
    /// Lines inside the configuration's block `jetstream`.
    pub jetstream: String,
    /// Lines beside it.
    pub more: String,
}

impl Default for NatsOptions {
    /// A server that has written what it acknowledges, as Farside's own.
    fn default() -> Self {
        let (jetstream, more) = ("sync_interval: always".to_owned(), String::new());
        Self { place: None, store: None, jetstream, more }
    }
}

/// A running nats-server.
#[derive(Debug)]
pub struct NatsServer {
    // Dropped in this order: the server ends before its directory goes.
    runs: Runs,
    store: PathBuf,
    dir: TempDir,
}

#[derive(Debug)]
enum Runs {
    Local(local::Local),
    #[cfg(feature = "container")]
    Container(Box<container::Container>),
}

impl Runs {
    /// Starts what has ended again, where that can be.
    fn is_there(&mut self) -> Result<(), KitError> {
        match self {
            Self::Local(local) => local.is_there(),
            #[cfg(feature = "container")]
            Self::Container(_) => Ok(()),
        }
    }
}

impl NatsServer {
    /// Starts one that syncs always. Errors: there is none, or it does not start.
    pub async fn start() -> Result<Self, KitError> {
        Self::start_with(NatsOptions::default()).await
    }

    /// Starts one that is set up in another way. Errors: there is none, or it does not start.
    pub async fn start_with(options: NatsOptions) -> Result<Self, KitError> {
        let dir = TempDir::new().map_err(KitError::io("make", "a directory for NATS"))?;
        let place = options.place.map_or_else(Place::from_env, Ok)?;
        let store = options.store.unwrap_or_else(|| dir.path().join("store"));
        let config = Config {
            dir: dir.path().to_owned(),
            text: format!(
                "server_name: {name:?}\njetstream {{ store_dir: {store:?}, max_file_store: 1TB, {} }}\n{}\n",
                options.jetstream,
                options.more,
                name = name_of(dir.path()),
            ),
        };
        let runs = match place {
            Place::Local => Runs::Local(local::Local::start(config).await?),
            #[cfg(feature = "container")]
            Place::Container => Runs::Container(Box::new(container::Container::start(config).await?)),
            #[cfg(not(feature = "container"))]
            Place::Container => return Err(KitError::NoContainers),
        };
        let mut server = Self { dir, store, runs };
        server.ready().await?;
        Ok(server)
    }

    /// Where clients connect.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.ports().0)
    }

    /// Where its monitoring answers.
    pub fn monitor_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports().1)
    }

    /// Its name in a cluster, and in what it says to clients.
    pub fn name(&self) -> String {
        name_of(self.dir.path())
    }

    /// The directory of its files.
    pub fn store(&self) -> &Path {
        &self.store
    }

    /// What it has said so far.
    pub fn said(&self) -> String {
        fs::read_to_string(self.dir.path().join(OUTPUT)).unwrap_or_default()
    }

    /// Ends it like a crash does. Errors: Docker.
    pub async fn kill(&mut self) -> Result<(), KitError> {
        match &mut self.runs {
            Runs::Local(local) => local.kill().await,
            #[cfg(feature = "container")]
            Runs::Container(container) => container.kill().await,
        }
    }

    /// Asks it to end, and waits until it has. Errors: Docker.
    pub async fn stop(&mut self) -> Result<(), KitError> {
        match &mut self.runs {
            Runs::Local(local) => local.stop().await,
            #[cfg(feature = "container")]
            Runs::Container(container) => container.stop().await,
        }
    }

    /// Starts it again on the same store and ports. Errors: it does not start.
    pub async fn start_again(&mut self) -> Result<(), KitError> {
        match &mut self.runs {
            Runs::Local(local) => local.start_again()?,
            #[cfg(feature = "container")]
            Runs::Container(container) => container.start_again().await?,
        }
        self.ready().await
    }

    fn ports(&self) -> (u16, u16) {
        match &self.runs {
            Runs::Local(local) => local.ports,
            #[cfg(feature = "container")]
            Runs::Container(container) => container.ports,
        }
    }

    /// Waits until it is this server that answers, and not another one that has its port.
    async fn ready(&mut self) -> Result<(), KitError> {
        let (port, name) = (self.ports().0, self.name());
        wait::until("nats-server answers", async || {
            self.runs.is_there()?;
            Ok(match greeting(port).await {
                Ok(info) if info["server_name"] == name.as_str() => Ok(()),
                Ok(info) => Err(format!("another server answers there: {info}")),
                Err(error) => Err(error.to_string()),
            })
        })
        .await
    }
}

/// What a server says first to whoever connects.
async fn greeting(port: u16) -> io::Result<Value> {
    let mut line = String::new();
    BufReader::new(TcpStream::connect(("127.0.0.1", port)).await?).read_line(&mut line).await?;
    let info = line.strip_prefix("INFO ").ok_or_else(|| io::Error::other(format!("it said {line:?}")))?;
    Ok(serde_json::from_str(info)?)
}

/// What a server says goes there, in its directory.
const OUTPUT: &str = "nats.out";

/// A configuration but for the addresses.
#[derive(Debug)]
struct Config {
    dir: PathBuf,
    text: String,
}

impl Config {
    /// Writes it with these lines in front, and answers where.
    fn write(&self, addresses: &str) -> Result<PathBuf, KitError> {
        let path = self.dir.join("nats.conf");
        let text = format!("{addresses}\n{}", self.text);
        fs::write(&path, text).map_err(KitError::io("write", path.display()))?;
        Ok(path)
    }
}

fn name_of(dir: &Path) -> String {
    dir.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// A port that nobody listens on in this moment. Errors: this machine has no loopback.
pub(crate) fn free_port() -> Result<u16, KitError> {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    port.map(|address| address.port()).map_err(KitError::io("find", "a free port"))
}
