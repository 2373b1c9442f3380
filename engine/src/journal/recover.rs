//! What a start finds: it walks the segments, rebuilds the index, and tells a torn end from damage. It reads every
//! byte once, trusts none before its checksum, and writes nothing but the removal of what is over.
//!
//! After a crash the end of the journal may be torn: bytes that were never synced are missing, and others behind them
//! may have made it. Everything from the first gap on is dropped, as nobody was told that it is durable. A gap before a
//! position that a later mark calls synced is *damage*: what can still be read behind it is used, and the gap is
//! reported.

use std::io;
use std::sync::Arc;

use super::disk::{Disk, Segment};
use super::frame::{BadHeader, Frame, Header, Mark, SEGMENT_HEADER, Seed, Told};
use super::index::{Generation, Item, Place, State, owner_hash};
use super::log::MAX_SEGMENT;
use super::{NAME, failed};
use crate::error::{StoreError, StoreErrorKind};
use crate::store::row;
use crate::token::{SessionId, Token};

/// What a start found in the journal.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Recovery {
    /// Segments read.
    pub segments: usize,
    /// Bytes read.
    pub bytes: u64,
    /// Changes that were found and are in force.
    pub changes: u64,
    /// Bytes at the end that were not written whole before a crash. Nobody was told that they are durable.
    pub torn_bytes: u64,
    /// Gaps in what had been durable: each is the loss of an unknown number of changes.
    pub damaged: usize,
}

/// What the journal goes on from.
pub(super) struct Found {
    pub(super) journal: [u8; 16],
    /// The number of the next segment.
    pub(super) number: u32,
    /// Where the next frame goes.
    pub(super) end: u64,
    pub(super) oldest: u32,
    pub(super) now: u64,
    /// Everything before this position is durable. What is behind it was found, but may never have been synced.
    pub(super) synced: u64,
    pub(super) generation: Generation,
    /// Segments whose bytes are to be kept.
    pub(super) damaged: Vec<u32>,
    /// Segments that are over, or were torn off, and whether their bytes are to be kept. They may go once the next
    /// segment says durably where the journal begins: what says so now may be among them.
    pub(super) remove: Vec<(u32, bool)>,
    pub(super) report: Recovery,
}

/// Where the frames of a new journal begin.
const FIRST: u64 = SEGMENT_HEADER as u64;

/// A segment with its header.
struct Loaded {
    number: u32,
    file: Arc<dyn Segment>,
    header: Result<Header, BadHeader>,
}

/// A range of positions that hold nothing valid.
#[derive(Debug, Clone, Copy)]
struct Gap {
    from: u64,
    to: u64,
    segment: u32,
}

/// What one walk over all segments learned.
#[derive(Default)]
struct Walk {
    gaps: Vec<Gap>,
    mark: Mark,
    /// Behind the last valid frame.
    end: u64,
    bytes: u64,
    /// Where the frames of each segment begin.
    bases: Vec<u64>,
    /// Segments without a header that hold nothing, as the next one begins where they do: torn off before it was begun.
    empty: Vec<u32>,
}

/// Reads everything that is on `disk`.
pub(super) fn recover(disk: &dyn Disk) -> Result<Found, StoreError> {
    let io = |what: &'static str| move |e: io::Error| failed(what, e);
    let mut numbers = disk.segments().map_err(io("cannot list the segments"))?;
    numbers.sort_unstable();
    let mut segments = Vec::with_capacity(numbers.len());
    for number in numbers {
        segments.push(load(disk, number).map_err(io("cannot read a segment"))?);
    }
    let next = segments.last().map_or(1, |last| last.number.saturating_add(1));
    let Some(journal) = identity(&mut segments, disk)? else { return fresh(next) };
    let mut remove = without_dead(&mut segments);
    loop {
        let mut generation = Generation::new();
        let mut changes = 0;
        let mut bytes = Vec::new();
        let mut first_gap = None;
        let mut walk = walk(&segments, &journal, &mut bytes, &mut |segment, at, told, walk| {
            first_gap = first_gap.or_else(|| walk.gaps.first().copied());
            if first_gap.is_none() {
                changes += u64::from(apply(&generation, segment, at, told));
            }
        })
        .map_err(io("cannot read a segment"))?;
        if !walk.empty.is_empty() {
            segments.retain(|segment| !walk.empty.contains(&segment.number));
            remove.extend(walk.empty.iter().map(|number| (*number, false)));
            continue;
        }
        // Segments that are over, and whose removal a crash undid. What they say is older than the store.
        let over = segments.iter().take_while(|s| s.number < walk.mark.oldest).count();
        if over > 0 {
            for Loaded { number, .. } in segments.drain(..over) {
                let is_damaged = |gap: &Gap| gap.segment == number && gap.from < walk.mark.synced;
                remove.push((number, walk.gaps.iter().any(is_damaged)));
            }
            if segments.is_empty() {
                return Ok(Found { journal, now: walk.mark.now, remove, ..fresh(next)? });
            }
            continue;
        }
        // What was over before the first segment is known; else segments before it are missing.
        if let Some(Loaded { number, header: Ok(header), .. }) = segments.first()
            && *number > walk.mark.oldest
            && header.base > FIRST
        {
            walk.gaps.insert(0, Gap { from: FIRST, to: header.base, segment: *number });
            if walk.mark.synced <= FIRST {
                generation = Generation::new();
                changes = 0;
            }
        }
        let torn = walk.gaps.iter().find(|gap| gap.from >= walk.mark.synced).copied();
        let damaged: Vec<Gap> = walk.gaps.iter().filter(|gap| gap.from < walk.mark.synced).copied().collect();
        if !damaged.is_empty() {
            // Once more, now that it is known which gaps are to be crossed.
            generation = Generation::new();
            changes = 0;
            let until = torn.map_or(u64::MAX, |gap| gap.from);
            let again = self::walk(&segments, &journal, &mut bytes, &mut |segment, at, told, walk| {
                if walk.end < until {
                    changes += u64::from(apply(&generation, segment, at, told));
                }
            });
            walk.bytes += again.map_err(io("cannot read a segment"))?.bytes;
        }
        let end = torn.map_or(walk.end, |gap| gap.from);
        let mut report = Recovery {
            segments: segments.len(),
            bytes: walk.bytes,
            changes,
            torn_bytes: torn.map_or(0, |gap| walk.end.max(gap.to) - gap.from),
            damaged: damaged.len(),
        };
        let mut aside: Vec<u32> = damaged.iter().map(|gap| gap.segment).collect();
        let mut known = false;
        for (segment, base) in segments.iter().zip(&walk.bases) {
            // What begins behind the end was torn off with it, and must not be found there by the next start.
            // The first known header stays: a journal of nothing but unknown ones could not be opened.
            if *base > end || (torn.is_some() && *base == end && (known || segment.header.is_err())) {
                remove.push((segment.number, false));
            } else {
                known |= segment.header.is_ok();
                if segment.header.is_err() {
                    aside.push(segment.number);
                }
                generation.add_file(segment.number, Arc::clone(&segment.file));
            }
        }
        generation.add_bytes(walk.bytes);
        let kept = generation.segments();
        report.segments = kept.len();
        return Ok(Found {
            journal,
            number: next,
            end,
            oldest: kept.into_iter().min().unwrap_or(next),
            now: walk.mark.now,
            synced: walk.mark.synced.min(end),
            generation,
            damaged: aside,
            remove,
            report,
        });
    }
}

/// Takes out what was torn off before a later segment was begun: that one begins where the journal ended, at or before
/// them.
fn without_dead(segments: &mut Vec<Loaded>) -> Vec<(u32, bool)> {
    let mut later = u64::MAX;
    let mut dead = Vec::new();
    for segment in segments.iter().rev() {
        match segment.header {
            Ok(header) if header.base >= later => dead.push((segment.number, false)),
            Ok(header) => later = header.base,
            Err(_) => {}
        }
    }
    segments.retain(|segment| !dead.contains(&(segment.number, false)));
    dead
}

/// A journal with nothing in it.
fn fresh(number: u32) -> Result<Found, StoreError> {
    let random = Token::generate().map_err(|e| {
        StoreError::new(StoreErrorKind::Unavailable, NAME, "no random bytes for the journal's identity")
            .with_source(e)
    })?;
    let mut journal = [0; 16];
    journal.copy_from_slice(&random.id().as_bytes()[..16]);
    Ok(Found {
        journal,
        number,
        end: FIRST,
        oldest: number,
        now: 0,
        synced: FIRST,
        generation: Generation::new(),
        damaged: Vec::new(),
        remove: Vec::new(),
        report: Recovery::default(),
    })
}

fn load(disk: &dyn Disk, number: u32) -> io::Result<Loaded> {
    let file = disk.open(number)?;
    let mut head = [0; SEGMENT_HEADER];
    let len = usize::try_from(file.len()?).unwrap_or(usize::MAX).min(SEGMENT_HEADER);
    file.read_at(0, &mut head[..len])?;
    let mut header = Header::decode(&head[..len]);
    if header.is_ok_and(|h| h.number != number) {
        header = Err(BadHeader::Foreign);
    }
    Ok(Loaded { number, file, header })
}

/// The identity that the segments share. `None` if there is nothing in any of them.
fn identity(segments: &mut Vec<Loaded>, disk: &dyn Disk) -> Result<Option<[u8; 16]>, StoreError> {
    let mut journal = None;
    for segment in &*segments {
        let refuse = |kind, what: String| {
            Err(StoreError::new(kind, NAME, format!("segment {}: {what}", segment.number)))
        };
        match &segment.header {
            Ok(header) if journal.is_none_or(|j| j == header.journal) => journal = Some(header.journal),
            Ok(_) => return refuse(StoreErrorKind::Foreign, "it is of another journal".into()),
            Err(BadHeader::Newer(version)) => {
                return refuse(StoreErrorKind::NewerFormat, format!("it has format {version}"));
            }
            Err(BadHeader::Foreign) => {
                return refuse(StoreErrorKind::Foreign, "it does not begin as a journal does".into());
            }
            Err(BadHeader::Damaged) => {}
        }
    }
    if journal.is_none() {
        // A crash while the first segment was begun leaves at most a header; more than that is damage.
        for segment in segments.drain(..) {
            let len = segment.file.len().map_err(|e| failed("cannot read a segment", e))?;
            if len > SEGMENT_HEADER as u64 {
                return Err(StoreError::new(
                    StoreErrorKind::Corrupt,
                    NAME,
                    format!("segment {}: the headers of all segments are damaged", segment.number),
                ));
            }
            disk.remove(segment.number).map_err(|e| failed("cannot remove a segment", e))?;
        }
    }
    Ok(journal)
}

/// Tells `tell` of every valid frame, in order; `walk.end` is then the frame's own position.
fn walk(
    segments: &[Loaded],
    journal: &[u8; 16],
    bytes: &mut Vec<u8>,
    tell: &mut dyn FnMut(u32, usize, Told<'_>, &Walk),
) -> io::Result<Walk> {
    let mut walk = Walk::default();
    let known: Vec<u32> = segments.iter().filter(|s| s.header.is_ok()).map(|s| s.number).collect();
    // Segments whose header is damaged, in front of the first one that is known.
    let mut in_front = 0;
    for segment in segments.iter().take_while(|s| s.header.is_err()) {
        in_front += segment.file.len()?.min(MAX_SEGMENT).saturating_sub(SEGMENT_HEADER as u64);
    }
    let first = segments.iter().find_map(|s| s.header.ok()).map_or(FIRST, |h| h.base);
    walk.end = first.saturating_sub(in_front).max(FIRST);
    for (index, segment) in segments.iter().enumerate() {
        // Whoever began the next segment knew where this one ended.
        let stop = segments[index + 1..].iter().find_map(|s| s.header.ok()).map_or(u64::MAX, |h| h.base);
        if segment.header.is_err() && walk.end >= stop {
            walk.empty.push(segment.number);
            walk.bases.push(walk.end);
            continue;
        }
        read_whole(segment, bytes)?;
        walk.bytes += bytes.len() as u64;
        let base = match &segment.header {
            Ok(header) => {
                walk.mark.now = walk.mark.now.max(header.now);
                header.base
            }
            // Its frames are checked with its number, so they may still be believed.
            Err(_) => walk.end,
        };
        match walk.gaps.last_mut() {
            _ if base == walk.end && segment.header.is_ok() => {}
            Some(gap) if gap.from == walk.end => gap.to = gap.to.max(base),
            _ => {
                // The segment before ended too early, unless this one does not know where it begins.
                let before =
                    index.checked_sub(1).and_then(|i| segments.get(i)).filter(|_| segment.header.is_ok());
                let number = before.unwrap_or(segment).number;
                walk.gaps.push(Gap { from: walk.end.min(base), to: base, segment: number });
            }
        }
        walk.end = base;
        walk.bases.push(base);
        walk_frames(
            &mut walk,
            segment.number,
            (Seed::new(journal, segment.number), base, stop),
            &known,
            bytes,
            tell,
        );
    }
    Ok(walk)
}

fn read_whole(segment: &Loaded, bytes: &mut Vec<u8>) -> io::Result<()> {
    let len = usize::try_from(segment.file.len()?.min(MAX_SEGMENT)).unwrap_or(usize::MAX);
    bytes.clear();
    bytes.try_reserve(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
    bytes.resize(len, 0);
    segment.file.read_at(0, bytes)
}

fn walk_frames(
    walk: &mut Walk,
    number: u32,
    (seed, base, stop): (Seed, u64, u64),
    known: &[u32],
    bytes: &[u8],
    tell: &mut dyn FnMut(u32, usize, Told<'_>, &Walk),
) {
    let position = |at: usize| base + (at - SEGMENT_HEADER) as u64;
    let mut at = SEGMENT_HEADER;
    while at < bytes.len() && position(at) < stop {
        let Some((frame, told)) = valid(bytes, at, seed) else {
            let gap_from = position(at);
            // Frames begin at multiples of 8.
            at += 8;
            while at < bytes.len() && position(at) < stop && valid(bytes, at, seed).is_none() {
                at += 8;
            }
            let to = position(at.min(bytes.len()));
            walk.gaps.push(Gap { from: gap_from, to, segment: number });
            if at >= bytes.len() || to >= stop {
                // The next segment, if there is one, begins where the valid frames ended.
                walk.end = gap_from;
                return;
            }
            continue;
        };
        walk.end = position(at);
        if let Told::Mark(mark) = told {
            walk.mark.synced = walk.mark.synced.max(mark.synced);
            // Believed only if that segment is there: else it was not durable, and nothing was removed for it yet.
            if mark.oldest > walk.mark.oldest && known.contains(&mark.oldest) {
                walk.mark.oldest = mark.oldest;
            }
            walk.mark.now = walk.mark.now.max(mark.now);
        }
        tell(number, at, told, walk);
        at += frame.len;
    }
    // A segment that ends within its header has no frames.
    walk.end = position(at.min(bytes.len().max(SEGMENT_HEADER)));
}

/// The frame at `at`, if it can be believed, and a batch only if all of it can.
fn valid(bytes: &[u8], at: usize, seed: Seed) -> Option<(Frame<'_>, Told<'_>)> {
    let frame = Frame::parse(bytes, at, seed)?;
    let told = frame.told()?;
    if let Told::Batch(batch) = told {
        let mut next = at + frame.len;
        let end = next + batch.frames(bytes, next)?.len();
        while next < end {
            let inner = Frame::parse(bytes, next, seed)?;
            if matches!(inner.told()?, Told::Batch(_)) {
                return None;
            }
            next += inner.len;
        }
        if next != end {
            return None;
        }
    }
    Some((frame, told))
}

/// Notes in `generation` what the frame at `at` says. Returns whether that is a change.
#[expect(clippy::cast_possible_truncation, reason = "a segment ends before 4 GiB")]
fn apply(generation: &Generation, segment: u32, at: usize, told: Told<'_>) -> bool {
    let set = |id: &SessionId, bytes: &[u8], row_at: usize| {
        let owner = row::decode(id.as_bytes(), bytes).map_or(0, |row| owner_hash(row.owner));
        let place = Place { segment, at: (at + row_at) as u32, len: bytes.len() as u32 };
        generation.set(Item { id: *id, owner, state: State::Row(place) });
    };
    match told {
        Told::Put { id, row, row_at } => set(&id, row, row_at),
        Told::Delete { id } => generation.set(Item { id, owner: 0, state: State::Deleted }),
        Told::Quarantine { id } => generation.set(Item { id, owner: 0, state: State::Quarantined }),
        Told::Rekey { from, to, row, row_at } => {
            if from != to {
                generation.set(Item { id: from, owner: 0, state: State::Deleted });
            }
            set(&to, row, row_at);
        }
        Told::Mark(_) | Told::Batch(_) => return false,
    }
    true
}
