//! Reads a backup: once to verify all of it, then again for what is wanted of it. Nothing of it is believed before.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, BufReader, Read},
    path::{Path, PathBuf},
};

use audit::{SigningKey, signing};
use bus_schema::Hash32;

use super::{
    BackupError, ENTRY_BYTES_MAX, FORM, MANIFEST, MARK, Manifest, SIGNATURE, SIGNING_KEY, Signed, failed,
};

/// What a tar file is made of.
const BLOCK_BYTES: u64 = 512;

/// A backup that was verified.
#[derive(Clone)]
pub(crate) struct Verified {
    path: PathBuf,
    pub(crate) manifest: Manifest,
}

/// Reads the whole file, and holds it against its manifest and that against its signature; `key`: the public key that must
/// have signed it. Errors: what is wrong with it.
pub(crate) fn verify(path: &Path, key: Option<&str>) -> Result<Verified, BackupError> {
    let file = path.display().to_string();
    let mut found = Found::default();
    let read = each(path, |name, bytes| {
        found.take(name, bytes);
        Ok(())
    });
    if found.order.first().map(String::as_str) != Some(MARK) {
        return Err(match read {
            Err(error @ BackupError::File { verb: "open", .. }) => error,
            _ => BackupError::Foreign(file),
        });
    }
    read?;
    let last = found.order.last().cloned().unwrap_or_default();
    let (Some(text), Some(signed)) = (&found.manifest, &found.signed) else {
        return Err(BackupError::CutOff { file, last });
    };
    let altered = |what: String| BackupError::Altered { file: file.clone(), what };
    let signed: Signed = serde_json::from_slice(signed)
        .map_err(|error| altered(format!("its signature cannot be read ({error})")))?;
    signing::verify(&signed.key, text, &signed.signature)
        .map_err(|error| altered(format!("its manifest: {error}")))?;
    let form = serde_json::from_slice::<serde_json::Value>(text).ok();
    let form = form.and_then(|manifest| manifest["form"].as_u64()).unwrap_or_default();
    if form != u64::from(FORM) {
        let found = u32::try_from(form).unwrap_or(u32::MAX);
        return Err(BackupError::OtherForm { file, found });
    }
    let manifest: Manifest = serde_json::from_slice(text)
        .map_err(|error| altered(format!("its manifest cannot be read ({error})")))?;
    found.compare(&manifest).map_err(&altered)?;
    let own = found.key.as_deref().and_then(|seed| SigningKey::from_seed(seed).ok());
    if own.map(|key| key.public()).as_ref() != Some(&signed.key) || manifest.key != signed.key {
        return Err(altered(format!("it is signed by {}, which is not the key that it holds", signed.key)));
    }
    if let Some(wanted) = key.filter(|wanted| *wanted != signed.key) {
        return Err(BackupError::Refused(format!(
            "{file} is signed by {}, not by {wanted}: it is the backup of another target, or of another key of this one",
            signed.key
        )));
    }
    Ok(Verified { path: path.to_owned(), manifest })
}

/// What was found in a file.
#[derive(Default)]
struct Found {
    order: Vec<String>,
    hashes: BTreeMap<String, (u64, Hash32)>,
    manifest: Option<Vec<u8>>,
    signed: Option<Vec<u8>>,
    key: Option<String>,
}

impl Found {
    fn take(&mut self, name: &str, bytes: Vec<u8>) {
        self.order.push(name.to_owned());
        match name {
            MANIFEST => self.manifest = Some(bytes),
            SIGNATURE => self.signed = Some(bytes),
            _ => {
                if name == SIGNING_KEY {
                    self.key = String::from_utf8(bytes.clone()).ok();
                }
                self.hashes.insert(name.to_owned(), (bytes.len() as u64, Hash32::of(&bytes)));
            }
        }
    }

    /// Errors: what is not as the manifest says.
    fn compare(&self, manifest: &Manifest) -> Result<(), String> {
        for entry in &manifest.entries {
            match self.hashes.get(&entry.path) {
                None => return Err(format!("it lacks {}", entry.path)),
                Some(found) if *found != (entry.bytes, entry.sha256) => {
                    return Err(format!("{} is not what its manifest says", entry.path));
                }
                Some(_) => {}
            }
        }
        let named: BTreeSet<_> = manifest.entries.iter().map(|entry| entry.path.as_str()).collect();
        match self
            .order
            .iter()
            .find(|name| ![MANIFEST, SIGNATURE].contains(&name.as_str()) && !named.contains(name.as_str()))
        {
            Some(other) => Err(format!("it holds {other}, which its manifest does not name")),
            None if self.order.len() != named.len() + 2 => Err("it holds something twice".to_owned()),
            None => Ok(()),
        }
    }
}

impl Verified {
    /// Hands on every entry once more, in order. Errors: the file, what is done with them.
    pub(crate) fn each(
        &self,
        mut hear: impl FnMut(&str, Vec<u8>) -> Result<(), BackupError>,
    ) -> Result<(), BackupError> {
        let known: BTreeMap<_, _> =
            self.manifest.entries.iter().map(|entry| (entry.path.as_str(), entry.sha256)).collect();
        each(&self.path, |name, bytes| match known.get(name) {
            // It may be another file by now.
            Some(sha256) if *sha256 == Hash32::of(&bytes) => hear(name, bytes),
            None if [MANIFEST, SIGNATURE].contains(&name) => Ok(()),
            _ => {
                let (file, what) =
                    (self.path.display().to_string(), format!("{name} has changed while it was read"));
                Err(BackupError::Altered { file, what })
            }
        })
    }
}

/// Hands on every entry of a tar file. Errors: the file cannot be read, is cut off, or is none.
fn each(
    path: &Path,
    mut hear: impl FnMut(&str, Vec<u8>) -> Result<(), BackupError>,
) -> Result<(), BackupError> {
    let file = path.display().to_string();
    let opened = File::open(path).map_err(failed("open", path))?;
    let length = opened.metadata().map_err(failed("look at", path))?.len();
    // How far the entries are whole, and the last of them.
    let (mut reached, mut last) = (0, "nothing".to_owned());
    let mut archive = tar::Archive::new(BufReader::new(opened));
    for entry in archive.entries().map_err(failed("open", path))? {
        let unreadable = |error: &io::Error| {
            if length < reached + BLOCK_BYTES {
                return BackupError::CutOff { file: file.clone(), last: last.clone() };
            }
            let what = format!("what is behind {last} cannot be read ({error})");
            BackupError::Altered { file: file.clone(), what }
        };
        let mut entry = entry.map_err(|error| unreadable(&error))?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let (size, mut bytes) = (entry.size(), Vec::new());
        if size > ENTRY_BYTES_MAX {
            let what = format!("{name} has {size} bytes, which no part of a backup has");
            return Err(BackupError::Altered { file, what });
        }
        let end = entry.raw_file_position() + size.next_multiple_of(BLOCK_BYTES);
        if end > length {
            return Err(BackupError::CutOff { file, last });
        }
        entry.read_to_end(&mut bytes).map_err(|error| unreadable(&error))?;
        hear(&name, bytes)?;
        (reached, last) = (end, name);
    }
    Ok(())
}
