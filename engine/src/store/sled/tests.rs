//! Tests of what only this store has: its directory, its lock, its damage, its failures.

use std::collections::{BTreeMap, HashMap};
use std::fs;

use pollster::block_on;

use super::*;

fn id(n: u32) -> SessionId {
    let mut bytes = [0x33; 32];
    bytes[..4].copy_from_slice(&n.wrapping_mul(0x9E37_79B1).to_le_bytes());
    SessionId::from_bytes(bytes)
}

fn sized(version: u64, expires_at: u64, len: usize) -> Row {
    Row { version, expires_at, owner: Some("user:1".into()), bytes: vec![version as u8; len] }
}

fn row(version: u64, expires_at: u64) -> Row {
    sized(version, expires_at, 100)
}

fn insert(n: u32) -> Change {
    Change::Insert { id: id(n), row: row(1, 1000 + u64::from(n)) }
}

fn commit(store: &SledStore, changes: &[Change]) -> Result<Vec<Outcome>, StoreError> {
    block_on(store.commit(1, changes))
}

fn kind<T>(result: Result<T, StoreError>) -> StoreErrorKind {
    result.err().expect("an error is expected").kind()
}

/// Every file below `dir` with its bytes.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
            found.insert(path, Vec::new());
        } else {
            found.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    found
}

/// Changes the stored bytes of a row under the store's feet.
fn damage(store: &SledStore, n: u32) {
    store
        .read(|tree| {
            let key = format::row_key(id(n).as_bytes(), 0);
            let mut raw = tree.get(key)?.expect("the row is there").to_vec();
            raw[20] ^= 4;
            tree.insert(key, raw).map(drop)
        })
        .unwrap();
}

#[test]
fn a_damaged_row_blocks_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let store = SledStore::open(dir.path().join("s")).unwrap();
    commit(&store, &(0..10).map(insert).collect::<Vec<_>>()).unwrap();
    for n in 0..6 {
        damage(&store, n);
    }
    assert_eq!(kind(block_on(store.load(&id(0)))), StoreErrorKind::Corrupt);
    assert_eq!(block_on(store.load(&id(7))).unwrap(), Some(row(1, 1007)));
    assert_eq!(block_on(store.list(None, 100)).unwrap().len(), 4);
    assert_eq!(block_on(store.list(None, 3)).unwrap().len(), 3);
    for limit in [1, 3, 5, 10, 11] {
        let (mut rows, mut damaged, mut after) = (Vec::new(), Vec::new(), None);
        loop {
            let page = block_on(store.scan(after, limit)).unwrap();
            assert!(page.rows.len() + page.damaged.len() <= limit);
            rows.extend(page.rows.into_iter().map(|listed| listed.id));
            damaged.extend(page.damaged);
            after = page.last;
            if after.is_none() {
                break;
            }
        }
        damaged.sort_unstable_by_key(|id| *id.as_bytes());
        let mut wanted: Vec<_> = (0..6).map(id).collect();
        wanted.sort_unstable_by_key(|id| *id.as_bytes());
        assert_eq!((rows.len(), damaged), (4, wanted), "{limit} a page");
    }
    assert_eq!(block_on(store.list_owner("user:1")).unwrap().len(), 4);
    let to = Change::Rekey { from: id(7), expected: None, to: id(3), row: row(2, 9) };
    let from = Change::Rekey { from: id(3), expected: None, to: id(50), row: row(2, 9) };
    let update = Change::Update { id: id(1), expected: 1, row: row(2, 9) };
    let changes =
        [insert(0), update, Change::Delete { id: id(2) }, to, from, Change::Quarantine { id: id(4) }];
    let outcomes = commit(&store, &changes).unwrap();
    use Outcome::{Done, Exists, Missing};
    assert_eq!(outcomes, [Exists, Missing, Done, Exists, Missing, Done]);
    assert_eq!(block_on(store.load(&id(2))).unwrap(), None);
    assert_eq!(block_on(store.load(&id(4))).unwrap(), None);
    // Rows 6 to 9 expire; the damaged 0, 1, 3 and 5 go to quarantine beside 4.
    assert_eq!(block_on(store.expire(2000, 2000, 100)).unwrap(), Expired { removed: 4, more: false });
    assert_eq!(block_on(store.count()).unwrap(), Some(0));
    let kept = store.read(|tree| Ok(tree.scan_prefix(b"q").count())).unwrap();
    assert_eq!(kept, 5);
    commit(&store, &[Change::Put { id: id(0), row: row(9, 99) }]).unwrap();
    damage(&store, 0);
    commit(&store, &[Change::Put { id: id(0), row: row(10, 99) }]).unwrap();
    assert_eq!(block_on(store.load(&id(0))).unwrap(), Some(row(10, 99)));
}

/// Rows around every number of pieces, replaced by rows of every other number.
#[test]
fn rows_of_many_pieces_leave_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let store = SledStore::open(dir.path().join("s")).unwrap();
    // 38 bytes of every row are its header and its owner.
    let lens = [0, 1, 4057, 4058, 4059, 8153, 8154, 8155, 70_000];
    let mut version = 0;
    for (from, to) in lens.iter().flat_map(|from| lens.map(|to| (*from, to))) {
        for len in [from, to] {
            version += 1;
            commit(&store, &[Change::Put { id: id(1), row: sized(version, 5, len) }]).unwrap();
            assert_eq!(block_on(store.load(&id(1))).unwrap(), Some(sized(version, 5, len)));
            let pieces = store.read(|tree| Ok(tree.scan_prefix(b"r").count())).unwrap();
            assert_eq!(pieces, (len + 38) / 4096 + 1, "{from} to {to}");
        }
    }
    commit(
        &store,
        &(2..40).map(|n| Change::Put { id: id(n), row: sized(1, 5, 64 << 10) }).collect::<Vec<_>>(),
    )
    .unwrap();
    // sled would not sync a file per large page; pieces keep pages small.
    assert_eq!(fs::read_dir(dir.path().join("s/blobs")).unwrap().count(), 0);
    assert_eq!(block_on(store.list(None, 100)).unwrap().len(), 39);
    // Pieces that damage has cut off from their row go when the row goes.
    store.read(|tree| tree.remove(format::row_key(id(2).as_bytes(), 3)).map(drop)).unwrap();
    assert_eq!(kind(block_on(store.load(&id(2)))), StoreErrorKind::Corrupt);
    assert_eq!(block_on(store.list(None, 100)).unwrap().len(), 38);
    commit(&store, &(1..40).map(|n| Change::Quarantine { id: id(n) }).collect::<Vec<_>>()).unwrap();
    assert_eq!(store.read(|tree| Ok(tree.scan_prefix(b"r").count())).unwrap(), 0);
    assert_eq!(block_on(store.count()).unwrap(), Some(0));
}

#[test]
fn everything_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    for round in 0..5 {
        let store = SledStore::open(&path).unwrap();
        assert_eq!(block_on(store.count()).unwrap(), Some(u64::from(round * 100)));
        commit(&store, &(round * 100..(round + 1) * 100).map(insert).collect::<Vec<_>>()).unwrap();
        for n in 0..(round + 1) * 100 {
            assert_eq!(block_on(store.load(&id(n))).unwrap(), Some(row(1, 1000 + u64::from(n))));
        }
    }
}

#[test]
fn a_second_open_is_refused_and_names_the_path() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.sled");
    let store = SledStore::open(&path).unwrap();
    let error = SledStore::open(&path).unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Locked);
    assert!(error.to_string().contains("s.sled"), "{error}");
    commit(&store, &[insert(1)]).unwrap();
    drop(store);
    SledStore::open(&path).unwrap();
}

#[test]
fn directories_that_are_not_ours_stay_untouched() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let refused = |wanted: StoreErrorKind| {
        let before = files(&path);
        assert_eq!(kind(SledStore::open(&path)), wanted);
        assert!(files(&path) == before, "a refused directory was changed ({wanted:?})");
        fs::remove_dir_all(&path).unwrap();
    };
    // Another program's sled, and another program's files.
    let other = sled::open(&path).unwrap();
    other.insert("a", "b").unwrap();
    drop(other);
    refused(StoreErrorKind::Foreign);
    fs::create_dir(&path).unwrap();
    fs::write(path.join("db"), b"mine").unwrap();
    refused(StoreErrorKind::Foreign);
    // Ours by name, not by content.
    for (marker, wanted) in [
        (b"some other program's".to_vec(), StoreErrorKind::Foreign),
        (format::identity(format::FORMAT_VERSION + 1), StoreErrorKind::NewerFormat),
        (format::identity(format::FORMAT_VERSION)[..20].to_vec(), StoreErrorKind::Corrupt),
    ] {
        drop(SledStore::open(&path).unwrap());
        fs::write(path.join(format::MARKER), marker).unwrap();
        refused(wanted);
    }
    // Our marker beside no log, and beside another program's.
    drop(SledStore::open(&path).unwrap());
    fs::remove_file(path.join("db")).unwrap();
    refused(StoreErrorKind::Corrupt);
    let other = sled::open(&path).unwrap();
    other.insert("a", "b").unwrap();
    drop(other);
    fs::write(path.join(format::MARKER), format::identity(format::FORMAT_VERSION)).unwrap();
    assert_eq!(kind(SledStore::open(&path)), StoreErrorKind::Corrupt);
}

#[test]
fn an_entry_of_a_newer_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = SledStore::open(&path).unwrap();
    let newer = format::identity(format::FORMAT_VERSION + 1);
    store.read(|tree| tree.insert(format::FORMAT_KEY, newer).map(drop)).unwrap();
    drop(store);
    assert_eq!(kind(SledStore::open(&path)), StoreErrorKind::NewerFormat);
}

#[test]
fn a_creation_or_a_snapshot_that_was_cut_short_is_made_good() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    fs::create_dir(&path).unwrap();
    drop(SledStore::open(&path).unwrap());
    for marker in [&[][..], &[0; 28]] {
        fs::write(path.join(format::MARKER), marker).unwrap();
        fs::write(path.join("conf"), b"half").unwrap();
        fs::write(path.join("snap.0000000000000000"), b"half").unwrap();
        let store = SledStore::open(&path).unwrap();
        assert_eq!(block_on(store.count()).unwrap(), Some(0));
        commit(&store, &[insert(1)]).unwrap();
        drop(store);
        fs::write(path.join("snap.00000000FFFFFFFF.generating"), b"half").unwrap();
        let store = SledStore::open(&path).unwrap();
        assert_eq!(block_on(store.load(&id(1))).unwrap(), Some(row(1, 1001)));
    }
}

#[test]
fn a_damaged_high_water_mark_counts_as_zero_and_the_number_of_rows_as_unknown() {
    let dir = tempfile::tempdir().unwrap();
    let store = SledStore::open(dir.path().join("s")).unwrap();
    block_on(store.commit(77, &[insert(1)])).unwrap();
    assert_eq!(block_on(store.high_water()).unwrap(), 77);
    store.read(|tree| tree.insert(STATE_KEY, b"damaged").map(drop)).unwrap();
    assert_eq!(block_on(store.high_water()).unwrap(), 0);
    assert_eq!(block_on(store.count()).unwrap(), None);
    block_on(store.commit(5, &[insert(2)])).unwrap();
    assert_eq!(block_on(store.high_water()).unwrap(), 5);
    assert_eq!(block_on(store.count()).unwrap(), None);
}

#[test]
fn damage_and_panics_in_a_write_latch_and_reads_go_on() {
    let dir = tempfile::tempdir().unwrap();
    for panics in [false, true] {
        let path = dir.path().join(format!("{panics}"));
        let store = SledStore::open(&path).unwrap();
        commit(&store, &[insert(1)]).unwrap();
        let failed = store.write(2, 0, |plan| {
            plan.apply(&[insert(2)])?;
            assert!(!panics, "sled gives up");
            Err::<(), _>(disorder())
        });
        assert_eq!(kind(failed), StoreErrorKind::Corrupt);
        assert_eq!(kind(commit(&store, &[insert(3)])), StoreErrorKind::ReadOnly);
        assert_eq!(kind(block_on(store.expire(5, 5, 5))), StoreErrorKind::ReadOnly);
        assert_eq!(block_on(store.load(&id(1))).unwrap(), Some(row(1, 1001)));
        assert_eq!(block_on(store.load(&id(2))).unwrap(), None);
        block_on(store.close()).unwrap();
        assert_eq!(kind(commit(&store, &[insert(3)])), StoreErrorKind::Closed);
        let again = SledStore::open(&path).unwrap();
        assert_eq!(block_on(again.count()).unwrap(), Some(1));
        commit(&again, &[insert(3)]).unwrap();
    }
}

/// A sync that fails: the batch may or may not be on the disk, and nothing more is written.
#[cfg(target_os = "linux")]
#[test]
fn a_failed_sync_is_an_io_error_and_latches() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = SledStore::open(&path).unwrap();
    commit(&store, &[insert(1)]).unwrap();
    // Nothing can be synced there.
    store.state.write().as_mut().unwrap().log = fs::File::open("/dev/null").unwrap();
    assert_eq!(kind(commit(&store, &[insert(2)])), StoreErrorKind::Io);
    assert_eq!(kind(commit(&store, &[insert(3)])), StoreErrorKind::ReadOnly);
    assert_eq!(block_on(store.load(&id(1))).unwrap(), Some(row(1, 1001)));
    drop(store);
    let again = SledStore::open(&path).unwrap();
    assert_eq!(block_on(again.load(&id(1))).unwrap(), Some(row(1, 1001)));
    assert_eq!(block_on(again.load(&id(3))).unwrap(), None);
}

/// A batch that failed inside sled is not written out by closing.
#[test]
fn a_torn_batch_keeps_the_directory_locked() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = SledStore::open(&path).unwrap();
    commit(&store, &[insert(1)]).unwrap();
    assert_eq!(store.latch(TORN, Failure::Panicked).kind(), StoreErrorKind::Corrupt);
    assert_eq!(store.latch(LATCHED, Failure::Panicked).kind(), StoreErrorKind::Corrupt);
    drop(store);
    assert_eq!(kind(SledStore::open(&path)), StoreErrorKind::Locked);
}

/// Whatever a damaged directory still gives must be what was written at some time.
fn all_right(store: &SledStore, written: &HashMap<SessionId, Vec<Row>>) -> usize {
    let known = |id: &SessionId, row: &Row| {
        assert!(
            written.get(id).is_some_and(|rows| rows.contains(row)),
            "a row that was never written: {row:?}"
        );
    };
    let mut found = 0;
    for id in written.keys() {
        if let Ok(Some(row)) = block_on(store.load(id)) {
            known(id, &row);
            found += 1;
        }
    }
    for listed in block_on(store.list(None, 10_000)).into_iter().flatten() {
        known(&listed.id, &listed.row);
    }
    for listed in block_on(store.list_owner("user:1")).into_iter().flatten() {
        known(&listed.id, &listed.row);
    }
    found
}

const FLIPPED: &str = "SESSILE_TEST_SLED_FLIPPED";

/// Opens the damaged directory that [`no_flipped_bit_gives_a_wrong_row`] names, in a process of its own: a thread of
/// sled that panics would spoil all other tests.
#[test]
fn the_other_process() {
    let Some(path) = std::env::var_os(FLIPPED) else { return };
    match SledStore::open(&path) {
        Ok(store) => println!("\nfound {}", all_right(&store, &flip_rows().1)),
        Err(e) => println!("\nrefused {:?}", e.kind()),
    }
}

/// Commits, and all rows that they ever made.
fn flip_rows() -> (Vec<Vec<Change>>, HashMap<SessionId, Vec<Row>>) {
    let mut written: HashMap<SessionId, Vec<Row>> = HashMap::new();
    let commits = (1..=6).map(|version| {
        let put = |n: u32| {
            let row = sized(version, 1000 + u64::from(n), if n.is_multiple_of(40) { 9000 } else { 100 });
            written.entry(id(n)).or_default().push(row.clone());
            Change::Put { id: id(n), row }
        };
        (0..120).map(put).collect()
    });
    (commits.collect(), written)
}

#[test]
fn no_flipped_bit_gives_a_wrong_row() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, flipped) = (dir.path().join("whole"), dir.path().join("flipped"));
    let store = SledStore::open(&whole).unwrap();
    for changes in flip_rows().0 {
        commit(&store, &changes).unwrap();
    }
    drop(store);
    // Twice, so that there is a snapshot of the pages.
    drop(SledStore::open(&whole).unwrap());
    let content: Vec<(PathBuf, Vec<u8>)> = files(&whole).into_iter().filter(|(p, _)| p.is_file()).collect();
    let mut state = 0x1234_5678_9ABC_DEF1_u64;
    let mut next = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let (mut found, mut refused) = (0, 0);
    for trial in 0..150 {
        let _ = fs::remove_dir_all(&flipped);
        fs::create_dir_all(flipped.join("blobs")).unwrap();
        // Half of the flips go into the log, where something is; the other half into any file.
        let log = content.iter().position(|(path, _)| path.ends_with("db")).unwrap();
        let file = if trial % 2 == 0 { log } else { next(content.len()) };
        for (i, (path, bytes)) in content.iter().enumerate() {
            let mut bytes = bytes.clone();
            if i == file {
                let used: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
                bytes[used[next(used.len())]] ^= 1 << next(8);
            }
            fs::write(flipped.join(path.strip_prefix(&whole).unwrap()), bytes).unwrap();
        }
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::sled::tests::the_other_process", "--nocapture"])
            .env(FLIPPED, &flipped)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "trial {trial}: {text}\n{errors}");
        if text.contains("\nfound ") {
            found += 1;
        } else {
            assert!(text.contains("\nrefused "), "trial {trial}: {text}\n{errors}");
            refused += 1;
        }
    }
    println!("{found} opened, {refused} refused");
    assert!(found > 20 && refused > 20, "{found} opened, {refused} refused: the test shows little");
}

/// A fork of the process leaves the directory and its lock to the one that opened it.
#[test]
fn a_fork_writes_nothing_and_unlocks_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = SledStore::open(&path).unwrap();
    store.place.process.pretend_to_fork();
    assert_eq!(block_on(store.commit(2, &[])).unwrap_err().kind(), StoreErrorKind::Locked);
    drop(store);
    assert_eq!(SledStore::open(&path).unwrap_err().kind(), StoreErrorKind::Locked, "it is still held");
}
