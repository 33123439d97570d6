//! A real nats-server for a test, through the kit that is there for everybody: killed and started again at will. With
//! `FARSIDE_TESTKIT_NATS=container` and the feature `container` it runs in one (`make container`), but for those tests
//! that need a disk of their own or a cluster.

use std::{
    fs,
    net::TcpListener,
    ops::Deref,
    path::{Path, PathBuf},
    thread,
};

use bus::{Bus, ConnectOptions};
use bus_schema::{Name, stream::StreamSpec};
use testkit::{NatsOptions, NatsServer, Place};

/// How much of a server's log is shown when a test fails, in bytes.
const LAST_WORDS_BYTES: usize = 8_000;
/// Room that a test's log sets aside, in bytes.
pub(crate) const TEST_LOG_BYTES: i64 = 256 << 20;

/// A running nats-server.
pub(crate) struct Nats(NatsServer);

impl Nats {
    /// Starts one that syncs always.
    pub(crate) async fn start() -> Self {
        Self::start_as(NatsOptions::default()).await
    }

    /// Starts one with this inside its `jetstream` block.
    pub(crate) async fn start_with(jetstream: &str) -> Self {
        Self::start_as(NatsOptions { jetstream: jetstream.to_owned(), ..NatsOptions::default() }).await
    }

    /// Starts three that are a cluster; when they have a leader has to be asked.
    pub(crate) async fn start_cluster() -> [Self; 3] {
        // Held together, so that they are different ones.
        let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let ports = listeners.map(|listener| listener.local_addr().unwrap().port());
        let routes = ports.map(|port| format!("\"nats://127.0.0.1:{port}\"")).join(", ");
        let start = async |port| {
            let more = format!(
                "cluster {{ name: \"test\", host: 127.0.0.1, port: {port}, routes: [{routes}], \
                 no_advertise: true }}\n"
            );
            Self::start_as(NatsOptions { place: Some(Place::Local), more, ..NatsOptions::default() }).await
        };
        let [first, second, third] = ports;
        tokio::join!(start(first), start(second), start(third)).into()
    }

    /// Starts one that syncs always and has its store there.
    pub(crate) async fn start_on(store: &Path) -> Self {
        let (place, store) = (Some(Place::Local), Some(store.to_owned()));
        Self::start_as(NatsOptions { place, store, ..NatsOptions::default() }).await
    }

    pub(crate) async fn start_as(options: NatsOptions) -> Self {
        Self(NatsServer::start_with(options).await.unwrap())
    }

    /// Ends it like a crash does.
    pub(crate) async fn kill(&mut self) {
        self.0.kill().await.unwrap();
    }

    /// Asks it to end, and waits until it has.
    pub(crate) async fn stop(&mut self) {
        self.0.stop().await.unwrap();
    }

    /// Starts it again on the same store and ports.
    pub(crate) async fn start_again(&mut self) {
        self.0.start_again().await.unwrap();
    }

    /// The same where it may never answer; whether it does.
    pub(crate) async fn comes_up_again(&mut self) -> bool {
        self.0.start_again().await.is_ok()
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

    /// Where the server keeps a stream.
    pub(crate) fn stream_dir(&self, stream: &str) -> PathBuf {
        self.0.store().join("jetstream/$G/streams").join(stream)
    }

    /// Flips a bit in the middle of a block, of a server that has ended; once more, and it is as it was.
    pub(crate) fn flip(&self, stream: &str, block: usize) {
        let path = self.blocks(stream)[block].clone();
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).unwrap();
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
}

impl Deref for Nats {
    type Target = NatsServer;

    fn deref(&self) -> &NatsServer {
        &self.0
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        if thread::panicking() {
            let said = self.said();
            let from = said.ceil_char_boundary(said.len().saturating_sub(LAST_WORDS_BYTES));
            eprintln!("the end of what nats-server said:\n{}", &said[from..]);
        }
    }
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
