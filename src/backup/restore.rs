//! Restores a backup into a data directory that is empty or not there yet. All of it is built beside, verified there, and
//! takes its place in one step: a restore that is killed leaves nothing but a directory, and a file beside it that says so; the
//! next one removes both.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File, Metadata, OpenOptions, TryLockError},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Component, Path, PathBuf},
};

use bus::{
    Bus, PIECE_BYTES,
    managed::{
        ManagedOptions, ManagedServer,
        description::{Description, describe},
    },
};
use bus_schema::{Hash32, subject};
use consumers::{
    Service,
    runtime::{
        bounds::Bounds,
        replay::Watcher,
        verify::{self, Fault, FaultKind},
    },
    snapshot::Shelf,
};
use projector::{Store, StoreOptions};
use tokio::sync::mpsc;

use super::{BackupError, DATA, LOGS, PackedLog, SNAPSHOTS, failed, read::Verified};
use crate::config::Config;

/// What a directory is called in which a data directory is being restored; nothing else is called so.
const STAGE: &str = ".restoring";
/// What the file beside it is called that says that it is one. A restore holds a lock on it, and removes it last.
const LOCK: &str = ".restoring.lock";
/// Where nats-server listened, which the server of the restore must not: agents would find it half restored.
const PORT: &str = "data/nats/port";
/// Where that waits.
const PORT_ASIDE: &str = "restored.port";
/// Pieces of a log that are read ahead.
const PIECES_MAX: usize = 16;

/// What was restored.
pub(crate) struct Restored {
    /// What the logs came to when they were held against what is signed; none = they are elsewhere.
    pub(crate) verified: Option<verify::Verified>,
}

/// How a backup is restored.
pub(crate) struct Restore<'a> {
    pub(crate) backup: &'a Verified,
    pub(crate) config: &'a Config,
    /// Goes on when the logs are not what was signed of them.
    pub(crate) despite_faults: bool,
    /// Hears how far it is.
    pub(crate) watcher: &'a dyn Watcher,
}

impl Restore<'_> {
    /// Restores. Errors: the data directory holds something; the logs are not what is signed; the disk, nats-server.
    pub(crate) async fn run(self) -> Result<Restored, BackupError> {
        self.fits()?;
        let data_dir = replaceable(&self.config.data_dir)?;
        let stage = Stage::begin(&data_dir)?;
        // Another restore may have ended while this one came to the lock.
        self.fits()?;
        self.files(&stage.path)?;
        let verified = if self.backup.manifest.logs.is_empty() {
            None
        } else {
            self.logs(&stage.path.join("nats")).await?;
            Some(self.verified(&stage.path.join("nats")).await?)
        };
        stage.take_place(&data_dir)?;
        Ok(Restored { verified })
    }

    fn fits(&self) -> Result<(), BackupError> {
        let (data_dir, manifest) = (&self.config.data_dir, &self.backup.manifest);
        let configured = &self.config.service.target;
        if *configured != manifest.target {
            return Err(BackupError::Refused(format!(
                "the backup is of the target {}, but the configuration says {configured}; write service.target = \"{}\", or use the backup of {configured}",
                manifest.target, manifest.target
            )));
        }
        match fs::read_dir(data_dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(failed("look into", data_dir)(error)),
            Ok(mut entries) => match entries.next() {
                None => Ok(()),
                Some(entry) => {
                    let holds = entry.map_err(failed("look into", data_dir))?.file_name();
                    Err(BackupError::Refused(format!(
                        "{} is not empty (it holds {}); a backup is restored into an empty data directory only: name another with --data-dir, or move what is there aside",
                        data_dir.display(),
                        holds.display()
                    )))
                }
            },
        }
    }

    /// Files of the data directory, the logs' descriptions, and snapshots.
    fn files(&self, stage: &Path) -> Result<(), BackupError> {
        self.backup.each(|name, bytes| {
            let Some((path, is_behind)) = place(name) else { return Ok(()) };
            append(&stage.join(path), &bytes, is_behind)
        })
    }

    /// Unpacks the logs into a nats-server that does not sync each message: the whole directory is synced when it is done.
    async fn logs(&self, nats_dir: &Path) -> Result<(), BackupError> {
        let options = ManagedOptions { syncs_each: false, ..self.options(nats_dir)? };
        let server = ManagedServer::start(options).await?;
        let bus = Bus::connect(server.service_options("farside restore")).await?;
        let logs = &self.backup.manifest.logs;
        let mut done = Ok(());
        for (at, log) in logs.iter().enumerate() {
            self.watcher.read(&log.stream, at as u64, logs.len() as u64);
            done = self.unpack(&bus, log).await;
            if done.is_err() {
                break;
            }
        }
        bus.drain().await;
        server.stop().await;
        done?;
        self.describe(nats_dir)
    }

    /// Makes the streams the logs again that they were.
    fn describe(&self, nats_dir: &Path) -> Result<(), BackupError> {
        let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        self.backup.each(|name, bytes| {
            if name.starts_with(LOGS) && name.contains("/meta.") {
                files.insert(name.to_owned(), bytes);
            }
            Ok(())
        })?;
        for PackedLog { stream, .. } in &self.backup.manifest.logs {
            let mut file = |name: &str| {
                let lacks =
                    || BackupError::Refused(format!("the backup lacks {name} of {stream}; use another"));
                files.remove(&format!("{LOGS}{stream}/{name}")).ok_or_else(lacks)
            };
            describe(nats_dir, stream, &Description([file("meta.inf")?, file("meta.sum")?]))?;
        }
        Ok(())
    }

    async fn unpack(&self, bus: &Bus, log: &PackedLog) -> Result<(), BackupError> {
        let PackedLog { stream, head, .. } = log;
        let mut unpacked = bus.unpack_stream(stream, head).await?;
        let (to, mut pieces) = mpsc::channel(PIECES_MAX);
        let (backup, prefix) = (self.backup.clone(), format!("{LOGS}{stream}/"));
        // nats-server ends with the thread that started it, so none may be given away to what waits for a disk.
        let reading = tokio::task::spawn_blocking(move || hand_on(&backup, &prefix, &to));
        let mut given = Ok(());
        while let (Some(piece), Ok(())) = (pieces.recv().await, &given) {
            given = unpacked.piece(piece).await;
        }
        drop(pieces);
        let read = reading.await.map_err(|error| {
            BackupError::Refused(format!(
                "the reading of the backup broke down: {error}; this is a bug, report it"
            ))
        })?;
        given?;
        read?;
        unpacked.finish().await?;
        Ok(())
    }

    /// Starts the server once more, as it will run, and holds the logs against the backup and against what is signed.
    async fn verified(&self, nats_dir: &Path) -> Result<verify::Verified, BackupError> {
        let server = ManagedServer::start(self.options(nats_dir)?).await?;
        let bus = Bus::connect(server.service_options("farside restore")).await?;
        let held = self.held(&bus, nats_dir).await;
        bus.drain().await;
        server.stop().await;
        let verified = held?;
        match verified.faults.first() {
            Some(first) if !self.despite_faults => Err(BackupError::Refused(format!(
                "the logs of the backup are not what is signed of them, in {} places, first {}: {}; use another backup, or --despite-faults if that is known",
                verified.faults.len(),
                first.stream,
                first.text
            ))),
            _ => Ok(verified),
        }
    }

    async fn held(&self, bus: &Bus, nats_dir: &Path) -> Result<verify::Verified, BackupError> {
        self.as_packed(bus).await?;
        let path = nats_dir.with_file_name("verified.redb");
        let opened = Store::open(&path, StoreOptions::default());
        let store = opened.map_err(consumers::ConsumersError::from)?;
        let mut service = self.config.service.clone();
        service.sites.clone_from(&self.backup.manifest.sites);
        // What was before the floor of a trimmed log is there only.
        let shelf = Shelf::open(&nats_dir.with_file_name("snapshots"))?;
        let verified = Service::build(service, bus.clone(), store)?
            .keeping(shelf)
            .handle()
            .verify(Bounds::default(), self.watcher)
            .await;
        fs::remove_file(&path).map_err(failed("remove", &path))?;
        let mut verified = verified?;
        let manifest = &self.backup.manifest;
        let stream = subject::target_stream(&manifest.target);
        // First: that is what is said when it is refused.
        if let Some(fault) = other_key(stream, &manifest.key, verified.key.as_deref()) {
            verified.faults.insert(0, fault);
        }
        Ok(verified)
    }

    /// Errors: a log is not the one that was packed.
    async fn as_packed(&self, bus: &Bus) -> Result<(), BackupError> {
        for log in &self.backup.manifest.logs {
            let state = bus.stream_state(&log.stream).await?;
            let last =
                if log.messages > 0 { bus.message_for_sure(&log.stream, log.last_seq).await? } else { None };
            let has = (
                state.created,
                state.last_seq,
                state.messages,
                last.map_or(Hash32::ZERO, |last| last.hash()),
            );
            let packed = (log.created, log.last_seq, log.messages, log.last_hash);
            if has != packed {
                return Err(BackupError::Refused(format!(
                    "nats-server made another log of {} than was packed ({has:?}, not {packed:?}); use the nats-server with which the backup was taken",
                    log.stream
                )));
            }
        }
        Ok(())
    }

    fn options(&self, nats_dir: &Path) -> Result<ManagedOptions, BackupError> {
        let launcher = std::env::current_exe().map_err(failed("find", Path::new("this program")))?;
        let binary = self.config.nats.binary.clone();
        Ok(ManagedOptions { binary, launcher: Some(launcher), ..ManagedOptions::new(nats_dir) })
    }
}

/// Hands on the parts of a log, piece by piece; ends early when nobody takes them any more, who says why.
fn hand_on(backup: &Verified, prefix: &str, to: &mpsc::Sender<Vec<u8>>) -> Result<(), BackupError> {
    let is_part = |name: &str| name.strip_prefix(prefix).is_some_and(|rest| rest.parse::<u32>().is_ok());
    backup.each(|name, bytes| {
        let pieces = bytes.chunks(PIECE_BYTES).filter(|_| is_part(name) && !to.is_closed());
        pieces.for_each(|piece| drop(to.blocking_send(piece.to_vec())));
        Ok(())
    })
}

/// The key of the backup that is not the one that its target log names: it was signed by somebody else.
fn other_key(stream: String, signed_by: &str, named: Option<&str>) -> Option<Fault> {
    let named = named.filter(|named| *named != signed_by)?;
    let text = format!("it names the key {named} last, but the backup is signed by {signed_by}");
    Some(Fault { kind: FaultKind::Checkpoint, stream, seqs: None, text })
}

/// The data directory by its whole name. Errors: a directory that was built beside could not take its place, which is better
/// known before it is built.
fn replaceable(data_dir: &Path) -> Result<PathBuf, BackupError> {
    let absolute = std::path::absolute(data_dir).map_err(failed("find", data_dir))?;
    // Without the slash at its end: what is built beside is called by its name and more.
    let path: PathBuf = absolute.components().collect();
    let refused = |why: &str| Err(BackupError::Refused(format!("{} {why}", path.display())));
    let Some(parent) = path.parent().filter(|_| path.file_name().is_some()) else {
        return refused("has no name that a restored directory could take; name another with --data-dir");
    };
    let found = match fs::symlink_metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(path),
        found => found.map_err(failed("look at", &path))?,
    };
    let is = |other: io::Result<Metadata>| {
        other.is_ok_and(|other| (other.dev(), other.ino()) == (found.dev(), found.ino()))
    };
    if found.is_symlink() {
        return refused(
            "is a symbolic link, whose place no directory can take; name what it points to with --data-dir",
        );
    }
    if is(fs::metadata(".")) {
        return refused(
            "is the working directory, which would be gone; go to another one, and name it with --data-dir",
        );
    }
    if fs::metadata(parent).map_err(failed("look at", parent))?.dev() != found.dev() {
        return refused(
            "is a mount point, whose place no directory can take; name a directory below it with --data-dir",
        );
    }
    Ok(path)
}

fn beside(data_dir: &Path, suffix: &str) -> PathBuf {
    let mut path = data_dir.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

/// A directory beside the data directory, in which that is built; gone when it did not take its place.
#[derive(Debug)]
struct Stage {
    path: PathBuf,
    lock_path: PathBuf,
    /// Held as long as it is open.
    _lock: File,
    is_placed: bool,
}

impl Stage {
    /// Makes it; removes what a restore that was killed left. Errors: there is something else of its name, another restore is
    /// under way, the disk.
    fn begin(data_dir: &Path) -> Result<Self, BackupError> {
        let (path, lock_path) = (beside(data_dir, STAGE), beside(data_dir, LOCK));
        let is_empty = match fs::read_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            entries => entries.map_err(failed("look into", &path))?.next().is_none(),
        };
        // Before there is a lock of this restore, which would say that it is one's own.
        if !is_empty && !lock_path.exists() {
            let text = format!("{} is in the way; move it aside", path.display());
            return Err(BackupError::Refused(text));
        }
        if let Some(parent) = path.parent() {
            make_directory(parent)?;
        }
        let lock = locked(&lock_path)?;
        let stage = Self { path, lock_path, _lock: lock, is_placed: false };
        stage.remove().map_err(failed("remove", &stage.path))?;
        make_directory(&stage.path)?;
        Ok(stage)
    }

    fn remove(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    /// Takes the place of the data directory, when all of it is on the disk.
    fn take_place(mut self, data_dir: &Path) -> Result<(), BackupError> {
        // What the server of the restore wrote for itself. Agents look for the restored one where the lost one was.
        let port = self.path.join("nats/port");
        for path in
            [self.path.join("nats/nats-server.log"), self.path.join("nats/nats-server.conf"), port.clone()]
        {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed("remove", &path)(error));
                }
                _ => {}
            }
        }
        let wanted = self.path.join(PORT_ASIDE);
        if wanted.exists() {
            fs::rename(&wanted, &port).map_err(failed("write", &port))?;
        }
        sync(&self.path).map_err(failed("sync", &self.path))?;
        fs::rename(&self.path, data_dir)
            .map_err(failed("put the restored directory in the place of", data_dir))?;
        self.is_placed = true;
        let parent = data_dir.parent().unwrap_or(data_dir);
        File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed("sync", parent))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if !self.is_placed
            && let Err(error) = self.remove()
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove what is half restored; the next restore does");
            // The lock's file says whose it is.
            return;
        }
        if let Err(error) = fs::remove_file(&self.lock_path) {
            tracing::warn!(path = %self.lock_path.display(), %error, "cannot remove the lock of the restore; it may be removed");
        }
    }
}

/// Takes the lock of a restore. Errors: another one has it, the disk.
fn locked(path: &Path) -> Result<File, BackupError> {
    loop {
        let mut options = OpenOptions::new();
        let opened = options.write(true).create(true).truncate(false).mode(0o600).open(path);
        let file = opened.map_err(failed("open", path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let text = format!("another restore is under way (it holds {}); wait for it", path.display());
                return Err(BackupError::Refused(text));
            }
            Err(TryLockError::Error(error)) => return Err(failed("lock", path)(error)),
        }
        // Whoever had it may have removed it since it was opened; then it excludes nobody.
        let has = file.metadata().map_err(failed("look at", path))?;
        if fs::metadata(path).is_ok_and(|named| (named.dev(), named.ino()) == (has.dev(), has.ino())) {
            return Ok(file);
        }
    }
}

/// Where an entry goes, and whether it is a part behind the first; none = it is no file of the data directory.
fn place(name: &str) -> Option<(PathBuf, bool)> {
    if name == PORT {
        return Some((PORT_ASIDE.into(), false));
    }
    let (path, part) = match (name.strip_prefix(DATA), name.strip_prefix(SNAPSHOTS)) {
        (Some(path), _) => (PathBuf::from(path), 1),
        (None, Some(part)) => {
            let (file, part) = part.split_once('/')?;
            (Path::new("snapshots").join(file), part.parse::<u32>().ok()?)
        }
        (None, None) => return None,
    };
    // The manifest is signed; nothing leaves the directory all the same.
    let is_inside = path.components().all(|part| matches!(part, Component::Normal(_)));
    is_inside.then_some((path, part > 1))
}

/// Writes a file for its owner alone, or the next part of one.
fn append(path: &Path, bytes: &[u8], is_behind: bool) -> Result<(), BackupError> {
    if let Some(parent) = path.parent() {
        make_directory(parent)?;
    }
    let mut options = OpenOptions::new();
    let options = if is_behind { options.append(true) } else { options.write(true).create_new(true) };
    let file = options.mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(bytes)).map_err(failed("write", path))
}

fn make_directory(path: &Path) -> Result<(), BackupError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("make", path))
}

/// Brings everything below a directory to the disk.
fn sync(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() { sync(&path)? } else { File::open(&path)?.sync_all()? }
    }
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal<T: std::fmt::Debug>(result: Result<T, BackupError>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn what_nothing_can_be_renamed_onto_is_refused_before_the_work() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let wanted = root.join("data");
        assert_eq!(replaceable(&root.join("data/")).unwrap(), wanted, "not there yet");
        fs::create_dir(&wanted).unwrap();
        for name in ["data", "data/", "./data/.", "data//"] {
            let path = replaceable(&root.join(name)).unwrap();
            assert_eq!(path.as_os_str(), wanted.as_os_str(), "{name}");
        }
        std::os::unix::fs::symlink(&wanted, root.join("link")).unwrap();
        std::os::unix::fs::symlink(root.join("nowhere"), root.join("dangling")).unwrap();
        for name in ["link", "link/", "dangling"] {
            let said = refusal(replaceable(&root.join(name)));
            assert!(said.contains("is a symbolic link"), "{name}: {said}");
        }
        assert!(refusal(replaceable(Path::new("."))).contains("is the working directory"));
        assert!(refusal(replaceable(Path::new("/proc"))).contains("is a mount point"));
        for name in ["/", "/tmp/.."] {
            assert!(refusal(replaceable(Path::new(name))).contains("has no name"), "{name}");
        }
    }

    #[test]
    fn what_a_killed_restore_left_is_removed_and_what_is_not_its_own_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data");
        let (stage, lock) = (beside(&data, STAGE), beside(&data, LOCK));
        fs::create_dir(&stage).unwrap();
        fs::write(stage.join("of somebody"), "").unwrap();
        assert!(refusal(Stage::begin(&data)).contains("is in the way"));
        assert!(stage.join("of somebody").exists() && !lock.exists());
        // As a kill leaves it: the lock's file is there, and nobody holds it.
        fs::write(&lock, "").unwrap();
        let begun = Stage::begin(&data).unwrap();
        assert!(!stage.join("of somebody").exists());
        assert!(refusal(Stage::begin(&data)).contains("another restore is under way"));
        drop(begun);
        assert!(!stage.exists() && !lock.exists());
        Stage::begin(&data).unwrap().take_place(&data).unwrap();
        assert!(data.exists() && !stage.exists() && !lock.exists());
    }

    #[test]
    fn a_backup_that_another_key_signed_than_its_log_names_has_a_fault() {
        let of = |named| other_key("LOG".to_owned(), "UA", named).map(|fault| fault.text);
        assert_eq!((of(None), of(Some("UA"))), (None, None));
        assert!(of(Some("UB")).is_some_and(|text| text.contains("names the key UB")));
    }
}
