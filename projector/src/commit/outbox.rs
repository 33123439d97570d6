//! The outbox inside a transaction, and how its entries stand in the file.

use bus_schema::{
    Stem, Timestamp,
    chain::ChainPoint,
    fact::{Fact, log::LogFact},
};
use redb::{ReadableTable, Table, WriteTransaction};
use serde::{Deserialize, Serialize};

use crate::{
    pending::{DeadLetter, DeadMessage, Pending, Stated},
    tables::{self, Db, damaged, read_with_body, write_with_body},
};

/// The tables of the outbox.
pub(super) struct Outbox<'t> {
    txn: &'t WriteTransaction,
    pending: Table<'t, u64, &'static [u8]>,
    names: Table<'t, &'static str, u64>,
    stated: Table<'t, &'static str, ()>,
    next: u64,
    added: u64,
}

/// An entry as it stands in the file: this as JSON behind its length, then the dead message's body.
#[derive(Serialize, Deserialize)]
struct Entry {
    /// What it is about; one entry waits for it.
    key: String,
    /// The name under which it is stated.
    name: String,
    what: EntryKind,
}

#[derive(Serialize, Deserialize)]
enum EntryKind {
    DeadLetter {
        stream: String,
        seq: u64,
        stored_at: Timestamp,
        reason: String,
        path: String,
        #[serde(default)]
        at: Option<ChainPoint>,
        message: Option<EntryMessage>,
    },
    Fact {
        stem: Stem,
        name: String,
        data: String,
    },
}

#[derive(Serialize, Deserialize)]
struct EntryMessage {
    subject: String,
    headers: Vec<(String, String)>,
}

/// The name of the dead letter of a message.
pub(super) fn parked(stream: &str, seq: u64) -> String {
    format!("parked:{stream}:{seq}")
}

/// The name of a fact: the same whenever the same log is read again.
pub(super) fn name(fact: &LogFact) -> String {
    match fact {
        LogFact::Parked(fact) => parked(&fact.stream, fact.seq),
        LogFact::Redriven(fact) => format!("redriven:{}:{}", fact.stream, fact.seq),
        LogFact::GapFound(fact) => format!("gap:{}", fact.place),
        LogFact::Forked(fact) => format!("fork:{}", fact.place),
        LogFact::WindowHeld(fact) => format!("held:{}:{}", fact.owner, fact.sync_id),
        LogFact::Rewound(fact) => format!("rewound:{}:{}", fact.stream, fact.applied_seq),
        LogFact::GapHealed(fact) => format!("healed:{}:{}", fact.owner, fact.place),
        LogFact::LossFound(fact) => format!("loss:{}:{}:{}", fact.stream, fact.created, fact.first_seq),
        LogFact::DamageAcknowledged(fact) => format!("acknowledged:{}", fact.entity()),
        LogFact::Scrubbed(fact) => format!("scrubbed:{}", fact.stream),
        LogFact::Trimmed(fact) => format!("trimmed:{}:{}:{}", fact.stream, fact.created, fact.first_seq),
        LogFact::Checkpoint(fact) => format!("checkpoint:{}", fact.number),
        LogFact::LeaseAcquired(fact) => format!("lease:{}", fact.lease),
    }
}

impl<'t> Outbox<'t> {
    pub(super) fn open(txn: &'t WriteTransaction) -> Db<Self> {
        let next =
            txn.open_table(tables::META)?.get(tables::META_NEXT_PENDING)?.map_or(1, |next| next.value());
        Ok(Self {
            txn,
            pending: txn.open_table(tables::PENDING)?,
            names: txn.open_table(tables::PENDING_NAMES)?,
            stated: txn.open_table(tables::STATED)?,
            next,
            added: 0,
        })
    }

    /// Adds an entry, unless it was stated before or waits already. `reused` is the log's incarnation when
    /// another message may have stood at the place before: what was found or stated about that one does not
    /// silence what is found now.
    pub(super) fn add(&mut self, key: &str, reused: Option<u32>, what: &Stated) -> Db<()> {
        if reused.is_some() {
            self.stated.remove(key)?;
            self.names.remove(key)?;
        }
        if self.stated.get(key)?.is_some() || self.names.get(key)?.is_some() {
            return Ok(());
        }
        let name = reused.map_or_else(|| key.to_owned(), |incarnation| format!("{key}@{incarnation}"));
        self.pending.insert(self.next, write(key, name, what)?.as_slice())?;
        self.names.insert(key, self.next)?;
        self.next += 1;
        self.added += 1;
        Ok(())
    }

    /// A fact is in the target log: nobody needs to state it any more.
    pub(super) fn stated(&mut self, name: &str) -> Db<()> {
        self.stated.insert(name, ())?;
        if let Some(id) = self.names.remove(name)?.map(|id| id.value()) {
            self.pending.remove(id)?;
        }
        Ok(())
    }

    /// Answers how many entries were added.
    pub(super) fn finish(self) -> Db<u64> {
        self.txn.open_table(tables::META)?.insert(tables::META_NEXT_PENDING, self.next)?;
        Ok(self.added)
    }
}

fn write(key: &str, name: String, what: &Stated) -> Db<Vec<u8>> {
    let (what, body) = match what {
        Stated::Fact(fact) => {
            let data = fact.data().map_err(|_| damaged("a fact"))?;
            let data = String::from_utf8(data).map_err(|_| damaged("a fact"))?;
            (EntryKind::Fact { stem: fact.stem(), name: fact.name().to_owned(), data }, &[][..])
        }
        Stated::DeadLetter(letter) => {
            let DeadLetter { stream, seq, stored_at, reason, path, at, message } = letter.clone();
            let body = letter.message.as_ref().map_or(&[][..], |message| &message.body);
            let message =
                message.map(|message| EntryMessage { subject: message.subject, headers: message.headers });
            (EntryKind::DeadLetter { stream, seq, stored_at, reason, path, at, message }, body)
        }
    };
    write_with_body(&Entry { key: key.to_owned(), name, what }, body)
}

/// The key of an entry of the outbox.
pub(crate) fn pending_key(stored: &[u8]) -> Db<String> {
    Ok(read_entry(stored)?.0.key)
}

fn read_entry(stored: &[u8]) -> Db<(Entry, &[u8])> {
    read_with_body("an entry of the outbox", stored)
}

/// Reads an entry of the outbox.
pub(crate) fn read_pending(id: u64, stored: &[u8]) -> Db<Pending> {
    let wrong = || damaged("an entry of the outbox");
    let (Entry { name, what, .. }, body) = read_entry(stored)?;
    let what = match what {
        EntryKind::Fact { stem, name, data } => {
            Stated::Fact(Fact::decode(stem, &name, data.as_bytes()).map_err(|_| wrong())?)
        }
        EntryKind::DeadLetter { stream, seq, stored_at, reason, path, at, message } => {
            let message = message.map(|message| DeadMessage {
                subject: message.subject,
                headers: message.headers,
                body: body.to_vec(),
            });
            Stated::DeadLetter(DeadLetter { stream, seq, stored_at, reason, path, at, message })
        }
    };
    Ok(Pending { id, name, what })
}
