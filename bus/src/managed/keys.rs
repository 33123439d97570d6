//! The identities of the managed server: nkey seeds in files of mode 0600, made at the first start.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use nkeys::KeyPair;

use super::{ManagedError, file_error, owner::write_private};

/// Seed files and public keys.
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
}

impl Keys {
    pub(crate) fn load_or_make(dir: &Path) -> Result<Self, ManagedError> {
        super::owner::make_private_dir(dir)?;
        let [service, agent, system] = ["service.nk", "agent.nk", "system.nk"].map(|name| dir.join(name));
        let (service_public, agent_public) = (load_or_make(&service)?, load_or_make(&agent)?);
        let system_public = load_or_make(&system)?;
        Ok(Self { service, service_public, agent, agent_public, system, system_public })
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
