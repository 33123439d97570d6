//! Where the API listens: a TCP address, and a local socket whose file mode is its key.

use std::{
    io,
    net::SocketAddr,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
};

use tokio::net::{TcpListener, UnixListener, UnixStream};

mod connection;

pub(crate) use connection::{Limits, serve};

/// Largest body that is taken in: the largest event of the bus and its envelope.
pub const BODY_BYTES_MAX: usize = 2 << 20;
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
    /// Something has the socket, and what cannot be told.
    #[error(
        "cannot tell whether another farside answers on {path}: {source}; look at its process, and remove the file only when none is there"
    )]
    Unclear {
        /// The path.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
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
        Ok(_) => remove_stale(path).await?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    // The data directory is 0700, so nobody slips in between the two calls.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(SOCKET_MODE)).map_err(failed)?;
    Ok(listener)
}

/// Removes a socket on which nobody listens. Only a refused connection says so: a live process whose
/// queue is full, or one of another user, gives other errors, and must keep its socket.
async fn remove_stale(path: &Path) -> Result<(), ListenError> {
    let owned = || path.to_owned();
    let gone = match UnixStream::connect(path).await {
        Ok(_) => return Err(ListenError::Taken(owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => return Err(ListenError::Unclear { path: owned(), source }),
    };
    gone.map_err(|source| ListenError::Socket { path: owned(), source })
}

#[cfg(test)]
mod tests;
