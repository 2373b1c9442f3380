//! Questions over HTTP for the stores that ask that way: connections, TLS, and answers as a whole. It knows no server, and
//! no form of an answer.

use std::error::Error;
use std::time::Duration;

use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use sessile_engine::store::StoreError;

/// Largest answer: many of the largest rows.
const MAX_ANSWER: usize = 256 << 20;
/// How long a connection is kept that nobody uses.
const IDLE: Duration = Duration::from_secs(60);

#[cfg(feature = "tls-rustls")]
pub(crate) type Connector = hyper_rustls::HttpsConnector<HttpConnector>;
#[cfg(not(feature = "tls-rustls"))]
pub(crate) type Connector = HttpConnector;

/// Makes connections for `store`, encrypted or in the clear, and not both. `pem` has the authorities that are trusted in
/// place of the system's.
///
/// # Errors
/// [`Config`](sessile_engine::store::StoreErrorKind::Config) if `pem` has no authority, or TLS cannot be set up.
#[cfg_attr(
    not(feature = "tls-rustls"),
    expect(clippy::unnecessary_wraps, unused_variables, reason = "there is nothing to set up")
)]
pub(crate) fn connector(
    store: &'static str,
    patience: Duration,
    tls: bool,
    pem: Option<&[u8]>,
) -> Result<Connector, StoreError> {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(patience));
    connector.enforce_http(!tls);
    #[cfg(feature = "tls-rustls")]
    let connector = encrypted(store, connector, tls, pem)?;
    Ok(connector)
}

/// With encryption, if it is asked for.
#[cfg(feature = "tls-rustls")]
fn encrypted(
    store: &'static str,
    connector: HttpConnector,
    tls: bool,
    pem: Option<&[u8]>,
) -> Result<Connector, StoreError> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;

    let wrong =
        |what: &'static str| StoreError::new(sessile_engine::store::StoreErrorKind::Config, store, what);
    let mut roots = rustls::RootCertStore::empty();
    match pem {
        _ if !tls => {}
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        Some(pem) => {
            for cert in CertificateDer::pem_slice_iter(pem) {
                let added = cert.ok().and_then(|cert| roots.add(cert).ok());
                added.ok_or_else(|| wrong("an authority cannot be read"))?;
            }
            if roots.is_empty() {
                return Err(wrong("there is no authority in what was given"));
            }
        }
    }
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| wrong("TLS cannot be set up").with_source(e))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let builder = hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(config);
    let builder = if tls { builder.https_only() } else { builder.https_or_http() };
    Ok(builder.enable_http1().wrap_connector(connector))
}

/// A client with a pool of connections.
pub(crate) struct Web {
    client: Client<Connector, Full<Bytes>>,
}

impl Web {
    pub(crate) fn new(connector: Connector) -> Self {
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE)
            .pool_timer(TokioTimer::new())
            .build(connector);
        Self { client }
    }

    /// One question, and the whole answer. If the future is dropped, its connection is closed with the answer still to
    /// come: no other question can get it.
    pub(crate) async fn ask(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Bytes>, Box<dyn Error + Send + Sync>> {
        let (head, body) = self.client.request(request).await?.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await?;
        Ok(Response::from_parts(head, body.to_bytes()))
    }
}
