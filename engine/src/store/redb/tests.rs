//! Tests of what only this store has: its file, its lock, its failures.

use std::fs;
use std::sync::atomic::AtomicU64;

use pollster::block_on;
use redb::ReadableTable;

use super::*;

fn id(n: u32) -> SessionId {
    let mut bytes = [0x33; 32];
    bytes[..4].copy_from_slice(&n.wrapping_mul(0x9E37_79B1).to_le_bytes());
    SessionId::from_bytes(bytes)
}

fn row(version: u64, expires_at: u64) -> Row {
    Row { version, expires_at, owner: Some("user:1".into()), bytes: vec![version as u8; 100] }
}

fn insert(n: u32) -> Change {
    Change::Insert { id: id(n), row: row(1, 1000 + u64::from(n)) }
}

fn commit(store: &RedbStore, changes: &[Change]) -> Result<Vec<Outcome>, StoreError> {
    block_on(store.commit(1, changes))
}

fn kind<T>(result: Result<T, StoreError>) -> StoreErrorKind {
    result.err().expect("an error is expected").kind()
}

/// Changes the stored bytes of a row under the store's feet.
fn damage(store: &RedbStore, n: u32) {
    let key = *id(n).as_bytes();
    store
        .write(|tx| {
            let mut table = tx.open_table(SESSIONS)?;
            let mut raw = table.get(&key)?.expect("the row is there").value().to_vec();
            raw[20] ^= 4;
            table.insert(&key, &*raw)?;
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_damaged_row_blocks_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let store = RedbStore::open(dir.path().join("s")).unwrap();
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
    let kept = store.read(|db| db.begin_read()?.open_table(format::QUARANTINE)?.len().map_err(Into::into));
    assert_eq!(kept.unwrap(), 5);
}

#[test]
fn a_second_open_is_refused_and_names_the_path() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.redb");
    let store = RedbStore::open(&path).unwrap();
    let error = RedbStore::open(&path).unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Locked);
    assert!(error.to_string().contains("s.redb"), "{error}");
    let link = dir.path().join("hard");
    fs::hard_link(&path, &link).unwrap();
    assert_eq!(kind(RedbStore::open(&link)), StoreErrorKind::Locked);
    commit(&store, &[insert(1)]).unwrap();
    drop(store);
    RedbStore::open(&path).unwrap();
}

#[test]
fn files_that_are_not_ours_stay_untouched() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.redb");
    let other = redb::TableDefinition::<u64, u64>::new("theirs");
    let make_other = |clean: bool| {
        let _ = fs::remove_file(&path);
        let db = Database::create(&path).unwrap();
        let tx = db.begin_write().unwrap();
        tx.open_table(other).unwrap().insert(1, 2).unwrap();
        tx.commit().unwrap();
        let unclean = fs::read(&path).unwrap();
        drop(db);
        if !clean {
            fs::write(&path, unclean).unwrap();
        }
    };
    let refused = |wanted: StoreErrorKind| {
        let before = fs::read(&path).unwrap();
        assert_eq!(kind(RedbStore::open(&path)), wanted);
        assert!(fs::read(&path).unwrap() == before, "a refused file was changed ({wanted:?})");
    };
    make_other(true);
    refused(StoreErrorKind::Foreign);
    make_other(false);
    refused(StoreErrorKind::Foreign);
    fs::write(&path, b"hello").unwrap();
    refused(StoreErrorKind::Foreign);
    fs::write(&path, vec![0xA5; 100_000]).unwrap();
    refused(StoreErrorKind::Foreign);
    fs::write(&path, [&[0; 600][..], b"data"].concat()).unwrap();
    refused(StoreErrorKind::Foreign);
    fs::remove_file(&path).unwrap();
    let store = RedbStore::open(&path).unwrap();
    store
        .read(|db| {
            format::testing::set_version(db, format::FORMAT_VERSION + 1);
            Ok(())
        })
        .unwrap();
    drop(store);
    refused(StoreErrorKind::NewerFormat);
}

#[test]
fn truncated_files_are_refused_or_read_but_never_panic() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.redb");
    let store = RedbStore::open(&path).unwrap();
    commit(&store, &(0..200).map(insert).collect::<Vec<_>>()).unwrap();
    drop(store);
    let whole = fs::read(&path).unwrap();
    for len in (1..whole.len()).step_by(whole.len() / 60) {
        fs::write(&path, &whole[..len]).unwrap();
        if let Ok(store) = RedbStore::open(&path) {
            all_right(&store, 200);
        }
    }
}

/// Whatever a damaged file still gives must be what was written.
fn all_right(store: &RedbStore, rows: u32) {
    for n in 0..rows {
        if let Ok(Some(found)) = block_on(store.load(&id(n))) {
            assert_eq!(found, row(1, 1000 + u64::from(n)), "row {n}");
        }
    }
    let known: std::collections::HashMap<_, _> =
        (0..rows).map(|n| (id(n), row(1, 1000 + u64::from(n)))).collect();
    for listed in block_on(store.list(None, 10_000)).into_iter().flatten() {
        assert_eq!(known.get(&listed.id), Some(&listed.row));
    }
    for listed in block_on(store.list_owner("user:1")).into_iter().flatten() {
        assert_eq!(known.get(&listed.id), Some(&listed.row));
    }
}

#[test]
fn no_flipped_bit_gives_a_wrong_row() {
    std::panic::set_hook(Box::new(|info| {
        // redb's own panics are caught and expected here; silence only those.
        if !info.location().is_some_and(|l| l.file().contains("redb-")) {
            let text = format!("{info}\n");
            let _ = std::io::Write::write_all(&mut io::stderr(), text.as_bytes());
        }
    }));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.redb");
    let store = RedbStore::open(&path).unwrap();
    commit(&store, &(0..300).map(insert).collect::<Vec<_>>()).unwrap();
    drop(store);
    let whole = fs::read(&path).unwrap();
    // Most of the file is unused zeros; half of the flips go where something is.
    let used: Vec<usize> = whole.iter().enumerate().filter(|(_, b)| **b != 0).map(|(i, _)| i).collect();
    let mut state = 0x1234_5678_9ABC_DEF1_u64;
    let mut next = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let (mut opened, trials) = (0, 3000);
    for trial in 0..trials {
        let at = if trial % 2 == 0 { next(whole.len()) } else { used[next(used.len())] };
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << next(8);
        let base = redb::backends::InMemoryBackend::new();
        base.set_len(bytes.len() as u64).unwrap();
        base.write(0, &bytes).unwrap();
        if let Ok(store) = RedbStore::on_backend(Arc::new(base), Path::new("flipped"), 1 << 20) {
            opened += 1;
            all_right(&store, 300);
        }
    }
    assert!(opened > trials / 2, "only {opened} of {trials} opened: the test shows nothing");
}

/// A file in memory whose `fail_at`th write, sync or length change fails.
#[derive(Debug)]
struct Failing {
    inner: Arc<redb::backends::InMemoryBackend>,
    calls: AtomicU64,
    fail_at: AtomicU64,
    error: io::ErrorKind,
    /// Whether everything after the first failure fails as well.
    for_good: bool,
}

impl Failing {
    fn step(&self) -> io::Result<()> {
        let call = self.calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
        let at = self.fail_at.load(std::sync::atomic::Ordering::Relaxed);
        if call == at || (self.for_good && call > at) { Err(self.error.into()) } else { Ok(()) }
    }
}

impl StorageBackend for Failing {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.inner.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.step()?;
        self.inner.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.step()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.step()?;
        self.inner.write(offset, data)
    }
}

fn copy_of(inner: &redb::backends::InMemoryBackend) -> Arc<dyn StorageBackend> {
    let mut bytes = vec![0; usize::try_from(inner.len().unwrap()).unwrap()];
    inner.read(0, &mut bytes).unwrap();
    let copy = redb::backends::InMemoryBackend::new();
    copy.set_len(bytes.len() as u64).unwrap();
    copy.write(0, &bytes).unwrap();
    Arc::new(copy)
}

const BATCH: u32 = 7;

fn batch(b: u32) -> Vec<Change> {
    (b * BATCH..(b + 1) * BATCH).map(insert).collect()
}

/// Runs batches with the `fail_at`th operation failing. Returns whether it failed at all.
fn run_into_failure(fail_at: u64, error: io::ErrorKind, for_good: bool) -> bool {
    let inner = Arc::new(redb::backends::InMemoryBackend::new());
    let failing = Arc::new(Failing {
        inner: Arc::clone(&inner),
        calls: AtomicU64::new(0),
        fail_at: AtomicU64::new(fail_at),
        error,
        for_good,
    });
    let base: Arc<dyn StorageBackend> = failing;
    let Ok(store) = RedbStore::on_backend(base, Path::new("failing"), 1 << 20) else {
        // Creation failed: what is left must open as an empty store.
        let again = RedbStore::on_backend(copy_of(&inner), Path::new("again"), 1 << 20).unwrap();
        assert_eq!(block_on(again.count()).unwrap(), Some(0), "fail_at {fail_at}");
        return true;
    };
    let mut acknowledged = 0;
    let mut failed = false;
    for b in 0..12 {
        match commit(&store, &batch(b)) {
            Ok(_) => acknowledged += BATCH,
            Err(e) => {
                failed = true;
                let full = e.kind() == StoreErrorKind::Full;
                let expected = if full { "Full" } else { "Io" };
                assert_eq!(format!("{:?}", e.kind()), expected, "fail_at {fail_at}: {e}");
                // Reads go on, on the last commit or the whole failed one.
                let count = block_on(store.count()).unwrap().unwrap() as u32;
                assert!(
                    count == acknowledged || (!full && count == acknowledged + BATCH),
                    "fail_at {fail_at}: {count}"
                );
                assert_eq!(block_on(store.load(&id(count))).unwrap(), None);
                if full && !for_good {
                    commit(&store, &batch(b)).unwrap();
                    acknowledged += BATCH;
                } else if !full {
                    assert_eq!(
                        kind(commit(&store, &batch(b))),
                        StoreErrorKind::ReadOnly,
                        "fail_at {fail_at}"
                    );
                    assert_eq!(kind(block_on(store.expire(5, 5, 5))), StoreErrorKind::ReadOnly);
                    assert!(block_on(store.load(&id(0))).is_ok());
                    break;
                } else {
                    break;
                }
            }
        }
    }
    let _ = block_on(store.close());
    drop(store);
    let again = RedbStore::on_backend(copy_of(&inner), Path::new("again"), 1 << 20).unwrap();
    let count = block_on(again.count()).unwrap().unwrap() as u32;
    assert!(count == acknowledged || (failed && count == acknowledged + BATCH), "fail_at {fail_at}: {count}");
    for n in 0..count {
        assert_eq!(block_on(again.load(&id(n))).unwrap(), Some(row(1, 1000 + u64::from(n))));
    }
    commit(&again, &batch(100)).unwrap();
    failed
}

#[test]
fn a_failed_operation_latches_and_loses_nothing_acknowledged() {
    for error in [io::ErrorKind::Other, io::ErrorKind::StorageFull] {
        for for_good in [false, true] {
            let failures = (1..400).filter(|n| run_into_failure(*n, error, for_good)).count();
            assert!(failures > 60, "only {failures} of the runs met their failure");
        }
    }
}

#[test]
fn the_creation_of_a_file_may_be_cut_short_anywhere() {
    let inner = Arc::new(redb::backends::InMemoryBackend::new());
    let base: Arc<dyn StorageBackend> = Arc::clone(&inner) as _;
    drop(RedbStore::on_backend(base, Path::new("whole"), 1 << 20).unwrap());
    for fail_at in 1..12 {
        run_into_failure(fail_at, io::ErrorKind::Other, true);
    }
}

#[test]
fn damage_and_panics_in_a_write_latch_and_reads_go_on() {
    let dir = tempfile::tempdir().unwrap();
    for panics in [false, true] {
        let path = dir.path().join(format!("{panics}"));
        let store = RedbStore::open(&path).unwrap();
        commit(&store, &[insert(1)]).unwrap();
        let failed = store.write(|tx| {
            tables::apply(tx, &[insert(2)])?;
            assert!(!panics, "redb gives up");
            Err::<(), _>(redb::Error::Corrupted("a page".into()))
        });
        assert_eq!(kind(failed), StoreErrorKind::Corrupt);
        assert_eq!(kind(commit(&store, &[insert(3)])), StoreErrorKind::ReadOnly);
        assert_eq!(block_on(store.load(&id(1))).unwrap(), Some(row(1, 1001)));
        assert_eq!(block_on(store.load(&id(2))).unwrap(), None);
        block_on(store.close()).unwrap();
        assert_eq!(kind(commit(&store, &[insert(3)])), StoreErrorKind::Closed);
        let again = RedbStore::open(&path).unwrap();
        assert_eq!(block_on(again.count()).unwrap(), Some(1));
        commit(&again, &[insert(3)]).unwrap();
    }
}

/// A fork of the process leaves the file and its lock to the one that opened it.
#[test]
fn a_fork_writes_nothing_and_unlocks_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = RedbStore::open(&path).unwrap();
    block_on(store.commit(1, &[])).unwrap();
    let before = std::fs::read(&path).unwrap();
    store.place.process.pretend_to_fork();
    assert_eq!(block_on(store.commit(2, &[])).unwrap_err().kind(), StoreErrorKind::Locked);
    drop(store);
    assert_eq!(std::fs::read(&path).unwrap(), before);
    assert_eq!(RedbStore::open(&path).unwrap_err().kind(), StoreErrorKind::Locked, "it is still held");
}
