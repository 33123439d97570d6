//! Reconciliation: what it costs to find the resources that differ among a million, seen on the wire.
//!
//! The differences are real damage: a pool that was made from the agent's own log, but for the states of
//! some resources. The next heartbeat shows that it is not equal, and the service mends it by itself.

use std::{
    collections::HashSet,
    path::Path,
    time::{Duration, Instant},
};

use async_nats::{Message, Subscriber};
use bus::LogMessage;
use bus_schema::{Stem, command::resource::DIGEST, envelope::Stored, subject};
use futures_util::StreamExt as _;
use projector::{Batch, Store, StoreOptions};

use crate::{
    DEADLINE, Outcome,
    million::{INBOX, Million, Served},
    report::Section,
};

/// How many resources differ.
const DIFFERENCES: [u64; 4] = [0, 1, 100, 10_000];
/// Messages that are read from the log at once.
const CHUNK: usize = 4_096;
/// Messages of one commit while the damaged pool is made.
const COMMIT: usize = 50_000;
/// The most that finding a hundred differences may cost.
const BYTES_MAX: u64 = 64 << 10;
const TIME_MAX: Duration = Duration::from_secs(1);

/// What was seen on the wire.
#[derive(Clone, Copy, Default)]
struct Seen {
    requests: u32,
    bytes: u64,
    first: Option<Instant>,
    last: Option<Instant>,
}

impl Seen {
    fn took(&self) -> Duration {
        match (self.first, self.last) {
            (Some(first), Some(last)) => last - first,
            _ => Duration::ZERO,
        }
    }
}

/// Damages a pool, lets it be mended, and counts.
pub(crate) async fn run(million: &Million<'_>, scratch: &Path) -> Outcome<Section> {
    let mut section = Section::new(
        "Reconciliation",
        format!(
            "A pool of {} resources, some of whose states are wrong; the source's agent is real, the pool is mended by \
             the running service. Counted at the server: payloads and subjects of the digest requests and of their \
             answers. Found: from the first request to the last answer. One run each.",
            million.resources
        ),
    );
    for differences in DIFFERENCES {
        let path = scratch.join(format!("damaged-{differences}.redb"));
        damage(million, &path, differences).await?;
        let mut tap = Tap::open(million).await?;
        let start = Instant::now();
        let served = million.serve(&path).await?;
        let seen = tap.until_equal(million, &served).await?;
        let whole = start.elapsed();
        served.stop().await?;
        std::fs::remove_file(&path)?;
        let Seen { requests, bytes, .. } = seen;
        let found = seen.took();
        let what = format!("{differences} differ");
        let value = format!("{bytes} bytes, {requests} rounds, found in {} ms", found.as_millis());
        let note = format!("equal {:.1} s after the service's start", whole.as_secs_f64());
        if differences == 100 {
            let met = bytes <= BYTES_MAX && found < TIME_MAX;
            section.judge(what, value, note, "≤ 64 KB, < 1 s", met);
        } else {
            section.add(what, value, note);
        }
    }
    Ok(section)
}

/// Makes a pool from the logs as they are, but for the states of `differences` resources.
async fn damage(million: &Million<'_>, path: &Path, differences: u64) -> Outcome<()> {
    let store = Store::open(path, StoreOptions::default())?;
    let every = million.resources.checked_div(differences).unwrap_or(u64::MAX);
    let (mut changed, mut damaged) = (0, 0);
    let breaks = |message: &LogMessage| {
        if !message.subject().ends_with(".changed") {
            return Ok(message.body().to_vec());
        }
        changed += 1;
        // In the middle of each stretch, so that no two runs damage the same resource.
        if changed % every != every / 2 || damaged == differences {
            return Ok(message.body().to_vec());
        }
        damaged += 1;
        broken(message.body())
    };
    project(million, &store, &million.stream, breaks).await?;
    project(million, &store, &million.target_stream, |message| Ok(message.body().to_vec())).await?;
    if damaged != differences {
        return Err(format!("{damaged} of {differences} resources were damaged").into());
    }
    Ok(())
}

/// Takes a log into a store, with other bodies.
async fn project(
    million: &Million<'_>,
    store: &Store,
    stream: &str,
    mut body: impl FnMut(&LogMessage) -> Outcome<Vec<u8>>,
) -> Outcome<()> {
    let state = million.bus.stream_state(stream).await?;
    store.begin_log(stream, state.created)?;
    let mut reader = million.bus.read_log(stream, 1, None).await?;
    let (mut batch, mut last) = (Batch::new(stream), 0);
    while last < state.last_seq {
        let messages = reader.next_chunk(CHUNK).await?;
        last = messages.last().map_or(last, LogMessage::seq);
        for message in &messages {
            let body = body(message)?;
            message.with_stored(|stored| batch.push(Stored { body: &body, ..stored }, message.hash()));
        }
        if batch.len() >= COMMIT || last >= state.last_seq {
            store.commit(std::mem::replace(&mut batch, Batch::new(stream)))?;
        }
    }
    Ok(())
}

/// The same event with another state.
fn broken(body: &[u8]) -> Outcome<Vec<u8>> {
    let text = std::str::from_utf8(body)?;
    let broken = text.replacen("\"tier\":\"web\"", "\"tier\":\"rot\"", 1);
    if broken == text {
        return Err("the event has no state that could be damaged".into());
    }
    Ok(broken.into_bytes())
}

/// Listens to the digest requests and to their answers.
struct Tap {
    requests: Subscriber,
    answers: Subscriber,
    expected: HashSet<String>,
    seen: Seen,
}

impl Tap {
    async fn open(million: &Million<'_>) -> Outcome<Self> {
        let client = crate::raw_client(million.server).await?;
        let requests = client.subscribe(subject::command(&million.pool, Stem::Resource, DIGEST)).await?;
        let answers = client.subscribe(format!("{INBOX}.>")).await?;
        client.flush().await?;
        Ok(Self { requests, answers, expected: HashSet::new(), seen: Seen::default() })
    }

    /// Counts until the pool is equal to its source.
    async fn until_equal(&mut self, million: &Million<'_>, served: &Served) -> Outcome<Seen> {
        let deadline = tokio::time::sleep(DEADLINE);
        let equal = million.equal(served);
        tokio::pin!(deadline, equal);
        loop {
            tokio::select! {
                biased;
                Some(request) = self.requests.next() => self.request(&request),
                Some(answer) = self.answers.next() => self.answer(&answer),
                equal = &mut equal => return equal.map(|()| self.seen),
                () = &mut deadline => return Err("the pool was not mended".into()),
            }
        }
    }

    fn request(&mut self, request: &Message) {
        self.seen.requests += 1;
        self.seen.first.get_or_insert_with(Instant::now);
        self.count(request);
        self.expected.extend(request.reply.as_ref().map(ToString::to_string));
    }

    fn answer(&mut self, answer: &Message) {
        if self.expected.remove(answer.subject.as_str()) {
            self.seen.last = Some(Instant::now());
            self.count(answer);
        }
    }

    fn count(&mut self, message: &Message) {
        let reply = message.reply.as_ref().map_or(0, |reply| reply.len());
        self.seen.bytes += (message.subject.len() + reply + message.payload.len()) as u64;
    }
}
