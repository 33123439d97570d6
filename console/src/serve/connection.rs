//! Serves connections. Whoever connects may be silent, slow, or gone without a word, and needs no
//! credential for that: so every wait for the other end has a limit, and an end that does not keep it
//! loses its connection. Must not know what is asked.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    Router,
    extract::{ConnectInfo, Request},
    serve::Listener,
};
use hyper::{body::Incoming, server::conn::http1, service::Service};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream, UnixListener, UnixStream, unix},
    sync::Semaphore,
    task::JoinSet,
    time::{Sleep, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::Peer;

/// How much of the console one listener's peers may hold, and for how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Connections that are open at once: what a file-descriptor limit of 1,024 bears on two listeners.
    pub(crate) connections_max: usize,
    /// From the connection, or the end of an answer, to the end of the next request's head: a person's
    /// client keeps a connection for its next question, but not the place of somebody who asks.
    pub(crate) head_wait: Duration,
    /// How long a peer may take nothing of an answer: a client's short pause, not a stopped one.
    pub(crate) take_wait: Duration,
    /// How long requests that have begun may go on at the end; less than the binary grants the console.
    pub(crate) drain_wait: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 256,
            head_wait: Duration::from_secs(10),
            take_wait: Duration::from_secs(30),
            drain_wait: Duration::from_secs(5),
        }
    }
}

/// A listener that knows who is at the other end.
pub(crate) trait Meets: Listener {
    /// Who is at the other end of a connection.
    fn peer(io: &Self::Io, address: &Self::Addr) -> Peer;
}

impl Meets for TcpListener {
    fn peer(_: &TcpStream, address: &SocketAddr) -> Peer {
        Peer::Tcp(*address)
    }
}

impl Meets for UnixListener {
    fn peer(io: &UnixStream, _: &tokio::net::unix::SocketAddr) -> Peer {
        // Whoever got here could open the file; the uid is for the record only.
        Peer::Socket { uid: io.peer_cred().map_or(u32::MAX, |peer: unix::UCred| peer.uid()) }
    }
}

/// Serves until `shutdown`, then lets the requests end that have begun, for a while. What has not ended
/// by then is cut off: its client sees an answer that breaks off.
pub(crate) async fn serve<L: Meets>(
    mut listener: L,
    router: Router,
    limits: Limits,
    shutdown: CancellationToken,
) {
    let room = Arc::new(Semaphore::new(limits.connections_max));
    let router = TowerToHyperService::new(router);
    let mut open = JoinSet::new();
    let accepting = async {
        loop {
            // The semaphore is never closed, so there is always a permit in the end.
            let permit = room.clone().acquire_owned().await;
            let (io, address) = listener.accept().await;
            let peer = L::peer(&io, &address);
            let served = connection(io, peer, router.clone(), limits, shutdown.clone());
            while open.try_join_next().is_some() {}
            open.spawn(async move {
                let _permit = permit;
                served.await;
            });
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = accepting => {}
    }
    drop(listener);
    if timeout(limits.drain_wait, async { while open.join_next().await.is_some() {} }).await.is_err() {
        tracing::info!(connections = open.len(), "answers that did not end in time are cut off");
    }
}

async fn connection<I: AsyncRead + AsyncWrite + Unpin>(
    io: I,
    peer: Peer,
    router: TowerToHyperService<Router>,
    limits: Limits,
    shutdown: CancellationToken,
) {
    let begun = AtomicBool::new(false);
    let service = hyper::service::service_fn(|mut request: Request<Incoming>| {
        begun.store(true, Ordering::Relaxed);
        request.extensions_mut().insert(ConnectInfo(peer));
        router.call(request)
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_wait)
        .serve_connection(TokioIo::new(Patient::new(io, limits.take_wait)), service);
    let mut serving = pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = shutdown.cancelled() => {
            if !begun.load(Ordering::Relaxed) {
                return;
            }
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(?peer, %error, "a connection broke");
    }
}

/// A connection that breaks when the other end takes nothing for too long.
struct Patient<I> {
    io: I,
    take_wait: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<I> Patient<I> {
    fn new(io: I, take_wait: Duration) -> Self {
        Self { io, take_wait, stalled: None }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Patient<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Patient<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if let Poll::Ready(written) = Pin::new(&mut self.io).poll_write(cx, buf) {
            self.stalled = None;
            return Poll::Ready(written);
        }
        let take_wait = self.take_wait;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(take_wait)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the other end takes nothing of the answer")))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
