//! A Consul server of the test's own: on free ports of the loopback, in a temporary directory, ended with the value.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::process::soon;
use super::{first_of, free_port, process, program, skipped};

pub const TOKEN: &str = "5ec2e7aa-0000-4000-8000-000000000001";

pub struct Server {
    http: u16,
    ports: [u16; 2],
    process: Option<Child>,
    dir: tempfile::TempDir,
    wants_token: bool,
    /// The port, and the directory with the certificates.
    tls: Option<(u16, PathBuf)>,
}

fn binary() -> Option<PathBuf> {
    let named = std::env::var_os("SESSILE_CONSUL").map(PathBuf::from);
    let installed =
        std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/sessile/consul/consul"));
    first_of(named.into_iter().chain(installed)).or_else(|| program("consul"))
}

/// What the suite is run against.
pub fn version() -> String {
    let said = binary().and_then(|path| Command::new(path).arg("version").output().ok());
    let said = said.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let version = said.split_whitespace().nth(1).unwrap_or("of an unknown version");
    format!("Consul {}, real", version.trim_start_matches('v'))
}

impl Server {
    /// `None`, and a line that says so, where there is no server.
    pub fn start() -> Option<Self> {
        Self::start_with(false, None)
    }

    /// One that speaks TLS as well, as the certificate in that directory.
    pub fn start_with_tls(certificates: &Path) -> Option<Self> {
        Self::start_with(false, Some(certificates))
    }

    /// One that refuses whoever does not know [`TOKEN`].
    pub fn start_with_token() -> Option<Self> {
        Self::start_with(true, None)
    }

    fn start_with(wants_token: bool, certificates: Option<&Path>) -> Option<Self> {
        if binary().is_none() {
            skipped("no consul for the Consul store");
            return None;
        }
        // A port may be taken by another between looking and starting.
        for _ in 0..5 {
            let dir = tempfile::tempdir().unwrap();
            let ports = [free_port(), free_port()];
            let tls = certificates.map(|dir| (free_port(), dir.to_owned()));
            let mut server = Self { http: free_port(), ports, process: None, dir, wants_token, tls };
            server.run();
            if server.is_ready() {
                return Some(server);
            }
            server.kill();
        }
        panic!("consul does not start");
    }

    fn run(&mut self) {
        let acl = if self.wants_token {
            format!(
                r#", "acl": {{"enabled": true, "default_policy": "deny", "tokens": {{"initial_management": "{TOKEN}", "agent": "{TOKEN}"}}}}"#
            )
        } else {
            String::new()
        };
        let (https, tls) = match &self.tls {
            None => ("-1".to_owned(), String::new()),
            Some((port, dir)) => {
                let file = |name: &str| dir.join(name).display().to_string();
                let files =
                    format!(r#""cert_file": "{}", "key_file": "{}""#, file("server.pem"), file("server.key"));
                (port.to_string(), format!(r#", "tls": {{"https": {{{files}}}}}"#))
            }
        };
        let config = format!(
            r#"{{"server": true, "bootstrap_expect": 1, "node_name": "one", "bind_addr": "127.0.0.1", "client_addr": "127.0.0.1",
            "ports": {{"http": {}, "https": {https}, "server": {}, "serf_lan": {}, "serf_wan": -1, "dns": -1, "grpc": -1}},
            "connect": {{"enabled": false}}, "disable_update_check": true, "disable_host_node_id": true, "log_level": "ERROR",
            "performance": {{"raft_multiplier": 1}}, "limits": {{"http_max_conns_per_client": 1000, "https_handshake_timeout": "5s"}}{acl}{tls}}}"#,
            self.http, self.ports[0], self.ports[1]
        );
        let path = self.dir.path().join("config.json");
        std::fs::write(&path, config).unwrap();
        let child = Command::new(binary().unwrap())
            .args(["agent", "-config-file"])
            .arg(&path)
            .arg("-data-dir")
            .arg(self.dir.path().join("data"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.process = Some(child);
    }

    /// Waits until it has a leader and answers; `false` if it has ended.
    fn is_ready(&mut self) -> bool {
        let writes =
            |server: &Self| server.try_ask("PUT", "kv/ready", b"x").is_some_and(|(status, _)| status == 200);
        soon(|| self.has_ended() || writes(self)) && !self.has_ended()
    }

    fn has_ended(&mut self) -> bool {
        self.process.as_mut().is_none_or(|process| process.try_wait().unwrap().is_some())
    }

    pub fn url(&self) -> String {
        format!("consul://127.0.0.1:{}", self.http)
    }

    pub fn tls_url(&self) -> String {
        format!("consuls://127.0.0.1:{}", self.tls.as_ref().unwrap().0)
    }

    /// Asks behind the store's back.
    fn try_ask(&self, method: &str, path: &str, body: &[u8]) -> Option<(u16, Vec<u8>)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.http)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
        let head = format!(
            "{method} /v1/{path} HTTP/1.0\r\nX-Consul-Token: {TOKEN}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).ok()?;
        stream.write_all(body).ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        let at = answer.windows(4).position(|end| end == b"\r\n\r\n")?;
        let status = std::str::from_utf8(answer.get(9..12)?).ok()?.parse().ok()?;
        Some((status, answer.split_off(at + 4)))
    }

    pub fn ask(&self, method: &str, path: &str, body: &[u8]) -> (u16, Vec<u8>) {
        self.try_ask(method, path, body).unwrap()
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Starts it again, with what it has on its disk, or without.
    pub fn restart(&mut self, empty: bool) {
        self.kill();
        if empty {
            std::fs::remove_dir_all(self.dir.path().join("data")).unwrap();
        }
        self.run();
        assert!(self.is_ready(), "it does not start again");
    }

    /// Stops or resumes it: its connections stay and nothing is answered.
    pub fn freeze(&self, stop: bool) {
        process::freeze(self.process.as_ref().unwrap().id(), stop);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
