//! Runs: which stretch of whose chain an event belongs to.

use bus_schema::{Envelope, Hash32, chain::Link, envelope::Stored};

use super::{
    Batch, OwnerSlot, PoolSlot,
    fold::{Effect, Item, RedriveCopy, Run, RunChain, Step, Unchained},
};

/// What an event that leaves nothing but a step costs, for [`Batch::bytes`].
const STEP_BYTES: usize = size_of::<Step>();

/// Where an event stands.
#[derive(Clone, Copy)]
pub(super) struct Standing {
    pub(super) pool: usize,
    pub(super) run: usize,
    /// 0 for an unchained event.
    pub(super) chain_seq: u64,
    pub(super) seq: u64,
    pub(super) stored_at: i64,
}

impl Batch {
    /// Counts a change towards the thresholds (R6).
    pub(super) fn count(&mut self, at: Standing, counted: bool, bytes: u64) {
        if !counted {
            return;
        }
        let run = &mut self.runs[at.run];
        let counted = match &mut run.chain {
            Some(chain) => chain.steps.last_mut().map(|step| &mut step.counted),
            None => run.unchained.last_mut().map(|event| &mut event.counted),
        };
        if let Some(counted) = counted {
            *counted = Some(bytes);
        }
    }

    /// Puts an event into its owner's chain: behind the run at hand, or at the start of a new one.
    pub(super) fn stand(
        &mut self,
        owner: usize,
        link: Option<(Link, Hash32)>,
        message: Stored<'_>,
    ) -> Standing {
        let (seq, stored_at) = (message.seq, message.stored_at.unix_ms());
        let run = match link {
            None => self.unchained_run(owner, stored_at),
            Some((link, hash)) => {
                self.chained_run(owner, link, Step { hash, seq, stored_at, counted: None }, stored_at)
            }
        };
        let slot = &mut self.runs[run];
        slot.last_stored_at = stored_at;
        if link.is_none() {
            slot.unchained.push(Unchained { seq, stored_at, counted: None });
        }
        let chain_seq = link.map_or(0, |(link, _)| link.at.seq);
        self.bytes += STEP_BYTES;
        Standing { pool: self.owners[owner].pool, run, chain_seq, seq, stored_at }
    }

    fn chained_run(&mut self, owner: usize, link: Link, step: Step, stored_at: i64) -> usize {
        let current = self.owners[owner].chained.and_then(|run| Some((run, self.runs[run].chain.as_mut()?)));
        if let Some((run, chain)) = current
            && chain.first.epoch == link.at.epoch
            && chain.last_seq().checked_add(1) == Some(link.at.seq)
            && chain.steps.last().is_some_and(|last| last.hash == link.prev)
        {
            chain.steps.push(step);
            return run;
        }
        let chain = RunChain { first: link.at, first_prev: link.prev, steps: vec![step] };
        let run = self.begin_run(owner, Some(chain), stored_at);
        self.owners[owner].chained = Some(run);
        run
    }

    fn unchained_run(&mut self, owner: usize, stored_at: i64) -> usize {
        if let Some(run) = self.owners[owner].unchained {
            return run;
        }
        let run = self.begin_run(owner, None, stored_at);
        self.owners[owner].unchained = Some(run);
        run
    }

    fn begin_run(&mut self, owner: usize, chain: Option<RunChain>, stored_at: i64) -> usize {
        let run = self.runs.len();
        let seq = chain.as_ref().and_then(|chain| chain.steps.first()).map_or(self.last_seq, |step| step.seq);
        self.runs.push(Run { owner, chain, unchained: Vec::new(), last_stored_at: 0, copy: None });
        let item = Item { seq, stored_at, run: Some(run), chain_seq: 0, effect: Effect::Run };
        self.segment().items.push(item);
        run
    }

    /// Puts a copy beside its owner's chain: it is decided by itself, and breaks off no run.
    pub(super) fn stand_beside(&mut self, owner: usize, copy: RedriveCopy, message: Stored<'_>) -> Standing {
        let (seq, stored_at) = (message.seq, message.stored_at.unix_ms());
        let run = self.begin_run(owner, None, stored_at);
        (self.runs[run].last_stored_at, self.runs[run].copy) = (stored_at, Some(copy));
        Standing { pool: self.owners[owner].pool, run, chain_seq: 0, seq, stored_at }
    }

    /// The index of the event's owner.
    pub(super) fn owner(&mut self, envelope: &Envelope<'_>) -> usize {
        let (site, cluster) = (envelope.subject.site, envelope.subject.cluster);
        if let Some(owner) = self.owners.get(self.recent_owner) {
            let pool = &self.pools[owner.pool];
            if *owner.source == *envelope.source && *pool.cluster == *cluster && *pool.site == *site {
                return self.recent_owner;
            }
        }
        let known = self.pools.iter().position(|pool| *pool.cluster == *cluster && *pool.site == *site);
        let pool = known.unwrap_or_else(|| {
            self.pools.push(PoolSlot {
                site: site.into(),
                cluster: cluster.into(),
                owners: Default::default(),
            });
            self.pools.len() - 1
        });
        self.recent_owner = match self.pools[pool].owners.get(envelope.source.as_ref()) {
            Some(owner) => *owner,
            None => {
                let source: Box<str> = envelope.source.as_ref().into();
                self.pools[pool].owners.insert(source.clone(), self.owners.len());
                self.owners.push(OwnerSlot { pool, source, chained: None, unchained: None });
                self.owners.len() - 1
            }
        };
        self.recent_owner
    }
}

impl OwnerSlot {
    pub(super) fn end_runs(&mut self) {
        self.chained = None;
        self.unchained = None;
    }
}
