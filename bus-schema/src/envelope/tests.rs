//! Tests of the envelope: three forms read as one event, and what is refused with which reason.

use super::*;

const SUBJECT: &str = "far.v1.local.evt.dc1.resource.Pod=2Fweb.deleted";
const SOURCE: &str = "/local/dc1/resource/inv";
const DATA: &[u8] = br#"{"kind":"Pod","id":"web"}"#;

type Headers<'a> = Vec<(&'a str, &'a str)>;

fn stored<'a>(subject: &'a str, headers: &'a [(&'a str, &'a str)], body: &'a [u8]) -> Stored<'a> {
    let stored_at = Timestamp::from_unix_ms(1_000);
    Stored { subject, headers, body, stream: "FARSIDE_LOCAL", seq: 7, stored_at }
}

fn binary<'a>(more: &[(&'a str, &'a str)]) -> Headers<'a> {
    let mut headers = vec![
        ("ce-specversion", "1.0"),
        ("ce-id", "e1"),
        ("ce-source", SOURCE),
        ("ce-type", "resource.deleted"),
        ("ce-time", "2026-11-22T04:31:48.123Z"),
    ];
    headers.retain(|(name, _)| more.iter().all(|(other, _)| !other.eq_ignore_ascii_case(name)));
    headers.extend(more.iter().filter(|(_, value)| *value != "-"));
    headers
}

fn chained<'a>(prev: &'a str) -> Headers<'a> {
    binary(&[("ce-farepoch", "00000000000000ff"), ("ce-farseq", "1"), ("ce-farprev", prev)])
}

/// The path and the reason with which a message is refused.
#[track_caller]
fn refused(headers: &Headers<'_>, body: &[u8]) -> (String, String) {
    let error = Envelope::read(stored(SUBJECT, headers, body)).unwrap_err();
    (error.path, error.reason)
}

#[track_caller]
fn check_refused(headers: &Headers<'_>, body: &[u8], path: &str, why: &str) {
    let (found, reason) = refused(headers, body);
    assert_eq!(found, path, "{reason}");
    assert!(reason.contains(why), "{reason}");
}

fn structured(more: &str) -> Vec<u8> {
    format!(
        r#"{{"specversion":"1.0","id":"e1","source":"{SOURCE}","type":"resource.deleted","time":"2026-11-22T04:31:48.123Z"{more}}}"#
    )
    .into_bytes()
}

#[test]
fn the_three_forms_say_the_same() {
    let body = structured(r#","data":{"kind":"Pod","id":"web"}"#);
    let (none, binary) = (vec![], binary(&[]));
    let plain = Envelope::read(stored(SUBJECT, &none, DATA)).unwrap();
    let binary = Envelope::read(stored(SUBJECT, &binary, DATA)).unwrap();
    let structured = Envelope::read(stored(SUBJECT, &none, &body)).unwrap();
    assert_eq!([plain.form, binary.form, structured.form], [Form::Plain, Form::Binary, Form::Structured]);
    for event in [&plain, &binary, &structured] {
        assert_eq!(event.event_type, "resource.deleted");
        assert_eq!(&*event.data, DATA);
        assert_eq!((event.link, event.hash, &event.tenant), (None, None, &None));
    }
    for event in [&binary, &structured] {
        assert_eq!((&*event.id, &*event.source), ("e1", SOURCE));
        assert_eq!(event.time.to_string(), "2026-11-22T04:31:48.123Z");
    }
}

#[test]
fn a_plain_event_is_named_after_its_place_and_timed_by_the_log() {
    let event = Envelope::read(stored(SUBJECT, &[], DATA)).unwrap();
    assert_eq!((&*event.id, &*event.source), ("FARSIDE_LOCAL:7", "/local/dc1/resource/plain"));
    assert_eq!(event.time, Timestamp::from_unix_ms(1_000));
}

#[test]
fn data_that_only_resembles_a_cloudevent_stays_plain() {
    for body in [
        br#"{"specversion":"1.0","id":"e1","source":"x"}"#.as_slice(),
        br#"{"specversion":"1.0","id":1,"source":"x","type":"y"}"#,
        br#"{"specversion":"0.3","id":"1","source":"x","type":"y"}"#,
        br#"{"state":{"specversion":"1.0","id":"1","source":"x","type":"y"}}"#,
        br#"["1.0","id","source","\"specversion\""]"#,
        b"not json at all \"specversion\"",
        b"",
    ] {
        let event = Envelope::read(stored(SUBJECT, &[], body)).unwrap();
        assert_eq!(event.form, Form::Plain, "{}", String::from_utf8_lossy(body));
        assert_eq!(&*event.data, body);
    }
}

#[test]
fn header_names_have_any_case() {
    let headers = vec![
        ("CE-SpecVersion", "1.0"),
        ("Ce-Id", "e1"),
        ("cE-sOURCE", SOURCE),
        ("CE-TYPE", "resource.deleted"),
        ("Content-Type", "application/json"),
        ("Nats-Msg-Id", "dc1/e1"),
    ];
    let event = Envelope::read(stored(SUBJECT, &headers, DATA)).unwrap();
    assert_eq!((event.form, &*event.id, &*event.source), (Form::Binary, "e1", SOURCE));
}

#[test]
fn header_values_are_raw_or_percent_encoded() {
    for (raw, id) in [
        ("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),
        ("Euro € 😀", "Euro € 😀"),
        ("100%", "100%"),
        ("5%-10%zz", "5%-10%zz"),
        ("%41%4g%", "A%4g%"),
        ("%ff%fe", "%ff%fe"),
    ] {
        let headers = binary(&[("ce-id", raw)]);
        let event = Envelope::read(stored(SUBJECT, &headers, DATA)).unwrap();
        assert_eq!(event.id, id, "{raw}");
    }
}

#[test]
fn a_header_that_is_there_twice_is_refused() {
    let mut headers = binary(&[]);
    headers.push(("CE-ID", "e1"));
    check_refused(&headers, DATA, "CE-ID", "twice");
    let mut headers = binary(&[]);
    headers.extend([("x-trace", "1"), ("x-trace", "2")]);
    assert!(Envelope::read(stored(SUBJECT, &headers, DATA)).is_ok(), "headers that are not ours may repeat");
}

#[test]
fn required_attributes_are_required() {
    for name in ["ce-id", "ce-source", "ce-type"] {
        check_refused(&binary(&[(name, "-")]), DATA, &name[3..], "missing");
        check_refused(&binary(&[(name, "")]), DATA, &name[3..], "missing");
    }
    check_refused(&binary(&[("ce-specversion", "0.3")]), DATA, "specversion", "send 1.0");
    let content_type = vec![("content-type", "application/cloudevents+json")];
    check_refused(&content_type, br#"{"id":"e1","data":{}}"#, "specversion", "send 1.0");
}

#[test]
fn control_characters_are_refused_where_they_would_forge_lines() {
    check_refused(&binary(&[("ce-id", "a%0Ab")]), DATA, "id", "control characters");
    check_refused(&binary(&[("ce-source", "urn:x%00")]), DATA, "source", "control characters");
}

#[test]
fn only_json_is_accepted_as_data() {
    for good in ["application/json", "Application/JSON; charset=utf-8", "application/vnd.acme+json"] {
        for name in ["content-type", "ce-datacontenttype", "CE-DataContentType"] {
            let headers = binary(&[(name, good)]);
            let event = Envelope::read(stored(SUBJECT, &headers, DATA)).unwrap();
            assert_eq!(event.form, Form::Binary, "{name}: {good}");
        }
    }
    for name in ["content-type", "ce-datacontenttype"] {
        for bad in ["text/plain", "application/avro", ""] {
            check_refused(&binary(&[(name, bad)]), DATA, "datacontenttype", "send application/json");
        }
    }
    let body = structured(r#","datacontenttype":"text/xml","data":"<a/>""#);
    check_refused(&vec![], &body, "datacontenttype", "send application/json");
}

#[test]
fn the_content_type_decides_before_the_headers() {
    let body = structured(r#","data":{"kind":"Pod","id":"web"}"#);
    let headers =
        binary(&[("content-type", "application/cloudevents+json; charset=utf-8"), ("ce-id", "copy")]);
    let event = Envelope::read(stored(SUBJECT, &headers, &body)).unwrap();
    assert_eq!((event.form, &*event.id, &*event.data), (Form::Structured, "e1", DATA));
}

#[test]
fn a_batch_is_refused() {
    let body = [b"[".as_slice(), &structured(r#","data":{}"#), b"]"].concat();
    let headers = vec![("content-type", "application/cloudevents-batch+json")];
    check_refused(&headers, &body, "content-type", "one event a message");
    let headers = vec![("content-type", "application/cloudevents+json")];
    check_refused(&headers, &body, "$", "not a JSON object");
}

#[test]
fn structured_data_is_there_once() {
    check_refused(&vec![], &structured(""), "$.data", "no data");
    check_refused(&vec![], &structured(r#","data":null"#), "$.data", "no data");
    check_refused(&vec![], &structured(r#","data":{},"data_base64":"e30=""#), "$.data", "one of them");
    check_refused(&vec![], &structured(r#","data_base64":"e30""#), "$.data_base64", "not base64");
    let declared = vec![("content-type", "application/cloudevents+json")];
    check_refused(&declared, &structured(r#","id":"e2","data":{}"#), "$", "duplicate field");
}

#[test]
fn data_base64_is_decoded() {
    let body = structured(r#","data_base64":"eyJraW5kIjoiUG9kIiwiaWQiOiJ3ZWIifQ==""#);
    let event = Envelope::read(stored(SUBJECT, &[], &body)).unwrap();
    assert_eq!(&*event.data, DATA);
}

#[test]
fn nobody_speaks_for_another_cluster_or_system() {
    for lie in ["/local/dc2/resource/inv", "/remote/dc1/resource/inv", "/local/dc1/volume/inv"] {
        check_refused(&binary(&[("ce-source", lie)]), DATA, "source", "may not publish");
    }
    let foreign = binary(&[("ce-source", "urn:acme:cmdb")]);
    let event = Envelope::read(stored(SUBJECT, &foreign, DATA)).unwrap();
    assert_eq!(event.source, "urn:acme:cmdb", "a source of another form is an owner as it is");
    check_refused(&binary(&[("ce-source", &"x".repeat(513))]), DATA, "source", "longer than 512");
    check_refused(&binary(&[("ce-type", "resource.changed")]), DATA, "type", "resource.deleted");
}

#[test]
fn an_agent_of_any_system_reports_its_own_life_and_keys() {
    let zero = Hash32::ZERO.to_string();
    for subject in ["far.v1.local.evt.dc1.agent.inv.started", "far.v1.local.evt.dc1.key.ak-1.announced"] {
        let parsed = EventSubject::parse(subject).unwrap();
        let event_type = format!("{}.{}", parsed.stem, parsed.event);
        let mut headers = chained(&zero);
        headers.retain(|(name, _)| *name != "ce-type");
        headers.push(("ce-type", &event_type));
        assert!(Envelope::read(stored(subject, &headers, b"{}")).is_ok(), "{subject}");
    }
}

#[test]
fn r7_a_key_is_taken_from_a_chain_only() {
    let subject = "far.v1.local.evt.dc1.key.ak-1.announced";
    let unchained = binary(&[("ce-type", "key.announced")]);
    for headers in [vec![], unchained] {
        let error = Envelope::read(stored(subject, &headers, b"{}")).unwrap_err();
        assert_eq!(error.path, "farepoch");
        assert!(error.reason.contains("the keys of the cluster in its agent's configuration"), "{error}");
    }
}

#[test]
fn broken_json_is_refused_with_the_place_of_the_fault() {
    for (data, words) in [
        (&b"kind: Pod"[..], "line 1 column 1"),
        (b"{\"kind\":\n]", "line 2 column 1"),
        (b"[]", "not a JSON object"),
    ] {
        let error = crate::event::Event::decode(Stem::Resource, "deleted", data).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn a_link_has_all_three_parts() {
    let zero = Hash32::ZERO.to_string();
    let headers = chained(&zero);
    let event = Envelope::read(stored(SUBJECT, &headers, DATA)).unwrap();
    let at = ChainPoint { epoch: crate::Epoch(255), seq: 1 };
    assert_eq!(event.link, Some(Link { at, prev: Hash32::ZERO }));
    for part in ["ce-farepoch", "ce-farseq", "ce-farprev"] {
        let mut headers = chained(&zero);
        headers.retain(|(name, _)| *name != part);
        check_refused(&headers, DATA, "farepoch", "all three or none");
    }
    for (name, value) in [
        ("ce-farepoch", "ff"),
        ("ce-farseq", "0"),
        ("ce-farseq", "01"),
        ("ce-farseq", "-1"),
        ("ce-farseq", "18446744073709551616"),
        ("ce-farseq", "9007199254740993"),
        ("ce-farprev", "00"),
    ] {
        let mut headers = chained(&zero);
        headers.retain(|(other, _)| *other != name);
        headers.push((name, value));
        let (path, reason) = refused(&headers, DATA);
        assert_eq!(path, name[3..], "{reason}");
    }
}

#[test]
fn a_chain_belongs_to_one_farside_agent() {
    let zero = Hash32::ZERO.to_string();
    for (source, why) in [("urn:acme:cmdb", "/<site>/<cluster>"), ("/local/dc1/resource/plain", "kept for")] {
        let mut headers = chained(&zero);
        headers.retain(|(name, _)| *name != "ce-source");
        headers.push(("ce-source", source));
        check_refused(&headers, DATA, "source", why);
    }
}

#[test]
fn every_field_and_byte_is_under_the_hash() {
    let zero = Hash32::ZERO.to_string();
    let hash = |headers: &Headers<'_>, body: &[u8]| {
        Envelope::read(stored(SUBJECT, headers, body)).unwrap().hash.unwrap()
    };
    let first = hash(&chained(&zero), DATA);
    let one = Hash32::of(b"1").to_string();
    let changes = [
        ("ce-id", "e2"),
        ("ce-source", "/local/dc1/resource/inw"),
        ("ce-time", "2026-11-22T04:31:48.124Z"),
        ("ce-time", "-"),
        ("ce-farepoch", "0000000000000100"),
        ("ce-farseq", "2"),
        ("ce-farprev", &one),
    ];
    for (name, value) in changes {
        let mut headers = chained(&zero);
        headers.retain(|(other, _)| *other != name);
        headers.extend((value != "-").then_some((name, value)));
        assert_ne!(hash(&headers, DATA), first, "{name}");
    }
    assert_ne!(hash(&chained(&zero), br#"{"kind":"Pod","id":"web" }"#), first, "body");
}

#[test]
fn sync_and_tenant_are_read() {
    let headers = binary(&[("ce-farsync", "s1"), ("ce-fartenant", "acme/web")]);
    let event = Envelope::read(stored(SUBJECT, &headers, DATA)).unwrap();
    assert_eq!(event.sync.as_deref(), Some("s1"));
    assert_eq!(event.tenant.map(|tenant| tenant.to_string()).as_deref(), Some("acme/web"));
    check_refused(&binary(&[("ce-fartenant", "a/b/c")]), DATA, "fartenant", "l1/l2");
    check_refused(&binary(&[("ce-time", "yesterday")]), DATA, "time", "RFC 3339");
}

#[test]
fn a_subject_outside_the_contract_is_refused() {
    let error = Envelope::read(stored("orders.created", &[], DATA)).unwrap_err();
    assert_eq!(error.path, "subject");
}
