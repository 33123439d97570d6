//! Which names are those of secrets.
//!
//! A name is secret when it holds a credential word (`dbPassword`, `API_TOKEN`), or ends with one of the short
//! words that mean something else inside longer ones (`db_pass`, but not `bypass` or `pass_count`). It is not
//! when its ending says that it speaks *about* a secret: `secretName`, `passwordSecretRef`, `token_ttl`.
//!
//! Must not know: values.

/// Words that make a name that of a credential wherever they stand in it, compared without case and separators.
const CREDENTIAL_WORDS: [&str; 27] = [
    "password",
    "passwd",
    "passphrase",
    "passcode",
    "pwd",
    "secret",
    "token",
    "privatekey",
    "apikey",
    "accesskey",
    "secretkey",
    "signingkey",
    "encryptionkey",
    "masterkey",
    "sharedkey",
    "accountkey",
    "keydata",
    "credential",
    "authorization",
    "connectionstring",
    "sshkey",
    "sessionkey",
    "snmpcommunity",
    "wpapsk",
    "bindpw",
    "pgpass",
    "sessioncookie",
];
/// Words that count only as the last one of a name, numbers behind them aside.
const LAST_WORDS: [&str; 4] = ["pass", "psk", "pw", "bearer"];
/// Names that are secret although their ending says otherwise: Vault's `secret_id` is the password of a role.
const SECRET_ALL_THE_SAME: [&str; 1] = ["secretid"];
/// Endings of names that speak *about* a credential: where it is, what it is called, how long it lives.
const REFERENCE_ENDINGS: [&str; 26] = [
    "name",
    "names",
    "namespace",
    "ref",
    "refs",
    "reference",
    "path",
    "file",
    "id",
    "arn",
    "link",
    "url",
    "uri",
    "type",
    "kind",
    "mode",
    "version",
    "audience",
    "audiences",
    "ttl",
    "policy",
    "seconds",
    "enabled",
    "optional",
    "count",
    "length",
];

/// A name without case and separators.
pub(super) fn folded(name: &str) -> String {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// Whether a name is that of a secret. What stands before a slash is a domain (`secrets.example/owner`).
pub(super) fn is_secret(name: &str) -> bool {
    let name = name.rsplit('/').next().unwrap_or(name);
    let folded = folded(name);
    if SECRET_ALL_THE_SAME.iter().any(|ending| folded.ends_with(ending)) {
        return true;
    }
    let word = CREDENTIAL_WORDS.iter().any(|word| folded.contains(word)) || ends_with_last_word(name);
    word && !speaks_about(name)
}

/// Whether a name says where a thing is, what it is called or how long it lives.
pub(super) fn speaks_about(name: &str) -> bool {
    let folded = folded(name);
    REFERENCE_ENDINGS.iter().any(|ending| folded.ends_with(ending))
}

fn ends_with_last_word(name: &str) -> bool {
    let name = name.trim_end_matches(|c: char| !c.is_alphabetic());
    LAST_WORDS.iter().any(|word| {
        let Some(at) = name.len().checked_sub(word.len()).filter(|at| name.is_char_boundary(*at)) else {
            return false;
        };
        let (before, last) = name.split_at(at);
        let begins = match before.chars().next_back() {
            None => true,
            // `dbPass`, but neither `bypass` nor `BYPASS`.
            Some(c) if c.is_alphabetic() => c.is_lowercase() && last.starts_with(|c: char| c.is_uppercase()),
            Some(_) => true,
        };
        begins && last.eq_ignore_ascii_case(word)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_secrets_and_names_that_only_sound_so() {
        for name in [
            "password",
            "db_pass",
            "dbPass",
            "DB_PASS_2",
            "pass",
            "wifi.psk",
            "secret_id",
            "vaultSecretId",
            "client-key-data",
            "jwt_signing_key",
            "diskEncryptionKey",
            "clientSecret",
            "apiToken",
            "X-API-Key",
            "bindpw",
            "bearer",
            "session_cookie",
            "PGPASS",
        ] {
            assert!(is_secret(name), "{name}");
        }
        for name in [
            "bypass",
            "compass",
            "BYPASS",
            "pass_count",
            "passive",
            "proxy_pass_through",
            "secretName",
            "passwordSecretRef",
            "secretKeyRef",
            "token_ttl",
            "kms_secret_arn",
            "encryption_key_id",
            "access_key_id",
            "authorization-mode",
            "client-certificate-data",
            "keyboard",
            "tokenPath",
            "PGPASSFILE",
            "bearerFormat",
        ] {
            assert!(!is_secret(name), "{name}");
        }
    }
}
