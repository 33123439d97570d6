//! Reconciliation: what it costs to find the resources that differ among a million, seen on the wire.
//!
//! The differences are real: somebody else publishes other states of some of the source's resources. The
//! agent's next heartbeat shows that the pool is not equal, and the service mends it by itself.

use std::{
    collections::HashSet,
    path::Path,
    time::{Duration, Instant},
};

use async_nats::{Message, Subscriber};
use bus::Outgoing;
use bus_schema::{Stem, command::resource::DIGEST, subject};
use futures_util::StreamExt as _;
use projector::{Owner, SyncRecord};

use crate::{
    DEADLINE, Outcome, load,
    million::{INBOX, Million, Served},
    report::Section,
};

/// How many resources differ.
const DIFFERENCES: [u64; 4] = [0, 1, 100, 10_000];
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

/// Makes some resources differ, lets the service mend them, and counts.
pub(crate) async fn run(million: &Million<'_>, pool: &Path) -> Outcome<Section> {
    let mut section = Section::new(
        "Reconciliation",
        format!(
            "A pool of {} resources, some of which somebody else overwrites; a real agent, a running service that mends \
             by itself. Counted at the server: payloads and subjects of the digest requests and of their answers. \
             Found: from the first request to the last answer. One run each.",
            million.resources
        ),
    );
    let served = million.serve(pool).await?;
    million.equal(&served).await?;
    for differences in DIFFERENCES {
        let mut tap = Tap::open(million, &served).await?;
        let start = Instant::now();
        overwrite(million, &served, differences).await?;
        let Seen { requests, bytes, .. } = tap.until_mended(million, &served, differences).await?;
        let (found, whole) = (tap.seen.took(), start.elapsed());
        let what = format!("{differences} differ");
        let value = format!("{bytes} bytes, {requests} rounds, found in {} ms", found.as_millis());
        let note = format!("equal {:.1} s after they were overwritten", whole.as_secs_f64());
        match differences {
            0 => section.add(what, "0 bytes", "the heartbeat carries the root of the digest"),
            100 => section.judge(what, value, note, "≤ 64 KB, < 1 s", bytes <= BYTES_MAX && found < TIME_MAX),
            _ => section.add(what, value, note),
        }
    }
    served.stop().await?;
    Ok(section)
}

/// Publishes other states of `count` of the resources, in plain form, and waits until the pool has them.
async fn overwrite(million: &Million<'_>, served: &Served, count: u64) -> Outcome<()> {
    let pool = &million.pool;
    let other = |number: u64| {
        let key = load::key(number);
        let subject = subject::entity_events(pool, Stem::Resource, &key).replace('*', "changed");
        let body = load::record(number, count).into();
        Outgoing { subject, headers: Vec::new(), body, message_id: format!("other/{count}/{number}") }
    };
    let every = million.resources.checked_div(count).unwrap_or(u64::MAX);
    let others: Vec<Outgoing> = (0..count).map(|index| other(index * every)).collect();
    for batch in others.chunks(load::BATCH) {
        let id = uuid::Uuid::now_v7().to_string();
        let stored = million.bus.publisher().publish_batch(&million.stream, &id, batch, None).await?;
        served.handle.progress().passes(&million.stream, stored.last_seq, DEADLINE).await?;
    }
    Ok(())
}

/// Listens to the digest requests and to their answers.
struct Tap {
    requests: Subscriber,
    answers: Subscriber,
    expected: HashSet<String>,
    /// The newest sync when it began to listen.
    newest: Option<String>,
    seen: Seen,
}

fn newest(million: &Million<'_>, served: &Served) -> Option<SyncRecord> {
    served.store.reader().syncs(&million.pool, 1).ok()?.value.into_iter().next()
}

impl Tap {
    async fn open(million: &Million<'_>, served: &Served) -> Outcome<Self> {
        let client = crate::raw_client(million.server).await?;
        let requests = client.subscribe(subject::command(&million.pool, Stem::Resource, DIGEST)).await?;
        let answers = client.subscribe(format!("{INBOX}.>")).await?;
        client.flush().await?;
        let newest = newest(million, served).map(|sync| sync.sync_id);
        Ok(Self { requests, answers, expected: HashSet::new(), newest, seen: Seen::default() })
    }

    /// Counts until the pool was asked about and is equal to its source again.
    async fn until_mended(&mut self, million: &Million<'_>, served: &Served, count: u64) -> Outcome<Seen> {
        let begun = self.newest.clone();
        let mended = || {
            let newest = newest(million, served)?;
            let asked = count == 0 || (newest.completed.is_some() && Some(newest.sync_id) != begun);
            million.owner(&served.store).filter(Owner::in_sync).filter(|_| asked)
        };
        let mended = served.handle.progress().until(DEADLINE, mended);
        tokio::pin!(mended);
        loop {
            tokio::select! {
                biased;
                Some(request) = self.requests.next() => self.request(&request),
                Some(answer) = self.answers.next() => self.answer(&answer),
                mended = &mut mended => {
                    mended.ok_or("the pool was not mended")?;
                    return Ok(self.seen);
                }
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
