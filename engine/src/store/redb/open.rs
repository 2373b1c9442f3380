//! Opening the file: its mode, its lock, and the proof that it is one of ours before a byte of it changes.

use std::fs::{File, OpenOptions};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use redb::backends::{FileBackend, InMemoryBackend};
use redb::{Database, StorageBackend};

use super::backend::Gate;
use super::format::{self, Found};
use super::{NAME, panicked, store_error};
use crate::error::{StoreError, StoreErrorKind};

/// An open database and the gate it writes through.
pub(super) struct Opened {
    pub(super) db: Database,
    pub(super) gate: Gate,
    /// Whether writes reach the file.
    pub(super) writable: bool,
}

/// How far an opening goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum For {
    /// The first opening, which takes the lock.
    First,
    /// Another opening of a locked file, to write.
    Writing,
    /// Another opening of a locked file of which nothing may reach the file.
    Reading,
}

fn config(path: &Path, what: &str, e: io::Error) -> StoreError {
    StoreError::new(StoreErrorKind::Config, NAME, format!("{what}: {}", path.display())).with_source(e)
}

/// Opens or creates the file at `path`, for its owner alone. The second value is true if it was created.
pub(super) fn file(path: &Path) -> Result<(File, bool), StoreError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
        options.custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed());
    }
    // Between the two steps another process may create or remove the file.
    for _ in 0..8 {
        match options.clone().create_new(true).open(path) {
            Ok(file) => {
                own(&file).map_err(|e| config(path, "cannot set the mode of the file", e))?;
                return Ok((file, true));
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(config(path, "the directory of the file does not exist", e));
            }
            Err(e) => return Err(refused(path, e)),
        }
        match options.open(path) {
            Ok(file) => {
                existing(path, &file)?;
                return Ok((file, false));
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(refused(path, e)),
        }
    }
    Err(StoreError::new(
        StoreErrorKind::Unavailable,
        NAME,
        format!("the file comes and goes: {}", path.display()),
    ))
}

fn refused(path: &Path, e: io::Error) -> StoreError {
    #[cfg(unix)]
    if rustix::io::Errno::from_io_error(&e) == Some(rustix::io::Errno::LOOP) {
        return config(path, "the path is a symbolic link; give the file itself", e);
    }
    match e.kind() {
        io::ErrorKind::IsADirectory => config(path, "the path is a directory", e),
        io::ErrorKind::PermissionDenied => config(path, "no permission to open the file", e),
        io::ErrorKind::NotADirectory => config(path, "a part of the path is not a directory", e),
        _ => StoreError::new(StoreErrorKind::Io, NAME, format!("cannot open {}", path.display()))
            .with_source(e),
    }
}

/// The mode given at creation is narrowed by the umask, never widened, so the file is never open to others;
/// this restores what a strict umask took from the owner.
fn own(file: &File) -> io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    }
    #[cfg(not(unix))]
    let _ = file;
    Ok(())
}

fn existing(path: &Path, file: &File) -> Result<(), StoreError> {
    let meta = file.metadata().map_err(|e| refused(path, e))?;
    if !meta.is_file() {
        let message = format!("the path is not a regular file: {}", path.display());
        return Err(StoreError::new(StoreErrorKind::Config, NAME, message));
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        if meta.permissions().mode() & 0o077 != 0 {
            tracing::warn!(store = NAME, path = %path.display(), "the session file is open to other users");
        }
    }
    Ok(())
}

/// Makes a new file's name durable.
pub(super) fn sync_directory(path: &Path) -> Result<(), StoreError> {
    #[cfg(unix)]
    {
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent).and_then(|d| d.sync_all()).map_err(|e| {
            StoreError::new(
                StoreErrorKind::Io,
                NAME,
                format!("cannot sync the directory of {}", path.display()),
            )
            .with_source(e)
        })?;
    }
    #[cfg(not(unix))]
    let _ = path;
    Ok(())
}

/// redb's own view of an open file.
pub(super) fn backend(file: File) -> Result<Arc<dyn StorageBackend>, StoreError> {
    Ok(Arc::new(FileBackend::new(file).map_err(|e| store_error("cannot open the file", e.into()))?))
}

/// Opens the database on `base`, and creates it on an empty one.
pub(super) fn database(
    base: &Arc<dyn StorageBackend>,
    cache: usize,
    purpose: For,
) -> Result<Opened, StoreError> {
    let inherits = purpose != For::First;
    match attempt(base, cache, purpose, inherits) {
        Err(e) if e.kind() == StoreErrorKind::Foreign && purpose == For::First && unfinished(&**base) => {
            base.set_len(0).map_err(|e| store_error("cannot restart the creation of the file", e.into()))?;
            attempt(base, cache, purpose, true)
        }
        result => result,
    }
}

fn attempt(
    base: &Arc<dyn StorageBackend>,
    cache: usize,
    purpose: For,
    inherits: bool,
) -> Result<Opened, StoreError> {
    let gate = Gate::held(Arc::clone(base), inherits);
    let result = catch_unwind(AssertUnwindSafe(|| {
        let db = Database::builder()
            .set_cache_size(cache)
            .create_with_backend(gate.clone())
            .map_err(|e| store_error("cannot open the file", e.into()))?;
        let found =
            format::identify(&db).map_err(|e| e.into_store(|e| store_error("cannot read the file", e)))?;
        if purpose == For::Reading {
            gate.seal();
        } else {
            gate.release().map_err(|e| store_error("cannot write the file", e.into()))?;
            if found == Found::Empty {
                initialise(&db).map_err(|e| store_error("cannot create the tables", e))?;
            }
        }
        Ok(db)
    }));
    match result {
        Ok(Ok(db)) => Ok(Opened { db, gate, writable: purpose != For::Reading }),
        Ok(Err(e)) => {
            gate.kill();
            Err(e)
        }
        Err(_) => {
            gate.kill();
            Err(panicked("opening the file"))
        }
    }
}

fn initialise(db: &Database) -> Result<(), redb::Error> {
    let mut tx = db.begin_write()?;
    tx.set_quick_repair(true);
    format::initialise(&tx)?;
    tx.commit()?;
    Ok(())
}

/// Whether the file is what a crash in the middle of redb's own creation of a file leaves: redb writes its
/// magic number last, so nothing in it but zeros and bytes of the very header it would have got.
fn unfinished(base: &dyn StorageBackend) -> bool {
    const LARGEST: u64 = 1 << 20;
    const MAGIC: usize = 9;
    let Ok(Some(len)) = base.len().map(|len| usize::try_from(len).ok().filter(|_| len <= LARGEST)) else {
        return false;
    };
    let gate = Gate::held(Arc::new(InMemoryBackend::new()), true);
    let Ok(fresh) = Database::builder().create_with_backend(gate.clone()) else { return false };
    let wanted = gate.first_write();
    gate.kill();
    drop(fresh);
    let mut there = vec![0; len];
    base.read(0, &mut there).is_ok()
        && there.iter().take(MAGIC).all(|b| *b == 0)
        && there.iter().enumerate().all(|(i, b)| *b == 0 || wanted.get(i) == Some(b))
}
