//! The one owner of every [`OwnerState`]: it looks at the pool after each commit and tick, takes every
//! owner a step further, and performs what comes out. Runs on the lease holder only; what it remembers is
//! recalled from the facts when the lease comes.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bus_schema::{
    Name, PoolId, Source, Timestamp, command::resource::SyncReason, event::resource::SyncScope, subject,
};
use projector::{AccessKey, Owner, StoreError};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    descent::descend,
    ports::{Pool, Ports},
    state::{self, Action, Activity, Input, OwnerState, Policy, Sync, step},
    sync,
    threshold::{Amount, Storm},
    view::{Around, SYNCS_MAX, amount, no_key, recalled, view_of},
};
use crate::{config::ServiceConfig, error::ConsumersError};

/// Shortest time between two looks at the pool: commits may come every few milliseconds, and a threshold
/// has to be noticed within a second.
const LOOK_EVERY_MIN: Duration = Duration::from_millis(100);
/// Longest time between two looks: what only the clock makes true is noticed this late.
const LOOK_EVERY_MAX: Duration = Duration::from_millis(500);
/// Syncs asked for by persons that may wait to be taken up.
pub(crate) const MANUALS_WAITING_MAX: usize = 64;

/// A sync that a person asks for.
pub(crate) struct ManualSync {
    /// The pool.
    pub pool: PoolId,
    /// Everything, instead of what changed.
    pub full: bool,
    /// Where the ids of the syncs go, or why there are none.
    pub reply: oneshot::Sender<Result<Vec<String>, String>>,
}

/// What people are shown of one owner.
#[derive(Clone, Debug, PartialEq)]
pub struct Shown {
    /// The owner.
    pub owner: Source,
    /// When it was asked by the timer last.
    pub last_first: Option<Timestamp>,
    /// When it will be asked next; none while the schedule is paused.
    pub next_first: Option<Timestamp>,
    /// What is under way.
    pub activity: Activity,
    /// Failures in a row.
    pub failures: u32,
    /// What is wrong with the pool's rows and repairs do not mend.
    pub trouble: Option<String>,
}

/// What is remembered of a pool between two looks.
struct PoolMemory {
    policy: Policy,
    storm: Storm,
    /// The owner that was asked last; the others go before it.
    last: Option<Source>,
}

/// When logs were rewound: read again only after the target log has moved, and once for all pools.
#[derive(Default)]
struct Rewound {
    target_seq: Option<u64>,
    at: BTreeMap<Name, Option<Timestamp>>,
}

/// One look at a pool.
struct Sight {
    pool: PoolId,
    owners: Vec<Owner>,
    keys: Vec<AccessKey>,
    amount: Amount,
    paused: bool,
    rewound_at: Option<Timestamp>,
    now: Timestamp,
}

/// The loop.
pub(crate) struct Reactor<P> {
    ports: Arc<P>,
    config: Arc<ServiceConfig>,
    pools: BTreeMap<PoolId, PoolMemory>,
    owners: BTreeMap<Source, OwnerState>,
    rewound: Rewound,
    work: JoinSet<(Source, Input)>,
    shown: watch::Sender<Vec<Shown>>,
}

impl<P: Ports> Reactor<P> {
    /// A reactor that remembers nothing yet.
    pub(crate) fn new(ports: Arc<P>, config: Arc<ServiceConfig>, shown: watch::Sender<Vec<Shown>>) -> Self {
        let (pools, owners, rewound) = Default::default();
        Self { ports, config, pools, owners, rewound, work: JoinSet::new(), shown }
    }

    /// Runs until `shutdown`, or until nobody can ask any more. Errors: the pool cannot be read.
    pub(crate) async fn run(
        mut self,
        mut manuals: mpsc::Receiver<ManualSync>,
        shutdown: CancellationToken,
    ) -> Result<(), ConsumersError> {
        let mut progress = self.ports.pool().progress().clone();
        let mut looked = Instant::now() - LOOK_EVERY_MAX;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                Some(done) = self.work.join_next() => self.worked(done)?,
                Some(manual) = manuals.recv() => self.manual(manual)?,
                moved = progress.moved() => {
                    let Some(()) = moved else { return Ok(()) };
                    tokio::time::sleep_until(looked + LOOK_EVERY_MIN).await;
                    self.look()?;
                    looked = Instant::now();
                }
                () = tokio::time::sleep_until(looked + LOOK_EVERY_MAX) => {
                    self.look()?;
                    looked = Instant::now();
                }
            }
        }
    }

    fn worked(
        &mut self,
        done: Result<(Source, Input), tokio::task::JoinError>,
    ) -> Result<(), ConsumersError> {
        let (source, input) = done.map_err(|source| ConsumersError::Task { task: "sync", source })?;
        // A failed statement of a failure has nothing to tell.
        if input != Input::Looked {
            self.visit(&source.pool.clone(), vec![(source, input)])?;
        }
        Ok(())
    }

    /// "What should be true now?", for every owner of every pool.
    pub(crate) fn look(&mut self) -> Result<(), ConsumersError> {
        let mut shown = Vec::new();
        for pool in self.ports.pool().pools()? {
            let sight = self.visit(&pool, Vec::new())?;
            let agents = sight.owners.iter().filter_map(Owner::askable);
            shown.extend(agents.filter_map(|source| self.show(&source, sight.paused)));
        }
        self.shown.send_if_modified(|old| {
            let changed = *old != shown;
            *old = shown;
            changed
        });
        Ok(())
    }

    fn show(&self, source: &Source, paused: bool) -> Option<Shown> {
        let state = self.owners.get(source)?;
        let policy = &self.pools.get(&source.pool)?.policy;
        let next_first = state.next_first(state::Owner { source, policy }).filter(|_| !paused);
        let OwnerState { last_first, failures, .. } = *state;
        let (owner, activity, trouble) = (source.clone(), state.activity.clone(), state.trouble.clone());
        Some(Shown { owner, last_first, next_first, activity, failures, trouble })
    }

    /// Takes every owner of a pool a step further, first those of whom something was heard. One sync of a
    /// pool runs at a time; who was asked last lets the others go before.
    fn visit(&mut self, pool: &PoolId, heard: Vec<(Source, Input)>) -> Result<Sight, ConsumersError> {
        let sight = self.sight(pool)?;
        let mut agents: Vec<(Source, &Owner)> =
            sight.owners.iter().filter_map(|owner| Some((owner.askable()?, owner))).collect();
        // Whose pool was dropped meanwhile, and came again without it.
        self.owners
            .retain(|source, _| source.pool != *pool || agents.iter().any(|(agent, _)| agent == source));
        if !self.pools.contains_key(pool) {
            let policy = self.config.policy(pool)?;
            self.pools.insert(pool.clone(), PoolMemory { policy, storm: Storm::default(), last: None });
        }
        for (source, input) in heard {
            if let Some((_, owner)) = agents.iter().find(|(agent, _)| *agent == source) {
                self.step(&sight, &source, owner, input, true)?;
            }
        }
        // Whose answer has ended makes room for the others.
        let running =
            |source: &Source| self.owners.get(source).is_some_and(|state| state.running().is_some());
        let running: Vec<bool> = agents.iter().map(|(source, _)| running(source)).collect();
        for ((source, owner), _) in agents.iter().zip(running).filter(|(_, running)| *running) {
            self.step(&sight, source, owner, Input::Looked, true)?;
        }
        let Some(memory) = self.pools.get_mut(pool) else { return Ok(sight) };
        let resting = |source: &Source| {
            matches!(self.owners.get(source), Some(OwnerState { activity: Activity::Resting { .. }, .. }))
        };
        let able = agents.iter().filter(|(source, owner)| owner.last_full.is_some() && !resting(source));
        let able = able.map(|(source, _)| source.clone());
        memory.storm.look(&memory.policy.limits, &sight.amount, able, sight.now);
        let last = memory.last.clone();
        let after_last = agents.iter().position(|(source, _)| Some(source) == last.as_ref());
        agents.rotate_left(after_last.map_or(0, |last| last + 1));
        for (source, owner) in agents {
            let busy = self.is_busy_beside(&source);
            self.step(&sight, &source, owner, Input::Looked, busy)?;
        }
        Ok(sight)
    }

    fn sight(&mut self, pool: &PoolId) -> Result<Sight, ConsumersError> {
        let from = self.ports.pool();
        let (owners, keys, paused) = (from.owners(pool)?, from.keys(pool)?, from.is_paused(pool)?);
        let (amount, now) = (amount(&owners), self.ports.now());
        let rewound_at = self.rewound_at(&pool.site)?;
        Ok(Sight { pool: pool.clone(), owners, keys, amount, paused, rewound_at, now })
    }

    fn rewound_at(&mut self, site: &Name) -> Result<Option<Timestamp>, StoreError> {
        let from = self.ports.pool();
        let target_seq = from.progress().reached(&subject::target_stream(&self.config.target)).seq;
        if self.rewound.target_seq != Some(target_seq) {
            self.rewound = Rewound { target_seq: Some(target_seq), at: BTreeMap::new() };
        }
        if let Some(at) = self.rewound.at.get(site) {
            return Ok(*at);
        }
        let at = from.rewound_at(&subject::site_stream(site))?;
        self.rewound.at.insert(site.clone(), at);
        Ok(at)
    }

    /// Whether another owner of the pool is being asked. One whose answer stands still holds up nobody.
    fn is_busy_beside(&self, source: &Source) -> bool {
        let mut others =
            self.owners.iter().filter(|(other, _)| other.pool == source.pool && *other != source);
        others.any(|(_, state)| match state.activity {
            Activity::Asked(_) | Activity::Descending | Activity::Receiving { resumes: 0, .. } => true,
            Activity::Idle | Activity::Resting { .. } | Activity::Receiving { .. } => false,
        })
    }

    fn step(
        &mut self,
        sight: &Sight,
        source: &Source,
        owner: &Owner,
        input: Input,
        busy: bool,
    ) -> Result<(), ConsumersError> {
        let now = sight.now;
        let state = match self.owners.remove(source) {
            Some(state) => state,
            None => recalled(owner, &self.ports.pool().syncs(&sight.pool, SYNCS_MAX)?, now),
        };
        let Some(memory) = self.pools.get_mut(&sight.pool) else { return Ok(()) };
        let running = state.running().cloned();
        let around = Around {
            keys: &sight.keys,
            paused: sight.paused,
            rewound_at: sight.rewound_at,
            busy,
            third_due: memory.storm.is_due(source),
            completed: match &running {
                Some(sync) => is_completed(&*self.ports, owner, sync)?,
                None => false,
            },
        };
        let view = view_of(owner, around, running.as_ref(), now);
        let asked = state::Owner { source, policy: &memory.policy };
        let (state, actions) = step(state, asked, &view, input, now);
        memory.follow(source, running.as_ref(), &state, sight);
        self.owners.insert(source.clone(), state);
        actions.into_iter().for_each(|action| self.perform(source.clone(), action));
        Ok(())
    }

    fn perform(&mut self, owner: Source, action: Action) {
        let ports = self.ports.clone();
        let wait = Duration::from_millis(self.config.patience.answer.ms());
        self.work.spawn(async move {
            let input = match action {
                Action::Ask(sync) => sync::request(&*ports, &owner, &sync, false, wait).await,
                Action::AskAgain(sync) => sync::request(&*ports, &owner, &sync, true, wait).await,
                Action::Descend => Input::Descended(descend(&*ports, &owner, wait).await.0),
                Action::StateFailed { sync_id, reason, retry_at } => {
                    sync::state_failed(&*ports, &owner, sync_id, reason, retry_at).await;
                    Input::Looked
                }
            };
            (owner, input)
        });
    }

    fn manual(&mut self, ManualSync { pool, full, reply }: ManualSync) -> Result<(), ConsumersError> {
        let agents: Vec<Source> =
            self.ports.pool().owners(&pool)?.iter().filter_map(Owner::askable).collect();
        let scope = if full { SyncScope::Full } else { SyncScope::Incremental };
        self.visit(&pool, agents.iter().map(|source| (source.clone(), Input::Manual(scope))).collect())?;
        let mut sync_ids = Vec::new();
        let mut refused =
            format!("no agent has ever reported for the pool {pool}; start one, or see its log");
        for source in &agents {
            match self.owners.get(source).and_then(OwnerState::manual) {
                Some(sync_id) => sync_ids.push(sync_id.to_owned()),
                None => refused = no_key(source),
            }
        }
        // Who asked may be gone; the syncs run all the same.
        let _ = reply.send(if sync_ids.is_empty() { Err(refused) } else { Ok(sync_ids) });
        Ok(())
    }
}

impl PoolMemory {
    /// Notes what a step did that concerns the whole pool.
    fn follow(
        &mut self,
        source: &Source,
        before: Option<&Sync>,
        state: &OwnerState,
        Sight { amount, now, .. }: &Sight,
    ) {
        let after = state.running();
        if after.is_some() && after.map(|sync| &sync.id) != before.map(|sync| &sync.id) {
            self.last = Some(source.clone());
        }
        let is_third = |sync: Option<&Sync>| sync.is_some_and(|sync| sync.wanted.reason == SyncReason::Third);
        let failed = matches!(state.activity, Activity::Resting { .. });
        if !is_third(after) && (is_third(before) || failed) {
            self.storm.had_its_turn(source, &self.policy.limits, amount, *now);
        }
    }
}

/// Whether the target log says that a sync is complete; another one may have closed after it.
fn is_completed<P: Ports>(ports: &P, owner: &Owner, sync: &Sync) -> Result<bool, StoreError> {
    if owner.last_sync.as_ref().is_none_or(|last| last.sync_id == sync.id) {
        return Ok(false);
    }
    let record = ports.pool().sync(&owner.pool, &sync.id)?;
    Ok(record.is_some_and(|record| record.completed.is_some()))
}

#[cfg(test)]
#[path = "reactor_tests.rs"]
mod tests;
