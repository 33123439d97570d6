//! What must hold across a crash.

use std::ops::RangeInclusive;

use bus_schema::{Epoch, Hash32, event::agent::CheckpointSeen};
use tempfile::TempDir;

use super::{
    chain::Chain,
    checkpoint::{CHECKPOINTS_MAX, Telling},
    inventory::{Item, Told},
    marks,
    outbox::{Cut, Head, Parcel, Waiting},
    *,
};

const C: &str = "dc1";
/// Every row.
const ALL: RangeInclusive<u64> = 0..=u64::MAX;

fn item(path: &str, seq: u64) -> Item {
    Item {
        revision: "r1".into(),
        state_hash: Hash32::of(b"state"),
        extras: 7,
        epoch: Epoch(1),
        seq,
        size_bytes: 12,
        told: Told::Noticed,
        path: path.into(),
    }
}

fn parcel(body: &str) -> Parcel {
    let head = Head { subject: "s".into(), headers: vec![("h".into(), "v".into())], message_id: "m".into() };
    Parcel { head, body: body.to_owned().into() }
}

/// The steps of one set of changes; a crash after step `n` is a change that fails there.
fn steps(writing: &mut Writing<'_>, upto: usize) -> Result<(), LedgerError> {
    let mut chain = Chain::begin()?;
    chain.last_seq = 1;
    for step in 0..upto {
        match step {
            0 => _ = writing.put_parcel(C, 1, &parcel("body"))?,
            1 => writing.put_item(C, "Vm/a", None, &item("a.yaml", 1))?,
            2 => writing.put_journal(C, 1, "Vm/a")?,
            3 => writing.put_mark(C, marks::CUT, &Cut { first: 1, last: 1, batch: true })?,
            _ => writing.put_chain(C, &chain)?,
        }
    }
    Ok(())
}

const STEPS: usize = 5;

fn is_untouched(ledger: &Ledger) -> bool {
    let reading = ledger.reading().unwrap();
    chain::get(&reading.chains, C).unwrap().is_none()
        && reading.item(C, "Vm/a").unwrap().is_none()
        && reading.sum(C, ALL).unwrap() == Waiting::default()
        && reading.changed_between(C, 0, 10).unwrap().is_empty()
        && reading.mark::<Cut>(C, marks::CUT).unwrap().is_none()
        && reading.keys_at(C, "").unwrap().is_empty()
}

#[test]
fn a_crash_after_any_step_leaves_all_or_nothing() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("agent.redb");
    for upto in 0..=STEPS {
        let ledger = Ledger::open(&path).unwrap();
        let crash = ledger.change(|writing| {
            steps(writing, upto)?;
            Err::<(), _>(LedgerError::Row { table: "crash" })
        });
        assert!(crash.is_err() && is_untouched(&ledger), "before reopening, step {upto}");
        drop(ledger);
        assert!(is_untouched(&Ledger::open(&path).unwrap()), "after reopening, step {upto}");
    }
    let ledger = Ledger::open(&path).unwrap();
    ledger.change(|writing| steps(writing, STEPS)).unwrap();
    drop(ledger);
    let ledger = Ledger::open(&path).unwrap();
    let reading = ledger.reading().unwrap();
    assert_eq!(chain::get(&reading.chains, C).unwrap().unwrap().last_seq, 1);
    assert_eq!(reading.item(C, "Vm/a").unwrap(), Some(item("a.yaml", 1)));
    let cut = reading.mark::<Cut>(C, marks::CUT).unwrap().unwrap();
    assert_eq!(reading.parcels(C, cut.first..=cut.last).unwrap(), [parcel("body")]);
}

#[test]
fn clusters_do_not_see_each_other() {
    let directory = TempDir::new().unwrap();
    let ledger = Ledger::open(&directory.path().join("l")).unwrap();
    let one = |cluster: &str| {
        ledger
            .change(|writing| {
                writing.put_parcel(cluster, 1, &parcel(cluster))?;
                writing.put_item(cluster, "Vm/a", None, &item(cluster, 1))?;
                writing.put_mark(cluster, "key/x", &cluster)
            })
            .unwrap();
    };
    ["a", "b", "c"].into_iter().for_each(one);
    ledger.change(|writing| writing.drop_parcels("b", ALL)).unwrap();
    ledger.change(|writing| writing.remove_marks("b", "key/")).unwrap();
    let reading = ledger.reading().unwrap();
    assert_eq!(["a", "b", "c"].map(|cluster| reading.sum(cluster, ALL).unwrap().events), [1, 0, 1]);
    let marks = |cluster| reading.marks::<String>(cluster, "key/").unwrap().len();
    assert_eq!(["a", "b", "c"].map(marks), [1, 0, 1]);
    let mut keys = Vec::new();
    reading
        .each_item("b", |key, item| {
            keys.push((key.to_owned(), item.path));
            true
        })
        .unwrap();
    assert_eq!(keys, [("Vm/a".to_owned(), "b".to_owned())]);
}

#[test]
fn places_follow_their_resources_and_stop_at_path_borders() {
    let directory = TempDir::new().unwrap();
    let ledger = Ledger::open(&directory.path().join("l")).unwrap();
    ledger
        .change(|writing| {
            writing.put_item(C, "Vm/a", None, &item("d/a.yaml", 1))?;
            writing.put_item(C, "Vm/b", None, &item("d2/b.yaml", 2))?;
            writing.put_item(C, "Vm/a", Some(&item("d/a.yaml", 1)), &item("d/c.yaml", 3))
        })
        .unwrap();
    let at = |path: &str| {
        let keys = ledger.reading().unwrap().keys_at(C, path).unwrap();
        keys.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!((at("d"), at("d/a.yaml"), at("d/c.yaml")), (vec!["Vm/a".into()], vec![], vec!["Vm/a".into()]));
    assert_eq!(at("").len(), 2);
    ledger.change(|writing| writing.remove_item(C, "Vm/a", &item("d/c.yaml", 3))).unwrap();
    assert!(at("d").is_empty());
}

#[test]
fn a_second_agent_and_a_newer_format_are_refused_in_words() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("l");
    let ledger = Ledger::open(&path).unwrap();
    let salt = ledger.salt().unwrap();
    let error = Ledger::open(&path).err().unwrap().to_string();
    assert!(error.contains("only one agent"), "{error}");
    drop(ledger);
    assert_eq!(Ledger::open(&path).unwrap().salt().unwrap(), salt, "the salt is kept");
    let db = Database::create(&path).unwrap();
    let txn = db.begin_write().unwrap();
    txn.open_table(META).unwrap().insert("format", &9u64.to_be_bytes()[..]).unwrap();
    txn.commit().unwrap();
    drop(db);
    let error = Ledger::open(&path).err().unwrap().to_string();
    assert!(error.contains("format 9"), "{error}");
}

#[test]
fn the_ledger_and_a_directory_that_is_made_for_it_are_its_users_alone() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("made/for/it");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    drop(Ledger::open(&path).unwrap());
    assert_eq!((mode(path.parent().unwrap()), mode(&path)), (0o700, 0o600));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    Ledger::open(&path).unwrap();
    assert_eq!(mode(&path), 0o600, "an earlier mode is not kept");
}

/// A chain whose log has acknowledged rows of these events, each of about 1 kB.
fn acknowledged(ledger: &Ledger, chain: &mut Chain, events: u64) {
    ledger
        .change(|writing| {
            for _ in 0..events {
                chain.last_seq += 1;
                let parcel = parcel(&"x".repeat(1_000));
                chain.kept_bytes += writing.put_parcel(C, chain.row(chain.last_seq), &parcel)?;
            }
            chain.acked_seq = chain.last_seq;
            writing.put_chain(C, chain)
        })
        .unwrap();
}

#[test]
fn the_oldest_events_go_first_through_all_epochs_and_an_epoch_goes_with_its_last() {
    let directory = TempDir::new().unwrap();
    let ledger = Ledger::open(&directory.path().join("l")).unwrap();
    let mut chain = Chain::begin().unwrap();
    acknowledged(&ledger, &mut chain, 10);
    let one = chain.kept_bytes / 10;
    for events in [5, 20] {
        let ended = chain;
        chain = ended.follow().unwrap();
        ledger.change(|writing| writing.end_epoch(C, &ended)).unwrap();
        acknowledged(&ledger, &mut chain, events);
    }
    let kept = |chain: &Chain| {
        let reading = ledger.reading().unwrap();
        let pasts: Vec<u64> = reading.pasts(C).unwrap().iter().map(|past| past.acked_seq).collect();
        assert_eq!(reading.sum(C, ALL).unwrap().bytes, chain.kept_bytes, "what is counted is there");
        (reading.first_row(C).unwrap(), pasts)
    };
    let trim = |chain: &mut Chain, bytes_max| {
        ledger.change(|writing| writing.trim_kept(C, chain, bytes_max)).unwrap();
    };
    assert_eq!(kept(&chain), (Some(1), vec![10, 5]));
    trim(&mut chain, one * 35);
    assert_eq!(kept(&chain), (Some(1), vec![10, 5]), "at the limit nothing goes");
    trim(&mut chain, one * 32);
    assert_eq!(
        kept(&chain),
        (Some(6), vec![10, 5]),
        "a sixteenth more than needed, so that it is not cut each time"
    );
    trim(&mut chain, one * 24);
    assert_eq!(kept(&chain).1, [5]);
    trim(&mut chain, 0);
    assert_eq!((kept(&chain), chain.kept_bytes), ((None, vec![]), 0));
}

#[test]
fn what_an_epoch_leaves_unacknowledged_is_dropped_and_its_rows_are_the_next_ones() {
    let directory = TempDir::new().unwrap();
    let ledger = Ledger::open(&directory.path().join("l")).unwrap();
    let mut ended = Chain::begin().unwrap();
    acknowledged(&ledger, &mut ended, 3);
    ledger
        .change(|writing| {
            (4..=9).try_for_each(|row| writing.put_parcel(C, row, &parcel("waits")).map(drop))?;
            writing.put_journal(C, 9, "Vm/a")
        })
        .unwrap();
    ended.last_seq = 9;
    let next = ended.follow().unwrap();
    ledger.change(|writing| writing.end_epoch(C, &ended)).unwrap();
    assert_eq!((next.row(1), next.acked_row(), next.kept_bytes), (4, 3, ended.kept_bytes));
    let reading = ledger.reading().unwrap();
    assert_eq!((reading.sum(C, ALL).unwrap().events, reading.pasts(C).unwrap().len()), (3, 1));
    assert!(reading.changed_between(C, 0, 9).unwrap().is_empty());
    let unheard = Chain::begin().unwrap();
    ledger.change(|writing| writing.end_epoch("other", &unheard)).unwrap();
    assert!(ledger.reading().unwrap().pasts("other").unwrap().is_empty(), "of which the log has nothing");
}

fn seen(number: u64, hash: &[u8]) -> CheckpointSeen {
    CheckpointSeen { target: "t".parse().unwrap(), number, hash: Hash32::of(hash) }
}

#[test]
fn a_second_hash_under_a_known_number_is_told_and_stands_beside_the_first() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("l");
    let ledger = Ledger::open(&path).unwrap();
    assert_eq!(ledger.last_checkpoint().unwrap(), None);
    for number in [1, 2] {
        assert_eq!(ledger.see_checkpoint(&seen(number, b"a")).unwrap(), Telling::Fits);
    }
    let contradicts = Telling::Contradicts(Hash32::of(b"a"));
    for _ in 0..2 {
        assert_eq!(ledger.see_checkpoint(&seen(1, b"b")).unwrap(), contradicts);
    }
    assert_eq!(ledger.see_checkpoint(&seen(1, b"a")).unwrap(), Telling::Fits, "the first stays what it was");
    let other = CheckpointSeen { target: "u".parse().unwrap(), ..seen(1, b"c") };
    assert_eq!(ledger.see_checkpoint(&other).unwrap(), Telling::Fits, "numbers are a target's own");
    drop(ledger);
    let ledger = Ledger::open(&path).unwrap();
    assert_eq!(ledger.see_checkpoint(&seen(1, b"c")).unwrap(), contradicts);
    let all: Vec<(String, CheckpointSeen)> = ledger.reading().unwrap().marks("", marks::CHECKPOINT).unwrap();
    let all: Vec<_> = all.into_iter().map(|(_, seen)| seen).collect();
    assert_eq!(all, [seen(1, b"a"), seen(2, b"a"), seen(1, b"b"), other, seen(1, b"c")]);
    assert_eq!(ledger.last_checkpoint().unwrap(), Some(seen(1, b"c")));
}

#[test]
fn as_many_checkpoints_are_remembered_as_are_allowed_the_last_ones() {
    let directory = TempDir::new().unwrap();
    let ledger = Ledger::open(&directory.path().join("l")).unwrap();
    let surplus = 3;
    // Told in one go: a thousand transactions are a thousand fsyncs.
    ledger
        .change(|writing| {
            (0..CHECKPOINTS_MAX as u64).try_for_each(|n| {
                writing.put_mark("", &marks::numbered(marks::CHECKPOINT, n), &seen(n, b"a"))
            })
        })
        .unwrap();
    for number in 0..surplus {
        ledger.see_checkpoint(&seen(number + CHECKPOINTS_MAX as u64, b"a")).unwrap();
    }
    let all: Vec<(String, CheckpointSeen)> = ledger.reading().unwrap().marks("", marks::CHECKPOINT).unwrap();
    assert_eq!((all.len(), all[0].1.number), (CHECKPOINTS_MAX, surplus));
    assert_eq!(ledger.see_checkpoint(&seen(0, b"b")).unwrap(), Telling::Fits, "it was forgotten");
}
