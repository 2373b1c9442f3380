//! Responses that go on after their head: a chunked body piece by piece, and the server-sent events in it.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpStream;

use crate::client::{Client, Response};

/// A response whose body is read as it comes. Dropped, it hangs up.
#[derive(Debug)]
pub struct Stream {
    /// The status and the headers; the body is empty.
    pub head: Response,
    from: BufReader<TcpStream>,
    /// What came of an event that is not whole yet.
    rest: String,
}

/// A server-sent event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The name in its `event` line.
    pub name: String,
    /// Its data, lines joined.
    pub data: String,
}

impl Stream {
    /// GET `path` with the jar's cookie, up to the head; the jar takes the answer's.
    ///
    /// # Panics
    /// If there is no answer.
    #[must_use]
    pub fn open(client: &mut Client, path: &str) -> Self {
        let mut from = BufReader::new(client.send_only(path));
        let status_line = line(&mut from);
        let status = status_line
            .strip_prefix("HTTP/1.1 ")
            .and_then(|s| s.get(..3))
            .and_then(|s| s.parse().ok())
            .unwrap_or_else(|| panic!("not a status line: {status_line:?}"));
        let mut headers = Vec::new();
        loop {
            let line = line(&mut from);
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').unwrap();
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let head = Response { status, headers, body: String::new() };
        client.jar.apply(&head);
        Self { head, from, rest: String::new() }
    }

    /// The next chunk; `None` at the end of the body.
    ///
    /// # Panics
    /// If the body is not chunked or is cut off.
    pub fn chunk(&mut self) -> Option<String> {
        assert_eq!(self.head.all("transfer-encoding").collect::<Vec<_>>(), ["chunked"]);
        let length = usize::from_str_radix(&line(&mut self.from), 16).unwrap();
        let mut chunk = vec![0; length];
        self.from.read_exact(&mut chunk).unwrap();
        assert_eq!(line(&mut self.from), "", "the end of the chunk");
        (length > 0).then(|| String::from_utf8(chunk).unwrap())
    }

    /// The next event, comments left out; `None` at the end of the stream.
    ///
    /// # Panics
    /// As [`chunk`](Self::chunk), or if the stream ends within an event.
    pub fn event(&mut self) -> Option<Event> {
        loop {
            if let Some((block, rest)) = self.rest.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.rest = rest;
                let field = |name: &str| -> Vec<&str> {
                    block.lines().filter_map(|l| l.strip_prefix(name)?.strip_prefix(": ")).collect()
                };
                let (name, data) = (field("event").concat(), field("data").join("\n"));
                if !name.is_empty() || !data.is_empty() {
                    return Some(Event { name, data });
                }
                continue;
            }
            match self.chunk() {
                Some(chunk) => self.rest.push_str(&chunk),
                None => {
                    assert_eq!(self.rest, "", "an event was cut off");
                    return None;
                }
            }
        }
    }
}

/// One line without its end.
fn line(from: &mut BufReader<TcpStream>) -> String {
    let mut line = String::new();
    from.read_line(&mut line).unwrap();
    line.strip_suffix("\r\n").unwrap_or_else(|| panic!("a line that was cut off: {line:?}")).to_owned()
}
