//! Which places of a source changed since somebody looked: written by a watcher's thread, read by the
//! agent. Bounded: beyond a limit it only remembers "everything".

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::Notify;

use super::Scope;

/// Places that are remembered one by one; a storm beyond it is cheaper to read as a whole.
pub const DIRTY_PLACES_MAX: usize = 1_000;
/// How long the source must be quiet before a change is read: editors write a file in several steps.
pub const DEBOUNCE: Duration = Duration::from_millis(100);
/// A source that never is quiet is read at least this often.
pub const DEBOUNCE_MAX: Duration = Duration::from_secs(1);

/// What changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Dirt {
    places: BTreeSet<String>,
    everything: bool,
}

/// Collects what changed until it is taken.
#[derive(Debug, Default)]
pub struct Dirty {
    dirt: Mutex<Dirt>,
    changed: Notify,
}

impl Dirty {
    /// A place changed.
    pub fn mark(&self, place: String) {
        let mut dirt = self.dirt.lock().unwrap_or_else(PoisonError::into_inner);
        if !dirt.everything {
            dirt.places.insert(place);
        }
        if dirt.places.len() > DIRTY_PLACES_MAX {
            *dirt = Dirt { everything: true, places: BTreeSet::new() };
        }
        drop(dirt);
        self.changed.notify_one();
    }

    /// Anything may have changed: the watcher lost count.
    pub fn mark_everything(&self) {
        *self.dirt.lock().unwrap_or_else(PoisonError::into_inner) =
            Dirt { everything: true, places: BTreeSet::new() };
        self.changed.notify_one();
    }

    /// What changed since it was taken last.
    pub fn take(&self) -> Option<Scope> {
        let dirt = std::mem::take(&mut *self.dirt.lock().unwrap_or_else(PoisonError::into_inner));
        if dirt.everything {
            return Some(Scope::Everything);
        }
        (!dirt.places.is_empty()).then(|| Scope::Places(dirt.places.into_iter().collect()))
    }

    /// Waits until something changed and the source has been quiet for a moment. Cancel safe: what
    /// changed stays until it is taken.
    pub async fn settled(&self) {
        self.changed.notified().await;
        let quiet = async { while tokio::time::timeout(DEBOUNCE, self.changed.notified()).await.is_ok() {} };
        let _ = tokio::time::timeout(DEBOUNCE_MAX, quiet).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_is_remembered_as_everything() {
        let dirty = Dirty::default();
        dirty.mark("a".into());
        assert_eq!(dirty.take(), Some(Scope::Places(vec!["a".into()])));
        assert_eq!(dirty.take(), None);
        (0..=DIRTY_PLACES_MAX).for_each(|n| dirty.mark(n.to_string()));
        assert_eq!(dirty.take(), Some(Scope::Everything));
    }
}
