//! The revision under which a state is reported. The state hash stands on RFC 8785 text, whose numbers are
//! doubles: two integers beyond 2^53 may have one hash. A revision tells such states apart.
//!
//! Must not know: what was reported before.

use bus_schema::{Hash32, id::REVISION_BYTES_MAX};
use serde_json::Value;

/// Hex digits of a hash that stand for a revision.
const HEX: usize = 32;
/// Beyond this a double stands for more than one integer (RFC 7493): 2^53 - 1.
const EXACT_MAX: u64 = (1 << 53) - 1;

/// The revision of a state: the source's own, or what stands for it. `text` is the state as it travels.
pub(super) fn of(own: Option<String>, state: &Value, text: &str, state_hash: &Hash32) -> String {
    let own = own.filter(|own| !own.is_empty());
    if !holds_inexact(state) {
        return own.unwrap_or_else(|| short(state_hash));
    }
    let exact = short(&Hash32::of(text.as_bytes()));
    match own {
        None => exact,
        // It breaks the rule as it is, and is told so.
        Some(own) if own.len() > REVISION_BYTES_MAX => own,
        // Whoever writes a file by hand may leave the revision as it was.
        Some(own) => {
            let both = format!("{own}~{exact}");
            if both.len() <= REVISION_BYTES_MAX { both } else { short(&Hash32::of(both.as_bytes())) }
        }
    }
}

fn short(hash: &Hash32) -> String {
    hash.to_string()[..HEX].to_owned()
}

/// Whether a state holds an integer that no double tells from its neighbours.
fn holds_inexact(value: &Value) -> bool {
    match value {
        Value::Number(number) => {
            let magnitude = number.as_u64().or_else(|| number.as_i64().map(i64::unsigned_abs));
            magnitude.is_some_and(|magnitude| magnitude > EXACT_MAX)
        }
        Value::Array(items) => items.iter().any(holds_inexact),
        Value::Object(fields) => fields.values().any(holds_inexact),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn revision(own: Option<&str>, state: Value) -> String {
        of(own.map(str::to_owned), &state, &state.to_string(), &Hash32::ZERO)
    }

    #[test]
    fn states_that_differ_in_one_large_integer_have_different_revisions() {
        let large = |n: i64| json!({"wwn": [n]});
        for own in [None, Some("7"), Some(&"7".repeat(REVISION_BYTES_MAX))] {
            for (one, other) in [(9_007_199_254_740_993, 9_007_199_254_740_992), (i64::MIN, i64::MIN + 1)] {
                let (one, other) = (revision(own, large(one)), revision(own, large(other)));
                assert_ne!(one, other);
                assert!(one.len() <= REVISION_BYTES_MAX, "{one}");
            }
        }
        assert!(revision(Some("7"), large(i64::MAX)).starts_with("7~"));
        assert_ne!(revision(Some("7"), large(i64::MAX)), revision(Some("8"), large(i64::MAX)));
    }

    #[test]
    fn every_other_state_has_the_revision_of_its_source_or_of_its_hash() {
        for state in [json!({"n": EXACT_MAX}), json!(-9_007_199_254_740_991_i64), json!(1e300), json!("text")]
        {
            assert_eq!(revision(Some("7"), state.clone()), "7");
            assert_eq!(revision(Some(""), state.clone()), "0".repeat(HEX));
            assert_eq!(revision(None, state), "0".repeat(HEX));
        }
    }
}
