//! Sessions in an SQLite file, beside the tables that an app keeps there, or for several processes of one machine. It
//! owns connections, tables and the watch; which change is made, and when, it never decides.
//!
//! # Tables
//! `migrate` makes them, or you run what `schema_sql` gives. For the table `s` they are `s` (sessions), `s_quarantine`
//! (damaged sessions), `s_marks` (version of the tables, high-water mark) and `s_changes` (ids of what changed last, for
//! the watch). The file is put into WAL mode; it must not be on a network file system.
//!
//! # Complexity
//! Changes that wait at the same time share a transaction and its wait for the disk. Reads have a thread of their own.

mod error;
mod text;
mod thread;
mod watch;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use rusqlite::{Connection, OpenFlags};
use sessile_engine::SessionId;
use sessile_engine::store::{
    Capabilities, Change, Expired, Listed, Outcome, Row, Scanned, Store, StoreError, StoreErrorKind, Watch,
};

use self::error::{is_busy, store_error};
use self::text::Texts;
use self::thread::{Job, Thread, number, page, rows, transaction};
use self::watch::Polled;
use crate::sql::name::Name;
use crate::sql::{self, Listing, MAX_ROW_BYTES, unsigned};

const NAME: &str = "sqlite";

/// A [`Store`] in an SQLite file.
///
/// # Cancel safety
/// A call that is dropped goes on by itself.
///
/// # Durability
/// A commit that returned is on the disk (`synchronous = FULL`).
///
/// # Examples
/// ```
/// # fn open(path: &std::path::Path) -> Result<(), sessile_engine::StoreError> {
/// use sessile_stores::sqlite::SqliteStore;
///
/// let builder = SqliteStore::builder(path);
/// builder.migrate()?;
/// let store = builder.open()?;
/// # Ok(())
/// # }
/// ```
pub struct SqliteStore {
    /// `None` when it is closed.
    threads: RwLock<Option<Threads>>,
    texts: Arc<Texts>,
    closed: Arc<AtomicBool>,
    exclusive: bool,
    again: Option<Open>,
}

#[derive(Clone)]
struct Threads {
    writer: Thread,
    reader: Thread,
}

/// How a connection is opened.
#[derive(Clone)]
struct Open {
    path: PathBuf,
    deadline: Duration,
}

/// Settings of a [`SqliteStore`].
#[derive(Debug, Clone)]
#[must_use]
pub struct Builder {
    path: PathBuf,
    table: Name,
    deadline: Duration,
    exclusive: bool,
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore")
            .field("exclusive", &self.exclusive)
            .field("closed", &self.closed.load(Ordering::Acquire))
            .finish_non_exhaustive()
    }
}

impl Open {
    fn connect(&self, exclusive: bool) -> Result<Connection, StoreError> {
        let what = "the file could not be opened";
        #[cfg(unix)]
        make_private(&self.path)
            .map_err(|e| StoreError::new(StoreErrorKind::Config, NAME, what).with_source(e))?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags).map_err(|e| store_error(what, e))?;
        // SQLite counts in 31 bits of ms.
        let wait = if exclusive { Duration::ZERO } else { self.deadline.min(Duration::from_secs(86_400)) };
        connection.busy_timeout(wait).map_err(|e| store_error(what, e))?;
        Ok(connection)
    }
}

/// A new file is its owner's alone; SQLite gives the files beside it the same rights.
#[cfg(unix)]
fn make_private(path: &std::path::Path) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    match std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => Err(e),
        _ => Ok(()),
    }
}

/// Durable commits, and readers that wait for no writer.
fn prepare(connection: &Connection, exclusive: bool) -> Result<(), rusqlite::Error> {
    if exclusive {
        connection.query_row("PRAGMA locking_mode = EXCLUSIVE", [], |_| Ok(()))?;
    }
    connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    connection.execute_batch("PRAGMA synchronous = FULL")?;
    connection.set_prepared_statement_cache_capacity(32);
    if exclusive {
        // The lock is taken with the first write, and kept.
        transaction(connection, || Ok(()))?;
    }
    Ok(())
}

fn checked(connection: &Connection, texts: &Texts) -> Result<(), StoreError> {
    match number(connection, &texts.found) {
        Ok(found) => sql::check_schema(NAME, found),
        Err(e) if e.to_string().contains("no such table") => Err(sql::no_tables(NAME)),
        Err(e) => Err(store_error("its version could not be read", e)),
    }
}

impl Builder {
    /// The table's name, with an attached database's before a dot or without. `sessile_sessions` by default.
    ///
    /// # Errors
    /// [`StoreErrorKind::Config`] if a part is not `[A-Za-z_][A-Za-z0-9_]*` of at most 48 bytes.
    pub fn table(mut self, name: &str) -> Result<Self, StoreError> {
        self.table = Name::parse(NAME, name)?;
        Ok(self)
    }

    /// How long a change may wait for other writers of the file. 2 s by default.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Whether this store is the only one that uses the file; then nobody else can open it. Not by default.
    pub fn exclusive(mut self, exclusive: bool) -> Self {
        self.exclusive = exclusive;
        self
    }

    /// The statements that make the tables, to run by hand. They may be run again.
    #[must_use]
    pub fn schema_sql(&self) -> String {
        Texts::new(&self.table).schema
    }

    fn source(&self) -> Open {
        Open { path: self.path.clone(), deadline: self.deadline }
    }

    /// Makes the file and the tables, unless they are there. Several processes may do so at once.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn migrate(&self) -> Result<(), StoreError> {
        let connection = self.source().connect(false)?;
        migrate(&connection, &Texts::new(&self.table))
    }

    /// Opens the file, and checks that the tables are there and known.
    ///
    /// # Errors
    /// [`StoreErrorKind::Config`] if the file is out of reach, or the tables are missing or not ours;
    /// [`StoreErrorKind::Foreign`] if it is no SQLite file; [`StoreErrorKind::NewerFormat`] if a newer release made the
    /// tables; [`StoreErrorKind::Locked`] if somebody has the file for himself, or uses it while it shall be ours.
    pub fn open(self) -> Result<SqliteStore, StoreError> {
        let source = self.source();
        let texts = Arc::new(Texts::new(&self.table));
        let writer = source.connect(self.exclusive)?;
        prepare(&writer, self.exclusive).map_err(|e| {
            if self.exclusive && is_busy(&e) {
                StoreError::new(StoreErrorKind::Locked, NAME, "the file is in use").with_source(e)
            } else {
                store_error("the file could not be opened", e)
            }
        })?;
        checked(&writer, &texts)?;
        let writer = Thread::start(writer, Arc::clone(&texts))?;
        let reader = if self.exclusive {
            writer.clone()
        } else {
            let reader = source.connect(false)?;
            prepare(&reader, false).map_err(|e| store_error("the file could not be opened", e))?;
            Thread::start(reader, Arc::clone(&texts))?
        };
        let again = (!self.exclusive).then_some(source);
        Ok(SqliteStore::of(Threads { writer, reader }, texts, self.exclusive, again))
    }
}

fn migrate(connection: &Connection, texts: &Texts) -> Result<(), StoreError> {
    prepare(connection, false)
        .and_then(|()| transaction(connection, || connection.execute_batch(&texts.schema)))
        .map_err(|e| store_error("its tables could not be made", e))
}

impl SqliteStore {
    /// Settings for the file at `path`. Nothing is opened yet.
    pub fn builder(path: impl Into<PathBuf>) -> Builder {
        Builder {
            path: path.into(),
            table: Name::default_table(),
            deadline: Duration::from_secs(2),
            exclusive: false,
        }
    }

    /// Takes a connection of the app, to a database in memory or with settings that a [`Builder`] does not have. It makes
    /// the tables of that name. It does not watch, and reads wait for writes.
    ///
    /// # Errors
    /// As [`Builder::open`].
    pub fn from_connection(connection: Connection, table: &str) -> Result<Self, StoreError> {
        let texts = Arc::new(Texts::new(&Name::parse(NAME, table)?));
        migrate(&connection, &texts)?;
        checked(&connection, &texts)?;
        let thread = Thread::start(connection, Arc::clone(&texts))?;
        Ok(Self::of(Threads { writer: thread.clone(), reader: thread }, texts, false, None))
    }

    fn of(threads: Threads, texts: Arc<Texts>, exclusive: bool, again: Option<Open>) -> Self {
        let (threads, closed) = (RwLock::new(Some(threads)), Arc::new(AtomicBool::new(false)));
        Self { threads, texts, closed, exclusive, again }
    }

    fn threads(&self) -> Result<Threads, StoreError> {
        self.threads.read().clone().ok_or_else(|| sql::closed(NAME))
    }
}

impl Store for SqliteStore {
    fn name(&self) -> &'static str {
        NAME
    }

    fn capabilities(&self) -> Capabilities {
        let mut can = Capabilities::full();
        can.exclusive = self.exclusive;
        can.watch = self.again.is_some();
        can.max_row_bytes = MAX_ROW_BYTES;
        can
    }

    async fn high_water(&self) -> Result<u64, StoreError> {
        let read = |c: &Connection, texts: &Texts| Ok(number(c, &texts.mark)?.map_or(0, unsigned));
        self.threads()?.reader.read("the high-water mark could not be read", read).await
    }

    async fn load(&self, id: &SessionId) -> Result<Option<Row>, StoreError> {
        let key = *id.as_bytes();
        let read = move |c: &Connection, texts: &Texts| rows(c, &texts.load, [key.as_slice()]);
        let mut found = self.threads()?.reader.read("a session could not be loaded", read).await?;
        let Some(raw) = found.pop() else { return Ok(None) };
        raw.row().map(Some).ok_or_else(|| sql::damaged(NAME, id))
    }

    async fn commit(&self, now: u64, changes: &[Change]) -> Result<Vec<Outcome>, StoreError> {
        sql::check_rows(NAME, MAX_ROW_BYTES, changes)?;
        let changes = changes.to_vec();
        self.threads()?.writer.ask(|answer| Job::Commit { now, changes, answer }).await
    }

    async fn expire(&self, now: u64, high_water: u64, limit: usize) -> Result<Expired, StoreError> {
        self.threads()?.writer.ask(|answer| Job::Expire { now, high_water, limit, answer }).await
    }

    async fn list(&self, after: Option<SessionId>, limit: usize) -> Result<Vec<Listed>, StoreError> {
        let read = move |c: &Connection, texts: &Texts| {
            let mut listing = Listing::new(after, limit);
            while listing.take(page(c, texts, listing.after.as_deref(), listing.wanted())?) {}
            Ok(listing.rows())
        };
        self.threads()?.reader.read("sessions could not be listed", read).await
    }

    async fn scan(&self, after: Option<SessionId>, limit: usize) -> Result<Scanned, StoreError> {
        let read = move |c: &Connection, texts: &Texts| {
            let after = after.map(|id| *id.as_bytes());
            page(c, texts, after.as_ref().map(<[u8; 32]>::as_slice), limit)
        };
        let page = self.threads()?.reader.read("sessions could not be listed", read).await?;
        Ok(sql::scanned(page, limit))
    }

    async fn list_owner(&self, owner: &str) -> Result<Vec<Listed>, StoreError> {
        let owner = owner.as_bytes().to_vec();
        let read = move |c: &Connection, texts: &Texts| rows(c, &texts.list_owner, [owner]);
        let raw = self.threads()?.reader.read("an owner's sessions could not be listed", read).await?;
        Ok(sql::sort(raw).0)
    }

    async fn watch(&self) -> Result<Box<dyn Watch>, StoreError> {
        self.threads()?;
        let Some(again) = &self.again else {
            return Err(StoreError::new(StoreErrorKind::Unsupported, NAME, "it does not tell of changes"));
        };
        let connection = again.connect(false)?;
        Ok(Box::new(Polled::start(connection, Arc::clone(&self.texts), Arc::clone(&self.closed))?))
    }

    /// # Complexity
    /// O(rows).
    async fn count(&self) -> Result<Option<u64>, StoreError> {
        let read = |c: &Connection, texts: &Texts| Ok(number(c, &texts.count)?.map(unsigned));
        self.threads()?.reader.read("sessions could not be counted", read).await
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.closed.store(true, Ordering::Release);
        let threads = self.threads.write().take();
        if let Some(threads) = threads {
            // What was asked before has been done when this answers.
            threads.writer.read("it could not be closed", |_, _| Ok(())).await?;
        }
        Ok(())
    }
}
