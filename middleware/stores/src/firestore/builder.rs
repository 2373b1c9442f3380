//! The settings of a store, checked before anything is asked of a server, and how it is opened. It repeats no token.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sessile_engine::store::{StoreError, StoreErrorKind};

use super::doc::Names;
use super::link::Link;
use super::shared::Shared;
use super::token::{AccessToken, Source, Tokens};
use super::{FirestoreStore, NAME, error};
use crate::address::{authority, decode};
use crate::driver::Driver;
use crate::web::{self, Web};

const DEFAULT_DATABASE: &str = "(default)";
const DEFAULT_COLLECTION: &str = "sessile_sessions";
const DEFAULT_DEADLINE: Duration = Duration::from_secs(5);
const SERVICE: &str = "https://firestore.googleapis.com";
const METADATA: &str = "metadata.google.internal";
/// The emulator's own.
const EMULATOR_PORT: u16 = 8080;
/// The longest suffix is `_quarantine`.
const LONGEST_COLLECTION: usize = 48;
// What Google's own clients read, too.
const EMULATOR_VARIABLE: &str = "FIRESTORE_EMULATOR_HOST";
const METADATA_VARIABLE: &str = "GCE_METADATA_HOST";

/// Settings of a [`FirestoreStore`], from [`FirestoreStore::builder`].
#[derive(Clone)]
#[must_use = "nothing is asked before `migrate` or `open`"]
pub struct Builder {
    target: Result<Target, StoreError>,
    collection: Option<String>,
    emulator: Option<String>,
    endpoint: Option<String>,
    tokens: Option<Source>,
    metadata: Option<String>,
    deadline: Duration,
}

/// What a URL says.
#[derive(Clone)]
struct Target {
    project: String,
    database: String,
    collection: Option<String>,
    emulator: Option<String>,
}

/// Who is asked for a token.
#[derive(Debug, PartialEq, Eq)]
enum Access {
    /// Nobody: it is the emulator's.
    Emulator,
    App,
    /// The metadata server at `host:port`.
    Metadata(String),
}

/// What has been checked.
#[derive(Debug)]
struct Settings {
    target: (String, String, String),
    /// `https://host`
    base: String,
    access: Access,
}

fn wrong<T>(what: &'static str) -> Result<T, StoreError> {
    Err(error::own(StoreErrorKind::Config, what))
}

/// A name of Google's that is a part of a path.
fn is_plain(name: &str, others: &[u8]) -> bool {
    let fits = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || others.contains(&c);
    !name.is_empty() && name.len() <= 63 && name.bytes().all(fits)
}

impl Target {
    fn of(url: &str) -> Result<Self, StoreError> {
        let Some(rest) = url.strip_prefix("firestore://") else {
            return wrong("the address is not one of Firestore; see `FirestoreStore::builder`");
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (project, database) = rest.split_once('/').unwrap_or((rest, ""));
        let (Some(project), Some(database)) = (decode(project), decode(database)) else {
            return wrong("the address cannot be read");
        };
        if !is_plain(&project, b"-.:") {
            return wrong("the project in the address is not the id of one");
        }
        let database = if database.is_empty() { DEFAULT_DATABASE.to_owned() } else { database };
        if database != DEFAULT_DATABASE && !is_plain(&database, b"-") {
            return wrong("the database in the address is not the id of one");
        }
        let (mut collection, mut emulator) = (None, None);
        for part in query.split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let Some(value) = decode(value).filter(|value| !value.is_empty()) else {
                return wrong("the address cannot be read");
            };
            let slot = match name {
                "collection" => &mut collection,
                "emulator" => &mut emulator,
                _ => return wrong("the address may have `collection` and `emulator`, and nothing else"),
            };
            if slot.replace(value).is_some() {
                return wrong("the address says a thing twice");
            }
        }
        Ok(Self { project, database, collection, emulator })
    }
}

/// `https://host`, or `http://host` on this machine.
fn endpoint(text: &str) -> Result<String, StoreError> {
    let text = text.strip_suffix('/').unwrap_or(text);
    if let Some(authority) = text.strip_prefix("https://").and_then(|host| authority(host, 443)) {
        return Ok(format!("https://{authority}"));
    }
    let Some(authority) = text.strip_prefix("http://").and_then(|host| authority(host, 80)) else {
        return wrong("the endpoint is not https://host:port");
    };
    let host = authority.rsplit_once(':').map_or("", |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let is_here = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    match is_here {
        true => Ok(format!("http://{authority}")),
        false => wrong("an endpoint in the clear must be on this machine: tokens are sent there"),
    }
}

impl Builder {
    pub(super) fn of_url(url: &str) -> Self {
        Self {
            target: Target::of(url),
            collection: None,
            emulator: None,
            endpoint: None,
            tokens: None,
            metadata: None,
            deadline: DEFAULT_DEADLINE,
        }
    }

    /// The collection's name, which those of the two beside it begin with: `[A-Za-z][A-Za-z0-9_]*`, at most 48 bytes. By
    /// default the one in the URL, or `sessile_sessions`.
    pub fn collection(mut self, name: impl Into<String>) -> Self {
        self.collection = Some(name.into());
        self
    }

    /// Asks the emulator at `host:port`, which wants no token and no encryption. By default the one in the URL, or the one
    /// that the environment variable `FIRESTORE_EMULATOR_HOST` names, unless there is an [`endpoint`](Self::endpoint).
    pub fn emulator(mut self, authority: impl Into<String>) -> Self {
        self.emulator = Some(authority.into());
        self
    }

    /// Asks another address of the service, such as `https://eur3-firestore.googleapis.com`, or a proxy on this machine.
    /// `http://` is taken for the loopback only.
    pub fn endpoint(mut self, url: impl Into<String>) -> Self {
        self.endpoint = Some(url.into());
        self
    }

    /// Where access tokens come from, for the scope `https://www.googleapis.com/auth/datastore` or a wider one. By default
    /// from the metadata server of the platform (Cloud Run, Compute Engine, GKE), for its service account.
    ///
    /// A token is used until shortly before its end, then `fetch` is asked for the next one, by one call at a time; also
    /// when the service refuses one. It runs on the store's thread, on a tokio runtime, and within the deadline of the call
    /// that needs the token. Its error is taken for a passing one.
    ///
    /// # Cancel safety
    /// The future is dropped when that deadline is over.
    ///
    /// # Examples
    /// A key file of a service account, by a crate such as `gcp_auth`:
    /// ```ignore
    /// let account = Arc::new(gcp_auth::CustomServiceAccount::from_file("key.json")?);
    /// let store = FirestoreStore::builder("firestore://my-project").tokens(move || {
    ///     let account = Arc::clone(&account);
    ///     async move {
    ///         let token = account.token(&["https://www.googleapis.com/auth/datastore"]).await?;
    ///         let lasts = (token.expires_at() - chrono::Utc::now()).to_std().unwrap_or_default();
    ///         Ok(AccessToken::new(token.as_str(), lasts))
    ///     }
    /// });
    /// ```
    pub fn tokens<F>(mut self, fetch: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<AccessToken, Box<dyn Error + Send + Sync>>> + Send + 'static,
    {
        self.tokens = Some(Source::of_app(fetch));
        self
    }

    /// Where the metadata server is, as `host` or `host:port`. By default where the environment variable
    /// `GCE_METADATA_HOST` says, or at `metadata.google.internal`.
    pub fn metadata_host(mut self, authority: impl Into<String>) -> Self {
        self.metadata = Some(authority.into());
        self
    }

    /// How long a call may take before it fails as [`Unavailable`](StoreErrorKind::Unavailable), fetching a token
    /// included: 10 ms to 1 minute, 5 seconds if it is not set.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Writes down the version of the layout, unless it is there. There are no tables or indexes to make. Several machines
    /// may do so at once.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    ///
    /// # Cancel safety
    /// It is written or not.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        let store = self.prepare()?;
        store.run(|shared| async move { shared.migrate().await }).await
    }

    /// Asks for a token and checks that the documents are known.
    ///
    /// # Errors
    /// [`Config`](StoreErrorKind::Config) if a setting is wrong, the service refuses the account, or the database or the
    /// documents of [`migrate`](Self::migrate) are missing; [`NewerFormat`](StoreErrorKind::NewerFormat) if a newer release
    /// made them; [`Foreign`](StoreErrorKind::Foreign) if they are not ours; [`Unavailable`](StoreErrorKind::Unavailable) if
    /// the service or the source of tokens cannot be reached.
    ///
    /// # Cancel safety
    /// Nothing is left behind.
    pub async fn open(self) -> Result<FirestoreStore, StoreError> {
        let store = self.prepare()?;
        store.run(|shared| async move { shared.open().await }).await?;
        Ok(store)
    }

    fn prepare(&self) -> Result<FirestoreStore, StoreError> {
        let Settings { target: (project, database, collection), base, access } =
            self.check(|name| std::env::var(name).ok())?;
        let web = |tls| Ok(Web::new(web::connector(NAME, self.deadline, tls, None)?));
        let tokens = match (access, &self.tokens) {
            (Access::Emulator, _) => Tokens::of_emulator(),
            (_, Some(source)) => Tokens::new(source.clone()),
            (Access::Metadata(authority), None) => Tokens::new(Source::metadata(web(false)?, &authority)),
            (Access::App, None) => return wrong("there is no source of tokens"),
        };
        let names = Names::new(&project, &database, &collection);
        let tls = base.starts_with("https:");
        let link = Link::new(web(tls)?, format!("{base}/v1/{}", names.root()), tokens);
        let driver = Driver::start(NAME, self.deadline)?;
        Ok(FirestoreStore { driver, shared: Arc::new(Shared::new(link, names)) })
    }

    fn check(&self, variable: impl Fn(&str) -> Option<String>) -> Result<Settings, StoreError> {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let target = self.target.clone()?;
        let collection = self.collection.clone().or(target.collection);
        let collection = collection.unwrap_or_else(|| DEFAULT_COLLECTION.to_owned());
        let fits = collection.len() <= LONGEST_COLLECTION
            && collection.starts_with(|c: char| c.is_ascii_alphabetic())
            && collection.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_');
        if !fits {
            return wrong("a collection's name is [A-Za-z][A-Za-z0-9_]*, at most 48 bytes");
        }
        if self.deadline < Duration::from_millis(10) || self.deadline > Duration::from_secs(60) {
            return wrong("the deadline must be from 10 ms to 1 minute");
        }
        let emulator = self.emulator.clone().or(target.emulator);
        if emulator.is_some() && self.endpoint.is_some() {
            return wrong("there is an emulator and an endpoint: which is to be asked?");
        }
        let emulator = emulator.or_else(|| variable(EMULATOR_VARIABLE).filter(|_| self.endpoint.is_none()));
        let (base, access) = if let Some(emulator) = emulator {
            let Some(authority) = authority(&emulator, EMULATOR_PORT) else {
                return wrong("the emulator's address is not host:port");
            };
            (format!("http://{authority}"), Access::Emulator)
        } else {
            let base = endpoint(self.endpoint.as_deref().unwrap_or(SERVICE))?;
            let access = if self.tokens.is_some() {
                Access::App
            } else {
                let host = self.metadata.clone().or_else(|| variable(METADATA_VARIABLE));
                match authority(host.as_deref().unwrap_or(METADATA), 80) {
                    Some(authority) => Access::Metadata(authority),
                    None => return wrong("the metadata server's address is not host:port"),
                }
            };
            (base, access)
        };
        if base.starts_with("https:") && !cfg!(feature = "tls-rustls") {
            return wrong("the service needs the feature `tls-rustls`");
        }
        Ok(Settings { target: (target.project, target.database, collection), base, access })
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("collection", &self.collection)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new() -> Builder {
        Builder::of_url("firestore://shop?emulator=127.0.0.1:1")
    }

    fn refused(builder: &Builder) -> bool {
        builder.check(|_| None).is_err_and(|e| e.kind() == StoreErrorKind::Config)
    }

    #[test]
    fn settings_are_checked_without_a_server() {
        for name in ["", " ", "a b", "a/b", "__a__", "_a", "9a", "a.b", "é", "a\n", &"x".repeat(49)] {
            assert!(refused(&new().collection(name)), "{name:?}");
        }
        for name in ["a", "Sess_9", &"x".repeat(48)] {
            assert!(!refused(&new().collection(name)), "{name:?}");
        }
        for ms in [0, 9, 60_001] {
            assert!(refused(&new().deadline(Duration::from_millis(ms))), "{ms}");
        }
        for host in ["", "a b", "h:99999", "u@h", "http://h"] {
            assert!(refused(&new().emulator(host)), "{host}");
            assert!(refused(
                &Builder::of_url("firestore://p").endpoint("http://[::1]:1").metadata_host(host)
            ));
        }
        assert!(refused(&new().endpoint("http://127.0.0.1:1")), "which of the two?");
        let at = |url: &str| Builder::of_url("firestore://p").endpoint(url);
        for url in [
            "",
            "h",
            "ftp://h",
            "https://",
            "https://h/v1",
            "http://10.0.0.1",
            "http://evil.example",
            "https://u:p@h",
        ] {
            assert!(refused(&at(url)), "{url}");
        }
        for url in ["http://127.0.0.1:1", "http://localhost:1/", "http://[::1]:1"] {
            assert!(!refused(&at(url)), "{url}");
        }
        assert_eq!(refused(&at("https://eur3-firestore.googleapis.com")), !cfg!(feature = "tls-rustls"));
        assert_eq!(refused(&Builder::of_url("firestore://p")), !cfg!(feature = "tls-rustls"));
    }

    #[test]
    fn addresses_are_read() {
        let target = |url: &str| {
            let settings = Builder::of_url(url).check(|_| None).unwrap();
            (settings.target, settings.base)
        };
        let named = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
        for (url, wanted, base) in [
            (
                "firestore://shop-1?emulator=h:9",
                named("shop-1", "(default)", "sessile_sessions"),
                "http://h:9",
            ),
            ("firestore://shop/eu?collection=s&emulator=h", named("shop", "eu", "s"), "http://h:8080"),
            (
                "firestore://example.com:shop/(default)?emulator=%5B::1%5D:9",
                named("example.com:shop", "(default)", "sessile_sessions"),
                "http://[::1]:9",
            ),
        ] {
            assert_eq!(target(url), (wanted, base.to_owned()));
        }
        let over = new().collection("c").emulator("other:7").check(|_| None).unwrap();
        assert_eq!((&*over.target.2, &*over.base), ("c", "http://other:7"));
    }

    #[test]
    fn the_environment_names_what_nothing_else_names() {
        let variables = |name: &str| match name {
            EMULATOR_VARIABLE => Some("from-environment:1".to_owned()),
            METADATA_VARIABLE => Some("metadata-of-environment".to_owned()),
            _ => None,
        };
        let plain = || Builder::of_url("firestore://p");
        let settings = plain().check(variables).unwrap();
        assert_eq!((&*settings.base, settings.access), ("http://from-environment:1", Access::Emulator));
        assert_eq!(new().check(variables).unwrap().base, "http://127.0.0.1:1");
        let here = || plain().endpoint("http://127.0.0.1:1");
        let access = |builder: Builder| builder.check(variables).unwrap().access;
        assert_eq!(access(here()), Access::Metadata("metadata-of-environment:80".into()));
        assert_eq!(access(here().metadata_host("h:1")), Access::Metadata("h:1".into()));
        assert_eq!(access(here().tokens(|| async { Err("none".into()) })), Access::App);
        let none = here().check(|_| Some(String::new())).unwrap();
        assert_eq!(none.access, Access::Metadata(format!("{METADATA}:80")));
    }

    #[test]
    fn a_wrong_address_is_a_mistake_of_the_configuration_and_not_repeated() {
        for url in [
            "",
            "nonsense",
            "http://s3cret",
            "firestore://",
            "firestore:///s3cret",
            "firestore://S3cret",
            "firestore://u:s3cret@p",
            "firestore://p/s3cret/x",
            "firestore://p/a_s3cret",
            "firestore://p?token=s3cret",
            "firestore://p?collection=",
            "firestore://p?collection=a&collection=s3cret",
            "firestore://p?collection=%zzs3cret",
            "firestore://p?emulator=s3cret@h",
            "firestore://p?emulator",
        ] {
            let builder = Builder::of_url(url);
            assert!(!format!("{builder:?}").contains("s3cret"));
            match pollster::block_on(builder.open()) {
                Err(e) => {
                    assert_eq!(e.kind(), StoreErrorKind::Config, "{url}");
                    assert!(!format!("{e} {e:?}").contains("s3cret"), "{e:?}");
                }
                Ok(_) => panic!("{url} was accepted"),
            }
        }
    }
}
