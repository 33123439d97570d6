//! Signed checkpoints: what logs and pools are at one moment, stated every so many events or minutes when anything has
//! changed. The first one follows `key.rotated` of its key; the last one is taken from the target log itself each time,
//! so that whoever has the lease goes on with the same chain, and no number is stated twice.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use audit::{KeyFile, SigningKey};
use bus::{Bus, BusError};
use bus_schema::{
    Hash32, Name, PoolId, Timestamp,
    chain::ChainPoint,
    digest::Digest,
    fact::{
        Fact,
        key::{KeyFact, Rotated},
        log::{Checkpoint, LogFact, LogMark, OwnerMark, checkpoint::OWNERS_MAX},
    },
};
use projector::{Contradiction, Owner, OwnerStand, Stand, Store};
use tokio::{
    sync::{Mutex, mpsc, oneshot, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    error::ConsumersError,
    runtime::{
        applied::{Applied, Progress},
        clock,
        facts::FactPublisher,
        signed::SignedFacts,
    },
    task::blocking,
};

/// How often it is looked whether one is due.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a pool may be behind what is signed before people are told, in milliseconds: a takeover takes less.
const LAG_MS_MAX: u64 = 60_000;
/// How often the agents' echoes are looked at: as often as they come.
const ECHOES_EVERY: Duration = Duration::from_secs(10);
/// Who states what the service does by itself.
const ACTOR: &str = "service";

/// When checkpoints are stated; with neither, never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct When {
    /// After so many events of all logs.
    pub events: Option<u64>,
    /// After this time, in milliseconds, when there was any event.
    pub every_ms: Option<u64>,
}

/// What people see of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Signing {
    /// Why no checkpoint is stated; none = all is well.
    pub trouble: Option<String>,
    /// Owners that were told other checkpoints than the target log has.
    pub contradictions: Vec<Contradiction>,
}

/// A rotation that a person asks for.
pub(crate) struct AskedRotation {
    /// Who asks.
    pub actor: String,
    /// Where the result goes, or why there is none.
    pub reply: oneshot::Sender<Result<Rotated, String>>,
}

/// States checkpoints.
pub(crate) struct Stater {
    /// The bus.
    pub bus: Bus,
    /// The pool.
    pub store: Store,
    /// How far it is.
    pub progress: Progress,
    /// The logs.
    pub streams: Vec<String>,
    /// States facts.
    pub facts: FactPublisher,
    /// The key that signs.
    pub keys: KeyFile,
    /// When one is due.
    pub when: When,
    /// What people see of it.
    pub shown: watch::Sender<Signing>,
    /// Rotations that people ask for.
    pub asked: Arc<Mutex<mpsc::Receiver<AskedRotation>>>,
}

/// What is known between two looks.
#[derive(Default)]
struct Known {
    /// The last checkpoint, and its sequence in the target log.
    last: Option<(u64, Checkpoint)>,
    /// Whether the target log was asked for it.
    is_asked: bool,
    /// What was signed of each owner last.
    named: BTreeMap<(PoolId, String), Named>,
    /// Since when the pool is behind what is signed.
    lags_since: Option<Instant>,
    echoes_at: Option<Instant>,
}

/// What was signed of an owner last.
struct Named {
    number: u64,
    what: What,
}

/// What changes when an owner's chain or rows do.
type What = (Option<ChainPoint>, Option<Hash32>, Digest);

fn what(owner: &Owner) -> What {
    (owner.at, owner.hash, owner.digest)
}

impl Stater {
    /// Runs until `stop`; an error is logged, shown, and tried again.
    pub(crate) async fn run(self, stop: CancellationToken) -> Result<(), ConsumersError> {
        let asked = Arc::clone(&self.asked);
        let mut asked = asked.lock().await;
        let mut known = Known::default();
        // Whoever shall know its public key need not wait for the first event. What is wrong shows when it is used.
        let _ = self.keys.load_or_make();
        loop {
            let rotation = tokio::select! {
                () = stop.cancelled() => break,
                Some(asked) = asked.recv() => Some(asked),
                () = tokio::time::sleep(LOOK_EVERY) => None,
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.turn(rotation, &mut known) => {}
            }
        }
        self.shown.send_replace(Signing::default());
        Ok(())
    }

    async fn turn(&self, rotation: Option<AskedRotation>, known: &mut Known) {
        if let Some(AskedRotation { actor, reply }) = rotation {
            let rotated = self.rotate(&actor).await.map_err(|error| error.to_string());
            // Who asked may have gone.
            let _ = reply.send(rotated);
            return;
        }
        let stated = self.state_what_is_due(known).await;
        let trouble = stated.err().map(|error| error.to_string());
        if self.shown.borrow().trouble != trouble {
            if let Some(error) = &trouble {
                tracing::error!(error, "no checkpoint can be stated; it is tried again");
            }
            self.shown.send_modify(|shown| shown.trouble = trouble);
        }
        if known.echoes_at.is_none_or(|at| at.elapsed() >= ECHOES_EVERY) {
            known.echoes_at = Some(Instant::now());
            if let Err(error) = self.hear_echoes().await {
                tracing::debug!(%error, "what agents know of checkpoints cannot be looked at now");
            }
        }
    }

    async fn state_what_is_due(&self, known: &mut Known) -> Result<(), ConsumersError> {
        if !known.is_asked {
            (known.last, known.is_asked) = (self.last().await?, true);
        }
        let last = known.last.as_ref();
        let news = news(&self.progress.all(), last, self.facts.stream());
        let age_ms = last.map(|(_, last)| clock::now().ms_since(last.stated_at));
        if !is_due(self.when, news, age_ms) {
            return Ok(());
        }
        // The log has the last word: another process may have stated one meanwhile.
        known.last = self.last().await?;
        if let Some((seq, last)) = &known.last
            && let Some(Unread { stream, covered, .. }) = self.lag(*seq, last).await?
        {
            let since = known.lags_since.get_or_insert_with(Instant::now);
            let is_passing = since.elapsed() < Duration::from_millis(LAG_MS_MAX);
            let late = ConsumersError::Late { stream, seq: covered, wait_ms: LAG_MS_MAX };
            return if is_passing { Ok(()) } else { Err(late) };
        }
        known.lags_since = None;
        known.last = Some(self.state(known).await?);
        Ok(())
    }

    /// What the last checkpoint covers of a log that has it still, and the pool has not read yet: another process signed
    /// with a pool that had. What this one signs waits until then, for history does not go backwards.
    async fn lag(&self, seq: u64, last: &Checkpoint) -> Result<Option<Unread>, ConsumersError> {
        let applied = self.progress.all();
        for unread in unread(&applied, &self.streams, seq, last, self.facts.stream()) {
            match self.bus.stream_state(&unread.stream).await {
                Ok(state) if unread.is_there(state.created, state.last_seq) => return Ok(Some(unread)),
                Ok(_) | Err(BusError::NoStream { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    /// The last checkpoint: of the target log, or of the pool when that has seen a later one there. Numbers that the log
    /// lost are not stated again as others.
    async fn last(&self) -> Result<Option<(u64, Checkpoint)>, ConsumersError> {
        let target = self.facts.target();
        let stated = SignedFacts::of(&self.bus, target).last_checkpoint().await?;
        let read = self.store.reader().latest_fact("checkpoint", target.as_str())?.value;
        let read = read.and_then(|record| match record.fact {
            LogFact::Checkpoint(checkpoint) => Some(checkpoint),
            _ => None,
        });
        let number = stated.as_ref().map_or(0, |(_, stated)| stated.number);
        match read.filter(|read| read.number > number) {
            Some(lost) => {
                let (has, lost_number) = (number, lost.number);
                tracing::error!(
                    has,
                    lost = lost_number,
                    "the target log has lost checkpoints that were read from it"
                );
                Ok(Some((stated.map_or(0, |(seq, _)| seq), lost)))
            }
            None => Ok(stated),
        }
    }

    async fn state(&self, known: &mut Known) -> Result<(u64, Checkpoint), ConsumersError> {
        let key = self.key().await?;
        let (number, previous) = match &known.last {
            Some((_, last)) => (last.number + 1, hash_of(last)?),
            None => (1, Hash32::ZERO),
        };
        let reader = self.store.reader();
        let named = std::mem::take(&mut known.named);
        let (stand, named) = blocking("checkpoint", move || {
            let stand = reader.stand(|owners| changed(owners, &named))?;
            Ok((stand, named))
        })
        .await?;
        known.named = named;
        let whats: Vec<_> =
            stand.owners.iter().map(|stand| (key_of(&stand.owner), what(&stand.owner))).collect();
        let unsigned = checkpoint(self.facts.target(), number, previous, stand);
        let checkpoint = key.sign_checkpoint(unsigned).map_err(signature)?;
        let fact = Fact::Log(LogFact::Checkpoint(checkpoint.clone()));
        let seq = self.facts.state(&fact, &format!("checkpoint/{number}")).await?;
        tracing::info!(number, owners = checkpoint.owners.len(), "a checkpoint is stated");
        known.named.extend(whats.into_iter().map(|(owner, what)| (owner, Named { number, what })));
        Ok((seq, checkpoint))
    }

    /// The key that the target log names, introduced there if it is the first. Errors: this process has another one.
    async fn key(&self) -> Result<SigningKey, ConsumersError> {
        let named = SignedFacts::of(&self.bus, self.facts.target()).key().await?;
        let key = self.keys.load_or_make()?;
        let Some(named) = named else {
            let first = key.first(self.facts.target(), ACTOR).map_err(signature)?;
            self.introduce(first).await?;
            return Ok(key);
        };
        if key.public() == named {
            return Ok(key);
        }
        // A rotation was stated, and the process ended before it used the new key.
        if self.keys.successor()?.is_some_and(|next| next.public() == named) {
            self.keys.succeed()?;
            return Ok(self.keys.load_or_make()?);
        }
        let (path, has) = (self.keys.path().display().to_string(), key.public());
        Err(ConsumersError::WrongSigningKey { path, has, named })
    }

    async fn rotate(&self, actor: &str) -> Result<Rotated, ConsumersError> {
        let (key, next) = (self.key().await?, self.keys.prepare_successor()?);
        let rotated = key.succeeded_by(&next, self.facts.target(), actor).map_err(signature)?;
        self.introduce(rotated.clone()).await?;
        self.keys.succeed()?;
        tracing::info!(key = rotated.key, actor, "another key signs from here on");
        Ok(rotated)
    }

    async fn introduce(&self, rotated: Rotated) -> Result<(), ConsumersError> {
        let id = format!("signing-key/{}", rotated.key);
        self.facts.state(&Fact::Key(KeyFact::Rotated(rotated)), &id).await.map(drop)
    }

    /// What agents know otherwise, as far as the pool has read what they may know; said in the log once.
    async fn hear_echoes(&self) -> Result<(), ConsumersError> {
        let (reader, target) = (self.store.reader(), self.facts.target().clone());
        let found = blocking("checkpoint", move || Ok(reader.contradictions(&target)?)).await?;
        let stream = self.facts.stream();
        // Asked after the pool was read: what an agent had been told by then is in the log by now.
        let stated = self.bus.stream_state(stream).await?.last_seq;
        let is_read = found.as_of.logs.iter().any(|(of, seq)| of == stream && *seq >= stated);
        let is_certain = |found: &Contradiction| found.known.is_some() || is_read;
        let found: Vec<_> = found.value.into_iter().filter(is_certain).collect();
        for contradiction in found.iter().filter(|found| !self.shown.borrow().contradictions.contains(found))
        {
            let Contradiction { owner, seen, known, last, .. } = contradiction;
            tracing::error!(owner, number = seen.number, told = %seen.hash, here = ?known, last, "an agent was told another checkpoint than the target log has: history was written anew, or the log lost its end");
        }
        self.shown.send_modify(|shown| shown.contradictions = found);
        Ok(())
    }
}

/// What a checkpoint covers of a log, when the pool has not read that far.
#[derive(Debug, PartialEq, Eq)]
struct Unread {
    stream: String,
    /// When the log was made that was signed; none = the checkpoint stands in it, and says nothing of it.
    created: Option<Timestamp>,
    covered: u64,
}

impl Unread {
    /// Whether a log that was made then and is so long has it: one that was made anew or has lost its end gives it to no
    /// pool, so nothing would be signed until it had grown so far again.
    fn is_there(&self, created: Timestamp, last_seq: u64) -> bool {
        self.created.is_none_or(|signed| signed == created) && last_seq >= self.covered
    }
}

/// The logs of which a checkpoint covers more than the pool has read.
fn unread(
    applied: &Applied,
    streams: &[String],
    seq: u64,
    last: &Checkpoint,
    target_log: &str,
) -> Vec<Unread> {
    let read = |stream: &str| applied.get(stream).map_or(0, |reached| reached.seq);
    let logs = streams.iter().map(|stream| Unread {
        stream: stream.clone(),
        created: mark(stream, last).map(|mark| mark.created),
        covered: covered(stream, seq, last, target_log),
    });
    logs.filter(|log| read(&log.stream) < log.covered).collect()
}

/// Up to where a checkpoint that stands at `seq` of the target log covers a log.
fn covered(stream: &str, seq: u64, last: &Checkpoint, target_log: &str) -> u64 {
    if stream == target_log {
        return seq;
    }
    mark(stream, last).map_or(0, |mark| mark.seq)
}

fn mark<'a>(stream: &str, last: &'a Checkpoint) -> Option<&'a LogMark> {
    last.logs.iter().find(|mark| mark.stream == stream)
}

/// Events that no checkpoint covers; the checkpoint itself and what is before it in the target log are none.
fn news(applied: &Applied, last: Option<&(u64, Checkpoint)>, target_log: &str) -> u64 {
    let covered = |stream: &str| last.map_or(0, |(seq, last)| covered(stream, *seq, last, target_log));
    // Without an event of a source there is nothing to sign yet.
    let is_begun = applied.iter().any(|(stream, reached)| stream != target_log && reached.seq > 0);
    let behind = applied.iter().map(|(stream, reached)| {
        let covered = covered(stream);
        // A log that is read from its start again has changed.
        if reached.seq < covered { reached.seq + 1 } else { reached.seq - covered }
    });
    if is_begun { behind.sum() } else { 0 }
}

fn is_due(when: When, news: u64, age_ms: Option<u64>) -> bool {
    let is_on = when.events.is_some() || when.every_ms.is_some();
    let Some(age_ms) = age_ms else { return is_on && news > 0 };
    let is_old = when.every_ms.is_some_and(|every_ms| news > 0 && age_ms >= every_ms);
    is_old || when.events.is_some_and(|events| news >= events)
}

fn key_of(owner: &Owner) -> (PoolId, String) {
    (owner.pool.clone(), owner.source.clone())
}

/// The owners whose chain or rows changed since they were named, those first that have waited longest.
fn changed(owners: &[Owner], named: &BTreeMap<(PoolId, String), Named>) -> Vec<bool> {
    let last = |owner: &Owner| named.get(&key_of(owner));
    let mut wanted: Vec<(u64, usize)> = owners
        .iter()
        .enumerate()
        .filter(|(_, owner)| last(owner).is_none_or(|named| named.what != what(owner)))
        .map(|(at, owner)| (last(owner).map_or(0, |named| named.number), at))
        .collect();
    wanted.sort_unstable();
    let mut chosen = vec![false; owners.len()];
    wanted.into_iter().take(OWNERS_MAX).for_each(|(_, at)| chosen[at] = true);
    chosen
}

fn checkpoint(target: &Name, number: u64, previous: Hash32, stand: Stand) -> Checkpoint {
    let logs = stand.logs.into_iter().map(|log| LogMark {
        stream: log.stream,
        created: log.created,
        incarnation: log.incarnation,
        seq: log.seq,
        running: log.running,
    });
    let owners = stand.owners.into_iter().map(|OwnerStand { owner, rows, rows_sha256 }| OwnerMark {
        pool: owner.pool,
        owner: owner.source,
        at: owner.at,
        hash: owner.hash,
        rows,
        rows_sha256,
    });
    let (logs, owners) = (logs.collect(), owners.collect());
    let (key, signature) = (String::new(), String::new());
    let (target, stated_at) = (target.clone(), clock::now());
    Checkpoint { target, number, previous, stated_at, logs, owners, key, signature }
}

fn hash_of(checkpoint: &Checkpoint) -> Result<Hash32, ConsumersError> {
    let fact = || "log.checkpoint".to_owned();
    checkpoint.hash().map_err(|source| ConsumersError::Encode { fact: fact(), source })
}

fn signature(error: audit::SignatureError) -> ConsumersError {
    ConsumersError::Signature(error)
}

#[cfg(test)]
mod tests;
