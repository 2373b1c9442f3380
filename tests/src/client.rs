//! A small blocking HTTP/1.1 client: GET only, keep-alive, one session cookie, time limits. It retries
//! nothing: a test must know how often a request was sent.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::jar::{Jar, SetCookie};

/// How long to wait for anything from the server before the test fails.
const LIMIT: Duration = Duration::from_secs(30);
/// More than any response of the playground.
const MAX_BODY: u64 = 16 << 20;

/// A client with a cookie jar and at most one connection.
#[derive(Debug)]
pub struct Client {
    address: SocketAddr,
    connection: Option<BufReader<TcpStream>>,
    /// The client's cookie.
    pub jar: Jar,
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The headers in the order received, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
}

impl Response {
    /// The values of all headers called `name` (lower case).
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.headers.iter().filter(move |(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// Our cookie, if the response sets it.
    ///
    /// # Panics
    /// If it sets it twice.
    #[must_use]
    pub fn set_cookie(&self) -> Option<SetCookie> {
        let mut cookies = self.all("set-cookie").filter_map(SetCookie::parse);
        let first = cookies.next();
        assert!(cookies.next().is_none(), "two session cookies in one response: {:?}", self.headers);
        first
    }

    /// The body of a response that must be a 200.
    ///
    /// # Panics
    /// If it is not.
    pub fn ok(self) -> String {
        assert_eq!(self.status, 200, "{}", self.body);
        self.body
    }
}

impl Client {
    /// A client of the server at `address`, without a cookie. Connects at the first request.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        Self::with(address, Jar::default())
    }

    /// A client that holds a cookie.
    #[must_use]
    pub fn with(address: SocketAddr, jar: Jar) -> Self {
        Self { address, connection: None, jar }
    }

    /// Another client with the same cookie, on a connection of its own.
    #[must_use]
    pub fn clone_jar(&self) -> Self {
        Self::with(self.address, self.jar.clone())
    }

    /// Talks to another server, or to the same one after a restart, with the same cookie.
    pub fn move_to(&mut self, address: SocketAddr) {
        self.address = address;
        self.connection = None;
    }

    /// GET `path` with the jar's cookie; the jar takes the answer's.
    ///
    /// # Errors
    /// Whatever the connection fails with. The request may or may not have been carried out.
    pub fn try_get(&mut self, path: &str) -> io::Result<Response> {
        let cookie = self.jar.header();
        let headers: Vec<(&str, &str)> = cookie.iter().map(|c| ("cookie", c.as_str())).collect();
        let response = self.exchange(path, &headers)?;
        self.jar.apply(&response);
        Ok(response)
    }

    /// As [`try_get`](Self::try_get), from a server that must answer.
    ///
    /// # Panics
    /// If it does not.
    pub fn get(&mut self, path: &str) -> Response {
        self.try_get(path).unwrap_or_else(|e| panic!("GET {path}: {e}"))
    }

    /// GET `path` with exactly these headers; the jar neither gives nor takes.
    ///
    /// # Panics
    /// If the server does not answer.
    pub fn raw(&mut self, path: &str, headers: &[(&str, &str)]) -> Response {
        self.exchange(path, headers).unwrap_or_else(|e| panic!("GET {path} with {headers:?}: {e}"))
    }

    /// Sends the request with the jar's cookie and gives the connection away, answer unread.
    ///
    /// # Panics
    /// If it cannot be sent.
    #[must_use]
    pub fn send_only(&mut self, path: &str) -> TcpStream {
        let cookie = self.jar.header();
        let headers: Vec<(&str, &str)> = cookie.iter().map(|c| ("cookie", c.as_str())).collect();
        let connection = self.connect().unwrap();
        self.send(&connection, path, &headers).unwrap();
        connection
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect_timeout(&self.address, LIMIT)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        Ok(stream)
    }

    fn send(&self, mut stream: &TcpStream, path: &str, headers: &[(&str, &str)]) -> io::Result<()> {
        let mut head = format!("GET {path} HTTP/1.1\r\nhost: {}\r\n", self.address);
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes())
    }

    fn exchange(&mut self, path: &str, headers: &[(&str, &str)]) -> io::Result<Response> {
        // Taken out for the exchange, so that a connection that failed half-way is never used again.
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => BufReader::new(self.connect()?),
        };
        self.send(connection.get_ref(), path, headers)?;
        let (response, reusable) = receive(&mut connection)?;
        self.connection = reusable.then_some(connection);
        Ok(response)
    }
}

/// Reads one response, and whether the connection can carry another.
fn receive(from: &mut BufReader<TcpStream>) -> io::Result<(Response, bool)> {
    let status_line = line(from)?;
    let status = status_line
        .strip_prefix("HTTP/1.1 ")
        .and_then(|s| s.get(..3))
        .and_then(|s| s.parse().ok())
        .ok_or_else(|| bad(format!("not a status line: {status_line:?}")))?;
    let mut headers = Vec::new();
    loop {
        let line = line(from)?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').ok_or_else(|| bad(format!("not a header: {line:?}")))?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut response = Response { status, headers, body: String::new() };
    let length = match response.all("content-length").next() {
        Some(s) => s.parse().map_err(|_| bad(format!("not a length: {s:?}")))?,
        None if response.all("transfer-encoding").next().is_some() => return Err(bad("chunked".to_owned())),
        None => 0,
    };
    if length > MAX_BODY {
        return Err(bad(format!("a body of {length} bytes")));
    }
    let mut body = Vec::new();
    from.take(length).read_to_end(&mut body)?;
    if u64::try_from(body.len()) != Ok(length) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    response.body = String::from_utf8(body).map_err(|e| bad(e.to_string()))?;
    let reusable = !response.all("connection").any(|v| v.eq_ignore_ascii_case("close"));
    Ok((response, reusable))
}

/// One line without its end; the end of the stream is an error.
fn line(from: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = String::new();
    if from.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    match line.strip_suffix("\r\n") {
        Some(content) => Ok(content.to_owned()),
        None => Err(bad(format!("a line that was cut off: {line:?}"))),
    }
}

fn bad(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
