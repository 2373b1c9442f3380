//! A PostgreSQL server of the test's own: in a temporary directory, on a free port of the loopback interface, ended with
//! the test. It never touches a server that runs already.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::{NOBODY, first_of, free_port, give_away, is_root, program};

pub const PASSWORD: &str = "s3cret-of-the-test";

pub struct Server {
    bin: PathBuf,
    dir: tempfile::TempDir,
    port: u16,
    /// What it listens on.
    listen: &'static str,
    args: Vec<String>,
    child: Option<Child>,
}

fn bin() -> Option<PathBuf> {
    let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = debian.map(|e| e.path().join("bin/initdb")).collect();
    found.sort();
    let initdb = first_of(found.into_iter().rev()).or_else(|| program("initdb"))?;
    let dir = initdb.parent()?.to_path_buf();
    dir.join("postgres").is_file().then_some(dir)
}

/// Of the server that the tests start.
pub fn version() -> String {
    super::version(&bin().map(|dir| dir.join("postgres").display().to_string()).unwrap_or_default())
}

fn quietly(command: &mut Command, dir: &Path) {
    command.current_dir(dir).stdin(Stdio::null()).stdout(Stdio::null());
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
}

impl Server {
    /// `None`, and a line that says so, without PostgreSQL.
    pub fn start() -> Option<Self> {
        Self::start_with("", &[])
    }

    /// One that takes encrypted connections only, as the certificate in that directory, which [`give_away`] has given.
    pub fn start_with_tls(certificates: &Path) -> Option<Self> {
        let file = |name: &str| certificates.join(name).display().to_string();
        let (certificate, key) = (file("server.pem"), file("server.key"));
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).expect("it is ours");
        let args = ["ssl=on".into(), format!("ssl_cert_file={certificate}"), format!("ssl_key_file={key}")];
        Self::start_with("hostnossl all all all reject\n", &args)
    }

    /// As [`start`](Self::start), for clients of that network too, who need the password.
    pub fn start_for(network: &str) -> Option<Self> {
        let mut server = Self::start_with(&format!("host all all {network} scram-sha-256\n"), &[])?;
        server.kill();
        server.listen = "*";
        server.resume();
        Some(server)
    }

    /// As [`start`](Self::start), with rules before all others for who may connect, and settings.
    fn start_with(rules: &str, settings: &[String]) -> Option<Self> {
        let Some(bin) = bin() else {
            super::skipped("PostgreSQL is not installed");
            return None;
        };
        let dir = tempfile::tempdir().expect("a temporary directory");
        give_away(dir.path());
        std::fs::write(dir.path().join("password"), PASSWORD).expect("a file");
        let mut initdb = Command::new(bin.join("initdb"));
        quietly(&mut initdb, dir.path());
        let status = initdb
            .args(["-D", "data", "-U", "tester", "--pwfile=password", "-A", "scram-sha-256"])
            .args(["-E", "UTF8", "--no-locale", "--no-sync"])
            .status();
        assert!(status.is_ok_and(|s| s.success()), "initdb failed");
        let allowed = dir.path().join("data/pg_hba.conf");
        let others = std::fs::read_to_string(&allowed).expect("initdb made it");
        std::fs::write(allowed, format!("{rules}{others}")).expect("a file");
        let args = settings.iter().flat_map(|setting| ["-c".to_owned(), setting.clone()]).collect();
        let mut server = Self { bin, dir, port: free_port(), listen: "127.0.0.1", args, child: None };
        server.resume();
        Some(server)
    }

    /// Starts it, on the port that it had.
    pub fn resume(&mut self) {
        let mut postgres = Command::new(self.bin.join("postgres"));
        quietly(&mut postgres, self.dir.path());
        let log = std::fs::File::create(self.dir.path().join("log")).expect("a file");
        let child = postgres
            .args(["-D", "data", "-h", self.listen, "-p", &self.port.to_string()])
            .args(["-c", "unix_socket_directories=", "-c", "deadlock_timeout=100ms"])
            .args(["-c", "shared_buffers=32MB", "-c", "max_connections=60", "-c", "fsync=off"])
            .args(&self.args)
            .stderr(log)
            .spawn();
        self.child = Some(child.expect("the server starts"));
        for _ in 0..600 {
            if std::fs::read_to_string(self.dir.path().join("data/postmaster.pid"))
                .is_ok_and(|text| text.lines().nth(7).is_some_and(|status| status.trim() == "ready"))
            {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("the server is not ready: {:?}", std::fs::read_to_string(self.dir.path().join("log")));
    }

    /// Ends it as a crash does.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // At once, without a word to its clients.
            let mut stop = Command::new(self.bin.join("pg_ctl"));
            quietly(&mut stop, self.dir.path());
            let _ = stop.args(["stop", "-D", "data", "-m", "immediate", "-w", "-s"]).status();
            let _ = child.wait();
        }
    }

    /// Runs statements as an operator would; each from its own connection.
    pub fn sql(&self, database: &str, text: &str) -> Vec<String> {
        let url = self.url(database);
        let text = text.to_owned();
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let (client, connection) =
                    tokio_postgres::connect(&url, tokio_postgres::NoTls).await.expect("a connection");
                tokio::spawn(connection);
                let messages = client.simple_query(&text).await.expect("the statements run");
                let rows = messages.iter().filter_map(|message| match message {
                    tokio_postgres::SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or("").to_owned()),
                    _ => None,
                });
                rows.collect()
            })
        })
        .join()
        .expect("no panic")
    }

    /// Whether all transactions that stand still have come to an end, soon.
    pub async fn is_idle(&self) -> bool {
        let open = "SELECT 1 FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'";
        for _ in 0..200 {
            if self.sql("postgres", open).is_empty() {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        false
    }

    /// Whether the server has written this into its log.
    pub fn logged(&self, text: &str) -> bool {
        std::fs::read_to_string(self.dir.path().join("log")).is_ok_and(|log| log.contains(text))
    }

    pub fn url(&self, database: &str) -> String {
        format!("postgres://tester:{PASSWORD}@127.0.0.1:{}/{database}", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
