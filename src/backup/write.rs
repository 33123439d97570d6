//! Writes a backup while farside runs. The target log is packed before the site logs: what it signs of them is in them.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use audit::{KeyFile, SigningKey};
use bus::{
    Bus,
    managed::description::{description, identity_files},
};
use bus_schema::{Hash32, Name, Timestamp, subject};
use consumers::snapshot::{Label, Shelf};
use tokio::sync::mpsc;

use super::{
    BackupError, DATA, Entry, FORM, LOGS, MANIFEST, MARK, Manifest, PART_BYTES, PackedLog, SIGNATURE,
    SNAPSHOTS, Signed, failed,
};

/// Where the logs of a farside are that runs no nats-server of its own.
const ELSEWHERE: &str =
    "on the NATS of the configuration, which this backup does not hold: back that up by its own means";

/// What is backed up.
#[derive(Clone)]
pub(crate) struct Source {
    pub(crate) bus: Bus,
    pub(crate) target: Name,
    pub(crate) sites: Vec<Name>,
    pub(crate) data_dir: PathBuf,
    /// The directory of farside's own nats-server; none = it has none.
    pub(crate) nats_dir: Option<PathBuf>,
    pub(crate) keys: KeyFile,
    /// Other files of the data directory.
    pub(crate) files: Vec<PathBuf>,
    pub(crate) config_sha256: Option<Hash32>,
    /// Where snapshots are; none = they are left out.
    pub(crate) shelf: Option<Shelf>,
}

/// Who takes the pieces; gone = nobody wants them any more.
type To = mpsc::Sender<io::Result<Vec<u8>>>;

/// A tar file that is being written.
struct Writer {
    tar: tar::Builder<Vec<u8>>,
    entries: Vec<Entry>,
    made_at: Timestamp,
}

impl Writer {
    fn new(made_at: Timestamp) -> Self {
        Self { tar: tar::Builder::new(Vec::new()), entries: vec![], made_at }
    }

    fn put(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(u64::try_from(self.made_at.unix_ms() / 1_000).unwrap_or_default());
        self.tar.append_data(&mut header, path, bytes)?;
        let (path, sha256) = (path.to_owned(), Hash32::of(bytes));
        self.entries.push(Entry { path, bytes: bytes.len() as u64, sha256 });
        Ok(())
    }

    /// What was written since the last time.
    fn take(&mut self) -> Vec<u8> {
        std::mem::take(self.tar.get_mut())
    }
}

impl Source {
    /// Writes everything; the last piece is an error when it failed.
    pub(crate) async fn write(self, made_at: Timestamp, to: To) {
        if let Err(error) = self.written(made_at, &to).await {
            // Whoever asked may have gone.
            let _ = to.send(Err(io::Error::other(error))).await;
        }
    }

    async fn written(&self, made_at: Timestamp, to: &To) -> Result<(), BackupError> {
        let mut tar = Writer::new(made_at);
        let key = self.key()?;
        put(&mut tar, MARK, format!("farside backup, form {FORM}\n").as_bytes())?;
        for path in self.files()? {
            let bytes = fs::read(&path).map_err(failed("read", &path))?;
            put(&mut tar, &format!("{DATA}{}", self.name(&path)), &bytes)?;
        }
        let mut logs = Vec::new();
        if let Some(nats_dir) = &self.nats_dir {
            for stream in self.streams() {
                logs.push(self.log(&mut tar, nats_dir, &stream, to).await?);
            }
        }
        if self.key()?.public() != key.public() {
            let text = "another key signs since the backup was begun; take the backup again";
            return Err(BackupError::Refused(text.to_owned()));
        }
        for label in self.snapshots()? {
            self.snapshot(&mut tar, &label, to).await?;
        }
        let elsewhere = if self.nats_dir.is_some() { "" } else { ELSEWHERE };
        let manifest = Manifest {
            form: FORM,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            target: self.target.clone(),
            sites: self.sites.clone(),
            made_at,
            config_sha256: self.config_sha256,
            logs,
            logs_elsewhere: elsewhere.to_owned(),
            key: key.public(),
            entries: std::mem::take(&mut tar.entries),
        };
        end(tar, &manifest, &key, to).await
    }

    fn key(&self) -> Result<SigningKey, BackupError> {
        self.keys.load_or_make().map_err(|error| BackupError::Refused(error.to_string()))
    }

    /// The files of the data directory without which the target is another one.
    fn files(&self) -> Result<Vec<PathBuf>, BackupError> {
        let mut files = self.files.clone();
        files.push(self.keys.path().to_owned());
        files.push(self.keys.path().with_extension("next"));
        if let Some(nats_dir) = &self.nats_dir {
            files.extend(identity_files(nats_dir)?);
        }
        files.retain(|path| path.exists());
        Ok(files)
    }

    fn name(&self, path: &Path) -> String {
        path.strip_prefix(&self.data_dir).unwrap_or(path).display().to_string()
    }

    /// The logs, in the order in which they are packed: a parked message is a dead letter before it is a fact, and what
    /// the target log says of a site log is in that.
    fn streams(&self) -> Vec<String> {
        let own = [subject::target_stream(&self.target), subject::dead_letter_stream(&self.target)];
        own.into_iter().chain(self.sites.iter().map(subject::site_stream)).collect()
    }

    async fn log(
        &self,
        tar: &mut Writer,
        nats_dir: &Path,
        stream: &str,
        to: &To,
    ) -> Result<PackedLog, BackupError> {
        let description = description(nats_dir, stream)?;
        for (name, bytes) in ["meta.inf", "meta.sum"].iter().zip(&description.0) {
            put(tar, &format!("{LOGS}{stream}/{name}"), bytes)?;
        }
        let created = self.bus.stream_state(stream).await?.created;
        let mut packed = self.bus.pack_stream(stream).await?;
        let head = packed.head().clone();
        let (mut part, mut parts) = (Vec::with_capacity(PART_BYTES), 0);
        while let Some(piece) = packed.next().await? {
            part.extend_from_slice(&piece);
            if part.len() >= PART_BYTES {
                parts += 1;
                put(tar, &format!("{LOGS}{stream}/{parts:06}"), &part)?;
                part.clear();
                send(tar, to).await?;
            }
        }
        put(tar, &format!("{LOGS}{stream}/{:06}", parts + 1), &part)?;
        send(tar, to).await?;
        let number = |name: &str| head["state"][name].as_u64().unwrap_or_default();
        let (first_seq, last_seq, messages) = (number("first_seq"), number("last_seq"), number("messages"));
        let last = if messages > 0 { self.bus.message(stream, last_seq).await? } else { None };
        let last_hash = last.map_or(Hash32::ZERO, |message| message.hash());
        Ok(PackedLog { stream: stream.to_owned(), created, first_seq, last_seq, messages, last_hash, head })
    }

    /// The newest snapshot of each site log.
    fn snapshots(&self) -> Result<Vec<Label>, BackupError> {
        let Some(shelf) = &self.shelf else { return Ok(vec![]) };
        let mut newest: Vec<Label> = vec![];
        for label in shelf.labels()? {
            newest.retain(|older| older.site.stream != label.site.stream);
            newest.push(label);
        }
        Ok(newest)
    }

    async fn snapshot(&self, tar: &mut Writer, label: &Label, to: &To) -> Result<(), BackupError> {
        let Some(shelf) = &self.shelf else { return Ok(()) };
        // Opened before it is read: it may be thinned out meanwhile, and is read to its end all the same.
        let (pool, label) = (shelf.file(label), shelf.label_file(label));
        for path in [&pool, &label] {
            let mut file = fs::File::open(path).map_err(failed("open", path))?;
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            for number in 1.. {
                let mut part = Vec::new();
                let read = (&mut file).take(PART_BYTES as u64).read_to_end(&mut part);
                if read.map_err(failed("read", path))? == 0 {
                    break;
                }
                put(tar, &format!("{SNAPSHOTS}{name}/{number:06}"), &part)?;
                send(tar, to).await?;
            }
        }
        Ok(())
    }
}

fn put(tar: &mut Writer, path: &str, bytes: &[u8]) -> Result<(), BackupError> {
    tar.put(path, bytes).map_err(failed("write", Path::new(path)))
}

/// Hands on what was written.
async fn send(tar: &mut Writer, to: &To) -> Result<(), BackupError> {
    let gone = |_| BackupError::Refused("nobody takes the backup any more".to_owned());
    to.send(Ok(tar.take())).await.map_err(gone)
}

async fn end(mut tar: Writer, manifest: &Manifest, key: &SigningKey, to: &To) -> Result<(), BackupError> {
    let unwritten = |error: String| BackupError::Refused(format!("the manifest cannot be written: {error}"));
    let text = serde_json::to_vec_pretty(manifest).map_err(|error| unwritten(error.to_string()))?;
    let signature = key.sign(&text).map_err(|error| unwritten(error.to_string()))?;
    let signed = Signed { key: key.public(), signature };
    put(&mut tar, MANIFEST, &text)?;
    put(&mut tar, SIGNATURE, &serde_json::to_vec(&signed).map_err(|error| unwritten(error.to_string()))?)?;
    let finished = tar.tar.finish();
    finished.map_err(failed("write", Path::new(SIGNATURE)))?;
    send(&mut tar, to).await
}
