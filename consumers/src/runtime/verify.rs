//! Verification: the logs held against everything that is known of them. What checkpoints sign, range by range; what was
//! read of each message (the seals); the agents' chains; and whether the logs, projected once more, give the rows that the
//! last checkpoint of the range signs. One reading of each log serves all of it. What was before the floor of a trimmed
//! log is taken from the oldest snapshot.

mod judge;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use audit::{Expected, History, Mark, Ranges};
use bus::{Bus, LogMessage, StreamState};
use bus_schema::{
    Name, PoolId,
    fact::log::{Checkpoint, OwnerMark, checkpoint::OWNERS_MAX},
    subject,
};
use projector::{DamageRecord, Store};
use tokio::{sync::Mutex, time::Instant};

use super::{
    bounds::Bounds,
    floor::{Floor, Heads},
    parked::recall_anew,
    pipeline::{Chunk, Pipeline},
    pump::CHUNK_EVENTS_MAX,
    replaced::Replaced,
    replay::{Replayed, Until, Watcher, directory, still_has, throw_away},
    scrub::{Comparison, expectations},
    signed::{Signed, SignedFacts},
};
use crate::{
    error::ConsumersError,
    snapshot::{Choice, Shelf},
    task::blocking,
};

/// Faults that are told one by one.
const FAULTS_MAX: usize = 1_000;

/// What is wrong with something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// A signature, a key, or the order of the checkpoints.
    Checkpoint,
    /// Messages are not there.
    Missing,
    /// A message is not what it was.
    Altered,
    /// A range is not what a checkpoint signs.
    Range,
    /// A chain is broken, or lacks events.
    Chain,
    /// The logs give other rows than a checkpoint signs.
    Rows,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What is wrong.
    pub kind: FaultKind,
    /// The log.
    pub stream: String,
    /// The first and the last sequence in it; none = it is not of one place.
    pub seqs: Option<(u64, u64)>,
    /// In words.
    pub text: String,
}

/// One log that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedLog {
    /// The stream.
    pub stream: String,
    /// The first sequence of the range.
    pub from: u64,
    /// The last.
    pub to: u64,
    /// The last one in the range that a checkpoint signs; 0 = none.
    pub signed_seq: u64,
    /// Messages that were read: from the start of the log on.
    pub messages: u64,
}

/// What a verification came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// The logs.
    pub logs: Vec<VerifiedLog>,
    /// Checkpoints of the target.
    pub checkpoints: u64,
    /// The public key that signs now; none = nothing was signed.
    pub key: Option<String>,
    /// Ranges between two of them that were held against the logs.
    pub ranges: u64,
    /// Owners whose rows were compared, and the checkpoint that signs them; none = there is none in the range.
    pub rows: Option<(u64, u64)>,
    /// What is wrong; at most 1,000.
    pub faults: Vec<Fault>,
    /// What is no fault and should be known.
    pub notes: Vec<String>,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

/// What is verified, and with what.
pub(crate) struct Verification<'a> {
    /// The bus.
    pub bus: &'a Bus,
    /// The live pool: what was read of each message.
    pub live: &'a Store,
    /// The target.
    pub target: &'a Name,
    /// The site logs.
    pub sites: Vec<String>,
    /// Where snapshots are; none = nowhere.
    pub shelf: Option<&'a Shelf>,
    /// Which part.
    pub bounds: Bounds,
    /// Hears how far it is.
    pub watcher: &'a dyn Watcher,
}

/// What the target has signed.
struct Statements {
    history: History,
    /// Of each log.
    marks: BTreeMap<String, Vec<(Mark, bus_schema::Timestamp)>>,
    /// The last checkpoint in the range, and its log marks.
    last: Option<Checkpoint>,
    /// What was signed last of each owner.
    owners: BTreeMap<(PoolId, String), (u64, OwnerMark)>,
}

/// A log, and the part of it that is meant.
struct Part {
    /// What is known to be damaged, and what the pool had taken in of each chain before the log was asked how far it goes:
    /// a log that goes on has all of it.
    known: Vec<DamageRecord>,
    expected: Vec<Expected>,
    state: StreamState,
    /// Where it begins; none = it was never trimmed.
    floor: Option<Floor>,
    from: u64,
    to: u64,
}

impl Part {
    /// The first sequence that it must have.
    fn begins_at(&self) -> u64 {
        Floor::first_seq(self.floor.as_ref())
    }
}

impl Verification<'_> {
    /// Verifies. Errors: the bus, the disk, a range that is none.
    pub(crate) async fn run(self) -> Result<Verified, ConsumersError> {
        let start = Instant::now();
        let mut found = Verified::default();
        let parts = self.parts().await?;
        let statements = self.statements(&parts, &mut found).await?;
        let replayed = self.begun(&parts, &statements, &mut found).await?;
        let store = replayed.as_ref().map(|replayed| &replayed.store);
        if let Some(store) = store {
            recall_anew(self.bus, store, self.target).await?;
        }
        for part in &parts {
            self.log(part, &statements, store, &mut found).await?;
        }
        if let Some(store) = store {
            self.rows(&statements, &parts, store, &mut found).await?;
        }
        let faults = found.faults.len();
        if faults > FAULTS_MAX {
            found.faults.truncate(FAULTS_MAX);
            found.notes.push(format!("{} more faults are not listed", faults - FAULTS_MAX));
        }
        found.took_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(found)
    }

    /// The logs that are meant; the target's first, because what a person let pass is stated there.
    async fn parts(&self) -> Result<Vec<Part>, ConsumersError> {
        let target = subject::target_stream(self.target);
        let mut parts = Vec::new();
        for stream in [&target].into_iter().chain(&self.sites) {
            if self.bounds.stream.as_ref().is_some_and(|wanted| wanted != stream) {
                continue;
            }
            let (reader, of) = (self.live.reader(), stream.clone());
            let (known, expected) = blocking("verification", move || expectations(&reader, &of)).await?;
            let state = self.bus.stream_state(stream).await?;
            let (from, to) = self.bounds.of(self.bus, &state).await?;
            let floor = Floor::of(self.bus, &self.live.reader(), self.target, &state).await?;
            let from = from.max(Floor::first_seq(floor.as_ref()));
            if from > to && self.bounds.stream.is_some() {
                return Err(ConsumersError::Unprovable(format!(
                    "{stream} has nothing in that range: it has {}-{}",
                    state.first_seq, state.last_seq
                )));
            }
            parts.push(Part { known, expected, state, floor, from, to });
        }
        if parts.is_empty() {
            let stream = self.bounds.stream.clone().unwrap_or_default();
            let logs = self.sites.join(", ");
            return Err(ConsumersError::Unprovable(format!(
                "{stream} is no log of this target; name {target} or one of {logs}"
            )));
        }
        Ok(parts)
    }

    /// What the logs are projected into: nothing yet, or what the oldest snapshot held when one of them was trimmed; none =
    /// there is none to begin with, and the rows cannot be proved.
    async fn begun(
        &self,
        parts: &[Part],
        statements: &Statements,
        found: &mut Verified,
    ) -> Result<Option<Replayed>, ConsumersError> {
        let trimmed: Vec<_> = parts.iter().filter(|part| part.begins_at() > 1).collect();
        if trimmed.is_empty() {
            return throw_away().map(Some);
        }
        for part in trimmed {
            found.notes.push(format!(
                "{} begins with {}: what was before was trimmed behind a snapshot",
                part.state.stream,
                part.begins_at()
            ));
        }
        let target = subject::target_stream(self.target);
        let streams = parts.iter().map(|part| &part.state.stream).chain([&target]);
        let streams: BTreeSet<_> = streams.cloned().collect();
        let until = |stream: String| (stream.clone(), Until::Seq(statements.projected(&stream)));
        let streams: Vec<_> = streams.into_iter().map(until).collect();
        let begun = match self.shelf {
            Some(shelf) => {
                Some(Replayed::begun(self.bus, shelf, &streams, Choice::Oldest, directory()?).await?)
            }
            None => None,
        };
        let Some(begun) = begun.filter(|begun| begun.started_from.is_some()) else {
            found.faults.push(Fault {
                kind: FaultKind::Rows,
                stream: target,
                seqs: None,
                text: "the rows cannot be proved: no snapshot here holds what was trimmed, and is of a checkpoint in the range".to_owned(),
            });
            return Ok(None);
        };
        begun.store.throw_away();
        Ok(Some(begun))
    }

    /// Follows every checkpoint from the first one on: what is signed later rests on what was signed before.
    async fn statements(&self, parts: &[Part], found: &mut Verified) -> Result<Statements, ConsumersError> {
        let (history, marks, owners) = (History::whole(self.target), BTreeMap::new(), BTreeMap::new());
        let mut statements = Statements { history, marks, last: None, owners };
        let stream = subject::target_stream(self.target);
        let mut faults = Vec::new();
        let facts = SignedFacts::of(self.bus, self.target);
        facts
            .each(|seq, signed| {
                let wrong: Vec<String> = match signed {
                    Signed::Rotation(rotated) => {
                        statements.history.rotate(&rotated).err().iter().map(ToString::to_string).collect()
                    }
                    Signed::Checkpoint(checkpoint) => {
                        found.checkpoints += 1;
                        let wrong = statements.history.follow(&checkpoint);
                        if wrong.is_empty() {
                            statements.take(*checkpoint, parts);
                        }
                        wrong.iter().map(ToString::to_string).collect()
                    }
                    Signed::Unreadable(why) => vec![format!("it cannot be read: {why}")],
                };
                faults.extend(wrong.into_iter().map(|text| Fault {
                    kind: FaultKind::Checkpoint,
                    stream: stream.clone(),
                    seqs: Some((seq, seq)),
                    text,
                }));
            })
            .await?;
        found.faults.append(&mut faults);
        found.key = statements.history.keys().last().cloned();
        if found.checkpoints == 0 {
            found.notes.push("no checkpoint was stated yet: only seals and chains prove anything".to_owned());
        }
        Ok(statements)
    }

    /// Reads a log once, for all that is held against it, and projects it up to the last checkpoint's mark.
    async fn log(
        &self,
        part: &Part,
        statements: &Statements,
        replayed: Option<&Store>,
        found: &mut Verified,
    ) -> Result<(), ConsumersError> {
        let Part { known, expected, state, floor, to, .. } = part;
        let (stream, begins_at) = (&state.stream, part.begins_at());
        let heads = Heads::of(self.bus, self.target, floor.as_ref()).await?;
        // What the pool knows of the chains' ends is of the log's end.
        let expected = if *to < state.last_seq { Vec::new() } else { expected.clone() };
        let marks = statements.of(part, found);
        // A trimmed log begins with the message of a mark.
        let ranges = Ranges::new(if begins_at > 1 { begins_at + 1 } else { state.first_seq }, marks);
        let mut comparison = Comparison::new(stream, state, self.live.position(stream)?, self.live.reader())
            .from(begins_at, &heads)
            .knowing(known, &part.expected)
            .signed(*to, ranges);
        let projection = Projection::of(replayed, self.live, state, statements.projected(stream))?;
        let mut messages = 0;
        if state.messages > 0 && state.first_seq <= *to {
            let mut log = self.bus.read_log(stream, begins_at, None).await?;
            while let Some(chunk) = log.next_stored(CHUNK_EVENTS_MAX, *to).await? {
                let last = chunk.last().map_or(*to, LogMessage::seq);
                messages += chunk.len() as u64;
                let (compared, chunk) =
                    blocking("verification", move || Ok((comparison.take(&chunk)?, chunk))).await?;
                comparison = compared;
                if let Some(projection) = &projection
                    && !projection.take(chunk).await
                {
                    break;
                }
                self.watcher.read(stream, last, *to);
            }
        }
        if let Some(projection) = projection {
            projection.pipeline.finish().await?;
        }
        still_has(self.bus, stream, state.first_seq.max(begins_at)).await?;
        let compared = blocking("verification", move || comparison.finish(&expected)).await?;
        judge::judge(part, compared, messages, found);
        Ok(())
    }

    /// Whether the logs give the rows that were signed.
    async fn rows(
        &self,
        statements: &Statements,
        parts: &[Part],
        replayed: &Store,
        found: &mut Verified,
    ) -> Result<(), ConsumersError> {
        let Some(last) = &statements.last else { return Ok(()) };
        let is_read = |pool: &PoolId| {
            let stream = subject::site_stream(&pool.site);
            parts.iter().any(|part| part.state.stream == stream)
        };
        // With that many at once, others may have changed and wait for their turn.
        let is_current = |number: u64| number == last.number || last.owners.len() < OWNERS_MAX;
        let signed: BTreeMap<_, _> = statements
            .owners
            .iter()
            .filter(|((pool, _), (number, _))| is_read(pool) && is_current(*number))
            .map(|(owner, (_, mark))| (owner.clone(), mark.clone()))
            .collect();
        if signed.is_empty() {
            return Ok(());
        }
        let target = subject::target_stream(self.target);
        if !parts.iter().any(|part| part.state.stream == target) {
            // What a person let pass decides what a sync may delete.
            let until = Until::Seq(statements.projected(&target));
            super::replay::feed(self.bus, replayed, &target, until, Some(self.live), self.watcher).await?;
        }
        let reader = replayed.reader();
        let stand =
            blocking("verification", move || Ok(reader.stand(|owners| vec![true; owners.len()])?)).await?;
        let has: BTreeMap<_, _> = stand
            .owners
            .into_iter()
            .map(|stand| ((stand.owner.pool.clone(), stand.owner.source.clone()), stand))
            .collect();
        let rewound = last.logs.iter().any(|mark| mark.incarnation > 1);
        for (owner, mark) in &signed {
            let rows = has.get(owner).map(|stand| (stand.rows, stand.rows_sha256, stand.owner.at));
            if rows == Some((mark.rows, mark.rows_sha256, mark.at)) {
                continue;
            }
            let (pool, source) = owner;
            let text = format!(
                "checkpoint {} signs {} rows of {source} ({}), but the log gives {}",
                last.number,
                mark.rows,
                mark.rows_sha256,
                rows.map_or("none".to_owned(), |(rows, hash, _)| format!("{rows} ({hash})"))
            );
            if rewound {
                found.notes.push(format!("{text}; the log was read from its start more than once, so the pool may know more than it"));
                continue;
            }
            let stream = subject::site_stream(&pool.site);
            found.faults.push(Fault { kind: FaultKind::Rows, stream, seqs: None, text });
        }
        found.rows = Some((signed.len() as u64, last.number));
        Ok(())
    }
}

/// A log on its way into a store.
struct Projection {
    pipeline: Pipeline,
    /// What the store has already.
    from: u64,
    /// What is to be in it.
    to: u64,
}

impl Projection {
    fn of(
        store: Option<&Store>,
        live: &Store,
        state: &StreamState,
        to: u64,
    ) -> Result<Option<Self>, ConsumersError> {
        let Some(store) = store else { return Ok(None) };
        let stream = &state.stream;
        let position = match store.position(stream)? {
            Some(position) => position,
            None => store.begin_log(stream, state.created)?,
        };
        let replaced = Replaced::of(live, stream)?;
        let pipeline = Pipeline::start(store.clone(), stream, Arc::new(Mutex::new(())), replaced, |_| {});
        Ok(Some(Self { pipeline, from: position.seq, to }))
    }

    /// Takes in what is of it; false = the pipeline has ended, and says why.
    async fn take(&self, mut chunk: Vec<LogMessage>) -> bool {
        chunk.retain(|message| message.seq() > self.from && message.seq() <= self.to);
        chunk.is_empty() || self.pipeline.input.send(Chunk { messages: chunk, behind: true }).await.is_ok()
    }
}

impl Statements {
    /// Takes in a checkpoint that is good.
    fn take(&mut self, checkpoint: Checkpoint, parts: &[Part]) {
        let is_in_range = checkpoint
            .logs
            .iter()
            .all(|mark| parts.iter().all(|part| part.state.stream != mark.stream || mark.seq <= part.to));
        for mark in &checkpoint.logs {
            let (number, incarnation, seq, running) =
                (checkpoint.number, mark.incarnation, mark.seq, mark.running);
            let marks = self.marks.entry(mark.stream.clone()).or_default();
            marks.push((Mark { number, incarnation, seq, running }, mark.created));
        }
        if is_in_range {
            for mark in &checkpoint.owners {
                let owner = (mark.pool.clone(), mark.owner.clone());
                self.owners.insert(owner, (checkpoint.number, mark.clone()));
            }
            self.last = Some(checkpoint);
        }
    }

    /// How far a log is projected: up to the last checkpoint.
    fn projected(&self, stream: &str) -> u64 {
        let marks = self.last.iter().flat_map(|last| &last.logs);
        marks.filter(|mark| mark.stream == stream).map(|mark| mark.seq).max().unwrap_or(0)
    }

    /// The marks of a log that can be held against it.
    fn of(&self, part: &Part, found: &mut Verified) -> Vec<Mark> {
        let Part { state, floor, to, .. } = part;
        let marks = self.marks.get(&state.stream).map_or(&[][..], Vec::as_slice);
        let gone: Vec<u64> = marks
            .iter()
            .filter(|(_, created)| *created != state.created)
            .map(|(mark, _)| mark.number)
            .collect();
        if let (Some(first), Some(last)) = (gone.first(), gone.last()) {
            found.faults.push(Fault {
                kind: FaultKind::Range,
                stream: state.stream.clone(),
                seqs: None,
                text: format!(
                    "the log that checkpoints {first} to {last} sign is not there any more: this one was made at {}",
                    state.created
                ),
            });
        }
        let meant = Floor::first_seq(floor.as_ref())..=*to;
        let is_meant =
            |mark: &&(Mark, bus_schema::Timestamp)| mark.1 == state.created && meant.contains(&mark.0.seq);
        marks.iter().filter(is_meant).map(|(mark, _)| *mark).collect()
    }
}
