//! The settings of a store, checked before anything is asked of a server. It repeats no password.

use std::fmt;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use etcd_client::ConnectOptions;
use sessile_engine::store::{StoreError, StoreErrorKind};
use tokio::sync::watch as signal;

use super::link::Link;
use super::row::Keys;
use super::shared::Shared;
use super::{EtcdStore, NAME, error};
use crate::address::{authority, decode};
use crate::driver::Driver;

const DEFAULT_PREFIX: &str = "sessile";
const DEFAULT_DEADLINE: Duration = Duration::from_secs(3);
const DEFAULT_PORT: u16 = 2379;
const LONGEST_PREFIX: usize = 64;
/// Servers refuse clients that ask more often than each 5 seconds.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));

/// Settings of an [`EtcdStore`], from [`EtcdStore::builder`].
#[must_use = "nothing is connected before `connect`"]
pub struct Builder {
    target: Result<Target, StoreError>,
    prefix: Option<String>,
    deadline: Duration,
}

/// What a URL says.
#[derive(Clone)]
struct Target {
    addresses: Vec<String>,
    user: Option<(String, String)>,
    tls: bool,
    prefix: Option<String>,
}

fn wrong<T>(what: &'static str) -> Result<T, StoreError> {
    Err(error::own(StoreErrorKind::Config, what))
}

impl Target {
    fn of(url: &str) -> Result<Self, StoreError> {
        let (scheme, rest) = url.split_once("://").unwrap_or_default();
        let tls = match scheme {
            "etcd" => false,
            "etcds" if cfg!(feature = "tls-rustls") => true,
            "etcds" => return wrong("etcds:// needs the feature `tls-rustls`"),
            _ => return wrong("the address is not one of etcd; see `EtcdStore::builder`"),
        };
        let (authority, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, hosts) = match authority.rsplit_once('@') {
            None => (None, authority),
            Some((user, hosts)) => {
                let (name, password) = user.split_once(':').unwrap_or((user, ""));
                match (decode(name), decode(password)) {
                    (Some(name), Some(password)) if !name.is_empty() => (Some((name, password)), hosts),
                    _ => return wrong("the user or the password in the address cannot be read"),
                }
            }
        };
        let Some(addresses) = hosts.split(',').map(|host| address(host, tls)).collect() else {
            return wrong("a host in the address cannot be read");
        };
        let Some(prefix) = decode(prefix) else { return wrong("the prefix in the address cannot be read") };
        Ok(Self { addresses, user, tls, prefix: Some(prefix).filter(|prefix| !prefix.is_empty()) })
    }
}

/// The endpoint of `host:port`, `[v6]:port` or `host`.
fn address(host: &str, tls: bool) -> Option<String> {
    let scheme = if tls { "https" } else { "http" };
    authority(host, DEFAULT_PORT).map(|authority| format!("{scheme}://{authority}"))
}

impl Builder {
    pub(super) fn of_url(url: &str) -> Self {
        Self { target: Target::of(url), prefix: None, deadline: DEFAULT_DEADLINE }
    }

    /// What the names of all keys begin with, before a slash: 1 to 64 printable ASCII characters but spaces and slashes.
    /// By default the one in the URL, or `sessile`. Stores with different prefixes share a cluster and see nothing of
    /// each other.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = Some(prefix.into());
        self
    }

    /// How long a call may take before it fails as [`Unavailable`](StoreErrorKind::Unavailable), attempts at several
    /// servers included: 10 ms to 1 minute, 3 seconds if it is not set. Of several servers one may take a third of it.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Connects, and checks what is stored under the prefix. Blocks the thread, for as long as the deadline at most.
    ///
    /// # Errors
    /// [`Config`](StoreErrorKind::Config) if a setting or the password is wrong;
    /// [`Unavailable`](StoreErrorKind::Unavailable) if no server answers in time;
    /// [`NewerFormat`](StoreErrorKind::NewerFormat) or [`Foreign`](StoreErrorKind::Foreign) if the keys are not ours to
    /// read.
    pub fn connect(self) -> Result<EtcdStore, StoreError> {
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
    pub async fn connect_async(self) -> Result<EtcdStore, StoreError> {
        opened(self.prepare()?).await
    }

    fn prepare(self) -> Result<EtcdStore, StoreError> {
        let (target, prefix) = self.check()?;
        let mut options = ConnectOptions::new()
            .with_require_leader(true)
            .with_auto_token_refresh(true)
            .with_keep_alive(KEEP_ALIVE.0, KEEP_ALIVE.1)
            .with_keep_alive_while_idle(true)
            .with_connect_timeout(self.deadline);
        if let Some((name, password)) = target.user {
            options = options.with_user(name, password);
        }
        if target.tls {
            options = encrypted(options);
        }
        let driver = Driver::start(NAME, self.deadline)?;
        let shared = Shared {
            link: Link::new(&target.addresses, options, self.deadline),
            keys: Keys::new(&prefix),
            closed: signal::Sender::new(false),
        };
        Ok(EtcdStore { driver, shared: Arc::new(shared) })
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
        Ok((target, prefix))
    }
}

/// With the certificates that the system trusts.
#[cfg(feature = "tls-rustls")]
fn encrypted(options: ConnectOptions) -> ConnectOptions {
    options.with_tls(etcd_client::TlsOptions::new().with_native_roots())
}

/// Refused before.
#[cfg(not(feature = "tls-rustls"))]
fn encrypted(options: ConnectOptions) -> ConnectOptions {
    options
}

async fn opened(store: EtcdStore) -> Result<EtcdStore, StoreError> {
    store.run(|shared| async move { shared.origin().await }).await?;
    Ok(store)
}

impl fmt::Debug for Builder {
    /// Without the address: it may have a password in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("prefix", &self.prefix)
            .field("deadline", &self.deadline)
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
        let new = || Builder::of_url("etcd://127.0.0.1:1");
        for prefix in ["", " ", "a b", "a/b", "/", "é", "a\n", &"x".repeat(65)] {
            assert!(refused(&new().prefix(prefix)), "{prefix:?}");
        }
        for prefix in ["a", "app:prod", &"x".repeat(64), "%*?[]^$"] {
            assert!(!refused(&new().prefix(prefix)), "{prefix:?}");
        }
        for ms in [0, 9, 60_001] {
            assert!(refused(&new().deadline(Duration::from_millis(ms))), "{ms}");
        }
    }

    #[test]
    fn addresses_are_read() {
        let target = |url: &str| Target::of(url).unwrap();
        let one = target("etcd://u%40x:p%2Fw:@a.b:1,[::1]:2,c/shop");
        assert_eq!(one.addresses, ["http://a.b:1", "http://[::1]:2", "http://c:2379"]);
        assert_eq!(one.user, Some(("u@x".into(), "p/w:".into())));
        assert_eq!((one.prefix.as_deref(), one.tls), (Some("shop"), false));
        assert_eq!(target("etcd://[::1]/").addresses, ["http://[::1]:2379"]);
        assert_eq!(target("etcd://h").prefix, None);
        assert_eq!(Target::of("etcds://h").is_ok(), cfg!(feature = "tls-rustls"));
    }

    #[test]
    fn a_wrong_address_is_a_mistake_of_the_configuration_and_not_repeated() {
        for url in [
            "",
            "nonsense",
            "http://u:s3cret@h/",
            "etcd://",
            "etcd://u:s3cret@",
            "etcd://u:s3cret@h:999999/",
            "etcd://u:s3cret%zz@h",
            "etcd://u:s3cret@h,,h2",
            "etcd://u:s3cret@h h2",
            "etcd://:s3cret@h",
            "etcd://u:s3cret@h/a/s3cret",
        ] {
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
