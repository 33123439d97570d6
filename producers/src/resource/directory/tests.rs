//! Edge cases on real directories.

use std::os::unix::fs::symlink;

use bus_schema::Hash32;
use tempfile::TempDir;

use super::*;
use crate::redact::{RedactConfig, Redactor};

fn directory(root: &Path) -> Directory {
    let redactor = Redactor::new(Hash32::ZERO, &RedactConfig::default());
    let reader = Reader { redactor, tenant_label: "t".into(), tenant: None, format: None };
    Directory::new(root, reader)
}

fn write(root: &TempDir, name: &str, text: &str) {
    let path = root.path().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn vm(id: &str) -> String {
    format!("{{\"kind\": \"Vm\", \"id\": \"{id}\", \"state\": {{\"on\": true}}}}\n")
}

#[derive(Debug, Default, PartialEq)]
struct All {
    keys: Vec<String>,
    faults: Vec<(String, bool)>,
    empty: Vec<String>,
}

fn list(directory: &Directory, scope: &Scope) -> (All, ListEnd) {
    let mut all = All::default();
    let end = directory.list(scope, &mut |seen| {
        match seen {
            Seen::Record(record) => all.keys.push(record.key.id().to_owned()),
            Seen::Fault(fault) => all.faults.push((fault.place.to_string(), fault.subtree)),
            Seen::File(file) => {
                if file.empty {
                    all.empty.push(file.place.path);
                }
            }
        }
        Go::On
    });
    (all, end.unwrap())
}

#[test]
fn a_tree_is_read_in_path_order_and_hidden_and_other_files_are_left_alone() {
    let root = TempDir::new().unwrap();
    for name in ["b.json", "a/z.yaml", "a/.hidden.json", "notes.txt", "c.json~"] {
        write(&root, name, &vm(name));
    }
    let (all, end) = list(&directory(root.path()), &Scope::Everything);
    assert_eq!(all, All { keys: vec!["a/z.yaml".into(), "b.json".into()], ..All::default() });
    assert!(!end.explicit_empty);
}

#[test]
fn half_written_and_empty_files_are_said_and_not_taken_for_deletions() {
    let root = TempDir::new().unwrap();
    write(&root, "half.json", "{\"kind\": \"Vm\",\n \"id\": ");
    write(&root, "empty.yaml", "");
    write(&root, "good.json", &vm("g"));
    let (all, _) = list(&directory(root.path()), &Scope::Everything);
    assert_eq!(all.keys, ["g"]);
    assert_eq!(all.faults, [("half.json:2".to_owned(), false)]);
    assert_eq!(all.empty, ["empty.yaml"]);
}

#[test]
fn a_root_that_is_gone_is_unreachable_and_never_empty() {
    let root = TempDir::new().unwrap();
    let gone = directory(&root.path().join("mnt"));
    let error = gone.list(&Scope::Everything, &mut |_| Go::On).unwrap_err();
    assert!(error.to_string().contains("nothing is taken for deleted"), "{error}");
    assert!(gone.get(&[Wanted { key: "Vm/a".parse().unwrap(), path: None }]).is_err());
}

#[test]
fn a_root_that_vanishes_during_the_reading_is_unreachable() {
    let root = TempDir::new().unwrap();
    let base = root.path().join("mnt");
    write(&root, "mnt/a.json", &vm("a"));
    let directory = directory(&base);
    let error = directory.list(&Scope::Everything, &mut |_| {
        fs::rename(&base, root.path().join("elsewhere")).unwrap();
        fs::create_dir(&base).unwrap();
        Go::Stop
    });
    assert!(matches!(error, Err(SourceError::Unreachable { .. })), "{error:?}");
}

#[test]
fn symlinks_stay_in_the_tree() {
    let (root, outside) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    write(&outside, "secret.json", &vm("outside"));
    write(&root, "real/in.json", &vm("in"));
    symlink(outside.path().join("secret.json"), root.path().join("out.json")).unwrap();
    symlink(outside.path(), root.path().join("outdir")).unwrap();
    symlink(root.path(), root.path().join("loop")).unwrap();
    symlink("nowhere", root.path().join("dangling.json")).unwrap();
    let (all, _) = list(&directory(root.path()), &Scope::Everything);
    assert_eq!(all.keys, ["in"]);
    let faults: Vec<&str> = all.faults.iter().map(|(place, _)| place.as_str()).collect();
    assert_eq!(faults, ["dangling.json", "out.json", "outdir"]);
}

#[test]
fn a_file_beyond_the_limit_or_not_utf8_is_a_fault() {
    let root = TempDir::new().unwrap();
    fs::File::create(root.path().join("big.json")).unwrap().set_len(FILE_BYTES_MAX + 1).unwrap();
    fs::write(root.path().join("latin.json"), [b'{', 0xff]).unwrap();
    let (all, _) = list(&directory(root.path()), &Scope::Everything);
    assert_eq!(all.faults.len(), 2);
}

#[test]
fn endings_are_compared_without_case_and_a_name_that_is_not_utf8_is_a_fault() {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};
    let root = TempDir::new().unwrap();
    write(&root, "UPPER.JSON", &vm("upper"));
    write(&root, "b/Mixed.Yaml", &vm("mixed"));
    // Not every file system takes such a name.
    if fs::write(root.path().join("b").join(OsStr::from_bytes(b"latin-\xe9.json")), vm("latin")).is_err() {
        return;
    }
    fs::write(root.path().join("b").join(OsStr::from_bytes(b"\xe9.txt")), "").unwrap();
    let (all, _) = list(&directory(root.path()), &Scope::Everything);
    assert_eq!(all.keys, ["upper", "mixed"]);
    assert_eq!(all.faults, [("b".to_owned(), false)], "one fault, and nothing else below it is in doubt");
}

#[test]
fn a_file_that_was_written_to_has_another_stamp() {
    let root = TempDir::new().unwrap();
    let stamp = || {
        let mut stamps = Vec::new();
        let mut each = |seen| {
            if let Seen::File(file) = seen {
                stamps.push(file.stamp);
            }
            Go::On
        };
        directory(root.path()).list(&Scope::Everything, &mut each).unwrap();
        stamps
    };
    write(&root, "a.json", &vm("a"));
    let (first, again) = (stamp(), stamp());
    assert_eq!((first.len(), &first), (1, &again));
    write(&root, "a.json", &(vm("a") + &vm("b")));
    assert_ne!(stamp(), first);
}

#[test]
fn places_are_read_alone_and_what_is_gone_has_nothing() {
    let root = TempDir::new().unwrap();
    for name in ["a/1.json", "a/2.json", "b.json"] {
        write(&root, name, &vm(name));
    }
    let places = Scope::Places(vec!["a/1.json".into(), "a".into(), "gone.json".into()]);
    let (all, _) = list(&directory(root.path()), &places);
    assert_eq!(all, All { keys: vec!["a/1.json".into(), "a/2.json".into()], ..All::default() });
}

#[test]
fn get_reads_the_source_even_when_the_resource_moved() {
    let root = TempDir::new().unwrap();
    write(&root, "new.json", &vm("a"));
    let wanted = |path: &str| vec![Wanted { key: "Vm/a".parse().unwrap(), path: Some(path.into()) }];
    for hint in ["new.json", "old.json"] {
        let found = directory(root.path()).get(&wanted(hint)).unwrap();
        assert_eq!((found.records.len(), found.faults.len()), (1, 0), "{hint}");
    }
    let gone = vec![Wanted { key: "Vm/b".parse().unwrap(), path: None }];
    assert_eq!(directory(root.path()).get(&gone).unwrap(), Found::default());
}

#[test]
fn an_empty_tree_is_meant_so_only_with_the_marker() {
    let root = TempDir::new().unwrap();
    assert!(!list(&directory(root.path()), &Scope::Everything).1.explicit_empty);
    write(&root, EMPTY_MARKER, "");
    assert!(list(&directory(root.path()), &Scope::Everything).1.explicit_empty);
}

#[tokio::test]
async fn a_change_wakes_the_reader_with_its_place() {
    let root = TempDir::new().unwrap();
    let directory = directory(root.path());
    list(&directory, &Scope::Everything);
    let dirty = directory.dirt().unwrap();
    write(&root, "a.json", &vm("a"));
    assert_eq!(dirty.settled().await, Scope::Places(vec!["a.json".into()]));
}
