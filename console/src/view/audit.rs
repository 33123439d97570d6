//! What logs lost, for people and programs.

use bus_schema::{Timestamp, fact::log::Damage};
use projector::{DamageFound, DamageRecord};
use serde::{Deserialize, Serialize};

use super::AsOfView;

/// What logs lost: `GET /v1/audit/damage`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DamagesView {
    /// As of where in the logs.
    pub as_of: AsOfView,
    /// Each damage; healed and acknowledged ones too.
    pub items: Vec<DamageView>,
}

/// One damage of a log.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DamageView {
    /// Its name: `stream:seq` of the fact that states it.
    pub damage: String,
    /// Whether it needs a person.
    pub open: bool,
    /// What is lost, in words.
    pub text: String,
    /// When that was stated.
    pub found_at: Timestamp,
    /// `stream:seq` of the last copy, when the log has again what it had lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healed: Option<String>,
    /// Who knows of it and why it may stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledged: Option<String>,
    /// Why it is not healed yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub obstacle: Option<String>,
}

impl DamageView {
    /// How a damage is shown; `obstacle` is what is in the way of its healing.
    pub fn new(record: &DamageRecord, obstacle: Option<&String>) -> Self {
        let acknowledged = record.acknowledged.as_ref();
        Self {
            damage: record.place.clone(),
            open: record.is_open(),
            text: words(&record.found),
            found_at: record.found_at,
            healed: record.healed.as_ref().map(|healed| healed.place.clone()),
            acknowledged: acknowledged.map(|known| format!("{} ({})", known.reason, known.actor)),
            obstacle: obstacle.filter(|_| record.is_open()).cloned(),
        }
    }
}

/// What is lost, in words.
fn words(found: &DamageFound) -> String {
    match found {
        DamageFound::Gap(gap) => {
            let (first, last) = (gap.after.seq + 1, gap.before.seq.saturating_sub(1));
            let had = if gap.applied { "; the pool has what they said" } else { "" };
            let owner = &gap.owner;
            format!("events {first} to {last} of {owner} (epoch {}) are not in the log{had}", gap.after.epoch)
        }
        DamageFound::Loss(loss) => {
            let messages = loss.messages();
            let (stream, first, last) = (&loss.stream, loss.first_seq, loss.last_seq);
            let what = match loss.loss {
                bus_schema::fact::log::Loss::Missing => "are gone",
                bus_schema::fact::log::Loss::Replaced => "were replaced by others",
            };
            let unchained = match loss.unchained {
                0 => "all of them of chains, whose agents are asked for them".to_owned(),
                unchained => {
                    format!("{unchained} of them of publishers without a chain, whom nobody can ask")
                }
            };
            match loss.scattered {
                0 => format!("{messages} messages from {stream}:{first} to {last} {what}, {unchained}"),
                _ => format!(
                    "{messages} messages between {stream}:{first} and {last}, not every one there, are gone or were replaced by others, {unchained}; there are too many places to name each"
                ),
            }
        }
    }
}

/// What a person names who takes note of a damage.
pub(crate) fn named(found: &DamageFound) -> Damage {
    match found.clone() {
        DamageFound::Gap(gap) => Damage::Gap { owner: gap.owner, after: gap.after, before: gap.before },
        DamageFound::Loss(loss) => Damage::Loss {
            stream: loss.stream,
            created: loss.created,
            first_seq: loss.first_seq,
            last_seq: loss.last_seq,
        },
    }
}

/// The key of what is in the way of a damage's healing.
pub(crate) fn obstacle_key(found: &DamageFound) -> Option<(String, String)> {
    match found {
        DamageFound::Gap(gap) => {
            Some((gap.owner.clone(), format!("{}:{}", gap.after.epoch, gap.after.seq + 1)))
        }
        DamageFound::Loss(_) => None,
    }
}
