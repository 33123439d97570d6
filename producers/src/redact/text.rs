//! Which texts give a secret away, whatever they are called: a private key, a signed token, a URL with a
//! password, and an assignment to a secret name inside a longer text: `--password=x`, `KEY=x`, a line `token: x`.
//!
//! What stands for a value that is elsewhere is none: `$(DB_PASSWORD)`, `${X}`, `{{ x }}`, `<x>`, `true`.
//!
//! Must not know: where the text came from.

/// Values that are switches, not secrets.
const SWITCHES: [&str; 13] = [
    "true", "false", "yes", "no", "on", "off", "null", "none", "nil", "required", "optional", "enabled",
    "disabled",
];
/// How a value begins that is filled in from elsewhere.
const PLACEHOLDERS: [&str; 7] = ["$(", "${", "{{", "%(", "<", "**", "env:"];

/// Whether a text holds a secret. `is_secret` judges names.
pub(super) fn gives_itself_away(text: &str, is_secret: &dyn Fn(&str) -> bool) -> bool {
    let pem = text.contains("-----BEGIN") && text.contains("PRIVATE KEY-----");
    pem || has_signed_token(text) || has_url_with_password(text) || has_assignment(text, is_secret)
}

/// Whether a value is a switch, like the `required` of AWS's `http_tokens`.
pub(super) fn is_switch(value: &str) -> bool {
    SWITCHES.iter().any(|switch| value.eq_ignore_ascii_case(switch))
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

fn has_url_with_password(text: &str) -> bool {
    text.split("://").skip(1).any(|rest| {
        let end = rest.find(|c: char| matches!(c, '/' | '?' | '#' | '"' | '\'') || c.is_whitespace());
        let authority = &rest[..end.unwrap_or(rest.len())];
        let user = authority.rsplit_once('@').map(|(user, _)| user);
        user.and_then(|user| user.split_once(':')).is_some_and(|(_, password)| !password.is_empty())
    })
}

fn has_assignment(text: &str, is_secret: &dyn Fn(&str) -> bool) -> bool {
    text.lines().any(|line| {
        line.match_indices(['=', ':']).any(|(at, sign)| {
            let (before, after) = (&line[..at], &line[at + 1..]);
            // `==`, `://` and `::` assign nothing; `:=` does, by its second half.
            let assigns = !after.starts_with(['=', ':']) && !after.starts_with("//");
            assigns
                && !before.ends_with(['=', '!', '<', '>'])
                && is_value(after)
                && name_before(before, sign).is_some_and(is_secret)
        })
    })
}

/// The name that ends here. Before a colon it has to begin a line, a word or a quoted text, so that
/// `arn:aws:secret:x` and `registry/token:1.0` are none.
fn name_before<'a>(before: &'a str, sign: &str) -> Option<&'a str> {
    let before = before.trim_end_matches(':').trim_end_matches([' ', '\t']).trim_end_matches(['"', '\'']);
    let is_of_name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
    let start = before.char_indices().rev().take_while(|(_, c)| is_of_name(*c)).last().map(|(at, _)| at)?;
    let begins = before[..start]
        .chars()
        .next_back()
        .is_none_or(|c| sign == "=" || c.is_whitespace() || matches!(c, '"' | '\'' | '{' | ',' | '[' | '('));
    begins.then_some(&before[start..])
}

fn is_value(after: &str) -> bool {
    let value = after.trim_start().trim_start_matches(['"', '\'', '\\']);
    let end = value
        .find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '\\' | ',' | ';' | '&' | '}' | ')'));
    let word = &value[..end.unwrap_or(value.len())];
    let variable = word.strip_prefix('$').is_some_and(|name| {
        name.starts_with(|c: char| c.is_ascii_uppercase())
            && name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
    });
    let switch = is_switch(word);
    !word.is_empty() && !switch && !variable && !PLACEHOLDERS.iter().any(|begin| value.starts_with(begin))
        // What opens here is a section, of which each line is looked at by itself.
        && !matches!(word, "{" | "[" | "|" | ">" | "|-" | ">-")
}

#[cfg(test)]
mod tests {
    use super::super::name::is_secret;
    use super::*;

    fn hides(text: &str) -> bool {
        gives_itself_away(text, &is_secret)
    }

    #[test]
    fn what_holds_a_secret() {
        for text in [
            "--password=hunter2",
            "DB_PASS=hunter2",
            "mysql -u app --password=hunter2 shop",
            "user=app\npassword=hunter2\nport=1",
            "db:\n  password: hunter2\n",
            "{\"user\":\"a\",\"apiToken\":\"hunter2\"}",
            "password = \"hunter2\"",
            "Server=db;Password=hunter2;Port=1",
            "https://x.example/hook?access_token=hunter2",
            "Authorization: Bearer hunter2",
            "https://ok.example/ then postgres://app:hunter2@db/x",
            "curl -H eyJhbGciOi.eyJzdWIi.c2ln https://x",
            "jwt=eyJhbGciOi.eyJzdWIi.c2ln",
        ] {
            assert!(hides(text), "{text}");
        }
    }

    #[test]
    fn what_only_looks_so() {
        for text in [
            "--password=$(DB_PASSWORD)",
            "password: ${DB_PASSWORD}",
            "PGPASSWORD=$DB_PASSWORD psql",
            "token = \"{{ vault.token }}\"",
            "--token-file=/run/token",
            "--authorization-mode=Node,RBAC",
            "--enable-bootstrap-token-auth=true",
            "secretName: tls",
            "arn:aws:secretsmanager:eu:1:secret:db",
            "registry.example/token:1.0",
            "password:\n  valueFrom: x",
            "if password == other",
            "https://example.org/a@b:c",
            "eyJ is a prefix",
            "proxy_pass http://upstream;",
            "password=",
        ] {
            assert!(!hides(text), "{text}");
        }
    }
}
