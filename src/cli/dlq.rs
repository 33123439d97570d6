//! `farside dlq`: the messages that could not be taken in.

use clap::{Args, Subcommand};
use console::view::DeadLettersView;

use super::{CliError, Context, Ended, client::query, render::Table};

/// Look at the dead letters: messages that could not be taken in
#[derive(Debug, Subcommand)]
pub(crate) enum Dlq {
    List(List),
}

/// List them, newest first, each with what is wrong and what to do
#[derive(Debug, Args)]
#[command(after_help = "Example: farside dlq list\n         farside dlq list --limit 100 -o json")]
pub(crate) struct List {
    /// How many, 200 at most [default: 20]
    #[arg(long, value_name = "NUMBER")]
    limit: Option<u64>,
    /// Only older ones: what the list before named as next
    #[arg(long, value_name = "NUMBER")]
    before: Option<u64>,
}

impl Dlq {
    pub(crate) async fn run(self, context: &Context) -> Result<Ended, CliError> {
        let Self::List(List { limit, before }) = self;
        let text = |number: Option<u64>| number.map(|number| number.to_string());
        let asked = query(&[("limit", text(limit)), ("before", text(before))]);
        let letters: DeadLettersView = context.client.get(&format!("/v1/dead-letters{asked}")).await?;
        context.show(&letters, table)?;
        Ok(Ended::Done)
    }
}

fn table(letters: &DeadLettersView) -> String {
    if letters.items.is_empty() {
        return "no dead letters\n".to_owned();
    }
    let mut table = Table::new(&["PARKED", "PLACE", "SUBJECT", "WHERE", "WHAT IS WRONG"]);
    for letter in &letters.items {
        let (place, subject, path) = (letter.place.clone(), letter.subject.clone(), letter.path.clone());
        table.row([letter.parked_at.to_string(), place, subject, path, letter.reason.clone()]);
    }
    let more = letters.next.map(|next| format!("older ones: farside dlq list --before {next}\n"));
    table.text() + &more.unwrap_or_default()
}
