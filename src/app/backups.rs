//! The backup of the target, written by this process: the adapter behind the console's port.

use std::time::SystemTime;

use audit::KeyFile;
use bus::Bus;
use bus_schema::Timestamp;
use console::ports::{Backup, Backups, Pending, PortError};
use consumers::snapshot::Shelf;
use tokio::sync::mpsc;

use crate::{backup::write::Source, config::Config};

/// Pieces of a backup that wait for a slow client.
const PIECES_MAX: usize = 2;

/// Writes backups.
pub(super) struct Keeper {
    source: Source,
}

impl Keeper {
    pub(super) fn new(config: &Config, bus: Bus, has_own_nats: bool, shelf: Option<Shelf>) -> Self {
        let source = Source {
            bus,
            target: config.service.target.clone(),
            sites: config.service.sites.clone(),
            data_dir: config.data_dir.clone(),
            nats_dir: has_own_nats.then(|| config.nats_dir()),
            keys: KeyFile::new(&config.signing_key_file()),
            files: vec![config.token_file(), config.metrics_token_file()],
            config_sha256: config.sha256,
            shelf,
            wants_snapshots: true,
        };
        Self { source }
    }
}

impl Backups for Keeper {
    fn backup(&self, snapshots: bool) -> Pending<'_, Backup> {
        let source = Source { wants_snapshots: snapshots, ..self.source.clone() };
        Box::pin(async move {
            // What is known before the first piece can be said; later the answer only breaks off.
            let ready = source.ready().await.map_err(|error| PortError::Refused(error.to_string()))?;
            let (to, pieces) = mpsc::channel(PIECES_MAX);
            tokio::spawn(source.write(ready, now(), to));
            Ok(Backup { pieces })
        })
    }
}

fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_unix_ms(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
}
