//! A machine that loses its power: a disk in memory that keeps a log of every operation on the journal's segments and on
//! the store behind it, and builds from any prefix of that log what a crash may leave. It knows nothing of frames.
//!
//! - *Power loss*: what was synced is there. Each write since is there whole, not at all, or torn at 512 bytes, later ones
//!   whether or not earlier ones are; so are cuts, lengths, and the creations, removals and renamings of names.
//! - *Kill*: every finished operation is there, and of the write under way a part. What was not synced before is still
//!   not synced: a loss of power may follow.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::disk::{Disk, Segment};
use crate::store::{Capabilities, Change, Expired, Listed, Outcome, Row, Store, StoreError, StoreErrorKind};
use crate::token::SessionId;

/// splitmix64: enough for tests, and a seed says it all.
#[derive(Clone)]
pub(super) struct Rng(pub(super) u64);

impl Rng {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Below `n`; 0 for 0.
    pub(super) fn below(&mut self, n: usize) -> usize {
        if n == 0 { 0 } else { (self.next() % n as u64) as usize }
    }

    pub(super) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// Names on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Name {
    Segment(u32),
    Aside(u32),
}

/// The file of the store behind the journal. It has no name that could be lost.
const STORE_FILE: usize = 0;

#[derive(Debug, Clone)]
pub(super) enum Op {
    Create(Name, usize),
    Remove(Name),
    Rename(Name, Name),
    SyncNames,
    Write(usize, u64, Vec<u8>),
    SetLen(usize, u64),
    Sync(usize),
    /// A commit of [`ModelStore`], which is all or nothing and durable at once.
    Commit(Arc<[Change]>),
}

/// What is on a disk.
#[derive(Debug, Clone, Default)]
pub(super) struct Image {
    pub(super) files: BTreeMap<usize, Vec<u8>>,
    pub(super) names: BTreeMap<Name, usize>,
    pub(super) rows: BTreeMap<[u8; 32], Row>,
}

fn write(file: &mut Vec<u8>, at: u64, bytes: &[u8]) {
    let at = at as usize;
    if file.len() < at + bytes.len() {
        file.resize(at + bytes.len(), 0);
    }
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

impl Image {
    fn file(&mut self, file: usize) -> &mut Vec<u8> {
        self.files.entry(file).or_default()
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Create(name, file) => {
                self.names.insert(*name, *file);
                self.file(*file);
            }
            Op::Remove(name) => {
                self.names.remove(name);
            }
            Op::Rename(from, to) => {
                if let Some(file) = self.names.remove(from) {
                    self.names.insert(*to, file);
                }
            }
            Op::Write(file, at, bytes) => write(self.file(*file), *at, bytes),
            Op::SetLen(file, len) => self.file(*file).resize(*len as usize, 0),
            Op::Commit(changes) => changes.iter().for_each(|change| self.commit(change)),
            Op::SyncNames | Op::Sync(_) => {}
        }
    }

    fn commit(&mut self, change: &Change) {
        match change {
            Change::Put { id, row } => {
                self.rows.insert(*id.as_bytes(), row.clone());
            }
            Change::Delete { id } | Change::Quarantine { id } => {
                self.rows.remove(id.as_bytes());
            }
            other => panic!("the journal hands on no {other:?}"),
        }
    }

    /// The file of a segment.
    pub(super) fn segment(&mut self, number: u32) -> &mut Vec<u8> {
        let file = self.names[&Name::Segment(number)];
        self.file(file)
    }

    pub(super) fn segments(&self) -> Vec<u32> {
        let number = |name: &Name| if let Name::Segment(n) = name { Some(*n) } else { None };
        self.names.keys().filter_map(number).collect()
    }

    /// Does to a file what a loss of power may do with the operations on it that were not synced.
    fn tear(&mut self, file: usize, pending: &[&Op], rng: &mut Rng) {
        let content = self.file(file);
        let synced = content.len();
        let mut len_alive = synced;
        for op in pending {
            match op {
                Op::Write(_, at, bytes) => len_alive = len_alive.max(*at as usize + bytes.len()),
                Op::SetLen(_, len) => len_alive = *len as usize,
                _ => {}
            }
        }
        let mode = rng.below(4);
        for op in pending {
            let keep = match mode {
                0 => 0,
                1 => 1,
                _ => rng.below(3),
            };
            match (op, keep) {
                (_, 0) => {}
                (Op::Write(_, at, bytes), 2) => {
                    let mut from = 0;
                    while from < bytes.len() {
                        let sector = 512 - (*at as usize + from) % 512;
                        let to = bytes.len().min(from + sector);
                        if rng.one_in(2) {
                            write(content, at + from as u64, &bytes[from..to]);
                        }
                        from = to;
                    }
                }
                (Op::Write(_, at, bytes), _) => write(content, *at, bytes),
                (Op::SetLen(_, len), _) => content.resize(*len as usize, 0),
                _ => {}
            }
        }
        // The length is written by itself: before the data (zeros), or after it (cut off).
        match rng.below(8) {
            0 | 1 => content.resize(len_alive, 0),
            // redb grows its file in whole steps and refuses a length between them.
            2 if content.len() > synced && file != STORE_FILE => {
                content.truncate(synced + rng.below(content.len() - synced))
            }
            _ => {}
        }
    }
}

/// Which operations a [`Fault`] meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    Write,
    SetLen,
    Sync,
    Create,
    Remove,
    Rename,
    SyncNames,
    /// Listing the names, and opening one.
    Open,
    /// The length and the content of a file.
    Read,
}

/// How an operation fails.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fault {
    /// Operations of this kind, or of any.
    pub(super) call: Option<Call>,
    /// This many of them succeed first.
    pub(super) after: u64,
    pub(super) error: io::ErrorKind,
    /// A write that fails has written this share of it, in percent.
    pub(super) written: usize,
    /// Whether all later ones fail too.
    pub(super) for_good: bool,
}

pub(super) struct World {
    base: Image,
    pub(super) live: Image,
    pub(super) log: Vec<Op>,
    files: usize,
    /// Each counts for itself.
    faults: Vec<Fault>,
    /// Operations that a fault has made to fail.
    pub(super) failed: u64,
}

/// A machine, shared by the disk and the store on it.
#[derive(Clone)]
pub(super) struct Machine(Arc<Mutex<World>>);

impl Machine {
    pub(super) fn new() -> Self {
        Self::with(Image::default())
    }

    /// With what survived.
    pub(super) fn with(base: Image) -> Self {
        let files = base.files.keys().max().map_or(STORE_FILE, |last| *last) + 1;
        let live = base.clone();
        Self(Arc::new(Mutex::new(World {
            base,
            live,
            log: Vec::new(),
            files,
            faults: Vec::new(),
            failed: 0,
        })))
    }

    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn disk(&self) -> Box<dyn Disk> {
        Box::new(SimDisk(self.clone()))
    }

    pub(super) fn model_store(&self) -> ModelStore {
        ModelStore(self.clone())
    }

    /// Operations so far.
    pub(super) fn ops(&self) -> usize {
        self.world().log.len()
    }

    pub(super) fn set_fault(&self, fault: Option<Fault>) {
        self.set_faults(fault.into_iter().collect());
    }

    pub(super) fn set_faults(&self, faults: Vec<Fault>) {
        self.world().faults = faults;
    }

    /// A machine that lost its power after `ops` operations.
    pub(super) fn lose_power(&self, ops: usize, rng: &mut Rng) -> Self {
        let world = self.world();
        let mut image = world.base.clone();
        let mut pending: BTreeMap<usize, Vec<&Op>> = BTreeMap::new();
        let mut names: Vec<&Op> = Vec::new();
        for op in &world.log[..ops] {
            match op {
                Op::Create(_, file) => {
                    image.file(*file);
                    names.push(op);
                }
                Op::Remove(_) | Op::Rename(..) => names.push(op),
                Op::SyncNames => names.drain(..).for_each(|op| image.apply(op)),
                Op::Write(file, ..) | Op::SetLen(file, _) => pending.entry(*file).or_default().push(op),
                Op::Sync(file) => {
                    pending.remove(file).into_iter().flatten().for_each(|op| image.apply(op));
                }
                Op::Commit(_) => image.apply(op),
            }
        }
        let mode = rng.below(4);
        for op in names {
            if mode == 1 || (mode > 1 && rng.one_in(2)) {
                image.apply(op);
            }
        }
        for (file, pending) in pending {
            image.tear(file, &pending, rng);
        }
        Self::with(image)
    }

    /// A machine on which the process was killed after `ops` operations, during the next one.
    pub(super) fn kill(&self, ops: usize, rng: &mut Rng) -> Self {
        let world = self.world();
        let mut log = world.log[..ops].to_vec();
        if let Some(Op::Write(file, at, bytes)) = world.log.get(ops)
            && rng.one_in(2)
        {
            log.push(Op::Write(*file, *at, bytes[..rng.below(bytes.len())].to_vec()));
        }
        let mut live = world.base.clone();
        log.iter().for_each(|op| live.apply(op));
        let world =
            World { base: world.base.clone(), live, log, files: world.files, faults: Vec::new(), failed: 0 };
        Self(Arc::new(Mutex::new(world)))
    }
}

impl World {
    fn fails(&mut self, call: Call) -> Option<Fault> {
        let mut meets = None;
        self.faults.retain_mut(|fault| {
            if meets.is_some() || fault.call.is_some_and(|c| c != call) {
                return true;
            }
            if fault.after > 0 {
                fault.after -= 1;
                return true;
            }
            meets = Some(*fault);
            fault.for_good
        });
        self.failed += u64::from(meets.is_some());
        meets
    }

    fn check(&mut self, call: Call) -> io::Result<()> {
        self.fails(call).map_or(Ok(()), |fault| Err(fault.error.into()))
    }

    fn does(&mut self, op: Op) {
        self.live.apply(&op);
        self.log.push(op);
    }
}

struct SimDisk(Machine);

struct SimFile(Machine, usize);

impl Disk for SimDisk {
    fn segments(&self) -> io::Result<Vec<u32>> {
        let mut world = self.0.world();
        world.check(Call::Open)?;
        // In an order that is not theirs.
        Ok(world.live.segments().into_iter().rev().collect())
    }

    fn create(&self, number: u32) -> io::Result<Arc<dyn Segment>> {
        let mut world = self.0.world();
        world.check(Call::Create)?;
        let name = Name::Segment(number);
        if world.live.names.contains_key(&name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = world.files;
        world.files += 1;
        world.does(Op::Create(name, file));
        Ok(Arc::new(SimFile(self.0.clone(), file)))
    }

    fn open(&self, number: u32) -> io::Result<Arc<dyn Segment>> {
        let mut world = self.0.world();
        world.check(Call::Open)?;
        let file = world.live.names.get(&Name::Segment(number)).copied().ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(SimFile(self.0.clone(), file)))
    }

    fn remove(&self, number: u32) -> io::Result<()> {
        let mut world = self.0.world();
        world.check(Call::Remove)?;
        let name = Name::Segment(number);
        if !world.live.names.contains_key(&name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        world.does(Op::Remove(name));
        Ok(())
    }

    fn set_aside(&self, number: u32) -> io::Result<()> {
        let mut world = self.0.world();
        world.check(Call::Rename)?;
        world.does(Op::Rename(Name::Segment(number), Name::Aside(number)));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut world = self.0.world();
        world.check(Call::SyncNames)?;
        world.does(Op::SyncNames);
        Ok(())
    }

    fn check(&self, number: u32, _: &dyn Segment) -> Result<(), StoreError> {
        if self.0.world().live.names.contains_key(&Name::Segment(number)) {
            return Ok(());
        }
        Err(StoreError::new(StoreErrorKind::Moved, "journal", format!("segment {number} is gone")))
    }

    fn release(&self) {}
}

impl SimFile {
    fn content<T>(&self, f: impl FnOnce(&[u8]) -> T) -> T {
        f(self.0.world().live.files.get(&self.1).map_or(&[][..], |file| file))
    }

    fn read(&self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.content(|file| {
            let from = usize::try_from(at).ok().and_then(|at| file.get(at..)?.get(..buffer.len()));
            buffer.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }
}

impl Segment for SimFile {
    fn len(&self) -> io::Result<u64> {
        self.0.world().check(Call::Read)?;
        Ok(self.content(<[u8]>::len) as u64)
    }

    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.world().check(Call::Read)?;
        self.read(at, buffer)
    }

    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let mut world = self.0.world();
        if let Some(fault) = world.fails(Call::Write) {
            let part = bytes.len() * fault.written / 100;
            if part > 0 {
                world.does(Op::Write(self.1, at, bytes[..part].to_vec()));
            }
            return Err(fault.error.into());
        }
        world.does(Op::Write(self.1, at, bytes.to_vec()));
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut world = self.0.world();
        world.check(Call::SetLen)?;
        world.does(Op::SetLen(self.1, len));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut world = self.0.world();
        world.check(Call::Sync)?;
        world.does(Op::Sync(self.1));
        Ok(())
    }
}

#[cfg(feature = "redb")]
mod backend {
    use super::*;

    /// The file of a redb store on a [`Machine`].
    pub(in crate::journal) struct Backend(pub(super) SimFile);

    impl std::fmt::Debug for Backend {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.debug_struct("Backend").finish_non_exhaustive()
        }
    }

    impl Machine {
        pub(in crate::journal) fn backend(&self) -> Arc<Backend> {
            Arc::new(Backend(SimFile(self.clone(), STORE_FILE)))
        }
    }

    impl redb::StorageBackend for Backend {
        fn len(&self) -> io::Result<u64> {
            Ok(self.0.content(<[u8]>::len) as u64)
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.0.read(offset, out)
        }

        fn set_len(&self, len: u64) -> io::Result<()> {
            self.0.0.world().does(Op::SetLen(STORE_FILE, len));
            Ok(())
        }

        fn sync_data(&self) -> io::Result<()> {
            self.0.0.world().does(Op::Sync(STORE_FILE));
            Ok(())
        }

        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.0.0.world().does(Op::Write(STORE_FILE, offset, data.to_vec()));
            Ok(())
        }
    }
}

/// A store whose commits are atomic and durable when they return.
pub(super) struct ModelStore(Machine);

impl Store for ModelStore {
    fn name(&self) -> &'static str {
        "model"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::full()
    }

    async fn high_water(&self) -> Result<u64, StoreError> {
        Ok(0)
    }

    async fn load(&self, id: &SessionId) -> Result<Option<Row>, StoreError> {
        Ok(self.0.world().live.rows.get(id.as_bytes()).cloned())
    }

    async fn commit(&self, _now: u64, changes: &[Change]) -> Result<Vec<Outcome>, StoreError> {
        self.0.world().does(Op::Commit(changes.into()));
        Ok(vec![Outcome::Done; changes.len()])
    }

    async fn expire(&self, _: u64, _: u64, _: usize) -> Result<Expired, StoreError> {
        Err(StoreError::new(StoreErrorKind::Unsupported, "model", "nothing expires here"))
    }

    async fn list(&self, after: Option<SessionId>, limit: usize) -> Result<Vec<Listed>, StoreError> {
        let world = self.0.world();
        let behind = |key: &[u8; 32]| after.is_none_or(|after| key > after.as_bytes());
        let rows = world.live.rows.iter().filter(|(key, _)| behind(key)).take(limit);
        Ok(rows.map(|(key, row)| Listed { id: SessionId::from_bytes(*key), row: row.clone() }).collect())
    }

    async fn list_owner(&self, owner: &str) -> Result<Vec<Listed>, StoreError> {
        let mut rows = self.list(None, usize::MAX).await?;
        rows.retain(|listed| listed.row.owner.as_deref() == Some(owner));
        Ok(rows)
    }

    async fn count(&self) -> Result<Option<u64>, StoreError> {
        Ok(Some(self.0.world().live.rows.len() as u64))
    }

    async fn close(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
