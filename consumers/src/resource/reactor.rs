//! The one owner of every [`OwnerState`]: it looks at the pool after each commit and tick, takes every
//! owner a step further, and performs what comes out. Runs on the lease holder only; what it remembers is
//! recalled from the facts when the lease comes.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bus_schema::{PoolId, Source, Timestamp, event::resource::SyncScope, subject};
use projector::{Owner, StoreError, SyncRecord};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    descent::descend,
    ports::{Pool, Ports},
    state::{self, Action, Activity, Input, OwnerState, Policy, step},
    sync,
    view::{SYNCS_MAX, Surroundings, askable, recalled, view_of},
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
}

/// What of a pool only the target log changes, so that it is not read at every look.
#[derive(Default)]
struct Recalled {
    target_seq: u64,
    paused: bool,
    rewound_at: Option<Timestamp>,
    syncs: Vec<SyncRecord>,
}

/// The loop.
pub(crate) struct Reactor<P> {
    ports: Arc<P>,
    config: Arc<ServiceConfig>,
    policies: BTreeMap<PoolId, Policy>,
    recalled: BTreeMap<PoolId, Recalled>,
    owners: BTreeMap<Source, OwnerState>,
    work: JoinSet<(Source, Input)>,
    shown: watch::Sender<Vec<Shown>>,
}

impl<P: Ports> Reactor<P> {
    /// A reactor that remembers nothing yet.
    pub(crate) fn new(ports: Arc<P>, config: Arc<ServiceConfig>, shown: watch::Sender<Vec<Shown>>) -> Self {
        let (policies, recalled, owners) = Default::default();
        Self { ports, config, policies, recalled, owners, work: JoinSet::new(), shown }
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
            self.step_one(&source, input)?;
        }
        Ok(())
    }

    /// "What should be true now?", for every owner of every pool.
    pub(crate) fn look(&mut self) -> Result<(), ConsumersError> {
        let mut shown = Vec::new();
        for pool in self.ports.pool().pools()? {
            for owner in self.ports.pool().owners(&pool)? {
                if let Some(source) = askable(&owner) {
                    self.step(&source, &owner, Input::Looked)?;
                    shown.extend(self.show(&source));
                }
            }
        }
        self.shown.send_if_modified(|old| {
            let changed = *old != shown;
            *old = shown;
            changed
        });
        Ok(())
    }

    fn show(&self, source: &Source) -> Option<Shown> {
        let state = self.owners.get(source)?;
        let policy = self.policies.get(&source.pool)?;
        let paused = self.recalled.get(&source.pool).is_some_and(|recalled| recalled.paused);
        let next_first = state.next_first(state::Owner { source, policy }).filter(|_| !paused);
        let OwnerState { last_first, failures, .. } = *state;
        Some(Shown {
            owner: source.clone(),
            last_first,
            next_first,
            activity: state.activity.clone(),
            failures,
        })
    }

    fn step_one(&mut self, source: &Source, input: Input) -> Result<(), ConsumersError> {
        match self.ports.pool().owner(&source.pool, &source.to_string())? {
            Some(owner) => self.step(source, &owner, input),
            // Its pool was dropped meanwhile.
            None => {
                self.owners.remove(source);
                Ok(())
            }
        }
    }

    fn step(&mut self, source: &Source, owner: &Owner, input: Input) -> Result<(), ConsumersError> {
        let now = self.ports.now();
        if !self.policies.contains_key(&source.pool) {
            self.policies.insert(source.pool.clone(), self.config.policy(&source.pool)?);
        }
        self.recall(&source.pool)?;
        let (Some(policy), Some(known)) = (self.policies.get(&source.pool), self.recalled.get(&source.pool))
        else {
            return Ok(());
        };
        let keys = self.ports.pool().keys(&source.pool)?;
        let around = Surroundings {
            keys: &keys,
            paused: known.paused,
            rewound_at: known.rewound_at,
            syncs: &known.syncs,
        };
        let state = self.owners.remove(source).unwrap_or_else(|| recalled(owner, &known.syncs, now));
        let view = view_of(owner, around, state.running(), now);
        let (state, actions) = step(state, state::Owner { source, policy }, &view, input, now);
        self.owners.insert(source.clone(), state);
        actions.into_iter().for_each(|action| self.perform(source.clone(), action));
        Ok(())
    }

    fn recall(&mut self, pool: &PoolId) -> Result<(), StoreError> {
        let target_seq =
            self.ports.pool().progress().reached(&subject::target_stream(&self.config.target)).seq;
        if self.recalled.get(pool).is_some_and(|recalled| recalled.target_seq == target_seq) {
            return Ok(());
        }
        let from = self.ports.pool();
        let recalled = Recalled {
            target_seq,
            paused: from.is_paused(pool)?,
            rewound_at: from.rewound_at(&subject::site_stream(&pool.site))?,
            syncs: from.syncs(pool, SYNCS_MAX)?,
        };
        self.recalled.insert(pool.clone(), recalled);
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
        let owners = self.ports.pool().owners(&pool)?;
        let sources: Vec<(Source, Owner)> =
            owners.into_iter().filter_map(|owner| Some((askable(&owner)?, owner))).collect();
        let scope = if full { SyncScope::Full } else { SyncScope::Incremental };
        let mut sync_ids = Vec::new();
        let mut refused =
            format!("no agent has ever reported for the pool {pool}; start one, or see its log");
        for (source, owner) in &sources {
            self.step(source, owner, Input::Manual(scope))?;
            match self.owners.get(source) {
                Some(state) if let Some(sync) = state.running() => sync_ids.push(sync.id.clone()),
                Some(OwnerState { activity: Activity::Resting { for_key: true, .. }, .. }) => {
                    refused =
                        format!("the source of {pool} has announced no access key that is good now (R7)");
                }
                _ => {
                    refused = format!(
                        "the sync of {pool} waits for a comparison of its digests; it follows by itself"
                    )
                }
            }
        }
        // Who asked may be gone; the syncs run all the same.
        let _ = reply.send(if sync_ids.is_empty() { Err(refused) } else { Ok(sync_ids) });
        Ok(())
    }
}

#[cfg(test)]
#[path = "reactor_tests.rs"]
mod tests;
