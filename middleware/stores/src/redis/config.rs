//! The settings of a store, checked before anything is asked of a server. It repeats no password.

use std::fmt;
use std::sync::mpsc;
use std::time::Duration;

use ::redis::Client;
use sessile_engine::store::{StoreError, StoreErrorKind};

use super::address::{self, Address};
use super::{RedisStore, error};
use crate::driver::Driver;

const DEFAULT_PREFIX: &str = "sessile:";
const DEFAULT_DEADLINE: Duration = Duration::from_secs(2);
const DEFAULT_LEASE: Duration = Duration::from_secs(10);
const LONGEST_PREFIX: usize = 64;

/// Settings of a [`RedisStore`], from [`RedisStore::builder`].
#[must_use = "nothing is connected before `connect`"]
pub struct Builder {
    address: Result<Address, StoreError>,
    pub(super) prefix: String,
    pub(super) deadline: Duration,
    pub(super) listing: bool,
    pub(super) lease: Option<Duration>,
}

impl Builder {
    pub(super) fn of_url(url: &str) -> Self {
        Self::of(address::parse(url))
    }

    pub(super) fn of_client(client: Client) -> Self {
        Self::of(address::resp3(client).map(|client| Address::Server(Box::new(client))))
    }

    pub(super) fn of_cluster(nodes: Vec<Client>) -> Self {
        Self::of(address::cluster(Ok(nodes)))
    }

    pub(super) fn of_sentinels(sentinels: Vec<Client>, name: &str, primary: Client) -> Self {
        Self::of(address::sentinel(Ok(sentinels), name, primary))
    }

    fn of(address: Result<Address, StoreError>) -> Self {
        Self {
            address,
            prefix: DEFAULT_PREFIX.to_owned(),
            deadline: DEFAULT_DEADLINE,
            listing: true,
            lease: None,
        }
    }

    /// What the names of all keys begin with: 1 to 64 printable ASCII characters but spaces and braces, `sessile:` if
    /// it is not set. Stores with different prefixes share a server and see nothing of each other.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// How long a call may take before it fails as [`Unavailable`](StoreErrorKind::Unavailable): 10 ms to 1 minute, 2
    /// seconds if it is not set.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Whether the rows can be listed in order (true if it is not set). That takes one more index: one sorted-set entry
    /// for each row. All engines over the same rows must say the same.
    pub fn listing(mut self, listing: bool) -> Self {
        self.listing = listing;
        self
    }

    /// Makes this store the only writer of its rows, as an engine with a journal needs it. The others are kept out by
    /// a lease of 10 seconds, which is renewed while the store is open.
    ///
    /// A second store that opens is refused as [`Locked`](StoreErrorKind::Locked). After a crash the rows can be
    /// opened when the lease has run out. A store that lost its lease to another, because it could not reach the
    /// server for so long, writes nothing any more: the server refuses it. A store whose caller gave a commit up after
    /// the deadline is not overtaken by that commit: the server refuses what arrives late.
    ///
    /// When a commit fails as [`Unavailable`](StoreErrorKind::Unavailable) it may have been applied. Only a journal,
    /// which writes its newest states again, makes that good.
    ///
    /// Not in a cluster, where no commit over several servers is whole: connecting fails as
    /// [`Config`](StoreErrorKind::Config) there.
    pub fn exclusive(self) -> Self {
        self.exclusive_for(DEFAULT_LEASE)
    }

    /// As [`exclusive`](Self::exclusive), with a lease of 100 ms to 1 hour.
    pub fn exclusive_for(mut self, lease: Duration) -> Self {
        self.lease = Some(lease);
        self
    }

    /// Connects, and checks what is stored under the prefix. Blocks the thread, for as long as the deadline at most.
    ///
    /// # Errors
    /// [`Config`](StoreErrorKind::Config) if a setting or the password is wrong, or if the rows were stored with
    /// another [`listing`](Self::listing); [`Unavailable`](StoreErrorKind::Unavailable) if no server answers in time;
    /// [`Locked`](StoreErrorKind::Locked) if another store is the only writer of the rows;
    /// [`NewerFormat`](StoreErrorKind::NewerFormat) or [`Foreign`](StoreErrorKind::Foreign) if the keys are not ours to
    /// read.
    pub fn connect(self) -> Result<RedisStore, StoreError> {
        let (store, driver) = self.prepare()?;
        let (tell, told) = mpsc::sync_channel(1);
        driver.clone().spawn(async move {
            let _ = tell.send(store.opened().await);
        });
        // The call has a deadline of its own; the sender goes away if it panics.
        told.recv().unwrap_or_else(|_| {
            Err(error::own(StoreErrorKind::Unavailable, "its thread ended while it connected"))
        })
    }

    /// As [`connect`](Self::connect), without blocking the thread. It needs no runtime.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    ///
    /// # Cancel safety
    /// Nothing is left behind but, with [`exclusive`](Self::exclusive), a lease that runs out.
    pub async fn connect_async(self) -> Result<RedisStore, StoreError> {
        self.prepare()?.0.opened().await
    }

    fn prepare(self) -> Result<(RedisStore, Driver), StoreError> {
        self.check()?;
        #[cfg(feature = "tls-rustls")]
        provide_cryptography();
        let driver = Driver::start(super::NAME, self.deadline)?;
        let address = self.address.clone()?;
        Ok((RedisStore::new(&self, address, driver.clone())?, driver))
    }

    fn check(&self) -> Result<(), StoreError> {
        let wrong = |what: &'static str| Err(error::own(StoreErrorKind::Config, what));
        if self.prefix.is_empty() || self.prefix.len() > LONGEST_PREFIX {
            return wrong("the prefix must have 1 to 64 characters");
        }
        if self.prefix.bytes().any(|c| !c.is_ascii_graphic() || c == b'{' || c == b'}') {
            return wrong("the prefix must be of printable ASCII characters without spaces and braces");
        }
        if self.deadline < Duration::from_millis(10) || self.deadline > Duration::from_secs(60) {
            return wrong("the deadline must be from 10 ms to 1 minute");
        }
        if let Some(lease) = self.lease
            && !(Duration::from_millis(100)..=Duration::from_secs(3600)).contains(&lease)
        {
            return wrong("the lease must be from 100 ms to 1 hour");
        }
        Ok(())
    }
}

/// rustls has none of its own to fall back to. What the application has chosen stays.
#[cfg(feature = "tls-rustls")]
fn provide_cryptography() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // An error says that somebody was faster.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
}

impl fmt::Debug for Builder {
    /// Without the address: it may have a password in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("prefix", &self.prefix)
            .field("deadline", &self.deadline)
            .field("listing", &self.listing)
            .field("lease", &self.lease)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(builder: Builder) -> bool {
        builder.check().is_err_and(|e| e.kind() == StoreErrorKind::Config)
    }

    #[test]
    fn settings_are_checked_without_a_server() {
        let new = || Builder::of_url("redis://127.0.0.1:1");
        for prefix in ["", " ", "a b", "a{b", "}", "é", "a\n", &"x".repeat(65)] {
            assert!(refused(new().prefix(prefix)), "{prefix:?}");
        }
        for prefix in ["a", "app:prod:", &"x".repeat(64), "%*?[]^$"] {
            assert!(!refused(new().prefix(prefix)), "{prefix:?}");
        }
        for ms in [0, 9, 60_001] {
            assert!(refused(new().deadline(Duration::from_millis(ms))), "{ms}");
        }
        for ms in [0, 99, 3_600_001] {
            assert!(refused(new().exclusive_for(Duration::from_millis(ms))), "{ms}");
        }
        assert!(!refused(new().exclusive()));
    }

    #[test]
    fn a_wrong_address_is_a_mistake_of_the_configuration_and_not_repeated() {
        for url in
            ["", "nonsense", "http://u:s3cret@h/", "redis://u:s3cret@h:999999/", "redis://u:s3cret@h/x"]
        {
            let builder = Builder::of_url(url);
            assert!(!format!("{builder:?}").contains("s3cret"));
            match builder.connect() {
                Err(e) => {
                    assert_eq!(e.kind(), StoreErrorKind::Config, "{url}");
                    assert!(!format!("{e} {e:?}").contains("s3cret"), "{e:?}");
                }
                Ok(_) => panic!("{url} was accepted"),
            }
        }
    }
}
