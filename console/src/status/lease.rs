//! Who acts for the target, as far as this process can know. Pure.

use bus_schema::{Name, Timestamp};

use crate::view::{Acting, Alarm, AlarmKind, LeaseView};

/// What a takeover may take beyond the time after which a holder is silent, in milliseconds: nobody who acts
/// for that long is no fault yet.
const TAKEOVER_MS_MAX: u64 = 10_000;

/// What is known of the lease of a target.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lease {
    /// Whether NATS, where it stands, can be reached.
    pub(crate) up: bool,
    /// Whether this process holds it.
    pub(crate) held_here: bool,
    /// When a holder renewed it last, if this process asked and anybody ever did.
    pub(crate) renewed_at: Option<Timestamp>,
    /// How long a holder may be silent, in milliseconds.
    pub(crate) ttl_ms: u64,
}

impl Lease {
    /// Who acts now.
    pub(crate) fn view(&self, now: Timestamp) -> LeaseView {
        let acting = match (self.up, self.held_here) {
            (false, _) => Acting::Unknown,
            (true, true) => Acting::Here,
            (true, false) if self.renewed_at.is_some_and(|at| now.ms_since(at) < self.ttl_ms) => {
                Acting::Elsewhere
            }
            (true, false) => Acting::NotHere,
        };
        LeaseView { held_here: self.held_here, acting }
    }

    /// Nobody acts, and somebody should by now: this process has been there `since` then.
    pub(crate) fn idle(&self, since: Timestamp, now: Timestamp, target: &Name) -> Option<Alarm> {
        let idle_since = self.renewed_at.map_or(since, |at| at.max(since));
        let lasts = now.ms_since(idle_since) > self.ttl_ms + TAKEOVER_MS_MAX;
        (lasts && self.view(now).acting == Acting::NotHere).then(|| Alarm {
            kind: AlarmKind::NobodyActs,
            text: format!(
                "nobody is known to act for the target {target}, so nothing is asked, confirmed or repaired; the log of this farside says why it does not"
            ),
            since: self.renewed_at,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: fn(i64) -> Timestamp = Timestamp::from_unix_ms;

    #[test]
    fn another_process_is_said_to_act_only_when_it_renewed_the_lease_a_moment_ago() {
        let lease = |up, held_here, renewed_at: Option<i64>| {
            let lease = Lease { up, held_here, renewed_at: renewed_at.map(AT), ttl_ms: 5_000 };
            (lease.view(AT(100_000)).acting, lease.idle(AT(0), AT(100_000), &"t".parse().unwrap()).is_some())
        };
        assert_eq!(lease(true, false, Some(99_000)), (Acting::Elsewhere, false));
        assert_eq!(lease(true, false, Some(94_000)), (Acting::NotHere, false), "it is being taken over");
        assert_eq!(lease(true, false, Some(80_000)), (Acting::NotHere, true));
        assert_eq!(lease(true, false, None), (Acting::NotHere, true));
        assert_eq!(lease(true, true, None), (Acting::Here, false));
        assert_eq!(lease(false, false, None), (Acting::Unknown, false));
        let young = Lease { up: true, held_here: false, renewed_at: None, ttl_ms: 5_000 };
        assert_eq!(young.idle(AT(99_000), AT(100_000), &"t".parse().unwrap()), None, "it has just begun");
    }
}
