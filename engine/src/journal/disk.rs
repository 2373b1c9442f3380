//! Where segments live: the seam between the journal and the operating system, and its real side, a directory.
//! It knows files and their names, never what is in them.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{NAME, failed};
use crate::error::{StoreError, StoreErrorKind};
use crate::place::{FileId, Place, moved, patiently};
use crate::sync::Mutex;

/// A place for numbered segments.
pub(crate) trait Disk: Send + Sync + 'static {
    /// The numbers of all segments, in any order.
    fn segments(&self) -> io::Result<Vec<u32>>;
    /// A new, empty segment. Its name survives a loss of power after [`sync`](Self::sync).
    fn create(&self, number: u32) -> io::Result<Arc<dyn Segment>>;
    /// An existing segment.
    fn open(&self, number: u32) -> io::Result<Arc<dyn Segment>>;
    /// Removes a segment. Who has it open reads on.
    fn remove(&self, number: u32) -> io::Result<()>;
    /// Keeps a segment's bytes for the operator, under a name that is no segment's.
    fn set_aside(&self, number: u32) -> io::Result<()>;
    /// Makes names durable.
    fn sync(&self) -> io::Result<()>;
    /// Whether the place, and `segment` under its number, are still what was opened.
    ///
    /// # Errors
    /// [`StoreErrorKind::Moved`].
    fn check(&self, number: u32, segment: &dyn Segment) -> Result<(), StoreError>;
    /// Lets others have the place. Nothing is asked of it any more.
    fn release(&self);
}

/// One file of a [`Disk`].
pub(crate) trait Segment: Send + Sync {
    fn len(&self) -> io::Result<u64>;
    /// Which file it is, if there are others to tell it from.
    fn id(&self) -> io::Result<Option<FileId>> {
        Ok(None)
    }
    /// Fills `buffer` from the offset `at`, or fails.
    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<()>;
    /// Writes all of `bytes` at the offset `at`, or fails and may have written a part.
    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()>;
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Makes the content durable (fdatasync).
    fn sync(&self) -> io::Result<()>;
}

const SUFFIX: &str = ".log";
const ASIDE: &str = ".damaged";

/// A directory of mode 0700 with files of mode 0600, locked while it is open.
pub(crate) struct Directory {
    path: PathBuf,
    /// The directory and the lock in it.
    place: Place,
    /// The lock ends when this is closed.
    lock: Mutex<Option<File>>,
}

impl Directory {
    /// Opens the directory at `path`, or creates it, and locks it.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        patiently(|| Self::try_open(path))
    }

    fn try_open(path: &Path) -> Result<Self, StoreError> {
        let error = |what: &str, e: io::Error| failed(&format!("{what} {}", path.display()), e);
        match create_private(path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(error("cannot create", e)),
            // Who created it may have been killed before its name was durable.
            _ => sync_parent(path).map_err(|e| error("cannot make durable", e))?,
        }
        let lock = options()
            .create(true)
            .truncate(false)
            .open(path.join("lock"))
            .map_err(|e| error("cannot open the lock of", e))?;
        match lock.try_lock() {
            Ok(()) => {
                let place = place(path, &lock).map_err(|e| error("cannot look at", e))?;
                Ok(Self { path: path.to_owned(), place, lock: Mutex::new(Some(lock)) })
            }
            Err(TryLockError::WouldBlock) => Err(StoreError::new(
                StoreErrorKind::Locked,
                NAME,
                format!("{} is in use by another process or engine", path.display()),
            )),
            Err(TryLockError::Error(e)) => Err(error("cannot lock", e)),
        }
    }

    /// Whether a journal in `path` has segments.
    #[cfg(any(feature = "redb", feature = "sled", test))]
    pub(crate) fn has_segments(path: &Path) -> bool {
        numbers(path).is_ok_and(|n| !n.is_empty())
    }

    fn name(&self, number: u32) -> PathBuf {
        self.path.join(format!("{number:010}{SUFFIX}"))
    }
}

fn place(path: &Path, lock: &File) -> io::Result<Place> {
    let place = Place::new().with(&path.join("lock"), lock)?;
    #[cfg(unix)]
    let place = place.with(path, &File::open(path)?)?;
    Ok(place)
}

fn numbers(path: &Path) -> io::Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|n| n.strip_suffix(SUFFIX)).filter(|n| n.len() == 10);
        numbers.extend(number.and_then(|n| n.parse::<u32>().ok()));
    }
    Ok(numbers)
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    options
}

fn create_private(path: &Path) -> io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt;
        builder.mode(0o700);
    }
    builder.create(path)
}

fn sync_directory(path: &Path) -> io::Result<()> {
    #[cfg(unix)]
    File::open(path)?.sync_all()?;
    #[cfg(not(unix))]
    let _ = path;
    Ok(())
}

fn sync_parent(path: &Path) -> io::Result<()> {
    sync_directory(path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")))
}

impl Disk for Directory {
    fn segments(&self) -> io::Result<Vec<u32>> {
        numbers(&self.path)
    }

    fn create(&self, number: u32) -> io::Result<Arc<dyn Segment>> {
        Ok(Arc::new(options().create_new(true).open(self.name(number))?))
    }

    fn open(&self, number: u32) -> io::Result<Arc<dyn Segment>> {
        Ok(Arc::new(options().open(self.name(number))?))
    }

    fn remove(&self, number: u32) -> io::Result<()> {
        std::fs::remove_file(self.name(number))
    }

    fn set_aside(&self, number: u32) -> io::Result<()> {
        let name = self.name(number);
        // Numbers begin anew when a journal has been emptied.
        let free = (0..u32::MAX)
            .map(|n| self.path.join(format!("{number:010}-{n}{ASIDE}")))
            .find(|name| !name.exists())
            .ok_or(io::ErrorKind::AlreadyExists)?;
        std::fs::rename(name, free)
    }

    fn sync(&self) -> io::Result<()> {
        sync_directory(&self.path)
    }

    fn check(&self, number: u32, segment: &dyn Segment) -> Result<(), StoreError> {
        self.place.check(NAME)?;
        let name = self.name(number);
        match segment.id() {
            Ok(Some(id)) => id.missed_at(&name).map_or(Ok(()), |what| Err(moved(NAME, &name, what))),
            // Whoever cannot look does not know.
            _ => Ok(()),
        }
    }

    fn release(&self) {
        *self.lock.lock() = None;
    }
}

impl Segment for File {
    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn id(&self) -> io::Result<Option<FileId>> {
        Ok(Some(FileId::of(&self.metadata()?)))
    }

    #[cfg(unix)]
    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(self, buffer, at)
    }

    #[cfg(windows)]
    fn read_at(&self, mut at: u64, mut buffer: &mut [u8]) -> io::Result<()> {
        while !buffer.is_empty() {
            match std::os::windows::fs::FileExt::seek_read(self, buffer, at)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => {
                    at += n as u64;
                    buffer = buffer.get_mut(n..).unwrap_or_default();
                }
            }
        }
        Ok(())
    }

    #[cfg(unix)]
    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(self, bytes, at)
    }

    #[cfg(windows)]
    fn write_at(&self, mut at: u64, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match std::os::windows::fs::FileExt::seek_write(self, bytes, at)? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                n => {
                    at += n as u64;
                    bytes = bytes.get(n..).unwrap_or_default();
                }
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        Self::set_len(self, len)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}
