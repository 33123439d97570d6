//! Terraform: state files of version 4, and `terraform show -json`. Kind = the resource's type,
//! id = its address; what Terraform marks as sensitive is taken out.

use serde_json::{Value, json};

use super::HandOver;
use crate::{
    redact::Redactor,
    resource::{Draft, Go},
};

/// Hands over every instance.
pub(super) fn read(mut value: Value, redactor: &Redactor, each: &mut HandOver<'_>) -> Go {
    if value.get("version").is_some() {
        let Some(Value::Array(resources)) = value.get_mut("resources").map(Value::take) else {
            return each(Err("the state has no list of resources".to_owned()));
        };
        return all(resources, |resource| state_resource(resource, redactor, each));
    }
    match value.pointer_mut("/values/root_module").map(Value::take) {
        Some(module) => shown_module(module, redactor, each),
        // `terraform show -json` of an empty state has no values at all.
        None => Go::On,
    }
}

fn all(values: Vec<Value>, mut each: impl FnMut(Value) -> Go) -> Go {
    for value in values {
        if each(value) == Go::Stop {
            return Go::Stop;
        }
    }
    Go::On
}

fn text<'a>(value: &'a Value, field: &str) -> Option<&'a str> {
    value.get(field).and_then(Value::as_str)
}

fn state_resource(mut resource: Value, redactor: &Redactor, each: &mut HandOver<'_>) -> Go {
    let instances = resource.get_mut("instances").map(Value::take);
    let (Some(kind), Some(name)) = (text(&resource, "type"), text(&resource, "name")) else {
        return each(Err("a resource of the state has no type or no name".to_owned()));
    };
    let module = text(&resource, "module").map(|module| format!("{module}.")).unwrap_or_default();
    let data = if text(&resource, "mode") == Some("data") { "data." } else { "" };
    let base = format!("{module}{data}{kind}.{name}");
    let provider = resource.get("provider").cloned().unwrap_or_default();
    let Some(Value::Array(instances)) = instances else {
        return each(Err("a resource of the state has no list of instances".to_owned()));
    };
    all(instances, |mut instance| {
        let id = match instance.get("index_key") {
            None | Some(Value::Null) => base.clone(),
            Some(key) => format!("{base}[{key}]"),
        };
        let mut attributes = instance.get_mut("attributes").map(Value::take).unwrap_or_default();
        let sensitive = instance.get("sensitive_attributes").and_then(Value::as_array);
        sensitive.into_iter().flatten().for_each(|path| hide_path(&mut attributes, path, redactor));
        let state = json!({ "provider": provider, "values": attributes });
        each(Ok(draft(kind, id, state)))
    })
}

fn draft(kind: &str, id: String, state: Value) -> Draft {
    let labels = super::string_map(state.pointer("/values/tags"));
    Draft { kind: kind.to_owned(), id, revision: None, state, labels, tenant: None }
}

/// Follows a path of `{"type": "get_attr" | "index", "value": …}` steps; what the path does not reach
/// is hidden from the last value it does reach, rather than let through.
fn hide_path(attributes: &mut Value, path: &Value, redactor: &Redactor) {
    let mut at = attributes;
    let mut name = String::new();
    for step in path.as_array().into_iter().flatten() {
        // Older versions nest the value of an index step: {"value": {"value": 0, "type": "number"}}.
        let step = step.get("value").unwrap_or(step);
        let step = step.get("value").unwrap_or(step);
        let next = match step {
            Value::String(field) if at.get(field).is_some() => {
                name.clone_from(field);
                at.get_mut(field)
            }
            Value::Number(index) if at.get(position(index)).is_some() => at.get_mut(position(index)),
            _ => break,
        };
        let Some(next) = next else { return };
        at = next;
    }
    redactor.hide(&name, at);
}

fn position(index: &serde_json::Number) -> usize {
    index.as_u64().map_or(usize::MAX, |index| index as usize)
}

fn shown_module(mut module: Value, redactor: &Redactor, each: &mut HandOver<'_>) -> Go {
    let mut list = |field: &str| match module.get_mut(field).map(Value::take) {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    };
    let (resources, children) = (list("resources"), list("child_modules"));
    let go = all(resources, |mut resource| {
        let mut values = resource.get_mut("values").map(Value::take).unwrap_or_default();
        hide_marked(&mut values, resource.get("sensitive_values"), "", redactor);
        let (Some(kind), Some(address)) = (text(&resource, "type"), text(&resource, "address")) else {
            return each(Err("a resource has no type or no address".to_owned()));
        };
        let provider = resource.get("provider_name").cloned().unwrap_or_default();
        each(Ok(draft(kind, address.to_owned(), json!({ "provider": provider, "values": values }))))
    });
    if go == Go::Stop {
        return Go::Stop;
    }
    all(children, |child| shown_module(child, redactor, each))
}

/// `sensitive_values` mirrors the values with `true` where one is sensitive.
fn hide_marked(values: &mut Value, marks: Option<&Value>, name: &str, redactor: &Redactor) {
    match (marks, values) {
        (Some(Value::Bool(true)), values) => redactor.hide(name, values),
        (Some(Value::Object(marks)), Value::Object(fields)) => {
            for (name, mark) in marks {
                if let Some(value) = fields.get_mut(name) {
                    hide_marked(value, Some(mark), name, redactor);
                }
            }
        }
        (Some(Value::Array(marks)), Value::Array(items)) => {
            for (mark, item) in marks.iter().zip(items) {
                hide_marked(item, Some(mark), name, redactor);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use bus_schema::Hash32;

    use super::*;
    use crate::redact::RedactConfig;

    #[test]
    fn a_sensitive_path_that_leads_nowhere_hides_more_and_never_less() {
        let redactor = Redactor::new(Hash32::ZERO, &RedactConfig::default());
        let mut attributes = json!({"a": {"b": "open", "c": "closed"}});
        hide_path(
            &mut attributes,
            &json!([{"type": "get_attr", "value": "a"}, {"type": "x", "value": "gone"}]),
            &redactor,
        );
        assert!(!attributes.to_string().contains("closed"));
        let tags = draft("t", "i".into(), json!({"values": {"tags": {"k": "v"}}})).labels;
        assert_eq!(tags["k"], "v");
    }
}
