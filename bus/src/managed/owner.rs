//! One owner of a store directory: a lock that ends with its process, and the end of a server that a
//! killed owner left behind.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{DirBuilderExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tokio::time::{Instant, sleep};

use super::{ManagedError, config, file_error};

/// How long a server that was left behind may take to end by itself.
const LEFTOVER_WAIT: Duration = Duration::from_secs(10);
/// How often it is looked whether it has ended.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Holds the directory until it is dropped, or its process ends in any way.
#[derive(Debug)]
pub(crate) struct Owner {
    lock: File,
}

impl Drop for Owner {
    fn drop(&mut self) {
        // Closing would do, were it not for a process that is being started in this moment by another
        // thread: until it is another program, it has the file open, too.
        let _ = self.lock.unlock();
    }
}

impl Owner {
    /// Takes a directory, which is made if need be. Errors: [`ManagedError::InUse`] says who has it.
    pub(crate) fn take(store_dir: &Path) -> Result<Self, ManagedError> {
        make_private_dir(store_dir)?;
        let path = store_dir.join("lock");
        let mut options = OpenOptions::new();
        let mut lock = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(file_error("open", &path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let read = lock.read_to_string(&mut holder);
                let named = read.is_ok() && !holder.trim().is_empty();
                let holder = if named { holder.trim().to_owned() } else { "another process".to_owned() };
                return Err(ManagedError::InUse { store_dir: store_dir.to_owned(), holder });
            }
            Err(TryLockError::Error(e)) => return Err(file_error("lock", &path)(e)),
        }
        let holder = format!("process {}\n", std::process::id());
        lock.set_len(0)
            .and_then(|()| lock.write_all(holder.as_bytes()))
            .map_err(file_error("write", &path))?;
        Ok(Self { lock })
    }
}

/// Makes a directory that only its owner can enter.
pub(crate) fn make_private_dir(path: &Path) -> Result<(), ManagedError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(file_error("make", path))
}

/// Writes a file that only its owner can read: whole, or not at all.
pub(crate) fn write_private(path: &Path, text: &str) -> Result<(), ManagedError> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&new, path));
    written.map_err(file_error("write", path))
}

/// Ends the server of an owner that was killed, so that no two servers write to one store. Call it as
/// the owner of the directory only.
pub(crate) async fn end_leftover(store_dir: &Path) -> Result<(), ManagedError> {
    let pid_file = store_dir.join("nats-server.pid");
    let pid = match fs::read_to_string(&pid_file) {
        Ok(text) => text.trim().parse().ok().and_then(Pid::from_raw),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(file_error("read", &pid_file)(e)),
    };
    let Some(pid) = pid else { return Ok(()) };
    match runs(pid, store_dir, Path::new(PROCESSES)) {
        Runs::Server => {}
        Runs::Other => return Ok(()),
        Runs::Unknown => {
            let (pid, file) = (pid.as_raw_nonzero(), pid_file.display());
            let holder = format!(
                "process {pid}, or so it may be: what that runs cannot be read here. If it is no nats-server, remove {file}"
            );
            return Err(ManagedError::InUse { store_dir: store_dir.to_owned(), holder });
        }
    }
    tracing::warn!(pid = pid.as_raw_nonzero(), "ending a nats-server that a killed process left behind");
    for (signal, wait) in [(Signal::TERM, LEFTOVER_WAIT), (Signal::KILL, LEFTOVER_WAIT)] {
        // It may end between the look and the signal, which is as good.
        let _ = kill_process(pid, signal);
        let deadline = Instant::now() + wait;
        while Instant::now() < deadline {
            if runs(pid, store_dir, Path::new(PROCESSES)) != Runs::Server {
                return Ok(());
            }
            sleep(LOOK_EVERY).await;
        }
    }
    let holder = format!("nats-server, process {}, which does not end", pid.as_raw_nonzero());
    Err(ManagedError::InUse { store_dir: store_dir.to_owned(), holder })
}

/// Where Linux says what a process runs.
const PROCESSES: &str = "/proc";

/// What a process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Runs {
    /// A nats-server on this store's configuration.
    Server,
    /// Something else; or it has ended.
    Other,
    /// It lives, and the system does not say what it runs.
    Unknown,
}

fn runs(pid: Pid, store_dir: &Path, processes: &Path) -> Runs {
    let Ok(command) = fs::read(processes.join(pid.as_raw_nonzero().to_string()).join("cmdline")) else {
        // A process of another user cannot be signalled, and cannot have opened this store.
        return if test_kill_process(pid).is_ok() { Runs::Unknown } else { Runs::Other };
    };
    let mut arguments = command.split(|byte| *byte == 0);
    let program = arguments.next().unwrap_or_default();
    let config = config::path(store_dir);
    let ours = program.ends_with(b"nats-server")
        && arguments.any(|argument| argument == config.as_os_str().as_bytes());
    if ours { Runs::Server } else { Runs::Other }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_the_system_does_not_say_what_a_living_process_runs_nothing_is_started_beside_it() {
        let nowhere = Path::new("/nowhere");
        let me = rustix::process::getpid();
        assert_eq!(runs(me, nowhere, nowhere), Runs::Unknown);
        if Path::new(PROCESSES).join("self/cmdline").exists() {
            assert_eq!(runs(me, nowhere, Path::new(PROCESSES)), Runs::Other);
        }
        let mut ended = std::process::Command::new("true").spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(ended.id()).unwrap()).unwrap();
        ended.wait().unwrap();
        assert_eq!(runs(pid, nowhere, nowhere), Runs::Other, "it has ended");
    }
}
