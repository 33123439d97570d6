//! Walks a tree in path order and finds the files that may hold documents. Symlinks that lead out of
//! the tree are reported and not followed; a directory is entered once, however it is reached.
//!
//! Must not know: what is in a file.

use std::{
    cell::RefCell,
    collections::HashSet,
    ffi::{OsStr, OsString},
    fs::{self, Metadata},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use crate::resource::{Fault, Go, Place};

/// Endings of files that are looked into.
const ENDINGS: [&str; 6] = ["yaml", "yml", "json", "jsonl", "ndjson", "tfstate"];

/// What tells a file from every other on the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct FileId(u64, u64);

impl FileId {
    pub(super) fn of(meta: &Metadata) -> Self {
        Self(meta.dev(), meta.ino())
    }
}

/// A file to be read.
pub(super) struct Found {
    /// Where it is.
    pub(super) path: PathBuf,
    /// Its name in the inventory: relative to the root, with `/`.
    pub(super) place: String,
}

pub(super) struct Walk<'a> {
    root: &'a Path,
    /// Directories that were entered: a link may lead back to one of them.
    entered: RefCell<HashSet<FileId>>,
}

type Each<'a> = dyn FnMut(Result<Found, Fault>) -> Go + 'a;

impl<'a> Walk<'a> {
    /// `root` must be canonical.
    pub(super) fn new(root: &'a Path) -> Self {
        Self { root, entered: RefCell::default() }
    }

    /// Visits a place and everything below it; one that is gone has nothing below it.
    pub(super) fn visit(&self, place: &str, each: &mut Each<'_>) -> Go {
        let fault = |reason: String| Fault::of_tree(Place::whole(place), reason);
        let path = self.root.join(place);
        let real = match fs::canonicalize(&path) {
            Ok(real) => real,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return self.dangling(&path, place, each),
            Err(e) => return each(Err(fault(format!("it cannot be reached: {e}")))),
        };
        if !real.starts_with(self.root) {
            let reason = "the link leads out of the tree and is not followed; put the file into the tree";
            return each(Err(fault(reason.to_owned())));
        }
        match fs::metadata(&real) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Go::On,
            Err(e) => each(Err(fault(format!("it cannot be read: {e}")))),
            Ok(meta) if meta.is_dir() => self.enter(&path, place, &meta, each),
            Ok(meta) if meta.is_file() && is_candidate(place) => {
                each(Ok(Found { path, place: place.to_owned() }))
            }
            Ok(_) => Go::On,
        }
    }

    /// A link whose end is missing is a fault, a missing file is just gone.
    fn dangling(&self, path: &Path, place: &str, each: &mut Each<'_>) -> Go {
        if fs::symlink_metadata(path).is_err() {
            return Go::On;
        }
        each(Err(Fault::of_tree(Place::whole(place), "the link leads nowhere")))
    }

    fn enter(&self, path: &Path, place: &str, meta: &Metadata, each: &mut Each<'_>) -> Go {
        if !self.entered.borrow_mut().insert(FileId::of(meta)) {
            return Go::On;
        }
        let names = match names(path) {
            Ok(names) => names,
            Err(e) => {
                let reason = format!("the directory cannot be listed: {e}");
                return each(Err(Fault::of_tree(Place::whole(place), reason)));
            }
        };
        for name in names {
            let name = match name.into_string() {
                Ok(name) => name,
                Err(name) if !may_matter(path, &name) => continue,
                Err(name) => {
                    // Nothing that is known comes from there, so nothing is in doubt.
                    let reason = "a name in it is not UTF-8; rename it, or it stays unread";
                    let detail = Some(name.to_string_lossy().into_owned());
                    if each(Err(Fault { detail, ..Fault::new(Place::whole(place), reason) })) == Go::Stop {
                        return Go::Stop;
                    }
                    continue;
                }
            };
            let child = if place.is_empty() { name } else { format!("{place}/{name}") };
            if self.visit(&child, each) == Go::Stop {
                return Go::Stop;
            }
        }
        Go::On
    }
}

/// Names in a directory in order, without hidden ones: editors and volume mounts keep their own there.
fn names(path: &Path) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        if !name.as_encoded_bytes().starts_with(b".") {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Whether something of this name would be looked into, could its name be written.
fn may_matter(directory: &Path, name: &OsStr) -> bool {
    is_candidate(&name.to_string_lossy()) || directory.join(name).is_dir()
}

fn is_candidate(place: &str) -> bool {
    Path::new(place)
        .extension()
        .and_then(|ending| ending.to_str())
        .is_some_and(|ending| ENDINGS.iter().any(|known| ending.eq_ignore_ascii_case(known)))
}
