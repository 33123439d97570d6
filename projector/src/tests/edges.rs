//! Edge cases of the stem `resource` that the projector decides.

use bus_schema::{Timestamp, token};

use super::support::{Agent, CREATED, Log, Pool, given, key, pool_id, resource_subject};
use crate::{Filter, Stated};

#[test]
fn the_same_id_in_two_clusters_is_two_resources() {
    let (mut log, mut one, mut two) = (Log::default(), Agent::new("dc1", "inv"), Agent::new("dc2", "inv"));
    one.changed(&mut log, "Pod/web", "1", "{}");
    two.changed(&mut log, "Pod/web", "7", "{}");
    one.deleted(&mut log, "Pod/web");
    given(&log).then("dc1", &[]).then("dc2", &[("Pod/web", "7")]);
}

#[test]
fn ids_may_hold_anything_but_control_characters() {
    let long = format!("Pod/{}", "x".repeat(1024));
    let keys = ["Gerät/größe ü 🚀", "Pod/a.b/c d>*", "Pod/=2F~", long.as_str()];
    let (mut log, mut agent) = (Log::default(), Agent::new("dc1", "inv"));
    keys.iter().for_each(|key| {
        agent.changed(&mut log, key, "1", "{}");
    });
    let mut expected: Vec<_> = keys.iter().map(|key| (*key, "1")).collect();
    expected.sort_unstable();
    given(&log).then("dc1", &expected);
}

#[test]
fn bad_names_are_dead_letters_that_say_the_rule() {
    let mut log = Log::default();
    let mut bad = |kind: &str, id: &str| {
        let data = serde_json::json!({"kind": kind, "id": id, "revision": "1", "state": {}}).to_string();
        log.plain("dc1", kind, id, "changed", &data);
    };
    bad("Pod", &"x".repeat(1025));
    bad("Po/d", "a");
    bad("", "a");
    bad("Pod", "a\u{7}");
    log.plain("dc1", "Pod", "a", "changed", r#"{"kind":"Pod","id":"a","revision":"","state":{}}"#);
    let pool = given(&log);
    let reasons = pool.reasons();
    for (reason, part) in reasons.iter().zip(["1024", "without /", "128 bytes", "control", "$.revision"]) {
        assert!(reason.contains(part), "{reason}");
    }
    assert_eq!(reasons.len(), 5);
    assert!(pool.reader().pools().unwrap().iter().all(|pool| pool.resources == 0));
}

#[test]
fn a_wrong_token_is_a_dead_letter_that_names_the_right_one() {
    let mut log = Log::default();
    let data = br#"{"kind":"Pod","id":"a.b","revision":"1","state":{}}"#;
    log.append(&resource_subject("dc1", "Pod/ab", "changed"), Vec::new(), data.to_vec());
    let reasons = given(&log).reasons();
    assert!(reasons[0].contains(&token::of("Pod/a.b")), "{reasons:?}");
}

#[test]
fn a_dead_letter_holds_the_message_and_the_rest_goes_on() {
    let mut log = Log::default();
    let headers = vec![("X-Mine".to_owned(), "1".to_owned())];
    log.append("far.v1.local.evt.dc1.resource.x.exploded", headers.clone(), b"\xff\0".to_vec());
    log.append("nonsense", Vec::new(), Vec::new());
    log.plain("dc1", "Pod", "a", "changed", r#"{"kind":"Pod","id":"a","revision":"1","state":1}"#);
    let pool = given(&log);
    pool.then("dc1", &[("Pod/a", "1")]);
    let pending = pool.pending();
    let Stated::DeadLetter(letter) = &pending[0].what else { panic!("{pending:?}") };
    assert_eq!((letter.stream.as_str(), letter.seq), ("FARSIDE_LOCAL", 1));
    assert!(letter.reason.contains("unknown event resource.exploded"), "{}", letter.reason);
    let message = letter.message.as_ref().unwrap();
    assert_eq!((&message.headers, message.body.as_slice()), (&headers, &b"\xff\0"[..]));
    assert_eq!(pool.reader().dead_letters().unwrap().value, 2);
    assert_eq!(pool.store.position("FARSIDE_LOCAL").unwrap().unwrap().seq, 3);

    pool.store.settle(&[pending[0].id, pending[1].id]).unwrap();
    assert_eq!(pool.pending(), []);
}

#[test]
fn states_that_no_json_reader_takes_are_dead_letters() {
    let deep = format!("{}1{}", "[".repeat(200), "]".repeat(200));
    let digits = "9".repeat(400);
    let states = [deep.as_str(), digits.as_str(), "1e999", r#""\ud800""#];
    let mut log = Log::default();
    for state in states {
        let data = format!(r#"{{"kind":"Pod","id":"a","revision":"1","state":{state}}}"#);
        log.plain("dc1", "Pod", "a", "changed", &data);
    }
    log.plain("dc1", "Pod", "b", "changed", r#"{"kind":"Pod","id":"b","revision":"1","state":"1e5 \u00e4"}"#);
    let pool = given(&log);
    pool.then("dc1", &[("Pod/b", "1")]);
    assert_eq!(pool.reasons().iter().filter(|reason| reason.starts_with("$.state")).count(), 4);
}

#[test]
fn delete_then_recreate_with_a_lower_revision_leaves_the_new_one() {
    let (mut log, mut agent) = (Log::default(), Agent::new("dc1", "inv"));
    agent.changed(&mut log, "Pod/web", "9", r#"{"a":1}"#);
    agent.deleted(&mut log, "Pod/web");
    agent.deleted(&mut log, "Pod/never");
    let mut pool = given(&log);
    pool.then("dc1", &[]);
    let grave = pool.row("dc1", "Pod/web").unwrap();
    assert_eq!(grave.deleted_at, Some(Timestamp::from_unix_ms(CREATED + 2000)));
    assert_eq!((grave.state, grave.revision), (None, None));
    assert!(pool.row("dc1", "Pod/never").unwrap().deleted_at.is_some());
    assert_eq!(pool.reader().pools().unwrap()[0].deleted, 2);

    agent.changed(&mut log, "Pod/web", "1", "{}");
    pool.read_on(&log).then("dc1", &[("Pod/web", "1")]);
    assert_eq!(pool.reader().pools().unwrap()[0].deleted, 1);
}

#[test]
fn of_two_changes_in_one_tick_the_later_one_stays() {
    let (mut log, mut agent) = (Log::default(), Agent::new("dc1", "inv"));
    agent.changed(&mut log, "Pod/web", "b", "{}");
    agent.changed(&mut log, "Pod/web", "a", "{}");
    log.messages.iter_mut().for_each(|message| message.stored_at = CREATED);
    given(&log).then("dc1", &[("Pod/web", "a")]);
}

#[test]
fn a_wrong_source_clock_changes_nothing_but_the_source_time() {
    let (mut log, mut agent) = (Log::default(), Agent::new("dc1", "inv"));
    agent.time = "2099-01-01T00:00:00Z".to_owned();
    agent.changed(&mut log, "Pod/web", "1", "{}");
    agent.time = "1970-01-01T00:00:00Z".to_owned();
    agent.changed(&mut log, "Pod/web", "2", "{}");
    let pool = given(&log);
    pool.then("dc1", &[("Pod/web", "2")]);
    let row = pool.row("dc1", "Pod/web").unwrap();
    assert_eq!((row.source_time.unix_ms(), row.stored_at.unix_ms()), (0, CREATED + 2000));
    assert_eq!(pool.reader().as_of().unwrap().time.unix_ms(), CREATED + 2000);
}

#[test]
fn r6_a_notice_marks_the_row_and_counts_its_announced_size_until_the_state_comes() {
    let (mut log, mut agent) = (Log::default(), Agent::new("dc1", "inv"));
    agent.changed(&mut log, "Pod/a", "1", r#"{"v":1}"#);
    agent.noticed(&mut log, "Pod/a", "2", r#"{"v":22}"#);
    agent.noticed(&mut log, "Pod/new", "1", "[]");
    agent.noticed(&mut log, "Pod/a", "3", r#"{"v":333}"#);
    let mut pool = given(&log);
    let row = pool.row("dc1", "Pod/a").unwrap();
    assert_eq!((row.revision.as_ref().unwrap().as_str(), row.state.as_deref()), ("1", Some(r#"{"v":1}"#)));
    let notice = row.notice.as_ref().unwrap();
    assert_eq!((notice.revision.as_str(), notice.size_bytes), ("3", 9));
    assert_eq!(notice.since.unix_ms(), CREATED + 2000, "stale since the first notice");
    assert_eq!(row.current().unwrap().0.as_str(), "3");
    let new = pool.row("dc1", "Pod/new").unwrap();
    assert_eq!((new.state, new.revision), (None, None));

    let since = pool.reader().counters(&pool_id("dc1")).unwrap().value.sum;
    assert_eq!((since.changes, since.bytes, since.outstanding), (4, 7 + 8 + 2 + 9, 2));
    assert_eq!(since.oldest_outstanding.unwrap().unix_ms(), CREATED + 2000);
    let stale = Filter { stale: true, ..Filter::default() };
    assert_eq!(pool.reader().rows(&pool_id("dc1"), &stale, None, 10).unwrap().rows.len(), 2);

    let announced = pool.digest(&agent);
    agent.changed(&mut log, "Pod/a", "3", r#"{"v":333}"#);
    agent.changed(&mut log, "Pod/new", "1", "[]");
    pool.read_on(&log).then("dc1", &[("Pod/a", "3"), ("Pod/new", "1")]);
    assert_eq!(pool.digest(&agent), announced, "the digest had the announced values already");
    let since = pool.owner(&agent).since_sync;
    assert_eq!((since.outstanding, since.oldest_outstanding), (0, None));
}

#[test]
fn r6_events_of_a_sync_do_not_count() {
    let (mut log, mut agent) = (Log::default(), Agent::new("dc1", "inv"));
    agent.sync = Some("s1".to_owned());
    agent.changed(&mut log, "Pod/a", "1", "{}");
    assert_eq!(given(&log).owner(&agent).since_sync.changes, 0);
}

#[test]
fn a_resource_that_another_owner_writes_moves_to_its_digest() {
    let (mut log, mut one, mut two) = (Log::default(), Agent::new("dc1", "a"), Agent::new("dc1", "b"));
    one.changed(&mut log, "Pod/x", "1", "{}");
    one.noticed(&mut log, "Pod/y", "1", "{}");
    two.changed(&mut log, "Pod/x", "2", "{}");
    two.changed(&mut log, "Pod/y", "2", "{}");
    let pool = given(&log);
    assert_eq!((pool.digest(&one).count, pool.digest(&one).root), (0, Default::default()));
    assert_eq!(pool.digest(&two).count, 2);
    assert_eq!(pool.owner(&one).since_sync.outstanding, 0);
    let of = |owner: &Agent| {
        let filter = Filter { owner: Some(owner.source.clone()), ..Filter::default() };
        pool.reader().rows(&pool_id("dc1"), &filter, None, 10).unwrap().rows.len()
    };
    assert_eq!((of(&one), of(&two)), (0, 2));
}

#[test]
fn filters_find_rows_by_kind_label_tenant_and_owner_page_by_page() {
    let (mut log, mut agent) = (Log::default(), Agent::new("dc1", "inv"));
    for n in 0..20 {
        agent.tenant = Some(if n % 2 == 0 { "acme".to_owned() } else { "acme/web".to_owned() });
        let kind = if n < 10 { "Pod" } else { "Po" };
        let tier = if n % 4 == 0 { "front" } else { "back" };
        let labels = [("tier", tier), ("zone", "a")];
        agent.labelled(&mut log, &format!("{kind}/{n:02}"), "1", "{}", &labels);
    }
    agent.deleted(&mut log, "Pod/00");
    agent.labelled(&mut log, "Pod/04", "2", "{}", &[("tier", "back")]);
    let pool = given(&log);
    let keys = |filter: Filter| {
        let (mut keys, mut after) = (Vec::new(), None);
        loop {
            let page = pool.reader().rows(&pool_id("dc1"), &filter, after.as_ref(), 3).unwrap();
            assert!(page.rows.len() <= 3 && (page.next.is_none() || page.rows.len() == 3));
            keys.extend(page.rows.iter().map(|row| row.key.to_string()));
            match page.next {
                Some(next) => after = Some(next),
                None => return keys,
            }
        }
    };
    let kind = Filter { kind: Some("Po".to_owned()), ..Filter::default() };
    assert_eq!(keys(kind.clone()).len(), 10);
    let front = Filter { labels: [("tier".to_owned(), "front".to_owned())].into(), ..Filter::default() };
    assert_eq!(keys(front.clone()), ["Po/12", "Po/16", "Pod/08"]);
    let tenant = Filter { tenant: Some("acme".parse().unwrap()), ..Filter::default() };
    assert_eq!(
        keys(tenant.clone()),
        ["Po/10", "Po/12", "Po/14", "Po/16", "Po/18", "Pod/02", "Pod/06", "Pod/08"]
    );
    assert_eq!(keys(Filter { kind: kind.kind, ..front }), ["Po/12", "Po/16"]);
    assert_eq!(keys(Filter { include_deleted: true, ..Filter::default() }).len(), 20);
    assert_eq!(keys(Filter { owner: Some("nobody".to_owned()), ..tenant }), Vec::<String>::new());
    assert_eq!(pool.reader().row(&pool_id("dc9"), &key("Pod/00")).unwrap().value, None);
}

#[test]
fn an_export_is_canonical_and_sorted() {
    let (mut log, mut agent) = (Log::default(), Agent::new("dc1", "inv"));
    agent.changed(&mut log, "Pod/b", "1", r#"{ "z": 1.0, "a": "\u0041" }"#);
    agent.changed(&mut log, "Pod/a", "1", "[]");
    let export = given(&log).export("dc1");
    let lines: Vec<&str> = export.lines().collect();
    assert_eq!(lines.len(), 2);
    assert!(
        lines[0].contains(r#""key":"Pod/a""#) && lines[1].contains(r#""state":{"a":"A","z":1}"#),
        "{export}"
    );
}

#[test]
fn dropping_a_pool_leaves_the_others_and_it_may_come_back() {
    let (mut log, mut one, mut two) = (Log::default(), Agent::new("dc1", "inv"), Agent::new("dc2", "inv"));
    one.changed(&mut log, "Pod/x", "1", "{}");
    two.changed(&mut log, "Pod/y", "1", "{}");
    let mut pool: Pool = given(&log);
    assert!(pool.store.drop_pool(&pool_id("dc1")).unwrap());
    assert!(!pool.store.drop_pool(&pool_id("dc1")).unwrap());
    pool.then("dc1", &[]).then("dc2", &[("Pod/y", "1")]);
    one.changed(&mut log, "Pod/z", "1", "{}");
    pool.read_on(&log).then("dc1", &[("Pod/z", "1")]);
    assert_eq!(pool.facts(), ["gap_found"], "what it had is missing");
}

#[test]
fn a_page_ends_with_its_bytes_and_the_next_one_goes_on() {
    let (mut log, mut agent) = (Log::default(), Agent::new("dc1", "inv"));
    let state = format!("\"{}\"", "x".repeat(1 << 20));
    (0..20).for_each(|n| {
        agent.changed(&mut log, &format!("Pod/{n:02}"), "1", &state);
    });
    let pool = given(&log);
    let (mut after, mut lengths) = (None, vec![]);
    loop {
        let page = pool.reader().rows(&pool_id("dc1"), &Filter::default(), after.as_ref(), 1_000).unwrap();
        lengths.push(page.rows.len());
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(lengths, [8, 8, 4]);
}
