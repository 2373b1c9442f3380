//! A loss of power under the real system calls. The shim writes down what a server under load asked of its files; every
//! prefix of that is a moment at which the power could have gone. What was synced by then is kept; of what came since,
//! each write, cut and name is there or not, or torn at 512 bytes. A server is started on what is left.
//!
//! `SESSILE_REPLAY_IMAGES` sets the images per store (40), `SESSILE_SEED` repeats a run.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use rustix::process::Signal;
use sessile_tests::{Rng, Server, Store, env_number};
use tempfile::TempDir;

use crate::requests::Worker;
use crate::shim;

const THREADS: u64 = 3;
const STEPS: usize = 250;
const FLAGS: [&str; 4] = ["--durability", "power", "--log", "error"];

// ---- What was asked of the disk ---------------------------------------------------------------------

#[derive(Debug)]
enum Op {
    Create { path: PathBuf, inode: u64 },
    Unlink { path: PathBuf },
    Rename { from: PathBuf, to: PathBuf },
    Write { inode: u64, at: usize, bytes: Vec<u8> },
    Truncate { inode: u64, len: usize },
    Sync { inode: u64 },
}

/// The operations, each with the length of the log behind its record.
fn parse(log: &[u8]) -> Vec<(u64, Op)> {
    let mut ops = Vec::new();
    let mut rest = log;
    while rest.len() >= 25 {
        let number = |at: usize| u64::from_le_bytes(rest[at..at + 8].try_into().unwrap());
        let (kind, inode, at, len) = (rest[0], number(1), number(9), usize::try_from(number(17)).unwrap());
        // A kill can cut the last record off.
        let Some(bytes) = rest.get(25..25 + len) else { break };
        let at = usize::try_from(at).unwrap();
        let path = |bytes: &[u8]| PathBuf::from(std::str::from_utf8(bytes).unwrap());
        let op = match kind {
            b'c' => Op::Create { path: path(bytes), inode },
            b'u' => Op::Unlink { path: path(bytes) },
            b'm' => Op::Rename { from: path(&bytes[..at]), to: path(&bytes[at..]) },
            b'w' => Op::Write { inode, at, bytes: bytes.to_vec() },
            b't' => Op::Truncate { inode, len: at },
            b's' => Op::Sync { inode },
            other => panic!("a record of kind {other}"),
        };
        rest = &rest[25 + len..];
        ops.push(((log.len() - rest.len()) as u64, op));
    }
    ops
}

#[derive(Debug, Default, Clone)]
struct Content {
    durable: Vec<u8>,
    /// Operations since the last sync, by their index.
    pending: Vec<usize>,
}

/// What a disk holds for certain, and what it may hold.
#[derive(Debug, Default, Clone)]
struct Disk {
    files: Vec<Content>,
    /// The file that an inode stands for now.
    inodes: BTreeMap<u64, usize>,
    directories: BTreeMap<u64, PathBuf>,
    names: BTreeMap<PathBuf, usize>,
    /// Names that have come, gone or moved since their directory was synced, by the operation, with the file.
    pending: Vec<(usize, usize)>,
}

impl Disk {
    /// What is in `dir`, durable.
    fn read(dir: &Path) -> Self {
        let mut disk = Self::default();
        let mut todo = vec![dir.to_owned()];
        while let Some(path) = todo.pop() {
            disk.directories.insert(fs::metadata(&path).unwrap().ino(), path.clone());
            for entry in fs::read_dir(&path).unwrap() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_dir() {
                    todo.push(entry.path());
                    continue;
                }
                disk.inodes.insert(entry.metadata().unwrap().ino(), disk.files.len());
                disk.names.insert(entry.path(), disk.files.len());
                disk.files.push(Content { durable: fs::read(entry.path()).unwrap(), pending: Vec::new() });
            }
        }
        disk
    }

    fn name(&mut self, op: &Op, file: usize) {
        match op {
            Op::Create { path, .. } => drop(self.names.insert(path.clone(), file)),
            Op::Unlink { path } => drop(self.names.remove(path)),
            Op::Rename { from, to } => {
                if let Some(file) = self.names.remove(from) {
                    self.names.insert(to.clone(), file);
                }
            }
            _ => {}
        }
    }

    fn does(&mut self, n: usize, ops: &[(u64, Op)]) {
        match &ops[n].1 {
            Op::Create { inode, .. } => {
                self.inodes.insert(*inode, self.files.len());
                self.pending.push((n, self.files.len()));
                self.files.push(Content::default());
            }
            Op::Unlink { .. } | Op::Rename { .. } => self.pending.push((n, 0)),
            Op::Write { inode, .. } | Op::Truncate { inode, .. } => {
                let file = self.inodes.get(inode).copied().unwrap_or_else(|| panic!("{n}: an unknown file"));
                self.files[file].pending.push(n);
            }
            Op::Sync { inode } => match (self.directories.get(inode).cloned(), self.inodes.get(inode)) {
                (_, Some(file)) => {
                    let content = &mut self.files[*file];
                    for n in std::mem::take(&mut content.pending) {
                        change(&mut content.durable, &ops[n].1);
                    }
                }
                (Some(directory), None) => {
                    for (n, file) in std::mem::take(&mut self.pending) {
                        let op = &ops[n].1;
                        let (Op::Create { path, .. } | Op::Unlink { path } | Op::Rename { from: path, .. }) =
                            op
                        else {
                            continue;
                        };
                        if path.parent() == Some(&directory) {
                            self.name(op, file);
                        } else {
                            self.pending.push((n, file));
                        }
                    }
                }
                (None, None) => panic!("{n}: a sync of an unknown file"),
            },
        }
    }

    /// Decides what becomes of all that was not synced.
    fn lose_power(&mut self, ops: &[(u64, Op)], rng: &mut Rng) {
        let mode = rng.between(0, 3);
        for (n, file) in std::mem::take(&mut self.pending) {
            if mode == 1 || (mode > 1 && rng.between(0, 1) == 1) {
                self.name(&ops[n].1, file);
            }
        }
        for content in &mut self.files {
            let mode = rng.between(0, 3);
            for n in std::mem::take(&mut content.pending) {
                let keep = match mode {
                    0 => 0,
                    1 => 1,
                    _ => rng.between(0, 2),
                };
                match (&ops[n].1, keep) {
                    (_, 0) => {}
                    (Op::Write { at, bytes, .. }, 2) => {
                        let mut from = 0;
                        while from < bytes.len() {
                            let to = bytes.len().min(from + 512 - (at + from) % 512);
                            if rng.between(0, 1) == 1 {
                                write(&mut content.durable, at + from, &bytes[from..to]);
                            }
                            from = to;
                        }
                    }
                    (op, _) => change(&mut content.durable, op),
                }
            }
        }
    }

    /// Writes it out below `to`, as it was below `from`.
    fn build(&self, from: &Path, to: &Path) {
        let moved = |path: &Path| to.join(path.strip_prefix(from).unwrap());
        let mut directories: Vec<&PathBuf> = self.directories.values().collect();
        directories.sort();
        for directory in directories {
            let directory = moved(directory);
            if !directory.exists() {
                fs::DirBuilder::new().mode(0o700).create(directory).unwrap();
            }
        }
        for (path, file) in &self.names {
            fs::write(moved(path), &self.files[*file].durable).unwrap();
            fs::set_permissions(moved(path), fs::Permissions::from_mode(0o600)).unwrap();
        }
    }
}

fn write(content: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if content.len() < at + bytes.len() {
        content.resize(at + bytes.len(), 0);
    }
    content[at..at + bytes.len()].copy_from_slice(bytes);
}

fn change(content: &mut Vec<u8>, op: &Op) {
    match op {
        Op::Write { at, bytes, .. } => write(content, *at, bytes),
        Op::Truncate { len, .. } => content.resize(*len, 0),
        _ => {}
    }
}

// ---- The test ---------------------------------------------------------------------------------------

#[test]
fn no_loss_of_power_under_redb_loses_what_was_answered() {
    replay(|dir| Store::Redb(dir.join("s.redb")));
}

#[test]
fn no_loss_of_power_under_sled_loses_what_was_answered() {
    replay(|dir| Store::Sled(dir.join("s.sled")));
}

fn replay(store: fn(&Path) -> Store) {
    let images = env_number("SESSILE_REPLAY_IMAGES", 40);
    let mut rng = Rng::announced("replay");
    let dir = TempDir::new().unwrap();
    let elsewhere = TempDir::new().unwrap();
    let log = elsewhere.path().join("log");
    assert!(Server::start(store(dir.path()), &FLAGS).terminate().success());
    let base = Disk::read(dir.path());

    let told = vec![("SHIM_PATH", dir.path().display().to_string()), ("SHIM_LOG", log.display().to_string())];
    let mut server = Server::try_start_in(store(dir.path()), &FLAGS, &shim::environment(told)).unwrap();
    let address = server.address();
    let mut workers: Vec<Worker> = (0..THREADS)
        .map(|n| {
            let log = log.clone();
            Worker::new(rng.fork(n), n, Arc::new(move || fs::metadata(&log).unwrap().len()))
        })
        .collect();
    thread::scope(|scope| {
        for worker in &mut workers {
            scope.spawn(move || worker.work(address, STEPS));
        }
    });
    // Closing hands the journal on to the store, which is where most of the calls to it are.
    server.signal(Signal::TERM);
    let (status, stderr) = server.wait_and_listen();
    assert!(status.success(), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    let ops = parse(&fs::read(&log).unwrap());
    let syncs = ops.iter().filter(|(_, op)| matches!(op, Op::Sync { .. })).count();
    assert!(syncs > 20, "{syncs} syncs in {} operations", ops.len());

    let mut verified = 0;
    for image in 0..images {
        // Every third within the last operations, of closing.
        let last = ops.len() / 10;
        let cut = if image % 3 == 0 { ops.len() - rng.index(last.max(1)) } else { rng.index(ops.len()) };
        let mut disk = base.clone();
        (0..cut).for_each(|n| disk.does(n, &ops));
        disk.lose_power(&ops, &mut rng);
        let at = cut.checked_sub(1).map_or(0, |n| ops[n].0);
        let built = TempDir::new().unwrap();
        disk.build(dir.path(), built.path());
        let mut server = match Server::try_start_in(store(built.path()), &FLAGS, &[]) {
            Ok(server) => server,
            Err(failed) => panic!("image {image}, cut {cut} of {}: {failed:?}", ops.len()),
        };
        let address = server.address();
        verified += workers.iter().map(|worker| worker.verify(address, at)).sum::<u64>();
        let stderr = server.kill();
        assert!(!stderr.contains("panicked"), "image {image}, cut {cut}: {stderr}");
    }
    println!(
        "loss of power under the system calls of {}: {} calls written down, {syncs} of them syncs, {images} images, \
         {verified} sessions verified, 0 answered writes lost, 0 dead sessions back, 0 wrong values",
        store(Path::new("")).flag().split(':').next().unwrap_or_default(),
        ops.len(),
    );
}
