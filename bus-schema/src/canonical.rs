//! The canonical JSON text of a state (RFC 8785, JCS) and its hash: two parties that hold the same
//! state get the same bytes in any language.
//!
//! RFC 8785 writes numbers as IEEE 754 doubles: integers beyond 2^53 lose digits in the canonical
//! text (the revision still tells them apart, and the stored state keeps the text as it came).

use serde_json::value::RawValue;

use crate::hash::Hash32;

/// The RFC 8785 text of a JSON value. Errors: `serde_json`'s, for a number that no double can hold.
pub fn text<T: serde::Serialize>(value: &T) -> serde_json::Result<String> {
    serde_json_canonicalizer::to_string(value)
}

/// The state hash of a resource: SHA-256 over the RFC 8785 text of its state.
///
/// Errors: `serde_json`'s, for text that is not JSON or a number that no double can hold.
pub fn state_hash(state: &RawValue) -> serde_json::Result<Hash32> {
    let value: serde_json::Value = serde_json::from_str(state.get())?;
    Ok(Hash32::of(text(&value)?.as_bytes()))
}
