//! What can be sent once more: events of the journal, to the letter. Nothing of the chain or the inventory
//! changes.
//!
//! Must not know: who asks, or how it is sent.

use bus_schema::{
    chain::ChainPoint,
    command::agent::{REPLAY_EVENTS_MAX, Replay},
};

use super::{
    Sequencer, Shipment,
    shipment::{BATCH_FROM, fitting},
};
use crate::ledger::{LedgerError, Reading, journal::Past, outbox::Cut};

/// A run of events that the journal keeps, as far as they are still to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// Where they stand.
    of: Past,
    /// The first one.
    pub(crate) first: u64,
    /// The last one.
    pub(crate) last: u64,
}

/// Why events are not sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NotKept {
    /// In words, with what to do.
    pub(crate) reason: String,
    /// Asking again is of no use.
    pub(crate) gone: bool,
}

impl NotKept {
    fn gone(reason: String) -> Self {
        Self { reason, gone: true }
    }

    fn not_now(reason: String) -> Self {
        Self { reason, gone: false }
    }
}

impl Sequencer {
    /// The events that a command asks for, or why they cannot be sent.
    pub(crate) fn kept(&self, asked: &Replay) -> Result<Result<Run, NotKept>, LedgerError> {
        let Replay { epoch, first_seq: first, last_seq: last, .. } = *asked;
        if first == 0 || first > last || last - first >= REPLAY_EVENTS_MAX {
            return Ok(Err(NotKept::not_now(format!(
                "the events {first} to {last} are no range: ask for 1 to {REPLAY_EVENTS_MAX} of them, counted from 1"
            ))));
        }
        let reading = self.ledger.reading()?;
        let is_present = epoch == self.chain.epoch;
        let of = match is_present {
            true => Some(Past::of(&self.chain)),
            false => reading.pasts(&self.cluster)?.into_iter().find(|past| past.epoch == epoch),
        };
        let Some(of) = of else {
            let told = format!("the agent keeps nothing of epoch {epoch}");
            return Ok(Err(NotKept::gone(format!("{told}; {}", self.oldest(&reading)?))));
        };
        if is_present && last > of.acked_seq && last <= self.chain.last_seq {
            return Ok(Err(NotKept::not_now(format!(
                "the log has acknowledged the events of epoch {epoch} up to {} only; the rest is on its way by itself: ask again when it is there, or for less",
                of.acked_seq
            ))));
        }
        if last > of.acked_seq {
            return Ok(Err(NotKept::gone(format!(
                "no log has acknowledged an event behind {} of epoch {epoch} to this agent: it gave the rest up, or its ledger was restored",
                of.acked_seq
            ))));
        }
        let run = Run { of, first, last };
        let oldest = reading.first_row(&self.cluster)?;
        if oldest.is_some_and(|oldest| oldest <= run.row()) {
            return Ok(Ok(run));
        }
        let told = format!("the agent does not keep all of the events {first} to {last} of epoch {epoch}");
        Ok(Err(NotKept::gone(format!("{told}; {}", self.oldest(&reading)?))))
    }

    /// The next events of a run that go to the log together, under message ids of their own: the log may remember
    /// the first ones. `id` is the same as long as an attempt may repeat another.
    pub(crate) fn ship_again(&self, run: Run, id: &str) -> Result<Result<Shipment, NotKept>, LedgerError> {
        let reading = self.ledger.reading()?;
        // Newer events may have taken the room of these since they were asked for.
        if reading.first_row(&self.cluster)?.is_none_or(|oldest| oldest > run.row()) {
            let told = format!("the event {} of epoch {} was just dropped", run.first, run.of.epoch);
            return Ok(Err(NotKept::gone(format!("{told}; {}", self.oldest(&reading)?))));
        }
        let events = fitting(&reading, &self.cluster, run.row()..=run.of.base + run.last)?;
        let last = run.first + events as u64 - 1;
        let cut = Cut { first: run.first, last, batch: events >= BATCH_FROM };
        let mut parcels = reading.parcels(&self.cluster, run.row()..=run.of.base + last)?;
        for parcel in &mut parcels {
            parcel.head.message_id = format!("{}/replay-{id}", parcel.head.message_id);
        }
        Ok(Ok(Shipment { epoch: run.of.epoch, cut, sent_before: false, parcels }))
    }

    /// From where on the journal keeps events, and what keeps more, in words.
    fn oldest(&self, reading: &Reading) -> Result<String, LedgerError> {
        let limit = self.rules.journal_bytes_max;
        let Some(at) = self.oldest_kept(reading)? else {
            return Ok(format!(
                "it keeps no events at present (journal_bytes_max = {limit}): acknowledge the loss, or have the source read again by a full sync"
            ));
        };
        Ok(format!(
            "what it keeps begins with event {} of epoch {} (journal_bytes_max = {limit}): ask for what is kept, and acknowledge the loss of the rest or have the source read again by a full sync",
            at.seq, at.epoch
        ))
    }

    /// The oldest event that the journal keeps.
    pub(super) fn oldest_kept(&self, reading: &Reading) -> Result<Option<ChainPoint>, LedgerError> {
        let Some(row) = reading.first_row(&self.cluster)? else { return Ok(None) };
        let epochs = reading.pasts(&self.cluster)?.into_iter().chain([Past::of(&self.chain)]);
        let of = epochs.into_iter().find(|past| (past.base + 1..=past.last_row()).contains(&row));
        Ok(of.map(|of| ChainPoint { epoch: of.epoch, seq: row - of.base }))
    }
}

impl Run {
    /// The row of the first event.
    const fn row(&self) -> u64 {
        self.of.base + self.first
    }

    /// What is left when the log has it up to `last`; none = nothing.
    pub(crate) fn behind(self, last: u64) -> Option<Self> {
        (last < self.last).then_some(Self { first: last + 1, ..self })
    }
}
