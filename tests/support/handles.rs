//! The file handles of a nats-server, taken away for a while: it opens no file and takes no connection then, and says
//! of what it cannot read that it is not there. Linux only.

use std::{fs, path::PathBuf};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use tempfile::TempDir;
use testkit::{NatsOptions, Place};

use super::nats::Nats;

/// A server whose process is known.
pub(crate) struct Handles {
    pid_file: PathBuf,
    _dir: TempDir,
}

impl Handles {
    /// Starts a server, and holds its handles.
    pub(crate) async fn start() -> (Nats, Self) {
        let dir = tempfile::tempdir().unwrap();
        let pid_file = dir.path().join("nats.pid");
        let more = format!("pid_file: {pid_file:?}\n");
        let nats = Nats::start_as(NatsOptions { place: Some(Place::Local), more, ..NatsOptions::default() });
        (nats.await, Self { pid_file, _dir: dir })
    }

    /// The server gets no new handle; those that it has stay.
    pub(crate) fn take_away(&self) {
        self.limit(Some(0));
    }

    /// The server gets what it asks for.
    pub(crate) fn give_back(&self) {
        self.limit(getrlimit(Resource::Nofile).current);
    }

    fn limit(&self, current: Option<u64>) {
        let pid = Pid::from_raw(fs::read_to_string(&self.pid_file).unwrap().trim().parse().unwrap());
        let maximum = getrlimit(Resource::Nofile).maximum;
        prlimit(pid, Resource::Nofile, Rlimit { current, maximum }).unwrap();
    }
}
