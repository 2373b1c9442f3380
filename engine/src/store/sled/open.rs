//! Opening the directory: its modes, its lock, and the proof that it is one of ours before a byte of it changes.
//!
//! sled writes to whatever it is told to open, so the proof is a file of our own, the *marker*, which also carries
//! the lock. It is created empty and written last: while it is empty, nothing in the directory has been
//! acknowledged, and a creation that was cut short starts over.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::format::{self, FORMAT_KEY, FORMAT_VERSION, MARKER, STATE_KEY, State};
use super::{Failure, NAME, caught, describe};
use crate::error::{StoreError, StoreErrorKind};
use crate::place::Place;

/// An open directory. Fields are dropped in this order: the lock goes last.
pub(super) struct Opened {
    pub(super) db: sled::Db,
    /// Our own handle on sled's log, to sync it.
    pub(super) log: File,
    pub(super) marker: File,
}

impl Opened {
    /// Where its files are.
    pub(super) fn place(&self, path: &Path) -> io::Result<Place> {
        Place::new().with(&path.join(MARKER), &self.marker)?.with(&path.join("db"), &self.log)
    }
}

/// The smallest page cache that sled is given.
const SMALLEST_CACHE: usize = 1 << 20;

fn error(kind: StoreErrorKind, path: &Path, what: &str) -> StoreError {
    StoreError::new(kind, NAME, format!("{what}: {}", path.display()))
}

/// Maps an error of the operating system.
fn refused(path: &Path, e: io::Error) -> StoreError {
    #[cfg(unix)]
    if rustix::io::Errno::from_io_error(&e) == Some(rustix::io::Errno::LOOP) {
        return error(StoreErrorKind::Config, path, "the path is a symbolic link").with_source(e);
    }
    let (kind, what) = match e.kind() {
        io::ErrorKind::PermissionDenied => (StoreErrorKind::Config, "no permission to open"),
        io::ErrorKind::NotADirectory => (StoreErrorKind::Config, "a part of the path is not a directory"),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            (StoreErrorKind::Full, "no space is left for")
        }
        _ => (StoreErrorKind::Io, "cannot open"),
    };
    error(kind, path, what).with_source(e)
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
        options.custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed());
    }
    options
}

/// A mode given at creation is narrowed by the umask, never widened; this restores what a strict umask took
/// from the owner.
fn own(path: &Path, mode: u32) -> Result<(), StoreError> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(|e| refused(path, e))?;
    }
    #[cfg(not(unix))]
    let _ = (path, mode);
    Ok(())
}

fn make_directory(path: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Makes sure that there is a directory at `path`. True if it was created.
fn directory(path: &Path) -> Result<bool, StoreError> {
    match make_directory(path) {
        Ok(()) => {
            own(path, 0o700)?;
            return Ok(true);
        }
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(
                error(StoreErrorKind::Config, path, "there is no directory to create it in").with_source(e)
            );
        }
        Err(e) => return Err(refused(path, e)),
    }
    let meta = fs::symlink_metadata(path).map_err(|e| refused(path, e))?;
    if meta.is_symlink() {
        return Err(error(
            StoreErrorKind::Config,
            path,
            "the path is a symbolic link; give the directory itself",
        ));
    }
    if !meta.is_dir() {
        return Err(error(StoreErrorKind::Config, path, "the path is not a directory"));
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        if meta.permissions().mode() & 0o077 != 0 {
            tracing::warn!(store = NAME, path = %path.display(), "the session directory is open to other users");
        }
    }
    Ok(false)
}

/// Opens the marker, or creates an empty one in an empty directory.
fn marker(path: &Path) -> Result<File, StoreError> {
    let file = path.join(MARKER);
    // Between the steps another process may create or remove it.
    for _ in 0..8 {
        match options().open(&file) {
            Ok(found) => return Ok(found),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(refused(&file, e)),
        }
        if fs::read_dir(path).map_err(|e| refused(path, e))?.next().is_some() && !file.exists() {
            return Err(error(
                StoreErrorKind::Foreign,
                path,
                "the directory holds something else than sessions",
            ));
        }
        match options().create_new(true).open(&file) {
            Ok(created) => {
                own(&file, 0o600)?;
                return Ok(created);
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(refused(&file, e)),
        }
    }
    Err(error(StoreErrorKind::Unavailable, path, "the directory comes and goes"))
}

/// The files of sled in the directory whose names `wanted` takes.
fn sled_files(path: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>, StoreError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path).map_err(|e| refused(path, e))? {
        let entry = entry.map_err(|e| refused(path, e))?;
        if entry.file_name().to_str().is_some_and(&wanted) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn remove(path: &Path) -> Result<(), StoreError> {
    let result = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    result.map_err(|e| refused(path, e))
}

fn sync_directory(path: &Path) -> Result<(), StoreError> {
    #[cfg(unix)]
    {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        File::open(path).and_then(|d| d.sync_all()).map_err(|e| refused(path, e))?;
    }
    #[cfg(not(unix))]
    let _ = path;
    Ok(())
}

/// Opens the directory at `path`, or creates it.
pub(super) fn open(path: &Path, cache: usize) -> Result<Opened, StoreError> {
    let created = directory(path)?;
    let mut marker = marker(path)?;
    match marker.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => {
            return Err(error(StoreErrorKind::Locked, path, "the directory is in use"));
        }
        Err(fs::TryLockError::Error(e)) => return Err(refused(path, e)),
    }
    let mut identity = Vec::new();
    (&marker).take(4096).read_to_end(&mut identity).map_err(|e| refused(path, e))?;
    // A power cut can leave zeros where the marker was just being written.
    let fresh = identity.iter().all(|byte| *byte == 0);
    let log = if fresh { prepare(path)? } else { check(path, &identity)? };
    let db = start(path, cache)?;
    if fresh {
        finish_creation(path, &db, &log, &mut marker)?;
        if created {
            sync_directory(path.parent().unwrap_or(Path::new("")))?;
        }
    } else {
        let value = caught(|| db.get(FORMAT_KEY)).map_err(|e| describe(path, "reading failed", e))?;
        let Some(value) = value else {
            return Err(error(StoreErrorKind::Corrupt, path, "sled has lost what identifies its content"));
        };
        format::identify(&value)
            .map_err(|e| StoreError::new(e.kind(), NAME, format!("{}", path.display())).with_source(e))?;
    }
    Ok(Opened { db, log, marker })
}

/// An empty start for sled, with modes of ours.
fn prepare(path: &Path) -> Result<File, StoreError> {
    for leftover in
        sled_files(path, |name| matches!(name, "db" | "conf" | "blobs") || name.starts_with("snap."))?
    {
        remove(&leftover)?;
    }
    let blobs = path.join("blobs");
    make_directory(&blobs).map_err(|e| refused(&blobs, e))?;
    own(&blobs, 0o700)?;
    let create = |name: &str| {
        let file = path.join(name);
        let opened = options().create_new(true).open(&file).map_err(|e| refused(&file, e))?;
        own(&file, 0o600)?;
        Ok(opened)
    };
    create("conf")?;
    create("db")
}

/// Checks what can be checked without sled, and makes its files safe for it to read.
fn check(path: &Path, identity: &[u8]) -> Result<File, StoreError> {
    format::identify(identity)
        .map_err(|e| StoreError::new(e.kind(), NAME, format!("{}", path.display())).with_source(e))?;
    let file = path.join("db");
    let log = match options().open(&file) {
        Ok(log) => log,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(error(StoreErrorKind::Corrupt, path, "sled's log is gone").with_source(e));
        }
        Err(e) => return Err(refused(&file, e)),
    };
    // A kill while sled wrote a snapshot leaves half of one, which sled would take for the newest and refuse.
    for half in sled_files(path, |name| name.starts_with("snap.") && name.ends_with(".generating"))? {
        remove(&half)?;
    }
    // sled is about to write a snapshot of the log it finds; the log must not be less durable than that.
    log.sync_data().map_err(|e| refused(&file, e))?;
    Ok(log)
}

fn start(path: &Path, cache: usize) -> Result<sled::Db, StoreError> {
    let config = sled::Config::new()
        .path(path)
        .cache_capacity(u64::try_from(cache.max(SMALLEST_CACHE)).unwrap_or(u64::MAX))
        .flush_every_ms(None);
    // Threads of a database that this process has just closed may hold sled's own lock a moment longer. Nobody
    // else can: the marker is ours.
    let mut tries = 0;
    loop {
        match caught(|| config.open()) {
            Ok(db) => return Ok(db),
            Err(Failure::Sled(sled::Error::Io(e))) if e.to_string().contains("could not acquire lock") => {
                tries += 1;
                if tries == 200 {
                    return Err(error(StoreErrorKind::Locked, path, "sled's log is in use").with_source(e));
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(e) => return Err(describe(path, "cannot open the directory", e)),
        }
    }
}

/// Makes an empty sled database one of ours. Durable step by step, the marker last.
fn finish_creation(path: &Path, db: &sled::Db, log: &File, marker: &mut File) -> Result<(), StoreError> {
    caught(|| {
        let mut batch = sled::Batch::default();
        batch.insert(FORMAT_KEY, format::identity(FORMAT_VERSION));
        batch.insert(STATE_KEY, State::EMPTY.bytes());
        db.apply_batch(batch)?;
        db.flush()
    })
    .map_err(|e| describe(path, "cannot create the directory", e))?;
    log.sync_all().map_err(|e| refused(path, e))?;
    for file in sled_files(path, |name| name == "conf" || name.starts_with("snap."))? {
        own(&file, 0o600)?;
        File::open(&file).and_then(|f| f.sync_all()).map_err(|e| refused(&file, e))?;
    }
    sync_directory(path)?;
    // One write of a few bytes over nothing, or over zeros of the same length.
    io::Seek::rewind(marker)
        .and_then(|()| marker.write_all(&format::identity(FORMAT_VERSION)))
        .and_then(|()| marker.sync_all())
        .map_err(|e| refused(path, e))
}
