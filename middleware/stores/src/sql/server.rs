//! A store in the tables of a server: what is the same whichever server it is. Every call runs on the store's driver, to
//! its end; damaged rows are told from others. It knows no statement, no client and no error of a client's: those are the
//! [`Server`]'s.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sessile_engine::SessionId;
use sessile_engine::store::{
    Capabilities, Change, Expired, Listed, Outcome, Row, Scanned, Store, StoreError, StoreErrorKind, Watch,
};

use super::plan::Key;
use super::{Listing, MAX_ROW_BYTES, Raw, check_rows, closed, damaged, scanned, sort};
use crate::driver::Driver;

/// A server with our tables, and how it is asked. Each method is one call: it replaces a connection that the server had
/// ended before, tries again while others are in the way, and ends by the caller's deadline.
pub(crate) trait Server: Send + Sync + 'static {
    /// The store's name.
    const NAME: &'static str;

    /// Why a call failed.
    type Failure: Send + 'static;

    /// A failure in doing `what`, without values of rows.
    fn error(what: &'static str, failure: Self::Failure) -> StoreError;

    /// Whether it tells of changes, by [`watch`](Self::watch).
    fn watches(&self) -> bool {
        false
    }

    /// Largest row in bytes.
    fn max_row_bytes(&self) -> usize {
        MAX_ROW_BYTES
    }

    /// The highest of the high-water marks, if there is one: a server may keep several.
    fn mark(&self) -> impl Future<Output = Result<Option<u64>, Self::Failure>> + Send;

    fn load(&self, id: &Key) -> impl Future<Output = Result<Option<Raw>, Self::Failure>> + Send;

    /// At most `limit` rows behind `after`, in the order of their ids.
    fn page(
        &self,
        after: Option<&[u8]>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<Raw>, Self::Failure>> + Send;

    fn of_owner(&self, owner: &str) -> impl Future<Output = Result<Vec<Raw>, Self::Failure>> + Send;

    fn count(&self) -> impl Future<Output = Result<Option<u64>, Self::Failure>> + Send;

    fn commit(
        &self,
        now: u64,
        changes: &[Change],
    ) -> impl Future<Output = Result<Vec<Outcome>, Self::Failure>> + Send;

    fn expire(
        &self,
        now: u64,
        high_water: u64,
        limit: usize,
    ) -> impl Future<Output = Result<Expired, Self::Failure>> + Send;

    /// Begins to watch, which ends when `closed` is set.
    fn watch(
        self: Arc<Self>,
        _driver: Driver,
        _closed: Arc<AtomicBool>,
    ) -> impl Future<Output = Result<Box<dyn Watch>, StoreError>> + Send {
        async { Err(unwatched(Self::NAME)) }
    }

    /// Ends what the store began, when it is closed for the first time. Calls may be under way.
    fn end(&self, driver: &Driver);
}

/// What somebody is told who would watch a server that cannot be.
pub(crate) fn unwatched(name: &'static str) -> StoreError {
    StoreError::new(StoreErrorKind::Unsupported, name, "it does not tell of changes")
}

/// A store over `S`.
pub(crate) struct Tables<S> {
    server: Arc<S>,
    driver: Driver,
    closed: Arc<AtomicBool>,
}

impl<S: Server> Tables<S> {
    pub(crate) fn new(server: S, driver: Driver) -> Self {
        Self { server: Arc::new(server), driver, closed: Arc::default() }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Runs `call` on the store's driver, if the store is open.
    async fn call<T, F>(&self, what: &'static str, call: impl FnOnce(Arc<S>) -> F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, S::Failure>> + Send + 'static,
    {
        if self.is_closed() {
            return Err(closed(S::NAME));
        }
        // A client's futures can be of many kilobytes.
        let call = Box::pin(call(Arc::clone(&self.server)));
        self.driver.run(async move { call.await.map_err(|failure| S::error(what, failure)) }).await
    }
}

impl<S: Server> Store for Tables<S> {
    fn name(&self) -> &'static str {
        S::NAME
    }

    fn capabilities(&self) -> Capabilities {
        let mut can = Capabilities::full();
        can.exclusive = false;
        can.watch = self.server.watches();
        can.max_row_bytes = self.server.max_row_bytes();
        can
    }

    async fn high_water(&self) -> Result<u64, StoreError> {
        let mark = self.call("the high-water mark could not be read", |s| async move { s.mark().await });
        Ok(mark.await?.unwrap_or(0))
    }

    async fn load(&self, id: &SessionId) -> Result<Option<Row>, StoreError> {
        let key = *id.as_bytes();
        let found = self.call("a session could not be loaded", move |s| async move { s.load(&key).await });
        let Some(raw) = found.await? else { return Ok(None) };
        raw.row().map(Some).ok_or_else(|| damaged(S::NAME, id))
    }

    async fn commit(&self, now: u64, changes: &[Change]) -> Result<Vec<Outcome>, StoreError> {
        check_rows(S::NAME, self.server.max_row_bytes(), changes)?;
        let changes = changes.to_vec();
        self.call("changes could not be committed", move |s| async move { s.commit(now, &changes).await })
            .await
    }

    async fn expire(&self, now: u64, high_water: u64, limit: usize) -> Result<Expired, StoreError> {
        self.call("expired sessions could not be removed", move |s| async move {
            s.expire(now, high_water, limit).await
        })
        .await
    }

    async fn list(&self, after: Option<SessionId>, limit: usize) -> Result<Vec<Listed>, StoreError> {
        self.call("sessions could not be listed", move |s| async move {
            let mut listing = Listing::new(after, limit);
            while listing.take(s.page(listing.after.as_deref(), listing.wanted()).await?) {}
            Ok(listing.rows())
        })
        .await
    }

    async fn scan(&self, after: Option<SessionId>, limit: usize) -> Result<Scanned, StoreError> {
        let page = self.call("sessions could not be listed", move |s| async move {
            let after = after.map(|id| *id.as_bytes());
            s.page(after.as_ref().map(Key::as_slice), limit).await
        });
        Ok(scanned(page.await?, limit))
    }

    async fn list_owner(&self, owner: &str) -> Result<Vec<Listed>, StoreError> {
        let owner = owner.to_owned();
        let found =
            self.call(
                "an owner's sessions could not be listed",
                move |s| async move { s.of_owner(&owner).await },
            );
        Ok(sort(found.await?).0)
    }

    async fn watch(&self) -> Result<Box<dyn Watch>, StoreError> {
        if self.is_closed() {
            return Err(closed(S::NAME));
        }
        let watch = Arc::clone(&self.server).watch(self.driver.clone(), Arc::clone(&self.closed));
        self.driver.run(watch).await
    }

    async fn count(&self) -> Result<Option<u64>, StoreError> {
        self.call("sessions could not be counted", |s| async move { s.count().await }).await
    }

    async fn close(&self) -> Result<(), StoreError> {
        if !self.closed.swap(true, Ordering::AcqRel) {
            self.server.end(&self.driver);
        }
        Ok(())
    }
}

/// Makes the public type `$store(Tables<…>)` the [`Store`] that is in it.
macro_rules! is_store {
    ($store:ident) => {
        impl std::fmt::Debug for $store {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($store))
                    .field("closed", &self.0.is_closed())
                    .finish_non_exhaustive()
            }
        }

        impl Store for $store {
            fn name(&self) -> &'static str {
                self.0.name()
            }

            fn capabilities(&self) -> Capabilities {
                self.0.capabilities()
            }

            async fn high_water(&self) -> Result<u64, StoreError> {
                self.0.high_water().await
            }

            async fn load(&self, id: &SessionId) -> Result<Option<Row>, StoreError> {
                self.0.load(id).await
            }

            async fn commit(&self, now: u64, changes: &[Change]) -> Result<Vec<Outcome>, StoreError> {
                self.0.commit(now, changes).await
            }

            async fn expire(&self, now: u64, high_water: u64, limit: usize) -> Result<Expired, StoreError> {
                self.0.expire(now, high_water, limit).await
            }

            async fn list(&self, after: Option<SessionId>, limit: usize) -> Result<Vec<Listed>, StoreError> {
                self.0.list(after, limit).await
            }

            async fn scan(&self, after: Option<SessionId>, limit: usize) -> Result<Scanned, StoreError> {
                self.0.scan(after, limit).await
            }

            async fn list_owner(&self, owner: &str) -> Result<Vec<Listed>, StoreError> {
                self.0.list_owner(owner).await
            }

            async fn watch(&self) -> Result<Box<dyn Watch>, StoreError> {
                self.0.watch().await
            }

            /// # Complexity
            /// O(rows), on the server.
            async fn count(&self) -> Result<Option<u64>, StoreError> {
                self.0.count().await
            }

            async fn close(&self) -> Result<(), StoreError> {
                self.0.close().await
            }
        }
    };
}
pub(crate) use is_store;
