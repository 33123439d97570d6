//! The target's machine is lost, and a backup is restored on an empty one: what was signed holds, agents that ran on come
//! back, and the pool is what the source has. Damaged backups are refused by name and leave nothing.

use std::{
    collections::BTreeSet,
    fs,
    ops::Range,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    eventually,
    farside::{AGENT, AgentProcess, Said, Up, command, farside, log_of, private, with_files},
    random::Random,
};

const LOG: &str = "FARSIDE_LOCAL";
/// Signs and takes snapshots every few events.
const CONFIG: &str = "[service]\nlog_bytes_max = 268435456\ncheckpoint = { events = 10, every = \"1s\" }\n\
                      snapshot = { events = 10, every = \"0s\" }\n[service.schedule]\nevery = \"1h\"\n";

/// What the source holds of a resource.
fn write(dir: &Path, id: u64, revision: u64) {
    let text = format!(r#"{{"kind":"VM","id":"v{id}","revision":"{revision}","state":{{"n":{revision}}}}}"#);
    with_files(dir, &[(&format!("source/{id}.json"), &text)]);
}

/// Changes some of the source's resources.
fn change(dir: &Path, revisions: &mut [u64], which: Range<usize>) {
    for (id, revision) in revisions.iter_mut().enumerate().take(which.end).skip(which.start) {
        *revision += 1;
        write(dir, id as u64, *revision);
    }
}

/// What the pool holds: each live resource with its revision and its state.
fn pool(up: &Up) -> Vec<(String, String, Value)> {
    let said = up.verb(&["pool", "export", "dc1"]);
    let rows = said.out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let live = rows.filter(|row| row.get("deleted_at").is_none());
    let text = |row: &Value, name: &str| row[name].as_str().unwrap_or_default().to_owned();
    live.map(|row| (text(&row, "key"), text(&row, "revision"), row["state"].clone())).collect()
}

fn truth(revisions: &[u64]) -> Vec<(String, String, Value)> {
    let of =
        |(id, revision): (usize, &u64)| (format!("VM/v{id}"), revision.to_string(), json!({ "n": revision }));
    let mut rows: Vec<_> = revisions.iter().enumerate().map(of).collect();
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    rows
}

/// Waits until the pool is proved equal to the source, and holds this.
async fn agrees(up: &Up, revisions: &[u64]) {
    let wanted = truth(revisions);
    eventually("pool and source agree", async || {
        let status: Value = serde_json::from_str(&up.verb(&["-o", "json", "status"]).out).ok()?;
        (status["pools"].get(0)?["in_sync"] == "yes" && pool(up) == wanted).then_some(())
    })
    .await;
}

fn labels(up: &Up) -> usize {
    let names = fs::read_dir(up.dir().join("data/snapshots")).unwrap();
    names.filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|ext| ext == "json")).count()
}

/// A farside that has a source, an agent of its own process, a reader, checkpoints and a snapshot.
async fn lived() -> (Up, AgentProcess, Vec<u64>) {
    let dir = tempfile::Builder::new().prefix("fs").tempdir().unwrap();
    with_files(
        dir.path(),
        &[("farside.toml", CONFIG), ("agent.toml", AGENT), ("ak.secret", "an access key of it")],
    );
    private(&dir.path().join("ak.secret"));
    let revisions = vec![1; 30];
    revisions.iter().enumerate().for_each(|(id, revision)| write(dir.path(), id as u64, *revision));
    let up = Up::start_in(dir);
    up.json(&["agent", "enroll", "inv", "--cluster", "dc1"]);
    up.json(&["tenant", "create", "acme"]);
    let agent = AgentProcess::start(up.dir(), &["agent.toml"]);
    agrees(&up, &revisions).await;
    eventually("a snapshot is kept", async || (labels(&up) > 0).then_some(())).await;
    (up, agent, revisions)
}

fn succeeds(said: &Said) {
    assert_eq!(said.code, Some(0), "{said:?}");
}

/// Loses everything that the target has on its machine, as a fire does.
fn lose(up: Up) -> TempDir {
    let (_, dir) = up.stop();
    fs::remove_dir_all(dir.path().join("data")).unwrap();
    dir
}

/// What restores and backups have left beside the data directory.
fn left(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("data.restoring") || name.contains(".part-")).collect()
}

fn faults(up: &Up) -> Value {
    up.json(&["audit", "verify"])["faults"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_lost_its_machine_stands_up_from_its_backup_and_its_agents_bring_the_rest() {
    let (up, agent, mut revisions) = lived().await;
    let key = fs::read_to_string(up.dir().join("data/keys/signing.nk")).unwrap();
    let token = up.token();
    // Events flow while the backup is taken.
    let backing = command(up.dir()).args(["backup", "farside.tar"]).stderr(Stdio::piped()).spawn().unwrap();
    change(up.dir(), &mut revisions, 0..20);
    let said = backing.wait_with_output().unwrap();
    assert!(said.status.success(), "{said:?}");
    let backup = up.dir().join("farside.tar");
    assert_eq!(fs::metadata(&backup).unwrap().permissions().mode() & 0o777, 0o600);
    // What only the agent has when the machine is lost: acknowledged by a log that is no more.
    change(up.dir(), &mut revisions, 10..30);
    fs::remove_file(up.dir().join("source/5.json")).unwrap();
    let wanted: Vec<_> = truth(&revisions).into_iter().filter(|row| row.0 != "VM/v5").collect();
    eventually("the pool has it", async || (pool(&up) == wanted).then_some(())).await;
    let last = up.bus().await.stream_state(LOG).await.unwrap();
    let port = up.nats_url();

    let dir = lose(up);
    let said = farside(dir.path(), &["restore", "farside.tar"]);
    succeeds(&said);
    assert!(said.err.contains("signed up to") && !said.err.contains("WRONG"), "{said:?}");
    assert!(left(dir.path()).is_empty(), "{:?}", left(dir.path()));
    assert_eq!(fs::read_to_string(dir.path().join("data/keys/signing.nk")).unwrap(), key);
    let up = Up::start_in(dir);
    assert_eq!((up.nats_url(), up.token()), (port, token), "agents and people find it where it was");
    let restored = up.bus().await.stream_state(LOG).await.unwrap();
    assert_eq!(restored.created, last.created, "it is the log that was signed");
    eventually("the agent has come back and brought the rest", async || (pool(&up) == wanted).then_some(()))
        .await;
    eventually("pool and source are proved equal", async || {
        let status: Value = serde_json::from_str(&up.verb(&["-o", "json", "status"]).out).ok()?;
        (status["pools"].get(0)?["in_sync"] == "yes").then_some(())
    })
    .await;
    change(up.dir(), &mut revisions, 6..30);
    let wanted: Vec<_> = truth(&revisions).into_iter().filter(|row| row.0 != "VM/v5").collect();
    eventually("what changes now arrives, too", async || (pool(&up) == wanted).then_some(())).await;
    assert_eq!(faults(&up), json!([]), "{}", log_of(up.dir()));
    drop(agent);
}

/// Another key than the log names, as after a loss; its bytes are put back.
fn a_foreign_key_signs_no_backup(up: &Up) {
    let key = up.dir().join("data/keys/signing.nk");
    let seed = fs::read(&key).unwrap();
    fs::write(&key, nkeys::KeyPair::new_user().seed().unwrap()).unwrap();
    let unsigned = up.verb(&["backup", "unsigned.tar"]);
    assert!(unsigned.code == Some(1) && unsigned.err.contains("but the target's is"), "{unsigned:?}");
    assert!(left(up.dir()).is_empty() && !up.dir().join("unsigned.tar").exists());
    fs::write(&key, seed).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_is_cut_off_changed_or_foreign_is_named_and_leaves_nothing() {
    let (up, agent, revisions) = lived().await;
    succeeds(&up.verb(&["backup", "whole.tar"]));
    succeeds(&up.verb(&["backup", "small.tar", "--without-pool"]));
    let again = up.verb(&["backup", "whole.tar"]);
    assert!(again.code == Some(1) && again.err.contains("is there already"), "{again:?}");
    a_foreign_key_signs_no_backup(&up);
    let over_tcp = up.get("/v1/backup", &[("Authorization", &format!("Bearer {}", up.token()))]);
    assert!(over_tcp.0 == 403 && over_tcp.1.contains("local socket only"), "{over_tcp:?}");
    let taken = farside(up.dir(), &["restore", "whole.tar"]);
    assert!(taken.code == Some(1) && taken.err.contains("is not empty"), "{taken:?}");
    drop(agent);
    let dir = lose(up);
    let path = |name: &str| dir.path().join(name);
    let whole = fs::read(path("whole.tar")).unwrap();
    assert!(fs::metadata(path("small.tar")).unwrap().len() < whole.len() as u64);
    let refused = |what: &str, arguments: &[&str], words: &str| {
        let said = farside(dir.path(), &[&["restore"], arguments].concat());
        assert!(said.code == Some(1) && said.err.contains(words), "{what}: {words}: {said:?}");
        assert!(!path("data").exists() && left(dir.path()).is_empty(), "{what} left {:?}", left(dir.path()));
    };
    let damaged = |what: &str, bytes: &[u8], words: &str| {
        fs::write(path("bad.tar"), bytes).unwrap();
        refused(what, &["bad.tar"], words);
    };
    for cut in [0, 100, 511] {
        damaged(&format!("{cut} bytes of it"), &whole[..cut], "is no backup of farside");
    }
    for cut in [2_000, whole.len() / 3, whole.len() / 2, whole.len() - 4_000] {
        damaged(&format!("{cut} bytes of it"), &whole[..cut], "is cut off: it ends behind");
    }
    let mut random = Random(7);
    for _ in 0..40 {
        let mut bytes = whole.clone();
        // Behind the first entry, and before what only fills the last block up.
        let at = 1_024 + random.below(whole.len() as u64 - 4_096) as usize;
        bytes[at] ^= 1 << random.below(8);
        fs::write(path("bad.tar"), &bytes).unwrap();
        let said = farside(dir.path(), &["restore", "bad.tar"]);
        if said.code == Some(0) {
            // A bit of what fills a block up, or of a header that says nothing of the content.
            fs::remove_dir_all(path("data")).unwrap();
            continue;
        }
        let named = [
            "is not what its manifest says",
            "cannot be read",
            "cut off",
            "does not name",
            "lacks",
            "signature",
        ];
        assert!(named.iter().any(|words| said.err.contains(words)), "byte {at}: {said:?}");
        assert!(!path("data").exists() && left(dir.path()).is_empty(), "byte {at}: {:?}", left(dir.path()));
    }
    damaged("another file", b"SQLite format 3\0 and so on, for quite a while", "is no backup of farside");
    refused("no file", &["nowhere.tar"], "nowhere.tar");
    let other = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4";
    refused("another key", &["whole.tar", "--key", other], "not by U");
    fs::create_dir(path("elsewhere")).unwrap();
    std::os::unix::fs::symlink("elsewhere", path("link")).unwrap();
    refused("a link", &["whole.tar", "--data-dir", "link"], "is a symbolic link");
    fs::write(
        path("farside.toml"),
        format!("{CONFIG}\n").replace("[service]\n", "[service]\ntarget = \"other\"\n"),
    )
    .unwrap();
    refused("another target", &["whole.tar"], "the configuration says other");
    fs::write(path("farside.toml"), CONFIG).unwrap();

    succeeds(&farside(dir.path(), &["restore", "small.tar"]));
    let up = Up::start_in(dir);
    let _agent = AgentProcess::start(up.dir(), &["agent.toml"]);
    agrees(&up, &revisions).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_is_killed_at_any_time_leaves_nothing_half_made_and_the_next_one_succeeds() {
    let (up, agent, revisions) = lived().await;
    succeeds(&up.verb(&["backup", "farside.tar"]));
    drop(agent);
    let dir = lose(up);
    let data = dir.path().join("data");
    let mut random = Random(11);
    for round in 0..12 {
        let mut restoring =
            command(dir.path()).args(["restore", "farside.tar"]).stderr(Stdio::null()).spawn().unwrap();
        let wanted = 1 + random.below(30) as usize;
        eventually("the restore is so far", async || {
            let is_over = restoring.try_wait().unwrap().is_some();
            (is_over || files(&dir.path().join("data.restoring")) >= wanted).then_some(())
        })
        .await;
        let _ = restoring.kill();
        let _ = restoring.wait();
        if data.exists() {
            assert!(is_whole(&data), "round {round}");
            fs::remove_dir_all(&data).unwrap();
        }
    }
    succeeds(&farside(dir.path(), &["restore", "farside.tar", "--data-dir", "data/"]));
    assert!(left(dir.path()).is_empty(), "{:?}", left(dir.path()));
    let up = Up::start_in(dir);
    let _agent = AgentProcess::start(up.dir(), &["agent.toml"]);
    agrees(&up, &revisions).await;
    assert_eq!(faults(&up), json!([]));
}

/// How many files are below a directory that may change meanwhile.
fn files(directory: &Path) -> usize {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.map(|path| if path.is_dir() { files(&path) } else { 1 }).sum()
}

fn is_whole(data: &Path) -> bool {
    let there = |name: &str| PathBuf::from(data).join(name).exists();
    there("keys/signing.nk")
        && there("nats/jetstream/FARSIDE/streams/FARSIDE_LOCAL/meta.sum")
        && !there("restoring")
}

/// The first sequence of the site log.
async fn first_seq(up: &Up) -> u64 {
    up.bus().await.stream_state(LOG).await.unwrap().first_seq
}

#[tokio::test(flavor = "multi_thread")]
async fn what_went_from_a_trimmed_log_survives_the_loss_of_the_pool_and_of_the_machine() {
    let (up, agent, mut revisions) = lived().await;
    let config = CONFIG.replace("[service]\n", "[service]\nretention = { age = \"1s\" }\n");
    let (_, dir) = up.stop();
    with_files(dir.path(), &[("farside.toml", &config)]);
    let up = Up::start_in(dir);
    // Half of the resources change no more: what is known of them goes from the log.
    for _ in 0..20 {
        if first_seq(&up).await > 40 {
            break;
        }
        change(up.dir(), &mut revisions, 0..15);
        let had = labels(&up);
        agrees(&up, &revisions).await;
        eventually("another snapshot, or fewer", async || (labels(&up) != had).then_some(())).await;
    }
    let floor = first_seq(&up).await;
    assert!(floor > 40, "{floor}: {}", log_of(up.dir()));
    let status = up.verb(&["status"]).out;
    assert!(status.contains("trimmed: not before"), "{status}");
    let old = up.verb(&["pool", "history", "dc1", "VM/v20"]);
    assert!(old.code == Some(0) && old.out.contains("not before"), "{old:?}");

    let (_, dir) = up.stop();
    fs::remove_file(dir.path().join("data/pool.redb")).unwrap();
    let up = Up::start_in(dir);
    agrees(&up, &revisions).await;
    let rebuilt = up.json(&["rebuild"]);
    assert_eq!(rebuilt["differences"], json!([]), "{rebuilt}");

    // The shelf is lost, and begins again with the pool.
    let (_, dir) = up.stop();
    fs::remove_dir_all(dir.path().join("data/snapshots")).unwrap();
    let up = Up::start_in(dir);
    assert_eq!(labels(&up), 1, "{}", log_of(up.dir()));
    change(up.dir(), &mut revisions, 0..15);
    agrees(&up, &revisions).await;
    eventually("another snapshot is kept", async || (labels(&up) > 1).then_some(())).await;
    let rebuilt = up.json(&["rebuild"]);
    assert_eq!(rebuilt["differences"], json!([]), "{rebuilt}");
    assert_eq!(faults(&up), json!([]), "{}", log_of(up.dir()));
    let floor = first_seq(&up).await;
    succeeds(&up.verb(&["backup", "farside.tar", "--without-pool"]));
    drop(agent);
    let dir = lose(up);
    let said = farside(dir.path(), &["restore", "farside.tar"]);
    succeeds(&said);
    assert!(said.err.contains("signed up to") && !said.err.contains("WRONG"), "{said:?}");
    let up = Up::start_in(dir);
    assert!(first_seq(&up).await >= floor);
    let wanted = truth(&revisions);
    eventually("the pool holds what it held", async || (pool(&up) == wanted).then_some(())).await;
    assert_eq!(faults(&up), json!([]), "{}", log_of(up.dir()));
}

/// Of a trimmed log without its snapshots, which are put back.
fn a_backup_that_nobody_could_restore_is_refused(up: &Up) {
    let (shelf, away) = (up.dir().join("data/snapshots"), up.dir().join("data/away"));
    fs::rename(&shelf, &away).unwrap();
    fs::create_dir(&shelf).unwrap();
    let refused = up.verb(&["backup", "lacking.tar"]);
    assert!(
        refused.code == Some(1) && refused.err.contains("no snapshot here holds what went"),
        "{refused:?}"
    );
    assert!(left(up.dir()).is_empty() && !up.dir().join("lacking.tar").exists());
    fs::remove_dir_all(&shelf).unwrap();
    fs::rename(&away, &shelf).unwrap();
}

/// The snapshots that a file of a backup names, without their labels.
fn packed_snapshots(backup: &Path) -> BTreeSet<String> {
    let bytes = fs::read(backup).unwrap();
    let starts = bytes.windows(10).enumerate().filter(|(_, window)| *window == b"snapshots/");
    let names = starts.map(|(at, _)| {
        let name = bytes[at + 10..].iter().take_while(|byte| **byte != b'/' && byte.is_ascii_graphic());
        String::from_utf8(name.copied().collect()).unwrap()
    });
    names.filter(|name| name.ends_with(".redb")).collect()
}

/// Damages snapshots of a trimmed log, beginning with the newest; they are put back.
fn a_backup_holds_snapshots_that_are_whole_or_is_refused(up: &Up) {
    let (shelf, away) = (up.dir().join("data/snapshots"), up.dir().join("data/away"));
    fs::rename(&shelf, &away).unwrap();
    fs::create_dir(&shelf).unwrap();
    for entry in fs::read_dir(&away).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), shelf.join(entry.file_name())).unwrap();
    }
    let damage = |name: &str| {
        let mut bytes = fs::read(shelf.join(name)).unwrap();
        bytes[1_000] ^= 1;
        fs::write(shelf.join(name), bytes).unwrap();
    };
    let pack = |name: &str| up.verb(&["backup", name, "--without-pool"]);
    succeeds(&pack("whole.tar"));
    let whole = packed_snapshots(&up.dir().join("whole.tar"));
    damage(whole.last().unwrap());
    let rest: Vec<_> = fs::read_dir(&shelf).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    let pools = rest.iter().filter_map(|name| name.to_str().filter(|name| name.ends_with(".redb")));
    let pools: BTreeSet<String> = pools.map(str::to_owned).collect();
    assert!(pools.len() > 1, "{pools:?}");
    succeeds(&pack("next.tar"));
    let next = packed_snapshots(&up.dir().join("next.tar"));
    assert!(!next.is_empty() && !next.contains(whole.last().unwrap()), "{whole:?} {next:?}");
    assert!(log_of(up.dir()).contains("is damaged and left out of the backup"));
    pools.iter().filter(|name| whole.last() != Some(name)).for_each(|name| damage(name));
    let refused = pack("rotten.tar");
    assert!(
        refused.code == Some(1) && refused.err.contains("no snapshot here holds what went"),
        "{refused:?}"
    );
    fs::remove_dir_all(&shelf).unwrap();
    fs::rename(&away, &shelf).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_holds_what_went_from_a_trimmed_log_also_after_a_site_was_taken_out_of_the_configuration() {
    let (up, agent, mut revisions) = lived().await;
    let (_, dir) = up.stop();
    let with = |more: &str| CONFIG.replace("[service]\n", &format!("[service]\n{more}\n"));
    with_files(dir.path(), &[("farside.toml", &with("sites = [\"local\", \"far\"]"))]);
    let up = Up::start_in(dir);
    let had = labels(&up);
    change(up.dir(), &mut revisions, 0..15);
    eventually("a snapshot of both sites", async || (labels(&up) > had).then_some(())).await;
    let of_both = up.bus().await.stream_state(LOG).await.unwrap().last_seq;
    let (_, dir) = up.stop();
    with_files(dir.path(), &[("farside.toml", &with("retention = { age = \"1s\" }"))]);
    let up = Up::start_in(dir);
    for _ in 0..20 {
        if first_seq(&up).await > of_both {
            break;
        }
        change(up.dir(), &mut revisions, 0..15);
        let had = labels(&up);
        agrees(&up, &revisions).await;
        eventually("another snapshot, or fewer", async || (labels(&up) != had).then_some(())).await;
    }
    assert!(first_seq(&up).await > of_both, "{}", log_of(up.dir()));
    agrees(&up, &revisions).await;
    succeeds(&up.verb(&["backup", "farside.tar", "--without-pool"]));
    let has_snapshot =
        fs::read(up.dir().join("farside.tar")).unwrap().windows(10).any(|w| w == b"snapshots/");
    assert!(has_snapshot, "nothing else holds what went");
    a_backup_that_nobody_could_restore_is_refused(&up);
    a_backup_holds_snapshots_that_are_whole_or_is_refused(&up);
    drop(agent);
    let dir = lose(up);
    succeeds(&farside(dir.path(), &["restore", "farside.tar"]));
    let up = Up::start_in(dir);
    let wanted = truth(&revisions);
    eventually("the pool holds what it held", async || (pool(&up) == wanted).then_some(())).await;
}
