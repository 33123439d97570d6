//! The directory adapter: a tree of YAML and JSON files is the inventory. Watched where the operating
//! system can, read as a whole on a timer and whenever the watcher lost count.
//!
//! A file that cannot be read, a file that is suddenly empty, a root that is gone: none of them means
//! that anything was deleted.

use std::{
    collections::{BTreeSet, HashSet},
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Dirty, Fault, FileSeen, Found, Go, Inventory, ListEnd, Place, Scope, Seen, SourceError, Wanted,
    format::Reader,
};

#[cfg(test)]
mod tests;
mod walk;
mod watch;

/// A file that says in the root that a directory without documents is meant so.
pub const EMPTY_MARKER: &str = ".farside-empty";
/// Largest file that is read, in bytes: what is larger is a dump, not an inventory.
pub const FILE_BYTES_MAX: u64 = 64 << 20;

/// A tree of files.
pub struct Directory {
    root: PathBuf,
    reader: Reader,
    watch: watch::Watch,
}

impl Directory {
    /// The inventory below `root`. The root may appear later; until then the source is unreachable.
    pub fn new(root: impl Into<PathBuf>, reader: Reader) -> Self {
        Self { root: root.into(), reader, watch: watch::Watch::default() }
    }

    fn unreachable(&self, reason: impl Into<String>) -> SourceError {
        SourceError::Unreachable { root: self.root.display().to_string(), reason: reason.into() }
    }

    /// The root as it really is, and what tells it from another one that takes its place.
    fn resolve_root(&self) -> Result<(PathBuf, walk::FileId), SourceError> {
        let real = fs::canonicalize(&self.root).map_err(|e| self.unreachable(e.to_string()))?;
        let meta = fs::metadata(&real).map_err(|e| self.unreachable(e.to_string()))?;
        if !meta.is_dir() {
            return Err(self.unreachable("it is not a directory"));
        }
        Ok((real, walk::FileId::of(&meta)))
    }

    fn read_file(&self, found: &walk::Found, each: &mut dyn FnMut(Seen) -> Go) -> Go {
        let fault = |reason: String| Seen::Fault(Fault::new(Place::whole(found.place.clone()), reason));
        let (text, stamp) = match read_text(&found.path) {
            Ok(read) => read,
            // Gone between the walk and the reading: as if the walk had not met it.
            Err(ReadFault::Gone) => return Go::On,
            Err(ReadFault::Because(reason)) => return each(fault(reason)),
        };
        let mut others = 0u64;
        let read = self.reader.read(&found.place, &text, &mut |seen| {
            others += u64::from(matches!(seen, Seen::Record(_) | Seen::Fault(_)));
            each(seen)
        });
        match (read.stopped, others) {
            (true, _) => Go::Stop,
            // What it says to be gone on purpose is not still being written.
            _ if read.explicit_empty => Go::On,
            (false, others) => {
                let place = Place::whole(found.place.clone());
                each(Seen::File(FileSeen { place, stamp, empty: others == 0 }))
            }
        }
    }
}

enum ReadFault {
    Gone,
    Because(String),
}

/// The text, and the stamp of the file before it was read.
fn read_text(path: &Path) -> Result<(String, u64), ReadFault> {
    let because = |e: io::Error| match e.kind() {
        io::ErrorKind::NotFound => ReadFault::Gone,
        _ => ReadFault::Because(format!("the file cannot be read: {e}")),
    };
    let meta = fs::metadata(path).map_err(because)?;
    let size = meta.len();
    if size > FILE_BYTES_MAX {
        return Err(ReadFault::Because(format!(
            "the file has {size} bytes, more than {FILE_BYTES_MAX}; cut it into smaller ones"
        )));
    }
    let bytes = fs::read(path).map_err(because)?;
    let text = String::from_utf8(bytes);
    let text = text.map_err(|e| ReadFault::Because(format!("the file is not UTF-8: {e}")))?;
    Ok((text, stamp(&meta)))
}

/// The same while nobody writes to the file and no other one takes its place.
fn stamp(meta: &fs::Metadata) -> u64 {
    let mut hasher = DefaultHasher::new();
    (meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec()).hash(&mut hasher);
    hasher.finish()
}

impl Inventory for Directory {
    fn list(&self, scope: &Scope, each: &mut dyn FnMut(Seen) -> Go) -> Result<ListEnd, SourceError> {
        let (real, id) = self.resolve_root()?;
        self.watch.ensure(&real, id);
        let walk = walk::Walk::new(&real);
        let starts = match scope {
            Scope::Everything => vec![String::new()],
            Scope::Places(places) => outermost(places),
        };
        for start in starts {
            let go = walk.visit(&start, &mut |met| match met {
                Ok(found) => self.read_file(&found, each),
                Err(fault) => each(Seen::Fault(fault)),
            });
            if go == Go::Stop {
                break;
            }
        }
        // A root that was swapped or unmounted during the walk looks like a tree that got empty.
        let (real_after, id_after) = self.resolve_root()?;
        if (real_after, id_after) != (real.clone(), id) {
            return Err(self.unreachable("another directory took its place while it was read"));
        }
        Ok(ListEnd { explicit_empty: real.join(EMPTY_MARKER).exists() })
    }

    fn get(&self, wanted: &[Wanted]) -> Result<Found, SourceError> {
        let mut found = Found::default();
        let mut missing: HashSet<&str> = wanted.iter().map(|one| one.key.as_str()).collect();
        let hints: BTreeSet<&String> = wanted.iter().filter_map(|one| one.path.as_ref()).collect();
        let hinted = Scope::Places(hints.into_iter().cloned().collect());
        for scope in [hinted, Scope::Everything] {
            if missing.is_empty() {
                break;
            }
            self.list(&scope, &mut |seen| {
                match seen {
                    Seen::Record(record) if missing.remove(record.key.as_str()) => found.records.push(record),
                    Seen::Fault(fault) => found.faults.push(fault),
                    Seen::File(FileSeen { place, empty: true, .. }) => {
                        found.faults.push(Fault::new(place, "the file is empty: it may be half-written"));
                    }
                    Seen::Record(_) | Seen::File(_) => {}
                }
                if missing.is_empty() { Go::Stop } else { Go::On }
            })?;
        }
        Ok(found)
    }

    fn dirt(&self) -> Option<Arc<Dirty>> {
        Some(self.watch.dirty())
    }
}

/// Places without those that lie below another one, so that nothing is read twice.
fn outermost(places: &[String]) -> Vec<String> {
    let mut kept: Vec<String> = Vec::new();
    let mut sorted: Vec<&String> = places.iter().collect();
    sorted.sort_by(|a, b| Path::new(a).cmp(Path::new(b)));
    for place in sorted {
        let below = kept.iter().any(|outer| outer.is_empty() || Path::new(place).starts_with(outer));
        if !below {
            kept.push(place.clone());
        }
    }
    kept
}
