//! A loss of power under a real file system. The server works on ext4 or XFS, on a loop device, on a file that
//! `qemu-storage-daemon` shows by FUSE while it records every write and flush of blocks. From any prefix of that record a
//! disk is built: what was flushed is there, of the writes since each is or is not. The file system is mounted, which
//! repairs what it repairs, and a server is started on what it shows.
//!
//! It needs root, loop devices, FUSE, `mkfs.ext4` or `mkfs.xfs`, and `qemu-storage-daemon`; without them it says so.
//! `SESSILE_BLOCK_IMAGES` sets the images per store (12), `SESSILE_SEED` repeats a run.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use sessile_tests::{Rng, Server, Store, env_number};
use tempfile::TempDir;

use crate::requests::Worker;

const THREADS: u64 = 3;
const STEPS: usize = 150;
const FLAGS: [&str; 4] = ["--durability", "power", "--log", "error"];
/// What XFS takes at least.
const DISK: u64 = 320 << 20;
const SECTOR: usize = 512;
/// Flags of an entry of the record.
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;

/// Runs a program of the system; its output, or what it complained about.
fn run(program: &str, args: &[&str]) -> Result<String, String> {
    let out = Command::new(program).args(args).output().map_err(|e| format!("{program}: {e}"))?;
    if out.status.success() {
        return Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned());
    }
    let said = String::from_utf8_lossy(&out.stderr).trim().replace('\n', " ");
    Err(format!("{program}: {said}"))
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A file system on a loop device on a file. Unmounted and detached when dropped.
struct Mounted {
    device: String,
    directory: TempDir,
}

impl Mounted {
    fn on(image: &Path, kind: &str) -> Result<Self, String> {
        let device = run("losetup", &["--find", "--show", text(image)])?;
        let mounted = Self { device, directory: TempDir::new().unwrap() };
        run("mount", &["-t", kind, &mounted.device, text(mounted.directory.path())])?;
        Ok(mounted)
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = run("umount", &[text(self.directory.path())]);
        let _ = run("losetup", &["--detach", &self.device]);
    }
}

/// The daemon that shows `disk` as `shown` and writes down what is done to it.
struct Recorder(Child);

impl Recorder {
    fn start(disk: &Path, log: &Path, shown: &Path) -> Result<Self, String> {
        let mut child = Command::new("qemu-storage-daemon")
            .args(["--blockdev", &format!("driver=file,node-name=disk,filename={}", text(disk))])
            .args(["--blockdev", &format!("driver=file,node-name=log,filename={}", text(log))])
            .args(["--blockdev", "driver=blklogwrites,node-name=all,file=disk,log=log,log-sector-size=512"])
            .arg("--export")
            .arg(format!("type=fuse,id=shown,node-name=all,mountpoint={},writable=on", text(shown)))
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| format!("qemu-storage-daemon: {e}"))?;
        #[allow(clippy::disallowed_methods, reason = "a bound in real time")]
        let started = Instant::now();
        while fs::metadata(shown).map_or(0, |meta| meta.len()) != DISK {
            if child.try_wait().unwrap().is_some() || started.elapsed() > Duration::from_secs(20) {
                let _ = child.kill();
                let out = child.wait_with_output().unwrap();
                return Err(format!("qemu-storage-daemon: {}", String::from_utf8_lossy(&out.stderr).trim()));
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(Self(child))
    }

    /// Ends it, everything written.
    fn stop(mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, Signal::TERM).unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A write of blocks, or a flush.
struct Entry {
    at: u64,
    bytes: Vec<u8>,
    zeros: usize,
    flags: u64,
}

/// The entries of a record in the format of dm-log-writes.
fn parse(log: &Path) -> Vec<Entry> {
    let log = File::open(log).unwrap();
    let number = |at: u64| {
        let mut bytes = [0; 8];
        log.read_exact_at(&mut bytes, at).unwrap();
        u64::from_le_bytes(bytes)
    };
    assert_eq!(number(0), 0x006a_7366_7773_6872, "it is no such record");
    let mut at = SECTOR as u64;
    (0..number(16))
        .map(|_| {
            let (sector, sectors, flags) = (number(at), number(at + 8), number(at + 16));
            at += SECTOR as u64;
            let len = usize::try_from(sectors).unwrap() * SECTOR;
            let is_discard = flags & DISCARD != 0;
            let mut bytes = vec![0; if is_discard { 0 } else { len }];
            log.read_exact_at(&mut bytes, at).unwrap();
            at += bytes.len() as u64;
            Entry { at: sector * SECTOR as u64, bytes, zeros: if is_discard { len } else { 0 }, flags }
        })
        .collect()
}

/// The disk after a loss of power behind the first `cut` entries.
fn build(base: &Path, to: &Path, entries: &[Entry], cut: usize, rng: &mut Rng) {
    fs::copy(base, to).unwrap();
    let image = File::options().write(true).open(to).unwrap();
    let entries = &entries[..cut];
    let flushed = entries.iter().rposition(|entry| entry.flags & FLUSH != 0).map_or(0, |at| at + 1);
    let mode = rng.between(0, 3);
    for (n, entry) in entries.iter().enumerate() {
        let is_kept =
            n < flushed || entry.flags & FUA != 0 || mode == 1 || (mode > 1 && rng.between(0, 1) == 1);
        if is_kept {
            image.write_all_at(&entry.bytes, entry.at).unwrap();
            image.write_all_at(&vec![0; entry.zeros], entry.at).unwrap();
        }
    }
}

#[test]
fn no_loss_of_power_under_ext4_loses_what_redb_had_answered() {
    said_if_skipped(lose_power("ext4", |dir| Store::Redb(dir.join("s.redb"))));
}

#[test]
fn no_loss_of_power_under_ext4_loses_what_sled_had_answered() {
    said_if_skipped(lose_power("ext4", |dir| Store::Sled(dir.join("s.sled"))));
}

#[test]
fn no_loss_of_power_under_xfs_loses_what_redb_had_answered() {
    said_if_skipped(lose_power("xfs", |dir| Store::Redb(dir.join("s.redb"))));
}

fn said_if_skipped(result: Result<(), String>) {
    if let Err(why) = result {
        // Past the capture of tests that pass: the runner counts these lines.
        let _ = writeln!(io::stderr(), "\nSKIPPED: blocks of a file system cannot be recorded here: {why}");
    }
}

/// An error is what is missing on this machine.
fn lose_power(kind: &str, store: fn(&Path) -> Store) -> Result<(), String> {
    // Loop devices are few, and found by number.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let images = env_number("SESSILE_BLOCK_IMAGES", 12);
    let mut rng = Rng::announced("blocks");
    let dir = TempDir::new().unwrap();
    let file = |name: &str| -> PathBuf { dir.path().join(name) };
    let (base, disk, log, shown, image) =
        (file("base"), file("disk"), file("log"), file("shown"), file("image"));
    File::create(&base).unwrap().set_len(DISK).unwrap();
    run(&format!("mkfs.{kind}"), &["-q", if kind == "xfs" { "-f" } else { "-F" }, text(&base)])?;
    {
        let mounted = Mounted::on(&base, kind)?;
        assert!(Server::start(store(mounted.path()), &FLAGS).terminate().success());
    }
    fs::copy(&base, &disk).unwrap();
    File::create(&log).unwrap().set_len(4 << 30).unwrap();
    File::create(&shown).unwrap();
    let recorder = Recorder::start(&disk, &log, &shown)?;

    let mut workers: Vec<Worker> = {
        let mounted = Mounted::on(&shown, kind)?;
        let mut server = Server::start(store(mounted.path()), &FLAGS);
        let address = server.address();
        // The record's head is written with each flush, so it is behind what has been done, but not behind what has been
        // answered: that was flushed.
        let record = Arc::new(File::open(&log).unwrap());
        let progress = move || {
            let mut entries = [0; 8];
            record.read_exact_at(&mut entries, 16).unwrap();
            u64::from_le_bytes(entries)
        };
        let progress: crate::requests::Progress = Arc::new(progress);
        let mut workers: Vec<Worker> =
            (0..THREADS).map(|n| Worker::new(rng.fork(n), n, Arc::clone(&progress))).collect();
        thread::scope(|scope| {
            for worker in &mut workers {
                scope.spawn(move || worker.work(address, STEPS));
            }
        });
        server.signal(Signal::TERM);
        let (status, stderr) = server.wait_and_listen();
        assert!(status.success(), "{stderr}");
        workers
    };
    recorder.stop();
    let entries = parse(&log);
    let flushes = entries.iter().filter(|entry| entry.flags & FLUSH != 0).count();
    assert!(flushes > 20, "{flushes} flushes in {} entries", entries.len());

    let mut verified = 0;
    for n in 0..images {
        let last = entries.len() / 10;
        let cut = if n % 3 == 0 { entries.len() - rng.index(last.max(1)) } else { rng.index(entries.len()) };
        build(&base, &image, &entries, cut, &mut rng);
        let about = format!("image {n}, cut {cut} of {}", entries.len());
        let mounted = Mounted::on(&image, kind).unwrap_or_else(|e| panic!("{about}: {e}"));
        let mut server = Server::try_start_in(store(mounted.path()), &FLAGS, &[])
            .unwrap_or_else(|failed| panic!("{about}: {failed:?}"));
        let address = server.address();
        verified += workers.iter_mut().map(|worker| worker.verify(address, cut as u64)).sum::<u64>();
        let stderr = server.kill();
        assert!(!stderr.contains("panicked"), "{about}: {stderr}");
    }
    println!(
        "loss of power under {kind} with {}: {} writes and {flushes} flushes of blocks recorded, {images} images, \
         {verified} sessions verified, 0 answered writes lost, 0 dead sessions back, 0 wrong values",
        store(Path::new("")).flag().split(':').next().unwrap_or_default(),
        entries.len() - flushes,
    );
    Ok(())
}
