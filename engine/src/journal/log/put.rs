//! The one append that a response waits for: a row that is encoded by the thread that writes it, in a buffer that this
//! thread keeps. Under the lock of the log only its place is filled in, its checksum, and what the index is told.

use super::super::frame::{self, FRAME_HEADER, Kind};
use super::super::index::{Place, State, owner_hash};
use super::Log;
use crate::error::StoreError;
use crate::store::row;
use crate::token::SessionId;

/// A thread keeps no larger buffer for its next put.
const KEPT: usize = 64 << 10;
/// Where the row begins in the frame.
const ROW_AT: usize = FRAME_HEADER + 32;

thread_local! {
    static BUFFER: std::cell::Cell<Vec<u8>> = const { std::cell::Cell::new(Vec::new()) };
}

/// The size of a generation at which nothing more is put.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Full {
    pub(in super::super) bytes: u64,
    pub(in super::super) items: usize,
}

impl Full {
    pub(in super::super) fn is_reached(&self, bytes: u64, items: usize) -> bool {
        bytes >= self.bytes || items >= self.items
    }
}

/// The change that sets the row of a session, encoded.
pub(in super::super) struct Put<'a> {
    id: &'a SessionId,
    owner: u64,
    row_len: usize,
    /// The frame without its checksum, which depends on its place.
    frame: Vec<u8>,
}

impl<'a> Put<'a> {
    /// The row is `head` and what `record` appends.
    pub(in super::super) fn encode(
        id: &'a SessionId,
        head: &row::Head<'_>,
        record: impl FnOnce(&mut Vec<u8>) -> Result<(), StoreError>,
    ) -> Result<Self, StoreError> {
        // A thread that is being torn down has none.
        let mut frame = BUFFER.try_with(std::cell::Cell::take).unwrap_or_default();
        frame.clear();
        frame.extend_from_slice(&[0; FRAME_HEADER]);
        frame.extend_from_slice(id.as_bytes());
        row::append_with(id.as_bytes(), head, &mut frame, record)?;
        let row_len = frame.len() - ROW_AT;
        frame::finish(&mut frame, 0, Kind::Put);
        Ok(Self { id, owner: owner_hash(head.owner), row_len, frame })
    }

    /// Appends it to `log`, as [`Log::append`] does. `Ok(false)` if the current generation is as large as `full`, and
    /// nothing was done.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a segment ends before 4 GiB, and a row before 32 MiB"
    )]
    pub(in super::super) fn append_to(mut self, log: &Log, full: &Full) -> Result<bool, StoreError> {
        let mut guard = log.active.lock();
        if full.is_reached(guard.current.bytes(), guard.current.len()) {
            return Ok(false);
        }
        let now = log.now();
        // Which process this is, is asked once a millisecond at most: it is a system call, which costs up to half as
        // much as the write. A fork takes about as long as that.
        if guard.asked_at != now || !guard.goes_on(log.segment_bytes) {
            log.ready(&mut guard)?;
            guard.asked_at = now;
        }
        let active = &mut *guard;
        let at = active.at;
        frame::seal(&mut self.frame, active.seed, at);
        active.write(&self.frame)?;
        let place =
            Place { segment: active.number, at: (at + ROW_AT as u64) as u32, len: self.row_len as u32 };
        active.current.note(self.id, self.owner, State::Row(place));
        Ok(true)
    }
}

impl Drop for Put<'_> {
    fn drop(&mut self) {
        if self.frame.capacity() <= KEPT {
            let frame = std::mem::take(&mut self.frame);
            let _ = BUFFER.try_with(|kept| kept.set(frame));
        }
    }
}
