//! A server on a real socket, and a client that sees every byte of what it answers.

#![allow(dead_code, reason = "not every test file needs all of it")]

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// How long to wait for anything before the test fails.
const LIMIT: Duration = Duration::from_secs(60);

/// Serves `app` until the test ends.
pub(crate) async fn serve(app: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

/// Waits, but not for ever.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.expect("the test has waited too long")
}

/// A connection.
pub(crate) struct Wire {
    stream: TcpStream,
    read: Vec<u8>,
}

/// A response head.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) status: u16,
    lines: Vec<(String, String)>,
}

impl Head {
    /// The values of the header called `name` (lower case).
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.lines.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str()).collect()
    }

    /// The `name=value` of the one cookie that is set.
    pub(crate) fn cookie(&self) -> String {
        let all = self.all("set-cookie");
        assert_eq!(all.len(), 1, "{self:?}");
        all[0].split(';').next().unwrap().to_owned()
    }
}

impl Wire {
    pub(crate) async fn to(address: SocketAddr) -> Self {
        Self { stream: soon(TcpStream::connect(address)).await.unwrap(), read: Vec::new() }
    }

    pub(crate) async fn send(&mut self, text: &str) {
        soon(self.stream.write_all(text.as_bytes())).await.unwrap();
    }

    /// Sends a request without a body; `headers` are whole lines.
    pub(crate) async fn ask(&mut self, method: &str, path: &str, headers: &[&str]) {
        let headers: String = headers.iter().flat_map(|h| [h, "\r\n"]).collect();
        self.send(&format!("{method} {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n")).await;
    }

    pub(crate) async fn head(&mut self) -> Head {
        let text = self.until(b"\r\n\r\n").await;
        let text = String::from_utf8(text).unwrap();
        let mut lines = text.trim_end().split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let lines = lines.map(|l| l.split_once(": ").unwrap());
        Head { status, lines: lines.map(|(n, v)| (n.to_ascii_lowercase(), v.to_owned())).collect() }
    }

    /// The next chunk of a chunked body; empty at its end.
    pub(crate) async fn chunk(&mut self) -> String {
        let size = self.until(b"\r\n").await;
        let size = usize::from_str_radix(std::str::from_utf8(&size).unwrap().trim_end(), 16).unwrap();
        let chunk = self.exactly(size + 2).await;
        String::from_utf8(chunk[..size].to_vec()).unwrap()
    }

    /// A body of known length.
    pub(crate) async fn body(&mut self, head: &Head) -> Vec<u8> {
        let [length] = head.all("content-length")[..] else { panic!("no length: {head:?}") };
        self.exactly(length.parse().unwrap()).await
    }

    /// Ends the connection with a reset.
    pub(crate) fn reset(self) {
        self.stream.set_zero_linger().unwrap();
    }

    async fn until(&mut self, end: &[u8]) -> Vec<u8> {
        loop {
            if let Some(at) = self.read.windows(end.len()).position(|w| w == end) {
                return self.read.drain(..at + end.len()).collect();
            }
            self.more().await;
        }
    }

    async fn exactly(&mut self, n: usize) -> Vec<u8> {
        while self.read.len() < n {
            self.more().await;
        }
        self.read.drain(..n).collect()
    }

    async fn more(&mut self) {
        let n = soon(self.stream.read_buf(&mut self.read)).await.unwrap();
        assert!(n > 0, "the server closed the connection: {}", String::from_utf8_lossy(&self.read));
    }
}

/// One whole exchange on a connection of its own: head and body.
pub(crate) async fn get(address: SocketAddr, path: &str, cookie: &str) -> (Head, String) {
    let mut wire = Wire::to(address).await;
    wire.ask("GET", path, &[&format!("Cookie: {cookie}")]).await;
    let head = wire.head().await;
    let body = wire.body(&head).await;
    (head, String::from_utf8(body).unwrap())
}
