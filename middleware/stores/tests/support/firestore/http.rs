//! As much of an HTTP/1.1 server as a double needs: questions with a length, answers with one, and connections that end when
//! they should not. It knows no service.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

pub struct Question {
    pub method: String,
    pub path: String,
    /// By lower-case name.
    pub head: HashMap<String, String>,
    pub body: Vec<u8>,
}

pub struct Answer {
    pub status: u16,
    pub head: Vec<(&'static str, String)>,
    pub body: String,
}

/// What the other side gets.
pub enum Reply {
    Answer(Answer),
    /// The connection ends.
    Close,
    /// Half of the answer; the rest when this has returned.
    Half(Answer, Box<dyn FnOnce()>),
}

pub struct Listener {
    port: u16,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    open: Mutex<HashMap<u64, TcpStream>>,
    connections: AtomicU64,
    is_down: AtomicBool,
}

impl Listener {
    pub fn start(answer: impl Fn(&Question) -> Reply + Send + Sync + 'static) -> Self {
        let (state, answer) = (Arc::new(State::default()), Arc::new(answer));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let accepting = Arc::clone(&state);
        std::thread::spawn(move || {
            for tcp in listener.incoming().flatten() {
                let number = accepting.connections.fetch_add(1, Ordering::AcqRel);
                let (state, answer) = (Arc::clone(&accepting), Arc::clone(&answer));
                std::thread::spawn(move || {
                    state.open.lock().unwrap().insert(number, tcp.try_clone().unwrap());
                    let _open = Open(&state, number);
                    if !state.is_down.load(Ordering::Acquire) {
                        // A client that goes away is none of its business.
                        let _ = serve(&tcp, &*answer);
                    }
                });
            }
        });
        Self { port, state }
    }

    pub fn port(&self) -> u16 {
        self.port
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
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.kill();
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

fn serve(tcp: &TcpStream, answer: &dyn Fn(&Question) -> Reply) -> std::io::Result<()> {
    tcp.set_nodelay(true)?;
    let (mut reader, mut writer) = (BufReader::new(tcp), tcp);
    while let Some(question) = read(&mut reader)? {
        match answer(&question) {
            Reply::Close => return Ok(()),
            Reply::Answer(answer) => writer.write_all(&written(&answer))?,
            Reply::Half(answer, wait) => {
                let written = written(&answer);
                let (one, other) = written.split_at(written.len() - answer.body.len().div_ceil(2));
                writer.write_all(one)?;
                wait();
                writer.write_all(other)?;
            }
        }
    }
    Ok(())
}

fn read(reader: &mut BufReader<&TcpStream>) -> std::io::Result<Option<Question>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return Ok(None) };
    let mut head = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => head.insert(name.to_ascii_lowercase(), value.trim().to_owned()),
            None => break,
        };
    }
    let length = head.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Some(Question { method, path, head, body }))
}

fn written(answer: &Answer) -> Vec<u8> {
    let mut out = format!("HTTP/1.1 {} As Said\r\ncontent-length: {}\r\n", answer.status, answer.body.len());
    for (name, value) in &answer.head {
        out.push_str(&format!("{name}: {value}\r\n"));
    }
    out.push_str("\r\n");
    out.push_str(&answer.body);
    out.into_bytes()
}
