//! The key of a target: it signs checkpoints, its own successors, and evidence. ed25519 (RFC 8032), written as nkeys
//! are: the seed `SU...`, the public key `U...`. Must not know where seeds are kept.

use bus_schema::{
    Name,
    fact::{key::Rotated, log::Checkpoint},
};
use data_encoding::BASE64;
use nkeys::{KeyPair, KeyPairType};

/// A key that signs.
pub struct SigningKey(KeyPair);

/// Why something is not signed by who should have signed it, or cannot be signed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// Nobody with this key has signed this text.
    #[error("its signature is not one of the key {key}: it was changed after it was signed, or is forged")]
    Forged {
        /// The public key.
        key: String,
    },
    /// It is no ed25519 nkey of a user.
    #[error("{key:?} is no public key of a target: it begins with U and has 56 characters")]
    NotAKey {
        /// What stands in the place of one.
        key: String,
    },
    /// The seed is none.
    #[error("that is no seed of a signing key (SU...): {reason}")]
    NotASeed {
        /// What is wrong.
        reason: String,
    },
    /// The text that is to be signed cannot be written.
    #[error("it cannot be written as RFC 8785 text: {reason}")]
    Unwritable {
        /// What is wrong.
        reason: String,
    },
}

impl SigningKey {
    /// A new key.
    pub fn generate() -> Self {
        Self(KeyPair::new_user())
    }

    /// The key of a seed. Errors: it is no seed of one.
    pub fn from_seed(seed: &str) -> Result<Self, SignatureError> {
        let pair = KeyPair::from_seed(seed.trim())
            .map_err(|error| SignatureError::NotASeed { reason: error.to_string() })?;
        if pair.key_pair_type() != KeyPairType::User {
            return Err(SignatureError::NotASeed { reason: "it is of another kind of nkey".to_owned() });
        }
        Ok(Self(pair))
    }

    /// The seed: whoever has it can sign as the target. Errors: none in practice.
    pub fn seed(&self) -> Result<String, SignatureError> {
        self.0.seed().map_err(|error| SignatureError::NotASeed { reason: error.to_string() })
    }

    /// The public key.
    pub fn public(&self) -> String {
        self.0.public_key()
    }

    /// Base64 of the signature over some bytes. Errors: none in practice.
    pub fn sign(&self, bytes: &[u8]) -> Result<String, SignatureError> {
        let signature = self.0.sign(bytes);
        signature
            .map(|signature| BASE64.encode(&signature))
            .map_err(|error| SignatureError::NotASeed { reason: error.to_string() })
    }

    /// Puts key and signature into a checkpoint. Errors: none in practice.
    pub fn sign_checkpoint(&self, checkpoint: Checkpoint) -> Result<Checkpoint, SignatureError> {
        let checkpoint = Checkpoint { key: self.public(), ..checkpoint };
        let signature = self.sign(text(&checkpoint)?.as_bytes())?;
        Ok(Checkpoint { signature, ..checkpoint })
    }

    /// Says that this is the first key of a target. Errors: none in practice.
    pub fn first(&self, target: &Name, actor: &str) -> Result<Rotated, SignatureError> {
        self.introduce(target, self.public(), None, actor)
    }

    /// Says that another key signs from here on. Errors: none in practice.
    pub fn succeeded_by(&self, next: &Self, target: &Name, actor: &str) -> Result<Rotated, SignatureError> {
        self.introduce(target, next.public(), Some(self.public()), actor)
    }

    fn introduce(
        &self,
        target: &Name,
        key: String,
        previous: Option<String>,
        actor: &str,
    ) -> Result<Rotated, SignatureError> {
        let (target, actor, signature) = (target.clone(), actor.to_owned(), String::new());
        let rotated = Rotated { target, key, previous, signature, actor };
        let signature = self.sign(&rotated.signed().0)?;
        Ok(Rotated { signature, ..rotated })
    }
}

fn text(checkpoint: &Checkpoint) -> Result<String, SignatureError> {
    checkpoint.signed().map_err(|error| SignatureError::Unwritable { reason: error.to_string() })
}

/// Whether the holder of a key has signed some bytes. Errors: not, or the key is none.
pub fn verify(key: &str, bytes: &[u8], signature: &str) -> Result<(), SignatureError> {
    let pair = KeyPair::from_public_key(key).ok().filter(|pair| pair.key_pair_type() == KeyPairType::User);
    let pair = pair.ok_or_else(|| SignatureError::NotAKey { key: key.to_owned() })?;
    let forged = || SignatureError::Forged { key: key.to_owned() };
    let signature = BASE64.decode(signature.as_bytes()).map_err(|_| forged())?;
    pair.verify(bytes, &signature).map_err(|_| forged())
}

/// Whether the key that a checkpoint names has signed it.
pub fn verify_checkpoint(checkpoint: &Checkpoint) -> Result<(), SignatureError> {
    verify(&checkpoint.key, text(checkpoint)?.as_bytes(), &checkpoint.signature)
}

/// Whether the key before it, or of the first one the key itself, has signed a rotation.
pub fn verify_rotation(rotated: &Rotated) -> Result<(), SignatureError> {
    let signer = rotated.previous.as_ref().unwrap_or(&rotated.key);
    verify(signer, &rotated.signed().0, &rotated.signature)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_comes_back_from_its_seed_and_other_nkeys_are_none() {
        let key = SigningKey::generate();
        let again = SigningKey::from_seed(&format!("{}\n", key.seed().unwrap())).unwrap();
        assert_eq!(again.public(), key.public());
        assert!(key.public().starts_with('U'));
        let account = KeyPair::new_account();
        assert!(SigningKey::from_seed(&account.seed().unwrap()).is_err());
        assert_eq!(
            verify(&account.public_key(), b"x", ""),
            Err(SignatureError::NotAKey { key: account.public_key() })
        );
    }

    #[test]
    fn only_the_signed_bytes_under_the_signing_key_verify() {
        let (key, other) = (SigningKey::generate(), SigningKey::generate());
        let signature = key.sign(b"text").unwrap();
        assert_eq!(verify(&key.public(), b"text", &signature), Ok(()));
        for (by, bytes, signature) in [
            (&key, &b"test"[..], signature.as_str()),
            (&other, b"text", &signature),
            (&key, b"text", "AAAA"),
            (&key, b"text", "no base64"),
        ] {
            let forged = SignatureError::Forged { key: by.public() };
            assert_eq!(verify(&by.public(), bytes, signature), Err(forged));
        }
    }
}
