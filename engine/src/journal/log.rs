//! The log itself: appending frames to the newest segment, making them durable, and beginning a new segment. It
//! keeps the index in step with what is written. It does not know the store behind the journal.
//!
//! Lock order: `syncing`, then `active`, then `generations`, then a shard of the index.
//!
//! Invariants
//! - The index changes under the lock under which the frame was written, so both have one order.
//! - A failed append leaves nothing behind: the segment is cut back to where it was before anything else is
//!   appended, because a frame whose writer was told of a failure must not come back after a crash.
//! - After a failed sync nothing is written any more: what the operating system then holds is unknown, and asking
//!   it again may answer that all is well (the pages are marked clean).

mod changes;
mod put;

use std::io;
use std::sync::Arc;

use self::changes::size;
pub(super) use self::put::{Full, Put};
use super::disk::{Disk, Segment};
use super::frame::{self, BATCH_FRAME, Header, Mark, SEGMENT_HEADER, Seed};
use super::index::{Generation, State};
use super::{NAME, failed};
use crate::error::{StoreError, StoreErrorKind};
use crate::place::Process;
use crate::store::Change;
use crate::sync::{AtomicU64, Mutex, Ordering, RwLock};
use crate::token::SessionId;

/// A segment this long is followed by a new one.
pub(super) const SEGMENT_BYTES: u64 = 32 << 20;
/// No commit is larger, so that offsets in a segment fit 32 bits.
const MAX_BATCH: usize = 1 << 30;
/// No segment is longer.
pub(super) const MAX_SEGMENT: u64 = SEGMENT_BYTES + MAX_BATCH as u64 + frame::MAX_FRAME as u64;
/// Buffers of this size are kept for the next append.
const KEPT_BUFFER: usize = 1 << 20;

/// The generation that is written and the one that is being drained into the store.
#[derive(Clone)]
pub(super) struct Generations {
    pub(super) current: Arc<Generation>,
    pub(super) frozen: Option<Arc<Generation>>,
}

/// The append-only log with its index.
pub(super) struct Log {
    disk: Box<dyn Disk>,
    journal: [u8; 16],
    segment_bytes: u64,
    active: Mutex<Active>,
    generations: RwLock<Generations>,
    /// One thread syncs at a time; who waits finds its work done.
    syncing: Mutex<()>,
    /// Everything before this position is durable.
    synced: AtomicU64,
    /// The latest engine time it was told, in ms.
    now: AtomicU64,
    /// Who may write.
    pub(super) process: Process,
}

/// States of a generation that was the current one, as somebody found them.
pub(super) struct Seen {
    pub(super) current: Arc<Generation>,
    pub(super) states: Vec<(SessionId, Option<State>)>,
}

impl Seen {
    fn still_holds(&self, current: &Arc<Generation>) -> bool {
        Arc::ptr_eq(current, &self.current) && self.states.iter().all(|(id, state)| current.get(id) == *state)
    }
}

/// The segment that is written.
struct Active {
    /// As in the generations, which change under this lock only.
    current: Arc<Generation>,
    file: Arc<dyn Segment>,
    number: u32,
    seed: Seed,
    base: u64,
    /// Where the next frame goes.
    at: u64,
    /// Segments with bytes that have not been synced.
    unsynced: Vec<Arc<dyn Segment>>,
    /// A segment was created since names were last synced.
    new_name: bool,
    /// A write failed half way: the segment must be cut back first.
    ragged: bool,
    oldest: u32,
    buffer: Vec<u8>,
    /// What the buffer's frames tell the index.
    told: Vec<(SessionId, u64, State)>,
    broken: Option<StoreError>,
    /// Engine time in ms at which a put last asked which process this is.
    asked_at: u64,
}

impl Active {
    /// Whether the next frame can be appended as it is.
    fn goes_on(&self, segment_bytes: u64) -> bool {
        self.broken.is_none() && !self.ragged && self.at < segment_bytes
    }

    fn end(&self) -> u64 {
        self.base + self.at
    }

    /// Writes `frames`, which the index is told of by the caller.
    fn write(&mut self, frames: &[u8]) -> Result<(), StoreError> {
        if let Err(e) = self.file.write_at(self.at, frames) {
            self.ragged = true;
            return Err(self.fails("writing failed", e));
        }
        self.at += frames.len() as u64;
        self.current.add_bytes(frames.len() as u64);
        Ok(())
    }

    /// The error that `e` is. Whatever is not mere lack of space ends all writing.
    fn fails(&mut self, what: &str, e: io::Error) -> StoreError {
        let error = failed(what, e);
        if error.kind() != StoreErrorKind::Full {
            self.broken = Some(error.clone());
        }
        error
    }
}

/// Where a log goes on.
pub(super) struct Start {
    pub(super) journal: [u8; 16],
    pub(super) number: u32,
    pub(super) base: u64,
    pub(super) oldest: u32,
    pub(super) now: u64,
    /// Everything before this position is known to be durable.
    pub(super) synced: u64,
    /// What was found.
    pub(super) frozen: Option<Arc<Generation>>,
    /// Segments that are to go, and whether their bytes are kept.
    pub(super) remove: Vec<(u32, bool)>,
}

impl Log {
    /// Begins a segment behind what was found.
    pub(super) fn start(disk: Box<dyn Disk>, start: Start, segment_bytes: u64) -> io::Result<Self> {
        let header =
            Header { journal: start.journal, number: start.number, base: start.base, now: start.now };
        // Nothing has ever been synced: a loss of power could leave frames and no header at all, which is what damage
        // looks like.
        let is_new = start.synced <= SEGMENT_HEADER as u64;
        if is_new {
            // What was removed by who was killed then must not come back beside a journal of another identity.
            disk.sync()?;
        }
        let file = begin(&*disk, &header)?;
        let mut at = SEGMENT_HEADER as u64;
        if !start.remove.is_empty() {
            if is_new {
                // Nor may the mark be there without the header, should the segments before it have none either.
                file.sync()?;
            }
            // What says that they are over may be among them, or not be durable.
            let mut mark = Vec::new();
            let said = Mark { synced: start.synced, oldest: start.oldest, now: start.now };
            frame::push_mark(&mut mark, header.seed(), at, &said);
            file.write_at(at, &mark)?;
            at += mark.len() as u64;
        }
        if is_new || !start.remove.is_empty() {
            for found in start.frozen.iter().flat_map(|found| found.files_in_order()) {
                found.sync()?;
            }
            file.sync()?;
            disk.sync()?;
        }
        for (number, keep) in start.remove {
            if keep { disk.set_aside(number)? } else { disk.remove(number)? }
        }
        let current = Arc::new(Generation::new());
        current.add_file(start.number, Arc::clone(&file));
        // A process that was killed may have written what it did not sync, so that it is only found until the power
        // is lost.
        let mut unsynced = start.frozen.as_ref().map_or_else(Vec::new, |found| found.files_in_order());
        unsynced.push(Arc::clone(&file));
        let active = Active {
            current: Arc::clone(&current),
            unsynced,
            file,
            number: start.number,
            seed: header.seed(),
            base: start.base - SEGMENT_HEADER as u64,
            at,
            new_name: true,
            ragged: false,
            oldest: start.oldest,
            buffer: Vec::new(),
            told: Vec::new(),
            broken: None,
            asked_at: 0,
        };
        Ok(Self {
            disk,
            journal: start.journal,
            segment_bytes,
            active: Mutex::new(active),
            generations: RwLock::new(Generations { current, frozen: start.frozen }),
            syncing: Mutex::new(()),
            synced: AtomicU64::new(start.synced),
            now: AtomicU64::new(start.now),
            process: Process::this(),
        })
    }

    pub(super) fn generations(&self) -> Generations {
        self.generations.read().clone()
    }

    /// Bytes and sessions in the current generation.
    pub(super) fn size(&self) -> (u64, usize) {
        let generations = self.generations.read();
        (generations.current.bytes(), generations.current.len())
    }

    pub(super) fn now(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }

    pub(super) fn note_time(&self, now: u64) {
        if now > self.now() {
            self.now.store(now, Ordering::Relaxed);
        }
    }

    /// The error that ended all writing.
    pub(super) fn broken(&self) -> Option<StoreError> {
        self.active.lock().broken.clone()
    }

    /// Appends `changes` in order, so that all of them or none survive a crash of the process from here on.
    ///
    /// An insert or an update is written whatever is there: the caller has checked, or alone decides.
    pub(super) fn append(&self, changes: &[Change]) -> Result<(), StoreError> {
        self.append_if(changes, None).map(drop)
    }

    /// As [`append`](Self::append), if nothing that was `seen` has changed. Else nothing is done, and it returns
    /// `false`.
    pub(super) fn append_if(&self, changes: &[Change], seen: Option<&Seen>) -> Result<bool, StoreError> {
        if changes.is_empty() {
            return Ok(true);
        }
        let bytes: usize = changes.iter().map(size).sum();
        if bytes > MAX_BATCH {
            return Err(StoreError::new(
                StoreErrorKind::TooLarge,
                NAME,
                format!("a commit of {bytes} bytes is larger than {MAX_BATCH}"),
            ));
        }
        let mut guard = self.active.lock();
        if seen.is_some_and(|seen| !seen.still_holds(&guard.current)) {
            return Ok(false);
        }
        self.ready(&mut guard)?;
        let active = &mut *guard;
        active.buffer.clear();
        active.told.clear();
        let batch = changes.len() > 1;
        if batch {
            active.buffer.resize(BATCH_FRAME, 0);
        }
        for change in changes {
            active.push(change);
        }
        if batch {
            let mut head = Vec::with_capacity(BATCH_FRAME);
            frame::push_batch(&mut head, active.seed, active.at, &active.buffer[BATCH_FRAME..]);
            active.buffer[..BATCH_FRAME].copy_from_slice(&head);
        }
        self.write(active).map(|()| true)
    }

    /// Sees that a frame may be appended, in a segment with room.
    fn ready(&self, active: &mut Active) -> Result<(), StoreError> {
        if let Some(error) = &active.broken {
            return Err(error.clone());
        }
        // The process that this one is a fork of writes at the same place.
        if let Err(error) = self.process.check(NAME) {
            active.broken = Some(error.clone());
            return Err(error);
        }
        if active.ragged {
            let cut = active.file.set_len(active.at);
            cut.map_err(|e| active.fails("cannot cut a failed write off", e))?;
            active.ragged = false;
        }
        if active.at < self.segment_bytes {
            return Ok(());
        }
        let current = Arc::clone(&active.current);
        self.begin_segment(active, &current)
    }

    /// Writes the buffer and tells the index.
    fn write(&self, active: &mut Active) -> Result<(), StoreError> {
        let mut buffer = std::mem::take(&mut active.buffer);
        let written = active.write(&buffer);
        if buffer.capacity() <= KEPT_BUFFER {
            buffer.clear();
            active.buffer = buffer;
        }
        written?;
        for (id, owner, state) in &active.told {
            active.current.note(id, *owner, *state);
        }
        Ok(())
    }

    /// Begins a segment of `generation`.
    fn begin_segment(&self, active: &mut Active, generation: &Generation) -> Result<(), StoreError> {
        let Some(number) = active.number.checked_add(1) else {
            return Err(StoreError::new(
                StoreErrorKind::TooLarge,
                NAME,
                "the numbers of segments are used up",
            ));
        };
        if let Err(error) = self.disk.check(active.number, &*active.file) {
            active.broken = Some(error.clone());
            return Err(error);
        }
        let header = Header { journal: self.journal, number, base: active.end(), now: self.now() };
        let file = begin(&*self.disk, &header).map_err(|e| active.fails("cannot begin a segment", e))?;
        generation.add_file(number, Arc::clone(&file));
        active.base = active.end() - SEGMENT_HEADER as u64;
        active.at = SEGMENT_HEADER as u64;
        active.seed = header.seed();
        active.number = number;
        active.unsynced.push(Arc::clone(&file));
        active.file = file;
        active.new_name = true;
        Ok(())
    }

    /// Makes everything appended until now durable. Returns at once if it is.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        let synced = self.sync_with(false);
        // Here, because no request waits for it that has not waited for a disk.
        self.generations().current.settle();
        synced
    }

    /// As [`sync`](Self::sync); with `mark` it also insists on a new mark.
    fn sync_with(&self, mark: bool) -> Result<(), StoreError> {
        let wanted = {
            let active = self.active.lock();
            if let Some(error) = &active.broken {
                return Err(error.clone());
            }
            active.end()
        };
        let is_done = || !mark && self.synced.load(Ordering::Acquire) >= wanted;
        if is_done() {
            return Ok(());
        }
        let _one = self.syncing.lock();
        if is_done() {
            return Ok(());
        }
        let (files, new_name, end) = {
            let mut active = self.active.lock();
            match self.mark(&mut active) {
                // A mark is for the next start's judgement only. What it stands for can be synced without space.
                Err(error) if mark || error.kind() != StoreErrorKind::Full => return Err(error),
                _ => {}
            }
            (active.unsynced.clone(), active.new_name, active.end())
        };
        let synced = files.iter().try_for_each(|file| file.sync());
        let synced = synced.and_then(|()| if new_name { self.disk.sync() } else { Ok(()) });
        let mut active = self.active.lock();
        if let Err(e) = synced {
            // Whatever the reason: a failed sync leaves unknown what is on the disk.
            let error = self.disk.check(active.number, &*active.file).err().unwrap_or_else(|| {
                StoreError::new(StoreErrorKind::Io, NAME, "making it durable failed").with_source(e)
            });
            active.broken = Some(error.clone());
            return Err(error);
        }
        self.synced.store(end, Ordering::Release);
        active.new_name &= !new_name || active.unsynced.len() > files.len();
        // The last of them is still written, unless another one has been begun since.
        active.unsynced.drain(..files.len() - 1);
        Ok(())
    }

    /// Sees that the segments are still where a start would look for them. If not, nothing is written any more: it
    /// would be lost with this process.
    pub(super) fn check_place(&self) -> Result<(), StoreError> {
        let is_missed = |(number, file): &(u32, Arc<dyn Segment>)| {
            let error = self.disk.check(*number, &**file).err()?;
            // A checkpoint may have removed it since: it forgets a segment first.
            let known = self.generations();
            let is_known = |g: &Arc<Generation>| g.segments().contains(number);
            (is_known(&known.current) || known.frozen.as_ref().is_some_and(is_known)).then_some(error)
        };
        let Generations { current, frozen } = self.generations();
        let files = frozen.iter().chain([&current]).flat_map(|generation| generation.numbered());
        let Some(error) = files.collect::<Vec<_>>().iter().find_map(is_missed) else { return Ok(()) };
        let mut active = self.active.lock();
        Err(active.broken.get_or_insert(error).clone())
    }

    /// Appends a mark and syncs it.
    pub(super) fn try_writing(&self) -> Result<(), StoreError> {
        self.sync_with(true)
    }

    /// Appends a mark.
    fn mark(&self, active: &mut Active) -> Result<(), StoreError> {
        self.ready(active)?;
        active.buffer.clear();
        active.told.clear();
        let mark =
            Mark { synced: self.synced.load(Ordering::Acquire), oldest: active.oldest, now: self.now() };
        frame::push_mark(&mut active.buffer, active.seed, active.at, &mark);
        self.write(active)
    }

    /// Freezes the current generation and begins a new one, unless one is frozen already. Returns the frozen one.
    pub(super) fn freeze(&self) -> Result<Option<Arc<Generation>>, StoreError> {
        let mut active = self.active.lock();
        let current = {
            let generations = self.generations.read();
            if generations.frozen.is_some() || generations.current.is_empty() {
                return Ok(generations.frozen.clone());
            }
            Arc::clone(&generations.current)
        };
        self.ready(&mut active)?;
        let next = Arc::new(Generation::new());
        self.begin_segment(&mut active, &next)?;
        active.current = Arc::clone(&next);
        // In one step, so that whoever looks finds every state in one of the two.
        *self.generations.write() = Generations { current: next, frozen: Some(Arc::clone(&current)) };
        Ok(Some(current))
    }

    /// The frozen generation is in the store: says so durably, forgets it and removes its segments, keeping the
    /// bytes of those in `damaged`.
    pub(super) fn thaw(&self, damaged: &[u32]) -> Result<(), StoreError> {
        let Generations { current, frozen: Some(frozen) } = self.generations() else { return Ok(()) };
        {
            let mut active = self.active.lock();
            active.oldest = current.segments().into_iter().min().unwrap_or(active.oldest);
        }
        // Without it a start that finds some of the segments, because their removal did not last, would bring older
        // states back.
        self.sync_with(true)?;
        self.generations.write().frozen = None;
        for number in frozen.segments() {
            let gone = if damaged.contains(&number) {
                self.disk.set_aside(number)
            } else {
                self.disk.remove(number)
            };
            if let Err(error) = gone {
                // It is known to be over: the next start removes it.
                tracing::warn!(store = NAME, number, %error, "a segment of the journal could not be removed");
            }
        }
        Ok(())
    }

    /// Removes the segments of a journal that has nothing in it, and ends all writing.
    ///
    /// One step after the other, so that no crash leaves a segment without those that say that it is over.
    pub(super) fn end(&self) -> Result<(), StoreError> {
        let is_empty = || {
            let Generations { current, frozen } = self.generations();
            current.is_empty() && frozen.is_none()
        };
        let durable = || self.disk.sync().map_err(|e| failed("cannot make a removal durable", e));
        let remove = |number| self.disk.remove(number).map_err(|e| failed("cannot remove a segment", e));
        if self.generations().current.segments().len() > 1 && is_empty() {
            let mut active = self.active.lock();
            self.ready(&mut active)?;
            active.oldest = active.number;
            drop(active);
            self.sync_with(true)?;
        }
        durable()?;
        let mut active = self.active.lock();
        if active.broken.is_none() {
            if !is_empty() {
                // Something was written since the last checkpoint. The next start hands it on.
                drop(active);
                return self.sync();
            }
            let mut before =
                self.generations().current.segments().into_iter().filter(|n| *n != active.number);
            before.try_for_each(remove)?;
            durable()?;
            remove(active.number)?;
            durable()?;
        }
        active.broken = Some(StoreError::new(StoreErrorKind::Closed, NAME, "the journal was closed"));
        Ok(())
    }

    /// Lets others have the place of the segments. To be called when all writing has ended.
    pub(super) fn release(&self) {
        self.disk.release();
    }

    /// Ends all writing, and leaves the segments as they are.
    pub(super) fn stop(&self) {
        let mut active = self.active.lock();
        if active.broken.is_none() {
            active.broken = Some(StoreError::new(StoreErrorKind::Closed, NAME, "the journal was closed"));
        }
    }
}

/// A new segment with its header.
fn begin(disk: &dyn Disk, header: &Header) -> io::Result<Arc<dyn Segment>> {
    let file = disk.create(header.number)?;
    match file.write_at(0, &header.encode()) {
        Ok(()) => Ok(file),
        Err(e) => {
            // Else the number stays taken, and the next attempt fails for that reason.
            let _ = disk.remove(header.number);
            Err(e)
        }
    }
}
