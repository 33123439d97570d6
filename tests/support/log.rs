//! What the code under test says in its log, on this thread and for as long as the test listens.

use std::{
    cell::RefCell,
    io,
    sync::{Arc, Mutex, Once},
};

use tracing_subscriber::{
    filter::{LevelFilter, dynamic_filter_fn},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

thread_local! {
    /// Where the log of this thread goes, while a test listens to it.
    static HEARD: RefCell<Option<Said>> = const { RefCell::new(None) };
}

/// Everything down to DEBUG that was said since, and the end of listening when it is dropped.
pub(crate) struct Log(Said);

#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Listens to this thread, which is all of a `#[tokio::test]`.
    pub(crate) fn listen() -> Self {
        static SUBSCRIBED: Once = Once::new();
        SUBSCRIBED.call_once(subscribe);
        let said = Said::default();
        HEARD.set(Some(said.clone()));
        Self(said)
    }

    /// The lines that hold every one of these words.
    pub(crate) fn lines(&self, words: &[&str]) -> Vec<String> {
        let said = String::from_utf8_lossy(&self.0.0.lock().unwrap()).into_owned();
        let holds = |line: &&str| words.iter().all(|word| line.contains(word));
        said.lines().filter(holds).map(str::to_owned).collect()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        HEARD.set(None);
    }
}

/// One subscriber for all threads. With one per test (`set_default`), a place in the code that another thread reaches
/// first is asked about there, where nobody listens, and tracing may remember "never" for all threads.
fn subscribe() {
    let listened_to = dynamic_filter_fn(|_, _| HEARD.with_borrow(Option::is_some));
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .with_writer(|| HEARD.with_borrow(Clone::clone).unwrap_or_default());
    tracing_subscriber::registry().with(LevelFilter::DEBUG).with(listened_to).with(lines).init();
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

#[test]
fn what_another_thread_said_first_is_heard_here_too() {
    let say = || tracing::warn!("said twice");
    let log = Log::listen();
    std::thread::spawn(say).join().unwrap();
    say();
    assert_eq!(log.lines(&["WARN", "said twice"]).len(), 1, "the line of this thread, not of the other");
}
