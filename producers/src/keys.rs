//! The access keys that a source announces before its first sync (R7): their salted hashes, never the
//! secrets. A key that did not change keeps its salt. (When they are said: `sequencer::preface`.)

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use bus_schema::{
    Hash32,
    event::key::{Announced, secret_hash},
};

use crate::{
    ProducersError,
    config::KeyConfig,
    ledger::{Ledger, marks, random},
};

/// The configured keys, as they are announced. Errors: a secret cannot be read or others may read it.
pub(crate) fn read(
    ledger: &Ledger,
    cluster: &str,
    keys: &[KeyConfig],
) -> Result<Vec<Announced>, ProducersError> {
    let before: Vec<(String, Announced)> = ledger.reading()?.marks(cluster, marks::KEY)?;
    let old = |key: &KeyConfig| before.iter().find(|(id, _)| id == key.id.as_str()).map(|(_, old)| old);
    keys.iter().map(|key| announced(key, old(key))).collect()
}

fn announced(key: &KeyConfig, old: Option<&Announced>) -> Result<Announced, ProducersError> {
    let wrong = |reason: String| ProducersError::Key { id: key.id.to_string(), reason };
    if key.tenant.level2.is_some() {
        return Err(wrong(format!(
            "{} is a level-2 tenant; a key belongs to a level-1 tenant, and level-2 tenants are bound to it",
            key.tenant
        )));
    }
    let (salt, hash) = match (&key.secret_file, key.salt, key.hash) {
        (Some(file), None, None) => {
            let secret = secret(file).map_err(wrong)?;
            let kept = old.filter(|old| secret_hash(&old.salt, &secret) == old.hash);
            let salt = kept.map_or_else(|| random().map(Hash32), |old| Ok(old.salt))?;
            (salt, secret_hash(&salt, &secret))
        }
        (None, Some(salt), Some(hash)) => (salt, hash),
        _ => return Err(wrong("give it secret_file, or salt and hash".to_owned())),
    };
    let (key_id, tenant, not_after) = (key.id.clone(), key.tenant.clone(), key.not_after);
    Ok(Announced { key_id, tenant, salt, hash, not_after })
}

fn secret(file: &Path) -> Result<String, String> {
    let name = file.display();
    let read = |e: std::io::Error| format!("its secret file {name} cannot be read: {e}");
    let mode = fs::metadata(file).map_err(read)?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(format!("its secret file {name} can be read by others: run 'chmod go-rwx {name}'"));
    }
    let text = fs::read_to_string(file).map_err(read)?;
    let secret = text.trim();
    if secret.is_empty() {
        return Err(format!("its secret file {name} is empty"));
    }
    Ok(secret.to_owned())
}
