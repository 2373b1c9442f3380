//! A primary, its replica and three sentinels of the test's own, on free ports of the loopback, ended with the value.

use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, Stdio};

use super::process::soon;
use super::server::Server;

pub(crate) const NAME: &str = "sessions";

/// The two servers, and who watches them.
pub(crate) struct Guarded {
    pub(crate) servers: [Server; 2],
    sentinels: Vec<Watcher>,
}

struct Watcher {
    port: u16,
    child: Child,
    _dir: tempfile::TempDir,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn ask<T: redis::FromRedisValue>(port: u16, args: &[&str]) -> redis::RedisResult<T> {
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}/"))?;
    let mut connection = client.get_connection_with_timeout(std::time::Duration::from_secs(30))?;
    redis::cmd(args[0]).arg(&args[1..]).query(&mut connection)
}

impl Guarded {
    /// `None`, and a line that says so, where there is no server.
    pub(crate) fn start(password: Option<&'static str>) -> Option<Self> {
        let args: Vec<_> = password.map_or(Vec::new(), |password| vec!["--masterauth", password]);
        let args = [&["--repl-diskless-sync-delay", "0"], &args[..]].concat();
        let primary = Server::start_with(password, &args)?;
        let port = primary.port().to_string();
        let of = [&args[..], &["--replicaof", "127.0.0.1", &port]].concat();
        let replica = Server::start_with(password, &of)?;
        let info = |server: &Server| server.ask::<String>(&["INFO", "replication"]);
        assert!(soon(|| info(&replica).contains("master_link_status:up")));
        let sentinels: Vec<_> = (0..3).map(|_| Watcher::start(primary.port(), password)).collect();
        // They know each other and the replica.
        let knows = |watcher: &Watcher| {
            let known = |what: &str| {
                let said: redis::RedisResult<Vec<redis::Value>> =
                    ask(watcher.port, &["SENTINEL", what, NAME]);
                said.map_or(0, |said| said.len())
            };
            known("SENTINELS") == 2 && known("REPLICAS") == 1
        };
        assert!(soon(|| sentinels.iter().all(knows)), "the sentinels do not find each other");
        Some(Self { servers: [primary, replica], sentinels })
    }

    pub(crate) fn url(&self, password: Option<&str>) -> String {
        let password = password.map_or(String::new(), |password| format!(":{password}@"));
        let hosts: Vec<_> = self.sentinels.iter().map(|one| format!("127.0.0.1:{}", one.port)).collect();
        format!("redis+sentinel://{password}{}/{NAME}", hosts.join(","))
    }

    /// The sentinels choose another primary although nothing is wrong.
    pub(crate) fn fail_over(&self) {
        assert!(soon(|| ask::<String>(self.sentinels[0].port, &["SENTINEL", "FAILOVER", NAME]).is_ok()));
    }

    /// The port that the sentinels agree on.
    pub(crate) fn primary(&self) -> Option<u16> {
        let ports: Option<Vec<u16>> = self
            .sentinels
            .iter()
            .map(|one| {
                let at: redis::RedisResult<(String, u16)> =
                    ask(one.port, &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME]);
                at.ok().map(|at| at.1)
            })
            .collect();
        let ports = ports?;
        ports.windows(2).all(|two| two[0] == two[1]).then(|| ports[0])
    }

    /// The sentinels take another server for the primary, which the old one does not learn: as if it were cut off.
    pub(crate) fn replace(&self, by: u16) {
        for one in &self.sentinels {
            let _: String = ask(one.port, &["SENTINEL", "REMOVE", NAME]).unwrap();
            let _: String =
                ask(one.port, &["SENTINEL", "MONITOR", NAME, "127.0.0.1", &by.to_string(), "2"]).unwrap();
        }
    }

    /// One sentinel less.
    pub(crate) fn lose_a_sentinel(&mut self) {
        self.sentinels.remove(0);
    }
}

impl Watcher {
    fn start(primary: u16, password: Option<&str>) -> Self {
        let binary = std::env::var("SESSILE_REDIS_SERVER").unwrap_or_else(|_| "redis-server".into());
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..5 {
            let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
            let mut config = format!(
                "port {port}\nbind 127.0.0.1\nprotected-mode no\ndir {}\nsentinel monitor {NAME} 127.0.0.1 {primary} 2\n\
                 sentinel down-after-milliseconds {NAME} 1000\nsentinel failover-timeout {NAME} 4000\n",
                dir.path().display()
            );
            if let Some(password) = password {
                config.push_str(&format!("sentinel auth-pass {NAME} {password}\n"));
            }
            let file = dir.path().join("sentinel.conf");
            std::fs::write(&file, config).unwrap();
            let mut command = Command::new(&binary);
            command.arg(&file).arg("--sentinel").stdout(Stdio::null()).stderr(Stdio::null());
            let mut child = command.spawn().unwrap();
            let ready =
                soon(|| ask::<String>(port, &["PING"]).is_ok() || child.try_wait().unwrap().is_some());
            if ready && child.try_wait().unwrap().is_none() {
                return Self { port, child, _dir: dir };
            }
        }
        panic!("{binary} --sentinel does not start");
    }
}
