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
    if is_canonical(state.get()) {
        return Ok(Hash32::of(state.get().as_bytes()));
    }
    let value: serde_json::Value = serde_json::from_str(state.get())?;
    Ok(Hash32::of(text(&value)?.as_bytes()))
}

/// Whether JSON text is its own RFC 8785 form, as agents send it. `false` means "perhaps not": text
/// with escapes, fractions, large numbers or keys that are not ASCII is not looked at closely.
fn is_canonical(json: &str) -> bool {
    /// Deeper text is left to the JSON reader, which has a limit of its own.
    const DEPTH_MAX: u8 = 64;
    let mut scan = Scan(json.as_bytes());
    scan.value(DEPTH_MAX).is_some() && scan.0.is_empty()
}

/// The text behind what was found canonical. Each step answers none when it finds what may not be.
struct Scan<'a>(&'a [u8]);

impl<'a> Scan<'a> {
    fn value(&mut self, depth: u8) -> Option<()> {
        let depth = depth.checked_sub(1)?;
        match self.0.first()? {
            b'"' => self.string().map(drop),
            b'{' => self.object(depth),
            b'[' => self.array(depth),
            b't' => self.word(b"true"),
            b'f' => self.word(b"false"),
            b'n' => self.word(b"null"),
            _ => self.integer(),
        }
    }

    /// What stands between the quotes.
    fn string(&mut self) -> Option<&'a [u8]> {
        let rest = self.0.strip_prefix(b"\"")?;
        let end = rest.iter().position(|b| matches!(b, b'"' | b'\\'))?;
        self.0 = &rest[end..];
        self.word(b"\"")?;
        Some(&rest[..end])
    }

    fn object(&mut self, depth: u8) -> Option<()> {
        self.word(b"{")?;
        let mut last: Option<&[u8]> = None;
        while self.word(b"}").is_none() {
            if last.is_some() {
                self.word(b",")?;
            }
            let key = self.string()?;
            // Keys are sorted by UTF-16 units: for ASCII, by bytes. Equal ones are left to the reader.
            if !key.is_ascii() || last.is_some_and(|last| last >= key) {
                return None;
            }
            last = Some(key);
            self.word(b":")?;
            self.value(depth)?;
        }
        Some(())
    }

    fn array(&mut self, depth: u8) -> Option<()> {
        self.word(b"[")?;
        let mut first = true;
        while self.word(b"]").is_none() {
            if !first {
                self.word(b",")?;
            }
            first = false;
            self.value(depth)?;
        }
        Some(())
    }

    /// An integer that every double holds.
    fn integer(&mut self) -> Option<()> {
        const DIGITS_MAX: usize = 15;
        let digits = self.0.strip_prefix(b"-").unwrap_or(self.0);
        let length = digits.iter().take_while(|b| b.is_ascii_digit()).count();
        let has_sign = digits.len() < self.0.len();
        let is_zero = digits.first() == Some(&b'0');
        let (_, rest) = digits.split_at(length);
        let is_plain =
            (1..=DIGITS_MAX).contains(&length) && !matches!(rest.first(), Some(b'.' | b'e' | b'E'));
        self.0 = rest;
        (is_plain && (!is_zero || (length == 1 && !has_sign))).then_some(())
    }

    fn word(&mut self, word: &[u8]) -> Option<()> {
        self.0 = self.0.strip_prefix(word)?;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_is_taken_for_canonical_is_canonical() {
        for json in [
            "{}",
            "[]",
            "0",
            "-1",
            "true",
            "null",
            "\"ä 🚀\"",
            "[1,[],{}]",
            "999999999999999",
            r#"{"a":{"B":1,"a":[true,false]},"b":"x"}"#,
            r#"{"A":1,"a":2,"aa":3}"#,
            r#"{"":0}"#,
        ] {
            assert!(is_canonical(json), "{json}");
            let value: serde_json::Value = serde_json::from_str(json).unwrap();
            assert_eq!(text(&value).unwrap(), json);
        }
    }

    #[test]
    fn text_that_may_not_be_canonical_is_hashed_in_its_canonical_form() {
        for (json, canonical) in [
            ("1.0", "1"),
            ("-0", "0"),
            ("1e2", "100"),
            (" 1 ", "1"),
            ("[1, 2]", "[1,2]"),
            (r#"{"b":1,"a":2}"#, r#"{"a":2,"b":1}"#),
            (r#"{"a":1,"a":2}"#, r#"{"a":2}"#),
            (r#""\u0041""#, r#""A""#),
            (r#""a\/b""#, r#""a/b""#),
            ("{ }", "{}"),
            ("12345678901234567890", "12345678901234567000"),
            (r#"{"\u00e4":1}"#, r#"{"ä":1}"#),
            (r#"{"\ue000":1,"\ud83d\ude80":2}"#, "{\"🚀\":2,\"\u{e000}\":1}"),
        ] {
            assert!(!is_canonical(json), "{json}");
            let raw = RawValue::from_string(json.trim().to_owned()).unwrap();
            assert_eq!(state_hash(&raw).unwrap(), Hash32::of(canonical.as_bytes()), "{json}");
        }
        for broken in ["", "{", "[1", "[1,]", "{\"a\"}", "\"a", "tru", "1 1", "{,}", "-"] {
            assert!(!is_canonical(broken), "{broken}");
        }
    }
}
