//! The history of a target: its checkpoints and the rotations of its key, followed in order of the target log. Each
//! checkpoint names the hash of the one before it, each key is introduced by the one before it; what breaks that is
//! named. Must not know what the checkpoints say of logs and pools.

use bus_schema::{
    Hash32, Name,
    fact::{key::Rotated, log::Checkpoint},
};

use crate::signing::{self, SignatureError};

/// What is wrong with a checkpoint or a rotation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    /// It was signed by nobody who may.
    #[error("checkpoint {number}: {source}")]
    Checkpoint {
        /// The checkpoint.
        number: u64,
        /// What is wrong with its signature.
        source: SignatureError,
    },
    /// It was signed by nobody who may.
    #[error("the rotation to the key {key}: {source}")]
    Rotation {
        /// The key that it introduces.
        key: String,
        /// What is wrong with its signature.
        source: SignatureError,
    },
    /// A key signs that is not the target's at that place.
    #[error("checkpoint {number} is signed by the key {key}, but the target's key there is {}", known(.expected))]
    WrongKey {
        /// The checkpoint.
        number: u64,
        /// The key that it names.
        key: String,
        /// The target's key; none = none was introduced before it.
        expected: Option<String>,
    },
    /// A key is introduced by another one than the target's.
    #[error("the key {key} is introduced by {}, but the target's key there is {}", known(.previous), known(.expected))]
    WrongPredecessor {
        /// The new key.
        key: String,
        /// The key that the rotation names before it.
        previous: Option<String>,
        /// The target's key.
        expected: Option<String>,
    },
    /// Numbers are left out.
    #[error("{} before checkpoint {next}", missing(*.first, *.next))]
    Missing {
        /// The first one that is missing.
        first: u64,
        /// The one that follows them.
        next: u64,
    },
    /// A number is there that has been passed.
    #[error(
        "checkpoint {number} stands behind checkpoint {last}: an older one was put in, or history was written anew"
    )]
    Again {
        /// The checkpoint.
        number: u64,
        /// The last one before it.
        last: u64,
    },
    /// It follows another one than the one that stands before it.
    #[error(
        "checkpoint {number} follows one with the hash {previous}, but the one before it has {expected}: it is of another history"
    )]
    AnotherHistory {
        /// The checkpoint.
        number: u64,
        /// The hash that it names.
        previous: Hash32,
        /// The hash of the one that stands before it.
        expected: Hash32,
    },
    /// It is another target's.
    #[error("{what} is of the target {found}, not of {expected}")]
    AnotherTarget {
        /// What.
        what: String,
        /// Whose it is.
        found: Name,
        /// Whose it should be.
        expected: Name,
    },
}

fn known(key: &Option<String>) -> &str {
    key.as_deref().unwrap_or("none (nobody introduced one)")
}

fn missing(first: u64, next: u64) -> String {
    let last = next.saturating_sub(1);
    if first == last {
        format!("checkpoint {first} is missing")
    } else {
        format!("checkpoints {first} to {last} are missing")
    }
}

/// A history that is being followed.
#[derive(Clone, Debug)]
pub struct History {
    target: Name,
    /// Every key that was introduced by the one before it, in order.
    keys: Vec<String>,
    last: Option<(u64, Hash32)>,
    /// Whether it begins with the first checkpoint.
    is_whole: bool,
}

impl History {
    /// A target's history from its first checkpoint on.
    pub fn whole(target: &Name) -> Self {
        Self { target: target.clone(), keys: Vec::new(), last: None, is_whole: true }
    }

    /// A part of it: the keys from the first one on, and checkpoints from any number on.
    pub fn excerpt(target: &Name) -> Self {
        Self { is_whole: false, ..Self::whole(target) }
    }

    /// Every key that was introduced by the one before it, in order.
    pub fn keys(&self) -> &[String] {
        &self.keys
    }

    /// The number and the hash of the last checkpoint.
    pub fn last(&self) -> Option<(u64, Hash32)> {
        self.last
    }

    /// Whether a signature of `key` is one of who holds `trusted`, or of whom that one named as a successor.
    pub fn descends(&self, key: &str, trusted: &str) -> bool {
        let place = |wanted: &str| self.keys.iter().position(|known| known == wanted);
        key == trusted || place(trusted).zip(place(key)).is_some_and(|(from, at)| from <= at)
    }

    /// Takes in the next rotation. Errors: why its key is not the target's.
    pub fn rotate(&mut self, rotated: &Rotated) -> Result<(), HistoryError> {
        let Rotated { target, key, previous, .. } = rotated;
        self.check_target(&format!("the rotation to the key {key}"), target)?;
        signing::verify_rotation(rotated)
            .map_err(|source| HistoryError::Rotation { key: key.clone(), source })?;
        if self.keys.last() != previous.as_ref() {
            let (key, previous, expected) = (key.clone(), previous.clone(), self.keys.last().cloned());
            return Err(HistoryError::WrongPredecessor { key, previous, expected });
        }
        self.keys.push(key.clone());
        Ok(())
    }

    /// Takes in the next checkpoint; answers everything that is wrong with it. One that is wrongly signed is not
    /// followed.
    pub fn follow(&mut self, checkpoint: &Checkpoint) -> Vec<HistoryError> {
        let number = checkpoint.number;
        if let Err(error) = self.signed(checkpoint) {
            return vec![error];
        }
        let hash = match checkpoint.hash() {
            Ok(hash) => hash,
            Err(error) => {
                let source = SignatureError::Unwritable { reason: error.to_string() };
                return vec![HistoryError::Checkpoint { number, source }];
            }
        };
        let wrong = self.misplaced(number, checkpoint.previous);
        if !matches!(wrong, Some(HistoryError::Again { .. })) {
            self.last = Some((number, hash));
        }
        wrong.into_iter().collect()
    }

    fn signed(&self, checkpoint: &Checkpoint) -> Result<(), HistoryError> {
        let Checkpoint { number, key, .. } = checkpoint;
        self.check_target(&format!("checkpoint {number}"), &checkpoint.target)?;
        signing::verify_checkpoint(checkpoint)
            .map_err(|source| HistoryError::Checkpoint { number: *number, source })?;
        if self.keys.last() != Some(key) {
            let (number, key, expected) = (*number, key.clone(), self.keys.last().cloned());
            return Err(HistoryError::WrongKey { number, key, expected });
        }
        Ok(())
    }

    fn check_target(&self, what: &str, found: &Name) -> Result<(), HistoryError> {
        if *found == self.target {
            return Ok(());
        }
        let (what, found, expected) = (what.to_owned(), found.clone(), self.target.clone());
        Err(HistoryError::AnotherTarget { what, found, expected })
    }

    fn misplaced(&self, number: u64, previous: Hash32) -> Option<HistoryError> {
        let (last, expected) = match self.last {
            Some((last, hash)) => (last, hash),
            None if self.is_whole => (0, Hash32::ZERO),
            None => return None,
        };
        if number <= last {
            return Some(HistoryError::Again { number, last });
        }
        if number > last + 1 {
            return Some(HistoryError::Missing { first: last + 1, next: number });
        }
        (previous != expected).then_some(HistoryError::AnotherHistory { number, previous, expected })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use bus_schema::Timestamp;

    use super::*;
    use crate::signing::SigningKey;

    pub(crate) fn target() -> Name {
        "local".parse().unwrap()
    }

    pub(crate) fn checkpoint(key: &SigningKey, number: u64, previous: Hash32) -> Checkpoint {
        let (stated_at, logs, owners) = (Timestamp::default(), vec![], vec![]);
        let (key_text, signature) = Default::default();
        let unsigned = Checkpoint {
            target: target(),
            number,
            previous,
            stated_at,
            logs,
            owners,
            key: key_text,
            signature,
        };
        key.sign_checkpoint(unsigned).unwrap()
    }

    /// A history with one key, and its first checkpoints.
    fn begun(key: &SigningKey, count: u64) -> (History, Vec<Checkpoint>) {
        let mut history = History::whole(&target());
        history.rotate(&key.first(&target(), "op").unwrap()).unwrap();
        let (mut previous, mut stated) = (Hash32::ZERO, vec![]);
        for number in 1..=count {
            let next = checkpoint(key, number, previous);
            previous = next.hash().unwrap();
            assert_eq!(history.follow(&next), []);
            stated.push(next);
        }
        (history, stated)
    }

    #[test]
    fn a_history_goes_on_under_the_key_that_the_old_one_named() {
        let (old, new, other) = (SigningKey::generate(), SigningKey::generate(), SigningKey::generate());
        let (mut history, stated) = begun(&old, 2);
        let previous = stated[1].hash().unwrap();
        let early = history.clone().follow(&checkpoint(&new, 3, previous));
        assert!(matches!(&early[..], [HistoryError::WrongKey { number: 3, .. }]), "{early:?}");
        history.rotate(&old.succeeded_by(&new, &target(), "op").unwrap()).unwrap();
        assert_eq!(history.follow(&checkpoint(&new, 3, previous)), []);
        let late = history.follow(&checkpoint(&old, 4, history.last().unwrap().1));
        assert!(matches!(&late[..], [HistoryError::WrongKey { number: 4, .. }]), "{late:?}");
        assert!(
            history.descends(&new.public(), &old.public()) && !history.descends(&old.public(), &new.public())
        );
        for usurped in
            [other.first(&target(), "x").unwrap(), other.succeeded_by(&other, &target(), "x").unwrap()]
        {
            let error = history.rotate(&usurped).unwrap_err();
            assert!(matches!(error, HistoryError::WrongPredecessor { .. }), "{error}");
        }
        let forged = Rotated { previous: Some(new.public()), ..other.first(&target(), "x").unwrap() };
        assert!(matches!(history.rotate(&forged), Err(HistoryError::Rotation { .. })));
    }

    #[test]
    fn a_forged_signature_is_named_and_not_followed() {
        let (key, other) = (SigningKey::generate(), SigningKey::generate());
        let (mut history, stated) = begun(&key, 1);
        let previous = stated[0].hash().unwrap();
        let forged = Checkpoint { signature: other.sign(b"x").unwrap(), ..checkpoint(&key, 2, previous) };
        let errors = history.follow(&forged);
        assert!(matches!(&errors[..], [HistoryError::Checkpoint { number: 2, .. }]), "{errors:?}");
        assert_eq!(history.follow(&checkpoint(&key, 2, previous)), []);
    }

    #[test]
    fn a_missing_number_an_older_one_and_another_history_are_told_apart() {
        let key = SigningKey::generate();
        let (history, stated) = begun(&key, 3);
        let previous = stated[2].hash().unwrap();
        let after = |next: &Checkpoint| history.clone().follow(next);
        assert_eq!(after(&checkpoint(&key, 6, previous)), [HistoryError::Missing { first: 4, next: 6 }]);
        assert_eq!(after(&stated[1]), [HistoryError::Again { number: 2, last: 3 }]);
        let expected = previous;
        let another = HistoryError::AnotherHistory { number: 4, previous: Hash32::ZERO, expected };
        assert_eq!(after(&checkpoint(&key, 4, Hash32::ZERO)), [another]);
        let mut begins_late = History::whole(&target());
        begins_late.rotate(&key.first(&target(), "op").unwrap()).unwrap();
        let mut excerpt = History { is_whole: false, ..begins_late.clone() };
        assert_eq!(begins_late.follow(&stated[1]), [HistoryError::Missing { first: 1, next: 2 }]);
        assert_eq!(excerpt.follow(&stated[1]), []);
        assert_eq!(missing(4, 6), "checkpoints 4 to 5 are missing");
    }
}
