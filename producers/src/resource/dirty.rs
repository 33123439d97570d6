//! Which places of a source changed and are quiet again: written by a watcher's thread, read by the
//! agent. Each place is quiet for itself, so that a busy file does not hold up the others. Bounded:
//! beyond a limit it only remembers "everything".

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::Scope;

/// Places that are remembered one by one; a storm beyond it is cheaper to read as a whole.
pub const DIRTY_PLACES_MAX: usize = 1_000;
/// How long a place must be quiet before it is read: editors write a file in several steps.
pub const DEBOUNCE: Duration = Duration::from_millis(100);
/// A place that never is quiet is read at least this often.
pub const DEBOUNCE_MAX: Duration = Duration::from_secs(1);

/// When something changed first and last since it was taken.
#[derive(Clone, Copy, Debug)]
struct Changed {
    first: Instant,
    last: Instant,
}

impl Changed {
    fn again(before: Option<Self>, now: Instant) -> Self {
        Self { first: before.map_or(now, |before| before.first), last: now }
    }

    /// When it is read, if nothing more happens.
    fn due(self) -> Instant {
        (self.last + DEBOUNCE).min(self.first + DEBOUNCE_MAX)
    }
}

/// What changed.
#[derive(Debug)]
enum Dirt {
    Places(BTreeMap<String, Changed>),
    Everything(Changed),
}

impl Dirt {
    const NONE: Self = Self::Places(BTreeMap::new());

    fn mark(&mut self, place: String, now: Instant) {
        match self {
            Self::Everything(changed) => *changed = Changed::again(Some(*changed), now),
            Self::Places(places) if places.len() == DIRTY_PLACES_MAX && !places.contains_key(&place) => {
                self.mark_everything(now);
            }
            Self::Places(places) => {
                let before = places.get(&place).copied();
                places.insert(place, Changed::again(before, now));
            }
        }
    }

    fn mark_everything(&mut self, now: Instant) {
        let before = match self {
            Self::Everything(changed) => Some(*changed),
            Self::Places(places) => places.values().copied().min_by_key(|changed| changed.first),
        };
        *self = Self::Everything(Changed::again(before, now));
    }

    /// When the first of it is due; none = nothing changed.
    fn due(&self) -> Option<Instant> {
        match self {
            Self::Places(places) => places.values().map(|changed| changed.due()).min(),
            Self::Everything(changed) => Some(changed.due()),
        }
    }

    /// Takes what is due; what is not stays.
    fn take(&mut self, now: Instant) -> Option<Scope> {
        match self {
            Self::Everything(changed) if changed.due() <= now => {
                *self = Self::NONE;
                Some(Scope::Everything)
            }
            Self::Everything(_) => None,
            Self::Places(places) => {
                let due: Vec<String> = places
                    .extract_if(.., |_, changed| changed.due() <= now)
                    .map(|(place, _)| place)
                    .collect();
                (!due.is_empty()).then_some(Scope::Places(due))
            }
        }
    }
}

/// Collects what changed until it is quiet and taken.
#[derive(Debug)]
pub struct Dirty {
    dirt: Mutex<Dirt>,
    changed: Notify,
}

impl Default for Dirty {
    fn default() -> Self {
        Self { dirt: Mutex::new(Dirt::NONE), changed: Notify::new() }
    }
}

impl Dirty {
    /// A place changed.
    pub fn mark(&self, place: String) {
        self.change(|dirt, now| dirt.mark(place, now));
    }

    /// Anything may have changed: the watcher lost count.
    pub fn mark_everything(&self) {
        self.change(Dirt::mark_everything);
    }

    fn change(&self, change: impl FnOnce(&mut Dirt, Instant)) {
        change(&mut self.dirt.lock().unwrap_or_else(PoisonError::into_inner), Instant::now());
        self.changed.notify_one();
    }

    /// Waits until something changed and has been quiet for a moment, and takes it. Cancel safe: what
    /// changed stays until it is taken.
    pub async fn settled(&self) -> Scope {
        loop {
            let due = {
                let mut dirt = self.dirt.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(scope) = dirt.take(Instant::now()) {
                    return scope;
                }
                dirt.due()
            };
            match due {
                // What changes meanwhile never makes anything due sooner.
                Some(due) => tokio::time::sleep_until(due).await,
                None => self.changed.notified().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(names: &[&str]) -> Option<Scope> {
        Some(Scope::Places(names.iter().map(ToString::to_string).collect()))
    }

    #[test]
    fn a_place_is_taken_once_when_it_has_been_quiet() {
        let (mut dirt, start) = (Dirt::NONE, Instant::now());
        dirt.mark("a".into(), start);
        dirt.mark("a".into(), start + DEBOUNCE / 2);
        assert_eq!(dirt.take(start + DEBOUNCE), None);
        assert_eq!(dirt.due(), Some(start + DEBOUNCE / 2 + DEBOUNCE));
        assert_eq!(dirt.take(start + DEBOUNCE / 2 + DEBOUNCE), places(&["a"]));
        assert_eq!((dirt.take(start + DEBOUNCE_MAX * 2), dirt.due()), (None, None));
    }

    #[test]
    fn a_busy_place_holds_up_nobody_and_is_read_once_a_second() {
        let (mut dirt, start) = (Dirt::NONE, Instant::now());
        dirt.mark("quiet".into(), start);
        let mut taken = Vec::new();
        for tick in 0..25 {
            let now = start + DEBOUNCE / 2 * tick;
            dirt.mark("busy".into(), now);
            taken.extend(dirt.take(now).map(|scope| (scope, now - start)));
        }
        let scopes = [places(&["quiet"]), places(&["busy"])].map(Option::unwrap);
        assert_eq!(taken, scopes.into_iter().zip([DEBOUNCE, DEBOUNCE_MAX]).collect::<Vec<_>>());
    }

    #[test]
    fn a_storm_is_remembered_as_everything() {
        let (mut dirt, start) = (Dirt::NONE, Instant::now());
        (0..=DIRTY_PLACES_MAX).for_each(|n| dirt.mark(n.to_string(), start));
        assert_eq!(dirt.take(start + DEBOUNCE), Some(Scope::Everything));
    }
}
