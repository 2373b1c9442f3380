//! A Redis server of the test's own: on a free port of the loopback, in a temporary directory, ended with the value.

use std::io::{self, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::process::{freeze, soon};

/// Nothing here takes this long unless it hangs.
const BOUND: Duration = Duration::from_secs(30);

pub(crate) struct Server {
    binary: String,
    port: u16,
    password: Option<&'static str>,
    args: Vec<String>,
    dir: tempfile::TempDir,
    child: Option<Child>,
}

/// Of the server that the tests start.
pub(crate) fn version() -> String {
    let binary = std::env::var("SESSILE_REDIS_SERVER").unwrap_or_else(|_| "redis-server".into());
    let said =
        Command::new(&binary).arg("--version").output().map(|output| output.stdout).unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    let name = said.split(' ').next().unwrap_or_default();
    let version = said.split("v=").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or_default();
    format!("{name} {version}, real")
}

impl Server {
    /// A server that keeps nothing on a disk. `None`, and a line that says so, where there is none.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with(None, &[])
    }

    pub(crate) fn start_with(password: Option<&'static str>, args: &[&str]) -> Option<Self> {
        let binary = std::env::var("SESSILE_REDIS_SERVER").unwrap_or_else(|_| "redis-server".into());
        let there = Command::new(&binary).arg("--version").stdout(Stdio::null()).status();
        if let Err(e) = there {
            // Past the capture of tests that pass: the runner counts these lines.
            let _ = writeln!(io::stderr(), "\nSKIPPED: no {binary} for the Redis store: {e}");
            return None;
        }
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        let dir = tempfile::tempdir().unwrap();
        let mut server = Self { binary, port: 0, password, args, dir, child: None };
        // The port may be taken by another between looking and starting.
        for _ in 0..5 {
            server.port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
            if server.run() {
                return Some(server);
            }
        }
        panic!("{} does not start", server.binary);
    }

    fn run(&mut self) -> bool {
        let mut command = Command::new(&self.binary);
        command
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--daemonize", "no"])
            .args(["--loglevel", "warning", "--enable-debug-command", "yes", "--dir"])
            .arg(self.dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if !self.args.iter().any(|arg| arg == "--appendonly") {
            command.args(["--save", ""]);
        }
        if let Some(password) = self.password {
            command.args(["--requirepass", password]);
        }
        self.child = Some(command.args(&self.args).spawn().unwrap());
        let ready = soon(|| self.try_ask(&["PING"]).is_ok() || self.has_ended());
        ready && !self.has_ended()
    }

    fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some())
    }

    pub(crate) fn url(&self) -> String {
        let password = self.password.map_or(String::new(), |p| format!(":{p}@"));
        format!("redis://{password}127.0.0.1:{}/", self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    fn try_ask(&self, args: &[&str]) -> redis::RedisResult<redis::Value> {
        let mut connection = redis::Client::open(self.url())?.get_connection_with_timeout(BOUND)?;
        redis::cmd(args[0]).arg(&args[1..]).query(&mut connection)
    }

    /// Asks the server behind the store's back.
    pub(crate) fn ask<T: redis::FromRedisValue>(&self, args: &[&str]) -> T {
        redis::from_redis_value(self.try_ask(args).unwrap()).unwrap()
    }

    /// `kill -9`. With `--appendonly yes` what was answered is there after [`restart`](Self::restart), else nothing.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub(crate) fn restart(&mut self) {
        self.kill();
        assert!(soon(|| self.run()), "{} does not start again", self.binary);
    }

    /// Stops or resumes the process: its connections stay and nothing is answered.
    pub(crate) fn freeze(&self, stop: bool) {
        freeze(self.child.as_ref().unwrap().id(), stop);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
