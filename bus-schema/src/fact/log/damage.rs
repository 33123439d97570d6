//! What a log lost: found, healed, or taken note of by a person.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::{chain::ChainPoint, hash::Hash32, text::decimal, time::Timestamp};

/// Stretches that a text names.
const UNREAD_NAMED_MAX: usize = 5;

/// Events of a chain are missing (`log.gap_found`): they never came, or the log lost them after they were taken in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct GapFound {
    /// The owner of the chain.
    pub owner: String,
    /// The last event before the gap; seq 0 = the epoch's beginning is missing.
    pub after: ChainPoint,
    /// The first place behind the gap.
    pub before: ChainPoint,
    /// `stream:seq` of the event that showed it.
    pub place: String,
    /// The hash of the event before the gap, which a copy of the first missing one must name; absent = unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_hash: Option<Hash32>,
    /// The hash that a copy of the last missing event must have; absent = nothing behind the gap names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before_prev: Option<Hash32>,
    /// The pool had taken the events in before the log lost them: the pool is as true as before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub applied: bool,
}

impl GapFound {
    /// The owner.
    pub fn entity(&self) -> String {
        self.owner.clone()
    }

    /// Whether another one is about the same events; what shows a gap may be another event each time.
    pub fn is_of_the_same(&self, other: &Self) -> bool {
        (&self.owner, self.after, self.before) == (&other.owner, other.after, other.before)
    }
}

/// The log has the missing events again (`log.gap_healed`): their owner sent them once more, and their hashes fit
/// the events before and behind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct GapHealed {
    /// The owner of the chain.
    pub owner: String,
    /// The last event before the gap.
    pub after: ChainPoint,
    /// The first place behind the gap.
    pub before: ChainPoint,
    /// `stream:seq` of the last copy.
    pub place: String,
}

impl GapHealed {
    /// The owner.
    pub fn entity(&self) -> String {
        self.owner.clone()
    }
}

/// How a message is not what was read of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// There is none at its sequence any more.
    Missing,
    /// Another one stands there.
    Replaced,
}

/// Messages that were read are not in the log any more (`log.loss_found`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct LossFound {
    /// The log's stream.
    pub stream: String,
    /// When the stream was made that they were read from.
    pub created: Timestamp,
    /// The first sequence; every one up to `last_seq` is lost, unless `scattered` says otherwise.
    #[serde(with = "decimal")]
    #[schemars(with = "crate::text::Decimal")]
    pub first_seq: u64,
    /// The last sequence.
    #[serde(with = "decimal")]
    #[schemars(with = "crate::text::Decimal")]
    pub last_seq: u64,
    /// How many of the sequences are lost, missing or replaced, when it is not every one: a log that has lost more
    /// stretches than can be told one by one tells the rest as one. 0 = every one.
    #[serde(default, with = "decimal", skip_serializing_if = "is_zero")]
    #[schemars(with = "crate::text::Decimal")]
    pub scattered: u64,
    /// How many of them nobody can be asked for: they had no place in a chain, and were no heartbeats.
    #[serde(with = "decimal")]
    #[schemars(with = "crate::text::Decimal")]
    pub unchained: u64,
    /// What stands there now.
    pub loss: Loss,
    /// The largest time at which the log had stored what was read of it. What stands at a replaced place and was stored by
    /// then stood there already, and is no message that anybody sent; what was stored later was given the sequence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_until: Option<Timestamp>,
}

impl LossFound {
    /// All messages from one sequence to another, which others make up for, of a log that was made then.
    pub fn stretch(stream: &str, created: Timestamp, seqs: RangeInclusive<u64>, loss: Loss) -> Self {
        let (stream, first_seq, last_seq) = (stream.to_owned(), *seqs.start(), *seqs.end());
        Self { stream, created, first_seq, last_seq, scattered: 0, unchained: 0, loss, read_until: None }
    }

    /// Whether another one says the same of the same messages, whenever it was found.
    pub fn is_of_the_same(&self, other: &Self) -> bool {
        *self == Self { read_until: self.read_until, ..other.clone() }
    }

    /// How many messages are lost.
    pub fn messages(&self) -> u64 {
        if self.scattered > 0 { self.scattered } else { (self.last_seq + 1).saturating_sub(self.first_seq) }
    }

    /// The log's stream.
    pub fn entity(&self) -> String {
        self.stream.clone()
    }
}

/// What a person takes note of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Damage {
    /// A gap in a chain.
    Gap {
        /// The owner of the chain.
        owner: String,
        /// The last event before the gap.
        after: ChainPoint,
        /// The first place behind the gap.
        before: ChainPoint,
    },
    /// Lost messages.
    Loss {
        /// The log's stream.
        stream: String,
        /// When the stream was made.
        created: Timestamp,
        /// The first sequence.
        #[serde(with = "decimal")]
        #[schemars(with = "crate::text::Decimal")]
        first_seq: u64,
        /// The last sequence.
        #[serde(with = "decimal")]
        #[schemars(with = "crate::text::Decimal")]
        last_seq: u64,
    },
}

/// A person knows of a damage that cannot be healed (`log.damage_acknowledged`): it is history, and no alarm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct DamageAcknowledged {
    /// The damage.
    pub damage: Damage,
    /// Who.
    pub actor: String,
    /// Why it may stay, in words.
    pub reason: String,
}

impl DamageAcknowledged {
    /// The owner of the chain, or the log's stream.
    pub fn entity(&self) -> String {
        match &self.damage {
            Damage::Gap { owner, .. } => owner.clone(),
            Damage::Loss { stream, .. } => stream.clone(),
        }
    }
}

/// A log was read again and compared with what was read of it before (`log.scrubbed`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Scrubbed {
    /// The log's stream.
    pub stream: String,
    /// The first sequence that it holds.
    #[serde(with = "decimal")]
    #[schemars(with = "crate::text::Decimal")]
    pub first_seq: u64,
    /// The last sequence that was compared.
    #[serde(with = "decimal")]
    #[schemars(with = "crate::text::Decimal")]
    pub last_seq: u64,
    /// Messages that were read.
    #[serde(with = "decimal")]
    #[schemars(with = "crate::text::Decimal")]
    pub messages: u64,
    /// Gaps in chains that it has, healed and acknowledged ones left out.
    #[serde(with = "decimal")]
    #[schemars(with = "crate::text::Decimal")]
    pub gaps: u64,
    /// Messages that were read before and are lost, known ones included.
    #[serde(with = "decimal")]
    #[schemars(with = "crate::text::Decimal")]
    pub lost: u64,
    /// Messages that the log has and that the pool passed by without ever reading them; those left out that came in a
    /// copy, and heartbeats. Building the pool again takes them in.
    #[serde(default, with = "decimal", skip_serializing_if = "is_zero")]
    #[schemars(with = "crate::text::Decimal")]
    pub unread: u64,
    /// Where they stand; the first hundred stretches only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unread_at: Vec<Stretch>,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

/// Sequences of a log without one left out between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Stretch {
    /// The first.
    #[serde(with = "decimal")]
    #[schemars(with = "crate::text::Decimal")]
    pub first_seq: u64,
    /// The last.
    #[serde(with = "decimal")]
    #[schemars(with = "crate::text::Decimal")]
    pub last_seq: u64,
}

impl Stretch {
    /// `stream:first-last`, or `stream:seq` for one.
    pub fn place(&self, stream: &str) -> String {
        let Self { first_seq, last_seq } = self;
        match first_seq == last_seq {
            true => format!("{stream}:{first_seq}"),
            false => format!("{stream}:{first_seq}-{last_seq}"),
        }
    }
}

impl Scrubbed {
    /// What was never read, and what to do, in words; none = everything was.
    pub fn unread_text(&self) -> Option<String> {
        let Self { stream, unread, unread_at, .. } = self;
        let named: Vec<_> = unread_at.iter().take(UNREAD_NAMED_MAX).map(|at| at.place(stream)).collect();
        let named_messages: u64 = unread_at
            .iter()
            .take(UNREAD_NAMED_MAX)
            .map(|at| (at.last_seq + 1).saturating_sub(at.first_seq))
            .sum();
        let more = if named_messages < *unread { " and more" } else { "" };
        let (was, named) = (if *unread == 1 { "was" } else { "were" }, named.join(", "));
        (*unread > 0).then(|| {
            format!(
                "{named}{more} {was} never read: NATS could not give {unread} of its messages out when the pool passed by, so the pool lacks what they say; run 'farside rebuild --swap', which reads the log anew"
            )
        })
    }
    /// The log's stream.
    pub fn entity(&self) -> String {
        self.stream.clone()
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes it so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_never_read_is_named_with_what_to_do_and_nothing_is_said_of_a_whole_pool() {
        let stretch = |first_seq, last_seq| Stretch { first_seq, last_seq };
        let scrubbed = |unread, unread_at| Scrubbed {
            stream: "LOG".to_owned(),
            first_seq: 1,
            last_seq: 99,
            messages: 99,
            gaps: 0,
            lost: 0,
            unread,
            unread_at,
            took_ms: 1,
        };
        let text = scrubbed(4, vec![stretch(5, 7), stretch(9, 9)]).unread_text().unwrap();
        assert!(text.starts_with("LOG:5-7, LOG:9 were never read"), "{text}");
        assert!(text.contains("farside rebuild --swap"), "{text}");
        let many = (1..=9).map(|n| stretch(n * 2, n * 2)).collect();
        assert!(
            scrubbed(9, many)
                .unread_text()
                .unwrap()
                .starts_with("LOG:2, LOG:4, LOG:6, LOG:8, LOG:10 and more")
        );
        let whole = scrubbed(0, vec![]);
        assert_eq!(whole.unread_text(), None);
        assert!(!serde_json::to_string(&whole).unwrap().contains("unread"), "as older ones read it");
    }
}
