//! The secrets of the managed server's identities, in files of mode 0600, made when they are first needed and kept:
//! nkey seeds, and a password of the publishers, whom any client library must serve.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use nkeys::KeyPair;

use super::{
    ManagedError, file_error,
    identity::{AgentId, PublicKey, PublicKeyError},
    owner::write_private,
};

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
    /// The directory of the seed files of the agents that run with the server's owner.
    pub(crate) agents: PathBuf,
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
        let [service, system, agents] = ["service.nk", "system.nk", "agents"].map(|name| dir.join(name));
        let (service_public, system_public) = (load_or_make(&service)?, load_or_make(&system)?);
        super::owner::make_private_dir(&agents)?;
        let publisher_password = password(&dir.join("publisher.password"))?;
        let publisher_url = dir.join("publisher.url");
        Ok(Self { service, service_public, agents, system, system_public, publisher_password, publisher_url })
    }

    /// The seed file of an agent that runs with the server's owner.
    pub(crate) fn agent_seed(&self, id: &AgentId) -> PathBuf {
        agent_seed(&self.agents, id)
    }

    /// Its public key; the seed is made if need be.
    pub(crate) fn agent_public(&self, id: &AgentId) -> Result<PublicKey, ManagedError> {
        let path = self.agent_seed(id);
        let public = load_or_make(&path)?;
        public.parse().map_err(|e: PublicKeyError| {
            file_error("use the nkey seed in", &path)(io::Error::other(e.to_string()))
        })
    }

    /// Writes the URL with which a publisher comes in, for a server at this address.
    pub(crate) fn write_publisher_url(&self, scheme: &str, address: SocketAddr) -> Result<(), ManagedError> {
        let password = &self.publisher_password;
        write_private(&self.publisher_url, &format!("{scheme}://{PUBLISHER}:{password}@{address}\n"))
    }
}

/// Where an agent's seed is among those of the agents that run with the server's owner. A name has no dot.
pub(crate) fn agent_seed(dir: &Path, AgentId { site, name }: &AgentId) -> PathBuf {
    dir.join(format!("{site}.{name}.nk"))
}

/// Makes a pair of keys for somebody who is to be enrolled, and writes the seed to a file of mode 0600 that is not
/// there yet; answers the public half. Errors: the file is there, or cannot be written.
pub fn make_seed_file(path: &Path) -> Result<PublicKey, ManagedError> {
    let pair = KeyPair::new_user();
    let unusable = |e: String| file_error("make an nkey for", path)(io::Error::other(e));
    let seed = pair.seed().map_err(|e| unusable(e.to_string()))?;
    let public = pair.public_key().parse().map_err(|e: PublicKeyError| unusable(e.to_string()))?;
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let written = file.and_then(|mut file| {
        file.write_all(format!("{seed}\n").as_bytes())?;
        file.sync_all()
    });
    written.map_err(file_error("make the seed file", path))?;
    Ok(public)
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
