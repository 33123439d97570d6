//! `farside dlq`: the messages that could not be taken in.

use clap::{Args, Subcommand};
use console::view::{DeadLetterGroupsView, DeadLettersView, LetterView};

use super::{
    CliError, Context, Ended,
    client::query,
    render::{Table, count, one_line},
};

mod redrive;

/// What is said of a copy that was taken in and wrote nothing.
const NOTHING_CHANGED: &str = "which changed nothing: what is newer stands";

/// Look at the dead letters, messages that could not be taken in, and have them taken in after all
#[derive(Debug, Subcommand)]
pub(crate) enum Dlq {
    List(List),
    Show(Show),
    Redrive(redrive::Redrive),
}

/// List what is parked by what is wrong, with one example each; --all lists every dead letter, newest first
#[derive(Debug, Args)]
#[command(after_help = "Example: farside dlq list\n         farside dlq list --all --limit 100 -o json")]
pub(crate) struct List {
    /// Each by itself, those that were taken in since too
    #[arg(long)]
    all: bool,
    /// How many of all, 200 at most [default: 20]
    #[arg(long, value_name = "NUMBER")]
    limit: Option<u64>,
    /// Only older ones of all: what the list before named as next
    #[arg(long, value_name = "NUMBER")]
    before: Option<u64>,
}

/// Show one with its original: subject, headers, body, what is wrong, and where its copy stands if there is one
#[derive(Debug, Args)]
#[command(after_help = "Example: farside dlq show FARSIDE_LOCAL:1234")]
pub(crate) struct Show {
    /// Where the original stands, stream:sequence
    place: String,
}

impl Dlq {
    pub(crate) async fn run(self, context: &Context) -> Result<Ended, CliError> {
        match self {
            Self::List(list) => list.run(context).await,
            Self::Show(Show { place }) => {
                let letter: LetterView = context.client.get(&letter_path(&place)).await?;
                context.show(&letter, one)?;
                Ok(Ended::Done)
            }
            Self::Redrive(redrive) => redrive.run(context).await,
        }
    }
}

/// The path of one; a place is safe in it, whatever else is a mistake that is named here.
fn letter_path(place: &str) -> String {
    let safe = |char: char| if char.is_ascii_alphanumeric() || ":_-".contains(char) { char } else { '_' };
    format!("/v1/dead-letters/{}", place.chars().map(safe).collect::<String>())
}

impl List {
    async fn run(self, context: &Context) -> Result<Ended, CliError> {
        let Self { all, limit, before } = self;
        if !all && limit.is_none() && before.is_none() {
            let groups: DeadLetterGroupsView = context.client.get("/v1/dead-letters/groups").await?;
            context.show(&groups, by_kind)?;
            return Ok(Ended::Done);
        }
        let text = |number: Option<u64>| number.map(|number| number.to_string());
        let asked = query(&[("limit", text(limit)), ("before", text(before))]);
        let letters: DeadLettersView = context.client.get(&format!("/v1/dead-letters{asked}")).await?;
        context.show(&letters, each)?;
        Ok(Ended::Done)
    }
}

fn by_kind(groups: &DeadLetterGroupsView) -> String {
    if groups.items.is_empty() {
        return "no dead letters\n".to_owned();
    }
    let mut table =
        Table::new(&["COUNT", "FIRST", "LAST", "FOR EXAMPLE", "SUBJECT", "WHERE", "WHAT IS WRONG"]);
    for group in &groups.items {
        let time = |at: Option<bus_schema::Timestamp>| at.map_or("-".to_owned(), |at| at.to_string());
        table.row([
            group.count.to_string(),
            time(group.first_at),
            time(group.last_at),
            group.example.clone(),
            group.subject.clone(),
            group.path.clone(),
            group.reason.clone(),
        ]);
    }
    let others = match groups.others {
        0 => String::new(),
        others => format!("{} of other kinds\n", count(others, "dead letter")),
    };
    table.text() + &others
}

fn each(letters: &DeadLettersView) -> String {
    if letters.items.is_empty() {
        return "no dead letters\n".to_owned();
    }
    let mut table = Table::new(&["PARKED", "PLACE", "TAKEN IN", "SUBJECT", "WHERE", "WHAT IS WRONG"]);
    for letter in &letters.items {
        let (place, subject, path) = (letter.place.clone(), letter.subject.clone(), letter.path.clone());
        let redriven = letter.redriven.clone().unwrap_or_else(|| "-".to_owned());
        table.row([letter.parked_at.to_string(), place, redriven, subject, path, letter.reason.clone()]);
    }
    let more = letters.next.map(|next| format!("older ones: farside dlq list --all --before {next}\n"));
    table.text() + &more.unwrap_or_default()
}

fn one(letter: &LetterView) -> String {
    let state = match &letter.redriven {
        Some(copy) if letter.changed == Some(false) => {
            format!("taken in, by its copy at {copy}, {NOTHING_CHANGED}")
        }
        Some(copy) => format!("taken in, by its copy at {copy}"),
        None => "parked".to_owned(),
    };
    let mut lines = vec![
        ("PLACE", letter.place.clone()),
        ("STATE", state),
        ("SUBJECT", letter.subject.clone()),
        ("WHAT IS WRONG", letter.reason.clone()),
        ("WHERE", letter.path.clone()),
        ("ATTEMPTS", letter.attempts.to_string()),
    ];
    lines.extend(letter.stored_at.map(|at| ("STORED", at.to_string())));
    lines.extend(letter.chain.as_ref().map(|(source, at)| ("CHAIN", format!("{at} of {source}"))));
    let Some(original) = &letter.original else {
        lines.push(("ORIGINAL", letter.missing.clone().unwrap_or_default()));
        return text(&lines);
    };
    let header = |(name, value): &(String, String)| ("HEADER", format!("{name}: {value}"));
    lines.extend(original.headers.iter().map(header));
    let body = match (&original.body, &original.body_hex) {
        (Some(body), _) => pretty(body),
        (None, Some(hex)) => format!("hex {hex}"),
        (None, None) => String::new(),
    };
    text(&lines) + "\n" + &body + "\n"
}

fn text(lines: &[(&str, String)]) -> String {
    lines.iter().map(|(name, value)| format!("{name:<14} {}\n", one_line(value))).collect()
}

/// JSON for people, anything else as it came.
fn pretty(body: &str) -> String {
    let value = serde_json::from_str::<serde_json::Value>(body);
    value.and_then(|value| serde_json::to_string_pretty(&value)).unwrap_or_else(|_| body.to_owned())
}
