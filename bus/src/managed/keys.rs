//! The identities of the managed server, in files of mode 0600, made at the first start and kept: nkey seeds, and
//! a password of the publishers, whom any client library must serve.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use nkeys::KeyPair;

use super::{ManagedError, file_error, owner::write_private};

/// The name of the identity that any publisher may use.
pub(crate) const PUBLISHER: &str = "publisher";
/// Random bytes of the publishers' password: nobody tries 2^128 of them out.
const PASSWORD_BYTES: usize = 16;

/// Seed files and public keys, and a password.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    /// The seed file of who may do everything.
    pub(crate) service: PathBuf,
    /// Its public key.
    pub(crate) service_public: String,
    /// The seed file of the agents.
    pub(crate) agent: PathBuf,
    /// Its public key.
    pub(crate) agent_public: String,
    /// The seed file of who asks the server for its health.
    pub(crate) system: PathBuf,
    /// Its public key.
    pub(crate) system_public: String,
    /// The password of the publishers.
    pub(crate) publisher_password: String,
    /// The file with the address and the password of the publishers, which goes to any client as it stands.
    pub(crate) publisher_url: PathBuf,
}

impl Keys {
    pub(crate) fn load_or_make(dir: &Path) -> Result<Self, ManagedError> {
        super::owner::make_private_dir(dir)?;
        let [service, agent, system] = ["service.nk", "agent.nk", "system.nk"].map(|name| dir.join(name));
        let (service_public, agent_public) = (load_or_make(&service)?, load_or_make(&agent)?);
        let system_public = load_or_make(&system)?;
        let publisher_password = password(&dir.join("publisher.password"))?;
        let publisher_url = dir.join("publisher.url");
        Ok(Self {
            service,
            service_public,
            agent,
            agent_public,
            system,
            system_public,
            publisher_password,
            publisher_url,
        })
    }

    /// Writes the URL with which a publisher comes in, for a server at this address.
    pub(crate) fn write_publisher_url(&self, scheme: &str, address: SocketAddr) -> Result<(), ManagedError> {
        let password = &self.publisher_password;
        write_private(&self.publisher_url, &format!("{scheme}://{PUBLISHER}:{password}@{address}\n"))
    }
}

/// The password in a file, made if need be.
fn password(path: &Path) -> Result<String, ManagedError> {
    match fs::read_to_string(path) {
        Ok(text) => {
            let text = text.trim();
            // It stands in a configuration and in a URL as it is.
            if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
                let cure = "it is not letters and digits; remove the file, and another one is made";
                return Err(file_error("use the password in", path)(io::Error::other(cure)));
            }
            Ok(text.to_owned())
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let mut bytes = [0; PASSWORD_BYTES];
            getrandom::fill(&mut bytes)
                .map_err(|e| file_error("make", path)(io::Error::other(e.to_string())))?;
            let password = data_encoding::HEXLOWER.encode(&bytes);
            write_private(path, &format!("{password}\n"))?;
            Ok(password)
        }
        Err(e) => Err(file_error("read", path)(e)),
    }
}

/// The public key of a seed file.
fn load_or_make(path: &Path) -> Result<String, ManagedError> {
    let broken =
        |e: nkeys::error::Error| file_error("use the nkey seed in", path)(io::Error::other(e.to_string()));
    match fs::read_to_string(path) {
        Ok(seed) => Ok(KeyPair::from_seed(seed.trim()).map_err(broken)?.public_key()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let pair = KeyPair::new_user();
            let seed = pair.seed().map_err(broken)?;
            write_private(path, &format!("{seed}\n"))?;
            Ok(pair.public_key())
        }
        Err(e) => Err(file_error("read", path)(e)),
    }
}
