//! The settings of a MongoDB store, and how it is opened. It never prints the URL, which holds a password.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use mongodb::bson::{Bson, Document, doc};
use mongodb::options::{
    Acknowledgment, ClientOptions, CollectionOptions, IndexOptions, ReadConcern, ReadConcernLevel,
    ReadPreference, SelectionCriteria, WriteConcern,
};
use mongodb::{Client, Collection, Database, IndexModel};
use sessile_engine::store::{StoreError, StoreErrorKind};

use super::shared::Shared;
use super::{MongoStore, NAME, error};
use crate::driver::Driver;

const LAYOUT: i64 = 1;
const DEFAULT_DATABASE: &str = "sessile";
/// The longest suffix is `_quarantine`.
const LONGEST: usize = 48;

/// Settings of a [`MongoStore`].
#[derive(Clone)]
#[must_use]
pub struct Builder {
    source: Source,
    collection: String,
    deadline: Duration,
    pool_size: u32,
}

#[derive(Clone)]
enum Source {
    Url(String),
    Database(Database),
}

/// A database, and how its rows are read one by one.
struct Target {
    client: Client,
    database: Database,
    exact: ReadConcern,
}

fn wrong<T>(what: &'static str) -> Result<T, StoreError> {
    Err(error::own(StoreErrorKind::Config, what))
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("collection", &self.collection)
            .field("deadline", &self.deadline)
            .field("pool_size", &self.pool_size)
            .finish_non_exhaustive()
    }
}

impl Builder {
    fn of(source: Source) -> Self {
        let collection = "sessile_sessions".into();
        Self { source, collection, deadline: Duration::from_secs(2), pool_size: 8 }
    }

    pub(super) fn of_url(url: String) -> Self {
        Self::of(Source::Url(url))
    }

    pub(super) fn of_database(database: Database) -> Self {
        Self::of(Source::Database(database))
    }

    /// The collection's name, which those of the two beside it begin with. `sessile_sessions` by default.
    ///
    /// # Errors
    /// [`StoreErrorKind::Config`] if it is not `[A-Za-z_][A-Za-z0-9_]*` of at most 48 bytes.
    pub fn collection(mut self, name: &str) -> Result<Self, StoreError> {
        let mut bytes = name.bytes();
        let is_plain = name.len() <= LONGEST
            && bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
            && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !is_plain {
            return wrong("a collection's name is [A-Za-z_][A-Za-z0-9_]*, at most 48 bytes");
        }
        self.collection = name.into();
        Ok(self)
    }

    /// How long a call may take, waiting for a connection or a new primary included. 2 s by default.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Most connections at once to each server. 8 by default. Not for a database that was given.
    pub fn pool_size(mut self, connections: usize) -> Self {
        self.pool_size = u32::try_from(connections.max(1)).unwrap_or(u32::MAX);
        self
    }

    async fn target(&self) -> Result<Target, StoreError> {
        let url = match &self.source {
            Source::Url(url) => url,
            Source::Database(database) => {
                let (client, database) = (database.client().clone(), database.clone());
                return Ok(Target { client, database, exact: ReadConcern::majority() });
            }
        };
        let is_srv = url.starts_with("mongodb+srv:");
        // The parser's own error may quote what it does not understand.
        let mut options = match ClientOptions::parse(url).await {
            Ok(options) => options,
            Err(e) if is_srv && matches!(*e.kind, mongodb::error::ErrorKind::DnsResolve { .. }) => {
                return Err(error::own(
                    StoreErrorKind::Unavailable,
                    "the name in its URL cannot be looked up",
                ));
            }
            Err(_) if is_srv => {
                return wrong(
                    "its URL cannot be read; mongodb+srv:// needs the feature `dns-resolver` of the crate mongodb",
                );
            }
            Err(_) => return wrong("its URL cannot be read"),
        };
        let exact = checked(&options)?;
        let name = options.default_database.clone().unwrap_or_else(|| DEFAULT_DATABASE.into());
        if matches!(&*name, "admin" | "local" | "config") {
            return wrong("its URL names a database of the server's own");
        }
        options.retry_writes = Some(false);
        options.max_pool_size = Some(self.pool_size);
        options.server_selection_timeout = Some(self.deadline);
        options.connect_timeout = Some(options.connect_timeout.unwrap_or(self.deadline).min(self.deadline));
        options.app_name.get_or_insert_with(|| "sessile".into());
        let client = Client::with_options(options);
        // As above.
        let client =
            client.map_err(|_| error::own(StoreErrorKind::Config, "its URL asks for what cannot be had"))?;
        Ok(Target { database: client.database(&name), client, exact })
    }

    /// The rows, the same for a load, the quarantine and what is beside them.
    fn collections(&self, target: &Target, has_replicas: bool) -> [Collection<Document>; 4] {
        let named = |suffix: &str, concern: &ReadConcern| {
            let write = WriteConcern::builder()
                .w(Acknowledgment::Majority)
                .journal(true)
                .w_timeout(self.deadline)
                .build();
            let options = CollectionOptions::builder()
                .read_concern(concern.clone())
                .write_concern(write)
                .selection_criteria(SelectionCriteria::ReadPreference(ReadPreference::Primary))
                .build();
            target.database.collection_with_options(&format!("{}{suffix}", self.collection), options)
        };
        // A single server is its own majority.
        let reading = if has_replicas { ReadConcern::majority() } else { ReadConcern::local() };
        let exact = match target.exact.level {
            ReadConcernLevel::Linearizable => &target.exact,
            _ => &reading,
        };
        [named("", &reading), named("", exact), named("_quarantine", &reading), named("_meta", &reading)]
    }

    /// Makes the collections and their indexes, unless they are there. Several machines may do so at once.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn migrate(&self) -> Result<(), StoreError> {
        let builder = self.clone();
        let driver = Driver::start(NAME, self.deadline)?;
        let migrated = driver.run(Box::pin(async move {
            let target = builder.target().await?;
            let [rows, _, _, meta] = builder.collections(&target, false);
            let failed = || error::of("its collections could not be made");
            let index = |name: &str, keys: Document, sparse: bool| {
                let options = IndexOptions::builder().name(name.to_owned()).sparse(sparse).build();
                IndexModel::builder().keys(keys).options(options).build()
            };
            let indexes = [index("due", doc! { "due": 1 }, false), index("owner", doc! { "owner": 1 }, true)];
            rows.create_indexes(indexes).await.map_err(failed())?;
            // Last: who finds it finds the rest.
            match meta.insert_one(doc! { "_id": "layout", "version": LAYOUT }).await {
                Err(e) if error::has_taken_key(&e) => {}
                other => drop(other.map_err(failed())?),
            }
            if matches!(builder.source, Source::Url(_)) {
                target.client.shutdown().await;
            }
            Ok(())
        }));
        migrated.await
    }

    /// Connects, and checks that the collections are there and known.
    ///
    /// # Errors
    /// [`StoreErrorKind::Config`] if the URL is wrong, the server refuses the user, or the collections are missing or not
    /// ours; [`StoreErrorKind::NewerFormat`] if a newer release made them; [`StoreErrorKind::Unavailable`] if the
    /// server cannot be reached.
    pub async fn open(self) -> Result<MongoStore, StoreError> {
        let driver = Driver::start(NAME, self.deadline)?;
        let opened = driver.run(Box::pin(async move {
            let target = self.target().await?;
            let failed = || error::of("it could not be opened");
            let hello = target.database.run_command(doc! { "hello": 1 }).await.map_err(failed())?;
            // A member of a replica set, or the router of several.
            let tells =
                hello.contains_key("setName") || hello.get_str("msg").is_ok_and(|msg| msg == "isdbgrid");
            let collections = self.collections(&target, tells);
            let layout = collections[3].find_one(doc! { "_id": "layout" }).await.map_err(failed())?;
            check_layout(layout.as_ref())?;
            let owns_client = matches!(self.source, Source::Url(_));
            Ok(Arc::new(Shared::new(target.client, owns_client, collections, tells, self.deadline)))
        }));
        let shared = opened.await?;
        Ok(MongoStore { driver, shared })
    }
}

/// Refuses what would make a confirmed change less than confirmed; how rows are read one by one.
fn checked(options: &ClientOptions) -> Result<ReadConcern, StoreError> {
    if let Some(concern) = &options.write_concern {
        let is_majority = matches!(concern.w, None | Some(Acknowledgment::Majority));
        if !is_majority || concern.journal == Some(false) {
            return wrong("its URL asks for less than w=majority with journal=true");
        }
    }
    if !matches!(
        options.selection_criteria,
        None | Some(SelectionCriteria::ReadPreference(ReadPreference::Primary))
    ) {
        return wrong("its URL asks for reads from others than the primary");
    }
    match options.read_concern.as_ref().map(|concern| &concern.level) {
        None | Some(ReadConcernLevel::Majority) => Ok(ReadConcern::majority()),
        Some(ReadConcernLevel::Linearizable) => Ok(ReadConcern::linearizable()),
        Some(_) => wrong("its URL asks for a read concern other than majority or linearizable"),
    }
}

fn check_layout(layout: Option<&Document>) -> Result<(), StoreError> {
    let Some(layout) = layout else { return wrong("its collections are not there; see `migrate`") };
    match layout.get("version") {
        Some(Bson::Int64(LAYOUT)) => Ok(()),
        Some(Bson::Int64(newer)) if *newer > LAYOUT => Err(error::own(
            StoreErrorKind::NewerFormat,
            format!("its collections are of version {newer}; this release knows {LAYOUT}"),
        )),
        _ => Err(error::own(StoreErrorKind::Foreign, "its collections are not those of sessile")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_are_accepted() {
        let named = |name: &str| Builder::of_url("mongodb://h".into()).collection(name).map_err(|e| e.kind());
        for good in ["s", "_s", "Sess_9", &"x".repeat(48)] {
            assert!(named(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "a.b", "9a", "a b", "a$b", "system.users", "é", "a\0", "a-b", &"x".repeat(49)] {
            assert_eq!(named(bad).map(|_| ()), Err(StoreErrorKind::Config), "{bad}");
        }
    }

    #[test]
    fn other_layouts_are_refused() {
        let kind = |layout: Option<Document>| check_layout(layout.as_ref()).map_err(|e| e.kind());
        assert_eq!(kind(Some(doc! { "version": 1_i64 })), Ok(()));
        assert_eq!(kind(None), Err(StoreErrorKind::Config));
        assert_eq!(kind(Some(doc! { "version": 2_i64 })), Err(StoreErrorKind::NewerFormat));
        for foreign in [doc! {}, doc! { "version": 0_i64 }, doc! { "version": "1" }] {
            assert_eq!(kind(Some(foreign)), Err(StoreErrorKind::Foreign));
        }
    }
}
