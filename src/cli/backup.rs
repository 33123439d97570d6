//! `farside backup`: everything that the target needs to stand up again elsewhere, in one file.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use clap::Args;
use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    io::Errno,
};

use super::{CliError, Context, Ended, tell};
use crate::backup::read;

/// Write a backup of the target while it runs: keys, who was enrolled, and the logs of its own nats-server
///
/// The file holds every key of the target and is its owner's alone (0600). It is read back and verified before it gets its
/// name; a backup that is killed leaves FILE.part-… (a random name), which holds keys too and may be deleted. Agents keep their own ledgers: what the log took in behind the backup, they send again.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: farside backup /mnt/safe/farside.tar\n         farside backup small.tar --without-pool"
)]
pub(crate) struct Backup {
    /// The file; it is there whole or not at all
    #[arg(value_name = "FILE")]
    out: PathBuf,
    /// Leave out the stored pools from which a replay starts; they are made again from the logs
    #[arg(long)]
    without_pool: bool,
}

impl Backup {
    pub(crate) async fn run(self, context: &Context) -> Result<Ended, CliError> {
        let Self { out, without_pool } = self;
        if fs::symlink_metadata(&out).is_ok() {
            return Err(taken(&out));
        }
        let (draft, file) = Draft::begin(&out).map_err(|error| unwritten(&out, &error))?;
        let said = self_verified(context, &draft.path, file, without_pool).await?;
        draft.persist(&out).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => taken(&out),
            _ => unwritten(&out, &error),
        })?;
        tell(&format!("{}: {said}", out.display()));
        Ok(Ended::Done)
    }
}

/// A file beside the backup until that has its name: for its owner alone, and none that somebody else has made before. It
/// holds keys, and is no backup; gone when it is dropped.
struct Draft {
    path: PathBuf,
    is_named: bool,
}

impl Draft {
    fn begin(out: &Path) -> io::Result<(Self, File)> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|error| io::Error::other(error.to_string()))?;
        let mut path = out.as_os_str().to_owned();
        path.push(format!(".part-{:016x}", u64::from_ne_bytes(random)));
        let path = PathBuf::from(path);
        // A new one: neither a file nor a link that is there is followed.
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        Ok((Self { path, is_named: false }, file))
    }

    /// Gives it its name, which nothing has. Errors: something has; the disk.
    fn persist(mut self, out: &Path) -> io::Result<()> {
        match renameat_with(CWD, &self.path, CWD, out, RenameFlags::NOREPLACE) {
            // A file system that cannot; the draft is removed as one that got no name.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => fs::hard_link(&self.path, out)?,
            renamed => {
                renamed?;
                self.is_named = true;
            }
        }
        let directory = out.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.is_named
            && let Err(error) = fs::remove_file(&self.path)
        {
            tell(&format!("cannot remove {}, which holds keys: {error}; remove it", self.path.display()));
        }
    }
}

/// Takes a backup, reads it back, and says what it holds.
async fn self_verified(
    context: &Context,
    draft: &Path,
    file: File,
    without_pool: bool,
) -> Result<String, CliError> {
    let mut file = BufWriter::new(file);
    context.client.copy(if without_pool { "/v1/backup?pool=false" } else { "/v1/backup" }, &mut file).await?;
    let file = file.into_inner().map_err(|error| unwritten(draft, error.error()))?;
    file.sync_all().map_err(|error| unwritten(draft, &error))?;
    let verified = read::verify(draft, None).map_err(|error| CliError::Failed(error.to_string()))?;
    let manifest = verified.manifest;
    let logs: Vec<_> = manifest.logs.iter().map(|log| format!("{}:{}", log.stream, log.last_seq)).collect();
    let logs =
        if logs.is_empty() { format!("logs are {}", manifest.logs_elsewhere) } else { logs.join(", ") };
    Ok(format!(
        "the target {} as of {}, signed by {}; {logs}",
        manifest.target, manifest.made_at, manifest.key
    ))
}

fn taken(out: &Path) -> CliError {
    CliError::Failed(format!("{} is there already; name another file, or move it aside", out.display()))
}

fn unwritten(path: &Path, error: &io::Error) -> CliError {
    CliError::Failed(format!("cannot write {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::{io::Write, os::unix::fs::PermissionsExt};

    use super::*;

    fn names(directory: &Path) -> usize {
        fs::read_dir(directory).unwrap().count()
    }

    #[test]
    fn a_draft_is_its_owners_alone_and_takes_a_name_that_nothing_has() {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().join("farside.tar");
        let (draft, mut file) = Draft::begin(&out).unwrap();
        file.write_all(b"whole").unwrap();
        assert_eq!(fs::metadata(&draft.path).unwrap().permissions().mode() & 0o777, 0o600);
        draft.persist(&out).unwrap();
        assert_eq!((fs::read(&out).unwrap(), names(directory.path())), (b"whole".to_vec(), 1));

        let (second, _) = Draft::begin(&out).unwrap();
        let error = second.persist(&out).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!((fs::read(&out).unwrap(), names(directory.path())), (b"whole".to_vec(), 1));

        let link = directory.path().join("link.tar");
        std::os::unix::fs::symlink(directory.path().join("elsewhere"), &link).unwrap();
        let (third, _) = Draft::begin(&link).unwrap();
        assert_eq!(third.persist(&link).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(names(directory.path()), 2, "nothing was written through the link");
    }
}
