//! Given a past, when something happens, then these actions follow: one test per decision.

use bus_schema::{ResourceKey, Source, chain::ChainPoint, command::resource::KEYS_MAX};

use super::*;
use crate::resource::{
    schedule::{Schedule, Timing},
    threshold::Limits,
};

const T0: Timestamp = Timestamp::from_unix_ms(1_000_000);
const MINUTE: u64 = 60_000;
const DAY: u64 = 24 * 60 * MINUTE;

fn policy() -> Policy {
    Policy {
        schedule: Schedule { timing: Timing::Every(5 * MINUTE), jitter_ms_max: 0, maintenance: vec![] },
        limits: Limits {
            changes_max: Some(100),
            bytes_max: Some(10_000),
            age_ms_max: Some(MINUTE),
            rest_ms: 5_000,
        },
        patience: Patience {
            backoff_ms: 1_000,
            backoff_ms_max: 8_000,
            stalled_ms_max: 30_000,
            resumes_max: 2,
            answer_ms_max: 60 * MINUTE,
        },
    }
}

fn point(seq: u64) -> ChainPoint {
    ChainPoint { epoch: bus_schema::Epoch(7), seq }
}

/// A world in which one owner lives: its state, what the pool says, and the time.
struct World {
    policy: Policy,
    source: Source,
    state: OwnerState,
    view: View,
    now: Timestamp,
}

impl World {
    /// An owner with a key that has had its first sync at `T0`, and nothing is due.
    fn synced() -> Self {
        let mut world = Self::fresh();
        world.view.had_full = true;
        world.sees_closed("earlier");
        world.state.last_first = Some(T0);
        world
    }

    /// An owner that was just seen for the first time and has announced a key.
    fn fresh() -> Self {
        let view = View {
            key_announced: true,
            paused: false,
            busy: false,
            at: Some(point(10)),
            answering: false,
            third_due: false,
            had_full: false,
            closed: None,
            damage: Damage::None,
        };
        let source = "/local/dc1/resource/inv".parse().unwrap();
        Self { policy: policy(), source, state: OwnerState::new(T0), view, now: T0 }
    }

    fn later(&mut self, ms: u64) -> &mut Self {
        self.now = after(self.now, ms);
        self
    }

    /// The clock, which was ahead, says `T0` again.
    fn clock_is_set_right(&mut self) {
        self.now = T0;
    }

    fn sees(&mut self, change: impl FnOnce(&mut View)) -> &mut Self {
        change(&mut self.view);
        self
    }

    fn sees_closed(&mut self, sync_id: &str) -> &mut Self {
        self.view.closed = Some(Closed { sync_id: sync_id.to_owned(), broken: None });
        self.view.answering = false;
        self
    }

    fn when(&mut self, input: Input) -> Vec<Action> {
        let owner = Owner { source: &self.source, policy: &self.policy };
        let (state, actions) = step(self.state.clone(), owner, &self.view, input, self.now);
        self.state = state;
        actions
    }

    fn looks(&mut self) -> Vec<Action> {
        self.when(Input::Looked)
    }

    #[track_caller]
    fn asks(&mut self) -> Sync {
        match self.looks().as_slice() {
            [Action::Ask(sync)] => sync.clone(),
            other => panic!("one request was expected, not {other:?}"),
        }
    }

    #[track_caller]
    fn accepts(&mut self) -> Sync {
        let sync = self.state.running().unwrap().clone();
        let accepted = Input::Accepted { sync_id: sync.id.clone(), scope: sync.wanted.scope };
        assert_eq!(self.when(accepted), []);
        sync
    }

    fn closes(&mut self) -> Vec<Action> {
        let sync = self.accepts();
        self.sees_closed(&sync.id).looks()
    }

    fn fails(&mut self) -> Vec<Action> {
        let sync_id = self.state.running().unwrap().id.clone();
        self.when(Input::Failed { sync_id, reason: "no answer".to_owned() })
    }
}

fn failed_until(actions: &[Action]) -> Option<(Timestamp, &str)> {
    match actions {
        [Action::StateFailed { retry_at, reason, .. }] => Some((*retry_at, reason)),
        _ => None,
    }
}

#[test]
fn r1_the_first_request_goes_out_by_the_timer_and_not_before() {
    let mut world = World::synced();
    assert_eq!(world.later(5 * MINUTE - 1).looks(), []);
    let sync = world.later(1).asks();
    assert_eq!((sync.wanted.reason, sync.wanted.scope), (SyncReason::First, SyncScope::Incremental));
}

#[test]
fn r1_an_owner_that_was_never_synchronised_is_asked_at_once_and_for_everything() {
    let sync = World::fresh().asks();
    assert_eq!((sync.wanted.reason, sync.wanted.scope), (SyncReason::First, SyncScope::Full));
}

#[test]
fn r1_missed_runs_are_made_up_for_once() {
    let mut world = World::synced();
    world.later(60 * MINUTE).asks();
    assert_eq!(world.closes(), []);
    assert_eq!(world.later(5 * MINUTE - 1).looks(), []);
    world.later(1).asks();
}

#[test]
fn r1_a_clock_that_was_ahead_and_is_set_right_delays_a_first_request_by_one_period_at_most() {
    let mut world = World::synced();
    world.later(DAY).asks();
    world.closes();
    world.clock_is_set_right();
    assert_eq!(world.looks(), []);
    let owner = Owner { source: &world.source, policy: &world.policy };
    assert_eq!(world.state.next_first(owner), Some(after(world.now, 5 * MINUTE)), "and people see it");
    assert_eq!(world.later(5 * MINUTE - 1).looks(), []);
    assert_eq!(world.later(1).asks().wanted.reason, SyncReason::First);
}

#[test]
fn r1_a_process_that_recalls_a_first_request_of_the_future_asks_within_one_period() {
    let mut world = World::synced();
    world.state.last_first = Some(after(T0, DAY));
    assert_eq!(world.looks(), []);
    world.later(5 * MINUTE).asks();
}

#[test]
fn r1_an_owner_that_a_clock_ahead_saw_first_is_asked_at_once_when_it_is_set_right() {
    let mut world = World::fresh();
    world.state.seen_since = after(T0, DAY);
    world.asks();
}

#[test]
fn r1_a_rest_that_a_clock_ahead_began_lasts_the_longest_rest_at_most() {
    let mut world = World::synced();
    world.later(DAY).asks();
    world.fails();
    world.clock_is_set_right();
    assert_eq!(world.looks(), []);
    assert_eq!(world.later(7_999).looks(), []);
    assert_eq!(world.later(1).asks().wanted.reason, SyncReason::First);
}

#[test]
fn r1_an_answer_that_stands_still_is_noticed_although_the_clock_was_set_right() {
    let mut world = World::synced();
    let sync = world.later(DAY).asks();
    world.accepts();
    world.clock_is_set_right();
    assert_eq!(world.looks(), []);
    assert_eq!(world.later(30_000).looks(), [Action::AskAgain(sync)]);
}

#[test]
fn r1_no_two_syncs_of_one_owner_run_at_once() {
    let mut world = World::synced();
    world.later(5 * MINUTE).asks();
    world.sees(|view| view.third_due = true);
    assert_eq!(world.later(5 * MINUTE).looks(), [], "asked, not answered");
    world.accepts();
    world.sees(|view| (view.at, view.answering) = (Some(point(11)), true));
    assert_eq!(world.later(29_999).looks(), [], "the answer is coming in");
}

#[test]
fn r1_a_paused_schedule_sends_nothing_but_a_threshold_still_does() {
    let mut world = World::synced();
    assert_eq!(world.sees(|view| view.paused = true).later(60 * MINUTE).looks(), []);
    world.sees(|view| view.third_due = true);
    assert_eq!(world.asks().wanted.reason, SyncReason::Third);
}

#[test]
fn r1_a_pause_stops_a_first_request_that_rests_and_its_end_makes_up_for_it_once() {
    let mut world = World::synced();
    world.later(5 * MINUTE).asks();
    world.fails();
    assert_eq!(world.sees(|view| view.paused = true).later(60 * MINUTE).looks(), []);
    assert_eq!(world.sees(|view| view.paused = false).asks().wanted.reason, SyncReason::First);
    assert_eq!(world.closes(), []);
}

#[test]
fn r1_a_pause_stops_a_first_request_that_rests_for_a_key() {
    let mut world = World::fresh();
    world.sees(|view| view.key_announced = false).later(KEY_GRACE_MS).looks();
    assert_eq!(world.sees(|view| (view.paused, view.key_announced) = (true, true)).looks(), []);
    assert_eq!(world.sees(|view| view.paused = false).asks().wanted.reason, SyncReason::First);
}

#[test]
fn no_two_syncs_of_one_cluster_run_at_once() {
    let mut world = World::synced();
    world.sees(|view| view.busy = true).later(5 * MINUTE);
    assert_eq!(world.looks(), [], "another agent of the cluster is being asked");
    assert_eq!(world.when(Input::Manual(SyncScope::Full)), []);
    let told = world.state.manual().unwrap().to_owned();
    let sync = world.sees(|view| view.busy = false).asks();
    assert_eq!((sync.id, sync.wanted.reason), (told, SyncReason::Manual), "the id that the person was told");
    assert_eq!(world.closes().len(), 1, "then the first request");
}

#[test]
fn r1_maintenance_holds_back_what_no_person_asked_for() {
    let mut world = World::synced();
    let always = crate::resource::schedule::Maintenance {
        days: vec![],
        from: "00:00:00".parse().unwrap(),
        to: "00:00:00".parse().unwrap(),
        zone: chrono_tz::Tz::UTC,
    };
    world.policy.schedule.maintenance = vec![always];
    world.sees(|view| view.third_due = true);
    assert_eq!(world.later(60 * MINUTE).looks(), []);
    let actions = world.when(Input::Manual(SyncScope::Incremental));
    assert!(matches!(actions.as_slice(), [Action::Ask(sync)] if sync.wanted.reason == SyncReason::Manual));
}

#[test]
fn r6_crossing_a_threshold_asks_at_once_and_incrementally() {
    let mut world = World::synced();
    let sync = world.sees(|view| view.third_due = true).asks();
    assert_eq!((sync.wanted.reason, sync.wanted.scope), (SyncReason::Third, SyncScope::Incremental));
    assert_eq!(world.sees(|view| view.third_due = false).closes(), []);
}

#[test]
fn r7_no_first_request_without_an_access_key() {
    let mut world = World::fresh();
    assert_eq!(world.sees(|view| view.key_announced = false).looks(), [], "it may still announce it");
    let actions = world.later(KEY_GRACE_MS).looks();
    let (_, reason) = failed_until(&actions).unwrap();
    assert!(reason.contains("access key"), "{reason}");
    assert_eq!(world.later(10 * MINUTE).looks(), [], "said once");
}

#[test]
fn r7_the_request_goes_out_as_soon_as_the_key_is_announced() {
    let mut world = World::fresh();
    world.sees(|view| view.key_announced = false).later(KEY_GRACE_MS).looks();
    assert_eq!(world.sees(|view| view.key_announced = true).asks().wanted.reason, SyncReason::First);
}

#[test]
fn r7_no_person_gets_around_the_missing_key() {
    let mut world = World::synced();
    let actions = world.sees(|view| view.key_announced = false).when(Input::Manual(SyncScope::Full));
    assert!(failed_until(&actions).is_some());
}

#[test]
fn a_source_that_does_not_answer_is_asked_again_with_a_capped_backoff() {
    let mut world = World::synced();
    world.later(5 * MINUTE).asks();
    for rest in [1_000, 2_000, 4_000, 8_000, 8_000] {
        let actions = world.fails();
        assert_eq!(failed_until(&actions).unwrap().0, after(world.now, rest));
        assert_eq!(world.later(rest - 1).looks(), []);
        assert_eq!(world.later(1).asks().wanted.reason, SyncReason::First);
    }
}

#[test]
fn an_answer_ends_the_backoff() {
    let mut world = World::synced();
    world.later(5 * MINUTE).asks();
    world.fails();
    world.later(1_000).asks();
    world.closes();
    assert_eq!((world.state.failures, &world.state.activity), (0, &Activity::Idle));
}

#[test]
fn a_sync_that_stands_still_is_asked_for_again_under_the_same_id() {
    let mut world = World::synced();
    let sync = world.later(5 * MINUTE).asks();
    world.accepts();
    world.later(29_999).sees(|view| (view.at, view.answering) = (Some(point(11)), true)).looks();
    assert_eq!(world.later(29_999).looks(), [], "it moved");
    assert_eq!(world.later(1).looks(), [Action::AskAgain(sync.clone())]);
    assert_eq!(world.later(30_000).looks(), [Action::AskAgain(sync)]);
    assert!(failed_until(&world.later(30_000).looks()).unwrap().1.contains("2 repetitions"));
}

#[test]
fn events_that_are_not_of_the_answer_do_not_keep_it_alive() {
    let mut world = World::synced();
    let sync = world.later(5 * MINUTE).asks();
    world.accepts();
    world.sees(|view| view.answering = true).later(1).looks();
    world.sees(|view| view.answering = false);
    let mut again = 0;
    for seq in 11..200 {
        match world.later(1_000).sees(|view| view.at = Some(point(seq))).looks().as_slice() {
            [] => {}
            [Action::AskAgain(asked)] if *asked == sync => again += 1,
            other => return assert!(failed_until(other).is_some() && again == 2, "{other:?} {again}"),
        }
    }
    panic!("other events kept it alive");
}

#[test]
fn an_answer_that_never_ends_is_asked_for_again_now_and_then_and_given_up_at_last() {
    let mut world = World::synced();
    let sync = world.later(5 * MINUTE).asks();
    world.accepts();
    world.sees(|view| view.answering = true);
    let mut again = 0;
    for seq in 11..10_000 {
        match world.later(1_000).sees(|view| view.at = Some(point(seq))).looks().as_slice() {
            [] => {}
            [Action::AskAgain(asked)] if *asked == sync => again += 1,
            other => {
                return assert!(
                    failed_until(other).unwrap().1.contains("too long") && again == 29,
                    "{again}"
                );
            }
        }
    }
    panic!("it never ended");
}

#[test]
fn a_late_or_foreign_answer_changes_nothing() {
    let mut world = World::synced();
    world.later(5 * MINUTE).asks();
    let before = world.state.clone();
    assert_eq!(world.when(Input::Failed { sync_id: "other".to_owned(), reason: String::new() }), []);
    assert_eq!(world.when(Input::Accepted { sync_id: "other".to_owned(), scope: SyncScope::Full }), []);
    assert_eq!(world.when(Input::Descended(Descended::TooMuch)), []);
    assert_eq!(world.state, before);
}

#[test]
fn what_a_person_asks_for_goes_before_a_backoff_and_waits_for_a_running_sync() {
    let mut world = World::synced();
    world.later(5 * MINUTE).asks();
    assert_eq!(world.when(Input::Manual(SyncScope::Full)), []);
    let actions = world.fails();
    let [Action::StateFailed { .. }, Action::Ask(sync)] = actions.as_slice() else { panic!("{actions:?}") };
    assert_eq!((sync.wanted.reason, sync.wanted.scope), (SyncReason::Manual, SyncScope::Full));
}

#[test]
fn a_gap_in_the_chain_is_mended_by_everything() {
    let mut world = World::synced();
    let sync = world.sees(|view| view.damage = Damage::Broken).asks();
    assert_eq!((sync.wanted.reason, sync.wanted.scope), (SyncReason::Repair, SyncScope::Full));
    world.sees(|view| view.damage = Damage::None);
    assert_eq!(world.closes(), []);
}

#[test]
fn a_gap_that_everything_did_not_mend_backs_off() {
    let mut world = World::synced();
    world.sees(|view| view.damage = Damage::Broken).asks();
    assert!(failed_until(&world.closes()).is_some());
    world.later(1_000).asks();
}

#[test]
fn a_refused_chain_is_told_to_start_a_new_epoch() {
    let sync = World::synced().sees(|view| view.damage = Damage::Forked).asks();
    assert!(sync.wanted.rebase && sync.wanted.scope == SyncScope::Full);
}

#[test]
fn unequal_digests_are_compared_and_the_differing_keys_asked_for() {
    let mut world = World::synced();
    assert_eq!(world.sees(|view| view.damage = Damage::Unequal(point(10))).looks(), [Action::Descend]);
    let differing = Differing { keys: vec!["Pod/a".parse().unwrap()], addresses: vec![7] };
    let actions = world.when(Input::Descended(Descended::Differ(differing.clone(), None)));
    let [Action::Ask(sync)] = actions.as_slice() else { panic!("{actions:?}") };
    assert_eq!((sync.wanted.scope, &sync.wanted.differing), (SyncScope::Keys, &differing));
}

#[test]
fn a_mismatch_that_the_keys_did_not_mend_is_mended_by_everything() {
    let mut world = World::synced();
    world.sees(|view| view.damage = Damage::Unequal(point(10))).looks();
    world.when(Input::Descended(Descended::Differ(Differing::default(), None)));
    assert_eq!(world.closes(), [], "the heartbeat that differed is an old one");
    let actions = world.sees(|view| view.damage = Damage::Unequal(point(20))).looks();
    assert!(failed_until(&actions).unwrap().1.contains("still differs"));
    assert!(world.state.trouble.as_ref().unwrap().contains("still differs"));
    let sync = world.later(1_000).asks();
    assert_eq!((sync.wanted.reason, sync.wanted.scope), (SyncReason::Repair, SyncScope::Full));
}

#[test]
fn a_repair_that_does_not_help_does_not_stop_the_timer() {
    let mut world = World::synced();
    world.sees(|view| view.damage = Damage::Unequal(point(10))).looks();
    let conflict = Some("Pod/a is stated by two".to_owned());
    let actions = world.when(Input::Descended(Descended::Differ(Differing::default(), conflict)));
    assert_eq!(failed_until(&actions).unwrap().1, "Pod/a is stated by two");
    assert!(world.state.trouble.as_ref().unwrap().contains("two"), "people are told");
    assert_eq!(world.later(999).looks(), []);
    assert_eq!(world.later(1).looks(), [Action::Descend]);
    let conflict = Some("Pod/a is stated by two".to_owned());
    world.when(Input::Descended(Descended::Differ(Differing::default(), conflict)));
    world.policy.patience.backoff_ms_max = 100 * MINUTE;
    world.policy.schedule.timing = Timing::Every(1_000);
    assert_eq!(world.later(1).asks().wanted.reason, SyncReason::First);
}

#[test]
fn a_repair_that_is_no_longer_wanted_is_not_tried_again() {
    let mut world = World::synced();
    world.sees(|view| view.damage = Damage::Broken).asks();
    world.fails();
    assert_eq!(world.sees(|view| view.damage = Damage::None).later(10_000).looks(), []);
}

#[test]
fn an_owner_whose_epoch_is_over_is_told_to_start_a_new_one_and_people_are_told() {
    let mut world = World::synced();
    let sync = world.sees(|view| view.damage = Damage::Retired).asks();
    assert!(sync.wanted.rebase && sync.wanted.scope == SyncScope::Full);
    assert!(world.state.trouble.as_ref().unwrap().contains("epoch that is over"));
    let again = failed_until(&world.closes()).unwrap().0;
    assert_eq!(again, after(world.now, 1_000), "it did not help: with a backoff");
}

#[test]
fn a_comparison_that_fails_is_tried_again_later() {
    let mut world = World::synced();
    world.sees(|view| view.damage = Damage::Unequal(point(10))).looks();
    let actions = world.when(Input::Descended(Descended::Failed("no answer".to_owned())));
    assert!(failed_until(&actions).is_some());
    assert_eq!(world.later(1_000).looks(), [Action::Descend]);
}

#[test]
fn a_held_window_waits_for_a_person() {
    assert_eq!(World::synced().sees(|view| view.damage = Damage::Held).looks(), []);
}

#[test]
fn more_differing_resources_than_fit_one_request_are_asked_for_in_turn() {
    let mut world = World::synced();
    world.sees(|view| view.damage = Damage::Unequal(point(10))).looks();
    let keys: Vec<ResourceKey> = (0..KEYS_MAX + 1).map(|n| format!("Pod/{n}").parse().unwrap()).collect();
    let differing = Differing { keys, addresses: vec![] };
    let actions = world.when(Input::Descended(Descended::Differ(differing, None)));
    assert!(matches!(actions.as_slice(), [Action::Ask(sync)] if sync.wanted.differing.len() == KEYS_MAX));
    world.later(1);
    let actions = world.closes();
    assert!(
        matches!(actions.as_slice(), [Action::Ask(sync)] if sync.wanted.differing.len() == 1),
        "{actions:?}"
    );
    world.later(1);
    assert_eq!(world.closes(), []);
}
