//! Encrypted connections: inside of TDS 7, whose PRELOGIN messages carry the handshake of TLS, or around all of it, as in
//! TDS 8. It owns that exchange; the driver learns nothing of it, and begins with a PRELOGIN of its own, which is answered
//! here with what the server said.

mod wrapped;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::pki_types::ServerName;
use sessile_engine::store::{StoreError, StoreErrorKind};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use self::wrapped::{HEADER, PRELOGIN, Wrapped, length};
use super::NAME;
use super::client::Wire;

const ENCRYPTION: u8 = 1;
const LAST_OPTION: u8 = 0xFF;
const ENCRYPT_ON: u8 = 1;
const ENCRYPT_NOT_SUPPORTED: u8 = 2;
const ENCRYPT_REQUIRED: u8 = 3;
/// A PRELOGIN: a version, the wish for encryption, no instance, no thread, one request at a time.
const WISH: [u8; 47] = [
    PRELOGIN,
    1,
    0,
    47,
    0,
    0,
    0,
    0, // the packet's head
    0,
    0,
    26,
    0,
    6,
    ENCRYPTION,
    0,
    32,
    0,
    1,
    2,
    0,
    33,
    0,
    1,
    3,
    0,
    34,
    0,
    4,
    4,
    0,
    38,
    0,
    1,
    LAST_OPTION,
    0,
    0,
    0,
    0,
    0,
    0,
    ENCRYPT_ON,
    0,
    0,
    0,
    0,
    0,
    0,
];
/// More than any server has to say before the login.
const LONGEST_ANSWER: usize = 4096;

fn broken(e: std::io::Error) -> StoreError {
    // rustls says `InvalidData` of all that is wrong with a certificate or a record.
    let kind = match e.kind() {
        std::io::ErrorKind::InvalidData => StoreErrorKind::Config,
        _ => StoreErrorKind::Unavailable,
    };
    StoreError::new(kind, NAME, "no encrypted connection").with_source(e)
}

fn wrong(what: &'static str) -> StoreError {
    StoreError::new(StoreErrorKind::Config, NAME, what)
}

/// Trusts whom the system trusts.
fn connector(
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> Result<rustls::ClientConfig, StoreError> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(|e| wrong("TLS could not be set up").with_source(e))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

fn name(host: &str) -> Result<ServerName<'static>, StoreError> {
    ServerName::try_from(host.to_owned())
        .map_err(|_| wrong("its host is not one that a certificate can name"))
}

/// TLS around everything.
pub(super) async fn around(tcp: TcpStream, host: &str) -> Result<Wire, StoreError> {
    let mut config = connector(rustls::ALL_VERSIONS)?;
    config.alpn_protocols = vec![b"tds/8.0".to_vec()];
    let tls = TlsConnector::from(Arc::new(config)).connect(name(host)?, tcp).await.map_err(broken)?;
    Ok(Box::new(tls))
}

/// TLS after a PRELOGIN. Its version is 1.2: with 1.3 it would not be clear which messages still belong to the handshake.
pub(super) async fn inside(mut tcp: TcpStream, host: &str) -> Result<Wire, StoreError> {
    tcp.write_all(&WISH).await.map_err(broken)?;
    let mut answer = packet(&mut tcp).await?;
    let encryption = encryption(&mut answer).ok_or_else(|| wrong("it is no SQL Server that answers"))?;
    if !matches!(*encryption, ENCRYPT_ON | ENCRYPT_REQUIRED) {
        return Err(wrong("the server does not encrypt; `encrypt=false` in the URL does without"));
    }
    // The driver shall not begin another handshake.
    *encryption = ENCRYPT_NOT_SUPPORTED;
    let config = connector(&[&rustls::version::TLS12])?;
    let connecting = TlsConnector::from(Arc::new(config)).connect(name(host)?, Wrapped::new(tcp));
    let mut tls = connecting.await.map_err(broken)?;
    tls.get_mut().0.unwrap_from_here();
    Ok(Box::new(Greeted { inner: tls, greeting: Some(Vec::new()), answer, told: 0 }))
}

/// The server's first packet, head included.
async fn packet(tcp: &mut TcpStream) -> Result<Vec<u8>, StoreError> {
    let mut packet = vec![0; HEADER];
    tcp.read_exact(&mut packet).await.map_err(broken)?;
    let length = length(&packet).filter(|length| *length <= LONGEST_ANSWER);
    let length = length.ok_or_else(|| wrong("it is no SQL Server that answers"))?;
    packet.resize(length, 0);
    tcp.read_exact(packet.get_mut(HEADER..).unwrap_or_default()).await.map_err(broken)?;
    Ok(packet)
}

/// Where a PRELOGIN says what it thinks of encryption.
#[expect(clippy::big_endian_bytes, reason = "a PRELOGIN has that order")]
fn encryption(packet: &mut [u8]) -> Option<&mut u8> {
    let body = packet.get_mut(HEADER..)?;
    let mut at = 0;
    loop {
        match body.get(at..at + 5)? {
            [LAST_OPTION, ..] => return None,
            [ENCRYPTION, high, low, ..] => {
                return body.get_mut(usize::from(u16::from_be_bytes([*high, *low])));
            }
            _ => at += 5,
        }
    }
}

/// A stream whose first message from the driver has been answered before it was said.
struct Greeted<S> {
    inner: S,
    /// What has come of the first message.
    greeting: Option<Vec<u8>>,
    answer: Vec<u8>,
    told: usize,
}

impl<S: AsyncRead + Unpin> AsyncRead for Greeted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let this = &mut *self;
        match this.answer.get(this.told..) {
            Some(rest) if !rest.is_empty() => {
                let (piece, _) = rest.split_at(rest.len().min(buf.remaining()));
                buf.put_slice(piece);
                this.told += piece.len();
                Poll::Ready(Ok(()))
            }
            _ => Pin::new(&mut this.inner).poll_read(cx, buf),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Greeted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let this = &mut *self;
        let Some(greeting) = &mut this.greeting else { return Pin::new(&mut this.inner).poll_write(cx, buf) };
        greeting.extend_from_slice(buf);
        // It waits for the answer before it says anything else.
        if length(greeting).is_some_and(|length| greeting.len() >= length) {
            this.greeting = None;
        }
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_wish_is_read_as_it_is_meant() {
        let mut wish = WISH.to_vec();
        assert_eq!(length(&wish), Some(wish.len()));
        assert_eq!(encryption(&mut wish).copied(), Some(ENCRYPT_ON));
    }

    proptest! {
        #[test]
        fn any_answer_is_read_or_refused(mut answer in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = encryption(&mut answer);
            let _ = length(&answer);
        }
    }
}
