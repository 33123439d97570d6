//! Plain records: `{kind, id, revision?, state, labels?, tenant?}`, or `{"records": […]}`, which may
//! say `"explicit_empty": true` when it has none on purpose.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::HandOver;
use crate::resource::{Draft, Go};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlainRecord {
    kind: String,
    id: String,
    #[serde(default)]
    revision: Option<Value>,
    #[serde(default)]
    state: Value,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    tenant: Option<String>,
}

/// Whether the document says that the source is empty on purpose.
pub(super) fn says_empty(value: &Value) -> bool {
    value.get("explicit_empty").and_then(Value::as_bool) == Some(true)
        && value.get("records").and_then(Value::as_array).is_none_or(Vec::is_empty)
}

/// Hands over a record, or the records of a set.
pub(super) fn read(value: Value, each: &mut HandOver<'_>) -> Go {
    let Value::Object(mut fields) = value else { return each(Err("a record is an object".to_owned())) };
    if fields.contains_key("kind") {
        return each(record(Value::Object(fields)));
    }
    match fields.remove("records") {
        None => Go::On,
        Some(Value::Array(items)) => {
            for item in items {
                if each(record(item)) == Go::Stop {
                    return Go::Stop;
                }
            }
            Go::On
        }
        Some(_) => each(Err("`records` is not a list".to_owned())),
    }
}

fn record(value: Value) -> Result<Draft, String> {
    let record: PlainRecord =
        serde_json::from_value(value).map_err(|e| format!("the record is wrong: {e}"))?;
    let revision = match record.revision {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text),
        Some(Value::Number(number)) => Some(number.to_string()),
        Some(_) => return Err("the record's revision is neither a string nor a number".to_owned()),
    };
    let PlainRecord { kind, id, state, labels, tenant, .. } = record;
    Ok(Draft { kind, id, revision, state, labels, tenant })
}
