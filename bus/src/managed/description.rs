//! What nats-server keeps beside the messages of a stream: its configuration and its time of creation, with a checksum.
//! A stream that is unpacked gets a new time of creation; with the description of the one that was packed it is that log
//! again, which what was signed of it names by that time. For a server that does not run.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{ManagedError, config::MAIN, file_error};

/// The description, and its checksum.
const FILES: [&str; 2] = ["meta.inf", "meta.sum"];

/// Both files of a description, as they stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description(pub [Vec<u8>; 2]);

/// The description of a stream in a store directory. Errors: it is not there, the disk.
pub fn description(store_dir: &Path, stream: &str) -> Result<Description, ManagedError> {
    let read = |name: &str| {
        let path = directory(store_dir, stream).join(name);
        fs::read(&path).map_err(file_error("read", &path))
    };
    Ok(Description([read(FILES[0])?, read(FILES[1])?]))
}

/// Puts a description in the place of the one that is there. Errors: the disk.
pub fn describe(store_dir: &Path, stream: &str, description: &Description) -> Result<(), ManagedError> {
    FILES.iter().zip(&description.0).try_for_each(|(name, bytes)| {
        let path = directory(store_dir, stream).join(name);
        fs::write(&path, bytes).map_err(file_error("write", &path))
    })
}

fn directory(store_dir: &Path, stream: &str) -> PathBuf {
    store_dir.join("jetstream").join(MAIN).join("streams").join(stream)
}

/// The files of a store directory without which nobody who came in to its server comes in again: nkey seeds, the
/// publishers' password, who was enrolled, and the port. Errors: the disk.
pub fn identity_files(store_dir: &Path) -> Result<Vec<PathBuf>, ManagedError> {
    let agents = store_dir.join("keys/agents");
    let named = ["keys/service.nk", "keys/system.nk", "keys/publisher.password", "enrolled.json", "port"];
    let mut files: Vec<_> =
        named.iter().map(|name| store_dir.join(name)).filter(|path| path.exists()).collect();
    for entry in fs::read_dir(&agents).map_err(file_error("look into", &agents))? {
        let path = entry.map_err(file_error("look into", &agents))?.path();
        if path.extension().is_some_and(|extension| extension == "nk") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
