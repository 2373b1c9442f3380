//! The settings of a store, checked before anything is asked of a server.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use sessile_engine::store::{StoreError, StoreErrorKind};

use super::item::Keys;
use super::link::Link;
use super::shared::Shared;
use super::{MemcachedStore, NAME, error};
use crate::driver::Driver;

const DEFAULT_PREFIX: &str = "sessile";
const DEFAULT_DEADLINE: Duration = Duration::from_secs(2);
const DEFAULT_PORT: u16 = 11211;
const LONGEST_PREFIX: usize = 64;
/// With the commands that the store is built of.
const OLDEST: (u32, u32) = (1, 6);

/// Settings of a [`MemcachedStore`], from [`MemcachedStore::builder`].
#[must_use = "nothing is connected before `connect`"]
pub struct Builder {
    target: Result<Target, StoreError>,
    prefix: Option<String>,
    deadline: Duration,
    pool_size: usize,
}

/// What a URL says.
#[derive(Clone, Debug)]
struct Target {
    addresses: Vec<String>,
    prefix: Option<String>,
}

fn wrong<T>(what: &'static str) -> Result<T, StoreError> {
    Err(error::own(StoreErrorKind::Config, what))
}

impl Target {
    fn of(url: &str) -> Result<Self, StoreError> {
        let Some(rest) = url.strip_prefix("memcached://") else {
            return wrong("the address is not one of memcached; see `MemcachedStore::builder`");
        };
        let (hosts, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if hosts.contains('@') {
            return wrong("the client sends no passwords: the address must have none");
        }
        let Some(mut addresses) = hosts.split(',').map(address).collect::<Option<Vec<_>>>() else {
            return wrong("a host in the address cannot be read; it must be a name or of IPv4");
        };
        addresses.sort_unstable();
        addresses.dedup();
        Ok(Self { addresses, prefix: Some(prefix.to_owned()).filter(|prefix| !prefix.is_empty()) })
    }
}

/// `host:port` of `host:port` or `host`.
fn address(host: &str) -> Option<String> {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) => (name, port.parse::<u16>().ok()?),
        None => (host, DEFAULT_PORT),
    };
    let plain = |c: u8| c.is_ascii_alphanumeric() || b"-._".contains(&c);
    (!name.is_empty() && name.bytes().all(plain)).then(|| format!("{}:{port}", name.to_ascii_lowercase()))
}

impl Builder {
    pub(super) fn of_url(url: &str) -> Self {
        Self { target: Target::of(url), prefix: None, deadline: DEFAULT_DEADLINE, pool_size: 8 }
    }

    /// What the names of all keys begin with, before a slash: 1 to 64 printable ASCII characters but spaces and slashes.
    /// By default the one in the URL, or `sessile`. Stores with different prefixes share servers and see nothing of each
    /// other.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = Some(prefix.into());
        self
    }

    /// How long a call may take before it fails as [`Unavailable`](StoreErrorKind::Unavailable): 10 ms to 1 minute, 2
    /// seconds if it is not set.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Most connections at once to each server. 8 by default.
    pub fn pool_size(mut self, connections: usize) -> Self {
        self.pool_size = connections;
        self
    }

    /// Asks each server for its version, and whether it can compare and set. Blocks the thread, for as long as the deadline at most.
    ///
    /// # Errors
    /// [`Config`](StoreErrorKind::Config) if a setting is wrong, a server too old, or one that compares nothing (`-C`);
    /// [`Unavailable`](StoreErrorKind::Unavailable) if one of them does not answer in time.
    pub fn connect(self) -> Result<MemcachedStore, StoreError> {
        let store = self.prepare()?;
        let (tell, told) = mpsc::sync_channel(1);
        store.driver.clone().spawn(async move {
            let _ = tell.send(opened(store).await);
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
    /// Nothing is left behind.
    pub async fn connect_async(self) -> Result<MemcachedStore, StoreError> {
        opened(self.prepare()?).await
    }

    fn prepare(self) -> Result<MemcachedStore, StoreError> {
        let (target, prefix) = self.check()?;
        let driver = Driver::start(NAME, self.deadline)?;
        let shared = Shared::new(Link::new(target.addresses, self.pool_size), Keys::new(&prefix));
        Ok(MemcachedStore { driver, shared: Arc::new(shared) })
    }

    fn check(&self) -> Result<(Target, String), StoreError> {
        let target = self.target.clone()?;
        let prefix = self.prefix.clone().or_else(|| target.prefix.clone());
        let prefix = prefix.unwrap_or_else(|| DEFAULT_PREFIX.to_owned());
        if prefix.is_empty() || prefix.len() > LONGEST_PREFIX {
            return wrong("the prefix must have 1 to 64 characters");
        }
        if prefix.bytes().any(|c| !c.is_ascii_graphic() || c == b'/') {
            return wrong("the prefix must be of printable ASCII characters without spaces and slashes");
        }
        if self.deadline < Duration::from_millis(10) || self.deadline > Duration::from_secs(60) {
            return wrong("the deadline must be from 10 ms to 1 minute");
        }
        if self.pool_size == 0 {
            return wrong("a pool must have one connection at least");
        }
        Ok((target, prefix))
    }
}

async fn opened(store: MemcachedStore) -> Result<MemcachedStore, StoreError> {
    store
        .run(|shared| async move {
            for at in 0..shared.link.servers() {
                if !is_new_enough(&shared.link.version(at).await?) {
                    return wrong("a server is too old: memcached 1.6 or newer is needed");
                }
                if !shared.compares(at).await? {
                    return wrong("a server compares nothing (`-C`): no change could be made safely");
                }
            }
            Ok(())
        })
        .await?;
    Ok(store)
}

fn is_new_enough(version: &str) -> bool {
    let mut numbers = version.split('.').map(|part| part.parse::<u32>().ok());
    match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(major), Some(minor)) => (major, minor) >= OLDEST,
        _ => false,
    }
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder")
            .field("prefix", &self.prefix)
            .field("deadline", &self.deadline)
            .field("pool_size", &self.pool_size)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(builder: &Builder) -> bool {
        builder.check().is_err_and(|e| e.kind() == StoreErrorKind::Config)
    }

    #[test]
    fn settings_are_checked_without_a_server() {
        let new = || Builder::of_url("memcached://127.0.0.1:1");
        for prefix in ["", " ", "a b", "a/b", "/", "é", "a\n", "a\r\nflush_all", &"x".repeat(65)] {
            assert!(refused(&new().prefix(prefix)), "{prefix:?}");
        }
        for prefix in ["a", "app:prod", &"x".repeat(64), "%*?[]^$"] {
            assert!(!refused(&new().prefix(prefix)), "{prefix:?}");
        }
        for ms in [0, 9, 60_001] {
            assert!(refused(&new().deadline(Duration::from_millis(ms))), "{ms}");
        }
        assert!(refused(&new().pool_size(0)));
    }

    #[test]
    fn addresses_are_read_and_their_order_does_not_matter() {
        let target = |url: &str| Target::of(url).unwrap();
        let one = target("memcached://B.x:1,a,10.0.0.1:2,a:11211/shop");
        assert_eq!(one.addresses, ["10.0.0.1:2", "a:11211", "b.x:1"]);
        assert_eq!(one.prefix.as_deref(), Some("shop"));
        assert_eq!(target("memcached://h/").prefix, None);
    }

    #[test]
    fn a_wrong_address_is_a_mistake_of_the_configuration_and_not_repeated() {
        for url in [
            "",
            "nonsense",
            "http://s3cret/",
            "memcached://",
            "memcached://u:s3cret@h/",
            "memcached://h:999999/s3cret",
            "memcached://[::1]:11211/s3cret",
            "memcached://h,,s3cret",
            "memcached://h h2/s3cret",
            "memcached://h/a/s3cret",
        ] {
            match Builder::of_url(url).connect() {
                Err(e) => {
                    assert_eq!(e.kind(), StoreErrorKind::Config, "{url}");
                    assert!(!format!("{e} {e:?}").contains("s3cret"), "{e:?}");
                }
                Ok(_) => panic!("{url} was accepted"),
            }
        }
    }

    #[test]
    fn servers_without_the_commands_are_refused() {
        for good in ["1.6.0", "1.6.18", "1.10", "2.0.0-rc1"] {
            assert!(is_new_enough(good), "{good}");
        }
        for bad in ["", "1.5.22", "0.9.0", "x", "1"] {
            assert!(!is_new_enough(bad), "{bad}");
        }
    }
}
