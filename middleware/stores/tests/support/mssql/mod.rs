//! A test double of Microsoft SQL Server, which is in no package registry: it speaks TDS on a port of the loopback and
//! keeps rows in an SQLite file, by a table of the store's statements and what each means there. Rows, versions, counts and
//! transactions are those of a database; whether SQL Server takes the statements, and how it locks, it cannot show. A real
//! server is named by `SESSILE_TEST_MSSQL`.

mod statements;
#[allow(clippy::big_endian_bytes, reason = "heads of packets have that order")]
mod tds;
#[cfg(feature = "tls-rustls")]
mod tls;

use std::collections::HashMap;
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use rusqlite::Connection;

use self::statements::{Answer, Refusal, Session};
use self::tds::Conversation;

pub const USER: &str = "tester";
pub const PASSWORD: &str = "s3cret@of/the server";
pub const DATABASE: &str = "sessions";

/// What goes wrong with a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is rolled back and refused with this number.
    Error(u32),
    /// The connection ends before anything is done.
    CloseBefore,
    /// All is done, but nobody is told.
    CloseAfter,
    /// Half of the answer comes; the rest when [`Server::release`] is called.
    Half,
}

pub struct Server {
    port: u16,
    state: Arc<State>,
    _dir: tempfile::TempDir,
}

pub(super) struct State {
    file: PathBuf,
    faults: Mutex<HashMap<&'static str, Vec<Fault>>>,
    /// Statements that were run, by name.
    counts: Mutex<HashMap<&'static str, u64>>,
    held: Mutex<bool>,
    released: Condvar,
    open: Mutex<HashMap<u64, TcpStream>>,
    connections: AtomicU64,
    is_down: AtomicBool,
    #[cfg(feature = "tls-rustls")]
    tls: Option<Arc<rustls::ServerConfig>>,
}

impl Server {
    pub fn start() -> Self {
        Self::of(
            #[cfg(feature = "tls-rustls")]
            None,
        )
    }

    /// One that encrypts whatever it is asked.
    #[cfg(feature = "tls-rustls")]
    pub fn with_tls(certificates: &std::path::Path) -> Self {
        Self::of(Some(tls::config(certificates)))
    }

    fn of(#[cfg(feature = "tls-rustls")] tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let state = Arc::new(State {
            file: dir.path().join("rows.sqlite"),
            faults: Mutex::default(),
            counts: Mutex::default(),
            held: Mutex::new(false),
            released: Condvar::new(),
            open: Mutex::default(),
            connections: AtomicU64::new(0),
            is_down: AtomicBool::new(false),
            #[cfg(feature = "tls-rustls")]
            tls,
        });
        let first = state.database();
        first.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())).unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let accepting = Arc::clone(&state);
        std::thread::spawn(move || {
            for tcp in listener.incoming().flatten() {
                let number = accepting.connections.fetch_add(1, Ordering::AcqRel);
                let state = Arc::clone(&accepting);
                std::thread::spawn(move || {
                    state.open.lock().unwrap().insert(number, tcp.try_clone().unwrap());
                    let _open = Open(&state, number);
                    if !state.is_down.load(Ordering::Acquire) {
                        // A client that goes away is none of its business.
                        let _ = state.serve(&tcp, number);
                    }
                });
            }
        });
        Self { port, state, _dir: dir }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        self.url_at(self.port)
    }

    pub fn url_at(&self, port: u16) -> String {
        format!("mssql://{USER}:{}@127.0.0.1:{port}/{DATABASE}?encrypt=false", encoded(PASSWORD))
    }

    /// Lets the next `times` statements of that name go wrong.
    pub fn fault(&self, statement: &'static str, fault: Fault, times: usize) {
        if fault == Fault::Half {
            *self.state.held.lock().unwrap() = true;
        }
        let mut faults = self.state.faults.lock().unwrap();
        faults.entry(statement).or_default().extend(std::iter::repeat_n(fault, times));
    }

    /// Whether no fault is left.
    pub fn is_sound(&self) -> bool {
        self.state.faults.lock().unwrap().values().all(Vec::is_empty)
    }

    pub fn release(&self) {
        *self.state.held.lock().unwrap() = false;
        self.state.released.notify_all();
    }

    /// How often a statement was asked for.
    pub fn count(&self, statement: &str) -> u64 {
        self.state.counts.lock().unwrap().get(statement).copied().unwrap_or(0)
    }

    /// Connections that were made, ended ones too.
    pub fn connections(&self) -> u64 {
        self.state.connections.load(Ordering::Acquire)
    }

    pub fn kill_connections(&self) {
        for tcp in self.state.open.lock().unwrap().values() {
            let _ = tcp.shutdown(Shutdown::Both);
        }
    }

    /// Ends all connections, and takes no other until [`resume`](Self::resume).
    pub fn kill(&self) {
        self.state.is_down.store(true, Ordering::Release);
        self.kill_connections();
    }

    pub fn resume(&self) {
        self.state.is_down.store(false, Ordering::Release);
    }

    /// The rows themselves, behind the store's back.
    pub fn rows(&self) -> Connection {
        self.state.database()
    }
}

/// A connection, which ends with its thread whatever becomes of that.
struct Open<'a>(&'a State, u64);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if let Some(tcp) = self.0.open.lock().unwrap().remove(&self.1) {
            let _ = tcp.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        self.release();
    }
}

pub fn encoded(text: &str) -> String {
    text.bytes().map(|b| format!("%{b:02X}")).collect()
}

impl State {
    fn database(&self) -> Connection {
        let database = Connection::open(&self.file).unwrap();
        database.busy_timeout(std::time::Duration::from_secs(20)).unwrap();
        database.pragma_update(None, "synchronous", "OFF").unwrap();
        database
    }

    fn serve(&self, tcp: &TcpStream, number: u64) -> std::io::Result<()> {
        #[cfg(feature = "tls-rustls")]
        let mut talk = match &self.tls {
            Some(config) => tls::greet(tcp.try_clone()?, config)?,
            None => Conversation::greet(tcp.try_clone()?)?,
        };
        #[cfg(not(feature = "tls-rustls"))]
        let mut talk = Conversation::greet(tcp.try_clone()?)?;
        if !talk.login()? {
            return Ok(());
        }
        let session = Session::new(self.database(), number);
        loop {
            let request = talk.request()?;
            let statement = session.named(request.text());
            let Some((name, table)) = statement else {
                println!("the store sends a statement that the double does not know:\n{}", request.text());
                talk.answer(&request, &Err(Refusal { number: 102, text: "not of the double".into() }))?;
                continue;
            };
            *self.counts.lock().unwrap().entry(name).or_default() += 1;
            let fault = self.faults.lock().unwrap().get_mut(name).and_then(Vec::pop);
            if fault == Some(Fault::CloseBefore) {
                return Ok(());
            }
            let answer = match fault {
                Some(Fault::Error(number)) => Err(Refusal::forced(number)),
                _ => session.run(&(name, table), request.params()),
            };
            match fault {
                Some(Fault::CloseAfter) => return Ok(()),
                Some(Fault::Half) => {
                    talk.answer_half(&request, &answer)?;
                    let held = self.held.lock().unwrap();
                    drop(self.released.wait_while(held, |held| *held).unwrap());
                    talk.answer_rest()?;
                }
                _ => talk.answer(&request, &answer)?,
            }
        }
    }
}

type Result<T> = std::result::Result<T, Refusal>;
type Answered = Result<Answer>;
