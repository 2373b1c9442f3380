//! The file as redb sees it: a wrapper round its own file backend that can hold writes back, refuse them, and
//! remember what kind of I/O failed. It decides nothing about sessions and keeps no lock of its own.
//!
//! Writes are *held* while a file is opened, until its meta table has said that it is one of ours, so that a
//! foreign or newer file stays untouched byte for byte; and for good in the view that serves reads after an
//! I/O error. Held operations reach the file in their order, syncs included, so that letting them go later is
//! no different to a crash from having done them at once.

use std::fmt;
use std::io::{Error, ErrorKind, Result};
use std::ops::Bound;
use std::sync::Arc;

use redb::{BackendError, StorageBackend};

use crate::sync::{AtomicBool, AtomicU8, Mutex, Ordering};

/// What a failed operation means for the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failed {
    /// No write or sync has failed.
    Nothing,
    /// A page could not be written for lack of space. The last commit is untouched.
    Space,
    /// A write or a sync failed: what the file holds now is unknown.
    Unknown,
}

const HELD: u8 = 0;
const LIVE: u8 = 1;
const DEAD: u8 = 2;
const SEALED: u8 = 3;

/// redb writes the header, and with it the decision which commit counts, at the start of the file.
const HEADER_END: u64 = 512;

enum Op {
    Write(u64, Vec<u8>),
    SetLen(u64),
    Sync,
}

/// Held operations and the length the file would have after them.
#[derive(Default)]
struct Held {
    ops: Vec<Op>,
    len: Option<u64>,
}

struct Shared {
    base: Arc<dyn StorageBackend>,
    mode: AtomicU8,
    held: Mutex<Held>,
    no_space: AtomicBool,
    unknown: AtomicBool,
    /// The base is locked already, by an earlier gate on it.
    inherits_locks: bool,
}

/// One opening of the file. Clones share it: one goes to redb, one stays with the store.
#[derive(Clone)]
pub(super) struct Gate(Arc<Shared>);

impl Gate {
    /// A gate that holds writes. The first gate on `base` takes redb's locks; they stay taken, whatever
    /// redb releases, until the base itself is closed or dropped, so that a later gate inherits them.
    pub(super) fn held(base: Arc<dyn StorageBackend>, inherits_locks: bool) -> Self {
        Self(Arc::new(Shared {
            base,
            mode: AtomicU8::new(HELD),
            held: Mutex::new(Held::default()),
            no_space: AtomicBool::new(false),
            unknown: AtomicBool::new(false),
            inherits_locks,
        }))
    }

    /// Lets the held operations go, in order, and every later one pass at once.
    pub(super) fn release(&self) -> Result<()> {
        let mut held = self.0.held.lock();
        for op in std::mem::take(&mut held.ops) {
            match op {
                Op::Write(offset, data) => self.base_write(offset, &data)?,
                Op::SetLen(len) => self.base_set_len(len)?,
                Op::Sync => self.base_sync()?,
            }
        }
        self.0.mode.store(LIVE, Ordering::Release);
        Ok(())
    }

    /// Keeps what is held from the file for good, shows it to reads, and refuses every later write.
    pub(super) fn seal(&self) {
        let _held = self.0.held.lock();
        self.0.mode.store(SEALED, Ordering::Release);
    }

    /// Refuses every write from now on; what was held is forgotten.
    pub(super) fn kill(&self) {
        let mut held = self.0.held.lock();
        self.0.mode.store(DEAD, Ordering::Release);
        held.ops = Vec::new();
    }

    /// What the first held write would put at the start of the file.
    pub(super) fn first_write(&self) -> Vec<u8> {
        let held = self.0.held.lock();
        let first = held.ops.iter().find_map(|op| match op {
            Op::Write(0, data) => Some(data.clone()),
            _ => None,
        });
        first.unwrap_or_default()
    }

    /// The worst that happened to the file through this gate.
    pub(super) fn failed(&self) -> Failed {
        if self.0.unknown.load(Ordering::Acquire) {
            Failed::Unknown
        } else if self.0.no_space.load(Ordering::Acquire) {
            Failed::Space
        } else {
            Failed::Nothing
        }
    }

    fn shows_held(&self) -> bool {
        matches!(self.0.mode.load(Ordering::Acquire), HELD | SEALED)
    }

    fn note<T>(&self, offset: u64, result: Result<T>) -> Result<T> {
        if let Err(e) = &result {
            let space = matches!(e.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
            let flag = if space && offset >= HEADER_END { &self.0.no_space } else { &self.0.unknown };
            flag.store(true, Ordering::Release);
        }
        result
    }

    fn base_write(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.note(offset, self.0.base.write(offset, data))
    }

    fn base_set_len(&self, len: u64) -> Result<()> {
        self.note(u64::MAX, self.0.base.set_len(len))
    }

    /// No failure of a sync is mere lack of space: the kernel may have dropped the pages.
    fn base_sync(&self) -> Result<()> {
        self.note(0, self.0.base.sync_data())
    }

    /// Does `live` if writes pass, else notes `op` as held.
    fn write_op(&self, op: impl FnOnce() -> Op, live: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        if self.0.mode.load(Ordering::Acquire) == HELD {
            let mut held = self.0.held.lock();
            if self.0.mode.load(Ordering::Acquire) == HELD {
                let op = op();
                let len = held.len(&*self.0.base)?;
                held.len = Some(match &op {
                    Op::Write(offset, data) => len.max(offset.saturating_add(data.len() as u64)),
                    Op::SetLen(len) => *len,
                    Op::Sync => len,
                });
                held.ops.push(op);
                return Ok(());
            }
        }
        if self.0.mode.load(Ordering::Acquire) != LIVE {
            return Err(Error::other("the file is no longer written to"));
        }
        live(self)
    }
}

impl Held {
    fn len(&self, base: &dyn StorageBackend) -> Result<u64> {
        self.len.map_or_else(|| base.len(), Ok)
    }

    /// Reads as if the held operations had been done.
    fn read(&self, base: &dyn StorageBackend, offset: u64, out: &mut [u8]) -> Result<()> {
        let end = offset.checked_add(out.len() as u64).ok_or(ErrorKind::InvalidInput)?;
        if end > self.len(base)? {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let there = usize::try_from(base.len()?.saturating_sub(offset)).unwrap_or(usize::MAX).min(out.len());
        let (from_base, beyond) = out.split_at_mut(there);
        if !from_base.is_empty() {
            base.read(offset, from_base)?;
        }
        beyond.fill(0);
        for op in &self.ops {
            match op {
                Op::Write(at, data) => overlay(out, offset, data, *at),
                // A cut leaves zeros behind it, also once the file has grown again.
                Op::SetLen(len) => {
                    let kept = usize::try_from(len.saturating_sub(offset)).unwrap_or(usize::MAX);
                    if let Some(cut) = out.get_mut(kept..) {
                        cut.fill(0);
                    }
                }
                Op::Sync => {}
            }
        }
        Ok(())
    }
}

/// Copies the part of `data` (at `at`) that falls into `out` (at `offset`).
fn overlay(out: &mut [u8], offset: u64, data: &[u8], at: u64) {
    let start = at.max(offset);
    let end = (at.saturating_add(data.len() as u64)).min(offset.saturating_add(out.len() as u64));
    let (Ok(len), Ok(to), Ok(from)) = (
        usize::try_from(end.saturating_sub(start)),
        usize::try_from(start - offset),
        usize::try_from(start - at),
    ) else {
        return;
    };
    if let (Some(to), Some(from)) = (out.get_mut(to..to + len), data.get(from..from + len)) {
        to.copy_from_slice(from);
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("base", &self.0.base).finish_non_exhaustive()
    }
}

impl StorageBackend for Gate {
    fn len(&self) -> Result<u64> {
        if self.shows_held() {
            return self.0.held.lock().len(&*self.0.base);
        }
        self.0.base.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        if self.shows_held() {
            return self.0.held.lock().read(&*self.0.base, offset, out);
        }
        self.0.base.read(offset, out)
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.write_op(|| Op::SetLen(len), |gate| gate.base_set_len(len))
    }

    fn sync_data(&self) -> Result<()> {
        self.write_op(|| Op::Sync, Self::base_sync)
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.write_op(|| Op::Write(offset, data.to_vec()), |gate| gate.base_write(offset, data))
    }

    /// Nothing: the base outlives this opening of it, with its locks.
    fn close(&self) -> Result<()> {
        Ok(())
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> std::result::Result<bool, BackendError> {
        if self.0.inherits_locks { Ok(true) } else { self.0.base.try_lock_range(start, end) }
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> std::result::Result<bool, BackendError> {
        if self.0.inherits_locks { Ok(true) } else { self.0.base.try_lock_shared_range(start, end) }
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> std::result::Result<(), BackendError> {
        if self.0.inherits_locks { Ok(()) } else { self.0.base.lock_range(start, end) }
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> std::result::Result<(), BackendError> {
        if self.0.inherits_locks { Ok(()) } else { self.0.base.lock_shared_range(start, end) }
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> std::result::Result<(), BackendError> {
        if self.0.inherits_locks { Ok(()) } else { self.0.base.unlock_range(start, end) }
    }

    fn query_lock_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> std::result::Result<bool, BackendError> {
        if self.0.inherits_locks { Ok(false) } else { self.0.base.query_lock_range(start, end) }
    }
}
