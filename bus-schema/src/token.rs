//! Entity tokens: the one part of a subject that names the entity an event speaks of.
//!
//! `[A-Za-z0-9_-]` stand for themselves, every other byte is `=XX`; what would be longer than
//! 180 bytes becomes `~` + base32 of its SHA-256. The key in the event's data is the truth; the token
//! only routes, so a token that does not match the key is an error that names the right token.

use data_encoding::BASE32_NOPAD;

use crate::hash::Hash32;

/// Longest literal token in bytes; a subject must stay well below what NATS servers accept.
pub const TOKEN_BYTES_MAX: usize = 180;

/// The token of an entity's key, for example `Deployment/prod.web` → `Deployment=2Fprod=2Eweb`.
pub fn of(key: &str) -> String {
    let mut token = String::with_capacity(key.len() + 8);
    for byte in key.bytes() {
        if literal(byte) {
            token.push(char::from(byte));
        } else {
            token.push('=');
            token.push(char::from(HEX[usize::from(byte >> 4)]));
            token.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
    if token.len() <= TOKEN_BYTES_MAX {
        token
    } else {
        format!("~{}", BASE32_NOPAD.encode(&Hash32::of(key.as_bytes()).0))
    }
}

/// Whether `token` is the token of `key`; allocates only for keys that are too long to be literal.
pub fn matches(token: &str, key: &str) -> bool {
    if token.starts_with('~') {
        return token == of(key);
    }
    let mut rest = token.bytes();
    let same = key.bytes().all(|byte| {
        if literal(byte) {
            rest.next() == Some(byte)
        } else {
            rest.next() == Some(b'=')
                && rest.next() == Some(HEX[usize::from(byte >> 4)])
                && rest.next() == Some(HEX[usize::from(byte & 15)])
        }
    });
    same && rest.next().is_none() && token.len() <= TOKEN_BYTES_MAX
}

/// The key that a token was made of; none = it was too long to be literal, or this is no token.
pub fn key(token: &str) -> Option<String> {
    let mut key = Vec::with_capacity(token.len());
    let mut rest = token.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'=' => {
                let mut digit = || rest.next().and_then(|byte| HEX.iter().position(|hex| *hex == byte));
                key.push((digit()? * 16 + digit()?) as u8);
            }
            byte if literal(byte) => key.push(byte),
            _ => return None,
        }
    }
    String::from_utf8(key).ok()
}

const HEX: &[u8; 16] = b"0123456789ABCDEF";

fn literal(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_match_their_keys_and_no_other() {
        let long = "x/".repeat(600);
        for key in ["Pod/web", "Pod/a.b c*d>e", "Gerät/größe/ü", "a=2Fb", "~tilde", long.as_str(), ""] {
            let token = of(key);
            assert!(matches(&token, key), "{key:?} -> {token}");
            assert!(token.bytes().all(|b| b.is_ascii_graphic() && !b".*>".contains(&b)), "{token}");
            assert!(!matches(&token, &format!("{key}x")) && !matches(&format!("{token}x"), key));
            assert_eq!(super::key(&token), (!token.starts_with('~')).then(|| key.to_owned()));
        }
        for token in ["a=2", "a=zz", "=FF", "a b", "~AB"] {
            assert_eq!(super::key(token), None, "{token}");
        }
        assert_ne!(of("a/b"), of("a=2Fb"), "an escaped key must not meet a key that looks escaped");
    }
}
