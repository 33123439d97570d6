//! Retention: the beginning of a site log goes when it is older or larger than the configuration allows, step by step:
//!
//! ```text
//! a snapshot at a signed checkpoint, with a newer one behind it ─► nobody needs what is before (consumers, mirrors)
//!    ─► log.trimmed is stated ─► a later checkpoint signs that ─► the snapshot's file is hashed ─► purge
//! ```
//! Who is killed in between goes on from what is stated. The target log is never trimmed: it holds what is signed, and what
//! people decided. Runs on the lease holder only. Must not know what a snapshot holds.

mod plan;

use std::{collections::BTreeMap, time::Duration};

use bus::{Bus, Holder, RemoteMirror, StreamState};
use bus_schema::{
    fact::{
        Fact,
        log::{LogFact, Trimmed},
    },
    subject,
};
use projector::Store;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use plan::Keep;
use plan::{Candidate, Wish, wish};

use crate::{
    error::ConsumersError,
    runtime::{clock, facts::FactPublisher, floor::Floor},
    snapshot::{Label, Shelf},
    task::blocking,
};

/// How often it is looked whether something is to go.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What is in the way of trimming each log; a log that is not there has nothing to trim.
pub type Waits = BTreeMap<String, String>;

/// Trims the site logs.
pub(crate) struct Trimmer {
    /// The bus.
    pub bus: Bus,
    /// The pool, which knows the last checkpoint.
    pub store: Store,
    /// States facts.
    pub facts: FactPublisher,
    /// The logs.
    pub streams: Vec<String>,
    /// Where snapshots are.
    pub shelf: Shelf,
    /// What is kept.
    pub keep: Keep,
    /// Mirrors in other domains.
    pub mirrors: Vec<RemoteMirror>,
    /// What is in the way, for people.
    pub waits: watch::Sender<Waits>,
}

impl Trimmer {
    /// Runs until `stop`; what goes wrong is told, shown, and tried again.
    pub(crate) async fn run(self, stop: CancellationToken) -> Result<(), ConsumersError> {
        loop {
            for stream in &self.streams {
                let Some(turned) = stop.run_until_cancelled(self.turn(stream)).await else { return Ok(()) };
                let wait = turned.unwrap_or_else(|error| {
                    tracing::warn!(%error, stream, "a log could not be trimmed; it is tried again");
                    Some(error.to_string())
                });
                self.show(stream, wait);
            }
            let pause = tokio::time::sleep(LOOK_EVERY);
            if stop.run_until_cancelled(pause).await.is_none() {
                return Ok(());
            }
        }
    }

    fn show(&self, stream: &str, wait: Option<String>) {
        self.waits.send_if_modified(|waits| match wait {
            Some(wait) => waits.insert(stream.to_owned(), wait.clone()) != Some(wait),
            None => waits.remove(stream).is_some(),
        });
    }

    /// The next step of one log; answers what it waits for.
    async fn turn(&self, stream: &str) -> Result<Option<String>, ConsumersError> {
        let state = self.bus.stream_state(stream).await?;
        let floor = Floor::of(&self.bus, &self.store.reader(), self.facts.target(), &state).await?;
        let labels = self.shelf.labels()?;
        let stated = Floor::first_seq(floor.as_ref());
        if let Some(floor) = floor.filter(|_| stated > state.first_seq) {
            match self.carry_out(&state, &floor, &labels).await? {
                Carried::Done => return Ok(None),
                Carried::Waits(wait) => return Ok(Some(wait)),
                Carried::Never => {}
            }
        }
        // Behind what was stated, if that cannot be done any more.
        let candidates = candidates(&labels, &state, stated.max(state.first_seq));
        let wish = wish(self.keep, state.bytes, clock::now(), &candidates);
        let Wish { candidate, reason } = match wish {
            Ok(Some(wish)) => wish,
            Ok(None) => return Ok(None),
            Err(lacks) => return Ok(Some(lacks.to_owned())),
        };
        let holders = self.bus.holders(&state, &self.mirrors).await?;
        let Some(label) = labels.get(candidate.label) else { return Ok(None) };
        match held(&holders, candidate.seq) {
            Some(held) => Ok(Some(held)),
            None => self.state(&state, &candidate, label, reason).await,
        }
    }

    /// States that what is before a snapshot goes.
    async fn state(
        &self,
        state: &StreamState,
        candidate: &Candidate,
        label: &Label,
        reason: String,
    ) -> Result<Option<String>, ConsumersError> {
        let stream = state.stream.clone();
        let (created, first_seq) = (state.created, candidate.seq);
        let (not_before, checkpoint, snapshot) = (candidate.time, label.checkpoint, label.sha256);
        let fact = Trimmed { stream, created, first_seq, not_before, checkpoint, snapshot, reason };
        let id = format!("trimmed/{}/{}/{}", fact.stream, created.unix_ms(), first_seq);
        self.facts.state(&Fact::Log(LogFact::Trimmed(fact)), &id).await?;
        Ok(Some(format!("it is stated that {}:{first_seq} will be the first; {UNSIGNED}", state.stream)))
    }

    /// Does what was stated, once it is signed and nothing stands against it.
    async fn carry_out(
        &self,
        state: &StreamState,
        floor: &Floor,
        labels: &[Label],
    ) -> Result<Carried, ConsumersError> {
        let Trimmed { stream, first_seq, snapshot, .. } = &floor.trimmed;
        if !self.is_signed(floor)? {
            return Ok(Carried::Waits(UNSIGNED.to_owned()));
        }
        if let Some(held) = held(&self.bus.holders(state, &self.mirrors).await?, *first_seq) {
            return Ok(Carried::Waits(held));
        }
        let label = labels.iter().find(|label| label.sha256 == *snapshot).cloned();
        let shelf = self.shelf.clone();
        let is_whole = match label {
            Some(label) => blocking("retention", move || shelf.is_whole(&label)).await?,
            None => false,
        };
        if !is_whole {
            tracing::error!(
                stream,
                first_seq,
                "the snapshot behind which the log was to be trimmed is not here, or damaged; nothing goes until a later one takes its place"
            );
            return Ok(Carried::Never);
        }
        let gone = self.bus.trim(stream, *first_seq).await?;
        tracing::info!(stream, first_seq, messages = gone, "a log is trimmed behind its snapshot");
        Ok(Carried::Done)
    }

    /// Whether a checkpoint covers the statement.
    fn is_signed(&self, floor: &Floor) -> Result<bool, ConsumersError> {
        let target = self.facts.target();
        let last = self.store.reader().latest_fact("checkpoint", target.as_str())?.value;
        let Some(LogFact::Checkpoint(last)) = last.map(|record| record.fact) else { return Ok(false) };
        let target = subject::target_stream(target);
        let signed = last.logs.iter().find(|mark| mark.stream == target).map_or(0, |mark| mark.seq);
        Ok(floor.stated_seq.is_some_and(|stated| stated <= signed))
    }
}

/// What became of a statement.
enum Carried {
    /// It was done.
    Done,
    /// It waits for this.
    Waits(String),
    /// It cannot be done any more.
    Never,
}

/// What a statement waits for.
const UNSIGNED: &str = "it waits for the next signed checkpoint";

/// The places behind which a log could be trimmed, in order: of every snapshot but the newest, so that a second one is there.
fn candidates(labels: &[Label], state: &StreamState, begins_at: u64) -> Vec<Candidate> {
    let older = labels.split_last().map_or(&[][..], |(_, older)| older);
    let places = older.iter().enumerate().filter_map(|(at, label)| Some((at, label.place(&state.stream)?)));
    let of_log = places.filter(|(_, place)| {
        place.created == state.created && place.seq > begins_at && place.seq <= state.last_seq
    });
    of_log.map(|(label, place)| Candidate { label, seq: place.seq, time: place.time }).collect()
}

/// Who needs something before a sequence, in words.
fn held(holders: &[Holder], first_seq: u64) -> Option<String> {
    let holder = holders.iter().min_by_key(|holder| holder.needs_seq)?;
    (holder.needs_seq < first_seq).then(|| {
        let Holder { name, needs_seq } = holder;
        match needs_seq {
            0 => format!("{name} may need all of it"),
            _ => format!("{name} needs it from {needs_seq} on, which would go"),
        }
    })
}
