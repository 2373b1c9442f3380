//! The engine under test with what surrounds it: store, journal, clock and faults; how it is closed, killed and opened
//! again. It knows nothing of what is right.

use std::fs;
use std::path::Path;
use std::time::Duration;

use pollster::block_on;
use sessile_engine::clock::ManualClock;
use sessile_engine::store::fault::{FaultHandle, FaultOp, FaultStore};
use sessile_engine::store::{Change, MemoryStore, Store};
use sessile_engine::{
    Durability, Engine, Key, Keyring, OwnerLimit, Protection, Result, SessionId, StoreErrorKind,
};
use tempfile::TempDir;

use crate::model::{GRACE_MS, LIFETIME_MS};
use crate::ops::{Faulty, Kind, Level, Limit, Setup};

/// Nothing is written before somebody waits for it, so that a case takes the same way every time.
const WINDOW: Duration = Duration::from_secs(60);
/// Tries of a flush after a failure was mended.
const TRIES: u32 = 2000;

pub(crate) struct World {
    pub(crate) engine: Engine,
    pub(crate) clock: ManualClock,
    pub(crate) rows: MemoryStore,
    pub(crate) faults: FaultHandle,
    setup: Setup,
    key: [u8; 32],
    /// The place of the journal.
    dir: Option<TempDir>,
}

/// A directory in memory if the system has one: what is tested here is no disk.
fn directory() -> TempDir {
    let memory = Path::new("/dev/shm");
    let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    dir.expect("a temporary directory")
}

fn open(
    setup: &Setup,
    key: &[u8; 32],
    clock: &ManualClock,
    rows: MemoryStore,
    dir: Option<&TempDir>,
) -> (Engine, FaultHandle) {
    let mut builder = Engine::builder()
        .clock(clock.clone())
        .lifetime(Duration::from_millis(LIFETIME_MS))
        .rotation_grace(Duration::from_millis(GRACE_MS))
        .idle_timeout(setup.idle);
    builder = match setup.level {
        Level::Memory => builder,
        Level::Eventual => builder.durability(Durability::Eventual { window: WINDOW }),
        Level::ProcessCrash => builder.durability(Durability::ProcessCrash { window: WINDOW }),
        Level::PowerLoss => builder.durability(Durability::PowerLoss),
    };
    if setup.tight {
        builder = builder.max_record_bytes(8 << 10).memory_limit(24 << 10);
    }
    builder = match setup.limit {
        None => builder,
        Some(Limit::Refuse) => builder.max_sessions_per_owner(2, OwnerLimit::Refuse),
        Some(Limit::DropOldest) => builder.max_sessions_per_owner(2, OwnerLimit::DropOldest),
    };
    if setup.sealed && setup.level != Level::Memory {
        let key = Key::from_bytes(key).expect("a key");
        builder = builder.keyring(Keyring::new(Protection::Encrypt, key));
    }
    if setup.level == Level::Memory {
        return (builder.in_memory().expect("an engine"), FaultHandle::default());
    }
    if let Some(dir) = dir {
        builder = builder.journal(dir.path().join("j"));
    }
    let store = FaultStore::new(rows);
    let faults = store.handle();
    (builder.open(store).expect("an engine"), faults)
}

impl World {
    pub(crate) fn new(setup: Setup, now: u64) -> Self {
        let clock = ManualClock::new(now);
        let rows = MemoryStore::new();
        let dir = setup.journal.then(directory);
        let key = std::array::from_fn(|n| u8::try_from(n * 7 + 1).unwrap_or(1));
        let (engine, faults) = open(&setup, &key, &clock, rows.clone(), dir.as_ref());
        Self { engine, clock, rows, faults, setup, key, dir }
    }

    pub(crate) fn fail(&self, on: Faulty, times: u8, kind: Kind, lost: bool) {
        let op = match on {
            Faulty::Load => FaultOp::Load,
            Faulty::Commit => FaultOp::Commit,
            Faulty::Expire => FaultOp::Expire,
            Faulty::List => FaultOp::List,
        };
        let kind = match kind {
            Kind::Unavailable => StoreErrorKind::Unavailable,
            Kind::Full => StoreErrorKind::Full,
            Kind::Io => StoreErrorKind::Io,
        };
        self.faults.apply_failing_commits(lost);
        self.faults.fail_next(op, u64::from(times), kind);
    }

    /// Flushes a store that works again. A try that began before may still fail.
    pub(crate) fn settle(&self) -> Result<()> {
        for _ in 0..TRIES {
            if block_on(self.engine.flush()).is_ok() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        block_on(self.engine.flush())
    }

    /// Closes the engine and opens another one on what it left.
    pub(crate) fn restart(&mut self) -> Result<()> {
        self.faults.heal();
        let closed = block_on(self.engine.close());
        self.reopen(self.rows.clone());
        closed
    }

    fn reopen(&mut self, rows: MemoryStore) {
        let (engine, faults) = open(&self.setup, &self.key, &self.clock, rows.clone(), self.dir.as_ref());
        self.engine = engine;
        self.faults = faults;
        self.rows = rows;
    }

    /// Opens another engine on what the disk has at this moment, as a process would that starts after a kill -9.
    pub(crate) fn kill(&mut self) {
        // The journal first: the store never knows more than what is in it.
        let dir = self.dir.as_ref().map(|dir| image(dir.path()));
        let rows = self.image_of_rows();
        let old = self.dir.take();
        self.dir = dir;
        let faults = self.faults.clone();
        let before = self.engine.clone();
        self.reopen(rows);
        // Whatever the old one still writes is not there any more.
        faults.heal();
        drop(before);
        drop(old);
    }

    fn image_of_rows(&self) -> MemoryStore {
        let copy = MemoryStore::new();
        let rows = block_on(self.rows.list(None, usize::MAX)).expect("rows in memory");
        let puts: Vec<Change> =
            rows.into_iter().map(|listed| Change::Put { id: listed.id, row: listed.row }).collect();
        let high_water = block_on(self.rows.high_water()).expect("rows in memory");
        let outcomes = block_on(copy.commit(high_water, &puts)).expect("rows in memory");
        assert_eq!(outcomes.len(), puts.len());
        copy
    }

    /// The ids in the store.
    pub(crate) fn stored(&self) -> Vec<SessionId> {
        let rows = block_on(self.rows.list(None, usize::MAX)).expect("rows in memory");
        rows.into_iter().map(|listed| listed.id).collect()
    }
}

/// A copy of the journal's segments. A checkpoint may remove one under way; then once more.
fn image(from: &Path) -> TempDir {
    loop {
        let copy = directory();
        fs::create_dir(copy.path().join("j")).expect("a directory");
        let names: Vec<_> = fs::read_dir(from.join("j"))
            .expect("a journal")
            .filter_map(|entry| entry.ok().map(|entry| entry.file_name()))
            .filter(|name| name.to_string_lossy().ends_with(".log"))
            .collect();
        if names
            .iter()
            .all(|name| fs::copy(from.join("j").join(name), copy.path().join("j").join(name)).is_ok())
        {
            return copy;
        }
    }
}
