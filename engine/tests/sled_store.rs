//! The sled store from outside: the conformance suite, other processes, and kills.
#![cfg(all(feature = "conformance", feature = "sled"))]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::PathBuf;

use pollster::block_on;
use sessile_engine::store::SledStore;
use sessile_engine::store::conformance::{Subject, cases, run};
use sessile_engine::{Delivery, Engine};

fn subject(path: PathBuf) -> Subject {
    let store = SledStore::open(&path).unwrap();
    Subject::new(store)
        .reopened_by(move || Box::pin(std::future::ready(Subject::new(SledStore::open(&path).unwrap()))))
}

#[test]
fn the_sled_store_conforms() {
    let dir = tempfile::tempdir().unwrap();
    let count = std::cell::Cell::new(0);
    let report = block_on(run(async || {
        count.set(count.get() + 1);
        subject(dir.path().join(count.get().to_string()))
    }));
    println!("conforms: {}", report.row("sled", "itself"));
    assert!(cases().len() >= 60);
}

#[test]
fn an_engine_over_sled_keeps_its_sessions() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    block_on(async {
        let engine = Engine::builder().open_sled(&path).unwrap();
        let session = engine.session(None).await.unwrap();
        session.put("user", "ann").unwrap();
        let Delivery::Issue(issue) = session.commit().await.unwrap() else { panic!("no token") };
        engine.close().await.unwrap();
        let engine = Engine::builder().open_sled(&path).unwrap();
        let session = engine.session(Some(&issue.token)).await.unwrap();
        assert_eq!(session.get::<String>("user").unwrap().as_deref(), Some("ann"));
    });
}

/// What a test does in a process of its own: it runs itself again, and [`the_other_process`] obeys.
#[cfg(unix)]
mod processes {
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::path::Path;
    use std::process::{Command, Stdio};

    use pollster::block_on;
    use sessile_engine::SessionId;
    use sessile_engine::store::{Change, Row, SledStore, Store, StoreErrorKind};

    const PATH: &str = "SESSILE_TEST_OPEN";
    const KILL: &str = "SESSILE_TEST_KILL";

    fn again(umask: &str, name: &str) -> Command {
        let mut command = Command::new("sh");
        command
            .arg("-c")
            .arg(format!("umask {umask}; exec \"$0\" --exact processes::{name} --nocapture"))
            .arg(std::env::current_exe().unwrap());
        command
    }

    /// Opens `path` under `umask` in another process; returns what became of it.
    fn open_elsewhere(umask: &str, path: &Path) -> String {
        let output = again(umask, "the_other_process").env(PATH, path).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().find_map(|l| l.split_once("opened: ").map(|(_, r)| r.to_owned())).unwrap_or(text)
    }

    #[test]
    fn the_other_process() {
        if let Some(path) = std::env::var_os(PATH) {
            let result = SledStore::open(path).map(|_| "well").map_err(|e| e.kind());
            println!("\nopened: {result:?}");
        }
    }

    #[test]
    fn a_new_directory_is_its_owners_alone_whatever_the_umask() {
        let dir = tempfile::tempdir().unwrap();
        for umask in ["000", "022", "077", "777"] {
            let path = dir.path().join(umask);
            assert_eq!(open_elsewhere(umask, &path), "Ok(\"well\")");
            assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o700, "umask {umask}");
            for file in std::fs::read_dir(&path).unwrap() {
                let file = file.unwrap();
                let wanted = if file.path().is_dir() { 0o700 } else { 0o600 };
                assert_eq!(file.metadata().unwrap().mode() & 0o7777, wanted, "{file:?}, umask {umask}");
            }
        }
    }

    #[test]
    fn another_process_finds_the_directory_locked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let store = SledStore::open(&path).unwrap();
        let before = std::fs::read(path.join("db")).unwrap();
        assert_eq!(open_elsewhere("022", &path), "Err(Locked)");
        assert!(std::fs::read(path.join("db")).unwrap() == before);
        drop(store);
        assert_eq!(open_elsewhere("022", &path), "Ok(\"well\")");
    }

    #[test]
    fn paths_that_cannot_work_say_so() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().join("real");
        drop(SledStore::open(&real).unwrap());
        let link = dir.path().join("link");
        symlink(&real, &link).unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, b"").unwrap();
        for path in [&file, &dir.path().join("no/such"), &file.join("below"), &link] {
            let error = SledStore::open(path).unwrap_err();
            assert_eq!(error.kind(), StoreErrorKind::Config, "{error}");
            assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        }
        // A mode that the operator chose stays.
        std::fs::set_permissions(&real, std::fs::Permissions::from_mode(0o750)).unwrap();
        drop(SledStore::open(&real).unwrap());
        assert_eq!(real.metadata().unwrap().mode() & 0o777, 0o750);
    }

    const IDS: u32 = 3000;

    fn id(n: u32) -> SessionId {
        let mut bytes = [0x33; 32];
        bytes[..4].copy_from_slice(&n.wrapping_mul(0x9E37_79B1).to_le_bytes());
        SessionId::from_bytes(bytes)
    }

    /// The `b`th commit: rows of version `b` under ids that wander, so that most are met again; one in three commits is
    /// large enough for several of sled's segments. The first row is the same in all.
    fn batch(b: u32) -> Vec<Change> {
        let len = if b.is_multiple_of(3) { 2500 } else { 20 };
        let ids = std::iter::once(0).chain((0..len).map(move |i| 1 + (b * 700 + i) % (IDS - 1)));
        ids.map(|n| Change::Put { id: id(n), row: row(b, n) }).collect()
    }

    fn row(b: u32, n: u32) -> Row {
        let bytes =
            [b.to_le_bytes(), n.to_le_bytes()].concat().repeat(if n.is_multiple_of(97) { 1500 } else { 50 });
        Row { version: u64::from(b), expires_at: 1 << 50, owner: Some(format!("{}", n % 7).into()), bytes }
    }

    /// Commits from where the directory stands, saying each number once it is acknowledged, until killed.
    #[test]
    fn the_one_to_be_killed() {
        let Some(path) = std::env::var_os(KILL) else { return };
        let store = SledStore::open_with_cache(path, 1 << 20).unwrap();
        let from = block_on(store.load(&id(0))).unwrap().map_or(1, |row| row.version as u32 + 1);
        for b in from.. {
            block_on(store.commit(u64::from(b), &batch(b))).unwrap();
            let mut out = std::io::stdout();
            out.write_all(format!("\nacknowledged {b}\n").as_bytes()).and_then(|()| out.flush()).unwrap();
        }
    }

    /// Every acknowledged commit is there after `kill -9`, the one under way whole or not at all, and nothing else.
    #[test]
    fn kill_9_loses_no_acknowledged_commit_and_halves_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let mut expected = std::collections::BTreeMap::new();
        let mut stands = 0;
        for round in 0..8 {
            let mut child = again("022", "the_one_to_be_killed")
                .env(KILL, &path)
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let mut acknowledged = stands;
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
            let wanted = stands + 2 + round;
            while acknowledged < wanted {
                let line = lines.next().expect("the child went early");
                if let Some(b) = line.strip_prefix("acknowledged ") {
                    acknowledged = b.parse().unwrap();
                }
            }
            child.kill().unwrap();
            for line in lines {
                if let Some(b) = line.strip_prefix("acknowledged ") {
                    acknowledged = b.parse().unwrap();
                }
            }
            child.wait().unwrap();
            let store = SledStore::open(&path).unwrap();
            let found = block_on(store.load(&id(0))).unwrap().unwrap().version as u32;
            assert!(
                found == acknowledged || found == acknowledged + 1,
                "round {round}: {found} found, {acknowledged} acknowledged"
            );
            for b in stands + 1..=found {
                for change in batch(b) {
                    let Change::Put { id, row } = change else { unreachable!() };
                    expected.insert(id, row);
                }
            }
            stands = found;
            for n in 0..IDS {
                assert_eq!(
                    block_on(store.load(&id(n))).unwrap(),
                    expected.get(&id(n)).cloned(),
                    "round {round}, row {n}"
                );
            }
            assert_eq!(block_on(store.count()).unwrap(), Some(expected.len() as u64));
            assert_eq!(block_on(store.high_water()).unwrap(), u64::from(found));
            let mut owned = 0;
            for owner in 0..7 {
                owned += block_on(store.list_owner(&owner.to_string())).unwrap().len();
            }
            assert_eq!(owned, expected.len(), "round {round}: the owner index");
        }
    }

    const FULL: &str = "SESSILE_TEST_FULL";

    /// Commits until the limit on the size of files makes sled fail, and says what came of it.
    #[test]
    fn the_one_without_space() {
        let Some(path) = std::env::var_os(FULL) else { return };
        let store = SledStore::open(path).unwrap();
        let error = loop_until_error(&store);
        // Reads go on, but for pages that the failed batch touched and that are no longer in memory.
        let read = (0..IDS).filter(|n| match block_on(store.load(&id(*n))) {
            Ok(row) => row.is_some(),
            Err(e) => {
                assert_eq!(e.kind(), StoreErrorKind::Io, "{e}");
                false
            }
        });
        assert!(read.count() > 0);
        let again = block_on(store.commit(1, &batch(1))).unwrap_err().kind();
        block_on(store.close()).unwrap();
        println!("\nended: {} {:?} {again:?}", error.0, error.1);
    }

    /// How many commits were acknowledged, and the kind of the error that ended them.
    fn loop_until_error(store: &SledStore) -> (u32, StoreErrorKind) {
        for b in 1.. {
            if let Err(e) = block_on(store.commit(u64::from(b), &batch(b))) {
                return (b - 1, e.kind());
            }
        }
        unreachable!()
    }

    /// An I/O error of sled's, for which the limit on the size of files stands in: no commit waits for ever, the store
    /// is read-only afterwards, and what was acknowledged is there.
    #[test]
    fn an_io_error_latches_and_loses_nothing_acknowledged() {
        for blocks in [4000, 9000, 14_500, 20_001] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("s");
            let output = Command::new("sh")
                .arg("-c")
                .arg(format!(
                    "trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" --exact processes::the_one_without_space --nocapture"
                ))
                .arg(std::env::current_exe().unwrap())
                .env(FULL, &path)
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            let ended = text.lines().find_map(|line| line.strip_prefix("ended: ")).unwrap_or_else(|| {
                panic!("{blocks}: {text}\n{}", String::from_utf8_lossy(&output.stderr));
            });
            let (acknowledged, kinds) = ended.split_once(' ').unwrap();
            assert_eq!(kinds, "Io ReadOnly", "{blocks}");
            let acknowledged: u32 = acknowledged.parse().unwrap();
            let store = SledStore::open(&path).unwrap();
            let mut expected = std::collections::BTreeMap::new();
            for change in (1..=acknowledged).flat_map(batch) {
                let Change::Put { id, row } = change else { unreachable!() };
                expected.insert(id, row);
            }
            // Rows of the batch that failed may be there, too.
            let failed: std::collections::BTreeMap<_, _> = batch(acknowledged + 1)
                .into_iter()
                .map(|change| {
                    let Change::Put { id, row } = change else { unreachable!() };
                    (id, row)
                })
                .collect();
            for n in 0..IDS {
                let found = block_on(store.load(&id(n))).unwrap();
                assert!(
                    found.as_ref() == expected.get(&id(n)) || found.as_ref() == failed.get(&id(n)),
                    "{blocks}, row {n} after {acknowledged}"
                );
            }
            let _outcomes = block_on(store.commit(1, &batch(acknowledged + 1))).unwrap();
        }
    }
}
