//! Plain records: `{kind, id, revision?, state, labels?, tenant?}`, or `{"records": […]}`, which may
//! say `"explicit_empty": true` when it has none on purpose.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::HandOver;
use crate::resource::{Draft, Go};

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

/// Read by hand: serde's errors repeat values.
fn record(value: Value) -> Result<Draft, String> {
    let Value::Object(mut fields) = value else { return Err("a record is an object".to_owned()) };
    let kind = text(&mut fields, "kind")?.ok_or("the record has no kind")?;
    let id = text(&mut fields, "id")?.ok_or("the record has no id")?;
    let tenant = text(&mut fields, "tenant")?;
    let revision = match fields.remove("revision") {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text),
        Some(Value::Number(number)) => Some(number.to_string()),
        Some(_) => return Err("the record's revision is neither a string nor a number".to_owned()),
    };
    let state = fields.remove("state").unwrap_or_default();
    let labels = labels(fields.remove("labels"))?;
    if !fields.is_empty() {
        const KNOWN: &str = "kind, id, revision, state, labels, tenant";
        return Err(format!("the record has fields beside {KNOWN}; put them into its state"));
    }
    Ok(Draft { kind, id, revision, state, labels, tenant })
}

fn text(fields: &mut Map<String, Value>, name: &str) -> Result<Option<String>, String> {
    match fields.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(format!("the record's {name} is not a string")),
    }
}

fn labels(value: Option<Value>) -> Result<BTreeMap<String, String>, String> {
    const WRONG: &str = "the record's labels are not an object of strings";
    let fields = match value {
        None | Some(Value::Null) => return Ok(BTreeMap::new()),
        Some(Value::Object(fields)) => fields,
        Some(_) => return Err(WRONG.to_owned()),
    };
    let label = |(name, value)| match value {
        Value::String(text) => Ok((name, text)),
        _ => Err(WRONG.to_owned()),
    };
    fields.into_iter().map(label).collect()
}
