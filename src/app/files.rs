//! Files of the data directory that belong to the binary itself: all private to its user.

use std::{
    fs::{self, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use bus::{
    ConnectOptions, Credentials,
    managed::{AgentId, ManagedServer, agent_seed_file},
};
use console::auth::OperatorToken;
use serde::{Deserialize, Serialize};

use super::AppError;

/// Random bytes of the operator token: 256 bits.
const TOKEN_BYTES: usize = 32;
/// Only the owner may read and write.
const FILE_MODE: u32 = 0o600;
/// Only the owner may enter.
const DIRECTORY_MODE: u32 = 0o700;
/// What a disk of its own brings along.
const FOUND: &str = "lost+found";
/// What others may do.
const OTHERS: u32 = 0o077;

fn failed(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> AppError {
    let path = path.to_owned();
    move |source| AppError::File { verb, path, source }
}

/// Makes the data directory, mode 0700, or takes from others what one that is there lets them have. One with
/// directories besides `own` is not farside's alone, so it is left to its owner.
pub(super) fn make_private_dir(path: &Path, own: &[&Path]) -> Result<(), AppError> {
    fs::DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(path).map_err(failed("make", path))?;
    let mode = fs::metadata(path).map_err(failed("look at", path))?.permissions().mode();
    if mode & OTHERS == 0 {
        return Ok(());
    }
    for entry in fs::read_dir(path).map_err(failed("look into", path))? {
        let entry = entry.map_err(failed("look into", path))?.path();
        if entry.is_dir() && !own.contains(&entry.as_path()) && !entry.ends_with(FOUND) {
            return Err(AppError::Shared { path: path.to_owned(), holds: entry });
        }
    }
    fs::set_permissions(path, Permissions::from_mode(DIRECTORY_MODE)).map_err(failed("close", path))?;
    tracing::warn!(path = %path.display(), was = %format!("{:03o}", mode & 0o777), "others could enter the data directory; it is private now");
    Ok(())
}

/// A token: made on the first run, then the same for ever.
pub(super) fn token(path: &Path) -> Result<OperatorToken, AppError> {
    match fs::read_to_string(path) {
        Ok(text) if !text.trim().is_empty() => return Ok(OperatorToken::new(text.trim())),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed("read", path)(error)),
    }
    let mut bytes = [0; TOKEN_BYTES];
    getrandom::fill(&mut bytes).map_err(|e| failed("make", path)(io::Error::other(e.to_string())))?;
    let token: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    write_private(path, &token)?;
    Ok(OperatorToken::new(&token))
}

/// Writes a file that never exists half-written, nor readable for others.
fn write_private(path: &Path, text: &str) -> Result<(), AppError> {
    let new = path.with_extension("new");
    let write = || {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(FILE_MODE).open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    write().map_err(failed("write", path))
}

/// Removes a file that means nothing after the end; one that is gone already is fine.
pub(super) fn forget(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "cannot remove a file that is of no use any more");
    }
}

/// How an agent of the same data directory reaches the managed NATS.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct NatsAddress {
    /// Its URL.
    pub(crate) url: String,
    /// The directory with the agents' nkey seeds.
    pub(crate) agent_seeds: PathBuf,
    /// The file with the service's nkey seed.
    pub(crate) service_seed_file: Option<PathBuf>,
    /// The file of the authority that signed its certificate, if it is not a public one.
    #[serde(default)]
    pub(crate) tls_ca_file: Option<PathBuf>,
}

impl NatsAddress {
    pub(super) fn of(server: &ManagedServer) -> Self {
        let file = |credentials| match credentials {
            Credentials::NkeySeedFile(file) => Some(file),
            _ => None,
        };
        Self {
            url: server.url().to_owned(),
            agent_seeds: server.agent_seeds().to_owned(),
            service_seed_file: file(server.service_credentials()),
            tls_ca_file: server.tls_ca_file().map(Path::to_owned),
        }
    }

    /// What a running `farside up` wrote there; none when none runs.
    pub(crate) fn read(path: &Path) -> Option<Self> {
        serde_json::from_str(&fs::read_to_string(path).ok()?).ok()
    }

    /// Where an agent's seed is when it was made on this machine and nobody named another place.
    pub(crate) fn agent_seed_file(&self, id: &AgentId) -> PathBuf {
        agent_seed_file(&self.agent_seeds, id)
    }

    /// How to connect as an agent, with these credentials.
    pub(crate) fn agent_options(&self, name: &str, credentials: Credentials) -> ConnectOptions {
        ConnectOptions { credentials, ..self.options(name, None) }
    }

    /// How to connect as the service.
    pub(crate) fn service_options(&self, name: &str) -> ConnectOptions {
        self.options(name, self.service_seed_file.clone())
    }

    fn options(&self, name: &str, seed: Option<PathBuf>) -> ConnectOptions {
        ConnectOptions {
            servers: self.url.clone(),
            name: name.to_owned(),
            credentials: seed.map_or(Credentials::None, Credentials::NkeySeedFile),
            tls_ca_file: self.tls_ca_file.clone(),
            ..ConnectOptions::default()
        }
    }
}

pub(super) fn write_address(path: &Path, address: &NatsAddress) -> Result<(), AppError> {
    let text = serde_json::to_string_pretty(address);
    let text = text.map_err(|e| failed("write", path)(io::Error::other(e)))?;
    write_private(path, &text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_data_directory_that_others_may_enter_is_closed_unless_it_is_not_farsides_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data");
        let own = path.join("nats");
        fs::create_dir_all(&own).unwrap();
        fs::create_dir(path.join(FOUND)).unwrap();
        fs::write(path.join("secret"), "x").unwrap();
        let open = || fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        open();
        make_private_dir(&path, &[&own]).unwrap();
        assert_eq!(mode(&path), 0o700);

        open();
        fs::create_dir(path.join("photos")).unwrap();
        let error = make_private_dir(&path, &[&own]).unwrap_err().to_string();
        assert!(error.contains("photos") && error.contains("chmod go="), "{error}");
        assert_eq!(mode(&path), 0o755);
    }

    #[test]
    fn a_token_is_made_once_and_is_private() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep/er");
        make_private_dir(&path, &[&path.join("nats")]).unwrap();
        let file = path.join("operator.token");
        token(&file).unwrap();
        let first = fs::read_to_string(&file).unwrap();
        token(&file).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), first);
        assert_eq!(first.len(), 64);
        assert_eq!((mode(&file), mode(&path)), (0o600, 0o700));
    }
}
