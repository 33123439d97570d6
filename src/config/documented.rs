//! docs/configuration.md names every key and every variable, and none that is not there. The keys come from
//! the types themselves: a key that nobody knows is refused with a list of those that are known.

use std::collections::BTreeSet;

use super::Config;

/// A key that no type has.
const UNKNOWN: &str = "no-such-key";
/// A pool, for the one table whose keys are free; on the page it is `*`.
const POOL: &str = "\"local/dc1\"";

fn page() -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    std::fs::read_to_string(path).unwrap()
}

/// The first cells of the page's tables, unquoted.
fn first_cells(page: &str) -> BTreeSet<String> {
    let cells = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    cells.map(|(cell, _)| cell.to_owned()).collect()
}

/// The keys of the table that `inside` makes around a line: none when there is no such table.
fn keys(inside: &dyn Fn(&str) -> String) -> Option<Vec<String>> {
    let error = toml::from_str::<Config>(&inside(&format!("\"{UNKNOWN}\" = 1"))).err()?;
    let (_, known) = error.message().split_once(&format!("unknown field `{UNKNOWN}`, expected "))?;
    Some(known.split('`').skip(1).step_by(2).map(str::to_owned).collect())
}

/// Every key below `path`, found by asking each known key whether it is a table, a list of tables, or one
/// of the two tables whose form depends on a value.
fn walk(path: &str, inside: &dyn Fn(&str) -> String, found: &mut BTreeSet<String>) {
    for key in keys(inside).unwrap() {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        let table = |line: &str| inside(&format!("{key} = {{ {line} }}"));
        let list = |line: &str| inside(&format!("{key} = [{{ {line} }}]"));
        let pools = |line: &str| inside(&format!("{key} = {{ {POOL} = {{ {line} }} }}"));
        let directory = |line: &str| inside(&format!("{key} = {{ adapter = \"directory\", {line} }}"));
        let exec = |line: &str| inside(&format!("{key} = {{ adapter = \"exec\", {line} }}"));
        let forms: [&dyn Fn(&str) -> String; 4] = [&table, &list, &directory, &exec];
        let tables: Vec<_> = forms.into_iter().filter(|form| keys(form).is_some()).collect();
        if keys(&pools).is_some() {
            walk(&format!("{path}.*"), &pools, found);
        } else if tables.is_empty() {
            found.insert(path.clone());
        }
        for form in tables {
            walk(&path, form, found);
        }
    }
}

#[test]
fn the_page_names_every_key_and_no_other() {
    let mut known = BTreeSet::new();
    walk("", &|line| line.to_owned(), &mut known);
    // What a pool may have of its own is told once, for the service.
    let own = known.iter().filter(|key| key.starts_with("service.pools.*.")).cloned().collect::<Vec<_>>();
    for key in &own {
        let of_service = key.replace("service.pools.*.", "service.");
        assert!(known.contains(&of_service), "{key} is not told for the service");
    }
    known.retain(|key| !own.contains(key));
    assert!(known.len() > 60 && known.contains("agent.resource.clusters.source.command"), "{known:?}");
    let told: BTreeSet<_> = first_cells(&page()).into_iter().filter(|cell| !cell.starts_with('-')).collect();
    let is_table = |key: &&String| {
        let below = format!("{key}.");
        key.starts_with("service.pools.*") || known.iter().any(|known| known.starts_with(&below))
    };
    let missing: Vec<_> = known.difference(&told).collect();
    let made_up: Vec<_> = told.difference(&known).filter(|key| !is_table(key)).collect();
    assert!(missing.is_empty() && made_up.is_empty(), "missing: {missing:?}; not there: {made_up:?}");
}

#[test]
fn the_page_names_every_variable_and_its_flag() {
    let page = page();
    let mut pending = vec![crate::cli::command()];
    while let Some(command) = pending.pop() {
        pending.extend(command.get_subcommands().cloned());
        for argument in command.get_arguments() {
            let (Some(variable), Some(flag)) = (argument.get_env(), argument.get_long()) else { continue };
            let (variable, flag) = (format!("`{}`", variable.to_string_lossy()), format!("`--{flag}`"));
            let told = page.lines().any(|line| line.contains(&variable) && line.contains(&flag));
            assert!(told, "{flag} and {variable} are not on one line of the page");
        }
    }
}
