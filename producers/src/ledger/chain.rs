//! The end of each cluster's chain: where the next event goes.

use bus_schema::{Epoch, Hash32, chain::ChainPoint};
use redb::{ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};

use super::{LedgerError, Rows, Writing, json, random, to_json};

pub(super) const CHAINS: Rows<&str> = TableDefinition::new("chains");

/// The end of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Chain {
    /// The life of this outbox.
    pub(crate) epoch: Epoch,
    /// The last event made; 0 = none.
    pub(crate) last_seq: u64,
    /// Its hash; zero for none.
    pub(crate) last_hash: Hash32,
    /// The last event that the log acknowledged.
    pub(crate) acked_seq: u64,
    /// The journal knows every change after this sequence.
    pub(crate) journal_floor: u64,
    /// The log does not have everything of this epoch: a full window is owed before anything else.
    pub(crate) window_due: bool,
    /// The row before the epoch's first event, see [`Chain::row`].
    #[serde(default)]
    pub(crate) base: u64,
    /// Bytes of the acknowledged events that are kept, of all epochs.
    #[serde(default)]
    pub(crate) kept_bytes: u64,
}

impl Chain {
    /// A chain without events in a new, random epoch.
    pub(crate) fn begin() -> Result<Self, LedgerError> {
        Ok(Self {
            epoch: Epoch(u64::from_be_bytes(random()?)),
            last_seq: 0,
            last_hash: Hash32::ZERO,
            acked_seq: 0,
            journal_floor: 0,
            window_due: false,
            base: 0,
            kept_bytes: 0,
        })
    }

    /// What follows when the rest of this epoch is given up: a new one, whose rows follow the last acknowledged
    /// event's.
    pub(crate) fn follow(&self) -> Result<Self, LedgerError> {
        let (base, kept_bytes) = (self.acked_row(), self.kept_bytes);
        Ok(Self { base, kept_bytes, window_due: true, ..Self::begin()? })
    }

    /// Where an event of this epoch stands in the ledger: rows count through all epochs of a cluster, oldest first.
    pub(crate) const fn row(&self, seq: u64) -> u64 {
        self.base + seq
    }

    /// The last row that the log acknowledged: up to it they are the journal's, behind it the outbox's.
    pub(crate) const fn acked_row(&self) -> u64 {
        self.row(self.acked_seq)
    }

    /// The last event made.
    pub(crate) const fn at(&self) -> ChainPoint {
        ChainPoint { epoch: self.epoch, seq: self.last_seq }
    }

    /// The hash of the last event that the log acknowledged; none = there is none, or later ones were made.
    pub(crate) fn acked_hash(&self) -> Option<Hash32> {
        (self.acked_seq > 0 && self.acked_seq == self.last_seq).then_some(self.last_hash)
    }

    /// The last event that the log acknowledged.
    pub(crate) const fn acked(&self) -> ChainPoint {
        ChainPoint { epoch: self.epoch, seq: self.acked_seq }
    }
}

/// A cluster's chain, if it has one.
pub(crate) fn get(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    cluster: &str,
) -> Result<Option<Chain>, LedgerError> {
    table.get(cluster)?.map(|row| json(row.value(), "chains")).transpose()
}

impl Writing<'_> {
    /// Stores a chain's end.
    pub(crate) fn put_chain(&mut self, cluster: &str, chain: &Chain) -> Result<(), LedgerError> {
        self.chains.insert(cluster, to_json(chain, "chains")?.as_slice())?;
        Ok(())
    }
}
