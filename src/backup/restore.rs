//! Restores a backup into a data directory that is empty or not there yet. All of it is built beside, verified there, and
//! takes its place in one step: a restore that is killed leaves nothing but a directory that the next one removes.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Component, Path, PathBuf},
};

use bus::{
    Bus, PIECE_BYTES,
    managed::{
        ManagedOptions, ManagedServer,
        description::{Description, describe},
    },
};
use bus_schema::Hash32;
use consumers::{
    Service,
    runtime::{bounds::Bounds, replay::Watcher, verify},
};
use projector::{Store, StoreOptions};
use tokio::sync::mpsc;

use super::{BackupError, DATA, LOGS, PackedLog, SNAPSHOTS, failed, read::Verified};
use crate::config::Config;

/// What a directory is called in which a data directory is being restored; nothing else is called so.
const STAGE: &str = ".restoring";
/// The file that says that it is one.
const MARK: &str = "restoring";
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
        let data_dir = &self.config.data_dir;
        self.fits()?;
        let stage = Stage::begin(data_dir)?;
        self.files(&stage.path)?;
        let verified = if self.backup.manifest.logs.is_empty() {
            None
        } else {
            self.logs(&stage.path.join("nats")).await?;
            Some(self.verified(&stage.path.join("nats")).await?)
        };
        stage.take_place(data_dir)?;
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
        for log in &self.backup.manifest.logs {
            let state = bus.stream_state(&log.stream).await?;
            let last = if log.messages > 0 { bus.message(&log.stream, log.last_seq).await? } else { None };
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
        let path = nats_dir.with_file_name("verified.redb");
        let opened = Store::open(&path, StoreOptions::default());
        let store = opened.map_err(consumers::ConsumersError::from)?;
        let mut service = self.config.service.clone();
        service.sites.clone_from(&self.backup.manifest.sites);
        let verified = Service::build(service, bus.clone(), store)?
            .handle()
            .verify(Bounds::default(), self.watcher)
            .await;
        fs::remove_file(&path).map_err(failed("remove", &path))?;
        Ok(verified?)
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

/// A directory beside the data directory, in which that is built; gone when it did not take its place.
struct Stage {
    path: PathBuf,
    is_placed: bool,
}

impl Stage {
    /// Makes it; removes what a restore that was killed left. Errors: there is something else of its name, the disk.
    fn begin(data_dir: &Path) -> Result<Self, BackupError> {
        let mut path = data_dir.as_os_str().to_owned();
        path.push(STAGE);
        let path = PathBuf::from(path);
        match fs::read_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("look into", &path)(error)),
            Ok(entries) => {
                let is_ours = path.join(MARK).exists() || entries.count() == 0;
                if !is_ours {
                    let text = format!("{} is in the way; move it aside", path.display());
                    return Err(BackupError::Refused(text));
                }
                fs::remove_dir_all(&path).map_err(failed("remove", &path))?;
            }
        }
        make_directory(&path)?;
        let stage = Self { path, is_placed: false };
        append(&stage.path.join(MARK), b"", false)?;
        Ok(stage)
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
        let mark = self.path.join(MARK);
        fs::remove_file(&mark).map_err(failed("remove", &mark))?;
        fs::rename(&self.path, data_dir)
            .map_err(failed("put the restored directory in the place of", data_dir))?;
        self.is_placed = true;
        let parent =
            data_dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed("sync", parent))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if !self.is_placed
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove what is half restored; the next restore does");
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
