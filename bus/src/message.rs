//! A message of a log as a reader gets it. Must not know what the message says.

use std::sync::Arc;

use async_nats::HeaderMap;
use bus_schema::{Hash32, Timestamp, envelope::Stored};
use bytes::Bytes;

/// One stored message: where it stands, when it was stored, and what it carries.
#[derive(Clone, Debug)]
pub struct LogMessage {
    stream: Arc<str>,
    seq: u64,
    stored_at: Timestamp,
    subject: async_nats::Subject,
    headers: Headers,
    body: Bytes,
}

/// Headers as the client library parsed them, or as this room had to read them itself.
#[derive(Clone, Debug)]
enum Headers {
    Parsed(Option<HeaderMap>),
    Raw(Vec<(String, String)>),
}

impl LogMessage {
    /// A message that a consumer delivered.
    pub(crate) fn delivered(stream: Arc<str>, place: Place, message: async_nats::Message) -> Self {
        let Place { stream_seq: seq, stored_at, .. } = place;
        let async_nats::Message { subject, headers, payload: body, .. } = message;
        Self { stream, seq, stored_at, subject, headers: Headers::Parsed(headers), body }
    }

    /// A message that was asked for by its sequence; `headers` is the header block as stored.
    pub(crate) fn fetched(
        stream: Arc<str>,
        seq: u64,
        stored_at: Timestamp,
        subject: String,
        headers: &[u8],
        body: Bytes,
    ) -> Self {
        let headers = Headers::Raw(read_headers(headers));
        Self { stream, seq, stored_at, subject: subject.into(), headers, body }
    }

    /// A message that was read before and kept, which the log need not hold any more.
    pub fn kept(
        stream: &str,
        seq: u64,
        stored_at: Timestamp,
        subject: String,
        headers: Vec<(String, String)>,
        body: Vec<u8>,
    ) -> Self {
        let (headers, body) = (Headers::Raw(headers), body.into());
        Self { stream: stream.into(), seq, stored_at, subject: subject.into(), headers, body }
    }

    /// Its sequence in the stream, from 1.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// The stream's name.
    pub fn stream(&self) -> &str {
        &self.stream
    }

    /// The subject that it is stored under.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// When the log stored it.
    pub fn stored_at(&self) -> Timestamp {
        self.stored_at
    }

    /// The payload.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The headers, in no particular order; a header that is there twice comes twice.
    pub fn headers(&self) -> Vec<(&str, &str)> {
        match &self.headers {
            Headers::Parsed(None) => Vec::new(),
            Headers::Parsed(Some(map)) => {
                let mut headers = Vec::with_capacity(map.len());
                headers.extend(map.iter().flat_map(|(name, values)| {
                    let name: &str = name.as_ref();
                    values.iter().map(move |value| (name, value.as_str()))
                }));
                headers
            }
            Headers::Raw(pairs) => pairs.iter().map(|(name, value)| (&**name, &**value)).collect(),
        }
    }

    /// Lends the message to the contract's reading code.
    pub fn with_stored<R>(&self, read: impl FnOnce(Stored<'_>) -> R) -> R {
        let headers = self.headers();
        read(Stored {
            subject: &self.subject,
            headers: &headers,
            body: &self.body,
            stream: &self.stream,
            seq: self.seq,
            stored_at: self.stored_at,
        })
    }

    /// The message's hash ([`Stored::hash`]): what a remembered position is compared with.
    pub fn hash(&self) -> Hash32 {
        self.with_stored(|stored| stored.hash())
    }
}

/// Reads a header block the way the client library does, but takes what it refuses: bytes that are
/// not UTF-8 are replaced, a line without a colon is left out. A reader must get past any message.
fn read_headers(block: &[u8]) -> Vec<(String, String)> {
    let text = String::from_utf8_lossy(block);
    let mut lines = text.lines().skip(1).peekable();
    let mut headers = Vec::new();
    while let Some(line) = lines.next() {
        let Some((name, value)) = line.split_once(':') else { continue };
        let mut value = value.trim_start().to_owned();
        while let Some(more) = lines.next_if(|line| line.starts_with(char::is_whitespace)) {
            value.push_str(more);
        }
        value.truncate(value.trim_end().len());
        headers.push((name.to_owned(), value));
    }
    headers
}

/// Where a delivered message stands, read from its reply subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Its sequence in the stream.
    pub(crate) stream_seq: u64,
    /// Its number among the consumer's deliveries, from 1 without a gap.
    pub(crate) consumer_seq: u64,
    /// How often it was delivered, from 1.
    pub(crate) deliveries: u64,
    /// When the stream stored it.
    pub(crate) stored_at: Timestamp,
    /// How many more the stream had for the consumer when it was delivered.
    pub(crate) pending: u64,
}

impl Place {
    /// Reads `$JS.ACK.<stream>.<consumer>.<deliveries>.<stream seq>.<consumer seq>.<time>.<pending>` (v1), or the
    /// same behind `<domain>.<account>` and before any more parts (v2). None: not a delivery.
    pub(crate) fn read(reply: &str) -> Option<Self> {
        const V1_PARTS: usize = 7;
        let rest = reply.strip_prefix("$JS.ACK.")?;
        let count = rest.bytes().filter(|byte| *byte == b'.').count() + 1;
        let before = match count {
            V1_PARTS => 2,
            count if count >= V1_PARTS + 2 => 4,
            _ => return None,
        };
        let mut numbers = rest.split('.').skip(before);
        let mut number = || numbers.next()?.parse::<u64>().ok();
        let (deliveries, stream_seq, consumer_seq) = (number()?, number()?, number()?);
        let (nanos, pending) = (number()?, number()?);
        let stored_at = Timestamp::from_unix_ms(i64::try_from(nanos / 1_000_000).ok()?);
        Some(Self { stream_seq, consumer_seq, deliveries, stored_at, pending })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_from_both_forms_of_the_reply_subject() {
        let expected = Place {
            stream_seq: 17,
            consumer_seq: 5,
            deliveries: 2,
            stored_at: Timestamp::from_unix_ms(1_700_000_000_123),
            pending: 99,
        };
        for reply in [
            "$JS.ACK.LOG.reader.2.17.5.1700000000123456789.99",
            "$JS.ACK._.ACCHASH.LOG.reader.2.17.5.1700000000123456789.99",
            "$JS.ACK.hub.ACCHASH.LOG.reader.2.17.5.1700000000123456789.99.random",
        ] {
            assert_eq!(Place::read(reply), Some(expected), "{reply}");
        }
        for reply in ["", "_INBOX.x", "$JS.ACK.LOG.reader.2.17.5", "$JS.ACK.LOG.reader.a.b.c.d.e"] {
            assert_eq!(Place::read(reply), None, "{reply}");
        }
    }

    fn message(headers: &[u8], body: &'static [u8]) -> LogMessage {
        let stored_at = Timestamp::default();
        LogMessage::fetched("LOG".into(), 1, stored_at, "a.b".into(), headers, Bytes::from_static(body))
    }

    #[test]
    fn the_hash_covers_headers_and_body_but_not_the_order_of_headers() {
        let hash = |headers: &[u8], body| message(headers, body).hash();
        let first = hash(b"NATS/1.0\r\na: 1\r\nb: 2\r\n\r\n", b"x");
        assert_eq!(first, hash(b"NATS/1.0\r\nb: 2\r\na: 1\r\n\r\n", b"x"));
        assert_ne!(first, hash(b"NATS/1.0\r\na: 1\r\nb: 3\r\n\r\n", b"x"));
        assert_ne!(first, hash(b"NATS/1.0\r\na: 1\r\nb: 2\r\n\r\n", b"y"));
        assert_ne!(hash(b"", b"x"), hash(b"NATS/1.0\r\nx: \r\n\r\n", b""));
    }

    #[test]
    fn headers_that_no_client_library_reads_are_read_as_far_as_they_go() {
        let message = message(b"NATS/1.0\r\nce-id:  a b \r\nbroken\r\nname: \xff\r\n  more\r\n\r\n", b"");
        assert_eq!(message.headers(), vec![("ce-id", "a b"), ("name", "\u{fffd}  more")]);
    }
}
