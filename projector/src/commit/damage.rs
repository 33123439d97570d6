//! Damages of logs, from the facts about them: found, healed, taken note of. Of the target log alone, so that it does
//! not matter how far which site log was read.

use bus_schema::{
    Timestamp,
    chain::ChainPoint,
    fact::log::{Damage, DamageAcknowledged, GapHealed, LogFact, LossFound},
};
use redb::{ReadableTable, WriteTransaction};

use crate::{
    records::{Acknowledged, DamageFound, DamageRecord, Healed},
    tables::{self, Db, read_json, write_json},
};

/// Notes what a fact says of a damage, if it speaks of one.
pub(super) fn note(txn: &WriteTransaction, fact: &LogFact, place: &str, at: Timestamp) -> Db<()> {
    match fact {
        LogFact::GapFound(found) => {
            let name = gap_name(&found.owner, found.after);
            found_once(txn, &name, DamageFound::Gap(found.clone()), place, at)
        }
        LogFact::LossFound(found) => {
            let LossFound { stream, created, first_seq, .. } = found;
            let name = loss_name(stream, *created, *first_seq);
            found_once(txn, &name, DamageFound::Loss(found.clone()), place, at)
        }
        LogFact::GapHealed(GapHealed { owner, after, before, place }) => {
            let healed = Healed { place: place.clone(), at };
            change(txn, &gap_name(owner, *after), |record| {
                if matches!(&record.found, DamageFound::Gap(gap) if gap.before == *before) {
                    record.healed = Some(healed);
                }
            })
        }
        LogFact::DamageAcknowledged(DamageAcknowledged { damage, actor, reason }) => {
            let name = match damage {
                Damage::Gap { owner, after, .. } => gap_name(owner, *after),
                Damage::Loss { stream, created, first_seq, .. } => loss_name(stream, *created, *first_seq),
            };
            let acknowledged = Acknowledged { actor: actor.clone(), reason: reason.clone(), at };
            change(txn, &name, |record| record.acknowledged = Some(acknowledged))
        }
        _ => Ok(()),
    }
}

/// A damage that is found again, at its end or after it was healed, is open again; the same one is not, and a loss that
/// says more of the same messages stays as people left it.
fn found_once(txn: &WriteTransaction, name: &str, found: DamageFound, place: &str, at: Timestamp) -> Db<()> {
    let mut table = txn.open_table(tables::DAMAGES)?;
    let known =
        table.get(name)?.map(|known| read_json::<DamageRecord>("a damage", known.value())).transpose()?;
    if known.as_ref().is_some_and(|known| known.found == found && known.healed.is_none()) {
        return Ok(());
    }
    let is_known = |known: &&DamageRecord| {
        known.loss().zip(found.loss()).is_some_and(|(known, found)| known.is_of_the_same(found))
    };
    if let Some(known) = known.as_ref().filter(is_known) {
        let record = DamageRecord { found: later(known, found), ..known.clone() };
        table.insert(name, write_json(&record)?.as_slice())?;
        return Ok(());
    }
    let (place, found_at) = (place.to_owned(), at);
    let record = DamageRecord { found, place, found_at, healed: None, acknowledged: None };
    table.insert(name, write_json(&record)?.as_slice())?;
    Ok(())
}

/// The same loss, as of the later one of two times at which it was found.
fn later(known: &DamageRecord, found: DamageFound) -> DamageFound {
    match found {
        DamageFound::Loss(found) => {
            let read_until = found.read_until.max(known.loss().and_then(|known| known.read_until));
            DamageFound::Loss(LossFound { read_until, ..found })
        }
        gap @ DamageFound::Gap(_) => gap,
    }
}

fn change(txn: &WriteTransaction, name: &str, change: impl FnOnce(&mut DamageRecord)) -> Db<()> {
    let mut table = txn.open_table(tables::DAMAGES)?;
    let known =
        table.get(name)?.map(|known| read_json::<DamageRecord>("a damage", known.value())).transpose()?;
    if let Some(mut record) = known {
        change(&mut record);
        table.insert(name, write_json(&record)?.as_slice())?;
    }
    Ok(())
}

fn gap_name(owner: &str, after: ChainPoint) -> String {
    format!("gap {owner} {}:{}", after.epoch, after.seq)
}

fn loss_name(stream: &str, created: Timestamp, first_seq: u64) -> String {
    format!("loss {stream} {created} {first_seq}")
}
