//! A store in PostgreSQL over the pool of an app, whatever client the pool is of: one that waits for the answer to each
//! statement. It owns how the statements are run, in which order, and on which connection; what a pool and a connection
//! are it knows by two traits, and which change is made, and when, it never decides.

mod commit;
mod held;
mod settings;
mod tries;
mod watch;

use std::future::Future;
use std::ops::DerefMut;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use sessile_engine::store::{Change, Expired, Outcome, StoreError, Watch};

use self::held::Held;
pub(crate) use self::settings::{Settings, is_builder};
use self::tries::Tries;
use super::text::Texts;
use super::watch::{News, Polled};
use crate::driver::Driver;
use crate::sql::plan::Key;
use crate::sql::server::{Server, unwatched};
use crate::sql::{Raw, unsigned};

/// The pool of an app.
pub(crate) trait Pool: Clone + Send + Sync + 'static {
    /// The store's name.
    const NAME: &'static str;

    type Error: Meaning;
    type Connection: Connection<Error = Self::Error>;
    /// A connection that goes back to the pool when it is dropped.
    type Lent: DerefMut<Target = Self::Connection> + Send;

    fn lend(&self) -> impl Future<Output = Result<Self::Lent, Self::Error>> + Send;

    /// Takes a connection from its pool for good: it is closed when it is dropped.
    fn detach(lent: Self::Lent) -> Self::Connection;
}

/// A connection, on which one thing is done at a time.
pub(crate) trait Connection: Send + 'static {
    type Error;

    /// Runs statements without parameters, in one exchange.
    fn run(&mut self, text: &str) -> impl Future<Output = Result<(), Self::Error>> + Send;

    fn execute(
        &mut self,
        text: &str,
        with: &[Value<'_>],
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// The rows of a statement that selects an id, a version, an expiry, an owner and bytes.
    fn sessions(
        &mut self,
        text: &str,
        with: &[Value<'_>],
    ) -> impl Future<Output = Result<Vec<Raw>, Self::Error>> + Send;

    fn versions(
        &mut self,
        text: &str,
        with: &[Value<'_>],
    ) -> impl Future<Output = Result<Vec<(Vec<u8>, i64)>, Self::Error>> + Send;

    fn numbers(&mut self, text: &str) -> impl Future<Output = Result<Vec<i64>, Self::Error>> + Send;

    /// The two numbers of a statement that answers with one row.
    fn pair(
        &mut self,
        text: &str,
        with: &[Value<'_>],
    ) -> impl Future<Output = Result<(i64, i64), Self::Error>> + Send;

    fn news(
        &mut self,
        text: &str,
        with: &[Value<'_>],
    ) -> impl Future<Output = Result<Vec<News>, Self::Error>> + Send;
}

/// What a client's error means for a call.
pub(crate) trait Meaning: Send + 'static {
    /// See [`is_race`](super::is_race).
    fn is_race(&self) -> bool;

    /// The connection had ended before; for what has not changed anything yet, another may do.
    fn is_stale(&self) -> bool;

    /// The server's own, with which its answer has come to an end.
    fn is_answer(&self) -> bool;

    /// The error of the store that failed in doing `what`, without values of rows.
    fn into_store(self, what: &'static str) -> StoreError;
}

/// A parameter of a statement.
#[derive(Clone, Copy)]
pub(crate) enum Value<'a> {
    /// `BIGINT`.
    Number(i64),
    /// `BYTEA`.
    Bytes(&'a [u8]),
    /// `TEXT`.
    Text(&'a str),
    /// `BIGINT[]`.
    Numbers(&'a [i64]),
    /// `BYTEA[]`.
    List(&'a [&'a [u8]]),
    /// `BYTEA[]` with `NULL`s.
    Options(&'a [Option<&'a [u8]>]),
}

/// The server behind a pool.
pub(crate) struct Pooled<P> {
    pool: P,
    texts: Texts,
    /// Begins a transaction with limits of its own: the connection's are the app's.
    begin: String,
}

impl<P: Pool> Pooled<P> {
    async fn sessions(&self, text: &str, with: &[Value<'_>]) -> Result<Vec<Raw>, P::Error> {
        let mut tries = Tries::default();
        loop {
            let mut held = Held::from(&self.pool).await?;
            let answer = held.sessions(text, with).await;
            if let Some(rows) = tries.after_reading(held, answer).await? {
                return Ok(rows);
            }
        }
    }

    async fn numbers(&self, text: &str) -> Result<Vec<i64>, P::Error> {
        let mut tries = Tries::default();
        loop {
            let mut held = Held::from(&self.pool).await?;
            let answer = held.numbers(text).await;
            if let Some(numbers) = tries.after_reading(held, answer).await? {
                return Ok(numbers);
            }
        }
    }
}

impl<P: Pool> Server for Pooled<P> {
    const NAME: &'static str = P::NAME;

    type Failure = P::Error;

    fn watches(&self) -> bool {
        self.texts.changes.is_some()
    }

    fn error(what: &'static str, failure: P::Error) -> StoreError {
        failure.into_store(what)
    }

    async fn mark(&self) -> Result<Option<u64>, P::Error> {
        // There are several, so that commits do not wait for each other; the highest counts.
        Ok(self.numbers(&self.texts.mark).await?.into_iter().map(unsigned).max())
    }

    async fn load(&self, id: &Key) -> Result<Option<Raw>, P::Error> {
        Ok(self.sessions(&self.texts.load, &[Value::Bytes(id)]).await?.pop())
    }

    async fn page(&self, after: Option<&[u8]>, limit: usize) -> Result<Vec<Raw>, P::Error> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let with = [Value::Bytes(after.unwrap_or_default()), Value::Number(limit)];
        self.sessions(&self.texts.list, &with).await
    }

    async fn of_owner(&self, owner: &str) -> Result<Vec<Raw>, P::Error> {
        self.sessions(&self.texts.list_owner, &[Value::Bytes(owner.as_bytes())]).await
    }

    async fn count(&self) -> Result<Option<u64>, P::Error> {
        Ok(self.numbers(&self.texts.count).await?.pop().map(unsigned))
    }

    async fn commit(&self, now: u64, changes: &[Change]) -> Result<Vec<Outcome>, P::Error> {
        commit::commit(self, now, changes).await
    }

    async fn expire(&self, now: u64, high_water: u64, limit: usize) -> Result<Expired, P::Error> {
        commit::expire(self, now, high_water, limit).await
    }

    async fn watch(
        self: Arc<Self>,
        driver: Driver,
        closed: Arc<AtomicBool>,
    ) -> Result<Box<dyn Watch>, StoreError> {
        let Some(changes) = &self.texts.changes else {
            return Err(unwatched(P::NAME));
        };
        let (source, first) = watch::Source::open(&self.pool, changes, closed).await?;
        Ok(Box::new(Polled::new(driver, source, first)))
    }

    /// The pool is the app's.
    fn end(&self, _: &Driver) {}
}
