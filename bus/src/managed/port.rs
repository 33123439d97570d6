//! The managed server's port: the one asked for, the last one, or a free one.

use std::{
    fs, io,
    net::{IpAddr, TcpListener},
    path::{Path, PathBuf},
};

use super::{ManagedError, ManagedOptions, file_error, owner::write_private};

/// Chooses the port and remembers it, so that agents find the server where it was.
pub(crate) fn choose(store_dir: &Path, options: &ManagedOptions) -> Result<u16, ManagedError> {
    let host = options.host;
    let port = match options.port {
        Some(port) if free(host, port) => port,
        Some(port) => return Err(ManagedError::PortTaken { host, port }),
        None => match last(store_dir).filter(|port| free(host, *port)) {
            Some(port) => port,
            None => any(host).map_err(file_error("choose a free port for", store_dir))?,
        },
    };
    write_private(&remembered(store_dir), &format!("{port}\n"))?;
    Ok(port)
}

/// Whether nobody listens on the port that was chosen last.
pub(crate) fn last_is_free(store_dir: &Path, options: &ManagedOptions) -> bool {
    last(store_dir).is_none_or(|port| free(options.host, port))
}

fn remembered(store_dir: &Path) -> PathBuf {
    store_dir.join("port")
}

fn last(store_dir: &Path) -> Option<u16> {
    fs::read_to_string(remembered(store_dir)).ok()?.trim().parse().ok()
}

fn free(host: IpAddr, port: u16) -> bool {
    TcpListener::bind((host, port)).is_ok()
}

fn any(host: IpAddr) -> io::Result<u16> {
    Ok(TcpListener::bind((host, 0))?.local_addr()?.port())
}
