//! The answer to a sync request: opened, pages, closed. What was sent already is read off the inventory
//! (its last event lies after the opening), so an answer that a crash cut off goes on where it was.

use std::ops::Bound;

use bus_schema::{
    Epoch, ResourceKey, Timestamp,
    chain::ChainPoint,
    command::resource::{KEYS_MAX, SyncReply, SyncRequest},
    digest::Address,
    event::resource::{SyncClosed, SyncOpened, SyncScope},
};
use serde::{Deserialize, Serialize};

use super::{COMMIT_EVENTS_MAX, Sequencer};
use crate::{
    ledger::{
        LedgerError,
        inventory::{Item, Told},
        marks,
    },
    seal::{Effect, Fact, Saying},
};

/// Syncs that may be under way at once: a timer's, a confirmation's, a person's, and a full window.
const SYNCS_MAX: usize = 4;
/// Ended syncs that are remembered.
const FINISHED_MAX: usize = 16;
/// While more than this share of the outbox is filled, what an answer still owes waits, in percent.
pub(crate) const SYNC_PAUSE_PERCENT: u64 = 25;
/// Longest sync id, in bytes: it travels in a header.
const SYNC_ID_BYTES_MAX: usize = 64;

/// A sync under way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sync {
    /// What it covers.
    pub(crate) scope: SyncScope,
    /// The event before its opening.
    pub(crate) low: ChainPoint,
    /// The last event that the target had; for the incremental scope.
    pub(crate) since: u64,
    /// The resources that were named; for the scope of keys.
    pub(crate) keys: Vec<ResourceKey>,
    resources: u64,
    deleted: u64,
    bytes: u64,
}

impl Sync {
    /// Whether a resource that did not change belongs into the answer and is not in it yet.
    pub(crate) fn wants(&self, item: Option<&Item>, epoch: Epoch) -> bool {
        let Some(item) = item else { return true };
        let seq = item.seq_in(epoch);
        let unsent = seq <= self.low.seq;
        match self.scope {
            SyncScope::Full | SyncScope::Keys => unsent || item.told == Told::Noticed,
            SyncScope::Incremental => (unsent && seq > self.since) || item.told == Told::Noticed,
        }
    }
}

impl Sequencer {
    /// Takes a sync request, or says why not. A request that runs already, or ran, is not run again.
    pub(crate) fn accept(&mut self, request: &SyncRequest, now: Timestamp) -> Result<SyncReply, LedgerError> {
        let refuse = |reason: String| Ok(SyncReply::Refused { reason });
        let id = &request.sync_id;
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.:".contains(&b);
        if id.is_empty() || id.len() > SYNC_ID_BYTES_MAX || !id.bytes().all(plain) {
            return refuse(format!(
                "{id:?} is no sync id: use 1 to {SYNC_ID_BYTES_MAX} of A-Z a-z 0-9 - _ . :"
            ));
        }
        if request.keys.len() > KEYS_MAX || request.addresses.len() > KEYS_MAX {
            return refuse(format!("more than {KEYS_MAX} resources in one request; ask for the full scope"));
        }
        // First, so that a request whose answer was lost does not give up the epoch that it began.
        if let Some(scope) = self.scope_of(id) {
            return Ok(SyncReply::Accepted { scope });
        }
        if request.rebase && !self.chain.window_due {
            self.close_epoch("the target refused this agent's chain and asked for a new one", now)?;
        }
        if self.syncs.len() >= SYNCS_MAX {
            return refuse(format!("{SYNCS_MAX} syncs of this cluster are under way; ask again later"));
        }
        let since = request.update_info.since;
        let scope = self.widened(request.scope, since);
        let keys = if scope == SyncScope::Keys { self.named(request)? } else { Vec::new() };
        self.open_sync(id, scope, since.map_or(0, |since| since.seq), keys, now)?;
        Ok(SyncReply::Accepted { scope })
    }

    /// What a sync covers that runs, or ended lately.
    pub(crate) fn scope_of(&self, id: &str) -> Option<SyncScope> {
        let ended = self.finished.iter().find(|(ended, _)| ended == id).map(|(_, scope)| *scope);
        self.syncs.get(id).map(|sync| sync.scope).or(ended)
    }

    /// What can be answered: the journal may no longer know what changed since then.
    fn widened(&self, scope: SyncScope, since: Option<ChainPoint>) -> SyncScope {
        if self.chain.window_due {
            return SyncScope::Full;
        }
        let known = since.is_some_and(|since| {
            since.epoch == self.chain.epoch
                && (self.chain.journal_floor..=self.chain.last_seq).contains(&since.seq)
        });
        match scope {
            SyncScope::Incremental if !known => SyncScope::Full,
            scope => scope,
        }
    }

    fn named(&self, request: &SyncRequest) -> Result<Vec<ResourceKey>, LedgerError> {
        let mut keys = request.keys.clone();
        if !request.addresses.is_empty() {
            self.ledger.reading()?.each_item(&self.cluster, |key, _| {
                if request.addresses.contains(&Address::of(key).short()) {
                    keys.extend(key.parse::<ResourceKey>());
                }
                true
            })?;
        }
        keys.sort_unstable();
        keys.dedup();
        Ok(keys)
    }

    /// Opens a sync: from now on changes have their place in the chain again, if they had none.
    pub(crate) fn open_sync(
        &mut self,
        id: &str,
        scope: SyncScope,
        since: u64,
        keys: Vec<ResourceKey>,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        let low = self.chain.at();
        let opened = SyncOpened { sync_id: id.to_owned(), scope, low };
        let sync = Sync { scope, low, since, keys, resources: 0, deleted: 0, bytes: 0 };
        let fact = Fact { saying: Some(Saying::sync_opened(opened)?), effect: Effect::None };
        let (cluster, name) = (self.cluster.clone(), format!("{}{id}", marks::SYNC));
        let stored = sync.clone();
        if scope == SyncScope::Full {
            self.chain.window_due = false;
        }
        self.commit(vec![fact], Some(id), now, |writing| writing.put_mark(&cluster, &name, &stored))?;
        self.syncs.insert(id.to_owned(), sync);
        Ok(())
    }

    /// A sync under way.
    pub(crate) fn sync(&self, id: &str) -> Option<&Sync> {
        self.syncs.get(id)
    }

    /// The syncs under way, in a stable order: named resources first, they are quick.
    pub(crate) fn syncs_under_way(&self) -> Vec<(String, SyncScope)> {
        let mut all: Vec<_> = self.syncs.iter().map(|(id, sync)| (id.clone(), sync.scope)).collect();
        all.sort_by_key(|(_, scope)| *scope != SyncScope::Keys);
        all
    }

    /// Whether the source was read for a sync, and only its end is to come.
    pub(crate) fn is_closing(&self, id: &str) -> bool {
        self.closing.contains_key(id)
    }

    /// Goes on with the syncs whose end had to wait; whether there is more that could go on at once.
    pub(crate) fn close_more(&mut self, now: Timestamp) -> Result<bool, LedgerError> {
        let waiting: Vec<String> = self.closing.keys().cloned().collect();
        waiting.iter().try_for_each(|id| self.close_sync(id, now))?;
        Ok(!self.closing.is_empty() && !self.is_filled(SYNC_PAUSE_PERCENT))
    }

    /// Whether so much waits for the log that an answer has to wait.
    pub(crate) const fn is_filled(&self, percent: u64) -> bool {
        self.waiting.bytes * 100 > self.rules.outbox_bytes_max * percent
    }

    /// Gives a sync up: its window never closes, so nothing is taken for deleted; the target asks again.
    pub(crate) fn abandon_sync(&mut self, id: &str) -> Result<(), LedgerError> {
        self.syncs.remove(id);
        self.closing.remove(id);
        let name = format!("{}{id}", marks::SYNC);
        self.ledger.change(|writing| writing.remove_mark(&self.cluster, &name))
    }

    /// Stores facts in transactions of bounded size, counted for the sync that they answer.
    pub(super) fn page(
        &mut self,
        facts: Vec<Fact>,
        sync: Option<&str>,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        let mut facts = facts.into_iter().peekable();
        while facts.peek().is_some() {
            let some: Vec<Fact> = facts.by_ref().take(COMMIT_EVENTS_MAX).collect();
            // An answer may go beyond the cap: it is read no faster than the log takes it, and giving the
            // epoch up for it would only owe it again.
            if sync.is_none() {
                self.make_room(&some, now)?;
            }
            let job = sync.and_then(|id| Some((id, self.syncs.get(id)?.counting(&some))));
            let cluster = self.cluster.clone();
            self.commit(some, job.as_ref().map(|(id, _)| *id), now, |writing| match &job {
                Some((id, sync)) => writing.put_mark(&cluster, &format!("{}{id}", marks::SYNC), sync),
                None => Ok(()),
            })?;
            if let Some((id, sync)) = job {
                self.syncs.insert(id.to_owned(), sync);
            }
        }
        Ok(())
    }

    /// Ends a sync whose source was read: a page of what the answer still owes, or the closing. What does
    /// not fit the page or the outbox waits for [`Self::close_more`].
    pub(crate) fn close_sync(&mut self, id: &str, now: Timestamp) -> Result<(), LedgerError> {
        let Some(sync) = self.syncs.get(id).cloned() else { return Ok(()) };
        let after = self.closing.entry(id.to_owned()).or_default().clone();
        if self.is_filled(SYNC_PAUSE_PERCENT) {
            return Ok(());
        }
        let (owed, last) = match sync.scope {
            SyncScope::Full => self.unread(&sync, &after)?,
            SyncScope::Incremental => self.deleted_since(&sync, &after)?,
            SyncScope::Keys => (Vec::new(), None),
        };
        self.page(owed, Some(id), now)?;
        let Some(last) = last else { return self.say_closed(id, now) };
        self.closing.insert(id.to_owned(), last);
        Ok(())
    }

    fn say_closed(&mut self, id: &str, now: Timestamp) -> Result<(), LedgerError> {
        let Some(sync) = self.syncs.get(id).cloned() else { return Ok(()) };
        let closed = SyncClosed {
            sync_id: id.to_owned(),
            scope: sync.scope,
            low: sync.low,
            resources: sync.resources,
            deleted: sync.deleted,
            bytes: sync.bytes,
            digest: self.trie.digest(),
        };
        let fact = Fact { saying: Some(Saying::sync_closed(closed)?), effect: Effect::None };
        let (cluster, name) = (self.cluster.clone(), format!("{}{id}", marks::SYNC));
        self.commit(vec![fact], Some(id), now, |writing| writing.remove_mark(&cluster, &name))?;
        self.syncs.remove(id);
        self.closing.remove(id);
        self.finished.push_back((id.to_owned(), sync.scope));
        if self.finished.len() > FINISHED_MAX {
            self.finished.pop_front();
        }
        Ok(())
    }

    /// Resources that are known but could not be read this time: a notice keeps them out of the deletions
    /// that the closing of a full window means. One page behind the key `after`, and the last key that was
    /// looked at; none = there are no more.
    fn unread(&self, sync: &Sync, after: &str) -> Result<(Vec<Fact>, Option<String>), LedgerError> {
        let (mut facts, mut looked_at) = (Vec::new(), None);
        self.ledger.reading()?.each_item_after(&self.cluster, after, |key, before| {
            if before.seq_in(self.chain.epoch) <= sync.low.seq {
                let mut now = before.clone();
                if now.told == Told::Full {
                    now.told = Told::Noticed;
                }
                let effect = |before, now| Effect::Put { key: key.to_owned(), before: Some(before), now };
                let saying = Saying::noticed(key, &now, None);
                facts.push(saying.map(|saying| Fact { saying: Some(saying), effect: effect(before, now) }));
            }
            looked_at = (facts.len() >= COMMIT_EVENTS_MAX).then(|| key.to_owned());
            looked_at.is_none()
        })?;
        Ok((facts.into_iter().collect::<Result<_, _>>()?, looked_at))
    }

    fn deleted_since(&self, sync: &Sync, after: &str) -> Result<(Vec<Fact>, Option<String>), LedgerError> {
        let reading = self.ledger.reading()?;
        let changed = reading.changed_between(&self.cluster, sync.since, sync.low.seq)?;
        let mut facts = Vec::new();
        for key in changed.range::<str, _>((Bound::Excluded(after), Bound::Unbounded)) {
            if reading.item(&self.cluster, key)?.is_none() {
                facts.push(Fact { saying: Some(Saying::deleted(key)?), effect: Effect::None });
            }
            if facts.len() >= COMMIT_EVENTS_MAX {
                return Ok((facts, Some(key.clone())));
            }
        }
        Ok((facts, None))
    }
}

impl Sync {
    fn counting(&self, facts: &[Fact]) -> Self {
        let mut sync = self.clone();
        for fact in facts.iter().filter(|fact| fact.saying.is_some()) {
            match &fact.effect {
                Effect::Put { now, .. } => {
                    sync.resources += 1;
                    sync.bytes += if now.told == Told::Full { now.size_bytes } else { 0 };
                }
                Effect::Remove { .. } | Effect::None => sync.deleted += 1,
            }
        }
        sync
    }
}
