//! The signed checkpoints that a target told of, in the order of their telling: what it said once it cannot
//! unsay while its agents remember it.
//!
//! Must not know: what a checkpoint covers, or who checks it.

use bus_schema::{Hash32, event::agent::CheckpointSeen};

use super::{Ledger, LedgerError, marks};

/// They are one history for all clusters of the agent.
const ALL: &str = "";
/// Checkpoints that are remembered; the oldest telling goes first. About a week at one in ten minutes.
pub(crate) const CHECKPOINTS_MAX: usize = 1_000;

/// What a telling was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Telling {
    /// It was the first under its number, or the same once more.
    Fits,
    /// Another hash was told under its number before: this one.
    Contradicts(Hash32),
}

impl Ledger {
    /// Remembers a checkpoint. A second hash under a known number stands beside the first.
    pub(crate) fn see_checkpoint(&self, told: &CheckpointSeen) -> Result<Telling, LedgerError> {
        let seen: Vec<(String, CheckpointSeen)> = self.reading()?.marks(ALL, marks::CHECKPOINT)?;
        let mut same = seen
            .iter()
            .map(|(_, seen)| seen)
            .filter(|seen| (&seen.target, seen.number) == (&told.target, told.number));
        let telling = match same.clone().next() {
            Some(first) if first.hash != told.hash => Telling::Contradicts(first.hash),
            _ => Telling::Fits,
        };
        if same.any(|seen| seen.hash == told.hash) {
            return Ok(telling);
        }
        let number = |name: &String| name.parse().map_err(|_| LedgerError::Row { table: "marks" });
        let next = seen.last().map(|(name, _)| number(name)).transpose()?.map_or(0, |last: u64| last + 1);
        let surplus = (seen.len() + 1).saturating_sub(CHECKPOINTS_MAX);
        self.change(|writing| {
            for (name, _) in seen.iter().take(surplus) {
                writing.remove_mark(ALL, &format!("{}{name}", marks::CHECKPOINT))?;
            }
            writing.put_mark(ALL, &marks::numbered(marks::CHECKPOINT, next), told)
        })?;
        Ok(telling)
    }

    /// The checkpoint that was told last.
    pub(crate) fn last_checkpoint(&self) -> Result<Option<CheckpointSeen>, LedgerError> {
        let mut seen: Vec<(String, CheckpointSeen)> = self.reading()?.marks(ALL, marks::CHECKPOINT)?;
        Ok(seen.pop().map(|(_, last)| last))
    }
}
