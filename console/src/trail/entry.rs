//! A message as an entry: who said what of which entity. Events of a site log and facts of a target log alike.

use std::borrow::Cow;

use bus::LogMessage;
use bus_schema::{
    Envelope, EventSubject, Stem,
    envelope::Stored,
    fact::Fact,
    redrive::{REDRIVE, Redrive},
    token,
};
use serde_json::{Value, value::RawValue};

use crate::view::trail::EntryView;

/// Characters of a value in a summary.
const VALUE_CHARS_MAX: usize = 48;
/// Characters of a summary.
const SUMMARY_CHARS_MAX: usize = 160;
/// What an entry tells elsewhere.
const TOLD_ELSEWHERE: [&str; 5] = ["kind", "id", "actor", "pool", "agent"];

/// A message as an entry.
pub(crate) fn entry(message: &LogMessage) -> EntryView {
    message.with_stored(|stored| match fact_subject(stored.subject) {
        Some(parts) => fact(stored, parts),
        None => event(stored),
    })
}

/// The value of a header, whatever the case of its name.
fn header(stored: &Stored<'_>, name: &str) -> Option<String> {
    let found = stored.headers.iter().find(|(found, _)| found.eq_ignore_ascii_case(name));
    found.map(|(_, value)| (*value).to_owned())
}

/// Stem, token and name of a fact.
type FactSubject<'a> = (&'a str, &'a str, &'a str);

/// The parts of `far.v1.<target>.tgt.<stem>.<token>.<event>`; none for another subject.
fn fact_subject(subject: &str) -> Option<FactSubject<'_>> {
    let mut parts = subject.strip_prefix("far.v1.")?.splitn(5, '.');
    let (_target, tgt) = (parts.next()?, parts.next()?);
    let found = (parts.next()?, parts.next()?, parts.next()?);
    (tgt == "tgt").then_some(found)
}

fn event(stored: Stored<'_>) -> EntryView {
    let bare = unread(stored);
    // A copy of a dead letter says what its patch makes of it.
    let redrive = Redrive::read(stored.headers).and_then(Result::ok);
    let mended = redrive.and_then(|redrive| redrive.mended(stored.body).ok());
    let read = Stored { body: mended.as_deref().unwrap_or(stored.body), ..stored };
    let envelope = match Envelope::read(read) {
        Ok(envelope) => envelope,
        Err(error) => return EntryView { unreadable: Some(at(&error.reason, &error.path)), ..bare },
    };
    // What the projector would not take in either is told, beside what can be read of it.
    let unreadable = projector::check(stored).err().map(|refusal| at(&refusal.reason, &refusal.path));
    let (data, summary) = data(&envelope.data);
    let entity =
        bus_schema::event::Event::decode(envelope.subject.stem, envelope.subject.event, &envelope.data)
            .map_or(bare.entity, |event| event.entity());
    EntryView {
        time: envelope.time,
        actor: envelope.source.into_owned(),
        event_type: envelope.event_type.into_owned(),
        entity,
        summary,
        id: envelope.id.into_owned(),
        chain: envelope.link.map(|link| format!("{}:{}", link.at.epoch, link.at.seq)),
        sync: envelope.sync.map(Cow::into_owned),
        tenant: envelope.tenant,
        data,
        unreadable,
        ..bare
    }
}

fn fact(stored: Stored<'_>, (stem, token, name): FactSubject<'_>) -> EntryView {
    let (data, summary) = data(stored.body);
    let decoded = stem.parse::<Stem>().map_err(|error| error.to_string()).and_then(|stem| {
        Fact::decode(stem, name, stored.body).map_err(|error| at(&error.to_string(), error.path()))
    });
    let said = |field: &str| {
        let value: Value = data.as_ref().and_then(|data| serde_json::from_str(data.get()).ok())?;
        value[field].as_str().map(str::to_owned)
    };
    let (entity, unreadable) = match decoded {
        Ok(fact) => (fact.entity(), None),
        Err(error) => (token::key(token).unwrap_or_else(|| token.to_owned()), Some(error)),
    };
    let time = header(&stored, "ce-time").and_then(|time| time.parse().ok());
    EntryView {
        time: time.unwrap_or(stored.stored_at),
        actor: said("actor").or_else(|| header(&stored, "ce-source")).unwrap_or_default(),
        event_type: format!("{stem}.{name}"),
        pool: said("pool"),
        entity,
        summary,
        id: header(&stored, "ce-id").unwrap_or_default(),
        data,
        unreadable,
        ..unread(stored)
    }
}

/// What is known of an event without its envelope.
fn unread(stored: Stored<'_>) -> EntryView {
    let subject = EventSubject::parse(stored.subject).ok();
    let place = format!("{}:{}", stored.stream, stored.seq);
    let of_subject = |subject: &EventSubject<'_>| {
        let entity = token::key(subject.token).unwrap_or_else(|| subject.token.to_owned());
        (format!("{}.{}", subject.stem, subject.event), entity)
    };
    // A subject that is none of ours still tells where it was meant to go.
    let (event_type, entity) =
        subject.as_ref().map_or_else(|| ("?".to_owned(), stored.subject.to_owned()), of_subject);
    EntryView {
        place: place.clone(),
        stored_at: stored.stored_at,
        time: stored.stored_at,
        actor: String::new(),
        event_type,
        pool: subject.map(|subject| format!("{}/{}", subject.site, subject.cluster)),
        entity,
        summary: String::new(),
        id: place,
        chain: None,
        sync: None,
        tenant: None,
        redrive_of: header(&stored, REDRIVE),
        data: None,
        unreadable: None,
    }
}

fn at(reason: &str, path: &str) -> String {
    format!("{reason} (at {path})")
}

/// Data as it came, and what it says in short.
fn data(bytes: &[u8]) -> (Option<Box<RawValue>>, String) {
    let data = serde_json::from_slice::<&RawValue>(bytes).ok();
    let data = data.and_then(|data| RawValue::from_string(on_one_line(data.get())).ok());
    let value = data.as_ref().and_then(|data| serde_json::from_str::<Value>(data.get()).ok());
    (data, value.as_ref().map(summary).unwrap_or_default())
}

/// JSON text without blanks between its parts: an entry is a line. The parts stay as they came.
fn on_one_line(json: &str) -> String {
    let (mut is_within, mut is_escaped) = (false, false);
    let mut keeps = |char: char| {
        let keeps = is_within || !char.is_ascii_whitespace();
        is_within ^= char == '"' && !is_escaped;
        is_escaped = char == '\\' && !is_escaped;
        keeps
    };
    json.chars().filter(|char| keeps(*char)).collect()
}

/// The members of a value, each cut short.
fn summary(value: &Value) -> String {
    let Value::Object(members) = value else { return cut(&value.to_string(), VALUE_CHARS_MAX) };
    let members = members.iter().filter(|(name, _)| !TOLD_ELSEWHERE.contains(&name.as_str()));
    let words = members.map(|(name, value)| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        format!("{name}={}", cut(&text, VALUE_CHARS_MAX))
    });
    cut(&words.collect::<Vec<_>>().join(" "), SUMMARY_CHARS_MAX)
}

fn cut(text: &str, chars: usize) -> String {
    match text.char_indices().nth(chars) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use bus_schema::Timestamp;

    use super::*;

    fn told(subject: &str, headers: &[(&str, &str)], body: &str) -> EntryView {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let at = Timestamp::from_unix_ms(1_000);
        entry(&LogMessage::kept(
            "FARSIDE_LOCAL",
            7,
            at,
            subject.to_owned(),
            headers,
            body.as_bytes().to_vec(),
        ))
    }

    #[test]
    fn an_event_says_who_what_and_of_which_entity() {
        let body = r#"{"kind":"Pod","id":"a.b","revision":"2","state":{"n":1},"labels":{"app":"web"}}"#;
        let found = told("far.v1.local.evt.dc1.resource.Pod=2Fa=2Eb.changed", &[], body);
        assert_eq!(
            (&*found.actor, &*found.event_type, &*found.entity, found.pool.as_deref(), &found.unreadable),
            ("/local/dc1/resource/plain", "resource.changed", "Pod/a.b", Some("local/dc1"), &None)
        );
        assert_eq!(found.summary, r#"labels={"app":"web"} revision=2 state={"n":1}"#);
    }

    #[test]
    fn a_fact_says_who_asked_for_it_else_who_stated_it() {
        let subject = "far.v1.east.tgt.tenant.acme.created";
        let source = [("ce-source", "/east/target/tenant/service"), ("ce-time", "1970-01-01T00:00:02Z")];
        let found = told(subject, &source, r#"{"tenant":"acme","actor":"operator (uid 0)"}"#);
        assert_eq!(
            (&*found.actor, &*found.entity, found.time.unix_ms()),
            ("operator (uid 0)", "acme", 2_000)
        );
        let lease =
            told("far.v1.east.tgt.log.target.lease_acquired", &source, r#"{"lease":"target","holder":"x"}"#);
        assert_eq!(
            (&*lease.actor, &*lease.summary),
            ("/east/target/tenant/service", "holder=x lease=target")
        );
    }

    #[test]
    fn data_is_on_one_line_and_else_as_it_came() {
        let json = "{ \"a b\\\"\\\\\" :\n [1.50,\t\"\\n } \"] }\r\n";
        assert_eq!(on_one_line(json), "{\"a b\\\"\\\\\":[1.50,\"\\n } \"]}");
        let body = "{\n  \"kind\": \"Pod\",\n \"id\": \"a\", \"revision\": \"1\", \"state\": 1.50}";
        let data = told("far.v1.local.evt.dc1.resource.Pod=2Fa.changed", &[], body).data.unwrap();
        assert_eq!(data.get(), r#"{"kind":"Pod","id":"a","revision":"1","state":1.50}"#);
    }

    #[test]
    fn what_cannot_be_read_is_told_with_the_reason_and_what_its_subject_says() {
        for (subject, body, entity, why) in [
            ("far.v1.local.evt.dc1.resource.Pod=2Fa.changed", "{", "Pod/a", "at $"),
            ("far.v1.local.evt.dc1.resource.Pod=2Fa.melted", "{}", "Pod/a", "unknown event"),
            ("far.v1.local.evt.dc1.rocket.a.b", "{}", "far.v1.local.evt.dc1.rocket.a.b", "stem"),
            ("far.v1.east.tgt.rocket.a.b", "{}", "a", "stem"),
            ("far.v1.east.tgt.tenant.acme.created", "[]", "acme", "JSON object"),
        ] {
            let found = told(subject, &[], body);
            assert_eq!(found.entity, entity);
            assert!(found.unreadable.as_ref().is_some_and(|text| text.contains(why)), "{subject}: {found:?}");
        }
    }
}
