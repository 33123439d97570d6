//! The shelf: the directory in which snapshots lie, each a pool's file with a label beside it. The label is written
//! last and taken away first, so a file without one means nothing; but it may be the only place of what went from a trimmed
//! log, if somebody lost its label, so it is put aside and not deleted. What is half made is called otherwise.
//!
//! ```text
//! <data_dir>/snapshots/snapshot-001795376897161-42.redb   the pool: when its checkpoint was stated, and its number
//!                      snapshot-001795376897161-42.json   what it is, and its SHA-256
//! ```

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

use bus_schema::{Hash32, Name, Timestamp, fact::log::LogFact, subject};
use projector::{Store, StoreOptions};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tempfile::{NamedTempFile, TempDir};

use super::thin::{self, Bounds, Kept};
use crate::error::ConsumersError;

/// The form of the labels that this build writes and reads.
const FORM: u32 = 2;
/// Only the owner may enter.
const DIRECTORY_MODE: u32 = 0o700;
/// Only the owner may read and write.
const FILE_MODE: u32 = 0o600;
/// What a file is called until it is whole.
const DRAFT: &str = "draft-";
/// What the name of a damaged snapshot's files ends with.
const RETIRED: &str = ".damaged";
/// Bytes that are copied and hashed at once.
const PIECE_BYTES: usize = 1 << 20;

/// What a snapshot is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Label {
    /// The form of the label.
    form: u32,
    /// The target log, and how far it is held.
    pub target: Place,
    /// The site logs, and how far each is held.
    pub sites: Vec<Place>,
    /// The number of the checkpoint that it was held against: the places are its marks.
    pub checkpoint: u64,
    /// That checkpoint's sequence in the target log.
    pub checkpoint_seq: u64,
    /// When that checkpoint was stated.
    pub stated_at: Timestamp,
    /// Owners whose rows are what was signed of them.
    pub owners: u64,
    /// Whether every owner has the rows that are signed of it: else the live pool knew more than its log.
    pub is_proved: bool,
    /// Whether the logs are to the letter what was signed of them; else one has lost something that matters to no row.
    pub is_whole: bool,
    /// Size of the file.
    pub bytes: u64,
    /// Its hash.
    pub sha256: Hash32,
}

/// How far a log is held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The stream.
    pub stream: String,
    /// When it was made.
    pub created: Timestamp,
    /// The last sequence.
    pub seq: u64,
    /// That message's hash.
    pub hash: Hash32,
    /// The largest time at which the log stored a message up to there.
    pub time: Timestamp,
    /// The running hash behind it.
    pub running: Hash32,
}

impl From<projector::Position> for Place {
    fn from(position: projector::Position) -> Self {
        let projector::Position { stream, created, seq, hash, time, running, .. } = position;
        Self { stream, created, seq, hash, time, running }
    }
}

/// What every form of a label has.
#[derive(Deserialize)]
struct Formed {
    form: u32,
}

impl Label {
    /// How far a log is held; none = it is not.
    pub fn place(&self, stream: &str) -> Option<&Place> {
        self.places().find(|place| place.stream == stream)
    }

    /// How far each log is held, the target's first.
    pub fn places(&self) -> impl Iterator<Item = &Place> {
        [&self.target].into_iter().chain(&self.sites)
    }

    /// Whether a file is the snapshot. Errors: it cannot be read.
    pub fn is_of_file(&self, file: impl Read) -> io::Result<bool> {
        Ok(hashed(file, io::sink())? == (self.bytes, self.sha256))
    }

    fn in_time(&self) -> (Timestamp, u64) {
        (self.stated_at, self.checkpoint_seq)
    }

    // By time, because numbers are given out again by a target that was restored.
    fn stem(&self) -> String {
        format!("snapshot-{:015}-{}", self.stated_at.unix_ms(), self.checkpoint)
    }

    /// Whether it is the label of a pool that is here in these logs.
    pub(super) fn is_of(&self, positions: &[projector::Position]) -> bool {
        let has = |place: &Place| positions.iter().any(|found| Place::from(found.clone()) == *place);
        self.places().all(has)
    }
}

/// What is known of a snapshot that is to be put on the shelf.
pub(super) struct Fresh {
    pub(super) target: Place,
    pub(super) sites: Vec<Place>,
    pub(super) checkpoint: u64,
    pub(super) checkpoint_seq: u64,
    pub(super) stated_at: Timestamp,
    pub(super) owners: u64,
    pub(super) is_proved: bool,
    pub(super) is_whole: bool,
}

/// The directory of the snapshots. Clones mean the same one.
#[derive(Clone, Debug)]
pub struct Shelf {
    directory: PathBuf,
}

impl Shelf {
    /// Opens the directory, or makes it, and takes away what was half made when a process ended. Errors: the disk.
    pub fn open(directory: &Path) -> Result<Self, ConsumersError> {
        let made = DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(directory);
        made.map_err(failed("make", directory))?;
        let shelf = Self { directory: directory.to_owned() };
        shelf.sweep().and_then(|()| shelf.forget_older_forms()).map_err(failed("tidy", directory))?;
        Ok(shelf)
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The file of a snapshot.
    pub fn file(&self, label: &Label) -> PathBuf {
        self.directory.join(label.stem() + ".redb")
    }

    /// The file of its label.
    pub fn label_file(&self, label: &Label) -> PathBuf {
        self.directory.join(label.stem() + ".json")
    }

    /// The labels, in order of the time of their checkpoints. One that cannot be read is told, and passed over. Errors:
    /// the disk.
    pub fn labels(&self) -> Result<Vec<Label>, ConsumersError> {
        let names = self.names().map_err(failed("look into", &self.directory))?;
        let mut labels: Vec<_> =
            names.iter().filter(|name| name.ends_with(".json")).filter_map(|name| self.read(name)).collect();
        // Not by the sequence: a log that was made anew or lost its end gives sequences out again.
        labels.sort_by_key(Label::in_time);
        Ok(labels)
    }

    fn read(&self, name: &str) -> Option<Label> {
        let path = self.directory.join(name);
        let read = fs::read(&path).and_then(|text| match serde_json::from_slice(&text)? {
            Formed { form: FORM } => Ok(Some(serde_json::from_slice(&text)?)),
            Formed { form } => {
                tracing::warn!(path = %path.display(), form, "a snapshot of another build of farside is passed over");
                Ok(None)
            }
        });
        match read {
            Ok(label) => label,
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "the label of a snapshot cannot be read; the snapshot is passed over. Put the label back from a backup; remove both files only if no log was trimmed");
                None
            }
        }
    }

    /// A directory for what is not on the shelf yet, on the same disk; gone when it is dropped. Errors: the disk.
    pub(super) fn drafts(&self) -> Result<TempDir, ConsumersError> {
        let made = tempfile::Builder::new().prefix(DRAFT).tempdir_in(&self.directory);
        made.map_err(failed("make a directory in", &self.directory))
    }

    /// Copies a snapshot, and answers whether the copy is what the label says. Errors: the disk.
    pub(super) fn take(&self, label: &Label, to: &Path) -> Result<bool, ConsumersError> {
        let path = self.file(label);
        let from = match File::open(&path) {
            Ok(from) => from,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(failed("open", &path)(error)),
        };
        let into = File::create(to).map_err(failed("write", to))?;
        let (bytes, sha256) = hashed(from, into).map_err(failed("copy", &path))?;
        Ok((bytes, sha256) == (label.bytes, label.sha256))
    }

    /// Whether a snapshot is what its label says. Errors: the disk.
    pub(crate) fn is_whole(&self, label: &Label) -> Result<bool, ConsumersError> {
        let path = self.file(label);
        let from = match File::open(&path) {
            Ok(from) => from,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(failed("open", &path)(error)),
        };
        label.is_of_file(from).map_err(failed("read", &path))
    }

    /// Puts a whole file of the same disk on the shelf. Errors: the disk.
    pub(super) fn put(&self, draft: &Path, fresh: Fresh) -> Result<Label, ConsumersError> {
        let file = File::open(draft).map_err(failed("open", draft))?;
        file.sync_all().map_err(failed("sync", draft))?;
        let (bytes, sha256) = hashed(file, io::sink()).map_err(failed("read", draft))?;
        let Fresh { target, sites, checkpoint, checkpoint_seq, stated_at, owners, is_proved, is_whole } =
            fresh;
        let form = FORM;
        let label = Label {
            form,
            target,
            sites,
            checkpoint,
            checkpoint_seq,
            stated_at,
            owners,
            is_proved,
            is_whole,
            bytes,
            sha256,
        };
        let (path, label_path) = (self.file(&label), self.label_file(&label));
        fs::rename(draft, &path).map_err(failed("name", &path))?;
        self.write_label(&label, &label_path).map_err(failed("write", &label_path))?;
        Ok(label)
    }

    fn write_label(&self, label: &Label, path: &Path) -> io::Result<()> {
        let mut draft: NamedTempFile = tempfile::Builder::new().prefix(DRAFT).tempfile_in(&self.directory)?;
        serde_json::to_writer_pretty(&mut draft, label)?;
        draft.as_file().sync_all()?;
        draft.persist(path).map_err(|error| error.error)?;
        File::open(&self.directory)?.sync_all()
    }

    /// Takes a snapshot away. Errors: the disk.
    pub(super) fn remove(&self, label: &Label) -> Result<(), ConsumersError> {
        for path in [self.label_file(label), self.file(label)] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed("remove", &path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Puts a copy of a pool on the shelf that nobody has open; false = it has read nothing that is signed. Errors: the
    /// disk, the pool's file.
    pub(super) fn adopt(&self, pool: &Path, target: &Name) -> Result<bool, ConsumersError> {
        let drafts = self.drafts()?;
        let draft = drafts.path().join("pool.redb");
        fs::copy(pool, &draft).map_err(failed("copy", pool))?;
        fs::set_permissions(&draft, fs::Permissions::from_mode(FILE_MODE))
            .map_err(failed("write", &draft))?;
        // Opening mends what a process that was killed left.
        let store = Store::open(&draft, StoreOptions::default())?;
        let last = store.reader().latest_fact("checkpoint", target.as_str())?.value;
        let places: Vec<Place> = store.positions()?.into_iter().map(Place::from).collect();
        drop(store);
        let stream = subject::target_stream(target);
        let (of_target, sites): (Vec<_>, Vec<_>) =
            places.into_iter().partition(|place| place.stream == stream);
        let (Some(LogFact::Checkpoint(last)), Some(target)) =
            (last.map(|record| record.fact), of_target.into_iter().next())
        else {
            return Ok(false);
        };
        let (checkpoint, stated_at) = (last.number, last.stated_at);
        let (checkpoint_seq, owners, is_proved, is_whole) = (target.seq, 0, false, false);
        let fresh =
            Fresh { target, sites, checkpoint, checkpoint_seq, stated_at, owners, is_proved, is_whole };
        self.put(&draft, fresh).map(|_| true)
    }

    /// Puts a damaged snapshot out of use and leaves its bytes: somebody may need them. Who is killed in between leaves a
    /// label without a file, which is retired again by whoever wants to use it. Errors: the disk.
    pub(super) fn retire(&self, label: &Label) -> Result<(), ConsumersError> {
        for path in [self.file(label), self.label_file(label)] {
            put_aside(&path).map_err(failed("rename", &path))?;
        }
        Ok(())
    }

    /// Takes away what the bounds do not leave, but none at whose end a log begins. Errors: the disk.
    pub(super) fn thin(
        &self,
        bounds: Bounds,
        is_floor: impl Fn(&Label) -> bool,
    ) -> Result<(), ConsumersError> {
        let labels = self.labels()?;
        let kept = labels.iter().map(|label| Kept {
            at: label.stated_at,
            bytes: label.bytes,
            is_floor: is_floor(label),
        });
        for place in thin::superfluous(&kept.collect::<Vec<_>>(), bounds) {
            self.remove(&labels[place])?;
        }
        Ok(())
    }

    fn names(&self) -> io::Result<Vec<String>> {
        fs::read_dir(&self.directory)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    }

    /// Takes away the labels of older forms and their pools: no log was ever trimmed behind one, so the logs give them
    /// again.
    fn forget_older_forms(&self) -> io::Result<()> {
        for name in self.names()?.iter().filter(|name| name.ends_with(".json")) {
            let path = self.directory.join(name);
            let formed = serde_json::from_slice(&fs::read(&path)?).unwrap_or(Formed { form: FORM });
            if formed.form < FORM {
                tracing::info!(path = %path.display(), "a snapshot of an older farside is taken away; new ones are taken");
                // The label last: it says that the file may go.
                match fs::remove_file(path.with_extension("redb")) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
                fs::remove_file(&path)?;
            }
        }
        Ok(())
    }

    /// Takes away what was half made, and puts aside what has no label: its writer or its remover was killed, or somebody
    /// else lost the label.
    fn sweep(&self) -> io::Result<()> {
        let names = self.names()?;
        for name in &names {
            let path = self.directory.join(name);
            let stem = name.strip_suffix(".redb");
            if name.starts_with(DRAFT) {
                if path.is_dir() { fs::remove_dir_all(path)? } else { fs::remove_file(path)? }
            } else if stem.is_some_and(|stem| !names.contains(&format!("{stem}.json"))) {
                put_aside(&path)?;
                tracing::error!(path = %path.display(), "a snapshot has no label, and is put aside with the ending {RETIRED}: if a log was trimmed, take that off again and put the label (.json) back from a backup; else remove it");
            }
        }
        Ok(())
    }
}

/// Renames a file so that nobody uses it, if it is there.
fn put_aside(path: &Path) -> io::Result<()> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(RETIRED);
    match fs::rename(path, aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Copies a file; answers its size and its hash.
fn hashed(mut from: impl Read, mut to: impl Write) -> io::Result<(u64, Hash32)> {
    let (mut hasher, mut bytes, mut piece) = (Sha256::new(), 0, vec![0; PIECE_BYTES]);
    loop {
        let read = match from.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(&piece[..read]);
        to.write_all(&piece[..read])?;
        bytes += read as u64;
    }
    Ok((bytes, Hash32(hasher.finalize().into())))
}

fn failed(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ConsumersError {
    let path = path.display().to_string();
    move |source| ConsumersError::File { verb, path, source }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn fresh(seq: u64) -> Fresh {
        let place = |stream: &str| Place {
            stream: stream.to_owned(),
            created: Timestamp::default(),
            seq,
            hash: Hash32::ZERO,
            time: Timestamp::default(),
            running: Hash32::ZERO,
        };
        let (sites, target) = (vec![place("FARSIDE_LOCAL")], place("FARSIDE_TGT_LOCAL"));
        let stated_at = Timestamp::from_unix_ms(i64::try_from(seq).unwrap());
        Fresh {
            target,
            sites,
            checkpoint: seq,
            checkpoint_seq: seq,
            stated_at,
            owners: 1,
            is_proved: true,
            is_whole: true,
        }
    }

    /// Puts one on the shelf whose checkpoint was stated `seq` milliseconds after the epoch.
    pub(crate) fn put(shelf: &Shelf, seq: u64) -> Label {
        put_fresh(shelf, fresh(seq))
    }

    fn put_fresh(shelf: &Shelf, fresh: Fresh) -> Label {
        let seq = fresh.checkpoint;
        let drafts = shelf.drafts().unwrap();
        let draft = drafts.path().join("pool.redb");
        fs::write(&draft, format!("pool {seq}")).unwrap();
        fs::set_permissions(&draft, fs::Permissions::from_mode(0o600)).unwrap();
        shelf.put(&draft, fresh).unwrap()
    }

    #[test]
    fn what_was_put_on_the_shelf_is_there_for_its_owner_alone_and_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(&directory.path().join("snapshots")).unwrap();
        let (second, first) = (put(&shelf, 20), put(&shelf, 10));
        assert_eq!(shelf.labels().unwrap(), [first.clone(), second]);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let modes = [shelf.directory(), &shelf.file(&first), &shelf.label_file(&first)].map(mode);
        assert_eq!(modes, [0o700, 0o600, 0o600]);
        let copy = directory.path().join("copy");
        assert!(shelf.take(&first, &copy).unwrap());
        assert_eq!(fs::read_to_string(copy).unwrap(), "pool 10");
    }

    #[test]
    fn a_file_that_is_not_what_its_label_says_is_not_taken_for_it() {
        let directory = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(directory.path()).unwrap();
        let copy = directory.path().join("draft-copy");
        for damage in ["pool 1", "pool 11", "pool 10 and more", ""] {
            let label = put(&shelf, 10);
            fs::write(shelf.file(&label), damage).unwrap();
            assert!(!shelf.take(&label, &copy).unwrap(), "{damage:?}");
        }
        let label = put(&shelf, 10);
        fs::remove_file(shelf.file(&label)).unwrap();
        assert!(!shelf.take(&label, &copy).unwrap());
        fs::write(shelf.label_file(&label), "{").unwrap();
        assert_eq!(shelf.labels().unwrap(), []);
    }

    #[test]
    fn what_was_half_made_is_gone_at_the_next_start_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(directory.path()).unwrap();
        let whole = put(&shelf, 10);
        for half in ["draft-x.redb", "draft-y"] {
            fs::write(directory.path().join(half), "half").unwrap();
        }
        std::mem::forget(shelf.drafts().unwrap());
        let shelf = Shelf::open(directory.path()).unwrap();
        assert_eq!(shelf.labels().unwrap(), [whole]);
        assert_eq!(shelf.names().unwrap().len(), 2);
    }

    #[test]
    fn a_pool_without_a_label_is_put_aside_and_no_byte_of_it_goes() {
        let directory = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(directory.path()).unwrap();
        let (lost, whole) = (put(&shelf, 10), put(&shelf, 20));
        fs::remove_file(shelf.label_file(&lost)).unwrap();
        let shelf = Shelf::open(directory.path()).unwrap();
        assert_eq!(shelf.labels().unwrap(), [whole]);
        let aside = shelf.file(&lost).with_extension("redb.damaged");
        assert_eq!(fs::read_to_string(aside).unwrap(), "pool 10");
        assert_eq!(shelf.names().unwrap().len(), 3);
    }

    #[test]
    fn who_is_killed_while_it_retires_a_snapshot_leaves_its_bytes_and_the_next_one_ends_it() {
        let directory = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(directory.path()).unwrap();
        let label = put(&shelf, 10);
        let aside = |path: PathBuf, ending: &str| path.with_extension(format!("{ending}.damaged"));
        let (pool, of_label) = (aside(shelf.file(&label), "redb"), aside(shelf.label_file(&label), "json"));
        // The first of its two steps.
        fs::rename(shelf.file(&label), &pool).unwrap();
        let shelf = Shelf::open(directory.path()).unwrap();
        assert_eq!(fs::read_to_string(&pool).unwrap(), "pool 10");
        assert!(!shelf.take(&label, &directory.path().join("copy")).unwrap(), "nobody uses it");
        shelf.retire(&label).unwrap();
        assert_eq!(shelf.labels().unwrap(), []);
        assert!(of_label.exists() && fs::read_to_string(&pool).unwrap() == "pool 10");
    }

    #[test]
    fn thinning_takes_files_and_labels_but_no_floor() {
        let directory = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(directory.path()).unwrap();
        (1..=5).for_each(|seq| drop(put(&shelf, seq)));
        let left = |shelf: &Shelf| -> Vec<u64> {
            shelf.labels().unwrap().iter().map(|label| label.checkpoint).collect()
        };
        shelf.thin(Bounds { count_max: 4, bytes_max: u64::MAX }, |label| label.checkpoint == 2).unwrap();
        assert_eq!(left(&shelf), [1, 2, 4, 5]);
        shelf.thin(Bounds { count_max: 0, bytes_max: 0 }, |label| label.checkpoint == 2).unwrap();
        assert_eq!(left(&shelf), [2, 4, 5]);
        assert_eq!(shelf.names().unwrap().len(), 6);
    }

    #[test]
    fn of_a_log_that_was_made_anew_the_newest_is_the_one_that_was_taken_last() {
        let directory = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(directory.path()).unwrap();
        (100..103).for_each(|seq| drop(put(&shelf, seq)));
        for seq in [1, 2] {
            // The sequences of the new log are small, its times are not.
            let mut fresh = fresh(seq);
            fresh.stated_at = Timestamp::from_unix_ms(i64::try_from(seq).unwrap() + 1_000);
            put_fresh(&shelf, fresh);
        }
        let order = |shelf: &Shelf| -> Vec<u64> {
            shelf.labels().unwrap().iter().map(|label| label.sites[0].seq).collect()
        };
        assert_eq!(order(&shelf), [100, 101, 102, 1, 2]);
        shelf.thin(Bounds { count_max: 2, bytes_max: u64::MAX }, |_| false).unwrap();
        assert_eq!(order(&shelf), [1, 2], "the stale ones go, not those of the log that is there");
    }

    #[test]
    fn what_an_older_build_kept_is_taken_away_and_what_a_newer_one_kept_is_passed_over() {
        let directory = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(directory.path()).unwrap();
        for (stem, form) in [("FARSIDE_LOCAL-00000000000000000020", 1), ("snapshot-newer", 99)] {
            fs::write(directory.path().join(format!("{stem}.redb")), "a pool").unwrap();
            fs::write(directory.path().join(format!("{stem}.json")), format!("{{\"form\":{form}}}")).unwrap();
        }
        let whole = put(&shelf, 10);
        let shelf = Shelf::open(directory.path()).unwrap();
        assert_eq!(shelf.labels().unwrap(), [whole]);
        assert_eq!(shelf.names().unwrap().len(), 4, "the newer one's files stay");
    }
}
