//! A network that delivers late: it stands between a store and its server, and can keep back what is on its way over the
//! connections that exist, although their sender has closed them.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub(crate) struct Relay {
    pub(crate) port: u16,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    connections: AtomicU64,
    /// Connections with a lower number are held.
    held_below: AtomicU64,
}

impl Relay {
    pub(crate) fn to(server: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let number = shared.connections.fetch_add(1, Ordering::AcqRel);
                if let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, server)) {
                    relay(client, server, number, &shared);
                }
            }
        });
        Self { port, state }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// Holds what is sent from now on over the connections of now.
    pub(crate) fn hold(&self) {
        let next = self.state.connections.load(Ordering::Acquire);
        self.state.held_below.store(next, Ordering::Release);
    }

    pub(crate) fn release(&self) {
        self.state.held_below.store(0, Ordering::Release);
    }
}

fn relay(mut client: TcpStream, mut server: TcpStream, number: u64, state: &Arc<State>) {
    let (mut back, mut answers) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    std::thread::spawn(move || {
        let mut piece = [0; 4096];
        while let Ok(len @ 1..) = answers.read(&mut piece) {
            // The sender may have gone: the server does not learn of it.
            let _ = back.write_all(&piece[..len]);
        }
        let _ = back.shutdown(std::net::Shutdown::Both);
    });
    let state = Arc::clone(state);
    std::thread::spawn(move || {
        let mut piece = [0; 4096];
        while let Ok(len @ 1..) = client.read(&mut piece) {
            while number < state.held_below.load(Ordering::Acquire) {
                std::thread::sleep(Duration::from_millis(1));
            }
            if server.write_all(&piece[..len]).is_err() {
                return;
            }
        }
    });
}
