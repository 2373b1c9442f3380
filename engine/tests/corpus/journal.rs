//! Any bytes may lie where the journal expects its segments: a start refuses them or works, never panics, and gives no row
//! that no intact frame held. A journal that nobody damaged gives exactly what was written last.
//!
//! The input is a program: it writes frames by a second implementation of `docs/format.md`, and then damages the files.
//! So what lies behind the checksums is reached too.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use pollster::block_on;
use sessile_engine::record::{Meta, Record};
use sessile_engine::store::{MemoryStore, Row, Store};
use sessile_engine::{Engine, SessionId};
use tempfile::TempDir;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

const HEADER: usize = 64;
const JOURNAL: [u8; 16] = *b"a fuzzed journal";
/// Far in the future.
const LATER: u64 = 4_000_000_000_000;
const IDS: u8 = 8;

/// The bytes of the input, taken from the front.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn or_zero(&mut self) -> u8 {
        self.byte().unwrap_or(0)
    }

    fn word(&mut self) -> u16 {
        u16::from_le_bytes([self.or_zero(), self.or_zero()])
    }
}

fn id(n: u8) -> [u8; 32] {
    let mut id = [n % IDS; 32];
    id[0] = n % IDS * 31;
    id
}

fn row(n: u8, version: u64, how: u8) -> Row {
    let meta = Meta {
        version,
        created_at: 1,
        last_seen: 1,
        deadline: LATER,
        idle_timeout: None,
        authenticated_at: None,
        issued_at: 1,
        persistent: true,
        anonymous_idle: false,
    };
    let sealed = Record::empty(&meta).seal(&SessionId::from_bytes(id(n)));
    let bytes = if how == 255 { vec![how; 40] } else { sealed };
    let owner = (how % 4 == 1).then(|| "o".repeat(usize::from(how)).into());
    Row { version, expires_at: LATER, owner, bytes }
}

// ---- the bytes, as docs/format.md has them ----

fn encode_row(id: &[u8; 32], row: &Row) -> Vec<u8> {
    let owner = row.owner.as_deref();
    let name = owner.unwrap_or_default().as_bytes();
    let mut rest = vec![1, u8::from(owner.is_some()), u8::try_from(name.len()).unwrap_or(255), 0, 0, 0, 0, 0];
    rest.extend(row.version.to_le_bytes());
    rest.extend(row.expires_at.to_le_bytes());
    rest.extend(name);
    rest.extend(&row.bytes);
    let check = xxh3_64_with_seed(&rest, xxh3_64(id));
    [&check.to_le_bytes()[..], &rest].concat()
}

fn seed(journal: &[u8; 16], number: u32) -> u64 {
    xxh3_64_with_seed(journal, u64::from(number))
}

fn header(number: u32, base: u64) -> Vec<u8> {
    let mut bytes = b"SSLJOURN\x01\0\0\0".to_vec();
    bytes.extend(number.to_le_bytes());
    bytes.extend(JOURNAL);
    bytes.extend(base.to_le_bytes());
    bytes.extend(1_u64.to_le_bytes());
    bytes.extend([0; 8]);
    let check = xxh3_64(&bytes);
    bytes.extend(check.to_le_bytes());
    bytes
}

fn frame(number: u32, at: usize, kind: u8, payload: &[u8]) -> Vec<u8> {
    let pad = payload.len().next_multiple_of(8) - payload.len();
    let len = u32::try_from(16 + payload.len() + pad).unwrap_or(u32::MAX);
    let mut rest = len.to_le_bytes().to_vec();
    rest.extend([kind, u8::try_from(pad).unwrap_or(0), 0, 0]);
    rest.extend(payload);
    rest.resize(rest.len() + pad, 0);
    let check = xxh3_64_with_seed(&rest, seed(&JOURNAL, number).wrapping_add(at as u64));
    [&check.to_le_bytes()[..], &rest].concat()
}

/// Every row that an intact frame of these files holds, wherever it lies.
fn held(files: &BTreeMap<u32, Vec<u8>>) -> BTreeSet<([u8; 32], Vec<u8>)> {
    let mut held = BTreeSet::new();
    for (number, file) in files {
        for at in (HEADER..file.len().saturating_sub(15)).step_by(8) {
            let len = u32::from_le_bytes(file[at + 8..at + 12].try_into().unwrap_or_default()) as usize;
            let pad = usize::from(file[at + 13]);
            let (kind, to) = (file[at + 12], at.saturating_add(len));
            if len < 16 + pad || to > file.len() {
                continue;
            }
            let check = xxh3_64_with_seed(&file[at + 8..to], seed(&JOURNAL, *number).wrapping_add(at as u64));
            if file[at..at + 8] != check.to_le_bytes() {
                continue;
            }
            let payload = &file[at + 16..to - pad];
            let skip = match kind {
                1 => 0,
                3 => 32,
                _ => continue,
            };
            let Some((id, row)) = payload.get(skip..).and_then(|rest| rest.split_first_chunk::<32>()) else {
                continue;
            };
            held.insert((*id, row.to_vec()));
        }
    }
    held
}

// ---- the program ----

/// A journal in the making.
struct Maker {
    files: BTreeMap<u32, Vec<u8>>,
    number: u32,
    base: u64,
    version: u64,
    /// What was written last, while nothing but a writer has been at work.
    rows: Option<BTreeMap<[u8; 32], Row>>,
    /// Everything before it may be called synced.
    synced: u64,
}

impl Maker {
    fn new() -> Self {
        let files = BTreeMap::from([(1, header(1, 64))]);
        Self { files, number: 1, base: 64, version: 0, rows: Some(BTreeMap::new()), synced: 64 }
    }

    fn file(&mut self) -> &mut Vec<u8> {
        self.files.entry(self.number).or_default()
    }

    fn end(&mut self) -> u64 {
        self.base + (self.file().len().saturating_sub(HEADER)) as u64
    }

    fn append(&mut self, kind: u8, payload: &[u8]) {
        let (number, at) = (self.number, self.file().len());
        let bytes = frame(number, at, kind, payload);
        self.file().extend(bytes);
    }

    fn odd(&mut self) {
        self.rows = None;
    }

    /// A change, as the payload of a frame.
    fn change(&mut self, tag: u8, input: &mut Input<'_>) -> (u8, Vec<u8>) {
        let (n, how) = (input.or_zero(), input.or_zero());
        self.version += 1;
        let id_n = id(n);
        let row_n = row(n, self.version, how);
        match tag % 6 {
            0 => {
                self.rows.iter_mut().for_each(|rows| drop(rows.remove(&id_n)));
                (2, id_n.to_vec())
            }
            1 => {
                self.rows.iter_mut().for_each(|rows| drop(rows.remove(&id_n)));
                (4, id_n.to_vec())
            }
            2 => {
                let from = id(how);
                self.rows.iter_mut().for_each(|rows| {
                    rows.remove(&from);
                    rows.insert(id_n, row_n.clone());
                });
                (3, [&from[..], &id_n, &encode_row(&id_n, &row_n)].concat())
            }
            _ => {
                self.rows.iter_mut().for_each(|rows| drop(rows.insert(id_n, row_n.clone())));
                (1, [&id_n[..], &encode_row(&id_n, &row_n)].concat())
            }
        }
    }

    /// Frames that count together.
    fn batch(&mut self, input: &mut Input<'_>) {
        let count = 1 + input.or_zero() % 4;
        let (number, at) = (self.number, self.file().len() + 32);
        let mut frames = Vec::new();
        for _ in 0..count {
            let tag = input.or_zero();
            let (kind, payload) = self.change(tag, input);
            frames.extend(frame(number, at + frames.len(), kind, &payload));
        }
        let mut payload = (frames.len() as u64).to_le_bytes().to_vec();
        payload.extend(xxh3_64(&frames).to_le_bytes());
        self.append(6, &payload);
        self.file().extend(frames);
    }

    fn mark(&mut self, synced: u64, oldest: u32) {
        let mut payload = synced.to_le_bytes().to_vec();
        payload.extend(oldest.to_le_bytes());
        payload.extend([0; 4]);
        payload.extend(1_u64.to_le_bytes());
        self.append(5, &payload);
    }

    fn step(&mut self, tag: u8, input: &mut Input<'_>) {
        match tag {
            0..110 => {
                let (kind, payload) = self.change(tag, input);
                self.append(kind, &payload);
            }
            110..140 => self.batch(input),
            140..160 => {
                self.synced = self.end();
                let (synced, oldest) = (self.synced, self.files.keys().next().copied().unwrap_or(1));
                self.mark(synced, oldest);
            }
            160..175 => {
                self.base = self.end();
                self.number += 1;
                let bytes = header(self.number, self.base);
                self.files.insert(self.number, bytes);
            }
            // From here on, what no writer does.
            175..185 => {
                self.odd();
                let synced = u64::from(input.word()) * 8;
                let oldest = u32::from(input.or_zero());
                self.mark(synced, oldest);
            }
            185..195 => {
                self.odd();
                let by = u64::from(input.or_zero()) * 8;
                let end = self.end();
                self.base = if tag.is_multiple_of(2) { end + by } else { end.saturating_sub(by).max(64) };
                self.number += 1 + u32::from(input.or_zero() % 3);
                let bytes = header(self.number, self.base);
                self.files.insert(self.number, bytes);
            }
            195..203 => {
                self.odd();
                let (kind, count) = (input.or_zero() % 8, usize::from(input.or_zero() % 80));
                let payload: Vec<u8> = (0..count).map(|_| input.or_zero()).collect();
                self.append(kind, &payload);
            }
            203..208 => {
                self.odd();
                let count = usize::from(input.or_zero() % 64);
                let bytes: Vec<u8> = (0..count).map(|_| input.or_zero()).collect();
                self.file().extend(bytes);
            }
            _ => {
                self.odd();
                self.damage(tag, input);
            }
        }
    }

    fn damage(&mut self, tag: u8, input: &mut Input<'_>) {
        let numbers: Vec<u32> = self.files.keys().copied().collect();
        let Some(last) = numbers.len().checked_sub(1) else { return };
        let mut any = || numbers[usize::from(input.or_zero()) % (last + 1)];
        let (number, other) = (any(), any());
        let at = usize::from(input.word());
        let by = input.or_zero();
        let copy = self.files.get(&other).cloned().unwrap_or_default();
        let Some(file) = self.files.get_mut(&number) else { return };
        match tag {
            208..222 if at < file.len() => file[at] ^= 1 << (by % 8),
            222..230 if at < file.len() => {
                let to = file.len().min(at + usize::from(by) * 4);
                file[at..to].fill(0);
            }
            230..236 => file.truncate(at),
            236..239 => file.resize(file.len() + usize::from(by) * 8, 0),
            239..242 => *file = copy,
            242..245 => drop(self.files.remove(&number)),
            245..248 => drop(self.files.insert(u32::from(by), copy)),
            // The right frames of another place.
            248..=255 => {
                let from = copy.get(at.min(copy.len())..).unwrap_or_default();
                file.extend(from.iter().take(usize::from(by) * 8));
            }
            _ => {}
        }
    }
}

fn directory() -> TempDir {
    let memory = Path::new("/dev/shm");
    let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    dir.expect("a temporary directory")
}

fn rows(store: &MemoryStore) -> BTreeMap<[u8; 32], Row> {
    let all = block_on(store.list(None, usize::MAX)).expect("rows in memory");
    all.into_iter().map(|listed| (*listed.id.as_bytes(), listed.row)).collect()
}

pub(crate) fn run(input: &[u8]) {
    let mut maker = Maker::new();
    let mut input = Input(input);
    while let Some(tag) = input.byte() {
        maker.step(tag, &mut input);
    }
    let dir = directory();
    let journal = dir.path().join("j");
    fs::create_dir(&journal).expect("a directory");
    for (number, file) in &maker.files {
        fs::write(journal.join(format!("{number:010}.log")), file).expect("a file");
    }
    let store = MemoryStore::new();
    let open = || Engine::builder().journal(&journal).open(store.clone());
    let engine = match open() {
        Ok(engine) => engine,
        Err(error) => {
            // The bytes of a row may be no record, which no engine starts with.
            assert!(maker.rows.is_none() || error.kind() == sessile_engine::ErrorKind::Config, "{error}");
            return;
        }
    };
    let damaged = engine.recovery().map_or(0, |recovery| recovery.damaged);
    // All that was recovered goes into the store.
    let closed = block_on(engine.close());
    let found = rows(&store);
    let held = held(&maker.files);
    for (id, row) in &found {
        assert!(held.contains(&(*id, encode_row(id, row))), "a row that no intact frame held");
    }
    if let Some(wanted) = &maker.rows {
        assert_eq!((damaged, closed.is_ok()), (0, true), "nobody damaged it");
        assert_eq!(&found, wanted);
    }
    if closed.is_ok()
        && let Ok(again) = open()
    {
        assert_eq!(again.recovery().map(|recovery| recovery.damaged), Some(0), "it was mended");
        block_on(again.close()).expect("a journal that was mended");
        assert_eq!(rows(&store), found, "a second start finds the same");
    }
}
