//! The way out of the outbox: which events go to the log together, and what becomes of them. One run is
//! under way at a time; a batch's boundary is durable before it is sent, so that it is retried as it
//! was: JetStream refuses a batch that is cut anew around an event that it has stored.

use std::ops::RangeInclusive;

use bus_schema::{Epoch, chain::ChainPoint, stream::BATCH_EVENTS_MAX};

use super::Sequencer;
use crate::ledger::{
    LedgerError, Reading, marks,
    outbox::{Cut, Parcel},
};

/// Fewer waiting events than this go one by one: 0.5 ms each, against 2.5 ms for a batch.
pub(super) const BATCH_FROM: usize = 5;
/// Most bytes in one batch; the server stages it as a whole.
const BATCH_BYTES_MAX: u64 = 1_000_000;

/// The run of events that is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Underway {
    cut: Cut,
    /// It may have been sent before.
    sent: bool,
}

impl Underway {
    /// What may have been on its way when the process ended: the durable batch, or a few events that
    /// went one by one without a trace.
    pub(super) fn after_restart(cut: Option<Cut>, acked: u64, waiting: u64) -> Option<Self> {
        let few = waiting.min(BATCH_FROM as u64 - 1);
        let plain = Cut { first: acked + 1, last: acked + few, batch: false };
        let cut = cut.filter(|cut| cut.last > acked).or_else(|| (waiting > 0).then_some(plain))?;
        Some(Self { cut, sent: true })
    }
}

/// Events on their way to the log.
#[derive(Clone, Debug)]
pub(crate) struct Shipment {
    /// The epoch that they belong to.
    pub(crate) epoch: Epoch,
    /// Which they are.
    pub(crate) cut: Cut,
    /// Whether they may have been sent before.
    pub(crate) sent_before: bool,
    /// The events.
    pub(crate) parcels: Vec<Parcel>,
}

/// How many events of a run of rows go to the log together, from its first on.
pub(super) fn fitting(
    reading: &Reading,
    cluster: &str,
    rows: RangeInclusive<u64>,
) -> Result<usize, LedgerError> {
    let (mut events, mut bytes) = (0, 0);
    reading.each_parcel(cluster, rows, |_, size| {
        let fits = events == 0 || (events < BATCH_EVENTS_MAX && bytes + size <= BATCH_BYTES_MAX);
        if fits {
            (events, bytes) = (events + 1, bytes + size);
        }
        fits
    })?;
    Ok(events)
}

impl Shipment {
    /// The first `events_max` of its events, one by one.
    pub(crate) fn go_plain(&mut self, events_max: usize) {
        self.parcels.truncate(events_max);
        let others = (self.parcels.len() as u64).saturating_sub(1);
        self.cut = Cut { last: self.cut.first + others, batch: false, ..self.cut };
    }
}

impl Sequencer {
    /// The next events to be sent: the same ones until they have landed.
    pub(crate) fn ship(&mut self) -> Result<Option<Shipment>, LedgerError> {
        let underway = match self.cut {
            Some(underway) => underway,
            None => {
                let Some(cut) = self.next_cut(self.chain.acked_seq + 1)? else { return Ok(None) };
                if cut.batch {
                    self.ledger.change(|writing| writing.put_mark(&self.cluster, marks::CUT, &cut))?;
                }
                Underway { cut, sent: false }
            }
        };
        self.cut = Some(Underway { sent: true, ..underway });
        let (epoch, cut) = (self.chain.epoch, underway.cut);
        let rows = self.chain.row(cut.first)..=self.chain.row(cut.last);
        let parcels = self.ledger.reading()?.parcels(&self.cluster, rows)?;
        Ok(Some(Shipment { epoch, cut, sent_before: underway.sent, parcels }))
    }

    fn next_cut(&self, first: u64) -> Result<Option<Cut>, LedgerError> {
        let reading = self.ledger.reading()?;
        let events = fitting(&reading, &self.cluster, self.chain.row(first)..=u64::MAX)?;
        let last = first + (events as u64).saturating_sub(1);
        Ok((events > 0).then_some(Cut { first, last, batch: events >= BATCH_FROM }))
    }

    /// The log has a shipment. Its end and the next batch's boundary are one transaction.
    pub(crate) fn landed(&mut self, epoch: Epoch, cut: Cut) -> Result<(), LedgerError> {
        if epoch != self.chain.epoch {
            return Ok(());
        }
        let next = self.next_cut(cut.last + 1)?;
        let mut chain = self.chain;
        let rows = chain.acked_row() + 1..=chain.row(cut.last);
        let landed = self.ledger.reading()?.sum(&self.cluster, rows)?;
        chain.acked_seq = cut.last;
        chain.kept_bytes += landed.bytes;
        let told = |at: &ChainPoint| at.epoch == epoch && at.seq <= cut.last;
        self.ledger.change(|writing| {
            writing.trim_kept(&self.cluster, &mut chain, self.rules.journal_bytes_max)?;
            writing.put_chain(&self.cluster, &chain)?;
            for (id, _) in self.withdrawn.iter().filter(|(_, at)| told(at)) {
                writing.remove_mark(&self.cluster, &format!("{}{id}", marks::GONE))?;
            }
            match next.filter(|next| next.batch) {
                Some(next) => writing.put_mark(&self.cluster, marks::CUT, &next),
                None => writing.remove_mark(&self.cluster, marks::CUT),
            }
        })?;
        self.chain = chain;
        self.withdrawn.retain(|_, at| !told(at));
        self.waiting.events -= landed.events;
        self.waiting.bytes -= landed.bytes;
        // A plain run is cut when it goes, so that it takes what has come until then.
        self.cut = next.filter(|next| next.batch).map(|cut| Underway { cut, sent: false });
        Ok(())
    }

    /// The batch cannot go as one: its events go one by one, with their ids, and stay a run of their own.
    pub(crate) fn go_plain(&mut self, epoch: Epoch, cut: Cut) -> Result<(), LedgerError> {
        if epoch != self.chain.epoch {
            return Ok(());
        }
        let cut = Cut { batch: false, ..cut };
        self.ledger.change(|writing| writing.put_mark(&self.cluster, marks::CUT, &cut))?;
        self.cut = Some(Underway { cut, sent: true });
        Ok(())
    }
}
