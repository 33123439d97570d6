//! What a target has signed, read from its log: the rotations of its key, and its checkpoints.

use bus::{Bus, LogMessage};
use bus_schema::{
    Name, Stem,
    fact::{
        key::{KeyFact, Rotated},
        log::{Checkpoint, LogFact},
    },
    subject,
};

use crate::error::ConsumersError;

/// Most messages that are read at once: checkpoints may be large.
const CHUNK_MESSAGES_MAX: usize = 64;

/// A fact that a signing key vouches for.
pub(crate) enum Signed {
    /// Another key signs.
    Rotation(Rotated),
    /// What logs and pools were.
    Checkpoint(Box<Checkpoint>),
    /// It stands where one should, and is none.
    Unreadable(String),
}

/// The signed facts of one target.
#[derive(Clone)]
pub(crate) struct SignedFacts {
    bus: Bus,
    target: Name,
}

impl SignedFacts {
    pub(crate) fn of(bus: &Bus, target: &Name) -> Self {
        Self { bus: bus.clone(), target: target.clone() }
    }

    /// The last checkpoint, and its sequence in the target log; none = none was stated. Errors: the bus.
    pub(crate) async fn last_checkpoint(&self) -> Result<Option<(u64, Checkpoint)>, ConsumersError> {
        // Where there is none the numbers begin with 1, and twice would be a fault of the history for ever.
        let last = self.bus.last_message_for_sure(&self.stream(), &self.checkpoints()).await?;
        Ok(last.and_then(|message| match checkpoint(&message) {
            Signed::Checkpoint(checkpoint) => Some((message.seq(), *checkpoint)),
            Signed::Rotation(_) | Signed::Unreadable(_) => None,
        }))
    }

    /// The public key that signs now; none = none was introduced. Errors: the bus.
    pub(crate) async fn key(&self) -> Result<Option<String>, ConsumersError> {
        // Where there is none a key is introduced, and twice would be a fault of the history for ever.
        let last = self.bus.last_message_for_sure(&self.stream(), &self.rotations()).await?;
        Ok(last.and_then(|message| match rotation(&message) {
            Signed::Rotation(rotated) => Some(rotated.key),
            Signed::Checkpoint(_) | Signed::Unreadable(_) => None,
        }))
    }

    /// One checkpoint by its sequence in the target log. Errors: the bus.
    pub(crate) async fn checkpoint(&self, seq: u64) -> Result<Option<Checkpoint>, ConsumersError> {
        let message = self.bus.message(&self.stream(), seq).await?;
        Ok(message.and_then(|message| match checkpoint(&message) {
            Signed::Checkpoint(checkpoint) => Some(*checkpoint),
            Signed::Rotation(_) | Signed::Unreadable(_) => None,
        }))
    }

    /// Hands on all of them in order of the target log, each with its sequence there. Errors: the bus.
    pub(crate) async fn each(&self, mut hear: impl FnMut(u64, Signed)) -> Result<(), ConsumersError> {
        // Rotations are few, checkpoints may be many.
        let mut rotations = Vec::new();
        self.read(&self.rotations(), 1, |message| rotations.push((message.seq(), rotation(message)))).await?;
        let mut rotations = rotations.into_iter().peekable();
        self.read(&self.checkpoints(), 1, |message| {
            while let Some((seq, rotation)) = rotations.next_if(|(seq, _)| *seq < message.seq()) {
                hear(seq, rotation);
            }
            hear(message.seq(), checkpoint(message));
        })
        .await?;
        rotations.for_each(|(seq, rotation)| hear(seq, rotation));
        Ok(())
    }

    /// Hands on the checkpoints behind a sequence of the target log, up to and with this number. Errors: the bus.
    pub(crate) async fn checkpoints_behind(
        &self,
        seq: u64,
        number_max: u64,
        mut hear: impl FnMut(Checkpoint),
    ) -> Result<(), ConsumersError> {
        self.read(&self.checkpoints(), seq + 1, |message| {
            if let Signed::Checkpoint(found) = checkpoint(message)
                && found.number <= number_max
            {
                hear(*found);
            }
        })
        .await
    }

    async fn read(
        &self,
        subject: &str,
        from_seq: u64,
        mut hear: impl FnMut(&LogMessage),
    ) -> Result<(), ConsumersError> {
        let stream = self.stream();
        // Not the last message of the subject: that may be one that NATS cannot read.
        let last_seq = self.bus.stream_state(&stream).await?.last_seq;
        let mut log = self.bus.read_log(&stream, from_seq, Some(subject)).await?;
        while let Some(messages) = log.next_stored(CHUNK_MESSAGES_MAX, last_seq).await? {
            messages.iter().for_each(&mut hear);
        }
        Ok(())
    }

    fn stream(&self) -> String {
        subject::target_stream(&self.target)
    }

    fn checkpoints(&self) -> String {
        subject::fact(&self.target, Stem::Log, self.target.as_str(), "checkpoint")
    }

    fn rotations(&self) -> String {
        subject::fact(&self.target, Stem::Key, self.target.as_str(), "rotated")
    }
}

fn checkpoint(message: &LogMessage) -> Signed {
    match LogFact::decode("checkpoint", message.body()) {
        Ok(LogFact::Checkpoint(checkpoint)) => Signed::Checkpoint(Box::new(checkpoint)),
        Ok(_) => Signed::Unreadable("it is another fact".to_owned()),
        Err(error) => Signed::Unreadable(error.to_string()),
    }
}

fn rotation(message: &LogMessage) -> Signed {
    match KeyFact::decode("rotated", message.body()) {
        Ok(KeyFact::Rotated(rotated)) => Signed::Rotation(rotated),
        Ok(_) => Signed::Unreadable("it is another fact".to_owned()),
        Err(error) => Signed::Unreadable(error.to_string()),
    }
}
