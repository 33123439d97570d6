//! `farside audit show`: one message with everything that is known of it.

use clap::Args;
use console::view::trail::{ParkedView, SealState, ShownView};

use super::super::{CliError, Context, Ended, render::one_line};

/// Show one message: headers, form, place in its chain, whether it is what was read, and what it changed
#[derive(Debug, Args)]
#[command(
    after_help = "Example: farside audit show FARSIDE_LOCAL:1234\n         farside audit show 1234          (when there is only one site)\n         farside audit show FARSIDE_TGT_LOCAL:17 -o json"
)]
pub(crate) struct Show {
    /// The message: a log and its sequence, or a sequence of the only site's log
    #[arg(value_name = "STREAM:SEQ")]
    place: String,
}

impl Show {
    pub(crate) async fn run(self, context: &Context) -> Result<Ended, CliError> {
        let place = self.place.replace(|c: char| !c.is_ascii_alphanumeric() && !"_-:".contains(c), "?");
        if place != self.place || place.is_empty() {
            let text = format!(
                "{:?} is no place in a log; write STREAM:1234, for example FARSIDE_LOCAL:1234",
                self.place
            );
            return Err(CliError::Usage(text));
        }
        let shown: ShownView = context.client.get(&format!("/v1/audit/events/{place}")).await?;
        context.show(&shown, text)?;
        Ok(Ended::Done)
    }
}

fn text(shown: &ShownView) -> String {
    let entry = &shown.entry;
    let mut lines = vec![
        ("place", entry.place.clone()),
        ("stored", entry.stored_at.to_string()),
        ("time", entry.time.to_string()),
        ("type", entry.event_type.clone()),
        ("entity", entry.entity.clone()),
        ("by", if entry.actor.is_empty() { "-".to_owned() } else { entry.actor.clone() }),
        ("id", entry.id.clone()),
    ];
    let tenant = entry.tenant.as_ref().map(ToString::to_string);
    let more = [
        ("pool", entry.pool.clone()),
        ("tenant", tenant),
        ("sync", entry.sync.clone()),
        ("redriven", entry.redrive_of.as_ref().map(|of| format!("a copy of the dead letter {of}"))),
        ("form", shown.form.clone()),
    ];
    lines.extend(more.into_iter().filter_map(|(name, value)| Some((name, value?))));
    lines.push(("chain", chain(shown)));
    lines.push(("seal", seal(shown.seal).to_owned()));
    lines.push(("dead letter", dead(shown)));
    lines.push(("subject", shown.subject.clone()));
    lines.extend(shown.headers.iter().map(|(name, value)| ("header", format!("{name}: {value}"))));
    let mut text: String =
        lines.iter().map(|(name, value)| format!("{name:<12}{}\n", one_line(value))).collect();
    text += &format!("{:<12}{}\n", format!("data ({} B)", shown.bytes), data(shown));
    text += &effect(shown);
    text
}

fn chain(shown: &ShownView) -> String {
    match &shown.chain {
        Some(link) => format!("{} ({}), hash {}, behind {}", link.at, link.checked, link.hash, link.prev),
        None => "unchained: covered by the log's running hash alone".to_owned(),
    }
}

fn seal(state: SealState) -> &'static str {
    match state {
        SealState::Equal => "it is what the pool read here",
        SealState::Different => "WRONG: it is not what the pool read here; see 'farside audit verify'",
        SealState::Unread => "the pool has not read it yet",
    }
}

fn dead(shown: &ShownView) -> String {
    let Some(ParkedView { reason, path, redriven }) = &shown.parked else { return "no".to_owned() };
    match redriven {
        Some(copy) => format!("redriven: {copy} was taken in instead; it was parked: {reason} (at {path})"),
        None => format!("PARKED: {reason} (at {path})"),
    }
}

fn data(shown: &ShownView) -> String {
    let entry = &shown.entry;
    let value =
        entry.data.as_ref().and_then(|data| serde_json::from_str::<serde_json::Value>(data.get()).ok());
    let pretty = value.and_then(|value| serde_json::to_string_pretty(&value).ok());
    let why = entry.unreadable.as_ref().map(|why| format!("CANNOT BE READ: {}", one_line(why)));
    match (pretty, why) {
        (Some(pretty), Some(why)) => format!("{why}\n{pretty}"),
        (Some(pretty), None) => format!("\n{pretty}"),
        (None, why) => why.unwrap_or_else(|| "no JSON".to_owned()),
    }
}

fn effect(shown: &ShownView) -> String {
    let behind = match &shown.previous {
        Some(place) => format!("against {place}:\n"),
        None => "the first of its kind:\n".to_owned(),
    };
    let mut lines = shown.effect.lines().map(|line| format!("  {}\n", one_line(&line))).peekable();
    if lines.peek().is_none() {
        return format!("{behind}  nothing differs\n");
    }
    behind + &lines.collect::<String>()
}
