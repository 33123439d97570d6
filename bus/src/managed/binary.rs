//! Where the nats-server binary is.

use std::{
    env,
    path::{Path, PathBuf},
};

use super::ManagedError;

const NAME: &str = "nats-server";

/// Finds the nats-server binary: `explicit`, then `FARSIDE_NATS_SERVER`, `PATH`, and `.tools/nats-server`
/// in a directory above the executable or the working directory.
pub fn find_binary(explicit: Option<&Path>) -> Result<PathBuf, ManagedError> {
    let named =
        explicit.map(Path::to_owned).or_else(|| env::var_os("FARSIDE_NATS_SERVER").map(PathBuf::from));
    if let Some(named) = named {
        let looked_in = format!("{} was named and is no file", named.display());
        return named.is_file().then_some(named).ok_or(ManagedError::NoBinary { looked_in });
    }
    let on_path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&on_path).map(|dir| dir.join(NAME));
    let starts = [env::current_exe().ok(), env::current_dir().ok()];
    let beside =
        starts.iter().flatten().flat_map(|start| start.ancestors()).map(|dir| dir.join(".tools").join(NAME));
    let looked_in = "neither in PATH nor in a .tools directory above the program or the working directory";
    on_path
        .chain(beside)
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| ManagedError::NoBinary { looked_in: looked_in.to_owned() })
}
