//! Healing: the owner of events that a log lost is asked to send them once more; when the copies stand in the log and
//! their hashes fit, that is stated. What nobody can bring again stays open until a person knows of it.

use std::{collections::BTreeMap, time::Duration};

use audit::Copies;
use bus::{Bus, RequestError};
use bus_schema::{
    Envelope, Source, Stem,
    command::agent::{REPLAY, REPLAY_EVENTS_MAX, Replay, ReplayReply},
    envelope::PLAIN_AGENT,
    fact::{
        Fact,
        log::{GapFound, GapHealed, LogFact},
    },
    subject,
};
use projector::{DamageRecord, Reader};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    error::ConsumersError,
    runtime::{applied::Progress, facts::FactPublisher},
};

/// How often the damages are looked at when nothing calls.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The first rest after an attempt that failed; it doubles up to the longest.
const REST_MIN: Duration = Duration::from_millis(500);
/// The longest rest: an agent that comes back is asked within this time.
const REST_MAX: Duration = Duration::from_secs(30);
/// The rest after an agent said that it has the events no more: it will not find them, but its ledger may be restored.
const REST_GONE: Duration = Duration::from_secs(3_600);
/// How long an agent may take for one request: ten thousand events, each batch with its fsync, on a slow disk.
const ANSWER_WAIT: Duration = Duration::from_secs(60);
/// Most messages that are looked through at once for copies.
const CHUNK_EVENTS_MAX: usize = 4_096;

/// Why gaps are open still, by owner and the first missing place.
pub type Obstacles = BTreeMap<(String, String), String>;

/// Why a gap was not healed.
enum Obstacle {
    /// Nobody can bring the events, as far as anybody knows.
    Gone(String),
    /// It may work later.
    Passing(String),
}

/// What is remembered of a gap between two attempts.
#[derive(Default)]
struct Attempt {
    failures: u32,
    not_before: Option<Instant>,
}

/// Heals gaps while this process holds the lease.
pub(crate) struct Healer {
    /// The bus.
    pub bus: Bus,
    /// The pool.
    pub reader: Reader,
    /// How far the pool is.
    pub progress: Progress,
    /// States facts.
    pub facts: FactPublisher,
    /// What is in the way, for people.
    pub obstacles: watch::Sender<Obstacles>,
}

impl Healer {
    /// Runs until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) -> Result<(), ConsumersError> {
        let (mut attempts, mut looked_at) = (BTreeMap::new(), None);
        loop {
            let target_seq = self.progress.reached(self.facts.stream()).seq;
            let is_due = attempts
                .values()
                .any(|attempt: &Attempt| attempt.not_before.is_some_and(|at| at <= Instant::now()));
            if looked_at != Some(target_seq) || is_due {
                let healed = tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    healed = self.heal_all(&mut attempts) => healed,
                };
                match healed {
                    Ok(()) => looked_at = Some(target_seq),
                    // Nothing else that acts shall end because of it.
                    Err(error) => {
                        tracing::warn!(%error, "what the logs lost could not be looked at; it is tried again")
                    }
                }
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    async fn heal_all(
        &self,
        attempts: &mut BTreeMap<(String, String), Attempt>,
    ) -> Result<(), ConsumersError> {
        let gaps = open_gaps(self.reader.damages()?.value);
        attempts.retain(|name, _| gaps.iter().any(|gap| name_of(gap) == *name));
        self.obstacles.send_if_modified(|obstacles| {
            let before = obstacles.len();
            obstacles.retain(|name, _| attempts.contains_key(name));
            obstacles.len() != before
        });
        for gap in gaps {
            let name = name_of(&gap);
            let attempt = attempts.entry(name.clone()).or_default();
            if attempt.not_before.is_some_and(|at| Instant::now() < at) {
                continue;
            }
            match self.heal(&gap).await {
                Ok(place) => self.healed(gap, place).await?,
                Err(obstacle) => {
                    let (reason, rest) = match obstacle {
                        Obstacle::Gone(reason) => (reason, REST_GONE),
                        Obstacle::Passing(reason) => (reason, rest(attempt.failures)),
                    };
                    tracing::warn!(
                        owner = gap.owner,
                        gap = name.1,
                        reason,
                        "events that the log lost are not back yet"
                    );
                    attempt.failures += 1;
                    attempt.not_before = Some(Instant::now() + rest);
                    self.obstacles.send_modify(|obstacles| drop(obstacles.insert(name, reason)));
                }
            }
        }
        Ok(())
    }

    async fn healed(&self, gap: GapFound, place: String) -> Result<(), ConsumersError> {
        tracing::info!(
            owner = gap.owner,
            after = gap.after.seq,
            before = gap.before.seq,
            place,
            "the log has again what it had lost"
        );
        let id = format!("healed/{}/{}:{}/{place}", gap.owner, gap.after.epoch, gap.after.seq);
        let GapFound { owner, after, before, .. } = gap;
        let fact = Fact::Log(LogFact::GapHealed(GapHealed { owner, after, before, place }));
        let seq = self.facts.state(&fact, &id).await?;
        // What is stated shall be known before the damages are looked at again.
        self.progress.passes(self.facts.stream(), seq, ANSWER_WAIT).await
    }

    /// Asks for the events of a gap, and looks whether they came; answers `stream:seq` of the last copy.
    async fn heal(&self, gap: &GapFound) -> Result<String, Obstacle> {
        let passing = |error: &dyn std::fmt::Display| Obstacle::Passing(error.to_string());
        let source = owner_of(gap)?;
        let stream = subject::site_stream(&source.pool.site);
        let (mut copies, mut last_place) = (Copies::of(gap.clone()), None);
        while let Some(first_seq) = copies.next_seq() {
            let begin = self.bus.stream_state(&stream).await.map_err(|error| passing(&error))?.last_seq + 1;
            self.ask(&source, gap, first_seq).await?;
            let end = self.bus.stream_state(&stream).await.map_err(|error| passing(&error))?.last_seq;
            if let Some(seq) =
                self.find(&stream, begin, end, &mut copies).await.map_err(|error| passing(&error))?
            {
                last_place = Some(format!("{stream}:{seq}"));
            }
            if copies.next_seq() == Some(first_seq) {
                return Err(Obstacle::Passing(format!(
                    "the agent {source} sent its events from {first_seq} on again, and their hashes do not join the chain in the log: its ledger is not the one that sent them first; see `farside audit verify`"
                )));
            }
        }
        last_place.ok_or_else(|| Obstacle::Gone("nothing is missing in it".to_owned()))
    }

    async fn ask(&self, source: &Source, gap: &GapFound, first_seq: u64) -> Result<(), Obstacle> {
        let Some(lease) = self.facts.token() else {
            return Err(Obstacle::Passing("another farside acts for the target now".to_owned()));
        };
        let last_seq = (gap.before.seq - 1).min(first_seq + REPLAY_EVENTS_MAX - 1);
        let (epoch, lease_log) = (gap.after.epoch, Some(lease.log_created));
        let replay =
            Replay { source: source.clone(), epoch, first_seq, last_seq, lease: lease.seq, lease_log };
        let subject = subject::command(&source.pool, Stem::Agent, REPLAY);
        match self.bus.request::<Replay, ReplayReply>(&subject, &replay, ANSWER_WAIT).await {
            Ok(ReplayReply::Sent { .. }) => Ok(()),
            Ok(ReplayReply::Refused { reason, gone: true }) => Err(Obstacle::Gone(reason)),
            Ok(ReplayReply::Refused { reason, gone: false }) => Err(Obstacle::Passing(reason)),
            Err(RequestError::NoResponders { .. }) => {
                Err(Obstacle::Passing(format!("no agent of {} is connected; start it", source.pool)))
            }
            Err(error) => Err(Obstacle::Passing(format!("the agent {source} does not answer: {error}"))),
        }
    }

    /// Looks through a stretch of the log for copies; answers the sequence of the last one.
    async fn find(
        &self,
        stream: &str,
        begin: u64,
        end: u64,
        copies: &mut Copies,
    ) -> Result<Option<u64>, ConsumersError> {
        let mut found = None;
        let mut log = self.bus.read_log(stream, begin, None).await?;
        while copies.next_seq().is_some()
            && let Some(messages) = log.next_stored(CHUNK_EVENTS_MAX, end).await?
        {
            for message in messages {
                let is_copy = message.with_stored(|stored| {
                    let Ok(envelope) = Envelope::read(stored) else { return false };
                    let link = envelope.link.zip(envelope.hash);
                    link.is_some_and(|(link, hash)| copies.push(&envelope.source, link, hash))
                });
                if is_copy {
                    found = Some(message.seq());
                }
            }
        }
        Ok(found)
    }
}

/// The agent that can be asked.
fn owner_of(gap: &GapFound) -> Result<Source, Obstacle> {
    let source: Option<Source> =
        gap.owner.parse().ok().filter(|source: &Source| source.agent.as_str() != PLAIN_AGENT);
    source.ok_or_else(|| {
        Obstacle::Gone(format!("{} is no agent that can be asked to send its events again", gap.owner))
    })
}

fn open_gaps(damages: Vec<DamageRecord>) -> Vec<GapFound> {
    let open = damages.into_iter().filter(DamageRecord::is_open);
    open.filter_map(|record| record.gap().cloned()).collect()
}

fn name_of(gap: &GapFound) -> (String, String) {
    (gap.owner.clone(), format!("{}:{}", gap.after.epoch, gap.after.seq + 1))
}

fn rest(failures: u32) -> Duration {
    REST_MIN.saturating_mul(1 << failures.min(16)).min(REST_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_that_is_away_is_asked_ever_less_often_but_never_forgotten() {
        let rests: Vec<_> = (0..9).map(|failures| rest(failures).as_millis()).collect();
        assert_eq!(rests, [500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000]);
        assert_eq!(rest(u32::MAX), REST_MAX);
    }
}
