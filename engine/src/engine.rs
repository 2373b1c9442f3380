//! The engine's handle: opening, finding sessions, flushing, closing. It owns the writer thread.

mod lane;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

pub(crate) use self::lane::Lane;
use crate::cache::EntryRef;
use crate::clock::{Clock, EngineClock};
use crate::config::{Builder, Config};
use crate::core::Core;
use crate::error::{Error, ErrorKind, Result};
use crate::journal::{Journaled, Recovery};
use crate::observer::{Event, Observer};
use crate::place::Process;
use crate::session::Session;
use crate::stats::{Health, Stats};
use crate::store::{BoxFuture, DynStore};
use crate::sync::Mutex;
use crate::token::{SessionId, Token};
use crate::writer;

/// A session engine. Cheap to clone; all clones are the same engine.
///
/// Dropping the last clone flushes and closes it, which blocks for as long as the store takes. Sessions that
/// still exist then serve reads from memory and refuse writes with [`ErrorKind::Closed`].
///
/// # Examples
/// ```
/// use sessile_engine::{Delivery, Engine};
///
/// # fn main() -> sessile_engine::Result<()> {
/// # pollster::block_on(async {
/// let engine = Engine::builder().in_memory()?;
///
/// // A request without a token: nothing exists until something is written.
/// let session = engine.session(None).await?;
/// session.put("user", "ann")?;
/// let Delivery::Issue(issue) = session.commit().await? else { panic!("a new session has a token to deliver") };
///
/// // The next request presents the token.
/// let session = engine.session(Some(&issue.token)).await?;
/// assert_eq!(session.get::<String>("user")?.as_deref(), Some("ann"));
/// # Ok(())
/// # })
/// # }
/// ```
#[derive(Clone)]
pub struct Engine {
    handle: Arc<Handle>,
    lane: Arc<Lane>,
}

/// Counts the engine's users; sessions hold the [`Core`] only.
struct Handle {
    core: Arc<Core>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
    process: Process,
}

impl Engine {
    /// A builder with the default settings.
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(crate) fn start(
        config: Config,
        store: Option<Arc<dyn DynStore>>,
        journal: Option<Arc<Journaled>>,
        clock: Option<Arc<dyn Clock>>,
        observer: Option<Arc<dyn Observer>>,
    ) -> Result<Self> {
        let floor = match &store {
            // Not the clock of another machine, which may be wrong.
            Some(store) if !store.capabilities().exclusive => 0,
            Some(store) => pollster::block_on(store.high_water())?,
            None => 0,
        };
        let background = config.background;
        let damaged = journal.as_ref().map_or(0, |journal| journal.recovery().damaged);
        let core = Arc::new(Core::new(config, EngineClock::start(clock, floor), store, journal, observer));
        if damaged > 0 {
            core.notify(|| Event::JournalDamaged { gaps: damaged });
        }
        pollster::block_on(core.check_keys())?;
        if background {
            crate::shared::start(&core)?;
        }
        let thread = if background {
            let core = core.clone();
            let spawned = std::thread::Builder::new()
                .name("sessile-writer".into())
                .spawn(move || writer::run(&core))
                .map_err(|e| {
                    Error::new(ErrorKind::Config, "the writer thread could not be started").with_source(e)
                })?;
            Some(spawned)
        } else {
            None
        };
        let lane = Lane::new(core.clone());
        let handle = Handle { core, thread: Mutex::new(thread), process: Process::this() };
        Ok(Self { handle: Arc::new(handle), lane })
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        self.lane.core()
    }

    /// The session of `token`, or an empty one if the token is absent, unknown or expired. An empty session
    /// costs nothing until it is written to; then it gets a token of its own, never the presented one
    /// (promises P5, P6).
    ///
    /// A row that fails its checks is quarantined and gives an empty session too; see
    /// [`Session::check_intact`].
    ///
    /// Ready when first polled if the session is cached; otherwise it is read from the store.
    ///
    /// # Errors
    /// [`ErrorKind::Store`] if the store cannot tell whether there is such a session,
    /// [`ErrorKind::Closed`] after [`close`](Self::close).
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub fn session(&self, token: Option<&Token>) -> Begin {
        let core = self.core();
        if core.is_closed() {
            return Begin(BeginState::Ready(Some(Err(writer::closed()))));
        }
        let Some(token) = token else {
            return Begin(BeginState::Ready(Some(Ok(Session::begin(self.lane.clone(), None, None)))));
        };
        let now = core.clock.now_ms();
        let id = token.id();
        match core.find_cached(&id, now) {
            Some(Some((entry, Some(seen)))) => {
                let session = Session::begin_seen(self.lane.clone(), entry, seen, token.clone());
                Begin(BeginState::Ready(Some(Ok(session))))
            }
            Some(found) => {
                let entry = found.map(|(entry, _)| entry);
                Begin(BeginState::Ready(Some(Ok(begin(self.lane.clone(), entry, token)))))
            }
            None => Begin(BeginState::Loading(Box::pin(load(self.lane.clone(), id, token.clone(), true)))),
        }
    }

    /// As [`session`](Self::session), but the request does not count as a use: it keeps no session from going
    /// idle. For requests that a page makes by itself, such as polling. A session whose idle timeout is over
    /// is gone all the same, and what such a request writes is written.
    ///
    /// # Errors
    /// As [`session`](Self::session).
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    ///
    /// # Examples
    /// ```
    /// # pollster::block_on(async {
    /// # let engine = sessile_engine::Engine::builder().in_memory()?;
    /// # use sessile_engine::Delivery;
    /// # let session = engine.session(None).await?;
    /// # session.put("user", "ann")?;
    /// # let Delivery::Issue(issue) = session.commit().await? else { panic!() };
    /// # let old = issue.token;
    /// // A page that polls does not keep its user logged in.
    /// let session = engine.session_untouched(Some(&old)).await?;
    /// assert!(session.exists("user"));
    /// # Ok::<(), sessile_engine::Error>(()) }).unwrap();
    /// ```
    pub fn session_untouched(&self, token: Option<&Token>) -> Begin {
        let core = self.core();
        let Some(token) = token.filter(|_| !core.is_closed()) else { return self.session(token) };
        let id = token.id();
        match core.find_cached_untouched(&id, core.clock.now_ms()) {
            Some(found) => Begin(BeginState::Ready(Some(Ok(begin(self.lane.clone(), found, token))))),
            None => Begin(BeginState::Loading(Box::pin(load(self.lane.clone(), id, token.clone(), false)))),
        }
    }

    /// As [`session`](Self::session), if that is answered without the store: the token's session is cached, or
    /// there is no token. `None` if it takes the store, or an expiry has to be dealt with: ask `session` then.
    ///
    /// It runs no code of the application's but a custom clock, so that it may be called under a borrow. The caller
    /// brings the id of the token, which it has other uses for.
    #[doc(hidden)]
    #[inline]
    pub fn session_now(&self, token: Option<(Token, &SessionId)>) -> Option<Session> {
        let core = self.core();
        if core.is_closed() {
            return None;
        }
        let Some((token, id)) = token else { return Some(Session::begin(self.lane.clone(), None, None)) };
        let (entry, seen) = core.find_live(id, core.clock.now_ms())?;
        Some(Session::begin_seen(self.lane.clone(), entry, seen, token))
    }

    /// Whether `other` is a clone of this engine.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.handle, &other.handle)
    }

    /// Waits until everything written so far is in the store.
    ///
    /// # Errors
    /// The store's error, if the commit failed. The changes stay in memory and are retried.
    ///
    /// # Cancel safety
    /// Dropping the future stops the waiting, not the writing.
    ///
    /// # Examples
    /// ```
    /// # pollster::block_on(async {
    /// # let engine = sessile_engine::Engine::builder().in_memory()?;
    /// # let session = engine.session(None).await?;
    /// session.put("user", "ann")?;
    /// session.commit().await?;
    /// engine.flush().await?; // it survives a crash from here on, if there is a store
    /// # Ok::<(), sessile_engine::Error>(()) }).unwrap();
    /// ```
    pub async fn flush(&self) -> Result<()> {
        match &self.core().store {
            Some(_) => self.core().queue.flush().await,
            None => Ok(()),
        }
    }

    /// Writes everything out, closes the store and refuses further writes. Idempotent.
    ///
    /// Blocks the calling thread while the last batch is written: call it when requests are drained.
    ///
    /// # Errors
    /// The store's error if something could not be written.
    ///
    /// # Cancel safety
    /// The engine is closed even if the future is dropped.
    ///
    /// # Examples
    /// ```
    /// # pollster::block_on(async {
    /// # let engine = sessile_engine::Engine::builder().in_memory()?;
    /// // When the server has drained:
    /// engine.close().await?;
    /// assert!(engine.session(None).await.is_err());
    /// # Ok::<(), sessile_engine::Error>(()) }).unwrap();
    /// ```
    pub async fn close(&self) -> Result<()> {
        self.handle.shut_down()
    }

    /// Ends the session with this id, wherever it is. `Ok` means that it is dead on every handle and that its row
    /// is deleted durably. Ids that do not exist are fine. (SCS: `Destroy` inside `Iterate`.)
    ///
    /// # Errors
    /// The store's error. The session is dead all the same while the process lives, and its row is deleted as
    /// soon as the store works again.
    ///
    /// # Cancel safety
    /// The session is ended when this is first polled; dropping the future later stops the waiting only.
    ///
    /// # Durability
    /// Durable when it returns, at every level.
    ///
    /// # Examples
    /// ```
    /// # pollster::block_on(async {
    /// # let engine = sessile_engine::Engine::builder().in_memory()?;
    /// # let session = engine.session(None).await?;
    /// session.put("user", "ann")?;
    /// session.commit().await?;
    /// let id = session.id().expect("it is published");
    /// engine.destroy_session(&id).await?;
    /// assert!(session.is_revoked());
    /// # Ok::<(), sessile_engine::Error>(()) }).unwrap();
    /// ```
    #[doc(alias = "revoke")]
    pub async fn destroy_session(&self, id: &SessionId) -> Result<()> {
        if self.core().is_closed() {
            return Err(writer::closed());
        }
        self.core().revoke(id);
        self.flush().await
    }

    /// Counters, now.
    ///
    /// # Examples
    /// ```
    /// # pollster::block_on(async {
    /// # let engine = sessile_engine::Engine::builder().in_memory()?;
    /// # let session = engine.session(None).await?;
    /// session.put("user", "ann")?;
    /// session.commit().await?;
    /// let stats = engine.stats().await;
    /// assert_eq!((stats.cached, stats.created), (1, 1));
    /// # Ok::<(), sessile_engine::Error>(()) }).unwrap();
    /// ```
    pub async fn stats(&self) -> Stats {
        let stored = match &self.core().store {
            Some(store) => store.count().await.ok().flatten(),
            None => None,
        };
        self.core().stats(stored)
    }

    /// Whether the store works.
    ///
    /// # Examples
    /// ```
    /// # pollster::block_on(async {
    /// # let engine = sessile_engine::Engine::builder().in_memory()?;
    /// use sessile_engine::Health;
    ///
    /// if engine.health() != Health::Ok {
    ///     // Take this server out of the load balancer's list.
    /// }
    /// # Ok::<(), sessile_engine::Error>(()) }).unwrap();
    /// ```
    pub fn health(&self) -> Health {
        self.core().health()
    }

    /// What was found in the journal when the engine was opened. `None` without a [journal](Builder::journal).
    ///
    /// # Examples
    /// ```
    /// # use sessile_engine::{Engine, store::MemoryStore};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("sessions.journal");
    /// let engine = Engine::builder().journal(path).open(MemoryStore::default())?;
    /// if let Some(recovery) = engine.recovery() {
    ///     println!("{} changes recovered, {} gaps", recovery.changes, recovery.damaged);
    /// }
    /// # Ok::<(), sessile_engine::Error>(())
    /// ```
    pub fn recovery(&self) -> Option<&Recovery> {
        self.core().journal.as_ref().map(|journal| journal.recovery())
    }

    /// Brings what is in the journal into the store, so that the store alone holds every session: before its file is
    /// copied, for example. Blocks for as long as the store takes. Without a journal this is [`flush`](Self::flush).
    ///
    /// # Errors
    /// The store's error. The journal keeps what the store did not take.
    ///
    /// # Cancel safety
    /// Dropping the future before it is polled changes nothing; later it has run.
    ///
    /// # Examples
    /// ```
    /// # pollster::block_on(async {
    /// # let engine = sessile_engine::Engine::builder().in_memory()?;
    /// engine.checkpoint().await?;
    /// # Ok::<(), sessile_engine::Error>(()) }).unwrap();
    /// ```
    pub async fn checkpoint(&self) -> Result<()> {
        self.flush().await?;
        match &self.core().journal {
            Some(journal) => Ok(journal.checkpoint()?),
            None => Ok(()),
        }
    }

    /// Runs the writer once, for engines without a thread.
    #[cfg(all(test, feature = "shuttle"))]
    pub(crate) fn step(&self) -> bool {
        let core = self.core();
        let (work, epoch, _) = core.queue.drain();
        let ok = core.write_out(work, epoch);
        core.keep_house();
        ok
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("store", &self.core().store.as_ref().map_or("none", |s| s.name()))
            .field("health", &self.health())
            .finish_non_exhaustive()
    }
}

impl Handle {
    fn shut_down(&self) -> Result<()> {
        if let Err(error) = self.process.check("session") {
            // Threads and files are the other process's.
            self.core.set_closed();
            self.core.queue.shut();
            return Err(error.into());
        }
        let Some(thread) = self.thread.lock().take() else {
            return self.close_store();
        };
        self.core.queue.close();
        let joined = thread.join();
        let left = self.core.queue.pending();
        let health = self.core.health();
        self.core.set_closed();
        self.core.queue.shut();
        let closed = self.close_store();
        if joined.is_err() {
            return Err(Error::new(ErrorKind::Store, "the writer thread panicked"));
        }
        if left > 0 {
            return Err(Error::new(
                ErrorKind::Store,
                format!("{left} changes could not be written before the engine closed: {health}"),
            ));
        }
        closed
    }

    fn close_store(&self) -> Result<()> {
        self.core.set_closed();
        match &self.core.store {
            Some(store) => Ok(pollster::block_on(store.close())?),
            None => Ok(()),
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.core.is_closed() {
            return;
        }
        if let Err(error) = self.shut_down() {
            tracing::error!(target: "sessile", %error, "closing the session engine lost changes");
        }
    }
}

fn begin(lane: Arc<Lane>, found: Option<EntryRef>, token: &Token) -> Session {
    match found {
        Some(entry) => Session::begin(lane, Some(entry), Some(token.clone())),
        None => {
            let (id, core) = (token.id(), lane.core());
            core.notify(|| Event::Unknown { id });
            // Its tombstone stays until its row is deleted.
            if core.cache.get(&id).is_some() {
                return Session::begin_after_end(lane);
            }
            Session::begin(lane, None, None)
        }
    }
}

async fn load(lane: Arc<Lane>, id: SessionId, token: Token, touch: bool) -> Result<Session> {
    match lane.core().load(&id, touch).await {
        Ok(found) => Ok(begin(lane, found, &token)),
        Err(error) if error.kind() == ErrorKind::Corrupt => Ok(Session::begin_damaged(lane)),
        Err(error) => Err(error),
    }
}

/// The future of [`Engine::session`].
#[must_use = "futures do nothing unless polled"]
pub struct Begin(BeginState);

enum BeginState {
    Ready(Option<Result<Session>>),
    Loading(BoxFuture<'static, Result<Session>>),
}

impl Future for Begin {
    type Output = Result<Session>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            BeginState::Ready(result) => {
                Poll::Ready(result.take().unwrap_or_else(|| Err(polled_after_completion())))
            }
            BeginState::Loading(future) => future.as_mut().poll(cx),
        }
    }
}

impl fmt::Debug for Begin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Begin")
    }
}

pub(crate) fn polled_after_completion() -> Error {
    Error::new(ErrorKind::Config, "a future was polled after it had completed")
}
