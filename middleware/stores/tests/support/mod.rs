//! What the tests of the stores have in common. Each test binary uses a part of it.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::print_stdout,
    reason = "each test binary uses a part of it, and tells"
)]
#![allow(clippy::disallowed_methods, reason = "servers are waited for by the real clock")]

#[cfg(feature = "consul")]
pub mod consul;
#[cfg(feature = "dynamodb")]
pub mod dynamodb;
pub mod engines;
#[cfg(feature = "etcd")]
pub mod etcd;
#[cfg(feature = "firestore")]
pub mod firestore;
pub mod leavers;
#[cfg(feature = "memcached")]
pub mod memcached;
#[cfg(feature = "mongodb")]
pub mod mongodb;
#[cfg(all(feature = "mssql", feature = "sqlite"))]
pub mod mssql;
#[cfg(feature = "mysql")]
pub mod mysql;
pub mod namespace;
#[cfg(feature = "postgres")]
pub mod postgres;
pub mod process;
#[cfg(any(
    feature = "mysql",
    feature = "mssql",
    feature = "mongodb",
    feature = "dynamodb",
    feature = "memcached"
))]
pub mod relay;
pub mod rivals;
#[cfg(feature = "tls-rustls")]
pub mod tls;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use sessile_engine::SessionId;
use sessile_engine::store::conformance::{Subject, run};
use sessile_engine::store::{Change, Row};

/// Says what is not tested, past the capture of tests that pass: the runner counts these lines.
pub fn skipped(what: &str) {
    let _ = writeln!(std::io::stderr(), "\nSKIPPED: {what}");
}

/// The first of these files that exists.
pub fn first_of(paths: impl IntoIterator<Item = PathBuf>) -> Option<PathBuf> {
    paths.into_iter().find(|path| path.is_file())
}

/// A program in the search path or where servers are.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    first_of(dirs.map(|dir| dir.join(name)))
}

/// The version that a program says it has.
pub fn version(name: &str) -> String {
    let said = program(name).and_then(|path| std::process::Command::new(path).arg("--version").output().ok());
    let said = said.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let words = said.split(|c: char| !c.is_ascii_digit() && c != '.').map(|word| word.trim_matches('.'));
    let mut versions = words.filter(|word| word.contains('.'));
    versions.next().unwrap_or("of an unknown version").to_owned()
}

/// The version of the Python package whose environment has the program, as its installer has written it down.
pub fn installed(program: &Path, package: &str) -> String {
    let within =
        |dir: PathBuf| std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let lib = program.ancestors().nth(2).map(|root| root.join("lib")).unwrap_or_default();
    within(lib)
        .flat_map(|python| within(python.join("site-packages")))
        .filter_map(|path| Some(path.file_name()?.to_str()?.strip_prefix(package)?.to_owned()))
        .find_map(|rest| Some(rest.strip_prefix('-')?.strip_suffix(".dist-info")?.to_owned()))
        .unwrap_or_else(|| "of an unknown version".into())
}

/// Runs the engine's suite, each case on the store that `make` opens for its number, and prints the row for the table of
/// docs/stores.md, which `tests/stores/run` collects.
pub fn conforms(store: &str, server: &str, make: impl AsyncFn(u32) -> Subject) {
    let count = AtomicU32::new(0);
    let report = pollster::block_on(run(async || make(count.fetch_add(1, Ordering::Relaxed)).await));
    println!("conforms: {}", report.row(store, server));
}

/// A port of the loopback interface that was free a moment ago, and that no other test of this process was given.
pub fn free_port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("the loopback interface");
        let port = listener.local_addr().expect("its address").port();
        if GIVEN.lock().unwrap_or_else(PoisonError::into_inner).insert(port) {
            return port;
        }
    }
}

/// Whether we are root, which servers refuse to be.
pub fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0)
}

/// A user without rights whom every system has.
pub const NOBODY: u32 = 65534;

/// Gives a directory to [`NOBODY`], if we are root.
pub fn give_away(dir: &Path) {
    if is_root() {
        std::os::unix::fs::chown(dir, Some(NOBODY), Some(NOBODY)).expect("root may do so");
    }
}

pub fn id(n: u32) -> SessionId {
    let mut bytes = [0x33; 32];
    bytes[..4].copy_from_slice(&n.wrapping_mul(0x9E37_79B1).to_le_bytes());
    bytes[28..].copy_from_slice(&n.to_le_bytes());
    SessionId::from_bytes(bytes)
}

pub fn row(version: u64) -> Row {
    Row { version, expires_at: 4_000_000_000_000, owner: None, bytes: version.to_le_bytes().repeat(10) }
}

pub fn owned(version: u64, owner: &str) -> Row {
    Row { owner: Some(owner.into()), ..row(version) }
}

pub fn insert(n: u32, row: Row) -> Change {
    Change::Insert { id: id(n), row }
}

pub fn update(n: u32, expected: u64, row: Row) -> Change {
    Change::Update { id: id(n), expected, row }
}
