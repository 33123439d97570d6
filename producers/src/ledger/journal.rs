//! The journal: which resource each event of the current epoch spoke of, so that "what changed since?"
//! has an answer for as long as the stated retention reaches back.

use redb::TableDefinition;

use super::{LedgerError, Reading, Rows, Writing};

pub(super) const JOURNAL: Rows<(&str, u64)> = TableDefinition::new("journal");

impl Writing<'_> {
    /// The event `seq` spoke of `key`.
    pub(crate) fn put_journal(&mut self, cluster: &str, seq: u64, key: &str) -> Result<(), LedgerError> {
        self.journal.insert((cluster, seq), key.as_bytes())?;
        Ok(())
    }

    /// Forgets everything up to and including `floor`.
    pub(crate) fn trim_journal(&mut self, cluster: &str, floor: u64) -> Result<(), LedgerError> {
        self.journal.retain_in((cluster, 0)..=(cluster, floor), |_, _| false)?;
        Ok(())
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
}
