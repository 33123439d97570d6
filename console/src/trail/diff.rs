//! What differs between two JSON values, path by path. Pure.

use serde_json::Value;

use crate::view::trail::{ChangeView, ChangesView};

/// Differences that are told one by one: more are no answer for a person. The others are counted.
const CHANGES_MAX: usize = 200;

/// What has changed from one value to the next; none = there is no such thing. Objects are compared name by name, lists
/// place by place.
pub(crate) fn changes(old: Option<&Value>, new: Option<&Value>) -> ChangesView {
    let mut found = ChangesView::default();
    match (old, new) {
        (None, Some(Value::Object(new))) => {
            new.iter().for_each(|(name, value)| added(&mut found, &below("", name), value));
        }
        (Some(Value::Object(old)), None) => {
            old.iter().for_each(|(name, value)| removed(&mut found, &below("", name), value));
        }
        (None, Some(new)) => added(&mut found, "", new),
        (Some(old), None) => removed(&mut found, "", old),
        (Some(old), Some(new)) => compare(&mut found, "", old, new),
        (None, None) => {}
    }
    found
}

fn compare(found: &mut ChangesView, path: &str, old: &Value, new: &Value) {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            for (name, value) in old {
                let path = below(path, name);
                match new.get(name) {
                    Some(other) => compare(found, &path, value, other),
                    None => removed(found, &path, value),
                }
            }
            let is_new = |(name, _): &(&String, &Value)| !old.contains_key(*name);
            new.iter().filter(is_new).for_each(|(name, value)| added(found, &below(path, name), value));
        }
        (Value::Array(old), Value::Array(new)) => {
            let both = old.len().min(new.len());
            for (at, (value, other)) in old.iter().zip(new).enumerate() {
                compare(found, &format!("{path}[{at}]"), value, other);
            }
            let place = |at: usize| format!("{path}[{at}]");
            old.iter().enumerate().skip(both).for_each(|(at, value)| removed(found, &place(at), value));
            new.iter().enumerate().skip(both).for_each(|(at, value)| added(found, &place(at), value));
        }
        _ if old == new => {}
        _ => {
            let (path, old, new) = (path.to_owned(), old.clone(), new.clone());
            note(found, ChangeView::Changed { path, old, new });
        }
    }
}

fn added(found: &mut ChangesView, path: &str, value: &Value) {
    note(found, ChangeView::Added { path: path.to_owned(), new: value.clone() });
}

fn removed(found: &mut ChangesView, path: &str, value: &Value) {
    note(found, ChangeView::Removed { path: path.to_owned(), old: value.clone() });
}

fn note(found: &mut ChangesView, change: ChangeView) {
    if found.changes.len() < CHANGES_MAX {
        found.changes.push(change);
    } else {
        found.more += 1;
    }
}

/// The path of a member: `state.spec`, or `labels["app.kubernetes.io/name"]` when a dot would not be plain.
fn below(path: &str, name: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
    match name {
        _ if name.is_empty() || !name.chars().all(is_plain) => format!("{path}[{}]", Value::from(name)),
        _ if path.is_empty() => name.to_owned(),
        _ => format!("{path}.{name}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lines(old: Option<Value>, new: Option<Value>) -> Vec<String> {
        changes(old.as_ref(), new.as_ref()).lines().collect()
    }

    #[test]
    fn each_difference_is_a_line_with_its_path() {
        let old = json!({"revision": "1", "state": {"n": 1, "list": [1, 2, 3], "gone": null, "same": [{}]}});
        let new =
            json!({"revision": "2", "state": {"n": 1, "list": [1, 5], "new": {"a.b": 1}, "same": [{}]}});
        let found = lines(Some(old.clone()), Some(new));
        let expected = [
            r#"~ revision: "1" -> "2""#,
            "- state.gone: null",
            "~ state.list[1]: 2 -> 5",
            "- state.list[2]: 3",
            r#"+ state.new: {"a.b":1}"#,
        ];
        assert_eq!(found, expected);
        assert_eq!(lines(Some(old.clone()), Some(old)), [""; 0]);
    }

    #[test]
    fn what_appears_and_what_goes_is_told_member_by_member() {
        assert_eq!(lines(None, Some(json!({"a": 1, "b.c": 2}))), ["+ a: 1", r#"+ ["b.c"]: 2"#]);
        assert_eq!(lines(Some(json!({"a": 1})), None), ["- a: 1"]);
        assert_eq!(lines(Some(json!(1)), Some(json!({}))), ["~ : 1 -> {}"]);
        assert_eq!(lines(None, None), [""; 0]);
    }

    #[test]
    fn many_differences_are_counted_and_long_values_are_cut() {
        let list = |n: u64| json!((0..1_000).map(|at| at * n).collect::<Vec<_>>());
        let found = lines(Some(list(1)), Some(list(2)));
        assert_eq!((found.len(), found[200].as_str()), (201, "… and 799 more differences"));
        let found = lines(None, Some(json!({ "a": "x".repeat(1_000) })));
        assert!(found[0].chars().count() < 300 && found[0].ends_with("… (1002 characters)"), "{found:?}");
    }
}
