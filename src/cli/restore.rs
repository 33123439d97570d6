//! `farside restore`: a backup into an empty data directory.

use std::path::PathBuf;

use clap::Args;
use consumers::runtime::replay::Unwatched;

use super::{CliError, Context, Ended, tell};
use crate::backup::{
    BackupError, read,
    restore::{Restore as Restoring, Restored},
};

/// Restore a backup into an empty data directory; then start farside there
///
/// The whole file is verified before anything is written, the logs once more against what is signed of them when they are
/// there. All of it appears in one step, or not at all.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: farside restore /mnt/safe/farside.tar && farside up\n         farside restore farside.tar --data-dir /var/lib/farside --key UABC…"
)]
pub(crate) struct Restore {
    /// The backup
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The public key that must have signed it; 'farside audit verify' shows it while the target lives
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Go on when the logs are not what is signed of them, and say what is wrong
    #[arg(long)]
    despite_faults: bool,
}

impl Restore {
    pub(crate) async fn run(self, context: Context) -> Result<Ended, CliError> {
        let Self { file, key, despite_faults } = self;
        let failed = |error: BackupError| CliError::Failed(error.to_string());
        let verified = tokio::task::spawn_blocking(move || read::verify(&file, key.as_deref())).await;
        let broke = |error| {
            CliError::Failed(format!(
                "the reading of the backup broke down: {error}; this is a bug, report it"
            ))
        };
        let backup = verified.map_err(broke)?.map_err(failed)?;
        let config = &context.config;
        let restoring = Restoring { backup: &backup, config, despite_faults, watcher: &Unwatched };
        let Restored { verified } = restoring.run().await.map_err(failed)?;
        let manifest = &backup.manifest;
        tell(&format!(
            "the target {} is restored into {} as of {}, signed by {}",
            manifest.target,
            config.data_dir.display(),
            manifest.made_at,
            manifest.key
        ));
        match &verified {
            None => tell(&format!("its logs are {}", manifest.logs_elsewhere)),
            Some(found) => {
                for log in &found.logs {
                    tell(&format!(
                        "{}: {} messages up to {}, signed up to {}",
                        log.stream, log.messages, log.to, log.signed_seq
                    ));
                }
                found
                    .faults
                    .iter()
                    .for_each(|fault| tell(&format!("WRONG {}: {}", fault.stream, fault.text)));
            }
        }
        if manifest.config_sha256 != config.sha256 {
            tell(
                "the configuration is not the one that the backup was taken with; compare them before you start",
            );
        }
        Ok(Ended::Done)
    }
}
