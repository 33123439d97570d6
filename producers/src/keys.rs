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

/// Fewest characters of a secret. Its hash and its salt stand on the log for ever, where anybody who reads the
/// log may try secrets out.
const SECRET_CHARS_MIN: usize = 16;

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
    let length = secret.chars().count();
    if length < SECRET_CHARS_MIN {
        return Err(format!(
            "the secret in {name} has {length} characters, which are tried out too fast; use at least {SECRET_CHARS_MIN}, as 'openssl rand -hex 32' makes them"
        ));
    }
    Ok(secret.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_that_is_tried_out_in_no_time_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("ak.secret");
        let read = |text: &str| {
            fs::write(&file, text).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
            secret(&file)
        };
        let told = read("12345\n").unwrap_err();
        assert!(told.contains("5 characters") && told.contains("at least 16"), "{told}");
        assert!(read(&"x".repeat(SECRET_CHARS_MIN - 1)).is_err());
        assert_eq!(read(&"x".repeat(SECRET_CHARS_MIN)), Ok("x".repeat(SECRET_CHARS_MIN)));
    }
}
