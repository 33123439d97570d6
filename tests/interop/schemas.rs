//! The contract's files before the validators of other ecosystems: the AsyncAPI document before AsyncAPI's own
//! parser, and the JSON Schemas before one validator of Node, of Python and of Go. Each takes every golden
//! sample, and refuses it without any one of what its schema requires.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};

use super::{
    language::{NPM, PIP},
    toolbox::Recipe,
};

fn room() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("bus-schema")
}

fn value_of(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// How many schemas there are below a folder, and how many properties they require.
fn counted(folder: &Path) -> (usize, usize) {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).fold(
        (0, 0),
        |(schemas, required), path| {
            let (more, of_them) = if path.is_dir() {
                counted(&path)
            } else {
                (1, value_of(&path)["required"].as_array().map_or(0, Vec::len))
            };
            (schemas + more, required + of_them)
        },
    )
}

/// Runs a validator; answers what it prints.
fn checked(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn asyncapis_own_parser_and_ajv_take_the_contract() {
    let recipe = Recipe {
        folder: "schemas/node",
        tool: &["node", "--version"],
        fetch: &[NPM],
        build: &[],
        cure: "install Node 18 or newer with npm",
    };
    let Some(place) = recipe.ready("AsyncAPI's parser and Ajv on the contract") else { return };
    let said = checked(Command::new("node").arg("check.mjs").arg(room()).current_dir(place));
    let (samples, refused) = counted(&room().join("schema"));
    let channels = value_of(&room().join("asyncapi.json"))["channels"].as_object().unwrap().len();
    let found: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(found, json!({ "samples": samples, "refused": refused, "channels": channels, "faults": [] }));
}

#[test]
fn pythons_jsonschema_takes_the_contract() {
    let recipe = Recipe {
        folder: "schemas/python",
        tool: &["python3", "--version"],
        fetch: &[PIP],
        build: &[],
        cure: "install Python 3 with pip",
    };
    let Some(place) = recipe.ready("Python's jsonschema on the contract") else { return };
    let tool = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/check_schemas.py");
    let said = checked(Command::new("python3").arg(tool).env("PYTHONPATH", place.join("lib")));
    let (samples, refused) = counted(&room().join("schema"));
    assert_eq!(
        said.trim(),
        format!("{samples} samples checked, {refused} without something required refused, 0 faults")
    );
}

#[test]
fn a_validator_of_go_takes_the_contract() {
    let recipe = Recipe {
        folder: "schemas/go",
        tool: &["go", "version"],
        fetch: &[&["go", "mod", "download"]],
        build: &[&["go", "build", "-o", "check", "."]],
        cure: "install Go 1.23 or newer",
    };
    let Some(place) = recipe.ready("a JSON Schema validator of Go on the contract") else { return };
    let said = checked(Command::new(place.join("check")).arg(room()));
    let (samples, refused) = counted(&room().join("schema"));
    let found: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(found, json!({ "samples": samples, "refused": refused, "faults": [] }));
}
