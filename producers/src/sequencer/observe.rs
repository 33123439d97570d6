//! What a seen resource means: nothing new, a change, a notice, or a page of a sync.

use std::collections::HashSet;

use bus_schema::{Epoch, ResourceKey, Timestamp};

use super::{Sequencer, extras, sync::Sync};
use crate::{
    ledger::{
        LedgerError,
        inventory::{Item, Told},
    },
    resource::{Found, Record, Wanted, guard::Count},
    seal::{Effect, Fact, Saying},
};

/// Why a reading of single resources says nothing about them.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadFailure {
    /// The ledger failed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// What was read cannot be believed, or cannot be told yet.
    #[error("{0}")]
    Refused(String),
}

impl Sequencer {
    /// What a record means against what was known; none = nothing.
    pub(super) fn meaning(
        &self,
        record: &Record,
        before: Option<Item>,
        sync: Option<&Sync>,
    ) -> Result<Option<Fact>, LedgerError> {
        let extras = extras(record);
        let same = before.as_ref().is_some_and(|before| {
            before.revision == record.revision.as_str()
                && before.state_hash == record.state_hash
                && before.extras == extras
        });
        let wanted = sync.is_some_and(|sync| sync.wants(before.as_ref(), self.chain.epoch));
        let mut now = Item {
            revision: record.revision.to_string(),
            state_hash: record.state_hash,
            extras,
            epoch: Epoch(0),
            seq: 0,
            size_bytes: record.state.len() as u64,
            told: Told::Full,
            path: record.place.path.clone(),
        };
        let key = record.key.to_string();
        if same && !wanted {
            let Some(before) = before.filter(|before| before.path != now.path) else { return Ok(None) };
            (now.epoch, now.seq, now.told) = (before.epoch, before.seq, before.told);
            return Ok(Some(Fact { saying: None, effect: Effect::Put { key, before: Some(before), now } }));
        }
        let push = &self.rules.push;
        let announce =
            push.notice_kinds.contains(record.key.kind()) || now.size_bytes > push.notice_above_bytes;
        let changed = Saying::changed(record)?;
        let saying = if changed.body_bytes() > self.rules.inline_bytes_max {
            now.told = Told::TooLarge;
            Saying::noticed(&key, &now, record.tenant.clone())?
        } else if announce && sync.is_none() {
            now.told = Told::Noticed;
            Saying::noticed(&key, &now, record.tenant.clone())?
        } else {
            changed
        };
        Ok(Some(Fact { saying: Some(saying), effect: Effect::Put { key, before, now } }))
    }

    /// Says once in the log that a state cannot travel, and where it stands.
    pub(super) fn note_size(&self, record: &Record, fact: &Fact) {
        let Effect::Put { key, now, .. } = &fact.effect else { return };
        if now.told == Told::TooLarge && self.too_large.get(key) != Some(&now.size_bytes) {
            let (bytes, limit) = (now.size_bytes, self.rules.inline_bytes_max);
            tracing::warn!(%key, place = %record.place, bytes, limit,
                "the state is too large to travel; only its revision and hash are announced: make the resource smaller");
        }
    }

    pub(super) fn gone(&self, key: &str, before: Item) -> Result<Fact, LedgerError> {
        let saying = Some(Saying::deleted(key)?);
        Ok(Fact { saying, effect: Effect::Remove { key: key.to_owned(), before } })
    }

    /// Whether these facts would overfill the outbox; then the epoch is given up, and they become silent.
    pub(super) fn make_room(&mut self, facts: &[Fact], now: Timestamp) -> Result<(), LedgerError> {
        let bytes: u64 = facts.iter().filter_map(|fact| fact.saying.as_ref()).map(Saying::stored_bytes).sum();
        if self.chain.window_due || self.waiting.bytes + bytes <= self.rules.outbox_bytes_max {
            return Ok(());
        }
        let limit = self.rules.outbox_bytes_max;
        let reason = format!("the outbox reached its limit of {limit} bytes while the log took nothing");
        self.close_epoch(&reason, now).map(drop)
    }

    /// Which of these keys were seen where.
    pub(crate) fn wanted(&self, keys: &[ResourceKey]) -> Result<Vec<Wanted>, LedgerError> {
        let reading = self.ledger.reading()?;
        keys.iter()
            .map(|key| {
                let path = reading.item(&self.cluster, key.as_str())?.map(|item| item.path);
                Ok(Wanted { key: key.clone(), path })
            })
            .collect()
    }

    /// Takes in what a reading of single resources found: changes go the ordinary way, or as the answer
    /// to the sync `sync`. What cannot be believed is refused whole.
    pub(crate) fn observe(
        &mut self,
        wanted: &[Wanted],
        found: &Found,
        sync: Option<&str>,
        now: Timestamp,
    ) -> Result<(), ReadFailure> {
        if self.chain.window_due {
            let reason = "the agent starts a new epoch and sends everything first; ask again in a minute";
            return Err(ReadFailure::Refused(reason.to_owned()));
        }
        let seen: HashSet<&str> = found.records.iter().map(|record| record.key.as_str()).collect();
        let absent: Vec<&str> =
            wanted.iter().map(|one| one.key.as_str()).filter(|key| !seen.contains(key)).collect();
        if let (false, Some(fault)) = (absent.is_empty(), found.faults.first()) {
            let reason = format!("{} may be in a file that cannot be read: {fault}", absent.join(", "));
            return Err(ReadFailure::Refused(reason));
        }
        let reading = self.ledger.reading()?;
        let job = sync.and_then(|id| self.syncs.get(id)).cloned();
        let (mut facts, mut lost) = (Vec::new(), 0);
        for record in &found.records {
            let before = reading.item(&self.cluster, record.key.as_str())?;
            facts.extend(self.meaning(record, before, job.as_ref())?.map(|fact| (Some(record), fact)));
        }
        for key in absent {
            match reading.item(&self.cluster, key)? {
                Some(before) => {
                    lost += 1;
                    facts.push((None, self.gone(key, before)?));
                }
                None if job.is_some() => {
                    let saying = Some(Saying::deleted(key)?);
                    facts.push((None, Fact { saying, effect: Effect::None }));
                }
                None => {}
            }
        }
        self.believe(lost)?;
        facts.iter().for_each(|(record, fact)| {
            if let Some(record) = record {
                self.note_size(record, fact);
            }
        });
        let facts = facts.into_iter().map(|(_, fact)| fact).collect();
        self.page(facts, sync, now)?;
        Ok(())
    }

    /// The empty guard for readings that somebody asked for: a great loss is not their business.
    fn believe(&self, lost: u64) -> Result<(), ReadFailure> {
        let count = Count { known: self.known(), lost };
        // One resource that is gone was asked about and looked for: that is an answer.
        if lost > 1 && count.is_great() {
            return Err(ReadFailure::Refused(format!(
                "{lost} of {} resources are missing at once; this is not taken for deletion until the agent's own readings agree",
                count.known
            )));
        }
        Ok(())
    }
}
