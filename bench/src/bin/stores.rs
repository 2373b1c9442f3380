//! Measures the embedded stores on this machine, straight through the `Store` trait, and prints a Markdown table; with
//! `--write`, into docs/stores.md between its markers. Knows nothing of engines: what a cache and batches in front of a
//! store save is not in these figures.
//!
//! `--rows N` is the number of rows (default 1,000,000), `--dir PATH` where the files go (default: the directory for
//! temporary files). Each store is measured in processes of its own, one of which ends without closing it.

#![expect(clippy::print_stdout, reason = "this program's output")]
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use pollster::block_on;
use sessile::SessionId;
use sessile::engine::store::{Change, DynStore, RedbStore, Row, SledStore};
use sessile_bench::data::Stream;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const PAGE: &str = "docs/stores.md";
const BEGIN: &str = "<!-- begin: bin stores --write -->";
const END: &str = "<!-- end -->";

const STORES: [&str; 2] = ["redb", "sled"];
const CACHE: usize = 64 << 20;
const LOAD_BATCH: usize = 8192;
/// Rows a commit, and commits.
const UPDATES: [(usize, usize); 3] = [(64, 200), (1024, 40), (8192, 10)];
const ROW_BYTES: usize = 400;

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| args.iter().position(|a| a == name).and_then(|i| args.get(i + 1));
    if let (Some(store), Some(step), Some(path)) = (value("--store"), value("--step"), value("--path")) {
        let rows = value("--rows").ok_or("no --rows")?.parse()?;
        return child(store, step, Path::new(path), rows);
    }
    let rows: usize = value("--rows").map_or(Ok(1_000_000), |n| n.parse())?;
    let dir = match value("--dir") {
        Some(dir) => tempfile::tempdir_in(dir)?,
        None => tempfile::tempdir()?,
    };
    let mut columns = Vec::new();
    for store in STORES {
        columns.push(measure(store, &dir.path().join(store), rows)?);
    }
    let text = table(&columns, rows);
    println!("{text}");
    if args.iter().any(|a| a == "--write") {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(PAGE);
        let old = fs::read_to_string(&page)?;
        let (before, rest) = old.split_once(BEGIN).ok_or("the page has no marker to begin at")?;
        let (_, after) = rest.split_once(END).ok_or("the page has no marker to end at")?;
        fs::write(&page, format!("{before}{BEGIN}\n{text}\n{END}{after}"))?;
    }
    Ok(())
}

/// Runs all steps on one store and collects what they print: `name=figure` lines.
fn measure(store: &str, path: &Path, rows: usize) -> Outcome<BTreeMap<String, f64>> {
    let mut figures = BTreeMap::new();
    for step in ["load", "clean", "crash", "crashed"] {
        let output = Command::new(std::env::current_exe()?)
            .args(["--store", store, "--step", step, "--rows", &rows.to_string(), "--path"])
            .arg(path)
            .output()?;
        if !output.status.success() && step != "crash" {
            return Err(format!("{store}, {step}: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        for line in String::from_utf8(output.stdout)?.lines() {
            let (name, figure) = line.split_once('=').ok_or("a line without a figure")?;
            figures.insert(name.to_owned(), figure.parse()?);
        }
    }
    Ok(figures)
}

fn open(store: &str, path: &Path) -> Outcome<Box<dyn DynStore>> {
    Ok(match store {
        "redb" => Box::new(RedbStore::open_with_cache(path, CACHE)?),
        "sled" => Box::new(SledStore::open_with_cache(path, CACHE)?),
        other => return Err(format!("unknown store {other}").into()),
    })
}

fn say(name: &str, figure: f64) {
    println!("{name}={figure}");
}

fn child(name: &str, step: &str, path: &Path, rows: usize) -> Outcome<()> {
    let began = Instant::now();
    let store = open(name, path)?;
    let opened = began.elapsed().as_secs_f64();
    match step {
        "load" => {
            load_and_update(&*store, path, rows)?;
            block_on(store.close())?;
        }
        "crash" => {
            commit(&*store, &puts(&mut Stream::new(7), rows, 1024))?;
            std::process::abort();
        }
        step => {
            say(&format!("open {step}"), opened * 1000.0);
            if block_on(store.count())? != Some(rows as u64) {
                return Err("rows were lost".into());
            }
        }
    }
    Ok(())
}

fn load_and_update(store: &dyn DynStore, path: &Path, rows: usize) -> Outcome<()> {
    let mut bytes = Stream::new(1);
    let began = Instant::now();
    for from in (0..rows).step_by(LOAD_BATCH) {
        let ids = from..rows.min(from + LOAD_BATCH);
        commit(store, &ids.map(|i| put(&mut bytes, i)).collect::<Vec<_>>())?;
    }
    say("load", rows as f64 / began.elapsed().as_secs_f64());
    say("size loaded", size(path)? as f64);
    for (batch, commits) in UPDATES {
        let batches: Vec<_> = (0..commits).map(|_| puts(&mut bytes, rows, batch)).collect();
        let (own, disk) = (written(), disk_written());
        let mut times = Vec::new();
        for changes in &batches {
            let began = Instant::now();
            commit(store, changes)?;
            times.push(began.elapsed().as_secs_f64());
        }
        let updated = (batch * commits) as f64;
        say(&format!("{batch} rate"), updated / times.iter().sum::<f64>());
        times.sort_by(f64::total_cmp);
        say(&format!("{batch} ms"), times.get(commits / 2).copied().unwrap_or(0.0) * 1000.0);
        let payload = updated * ROW_BYTES as f64;
        if let (Some(before), Some(after)) = (own, written()) {
            say(&format!("{batch} own"), (after - before) as f64 / payload);
        }
        if let (Some(before), Some(after)) = (disk, disk_written()) {
            say(&format!("{batch} disk"), (after - before) as f64 / payload);
        }
    }
    say("size updated", size(path)? as f64);
    Ok(())
}

fn commit(store: &dyn DynStore, changes: &[Change]) -> Outcome<()> {
    let _all_done = block_on(store.commit(1, changes))?;
    Ok(())
}

/// Updates of random rows. A row may come twice in a batch.
fn puts(stream: &mut Stream, rows: usize, n: usize) -> Vec<Change> {
    (0..n)
        .map(|_| {
            let i = stream.below(rows);
            put(stream, i)
        })
        .collect()
}

fn put(stream: &mut Stream, i: usize) -> Change {
    let mut id = [0; 32];
    let mut hash = Stream::new((i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1 << 63);
    hash.next_u64();
    for part in id.chunks_mut(8) {
        part.copy_from_slice(&hash.next_u64().to_le_bytes());
    }
    // Each number has its own id, whatever the hash is worth.
    if let Some((_, last)) = id.split_last_chunk_mut::<8>() {
        *last = (i as u64).to_le_bytes();
    }
    let mut bytes = vec![0; ROW_BYTES];
    for part in bytes.chunks_mut(8) {
        part.copy_from_slice(&stream.next_u64().to_le_bytes());
    }
    let expires_at = 1 << 42 | stream.next_u64() >> 32;
    Change::Put { id: SessionId::from_bytes(id), row: Row { version: 1, expires_at, owner: None, bytes } }
}

/// Bytes that this process has had written to disks, by the kernel's account.
fn written() -> Option<u64> {
    let io = fs::read_to_string("/proc/self/io").ok()?;
    io.lines().find_map(|line| line.strip_prefix("write_bytes: "))?.parse().ok()
}

/// Bytes written to all disks of the machine, whoever wrote them.
fn disk_written() -> Option<u64> {
    let mut sectors = 0;
    for disk in fs::read_dir("/sys/block").ok()? {
        let disk = disk.ok()?.path();
        if !disk.join("device").exists() {
            continue;
        }
        let stat = fs::read_to_string(disk.join("stat")).ok()?;
        sectors += stat.split_whitespace().nth(6)?.parse::<u64>().ok()?;
    }
    (sectors > 0).then_some(sectors * 512)
}

/// Bytes of a file, or of all files below a directory.
fn size(path: &Path) -> Outcome<u64> {
    let meta = fs::metadata(path)?;
    if !meta.is_dir() {
        return Ok(meta.len());
    }
    let below: Vec<PathBuf> = fs::read_dir(path)?.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>()?;
    below.iter().map(|path| size(path)).sum()
}

fn table(columns: &[BTreeMap<String, f64>], rows: usize) -> String {
    let mut text = format!(
        "{}; {rows} rows of {ROW_BYTES} bytes, a page cache of {} MiB.\n\n| | {} |\n|---|{}\n",
        machine(),
        CACHE >> 20,
        STORES.join(" | "),
        "---|".repeat(STORES.len())
    );
    let mut line = |name: &str, cell: &dyn Fn(&BTreeMap<String, f64>) -> Option<String>| {
        let cells: Vec<_> = columns.iter().map(|c| cell(c).unwrap_or_else(|| "not known".into())).collect();
        text.push_str(&format!("| {name} | {} |\n", cells.join(" | ")));
    };
    let thousands = |n: f64| format!("{:.1} k", n / 1000.0);
    line("load, rows/s (8,192 a commit)", &|c| Some(thousands(*c.get("load")?)));
    for (batch, _) in UPDATES {
        line(&format!("update {batch} random rows a commit, rows/s (median commit)"), &|c| {
            let (rate, ms) = (c.get(&format!("{batch} rate"))?, c.get(&format!("{batch} ms"))?);
            Some(format!("{} ({ms:.1} ms)", thousands(*rate)))
        });
    }
    for (batch, _) in UPDATES {
        line(&format!("bytes written per byte of row, {batch} a commit: this process (all disks)"), &|c| {
            let own = c.get(&format!("{batch} own"))?;
            let disk = c.get(&format!("{batch} disk")).map_or("not known".into(), |d| format!("{d:.1}"));
            Some(format!("{own:.1} ({disk})"))
        });
    }
    let mib = |n: f64| format!("{:.0} MiB", n / f64::from(1 << 20));
    line("size after the load, after the updates", &|c| {
        Some(format!("{}, {}", mib(*c.get("size loaded")?), mib(*c.get("size updated")?)))
    });
    line("open after closing, after a crash", &|c| {
        Some(format!("{:.1} ms, {:.1} ms", c.get("open clean")?, c.get("open crashed")?))
    });
    text.trim_end().to_owned()
}

/// The machine in a few words.
fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model =
        cpu.lines().find_map(|l| l.strip_prefix("model name")?.split_once(": ").map(|(_, m)| m.to_owned()));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = read("/proc/loadavg").split_whitespace().next().unwrap_or("not known").to_owned();
    format!(
        "{} ({cores} cores), {} {}, load {load} at the end",
        model.unwrap_or_else(|| "unknown processor".into()),
        std::env::consts::OS,
        read("/proc/sys/kernel/osrelease").trim()
    )
}
