//! The managed server's port: the one asked for, the last one, or a free one.

use std::{
    fs, io,
    net::{IpAddr, TcpListener},
    path::Path,
};

use super::{ManagedError, file_error, owner::write_private};

/// Chooses the port and remembers it, so that agents find the server where it was.
pub(crate) fn choose(store_dir: &Path, host: IpAddr, wanted: Option<u16>) -> Result<u16, ManagedError> {
    let remembered = store_dir.join("port");
    let port = match wanted {
        Some(port) if free(host, port) => port,
        Some(port) => return Err(ManagedError::PortTaken { host, port }),
        None => {
            let last = fs::read_to_string(&remembered).ok().and_then(|text| text.trim().parse().ok());
            match last.filter(|port| free(host, *port)) {
                Some(port) => port,
                None => any(host).map_err(file_error("choose a free port for", store_dir))?,
            }
        }
    };
    write_private(&remembered, &format!("{port}\n"))?;
    Ok(port)
}

fn free(host: IpAddr, port: u16) -> bool {
    TcpListener::bind((host, port)).is_ok()
}

fn any(host: IpAddr) -> io::Result<u16> {
    Ok(TcpListener::bind((host, 0))?.local_addr()?.port())
}
