//! Reading a log in order, without acks: each message once, over reconnects and restarts of the server.
//!
//! ```text
//! closed --link up, log is the same--> open --message--> open
//!   ^                                   |
//!   +---- link lost, silence, gap ------+        log is another one --> error
//! ```
//! A message whose headers the client library cannot read breaks the connection each time it is
//! delivered. The reader notices that it comes no further and gets that one message through the API, and so does
//! everybody else who reads the whole log over the same connection from then on (`breakers.rs`).
//! What NATS itself cannot read (a rotten block) it neither delivers nor skips: the reader notices that
//! too, and goes on behind it (`readable.rs`), once it is believed (`absence.rs`).

mod readable;

pub(crate) use readable::ALL;

use std::{sync::Arc, time::Duration};

use bus_schema::Timestamp;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;
use tokio::{
    runtime::Handle,
    time::{Instant, timeout_at},
};

use crate::{
    Bus, BusError, LinkState, LogMessage,
    api::Call,
    message::Place,
    pull::{Pull, PullSize, Pulled},
    stream::no_stream,
};

/// One request's size: large enough that its round trip is lost among the deliveries, and a bound
/// for what waits in this process.
const PULL: PullSize = PullSize { messages: 8_192, bytes: 16 << 20 };
/// The same for a reader that somebody slow may leave waiting: the largest message of the bus fits, and not much more.
const PULL_SMALL: PullSize = PullSize { messages: 256, bytes: 2 << 20 };
/// The server drops a reader's consumer after this time without a request.
const CONSUMER_IDLE_MAX: Duration = Duration::from_secs(30);
/// Links lost without progress before the next message is suspected of breaking them.
const LOSSES_SUSPECT: u32 = 2;
/// A reader that is this far behind gathers messages before it gives a chunk out.
const GATHER_PENDING: u64 = 512;
/// How long it gathers at a time: the least that the timer can do.
const GATHER_PAUSE: Duration = Duration::from_millis(1);
/// How often it gathers for one chunk; together some ten milliseconds.
const GATHER_PAUSES: usize = 8;
/// A consumer that has more to deliver and is silent for so long is suspected to stand still. A server that is only
/// slow is asked for its next message then, and loses nothing.
const STANDSTILL: Duration = Duration::from_secs(3);
/// Pause before a failed open is tried again.
const REOPEN_PAUSE: Duration = Duration::from_millis(200);

/// An ordered reader of one log.
#[derive(Debug)]
pub struct LogReader {
    bus: Bus,
    stream: Arc<str>,
    created: Timestamp,
    filter: Option<String>,
    next_seq: u64,
    /// The last message that was given out: what the log is compared with before reading goes on.
    last: Option<LogMessage>,
    pull: Option<Pull>,
    /// The name of the consumer behind it.
    consumer: Option<String>,
    size: PullSize,
    /// Read, but not given out yet: a cancelled call leaves it here.
    taken: Vec<LogMessage>,
    /// How many more the log had behind the last message that was read, or when the consumer was made.
    pending: u64,
    consumer_seq: u64,
    progress: bool,
    losses: u32,
    /// Nothing came although there is more.
    stands_still: bool,
    /// Nothing from the next message up to this sequence can be read, as it looked last; 0 = all can.
    unreadable_to: u64,
    /// Since when a consumer that has more to give has given nothing, over cancelled calls too.
    silent_since: Option<Instant>,
    /// When a message came last, or reading began.
    came_at: Instant,
}

impl Bus {
    /// Reads a log in order from `from_seq` (1 = from the start), all of it or one subject filter.
    ///
    /// Errors: [`BusError::NoStream`], the link.
    pub async fn read_log(
        &self,
        stream: &str,
        from_seq: u64,
        filter: Option<&str>,
    ) -> Result<LogReader, BusError> {
        let created = self.stream_state(stream).await?.created;
        Ok(LogReader {
            bus: self.clone(),
            stream: stream.into(),
            created,
            filter: filter.map(str::to_owned),
            next_seq: from_seq.max(1),
            last: None,
            pull: None,
            consumer: None,
            size: PULL,
            taken: Vec::new(),
            pending: 0,
            consumer_seq: 0,
            progress: false,
            losses: 0,
            stands_still: false,
            unreadable_to: 0,
            silent_since: None,
            came_at: Instant::now(),
        })
    }
}

impl LogReader {
    /// Asks for little at a time, for somebody slow: no more than 2 MiB wait in this process.
    #[must_use]
    pub fn in_small_steps(mut self) -> Self {
        self.size = PULL_SMALL;
        self
    }

    /// Whether it reads this log.
    pub fn is_of(&self, stream: &str) -> bool {
        &*self.stream == stream
    }

    /// The next message; waits for it. Cancel safe. See [`LogReader::next_chunk`] for the errors.
    pub async fn next(&mut self) -> Result<LogMessage, BusError> {
        loop {
            if let Some(message) = self.next_chunk(1).await?.pop() {
                return Ok(message);
            }
        }
    }

    /// At least one and at most `max` of the next messages; waits for the first only. Cancel safe.
    ///
    /// Lost connections and restarted servers are no errors: it waits and resumes behind the last message.
    /// Errors: [`BusError::LogChanged`] when the stream is another one, or does not hold any more what
    /// was read; [`BusError::Unsure`] while NATS may lack file handles; [`BusError::NoStream`]. After an error, check
    /// the position and open a new reader.
    pub async fn next_chunk(&mut self, max: usize) -> Result<Vec<LogMessage>, BusError> {
        while self.taken.is_empty() {
            self.step(u64::MAX).await?;
        }
        self.fill(max).await;
        Ok(self.given(max, u64::MAX))
    }

    /// The same for a part of the log that is stored already: the next messages up to and with `last_seq`, and none
    /// when there are no more of them, be it that the last ones are gone or that NATS cannot read them. It never
    /// waits for a message that is yet to be published; what came behind `last_seq` meanwhile is kept for the next call.
    /// Cancel safe. Errors: as [`LogReader::next_chunk`].
    pub async fn next_stored(
        &mut self,
        max: usize,
        last_seq: u64,
    ) -> Result<Option<Vec<LogMessage>>, BusError> {
        while self.taken.is_empty() {
            if self.next_seq > last_seq || self.has_no_more(last_seq).await? {
                return Ok(None);
            }
            if self.taken.is_empty() {
                self.step(last_seq).await?;
            }
        }
        self.fill(max).await;
        let chunk = self.given(max, last_seq);
        Ok(Some(chunk).filter(|chunk| !chunk.is_empty()))
    }

    /// Whether nothing is left up to `last_seq`: the consumer says so, which may be on a server of the cluster that is
    /// behind, and the leader says so too; or nothing of it can be read.
    async fn has_no_more(&mut self, last_seq: u64) -> Result<bool, BusError> {
        if self.unreadable_to >= last_seq {
            return Ok(true);
        }
        if self.pull.is_none() || self.pending > 0 {
            return Ok(false);
        }
        let filter = self.filter.as_deref().unwrap_or(ALL);
        let next = match &self.filter {
            // The last ones of a log are there as a rule.
            None => self.bus.next_message_for_sure(&self.stream, self.next_seq, filter).await?,
            Some(_) => self.bus.next_message_unless_unsure(&self.stream, self.next_seq, filter).await?,
        };
        let Some(next) = next.filter(|next| next.seq() <= last_seq) else { return Ok(true) };
        self.next_seq = next.seq() + 1;
        self.pull = None;
        self.taken.push(next);
        Ok(false)
    }

    /// Comes one step further: a consumer that is open, a message that is taken, or a loss that is noticed. Nobody wants
    /// what is behind `last_seq`, so it is not asked for.
    async fn step(&mut self, last_seq: u64) -> Result<(), BusError> {
        let breaker = self.breaker();
        if breaker == Some(self.next_seq) {
            self.pull = None;
        }
        let Some(pull) = &mut self.pull else {
            let message = self.reopen().await?;
            self.taken.extend(message);
            return Ok(());
        };
        let last_seq = breaker.map_or(last_seq, |breaker| last_seq.min(breaker - 1));
        let wanted = usize::try_from(last_seq.saturating_sub(self.next_seq)).unwrap_or(usize::MAX);
        pull.resize(self.size.messages.min(wanted.saturating_add(1)));
        let pulled = match self.pending {
            0 => pull.next().await,
            _ => {
                let silent_since = *self.silent_since.get_or_insert_with(Instant::now);
                timeout_at(silent_since + STANDSTILL, pull.next()).await.unwrap_or_else(|_| {
                    self.stands_still = true;
                    Pulled::Gone("nothing came although the log has more".to_owned())
                })
            }
        };
        self.silent_since = None;
        self.accept(pulled);
        Ok(())
    }

    /// Takes what is on its way, too.
    async fn fill(&mut self, max: usize) {
        let max = max.max(1);
        self.take_ready(max);
        for _ in 0..GATHER_PAUSES {
            // Far behind, the rest is on its way. Woken for each message, this task would spend more on
            // waking than on reading.
            let comes = self.pull.as_ref().is_some_and(Pull::is_asking);
            if self.taken.len() >= max || self.pending < GATHER_PENDING || !comes {
                break;
            }
            tokio::time::sleep(GATHER_PAUSE).await;
            self.take_ready(max);
        }
    }

    /// Gives out what was taken, so many and up to this sequence, and keeps what is behind it for the next call.
    fn given(&mut self, max: usize, last_seq: u64) -> Vec<LogMessage> {
        let wanted = self.taken.partition_point(|message| message.seq() <= last_seq);
        let behind = self.taken.split_off(wanted.min(max.max(1)));
        let given = std::mem::replace(&mut self.taken, behind);
        self.last = given.last().cloned().or_else(|| self.last.take());
        given
    }

    /// How many more messages the log had behind the last one that was given out, when that was delivered.
    pub fn pending(&self) -> u64 {
        self.pending
    }

    fn take_ready(&mut self, max: usize) {
        while self.taken.len() < max
            && let Some(pulled) = self.pull.as_mut().and_then(Pull::ready)
        {
            self.accept(pulled);
        }
    }

    fn accept(&mut self, pulled: Pulled) {
        match pulled {
            Pulled::Message(place, message) if place.consumer_seq == self.consumer_seq + 1 => {
                self.consumer_seq += 1;
                self.progress = true;
                self.came_at = Instant::now();
                self.next_seq = place.stream_seq + 1;
                self.pending = place.pending;
                self.taken.push(LogMessage::delivered(Arc::clone(&self.stream), place, message));
            }
            Pulled::Message(Place { consumer_seq, .. }, _) => {
                let expected = self.consumer_seq + 1;
                tracing::debug!(stream = %self.stream, expected, consumer_seq, "deliveries were lost; reading them again");
                self.pull = None;
            }
            Pulled::Gone(reason) => {
                tracing::debug!(stream = %self.stream, next_seq = self.next_seq, reason, "the reader opens again");
                self.losses = if self.progress { 0 } else { self.losses + 1 };
                self.pull = None;
            }
        }
    }

    /// Opens again behind the last message; retries while the link is down. Gives a message that had
    /// to be got past.
    async fn reopen(&mut self) -> Result<Option<LogMessage>, BusError> {
        loop {
            let link = self.link_up().await?;
            match self.try_open(link).await {
                Err(BusError::Link { source, .. }) => {
                    tracing::debug!(stream = %self.stream, %source, "the reader could not open; trying again");
                    tokio::time::sleep(REOPEN_PAUSE).await;
                }
                other => return other,
            }
        }
    }

    async fn link_up(&self) -> Result<LinkState, BusError> {
        let call = Call { verb: "read", object: &self.stream };
        let mut link = self.bus.link();
        let up = link.wait_for(|state| matches!(state, LinkState::Up { .. })).await;
        up.map(|state| *state).map_err(|e| call.link(e))
    }

    async fn try_open(&mut self, link: LinkState) -> Result<Option<LogMessage>, BusError> {
        let last_seq = self.check_log().await?;
        if self.losses >= LOSSES_SUSPECT || self.stands_still || self.breaker() == Some(self.next_seq) {
            if let Some(message) = self.get_past(last_seq).await? {
                return Ok(Some(message));
            }
            (self.losses, self.stands_still) = (0, false);
            if self.breaker() == Some(self.next_seq) {
                self.bus.breakers().forget(&self.stream, self.created, self.next_seq);
            }
        }
        let consumer = format!("reader-{:016x}", getrandom::u64().unwrap_or(self.next_seq));
        self.forget_consumer();
        self.pending = self.make_consumer(&consumer).await?;
        self.consumer = Some(consumer.clone());
        let call = Call { verb: "read", object: &self.stream };
        let pull = Pull::open(&self.bus, &self.stream, &consumer, link, self.size).await;
        self.pull = Some(pull.map_err(|e| call.link(e))?);
        self.consumer_seq = 0;
        self.progress = false;
        Ok(None)
    }

    /// Gets the next message through the API, be it behind what NATS cannot read.
    async fn get_past(&mut self, last_seq: u64) -> Result<Option<LogMessage>, BusError> {
        let (stream, first) = (Arc::clone(&self.stream), self.next_seq);
        let filter = self.filter.as_deref().unwrap_or(ALL);
        let mut found = self.bus.next_message(&stream, first, filter).await?;
        if found.is_none() && self.stands_still {
            found = self.bus.first_readable(&stream, filter, first, last_seq).await?;
            // The next one was not there, or NATS would have given it.
            let last = found.as_ref().map_or(last_seq, |found| found.seq() - 1);
            let is_news = found.is_some() || self.unreadable_to != last_seq;
            if found.is_none() {
                // Nothing is gained by going on, and all would be lost if it can be read again: it is tried again.
                self.unreadable_to = last_seq;
            }
            if last >= first && is_news {
                tracing::error!(%stream, first, last, "NATS cannot read what it has stored of these sequences; they are got past as soon as something behind them can be read. Scrub and chains name what is lost; look at the log of nats-server, and at the disk");
            }
        } else if let Some(message) = found.as_ref().filter(|message| self.breaker() != Some(message.seq())) {
            // It may break the connection, or server and disk may just be slow: nobody can tell from here.
            let (seq, silent) = (message.seq(), self.came_at.elapsed());
            tracing::warn!(%stream, seq, ?silent, "no message came for a while although the log has more; read the next one through the API");
            if self.filter.is_none() && self.losses >= LOSSES_SUSPECT {
                self.bus.breakers().note(&stream, self.created, seq);
            }
        }
        let Some(message) = found else { return Ok(None) };
        (self.losses, self.stands_still) = (0, false);
        self.next_seq = message.seq() + 1;
        self.came_at = Instant::now();
        Ok(Some(message))
    }

    /// The next message that is known to break the connection. Which of them a filter lets through is not known.
    fn breaker(&self) -> Option<u64> {
        self.filter.is_none().then(|| self.bus.breakers().next(&self.stream, self.created, self.next_seq))?
    }

    /// Tells the server that nobody reads by this consumer any more: until it knows, the log cannot be trimmed where the
    /// consumer stands. It finds out by itself after [`CONSUMER_IDLE_MAX`], so nobody waits for an answer.
    fn forget_consumer(&mut self) {
        let (Some(consumer), Ok(runtime)) = (self.consumer.take(), Handle::try_current()) else { return };
        let subject = format!("$JS.API.CONSUMER.DELETE.{}.{consumer}", self.stream);
        let client = self.bus.client().clone();
        runtime.spawn(async move { drop(client.publish(subject, Bytes::new()).await) });
    }

    /// Whether the log still is the one that was read so far; answers its last sequence.
    async fn check_log(&self) -> Result<u64, BusError> {
        let changed = |reason| BusError::LogChanged { stream: self.stream.to_string(), reason };
        let state = self.bus.stream_state(&self.stream).await?;
        if state.created != self.created {
            return Err(changed(format!("it was made anew at {}, not at {}", state.created, self.created)));
        }
        let Some(last) = &self.last else { return Ok(state.last_seq) };
        let seq = last.seq();
        if state.last_seq < seq {
            return Err(changed(format!(
                "its last sequence is {}, but {seq} was read already",
                state.last_seq
            )));
        }
        match self.bus.message_for_sure(&self.stream, seq).await? {
            Some(message) if message.hash() == last.hash() => Ok(state.last_seq),
            Some(_) => Err(changed(format!("another message stands at sequence {seq}"))),
            None => Err(changed(format!("the message at sequence {seq} is gone"))),
        }
    }

    /// Makes a consumer; answers how much it has to deliver.
    async fn make_consumer(&self, name: &str) -> Result<u64, BusError> {
        let stream = &self.stream;
        let mut config = json!({
            "name": name,
            "ack_policy": "none",
            "replay_policy": "instant",
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": self.next_seq,
            "mem_storage": true,
            "num_replicas": 1,
            "inactive_threshold": CONSUMER_IDLE_MAX.as_nanos() as u64,
        });
        let mut subject = format!("CONSUMER.CREATE.{stream}.{name}");
        if let Some(filter) = &self.filter {
            config["filter_subject"] = json!(filter);
            // The filter stands in the subject too, so that a server's permissions can see it.
            subject = format!("{subject}.{filter}");
        }
        let request = json!({ "stream_name": &**stream, "config": config, "action": "create" });
        let call = Call { verb: "read", object: stream };
        let made = self.bus.call::<_, Made>(call, &subject, &request).await;
        made.map(|made| made.num_pending).map_err(|e| no_stream(stream, e))
    }
}

impl Drop for LogReader {
    fn drop(&mut self) {
        self.forget_consumer();
    }
}

/// What the server answers about a consumer that it made.
#[derive(Deserialize)]
struct Made {
    num_pending: u64,
}
