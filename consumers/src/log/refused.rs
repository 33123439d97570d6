//! Scrubs that were refused: the log cannot be read now, or reads differently each time. It is read again after a rest
//! that grows, because each attempt reads all of it and what is in the way may stay for days; at once when NATS was
//! away meanwhile, which may have mended it. Must not know what a scrub is.

use std::{collections::BTreeMap, time::Duration};

use bus::LinkState;
use tokio::time::Instant;

/// The first rest; it doubles up to the longest.
const REST_MIN: Duration = Duration::from_secs(2);
/// The longest rest, unless the attempt itself took longer: at most half of the time is spent on attempts.
const REST_MAX: Duration = Duration::from_secs(600);
/// So many attempts are refused before people are told elsewhere than in the log of this process: a restart of NATS takes one or two.
const TOLD_FROM: u32 = 3;

/// Why logs could not be scrubbed for a while, by their streams.
pub type Unscrubbed = BTreeMap<String, String>;

/// What was refused, by stream.
#[derive(Debug, Default)]
pub(super) struct Refused(BTreeMap<String, Refusal>);

#[derive(Debug)]
struct Refusal {
    times: u32,
    reason: String,
    link: LinkState,
    not_before: Instant,
}

impl Refused {
    /// Whether a log is not to be looked at yet.
    pub(super) fn rests(&self, stream: &str, link: LinkState, now: Instant) -> bool {
        self.0.get(stream).is_some_and(|refusal| refusal.link == link && now < refusal.not_before)
    }

    /// Notes that a scrub was refused after it took so long; answers how long it rests now.
    pub(super) fn note(
        &mut self,
        stream: &str,
        reason: String,
        link: LinkState,
        took: Duration,
        now: Instant,
    ) -> Duration {
        let times = self.0.get(stream).map_or(0, |refusal| refusal.times);
        let rest = REST_MIN.saturating_mul(1 << times.min(16)).min(REST_MAX).max(took);
        let refusal = Refusal { times: times.saturating_add(1), reason, link, not_before: now + rest };
        self.0.insert(stream.to_owned(), refusal);
        rest
    }

    /// Notes that a log could be scrubbed.
    pub(super) fn forget(&mut self, stream: &str) {
        self.0.remove(stream);
    }

    /// What people are to be told of.
    pub(super) fn told(&self) -> Unscrubbed {
        let lasting = self.0.iter().filter(|(_, refusal)| refusal.times >= TOLD_FROM);
        lasting.map(|(stream, refusal)| (stream.clone(), refusal.reason.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UP: LinkState = LinkState::Up { generation: 1 };

    fn refuse(refused: &mut Refused, took: u64, now: Instant) -> u64 {
        refused.note("S", "it flickers".to_owned(), UP, Duration::from_secs(took), now).as_secs()
    }

    #[test]
    fn a_scrub_that_is_refused_rests_ever_longer_and_as_long_as_it_took() {
        let (mut refused, now) = (Refused::default(), Instant::now());
        let rests: Vec<_> = (0..11).map(|_| refuse(&mut refused, 0, now)).collect();
        assert_eq!(rests, [2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600]);
        assert_eq!(refuse(&mut refused, 3_600, now), 3_600);
        refused.forget("S");
        assert_eq!(refuse(&mut refused, 9, now), 9);
    }

    #[test]
    fn nats_that_was_away_ends_the_rest_and_another_log_has_none() {
        let (mut refused, now) = (Refused::default(), Instant::now());
        let rest = Duration::from_secs(refuse(&mut refused, 0, now));
        assert!(refused.rests("S", UP, now) && !refused.rests("S", UP, now + rest));
        assert!(!refused.rests("S", LinkState::Up { generation: 2 }, now) && !refused.rests("T", UP, now));
    }

    #[test]
    fn people_are_told_of_what_lasts() {
        let (mut refused, now) = (Refused::default(), Instant::now());
        let told: Vec<_> = (0..3)
            .map(|_| {
                refuse(&mut refused, 0, now);
                refused.told().len()
            })
            .collect();
        assert_eq!(told, [0, 0, 1]);
        assert_eq!(refused.told()["S"], "it flickers");
    }
}
