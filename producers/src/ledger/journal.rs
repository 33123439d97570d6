//! The journal: what was said. Of the current epoch it knows which resource each event spoke of, so that "what
//! changed since?" has an answer; of all epochs it keeps the events whole that the log acknowledged, so that a log
//! that lost them can have them again. Each reaches back as far as its retention says, the oldest goes first.
//!
//! What an epoch left unacknowledged when it was given up is not in it: the log may never have had it.

use bus_schema::Epoch;
use redb::{ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};

use super::{LedgerError, Reading, Rows, Writing, chain::Chain, json, marks};

pub(super) const JOURNAL: Rows<(&str, u64)> = TableDefinition::new("journal");

/// Events are dropped down to this much below the limit, in bytes, so that most transactions do not touch the
/// journal's other end …
const TRIM_BYTES: u64 = 1 << 20;
/// … or to this share of the limit below it, if that is less.
const TRIM_SHARE: u64 = 16;
/// Most bytes that one transaction drops: a limit that was lowered is reached step by step.
const TRIM_BYTES_MAX: u64 = 16 << 20;

/// An epoch that is over and of which events are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Past {
    /// The epoch.
    pub(crate) epoch: Epoch,
    /// The row before its first event.
    pub(crate) base: u64,
    /// The last event of it that the log acknowledged.
    pub(crate) acked_seq: u64,
}

impl Past {
    /// The epoch of a chain, as far as the log has acknowledged it.
    pub(crate) const fn of(chain: &Chain) -> Self {
        Self { epoch: chain.epoch, base: chain.base, acked_seq: chain.acked_seq }
    }

    /// The row of its last acknowledged event.
    pub(crate) const fn last_row(&self) -> u64 {
        self.base + self.acked_seq
    }
}

impl Writing<'_> {
    /// The event `seq` spoke of `key`.
    pub(crate) fn put_journal(&mut self, cluster: &str, seq: u64, key: &str) -> Result<(), LedgerError> {
        self.journal.insert((cluster, seq), key.as_bytes())?;
        Ok(())
    }

    /// Forgets which resources were spoken of up to and including `floor`.
    pub(crate) fn trim_journal(&mut self, cluster: &str, floor: u64) -> Result<(), LedgerError> {
        self.journal.retain_in((cluster, 0)..=(cluster, floor), |_, _| false)?;
        Ok(())
    }

    /// The rest of the epoch is given up: what the log has not acknowledged is dropped, what it has stays.
    pub(crate) fn end_epoch(&mut self, cluster: &str, chain: &Chain) -> Result<(), LedgerError> {
        self.drop_parcels(cluster, chain.acked_row() + 1..=u64::MAX)?;
        self.trim_journal(cluster, u64::MAX)?;
        if chain.acked_seq > 0 {
            let past = Past::of(chain);
            self.put_mark(cluster, &marks::numbered(marks::EPOCH, past.base), &past)?;
        }
        Ok(())
    }

    /// Keeps at most `bytes_max` bytes of acknowledged events: the oldest go first. The chain, which counts them, is
    /// to be stored by the caller. Whether it is done; if not, it is to be called again.
    pub(crate) fn trim_kept(
        &mut self,
        cluster: &str,
        chain: &mut Chain,
        bytes_max: u64,
    ) -> Result<bool, LedgerError> {
        if chain.kept_bytes <= bytes_max {
            return Ok(true);
        }
        let goal = bytes_max - TRIM_BYTES.min(bytes_max / TRIM_SHARE);
        let (mut last, mut freed) = (None, 0);
        for row in self.outbox.range((cluster, 0)..=(cluster, chain.acked_row()))? {
            if chain.kept_bytes.saturating_sub(freed) <= goal || freed >= TRIM_BYTES_MAX {
                break;
            }
            let (key, value) = row?;
            (last, freed) = (Some(key.value().1), freed + value.value().len() as u64);
        }
        // Without rows there are no bytes, whatever was counted.
        let Some(last) = last else {
            chain.kept_bytes = 0;
            return Ok(true);
        };
        chain.kept_bytes = chain.kept_bytes.saturating_sub(freed);
        self.drop_parcels(cluster, 0..=last)?;
        self.forget_epochs(cluster, last)?;
        Ok(chain.kept_bytes <= bytes_max)
    }

    /// Forgets the epochs that end at or before a row.
    fn forget_epochs(&mut self, cluster: &str, last: u64) -> Result<(), LedgerError> {
        let mut over = Vec::new();
        for row in self.marks.range((cluster, marks::EPOCH)..)? {
            let (key, value) = row?;
            let (of, name) = key.value();
            if of != cluster || !name.starts_with(marks::EPOCH) {
                break;
            }
            if json::<Past>(value.value(), "marks")?.last_row() > last {
                break;
            }
            over.push(name.to_owned());
        }
        over.iter().try_for_each(|name| self.remove_mark(cluster, name))
    }
}

impl Reading {
    /// The resources that the events after `since`, up to and including `until`, spoke of, each once.
    pub(crate) fn changed_between(
        &self,
        cluster: &str,
        since: u64,
        until: u64,
    ) -> Result<std::collections::BTreeSet<String>, LedgerError> {
        let mut keys = std::collections::BTreeSet::new();
        if since >= until {
            return Ok(keys);
        }
        for row in self.journal.range((cluster, since + 1)..=(cluster, until))? {
            let (_, key) = row?;
            let key = std::str::from_utf8(key.value()).map_err(|_| LedgerError::Row { table: "journal" })?;
            keys.insert(key.to_owned());
        }
        Ok(keys)
    }

    /// The epochs that are over and of which events are kept, oldest first.
    pub(crate) fn pasts(&self, cluster: &str) -> Result<Vec<Past>, LedgerError> {
        let all: Vec<(String, Past)> = self.marks(cluster, marks::EPOCH)?;
        Ok(all.into_iter().map(|(_, past)| past).collect())
    }

    /// The first row of a cluster: that of the oldest event that is kept or waits.
    pub(crate) fn first_row(&self, cluster: &str) -> Result<Option<u64>, LedgerError> {
        let first = self.outbox.range((cluster, 0)..=(cluster, u64::MAX))?.next().transpose()?;
        Ok(first.map(|(key, _)| key.value().1))
    }
}
