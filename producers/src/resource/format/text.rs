//! A text cut into its documents, each with the line it starts at: JSON, JSON lines, a JSON list, or
//! YAML with many documents. A bad document is one fault; the cut is made before anything is parsed,
//! so the others go through.

use std::collections::HashSet;

use serde_json::{Value, value::RawValue};

use crate::resource::{Fault, Go, Place};

/// YAML nodes in one document. A list that holds more should be JSON, or many documents.
const YAML_NODES_MAX: usize = 2_000_000;
/// Events that aliases may replay in one document: a "billion laughs" file ends here, real manifests
/// replay a few hundred.
const YAML_REPLAYED_MAX: usize = 100_000;

const NOT_JSON: &str = "it is not JSON that can be read";
const ROUNDED: &str = "it holds an integer beyond 64 bits, of which readers keep about 17 digits; write it as a text, in quotes";

type Document = Result<(Value, u64), Fault>;

/// Cuts and parses a text.
pub(super) fn documents(path: &str, text: &str, each: &mut dyn FnMut(Document) -> Go) {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim_start().starts_with(['{', '[']) && json(path, text, each) {
        return;
    }
    let mut yaml = |from: usize, to: usize, line: u64| {
        let chunk = &text[from..to];
        if says_nothing(chunk) { Go::On } else { each(yaml_document(path, chunk, line)) }
    };
    let (mut from, mut from_line, mut at) = (0, 1, 0);
    for (line, content) in (1..).zip(text.split_inclusive('\n')) {
        if is_separator(content) && at > 0 {
            if yaml(from, at, from_line) == Go::Stop {
                return;
            }
            (from, from_line) = (at, line);
        }
        at += content.len();
    }
    yaml(from, text.len(), from_line);
}

/// Three dashes at the start of a line always part documents: inside a block they would be indented.
fn is_separator(line: &str) -> bool {
    line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

fn says_nothing(chunk: &str) -> bool {
    chunk.lines().map(str::trim).all(|line| {
        line.is_empty() || line.starts_with('#') || line.starts_with('%') || line == "---" || line == "..."
    })
}

/// What a parser says may repeat the document, so it is the detail.
fn fault(path: &str, line: u64, reason: &str, detail: String) -> Fault {
    Fault { detail: Some(detail), ..Fault::new(Place { path: path.to_owned(), line }, reason) }
}

fn yaml_document(path: &str, chunk: &str, first_line: u64) -> Document {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_nodes: YAML_NODES_MAX,
            max_events: YAML_NODES_MAX * 2,
            max_documents: 1,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: YAML_REPLAYED_MAX },
        with_snippet: false,
        // YAML 1.1: `0644` is octal, as for kubectl, Ansible and PyYAML. Its truth values are the default.
        legacy_octal_numbers: true,
    };
    let value = serde_saphyr::from_str_with_options::<Value>(chunk, options).map_err(|error| {
        let inside = error.location().map_or(1, |location| location.line().max(1));
        fault(path, first_line + inside - 1, "it is not YAML that can be read", error.to_string())
    })?;
    exact(path, chunk, value, first_line)
}

fn json_document(path: &str, text: &str, line: u64) -> Document {
    let value = serde_json::from_str(text).map_err(|e| fault(path, line, NOT_JSON, e.to_string()))?;
    exact(path, text, value, line)
}

/// A document, unless its reader rounded an integer: a state that differs would look the same.
fn exact(path: &str, text: &str, value: Value, line: u64) -> Document {
    let mut huge = HashSet::new();
    huge_numbers(&value, &mut huge);
    let of_number = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '+');
    let is_rounded = |word: &str| {
        let digits = word.trim_start_matches(['-', '+']).replace('_', "");
        let is_integer = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        let number = if is_integer { digits.parse::<f64>().ok() } else { None };
        number.is_some_and(|number| huge.contains(&number.to_bits()) && format!("{number:.0}") != digits)
    };
    if !huge.is_empty() && text.split(|c| !of_number(c)).any(is_rounded) {
        return Err(Fault::new(Place { path: path.to_owned(), line }, ROUNDED));
    }
    Ok((value, line))
}

/// Sizes of the numbers that are beyond 64 bits: readers take such an integer for a double.
fn huge_numbers(value: &Value, found: &mut HashSet<u64>) {
    match value {
        Value::Number(number) if number.is_f64() => {
            let size = number.as_f64().map(f64::abs);
            found.extend(size.filter(|size| *size >= i64::MAX as f64).map(f64::to_bits));
        }
        Value::Array(items) => items.iter().for_each(|item| huge_numbers(item, found)),
        Value::Object(fields) => fields.values().for_each(|field| huge_numbers(field, found)),
        _ => {}
    }
}

/// Reads JSON in any of its shapes; false = it is not JSON, and may be YAML in flow style.
fn json(path: &str, text: &str, each: &mut dyn FnMut(Document) -> Go) -> bool {
    if text.trim_start().starts_with('[')
        && let Ok(items) = serde_json::from_str::<Vec<&RawValue>>(text)
    {
        json_items(path, text, &items, each);
        return true;
    }
    match serde_json::from_str::<Value>(text) {
        Ok(value) => {
            each(exact(path, text, value, 1));
            true
        }
        Err(_) if is_json_lines(text) => {
            json_lines(path, text, each);
            true
        }
        Err(_) if [".yaml", ".yml"].iter().any(|ending| path.to_ascii_lowercase().ends_with(ending)) => false,
        Err(error) => {
            each(Err(fault(path, error.line() as u64, NOT_JSON, error.to_string())));
            true
        }
    }
}

fn json_items(path: &str, text: &str, items: &[&RawValue], each: &mut dyn FnMut(Document) -> Go) {
    let (mut line, mut at) = (1, 0);
    for item in items {
        // The items borrow from the text, so their addresses say where they stand.
        let from = item.get().as_ptr() as usize - text.as_ptr() as usize;
        line += newlines(&text[at..from]);
        at = from;
        if each(json_document(path, item.get(), line)) == Go::Stop {
            return;
        }
    }
}

fn newlines(text: &str) -> u64 {
    text.bytes().filter(|byte| *byte == b'\n').count() as u64
}

/// JSON lines start with a whole object on the first line that is not empty, and have a second one.
fn is_json_lines(text: &str) -> bool {
    let mut lines = text.lines().filter(|line| !line.trim().is_empty());
    lines.next().is_some_and(|first| serde_json::from_str::<&RawValue>(first).is_ok())
        && lines.next().is_some_and(|second| second.trim_start().starts_with(['{', '[']))
}

fn json_lines(path: &str, text: &str, each: &mut dyn FnMut(Document) -> Go) {
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim().is_empty() {
            continue;
        }
        if each(json_document(path, line, number)) == Go::Stop {
            return;
        }
    }
}
