//! Which words are credentials by their form alone, as their issuers make them: private keys, signed tokens,
//! tokens with a prefix of their own, keys of a cloud account.
//!
//! Must not know: names.

/// How a token begins that says whose it is.
const PREFIXES: [&str; 22] = [
    "ghp_",
    "gho_",
    "ghu_",
    "ghs_",
    "ghr_",
    "github_pat_",
    "glpat-",
    "xoxa-",
    "xoxb-",
    "xoxe-",
    "xoxp-",
    "xoxr-",
    "xoxs-",
    "xapp-",
    "sk_live_",
    "rk_live_",
    "sk-ant-",
    "npm_",
    "dckr_pat_",
    "hvs.",
    "pypi-",
    "AIza",
];
/// Shortest rest behind such a prefix: shorter ones are examples and names.
const REST_MIN: usize = 10;
/// The path of such a URL is the whole credential.
const URLS: [&str; 2] = ["hooks.slack.com/services/", "hooks.slack.com/workflows/"];
/// How an AWS access key's public part begins, and its length.
const AWS_IDS: ([&str; 2], usize) = (["AKIA", "ASIA"], 20);
/// The length of its secret part.
const AWS_SECRET: usize = 40;

/// Whether a text holds a credential of a known form.
pub(super) fn has_credential(text: &str) -> bool {
    let pem = text.contains("-----BEGIN") && text.contains("PRIVATE KEY");
    pem || URLS.iter().any(|url| text.contains(url))
        || has_signed_token(text)
        || has_prefixed_token(text)
        || has_aws_pair(text)
}

/// A JWT: three parts, of which the first is base64 of `{"`.
fn has_signed_token(text: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '=');
    text.contains("eyJ")
        && text.split(|c| !is_part(c)).any(|word| {
            let word = word.rsplit('=').next().unwrap_or(word);
            word.starts_with("eyJ") && word.matches('.').count() == 2
        })
}

fn has_prefixed_token(text: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    PREFIXES.iter().any(|prefix| {
        text.match_indices(prefix).any(|(at, _)| {
            let begins = !text[..at].ends_with(|c: char| c.is_ascii_alphanumeric());
            let rest = &text[at + prefix.len()..];
            let rest = &rest[..rest.find(|c| !is_part(c)).unwrap_or(rest.len())];
            begins
                && rest.len() >= REST_MIN
                && rest.bytes().any(|b| b.is_ascii_digit() || b.is_ascii_uppercase())
        })
    })
}

/// The public part of an access key is no secret; with a word of the other part's form beside it, that one is.
fn has_aws_pair(text: &str) -> bool {
    let (begins, length) = AWS_IDS;
    let words = || text.split(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '/' | '+'));
    let is_id = |word: &str| word.len() == length && begins.iter().any(|begin| word.starts_with(begin));
    begins.iter().any(|begin| text.contains(begin))
        && words().any(is_id)
        && words().any(|word| word.len() == AWS_SECRET)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_known_by_their_form() {
        for text in [
            "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
            "use github_pat_11ABCDEFG0abcdefghij_klmnop here",
            "xoxb-17653672481-19874698323-pdFZKVeTuE8sk7oOcHrzqqgy",
            "xoxp-1234567890-abcDEF",
            "https://hooks.slack.com/services/T024BE7LD/B024BE7LE/hunter2hunter2",
            "[default]\nAKIAIOSFODNN7EXAMPLE\nwJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY\n",
            "eyJhbGciOi.eyJzdWIi.c2ln",
            "-----BEGIN OPENSSH PRIVATE KEY-----\nx",
            "-----BEGIN PGP PRIVATE KEY BLOCK-----\nx",
        ] {
            assert!(has_credential(text), "{text}");
        }
        for text in [
            "ghp_",
            "xoxb-example-of-a-token",
            "AKIAIOSFODNN7EXAMPLE",
            "npm_config_registry_url",
            "https://slack.com/",
            "-----BEGIN CERTIFICATE-----\nx",
            "eyJ is a prefix",
        ] {
            assert!(!has_credential(text), "{text}");
        }
    }
}
