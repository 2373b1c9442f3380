//! Whether an open file is still the one at its path, and this process still the one that opened it. It reads names and
//! numbers, never content, and writes nothing.

use std::fs::{File, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::error::{StoreError, StoreErrorKind};

/// What tells one file of a machine from another. Always the same where the platform has no such numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileId(u64, u64);

impl FileId {
    pub(crate) fn of(meta: &Metadata) -> Self {
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            Self(meta.dev(), meta.ino())
        }
        #[cfg(not(unix))]
        {
            let _ = meta;
            Self(0, 0)
        }
    }

    /// What is wrong with the file at `path`, if it is not this one. A path that cannot be looked at is believed: whoever
    /// cannot look does not know.
    pub(crate) fn missed_at(self, path: &Path) -> Option<&'static str> {
        match std::fs::metadata(path) {
            Ok(meta) if Self::of(&meta) == self => None,
            Ok(_) => Some("it was replaced while it was open"),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                Some("it was moved or deleted while it was open")
            }
            Err(_) => None,
        }
    }
}

/// How often, and after which pauses, a lock is asked for again.
const ASKS: u32 = 50;
const PAUSE: Duration = Duration::from_millis(20);

/// Opens what may be locked. Whoever has it may be about to let go: a process that is ending, or one that was just begun
/// here and holds all our files until it has become another program. So it is asked for a second before it is refused.
pub(crate) fn patiently<T>(mut open: impl FnMut() -> Result<T, StoreError>) -> Result<T, StoreError> {
    for _ in 1..ASKS {
        match open() {
            Err(error) if error.kind() == StoreErrorKind::Locked => std::thread::sleep(PAUSE),
            opened => return opened,
        }
    }
    open()
}

/// The process that opened something. A fork of it shares its locks, and must keep its hands off.
#[derive(Debug)]
pub(crate) struct Process(AtomicU32);

impl Process {
    /// This one.
    pub(crate) fn this() -> Self {
        Self(AtomicU32::new(std::process::id()))
    }

    pub(crate) fn is_fork(&self) -> bool {
        self.0.load(Ordering::Relaxed) != std::process::id()
    }

    /// # Errors
    /// [`StoreErrorKind::Locked`] in a fork.
    pub(crate) fn check(&self, store: &'static str) -> Result<(), StoreError> {
        if self.is_fork() {
            return Err(StoreError::new(
                StoreErrorKind::Locked,
                store,
                "this process is a fork of the one that opened the files, and writes nothing",
            ));
        }
        Ok(())
    }

    /// From here on, whoever asks is a fork.
    #[cfg(test)]
    pub(crate) fn pretend_to_fork(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// Files at their paths, and who opened them.
#[derive(Debug)]
pub(crate) struct Place {
    files: Vec<(PathBuf, FileId)>,
    pub(crate) process: Process,
}

impl Place {
    /// Of this process, with no file yet.
    pub(crate) fn new() -> Self {
        Self { files: Vec::new(), process: Process::this() }
    }

    /// And `file`, opened at `path`.
    pub(crate) fn with(mut self, path: &Path, file: &File) -> io::Result<Self> {
        self.files.push((path.to_owned(), FileId::of(&file.metadata()?)));
        Ok(self)
    }

    /// # Errors
    /// [`StoreErrorKind::Moved`], [`StoreErrorKind::Locked`] in a fork.
    pub(crate) fn check(&self, store: &'static str) -> Result<(), StoreError> {
        self.process.check(store)?;
        match self.files.iter().find_map(|(path, id)| Some((path, id.missed_at(path)?))) {
            Some((path, what)) => Err(moved(store, path, what)),
            None => Ok(()),
        }
    }
}

/// The error about a file that is not where it was.
pub(crate) fn moved(store: &'static str, path: &Path, what: &str) -> StoreError {
    StoreError::new(StoreErrorKind::Moved, store, format!("{}: {what}", path.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn a_file_is_missed_when_it_is_moved_deleted_or_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let file = File::create(&path).unwrap();
        let place = Place::new().with(&path, &file).unwrap();
        place.check("test").unwrap();
        let elsewhere = dir.path().join("g");
        std::fs::rename(&path, &elsewhere).unwrap();
        let error = place.check("test").unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Moved);
        assert!(error.to_string().contains("moved or deleted"), "{error}");
        if cfg!(unix) {
            File::create(&path).unwrap();
            let error = place.check("test").unwrap_err();
            assert!(error.to_string().contains("replaced"), "{error}");
        }
        std::fs::rename(&elsewhere, &path).unwrap();
        place.check("test").unwrap();
    }

    #[test]
    fn a_fork_is_told_from_the_process_that_opened() {
        let process = Process::this();
        process.check("test").unwrap();
        process.pretend_to_fork();
        assert_eq!(process.check("test").unwrap_err().kind(), StoreErrorKind::Locked);
    }

    #[test]
    fn who_is_about_to_let_go_is_waited_for_and_nothing_else() {
        let locked = || StoreError::new(StoreErrorKind::Locked, "test", "in use");
        let mut asked = 0;
        let opened = patiently(|| {
            asked += 1;
            if asked < 4 { Err(locked()) } else { Ok(asked) }
        });
        assert_eq!(opened.unwrap(), 4);
        let mut asked = 0;
        let refused = patiently(|| {
            asked += 1;
            Err::<(), _>(locked())
        });
        assert_eq!((refused.unwrap_err().kind(), asked), (StoreErrorKind::Locked, ASKS));
        let mut asked = 0;
        let failed = patiently(|| {
            asked += 1;
            Err::<(), _>(StoreError::new(StoreErrorKind::Foreign, "test", "not ours"))
        });
        assert_eq!((failed.unwrap_err().kind(), asked), (StoreErrorKind::Foreign, 1));
    }
}
