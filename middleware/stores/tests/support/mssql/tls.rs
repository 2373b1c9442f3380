//! TLS of the double, inside of TDS 7 and around it, as the store asks.

use std::io::{Read, Result, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::tds::{Conversation, PRELOGIN, greeting, message, packets, wish};

pub(super) fn config(dir: &Path) -> Arc<ServerConfig> {
    let certificate = CertificateDer::from_pem_file(dir.join("server.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(dir.join("server.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    config.alpn_protocols = vec![b"tds/8.0".to_vec()];
    Arc::new(config)
}

/// The bytes of a handshake in packets, until it is over.
struct Wrapped {
    tcp: TcpStream,
    is_over: bool,
    come: Vec<u8>,
    message: Vec<u8>,
}

impl Read for Wrapped {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        if self.is_over && self.come.is_empty() {
            return self.tcp.read(buf);
        }
        if self.come.is_empty() {
            let (kind, come) = message(&mut self.tcp)?;
            assert_eq!(kind, PRELOGIN, "a handshake travels in PRELOGIN packets");
            self.come = come;
        }
        let length = self.come.len().min(buf.len());
        buf[..length].copy_from_slice(&self.come[..length]);
        self.come.drain(..length);
        Ok(length)
    }
}

impl Write for Wrapped {
    fn write(&mut self, buf: &[u8]) -> Result<usize> {
        if self.is_over {
            return self.tcp.write(buf);
        }
        self.message.extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> Result<()> {
        let message = std::mem::take(&mut self.message);
        self.tcp.write_all(&packets(PRELOGIN, &message))?;
        self.tcp.flush()
    }
}

/// TLS at once if the first byte is one of TLS, else after a PRELOGIN that wishes it.
pub(super) fn greet(mut tcp: TcpStream, config: &Arc<ServerConfig>) -> Result<Conversation> {
    tcp.set_nodelay(true)?;
    let mut first = [0];
    tcp.peek(&mut first)?;
    let mut connection = ServerConnection::new(Arc::clone(config)).unwrap();
    if first[0] != PRELOGIN {
        let mut stream = StreamOwned::new(connection, tcp);
        let (PRELOGIN, _) = message(&mut stream)? else { return Err(std::io::ErrorKind::InvalidData.into()) };
        assert_eq!(stream.conn.alpn_protocol(), Some(&b"tds/8.0"[..]));
        stream.write_all(&greeting(2))?;
        stream.flush()?;
        return Ok(Conversation::over(Box::new(stream)));
    }
    let (_, prelogin) = message(&mut tcp)?;
    if wish(&prelogin) != Some(1) {
        // As one that takes no other.
        tcp.write_all(&greeting(3))?;
        return Err(std::io::ErrorKind::ConnectionAborted.into());
    }
    tcp.write_all(&greeting(1))?;
    let mut wrapped = Wrapped { tcp, is_over: false, come: Vec::new(), message: Vec::new() };
    while connection.is_handshaking() {
        connection.complete_io(&mut wrapped)?;
    }
    wrapped.flush()?;
    wrapped.is_over = true;
    Ok(Conversation::over(Box::new(StreamOwned::new(connection, wrapped))))
}
