//! What a dead letter looks like on the wire: the original payload and headers, and in headers of its
//! own the reason, the JSON path, and where the original stands.
//!
//! | header | value |
//! |---|---|
//! | `Farside-Reason` | why it could not be taken in, and what to do (one line) |
//! | `Farside-Path` | JSON path or header of the fault |
//! | `Farside-Origin` | `stream:seq` of the original |
//! | `Farside-Origin-Subject` | the subject of the original |
//! | `Farside-Consumer` | who could not take it in |
//! | `Nats-Msg-Id` | `stream:seq/consumer/time`, so it is stored once; a log that was rewound uses a place again, at another time |
//!
//! The original's own headers follow as they were, except `Nats-…` and `Farside-…`, which get
//! `Farside-Original-` in front. A header that cannot be sent at all is left out, and so is what would
//! make the dead letter too large to be stored; `Farside-Cut: yes` says so. The log has the whole.

use bus_schema::{Name, stream::MESSAGE_BYTES_MAX, subject};

use crate::{LogMessage, Outgoing};

/// Longest reason that is written; the rest is cut off, so that a dead letter is always storable.
const REASON_BYTES_MAX: usize = 2_048;
/// Most bytes of the original's headers that are kept.
const HEADERS_BYTES_MAX: usize = 16 << 10;
/// The stem of a dead letter whose original's subject has none.
const NO_STEM: &str = "other";

/// Header: why it could not be taken in.
pub const REASON: &str = "Farside-Reason";
/// Header: JSON path or header of the fault.
pub const PATH: &str = "Farside-Path";
/// Header: `stream:seq` of the original.
pub const ORIGIN: &str = "Farside-Origin";
/// Header: the subject of the original.
pub const ORIGIN_SUBJECT: &str = "Farside-Origin-Subject";
/// Header: who could not take it in.
pub const CONSUMER: &str = "Farside-Consumer";
/// Header: something of the original did not fit.
pub const CUT: &str = "Farside-Cut";
/// What is put in front of an original's header that would be taken for one of the dead letter's.
pub const ORIGINAL: &str = "Farside-Original-";

/// Why a message cannot be taken in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter<'a> {
    /// The target whose dead letters it joins.
    pub target: &'a Name,
    /// Who could not take it in.
    pub consumer: &'a Name,
    /// Why, and what to do.
    pub reason: &'a str,
    /// JSON path or header of the fault.
    pub path: &'a str,
}

impl DeadLetter<'_> {
    /// The dead letter of `original`, to be published to
    /// [`dead_letter_stream`](subject::dead_letter_stream) before the original is given up.
    pub fn of(&self, original: &LogMessage) -> Outgoing {
        let origin = format!("{}:{}", original.stream(), original.seq());
        let mut headers = vec![
            (REASON.to_owned(), one_line(self.reason)),
            (PATH.to_owned(), one_line(self.path)),
            (ORIGIN.to_owned(), origin.clone()),
            (ORIGIN_SUBJECT.to_owned(), original.subject().to_owned()),
            (CONSUMER.to_owned(), self.consumer.to_string()),
        ];
        let mut room = HEADERS_BYTES_MAX;
        let mut cut = false;
        for (name, value) in original.headers().into_iter().filter(|(name, value)| is_sendable(name, value)) {
            match room.checked_sub(ORIGINAL.len() + name.len() + value.len()) {
                Some(left) => {
                    room = left;
                    headers.push((kept_name(name), value.to_owned()));
                }
                None => cut = true,
            }
        }
        let body = original.body().slice(..original.body().len().min(MESSAGE_BYTES_MAX));
        if cut || body.len() < original.body().len() {
            headers.push((CUT.to_owned(), "yes".to_owned()));
        }
        Outgoing {
            subject: subject::dead_letter(self.target, self.consumer, stem_of(original.subject())),
            headers,
            body,
            message_id: format!("{origin}/{}/{}", self.consumer, original.stored_at().unix_ms()),
        }
    }
}

/// The fifth part of `far.v1.<site>.evt.<cluster>.<stem>…`, or the part behind `tgt`; dead letters are sorted by it.
fn stem_of(subject: &str) -> &str {
    let mut parts = subject.split('.').skip(3);
    let stem = match parts.next() {
        Some("evt") => parts.nth(1),
        Some("tgt") => parts.next(),
        _ => None,
    };
    stem.filter(|stem| stem.parse::<bus_schema::Stem>().is_ok()).unwrap_or(NO_STEM)
}

fn kept_name(name: &str) -> String {
    let starts =
        |prefix: &str| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    if starts("Nats-") || starts("Farside-") { format!("{ORIGINAL}{name}") } else { name.to_owned() }
}

fn is_sendable(name: &str, value: &str) -> bool {
    name.parse::<async_nats::HeaderName>().is_ok() && value.parse::<async_nats::HeaderValue>().is_ok()
}

fn one_line(text: &str) -> String {
    let end = text.floor_char_boundary(REASON_BYTES_MAX);
    text[..end].replace(|c: char| c.is_control(), " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use bus_schema::Timestamp;
    use bytes::Bytes;

    #[test]
    fn a_dead_letter_holds_the_original_and_why_and_where() {
        let headers = b"NATS/1.0\r\nce-id: 7\r\nNats-Msg-Id: dc1/7\r\nbad name: x\r\n\r\n";
        let subject = "far.v1.local.evt.dc1.resource.tok.changed".to_owned();
        let body = Bytes::from_static(b"{");
        let original = LogMessage::fetched("LOG".into(), 9, Timestamp::default(), subject, headers, body);
        let (target, consumer) = ("east".parse().unwrap(), "pump".parse().unwrap());
        let letter = DeadLetter { target: &target, consumer: &consumer, reason: "not\nJSON", path: "$" };
        let letter = letter.of(&original);
        assert_eq!(letter.subject, "far.v1.east.dlq.pump.resource");
        assert_eq!((&*letter.body, &*letter.message_id), (&b"{"[..], "LOG:9/pump/0"));
        let expected = [
            (REASON, "not JSON"),
            (PATH, "$"),
            (ORIGIN, "LOG:9"),
            (ORIGIN_SUBJECT, "far.v1.local.evt.dc1.resource.tok.changed"),
            (CONSUMER, "pump"),
            ("ce-id", "7"),
            ("Farside-Original-Nats-Msg-Id", "dc1/7"),
        ];
        let found: Vec<_> = letter.headers.iter().map(|(name, value)| (&**name, &**value)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_dead_letter_of_the_largest_message_fits_into_the_log() {
        let mut headers = b"NATS/1.0\r\n".to_vec();
        headers.extend(format!("a: {}\r\nb: 1\r\n\r\n", "x".repeat(HEADERS_BYTES_MAX)).bytes());
        let body = Bytes::from(vec![b'x'; 1 << 20]);
        let original =
            LogMessage::fetched("LOG".into(), 9, Timestamp::default(), "a.b".into(), &headers, body);
        let name = "pump".parse().unwrap();
        let reason = "é".repeat(5_000);
        let letter = DeadLetter { target: &name, consumer: &name, reason: &reason, path: "$" }.of(&original);
        let headers: usize = letter.headers.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
        assert!(letter.body.len() + headers < 1 << 20);
        assert!(letter.headers.contains(&(CUT.to_owned(), "yes".to_owned())));
        assert!(letter.headers.contains(&("b".to_owned(), "1".to_owned())));
    }

    #[test]
    fn dead_letters_are_sorted_by_the_stem_of_the_original() {
        for (subject, stem) in [
            ("far.v1.local.tgt.log.x.parked", "log"),
            ("far.v1.local.evt.dc1.rocket.x.y", "other"),
            ("far.v1", "other"),
        ] {
            assert_eq!(stem_of(subject), stem, "{subject}");
        }
    }
}
