//! The conformance table: for each language the same rows, each filled by a real run, printed by the test.

use std::{any::Any, fmt::Write as _, sync::Arc};

use tokio::task::spawn_blocking;

use super::{
    cells::CELLS,
    language::{self, Language},
    rig::Rig,
    text_of,
    toolbox::say,
};
use crate::support::farside::Up;

/// Runs all cells of a language, prints its table, and fails when a cell is not well.
async fn fill(language: &'static Language) {
    let Some(place) = language.recipe.ready(&format!("the interop table of {}", language.name)) else {
        return;
    };
    let up = Up::start("");
    let bus = up.bus().await;
    let rig = Arc::new(Rig { language, place, up, bus });
    let mut table = format!("interop table: {} ({})", language.name, language.client);
    let mut failed = 0;
    for (name, fill) in CELLS {
        let rig = Arc::clone(&rig);
        let (word, note) = match spawn_blocking(move || fill(&rig)).await {
            Ok(note) => ("ok", note),
            Err(error) => {
                failed += 1;
                ("FAILED", words_of(&*error.into_panic()))
            }
        };
        let _ = write!(table, "\n  {name:<16} {word:<7} {note}");
    }
    say(&table);
    assert_eq!(failed, 0, "{table}");
}

/// What a panic said.
fn words_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn python_publishes_and_audits_as_the_table_says() {
    fill(&language::PYTHON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn javascript_publishes_and_audits_as_the_table_says() {
    fill(&language::NODE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn go_publishes_and_audits_as_the_table_says() {
    fill(&language::GO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn java_publishes_and_audits_as_the_table_says() {
    fill(&language::JAVA).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c_publishes_and_audits_as_the_table_says() {
    fill(&language::C).await;
}

#[test]
fn the_page_shows_the_table_that_is_run() {
    let page = text_of("docs/publishing.md");
    let columns: Vec<_> = language::ALL.iter().map(|language| language.name).collect();
    let head = format!("| | {} |", columns.join(" | "));
    assert!(page.contains(&head), "docs/publishing.md has no {head}");
    let (_, below) = page.split_once(&head).unwrap();
    let rows: Vec<_> = below.lines().skip(2).take_while(|line| line.starts_with('|')).collect();
    let names: Vec<_> = rows.iter().map(|row| row.split('|').nth(1).unwrap().trim()).collect();
    assert_eq!(names, CELLS.map(|(name, _)| name));
}
