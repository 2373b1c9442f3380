//! A server of the tests' own that speaks DynamoDB's protocol: on a free port of the loopback, in memory, ended with the value
//! or with the tests. It is moto, as Amazon's own server for tests is in no package registry; another one is named by
//! `SESSILE_TEST_DYNAMODB`, as a URL of the store without a table. What the tests make there stays there.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::{BehaviorVersion, Config, Credentials, Region};

use super::{first_of, free_port, installed, process, skipped};

pub const SECRET: &str = "s3cret-of-the-app";

/// What moto answers, behind a server of ours: its own closes each connection after an answer, and decides conditions on
/// several threads at once, so that two of two that exclude each other would both hold. This one goes when its standard
/// input ends, however the tests do.
const SERVER: &str = r#"
import os, ssl, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from botocore.awsrequest import AWSPreparedRequest
from moto.dynamodb.responses import DynamoHandler

URL = "http://dynamodb.us-east-1.amazonaws.com/"
turn = threading.Lock()

class OneAtATime(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        request = AWSPreparedRequest("POST", URL, self.headers, body, False)
        with turn:
            status, _, answer = DynamoHandler.dispatch(request, URL, self.headers)
        answer = answer.encode() if isinstance(answer, str) else answer
        self.send_response(status)
        self.send_header("Content-Type", "application/x-amz-json-1.0")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args):
        pass

class Server(ThreadingHTTPServer):
    request_queue_size = 128

def end_with_the_tests():
    sys.stdin.buffer.read()
    os._exit(0)

threading.Thread(target=end_with_the_tests, daemon=True).start()
server = Server(("127.0.0.1", int(sys.argv[1])), OneAtATime)
if len(sys.argv) > 2:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*sys.argv[2:])
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
server.serve_forever()
"#;

/// One test's view of a server, with a name of its own for tables.
pub struct Server {
    process: Option<Arc<Process>>,
    url: String,
    name: String,
}

struct Process {
    python: PathBuf,
    port: u16,
    /// A certificate and its key, if it is to speak TLS.
    certificate: Vec<PathBuf>,
    child: std::sync::Mutex<Option<Child>>,
}

fn python() -> Option<PathBuf> {
    let named = std::env::var_os("SESSILE_MOTO_PYTHON").map(PathBuf::from);
    let own =
        std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/sessile/moto/bin/python3"));
    first_of(named.into_iter().chain(own))
}

impl Server {
    /// The server that was named, or the one that the tests of this binary share. `None`, and a line that says so, without
    /// either.
    pub fn any() -> Option<Self> {
        match std::env::var("SESSILE_TEST_DYNAMODB") {
            Ok(url) if !url.is_empty() => Some(Self::of(None, url)),
            _ => Self::local(),
        }
    }

    /// The server of our own that the tests of this binary share: it can be asked behind the store's back.
    pub fn local() -> Option<Self> {
        static SHARED: OnceLock<Option<Arc<Process>>> = OnceLock::new();
        let process = SHARED.get_or_init(|| Process::start(&[]).map(Arc::new)).clone();
        Self::with(process)
    }

    /// A server of one test alone, which may be killed.
    pub fn start() -> Option<Self> {
        Self::with(Process::start(&[]).map(Arc::new))
    }

    /// As [`start`](Self::start), over TLS by the certificate in a directory of [`certificates`](super::tls::certificates).
    #[cfg(feature = "tls-rustls")]
    pub fn start_with_tls(dir: &std::path::Path) -> Option<Self> {
        let files = ["server.pem", "server.key"].map(|name| dir.join(name));
        let mut server = Self::with(Process::start(&files).map(Arc::new))?;
        server.url = server.url.replace("dynamodb:", "dynamodbs:");
        Some(server)
    }

    fn with(process: Option<Arc<Process>>) -> Option<Self> {
        let Some(process) = process else {
            skipped("no moto for the DynamoDB store, and SESSILE_TEST_DYNAMODB names no server");
            return None;
        };
        let url = format!("dynamodb://tester:{SECRET}@127.0.0.1:{}", process.port);
        Some(Self::of(Some(process), url))
    }

    fn of(process: Option<Arc<Process>>, url: String) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("sessile_test_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        Self { process, url, name }
    }

    fn process(&self) -> &Process {
        self.process.as_deref().expect("a server of our own")
    }

    /// What the suite is run against.
    pub fn version(&self) -> String {
        match &self.process {
            Some(process) => format!("moto {}, compatible", installed(&process.python, "moto")),
            None => "DynamoDB, as named".into(),
        }
    }

    pub fn url(&self) -> String {
        self.url.clone()
    }

    pub fn port(&self) -> u16 {
        self.process().port
    }

    /// A name for the table of one case.
    pub fn table(&self, case: &str) -> String {
        format!("{}_{case}", self.name)
    }

    /// Asks the server behind the store's back.
    pub fn ask<T>(&self, call: impl AsyncFnOnce(Client) -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(call(client(self.port())))
    }

    /// `kill -9`.
    pub fn kill(&self) {
        self.process().kill();
    }

    /// Starts it again, with nothing: it keeps no table.
    pub fn restart(&self) {
        self.kill();
        assert!(process::soon(|| self.process().run()), "it does not start again");
    }

    /// Stops or resumes the process: its connections stay and nothing is answered.
    pub fn freeze(&self, stop: bool) {
        let child = self.process().child.lock().unwrap();
        process::freeze(child.as_ref().unwrap().id(), stop);
    }
}

/// A client as an app has it, of a server on the loopback.
pub fn client(port: u16) -> Client {
    let key = Credentials::builder().access_key_id("tester").secret_access_key(SECRET).provider_name("tests");
    let config = Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::new("us-east-1"))
        .endpoint_url(format!("http://127.0.0.1:{port}"))
        .credentials_provider(key.build())
        .http_client(aws_smithy_http_client::Builder::new().build_http());
    Client::from_conf(config.build())
}

impl Process {
    fn start(certificate: &[PathBuf]) -> Option<Self> {
        let python = python()?;
        // A port may be taken by another between looking and starting.
        for _ in 0..5 {
            let (python, port, certificate) = (python.clone(), free_port(), certificate.to_vec());
            let process = Self { python, port, certificate, child: Default::default() };
            if process.run() {
                return Some(process);
            }
        }
        panic!("moto does not start with {}", python.display());
    }

    fn run(&self) -> bool {
        let mut child = Command::new(&self.python)
            .args(["-c", SERVER, &self.port.to_string()])
            .args(&self.certificate)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let listens = || std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok();
        let mut has_ended = false;
        let started = process::soon(|| {
            has_ended = child.try_wait().unwrap().is_some();
            has_ended || listens()
        });
        *self.child.lock().unwrap() = Some(child);
        started && !has_ended
    }

    fn kill(&self) {
        if let Some(mut child) = self.child.lock().unwrap().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A service that answers what it was told to, and else as an empty table of ours would: for answers that no server gives when
/// it is asked to.
pub struct Stub {
    pub port: u16,
    state: Arc<StubState>,
}

type Script = dyn Fn(&str, &str, u32) -> Option<(u16, String)> + Send + Sync;

struct StubState {
    /// What to answer to an operation, by what it asks and how many came before.
    script: Box<Script>,
    asked: std::sync::Mutex<Vec<String>>,
}

impl Stub {
    pub fn start(script: impl Fn(&str, &str, u32) -> Option<(u16, String)> + Send + Sync + 'static) -> Self {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(StubState { script: Box::new(script), asked: Default::default() });
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || shared.serve(stream));
            }
        });
        Self { port, state }
    }

    pub fn url(&self) -> String {
        format!("dynamodb://tester:{SECRET}@127.0.0.1:{}", self.port)
    }

    /// How often an operation was asked for.
    pub fn asked(&self, operation: &str) -> usize {
        self.state.asked.lock().unwrap().iter().filter(|asked| *asked == operation).count()
    }
}

impl StubState {
    fn serve(&self, stream: std::net::TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut writer = stream;
        loop {
            let (mut operation, mut len) = (String::new(), 0);
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).unwrap_or(0) == 0 {
                    return;
                }
                let line = line.trim_end().to_ascii_lowercase();
                if line.is_empty() {
                    break;
                }
                if let Some(target) = line.strip_prefix("x-amz-target: dynamodb_20120810.") {
                    operation = target.to_owned();
                }
                if let Some(bytes) = line.strip_prefix("content-length: ") {
                    len = bytes.parse().unwrap();
                }
            }
            let mut body = vec![0; len];
            if std::io::Read::read_exact(&mut reader, &mut body).is_err() {
                return;
            }
            let body = String::from_utf8_lossy(&body).into_owned();
            let (status, answer) = self.answer(&operation, &body);
            let head = format!(
                "HTTP/1.1 {status} x\r\nContent-Type: application/x-amz-json-1.0\r\nContent-Length: {}\r\n\r\n",
                answer.len()
            );
            if writer.write_all(format!("{head}{answer}").as_bytes()).is_err() {
                return;
            }
        }
    }

    fn answer(&self, operation: &str, body: &str) -> (u16, String) {
        if body.contains("\"layout\"") {
            return (200, r#"{"Item":{"version":{"N":"1"}}}"#.into());
        }
        let n = {
            let mut asked = self.asked.lock().unwrap();
            asked.push(operation.to_owned());
            asked.iter().filter(|asked| *asked == operation).count() as u32 - 1
        };
        (self.script)(operation, body, n).unwrap_or_else(|| (200, "{}".into()))
    }
}

/// What a server on the loopback answers to a request that a stub passes on.
pub fn pass_on(port: u16, operation: &str, body: &str) -> (u16, String) {
    // Names in the head were made small, and moto looks them up as they are.
    let known =
        ["GetItem", "PutItem", "DeleteItem", "UpdateItem", "TransactWriteItems", "Query", "BatchGetItem"];
    let name = known.into_iter().find(|name| name.to_ascii_lowercase() == operation).unwrap();
    let mut server = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    let request = format!(
        "POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nX-Amz-Target: DynamoDB_20120810.{name}\r\n\
         Content-Type: application/x-amz-json-1.0\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    server.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut server, &mut answer).unwrap();
    let (head, answer) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), answer.to_owned())
}

/// The body of a refusal.
pub fn refusal(code: &str, said: &str) -> String {
    format!(r#"{{"__type":"com.amazonaws.dynamodb.v20120810#{code}","message":"{said}"}}"#)
}
