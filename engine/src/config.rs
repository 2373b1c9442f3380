//! Configuration of an engine: every setting, its default and the reason for it. Opens nothing itself.

mod durability;
mod full;
mod life;
mod scan;
mod shared;

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use self::durability::DEFAULT_WINDOW;
pub use self::durability::Durability;
pub(crate) use self::durability::Release;
pub use self::full::WhenFull;
use crate::clock::{Clock, duration_ms};
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::journal::Journaled;
use crate::keyring::Keyring;
use crate::observer::Observer;
use crate::owner::OwnerLimit;
use crate::record::Limits;
use crate::store::{DynStore, Store};

/// Settings shared by all parts of an engine.
pub(crate) struct Config {
    pub(crate) lifetime_ms: u64,
    pub(crate) idle_ms: Option<NonZeroU64>,
    pub(crate) durability: Durability,
    pub(crate) when_full: WhenFull,
    pub(crate) scan_every_ms: Option<u64>,
    pub(crate) memory_limit: usize,
    pub(crate) limits: Limits,
    pub(crate) owner_limit: Option<(usize, OwnerLimit)>,
    pub(crate) background: bool,
    pub(crate) life: life::Life,
    pub(crate) keyring: Option<Keyring>,
    pub(crate) staleness_ms: u64,
}

impl Config {
    /// How often a touch of a session with this idle timeout is written down, in ms: a twentieth of the
    /// timeout, at least a second.
    pub(crate) fn touch_interval(idle_ms: u64) -> u64 {
        (idle_ms / 20).max(1000)
    }

    pub(crate) fn window(&self) -> Duration {
        match self.durability {
            Durability::Eventual { window } | Durability::ProcessCrash { window } => window,
            // Only touches wait for the window at this level.
            Durability::PowerLoss => DEFAULT_WINDOW,
        }
    }

    /// What a response waits for, given whether there is a journal.
    pub(crate) fn release(&self, journal: bool) -> Release {
        match self.durability {
            Durability::Eventual { .. } => Release::AtOnce,
            Durability::ProcessCrash { .. } if journal => Release::Written,
            Durability::ProcessCrash { .. } | Durability::PowerLoss => Release::Durable,
        }
    }
}

/// More pages than this serve a million sessions no better: their ids are random.
#[cfg(any(feature = "redb", feature = "sled"))]
const LARGEST_PAGE_CACHE: usize = 64 << 20;
/// Two batches and the pages that their transaction dirties.
#[cfg(any(feature = "redb", feature = "sled"))]
const WRITER_MEMORY: usize = 8 << 20;

/// More sessions between two checkpoints save a store of a million sessions little.
const LARGEST_JOURNAL_INDEX: usize = 128 << 20;

/// Builds an [`Engine`]. Setters take and return the builder; the last call opens the engine.
#[must_use = "a builder does nothing until one of its `open` methods is called"]
pub struct Builder {
    lifetime: Duration,
    idle_timeout: Option<Duration>,
    durability: Option<Durability>,
    when_full: WhenFull,
    scan_every: Option<Duration>,
    max_staleness: Duration,
    journal: Option<PathBuf>,
    memory_limit: usize,
    limits: Limits,
    owner_limit: Option<(usize, OwnerLimit)>,
    background: bool,
    life: life::Settings,
    keyring: Option<Keyring>,
    clock: Option<Arc<dyn Clock>>,
    observer: Option<Arc<dyn Observer>>,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            lifetime: Duration::from_secs(24 * 60 * 60),
            idle_timeout: None,
            durability: None,
            when_full: WhenFull::default(),
            scan_every: None,
            max_staleness: shared::DEFAULT_STALENESS,
            journal: None,
            memory_limit: 256 << 20,
            limits: Limits::default(),
            owner_limit: None,
            background: true,
            life: life::Settings::default(),
            keyring: None,
            clock: None,
            observer: None,
        }
    }
}

impl Builder {
    /// How long a session lives after it was created or renewed, however much it is used. Default: 24 hours
    /// (as SCS; NIST SP 800-63B-4 asks for at most that at AAL2).
    pub fn lifetime(mut self, lifetime: Duration) -> Self {
        self.lifetime = lifetime;
        self
    }

    /// How long a session lives without being used. Default: `None`, only the lifetime counts.
    ///
    /// A use is noted in memory at once and written down at most every twentieth of the timeout (at least a
    /// second apart); after a restart a session may therefore live that much longer, never shorter.
    ///
    /// # Examples
    /// ```
    /// use std::time::Duration;
    ///
    /// use sessile_engine::Engine;
    ///
    /// let engine = Engine::builder()
    ///     .lifetime(Duration::from_secs(30 * 24 * 60 * 60))
    ///     .idle_timeout(Duration::from_secs(30 * 60))
    ///     .in_memory()?;
    /// # Ok::<(), sessile_engine::Error>(())
    /// ```
    pub fn idle_timeout(mut self, idle: impl Into<Option<Duration>>) -> Self {
        self.idle_timeout = idle.into();
        self
    }

    /// What a crash may cost. Default: [`Durability::ProcessCrash`] with a window of 50 ms for an engine with a
    /// [journal](Self::journal), which that of [`open_redb`](Self::open_redb) has; [`Durability::Eventual`] with the
    /// same window for others.
    ///
    /// # Examples
    /// ```
    /// use sessile_engine::{Durability, Engine};
    ///
    /// let engine = Engine::builder().durability(Durability::PowerLoss).in_memory()?;
    /// # Ok::<(), sessile_engine::Error>(())
    /// ```
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = Some(durability);
        self
    }

    /// Bytes that cached sessions may use. Default: 256 MiB. With [`open_redb`](Self::open_redb) the file's page
    /// cache is a part of it (a quarter, at most 64 MiB), and what the writer works with (an eighth, at most
    /// 8 MiB). A store given to [`open`](Self::open) brings its own. The index of a [journal](Self::journal) is a part
    /// of it too (an eighth, at most 128 MiB).
    ///
    /// [`anonymous_memory_limit`](Self::anonymous_memory_limit) says what sessions without owner may take of it.
    ///
    /// Above it, clean sessions that nobody uses leave the cache and are read back on demand; sessions with
    /// unwritten changes stay, and new ones wait for the writer. An [in-memory](Self::in_memory) engine can
    /// write nothing out: it refuses new sessions instead ([`ErrorKind::OutOfMemoryBudget`]).
    ///
    /// # Examples
    /// ```
    /// use sessile_engine::Engine;
    ///
    /// let engine = Engine::builder().memory_limit(64 << 20).max_record_bytes(16 << 10).in_memory()?;
    /// # Ok::<(), sessile_engine::Error>(())
    /// ```
    pub fn memory_limit(mut self, bytes: usize) -> Self {
        self.memory_limit = bytes;
        self
    }

    /// Largest record in bytes. Default: 64 KiB. Checked by the call that would exceed it.
    pub fn max_record_bytes(mut self, bytes: usize) -> Self {
        self.limits.max_record_bytes = bytes;
        self
    }

    /// How many sessions an owner may have at a time, and what happens to the next. Default: any number.
    ///
    /// A [`login`](crate::Session::login) on a session that exists counts at once; a new session counts when it is
    /// published, with its response head. Logins of one owner come in one after another, so the limit is never exceeded,
    /// also between racing ones: who comes first is in. A new session that `login` let pass and that
    /// finds the limit reached when it is published ([`OwnerLimit::Refuse`]) fails its commit with
    /// [`ErrorKind::OwnerLimit`]. Sessions that exceed the limit when it is introduced stay until their owner
    /// logs in again.
    ///
    /// The store must be able to list by owner. Counting asks it once per login.
    ///
    /// # Examples
    /// ```
    /// use sessile_engine::{Engine, OwnerLimit};
    ///
    /// // The fourth login ends the oldest of the three.
    /// let engine = Engine::builder().max_sessions_per_owner(3, OwnerLimit::DropOldest).in_memory()?;
    /// # Ok::<(), sessile_engine::Error>(())
    /// ```
    pub fn max_sessions_per_owner(mut self, n: usize, policy: OwnerLimit) -> Self {
        self.owner_limit = Some((n, policy));
        self
    }

    /// Seals stored records with a key, so that nobody without it can change, make or (with
    /// [`Protection::Encrypt`](crate::Protection::Encrypt)) read them. Default: none; damage is detected, forgery
    /// is not.
    ///
    /// Records under a retired key, or without one if the ring accepts that, are sealed anew in the background; see
    /// [`Engine::rekeying`]. Sessions in memory are in clear, so an [in-memory](Self::in_memory) engine needs no
    /// keys and uses none. `docs/security.md` says what stays readable, and how keys are rotated.
    ///
    /// A record that none of the keys opens is an error of the configuration, not damage: the call that needs the
    /// session fails with [`StoreErrorKind::Key`](crate::StoreErrorKind::Key), and the record stays as it is. An
    /// engine whose keys open none of the first stored sessions does not start ([`ErrorKind::Config`]).
    ///
    /// # Examples
    /// ```
    /// use sessile_engine::{Engine, Key, Keyring, Protection, store::MemoryStore};
    ///
    /// # let secret = Key::generate()?.encode();
    /// // From wherever the application keeps its secrets.
    /// let key = Key::from_base64url(secret.as_str())?;
    /// let ring = Keyring::new(Protection::Encrypt, key);
    /// let engine = Engine::builder().keyring(ring).open(MemoryStore::default())?;
    /// # Ok::<(), sessile_engine::Error>(())
    /// ```
    pub fn keyring(mut self, keyring: Keyring) -> Self {
        self.keyring = Some(keyring);
        self
    }

    /// Another source of time, for tests and simulations. Default: the operating system's clocks.
    ///
    /// # Examples
    /// ```
    /// # pollster::block_on(async {
    /// use std::time::Duration;
    ///
    /// use sessile_engine::{Engine, clock::ManualClock};
    ///
    /// let clock = ManualClock::new(1_800_000_000_000);
    /// let engine = Engine::builder().clock(clock.clone()).lifetime(Duration::from_secs(60)).in_memory()?;
    /// let session = engine.session(None).await?;
    /// session.put("user", "ann")?;
    /// clock.advance(Duration::from_secs(60));
    /// assert_eq!(session.get::<String>("user")?, None);
    /// # Ok::<(), sessile_engine::Error>(()) }).unwrap();
    /// ```
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Some(Arc::new(clock));
        self
    }

    /// Is told of everything that happens to sessions. Default: nobody is.
    ///
    /// # Examples
    /// ```
    /// use sessile_engine::{Engine, Event};
    ///
    /// let engine = Engine::builder()
    ///     .observer(|event: &Event| {
    ///         if let Event::Quarantined { id, .. } = event {
    ///             eprintln!("session {id} was damaged");
    ///         }
    ///     })
    ///     .in_memory()?;
    /// # Ok::<(), sessile_engine::Error>(())
    /// ```
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }

    /// Without the background thread: tests call `Engine::step` themselves.
    #[cfg(all(test, feature = "shuttle"))]
    pub(crate) fn manual(mut self) -> Self {
        self.background = false;
        self
    }

    /// Puts a journal in front of the store given to [`open`](Self::open), in the directory `path`, which is created
    /// (mode 0700) if it does not exist. [`open_redb`](Self::open_redb) has one already, beside its file.
    ///
    /// A write is then durable when it is in the journal. The store gets it later, in large batches; while it fails,
    /// the engine goes on until the journal is full, and what was accepted is handed on when the store works again, also
    /// after a restart. A journal belongs to one store: always open both together.
    ///
    /// # Examples
    /// ```
    /// use sessile_engine::{Engine, store::MemoryStore};
    ///
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("sessions.journal");
    /// let engine = Engine::builder().journal(path).open(MemoryStore::default())?;
    /// # Ok::<(), sessile_engine::Error>(())
    /// ```
    pub fn journal(mut self, path: impl Into<PathBuf>) -> Self {
        self.journal = Some(path.into());
        self
    }

    /// An engine over a journal that was opened already.
    #[cfg(all(test, feature = "shuttle"))]
    pub(crate) fn open_journaled(self, journaled: Arc<Journaled>) -> Result<Engine> {
        self.build(Some(journaled.clone()), Some(journaled))
    }

    /// An engine that keeps sessions in memory only: nothing survives the process.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] if the settings contradict each other.
    pub fn in_memory(self) -> Result<Engine> {
        if self.journal.is_some() {
            return Err(Error::new(ErrorKind::Config, "an engine without a store can have no journal"));
        }
        self.build(None, None)
    }

    /// An engine over the redb file at `path`, which is created (mode 0600) if it does not exist, with its journal in
    /// the directory `path.journal` (or where [`journal`](Self::journal) says).
    ///
    /// Opening reads the first few sessions of the file, to try the keys on them, and no other: it takes milliseconds
    /// however many there are. After a crash it reads the journal, and after a clean shutdown the journal is empty.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] for contradictory settings and wrong keys; [`ErrorKind::Store`] with a
    /// [`StoreError`](crate::StoreError) that says whether the file is locked by somebody else, foreign, of a newer
    /// format or unreadable. Such a file is left as it was.
    ///
    /// # Examples
    /// ```no_run
    /// use sessile_engine::Engine;
    ///
    /// let engine = Engine::builder().open_redb("/var/lib/app/sessions.redb")?;
    /// # Ok::<(), sessile_engine::Error>(())
    /// ```
    #[cfg(feature = "redb")]
    pub fn open_redb(mut self, path: impl AsRef<std::path::Path>) -> Result<Engine> {
        let pages = self.carve_pages()?;
        let path = path.as_ref();
        let store = crate::store::RedbStore::open_behind_journal(path, pages)?;
        self.journal.get_or_insert_with(|| crate::journal::beside(path));
        self.open(store)
    }

    /// An engine over the sled directory at `path`, which is created (mode 0700) if it does not exist, with its journal
    /// in the directory `path.journal`: an alternative to [`open_redb`](Self::open_redb), not recommended. See
    /// [`SledStore`](crate::store::SledStore) for what it does not promise.
    ///
    /// # Errors
    /// As [`open_redb`](Self::open_redb).
    ///
    /// # Examples
    /// ```no_run
    /// use sessile_engine::Engine;
    ///
    /// let engine = Engine::builder().open_sled("/var/lib/app/sessions.sled")?;
    /// # Ok::<(), sessile_engine::Error>(())
    /// ```
    #[cfg(feature = "sled")]
    pub fn open_sled(mut self, path: impl AsRef<std::path::Path>) -> Result<Engine> {
        let pages = self.carve_pages()?;
        let path = path.as_ref();
        let store = crate::store::SledStore::open_behind_journal(path, pages)?;
        self.journal.get_or_insert_with(|| crate::journal::beside(path));
        self.open(store)
    }

    /// Takes the page cache of an embedded store, whose size it returns, and the writer's memory out of the limit.
    #[cfg(any(feature = "redb", feature = "sled"))]
    fn carve_pages(&mut self) -> Result<usize> {
        self.check()?;
        let pages = (self.memory_limit / 4).min(LARGEST_PAGE_CACHE);
        self.memory_limit -= pages + (self.memory_limit / 8).min(WRITER_MEMORY);
        self.life.cap_anonymous(self.memory_limit);
        self.check()?;
        Ok(pages)
    }

    /// An engine over `store`. If the store is not [exclusive](crate::store::Capabilities::exclusive), other engines may be
    /// open over the same sessions, on this machine or others; see [`max_staleness`](Self::max_staleness).
    ///
    /// # Errors
    /// [`ErrorKind::Config`] for contradictory settings, wrong keys, or what a shared store does not allow;
    /// [`ErrorKind::Store`] if the store cannot be read.
    ///
    /// # Examples
    /// ```
    /// use sessile_engine::{Engine, store::MemoryStore};
    ///
    /// let engine = Engine::builder().open(MemoryStore::default())?;
    /// # Ok::<(), sessile_engine::Error>(())
    /// ```
    pub fn open(mut self, store: impl Store) -> Result<Engine> {
        let store: Arc<dyn DynStore> = Arc::new(store);
        if !store.capabilities().exclusive {
            self.check_shared(store.name())?;
            self.durability.get_or_insert(Durability::PowerLoss);
        }
        let Some(path) = self.journal.take() else { return self.build(Some(store), None) };
        self.check()?;
        let index = (self.memory_limit / 8).min(LARGEST_JOURNAL_INDEX);
        // As much again for the rows and the pages of the store that a checkpoint is busy with.
        self.memory_limit -= 2 * index;
        self.life.cap_anonymous(self.memory_limit);
        self.check()?;
        let journaled = Arc::new(Journaled::open(&path, store, index)?);
        self.build(Some(journaled.clone()), Some(journaled))
    }

    fn build(mut self, store: Option<Arc<dyn DynStore>>, journal: Option<Arc<Journaled>>) -> Result<Engine> {
        self.durability.get_or_insert(match journal {
            Some(_) => Durability::process_crash(),
            None => Durability::eventual(),
        });
        let mut config = self.check()?;
        config.keyring = self.keyring;
        if let (Some(_), Some(store)) = (config.owner_limit, &store)
            && !store.capabilities().by_owner
        {
            return Err(Error::new(
                ErrorKind::Config,
                format!(
                    "the {} store cannot list by owner, so sessions per owner cannot be limited",
                    store.name()
                ),
            ));
        }
        Engine::start(config, store, journal, self.clock, self.observer)
    }

    fn check(&self) -> Result<Config> {
        let bad = |what: String| Err(Error::new(ErrorKind::Config, what));
        let lifetime_ms = duration_ms(self.lifetime);
        if lifetime_ms == 0 {
            return bad("the lifetime must be at least 1 ms".into());
        }
        let idle_ms = match self.idle_timeout.map(duration_ms) {
            None => None,
            Some(ms) => match NonZeroU64::new(ms) {
                None => return bad("the idle timeout must be at least 1 ms; use `None` to have none".into()),
                some => some,
            },
        };
        let durability = self.durability.unwrap_or(Durability::eventual());
        if let Durability::Eventual { window } | Durability::ProcessCrash { window } = durability
            && (window.is_zero() || window > Duration::from_secs(60))
        {
            return bad(format!("the window of durability must be above 0 and at most 60 s, not {window:?}"));
        }
        if self.limits.max_record_bytes < 1024 || self.limits.max_record_bytes > 16 << 20 {
            return bad(format!(
                "the largest record must be between 1 KiB and 16 MiB, not {} bytes",
                self.limits.max_record_bytes
            ));
        }
        if self.owner_limit.is_some_and(|(n, _)| n == 0) {
            return bad("an owner must be allowed at least one session".into());
        }
        if self.memory_limit < self.limits.max_record_bytes {
            return bad(format!(
                "the memory limit of {} bytes is below that of a single record, {} bytes",
                self.memory_limit, self.limits.max_record_bytes
            ));
        }
        Ok(Config {
            lifetime_ms,
            idle_ms,
            durability,
            when_full: self.when_full,
            scan_every_ms: self.scan_every.map(|every| duration_ms(every).max(1)),
            memory_limit: self.memory_limit,
            limits: self.limits,
            owner_limit: self.owner_limit,
            background: self.background,
            life: self.life.check(self.memory_limit)?,
            keyring: None,
            staleness_ms: duration_ms(self.max_staleness),
        })
    }
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder")
            .field("lifetime", &self.lifetime)
            .field("idle_timeout", &self.idle_timeout)
            .field("durability", &self.durability)
            .field("memory_limit", &self.memory_limit)
            .finish_non_exhaustive()
    }
}
