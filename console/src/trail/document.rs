//! A resource as its events tell it, one after the other: what each of them changed. Pure.
//!
//! The pool decides what counts; here it is told again for a person, from the events about one resource alone: a later
//! event wins, except that a copy (of a lost event, or of a dead letter) stands where its original stood.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::changes;
use crate::{
    auth::Caller,
    view::trail::{EffectView, EntryView},
};

/// A resource after some of its events.
#[derive(Clone, Debug, Default)]
pub(crate) struct Document {
    value: Option<Value>,
    /// Where the last event that counted stands.
    last: Option<Place>,
    /// Epochs that are over, each with its source.
    over: BTreeSet<(String, String)>,
}

/// Where an event stands in the order of its source.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    source: String,
    /// Epoch and sequence; none = unchained.
    chain: Option<(String, u64)>,
    /// The sequence in the log; of a copy of a dead letter, its original's.
    seq: u64,
}

impl Place {
    fn of(entry: &EntryView) -> Self {
        let seq_of = |place: &str| place.rsplit_once(':').and_then(|(_, seq)| seq.parse().ok()).unwrap_or(0);
        let chain = entry.chain.as_ref().and_then(|chain| chain.split_once(':'));
        let chain = chain.and_then(|(epoch, seq)| Some((epoch.to_owned(), seq.parse().ok()?)));
        let place = entry.redrive_of.as_ref().unwrap_or(&entry.place);
        Self { source: entry.actor.clone(), chain, seq: seq_of(place) }
    }
}

impl Document {
    /// Takes in the next event about the resource; `refused` says why the pool has not.
    pub(crate) fn take(&mut self, entry: &EntryView, refused: Option<&str>) -> EffectView {
        let is_redriven = entry.redrive_of.is_some();
        if let Some(why) = refused {
            return EffectView::nothing(why);
        }
        if let Some(why) = &entry.unreadable {
            return EffectView::nothing(format!("it is a dead letter: {why}"));
        }
        let place = Place::of(entry);
        if let Some(why) = self.is_late(&place, is_redriven) {
            return EffectView::nothing(why);
        }
        let data = entry.data.as_ref().and_then(|data| serde_json::from_str(data.get()).ok());
        let Some(Value::Object(data)) = data else { return EffectView::default() };
        let new = match entry.event_type.as_str() {
            "resource.changed" => Some(state(data, entry)),
            "resource.noticed" => Some(self.announced(&data, entry)),
            "resource.deleted" => None,
            _ => return EffectView::default(),
        };
        self.goes_on(place);
        self.becomes(new)
    }

    /// A full answer did not have the resource.
    pub(crate) fn bury(&mut self) -> EffectView {
        self.becomes(None)
    }

    /// Whether somebody may see it as it is now; nothing may be seen by everybody.
    pub(crate) fn is_seen_by(&self, caller: &Caller) -> bool {
        let Some(value) = &self.value else { return true };
        let labels = serde_json::from_value(value["labels"].clone()).unwrap_or_default();
        let owner = value["tenant"].as_str().and_then(|owner| owner.parse().ok());
        caller.may_see_state(&labels, owner.as_ref())
    }

    fn becomes(&mut self, new: Option<Value>) -> EffectView {
        let changes = changes(self.value.as_ref(), new.as_ref());
        self.value = new;
        EffectView { changes, none: None }
    }

    fn goes_on(&mut self, place: Place) {
        if let Some(Place { source, chain: Some((epoch, _)), .. }) = self.last.replace(place) {
            let now = self.last.as_ref().filter(|now| now.source == source);
            if now.and_then(|now| now.chain.as_ref()).is_some_and(|(new, _)| *new != epoch) {
                self.over.insert((source, epoch));
            }
        }
    }

    /// Why an event comes too late to count; none = it does not.
    fn is_late(&self, place: &Place, is_redriven: bool) -> Option<String> {
        let last = self.last.as_ref()?;
        let newer = || Some("it is a copy of an older event, and what came after that stands".to_owned());
        match (&place.chain, &last.chain) {
            (Some((epoch, _)), _) if self.over.contains(&(place.source.clone(), epoch.clone())) => newer(),
            (Some((epoch, seq)), Some((of, last_seq))) if place.source == last.source && epoch == of => {
                match seq.cmp(last_seq) {
                    std::cmp::Ordering::Less => newer(),
                    std::cmp::Ordering::Equal => Some("it came before".to_owned()),
                    std::cmp::Ordering::Greater => None,
                }
            }
            _ if is_redriven && place.seq < last.seq => newer(),
            _ => None,
        }
    }

    /// The resource with a state that was announced and not sent.
    fn announced(&self, data: &Map<String, Value>, entry: &EntryView) -> Value {
        let mut value = match &self.value {
            Some(Value::Object(value)) => value.clone(),
            _ => Map::new(),
        };
        let said = ["revision", "state_hash", "size_bytes"].into_iter();
        let said = said.filter_map(|name| Some((name.to_owned(), data.get(name)?.clone())));
        value.insert("announced".to_owned(), Value::Object(said.collect()));
        if let Some(tenant) = &entry.tenant {
            value.insert("tenant".to_owned(), tenant.to_string().into());
        }
        Value::Object(value)
    }
}

/// The resource with its state.
fn state(mut data: Map<String, Value>, entry: &EntryView) -> Value {
    let said = ["revision", "state", "labels"].into_iter();
    let mut value: Map<_, _> = said.filter_map(|name| Some((name.to_owned(), data.remove(name)?))).collect();
    if let Some(tenant) = &entry.tenant {
        value.insert("tenant".to_owned(), tenant.to_string().into());
    }
    Value::Object(value)
}

#[cfg(test)]
mod tests {
    use bus_schema::Timestamp;
    use serde_json::{json, value::RawValue};

    use super::*;

    fn event(seq: u64, name: &str, chain: Option<&str>, data: &Value) -> EntryView {
        EntryView {
            place: format!("L:{seq}"),
            stored_at: Timestamp::default(),
            time: Timestamp::default(),
            actor: "/local/dc1/resource/inv".into(),
            event_type: format!("resource.{name}"),
            pool: None,
            entity: "Pod/a".into(),
            summary: String::new(),
            id: "1".into(),
            chain: chain.map(str::to_owned),
            sync: None,
            tenant: None,
            redrive_of: None,
            data: RawValue::from_string(data.to_string()).ok(),
            unreadable: None,
        }
    }

    fn changed(n: u64) -> Value {
        json!({"kind": "Pod", "id": "a", "revision": n.to_string(), "state": {"n": n}})
    }

    #[test]
    fn each_event_is_told_as_what_it_changed() {
        let mut pod = Document::default();
        let mut tell = |entry: EntryView| pod.take(&entry, None).lines().collect::<Vec<_>>();
        assert_eq!(
            tell(event(1, "changed", None, &changed(1))),
            [r#"+ revision: "1""#, r#"+ state: {"n":1}"#]
        );
        let notice = json!({"revision": "2", "state_hash": "x", "size_bytes": "9"});
        assert_eq!(tell(event(2, "noticed", None, &notice)).len(), 1);
        let found = tell(event(3, "changed", None, &changed(2)));
        assert!(
            found.contains(&"~ state.n: 1 -> 2".to_owned()) && found[0].starts_with("- announced"),
            "{found:?}"
        );
        assert_eq!(tell(event(4, "deleted", None, &json!({}))).len(), 2);
        assert_eq!(pod.bury().lines().count(), 0, "there is nothing left to delete");
    }

    #[test]
    fn copies_stand_where_their_originals_stood() {
        let mut pod = Document::default();
        let mut tell = |entry: EntryView, refused| pod.take(&entry, refused).none;
        assert_eq!(tell(event(1, "changed", Some("e1:1"), &changed(1)), None), None);
        assert_eq!(tell(event(2, "changed", Some("e1:5"), &changed(5)), None), None);
        assert!(
            tell(event(3, "changed", Some("e1:3"), &changed(3)), None).is_some(),
            "a lost one that came back"
        );
        assert!(tell(event(4, "changed", Some("e1:5"), &changed(5)), None).is_some(), "again");
        assert!(tell(event(5, "changed", Some("e1:6"), &changed(6)), Some("a fork")).is_some());
        assert_eq!(tell(event(6, "changed", Some("e2:1"), &changed(7)), None), None);
        assert!(
            tell(event(7, "changed", Some("e1:9"), &changed(9)), None).is_some(),
            "of an epoch that is over"
        );
        let redriven = |of: &str| EntryView {
            redrive_of: Some(of.to_owned()),
            ..event(9, "changed", None, &changed(8))
        };
        assert!(tell(redriven("L:2"), None).is_some());
        assert_eq!(tell(redriven("L:8"), None), None);
    }
}
