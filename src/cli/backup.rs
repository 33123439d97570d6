//! `farside backup`: everything that the target needs to stand up again elsewhere, in one file.

use std::{
    ffi::OsString,
    fs::{self, OpenOptions},
    io::{self, BufWriter},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
};

use clap::Args;

use super::{CliError, Context, Ended, tell};
use crate::backup::read;

/// Write a backup of the target while it runs: keys, who was enrolled, and the logs of its own nats-server
///
/// The file holds every key of the target and is its owner's alone (0600). It is read back and verified before it gets its
/// name. Agents keep their own ledgers: what the log took in behind the backup, they send again.
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
        if out.exists() {
            let text = format!("{} is there already; name another file, or move it aside", out.display());
            return Err(CliError::Failed(text));
        }
        let mut draft: OsString = out.clone().into();
        draft.push(".part");
        let draft = PathBuf::from(draft);
        let kept = self_verified(context, &draft, without_pool).await.and_then(|said| {
            fs::rename(&draft, &out).map_err(|error| unwritten(&out, &error))?;
            Ok(said)
        });
        if kept.is_err() {
            // It holds keys, and is no backup.
            let _ = fs::remove_file(&draft);
        }
        tell(&format!("{}: {}", out.display(), kept?));
        Ok(Ended::Done)
    }
}

/// Takes a backup, reads it back, and says what it holds.
async fn self_verified(context: &Context, draft: &PathBuf, without_pool: bool) -> Result<String, CliError> {
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(draft);
    let mut file = BufWriter::new(file.map_err(|error| unwritten(draft, &error))?);
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

fn unwritten(path: &std::path::Path, error: &io::Error) -> CliError {
    CliError::Failed(format!("cannot write {}: {error}", path.display()))
}
