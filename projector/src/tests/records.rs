//! Keys, tenants, syncs, confirmations, volumes, images, facts about logs, digests, rebuilds.

use bus_schema::{
    Hash32,
    command::resource::{SyncReason, UpdateInfo},
    digest::{Digest, Node, Trie},
    event::{
        image::{self, ImageEvent},
        key::{Announced, KeyEvent, Withdrawn},
        resource::SyncScope,
        volume::{Extent, VolumeEvent, WriteFailed},
    },
    fact::{
        Fact,
        key::{Issued, KeyFact, Revoked},
        log::{LogFact, Parked},
        resource::{Confirmed, ResourceFact, SchedulePaused, SyncCompleted, SyncRequested},
        tenant::{self, TenantFact},
    },
};

use super::support::{Agent, CREATED, Log, Pool, SITE, at, given, name, pool_id};
use crate::{KeyOrigin, compare};

fn actor() -> String {
    "operator".to_owned()
}

#[test]
fn r7_keys_of_a_source_and_of_the_target_are_known_apart() {
    let (mut log, mut agent) = (Log::default(), Agent::new("dc1", "inv"));
    let (tenant, salt, hash, not_after) = ("acme".parse().unwrap(), Hash32::of(b"s"), Hash32::of(b"h"), None);
    let announced = Announced { key_id: name("k1"), tenant, salt, hash, not_after };
    let event = KeyEvent::Announced(announced.clone());
    let message = agent.say("key", "k1", "announced", event.data().unwrap());
    log.repeat(&message);
    let Announced { key_id, tenant, salt, hash, .. } = announced;
    let not_after = Some(at(CREATED + 5_000));
    let issued = Issued { key_id, tenant, salt, hash, not_after, actor: actor() };
    log.fact(&Fact::Key(KeyFact::Issued(issued)));
    let mut pool = given(&log);
    let keys = pool.reader().key(&name("k1")).unwrap().value;
    assert_eq!(keys.len(), 2);
    assert_eq!(pool.reader().keys(&pool_id("dc1")).unwrap().len(), 1);
    let issued = pool.reader().issued_keys().unwrap().value.remove(0);
    assert_eq!(issued.origin, KeyOrigin::Target);
    assert!(issued.is_good_at(at(CREATED)) && !issued.is_good_at(at(CREATED + 5_000)));

    log.fact(&Fact::Key(KeyFact::Revoked(Revoked { key_id: name("k1"), source: None, actor: actor() })));
    let withdrawn = KeyEvent::Withdrawn(Withdrawn { key_id: name("k1") });
    let message = agent.say("key", "k1", "withdrawn", withdrawn.data().unwrap());
    log.repeat(&message);
    pool.read_on(&log);
    assert!(pool.reader().key(&name("k1")).unwrap().iter().all(|key| !key.is_good_at(at(CREATED))));
}

fn announced(agent: &mut Agent, log: &mut Log, key: &Announced) {
    let event = KeyEvent::Announced(key.clone());
    let message = agent.say("key", key.key_id.as_str(), "announced", event.data().unwrap());
    log.repeat(&message);
}

fn ak(key_id: &str) -> Announced {
    let (tenant, salt, hash) = ("acme".parse().unwrap(), Hash32::of(b"s"), Hash32::of(b"h"));
    Announced { key_id: name(key_id), tenant, salt, hash, not_after: None }
}

#[test]
fn r7_a_key_belongs_to_the_source_that_announced_it_and_to_its_chain() {
    let mut log = Log::default();
    let (mut one, mut two) = (Agent::new("dc1", "one"), Agent::new("dc1", "two"));
    announced(&mut one, &mut log, &ak("k1"));
    two.changed(&mut log, "Pod/a", "1", "{}");
    // Anybody may publish; nobody without the agent's chain speaks of keys.
    let withdrawn = KeyEvent::Withdrawn(Withdrawn { key_id: name("k1") }).data().unwrap();
    log.append("far.v1.local.evt.dc1.key.k1.withdrawn", Vec::new(), withdrawn.clone());
    let chained = one.clone().say("key", "k1", "withdrawn", withdrawn);
    let headers = chained.headers.into_iter().filter(|(name, _)| !name.starts_with("ce-far")).collect();
    log.append(&chained.subject, headers, chained.body);
    let pool = given(&log);
    let keys = pool.reader().keys(&pool_id("dc1")).unwrap().value;
    assert_eq!(keys.len(), 1);
    assert!(keys[0].is_good_at(at(CREATED)) && keys[0].is_of(&one.source) && !keys[0].is_of(&two.source));
    let reasons = pool.reasons();
    assert!(reasons.len() == 2 && reasons.iter().all(|reason| reason.starts_with("farepoch")), "{reasons:?}");
    // Another source may use the same name; neither ends the other's.
    announced(&mut two, &mut log, &ak("k1"));
    let pool = given(&log);
    assert_eq!(pool.reader().key(&name("k1")).unwrap().len(), 2);
    assert!(pool.store.drop_pool(&pool_id("dc1")).unwrap());
    assert_eq!(pool.reader().key(&name("k1")).unwrap().len(), 0);
}

fn issued(key_id: &str) -> Fact {
    let Announced { key_id, tenant, salt, hash, not_after } = ak(key_id);
    Fact::Key(KeyFact::Issued(Issued { key_id, tenant, salt, hash, not_after, actor: actor() }))
}

#[test]
fn r8_a_tenant_that_is_made_again_does_not_get_the_keys_of_the_removed_one() {
    let mut log = Log::default();
    let tenant: bus_schema::TenantId = "acme".parse().unwrap();
    let created =
        Fact::Tenant(TenantFact::Created(tenant::Created { tenant: tenant.clone(), actor: actor() }));
    log.fact(&created);
    log.fact(&issued("k1"));
    log.fact(&Fact::Tenant(TenantFact::Removed(tenant::Removed { tenant, actor: actor() })));
    log.fact(&created);
    log.fact(&issued("k2"));
    let keys = given(&log).reader().issued_keys().unwrap().value;
    let good: Vec<_> = keys.iter().map(|key| (key.key_id.as_str(), key.is_good_at(at(CREATED)))).collect();
    assert_eq!(good, [("k1", false), ("k2", true)]);
}

fn revoked(key_id: &str, source: &str) -> Fact {
    let (key_id, source) = (name(key_id), Some(source.to_owned()));
    Fact::Key(KeyFact::Revoked(Revoked { key_id, source, actor: actor() }))
}

fn is_good(pool: &Pool, key_id: &str) -> Vec<bool> {
    let keys = pool.reader().key(&name(key_id)).unwrap().value;
    keys.iter().map(|key| key.is_good_at(at(CREATED))).collect()
}

#[test]
fn r7_an_announced_key_that_a_person_revoked_stays_so_whatever_is_announced_and_in_whatever_order() {
    let (mut one, mut two) = (Agent::new("dc1", "one"), Agent::new("dc1", "two"));
    let mut sites = Log::default();
    announced(&mut one, &mut sites, &ak("k1"));
    announced(&mut two, &mut sites, &ak("k1"));
    announced(&mut one, &mut sites, &Announced { hash: Hash32::of(b"another secret"), ..ak("k1") });
    let mut target = Log::default();
    target.fact(&revoked("k1", &one.source));
    for order in [[&sites, &target], [&target, &sites]] {
        let mut both = Log::default();
        both.messages = order.into_iter().flat_map(|log| log.messages.clone()).collect();
        let pool = given(&both);
        assert_eq!(is_good(&pool, "k1"), [false, true], "the source's own, and no other source's");
        let of_pool = pool.reader().keys(&pool_id("dc1")).unwrap().value;
        assert!(of_pool.iter().all(|key| key.is_good_at(at(CREATED)) != key.is_of(&one.source)));
    }

    let mut both = sites.clone();
    both.fact(&revoked("k1", &one.source));
    let mut pool = given(&both);
    assert!(pool.store.drop_pool(&pool_id("dc1")).unwrap());
    let mut again = Agent::new("dc1", "one");
    announced(&mut again, &mut both, &ak("k1"));
    pool.read_on(&both);
    assert_eq!(is_good(&pool, "k1"), [false], "also in a pool that is made anew");
}

#[test]
fn r8_a_removed_tenant_is_remembered_until_it_is_created_again() {
    let mut log = Log::default();
    let acme: bus_schema::TenantId = "acme".parse().unwrap();
    let (of, by) = (acme.clone(), actor());
    let created =
        Fact::Tenant(TenantFact::Created(tenant::Created { tenant: of.clone(), actor: by.clone() }));
    let removed = Fact::Tenant(TenantFact::Removed(tenant::Removed { tenant: of, actor: by }));
    log.fact(&created);
    let mut pool = given(&log);
    let mut is_removed = |log: &Log| {
        pool.read_on(log);
        let is_removed = pool.reader().is_removed(&acme.level1).unwrap().value;
        assert_eq!(pool.reader().removed_tenants().unwrap().contains(&acme.level1), is_removed);
        is_removed
    };
    assert!(!is_removed(&log));
    log.fact(&removed);
    announced(&mut Agent::new("dc1", "one"), &mut log, &ak("k1"));
    assert!(is_removed(&log), "an announcement does not bring it back");
    log.fact(&created);
    assert!(!is_removed(&log));
}

#[test]
fn a_target_log_that_lost_its_tail_makes_no_revoked_key_good_and_repeats_no_record() {
    let mut log = Log::default();
    log.fact(&issued("k1"));
    log.fact(&requested("s1"));
    log.fact(&Fact::Resource(ResourceFact::Confirmed(confirmed())));
    log.fact(&Fact::Key(KeyFact::Revoked(Revoked { key_id: name("k1"), source: None, actor: actor() })));
    let mut pool = given(&log);
    log.messages.pop();
    pool.store.rewind(super::support::TARGET, at(CREATED + 1)).unwrap();
    pool.read = 0;
    pool.read_on(&log);
    assert!(!pool.reader().issued_keys().unwrap()[0].is_good_at(at(CREATED)));
    assert_eq!(pool.reader().confirmations(&pool_id("dc1"), 10).unwrap().len(), 1);
    assert_eq!(pool.reader().syncs(&pool_id("dc1"), 10).unwrap().len(), 1);
    // A fact that is stated again later, word by word, does not make it good either.
    let mut later = Log::written_after(&log);
    later.append("nonsense.tgt.", Vec::new(), Vec::new());
    (0..3).for_each(|_| {
        later.fact(&issued("k1"));
    });
    pool.read = 3;
    pool.read_on(&later);
    assert!(!pool.reader().issued_keys().unwrap()[0].is_good_at(at(CREATED)));
}

#[test]
fn r1_the_last_first_request_is_known_however_long_ago_it_was() {
    let mut log = Log::default();
    let first = log.fact(&requested("s-first")) as i64;
    for n in 0..1200 {
        let Fact::Resource(ResourceFact::SyncRequested(mut other)) = requested(&format!("s{n}")) else {
            panic!()
        };
        other.reason = SyncReason::Third;
        log.fact(&Fact::Resource(ResourceFact::SyncRequested(other)));
    }
    // The owner is heard of only after that.
    let mut agent = Agent::new("dc1", "inv");
    agent.changed(&mut log, "Pod/a", "1", "{}");
    let pool = given(&log);
    assert_eq!(pool.owner(&agent).last_first, Some(at(CREATED + 1000 * first)));
    let reader = pool.reader();
    assert_eq!(reader.sync(&pool_id("dc1"), "s700").unwrap().value.unwrap().sync_id, "s700");
    assert_eq!(reader.sync(&pool_id("dc1"), "s-first").unwrap().value, None, "not one of the last thousand");
}

fn confirmed() -> Confirmed {
    Confirmed {
        pool: pool_id("dc1"),
        confirm_id: "c1".to_owned(),
        actor: actor(),
        task: None,
        allowed_unreachable: false,
        resources: Vec::new(),
    }
}

#[test]
fn r8_tenants_are_bound_granted_and_removed_with_those_below() {
    let mut log = Log::default();
    let mut state = |fact: TenantFact| log.fact(&Fact::Tenant(fact));
    let id = |text: &str| text.parse::<bus_schema::TenantId>().unwrap();
    for tenant in ["acme", "acme/web", "acme-x", "acme-x/y"] {
        state(TenantFact::Created(tenant::Created { tenant: id(tenant), actor: actor() }));
    }
    state(TenantFact::Bound(tenant::Bound { tenant: id("acme/web"), actor: actor() }));
    state(TenantFact::Granted(tenant::Granted {
        tenant: id("acme/web"),
        pools: vec![pool_id("dc1")],
        labels: [("tier".to_owned(), "front".to_owned())].into(),
        actor: actor(),
    }));
    let mut pool = given(&log);
    let web = pool.reader().tenant(&id("acme/web")).unwrap().value.unwrap();
    assert!(web.bound && web.grant.unwrap().pools == [pool_id("dc1")]);
    assert!(!pool.reader().tenant(&id("acme-x/y")).unwrap().value.unwrap().bound);
    log.fact(&Fact::Tenant(TenantFact::Removed(tenant::Removed { tenant: id("acme"), actor: actor() })));
    pool.read_on(&log);
    let left: Vec<_> = pool.reader().tenants().unwrap().iter().map(|it| it.tenant.to_string()).collect();
    assert_eq!(left, ["acme-x", "acme-x/y"]);
}

fn requested(sync_id: &str) -> Fact {
    let digest = Digest { root: Node::default(), count: 0 };
    Fact::Resource(ResourceFact::SyncRequested(SyncRequested {
        pool: pool_id("dc1"),
        owner: "/local/dc1/resource/inv".to_owned(),
        sync_id: sync_id.to_owned(),
        reason: SyncReason::First,
        scope: SyncScope::Full,
        update_info: UpdateInfo { since: None, outstanding: 0, digest },
    }))
}

#[test]
fn the_last_syncs_and_confirmations_are_kept_newest_first() {
    let mut log = Log::default();
    (0..1005).for_each(|n| {
        log.fact(&requested(&format!("s{n}")));
    });
    log.fact(&Fact::Resource(ResourceFact::SyncCompleted(SyncCompleted {
        pool: pool_id("dc1"),
        owner: "/local/dc1/resource/inv".to_owned(),
        sync_id: "s1003".to_owned(),
        scope: SyncScope::Full,
        resources: 1,
        bytes: 2,
        took_ms: 3,
        equal: true,
    })));
    log.fact(&Fact::Resource(ResourceFact::Confirmed(confirmed())));
    let paused = SchedulePaused { pool: pool_id("dc1"), paused: true, actor: actor() };
    log.fact(&Fact::Resource(ResourceFact::SchedulePaused(paused)));
    let pool = given(&log);
    let syncs = pool.reader().syncs(&pool_id("dc1"), 5000).unwrap().value;
    assert_eq!((syncs.len(), syncs[0].sync_id.as_str()), (1000, "s1004"));
    assert!(syncs[1].completed.is_some() && syncs[1].requested.is_some());
    let confirmations = pool.reader().confirmations(&pool_id("dc1"), 10).unwrap().value;
    assert_eq!(confirmations[0].confirmed, confirmed());
    assert!(pool.reader().is_paused(&pool_id("dc1")).unwrap().value);
}

#[test]
fn v2_failed_extents_merge_within_a_generation() {
    let (mut log, mut agent) = (Log::default(), Agent::new("dc1", "inv"));
    agent.source = "/local/dc1/volume/nbd".to_owned();
    let mut fail = |generation: u64, extents: &[(u64, u64)], first: i64| {
        let extents =
            extents.iter().map(|(offset, length)| Extent { offset: *offset, length: *length }).collect();
        let event = VolumeEvent::WriteFailed(WriteFailed {
            volume: name("vol1"),
            generation,
            extents,
            reason: "no answer".to_owned(),
            first_failed_at: at(first),
            last_failed_at: at(first + 1),
        });
        let message = agent.say("volume", "vol1", "write_failed", event.data().unwrap());
        log.repeat(&message);
    };
    fail(2, &[(0, 4096), (8192, 4096)], 500);
    fail(2, &[(4096, 4096), (65_536, 10)], 400);
    fail(1, &[(1 << 30, 1)], 1);
    let pool = given(&log);
    let volume = pool.reader().volumes(&pool_id("dc1")).unwrap().value.remove(0);
    let extents: Vec<_> = volume.extents.iter().map(|extent| (extent.offset, extent.length)).collect();
    assert_eq!(extents, [(0, 12_288), (65_536, 10)]);
    assert_eq!(
        (volume.generation, volume.first_failed_at.unix_ms(), volume.last_failed_at.unix_ms()),
        (2, 400, 501)
    );

    let mut fail = |generation| {
        let event = VolumeEvent::WriteFailed(WriteFailed {
            volume: name("vol1"),
            generation,
            extents: vec![Extent { offset: 7, length: 1 }],
            reason: "no answer".to_owned(),
            first_failed_at: at(9),
            last_failed_at: at(9),
        });
        let message = agent.say("volume", "vol1", "write_failed", event.data().unwrap());
        log.repeat(&message);
    };
    fail(3);
    let volume = given(&log).reader().volumes(&pool_id("dc1")).unwrap().value.remove(0);
    assert_eq!((volume.generation, volume.extents.len()), (3, 1), "a new generation starts anew");
}

#[test]
fn images_are_catalogued_by_reference() {
    let (mut log, mut agent) = (Log::default(), Agent::new("dc1", "inv"));
    agent.source = "/local/dc1/image/zot".to_owned();
    let pushed = image::Pushed {
        registry: "r".to_owned(),
        repository: "library/nginx".to_owned(),
        tag: Some("1".to_owned()),
        digest: "sha256:00".to_owned(),
        media_type: "m".to_owned(),
        size_bytes: 5,
        actor: None,
        pushed_at: at(1),
    };
    let deleted = image::Deleted {
        registry: "r".to_owned(),
        repository: "library/nginx".to_owned(),
        tag: Some("1".to_owned()),
        digest: "sha256:00".to_owned(),
    };
    for event in [ImageEvent::Pushed(pushed), ImageEvent::Deleted(deleted)] {
        let message = agent.say("image", &event.entity(), event.name(), event.data().unwrap());
        log.repeat(&message);
    }
    let images = given(&log).reader().images(&pool_id("dc1")).unwrap().value;
    assert_eq!((images.len(), images[0].reference.as_str()), (1, "r/library/nginx:1"));
    assert!(images[0].pushed.is_some() && images[0].deleted_at.is_some());
}

#[test]
fn what_was_stated_is_not_stated_again_by_a_rebuild() {
    let mut log = Log::default();
    log.append("nonsense", Vec::new(), Vec::new());
    let parked = Parked {
        stream: SITE.to_owned(),
        seq: 1,
        subject: "nonsense".to_owned(),
        reason: "r".to_owned(),
        path: "subject".to_owned(),
        stored_at: None,
        at: None,
        copy_of: None,
    };
    let live = given(&log);
    assert_eq!(live.pending().len(), 1);
    let why = |pool: &Pool| pool.reader().parked(SITE, 1).unwrap().value;
    let waiting = why(&live).unwrap();
    let would_be = log.messages[0].with_stored(crate::check);
    assert_eq!(would_be, Err(waiting), "what is checked is what is done");
    log.fact(&Fact::Log(LogFact::Parked(parked)));
    let mut live = live;
    live.read_on(&log);
    assert_eq!(live.pending(), [], "the fact settles it");
    assert_eq!(live.reader().dead_letters().unwrap().value, 1);
    assert_eq!(why(&live).unwrap().reason, "r");
    assert_eq!(live.reader().parked(SITE, 2).unwrap().value, None);
    assert_eq!(live.reader().log_facts(10).unwrap()[0].place, "FARSIDE_TGT_LOCAL:1");
    log.messages.reverse();
    assert_eq!(given(&log).pending(), []);
}

#[test]
fn the_digest_grows_and_equals_one_that_is_built_from_scratch() {
    let (mut log, mut agent) = (Log::default(), Agent::new("dc1", "inv"));
    let mut pool = Pool::new();
    for n in 0..5000 {
        agent.changed(&mut log, &format!("Pod/{n}"), "1", &format!("{{\"n\":{n}}}"));
        if n % 1700 == 0 {
            pool.read_on(&log);
        }
    }
    (0..5000).step_by(7).for_each(|n| {
        agent.deleted(&mut log, &format!("Pod/{n}"));
    });
    pool.read_on(&log);
    let (reader, dc1) = (pool.reader(), pool_id("dc1"));
    let items = reader.digest_items(&dc1, &agent.source, 0, &[]).unwrap();
    let trie = Trie::build(items.items.iter().map(|item| (item.address, item.item)));
    assert_eq!(trie.depth(), 3);
    assert_eq!(items.digest, trie.digest());
    for depth in 0..=5 {
        let nodes = reader.digest_nodes(&dc1, &agent.source, depth.min(4), 0, &[]).unwrap();
        for (number, node) in nodes.nodes.iter().enumerate() {
            if let Some(expected) = trie.node(depth.min(4), number as u32) {
                assert_eq!(*node, expected, "{depth}/{number}");
            }
        }
    }
    let below = reader.digest_nodes(&dc1, &agent.source, 4, 1, &[3, 9]).unwrap();
    let whole = reader.digest_nodes(&dc1, &agent.source, 1, 0, &[]).unwrap();
    for (half, number) in below.nodes.chunks(16usize.pow(3)).zip([3, 9]) {
        let mut sum = Node::default();
        half.iter().for_each(|node| sum.toggle(*node));
        assert_eq!(sum, whole.nodes[number]);
    }
    let some = reader.digest_items(&dc1, &agent.source, 2, &[17]).unwrap();
    assert!(!some.items.is_empty() && some.items.iter().all(|item| item.address.node(2) == 17));
    assert!(reader.digest_nodes(&dc1, &agent.source, 5, 0, &[]).is_err(), "a million nodes are too many");
}

#[test]
fn two_stores_of_one_log_are_equal_and_a_changed_row_is_named() {
    let (mut log, mut agent) = (Log::default(), Agent::new("dc1", "inv"));
    (0..30).for_each(|n| {
        agent.changed(&mut log, &format!("Pod/{n}"), "1", "{}");
    });
    let (left, right) = (given(&log), given(&log));
    assert_eq!(compare::diff(&left.reader(), &right.reader()).unwrap(), []);
    agent.changed(&mut log, "Pod/7", "2", "{}");
    let mut right = right;
    right.read_on(&log);
    let differences = compare::diff(&left.reader(), &right.reader()).unwrap();
    let what: Vec<_> = differences.iter().map(|difference| difference.what.as_str()).collect();
    assert_eq!(what, ["row Pod/7", "owner /local/dc1/resource/inv"]);
    let cause = |seq: u64| Some(compare::Cause::Place(format!("{SITE}:{seq}")));
    let row = &differences[0];
    assert_eq!((&row.left_cause, &row.right_cause), (&cause(8), &cause(31)), "what wrote each side last");
    assert!(row.left.as_ref().is_some_and(|left| left.contains(r#""revision":"1""#)), "{row:?}");
    let size = right.store.size().unwrap();
    assert!(size.live_bytes > 30 * 100 && size.file_bytes > size.live_bytes);
}
