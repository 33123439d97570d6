//! Upcasters: what an operator has changed in messages that their publisher got wrong, and in which of them.
//!
//! Must not know: how the file is written (TOML, JSON), where the messages are.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{NAME_BYTES_MAX, read_patch};
use crate::{fact::log::parked::Upcaster, hash::Hash32};

/// Rules in one file: each is tried on every message.
pub const RULES_MAX: usize = 100;

/// What a file of rules says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpcasterFile {
    /// Its name, for the facts.
    pub name: String,
    /// What is changed in which messages; the first one that fits a message is done.
    #[serde(rename = "rule")]
    pub rules: Vec<Rule>,
}

/// What is changed in messages to which all that is set applies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// `<stem>.<event>`.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub event_type: Option<String>,
    /// CloudEvents `dataschema`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataschema: Option<String>,
    /// What the reason of the dead letter contains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// RFC 6902 operations on the message's body; of a structured CloudEvent that is the whole event.
    pub patch: Value,
}

/// A file of rules that was checked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Sent", into = "Sent")]
pub struct Upcasting {
    /// Its name and hash.
    pub upcaster: Upcaster,
    rules: Vec<(Rule, String)>,
}

/// As it travels to the service.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sent {
    sha256: Hash32,
    file: UpcasterFile,
}

impl Upcasting {
    /// Checks what a file says, which has this hash. Errors: what is wrong in which rule.
    pub fn of(file: UpcasterFile, sha256: Hash32) -> Result<Self, String> {
        let UpcasterFile { name, rules } = file;
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
            return Err(format!("its name is empty, longer than {NAME_BYTES_MAX} bytes or no line"));
        }
        if rules.is_empty() || rules.len() > RULES_MAX {
            return Err(format!("it has {} rules; write 1 to {RULES_MAX}", rules.len()));
        }
        let rules = rules.into_iter().enumerate().map(|(n, rule)| {
            let patch = rule.patch.to_string();
            read_patch(&patch).map_err(|why| format!("the patch of rule {} is wrong: {why}", n + 1))?;
            Ok((rule, patch))
        });
        let rules = rules.collect::<Result<_, String>>()?;
        Ok(Self { upcaster: Upcaster { name, sha256 }, rules })
    }

    /// The patch, as JSON, for a message of this type whose dead letter has this reason; none = no rule fits it.
    pub fn patch(&self, event_type: &str, dataschema: Option<&str>, reason: &str) -> Option<&str> {
        let fits = |rule: &Rule| {
            rule.event_type.as_deref().is_none_or(|wanted| wanted == event_type)
                && rule.dataschema.as_deref().is_none_or(|wanted| Some(wanted) == dataschema)
                && rule.reason.as_deref().is_none_or(|wanted| reason.contains(wanted))
        };
        self.rules.iter().find(|(rule, _)| fits(rule)).map(|(_, patch)| patch.as_str())
    }
}

impl TryFrom<Sent> for Upcasting {
    type Error = String;

    fn try_from(Sent { sha256, file }: Sent) -> Result<Self, String> {
        Self::of(file, sha256)
    }
}

impl From<Upcasting> for Sent {
    fn from(Upcasting { upcaster, rules }: Upcasting) -> Self {
        let rules = rules.into_iter().map(|(rule, _)| rule).collect();
        Self { sha256: upcaster.sha256, file: UpcasterFile { name: upcaster.name, rules } }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn file(rules: Value) -> Result<Upcasting, String> {
        let file = json!({ "name": "ids", "rule": rules });
        Upcasting::of(serde_json::from_value(file).unwrap(), Hash32::of(b"file"))
    }

    #[test]
    fn the_first_rule_that_fits_is_done() {
        let add = |value: u64| json!([{ "op": "add", "path": "/a", "value": value }]);
        let upcasting = file(json!([
            { "type": "resource.changed", "dataschema": "v0", "patch": add(1) },
            { "type": "resource.changed", "reason": "missing field", "patch": add(2) },
            { "reason": "subject", "patch": add(3) },
        ]))
        .unwrap();
        let value = |event_type, dataschema, reason| {
            let patch = upcasting.patch(event_type, dataschema, reason)?;
            serde_json::from_str::<Value>(patch).unwrap()[0]["value"].as_u64()
        };
        assert_eq!(value("resource.changed", Some("v0"), "missing field `id`"), Some(1));
        assert_eq!(value("resource.changed", None, "missing field `id`"), Some(2));
        assert_eq!(value("image.pushed", None, "missing field `id`"), None);
        assert_eq!(value("image.pushed", None, "the subject's token"), Some(3));
        let sent = serde_json::to_string(&upcasting).unwrap();
        assert_eq!(serde_json::from_str::<Upcasting>(&sent).unwrap(), upcasting);
    }

    #[test]
    fn a_rule_that_is_none_is_named() {
        let error = file(json!([{ "patch": [] }, { "patch": [{ "op": "explode" }] }])).unwrap_err();
        assert!(error.contains("rule 2") && error.contains("RFC 6902"), "{error}");
        assert!(file(json!([])).unwrap_err().contains("0 rules"));
    }
}
