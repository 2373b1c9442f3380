//! The playground as a child process: built once, started on a free port, stopped gently or by kill -9, and
//! started again on the same file. No process outlives its handle.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long a server may take to be ready or to stop before the test fails.
const LIMIT: Duration = Duration::from_secs(60);
/// A free port where nobody else gets to.
const LOOPBACK: &str = "127.0.0.1:0";

/// Where the server keeps its sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Store {
    /// Nowhere.
    Memory,
    /// In a redb file.
    Redb(PathBuf),
    /// In a sled directory.
    Sled(PathBuf),
    /// On a server, by its URL.
    Remote(String),
}

impl Store {
    /// The value of `--store`.
    #[must_use]
    pub fn flag(&self) -> String {
        match self {
            Self::Memory => "memory".to_owned(),
            Self::Redb(path) => format!("redb:{}", path.display()),
            Self::Sled(path) => format!("sled:{}", path.display()),
            Self::Remote(url) => url.clone(),
        }
    }
}

/// A playground that runs.
#[derive(Debug)]
pub struct Server {
    child: Child,
    address: SocketAddr,
    ready_line: String,
    stderr: Option<JoinHandle<String>>,
    store: Store,
    flags: Vec<String>,
}

/// A playground that ended instead of getting ready.
#[derive(Debug)]
pub struct Failed {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// All it said on stderr.
    pub stderr: String,
}

/// A start that was cut by kill -9.
#[derive(Debug)]
pub struct Interrupted {
    /// Whether it had said that it was ready.
    pub ready: bool,
    /// All it said on stderr.
    pub stderr: String,
}

impl Server {
    /// Starts the playground and ends it by kill -9 after `delay`, wherever it has come to by then: before it opens its
    /// store, while it does, or after.
    ///
    /// # Panics
    /// If it ended by itself.
    #[must_use]
    pub fn interrupted(store: &Store, flags: &[&str], delay: Duration) -> Interrupted {
        let mut child = spawn(&[], &arguments(LOOPBACK, &store.flag(), flags), &[]);
        let stdout = child.stdout.take().unwrap();
        let stdout = thread::spawn(move || read_all(stdout));
        let stderr = child.stderr.take().unwrap();
        let stderr = thread::spawn(move || read_all(stderr));
        thread::sleep(delay);
        let ended = child.try_wait().unwrap();
        let _ = child.kill();
        let _ = child.wait();
        let (stdout, stderr) = (stdout.join().unwrap(), stderr.join().unwrap());
        assert_eq!(ended, None, "the server ended before it was killed: {stderr}");
        Interrupted { ready: stdout.starts_with("listening on http://"), stderr }
    }

    /// Starts the playground on a free port and waits until it is ready.
    ///
    /// # Panics
    /// If it does not get ready.
    #[must_use]
    pub fn start(store: Store, flags: &[&str]) -> Self {
        match Self::try_start(store, flags) {
            Ok(server) => server,
            Err(failed) => panic!("the playground ended: {failed:?}"),
        }
    }

    /// As [`start`](Self::start), where it may end instead.
    ///
    /// # Errors
    /// How it ended.
    ///
    /// # Panics
    /// If it neither ends nor gets ready within a minute, or its ready line is not as documented.
    pub fn try_start(store: Store, flags: &[&str]) -> Result<Self, Failed> {
        Self::try_start_in(store, flags, &[])
    }

    /// As [`try_start`](Self::try_start), with these environment variables. A restart does without them.
    ///
    /// # Errors
    /// How it ended.
    ///
    /// # Panics
    /// As `try_start`.
    pub fn try_start_in(
        store: Store,
        flags: &[&str],
        environment: &[(&str, String)],
    ) -> Result<Self, Failed> {
        let child = spawn(&[], &arguments(LOOPBACK, &store.flag(), flags), environment);
        Self::ready(child, store, flags)
    }

    /// Starts the playground by a command that runs it, such as `ip netns exec NAME`, on `listen`. It is not restarted.
    ///
    /// # Panics
    /// If it does not get ready.
    #[must_use]
    pub fn start_by(command: &[&str], listen: &str, store: Store, flags: &[&str]) -> Self {
        let child = spawn(command, &arguments(listen, &store.flag(), flags), &[]);
        match Self::ready(child, store, flags) {
            Ok(server) => server,
            Err(failed) => panic!("the playground ended: {failed:?}"),
        }
    }

    fn ready(mut child: Child, store: Store, flags: &[&str]) -> Result<Self, Failed> {
        // Reads the ready line, then goes on reading so that the server never blocks on a full pipe.
        let stdout = child.stdout.take().unwrap();
        let (said, first_line) = mpsc::channel();
        thread::spawn(move || {
            let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
            if let Some(line) = lines.next() {
                let _ = said.send(line);
            }
            lines.for_each(drop);
        });
        let stderr = child.stderr.take().unwrap();
        let stderr = thread::spawn(move || read_all(stderr));

        match first_line.recv_timeout(LIMIT) {
            Ok(ready_line) => {
                let address = ready_line
                    .strip_prefix("listening on http://")
                    .and_then(|rest| rest.split(' ').next())
                    .and_then(|address| address.parse().ok())
                    .unwrap_or_else(|| panic!("not the ready line: {ready_line:?}"));
                let flags = flags.iter().map(|&f| f.to_owned()).collect();
                Ok(Self { child, address, ready_line, stderr: Some(stderr), store, flags })
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                let code = wait(&mut child).code();
                Err(Failed { code, stderr: stderr.join().unwrap() })
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                let _ = child.kill();
                let _ = child.wait();
                panic!("the playground was not ready after {LIMIT:?}: {}", stderr.join().unwrap());
            }
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it keeps its sessions.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The line it printed when it was ready.
    #[must_use]
    pub fn ready_line(&self) -> &str {
        &self.ready_line
    }

    /// A new client without a cookie.
    #[must_use]
    pub fn client(&self) -> crate::Client {
        crate::Client::new(self.address)
    }

    /// What `/stats` says about `name`.
    ///
    /// # Panics
    /// If it says nothing.
    #[must_use]
    pub fn stat(&self, name: &str) -> u64 {
        let stats: serde_json::Value = serde_json::from_str(&self.client().get("/stats").ok()).unwrap();
        stats[name].as_u64().unwrap_or_else(|| panic!("no number {name:?} in /stats: {stats}"))
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// If the process is gone.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// kill -9, and waits until the process is gone. Returns what it had said on stderr.
    ///
    /// # Panics
    /// If it had ended before.
    pub fn kill(&mut self) -> String {
        assert_eq!(self.child.try_wait().unwrap(), None, "the server ended before it was killed");
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.stderr.take().map(|t| t.join().unwrap()).unwrap_or_default()
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Panics
    /// If it does not end within a minute.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Waits for the end, however it comes. Also returns what it had said on stderr.
    ///
    /// # Panics
    /// If it does not end within a minute.
    pub fn wait_and_listen(&mut self) -> (ExitStatus, String) {
        let status = self.wait();
        (status, self.stderr.take().map(|t| t.join().unwrap()).unwrap_or_default())
    }

    /// Waits for the end.
    ///
    /// # Panics
    /// If it does not end within a minute.
    pub fn wait(&mut self) -> ExitStatus {
        wait(&mut self.child)
    }

    /// Starts another one on the same store with the same flags. This one must have ended.
    ///
    /// # Panics
    /// If this one still runs, or the other does not get ready.
    pub fn restart(&mut self) {
        assert!(self.child.try_wait().unwrap().is_some(), "the server still runs");
        let flags: Vec<&str> = self.flags.iter().map(String::as_str).collect();
        *self = Self::start(self.store.clone(), &flags);
    }

    /// As [`restart`](Self::restart), with other flags.
    ///
    /// # Panics
    /// As `restart`.
    pub fn restart_with(&mut self, flags: &[&str]) {
        self.flags = flags.iter().map(|&f| f.to_owned()).collect();
        self.restart();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the playground with `args` to its end.
///
/// # Panics
/// If it does not end within a minute.
#[must_use]
pub fn run(args: &[&str]) -> Failed {
    let mut child = spawn(&[], args, &[]);
    let stderr = child.stderr.take().unwrap();
    let stderr = thread::spawn(move || read_all(stderr));
    let code = wait(&mut child).code();
    Failed { code, stderr: stderr.join().unwrap() }
}

fn arguments<'a>(listen: &'a str, store: &'a str, flags: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec!["--listen", listen, "--store", store];
    args.extend(flags);
    args
}

/// The playground, by a command that runs it where there is one.
fn spawn(command: &[&str], args: &[&str], environment: &[(&str, String)]) -> Child {
    let mut words = command.iter().map(OsStr::new).chain([binary().as_os_str()]);
    Command::new(words.next().unwrap())
        .args(words)
        .args(args)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{}: {e}", binary().display()))
}

fn read_all(mut from: impl std::io::Read) -> String {
    let mut all = Vec::new();
    let _ = from.read_to_end(&mut all);
    String::from_utf8_lossy(&all).into_owned()
}

fn wait(child: &mut Child) -> ExitStatus {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if started.elapsed() > LIMIT {
            let _ = child.kill();
            let _ = child.wait();
            panic!("the playground did not end within {LIMIT:?}");
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// The playground's binary: `SESSILE_PLAYGROUND`, or built now, once per test program.
fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| match std::env::var_os("SESSILE_PLAYGROUND") {
        Some(path) => path.into(),
        None => build(),
    })
}

fn build() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args([
            "build",
            "-p",
            "sessile",
            "--example",
            "playground",
            "--features",
            "sled",
            "--message-format=json-render-diagnostics",
        ])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success(), "the playground does not build");
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == "playground")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .expect("cargo names the executable it built")
}
