//! The inventory as it was last sequenced: what each resource was, not its state. An index by
//! path stands beside it.

use std::ops::Bound;

use bus_schema::{Epoch, Hash32, ResourceKey};
use redb::TableDefinition;

use super::{LedgerError, Reading, Rows, Writing};

pub(super) const INVENTORY: Rows<(&str, &str)> = TableDefinition::new("inventory");
pub(super) const PLACES: Rows<(&str, &str, &str)> = TableDefinition::new("places");

/// How the log learned of a resource's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// Its state is in the log.
    Full,
    /// A notice is in the log; a sync sends the state.
    Noticed,
    /// Only notices can be sent: the state is larger than a message.
    TooLarge,
}

/// What is known of one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    /// The revision.
    pub(crate) revision: String,
    /// The state's hash.
    pub(crate) state_hash: Hash32,
    /// A number that changes with labels and tenant.
    pub(crate) extras: u64,
    /// The epoch in which an event spoke of it last.
    pub(crate) epoch: Epoch,
    /// That event; 0 = none did.
    pub(crate) seq: u64,
    /// The state's JSON text, in bytes.
    pub(crate) size_bytes: u64,
    /// What the log knows.
    pub(crate) told: Told,
    /// Where it was read.
    pub(crate) path: String,
}

const FIXED: usize = 32 + 8 + 8 + 8 + 8 + 1 + 1;

impl Item {
    /// The last event of an epoch that spoke of it; 0 = none did.
    pub(crate) fn seq_in(&self, epoch: Epoch) -> u64 {
        if self.epoch == epoch { self.seq } else { 0 }
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(FIXED + self.revision.len() + self.path.len());
        bytes.extend_from_slice(&self.state_hash.0);
        bytes.extend_from_slice(&self.extras.to_be_bytes());
        bytes.extend_from_slice(&self.epoch.0.to_be_bytes());
        bytes.extend_from_slice(&self.seq.to_be_bytes());
        bytes.extend_from_slice(&self.size_bytes.to_be_bytes());
        bytes.push(match self.told {
            Told::Full => 0,
            Told::Noticed => 1,
            Told::TooLarge => 2,
        });
        // A revision has at most 128 bytes.
        bytes.push(self.revision.len() as u8);
        bytes.extend_from_slice(self.revision.as_bytes());
        bytes.extend_from_slice(self.path.as_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (state_hash, rest) = bytes.split_first_chunk::<32>()?;
        let (extras, rest) = rest.split_first_chunk::<8>()?;
        let (epoch, rest) = rest.split_first_chunk::<8>()?;
        let (seq, rest) = rest.split_first_chunk::<8>()?;
        let (size, rest) = rest.split_first_chunk::<8>()?;
        let (told, rest) = rest.split_first()?;
        let (length, rest) = rest.split_first()?;
        let (revision, path) = rest.split_at_checked(usize::from(*length))?;
        Some(Self {
            revision: std::str::from_utf8(revision).ok()?.to_owned(),
            state_hash: Hash32(*state_hash),
            extras: u64::from_be_bytes(*extras),
            epoch: Epoch(u64::from_be_bytes(*epoch)),
            seq: u64::from_be_bytes(*seq),
            size_bytes: u64::from_be_bytes(*size),
            told: match told {
                0 => Told::Full,
                1 => Told::Noticed,
                2 => Told::TooLarge,
                _ => return None,
            },
            path: std::str::from_utf8(path).ok()?.to_owned(),
        })
    }
}

fn item(bytes: &[u8]) -> Result<Item, LedgerError> {
    Item::from_bytes(bytes).ok_or(LedgerError::Row { table: "inventory" })
}

impl Reading {
    /// One resource.
    pub(crate) fn item(&self, cluster: &str, key: &str) -> Result<Option<Item>, LedgerError> {
        self.inventory.get((cluster, key))?.map(|row| item(row.value())).transpose()
    }

    /// Every resource of a cluster in key order, until `each` says no.
    pub(crate) fn each_item(
        &self,
        cluster: &str,
        each: impl FnMut(&str, Item) -> bool,
    ) -> Result<(), LedgerError> {
        self.each_item_after(cluster, "", each)
    }

    /// Every resource behind a key, in key order, until `each` says no; no resource has an empty key.
    pub(crate) fn each_item_after(
        &self,
        cluster: &str,
        after: &str,
        mut each: impl FnMut(&str, Item) -> bool,
    ) -> Result<(), LedgerError> {
        let behind = (Bound::Excluded((cluster, after)), Bound::Unbounded);
        for row in self.inventory.range::<(&str, &str)>(behind)? {
            let (key, value) = row?;
            let (of, key) = key.value();
            if of != cluster || !each(key, item(value.value())?) {
                break;
            }
        }
        Ok(())
    }

    /// The keys that were read at a path or below it; the empty path is everywhere.
    pub(crate) fn keys_at(&self, cluster: &str, path: &str) -> Result<Vec<ResourceKey>, LedgerError> {
        let mut keys = Vec::new();
        for row in self.places.range((cluster, path, "")..)? {
            let (row, _) = row?;
            let (of, at, key) = row.value();
            if of != cluster || !at.starts_with(path) {
                break;
            }
            if is_at_or_below(at, path) {
                keys.push(key.parse().map_err(|_| LedgerError::Row { table: "places" })?);
            }
        }
        Ok(keys)
    }
}

/// Whether `at` is `path` or lies below it.
pub(crate) fn is_at_or_below(at: &str, path: &str) -> bool {
    path.is_empty() || at.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl Writing<'_> {
    /// Stores what is known of a resource; `before` is what was.
    pub(crate) fn put_item(
        &mut self,
        cluster: &str,
        key: &str,
        before: Option<&Item>,
        now: &Item,
    ) -> Result<(), LedgerError> {
        self.inventory.insert((cluster, key), now.to_bytes().as_slice())?;
        if before.is_none_or(|before| before.path != now.path) {
            if let Some(before) = before {
                self.places.remove((cluster, before.path.as_str(), key))?;
            }
            self.places.insert((cluster, now.path.as_str(), key), &[][..])?;
        }
        Ok(())
    }

    /// Forgets a resource.
    pub(crate) fn remove_item(&mut self, cluster: &str, key: &str, before: &Item) -> Result<(), LedgerError> {
        self.inventory.remove((cluster, key))?;
        self.places.remove((cluster, before.path.as_str(), key))?;
        Ok(())
    }
}
