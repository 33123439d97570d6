//! The access keys that a source announces before its first sync (R7): their salted hashes, never the
//! secrets. A key that did not change keeps its salt and is not announced again.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use bus_schema::{
    Hash32, Timestamp,
    event::key::{Announced, KeyEvent, Withdrawn, secret_hash},
};

use crate::{
    ProducersError,
    config::KeyConfig,
    ledger::{Ledger, LedgerError, marks, random},
    seal::{Effect, Fact, Saying},
    sequencer::Sequencer,
};

/// What is announced, against what was.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Announcements {
    /// Every key of the configuration.
    all: Vec<Announced>,
    /// Those that are new or different.
    new: Vec<Announced>,
    /// Those that are no longer configured.
    withdrawn: Vec<Withdrawn>,
}

/// Compares the configured keys with those that were announced. Errors: a secret cannot be read or others may read it.
pub(crate) fn compare(
    ledger: &Ledger,
    cluster: &str,
    keys: &[KeyConfig],
) -> Result<Announcements, ProducersError> {
    let before: Vec<(String, Announced)> = ledger.reading()?.marks(cluster, marks::KEY)?;
    let mut found = Announcements::default();
    for key in keys {
        let old = before.iter().find(|(id, _)| id == key.id.as_str()).map(|(_, old)| old);
        let announced = announced(key, old)?;
        if old != Some(&announced) {
            found.new.push(announced.clone());
        }
        found.all.push(announced);
    }
    for (_, old) in before {
        if !keys.iter().any(|key| key.id == old.key_id) {
            found.withdrawn.push(Withdrawn { key_id: old.key_id });
        }
    }
    Ok(found)
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

/// Says what is new, and makes every later epoch begin with all of it.
pub(crate) fn announce(
    sequencer: &mut Sequencer,
    found: &Announcements,
    now: Timestamp,
) -> Result<(), LedgerError> {
    let say = |event: KeyEvent| Saying::key(&event);
    let all: Result<Vec<Saying>, _> = found.all.iter().cloned().map(KeyEvent::Announced).map(say).collect();
    sequencer.set_preface(all?);
    let new = found.new.iter().cloned().map(KeyEvent::Announced);
    let withdrawn = found.withdrawn.iter().cloned().map(KeyEvent::Withdrawn);
    let facts: Result<Vec<Fact>, LedgerError> = new
        .chain(withdrawn)
        .map(|event| Ok(Fact { saying: Some(say(event)?), effect: Effect::None }))
        .collect();
    let facts = facts?;
    if facts.is_empty() {
        return Ok(());
    }
    let cluster = sequencer.source().pool.cluster.to_string();
    sequencer.commit(facts, None, now, |writing| {
        for key in &found.new {
            writing.put_mark(&cluster, &format!("{}{}", marks::KEY, key.key_id), key)?;
        }
        for key in &found.withdrawn {
            writing.remove_mark(&cluster, &format!("{}{}", marks::KEY, key.key_id))?;
        }
        Ok(())
    })
}
