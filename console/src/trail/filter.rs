//! Which messages somebody wants: as far as subjects tell it, the log's server picks them, the rest is looked at here.
//! A message that cannot be read passes unless what can be read of it says that it is not meant.

use bus_schema::{Name, Stem, subject::ROOT, token};
use serde_json::Value;

use crate::view::trail::EntryView;

/// What is wanted: everything that is set must be so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    /// Of this cluster, of any site or of one.
    pub(crate) cluster: Option<(Option<Name>, Name)>,
    /// Of this system.
    pub(crate) stem: Option<Stem>,
    /// About resources of this kind.
    pub(crate) kind: Option<String>,
    /// About this entity, for example `Pod/web`.
    pub(crate) entity: Option<String>,
    /// By somebody whose name contains this.
    pub(crate) actor: Option<String>,
}

impl Filter {
    /// The subjects of a site's events; none = nothing of the site is wanted.
    pub(crate) fn events_of(&self, site: &Name) -> Option<String> {
        if self.cluster.as_ref().is_some_and(|(of, _)| of.as_ref().is_some_and(|of| of != site)) {
            return None;
        }
        let cluster = self.cluster.as_ref().map_or("*", |(_, cluster)| cluster.as_str());
        let stem = match (&self.stem, &self.kind) {
            (Some(stem), _) => stem.as_str(),
            (None, Some(_)) => Stem::Resource.as_str(),
            (None, None) => "*",
        };
        Some(match &self.entity {
            Some(entity) => format!("{ROOT}.{site}.evt.{cluster}.{stem}.{}.>", token::of(entity)),
            None if stem != "*" => format!("{ROOT}.{site}.evt.{cluster}.{stem}.>"),
            None if cluster != "*" => format!("{ROOT}.{site}.evt.{cluster}.>"),
            None => format!("{ROOT}.{site}.evt.>"),
        })
    }

    /// The subjects of a target's facts. Which entities and clusters a fact speaks of stands in its data.
    pub(crate) fn facts_of(&self, target: &Name) -> String {
        match self.stem {
            Some(stem) => format!("{ROOT}.{target}.tgt.{stem}.>"),
            None => format!("{ROOT}.{target}.tgt.>"),
        }
    }

    /// Whether a message is wanted.
    pub(crate) fn passes(&self, entry: &EntryView, is_fact: bool) -> bool {
        let is_unread = entry.actor.is_empty() && entry.unreadable.is_some();
        let by = |actor: &String| is_unread || entry.actor.contains(actor.as_str());
        if !self.actor.as_ref().is_none_or(by) {
            return false;
        }
        if is_fact {
            return self.is_about_the_wanted(entry);
        }
        // The rest of an event's filter is in its subject.
        let known = entry.unreadable.is_none() || entry.entity.contains('/');
        let of_kind = |kind: &String| !known || is_of_kind(&entry.entity, kind);
        self.kind.as_ref().is_none_or(of_kind)
    }

    /// Whether a fact speaks of the cluster, the kind and the entity that are wanted.
    fn is_about_the_wanted(&self, fact: &EntryView) -> bool {
        if self.cluster.is_none() && self.kind.is_none() && self.entity.is_none() {
            return true;
        }
        let data = fact.data.as_ref().and_then(|data| serde_json::from_str::<Value>(data.get()).ok());
        let Some(data) = data.filter(|_| fact.unreadable.is_none()) else { return true };
        self.cluster.as_ref().is_none_or(|cluster| speaks_of_cluster(&data, cluster))
            && self.kind.as_ref().is_none_or(|kind| keys(&data).any(|key| is_of_kind(&key, kind)))
            && self
                .entity
                .as_ref()
                .is_none_or(|entity| fact.entity == *entity || keys(&data).any(|key| key == *entity))
    }
}

fn is_of_kind(entity: &str, kind: &str) -> bool {
    entity.strip_prefix(kind).is_some_and(|rest| rest.starts_with('/'))
}

/// Whether a fact names a pool, a source or a subject of the cluster, anywhere in its data: a checkpoint has its owners in
/// a list.
fn speaks_of_cluster(data: &Value, wanted: &(Option<Name>, Name)) -> bool {
    let speaks = |part: &Value| speaks_of_cluster(part, wanted);
    match data {
        Value::Array(parts) => parts.iter().any(speaks),
        Value::Object(members) => names_cluster(data, wanted) || members.values().any(speaks),
        _ => false,
    }
}

/// Whether the members of an object themselves name it.
fn names_cluster(data: &Value, (site, cluster): &(Option<Name>, Name)) -> bool {
    let is_it = |of: &str, name: &str| {
        site.as_ref().is_none_or(|site| site.as_str() == of) && name == cluster.as_str()
    };
    let said = |field: &str| data[field].as_str();
    let texts = |field: &str| data[field].as_array().into_iter().flatten().filter_map(Value::as_str);
    let of_pool = |pool: &str| pool.split_once('/').is_some_and(|(of, name)| is_it(of, name));
    let of_parts = |text: &str, by: char, site: usize, cluster: usize| {
        let part = |at| text.split(by).nth(at);
        part(site).zip(part(cluster)).is_some_and(|(of, name)| is_it(of, name))
    };
    said("pool").is_some_and(of_pool)
        || texts("pools").any(of_pool)
        || texts("clusters").any(|name| said("site").is_some_and(|of| is_it(of, name)))
        || [said("owner"), said("source")].into_iter().flatten().any(|source| of_parts(source, '/', 1, 2))
        || said("subject").is_some_and(|subject| of_parts(subject, '.', 2, 4))
}

/// The resources that a fact names.
fn keys(data: &Value) -> impl Iterator<Item = String> {
    let named = data["resources"].as_array().into_iter().flatten();
    let named = named.filter_map(|resource| resource["key"].as_str().map(str::to_owned));
    let parked = data["subject"].as_str().and_then(|subject| token::key(subject.split('.').nth(6)?));
    named.chain(parked)
}

#[cfg(test)]
mod tests {
    use bus_schema::Timestamp;
    use serde_json::{json, value::RawValue};

    use super::*;

    fn entry(actor: &str, entity: &str, data: &Value, unreadable: bool) -> EntryView {
        EntryView {
            place: "L:1".into(),
            stored_at: Timestamp::default(),
            time: Timestamp::default(),
            actor: actor.into(),
            event_type: "resource.changed".into(),
            pool: None,
            entity: entity.into(),
            summary: String::new(),
            id: "1".into(),
            chain: None,
            sync: None,
            tenant: None,
            redrive_of: None,
            data: RawValue::from_string(data.to_string()).ok(),
            unreadable: unreadable.then(|| "broken".to_owned()),
        }
    }

    #[test]
    fn subjects_pick_as_much_as_they_can() {
        let site: Name = "local".parse().unwrap();
        let of = |filter: Filter| filter.events_of(&site);
        let cluster = |of: Option<&str>| Some((of.map(|of| of.parse().unwrap()), "dc1".parse().unwrap()));
        assert_eq!(of(Filter::default()).as_deref(), Some("far.v1.local.evt.>"));
        let dc1 = Filter { cluster: cluster(None), ..Filter::default() };
        assert_eq!(of(dc1.clone()).as_deref(), Some("far.v1.local.evt.dc1.>"));
        assert_eq!(of(Filter { cluster: cluster(Some("far")), ..Filter::default() }), None, "another site's");
        let kind = Filter { kind: Some("Pod".into()), ..Filter::default() };
        assert_eq!(of(kind).as_deref(), Some("far.v1.local.evt.*.resource.>"));
        let entity = Filter { entity: Some("Pod/a.b".into()), stem: Some(Stem::Resource), ..dc1 };
        assert_eq!(of(entity.clone()).as_deref(), Some("far.v1.local.evt.dc1.resource.Pod=2Fa=2Eb.>"));
        assert_eq!(entity.facts_of(&site), "far.v1.local.tgt.resource.>");
    }

    #[test]
    fn facts_pass_by_what_their_data_names() {
        let cluster = Filter { cluster: Some((None, "dc1".parse().unwrap())), ..Filter::default() };
        let passes =
            |filter: &Filter, data: Value| filter.passes(&entry("op", "local/dc1", &data, false), true);
        for data in [
            json!({"pool": "local/dc1"}),
            json!({"pools": ["local/dc2", "local/dc1"]}),
            json!({"owner": "/local/dc1/resource/inv"}),
            json!({"subject": "far.v1.local.evt.dc1.resource.x.changed"}),
            // As in a checkpoint, and when an agent is enrolled.
            json!({"number": 7, "owners": [{"pool": "local/dc2"}, {"pool": "local/dc1", "owner": "x"}]}),
            json!({"site": "local", "clusters": ["dc2", "dc1"]}),
        ] {
            assert!(passes(&cluster, data.clone()), "{data}");
        }
        assert!(!passes(&cluster, json!({"owners": [{"pool": "local/dc2"}], "clusters": ["dc1"]})));
        assert!(!passes(&cluster, json!({"pool": "local/dc2"})) && !passes(&cluster, json!({})));
        let entity = Filter { entity: Some("Pod/a".into()), ..Filter::default() };
        assert!(passes(&entity, json!({"resources": [{"key": "Pod/a"}]})));
        assert!(passes(&entity, json!({"subject": "far.v1.local.evt.dc1.resource.Pod=2Fa.changed"})));
        assert!(!passes(&entity, json!({"resources": [{"key": "Pod/b"}]})));
        assert!(
            entity.passes(&entry("op", "?", &json!({}), true), true),
            "what cannot be read is not left out"
        );
    }

    #[test]
    fn what_cannot_be_read_passes_unless_it_is_known_not_to_be_meant() {
        let kind = Filter { kind: Some("Pod".into()), ..Filter::default() };
        let passes =
            |entity: &str, unreadable| kind.passes(&entry("", entity, &json!({}), unreadable), false);
        assert!(passes("Pod/a", false) && !passes("VM/a", false) && !passes("Podium/a", false));
        assert!(passes("~HASH", true) && passes("Pod/a", true) && !passes("VM/a", true));
        let actor = Filter { actor: Some("inv".into()), ..Filter::default() };
        let by =
            |actor_: &str, unreadable| actor.passes(&entry(actor_, "Pod/a", &json!({}), unreadable), false);
        assert!(by("/local/dc1/resource/inv", false) && !by("/local/dc1/resource/plain", false));
        assert!(by("", true) && !by("/local/dc1/resource/plain", true));
    }
}
