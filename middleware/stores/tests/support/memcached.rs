//! A memcached server of the test's own: on a free port of the loopback, ended with the value. It is asked behind the
//! store's back in its own protocol, by hand.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::process::soon;
use super::{free_port, is_root, process, program, skipped};

/// Nothing here takes this long unless it hangs.
const BOUND: Duration = Duration::from_secs(60);

pub struct Server {
    port: u16,
    args: Vec<String>,
    child: Option<Child>,
}

impl Server {
    /// `None`, and a line that says so, where there is no server.
    pub fn start(args: &[&str]) -> Option<Self> {
        if program("memcached").is_none() {
            skipped("no memcached for the memcached store");
            return None;
        }
        let args: Vec<_> = args.iter().map(|arg| (*arg).to_owned()).collect();
        // A port may be taken by another between looking and starting.
        for _ in 0..5 {
            let mut server = Self { port: free_port(), args: args.clone(), child: None };
            if server.run() {
                return Some(server);
            }
        }
        panic!("memcached does not start");
    }

    /// What the suite is run against.
    pub fn version(&self) -> String {
        let said = self.ask("version\r\n");
        format!("memcached {}, real", said.trim().trim_start_matches("VERSION "))
    }

    fn run(&mut self) -> bool {
        let mut command = Command::new(program("memcached").unwrap());
        command.args(["-l", "127.0.0.1", "-U", "0", "-t", "2", "-p", &self.port.to_string()]);
        if is_root() {
            command.args(["-u", "nobody"]);
        }
        command.args(&self.args).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(command.spawn().unwrap());
        soon(|| self.is_ready() || self.has_ended()) && !self.has_ended()
    }

    /// Whether the server that answers is this one: another may have got the port, and this one not have noticed yet.
    fn is_ready(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) else { return false };
        let asked = stream.set_read_timeout(Some(BOUND)).and_then(|()| stream.write_all(b"stats\r\n"));
        let line = BufReader::new(stream).lines().map_while(Result::ok).next().unwrap_or_default();
        let pid = self.child.as_ref().map_or(0, Child::id);
        asked.is_ok() && line.trim() == format!("STAT pid {pid}")
    }

    fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some())
    }

    pub fn url(&self) -> String {
        format!("memcached://127.0.0.1:{}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The first line of the answer to a request, with its end.
    pub fn ask(&self, request: &str) -> String {
        let mut stream = BufReader::new(self.send(request.as_bytes()));
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        line
    }

    /// Sends a request over a connection of its own, and does not wait for the answer.
    pub fn send(&self, request: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(BOUND)).unwrap();
        stream.write_all(request).unwrap();
        stream
    }

    /// The value of a key, and in how many seconds the server ends it; -1 for never.
    pub fn item(&self, key: &str) -> Option<(Vec<u8>, i64)> {
        let mut stream = BufReader::new(self.send(format!("mg {key} v t\r\n").as_bytes()));
        let mut head = String::new();
        stream.read_line(&mut head).unwrap();
        let mut words = head.split_whitespace();
        if words.next() != Some("VA") {
            assert_eq!(head, "EN\r\n");
            return None;
        }
        let mut value = vec![0; words.next().unwrap().parse().unwrap()];
        stream.read_exact(&mut value).unwrap();
        let ttl = words.next().unwrap().trim_start_matches('t').parse().unwrap();
        Some((value, ttl))
    }

    pub fn set(&self, key: &str, value: &[u8]) {
        let head = format!("ms {key} {}\r\n", value.len());
        let mut stream = BufReader::new(self.send(&[head.as_bytes(), value, b"\r\n"].concat()));
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        assert_eq!(line, "HD\r\n");
    }

    /// As if the server had needed the room.
    pub fn evict(&self, key: &str) {
        assert_eq!(self.ask(&format!("md {key}\r\n")), "HD\r\n", "{key}");
    }

    pub fn stat(&self, name: &str) -> u64 {
        let stream = BufReader::new(self.send(b"stats\r\n"));
        let mut lines = stream.lines().map(Result::unwrap).take_while(|line| line != "END");
        let prefix = format!("STAT {name} ");
        lines.find_map(|line| line.strip_prefix(&prefix)?.trim().parse().ok()).unwrap()
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Starts it again, with nothing.
    pub fn restart(&mut self) {
        self.kill();
        assert!(soon(|| self.run()), "it does not start again");
    }

    /// Stops or resumes the process: its connections stay and nothing is answered.
    pub fn freeze(&self, stop: bool) {
        process::freeze(self.child.as_ref().unwrap().id(), stop);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
