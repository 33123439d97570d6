//! Messages that were parked, and their copies. Must not know what the pool has: whether a copy counts is decided at
//! the commit.

use bus_schema::{
    Hash32,
    envelope::{EnvelopeError, Stored},
    redrive::{REDRIVE, Redrive},
};

use super::{
    Batch, Refusal,
    check::Fault,
    fold::{Effect, Item, RedriveCopy, Segment},
    intake::{ENTRY_BYTES, read},
};
use crate::records::ParkedRecord;

impl Batch {
    /// Makes the same dead letter of a message as once before; answers as [`Batch::take_in`].
    pub(super) fn park_again(&mut self, message: Stored<'_>, body: Hash32, known: &ParkedRecord) -> bool {
        let envelope = read(message, body).ok();
        // What was not read that far had no place then, though this build may find one.
        let had_place = known.chained.is_some() || known.stored_at.is_none();
        let standing = envelope.filter(|envelope| envelope.link.is_none() || had_place).map(|envelope| {
            let owner = self.owner(&envelope);
            self.stand(owner, envelope.link.zip(envelope.hash), message)
        });
        self.bury(message, Fault::new(&known.path, known.reason.as_str()), standing);
        standing.is_some_and(|at| at.chain_seq > 0)
    }

    /// Takes in a copy of a message that was parked. Errors: it is none, and a dead letter of its own.
    pub(super) fn take_in_copy(
        &mut self,
        message: Stored<'_>,
        redrive: Result<Redrive<'_>, EnvelopeError>,
        body: Hash32,
    ) -> Result<(), Fault> {
        let redrive = redrive?;
        if redrive.stream != message.stream || redrive.seq >= message.seq {
            let reason = format!(
                "the header {REDRIVE} names {}:{}, which is no earlier message of {}",
                redrive.stream, redrive.seq, message.stream
            );
            return Err(Fault::new(REDRIVE, reason));
        }
        let mut copy = copy(message, &redrive, body);
        if let Err(fault) = self.fold_copy(message, &redrive, &mut copy) {
            let Fault { reason, path } = fault.bounded();
            self.add_still_dead(message, copy, Refusal { reason, path });
        }
        Ok(())
    }

    /// Does not take in a copy that was not taken in once before, for the same reason.
    pub(super) fn leave_dead(
        &mut self,
        message: Stored<'_>,
        redrive: &Redrive<'_>,
        body: Hash32,
        known: &ParkedRecord,
    ) {
        let refusal = Refusal { reason: known.reason.clone(), path: known.path.clone() };
        self.add_still_dead(message, copy(message, redrive, body), refusal);
    }

    fn add_still_dead(&mut self, message: Stored<'_>, copy: RedriveCopy, refusal: Refusal) {
        self.bytes += ENTRY_BYTES;
        self.segment().items.push(Item {
            seq: message.seq,
            stored_at: message.stored_at.unix_ms(),
            run: None,
            chain_seq: 0,
            effect: Effect::StillDead(Box::new((copy, refusal))),
        });
    }

    fn fold_copy(
        &mut self,
        message: Stored<'_>,
        redrive: &Redrive<'_>,
        copy: &mut RedriveCopy,
    ) -> Result<(), Fault> {
        let mended = redrive.mended(message.body)?;
        let mended = Stored { body: &mended, ..message };
        let body = Hash32::of(mended.body);
        // First aside: one that cannot be taken in must leave nothing behind.
        Self::new(message.stream).take_in_event(mended, body).map_err(|(fault, _)| fault)?;
        let envelope = read(mended, body)?;
        self.bytes += ENTRY_BYTES;
        copy.at = envelope.link.map(|link| link.at);
        let owner = self.owner(&envelope);
        // By itself: whether it changes anything is decided against what stood before it, however the log is cut.
        self.segments.push(Segment::default());
        let standing = self.stand_beside(owner, copy.clone(), message);
        self.decode(&envelope, standing)?;
        self.segments.push(Segment::default());
        Ok(())
    }
}

/// A copy, as its headers say; its place in a chain is read later.
fn copy(message: Stored<'_>, redrive: &Redrive<'_>, body: Hash32) -> RedriveCopy {
    RedriveCopy {
        origin_seq: redrive.seq,
        seq: message.seq,
        subject: message.subject.into(),
        body,
        at: None,
        actor: redrive.actor.into(),
        upcaster: redrive.upcaster.clone(),
    }
}
