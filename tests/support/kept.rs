//! The files of a log as they were, to be put back: its end is lost then, as after a power cut or by a disk that went back.

use std::{fs, path::Path};

use super::nats::Nats;

/// A copy of what a server keeps of one stream.
pub(crate) struct KeptLog {
    stream: &'static str,
    files: tempfile::TempDir,
}

impl KeptLog {
    /// Ends the server, copies, starts it again.
    pub(crate) async fn of(nats: &mut Nats, stream: &'static str) -> Self {
        let files = tempfile::tempdir().unwrap();
        nats.stop().await;
        copy(&nats.stream_dir(stream), files.path());
        nats.start_again().await;
        Self { stream, files }
    }

    /// Kills the server, puts the files back, starts it again.
    pub(crate) async fn put_back(&self, nats: &mut Nats) {
        nats.kill().await;
        let log = nats.stream_dir(self.stream);
        fs::remove_dir_all(&log).unwrap();
        copy(self.files.path(), &log);
        nats.start_again().await;
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name())).unwrap();
        if path.is_dir() {
            copy(&path, &to.join(name));
        } else {
            fs::copy(&path, to.join(name)).unwrap();
        }
    }
}
