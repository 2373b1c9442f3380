//! The engine as a store of [tower-sessions](https://docs.rs/tower-sessions): existing tower-sessions and
//! axum-login apps keep their code and change the store. It translates records and ids, and works out what each
//! request changed; storing, expiry and durability are the engine's.
//!
//! One [`TowerSessionsStore`] serves both versions of the trait: feature `tower-sessions-0_14` for
//! tower-sessions 0.14 (which axum-login 0.18 needs), `tower-sessions-0_15` for 0.15.
//!
#![cfg_attr(
    feature = "tower-sessions-0_14",
    doc = r#"
```
use axum::{Router, routing::get};
use sessile::{Engine, adapter::TowerSessionsStore};
use tower_sessions::{Session, SessionManagerLayer};

async fn hits(session: Session) -> String {
    let hits = session.get::<u64>("hits").await.unwrap_or_default().unwrap_or(0) + 1;
    match session.insert("hits", hits).await {
        Ok(()) => format!("hello for the {hits}. time\n"),
        Err(error) => error.to_string(),
    }
}

# fn main() -> Result<(), sessile::Error> {
let engine = Engine::builder().in_memory()?; // or `.open_redb("sessions.redb")?`
let app: Router = Router::new()
    .route("/", get(hits))
    .layer(SessionManagerLayer::new(TowerSessionsStore::new(engine.clone())));
# drop(app);
# Ok(()) }
```
"#
)]
//!
//! # What it guarantees
//! - *Different keys of concurrent requests survive.* A save writes the keys that its request changed since it
//!   loaded them, and leaves all others as they are now.
//! - *Logout is final.* A save never creates a session: one that was flushed, deleted, revoked or has expired, or
//!   whose id was cycled, stays gone, and the save fails. tower-sessions answers 500 then and sets no cookie.
//! - *Deletions are durable* before `flush`, `delete` and `cycle_id` return.
//! - *No id is adopted or used twice.* `create` draws a new id always: a session begun after `flush` has another
//!   id than the one that was flushed.
//! - *A cycled session keeps its data, and an ended one cannot be cycled back.* If somebody else ended the session
//!   while a request that had loaded it cycles its id, the new session gets what this request wrote itself (a
//!   login, for example), and nothing of what it had read.
//! - *The secret is not stored.* Stores, logs and listings see a hash of the id ([`TowerSessionsStore::session_id`]).
//! - *Values are values.* Each is stored under its own key as the kind it is, and comes back as it was.
//! - *Expiry* is that of the last save, as the engine counts: expired iff now ≥ deadline. An idle timeout of the
//!   engine applies as well, and counts every load; its lifetime does not. Expired rows are removed by the engine;
//!   `continuously_delete_expired` compiles and has nothing to do.
//! - *Durability* of `save` and `create` is the engine's ([`Durability`](crate::Durability)).
//!
//! # What cannot be guaranteed behind that trait
//! - *Reading and writing one key is not atomic.* Two requests that count up the same key may count once; the later
//!   save wins. Use [`Session::update`](crate::engine::Session::update) of the native API.
//! - *A failed response costs a cycled session.* `cycle_id` deletes the old session before the new one is stored,
//!   and the trait does not tell that deletion from a logout, so it must be final. A crash, a 5xx or a dropped
//!   request between the two loses the session. [`TowerSessionsStore::cycling`] closes that gap where the
//!   application can call it.
//! - *Writes of other requests between a load and a `cycle_id`* of the same session are lost to the new session,
//!   except under [`cycling`](TowerSessionsStore::cycling).
//! - *A request that comes with the old cookie after a `cycle_id`* finds no session, and tower-sessions removes the
//!   cookie: if that response arrives last, the browser has lost the new one.
//! - *A key that is set back* to the value it was loaded with, by a request that saves several times, is
//!   recognized for the last 16,384 saving loads.
//! - *Limits* of the engine apply: keys of 1 to 256 bytes, 64 KiB a session by default. What exceeds them is an
//!   error of the save.
//!
//! Records that are loaded past `Session`, with `SessionStore::load`, hold one more entry, under a key that begins
//! with a NUL character. It is the note of what was loaded, and is never stored. Hand it back with the record: a save
//! without it replaces all data, as after `Session::clear`.
//!
//! Do not wrap the store in a `CachingSessionStore`, whichever side: the engine is a cache already, and a cache in
//! front of it would serve what has ended.

mod memory;
mod record;
#[cfg(feature = "tower-sessions-0_14")]
mod v0_14;
#[cfg(feature = "tower-sessions-0_15")]
mod v0_15;

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use sessile_engine::by_id::{Draft, derive_id};
use sessile_engine::{Engine, Error, ErrorKind, SessionId};
use time::OffsetDateTime;

use self::memory::Memory;
use self::record::{Changes, Data, Saved, Ticket, to_json};

/// Tries to find an id that is free: one is enough unless the random source is broken.
const ID_TRIES: usize = 3;

type OwnerOf = dyn Fn(&Data) -> Option<String> + Send + Sync;

/// An [`Engine`] as the session store of tower-sessions 0.14 and 0.15: see the [module](self).
///
/// Clones are the same store. Use one store per engine: what it remembers of recent saves and deletions is its own.
#[derive(Clone)]
pub struct TowerSessionsStore {
    inner: Arc<Inner>,
}

struct Inner {
    engine: Engine,
    owner: Option<Box<OwnerOf>>,
    memory: Memory,
}

impl TowerSessionsStore {
    /// A store over `engine`. The application keeps a clone of the engine to [close](Engine::close) it.
    #[must_use]
    pub fn new(engine: Engine) -> Self {
        Self { inner: Arc::new(Inner { engine, owner: None, memory: Memory::default() }) }
    }

    /// A store that assigns each session to the owner which `owner` finds in its data, whenever it is saved: for
    /// listing and revoking all sessions of one user.
    ///
    /// ```
    /// use sessile::{Engine, adapter::TowerSessionsStore};
    ///
    /// # fn main() -> Result<(), sessile::Error> {
    /// let engine = Engine::builder().in_memory()?;
    /// // Where axum-login keeps the user's id.
    /// let store = TowerSessionsStore::with_owner(engine, |data| {
    ///     Some(format!("user:{}", data.get("axum-login.data")?.get("user_id")?))
    /// });
    /// # drop(store);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn with_owner(
        engine: Engine,
        owner: impl Fn(&std::collections::HashMap<String, serde_json::Value>) -> Option<String>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        let owner: Option<Box<OwnerOf>> = Some(Box::new(owner));
        Self { inner: Arc::new(Inner { engine, owner, memory: Memory::default() }) }
    }

    /// The engine behind the store.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.inner.engine
    }

    /// The public id of the session whose tower-sessions id is `id` (its field `0`): what the engine's listings,
    /// events and [`Engine::destroy_session`] call it.
    #[must_use]
    pub fn session_id(id: i128) -> SessionId {
        // The bytes that the cookie encodes. `create` draws every id that is put into the table, 128 bits from
        // the random source of tower-sessions, so what `derive_id` asks of a secret holds.
        derive_id("tower-sessions", &id.to_le_bytes())
    }

    /// Runs `future`, in which the application changes the session's id, so that a failure later in the request
    /// does not lose the session: the old one stays in place until the new one is stored, and the store then moves
    /// it in one step. If it never comes to that (an error response, a panic, a crash), the old id goes on.
    ///
    /// ```
    /// # use sessile::adapter::TowerSessionsStore;
    /// # async fn login(store: TowerSessionsStore, cycle_id: impl Future<Output = ()>) {
    /// // store.cycling(session.cycle_id()).await?;
    /// // store.cycling(auth_session.login(&user)).await?;
    /// store.cycling(cycle_id).await;
    /// # }
    /// ```
    ///
    /// Nothing that ends a session may run inside: while `future` is polled, *no* deletion is carried out, and a
    /// `flush` in it would leave the session alive.
    pub fn cycling<F: Future>(&self, future: F) -> Cycling<F> {
        Cycling { future }
    }

    async fn load_data(&self, id: i128) -> Result<Option<(Data, OffsetDateTime)>, Failure> {
        let session = Self::session_id(id);
        let Some(found) = self.inner.engine.by_id().load(&session).await? else { return Ok(None) };
        let mut data: Data =
            found.snapshot.iter().map(|(key, value)| (key.to_owned(), to_json(value))).collect();
        Ticket::attach(&mut data, self.inner.memory.next_load(), &session);
        Ok(Some((data, found.deadline.into())))
    }

    async fn save_data(&self, id: i128, data: &Data, expiry: OffsetDateTime) -> Result<(), Failure> {
        let session = Self::session_id(id);
        // A ticket of another session tells nothing about this one.
        let ticket = Ticket::of(data).filter(|ticket| ticket.session == session);
        let before = ticket.as_ref().map(|ticket| self.inner.memory.saved(ticket.load)).unwrap_or_default();
        let changes = Changes::since(ticket.as_ref(), &before, data);
        let saved =
            self.inner.engine.by_id().update(&session, |draft| self.fill(draft, &changes, expiry)).await?;
        if saved.is_none() {
            return Err(Failure::Ended);
        }
        if let Some(ticket) = ticket {
            self.inner.memory.save(ticket.load, changes.saved());
        }
        Ok(())
    }

    async fn create_data(
        &self,
        data: &mut Data,
        expiry: OffsetDateTime,
        draw_id: fn() -> i128,
    ) -> Result<i128, Failure> {
        // A ticket in a new session's data names the session that it continues, after `cycle_id`.
        let ticket = Ticket::of(data);
        data.remove(record::TICKET);
        if let Some(ticket) = &ticket {
            let saved = self.inner.memory.saved(ticket.load);
            if let Some(id) = self.move_session(ticket, &saved, data, expiry, draw_id).await? {
                return Ok(id);
            }
            if !self.may_take_along(&ticket.session).await? {
                ticket.keep_own(&saved, data);
            }
        }
        for _ in 0..ID_TRIES {
            let id = draw_id();
            let session = Self::session_id(id);
            let changes = Changes::All(data);
            let fill = |draft: &mut Draft<'_>| self.fill(draft, &changes, expiry);
            if self.inner.engine.by_id().create(session, fill).await? {
                if let Some(ticket) = &ticket {
                    self.inner.memory.moved(&ticket.session, session);
                }
                Ticket::attach(data, self.inner.memory.next_load(), &session);
                return Ok(id);
            }
        }
        Err(Failure::NoFreeId)
    }

    /// Moves the session of `ticket` to a new id, if it is still there: its deletion was put off by
    /// [`cycling`](Self::cycling). The move comes before the edit: what this request wrote (a login) must never
    /// be reachable under the old id.
    async fn move_session(
        &self,
        ticket: &Ticket,
        saved: &Saved,
        data: &mut Data,
        expiry: OffsetDateTime,
        draw_id: fn() -> i128,
    ) -> Result<Option<i128>, Failure> {
        let by_id = self.inner.engine.by_id();
        let changes = Changes::since(Some(ticket), saved, data);
        // A change that the engine refuses must not cost the session, so it is tried on a draft first.
        let mut fits = false;
        let tried = by_id
            .update(&ticket.session, |draft| {
                self.fill(draft, &changes, expiry)?;
                fits = true;
                Err::<(), _>(sessile_engine::by_id::not_now())
            })
            .await;
        match tried {
            Ok(_) => return Ok(None),
            Err(error) if !fits => return Err(error.into()),
            Err(_) => {}
        }
        let id = draw_id();
        let session = Self::session_id(id);
        if !by_id.rename(&ticket.session, session).await? {
            return Ok(None);
        }
        self.inner.memory.moved(&ticket.session, session);
        if by_id.update(&session, |draft| self.fill(draft, &changes, expiry)).await?.is_none() {
            return Err(Failure::Ended);
        }
        match self.load_data(id).await? {
            Some((merged, _)) => *data = merged,
            None => return Err(Failure::Ended),
        }
        Ok(Some(id))
    }

    /// Whether a new session may hold what its request had loaded from `old`, which is gone: if it was ended by
    /// one deletion alone, that of the `cycle_id` at hand, or was moved before to a session that is still alive.
    /// Otherwise somebody may have logged out.
    async fn may_take_along(&self, old: &SessionId) -> Result<bool, Failure> {
        match self.inner.memory.fate(old) {
            Some(memory::Fate::Ended { deletions }) => Ok(deletions == 1),
            Some(memory::Fate::Moved(to)) => Ok(self.inner.engine.by_id().load(&to).await?.is_some()),
            None => Ok(false),
        }
    }

    async fn delete_data(&self, id: i128) -> Result<(), Failure> {
        let session = Self::session_id(id);
        if CYCLING.get() {
            // Counted, so that a logout which comes before the move is seen to be another one.
            self.inner.memory.deleted(&session, true);
            return Ok(());
        }
        let noted = |destroyed| self.inner.memory.deleted(&session, destroyed);
        self.inner.engine.by_id().destroy(&session, noted).await?;
        Ok(())
    }

    fn fill(
        &self,
        draft: &mut Draft<'_>,
        changes: &Changes<'_>,
        expiry: OffsetDateTime,
    ) -> sessile_engine::Result<()> {
        changes.apply(draft)?;
        draft.set_deadline(expiry.into());
        if let Some(owner) = &self.inner.owner {
            let merged: Data = draft.iter().map(|(key, value)| (key.to_owned(), to_json(value))).collect();
            draft.set_owner(owner(&merged).as_deref())?;
        }
        Ok(())
    }
}

impl fmt::Debug for TowerSessionsStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TowerSessionsStore").field("engine", &self.inner.engine).finish_non_exhaustive()
    }
}

/// Why an operation failed, before it becomes the error of one of tower-sessions' versions.
enum Failure {
    Engine(Error),
    /// The session that was to be saved is gone.
    Ended,
    NoFreeId,
}

/// The variants of tower-sessions' own error.
enum Class {
    Encode,
    Decode,
    Backend,
}

impl Failure {
    fn class(&self) -> Class {
        match self {
            Self::Engine(error) => match error.kind() {
                ErrorKind::Serialize | ErrorKind::InvalidKey | ErrorKind::Limit => Class::Encode,
                ErrorKind::TypeMismatch | ErrorKind::Corrupt => Class::Decode,
                _ => Class::Backend,
            },
            Self::Ended | Self::NoFreeId => Class::Backend,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Engine(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Engine(error) => error.fmt(f),
            Self::Ended => {
                f.write_str("the session has ended: it was deleted, cycled or revoked, or expired")
            }
            Self::NoFreeId => f.write_str("no unused session id was found: is the random source broken?"),
        }
    }
}

thread_local! {
    /// Whether a future of [`TowerSessionsStore::cycling`] is being polled on this thread.
    static CYCLING: Cell<bool> = const { Cell::new(false) };
}

pin_project! {
    /// The future of [`TowerSessionsStore::cycling`].
    #[must_use = "futures do nothing unless polled"]
    #[derive(Debug)]
    pub struct Cycling<F> {
        #[pin]
        future: F,
    }
}

impl<F: Future> Future for Cycling<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        /// Resets the flag also if the future panics.
        struct Reset(bool);
        impl Drop for Reset {
            fn drop(&mut self) {
                CYCLING.set(self.0);
            }
        }
        let _reset = Reset(CYCLING.replace(true));
        self.project().future.poll(cx)
    }
}

/// Implements the two traits of one version of tower-sessions-core, which differ in nothing but their names.
macro_rules! session_store {
    ($core:ident) => {
        use $core::session::{Id, Record};
        use $core::session_store::{Error, ExpiredDeletion, Result, SessionStore};

        use super::{Class, Failure, TowerSessionsStore};

        impl From<Failure> for Error {
            fn from(failure: Failure) -> Self {
                let text = failure.to_string();
                match failure.class() {
                    Class::Encode => Self::Encode(text),
                    Class::Decode => Self::Decode(text),
                    Class::Backend => Self::Backend(text),
                }
            }
        }

        #[async_trait::async_trait]
        impl SessionStore for TowerSessionsStore {
            async fn create(&self, record: &mut Record) -> Result<()> {
                let draw = || Id::default().0;
                record.id = Id(self.create_data(&mut record.data, record.expiry_date, draw).await?);
                Ok(())
            }

            async fn save(&self, record: &Record) -> Result<()> {
                Ok(self.save_data(record.id.0, &record.data, record.expiry_date).await?)
            }

            async fn load(&self, id: &Id) -> Result<Option<Record>> {
                let found = self.load_data(id.0).await?;
                Ok(found.map(|(data, expiry_date)| Record { id: *id, data, expiry_date }))
            }

            async fn delete(&self, id: &Id) -> Result<()> {
                Ok(self.delete_data(id.0).await?)
            }
        }

        #[async_trait::async_trait]
        impl ExpiredDeletion for TowerSessionsStore {
            /// The engine removes expired sessions by itself.
            async fn delete_expired(&self) -> Result<()> {
                Ok(())
            }
        }
    };
}
use session_store;

/// Compiles the migration guide's examples as documentation tests.
#[cfg(all(doctest, feature = "tower-sessions-0_14"))]
#[doc = include_str!("../../../docs/migrate/tower-sessions.md")]
struct MigrationGuide;
