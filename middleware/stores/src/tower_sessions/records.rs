//! The trait of tower-sessions, of either version, as the adapter needs it. It translates calls and errors, and decides
//! nothing.

use std::collections::HashMap;

use serde_json::Value;
use sessile_engine::store::{BoxFuture, StoreError, StoreErrorKind};
use time::OffsetDateTime;

use super::NAME;

pub(super) type Data = HashMap<String, Value>;

/// A record of tower-sessions.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) id: i128,
    pub(super) data: Data,
    pub(super) expiry: OffsetDateTime,
}

pub(super) trait Records: Send + Sync + 'static {
    /// Adds a record, and tells the id that the store has given it: another one, if it was taken.
    fn create(&self, entry: Entry) -> BoxFuture<'_, Result<i128, StoreError>>;
    /// Replaces a record that is there.
    fn save(&self, entry: Entry) -> BoxFuture<'_, Result<(), StoreError>>;
    fn load(&self, id: i128) -> BoxFuture<'_, Result<Option<Data>, StoreError>>;
    fn delete(&self, id: i128) -> BoxFuture<'_, Result<(), StoreError>>;
}

/// The store's error, with what it says: it has no other source.
fn failed(
    kind: StoreErrorKind,
    what: &'static str,
    e: impl std::error::Error + Send + Sync + 'static,
) -> StoreError {
    StoreError::new(kind, NAME, what).with_source(e)
}

macro_rules! records {
    ($version:ident, $core:ident) => {
        pub(super) mod $version {
            use $core::session::{Id, Record};
            use $core::session_store::{Error, SessionStore};

            use super::*;

            pub(in super::super) struct Of<S>(pub(in super::super) S);

            fn record(entry: Entry) -> Record {
                Record { id: Id(entry.id), data: entry.data, expiry_date: entry.expiry }
            }

            fn of(what: &'static str) -> impl FnOnce(Error) -> StoreError {
                move |e| {
                    let kind = match &e {
                        Error::Decode(_) => StoreErrorKind::Corrupt,
                        Error::Encode(_) | Error::Backend(_) => StoreErrorKind::Unavailable,
                    };
                    failed(kind, what, e)
                }
            }

            impl<S: SessionStore> Records for Of<S> {
                fn create(&self, entry: Entry) -> BoxFuture<'_, Result<i128, StoreError>> {
                    Box::pin(async move {
                        let mut record = record(entry);
                        self.0.create(&mut record).await.map_err(of("a session could not be created"))?;
                        Ok(record.id.0)
                    })
                }

                fn save(&self, entry: Entry) -> BoxFuture<'_, Result<(), StoreError>> {
                    Box::pin(async move {
                        self.0.save(&record(entry)).await.map_err(of("a session could not be saved"))
                    })
                }

                fn load(&self, id: i128) -> BoxFuture<'_, Result<Option<Data>, StoreError>> {
                    Box::pin(async move {
                        let found =
                            self.0.load(&Id(id)).await.map_err(of("a session could not be loaded"))?;
                        Ok(found.map(|record| record.data))
                    })
                }

                fn delete(&self, id: i128) -> BoxFuture<'_, Result<(), StoreError>> {
                    Box::pin(async move {
                        self.0.delete(&Id(id)).await.map_err(of("a session could not be deleted"))
                    })
                }
            }
        }
    };
}

#[cfg(feature = "tower-sessions-store-0_14")]
records!(v0_14, tower_sessions_core_0_14);
#[cfg(feature = "tower-sessions-store-0_15")]
records!(v0_15, tower_sessions_core_0_15);
