//! Text forms: how small types of the contract travel as JSON strings. Knows serde and schemars only.

/// Gives a type with `FromStr` and `Display` its JSON form: a string that is checked on the way in,
/// and a JSON Schema with the pattern that the check obeys.
macro_rules! text_form {
    ($type:ty, $name:literal, $pattern:literal, $description:literal) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        impl schemars::JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                $name.into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({
                    "type": "string",
                    "pattern": $pattern,
                    "description": $description,
                })
            }
        }
    };
}
pub(crate) use text_form;

/// Why a text cannot be a JSON object, by its first byte: serde reads a struct from an array, too, which no
/// schema allows. None = it begins as one.
pub(crate) fn not_an_object(json: &[u8]) -> Option<String> {
    if json.trim_ascii_start().first() == Some(&b'{') {
        return None;
    }
    let read = serde_json::from_slice::<serde::de::IgnoredAny>(json);
    Some(read.map_or_else(|why| format!("it is not JSON: {why}"), |_| "it is not a JSON object".to_owned()))
}

/// The schema of a 64-bit number that travels as [`decimal`].
pub(crate) struct Decimal;

impl schemars::JsonSchema for Decimal {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Decimal".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": "^(0|[1-9][0-9]{0,19})$" })
    }
}

/// The parts of a text between an ASCII mark. `str::split` is made for long texts; subjects and sources
/// have parts of a few bytes, and are taken apart for every event.
pub(crate) fn parts(text: &str, mark: u8) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let end = text.bytes().position(|byte| byte == mark);
        let (part, behind) = end.map_or((text, None), |end| (&text[..end], Some(&text[end + 1..])));
        rest = behind;
        Some(part)
    })
}

/// The largest count that is accepted from outside: 2^53, nine thousand million million. It is what every
/// JSON reader can hold, and sums of such numbers stay far from the end of 64 bits.
pub(crate) const COUNT_MAX: u64 = 1 << 53;

/// Counts and sizes as decimal strings, at most [`COUNT_MAX`].
pub(crate) mod count {
    use serde::{Deserializer, de::Error};

    pub(crate) use super::decimal::serialize;

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        let number = super::decimal::deserialize(from)?;
        if number > super::COUNT_MAX {
            let most = super::COUNT_MAX;
            return Err(D::Error::custom(format!("{number} is too large; send at most {most} (2^53)")));
        }
        Ok(number)
    }
}

/// 64-bit numbers as decimal strings: JSON readers of other languages round numbers above 2^53.
pub(crate) mod decimal {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(number: &u64, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(number)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        parse(&text).ok_or_else(|| D::Error::custom(format!("{text:?} is not a decimal 64-bit number")))
    }

    /// Reads a decimal number without sign, blanks or leading zeros, so that each has one text.
    pub(crate) fn parse(text: &str) -> Option<u64> {
        let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text.len() == 1 || !text.starts_with('0'));
        plain.then(|| text.parse().ok()).flatten()
    }
}
