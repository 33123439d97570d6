//! A length of time as a person writes it in a configuration: `250ms`, `30s`, `5m`, `2h`, `1d`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, de::Error};

/// A length of time in whole milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(u64);

/// Text that is not a length of time.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a length of time: write a whole number and a unit, like 250ms, 30s, 5m, 2h or 1d")]
pub struct SpanError(String);

/// The units, the longest suffix first, each with its milliseconds.
const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

impl Span {
    /// From milliseconds.
    pub const fn from_ms(ms: u64) -> Self {
        Self(ms)
    }

    /// In milliseconds.
    pub const fn ms(self) -> u64 {
        self.0
    }
}

impl FromStr for Span {
    type Err = SpanError;

    fn from_str(text: &str) -> Result<Self, SpanError> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let unit_ms = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, ms)| *ms);
        number
            .parse::<u64>()
            .ok()
            .zip(unit_ms)
            .and_then(|(number, ms)| number.checked_mul(ms))
            // A span is added to times, which are signed.
            .filter(|ms| i64::try_from(*ms).is_ok())
            .map(Self)
            .ok_or_else(|| SpanError(text.to_owned()))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, unit_ms) =
            UNITS.iter().rev().find(|(_, ms)| self.0 > 0 && self.0.is_multiple_of(*ms)).unwrap_or(&UNITS[0]);
        write!(f, "{}{name}", self.0 / unit_ms)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_back_what_they_write() {
        for text in ["250ms", "30s", "5m", "2h", "1d", "0ms"] {
            assert_eq!(text.parse::<Span>().unwrap().to_string(), text);
        }
        assert_eq!("90s".parse::<Span>().unwrap(), Span::from_ms(90_000));
    }

    #[test]
    fn a_wrong_span_is_refused_with_an_example() {
        for text in ["", "5", "m", "5 m", "-5m", "1.5h", "5min", "99999999999999999999s", "99999999999999d"] {
            assert!(text.parse::<Span>().unwrap_err().to_string().contains("5m"), "{text}");
        }
    }
}
