//! Confirming (R4): before a task runs, the pool's entries that it needs are compared with the source.
//!
//! ```text
//! read the pool's entries ─► read the source (not the agent's cache) ─► equal? ─yes─► confirmed
//!                                                                         │ no
//!            updated / missing ◄─ compare again ◄─ pool has the answer ◄─ second request
//!                                       └─ still unequal, and not written by that answer: unconfirmable
//! ```
//!
//! Nothing is taken for true because an answer has ended: the entry itself must be what was read, or bear
//! a place in the chain behind the opening of an answer that was taken in whole.
//!
//! The answer is a fact: who asked, what was found, and the place in the owner's chain as of which it is true.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bus_schema::{
    Hash32, PoolId, ResourceKey, Revision, Source, Timestamp,
    chain::ChainPoint,
    command::{
        resource::{KEYS_MAX, READ, ReadReply, ReadRequest, ReadResource, SyncReason},
        target::{ConfirmCommand, Confirmation, RecheckCommand},
    },
    event::resource::SyncScope,
    fact::{
        Fact,
        resource::{Confirmed, ConfirmedResource, ResourceFact, Verdict},
    },
};
use projector::{Order, Owner, Row, StoreError};
use tokio::{task::JoinSet, time::Instant};

use super::{
    ports::{Pool, Ports, Silence, ask},
    state::{Differing, Input, Sync, Wanted},
    sync,
    view::{has_good_key, no_key},
};

/// The longest that a confirmation waits, whatever its command says.
pub const WAIT_MS_MAX: u64 = 600_000;
/// The wait before an agent that refused a second request (it is busy) is asked again.
const REFUSED_WAIT: Duration = Duration::from_millis(200);

/// What a source has under a key.
pub type Found = Option<(Revision, Hash32)>;

/// How a pool's entry compares with what the source has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Same revision, same state.
    Equal,
    /// Neither has it.
    Absent,
    /// They differ, or the pool lacks a state that was announced.
    Differs,
}

/// Compares a pool's entry with what the source has.
pub fn judge(row: Option<&Row>, found: &Found) -> Judgement {
    let live = row.filter(|row| row.deleted_at.is_none());
    match (live, found) {
        (None, None) => Judgement::Absent,
        (Some(row), Some((revision, hash)))
            if row.notice.is_none() && row.current() == Some((revision, hash)) =>
        {
            Judgement::Equal
        }
        _ => Judgement::Differs,
    }
}

/// Whether the task may go, and whether it goes by policy although a source did not answer.
pub fn may_go(resources: &[ConfirmedResource], allow_unreachable: bool) -> (bool, bool) {
    let untrue = || resources.iter().filter(|resource| !resource.verdict.is_true());
    let all_true = untrue().next().is_none();
    let by_policy = allow_unreachable && untrue().all(|r| r.verdict == Verdict::SourceUnreachable);
    (all_true || by_policy, by_policy && !all_true)
}

/// What one owner answered.
struct Answer {
    owner: Source,
    keys: Vec<ResourceKey>,
    read: Result<(BTreeMap<ResourceKey, Found>, ChainPoint), Silence>,
}

/// The end of the answer to a second request, as the pool has it.
struct Mended {
    /// The owner's last event in the pool.
    at: ChainPoint,
    /// The event before the answer's opening; none = another answer has ended since, and hides it.
    low: Option<ChainPoint>,
    /// Why not every event of the answer was taken in.
    broken: Option<String>,
}

impl Mended {
    /// Whether a row was written by the answer, or after it: it is then younger than what was read.
    fn wrote(&self, row: &Row, owner: &str) -> bool {
        let behind = |low: ChainPoint| match row.order {
            Order::Chained(at) => at.epoch == low.epoch && at.seq > low.seq,
            Order::Unchained { .. } => false,
        };
        self.broken.is_none() && row.owner == owner && row.notice.is_none() && self.low.is_some_and(behind)
    }

    fn why_unequal(&self) -> String {
        match &self.broken {
            Some(broken) => format!(
                "the pool differs from the source: the answer to the second request was not taken in whole ({broken}); see the dead letters in `farside status`"
            ),
            None => "the pool differs from the source: the answer to the second request did not bring this resource; see the agent's log, then confirm again"
                .to_owned(),
        }
    }
}

/// One confirmation that is under way.
pub(crate) struct Confirm<P> {
    ports: Arc<P>,
    pool: PoolId,
    deadline: Instant,
}

impl<P: Ports> Confirm<P> {
    /// Confirms what a command names, states it, and answers. Errors: why nothing can be confirmed.
    pub(crate) async fn run(ports: Arc<P>, command: ConfirmCommand) -> Result<Confirmation, String> {
        if command.keys.is_empty() || command.keys.len() > KEYS_MAX {
            return Err(format!(
                "{} resources cannot be confirmed at once; name 1 to {KEYS_MAX}",
                command.keys.len()
            ));
        }
        let confirm = Self::new(ports, &command.pool, command.wait_ms_max);
        let resources = confirm.resources(&command.keys).await.map_err(|error| error.to_string())?;
        let (go, allowed_unreachable) = may_go(&resources, command.allow_unreachable);
        let confirm_id = format!("confirm-{}", uuid::Uuid::now_v7());
        let confirmed = Confirmed {
            pool: command.pool,
            confirm_id: confirm_id.clone(),
            actor: command.actor,
            task: command.task,
            allowed_unreachable,
            resources: resources.clone(),
        };
        confirm.state(confirmed, confirm_id.clone()).await?;
        Ok(Confirmation { confirm_id, go, resources })
    }

    /// Reads the resources of a confirmation again after the guarded command, and records what changed.
    pub(crate) async fn recheck(ports: Arc<P>, command: RecheckCommand) -> Result<Confirmation, String> {
        let confirm = Self::new(ports, &command.pool, command.wait_ms_max);
        let RecheckCommand { confirmed, pool, actor, .. } = command;
        let keys: Vec<_> = confirmed.resources.iter().map(|resource| resource.key.clone()).collect();
        let answers = confirm.read(&keys).await.map_err(|error| error.to_string())?;
        let mut resources = confirmed.resources;
        for resource in &mut resources {
            confirm.recheck_one(resource, &answers).map_err(|error| error.to_string())?;
        }
        let go = resources.iter().all(|resource| resource.verdict.is_true() && !resource.changed_during_run);
        let confirm_id = confirmed.confirm_id;
        let fact = Confirmed {
            pool,
            confirm_id: confirm_id.clone(),
            actor,
            task: None,
            allowed_unreachable: false,
            resources: resources.clone(),
        };
        confirm.state(fact, format!("{confirm_id}/recheck")).await?;
        Ok(Confirmation { confirm_id, go, resources })
    }

    fn new(ports: Arc<P>, pool: &PoolId, wait_ms: u64) -> Self {
        let deadline = Instant::now() + Duration::from_millis(wait_ms.min(WAIT_MS_MAX));
        Self { ports, pool: pool.clone(), deadline }
    }

    async fn state(&self, confirmed: Confirmed, id: String) -> Result<(), String> {
        let fact = Fact::Resource(ResourceFact::Confirmed(confirmed));
        self.ports.state(fact, id).await.map(drop).map_err(|error| error.to_string())
    }

    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    fn row(&self, key: &ResourceKey) -> Result<Option<Row>, StoreError> {
        self.ports.pool().row(&self.pool, key)
    }

    async fn resources(&self, keys: &[ResourceKey]) -> Result<Vec<ConfirmedResource>, StoreError> {
        let mut before = BTreeMap::new();
        for key in keys {
            before.insert(key.clone(), self.row(key)?);
        }
        let answers = self.read(keys).await?;
        let mut resources = BTreeMap::new();
        let mut differing: BTreeMap<Source, Vec<ResourceKey>> = BTreeMap::new();
        for (key, row) in &before {
            let first = first_verdict(key, row.as_ref(), &answers);
            if let First::Differs(owner) = first {
                differing.entry(owner).or_default().push(key.clone());
            } else if let First::Known(resource) = first {
                resources.insert(key.clone(), resource);
            }
        }
        for (owner, keys) in differing {
            let mended = self.mend(&owner, &keys).await;
            for key in keys {
                let found = answer_of(&answers, &owner, &key);
                let resource = self.after_mending(&key, before[&key].as_ref(), found, &owner, &mended)?;
                resources.insert(key, resource);
            }
        }
        Ok(keys.iter().filter_map(|key| resources.get(key).cloned()).collect())
    }

    /// Asks every owner for its keys, and every owner of the pool for the keys that nobody has.
    async fn read(&self, keys: &[ResourceKey]) -> Result<Vec<Answer>, StoreError> {
        let owners: Vec<Source> =
            self.ports.pool().owners(&self.pool)?.iter().filter_map(Owner::askable).collect();
        let mut questions: BTreeMap<Source, Vec<ResourceKey>> = BTreeMap::new();
        for key in keys {
            let owner = self.row(key)?.map(|row| row.owner);
            let knows = |source: &&Source| owner.as_ref().is_none_or(|owner| *owner == source.to_string());
            for source in owners.iter().filter(knows) {
                questions.entry(source.clone()).or_default().push(key.clone());
            }
        }
        let mut asking = JoinSet::new();
        for (owner, keys) in questions {
            let (ports, wait) = (self.ports.clone(), self.left());
            asking.spawn(async move {
                let read = read_one(&*ports, &owner, &keys, wait).await;
                Answer { owner, keys, read }
            });
        }
        Ok(asking.join_all().await)
    }

    /// The second request: how its answer ended in the pool. Errors: why there is none.
    async fn mend(&self, owner: &Source, keys: &[ResourceKey]) -> Result<Mended, String> {
        let now = self.ports.now();
        let announced =
            self.ports.pool().keys(&self.pool).is_ok_and(|keys| has_good_key(&keys, &owner.to_string(), now));
        if !announced {
            return Err(format!("the pool differs from the source, which is not asked: {}", no_key(owner)));
        }
        let sync = second(keys, now);
        let mut refused = "there was no time left for it".to_owned();
        loop {
            let left = self.left();
            if left.is_zero() {
                return Err(format!("the pool differs from the source; the second request: {refused}"));
            }
            match sync::request(&*self.ports, owner, &sync, false, left).await {
                Input::Accepted { .. } => break,
                Input::Failed { reason, .. } => refused = reason,
                other => tracing::debug!(%owner, ?other, "ask for the second sync again"),
            }
            tokio::time::sleep(REFUSED_WAIT.min(left)).await;
        }
        let mended = self.ports.pool().progress().until(self.left(), || self.ended(owner, &sync.id)).await;
        mended.ok_or_else(|| {
            "the pool differs from the source, which took the second request and sent no whole answer in time; see the agent's log"
                .to_owned()
        })
    }

    /// How a sync's answer ended, when the pool has its end.
    fn ended(&self, owner: &Source, sync_id: &str) -> Option<Mended> {
        let pool = self.ports.pool();
        let known = pool.owner(&self.pool, &owner.to_string()).ok()??;
        let at = known.at?;
        if let Some(last) = known.last_sync.filter(|last| last.sync_id == sync_id) {
            return Some(Mended { at, low: last.low, broken: last.broken });
        }
        let completed = pool.sync(&self.pool, sync_id).ok()?.is_some_and(|record| record.completed.is_some());
        completed.then_some(Mended { at, low: None, broken: None })
    }

    fn after_mending(
        &self,
        key: &ResourceKey,
        before: Option<&Row>,
        found: &Found,
        owner: &Source,
        mended: &Result<Mended, String>,
    ) -> Result<ConfirmedResource, StoreError> {
        let row = self.row(key)?;
        let live = row.as_ref().filter(|row| row.deleted_at.is_none());
        let mended = match mended {
            Ok(mended) => mended,
            Err(reason) => {
                let after = found.as_ref().map(|(revision, _)| revision.clone());
                return Ok(ConfirmedResource { after, ..untrue(key, before, reason.clone()) });
            }
        };
        let verdict = match judge(row.as_ref(), found) {
            Judgement::Equal => Some(Verdict::Updated),
            Judgement::Absent => Some(Verdict::Missing),
            // The source changed once more after it was read, and the answer brought that.
            Judgement::Differs => {
                let written = row.as_ref().is_some_and(|row| mended.wrote(row, &owner.to_string()));
                written.then_some(if live.is_some() { Verdict::Updated } else { Verdict::Missing })
            }
        };
        let Some(verdict) = verdict else {
            let after = found.as_ref().map(|(revision, _)| revision.clone());
            return Ok(ConfirmedResource { after, ..untrue(key, before, mended.why_unequal()) });
        };
        let after = live.and_then(|row| row.revision.clone());
        Ok(ConfirmedResource { true_as_of: Some(mended.at), after, ..resource(key, before, verdict) })
    }

    fn recheck_one(&self, resource: &mut ConfirmedResource, answers: &[Answer]) -> Result<(), StoreError> {
        if !resource.verdict.is_true() {
            return Ok(());
        }
        let row = self.row(&resource.key)?;
        let owner = row.as_ref().map(|row| row.owner.clone()).unwrap_or_default();
        let read = answers.iter().find(|answer| answer.owner.to_string() == owner).map(|answer| &answer.read);
        let Some(Ok((found, at))) = read else {
            resource.verdict = Verdict::SourceUnreachable;
            return Ok(());
        };
        let found = found.get(&resource.key).cloned().flatten();
        let now = found.as_ref().map(|(revision, _)| revision.clone());
        // An equal revision with another state is a change, too.
        let same_state = match (&found, row.as_ref().and_then(Row::current)) {
            (Some((revision, hash)), Some((ours, our_hash))) if revision == ours => hash == our_hash,
            _ => true,
        };
        resource.changed_during_run = now != resource.after || !same_state;
        resource.after = now;
        resource.true_as_of = Some(*at);
        Ok(())
    }
}

/// The verdict before anything is mended.
enum First {
    Known(ConfirmedResource),
    Differs(Source),
}

fn first_verdict(key: &ResourceKey, row: Option<&Row>, answers: &[Answer]) -> First {
    let asked: Vec<&Answer> = answers.iter().filter(|answer| answer.keys.contains(key)).collect();
    if asked.is_empty() {
        let reason = "no agent answers for it; start one beside its source".to_owned();
        return First::Known(untrue(key, row, reason));
    }
    let unreachable = || {
        let silence = asked.iter().find_map(|answer| answer.read.as_ref().err());
        let reason = silence.map(|silence| silence.0.clone());
        First::Known(ConfirmedResource { reason, ..resource(key, row, Verdict::SourceUnreachable) })
    };
    let readings = asked.iter().filter_map(|answer| Some((*answer, answer.read.as_ref().ok()?)));
    let readings: Vec<_> =
        readings.map(|(answer, (found, at))| (answer, found.get(key).unwrap_or(&None), *at)).collect();
    let having = readings.iter().find(|(_, found, _)| found.is_some()).or(readings.first());
    let Some((answer, found, at)) = having else { return unreachable() };
    match judge(row, found) {
        Judgement::Equal => {
            let after = found.as_ref().map(|(revision, _)| revision.clone());
            let confirmed = resource(key, row, Verdict::Confirmed);
            First::Known(ConfirmedResource { true_as_of: Some(*at), after, ..confirmed })
        }
        // One owner that does not answer may be the one that has it.
        Judgement::Absent if readings.len() < asked.len() => unreachable(),
        Judgement::Absent => {
            let missing = resource(key, row, Verdict::Missing);
            First::Known(ConfirmedResource { true_as_of: Some(*at), ..missing })
        }
        Judgement::Differs => First::Differs(answer.owner.clone()),
    }
}

fn resource(key: &ResourceKey, before: Option<&Row>, verdict: Verdict) -> ConfirmedResource {
    let live = before.filter(|row| row.deleted_at.is_none());
    ConfirmedResource {
        key: key.clone(),
        verdict,
        before: live.and_then(|row| row.revision.clone()),
        after: None,
        true_as_of: None,
        changed_during_run: false,
        reason: None,
    }
}

/// An entry that nobody can call true, and why.
fn untrue(key: &ResourceKey, before: Option<&Row>, reason: String) -> ConfirmedResource {
    ConfirmedResource { reason: Some(reason), ..resource(key, before, Verdict::Unconfirmable) }
}

fn answer_of<'a>(answers: &'a [Answer], owner: &Source, key: &ResourceKey) -> &'a Found {
    let answer = answers.iter().find(|answer| answer.owner == *owner);
    answer.and_then(|answer| answer.read.as_ref().ok()?.0.get(key)).unwrap_or(&None)
}

fn second(keys: &[ResourceKey], now: Timestamp) -> Sync {
    let differing = Differing { keys: keys.to_vec(), addresses: Vec::new() };
    let wanted = Wanted { reason: SyncReason::Second, scope: SyncScope::Keys, differing, rebase: false };
    Sync { id: format!("second-{}", uuid::Uuid::now_v7()), asked_at: now, wanted }
}

async fn read_one<P: Ports>(
    ports: &P,
    owner: &Source,
    keys: &[ResourceKey],
    wait: Duration,
) -> Result<(BTreeMap<ResourceKey, Found>, ChainPoint), Silence> {
    let lease = ports.lease().ok_or_else(|| Silence("the lease is with another process now".to_owned()))?;
    let command = ReadRequest {
        agent: owner.agent.clone(),
        keys: keys.to_vec(),
        lease: lease.seq,
        lease_log: Some(lease.log_created),
    };
    match ask(ports, &owner.pool, READ, &command, wait).await {
        Ok(ReadReply::Read { resources, at }) => {
            let found = resources.into_iter().map(|ReadResource { key, found }| (key, found)).collect();
            Ok((found, at))
        }
        Ok(ReadReply::Refused { reason }) => Err(Silence(reason)),
        Err(silence) => {
            tracing::warn!(%owner, %silence, "the source could not be read for a confirmation");
            Err(silence)
        }
    }
}

#[cfg(test)]
#[path = "confirm_tests.rs"]
mod tests;
