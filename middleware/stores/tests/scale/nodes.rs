//! The servers, and clients that change between them.

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sessile_tests::{Client, Jar, Response, Rng, Server, Store};

const NODES: usize = 3;
/// How long a node may refuse before a test fails: a machine that does something else can keep a store's server from the
/// processors for longer than the deadline of a call.
const PATIENCE: Duration = Duration::from_secs(60);
/// One test at a time: each has five servers and eight clients.
static TURN: Mutex<()> = Mutex::new(());

/// Waits until no other test runs.
pub(crate) fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Three servers over one store.
pub(crate) struct Nodes {
    pub(crate) servers: Vec<Server>,
}

impl Nodes {
    pub(crate) fn start(url: &str, flags: &[&str]) -> Self {
        let flags: Vec<_> = flags.iter().copied().chain(["--log", "error"]).collect();
        let servers = (0..NODES).map(|_| Server::start(Store::Remote(url.to_owned()), &flags)).collect();
        Self { servers }
    }

    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.servers.iter().map(Server::address).collect()
    }

    pub(crate) fn client(&self) -> Visitor {
        Visitor::new(&self.addresses(), Jar::default())
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for server in &mut self.servers {
                println!("a server said: {}", server.kill());
            }
        }
    }
}

/// A client with a connection to each server.
pub(crate) struct Visitor {
    clients: Vec<Client>,
}

impl Visitor {
    pub(crate) fn new(addresses: &[SocketAddr], jar: Jar) -> Self {
        Self { clients: addresses.iter().map(|address| Client::with(*address, jar.clone())).collect() }
    }

    /// Another browser with the same cookie.
    pub(crate) fn again(&self) -> Self {
        Self { clients: self.clients.iter().map(Client::clone_jar).collect() }
    }

    /// The cookie that a server set goes to the others too.
    pub(crate) fn get(&mut self, node: usize, path: &str) -> Response {
        let response = self.clients[node].get(path);
        self.share(node, &response);
        response
    }

    pub(crate) fn try_get(&mut self, node: usize, path: &str) -> std::io::Result<Response> {
        let response = self.clients[node].try_get(path)?;
        self.share(node, &response);
        Ok(response)
    }

    fn share(&mut self, node: usize, response: &Response) {
        if response.set_cookie().is_some() {
            for (n, client) in self.clients.iter_mut().enumerate() {
                if n != node {
                    client.jar.apply(response);
                }
            }
        }
    }

    /// As [`get`](Self::get), again while it is refused: for what may be done twice.
    pub(crate) fn sure(&mut self, node: usize, path: &str) -> String {
        let start = Instant::now();
        loop {
            let response = self.get(node, path);
            if response.status != 503 {
                return response.ok();
            }
            assert!(start.elapsed() < PATIENCE, "{path} is refused for ever");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// As [`sure`](Self::sure), from any node.
    pub(crate) fn anywhere(&mut self, rng: &mut Rng, path: &str) -> String {
        let node = rng.index(self.clients.len());
        self.sure(node, path)
    }

    /// A node by chance.
    pub(crate) fn some_node(&self, rng: &mut Rng) -> usize {
        rng.index(self.clients.len())
    }
}

/// How much more than usual is to be done.
pub(crate) fn scale() -> u64 {
    sessile_tests::env_number("SESSILE_SCALE", 1)
}
