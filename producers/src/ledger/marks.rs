//! Small things that must outlive the process: the batch on its way, the syncs under way, the keys that
//! were announced or withdrawn, the last lease and the checkpoints seen, the epochs of the journal.

use redb::TableDefinition;
use serde::{Serialize, de::DeserializeOwned};

use super::{LedgerError, Reading, Rows, Writing, json, to_json};

pub(super) const MARKS: Rows<(&str, &str)> = TableDefinition::new("marks");

/// The batch on its way ([`super::outbox::Cut`]).
pub(crate) const CUT: &str = "cut";
/// The last lease that a command was taken under ([`crate::answer::Tenure`]).
pub(crate) const LEASE: &str = "tenure";
/// Syncs under way, by id, behind this prefix.
pub(crate) const SYNC: &str = "sync/";
/// Announced keys, by id, behind this prefix.
pub(crate) const KEY: &str = "key/";
/// Withdrawn keys, by id, behind this prefix: the place of a withdrawal that the log has to take yet.
pub(crate) const GONE: &str = "gone/";
/// Epochs that are over ([`super::journal::Past`]), by their first row, behind this prefix.
pub(crate) const EPOCH: &str = "epoch/";
/// Checkpoints that a target told of, in the order of their telling, behind this prefix.
pub(crate) const CHECKPOINT: &str = "checkpoint/";

/// The name of a mark whose order is its number's.
pub(crate) fn numbered(prefix: &str, number: u64) -> String {
    format!("{prefix}{number:020}")
}

impl Writing<'_> {
    /// Stores a mark.
    pub(crate) fn put_mark<T: Serialize>(
        &mut self,
        cluster: &str,
        name: &str,
        value: &T,
    ) -> Result<(), LedgerError> {
        self.marks.insert((cluster, name), to_json(value, "marks")?.as_slice())?;
        Ok(())
    }

    /// Forgets a mark.
    pub(crate) fn remove_mark(&mut self, cluster: &str, name: &str) -> Result<(), LedgerError> {
        self.marks.remove((cluster, name))?;
        Ok(())
    }

    /// Forgets every mark with a prefix.
    pub(crate) fn remove_marks(&mut self, cluster: &str, prefix: &str) -> Result<(), LedgerError> {
        // '~' sorts after every character of an id.
        let end = format!("{prefix}~");
        self.marks.retain_in((cluster, prefix)..(cluster, end.as_str()), |_, _| false)?;
        Ok(())
    }
}

impl Reading {
    /// One mark.
    pub(crate) fn mark<T: DeserializeOwned>(
        &self,
        cluster: &str,
        name: &str,
    ) -> Result<Option<T>, LedgerError> {
        self.marks.get((cluster, name))?.map(|row| json(row.value(), "marks")).transpose()
    }

    /// Every mark with a prefix: what follows the prefix, and the value.
    pub(crate) fn marks<T: DeserializeOwned>(
        &self,
        cluster: &str,
        prefix: &str,
    ) -> Result<Vec<(String, T)>, LedgerError> {
        let mut found = Vec::new();
        for row in self.marks.range((cluster, prefix)..)? {
            let (key, value) = row?;
            let (of, name) = key.value();
            let Some(rest) = name.strip_prefix(prefix).filter(|_| of == cluster) else { break };
            found.push((rest.to_owned(), json(value.value(), "marks")?));
        }
        Ok(found)
    }
}
