//! Ansible inventories as `ansible-inventory --list` prints them. Kind = `Host`, id = the host's name,
//! state = its variables and the groups that name it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::HandOver;
use crate::resource::{Draft, Go};

/// The kind of what an inventory lists.
const KIND: &str = "Host";

/// Hands over every host.
pub(super) fn read(mut value: Value, each: &mut HandOver<'_>) -> Go {
    let hostvars = value.pointer_mut("/_meta/hostvars").map(Value::take);
    let mut hosts: BTreeMap<String, (Value, BTreeSet<String>)> = match hostvars {
        Some(Value::Object(vars)) => {
            vars.into_iter().map(|(host, vars)| (host, (vars, BTreeSet::new()))).collect()
        }
        _ => return each(Err("`_meta.hostvars` is not an object".to_owned())),
    };
    for (group, content) in value.as_object().into_iter().flatten() {
        for host in content.get("hosts").and_then(Value::as_array).into_iter().flatten() {
            // A host without variables is listed in its groups only.
            let Some(host) = host.as_str() else { continue };
            let entry = hosts.entry(host.to_owned()).or_insert_with(|| (json!({}), BTreeSet::new()));
            entry.1.insert(group.clone());
        }
    }
    for (id, (vars, groups)) in hosts {
        let state = json!({ "vars": vars, "groups": groups });
        let labels = groups.into_iter().map(|group| (format!("group/{group}"), "true".to_owned())).collect();
        let draft = Draft { kind: KIND.to_owned(), id, revision: None, state, labels, tenant: None };
        if each(Ok(draft)) == Go::Stop {
            return Go::Stop;
        }
    }
    Go::On
}
