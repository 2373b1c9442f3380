//! Measures the ways to put a frame into a segment of a log so that it survives the process: `pwrite` at the end, into a
//! segment that was made long before, and a copy into a mapping. All ways in one run, in turns, alone and with an
//! fdatasync every 50 ms beside. Prints the rows of a table.
//!
//! `appends [DIR]`; the directory must be on a disk. `SESSILE_BENCH_ROUNDS` (9) scales it.

#![expect(clippy::print_stdout, reason = "this program's output")]
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

mod map;

use std::error::Error;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use memmap2::MmapMut;
use sessile_bench::data::Stream;

/// As long as a segment of the journal.
const SEGMENT: usize = 32 << 20;
const WINDOW: Duration = Duration::from_millis(50);
/// With syncs beside, a frame is due this often: as often as one busy thread changes sessions.
const PACE: Duration = Duration::from_micros(5);

#[derive(Clone, Copy)]
enum Made {
    /// The file grows with every frame.
    Empty,
    /// It has its length and no blocks.
    Sparse,
    /// It has its blocks.
    Allocated,
    /// Its blocks have been written and synced.
    Written,
}

#[derive(Clone, Copy)]
enum How {
    Write,
    Map { populate: bool },
}

const WAYS: [(&str, How, Made); 8] = [
    ("`pwrite` at the end of a new file", How::Write, Made::Empty),
    ("`pwrite` into a sparse file of full length", How::Write, Made::Sparse),
    ("`pwrite` into allocated blocks", How::Write, Made::Allocated),
    ("`pwrite` into blocks that were written before", How::Write, Made::Written),
    ("copy into a mapping of a sparse file", How::Map { populate: false }, Made::Sparse),
    ("copy into a mapping of allocated blocks", How::Map { populate: false }, Made::Allocated),
    ("copy into a mapping of blocks that were written before", How::Map { populate: false }, Made::Written),
    ("the same, pages populated before", How::Map { populate: true }, Made::Written),
];

enum Target {
    File(File),
    Map(MmapMut),
}

impl Target {
    #[inline(never)]
    fn put(&mut self, at: usize, frame: &[u8]) -> io::Result<()> {
        match self {
            Self::File(file) => file.write_all_at(frame, at as u64),
            Self::Map(map) => {
                let place = map.get_mut(at..at + frame.len()).ok_or(io::ErrorKind::WriteZero)?;
                place.copy_from_slice(frame);
                Ok(())
            }
        }
    }
}

fn make(path: &Path, made: Made) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
    match made {
        Made::Empty => {}
        Made::Sparse => file.set_len(SEGMENT as u64)?,
        Made::Allocated => {
            rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, SEGMENT as u64)?;
        }
        Made::Written => {
            let zeros = vec![0; 1 << 20];
            for at in (0..SEGMENT).step_by(zeros.len()) {
                file.write_all_at(&zeros, at as u64)?;
            }
        }
    }
    file.sync_all()?;
    Ok(file)
}

/// Frames of 300 to 400 bytes, in multiples of 8 as in the journal.
struct Frames {
    stream: Stream,
    bytes: Vec<u8>,
}

impl Frames {
    fn new() -> Self {
        Self { stream: Stream::new(5), bytes: vec![7; 400] }
    }

    fn next(&mut self) -> &[u8] {
        &self.bytes[..304 + 8 * self.stream.below(13)]
    }
}

/// ns a frame, as fast as they go.
fn alone(target: &mut Target) -> io::Result<f64> {
    let (mut frames, mut at, mut n) = (Frames::new(), 0, 0_u32);
    let start = Instant::now();
    while at + 400 <= SEGMENT / 2 {
        let frame = frames.next();
        target.put(at, frame)?;
        at += frame.len();
        n += 1;
    }
    Ok(start.elapsed().as_nanos() as f64 / f64::from(n))
}

/// ns of each frame, one every [`PACE`], with a sync every [`WINDOW`] beside.
fn beside_syncs(target: &mut Target, file: &File) -> io::Result<Vec<u64>> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let syncs = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                std::thread::sleep(WINDOW);
                file.sync_data()?;
            }
            Ok(())
        });
        let (mut frames, mut at, mut taken) = (Frames::new(), 0, Vec::new());
        let mut due = Instant::now();
        let written = loop {
            let frame = frames.next();
            if at + frame.len() > SEGMENT {
                break Ok(());
            }
            while Instant::now() < due {
                std::hint::spin_loop();
            }
            let begun = Instant::now();
            if let Err(e) = target.put(at, frame) {
                break Err(e);
            }
            let ended = Instant::now();
            at += frame.len();
            taken.push(u64::try_from((ended - begun).as_nanos()).unwrap_or(u64::MAX));
            due = ended.max(due + PACE);
        };
        stop.store(true, Ordering::Relaxed);
        let synced = syncs.join().unwrap_or(Ok(()));
        written.and(synced).map(|()| taken)
    })
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir_in(std::env::args().nth(1).unwrap_or_else(|| ".".into()))?;
    let path = dir.path().join("segment");
    let rounds = std::env::var("SESSILE_BENCH_ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(9);
    let mut taken = vec![[const { Vec::<f64>::new() }; 5]; WAYS.len()];
    for round in 0..rounds {
        for i in 0..WAYS.len() {
            let i = (i + round) % WAYS.len();
            let (_, how, made) = WAYS[i];
            let open = |file: &File| match how {
                How::Write => file.try_clone().map(Target::File),
                How::Map { populate } => map::map(file, populate).map(Target::Map),
            };
            let file = make(&path, made)?;
            taken[i][0].push(alone(&mut open(&file)?)?);
            let file = make(&path, made)?;
            let mut each = beside_syncs(&mut open(&file)?, &file)?;
            each.sort_unstable();
            let part = |of: usize| {
                each.get((each.len() * of / 10_000).min(each.len() - 1)).map_or(0.0, |n| *n as f64)
            };
            for (values, value) in
                taken[i][1..].iter_mut().zip([part(5_000), part(9_900), part(9_990), part(10_000)])
            {
                values.push(value);
            }
        }
    }
    println!("| a frame of 300 to 400 bytes | alone | beside syncs: half | 99 % | 99.9 % | all |");
    println!("|---|---:|---:|---:|---:|---:|");
    for ((name, ..), taken) in WAYS.iter().zip(&mut taken) {
        let cells: Vec<String> = taken.iter_mut().map(|v| format!("{:.2} µs", median(v) / 1e3)).collect();
        println!("| {name} | {} |", cells.join(" | "));
    }
    Ok(())
}
