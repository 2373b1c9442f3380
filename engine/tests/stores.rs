//! The conformance suite on the stores of this crate, one report line a case.
#![cfg(all(feature = "conformance", feature = "redb"))]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic, and tell")]

use std::path::PathBuf;

use pollster::block_on;
use sessile_engine::store::conformance::{Subject, cases, run};
use sessile_engine::store::{MemoryStore, RedbStore};

/// Runs the suite, and prints the row for the table of docs/stores.md, which `tests/stores/run` collects.
fn conforms(store: &str, server: &str, make: impl Fn() -> Subject) {
    let report = block_on(run(async || make()));
    println!("conforms: {}", report.row(store, server));
    assert!(cases().len() >= 60);
}

#[test]
fn the_memory_store_conforms() {
    conforms("memory", "itself", || {
        let store = MemoryStore::new();
        let same_rows = store.clone();
        Subject::new(store).reopened_by(move || Box::pin(std::future::ready(Subject::new(same_rows.clone()))))
    });
}

#[test]
fn the_memory_store_conforms_when_it_is_shared() {
    conforms("memory, shared", "itself", || Subject::new(MemoryStore::shared()));
}

fn redb_subject(path: PathBuf) -> Subject {
    let store = RedbStore::open(&path).unwrap();
    Subject::new(store)
        .reopened_by(move || Box::pin(std::future::ready(Subject::new(RedbStore::open(&path).unwrap()))))
}

#[test]
fn the_redb_store_conforms() {
    let dir = tempfile::tempdir().unwrap();
    let files = std::cell::Cell::new(0);
    conforms("redb", "itself", || {
        files.set(files.get() + 1);
        redb_subject(dir.path().join(format!("{}.redb", files.get())))
    });
}

/// What a test does in a process of its own: it runs itself again, and [`the_other_process`] obeys.
#[cfg(unix)]
mod processes {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::path::Path;
    use std::process::Command;

    use sessile_engine::store::{RedbStore, StoreErrorKind};

    const PATH: &str = "SESSILE_TEST_OPEN";

    /// Opens `path` under `umask` in another process; returns what became of it.
    fn open_elsewhere(umask: &str, path: &Path) -> String {
        let output = Command::new("sh")
            .arg("-c")
            .arg(format!("umask {umask}; exec \"$0\" --exact processes::the_other_process --nocapture"))
            .arg(std::env::current_exe().unwrap())
            .env(PATH, path)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().find_map(|l| l.split_once("opened: ").map(|(_, r)| r.to_owned())).unwrap_or(text)
    }

    #[test]
    fn the_other_process() {
        if let Some(path) = std::env::var_os(PATH) {
            let result = RedbStore::open(path).map(|_| "well").map_err(|e| e.kind());
            println!("\nopened: {result:?}");
        }
    }

    #[test]
    fn a_new_file_is_its_owners_alone_whatever_the_umask() {
        let dir = tempfile::tempdir().unwrap();
        for umask in ["000", "022", "077", "777"] {
            let path = dir.path().join(umask);
            assert_eq!(open_elsewhere(umask, &path), "Ok(\"well\")");
            assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o600, "umask {umask}");
        }
    }

    #[test]
    fn another_process_finds_the_file_locked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.redb");
        let store = RedbStore::open(&path).unwrap();
        let before = std::fs::read(&path).unwrap();
        assert_eq!(open_elsewhere("022", &path), "Err(Locked)");
        assert!(std::fs::read(&path).unwrap() == before);
        drop(store);
        assert_eq!(open_elsewhere("022", &path), "Ok(\"well\")");
    }

    #[test]
    fn paths_that_cannot_work_say_so() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().join("real");
        drop(RedbStore::open(&real).unwrap());
        let link = dir.path().join("link");
        symlink(&real, &link).unwrap();
        let dangling = dir.path().join("dangling");
        symlink(dir.path().join("nothing"), &dangling).unwrap();
        for path in [dir.path(), &dir.path().join("no/such"), &real.join("below"), &link, &dangling] {
            let error = RedbStore::open(path).unwrap_err();
            assert_eq!(error.kind(), StoreErrorKind::Config, "{error}");
            assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        }
        assert!(!dir.path().join("nothing").exists());
        // A mode that the operator chose stays.
        std::fs::set_permissions(&real, std::fs::Permissions::from_mode(0o640)).unwrap();
        drop(RedbStore::open(&real).unwrap());
        assert_eq!(real.metadata().unwrap().mode() & 0o777, 0o640);
    }
}
