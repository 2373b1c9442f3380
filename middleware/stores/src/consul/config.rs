//! The settings of a store, checked before anything is asked of a server. It repeats no token.

use std::fmt;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use http::HeaderValue;
use sessile_engine::store::{StoreError, StoreErrorKind};

use super::keys::Keys;
use super::link::Link;
use super::shared::{Shared, noise};
use super::{ConsulStore, NAME, error};
use crate::address::{authority, decode};
use crate::driver::Driver;
use crate::web;

const DEFAULT_PREFIX: &str = "sessile";
const DEFAULT_DEADLINE: Duration = Duration::from_secs(3);
const DEFAULT_PORT: u16 = 8500;
const DEFAULT_TLS_PORT: u16 = 8501;
const LONGEST_PREFIX: usize = 64;

/// Settings of a [`ConsulStore`], from [`ConsulStore::builder`].
#[must_use = "nothing is connected before `connect`"]
pub struct Builder {
    target: Result<Target, StoreError>,
    prefix: Option<String>,
    token: Option<String>,
    #[cfg(feature = "tls-rustls")]
    authority: Option<Vec<u8>>,
    deadline: Duration,
}

/// What a URL says.
#[derive(Clone)]
struct Target {
    authority: String,
    tls: bool,
    prefix: Option<String>,
    token: Option<String>,
}

fn wrong<T>(what: &'static str) -> Result<T, StoreError> {
    Err(error::own(StoreErrorKind::Config, what))
}

impl Target {
    fn of(url: &str) -> Result<Self, StoreError> {
        let (scheme, rest) = url.split_once("://").unwrap_or_default();
        let tls = match scheme {
            "consul" => false,
            "consuls" if cfg!(feature = "tls-rustls") => true,
            "consuls" => return wrong("consuls:// needs the feature `tls-rustls`"),
            _ => return wrong("the address is not one of Consul; see `ConsulStore::builder`"),
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (host, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let port = if tls { DEFAULT_TLS_PORT } else { DEFAULT_PORT };
        let Some(authority) = authority(host, port) else {
            return wrong("the host in the address cannot be read");
        };
        let Some(prefix) = decode(prefix) else { return wrong("the prefix in the address cannot be read") };
        let token = match query {
            "" => None,
            query => match query.strip_prefix("token=").map(decode) {
                Some(Some(token)) => Some(token),
                _ => return wrong("the address may have a token behind its prefix, and nothing else"),
            },
        };
        Ok(Self { authority, tls, prefix: Some(prefix).filter(|prefix| !prefix.is_empty()), token })
    }
}

/// What has been checked.
struct Settings {
    base: String,
    tls: bool,
    prefix: String,
    token: Option<HeaderValue>,
}

impl Builder {
    pub(super) fn of_url(url: &str) -> Self {
        Self {
            target: Target::of(url),
            prefix: None,
            token: None,
            #[cfg(feature = "tls-rustls")]
            authority: None,
            deadline: DEFAULT_DEADLINE,
        }
    }

    /// What the names of all keys begin with, before a slash: 1 to 64 ASCII letters, digits, `-`, `_`, `.` and `:`. By
    /// default the one in the URL, or `sessile`. Stores with different prefixes share a cluster and see nothing of each
    /// other.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = Some(prefix.into());
        self
    }

    /// The token of a policy that may read and write the keys under the prefix. By default the one in the URL, or none.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// The authorities whose certificates are trusted, in PEM: those of Consul's own, mostly, which a system does not know.
    /// By default, those that the system trusts. Only `consuls://` asks for a certificate.
    #[cfg(feature = "tls-rustls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tls-rustls")))]
    pub fn authority(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.authority = Some(pem.into());
        self
    }

    /// How long a call may take before it fails as [`Unavailable`](StoreErrorKind::Unavailable): 10 ms to 1 minute, 3
    /// seconds if it is not set.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Connects, and checks what is stored under the prefix. Blocks the thread, for as long as the deadline at most.
    ///
    /// # Errors
    /// [`Config`](StoreErrorKind::Config) if a setting or the token is wrong;
    /// [`Unavailable`](StoreErrorKind::Unavailable) if there is no answer in time;
    /// [`NewerFormat`](StoreErrorKind::NewerFormat) or [`Foreign`](StoreErrorKind::Foreign) if the keys are not ours to
    /// read.
    pub fn connect(self) -> Result<ConsulStore, StoreError> {
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
    pub async fn connect_async(self) -> Result<ConsulStore, StoreError> {
        opened(self.prepare()?).await
    }

    fn prepare(self) -> Result<ConsulStore, StoreError> {
        let Settings { base, tls, prefix, token } = self.check()?;
        #[cfg(feature = "tls-rustls")]
        let pem = self.authority.as_deref();
        #[cfg(not(feature = "tls-rustls"))]
        let pem = None;
        let link = Link::new(base, token, web::connector(NAME, self.deadline, tls, pem)?);
        let driver = Driver::start(NAME, self.deadline)?;
        Ok(ConsulStore { driver, shared: Arc::new(Shared::new(link, Keys::new(&prefix), noise()?)) })
    }

    fn check(&self) -> Result<Settings, StoreError> {
        let target = self.target.clone()?;
        let prefix = self.prefix.clone().or(target.prefix);
        let prefix = prefix.unwrap_or_else(|| DEFAULT_PREFIX.to_owned());
        if prefix.is_empty() || prefix.len() > LONGEST_PREFIX {
            return wrong("the prefix must have 1 to 64 characters");
        }
        if !prefix.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_.:".contains(&c)) {
            return wrong("the prefix must be of ASCII letters, digits, -, _, . and :");
        }
        if self.deadline < Duration::from_millis(10) || self.deadline > Duration::from_secs(60) {
            return wrong("the deadline must be from 10 ms to 1 minute");
        }
        let token = match self.token.clone().or(target.token).filter(|token| !token.is_empty()) {
            None => None,
            Some(token) => {
                let Ok(mut token) = HeaderValue::try_from(token) else {
                    return wrong("the token has characters that no token has");
                };
                token.set_sensitive(true);
                Some(token)
            }
        };
        let scheme = if target.tls { "https" } else { "http" };
        Ok(Settings { base: format!("{scheme}://{}", target.authority), tls: target.tls, prefix, token })
    }
}

async fn opened(store: ConsulStore) -> Result<ConsulStore, StoreError> {
    store.run(|shared| async move { shared.open().await }).await?;
    Ok(store)
}

impl fmt::Debug for Builder {
    /// Without the address: it may have a token in it.
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
        let new = || Builder::of_url("consul://127.0.0.1:1");
        for prefix in ["", " ", "a b", "a/b", "/", "é", "a\n", "a?b", "a%b", &"x".repeat(65)] {
            assert!(refused(&new().prefix(prefix)), "{prefix:?}");
        }
        for prefix in ["a", "app:prod", "A-z_0.9", &"x".repeat(64)] {
            assert!(!refused(&new().prefix(prefix)), "{prefix:?}");
        }
        for ms in [0, 9, 60_001] {
            assert!(refused(&new().deadline(Duration::from_millis(ms))), "{ms}");
        }
        assert!(refused(&new().token("a\nb")));
        assert!(new().token("t0ken").check().unwrap().token.unwrap().is_sensitive());
    }

    #[cfg(feature = "tls-rustls")]
    #[test]
    fn what_is_no_authority_is_refused() {
        for pem in ["", "nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            let e = Builder::of_url("consuls://127.0.0.1:1").authority(pem).connect().unwrap_err();
            assert_eq!(e.kind(), StoreErrorKind::Config, "{pem}");
        }
    }

    #[test]
    fn addresses_are_read() {
        let target = |url: &str| Target::of(url).unwrap();
        let one = target("consul://a.b:1/shop?token=s%2F1");
        assert_eq!((&*one.authority, one.tls), ("a.b:1", false));
        assert_eq!((one.prefix.as_deref(), one.token.as_deref()), (Some("shop"), Some("s/1")));
        let two = target("consul://[::1]/?token=x");
        assert_eq!((&*two.authority, two.prefix, two.token.as_deref()), ("[::1]:8500", None, Some("x")));
        assert_eq!(target("consul://h?token=").token.as_deref(), Some(""));
        assert_eq!(Target::of("consuls://h").is_ok(), cfg!(feature = "tls-rustls"));
        let over_given = Builder::of_url("consul://h/a?token=b").prefix("c").token("d").check().unwrap();
        assert_eq!((&*over_given.prefix, over_given.token.unwrap().to_str().unwrap()), ("c", "d"));
    }

    #[test]
    fn a_wrong_address_is_a_mistake_of_the_configuration_and_not_repeated() {
        for url in [
            "",
            "nonsense",
            "http://h/?token=s3cret",
            "consul://?token=s3cret",
            "consul://u:s3cret@h",
            "consul://h:999999/?token=s3cret",
            "consul://h?token=s3cret%zz",
            "consul://h?token=s3cret%0a",
            "consul://h?t0ken=s3cret",
            "consul://h,h2?token=s3cret",
            "consul://h/a/s3cret",
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
