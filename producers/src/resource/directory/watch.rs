//! The watcher of a tree: turns the operating system's notes into places that changed. Where it cannot
//! watch, the timer alone drives, and the log says so once.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use super::{super::Dirty, walk::FileId};

/// A watcher that follows its root when another directory takes the root's place.
#[derive(Default)]
pub(super) struct Watch {
    dirty: Arc<Dirty>,
    on: Mutex<Option<(FileId, Option<RecommendedWatcher>)>>,
}

impl Watch {
    pub(super) fn dirty(&self) -> Arc<Dirty> {
        Arc::clone(&self.dirty)
    }

    /// Watches the root, unless it does already.
    pub(super) fn ensure(&self, root: &Path, id: FileId) {
        let mut on = self.on.lock().unwrap_or_else(PoisonError::into_inner);
        if on.as_ref().is_some_and(|(watched, _)| *watched == id) {
            return;
        }
        let watcher = start(root, Arc::clone(&self.dirty));
        let watcher = watcher.inspect_err(|error| {
            tracing::warn!(%error, root = %root.display(), "cannot watch the directory; it is read on the timer only");
        });
        *on = Some((id, watcher.ok()));
    }
}

fn start(root: &Path, dirty: Arc<Dirty>) -> notify::Result<RecommendedWatcher> {
    let below: PathBuf = root.to_owned();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| match event {
        Ok(event) if event.need_rescan() => dirty.mark_everything(),
        // Our own reading is no change.
        Ok(event) if matches!(event.kind, EventKind::Access(_)) => {}
        Ok(event) => event.paths.iter().for_each(|path| mark(&dirty, &below, path)),
        Err(_) => dirty.mark_everything(),
    })?;
    watcher.watch(root, RecursiveMode::Recursive)?;
    Ok(watcher)
}

fn mark(dirty: &Dirty, root: &Path, path: &Path) {
    match path.strip_prefix(root).ok().and_then(Path::to_str) {
        // The root itself, or a marker in it: the whole has to be looked at.
        None | Some("" | super::EMPTY_MARKER) => dirty.mark_everything(),
        // Hidden names are not read; `..data` of a mounted volume swaps everything below the links to it.
        Some(place) if place.starts_with("..") => dirty.mark_everything(),
        Some(place) if place.split('/').any(|part| part.starts_with('.')) => {}
        Some(place) => dirty.mark(place.to_owned()),
    }
}
