//! A network namespace of the test's own, with one link for its clients and one for the store, of which the second can be
//! cut: packets vanish, and nobody is told. Needs root and `ip`.

use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};

use super::skipped;

/// The end of a link outside and the one inside.
struct Link {
    name: String,
    outside: Ipv4Addr,
    inside: Ipv4Addr,
}

/// The network that all namespaces are in.
pub const NETWORK: &str = "10.128.0.0/9";

/// Ended with the value, its links with it.
pub struct Namespace {
    name: String,
    clients: Link,
    store: Link,
}

fn ip(words: &str) -> bool {
    let said = Command::new("ip").args(words.split(' ')).stdout(Stdio::null()).stderr(Stdio::null()).status();
    said.is_ok_and(|status| status.success())
}

impl Namespace {
    /// `None`, and a line that says so, where there can be none.
    pub fn make() -> Option<Self> {
        static COUNT: AtomicU8 = AtomicU8::new(0);
        let (process, n) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        // Of `NETWORK`, by the process; two networks of four addresses for each namespace.
        let [low, middle, ..] = (process % 0x8000).to_le_bytes();
        let link = |kind: char, at: u8| {
            let address = |host| Ipv4Addr::new(10, 128 | middle, low, (n << 3) + at + host);
            Link { name: format!("s{process:x}{kind}{n}"), outside: address(1), inside: address(2) }
        };
        let namespace =
            Self { name: format!("sessile{process}-{n}"), clients: link('c', 0), store: link('s', 4) };
        let made = ip(&format!("netns add {}", namespace.name)) && namespace.connect();
        if !made {
            skipped("no network namespaces here (they need root and `ip`) for the partition of one server");
        }
        made.then_some(namespace)
    }

    fn connect(&self) -> bool {
        [&self.clients, &self.store].into_iter().all(|link| {
            let (name, space) = (&link.name, &self.name);
            ip(&format!("link add {name} type veth peer name {name}i netns {space}"))
                && ip(&format!("addr add {}/30 dev {name}", link.outside))
                && ip(&format!("-n {space} addr add {}/30 dev {name}i", link.inside))
                && ip(&format!("link set {name} up"))
                && ip(&format!("-n {space} link set {name}i up"))
        })
    }

    /// What runs a program inside.
    pub fn command(&self) -> [&str; 4] {
        ["ip", "netns", "exec", &self.name]
    }

    /// Where a program inside is asked.
    pub fn inside(&self) -> Ipv4Addr {
        self.clients.inside
    }

    /// Where the store listens for programs inside.
    pub fn store(&self) -> Ipv4Addr {
        self.store.outside
    }

    /// Cuts the way between the store and what is inside, or makes it whole.
    pub fn cut(&self, cut: bool) {
        let state = if cut { "down" } else { "up" };
        assert!(ip(&format!("link set {} {state}", self.store.name)), "the link cannot be set {state}");
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // The other ends go with it, later. Names of links are free at once.
        for link in [&self.clients, &self.store] {
            let _ = ip(&format!("link del {}", link.name));
        }
        let _ = ip(&format!("netns del {}", self.name));
    }
}
