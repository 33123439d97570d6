//! What every epoch begins with: the keys that the source has, those that it has no more, and that the
//! agent runs. A run says at its start what is new of it; an epoch that is given up takes what it said
//! with it, so the next one says all of it. A withdrawal is remembered until the log has it.

use bus_schema::{
    Timestamp,
    chain::ChainPoint,
    event::key::{Announced, KeyEvent, Withdrawn},
};

use super::Sequencer;
use crate::{
    ledger::{LedgerError, Writing, marks},
    seal::{Effect, Fact, Saying},
};

/// What a run of the agent says before anything else.
#[derive(Clone, Debug)]
pub(crate) struct Preface {
    /// Every key of the configuration.
    pub(crate) keys: Vec<Announced>,
    /// That the agent runs.
    pub(crate) started: Saying,
}

/// What is to be said now, in this order.
#[derive(Debug, Default)]
pub(super) struct Words {
    withdrawn: Vec<Withdrawn>,
    announced: Vec<Announced>,
    started: Option<Saying>,
}

impl Sequencer {
    /// States what this run says first; before anything else happens to the sequencer.
    pub(crate) fn set_preface(&mut self, preface: Preface) {
        self.preface = Some(preface);
    }

    /// Says what is new since the last run, unless a new epoch has said everything already.
    pub(crate) fn introduce(&mut self, now: Timestamp) -> Result<(), LedgerError> {
        if self.introduced {
            return Ok(());
        }
        let words = self.words(false)?;
        let (facts, before) = (words.facts()?, self.chain.at());
        let cluster = self.cluster.clone();
        self.commit(facts, None, now, |writing| words.remember(writing, &cluster, before))?;
        self.introduced(&words, before);
        Ok(())
    }

    /// What has to be said: what is new, or `all` of it.
    pub(super) fn words(&self, all: bool) -> Result<Words, LedgerError> {
        let Some(preface) = &self.preface else { return Ok(Words::default()) };
        let known: Vec<(String, Announced)> = self.ledger.reading()?.marks(&self.cluster, marks::KEY)?;
        let configured = |id: &str| preface.keys.iter().any(|key| key.key_id.as_str() == id);
        let mut withdrawn: Vec<Withdrawn> = known
            .iter()
            .filter(|(id, _)| !configured(id))
            .map(|(_, key)| Withdrawn { key_id: key.key_id.clone() })
            .collect();
        if all {
            let owed = self.withdrawn.keys().filter(|id| !configured(id.as_str()));
            withdrawn.extend(owed.filter_map(|id| Some(Withdrawn { key_id: id.parse().ok()? })));
        }
        let is_known = |key: &Announced| known.iter().any(|(_, known)| known == key);
        let announced = preface.keys.iter().filter(|key| all || !is_known(key)).cloned().collect();
        Ok(Words { withdrawn, announced, started: Some(preface.started.clone()) })
    }

    /// The words are in the ledger, behind `before`.
    pub(super) fn introduced(&mut self, words: &Words, before: ChainPoint) {
        self.introduced = self.preface.is_some();
        for key in &words.announced {
            self.withdrawn.remove(key.key_id.as_str());
        }
        self.withdrawn.extend(words.owed(before));
    }
}

impl Words {
    pub(super) fn facts(&self) -> Result<Vec<Fact>, LedgerError> {
        let withdrawn = self.withdrawn.iter().cloned().map(KeyEvent::Withdrawn);
        let keys = withdrawn.chain(self.announced.iter().cloned().map(KeyEvent::Announced));
        let sayings = keys.map(|event| Saying::key(&event)).chain(self.started.iter().cloned().map(Ok));
        sayings.map(|saying| Ok(Fact { saying: Some(saying?), effect: Effect::None })).collect()
    }

    /// Each withdrawal and its place, when the words follow `before`.
    fn owed(&self, before: ChainPoint) -> impl Iterator<Item = (String, ChainPoint)> {
        let at = move |seq| ChainPoint { seq, ..before };
        self.withdrawn.iter().zip(before.seq + 1..).map(move |(key, seq)| (key.key_id.to_string(), at(seq)))
    }

    /// Keeps in mind which keys were announced, and which withdrawals the log has to take yet.
    pub(super) fn remember(
        &self,
        writing: &mut Writing<'_>,
        cluster: &str,
        before: ChainPoint,
    ) -> Result<(), LedgerError> {
        let (key, gone) =
            (|id: &str| format!("{}{id}", marks::KEY), |id: &str| format!("{}{id}", marks::GONE));
        for announced in &self.announced {
            writing.put_mark(cluster, &key(announced.key_id.as_str()), announced)?;
            writing.remove_mark(cluster, &gone(announced.key_id.as_str()))?;
        }
        for (id, at) in self.owed(before) {
            writing.remove_mark(cluster, &key(&id))?;
            writing.put_mark(cluster, &gone(&id), &at)?;
        }
        Ok(())
    }
}
