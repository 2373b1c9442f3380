//! The bytes of the journal: the header of a segment and the frames in it. It reads and writes bytes in memory and
//! knows neither files nor what a frame leads to. `docs/format.md` describes the same bytes for people.
//!
//! A frame's checksum is seeded with the journal's identity, the segment's number and the frame's offset. So bytes
//! that an older use of the same place left behind, or that were moved, are never taken for a frame.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::token::SessionId;

/// First bytes of every segment.
const MAGIC: [u8; 8] = *b"SSLJOURN";
/// Version of header and frames together.
const VERSION: u8 = 1;
/// Bytes of a segment's header. Frames follow.
pub(super) const SEGMENT_HEADER: usize = 64;
/// Bytes of a frame's header. The payload follows, then zeros up to a multiple of 8.
pub(super) const FRAME_HEADER: usize = 16;
/// No frame is longer: the largest row and what surrounds it.
pub(super) const MAX_FRAME: usize = MAX_ROW + 4096;
/// Largest sealed record.
pub(super) const MAX_ROW: usize = 32 << 20;

/// No segment begins behind this position.
const MAX_POSITION: u64 = 1 << 62;

/// What a frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// `id row`: the row under this id is this one.
    Put = 1,
    /// `id`: there is no row under this id.
    Delete = 2,
    /// `from to row`: a `Delete` and a `Put` in one.
    Rekey = 3,
    /// `id`: the row under this id is damaged; there is none.
    Quarantine = 4,
    /// `synced oldest now`: see [`Mark`].
    Mark = 5,
    /// `bytes check`: the frames in that many bytes after this one count all together or not at all. The checksum is
    /// over all of them: after a failed attempt and a crash, frames of two attempts may lie behind each other.
    Batch = 6,
}

impl Kind {
    fn from_u8(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Put,
            2 => Self::Delete,
            3 => Self::Rekey,
            4 => Self::Quarantine,
            5 => Self::Mark,
            6 => Self::Batch,
            _ => return None,
        })
    }
}

/// A segment's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// The same in all segments of a journal.
    pub(super) journal: [u8; 16],
    pub(super) number: u32,
    /// The position in the journal at which this segment's frames begin: where those of the segment before end.
    pub(super) base: u64,
    /// Engine time in ms when the segment was begun.
    pub(super) now: u64,
}

/// Why bytes are no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BadHeader {
    /// They do not begin as a segment does.
    Foreign,
    /// A newer version wrote them.
    Newer(u8),
    /// Cut short or damaged.
    Damaged,
}

impl Header {
    pub(super) fn encode(&self) -> [u8; SEGMENT_HEADER] {
        let mut bytes = Vec::with_capacity(SEGMENT_HEADER);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&[VERSION, 0, 0, 0]);
        bytes.extend_from_slice(&self.number.to_le_bytes());
        bytes.extend_from_slice(&self.journal);
        bytes.extend_from_slice(&self.base.to_le_bytes());
        bytes.extend_from_slice(&self.now.to_le_bytes());
        bytes.extend_from_slice(&[0; 8]);
        let check = xxh3_64(&bytes);
        bytes.extend_from_slice(&check.to_le_bytes());
        let mut header = [0; SEGMENT_HEADER];
        header.copy_from_slice(&bytes);
        header
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, BadHeader> {
        let bytes = bytes.first_chunk::<SEGMENT_HEADER>().ok_or(BadHeader::Damaged)?;
        let (content, check) = bytes.split_at(SEGMENT_HEADER - 8);
        if content[..8] != MAGIC {
            return Err(if content[..8] == [0; 8] { BadHeader::Damaged } else { BadHeader::Foreign });
        }
        if check != xxh3_64(content).to_le_bytes() {
            return Err(BadHeader::Damaged);
        }
        let mut at = Reader(&content[8..]);
        let version = at.array::<1>().ok_or(BadHeader::Damaged)?[0];
        if version > VERSION {
            return Err(BadHeader::Newer(version));
        }
        (|| {
            at.array::<3>()?;
            let number = u32::from_le_bytes(at.array()?);
            let journal = at.array()?;
            Some(Self { journal, number, base: at.u64()?, now: at.u64()? })
        })()
        // So that no sum of a position and a length overflows.
        .filter(|header| (SEGMENT_HEADER as u64..=MAX_POSITION).contains(&header.base))
        .ok_or(BadHeader::Damaged)
    }

    /// The seed of this segment's frames.
    pub(super) fn seed(&self) -> Seed {
        Seed::new(&self.journal, self.number)
    }
}

/// What a segment's frames are checked with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seed(u64);

impl Seed {
    pub(super) fn new(journal: &[u8; 16], number: u32) -> Self {
        Self(xxh3_64_with_seed(journal, u64::from(number)))
    }

    fn check(self, at: u64, covered: &[u8]) -> u64 {
        xxh3_64_with_seed(covered, self.0.wrapping_add(at))
    }
}

/// A place at which the journal was known to be durable, and what else is known there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Mark {
    /// Everything before this position had reached the disk when the mark was written.
    pub(super) synced: u64,
    /// Segments before this one are in the store behind the journal, whole.
    pub(super) oldest: u32,
    /// Engine time in ms.
    pub(super) now: u64,
}

/// Adds a frame of `kind` to `buffer`, whose payload `payload` appends. `at` is the offset in the segment at which
/// `buffer` will begin.
pub(super) fn push(
    buffer: &mut Vec<u8>,
    seed: Seed,
    at: u64,
    kind: Kind,
    payload: impl FnOnce(&mut Vec<u8>),
) {
    let start = buffer.len();
    buffer.extend_from_slice(&[0; FRAME_HEADER]);
    payload(buffer);
    finish(buffer, start, kind);
    let Some(frame) = buffer.get_mut(start..) else { return };
    seal(frame, seed, at + start as u64);
}

/// Completes the frame of `kind` that begins at `start` with its header's place and has its payload. All but the
/// checksum, which [`seal`] writes.
pub(super) fn finish(buffer: &mut Vec<u8>, start: usize, kind: Kind) {
    let content = buffer.len() - start - FRAME_HEADER;
    let pad = content.next_multiple_of(8) - content;
    buffer.extend_from_slice(&[0; 8][..pad]);
    let Some(frame) = buffer.get_mut(start..) else { return };
    // The row's size has been checked against `MAX_ROW`.
    let len = u32::try_from(frame.len()).unwrap_or(u32::MAX);
    frame[8..12].copy_from_slice(&len.to_le_bytes());
    frame[12] = kind as u8;
    frame[13] = pad as u8;
}

/// Writes the checksum of a frame that is to be at the offset `at`.
pub(super) fn seal(frame: &mut [u8], seed: Seed, at: u64) {
    if let Some((check, covered)) = frame.split_first_chunk_mut::<8>() {
        *check = seed.check(at, covered).to_le_bytes();
    }
}

pub(super) fn push_mark(buffer: &mut Vec<u8>, seed: Seed, at: u64, mark: &Mark) {
    push(buffer, seed, at, Kind::Mark, |b| {
        b.extend_from_slice(&mark.synced.to_le_bytes());
        b.extend_from_slice(&mark.oldest.to_le_bytes());
        b.extend_from_slice(&[0; 4]);
        b.extend_from_slice(&mark.now.to_le_bytes());
    });
}

/// Bytes of a [`Kind::Batch`] frame.
pub(super) const BATCH_FRAME: usize = FRAME_HEADER + 16;

/// Adds the frame that `frames` are to follow.
pub(super) fn push_batch(buffer: &mut Vec<u8>, seed: Seed, at: u64, frames: &[u8]) {
    push(buffer, seed, at, Kind::Batch, |b| {
        b.extend_from_slice(&(frames.len() as u64).to_le_bytes());
        b.extend_from_slice(&xxh3_64(frames).to_le_bytes());
    });
}

/// A frame whose checksum is right.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame<'a> {
    pub(super) kind: Kind,
    pub(super) payload: &'a [u8],
    /// Bytes of the whole frame.
    pub(super) len: usize,
}

/// What a frame tells the index. Offsets count from the frame's first byte.
#[derive(Debug, Clone, Copy)]
pub(super) enum Told<'a> {
    Put { id: SessionId, row: &'a [u8], row_at: usize },
    Delete { id: SessionId },
    Rekey { from: SessionId, to: SessionId, row: &'a [u8], row_at: usize },
    Quarantine { id: SessionId },
    Mark(Mark),
    Batch(Batch),
}

/// What belongs together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) bytes: u64,
    check: u64,
}

impl Batch {
    /// The frames of the batch, in the segment `segment` behind the frame that ends at `at`.
    pub(super) fn frames<'a>(&self, segment: &'a [u8], at: usize) -> Option<&'a [u8]> {
        let frames = segment.get(at..)?.get(..usize::try_from(self.bytes).ok()?)?;
        (xxh3_64(frames) == self.check).then_some(frames)
    }
}

impl<'a> Frame<'a> {
    /// The frame at the offset `at` of a segment whose bytes are `segment`.
    pub(super) fn parse(segment: &'a [u8], at: usize, seed: Seed) -> Option<Self> {
        let rest = segment.get(at..)?;
        let (header, _) = rest.split_first_chunk::<FRAME_HEADER>()?;
        let (check, fields) = header.split_first_chunk::<8>()?;
        let (len, fields) = fields.split_first_chunk::<4>()?;
        let [kind, pad, 0, 0] = *fields else { return None };
        let len = u32::from_le_bytes(*len) as usize;
        let kind = Kind::from_u8(kind)?;
        if !len.is_multiple_of(8) || len < FRAME_HEADER + usize::from(pad) || len > MAX_FRAME || pad > 7 {
            return None;
        }
        let frame = rest.get(..len)?;
        if seed.check(at as u64, frame.get(8..)?) != u64::from_le_bytes(*check) {
            return None;
        }
        Some(Self { kind, payload: frame.get(FRAME_HEADER..len - usize::from(pad))?, len })
    }

    /// What it says; `None` if a right checksum covers nonsense.
    pub(super) fn told(&self) -> Option<Told<'a>> {
        let mut at = Reader(self.payload);
        Some(match self.kind {
            Kind::Put => Told::Put { id: at.id()?, row: at.0, row_at: FRAME_HEADER + 32 },
            Kind::Delete => Told::Delete { id: at.id()? },
            Kind::Rekey => Told::Rekey { from: at.id()?, to: at.id()?, row: at.0, row_at: FRAME_HEADER + 64 },
            Kind::Quarantine => Told::Quarantine { id: at.id()? },
            Kind::Mark => {
                let synced = at.u64()?;
                let oldest = u32::from_le_bytes(at.array()?);
                at.array::<4>()?;
                Told::Mark(Mark { synced, oldest, now: at.u64()? })
            }
            Kind::Batch => Told::Batch(Batch { bytes: at.u64()?, check: at.u64()? }),
        })
    }
}

/// Takes fields off the front of bytes.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn id(&mut self) -> Option<SessionId> {
        self.array().map(SessionId::from_bytes)
    }
}
