//! A MariaDB or MySQL server of the test's own: in a temporary directory, on a free port of the loopback interface, ended
//! with the test. It never touches a server that runs already.

use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use mysql_async::prelude::Queryable as _;

use super::{NOBODY, free_port, give_away, is_root, program};

pub const PASSWORD: &str = "s3cret-of-the-test";

pub struct Server {
    dir: tempfile::TempDir,
    port: u16,
    args: Vec<String>,
    child: Option<Child>,
}

impl Server {
    /// `None`, and a line that says so, without MariaDB.
    pub fn start() -> Option<Self> {
        Self::start_with(Vec::new())
    }

    /// With these arguments too.
    pub fn start_with(args: Vec<String>) -> Option<Self> {
        let (Some(install), Some(_)) = (program("mariadb-install-db"), program("mariadbd")) else {
            super::skipped("MariaDB is not installed");
            return None;
        };
        let dir = tempfile::tempdir().expect("a temporary directory");
        give_away(dir.path());
        let mut server = Self { dir, port: free_port(), args, child: None };
        let data = server.data();
        let mut install = server.quietly(install.as_ref());
        let status = install
            .args(["--no-defaults", &data, "--auth-root-authentication-method=normal", "--skip-test-db"])
            .args(["--innodb-flush-log-at-trx-commit=0", &server.tmpdir()])
            .stderr(std::fs::File::create(server.dir.path().join("install")).expect("a file"))
            .status();
        let told = || std::fs::read_to_string(server.dir.path().join("install"));
        assert!(status.is_ok_and(|s| s.success()), "mariadb-install-db failed: {:?}", told());
        // A statement ends with its line.
        let init = format!(
            "CREATE DATABASE sessions;\nCREATE USER tester@'127.0.0.1' IDENTIFIED BY '{PASSWORD}';\n\
             GRANT ALL ON *.* TO tester@'127.0.0.1' WITH GRANT OPTION;\n"
        );
        std::fs::write(server.dir.path().join("init.sql"), init).expect("a file");
        server.run(true);
        Some(server)
    }

    fn data(&self) -> String {
        format!("--datadir={}", self.dir.path().join("data").display())
    }

    /// A server that starts removes the temporary tables of all others that share the directory.
    fn tmpdir(&self) -> String {
        format!("--tmpdir={}", self.dir.path().display())
    }

    fn quietly(&self, program: &std::ffi::OsStr) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.dir.path()).stdin(Stdio::null()).stdout(Stdio::null());
        if is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    /// Starts it, on the port that it had.
    pub fn resume(&mut self) {
        self.run(false);
    }

    fn run(&mut self, is_first: bool) {
        let path = |name: &str| self.dir.path().join(name).display().to_string();
        let log = std::fs::File::create(path("log")).expect("a file");
        let mut server = self.quietly(program("mariadbd").expect("found before").as_ref());
        server.args(["--no-defaults", &self.data(), "--bind-address=127.0.0.1", "--skip-name-resolve"]);
        server.arg(format!("--port={}", self.port)).arg(format!("--socket={}", path("socket")));
        server.arg(format!("--pid-file={}", path("pid"))).arg(self.tmpdir()).args(&self.args);
        server.args(["--innodb-buffer-pool-size=32M", "--innodb-flush-log-at-trx-commit=2"]);
        if is_first {
            server.arg(format!("--init-file={}", path("init.sql")));
        }
        self.child = Some(server.stderr(log).spawn().expect("the server starts"));
        for _ in 0..600 {
            if std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("the server is not ready: {:?}", std::fs::read_to_string(path("log")));
    }

    /// Ends it as a crash does.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Runs statements as an operator would: the first column of the last one's rows.
    pub async fn sql(&self, text: &str) -> Vec<String> {
        let opts = mysql_async::Opts::from_url(&self.url("sessions")).expect("a URL");
        let mut conn = mysql_async::Conn::new(opts).await.expect("a connection");
        let mut rows: Vec<mysql_async::Row> = Vec::new();
        let mut result = conn.query_iter(text.to_owned()).await.expect("the statements run");
        while !result.is_empty() {
            rows = result.collect().await.expect("rows");
        }
        drop(result);
        conn.disconnect().await.expect("the end");
        rows.iter().map(|row| row.get::<Option<String>, _>(0).flatten().unwrap_or_default()).collect()
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self, database: &str) -> String {
        self.url_at(self.port, database)
    }

    pub fn url_at(&self, port: u16, database: &str) -> String {
        format!("mysql://tester:{PASSWORD}@127.0.0.1:{port}/{database}")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
