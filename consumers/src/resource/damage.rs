//! What is wrong with the pool's rows of one owner, what is asked for to mend it, and what is done when
//! that did not help. Pure: every moment is an argument.
//!
//! A repair is judged by what the pool says afterwards. When the pool still differs, or differs again soon,
//! the next repair rests, and each further one twice as long: whatever the cause (a resource that the
//! projector refuses, two agents that state one resource, two agents of one name), it makes no endless
//! loop, and people are told.

use bus_schema::{Timestamp, chain::ChainPoint, event::resource::SyncScope};

use super::{schedule::after, state::Patience};

/// A pool that stayed whole for so many times the last rest is taken for mended for good.
const WHOLE_RESTS: u64 = 4;
/// Doublings of the rest; the policy's cap ends the growth earlier.
const REST_DOUBLINGS_MAX: u32 = 20;

/// What is wrong with the pool's rows of an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// Nothing known.
    None,
    /// The owner's digest at this point was another one than the pool's.
    Unequal(ChainPoint),
    /// Events are missing, or the log lost what it had.
    Broken,
    /// The pool refused the owner's chain: it must start a new epoch.
    Forked,
    /// The owner speaks from an epoch that is over, so all that it says is refused: it must start a new one.
    Retired,
    /// A window close waits for a person; nothing that is not newer can be mended before.
    Held,
    /// One waits, and source and pool were equal since: a full answer has nothing to delete any more.
    Settled,
}

/// What mends a damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remedy {
    /// What is sent again; `Keys` after a comparison of the digests.
    pub scope: SyncScope,
    /// Whether the owner shall start a new epoch first.
    pub rebase: bool,
}

/// A repair that did not help.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fruitless {
    /// The repair's sync.
    pub sync_id: String,
    /// What was seen, and what to do.
    pub reason: String,
    /// When the next one may go out.
    pub retry_at: Timestamp,
}

/// The last repair that ended.
#[derive(Clone, Debug, PartialEq)]
struct Repair {
    sync_id: String,
    scope: SyncScope,
    /// Since when nothing is wrong any more.
    whole_since: Option<Timestamp>,
    /// Whether it was found fruitless.
    judged: bool,
}

/// What is remembered of the repairs of one owner.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mending {
    last: Option<Repair>,
    /// The unequal proof that was acted upon: only a later one says something new.
    answered: Option<ChainPoint>,
    /// Whether everything was sent once, and that did not help.
    full_in_vain: bool,
    /// Resources that another agent states, too.
    conflict: Option<String>,
    fruitless: u32,
    rests_until: Timestamp,
    trouble: Option<String>,
}

impl Mending {
    /// What is to be asked for now; none = nothing, or a repair rests.
    pub fn due(&self, damage: Damage, now: Timestamp) -> Option<Remedy> {
        if now < self.rests_until {
            return None;
        }
        let remedy = |scope, rebase| Some(Remedy { scope, rebase });
        match damage {
            Damage::None | Damage::Held => None,
            Damage::Unequal(at) if self.answered == Some(at) => None,
            // The keys that differed were sent, and that did not help: no half measures. When everything
            // did not help either, only what differs is sent again, it costs less.
            Damage::Unequal(_) if self.were_keys_in_vain() => remedy(SyncScope::Full, false),
            Damage::Unequal(_) => remedy(SyncScope::Keys, false),
            Damage::Broken | Damage::Settled => remedy(SyncScope::Full, false),
            Damage::Forked | Damage::Retired => remedy(SyncScope::Full, true),
        }
    }

    fn were_keys_in_vain(&self) -> bool {
        let in_vain = |last: &Repair| last.scope == SyncScope::Keys && last.whole_since.is_none();
        let tried = self.full_in_vain || self.conflict.is_some();
        !tried && self.last.as_ref().is_some_and(in_vain)
    }

    /// The comparison of the digests found nothing for this proof.
    pub fn found_equal(&mut self, at: ChainPoint) {
        self.answered = Some(at);
    }

    /// A repair for `asked_for` has ended, and this is what the pool says now.
    pub fn ended(&mut self, sync_id: String, scope: SyncScope, asked_for: Damage, now: Damage) {
        if let Damage::Unequal(at) = now
            && asked_for == now
        {
            // The proof is the old one.
            self.answered = Some(at);
        }
        self.last = Some(Repair { sync_id, scope, whole_since: None, judged: false });
    }

    /// The comparison found resources that another agent states, too; asking for them would only move
    /// them to and fro.
    pub fn conflicted(&mut self, conflict: Option<String>) {
        self.conflict = conflict;
    }

    /// A repair that could not even be asked for, because nothing is left but the conflict.
    pub fn gave_up(&mut self, sync_id: String, patience: &Patience, now: Timestamp) -> Option<Fruitless> {
        self.last = Some(Repair { sync_id, scope: SyncScope::Keys, whole_since: None, judged: false });
        self.judge(None, "", patience, now)
    }

    /// Looks whether the last repair helped; `broken` is why the last answer was not taken in whole.
    pub fn look(
        &mut self,
        damage: Damage,
        broken: Option<&str>,
        patience: &Patience,
        now: Timestamp,
    ) -> Option<Fruitless> {
        match damage {
            Damage::None => {
                self.trouble = None;
                self.conflict = None;
                self.whole(patience, now);
                None
            }
            Damage::Held => {
                // That explains what became of the last repair.
                self.last.iter_mut().for_each(|last| last.judged = true);
                None
            }
            Damage::Unequal(at) if self.answered == Some(at) => None,
            _ => {
                let broken = broken.map(|broken| format!(" ({broken})")).unwrap_or_default();
                self.judge(damage.words(), &broken, patience, now)
            }
        }
    }

    fn whole(&mut self, patience: &Patience, now: Timestamp) {
        let rest_ms = self.rest_ms(patience);
        let Some(last) = &mut self.last else { return };
        let since = *last.whole_since.get_or_insert(now);
        if now.ms_since(since) >= rest_ms.saturating_mul(WHOLE_RESTS) {
            *self = Self::default();
        }
    }

    /// The last repair did not help. `words`: what is known of the damage itself, which says more than
    /// anything that its repair lets guess.
    fn judge(
        &mut self,
        words: Option<&str>,
        broken: &str,
        patience: &Patience,
        now: Timestamp,
    ) -> Option<Fruitless> {
        let rest_ms = self.rest_ms(patience);
        let last = self.last.as_mut().filter(|last| !last.judged)?;
        last.judged = true;
        let known = words.or(self.conflict.as_deref());
        let reason = match (known, last.whole_since, last.scope) {
            (Some(known), ..) => known.to_owned(),
            (None, Some(_), _) => {
                "the pool was mended and is damaged again: something else states the same resources, or two agents run under one name; see `farside pool history` and the agents' configurations".to_owned()
            }
            (None, None, SyncScope::Full) => format!(
                "everything was sent, and the pool still differs or lacks events{broken}; see `farside status` and the agent's log"
            ),
            (None, None, _) => format!(
                "the resources that differed were sent, and the pool still differs{broken}; see `farside status` and the agent's log"
            ),
        };
        self.full_in_vain |= last.scope == SyncScope::Full && last.whole_since.is_none();
        self.fruitless += 1;
        self.rests_until = after(now, rest_ms);
        self.trouble = Some(reason.clone());
        Some(Fruitless { sync_id: last.sync_id.clone(), reason, retry_at: self.rests_until })
    }

    fn rest_ms(&self, patience: &Patience) -> u64 {
        patience.doubled(self.fruitless.min(REST_DOUBLINGS_MAX))
    }

    /// What people are told while repairs do not help.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.as_ref().map(|trouble| format!("{trouble}; tried again at {}", self.rests_until))
    }

    /// After the clock was set back: what is remembered has happened, and no rest is longer than the longest.
    pub fn set_right(&mut self, patience: &Patience, now: Timestamp) {
        self.rests_until = self.rests_until.min(after(now, patience.backoff_ms_max));
        if let Some(Repair { whole_since: Some(since), .. }) = &mut self.last {
            *since = now.min(*since);
        }
    }
}

impl Damage {
    /// What people are told of a damage that no alarm of the pool names.
    pub const fn words(self) -> Option<&'static str> {
        match self {
            Self::Retired => Some(
                "all that it says is refused: it goes on in an epoch that is over (a ledger from a backup, or two agents of one name); it is told to start a new one",
            ),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use bus_schema::Epoch;

    use super::*;

    const PATIENCE: Patience = Patience {
        backoff_ms: 1_000,
        backoff_ms_max: 8_000,
        stalled_ms_max: 30_000,
        resumes_max: 2,
        answer_ms_max: 600_000,
    };

    fn unequal(seq: u64) -> Damage {
        Damage::Unequal(ChainPoint { epoch: Epoch(7), seq })
    }

    fn ms(ms: i64) -> Timestamp {
        Timestamp::from_unix_ms(ms)
    }

    fn scope(mending: &Mending, damage: Damage, now: i64) -> Option<SyncScope> {
        mending.due(damage, ms(now)).map(|remedy| remedy.scope)
    }

    #[test]
    fn a_resource_that_is_refused_for_ever_is_sent_ever_more_rarely_and_everything_only_once() {
        let (mut mending, mut now, mut scopes) = (Mending::default(), 0, Vec::new());
        let mut rests = Vec::new();
        for seq in 1..=6 {
            scopes.push(scope(&mending, unequal(seq), now).unwrap());
            mending.ended("s".to_owned(), *scopes.last().unwrap(), unequal(seq), unequal(seq + 1));
            let fruitless =
                mending.look(unequal(seq + 1), Some("a dead letter"), &PATIENCE, ms(now)).unwrap();
            assert!(fruitless.reason.contains("a dead letter"), "{}", fruitless.reason);
            assert_eq!(scope(&mending, unequal(seq + 1), now), None, "it rests");
            rests.push(fruitless.retry_at.ms_since(ms(now)));
            now = fruitless.retry_at.unix_ms();
        }
        use SyncScope::{Full, Keys};
        assert_eq!(scopes, [Keys, Full, Keys, Keys, Keys, Keys]);
        assert_eq!(rests, [1_000, 2_000, 4_000, 8_000, 8_000, 8_000]);
    }

    #[test]
    fn a_damage_that_comes_back_soon_rests_although_each_repair_helped() {
        let (mut mending, mut now) = (Mending::default(), 0);
        for (seq, rest) in [(1, 1_000), (2, 2_000), (3, 4_000)] {
            assert_eq!(scope(&mending, unequal(seq), now), Some(SyncScope::Keys));
            mending.ended("s".to_owned(), SyncScope::Keys, unequal(seq), Damage::None);
            assert_eq!(mending.look(Damage::None, None, &PATIENCE, ms(now)), None);
            now += 500;
            let fruitless = mending.look(unequal(seq + 1), None, &PATIENCE, ms(now)).unwrap();
            assert_eq!(fruitless.retry_at.ms_since(ms(now)), rest);
            assert!(mending.trouble().unwrap().contains("two agents"));
            now += rest as i64;
        }
    }

    #[test]
    fn a_pool_that_stays_whole_forgets_what_was_wrong() {
        let mut mending = Mending::default();
        mending.ended("s".to_owned(), SyncScope::Full, Damage::Broken, Damage::Broken);
        assert!(mending.look(Damage::Broken, None, &PATIENCE, ms(0)).is_some());
        mending.look(Damage::None, None, &PATIENCE, ms(1));
        assert_eq!(mending.trouble(), None);
        mending.look(Damage::None, None, &PATIENCE, ms(8_001));
        assert_eq!(mending, Mending::default());
    }

    #[test]
    fn a_clock_that_is_set_right_leaves_no_rest_that_is_longer_than_the_longest() {
        const DAY: i64 = 86_400_000;
        let mut mending = Mending::default();
        mending.ended("s".to_owned(), SyncScope::Full, Damage::Broken, Damage::Broken);
        assert!(mending.look(Damage::Broken, None, &PATIENCE, ms(DAY)).is_some());
        mending.set_right(&PATIENCE, ms(0));
        assert!(mending.trouble().unwrap().ends_with(&ms(8_000).to_string()), "{:?}", mending.trouble());
        mending.set_right(&PATIENCE, ms(7_999));
        assert_eq!(scope(&mending, Damage::Broken, 7_999), None, "and no endless one");
        assert_eq!(scope(&mending, Damage::Broken, 8_000), Some(SyncScope::Full));

        let mut whole = Mending::default();
        whole.ended("s".to_owned(), SyncScope::Full, Damage::Broken, Damage::None);
        whole.look(Damage::None, None, &PATIENCE, ms(DAY));
        whole.set_right(&PATIENCE, ms(0));
        whole.look(Damage::None, None, &PATIENCE, ms(4_000));
        assert_eq!(whole, Mending::default(), "taken for mended for good after its rests");
    }

    #[test]
    fn an_owner_in_an_epoch_that_is_over_is_told_to_begin_a_new_one() {
        let remedy = Mending::default().due(Damage::Retired, ms(0)).unwrap();
        assert!(remedy.rebase && remedy.scope == SyncScope::Full);
        assert!(Damage::Retired.words().is_some());
    }

    #[test]
    fn that_an_epoch_is_over_is_told_before_and_after_a_repair_that_did_not_help() {
        for damaged_again in [false, true] {
            let mut mending = Mending::default();
            mending.ended("s".to_owned(), SyncScope::Full, Damage::Retired, Damage::Retired);
            if damaged_again {
                mending.look(Damage::None, None, &PATIENCE, ms(0));
            }
            let fruitless = mending.look(Damage::Retired, None, &PATIENCE, ms(1)).unwrap();
            assert!(fruitless.reason.contains("epoch that is over"), "{}", fruitless.reason);
            assert!(mending.trouble().unwrap().contains("epoch that is over"));
        }
    }

    #[test]
    fn a_full_answer_that_was_held_was_not_in_vain() {
        let mut mending = Mending::default();
        mending.ended("s".to_owned(), SyncScope::Full, unequal(1), Damage::Held);
        assert_eq!(mending.look(Damage::Held, None, &PATIENCE, ms(0)), None);
        assert_eq!(scope(&mending, Damage::Held, 0), None);
        assert_eq!(mending.look(Damage::Settled, None, &PATIENCE, ms(9)), None);
        assert_eq!(scope(&mending, Damage::Settled, 9), Some(SyncScope::Full), "at once");
    }

    #[test]
    fn what_another_agent_states_too_is_left_alone_and_told() {
        let mut mending = Mending::default();
        mending.conflicted(Some("Pod/a is stated by two".to_owned()));
        let fruitless = mending.gave_up("s".to_owned(), &PATIENCE, ms(0)).unwrap();
        assert_eq!((fruitless.reason.as_str(), fruitless.retry_at), ("Pod/a is stated by two", ms(1_000)));
        assert_eq!(scope(&mending, unequal(2), 1_000), Some(SyncScope::Keys), "compared again, later");
    }
}
