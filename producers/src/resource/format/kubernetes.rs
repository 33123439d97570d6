//! Kubernetes manifests and lists. Kind = the object's kind (with its API group for custom ones),
//! id = `namespace/name`, or `name` where there is no namespace; revision = `metadata.resourceVersion`.

use serde_json::{Map, Value};

use super::{HandOver, string_map};
use crate::resource::{Draft, Go};

/// Hands over an object, or the objects of a list.
pub(super) fn read(value: Value, each: &mut HandOver<'_>) -> Go {
    let Value::Object(mut fields) = value else { return each(Err("a manifest is an object".to_owned())) };
    let kind = text(&fields, "kind").unwrap_or_default();
    // A PodList leaves the kind of its items out.
    let item_kind = kind.strip_suffix("List").map(str::to_owned);
    match (item_kind, fields.remove("items")) {
        (Some(item_kind), Some(Value::Array(items))) => {
            let api = text(&fields, "apiVersion");
            for item in items {
                if each(object(item, &item_kind, api.as_deref())) == Go::Stop {
                    return Go::Stop;
                }
            }
            Go::On
        }
        _ => each(object(Value::Object(fields), "", None)),
    }
}

fn text(fields: &Map<String, Value>, name: &str) -> Option<String> {
    fields.get(name).and_then(Value::as_str).map(str::to_owned)
}

/// A part of the key. What is no text may not be left out: two objects would have one key.
fn key_part(metadata: &Map<String, Value>, name: &str) -> Result<Option<String>, String> {
    match metadata.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(format!(
            "its metadata.{name} is not a text; quote it: YAML reads a bare no, on or 2025 as a truth value or a number"
        )),
    }
}

fn object(value: Value, list_kind: &str, list_api: Option<&str>) -> Result<Draft, String> {
    let Value::Object(mut fields) = value else { return Err("an item of the list is no object".to_owned()) };
    let kind = text(&fields, "kind").unwrap_or_else(|| list_kind.to_owned());
    let api = text(&fields, "apiVersion").or_else(|| list_api.map(str::to_owned)).unwrap_or_default();
    let Some(Value::Object(metadata)) = fields.get_mut("metadata") else {
        return Err("the object has no metadata".to_owned());
    };
    let name = key_part(metadata, "name")?.ok_or("the object has no metadata.name")?;
    let namespace = key_part(metadata, "namespace")?;
    let revision = text(metadata, "resourceVersion");
    let labels = string_map(metadata.get("labels"));
    // Bookkeeping of writers, often larger than the object itself.
    metadata.remove("managedFields");
    let id = namespace.map_or_else(|| name.clone(), |namespace| format!("{namespace}/{name}"));
    let state = Value::Object(fields);
    Ok(Draft { kind: kind_in_group(&kind, &api), id, revision, state, labels, tenant: None })
}

/// Two groups may have one kind; the groups of Kubernetes itself do not clash and stay unsaid.
fn kind_in_group(kind: &str, api_version: &str) -> String {
    match api_version.split_once('/') {
        Some((group, _)) if group.contains('.') && !group.ends_with(".k8s.io") => format!("{kind}.{group}"),
        _ => kind.to_owned(),
    }
}
