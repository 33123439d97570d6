//! A real nats-server for a test: its own directory and port, killed and started again at will, ended
//! by its process id when the test ends.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
};

use bus::{Bus, ConnectOptions, managed};
use bus_schema::{Name, stream::StreamSpec};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::eventually;

/// How much of a server's log is shown when a test fails, in bytes.
const LAST_WORDS_BYTES: usize = 8_000;
/// Room that a test's log sets aside, in bytes.
pub(crate) const TEST_LOG_BYTES: i64 = 256 << 20;

/// A running nats-server.
pub(crate) struct Nats {
    dir: TempDir,
    store: PathBuf,
    /// What else stands in its configuration: its `jetstream` block's settings, and its cluster.
    config: Config,
    port: u16,
    monitor: u16,
    child: Child,
}

#[derive(Default)]
struct Config {
    jetstream: String,
    cluster: String,
}

impl Nats {
    /// Starts one that syncs always.
    pub(crate) async fn start() -> Self {
        Self::start_with("sync_interval: always").await
    }

    /// Starts one with this inside its `jetstream` block.
    pub(crate) async fn start_with(jetstream: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("store");
        Self::start_in(dir, store, Config { jetstream: jetstream.to_owned(), ..Config::default() }).await
    }

    /// Starts three that are a cluster; when they have a leader has to be asked.
    pub(crate) async fn start_cluster() -> [Self; 3] {
        // Held together, so that they are different ones.
        let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let ports = listeners.map(|listener| listener.local_addr().unwrap().port());
        let routes = ports.map(|port| format!("\"nats://127.0.0.1:{port}\"")).join(", ");
        let start = async |port| {
            let cluster = format!(
                "cluster {{ name: \"test\", host: 127.0.0.1, port: {port}, routes: [{routes}], \
                 no_advertise: true }}\n"
            );
            let dir = tempfile::tempdir().unwrap();
            let store = dir.path().join("store");
            let jetstream = "sync_interval: always".to_owned();
            Self::start_in(dir, store, Config { jetstream, cluster }).await
        };
        let [first, second, third] = ports;
        tokio::join!(start(first), start(second), start(third)).into()
    }

    /// Starts one that syncs always and has its store there.
    pub(crate) async fn start_on(store: &Path) -> Self {
        let jetstream = "sync_interval: always".to_owned();
        let config = Config { jetstream, ..Config::default() };
        Self::start_in(tempfile::tempdir().unwrap(), store.to_owned(), config).await
    }

    async fn start_in(dir: TempDir, store: PathBuf, config: Config) -> Self {
        // The server chooses its ports, so no two tests can take the same.
        let child = spawn(dir.path(), &store, &config, -1, -1);
        let (port, monitor) =
            eventually("nats-server says its ports", async || ports(dir.path(), &child)).await;
        let mut nats = Self { dir, store, config, port, monitor, child };
        nats.ready().await;
        nats
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// The name by which others of its cluster know it.
    pub(crate) fn name(&self) -> String {
        server_name(self.dir.path())
    }

    pub(crate) fn monitor_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.monitor)
    }

    /// A connection of its own.
    pub(crate) async fn bus(&self) -> Bus {
        let options =
            ConnectOptions { servers: self.url(), name: "test".into(), ..ConnectOptions::default() };
        Bus::connect(options).await.unwrap()
    }

    /// The client library itself, for what the room does not offer.
    pub(crate) async fn client(&self) -> async_nats::Client {
        async_nats::connect(self.url()).await.unwrap()
    }

    /// Ends it like a crash does.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to end, and waits until it has.
    pub(crate) fn stop(&mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again on the same store and port.
    pub(crate) async fn start_again(&mut self) {
        self.spawn_again();
        self.ready().await;
    }

    fn spawn_again(&mut self) {
        let (port, monitor) = (self.port.into(), self.monitor.into());
        self.child = spawn(self.dir.path(), &self.store, &self.config, port, monitor);
    }

    /// Where the server keeps a stream.
    pub(crate) fn stream_dir(&self, stream: &str) -> PathBuf {
        self.store.join("jetstream/$G/streams").join(stream)
    }

    /// The files that hold the messages of a stream, oldest first.
    pub(crate) fn blocks(&self, stream: &str) -> Vec<PathBuf> {
        let mut blocks: Vec<_> = fs::read_dir(self.stream_dir(stream).join("msgs"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|ext| ext == "blk"))
            .collect();
        let number = |path: &PathBuf| path.file_stem()?.to_str()?.parse::<u64>().ok();
        blocks.sort_by_key(number);
        blocks
    }

    async fn ready(&mut self) {
        let (url, name) = (self.url(), self.name());
        eventually("nats-server answers", async || {
            if self.child.try_wait().unwrap().is_some() {
                // An outgoing connection of another process may have the port for a moment.
                self.spawn_again();
            }
            let client = async_nats::connect(&url).await.ok()?;
            (client.server_info().server_name == name).then_some(())
        })
        .await;
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        if thread::panicking() {
            let said = fs::read_to_string(self.dir.path().join("nats.out")).unwrap_or_default();
            let from = said.len().saturating_sub(LAST_WORDS_BYTES);
            eprintln!("the end of what nats-server said:\n{}", said.get(from..).unwrap_or_default());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn server_name(dir: &Path) -> String {
    dir.file_name().unwrap().to_string_lossy().into_owned()
}

fn spawn(dir: &Path, store: &Path, config: &Config, port: i32, monitor: i32) -> Child {
    let Config { jetstream, cluster } = config;
    let (name, dir_text, store) = (server_name(dir), dir.display(), store.display());
    let config = format!(
        "host: 127.0.0.1\nport: {port}\nhttp: \"127.0.0.1:{monitor}\"\nserver_name: \"{name}\"\n\
         ports_file_dir: \"{dir_text}\"\n\
         jetstream {{ store_dir: \"{store}\", max_file_store: 1TB, {jetstream} }}\n\
         {cluster}"
    );
    fs::write(dir.join("nats.conf"), config).unwrap();
    let binary = managed::find_binary(None).unwrap();
    let out = fs::OpenOptions::new().create(true).append(true).open(dir.join("nats.out")).unwrap();
    let mut command = Command::new(binary);
    command.arg("-c").arg(dir.join("nats.conf")).stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(out).spawn().unwrap()
}

/// The client and monitor ports that a server has chosen, once it says them.
fn ports(dir: &Path, child: &Child) -> Option<(u16, u16)> {
    let text = fs::read_to_string(dir.join(format!("nats-server_{}.ports", child.id()))).ok()?;
    let said: serde_json::Value = serde_json::from_str(&text).ok()?;
    let port = |of: &str| said[of][0].as_str()?.rsplit(':').next()?.parse().ok();
    Some((port("nats")?, port("monitoring")?))
}

/// A port that nobody listens on in this moment.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// The site log `local`, of a size that a test machine has room for.
pub(crate) fn site_log() -> StreamSpec {
    StreamSpec { bytes_max: TEST_LOG_BYTES, ..StreamSpec::site(&name("local")) }
}

/// The target log `local`.
pub(crate) fn target_log() -> StreamSpec {
    StreamSpec { bytes_max: TEST_LOG_BYTES, ..StreamSpec::target(&name("local")) }
}

/// The dead letters of the target `local`.
pub(crate) fn dead_letters() -> StreamSpec {
    StreamSpec { bytes_max: TEST_LOG_BYTES, ..StreamSpec::dead_letters(&name("local")) }
}
