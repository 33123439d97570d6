//! The envelope: a stored message of any of the three accepted forms, read as one CloudEvents 1.0 event.
//!
//! (a) *plain*: JSON data on the subject and nothing else; (b) *structured*: a CloudEvents content type,
//! or a JSON object with `specversion` "1.0", `id`, `source` and `type`; (c) *binary*: `ce-*` headers,
//! as Farside's own agents write them. Reading borrows from the message: the projector reads hundreds
//! of thousands of these a second.

use std::borrow::Cow;

use data_encoding::BASE64;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    chain::{ChainPoint, Link, Sealed},
    hash::Hash32,
    id::{OWNER_BYTES_MAX, Source, Stem, TenantId},
    subject::EventSubject,
    text::{COUNT_MAX, decimal, not_an_object},
    time::Timestamp,
};

/// The agent's name in the source of an event of plain form, which names none.
pub const PLAIN_AGENT: &str = "plain";
/// The CloudEvents version that Farside speaks.
pub const SPECVERSION: &str = "1.0";

/// A message as the log stores it.
#[derive(Clone, Copy, Debug)]
pub struct Stored<'a> {
    /// The NATS subject.
    pub subject: &'a str,
    /// The message's headers in any order; names in any case.
    pub headers: &'a [(&'a str, &'a str)],
    /// The payload.
    pub body: &'a [u8],
    /// The stream's name.
    pub stream: &'a str,
    /// The stream sequence.
    pub seq: u64,
    /// When the log stored it.
    pub stored_at: Timestamp,
}

/// Which of the accepted forms a message had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Data only.
    Plain,
    /// CloudEvents in the body.
    Structured,
    /// CloudEvents in the headers.
    Binary,
}

/// A message read as one event, whatever its form was.
#[derive(Clone, Debug)]
pub struct Envelope<'a> {
    /// The form it came in.
    pub form: Form,
    /// CloudEvents `id`; `stream:seq` for the plain form.
    pub id: Cow<'a, str>,
    /// CloudEvents `source`: who owns what the event says. A Farside source agrees with the subject.
    pub source: Cow<'a, str>,
    /// CloudEvents `type`, always `<stem>.<event>` of the subject.
    pub event_type: Cow<'a, str>,
    /// The parts of the subject.
    pub subject: EventSubject<'a>,
    /// CloudEvents `time`; when the log stored it, if the event has none.
    pub time: Timestamp,
    /// The event's place in its source's chain; none = *unchained*.
    pub link: Option<Link>,
    /// The event's hash, when it has a link.
    pub hash: Option<Hash32>,
    /// The synchronisation that the event answers (`farsync`).
    pub sync: Option<Cow<'a, str>>,
    /// The tenant that the entity belongs to (`fartenant`).
    pub tenant: Option<TenantId>,
    /// The event's data: JSON text.
    pub data: Cow<'a, [u8]>,
}

/// Why a message is not an event; the text goes into its dead letter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct EnvelopeError {
    /// What is wrong and what to do.
    pub reason: String,
    /// Where the fault is: a CloudEvents attribute by its name in whatever form the message has (in the binary
    /// one it is the header `ce-<name>`), another header, `subject`, or a JSON path.
    pub path: String,
}

fn reject(path: &str, reason: impl Into<String>) -> EnvelopeError {
    EnvelopeError { reason: reason.into(), path: path.to_owned() }
}

/// CloudEvents attributes as found, before they are checked.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Attributes<'a> {
    #[serde(borrow)]
    specversion: Option<Cow<'a, str>>,
    #[serde(borrow)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    source: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "type")]
    event_type: Option<Cow<'a, str>>,
    #[serde(borrow)]
    time: Option<Cow<'a, str>>,
    #[serde(borrow)]
    datacontenttype: Option<Cow<'a, str>>,
    #[serde(borrow)]
    farepoch: Option<Cow<'a, str>>,
    #[serde(borrow)]
    farseq: Option<Cow<'a, str>>,
    #[serde(borrow)]
    farprev: Option<Cow<'a, str>>,
    #[serde(borrow)]
    farsync: Option<Cow<'a, str>>,
    #[serde(borrow)]
    fartenant: Option<Cow<'a, str>>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    data_base64: Option<Cow<'a, str>>,
}

impl<'a> Attributes<'a> {
    /// Where a header's attribute goes; its name may be in any case.
    fn slot(&mut self, name: &str) -> Option<&mut Option<Cow<'a, str>>> {
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        Some(match name.len() {
            2 if is("id") => &mut self.id,
            4 if is("type") => &mut self.event_type,
            4 if is("time") => &mut self.time,
            6 if is("source") => &mut self.source,
            6 if is("farseq") => &mut self.farseq,
            7 if is("farprev") => &mut self.farprev,
            7 if is("farsync") => &mut self.farsync,
            8 if is("farepoch") => &mut self.farepoch,
            9 if is("fartenant") => &mut self.fartenant,
            11 if is("specversion") => &mut self.specversion,
            15 if is("datacontenttype") => &mut self.datacontenttype,
            _ => return None,
        })
    }
}

impl<'a> Envelope<'a> {
    /// Reads a stored message. Errors: what is wrong, for the dead letter.
    pub fn read(message: Stored<'a>) -> Result<Self, EnvelopeError> {
        Self::read_with(message, || Hash32::of(message.body))
    }

    /// As [`Envelope::read`], with the hash of the body from whoever knows it already.
    pub fn read_with(message: Stored<'a>, body: impl FnOnce() -> Hash32) -> Result<Self, EnvelopeError> {
        let subject = EventSubject::parse(message.subject).map_err(|e| reject("subject", e.to_string()))?;
        let (headers, content_type) = from_headers(message.headers)?;
        let form = form_of(&headers, content_type, message.body)?;
        let envelope = match form {
            Form::Plain => plain(message, subject),
            Form::Binary => {
                check_content_type(content_type)?;
                checked(form, headers, message, subject, Cow::Borrowed(message.body), body)?
            }
            Form::Structured => {
                let mut attributes = from_body(message.body)?;
                let data = structured_data(&mut attributes)?;
                checked(form, attributes, message, subject, data, body)?
            }
        };
        check_key(&envelope)?;
        Ok(envelope)
    }
}

fn from_headers<'a>(
    headers: &[(&'a str, &'a str)],
) -> Result<(Attributes<'a>, Option<&'a str>), EnvelopeError> {
    let mut attributes = Attributes::default();
    let mut content_type = None;
    for &(name, value) in headers {
        if name.eq_ignore_ascii_case("content-type") {
            content_type = Some(value);
            continue;
        }
        let Some((ce, attribute)) = name.split_at_checked(3) else { continue };
        let Some(slot) = attributes.slot(attribute).filter(|_| ce.eq_ignore_ascii_case("ce-")) else {
            continue;
        };
        if slot.replace(percent_decoded(value)).is_some() {
            return Err(reject(name, format!("the header {name} is there twice; send it once")));
        }
    }
    Ok((attributes, content_type))
}

/// CloudEvents' NATS binding percent-encodes header values, most publishers do not; a `%` that starts
/// no valid escape stands for itself.
fn percent_decoded(value: &str) -> Cow<'_, str> {
    if !value.contains('%') {
        return Cow::Borrowed(value);
    }
    let hex = |byte: Option<&u8>| byte.and_then(|b| char::from(*b).to_digit(16));
    let bytes = value.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match (byte, hex(bytes.get(at + 1)), hex(bytes.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8(decoded).map_or(Cow::Borrowed(value), Cow::Owned)
}

fn form_of(headers: &Attributes<'_>, content_type: Option<&str>, body: &[u8]) -> Result<Form, EnvelopeError> {
    // CloudEvents lets a structured message repeat its attributes as headers: the content type decides first.
    let is = |prefix: &str| {
        let start = content_type.and_then(|text| text.get(..prefix.len()));
        start.is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    };
    if is("application/cloudevents-batch") {
        return Err(reject("content-type", "batched CloudEvents are not accepted; send one event a message"));
    }
    if is("application/cloudevents") {
        return Ok(Form::Structured);
    }
    if headers.specversion.is_some() {
        return Ok(Form::Binary);
    }
    Ok(if looks_structured(body) { Form::Structured } else { Form::Plain })
}

/// CloudEvents' own structured example carries no header at all, so the body has to tell.
fn looks_structured(body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Sniffed<'a> {
        #[serde(borrow)]
        specversion: Cow<'a, str>,
        #[serde(borrow)]
        id: &'a RawValue,
        #[serde(borrow)]
        source: &'a RawValue,
        #[serde(borrow, rename = "type")]
        event_type: &'a RawValue,
    }
    // A search for the word keeps the cost off every other plain message.
    std::str::from_utf8(body).is_ok_and(|text| text.contains("\"specversion\""))
        && serde_json::from_slice::<Sniffed<'_>>(body).is_ok_and(|found| {
            let strings = [found.id, found.source, found.event_type];
            found.specversion == SPECVERSION && strings.iter().all(|value| value.get().starts_with('"'))
        })
}

fn from_body(body: &[u8]) -> Result<Attributes<'_>, EnvelopeError> {
    let wrong = |why: &str| {
        reject("$", format!("the body is not a structured CloudEvent: {why}; send one JSON object"))
    };
    if let Some(why) = not_an_object(body) {
        return Err(wrong(&why));
    }
    serde_json::from_slice(body).map_err(|e| wrong(&e.to_string()))
}

fn structured_data<'a>(attributes: &mut Attributes<'a>) -> Result<Cow<'a, [u8]>, EnvelopeError> {
    match (attributes.data, attributes.data_base64.take()) {
        (Some(data), None) => Ok(Cow::Borrowed(data.get().as_bytes())),
        (None, Some(text)) => BASE64
            .decode(text.as_bytes())
            .map(Cow::Owned)
            .map_err(|e| reject("$.data_base64", format!("data_base64 is not base64: {e}"))),
        (None, None) => Err(reject("$.data", "the event has no data; put the JSON data into `data`")),
        (Some(_), Some(_)) => {
            Err(reject("$.data", "the event has both data and data_base64; send one of them"))
        }
    }
}

fn plain<'a>(message: Stored<'a>, subject: EventSubject<'a>) -> Envelope<'a> {
    let EventSubject { site, cluster, stem, event, .. } = subject;
    Envelope {
        form: Form::Plain,
        id: Cow::Owned(format!("{}:{}", message.stream, message.seq)),
        source: Cow::Owned(format!("/{site}/{cluster}/{stem}/{PLAIN_AGENT}")),
        event_type: Cow::Owned(format!("{stem}.{event}")),
        subject,
        time: message.stored_at,
        link: None,
        hash: None,
        sync: None,
        tenant: None,
        data: Cow::Borrowed(message.body),
    }
}

fn checked<'a>(
    form: Form,
    found: Attributes<'a>,
    message: Stored<'a>,
    subject: EventSubject<'a>,
    data: Cow<'a, [u8]>,
    body: impl FnOnce() -> Hash32,
) -> Result<Envelope<'a>, EnvelopeError> {
    if found.specversion.as_deref() != Some(SPECVERSION) {
        return Err(reject("specversion", "the CloudEvents specversion is not \"1.0\"; send 1.0"));
    }
    let id = required("id", found.id)?;
    let source = required("source", found.source)?;
    let event_type = required("type", found.event_type)?;
    check_content_type(found.datacontenttype.as_deref())?;
    check_type(&event_type, subject)?;
    let farside_source = check_source(&source, subject)?;
    let time_text = found.time;
    let time = match time_text.as_deref() {
        None => message.stored_at,
        Some(text) => text.parse().map_err(|e: crate::time::TimeError| reject("time", e.to_string()))?,
    };
    let link = link(found.farepoch, found.farseq, found.farprev)?;
    if link.is_some() {
        check_chained(&source, farside_source)?;
    }
    let tenant = match found.fartenant.as_deref() {
        None => None,
        Some(text) => Some(text.parse::<TenantId>().map_err(|e| reject("fartenant", e.to_string()))?),
    };
    let hash = link.map(|link| {
        let time = time_text.as_deref().unwrap_or_default();
        let (source, id, event_type) = (&*source, &*id, &*event_type);
        Sealed { source, id, event_type, subject: message.subject, time, link, body: message.body }
            .hash_with(body())
    });
    Ok(Envelope {
        form,
        id,
        source,
        event_type,
        subject,
        time,
        link,
        hash,
        sync: found.farsync,
        tenant,
        data,
    })
}

fn required<'a>(name: &str, value: Option<Cow<'a, str>>) -> Result<Cow<'a, str>, EnvelopeError> {
    let text = value.filter(|text| !text.is_empty()).ok_or_else(|| {
        reject(name, format!("the CloudEvents attribute {name} is missing; every event needs it"))
    })?;
    // Every byte is looked at: a loop without a way out is one that a processor takes in strides.
    if text.bytes().filter(|byte| byte.is_ascii_control()).count() > 0 {
        return Err(reject(
            name,
            format!("the CloudEvents attribute {name} has control characters; leave them out"),
        ));
    }
    Ok(text)
}

/// A chain belongs to one agent; the plain form's owner has many writers and no chain.
fn check_chained(source: &str, farside_source: bool) -> Result<(), EnvelopeError> {
    if !farside_source {
        let reason = "a chained event needs a source of the form /<site>/<cluster>/<stem>/<agent>";
        return Err(reject("source", reason));
    }
    if source.rsplit('/').next() == Some(PLAIN_AGENT) {
        let reason =
            format!("the agent's name {PLAIN_AGENT:?} is kept for events of plain form; choose another");
        return Err(reject("source", reason));
    }
    Ok(())
}

/// A key opens a pool: only the source itself may announce or withdraw one (R7).
fn check_key(envelope: &Envelope<'_>) -> Result<(), EnvelopeError> {
    if envelope.subject.stem != Stem::Key || envelope.link.is_some() {
        return Ok(());
    }
    let reason = "an access key is taken from an agent's chain only, so that nobody else can announce or withdraw it; add it to the keys of the cluster in its agent's configuration";
    Err(reject("farepoch", reason))
}

fn check_content_type(content_type: Option<&str>) -> Result<(), EnvelopeError> {
    let Some(content_type) = content_type else { return Ok(()) };
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    let ending = essence.rsplit_once('+').map_or("", |(_, ending)| ending);
    if essence.eq_ignore_ascii_case("application/json") || ending.eq_ignore_ascii_case("json") {
        return Ok(());
    }
    Err(reject(
        "datacontenttype",
        format!("data of type {content_type:?} is not accepted; send application/json"),
    ))
}

fn check_type(event_type: &str, subject: EventSubject<'_>) -> Result<(), EnvelopeError> {
    let (stem, event) = (subject.stem.as_str(), subject.event);
    let same = event_type.strip_prefix(stem).and_then(|rest| rest.strip_prefix('.')) == Some(event);
    same.then_some(()).ok_or_else(|| {
        reject(
            "type",
            format!(
                "the type {event_type:?} is not the subject's; send \"{stem}.{event}\", or another subject"
            ),
        )
    })
}

/// Whether `source` is a Farside source. One that is must agree with the subject: nobody speaks for
/// another cluster. Any other URI is an owner too, taken as it is.
fn check_source(source: &str, subject: EventSubject<'_>) -> Result<bool, EnvelopeError> {
    if source.len() > OWNER_BYTES_MAX {
        return Err(reject(
            "source",
            format!("the source is longer than {OWNER_BYTES_MAX} bytes; use a shorter one"),
        ));
    }
    let Some(parts) = Source::split(source) else { return Ok(false) };
    let EventSubject { site, cluster, stem, .. } = subject;
    let same_pool = parts.site == site && parts.cluster == cluster;
    // An agent of any system also reports its own life and the access keys of its source.
    let same_stem = parts.stem == stem || matches!(stem, Stem::Agent | Stem::Key);
    if same_pool && same_stem {
        return Ok(true);
    }
    let reason = format!(
        "the source {source:?} may not publish on the subject of /{site}/{cluster}/{stem}; use the agent of that cluster"
    );
    Err(reject("source", reason))
}

fn link(
    epoch: Option<Cow<'_, str>>,
    seq: Option<Cow<'_, str>>,
    prev: Option<Cow<'_, str>>,
) -> Result<Option<Link>, EnvelopeError> {
    let (epoch, seq, prev) = match (epoch, seq, prev) {
        (None, None, None) => return Ok(None),
        (Some(epoch), Some(seq), Some(prev)) => (epoch, seq, prev),
        _ => {
            return Err(reject(
                "farepoch",
                "a chained event needs farepoch, farseq and farprev; send all three or none",
            ));
        }
    };
    let epoch = epoch.parse().map_err(|e: crate::id::IdError| reject("farepoch", e.to_string()))?;
    let seq = decimal::parse(&seq).filter(|seq| (1..=COUNT_MAX).contains(seq)).ok_or_else(|| {
        let reason =
            format!("{seq:?} is not a chain sequence; write a decimal number from 1 to {COUNT_MAX} (2^53)");
        reject("farseq", reason)
    })?;
    let prev = prev.parse().map_err(|e: crate::hash::HashError| reject("farprev", e.to_string()))?;
    Ok(Some(Link { at: ChainPoint { epoch, seq }, prev }))
}

#[cfg(test)]
mod tests;
