//! A Redis cluster of the test's own: three primaries and three replicas on free ports of the loopback, in temporary
//! directories, ended with the value.

use std::io::{self, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, Stdio};

use super::process::{freeze, soon};

const PRIMARIES: usize = 3;
const SLOTS: u16 = 16384;

pub(crate) struct Node {
    pub(crate) port: u16,
    dir: tempfile::TempDir,
    child: Option<Child>,
}

pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
}

/// A port whose bus port, 10,000 above, is free as well.
pub(crate) fn free_port() -> u16 {
    loop {
        let low = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = low.local_addr().unwrap().port();
        if port < 55_000 && TcpListener::bind((Ipv4Addr::LOCALHOST, port + 10_000)).is_ok() {
            return port;
        }
    }
}

impl Node {
    fn start(binary: &str, more: &[&str]) -> Self {
        for _ in 0..10 {
            let mut node = Self { port: free_port(), dir: tempfile::tempdir().unwrap(), child: None };
            if node.run(binary, more) {
                return node;
            }
        }
        panic!("{binary} does not start");
    }

    fn run(&mut self, binary: &str, more: &[&str]) -> bool {
        let child = Command::new(binary)
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--daemonize", "no"])
            .args(["--cluster-enabled", "yes", "--cluster-node-timeout", "1500"])
            .args(["--repl-diskless-sync-delay", "0", "--cluster-replica-validity-factor", "0"])
            .args(["--loglevel", "warning", "--save", "", "--appendonly", "no", "--dir"])
            .arg(self.dir.path())
            .args(more)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.child = Some(child.unwrap());
        soon(|| self.try_ask::<String>(&["PING"]).is_ok() || self.has_ended()) && !self.has_ended()
    }

    fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some())
    }

    pub(crate) fn is_up(&self) -> bool {
        self.child.is_some()
    }

    pub(crate) fn try_ask<T: redis::FromRedisValue>(&self, args: &[&str]) -> redis::RedisResult<T> {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}/", self.port))?;
        let mut connection = client.get_connection_with_timeout(std::time::Duration::from_secs(30))?;
        redis::cmd(args[0]).arg(&args[1..]).query(&mut connection)
    }

    pub(crate) fn ask<T: redis::FromRedisValue>(&self, args: &[&str]) -> T {
        self.try_ask(args).unwrap()
    }

    pub(crate) fn id(&self) -> String {
        self.ask(&["CLUSTER", "MYID"])
    }

    pub(crate) fn is_primary(&self) -> bool {
        self.try_ask::<Vec<redis::Value>>(&["ROLE"]).is_ok_and(
            |role| matches!(role.first(), Some(redis::Value::BulkString(name)) if name == b"master"),
        )
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Stops or resumes the process: its connections stay and nothing is answered.
    pub(crate) fn freeze(&self, stop: bool) {
        freeze(self.child.as_ref().unwrap().id(), stop);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Cluster {
    /// Three primaries, each with a replica. `None`, and a line that says so, where there is no server.
    pub(crate) fn start() -> Option<Self> {
        let binary = binary()?;
        let nodes: Vec<_> = (0..2 * PRIMARIES).map(|_| Node::start(&binary, &[])).collect();
        let cluster = Self { nodes };
        let (primaries, replicas) = cluster.nodes.split_at(PRIMARIES);
        for (n, node) in (1_u16..).zip(&cluster.nodes) {
            let _: String = node.ask(&["CLUSTER", "SET-CONFIG-EPOCH", &n.to_string()]);
        }
        for (n, node) in (0_u16..).zip(primaries) {
            let (first, last) = (n * (SLOTS / 3 + 1), ((n + 1) * (SLOTS / 3 + 1)).min(SLOTS) - 1);
            let _: String = node.ask(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]);
        }
        let first = cluster.nodes[0].port.to_string();
        for node in &cluster.nodes[1..] {
            let _: String = node.ask(&["CLUSTER", "MEET", "127.0.0.1", &first]);
        }
        let knows = |node: &Node, count: usize| {
            let nodes: String = node.ask(&["CLUSTER", "NODES"]);
            nodes.lines().filter(|line| !line.contains("handshake")).count() >= count
        };
        assert!(soon(|| cluster.nodes.iter().all(|node| knows(node, cluster.nodes.len()))), "they never met");
        for (replica, primary) in replicas.iter().zip(primaries) {
            let id = primary.id();
            assert!(soon(|| replica.try_ask::<String>(&["CLUSTER", "REPLICATE", &id]).is_ok()));
        }
        cluster.settles();
        Some(cluster)
    }

    /// Waits until all nodes agree that all slots are served, by primaries that have replicas.
    pub(crate) fn settles(&self) {
        let ready = |node: &Node| {
            let info: String = node.ask(&["CLUSTER", "INFO"]);
            let nodes: String = node.ask(&["CLUSTER", "NODES"]);
            let replicas = nodes.lines().filter(|line| line.contains("slave ")).count();
            info.contains("cluster_state:ok") && (replicas >= PRIMARIES || self.nodes.len() < 2 * PRIMARIES)
        };
        let synced = |node: &Node| {
            let info: String = node.ask(&["INFO", "replication"]);
            info.contains("role:master") || info.contains("master_link_status:up")
        };
        let up = || self.nodes.iter().filter(|node| node.is_up());
        assert!(soon(|| up().all(|node| ready(node) && synced(node))), "the cluster never became whole");
    }

    /// One more primary, without slots.
    pub(crate) fn join(&mut self) {
        let node = Node::start(&binary().unwrap(), &[]);
        let _: String = node.ask(&["CLUSTER", "MEET", "127.0.0.1", &self.nodes[0].port.to_string()]);
        self.nodes.push(node);
        // It serves nobody before it has heard that the others serve all slots.
        let knows = |node: &Node| {
            let (info, nodes): (String, String) =
                (node.ask(&["CLUSTER", "INFO"]), node.ask(&["CLUSTER", "NODES"]));
            let met = nodes.lines().filter(|line| !line.contains("handshake")).count();
            met >= self.nodes.len() && info.contains("cluster_state:ok")
        };
        assert!(soon(|| self.nodes.iter().filter(|node| node.is_up()).all(knows)), "it never met the others");
    }

    pub(crate) fn url(&self) -> String {
        let nodes: Vec<_> =
            self.nodes.iter().take(PRIMARIES).map(|node| format!("127.0.0.1:{}", node.port)).collect();
        format!("redis+cluster://{}", nodes.join(","))
    }

    pub(crate) fn primaries(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.is_up() && node.is_primary())
    }

    /// Asks each primary and puts the answers together.
    pub(crate) fn keys(&self, pattern: &str) -> Vec<String> {
        self.primaries().flat_map(|node| node.ask::<Vec<String>>(&["KEYS", pattern])).collect()
    }
}

fn binary() -> Option<String> {
    let binary = std::env::var("SESSILE_REDIS_SERVER").unwrap_or_else(|_| "redis-server".into());
    let there = Command::new(&binary).arg("--version").stdout(Stdio::null()).status();
    if let Err(e) = there {
        // Past the capture of tests that pass: the runner counts these lines.
        let _ = writeln!(io::stderr(), "\nSKIPPED: no {binary} for the Redis cluster: {e}");
        return None;
    }
    Some(binary)
}

impl Cluster {
    /// The ports and slots of all keys that match.
    pub(crate) fn slots_of(&self, pattern: &str) -> Vec<(u16, u16)> {
        let mut slots = Vec::new();
        for node in self.primaries() {
            for key in node.ask::<Vec<String>>(&["KEYS", pattern]) {
                slots.push((node.port, node.ask::<u16>(&["CLUSTER", "KEYSLOT", &key])));
            }
        }
        slots.sort_unstable();
        slots.dedup();
        slots
    }

    /// Moves a slot as the manual says, a few keys at a time.
    pub(crate) fn migrate(&self, slot: u16, from: usize, to: usize) {
        self.migrate_slowly(slot, from, to, || ());
    }

    /// The same, with a rest while some keys are here and some there.
    pub(crate) fn migrate_slowly(&self, slot: u16, from: usize, to: usize, rest: impl Fn()) {
        let (slot, from, to) = (slot.to_string(), &self.nodes[from], &self.nodes[to]);
        let (from_id, to_id) = (from.id(), to.id());
        let _: String = to.ask(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id]);
        let _: String = from.ask(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id]);
        let port = to.port.to_string();
        loop {
            let keys: Vec<String> = from.ask(&["CLUSTER", "GETKEYSINSLOT", &slot, "3"]);
            if keys.is_empty() {
                break;
            }
            let mut args = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "10000", "KEYS"];
            args.extend(keys.iter().map(|key| &**key));
            let _: String = from.ask(&args);
            rest();
        }
        let others = self.primaries().filter(|node| node.port != from.port && node.port != to.port);
        for node in [to, from].into_iter().chain(others) {
            let _: String = node.ask(&["CLUSTER", "SETSLOT", &slot, "NODE", &to_id]);
        }
    }

    /// How often the primaries were asked by who was sent to them, and how often they could not answer yet.
    pub(crate) fn asked_and_put_off(&self) -> (u64, u64) {
        let count = |section: &str, name: &str, field: &str| -> u64 {
            let of = |node: &Node| {
                let info: String = node.ask(&["INFO", section]);
                let line = info.lines().find(|line| line.starts_with(name)).map(str::to_owned)?;
                let value = line.split_once(field)?.1.split(',').next()?.trim().parse::<u64>();
                value.ok()
            };
            self.primaries().filter_map(of).sum()
        };
        (
            count("commandstats", "cmdstat_asking:", "calls="),
            count("errorstats", "errorstat_TRYAGAIN:", "count="),
        )
    }

    /// Waits until the replicas have all that was written before: what is written after it comes after it.
    pub(crate) fn replicated(&self) {
        for node in self.primaries() {
            // A key of a slot that this primary serves.
            let key = (0..)
                .map(|n| format!("barrier:{n}"))
                .find(|key| node.try_ask::<String>(&["SET", key, "x"]).is_ok());
            let client = redis::Client::open(format!("redis://127.0.0.1:{}/", node.port)).unwrap();
            let mut connection = client.get_connection().unwrap();
            let () = redis::cmd("SET").arg(key.unwrap()).arg("y").query(&mut connection).unwrap();
            let replicas: i64 = redis::cmd("WAIT").arg(1).arg(30_000).query(&mut connection).unwrap();
            assert_eq!(replicas, 1, "the replica of {} does not follow", node.port);
        }
    }
}
