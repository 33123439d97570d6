//! From messages to commits, on two threads of their own: one parses into a batch while the other
//! commits the one before. Between them, and before them, the channels are bounded, so a slow disk
//! slows the reader down instead of filling the memory.

use std::sync::Arc;

use bus::LogMessage;
use projector::{Batch, Committed, Reader, Store, StoreError};
use tokio::{
    sync::{Mutex, mpsc},
    task::JoinHandle,
    time::Instant,
};

use super::{
    batching::{Cut, Filling},
    replaced::Replaced,
};
use crate::error::ConsumersError;

/// Chunks of messages that may wait for the parser: enough to read on while a batch is handed over.
const CHUNKS_WAITING_MAX: usize = 8;
/// Batches that may wait for the committer: the next one is being parsed already.
const BATCHES_WAITING_MAX: usize = 1;

/// Messages that were read at once.
#[derive(Debug)]
pub(crate) struct Chunk {
    /// The messages, in order.
    pub messages: Vec<LogMessage>,
    /// Whether the log is known to hold much more.
    pub behind: bool,
}

/// Holds commits back while it is locked.
pub(crate) type Gate = Arc<Mutex<()>>;

/// A running pipeline. Dropping the input ends it after everything was committed.
pub(crate) struct Pipeline {
    /// Where messages go in.
    pub input: mpsc::Sender<Chunk>,
    parse: JoinHandle<Result<(), StoreError>>,
    commit: JoinHandle<Result<(), StoreError>>,
}

impl Pipeline {
    /// Starts the two threads; what is `replaced` is passed by, and `committed` is called after every commit.
    pub(crate) fn start(
        store: Store,
        stream: &str,
        gate: Gate,
        replaced: Replaced,
        committed: impl FnMut(Committed) + Send + 'static,
    ) -> Self {
        let (input, chunks) = mpsc::channel(CHUNKS_WAITING_MAX);
        let (full, batches) = mpsc::channel(BATCHES_WAITING_MAX);
        let runtime = tokio::runtime::Handle::current();
        let filler = Filler::new(stream, store.reader(), replaced);
        // Parsing must not hold up the reader's thread, but it waits for three things at once.
        let parse = tokio::task::spawn_blocking(move || runtime.block_on(parse(filler, chunks, full)));
        let commit = tokio::task::spawn_blocking(move || commit(&store, batches, &gate, committed));
        Self { input, parse, commit }
    }

    /// Lets everything that was put in be committed. Errors: the commit that failed; what was in it and
    /// behind it is not in the store, and the store's position says so.
    pub(crate) async fn finish(self) -> Result<(), ConsumersError> {
        drop(self.input);
        let broke = |task| move |source| ConsumersError::Task { task, source };
        let parsed = self.parse.await.map_err(broke("parse"))?;
        self.commit.await.map_err(broke("commit"))??;
        Ok(parsed?)
    }
}

fn commit(
    store: &Store,
    mut batches: mpsc::Receiver<Batch>,
    gate: &Mutex<()>,
    mut committed: impl FnMut(Committed),
) -> Result<(), StoreError> {
    while let Some(batch) = batches.blocking_recv() {
        let _open = gate.blocking_lock();
        committed(store.commit(batch)?);
    }
    Ok(())
}

/// A batch that is being filled.
struct Filler {
    stream: String,
    reader: Reader,
    replaced: Replaced,
    batch: Batch,
    since: Instant,
    behind: bool,
}

impl Filler {
    fn new(stream: &str, reader: Reader, replaced: Replaced) -> Self {
        let batch = Batch::new(stream);
        Self { stream: stream.to_owned(), reader, replaced, batch, since: Instant::now(), behind: false }
    }

    /// Takes messages in. What was parked once is parked again, whatever this build would make of it.
    fn push(&mut self, chunk: Chunk) -> Result<(), StoreError> {
        if self.batch.is_empty() {
            self.since = Instant::now();
        }
        self.behind = chunk.behind;
        let seqs =
            chunk.messages.first().zip(chunk.messages.last()).map(|(first, last)| first.seq()..=last.seq());
        let Some(seqs) = seqs else { return Ok(()) };
        let parked = self.reader.parked_between(&self.stream, seqs)?.value;
        let mut parked = parked.iter().peekable();
        for message in &chunk.messages {
            // What the log has lost comes no more.
            while parked.next_if(|known| known.seq < message.seq()).is_some() {}
            let known = parked.next_if(|known| known.seq == message.seq());
            if self.replaced.has(message)? {
                tracing::warn!(
                    stream = self.stream,
                    seq = message.seq(),
                    "passed by: it stands in place of another message, which is stated"
                );
                message.with_stored(|stored| self.batch.push_passed(stored));
                continue;
            }
            message.with_stored(|stored| match known.filter(|known| known.stands_at(stored)) {
                Some(known) => self.batch.push_parked(stored, known),
                None => self.batch.push(stored),
            });
        }
        Ok(())
    }

    fn take(&mut self) -> Batch {
        std::mem::replace(&mut self.batch, Batch::new(&self.stream))
    }

    fn cut(&self, more_waits: bool) -> Cut {
        let (events, bytes) = (self.batch.len(), self.batch.bytes());
        Filling { events, bytes, age: self.since.elapsed(), more_waits, behind: self.behind }.cut()
    }
}

async fn parse(
    mut filler: Filler,
    mut chunks: mpsc::Receiver<Chunk>,
    full: mpsc::Sender<Batch>,
) -> Result<(), StoreError> {
    loop {
        let cut = filler.cut(!chunks.is_empty());
        let (due, closed) = (matches!(cut, Cut::Due | Cut::Full), cut == Cut::Full);
        let left = if let Cut::After(left) = cut { Some(left) } else { None };
        tokio::select! {
            biased;
            permit = full.reserve(), if due => match permit {
                Ok(permit) => permit.send(filler.take()),
                // The committer gave up; its error is told where it is joined.
                Err(_) => return Ok(()),
            },
            chunk = chunks.recv(), if !closed => match chunk {
                Some(chunk) => filler.push(chunk)?,
                None => break,
            },
            () = tokio::time::sleep(left.unwrap_or_default()), if left.is_some() => {}
        }
    }
    if !filler.batch.is_empty() {
        // As above: a committer that gave up tells why itself.
        let _ = full.send(filler.take()).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bus_schema::{
        Timestamp,
        fact::log::{Loss, LossFound, Parked},
    };
    use projector::StoreOptions;

    use super::*;

    const LOG: &str = "FARSIDE_LOCAL";

    /// What every build can read.
    fn readable(seq: u64) -> LogMessage {
        let body = br#"{"kind":"Pod","id":"a","revision":"1","state":{}}"#.to_vec();
        let subject = "far.v1.local.evt.dc1.resource.Pod=2Fa.changed".to_owned();
        LogMessage::kept(LOG, seq, Timestamp::default(), subject, vec![], body)
    }

    #[test]
    fn what_was_parked_is_parked_again_behind_one_that_the_log_has_lost() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("pool.redb"), StoreOptions::default()).unwrap();
        store.begin_log(LOG, Timestamp::default()).unwrap();
        let parked = |seq| Parked {
            stream: LOG.to_owned(),
            seq,
            subject: readable(seq).subject().to_owned(),
            reason: "nobody could read it then".to_owned(),
            path: "$".to_owned(),
            stored_at: Some(Timestamp::default()),
            at: None,
            copy_of: None,
        };
        store.recall(&[parked(2), parked(3)], true).unwrap();
        let mut filler = Filler::new(LOG, store.reader(), Replaced::default());
        filler.push(Chunk { messages: vec![readable(1), readable(3)], behind: false }).unwrap();
        store.commit(filler.take()).unwrap();
        let known = store.reader().parked_record(LOG, 3).unwrap().value.unwrap();
        assert!(known.body.is_some(), "it was read, and parked again: {known:?}");
        assert_eq!(store.reader().original(&known).unwrap().value.unwrap().body, readable(3).body().to_vec());
    }

    #[test]
    fn what_stands_in_place_of_another_message_is_read_and_nothing_comes_of_it() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("pool.redb"), StoreOptions::default()).unwrap();
        store.begin_log(LOG, Timestamp::default()).unwrap();
        let loss = LossFound {
            read_until: Some(Timestamp::default()),
            ..LossFound::stretch(LOG, Timestamp::default(), 2..=3, Loss::Replaced)
        };
        let unreadable = |seq, stored_at| {
            LogMessage::kept(LOG, seq, stored_at, readable(seq).subject().to_owned(), vec![], b"?".to_vec())
        };
        let mut filler = Filler::new(LOG, store.reader(), Replaced::default().and([&loss]));
        let later = Timestamp::from_unix_ms(1);
        let messages = vec![readable(1), unreadable(2, Timestamp::default()), unreadable(3, later)];
        filler.push(Chunk { messages, behind: false }).unwrap();
        store.commit(filler.take()).unwrap();
        let is_parked = |seq| store.reader().parked_record(LOG, seq).unwrap().value.is_some();
        assert_eq!((is_parked(2), is_parked(3)), (false, true), "the second one was given the sequence");
        let seal = store.reader().seals(LOG, 2).unwrap().unwrap().seal(2).unwrap();
        assert!(seal.is_of(unreadable(2, Timestamp::default()).hash()) && seal.is_passed(), "as it stands");

        // Whoever reads the log again by what this store has read.
        let whole = LossFound { first_seq: 1, ..loss };
        let replaced = Replaced::of(&store, LOG).unwrap().and([&whole]);
        let is_passed = |message: LogMessage| replaced.has(&message).unwrap();
        assert!(is_passed(unreadable(2, Timestamp::default())));
        assert!(!is_passed(readable(1)), "another replica has again what was read");
        assert!(!is_passed(readable(2)), "and what was there before it was passed by");
    }
}
