//! The file of a signing key's seed, for its owner alone (0600), and the one of its successor while that is being made
//! known: a crash at any moment leaves the key that the log names in one of the two.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use crate::signing::{SignatureError, SigningKey};

const FILE_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;

/// Where a target keeps the key that it signs with.
#[derive(Clone, Debug)]
pub struct KeyFile {
    current: PathBuf,
    next: PathBuf,
}

/// Why there is no key to sign with.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file cannot be used.
    #[error(
        "cannot {verb} the signing key {path}: {source}; check that it is there and belongs to farside's user"
    )]
    File {
        /// What was tried.
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is something else in it.
    #[error("the signing key {path} cannot be used: {source}; put the seed back from a backup")]
    Seed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: SignatureError,
    },
}

impl KeyFile {
    /// The key in this file; its successor's stands beside it, as `.next`.
    pub fn new(path: &Path) -> Self {
        Self { current: path.to_owned(), next: path.with_extension("next") }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.current
    }

    /// The key; made, and on the disk, when there is none. Errors: the disk, a file that holds something else.
    pub fn load_or_make(&self) -> Result<SigningKey, KeyFileError> {
        made(&self.current)
    }

    /// The key; none when there is none.
    pub fn load(&self) -> Result<Option<SigningKey>, KeyFileError> {
        read(&self.current)
    }

    /// The successor that is being made known; none when none is.
    pub fn successor(&self) -> Result<Option<SigningKey>, KeyFileError> {
        read(&self.next)
    }

    /// A successor, on the disk before anybody hears of it; the one that is there already, if one is.
    pub fn prepare_successor(&self) -> Result<SigningKey, KeyFileError> {
        made(&self.next)
    }

    /// Puts the successor in the place of the key, which is gone then.
    pub fn succeed(&self) -> Result<(), KeyFileError> {
        let renamed = fs::rename(&self.next, &self.current).and_then(|()| sync_directory(&self.current));
        renamed.map_err(failed("replace", &self.current))
    }
}

fn failed(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> KeyFileError {
    let path = path.to_owned();
    move |source| KeyFileError::File { verb, path, source }
}

fn read(path: &Path) -> Result<Option<SigningKey>, KeyFileError> {
    match fs::read_to_string(path) {
        Ok(seed) => SigningKey::from_seed(&seed)
            .map(Some)
            .map_err(|source| KeyFileError::Seed { path: path.to_owned(), source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", path)(error)),
    }
}

fn made(path: &Path) -> Result<SigningKey, KeyFileError> {
    if let Some(key) = read(path)? {
        return Ok(key);
    }
    let key = SigningKey::generate();
    let seed = key.seed().map_err(|source| KeyFileError::Seed { path: path.to_owned(), source })?;
    write(path, &seed).map_err(failed("write", path))?;
    Ok(key)
}

/// Writes a file that is there whole or not at all.
fn write(path: &Path, seed: &str) -> io::Result<()> {
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(directory)?;
    }
    let draft = path.with_extension("draft");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(FILE_MODE).open(&draft)?;
    writeln!(file, "{seed}")?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    sync_directory(path)
}

fn sync_directory(of: &Path) -> io::Result<()> {
    let directory = of.parent().filter(|directory| !directory.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_made_once_for_its_owner_alone_and_makes_way_for_its_successor() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys/signing.nk");
        let file = KeyFile::new(&path);
        assert!(file.load().unwrap().is_none());
        let first = file.load_or_make().unwrap().public();
        assert_eq!(file.load_or_make().unwrap().public(), first);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let next = file.prepare_successor().unwrap().public();
        assert_eq!(file.prepare_successor().unwrap().public(), next, "a rotation that broke off goes on");
        assert_eq!(file.load().unwrap().unwrap().public(), first);
        file.succeed().unwrap();
        assert_eq!(file.load().unwrap().unwrap().public(), next);
        assert!(file.successor().unwrap().is_none() && next != first);
    }

    #[test]
    fn a_file_with_something_else_in_it_is_named_and_left() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("signing.nk");
        fs::write(&path, "hello").unwrap();
        let error = KeyFile::new(&path).load_or_make().err().unwrap().to_string();
        assert!(error.contains("signing.nk") && error.contains("backup"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "hello");
    }
}
