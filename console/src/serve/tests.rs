//! Peers that are silent, slow or gone, each over a real connection. They wait for what the console does
//! to them, within limits that are short here.

use std::{path::PathBuf, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes},
    routing::get,
};
use futures_util::stream;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::*;

const SHORT: Duration = Duration::from_millis(100);
const LONG: Duration = Duration::from_secs(600);
const LIMITS: Limits = Limits { connections_max: 4, head_wait: LONG, take_wait: LONG, drain_wait: LONG };
const ASKED: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";

struct Served {
    address: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

async fn served(limits: Limits) -> Served {
    let endless = || async {
        Body::from_stream(stream::repeat_with(|| Ok::<_, io::Error>(Bytes::from_static(&[0; 4096]))))
    };
    let never = || async { Body::from_stream(stream::pending::<io::Result<Bytes>>()) };
    let router = Router::new()
        .route("/", get(|| async { "there" }))
        .route("/endless", get(endless))
        .route("/never", get(never));
    let listener = tcp(([127, 0, 0, 1], 0).into()).await.unwrap();
    let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
    let task = tokio::spawn(serve(listener, router, limits, stop.clone()));
    Served { address, stop, task }
}

impl Served {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Asks on a connection of its own and reads the answer's beginning.
    async fn ask(&self, path: &str) -> TcpStream {
        let mut stream = self.connect().await;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
        let mut status = [0; 15];
        stream.read_exact(&mut status).await.unwrap();
        assert_eq!(&status, b"HTTP/1.1 200 OK");
        stream
    }
}

/// Waits until the other end has closed; a reset is an end too.
async fn closed(stream: &mut TcpStream) {
    let mut rest = vec![];
    let _ = stream.read_to_end(&mut rest).await;
}

#[tokio::test]
async fn silent_and_half_sent_connections_do_not_keep_others_out() {
    let up = served(Limits { head_wait: SHORT, ..LIMITS }).await;
    let mut silent = vec![];
    for half in [0, 1, 10, ASKED.len()] {
        let mut stream = up.connect().await;
        stream.write_all(&ASKED[..half]).await.unwrap();
        silent.push(stream);
    }
    up.ask("/").await;
    for mut stream in silent {
        closed(&mut stream).await;
    }
}

#[tokio::test]
async fn a_peer_that_takes_nothing_of_its_answer_loses_its_connection() {
    let up = served(Limits { take_wait: SHORT, connections_max: 1, ..LIMITS }).await;
    let stalled = up.ask("/endless").await;
    up.ask("/").await;
    drop(stalled);
}

#[tokio::test]
async fn the_end_waits_for_no_silent_peer_and_not_for_ever_for_an_answer() {
    let up = served(Limits { drain_wait: SHORT, ..LIMITS }).await;
    let (mut silent, mut half) = (up.connect().await, up.connect().await);
    half.write_all(&ASKED[..10]).await.unwrap();
    let mut idle = up.ask("/").await;
    let mut hanging = up.ask("/never").await;
    up.stop.cancel();
    up.task.await.unwrap();
    for stream in [&mut silent, &mut half, &mut idle, &mut hanging] {
        closed(stream).await;
    }
}

#[tokio::test]
async fn an_answer_that_has_begun_is_given_before_the_end() {
    let up = served(LIMITS).await;
    let mut taking = up.ask("/endless").await;
    up.stop.cancel();
    let mut more = vec![0; 1 << 20];
    taking.read_exact(&mut more).await.unwrap();
    drop(taking);
    up.task.await.unwrap();
}

fn path(dir: &tempfile::TempDir) -> PathBuf {
    dir.path().join("s")
}

#[tokio::test]
async fn only_a_socket_on_which_nobody_listens_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let first = socket(&path(&dir)).await.unwrap();
    assert!(matches!(socket(&path(&dir)).await, Err(ListenError::Taken(_))));
    drop(first);
    socket(&path(&dir)).await.unwrap();
    // A live listener of another kind: its error says nothing about who is there.
    let other = dir.path().join("d");
    let _live = std::os::unix::net::UnixDatagram::bind(&other).unwrap();
    assert!(matches!(socket(&other).await, Err(ListenError::Unclear { .. })));
    assert!(other.exists(), "a live process's socket is gone");
}
