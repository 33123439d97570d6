//! Redriven copies: how a message that was parked comes again, and how what its publisher got wrong is mended.
//!
//! A copy is the original to the letter (subject, headers, body), so whatever is sealed over it still holds and a
//! reader that knows nothing of copies sees a repeat. These headers come on top:
//!
//! | header | value |
//! |---|---|
//! | `Farside-Redrive` | `stream:seq` of the original, in the same log |
//! | `Farside-Redrive-Actor` | who asked for it |
//! | `Farside-Redrive-Patch` | RFC 6902 operations, as JSON: applied to the body before it is read; none = read as it is |
//! | `Farside-Redrive-Upcaster` | SHA-256 and name of the file that the patch is from |
//!
//! The patch travels with the copy, so that no configuration decides what the log means.
//! Must not know: what was parked, and what a copy does to a pool.

pub mod upcaster;

use std::borrow::Cow;

use json_patch::Patch;
use serde_json::Value;

use crate::{envelope::EnvelopeError, fact::log::parked::Upcaster, hash::Hash32};

/// Header: `stream:seq` of the original.
pub const REDRIVE: &str = "Farside-Redrive";
/// Header: who asked for the copy.
pub const ACTOR: &str = "Farside-Redrive-Actor";
/// Header: what is changed in the body.
pub const PATCH: &str = "Farside-Redrive-Patch";
/// Header: where the patch is from.
pub const UPCASTER: &str = "Farside-Redrive-Upcaster";

/// Longest patch, in bytes of JSON: with it the copy of the largest message still fits into a message.
pub const PATCH_BYTES_MAX: usize = 8 << 10;
/// Longest name of an upcaster and of who asks, in bytes: both stand in every fact.
pub const NAME_BYTES_MAX: usize = 256;

/// How much is told of a number that would be rounded, in bytes: it may be as long as a body.
const NUMBER_BYTES_SHOWN: usize = 64;

/// What makes a message a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redrive<'a> {
    /// The stream of the original.
    pub stream: &'a str,
    /// Its sequence.
    pub seq: u64,
    /// Who asked for it.
    pub actor: &'a str,
    /// RFC 6902 operations as JSON; none = the body is read as it is.
    pub patch: Option<&'a str>,
    /// Where the patch is from.
    pub upcaster: Option<Upcaster>,
}

impl<'a> Redrive<'a> {
    /// What the headers of a message say; none = it is no copy. Errors: a header that is none of ours.
    pub fn read(headers: &[(&'a str, &'a str)]) -> Option<Result<Self, EnvelopeError>> {
        let place = header(headers, REDRIVE)?;
        Some(Self::of(place, headers))
    }

    fn of(place: &'a str, headers: &[(&'a str, &'a str)]) -> Result<Self, EnvelopeError> {
        let read = place.rsplit_once(':').and_then(|(stream, seq)| Some((stream, seq.parse().ok()?)));
        let (stream, seq) = read.ok_or_else(|| wrong(REDRIVE, "names no place; write stream:sequence"))?;
        let upcaster = header(headers, UPCASTER).map(|text| {
            let (sha256, name) = text.split_once(' ').unwrap_or((text, ""));
            let sha256: Hash32 =
                sha256.parse().map_err(|_| wrong(UPCASTER, "is no SHA-256 and a name behind it"))?;
            Ok(Upcaster { name: bounded(name).to_owned(), sha256 })
        });
        // Whoever publishes a copy may write into it what they like: what is read of it stands in facts.
        let actor = bounded(header(headers, ACTOR).unwrap_or_default());
        Ok(Self { stream, seq, actor, patch: header(headers, PATCH), upcaster: upcaster.transpose()? })
    }

    /// The headers of the copy, behind those of the original.
    pub fn headers(&self) -> Vec<(String, String)> {
        let mut headers = vec![
            (REDRIVE.to_owned(), format!("{}:{}", self.stream, self.seq)),
            (ACTOR.to_owned(), one_line(self.actor)),
        ];
        headers.extend(self.patch.map(|patch| (PATCH.to_owned(), patch.to_owned())));
        let of = |Upcaster { name, sha256 }: &Upcaster| format!("{sha256} {}", one_line(name));
        headers.extend(self.upcaster.as_ref().map(|upcaster| (UPCASTER.to_owned(), of(upcaster))));
        headers
    }

    /// The body that is read instead of the copy's own. Errors: the patch does not fit it.
    pub fn mended<'b>(&self, body: &'b [u8]) -> Result<Cow<'b, [u8]>, EnvelopeError> {
        let Some(patch) = self.patch else { return Ok(Cow::Borrowed(body)) };
        let patched = read_patch(patch).and_then(|patch| patched(body, &patch));
        patched.map(Cow::Owned).map_err(|why| wrong(PATCH, &format!("does not fit the body: {why}")))
    }
}

fn wrong(name: &str, why: &str) -> EnvelopeError {
    EnvelopeError { reason: format!("the header {name} {why}"), path: name.to_owned() }
}

fn header<'a>(headers: &[(&'a str, &'a str)], name: &str) -> Option<&'a str> {
    let is = |found: &str| found.len() == name.len() && found.eq_ignore_ascii_case(name);
    headers.iter().find(|(found, _)| is(found)).map(|(_, value)| *value)
}

fn one_line(text: &str) -> String {
    let end = text.floor_char_boundary(NAME_BYTES_MAX);
    text[..end].replace(|c: char| c.is_control(), " ")
}

/// What others wrote, as far as [`one_line`] would have left it as it is.
fn bounded(text: &str) -> &str {
    let end = text.floor_char_boundary(NAME_BYTES_MAX);
    text[..end].split(char::is_control).next().unwrap_or_default()
}

/// Reads RFC 6902 operations. Errors: what they are not, in words.
pub fn read_patch(json: &str) -> Result<Patch, String> {
    if json.len() > PATCH_BYTES_MAX {
        return Err(format!("it has {} bytes, more than {PATCH_BYTES_MAX}", json.len()));
    }
    serde_json::from_str(json).map_err(|error| format!("it is no list of RFC 6902 operations: {error}"))
}

/// A body with the operations done to it. Errors: it is no JSON, has a number that would come out as another one, or
/// an operation finds not what it needs; none is done then.
fn patched(body: &[u8], patch: &Patch) -> Result<Vec<u8>, String> {
    let mut value: Value =
        serde_json::from_slice(body).map_err(|error| format!("the body is not JSON: {error}"))?;
    if let Some(number) = numbers(body).find(|number| !survives(number)) {
        let number = &number[..number.floor_char_boundary(NUMBER_BYTES_SHOWN)];
        return Err(format!("the number {number} of the body would be rounded; have it sent again instead"));
    }
    json_patch::patch(&mut value, patch).map_err(|error| error.to_string())?;
    serde_json::to_vec(&value).map_err(|error| error.to_string())
}

/// The numbers in a text that is JSON, as they are written.
fn numbers(json: &[u8]) -> impl Iterator<Item = &str> {
    let mut rest = json;
    std::iter::from_fn(move || {
        loop {
            match *rest.first()? {
                b'"' => rest = behind_string(&rest[1..]),
                b'-' | b'0'..=b'9' => {
                    let is_of = |byte: &u8| byte.is_ascii_digit() || b"+-.eE".contains(byte);
                    let end = rest.iter().position(|byte| !is_of(byte)).unwrap_or(rest.len());
                    let (number, behind) = rest.split_at(end);
                    rest = behind;
                    return std::str::from_utf8(number).ok();
                }
                _ => rest = &rest[1..],
            }
        }
    })
}

/// What follows a string whose opening quote was read.
fn behind_string(mut rest: &[u8]) -> &[u8] {
    while let Some((byte, behind)) = rest.split_first() {
        rest = match byte {
            b'"' => return behind,
            b'\\' => behind.get(1..).unwrap_or_default(),
            _ => behind,
        };
    }
    rest
}

/// Whether a number that is read and written again is the same one.
fn survives(number: &str) -> bool {
    match serde_json::from_str::<Value>(number) {
        Ok(Value::Number(read)) if number.bytes().any(|byte| b".eE".contains(&byte)) => {
            read.as_f64() == number.parse().ok()
        }
        Ok(Value::Number(read)) => read.to_string() == number || number == "-0",
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOVE: &str = r#"[{"op":"move","from":"/name","path":"/id"}]"#;

    fn copy(patch: Option<&str>) -> Redrive<'_> {
        let upcaster = Upcaster { name: "ids".to_owned(), sha256: Hash32::of(b"file") };
        Redrive { stream: "FARSIDE_LOCAL", seq: 7, actor: "kim", patch, upcaster: Some(upcaster) }
    }

    fn read(headers: &[(String, String)]) -> Option<Result<Redrive<'_>, EnvelopeError>> {
        Redrive::read(&headers.iter().map(|(name, value)| (&**name, &**value)).collect::<Vec<_>>())
    }

    #[test]
    fn a_copy_reads_back_what_it_writes_whatever_the_case_of_its_headers() {
        let mut headers = copy(Some(MOVE)).headers();
        assert_eq!(read(&headers), Some(Ok(copy(Some(MOVE)))));
        headers.iter_mut().for_each(|(name, _)| name.make_ascii_lowercase());
        assert_eq!(read(&headers), Some(Ok(copy(Some(MOVE)))));
        assert_eq!(read(&[("ce-id".to_owned(), "7".to_owned())]), None);
        let broken = [(REDRIVE.to_owned(), "somewhere".to_owned())];
        assert!(read(&broken).unwrap().unwrap_err().reason.contains("stream:sequence"));
        let long = Redrive { actor: "a\nb", ..copy(None) }.headers();
        assert_eq!(long[1].1, "a b", "a header is one line");
    }

    #[test]
    fn what_somebody_else_wrote_into_a_copy_is_no_longer_than_what_is_written_here() {
        let mut headers = copy(None).headers();
        headers[1].1 = "ä".repeat(NAME_BYTES_MAX);
        headers[2].1 = format!("{} {}", Hash32::of(b"file"), "x".repeat(1 << 20));
        let redrive = read(&headers).unwrap().unwrap();
        assert_eq!((redrive.actor.len(), redrive.upcaster.unwrap().name.len()), (256, 256));
        headers[1].1 = "kim\nand more".to_owned();
        assert_eq!(read(&headers).unwrap().unwrap().actor, "kim");
    }

    #[test]
    fn a_patch_changes_what_it_names_and_no_number_beside_it() {
        let body = br#"{"name":"a","n":18446744073709551615,"f":0.1,"s":"1e999 \" 99999999999999999999"}"#;
        let mended = copy(Some(MOVE)).mended(body).unwrap();
        let mended: Value = serde_json::from_slice(&mended).unwrap();
        assert_eq!((&mended["id"], mended["n"].as_u64()), (&Value::from("a"), Some(u64::MAX)));
        assert_eq!(copy(None).mended(b"not json").unwrap(), &b"not json"[..], "without one it is as it came");
        let large = br#"{"name":"a","n":99999999999999999999}"#;
        let error = copy(Some(MOVE)).mended(large).unwrap_err();
        assert!(error.reason.contains("99999999999999999999 of the body would be rounded"), "{error}");
    }

    #[test]
    fn a_patch_that_does_not_fit_says_why() {
        for (body, patch, why) in [
            ("{}", MOVE, "does not fit"),
            ("nonsense", MOVE, "not JSON"),
            ("{}", r#"[{"op":"explode"}]"#, "RFC 6902"),
            ("{}", r#"[{"op":"test","path":"/a","value":1}]"#, "does not fit"),
        ] {
            let error = copy(Some(patch)).mended(body.as_bytes()).unwrap_err();
            assert!(error.reason.contains(why) && error.path == PATCH, "{error}");
        }
    }
}
