//! One test per format, and one per way a document can be bad.

use bus_schema::Hash32;
use serde_json::json;

use super::*;
use crate::redact::RedactConfig;

fn reader() -> Reader {
    let redactor = Redactor::new(Hash32::of(b"salt"), &RedactConfig::default());
    Reader { redactor, tenant_label: "farside/tenant".into(), tenant: None, format: None }
}

fn read(path: &str, text: &str) -> (Vec<Record>, Vec<Fault>, Read) {
    let (mut records, mut faults) = (Vec::new(), Vec::new());
    let read = reader().read(path, text, &mut |seen| {
        match seen {
            Seen::Record(record) => records.push(record),
            Seen::Fault(fault) => faults.push(fault),
            Seen::File(file) => panic!("{file:?}"),
        }
        Go::On
    });
    (records, faults, read)
}

fn keys(records: &[Record]) -> Vec<&str> {
    records.iter().map(|record| record.key.as_str()).collect()
}

#[test]
fn kubernetes_manifests_of_many_documents() {
    let text = "# head\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: prod, resourceVersion: '42', labels: {farside/tenant: acme.web}}\n---\napiVersion: serving.knative.dev/v1\nkind: Service\nmetadata:\n  name: fn\n...\n";
    let (records, faults, _) = read("a.yaml", text);
    assert_eq!(faults, []);
    assert_eq!(keys(&records), ["Pod/prod/web", "Service.serving.knative.dev/fn"]);
    assert_eq!(records[0].revision.as_str(), "42");
    assert_eq!(records[0].tenant.as_ref().unwrap().to_string(), "acme/web");
    assert_eq!(records[1].place, Place { path: "a.yaml".into(), line: 6 });
    assert_eq!(records[1].revision.as_str(), &records[1].state_hash.to_string()[..32]);
}

#[test]
fn kubernetes_lists_give_their_items_and_secrets_stay_behind() {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"k": "aHVudGVyMg=="}},
        {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "managedFields": [1]}},
    ]});
    let (records, _, _) = read("l.json", &list.to_string());
    assert_eq!(keys(&records), ["Secret/s", "Node/n"]);
    assert!(!records[0].state.contains("aHVudGVyMg") && !records[1].state.contains("managedFields"));
    let typed = json!({"apiVersion": "v1", "kind": "PodList", "items": [{"metadata": {"name": "p"}}]});
    assert_eq!(keys(&read("p.json", &typed.to_string()).0), ["Pod/p"]);
}

#[test]
fn a_malformed_document_among_ten_thousand_is_reported_with_its_line_and_the_others_go_through() {
    let mut text = String::new();
    for n in 0..10_000 {
        let line = if n == 7_000 {
            "kind: [unclosed".to_owned()
        } else {
            format!("{{kind: Vm, id: v{n}, state: {n}}}")
        };
        text.push_str(&format!("---\n{line}\n"));
    }
    let (records, faults, read) = read("many.yaml", &text);
    assert_eq!((records.len(), faults.len(), read.documents), (9_999, 1, 10_000));
    // The fault stands at the unclosed bracket, or where the document ends without closing it.
    assert!((14_001..=14_003).contains(&faults[0].place.line), "{}", faults[0]);
    let lines = "{\"kind\":\"Vm\",\"id\":\"a\",\"state\":1}\n{\"kind\":\n\n{\"kind\":\"Vm\",\"id\":\"b\"}\n";
    let (records, faults, _) = self::read("x.jsonl", lines);
    assert_eq!((keys(&records), faults[0].place.line), (vec!["Vm/a", "Vm/b"], 2));
}

#[test]
fn a_wrong_record_in_a_list_names_its_line() {
    let text = "[\n {\"kind\": \"Vm\", \"id\": \"a\", \"state\": {}},\n {\"kind\": \"V/m\", \"id\": \"b\", \"state\": {}},\n 7\n]";
    let (records, faults, _) = read("x.json", text);
    assert_eq!(keys(&records), ["Vm/a"]);
    assert_eq!(faults.iter().map(|fault| fault.place.line).collect::<Vec<_>>(), [3, 4]);
}

#[test]
fn terraform_state_and_show_give_addresses_and_hide_what_is_sensitive() {
    let state = json!({"version": 4, "terraform_version": "1.9", "resources": [
        {"mode": "managed", "type": "aws_db", "name": "d", "module": "module.m", "provider": "p", "instances": [
            {"index_key": 0, "attributes": {"id": "i-1", "login": "hunter2"},
             "sensitive_attributes": [[{"type": "get_attr", "value": "login"}]]},
            {"index_key": "k", "attributes": {"id": "i-2"}},
        ]},
        {"mode": "data", "type": "aws_ami", "name": "a", "instances": [{"attributes": {"id": "x"}}]},
    ]});
    let (records, faults, _) = read("t.tfstate", &state.to_string());
    assert_eq!(faults, []);
    let expected =
        ["aws_db/module.m.aws_db.d[0]", "aws_db/module.m.aws_db.d[\"k\"]", "aws_ami/data.aws_ami.a"];
    assert_eq!(keys(&records), expected);
    assert!(!records[0].state.contains("hunter2"));
    let show = json!({"format_version": "1.0", "terraform_version": "1.9", "values": {"root_module": {
        "resources": [{"address": "x.y", "type": "x", "values": {"l": [{"s": "hunter2"}]}, "sensitive_values": {"l": [{"s": true}]}}],
        "child_modules": [{"resources": [{"address": "module.c.x.z", "type": "x", "values": {}}]}],
    }}});
    let (records, _, _) = read("show", &show.to_string());
    assert_eq!(keys(&records), ["x/x.y", "x/module.c.x.z"]);
    assert!(!records[0].state.contains("hunter2"));
}

#[test]
fn ansible_inventories_give_hosts_with_their_groups() {
    let inventory = json!({"_meta": {"hostvars": {"a": {"ansible_password": "hunter2"}}},
        "all": {"children": ["web"]}, "web": {"hosts": ["a", "b"]}});
    let (records, _, _) = read("inventory.json", &inventory.to_string());
    assert_eq!(keys(&records), ["Host/a", "Host/b"]);
    assert!(!records[0].state.contains("hunter2") && records[0].labels.contains_key("group/web"));
}

#[test]
fn a_yaml_bomb_is_refused_before_it_grows() {
    let mut text = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
    for n in 1..12 {
        let aliases = vec![format!("*a{}", n - 1); 10].join(",");
        text.push_str(&format!("a{n}: &a{n} [{aliases}]\n"));
    }
    let (records, faults, _) = read("bomb.yaml", &text);
    assert_eq!((records.len(), faults.len()), (0, 1), "{faults:?}");
    let deep = "[".repeat(100_000);
    assert_eq!(read("deep.yaml", &deep).1.len(), 1);
    assert_eq!(read("deep.json", &deep).1.len(), 1);
}

#[test]
fn what_is_not_recognised_is_said_and_the_explicit_empty_is_seen() {
    let (_, faults, _) = read("values.yaml", "replicas: 3\n");
    assert!(faults[0].reason.contains("Kubernetes manifest"), "{}", faults[0]);
    let (records, faults, read) = read("e.json", r#"{"explicit_empty": true, "records": []}"#);
    assert!(records.is_empty() && faults.is_empty() && read.explicit_empty);
}

#[test]
fn strange_ids_travel_as_they_are() {
    for id in ["a.b/c d", "größe ü", "x".repeat(1024).as_str()] {
        let (records, faults, _) = read("r.json", &json!({"kind": "Vm", "id": id, "state": 1}).to_string());
        assert_eq!((records.len(), faults.len()), (1, 0));
        assert_eq!(records[0].key.id(), id);
    }
    let (records, faults, _) = read("r.json", &json!({"kind": "Vm", "id": "x".repeat(1025)}).to_string());
    assert!(records.is_empty() && faults[0].reason.contains("1024"), "{faults:?}");
}

#[test]
fn what_a_bad_document_says_stays_out_of_the_reason() {
    let bad = [
        ("r.json", r#"{"kind": "Vm", "id": "a", "labels": "hunter2"}"#, "labels"),
        ("r.json", r#"{"kind": "Vm", "id": "a", "labels": {"a": 1, "hunter2": 2}}"#, "labels"),
        ("r.json", r#"{"kind": "Vm", "id": "a", "hunter2": 1}"#, "fields beside"),
        ("r.json", r#"{"kind": "hunter2 hunter2/", "id": "a"}"#, "not valid"),
        ("r.json", r#"{"kind": "Vm", "id": "a", "tenant": "hunter2/hunter2/hunter2"}"#, "tenant"),
        ("r.json", r#"{"kind": "Vm", "id": "a", "password": hunter2}"#, "not JSON"),
        ("r.yaml", "kind: Vm\nid: a\nstate: *hunter2\n", "not YAML"),
        ("r.yaml", "kind: Vm\nid: a\nstate: \"hunter2\n", "not YAML"),
        ("r.yaml", "apiVersion: v1\nkind: hunter2\n", "metadata"),
    ];
    for (path, text, why) in bad {
        let (records, faults, _) = read(path, text);
        assert!(records.is_empty(), "{text}");
        let told = faults[0].to_string();
        assert!(told.contains(why) && !told.contains("hunter2"), "{text}: {told}");
    }
    let (_, faults, _) = read("r.yaml", "state: *hunter2\n");
    assert!(faults[0].detail.as_ref().is_some_and(|detail| detail.contains("anchor")), "{faults:?}");
}

#[test]
fn labels_give_no_secret_away_in_any_format() {
    let record =
        json!({"kind": "Vm", "id": "a", "state": 1, "labels": {"api_token": "hunter2", "tier": "db"}});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"db_pass": "hunter2"}}});
    let state = json!({"version": 4, "resources": [{"mode": "managed", "type": "vm", "name": "d", "instances": [
        {"attributes": {"id": "i", "tags": {"admin_password": "hunter2", "dsn": "pg://a:hunter2@db"}}}]}]});
    for document in [record, pod, state] {
        let (records, faults, _) = read("x.json", &document.to_string());
        assert_eq!((records.len(), faults.len()), (1, 0));
        let said = format!("{:?}{}", records[0].labels, records[0].state);
        assert!(!said.contains("hunter2") && said.contains(crate::redact::MARK), "{said}");
    }
}

#[test]
fn a_large_integer_keeps_its_digits_and_another_one_is_another_revision() {
    for (path, text) in [
        ("r.json", r#"{"kind": "Vm", "id": "a", "revision": "1", "state": {"n": N}}"#),
        ("r.json", r#"[{"kind": "Vm", "id": "a", "state": {"n": N}}]"#),
        ("r.yaml", "kind: Vm\nid: a\nstate: {n: N}\n"),
    ] {
        let of = |n: &str| read(path, &text.replace('N', n)).0.remove(0);
        for (one, other) in
            [("9007199254740993", "9007199254740992"), ("18446744073709551615", "18446744073709551614")]
        {
            let (one_record, other_record) = (of(one), of(other));
            assert!(one_record.state.contains(one) && other_record.state.contains(other), "{text}");
            assert_ne!(one_record.revision, other_record.revision, "{text}");
        }
        assert_eq!(of("100000000000000000000").revision, of("1e20").revision, "nothing is lost of it");
        let (records, faults, _) = read(path, &text.replace('N', "100000000000000000001"));
        assert!(records.is_empty() && faults[0].reason.contains("write it as a text"), "{text}: {faults:?}");
    }
}

#[test]
fn yaml_scalars_are_read_by_the_rules_of_yaml_1_1() {
    for (written, read_as) in [
        ("0644", json!(420)),
        ("0777", json!(511)),
        ("010", json!(8)),
        ("-010", json!(-8)),
        ("0o644", json!(420)),
        ("0x1F", json!(31)),
        ("0", json!(0)),
        ("10", json!(10)),
        ("0.5", json!(0.5)),
        ("yes", json!(true)),
        ("Off", json!(false)),
        ("'0644'", json!("0644")),
        ("'no'", json!("no")),
        ("1.10.0", json!("1.10.0")),
        ("12:30:45", json!("12:30:45")),
    ] {
        let (records, faults, _) = read("r.yaml", &format!("kind: Vm\nid: a\nstate: {written}\n"));
        assert_eq!(faults, [], "{written}");
        assert_eq!(records[0].state, read_as.to_string(), "{written}");
    }
    let (records, ..) = read("r.json", r#"{"kind": "Vm", "id": "a", "state": "0644"}"#);
    assert_eq!(records[0].state, r#""0644""#);
}

#[test]
fn a_name_or_namespace_that_is_no_text_is_a_fault_and_not_a_shorter_key() {
    for metadata in
        ["{name: web, namespace: no}", "{name: web, namespace: 2025}", "{name: 7, namespace: prod}"]
    {
        let text = format!("apiVersion: v1\nkind: Pod\nmetadata: {metadata}\n");
        let (records, faults, _) = read("a.yaml", &text);
        assert!(records.is_empty() && faults[0].reason.contains("quote it"), "{text}: {faults:?}");
    }
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: '7', namespace: 'no'}\n";
    assert_eq!(keys(&read("a.yaml", text).0), ["Pod/no/7"]);
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: null}\n";
    assert_eq!(keys(&read("a.yaml", text).0), ["Pod/web"]);
}
