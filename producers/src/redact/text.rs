//! Which texts give a secret away, whatever they are called: a credential of a known form (`known`), a URL
//! with a password, and a secret name with its value inside a longer text: `--password=x`, `KEY=x`, a line
//! `token: x` or the block below it, a pair `name: TOKEN`, `value: x`, `<token>x</token>`, a line `token x`;
//! a manifest of a Secret.
//!
//! What stands for a value that is elsewhere is none: `$(DB_PASSWORD)`, `${X}`, `{{ x }}`, `<x>`, `true`.
//! When in doubt a text gives itself away: it is taken out as a whole.
//!
//! Must not know: where the text came from.

use super::{NAME_FIELDS, known};

/// Values that are switches, not secrets.
const SWITCHES: [&str; 13] = [
    "true", "false", "yes", "no", "on", "off", "null", "none", "nil", "required", "optional", "enabled",
    "disabled",
];
/// How a value begins that is filled in from elsewhere.
const PLACEHOLDERS: [&str; 7] = ["$(", "${", "{{", "%(", "<", "**", "env:"];

/// Whether a text holds a secret. `is_secret` judges names.
pub(super) fn gives_itself_away(text: &str, is_secret: &dyn Fn(&str) -> bool) -> bool {
    known::has_credential(text)
        || has_url_with_password(text)
        || has_assignment(text, is_secret)
        || has_element(text, is_secret)
        || has_words(text, is_secret)
        || has_manifest(text)
}

/// Whether a value is a switch, like the `required` of AWS's `http_tokens`.
pub(super) fn is_switch(value: &str) -> bool {
    SWITCHES.iter().any(|switch| value.eq_ignore_ascii_case(switch))
}

fn has_url_with_password(text: &str) -> bool {
    text.split("://").skip(1).any(|rest| {
        let end = rest.find(|c: char| matches!(c, '/' | '?' | '#' | '"' | '\'') || c.is_whitespace());
        let authority = &rest[..end.unwrap_or(rest.len())];
        let user = authority.rsplit_once('@').map(|(user, _)| user);
        user.and_then(|user| user.split_once(':')).is_some_and(|(_, password)| !password.is_empty())
    })
}

/// A name with what is assigned to it.
struct Assignment<'a> {
    name: &'a str,
    /// The rest of the line.
    value: &'a str,
}

fn has_assignment(text: &str, is_secret: &dyn Fn(&str) -> bool) -> bool {
    // A pair {name, value} says the name in one assignment and the value beside it, in either order.
    let (mut names_secret, mut had_value) = (false, false);
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let next = lines.peek();
        for Assignment { name, value } in assignments(line) {
            let opens = || value.trim().is_empty() && next.is_some_and(|next| continues(line, next));
            if is_secret(name) && (is_value(value) || opens()) {
                return true;
            }
            let names_now = NAME_FIELDS.contains(&name) && is_secret(first_word(value));
            let has_value = name.eq_ignore_ascii_case("value") && is_value(value);
            if (names_secret && has_value) || (names_now && had_value) {
                return true;
            }
            (names_secret, had_value) = (names_now, has_value);
        }
    }
    false
}

fn assignments(line: &str) -> impl Iterator<Item = Assignment<'_>> {
    line.match_indices(['=', ':']).filter_map(|(at, sign)| {
        let (before, after) = (&line[..at], &line[at + 1..]);
        // `==`, `://` and `::` assign nothing; `:=` does, by its second half.
        let assigns = !after.starts_with(['=', ':']) && !after.starts_with("//");
        let name =
            name_before(before, sign).filter(|_| assigns && !before.ends_with(['=', '!', '<', '>']))?;
        Some(Assignment { name, value: after })
    })
}

/// The name that ends here. Before a colon it has to begin a line, a word or a quoted text, so that
/// `arn:aws:secret:x` and `registry/token:1.0` are none.
fn name_before<'a>(before: &'a str, sign: &str) -> Option<&'a str> {
    let before = before.trim_end_matches(':').trim_end_matches([' ', '\t']);
    let before = before.trim_end_matches(['"', '\'']).trim_end_matches('\\');
    let is_of_name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
    let start = before.char_indices().rev().take_while(|(_, c)| is_of_name(*c)).last().map(|(at, _)| at)?;
    let begins = before[..start]
        .chars()
        .next_back()
        .is_none_or(|c| sign == "=" || c.is_whitespace() || matches!(c, '"' | '\'' | '{' | ',' | '[' | '('));
    begins.then_some(&before[start..])
}

/// Whether the line below a name without a value holds it: deeper and no assignment, or an item of a list.
fn continues(line: &str, next: &str) -> bool {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let content = next.trim();
    let item = content.strip_prefix("- ");
    let below = indent(next) > indent(line) || (item.is_some() && indent(next) == indent(line));
    let held = item.unwrap_or(content);
    below && !held.starts_with(['#', '{', '}', ']']) && assignments(held).next().is_none() && is_value(held)
}

fn first_word(value: &str) -> &str {
    let value = value.trim_start().trim_start_matches(['"', '\'', '\\']);
    let end = value.find(|c: char| {
        c.is_whitespace() || matches!(c, '"' | '\'' | '\\' | ',' | ';' | '&' | '}' | ')' | '>')
    });
    &value[..end.unwrap_or(value.len())]
}

fn is_value(after: &str) -> bool {
    let after = after.trim_start();
    // A block or a text of many lines opens here, or an anchor stands before the value.
    if after.starts_with(['|', '>', '&']) || after.starts_with("\"\"\"") || after.starts_with("'''") {
        return after.len() > 1 || !after.starts_with('&');
    }
    let value = after.trim_start_matches(['"', '\'', '\\']);
    let word = first_word(after);
    let variable = word.strip_prefix('$').is_some_and(|name| {
        name.starts_with(|c: char| c.is_ascii_uppercase())
            && name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
    });
    let switch = is_switch(word);
    !word.is_empty() && !switch && !variable && !PLACEHOLDERS.iter().any(|begin| value.starts_with(begin))
        // What opens here is a section, of which each line is looked at by itself.
        && !matches!(word, "{" | "[")
}

/// An element of XML: `<token>x</token>`.
fn has_element(text: &str, is_secret: &dyn Fn(&str) -> bool) -> bool {
    let mut open = None;
    text.split('<').skip(1).any(|part| {
        let (tag, content) = part.split_once('>').unwrap_or((part, ""));
        if let Some(raw) = tag.strip_prefix("![CDATA[") {
            return open.take().is_some() && !raw.is_empty();
        }
        if tag.starts_with('/') {
            return open.take().is_some_and(is_value);
        }
        let name = tag.split_whitespace().next().unwrap_or_default();
        let name = name.rsplit(':').next().unwrap_or(name);
        open = (!tag.ends_with('/') && is_secret(name)).then_some(content);
        false
    })
}

/// A line of words: `password x`, and `machine x login x password x` of a netrc.
fn has_words(text: &str, is_secret: &dyn Fn(&str) -> bool) -> bool {
    let alone = text.trim().lines().nth(1).is_none();
    text.lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let netrc = matches!(words.first(), Some(&"machine" | &"default" | &"login"));
        // A title has two words, too: "Token Service".
        let plain = |word: &str| alone && word.chars().all(char::is_alphabetic);
        // nginx passes requests on: `proxy_pass backend;`.
        let passes_on =
            line.trim_end().ends_with(';') && words.first().is_some_and(|name| name.ends_with("_pass"));
        let says = |name: &str, value: &str| is_name(name) && is_secret(name) && is_value(value);
        match words[..] {
            [name, value] => says(name, value) && !plain(value) && !passes_on,
            _ => netrc && words.windows(2).any(|pair| says(pair[0], pair[1])),
        }
    })
}

/// A manifest of a Secret, as YAML or JSON, alone or inside of something else: its data are secret whatever
/// they are called.
fn has_manifest(text: &str) -> bool {
    let plain: String = text.chars().filter(|c| !matches!(c, ' ' | '\t' | '"' | '\'' | '\\')).collect();
    let has_word = |word: &str, end: fn(char) -> bool| {
        plain.match_indices(word).any(|(at, _)| {
            let (before, after) = (&plain[..at], &plain[at + word.len()..]);
            !before.ends_with(char::is_alphanumeric) && after.chars().next().is_none_or(end)
        })
    };
    has_word("kind:Secret", |after| !after.is_alphanumeric())
        && ["data:", "stringData:"].iter().any(|word| has_word(word, |_| true))
}

fn is_name(word: &str) -> bool {
    word.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.'))
}

#[cfg(test)]
mod tests {
    use super::super::name::is_secret;
    use super::*;

    fn hides(text: &str) -> bool {
        gives_itself_away(text, &is_secret)
    }

    #[test]
    fn a_manifest_of_a_secret_inside_of_anything_gives_its_data_to_nobody() {
        for text in [
            "kind: Secret\ndata:\n  a: aHVudGVyMg==\n",
            "kind:  Secret # of the shop\nstringData: {a: hunter2}\n",
            "cat <<EOF\n{\n  \"kind\": \"Secret\",\n  \"data\": {\n    \"a\": \"aHVudGVyMg==\"\n  }\n}\nEOF\n",
            "echo '{\"kind\":\"Secret\",\"data\":{\"a\":\"aHVudGVyMg==\"}}' | kubectl apply -f -",
        ] {
            assert!(hides(text), "{text}");
        }
        assert!(
            !has_manifest("kind: SecretStore\ndata: 1\n") && !has_manifest("kind: Secret\nmetadata: 1\n")
        );
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
    fn what_holds_a_secret_below_or_beside_its_name() {
        for text in [
            "password: |\n  hunter2\n",
            "a:\n  password: >-\n    hunter2\n",
            "password: |2+ # why\n  hunter2\n",
            "password:\n  hunter2\n",
            "tokens:\n- hunter2\n",
            "password: &db hunter2\n",
            "password = \"\"\"\nhunter2\n\"\"\"",
            "- name: DB_PASSWORD\n  value: hunter2\n",
            "- value: hunter2\n  name: DB_PASSWORD\n",
            "[{name: DB_PASSWORD, value: hunter2}]",
            "<property name=\"db.password\" value=\"hunter2\"/>",
            "{\\\"apiToken\\\": \\\"hunter2\\\"}",
            "<a><password>hunter2</password></a>",
            "<ns:password enc=\"no\">\n  hunter2\n</ns:password>",
            "<password><![CDATA[hunter2]]></password>",
            "password hunter2",
            "base dc=x\nbindpw hunter\n",
            "machine h login u password hunter2",
            "machine h\n  login u\n  password hunter\n",
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
            "location / {\n  fastcgi_pass php:9000;\n}",
            "password=",
            "password:\nuser: x\n",
            "Enter the password:\nthen go on",
            "- name: DB_PASSWORD\n  valueFrom: {secretKeyRef: {name: db}}\n",
            "- name: MODE\n  value: fast\n",
            "<password></password><user>x</user>",
            "<password>${db.password}</password>",
            "login with --password <password> --user <user>",
            "Token Service",
            "the password is in the vault",
        ] {
            assert!(!hides(text), "{text}");
        }
    }
}
