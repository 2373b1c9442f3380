//! The servers, and clients that change between them.

use std::net::SocketAddr;

use sessile_tests::{Client, Jar, Response, Rng, Server, Store};

const NODES: usize = 3;

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

    pub(crate) fn anywhere(&mut self, rng: &mut Rng, path: &str) -> Response {
        let node = rng.index(self.clients.len());
        self.get(node, path)
    }
}

/// How much more than usual is to be done.
pub(crate) fn scale() -> u64 {
    sessile_tests::env_number("SESSILE_SCALE", 1)
}
