//! Events over HTTP, for those without a NATS client: checked before they are published, so that the
//! caller learns here what would otherwise be a dead letter.

use std::{borrow::Cow, sync::Arc};

use axum::{
    Json,
    body::Bytes,
    extract::{Request, State},
    http::StatusCode,
};
use bus::{Outgoing, PublishError, PublishErrorKind};
use bus_schema::{
    Envelope, EventSubject, PoolId, Source, Stem, envelope::Stored, event::Event, stream::MESSAGE_BYTES_MAX,
    token,
};
use projector::Refusal;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    api::{Api, now},
    extract::{self, Operator, Params},
    problem::Problem,
    request::PlainEvent,
    view::PublishedView,
};

/// What a structured CloudEvent says about where it belongs.
#[derive(Deserialize)]
struct Structured<'a> {
    #[serde(borrow)]
    #[allow(dead_code, reason = "its presence is what tells the forms apart")]
    specversion: Cow<'a, str>,
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    source: Cow<'a, str>,
    #[serde(borrow, rename = "type")]
    event_type: Cow<'a, str>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Options {
    /// The subject of a CloudEvent whose source is no Farside source.
    subject: Option<String>,
    /// Answer when the event is in the pool, not when it is in the log.
    #[serde(default)]
    applied: bool,
}

/// `POST /v1/events`
pub(super) async fn publish(
    State(api): State<Arc<Api>>,
    _: Operator,
    Params(options): Params<Options>,
    request: Request,
) -> Result<Json<PublishedView>, Problem> {
    let body = extract::bytes(request, &api).await?;
    let outgoing = read(&body, options.subject)?;
    let pool = check(&outgoing)?;
    let stream = api.stream_of(&pool)?;
    api.linked()?;
    let published = api.parts.bus.publisher().publish(&stream, &outgoing, None).await.map_err(not_stored)?;
    if options.applied {
        api.applied(&stream, published.seq).await?;
        not_parked(&api, &stream, published.seq).await?;
    }
    Ok(Json(PublishedView { place: format!("{stream}:{}", published.seq), duplicate: published.duplicate }))
}

/// The message that the body asks to publish.
fn read(body: &Bytes, subject: Option<String>) -> Result<Outgoing, Problem> {
    if let Ok(event) = serde_json::from_slice::<Structured<'_>>(body) {
        let subject = subject.map_or_else(|| subject_of(&event), Ok)?;
        let cluster = subject.split('.').nth(4).unwrap_or_default();
        let message_id = format!("{cluster}/{}", event.id);
        let headers = vec![("Content-Type".to_owned(), "application/cloudevents+json".to_owned())];
        return Ok(Outgoing { subject, headers, body: body.clone(), message_id });
    }
    let event: PlainEvent = serde_json::from_slice(body).map_err(|e| {
        Problem::bad_request(format!(
            "the body is neither a CloudEvent (specversion, id, source, type) nor {{\"subject\", \"data\"}} nor {{\"pool\", \"type\", \"data\"}}: {}",
            extract::in_words(&e)
        ))
    })?;
    let subject = match (event.subject, subject, &event.pool, &event.event_type) {
        (Some(subject), None, None, None) | (None, Some(subject), None, None) => subject,
        (None, None, Some(pool), Some(event_type)) => made_subject(pool, event_type, event.data.get())?,
        _ => {
            return Err(Problem::bad_request("name either the subject, or both the pool and the type, once"));
        }
    };
    let cluster = subject.split('.').nth(4).unwrap_or_default();
    let message_id = event.id.map(|id| format!("{cluster}/{id}")).unwrap_or_default();
    let body = Bytes::copy_from_slice(event.data.get().as_bytes());
    Ok(Outgoing { subject, headers: vec![], body, message_id })
}

fn subject_of(event: &Structured<'_>) -> Result<String, Problem> {
    let source: Source = event.source.parse().map_err(|_| {
        Problem::bad_request(format!(
            "the source {:?} does not tell the cluster; name the subject with ?subject=far.v1.…, or send the source as /<site>/<cluster>/<stem>/<agent>",
            event.source
        ))
    })?;
    let data = event.data.map(RawValue::get).ok_or_else(|| {
        Problem::bad_request("without `data` the subject cannot be made; name it with ?subject=far.v1.…")
    })?;
    made_subject(&source.pool, &event.event_type, data)
}

/// The subject of an event: its entity is in its data.
fn made_subject(pool: &PoolId, event_type: &str, data: &str) -> Result<String, Problem> {
    let (stem, name) = event_type
        .split_once('.')
        .ok_or_else(|| Problem::bad_request(format!("the type {event_type:?} is not <stem>.<event>")))?;
    let stem: Stem =
        stem.parse().map_err(|e: bus_schema::id::IdError| Problem::bad_request(e.to_string()))?;
    let event = Event::decode(stem, name, data.as_bytes()).map_err(|e| wrong(&e.to_string(), e.path()))?;
    let token = token::of(&event.entity());
    let (site, cluster) = (pool.site.as_str(), pool.cluster.as_str());
    Ok(EventSubject { site, cluster, stem, token: &token, event: name }.to_string())
}

/// Whether the projector would take the message in; answers its pool.
fn check(outgoing: &Outgoing) -> Result<PoolId, Problem> {
    if outgoing.body.len() > MESSAGE_BYTES_MAX {
        return Err(Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!(
                "the event has {} bytes, more than {MESSAGE_BYTES_MAX}; announce it with resource.noticed, or keep large parts by reference",
                outgoing.body.len()
            ),
        ));
    }
    let headers: Vec<_> =
        outgoing.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let (subject, body) = (outgoing.subject.as_str(), &outgoing.body[..]);
    let stored = Stored { subject, headers: &headers, body, stream: "", seq: 0, stored_at: now() };
    let envelope = Envelope::read(stored).map_err(|e| wrong(&e.reason, &e.path))?;
    let pool = envelope.subject.pool().map_err(|e| wrong(&e.to_string(), "subject"))?;
    projector::check(stored).map_err(|refusal| wrong(&refusal.reason, &refusal.path))?;
    Ok(pool)
}

/// Whether an event that was stored is among the dead letters all the same: some faults show only beside
/// what the pool has.
async fn not_parked(api: &Api, stream: &str, seq: u64) -> Result<(), Problem> {
    let of = stream.to_owned();
    match api.read(move |reader| reader.parked(&of, seq)).await?.value {
        None => Ok(()),
        Some(Refusal { reason, path }) => Err(Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            format!("the event is stored at {stream}:{seq}, but it is a dead letter: {reason} (at {path})"),
        )),
    }
}

fn wrong(reason: &str, path: &str) -> Problem {
    Problem::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        format!("the event was not published: {reason} (at {path})"),
    )
}

fn not_stored(error: PublishError) -> Problem {
    let text = error.to_string();
    match error.kind {
        PublishErrorKind::TooLarge => Problem::new(StatusCode::PAYLOAD_TOO_LARGE, text),
        PublishErrorKind::Full => Problem::new(StatusCode::INSUFFICIENT_STORAGE, text),
        PublishErrorKind::Unknown => Problem::new(StatusCode::GATEWAY_TIMEOUT, text),
        PublishErrorKind::Duplicate | PublishErrorKind::Fenced => Problem::conflict(text),
        _ => Problem::unavailable(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publishes(body: &str, subject: Option<&str>) -> Result<(Outgoing, PoolId), Problem> {
        let outgoing = read(&Bytes::copy_from_slice(body.as_bytes()), subject.map(str::to_owned))?;
        let pool = check(&outgoing)?;
        Ok((outgoing, pool))
    }

    const DATA: &str = r#"{"kind":"Pod","id":"a.b","revision":"1","state":{"x":1}}"#;

    #[test]
    fn the_subject_is_made_of_pool_type_and_data() {
        let body = format!(r#"{{"pool":"local/dc1","type":"resource.changed","id":"7","data":{DATA}}}"#);
        let (outgoing, pool) = publishes(&body, None).unwrap();
        assert_eq!(outgoing.subject, "far.v1.local.evt.dc1.resource.Pod=2Fa=2Eb.changed");
        assert_eq!((outgoing.message_id.as_str(), pool.to_string().as_str()), ("dc1/7", "local/dc1"));
        assert_eq!(outgoing.body, DATA.as_bytes());
    }

    #[test]
    fn a_cloud_event_travels_as_it_came() {
        let event = |source: &str| {
            format!(
                r#"{{"specversion":"1.0","id":"e1","source":"{source}","type":"resource.changed","data":{DATA}}}"#
            )
        };
        let (outgoing, _) = publishes(&event("/local/dc1/resource/web"), None).unwrap();
        assert_eq!(outgoing.body, event("/local/dc1/resource/web").as_bytes());
        assert_eq!(outgoing.message_id, "dc1/e1");
        assert!(publishes(&event("urn:x"), None).unwrap_err().detail().contains("?subject="));
        let subject = "far.v1.local.evt.dc2.resource.Pod=2Fa=2Eb.changed";
        assert!(publishes(&event("urn:x"), Some(subject)).is_ok());
        assert!(
            publishes(&event("/local/dc1/resource/web"), Some(subject)).is_err(),
            "another cluster's subject"
        );
    }

    #[test]
    fn what_would_be_a_dead_letter_is_refused_with_the_reason() {
        for (body, words) in [
            (r#"{"data":1}"#.to_owned(), "name either the subject"),
            (r#"[]"#.to_owned(), "neither a CloudEvent"),
            (format!(r#"{{"pool":"local/dc1","type":"resource.exploded","data":{DATA}}}"#), "unknown event"),
            (format!(r#"{{"pool":"local/dc1","type":"changed","data":{DATA}}}"#), "<stem>.<event>"),
            (r#"{"pool":"local/dc1","type":"resource.changed","data":{"kind":"Pod"}}"#.to_owned(), "missing field"),
            (format!(r#"{{"subject":"far.v1.local.evt.dc1.resource.wrong.changed","data":{DATA}}}"#), "Pod=2Fa=2Eb"),
            (format!(r#"{{"subject":"foo.bar","data":{DATA}}}"#), "far.v1."),
            (
                r#"{"pool":"local/dc1","type":"resource.changed","data":{"kind":"Pod","id":"","revision":"1","state":1}}"#.to_owned(),
                "resource id",
            ),
        ] {
            let problem = publishes(&body, None).unwrap_err();
            assert!(problem.detail().contains(words), "{body}: {}", problem.detail());
            assert!(!problem.detail().contains("struct"), "{}", problem.detail());
        }
    }

    #[test]
    fn what_only_the_projector_refuses_is_refused_before_it_is_published() {
        let changed = |more: &str| {
            format!(
                r#"{{"pool":"local/dc1","type":"resource.changed","data":{{"kind":"Pod","id":"a","revision":"1",{more}}}}}"#
            )
        };
        let labels = |count, bytes| {
            let pairs: Vec<_> = (0..count).map(|n| format!(r#""l{n}":"{}""#, "x".repeat(bytes))).collect();
            changed(&format!(r#""state":1,"labels":{{{}}}"#, pairs.join(",")))
        };
        let deep = format!("{}{}", "[{\"a\":".repeat(250), "1".to_owned() + &"}]".repeat(250));
        let first =
            r#"{"specversion":"1.0","id":"e","source":"/local/dc1/resource/web","type":"resource.changed","#
                .to_owned()
                + r#""farepoch":"0000000000000001","farseq":"1","farprev":""#
                + &"a".repeat(64)
                + &format!(r#"","data":{DATA}}}"#);
        for (body, words) in [
            (changed(&format!(r#""state":{deep}"#)), "RFC 8785"),
            (changed(r#""state":1e999"#), "RFC 8785"),
            (labels(300, 1), "256 labels"),
            (labels(1, 2_000), "1024 bytes"),
            (first, "farprev"),
        ] {
            let problem = publishes(&body, None).unwrap_err();
            assert_eq!(problem.status(), StatusCode::UNPROCESSABLE_ENTITY, "{}", problem.detail());
            assert!(problem.detail().contains(words), "{words}: {}", problem.detail());
        }
    }
}
