//! The SQLite store: the conformance suite, several stores on one file, files that are not ours or somebody else's, and
//! callers that go away.
#![cfg(feature = "sqlite")]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

mod support;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pollster::block_on;
use rusqlite::Connection;
use sessile_engine::StoreErrorKind;
use sessile_engine::store::conformance::{Subject, cases};
use sessile_engine::store::{Change, Notice, Outcome, Store};
use sessile_stores::sqlite::SqliteStore;
use support::{conforms, id, insert, owned, row, update};

const BOUND: Duration = Duration::from_secs(20);

struct File(tempfile::TempDir);

impl File {
    fn new() -> Self {
        let file = Self(tempfile::tempdir().unwrap());
        SqliteStore::builder(file.path()).deadline(BOUND).migrate().unwrap();
        file
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("sessions.sqlite")
    }
}

fn open(path: &Path) -> SqliteStore {
    SqliteStore::builder(path).deadline(BOUND).open().unwrap()
}

fn sqlite() -> String {
    format!("SQLite {}, real", rusqlite::version())
}

fn hex(n: u32) -> String {
    id(n).as_bytes().iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn conformance() {
    let files = Mutex::new(Vec::new());
    conforms("SQLite", &sqlite(), async |_| {
        let file = File::new();
        let path = file.path();
        files.lock().unwrap().push(file);
        Subject::new(open(&path)).reopened_by(move || Box::pin(std::future::ready(Subject::new(open(&path)))))
    });
}

#[test]
fn conformance_as_the_only_one() {
    let only = |path: &Path| SqliteStore::builder(path).exclusive(true).open().unwrap();
    let files = Mutex::new(Vec::new());
    conforms("SQLite, one user", &sqlite(), async |_| {
        let file = File::new();
        let path = file.path();
        files.lock().unwrap().push(file);
        Subject::new(only(&path)).reopened_by(move || {
            let store = (0..100).find_map(|_| {
                // The thread of the one before lets go of the file when it ends.
                std::thread::sleep(Duration::from_millis(10));
                SqliteStore::builder(&path).exclusive(true).open().ok()
            });
            Box::pin(std::future::ready(Subject::new(store.unwrap())))
        })
    });
}

#[test]
fn conformance_in_memory() {
    for case in cases() {
        let memory = Connection::open_in_memory().unwrap();
        block_on(case.run(Subject::new(SqliteStore::from_connection(memory, "s").unwrap())));
    }
}

#[test]
fn an_exclusive_file_has_one_store() {
    let file = File::new();
    let only = SqliteStore::builder(file.path()).exclusive(true);
    let store = only.clone().open().unwrap();
    assert!(store.capabilities().exclusive);
    assert_eq!(only.clone().open().unwrap_err().kind(), StoreErrorKind::Locked);
    let other = SqliteStore::builder(file.path()).deadline(Duration::from_millis(20)).open();
    assert_eq!(other.unwrap_err().kind(), StoreErrorKind::Unavailable);
    let _ = block_on(store.commit(1, &[insert(1, row(1))])).unwrap();
    drop(store);
    // And the other way round.
    let shared = open(&file.path());
    assert!(block_on(shared.load(&id(1))).unwrap().is_some());
    assert_eq!(only.open().unwrap_err().kind(), StoreErrorKind::Locked);
}

#[test]
fn it_is_opened_with_its_tables_only() {
    let dir = tempfile::tempdir().unwrap();
    let builder = SqliteStore::builder(dir.path().join("s"));
    assert_eq!(builder.clone().open().unwrap_err().kind(), StoreErrorKind::Config);
    let connection = Connection::open(dir.path().join("s")).unwrap();
    connection.execute_batch(&builder.schema_sql()).unwrap();
    connection.execute_batch(&builder.schema_sql()).unwrap();
    builder.clone().open().unwrap();
    for (version, kind) in [(2, StoreErrorKind::NewerFormat), (0, StoreErrorKind::Config)] {
        connection
            .execute("UPDATE sessile_sessions_marks SET value = ? WHERE name = 'schema'", [version])
            .unwrap();
        builder.migrate().unwrap();
        assert_eq!(builder.clone().open().unwrap_err().kind(), kind);
    }
    std::fs::write(dir.path().join("foreign"), [7; 8192]).unwrap();
    let foreign = SqliteStore::builder(dir.path().join("foreign"));
    assert_eq!(foreign.migrate().unwrap_err().kind(), StoreErrorKind::Foreign);
    assert_eq!(foreign.open().unwrap_err().kind(), StoreErrorKind::Foreign);
    let nowhere = SqliteStore::builder(dir.path().join("no/where"));
    assert_eq!(nowhere.open().unwrap_err().kind(), StoreErrorKind::Config);
    // Eight at once.
    let path = dir.path().join("eight");
    let nodes: Vec<_> = (0..8)
        .map(|_| {
            let builder = SqliteStore::builder(&path).deadline(BOUND);
            std::thread::spawn(move || builder.migrate())
        })
        .collect();
    for node in nodes {
        node.join().unwrap().unwrap();
    }
}

#[cfg(unix)]
#[test]
fn a_new_file_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let file = File::new();
    let store = open(&file.path());
    let _ = block_on(store.commit(1, &[insert(1, row(1))])).unwrap();
    let mut files = 0;
    for entry in std::fs::read_dir(file.0.path()).unwrap() {
        let mode = entry.unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        files += 1;
    }
    assert_eq!(files, 3);
}

#[test]
fn the_table_holds_what_it_says() {
    let file = File::new();
    let store = open(&file.path());
    let later = sessile_engine::store::Row { expires_at: 4_000_000_123_456, ..owned(2, "Ann") };
    let _ = block_on(store.commit(1, &[insert(1, row(1)), update(1, 1, later)])).unwrap();
    let connection = Connection::open(file.path()).unwrap();
    let get = |text: &str| connection.query_row(text, [], |row| row.get::<_, String>(0)).unwrap();
    let held = "SELECT version || '|' || expires_at || '|' || CAST(owner AS TEXT) FROM sessile_sessions";
    assert_eq!(get(held), "2|4000000123456|Ann");
    for other in ["ann", "Ann ", "ANN"] {
        assert!(block_on(store.list_owner(other)).unwrap().is_empty());
    }
    let _ = block_on(store.commit(5, &[Change::Quarantine { id: id(1) }])).unwrap();
    assert_eq!(get("SELECT version || '|' || quarantined_at FROM sessile_sessions_quarantine"), "2|5");
    for (query, index) in [
        (
            "SELECT id FROM sessile_sessions WHERE expires_at BETWEEN 0 AND 5 ORDER BY expires_at LIMIT 9",
            "_expiry",
        ),
        ("SELECT id FROM sessile_sessions WHERE owner = 'u' ORDER BY id", "_owner"),
    ] {
        let plan: String =
            connection.query_row(&format!("EXPLAIN QUERY PLAN {query}"), [], |row| row.get(3)).unwrap();
        assert!(plan.contains(index), "{plan}");
    }
}

#[test]
fn a_damaged_row_is_corrupt_by_itself_and_named_by_a_scan() {
    let file = File::new();
    let store = open(&file.path());
    let _ = block_on(store.commit(1, &(0..9).map(|n| insert(n, owned(1, "a"))).collect::<Vec<_>>())).unwrap();
    let connection = Connection::open(file.path()).unwrap();
    connection
        .execute_batch(&format!("UPDATE sessile_sessions SET owner = x'ff' WHERE id = x'{}'", hex(4)))
        .unwrap();
    assert_eq!(block_on(store.load(&id(4))).unwrap_err().kind(), StoreErrorKind::Corrupt);
    let scan = block_on(store.scan(None, 100)).unwrap();
    assert_eq!((scan.rows.len(), scan.damaged), (8, vec![id(4)]));
    assert_eq!(block_on(store.list(None, 8)).unwrap().len(), 8);
}

/// Somebody else writes: a change waits for him, as long as it may.
#[test]
fn a_busy_file_is_waited_for() {
    let file = File::new();
    let patient = Arc::new(open(&file.path()));
    let hasty = SqliteStore::builder(file.path()).deadline(Duration::from_millis(50)).open().unwrap();
    let other = Connection::open(file.path()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let e = block_on(hasty.commit(1, &[insert(1, row(1))])).unwrap_err();
    assert_eq!(e.kind(), StoreErrorKind::Unavailable, "{e}");
    let waiting = {
        let patient = Arc::clone(&patient);
        std::thread::spawn(move || block_on(patient.commit(1, &[insert(1, row(1))])))
    };
    // Reads wait for nobody.
    assert!(block_on(patient.load(&id(1))).unwrap().is_none());
    other.execute_batch("COMMIT").unwrap();
    assert_eq!(waiting.join().unwrap().unwrap(), [Outcome::Done]);
    assert_eq!(block_on(hasty.commit(1, &[insert(1, row(1))])).unwrap(), [Outcome::Exists]);
}

#[test]
fn calls_that_are_dropped_leave_nothing_behind() {
    let file = File::new();
    let store = open(&file.path());
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    for n in 0..3000_u32 {
        let wanted = id(n % 100);
        let changes = [insert(n, row(u64::from(n) + 1))];
        let mut commit = std::pin::pin!(store.commit(1, &changes));
        let _ = commit.as_mut().poll(&mut context);
        let mut load = std::pin::pin!(store.load(&wanted));
        let _ = load.as_mut().poll(&mut context);
    }
    // Each went on by itself, and each answer is its own question's.
    let _ = block_on(store.commit(1, &[])).unwrap();
    assert_eq!(block_on(store.count()).unwrap(), Some(3000));
    for n in 0..3000 {
        assert_eq!(block_on(store.load(&id(n))).unwrap().unwrap().version, u64::from(n) + 1);
    }
}

/// One full page more than the file may have: nothing is changed, and all is well when there is space again.
#[test]
fn a_full_disk_changes_nothing() {
    let connection = Connection::open_in_memory().unwrap();
    let store = {
        connection.execute_batch("PRAGMA max_page_count = 40").unwrap();
        SqliteStore::from_connection(connection, "s").unwrap()
    };
    let mut big = row(1);
    big.bytes = vec![7; 50_000];
    let mut full = None;
    for n in 0..10 {
        match block_on(store.commit(1, &[insert(n, big.clone()), insert(100 + n, row(1))])) {
            Ok(_) => {}
            Err(e) => {
                full = Some((n, e.kind()));
                break;
            }
        }
    }
    let (n, kind) = full.expect("the file is full");
    assert_eq!(kind, StoreErrorKind::Full);
    assert!(block_on(store.load(&id(100 + n))).unwrap().is_none());
    let _ = block_on(store.commit(1, &[Change::Delete { id: id(0) }])).unwrap();
    assert_eq!(block_on(store.commit(1, &[insert(n, big)])).unwrap(), [Outcome::Done]);
}

#[test]
fn every_change_of_every_store_is_told() {
    let file = File::new();
    let stores = [open(&file.path()), open(&file.path())];
    let mut watch = block_on(stores[0].watch()).unwrap();
    let mut missing: HashSet<_> = (0..200).map(id).collect();
    let writers = stores.map(Arc::new);
    let threads: Vec<_> = (0..2_u32)
        .map(|w| {
            let store = Arc::clone(&writers[w as usize]);
            std::thread::spawn(move || {
                for n in 0..100 {
                    let _ = block_on(store.commit(1, &[insert(w * 100 + n, row(1))])).unwrap();
                }
            })
        })
        .collect();
    while !missing.is_empty() {
        match block_on(watch.next()).unwrap() {
            Notice::Changed(ids) => {
                for id in ids {
                    assert!(missing.remove(&id), "told twice");
                }
            }
            other => assert_eq!(other, Notice::Alive),
        }
    }
    for thread in threads {
        thread.join().unwrap();
    }
    // Removed before it was seen: something was missed.
    let connection = Connection::open(file.path()).unwrap();
    connection.busy_timeout(BOUND).unwrap();
    let store = &writers[1];
    let mut late = block_on(store.watch()).unwrap();
    connection
        .execute_batch(
            "BEGIN IMMEDIATE; INSERT INTO sessile_sessions_changes (ids) VALUES (x'');
             DELETE FROM sessile_sessions_changes; INSERT INTO sessile_sessions_changes (ids) VALUES (x''); COMMIT",
        )
        .unwrap();
    while block_on(late.next()).unwrap() != Notice::Lost {}
    block_on(store.close()).unwrap();
    let e = loop {
        if let Err(e) = block_on(late.next()) {
            break e;
        }
    };
    assert_eq!(e.kind(), StoreErrorKind::Closed);
}
