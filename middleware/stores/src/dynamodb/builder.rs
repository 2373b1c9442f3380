//! The settings of a DynamoDB store, checked before anything is asked of a server, and how it is opened. It repeats no
//! secret.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::config::{
    BehaviorVersion, Config, Credentials, Region, SharedHttpClient, StalledStreamProtectionConfig,
};
use sessile_engine::store::{StoreError, StoreErrorKind};

use super::link::Link;
use super::shared::Shared;
use super::{DynamoStore, NAME, error, table};
use crate::address::{authority, decode};
use crate::driver::Driver;

const DEFAULT_TABLE: &str = "sessile_sessions";
const DEFAULT_DEADLINE: Duration = Duration::from_secs(3);
/// The port that DynamoDB Local has.
const DEFAULT_PORT: u16 = 8000;
const DEFAULT_TLS_PORT: u16 = 443;
/// The region of a compatible server, which mostly does not care.
const ANY_REGION: &str = "us-east-1";
/// Making a table takes the service a while.
const TABLE_TAKES: Duration = Duration::from_secs(120);

/// Settings of a [`DynamoStore`], from [`DynamoStore::builder`] or [`DynamoStore::from_client`].
#[derive(Clone)]
#[must_use = "nothing is connected before `open`"]
pub struct Builder {
    source: Source,
    table: Option<String>,
    region: Option<String>,
    credentials: Option<Credentials>,
    #[cfg(feature = "tls-rustls")]
    authority: Option<Vec<u8>>,
    deadline: Duration,
}

#[derive(Clone)]
enum Source {
    Url(Result<Target, StoreError>),
    Client(Client),
}

/// What a URL says.
#[derive(Clone)]
struct Target {
    /// Of a compatible server; `None` for the service itself.
    endpoint: Option<String>,
    tls: bool,
    table: Option<String>,
    region: Option<String>,
    credentials: Option<(String, String)>,
}

/// What has been checked.
struct Settings {
    client: Client,
    table: String,
    /// Whether the client is the app's.
    is_lent: bool,
    deadline: Duration,
}

fn wrong<T>(what: &'static str) -> Result<T, StoreError> {
    Err(error::own(StoreErrorKind::Config, what))
}

fn credentials(id: String, secret: String, token: Option<String>) -> Credentials {
    let built = Credentials::builder().access_key_id(id).secret_access_key(secret).provider_name(NAME);
    match token {
        Some(token) => built.session_token(token).build(),
        None => built.build(),
    }
}

impl Target {
    fn of(url: &str) -> Result<Self, StoreError> {
        let (scheme, rest) = url.split_once("://").unwrap_or_default();
        let tls = match scheme {
            "dynamodb" => false,
            "dynamodbs" => true,
            _ => return wrong("the address is not one of DynamoDB; see `DynamoStore::builder`"),
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (host, table) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, host) = host.rsplit_once('@').map_or((None, host), |(user, host)| (Some(user), host));
        let credentials = match user.map(|user| user.split_once(':')) {
            None => None,
            Some(Some((id, secret))) => match (decode(id), decode(secret)) {
                (Some(id), Some(secret)) if !id.is_empty() && !secret.is_empty() => Some((id, secret)),
                _ => return wrong("the credentials in the address cannot be read"),
            },
            Some(None) => return wrong("the address has a key without its secret"),
        };
        let port = if tls { DEFAULT_TLS_PORT } else { DEFAULT_PORT };
        let endpoint = match host {
            "" => None,
            host => match authority(host, port) {
                Some(host) => Some(format!("{}://{host}", if tls { "https" } else { "http" })),
                None => return wrong("the host in the address cannot be read"),
            },
        };
        // The service itself is never asked without encryption.
        let tls = tls || endpoint.is_none();
        if tls && cfg!(not(feature = "tls-rustls")) {
            return wrong("dynamodbs:// and an address without a host need the feature `tls-rustls`");
        }
        let Some(table) = decode(table) else { return wrong("the table in the address cannot be read") };
        let region = match query {
            "" => None,
            query => match query.strip_prefix("region=").map(decode) {
                Some(Some(region)) => Some(region),
                _ => return wrong("the address may have a region behind its table, and nothing else"),
            },
        };
        let [table, region] = [Some(table), region].map(|text| text.filter(|text| !text.is_empty()));
        Ok(Self { endpoint, tls, table, region, credentials })
    }
}

impl Builder {
    fn of(source: Source) -> Self {
        Self {
            source,
            table: None,
            region: None,
            credentials: None,
            #[cfg(feature = "tls-rustls")]
            authority: None,
            deadline: DEFAULT_DEADLINE,
        }
    }

    pub(super) fn of_url(url: &str) -> Self {
        Self::of(Source::Url(Target::of(url)))
    }

    pub(super) fn of_client(client: Client) -> Self {
        Self::of(Source::Client(client))
    }

    /// The table's name: 3 to 255 ASCII letters, digits, `-`, `_` and `.`. By default the one in the URL, or
    /// `sessile_sessions`.
    pub fn table(mut self, name: impl Into<String>) -> Self {
        self.table = Some(name.into());
        self
    }

    /// The region, as `eu-central-1`. By default the one in the URL, or in `AWS_REGION` or `AWS_DEFAULT_REGION`. Not for a
    /// client that was given.
    pub fn region(mut self, name: impl Into<String>) -> Self {
        self.region = Some(name.into());
        self
    }

    /// The key that requests are signed with, which does not change while the store is open. By default the one in the URL,
    /// or in `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN`. Not for a client that was given.
    pub fn credentials(
        mut self,
        access_key_id: impl Into<String>,
        secret_access_key: impl Into<String>,
        session_token: Option<String>,
    ) -> Self {
        self.credentials = Some(credentials(access_key_id.into(), secret_access_key.into(), session_token));
        self
    }

    /// The authorities whose certificates are trusted, in PEM. By default, those that the system trusts. Not for a client
    /// that was given.
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

    /// Makes the table, paid by request, with its indexes and its time to live, unless it is there; waits until it can be
    /// used. Several machines may do so at once.
    ///
    /// It needs the permissions `DescribeTable`, `CreateTable`, `DescribeTimeToLive`, `UpdateTimeToLive` and `PutItem`; a
    /// table that is there, only the first and the last. Without those of the time to live it warns and goes on.
    ///
    /// # Errors
    /// As [`open`](Self::open); [`Config`](StoreErrorKind::Config) too if the table is there and has other keys or indexes.
    ///
    /// # Cancel safety
    /// What has begun is done to its end.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        let (driver, shared) = self.clone().prepare()?;
        let patience = driver.deadline();
        let migrated = driver.run_within(
            TABLE_TAKES,
            Box::pin(async move {
                table::migrate(&shared.link, patience).await?;
                // Last: who finds it finds the rest.
                shared.sign().await
            }),
        );
        migrated.await
    }

    /// Connects, and checks that the table is there and known.
    ///
    /// # Errors
    /// [`Config`](StoreErrorKind::Config) if a setting is wrong, the service refuses the key, or the table is missing or not
    /// ours; [`NewerFormat`](StoreErrorKind::NewerFormat) or [`Foreign`](StoreErrorKind::Foreign) if it is not ours to
    /// read; [`Unavailable`](StoreErrorKind::Unavailable) if there is no answer in time.
    ///
    /// # Cancel safety
    /// Nothing is left behind.
    pub async fn open(self) -> Result<DynamoStore, StoreError> {
        let (driver, shared) = self.prepare()?;
        let checked = Arc::clone(&shared);
        driver.run(Box::pin(async move { checked.check().await })).await?;
        Ok(DynamoStore { driver, shared })
    }

    fn prepare(self) -> Result<(Driver, Arc<Shared>), StoreError> {
        let settings = self.check(|name| std::env::var(name).ok())?;
        // Connections end with the runtime that they were made on.
        let driver = match settings.is_lent {
            true => Driver::beside(NAME, settings.deadline)?,
            false => Driver::start(NAME, settings.deadline)?,
        };
        let link = Link { client: settings.client, table: settings.table };
        Ok((driver, Arc::new(Shared::new(link))))
    }

    fn check(self, environment: impl Fn(&str) -> Option<String>) -> Result<Settings, StoreError> {
        if self.deadline < Duration::from_millis(10) || self.deadline > Duration::from_secs(60) {
            return wrong("the deadline must be from 10 ms to 1 minute");
        }
        let in_url = match &self.source {
            Source::Url(target) => target.clone()?.table,
            Source::Client(_) => None,
        };
        let table = self.table.clone().or(in_url).unwrap_or_else(|| DEFAULT_TABLE.into());
        let plain = |c: u8| c.is_ascii_alphanumeric() || b"-_.".contains(&c);
        if !(3..=255).contains(&table.len()) || !table.bytes().all(plain) {
            return wrong("a table's name is of 3 to 255 ASCII letters, digits, -, _ and .");
        }
        let deadline = self.deadline;
        let (client, is_lent) = match &self.source {
            Source::Client(client) => {
                let config = client.config().to_builder().retry_config(RetryConfig::disabled());
                (Client::from_conf(config.build()), true)
            }
            Source::Url(target) => (self.client(target.clone()?, environment)?, false),
        };
        Ok(Settings { client, table, is_lent, deadline })
    }

    fn client(
        &self,
        target: Target,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Client, StoreError> {
        let set = |name: &str| environment(name).filter(|value| !value.is_empty());
        let region = self.region.clone().or(target.region);
        let region = region.or_else(|| set("AWS_REGION")).or_else(|| set("AWS_DEFAULT_REGION"));
        let region = match (region, &target.endpoint) {
            (Some(region), _) => region,
            (None, Some(_)) => ANY_REGION.into(),
            (None, None) => return wrong("it needs a region: `?region=…`, or AWS_REGION"),
        };
        // It becomes a part of a host's name.
        if region.is_empty() || !region.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-') {
            return wrong("a region is of ASCII letters, digits and -");
        }
        let from_environment = || {
            let (id, secret) = (set("AWS_ACCESS_KEY_ID")?, set("AWS_SECRET_ACCESS_KEY")?);
            Some(credentials(id, secret, set("AWS_SESSION_TOKEN")))
        };
        let in_url = target.credentials.map(|(id, secret)| credentials(id, secret, None));
        let key = self.credentials.clone().or(in_url).or_else(from_environment);
        let Some(key) = key else {
            return wrong(
                "it needs a key: in its address, its settings, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; for others see `DynamoStore::from_client`",
            );
        };
        let mut config = Config::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(Region::new(region))
            .credentials_provider(key)
            .http_client(self.http(target.tls)?)
            // What may be sent again, the store knows better.
            .retry_config(RetryConfig::disabled())
            .timeout_config(TimeoutConfig::builder().connect_timeout(self.deadline).build())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
        if let Some(endpoint) = target.endpoint {
            config = config.endpoint_url(endpoint);
        }
        Ok(Client::from_conf(config.build()))
    }

    #[cfg(feature = "tls-rustls")]
    fn http(&self, tls: bool) -> Result<SharedHttpClient, StoreError> {
        use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
        use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};

        let client = aws_smithy_http_client::Builder::new();
        if !tls {
            return Ok(client.build_http());
        }
        let client = client.tls_provider(Provider::Rustls(CryptoMode::Ring));
        let Some(pem) = &self.authority else { return Ok(client.build_https()) };
        are_authorities(pem)?;
        let trusted = TrustStore::empty().with_pem_certificate(pem.clone());
        let context = TlsContext::builder().with_trust_store(trusted).build();
        let context =
            context.map_err(|e| error::own(StoreErrorKind::Config, "TLS cannot be set up").with_source(e))?;
        Ok(client.tls_context(context).build_https())
    }

    #[cfg(not(feature = "tls-rustls"))]
    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "TLS needs and does more")]
    fn http(&self, _tls: bool) -> Result<SharedHttpClient, StoreError> {
        Ok(aws_smithy_http_client::Builder::new().build_http())
    }
}

/// The client would panic over them later.
#[cfg(feature = "tls-rustls")]
fn are_authorities(pem: &[u8]) -> Result<(), StoreError> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;

    let mut roots = rustls::RootCertStore::empty();
    for cert in CertificateDer::pem_slice_iter(pem) {
        let added = cert.ok().and_then(|cert| roots.add(cert).ok());
        added.ok_or_else(|| error::own(StoreErrorKind::Config, "an authority cannot be read"))?;
    }
    if roots.is_empty() {
        return wrong("there is no authority in what was given");
    }
    Ok(())
}

impl fmt::Debug for Builder {
    /// Without the address and the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("table", &self.table)
            .field("region", &self.region)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new() -> Builder {
        Builder::of_url("dynamodb://k:s@127.0.0.1:1")
    }

    fn checked(builder: Builder, set: &[(&str, &str)]) -> Result<Settings, StoreErrorKind> {
        let set =
            |name: &str| set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        builder.check(set).map_err(|e| e.kind())
    }

    fn refused(builder: Builder) -> bool {
        matches!(checked(builder, &[]), Err(StoreErrorKind::Config))
    }

    #[test]
    fn settings_are_checked_without_a_server() {
        for table in ["", "ab", "a b", "a/b", "é!!", "a\n\n", "arn:aws:x", &"x".repeat(256)] {
            assert!(refused(new().table(table)), "{table:?}");
        }
        for table in ["abc", "app.prod-1", "A_z", &"x".repeat(255)] {
            assert!(checked(new().table(table), &[]).is_ok_and(|settings| settings.table == table));
        }
        for ms in [0, 9, 60_001] {
            assert!(refused(new().deadline(Duration::from_millis(ms))), "{ms}");
        }
        for region in ["", "eu central", "eu.evil", "a/b", "é"] {
            assert!(refused(new().region(region)), "{region:?}");
        }
    }

    #[test]
    fn a_key_and_a_region_are_looked_for_in_this_order() {
        let key = [("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "s3cret")];
        let bare = || Builder::of_url("dynamodb://h");
        assert!(refused(bare()));
        assert!(checked(bare(), &key).is_ok());
        assert!(checked(bare(), &key[..1]).is_err());
        assert!(checked(bare(), &[key[0], ("AWS_SECRET_ACCESS_KEY", "")]).is_err());
        assert!(checked(bare().credentials("a", "b", None), &[]).is_ok());
        let region = |builder, set: &[(&str, &str)]| {
            let client = checked(builder, set).map(|settings| settings.client);
            client.map(|client| client.config().region().map(|region| region.to_string()))
        };
        let some = |name: &str| Ok(Some(name.to_owned()));
        let set = [("AWS_REGION", "r1"), ("AWS_DEFAULT_REGION", "r2")];
        assert_eq!(region(new(), &[]), some(ANY_REGION));
        assert_eq!(region(new(), &set), some("r1"));
        assert_eq!(region(new(), &set[1..]), some("r2"));
        assert_eq!(region(Builder::of_url("dynamodb://k:s@h/?region=r3"), &set), some("r3"));
        assert_eq!(region(Builder::of_url("dynamodb://k:s@h/?region=r3").region("r4"), &set), some("r4"));
    }

    #[test]
    fn addresses_are_read() {
        let target = |url: &str| Target::of(url).unwrap();
        let one = target("dynamodb://id:s%2F1@a.b:1/shop?region=eu-central-1");
        assert_eq!((one.endpoint.as_deref(), one.tls), (Some("http://a.b:1"), false));
        assert_eq!((one.table.as_deref(), one.region.as_deref()), (Some("shop"), Some("eu-central-1")));
        assert_eq!(one.credentials, Some(("id".into(), "s/1".into())));
        let two = target("dynamodb://[::1]");
        assert_eq!(two.endpoint.as_deref(), Some("http://[::1]:8000"));
        assert!(two.table.is_none() && two.region.is_none() && two.credentials.is_none());
        for url in ["dynamodb:///shop?region=r", "dynamodb://k:s@/shop", "dynamodbs://h"] {
            assert_eq!(Target::of(url).is_ok(), cfg!(feature = "tls-rustls"), "{url}");
        }
        #[cfg(feature = "tls-rustls")]
        {
            let own = target("dynamodb://k:s@/shop?region=r");
            assert_eq!((own.endpoint, own.tls), (None, true), "the service, and encrypted");
            assert!(refused(Builder::of_url("dynamodb://k:s@/shop")), "of no region");
            assert_eq!(target("dynamodbs://h").endpoint.as_deref(), Some("https://h:443"));
        }
    }

    #[cfg(feature = "tls-rustls")]
    #[test]
    fn what_is_no_authority_is_refused() {
        for pem in ["", "nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            assert!(refused(Builder::of_url("dynamodbs://k:s@127.0.0.1:1").authority(pem)), "{pem}");
        }
    }

    #[test]
    fn a_wrong_address_is_a_mistake_of_the_configuration_and_not_repeated() {
        for url in [
            "",
            "nonsense",
            "http://k:s3cret@h/",
            "dynamodb://s3cret@h/",
            "dynamodb://:s3cret@h/",
            "dynamodb://k:s3cret%zz@h/",
            "dynamodb://k:s3cret@h:999999/",
            "dynamodb://k:s3cret@h,h2/",
            "dynamodb://k:s3cret@h/table/more",
            "dynamodb://k:s3cret@h/table?regi0n=x",
            "dynamodb://k:s3cret@h/table?region=x&token=s3cret",
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
        let builder = new().credentials("k", "s3cret", Some("s3cret".into()));
        assert!(!format!("{builder:?}").contains("s3cret"));
    }
}
