//! Writes a backup while farside runs. The target log is packed before the site logs: what it signs of them is in them.

use std::{
    fs::{self, File},
    io::{self, Read, Seek},
    path::{Path, PathBuf},
};

use audit::{KeyFile, SigningKey};
use bus::{
    Bus, StreamState,
    managed::description::{description, identity_files},
};
use bus_schema::{Hash32, Name, Stem, Timestamp, fact::key::KeyFact, subject};
use consumers::{
    ConsumersError,
    snapshot::{Label, Shelf},
};
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
    /// Where snapshots are.
    pub(crate) shelf: Option<Shelf>,
    /// Whether they are wanted: those of which no log gives the beginning are in it all the same.
    pub(crate) wants_snapshots: bool,
}

/// What was looked at before the first piece.
pub(crate) struct Ready {
    /// The first sequence of each site log.
    begun: Vec<u64>,
    /// The files of the snapshots, open.
    snapshots: Vec<(String, File)>,
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
    pub(crate) async fn write(self, ready: Ready, made_at: Timestamp, to: To) {
        if let Err(error) = self.written(ready, made_at, &to).await {
            tracing::error!(%error, "a backup could not be finished");
            // Whoever asked may have gone.
            let _ = to.send(Err(io::Error::other(error))).await;
        }
    }

    async fn written(&self, ready: Ready, made_at: Timestamp, to: &To) -> Result<(), BackupError> {
        let Ready { begun, snapshots } = ready;
        let mut tar = Writer::new(made_at);
        let key = self.key().await?;
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
        self.still_signs(&key).await?;
        if self.first_seqs().await? != begun {
            let text = "a log was trimmed while it was backed up, which its target log in the backup does not know; take the backup again";
            return Err(BackupError::Refused(text.to_owned()));
        }
        for (name, file) in snapshots {
            snapshot(&mut tar, &name, file, to).await?;
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

    /// Looks at what can be known beforehand. Errors: there will be no backup, and why.
    pub(crate) async fn ready(&self) -> Result<Ready, BackupError> {
        self.key().await?;
        // Before it is looked which snapshots are needed: a log that is trimmed for the first time from here on begins
        // elsewhere when it is packed, and that is seen. The other way round it could be packed without the one snapshot
        // that holds what went.
        let begun = self.first_seqs().await?;
        // Before the logs, which may take long: what they are packed with is not behind their end then.
        let snapshots = self.snapshots().await?;
        Ok(Ready { begun, snapshots })
    }

    /// The key that signs. A backup makes none: it would be signed by a key that nobody knows. Errors: it is not there,
    /// or not the one that the target log names.
    async fn key(&self) -> Result<SigningKey, BackupError> {
        let unreadable = |error: audit::KeyFileError| BackupError::Refused(error.to_string());
        let (key, named) = (self.keys.load().map_err(unreadable)?, self.named_key().await?);
        let has = key.as_ref().map(SigningKey::public);
        match (key, named) {
            (Some(key), None) => Ok(key),
            (Some(key), Some(named)) if key.public() == named => Ok(key),
            (None, None) => Err(BackupError::Refused(format!(
                "there is no signing key {} yet; start farside again, which makes it, and take the backup then",
                self.keys.path().display()
            ))),
            (_, Some(named)) => {
                let path = self.keys.path().display().to_string();
                let has = has.unwrap_or_else(|| "not there".to_owned());
                Err(ConsumersError::WrongSigningKey { path, has, named }.into())
            }
        }
    }

    /// Errors: another key signs by now, or is about to.
    async fn still_signs(&self, key: &SigningKey) -> Result<(), BackupError> {
        match self.key().await {
            Ok(now) if now.public() == key.public() => Ok(()),
            Ok(_) | Err(BackupError::Service(ConsumersError::WrongSigningKey { .. })) => {
                let text = "another key signs since the backup was begun; take the backup again";
                Err(BackupError::Refused(text.to_owned()))
            }
            Err(error) => Err(error),
        }
    }

    /// The key that the target log names last; none = it names none.
    async fn named_key(&self) -> Result<Option<String>, BackupError> {
        let rotations = subject::fact(&self.target, Stem::Key, self.target.as_str(), "rotated");
        let last = self.bus.last_message_for_sure(&subject::target_stream(&self.target), &rotations).await?;
        Ok(last.and_then(|message| match KeyFact::decode("rotated", message.body()) {
            Ok(KeyFact::Rotated(rotated)) => Some(rotated.key),
            _ => None,
        }))
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

    /// The first sequence of each site log.
    async fn first_seqs(&self) -> Result<Vec<u64>, BackupError> {
        let mut first_seqs = vec![];
        for site in &self.sites {
            first_seqs.push(self.bus.stream_state(&subject::site_stream(site)).await?.first_seq);
        }
        Ok(first_seqs)
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
        let last = if messages > 0 { self.bus.message_for_sure(stream, last_seq).await? } else { None };
        let last_hash = last.map_or(Hash32::ZERO, |message| message.hash());
        Ok(PackedLog { stream: stream.to_owned(), created, first_seq, last_seq, messages, last_hash, head })
    }

    /// The files of the newest snapshot, and of the oldest one when a log was trimmed behind it: nothing else holds what was
    /// before, so those are never left out. They are open: what is thinned out meanwhile is read to its end all the same.
    /// Errors: a log was trimmed and none is there and whole.
    async fn snapshots(&self) -> Result<Vec<(String, File)>, BackupError> {
        let target = subject::target_stream(&self.target);
        let mut states = Vec::new();
        for stream in [target].into_iter().chain(self.sites.iter().map(subject::site_stream)) {
            states.push(self.bus.stream_state(&stream).await?);
        }
        let is_trimmed = states.iter().any(StreamState::begins_late);
        let Some(shelf) = self.shelf.as_ref().filter(|_| is_trimmed || self.wants_snapshots) else {
            return Ok(vec![]);
        };
        let mut labels = shelf.labels()?;
        labels.retain(|label| states.iter().all(|state| is_in(label, state)));
        let mut files = vec![];
        let newest = first_whole(shelf, labels.iter().rev(), &mut files).await?;
        if is_trimmed {
            let others = labels.iter().filter(|label| newest.is_none_or(|newest| newest != *label));
            first_whole(shelf, others, &mut files).await?;
        }
        match self.trimmed(&states).await? {
            Some(stream) if files.is_empty() => Err(BackupError::Refused(format!(
                "{stream} is trimmed and no snapshot here holds what went, so no pool could be restored from this backup; put back what was in {}, or start farside again, which begins with its pool, and take the backup then",
                shelf.directory().display()
            ))),
            _ => Ok(files),
        }
    }

    /// A log whose beginning went as it was stated; none = there is none.
    async fn trimmed(&self, states: &[StreamState]) -> Result<Option<String>, BackupError> {
        for state in states.iter().filter(|state| state.begins_late()) {
            let facts = subject::fact(&self.target, Stem::Log, &state.stream, "trimmed");
            let stated =
                self.bus.last_message_for_sure(&subject::target_stream(&self.target), &facts).await?;
            if stated.is_some() {
                return Ok(Some(state.stream.clone()));
            }
        }
        Ok(None)
    }
}

/// Whether a log that is backed up bears a snapshot out: one that was made anew, lost its end, or begins behind it does not.
/// What the snapshot holds of other logs, as of a site that was taken out of the configuration, does not matter.
fn is_in(label: &Label, state: &StreamState) -> bool {
    let is_whole = !state.begins_late();
    label.place(&state.stream).map_or(is_whole, |place| {
        let is_there = (state.first_seq.min(state.last_seq)..=state.last_seq).contains(&place.seq);
        place.created == state.created && (is_there || (place.seq == 0 && is_whole))
    })
}

/// Opens the first of these that is there still and whole: a restore would only find that it is not.
async fn first_whole<'a>(
    shelf: &Shelf,
    labels: impl Iterator<Item = &'a Label>,
    files: &mut Vec<(String, File)>,
) -> Result<Option<&'a Label>, BackupError> {
    for label in labels {
        let Some([(name, pool), of_label]) = opened(shelf, label)? else { continue };
        if let Some(pool) = whole(label, pool).await.map_err(failed("read", &shelf.file(label)))? {
            files.extend([(name, pool), of_label]);
            return Ok(Some(label));
        }
        let path = shelf.file(label).display().to_string();
        tracing::error!(
            path,
            "a snapshot is damaged and left out of the backup; look at the disk, and if a log was trimmed put the file back from an earlier backup"
        );
    }
    Ok(None)
}

/// The file of a snapshot at its beginning, if it is what the label says.
async fn whole(label: &Label, mut pool: File) -> io::Result<Option<File>> {
    let label = label.clone();
    let looked = tokio::task::spawn_blocking(move || {
        let is_whole = label.is_of_file(&mut pool)?;
        pool.rewind()?;
        Ok(is_whole.then_some(pool))
    });
    looked.await.map_err(io::Error::other)?
}

/// Opens a snapshot's pool and label; none = it was thinned out just now.
fn opened(shelf: &Shelf, label: &Label) -> Result<Option<[(String, File); 2]>, BackupError> {
    let open = |path: PathBuf| match File::open(&path) {
        Ok(file) => {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            Ok(Some((name, file)))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("open", &path)(error)),
    };
    let (pool, label) = (open(shelf.file(label))?, open(shelf.label_file(label))?);
    Ok(pool.zip(label).map(|(pool, label)| [pool, label]))
}

async fn snapshot(tar: &mut Writer, name: &str, mut file: File, to: &To) -> Result<(), BackupError> {
    for number in 1.. {
        let mut part = Vec::new();
        let read = (&mut file).take(PART_BYTES as u64).read_to_end(&mut part);
        if read.map_err(failed("read", Path::new(name)))? == 0 {
            break;
        }
        put(tar, &format!("{SNAPSHOTS}{name}/{number:06}"), &part)?;
        send(tar, to).await?;
    }
    Ok(())
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
