//! What the code under test says in its log, on this thread and for as long as the test listens.

use std::{
    io,
    sync::{Arc, Mutex},
};

use tracing_subscriber::{filter::LevelFilter, util::SubscriberInitExt};

/// Everything down to DEBUG that was said since, and the end of listening when it is dropped.
pub(crate) struct Log {
    said: Said,
    _listening: tracing::subscriber::DefaultGuard,
}

#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Listens to this thread, which is all of a `#[tokio::test]`.
    pub(crate) fn listen() -> Self {
        let said = Said::default();
        let writer = said.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(LevelFilter::DEBUG)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        Self { said, _listening: subscriber.set_default() }
    }

    /// The lines that hold every one of these words.
    pub(crate) fn lines(&self, words: &[&str]) -> Vec<String> {
        let said = String::from_utf8_lossy(&self.said.0.lock().unwrap()).into_owned();
        let holds = |line: &&str| words.iter().all(|word| line.contains(word));
        said.lines().filter(holds).map(str::to_owned).collect()
    }
}

impl io::Write for Said {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
