//! Where the API listens: a TCP address, and a local socket whose file mode is its key.

use std::{
    io,
    net::SocketAddr,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{
    extract::connect_info::Connected,
    serve::{IncomingStream, Listener},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};

/// Largest body that is taken in: the largest event of the bus and its envelope.
pub const BODY_BYTES_MAX: usize = 2 << 20;
/// Connections that are open at once on each listener: what a file-descriptor limit of 1,024 bears.
const CONNECTIONS_MAX: usize = 256;
/// Longest path of a local socket, in bytes (`sun_path` of unix(7), without its end mark).
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// Only the owner of the process may talk to the socket.
const SOCKET_MODE: u32 = 0o600;

/// Why the console cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another program has the address.
    #[error(
        "cannot listen on {0}: another program has this port; stop it, or choose another with --listen or FARSIDE_LISTEN"
    )]
    Occupied(SocketAddr),
    /// The address would carry credentials in plain text over a network.
    #[error(
        "refusing to listen on {0}: the console speaks no TLS yet, and keys would cross the network in plain text; listen on 127.0.0.1 and put a TLS proxy before it"
    )]
    OffLoopback(SocketAddr),
    /// The operating system refused.
    #[error("cannot listen on {address}: {source}; choose another address with --listen or FARSIDE_LISTEN")]
    Tcp {
        /// The address.
        address: SocketAddr,
        /// What it said.
        source: io::Error,
    },
    /// Another farside serves this data directory.
    #[error("another farside answers on {0}; stop it, or use another data directory")]
    Taken(PathBuf),
    /// The path is longer than the operating system takes.
    #[error(
        "the socket path {path} has {bytes} bytes, more than {SOCKET_PATH_BYTES_MAX}; use a shorter data directory"
    )]
    LongPath {
        /// The path.
        path: PathBuf,
        /// Its length.
        bytes: usize,
    },
    /// The path is something else.
    #[error("{0} is there and is no socket; move it out of the way")]
    NotASocket(PathBuf),
    /// The operating system refused.
    #[error("cannot make the socket {path}: {source}; check that its directory exists and is writable")]
    Socket {
        /// The path.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A TCP client.
    Tcp(SocketAddr),
    /// A process of this machine that may open the socket's file.
    Socket {
        /// The user that it runs as.
        uid: u32,
    },
}

/// Listens on a TCP address. Errors: occupied, or not on loopback.
pub async fn tcp(address: SocketAddr) -> Result<TcpListener, ListenError> {
    if !address.ip().is_loopback() {
        return Err(ListenError::OffLoopback(address));
    }
    TcpListener::bind(address).await.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => ListenError::Occupied(address),
        _ => ListenError::Tcp { address, source },
    })
}

/// Listens on a local socket, mode 0600; one that a dead process left behind is replaced.
pub async fn socket(path: &Path) -> Result<UnixListener, ListenError> {
    let bytes = path.as_os_str().len();
    if bytes > SOCKET_PATH_BYTES_MAX {
        return Err(ListenError::LongPath { path: path.to_owned(), bytes });
    }
    let failed = |source| ListenError::Socket { path: path.to_owned(), source };
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Err(ListenError::NotASocket(path.to_owned())),
        Ok(_) if UnixStream::connect(path).await.is_ok() => return Err(ListenError::Taken(path.to_owned())),
        Ok(_) => std::fs::remove_file(path).map_err(failed)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    // The data directory is 0700, so nobody slips in between the two calls.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(SOCKET_MODE)).map_err(failed)?;
    Ok(listener)
}

/// A listener that accepts the next connection only when fewer than [`CONNECTIONS_MAX`] are open.
pub(crate) struct Capped<L> {
    inner: L,
    room: Arc<Semaphore>,
}

impl<L> Capped<L> {
    pub(crate) fn new(inner: L) -> Self {
        Self { inner, room: Arc::new(Semaphore::new(CONNECTIONS_MAX)) }
    }
}

impl<L: Listener> Listener for Capped<L> {
    type Io = Held<L::Io>;
    type Addr = L::Addr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        // The semaphore is never closed, so there is always a permit in the end.
        let permit = self.room.clone().acquire_owned().await.ok();
        let (io, address) = self.inner.accept().await;
        (Held { io, _permit: permit }, address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.inner.local_addr()
    }
}

/// A connection that gives its room back when it ends.
pub(crate) struct Held<I> {
    io: I,
    _permit: Option<OwnedSemaphorePermit>,
}

impl<I: AsyncRead + Unpin> AsyncRead for Held<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Held<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl Connected<IncomingStream<'_, Capped<TcpListener>>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Capped<TcpListener>>) -> Self {
        Self::Tcp(*stream.remote_addr())
    }
}

impl Connected<IncomingStream<'_, Capped<UnixListener>>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Capped<UnixListener>>) -> Self {
        // Whoever got here could open the file; the uid is for the record only.
        Self::Socket { uid: stream.io().io.peer_cred().map_or(u32::MAX, |peer| peer.uid()) }
    }
}
