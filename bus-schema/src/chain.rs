//! The hash chain of one source: every event names the hash of the source's previous event, so that
//! nobody can edit, drop or reorder one unseen. Test vectors: `golden/chain.json`.

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use crate::{
    hash::{FieldHasher, Hash32},
    id::Epoch,
    text::decimal,
};

/// A place in a source's chain: its epoch and the sequence number in it, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ChainPoint {
    /// The life of the outbox that numbered the event.
    pub epoch: Epoch,
    /// Counted from 1; 0 = before the first event.
    #[serde(with = "decimal")]
    #[schemars(with = "crate::text::Decimal")]
    pub seq: u64,
}

/// What ties an event to the one before it (extensions `farepoch`, `farseq`, `farprev`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Where the event stands.
    pub at: ChainPoint,
    /// The hash of the event at `seq - 1`; [`Hash32::ZERO`] for the first.
    pub prev: Hash32,
}

/// What the hash of an event covers, each as the text that travels.
#[derive(Clone, Copy, Debug)]
pub struct Sealed<'a> {
    /// CloudEvents `source`.
    pub source: &'a str,
    /// CloudEvents `id`.
    pub id: &'a str,
    /// CloudEvents `type`.
    pub event_type: &'a str,
    /// The NATS subject that the event is stored under.
    pub subject: &'a str,
    /// CloudEvents `time`, to the letter.
    pub time: &'a str,
    /// The event's own link.
    pub link: Link,
    /// The message's payload as stored.
    pub body: &'a [u8],
}

impl Sealed<'_> {
    /// The event's hash: SHA-256 over its fields, each preceded by its length (32-bit big-endian):
    /// `farside chain v1`, source, id, type, subject, time, epoch (16 hex digits), seq (decimal),
    /// prev (32 bytes), SHA-256 of the body (32 bytes).
    pub fn hash(&self) -> Hash32 {
        self.hash_with(Hash32::of(self.body))
    }

    /// As [`Sealed::hash`], when the hash of the body is known already.
    pub fn hash_with(&self, body: Hash32) -> Hash32 {
        FieldHasher::new("farside chain v1")
            .field(self.source.as_bytes())
            .field(self.id.as_bytes())
            .field(self.event_type.as_bytes())
            .field(self.subject.as_bytes())
            .field(self.time.as_bytes())
            .field(&hex(self.link.at.epoch.0))
            .field(decimal_text(self.link.at.seq, &mut [0; 20]))
            .field(&self.link.prev.0)
            .field(&body.0)
            .finish()
    }
}

/// A number as 16 lower-case hex digits.
fn hex(number: u64) -> [u8; 16] {
    let mut text = [0; 16];
    HEXLOWER.encode_mut(&number.to_be_bytes(), &mut text);
    text
}

/// A number in decimal digits, written to the end of `to`.
fn decimal_text(mut number: u64, to: &mut [u8; 20]) -> &[u8] {
    let mut start = to.len();
    loop {
        start -= 1;
        to[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &to[start..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_sealed_as_the_text_that_travels() {
        for number in [0, 1, 9, 10, 4_294_967_296, u64::MAX] {
            assert_eq!(decimal_text(number, &mut [0; 20]), number.to_string().as_bytes());
            assert_eq!(&hex(number), Epoch(number).to_string().as_bytes());
        }
    }
}
