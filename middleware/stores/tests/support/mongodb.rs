//! A server of the test's own that speaks MongoDB's protocol: on a free port of the loopback, in a temporary directory,
//! ended with the value. It is SecantusDB, as MongoDB itself is in no package registry; a real one is named by
//! `SESSILE_TEST_MONGODB`.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use mongodb::bson::{Document, doc};
use mongodb::{Client, Collection, Database};

use super::process::soon;
use super::{free_port, installed, process, program, skipped};

pub const PASSWORD: &str = "s3cret-of-the-server";

pub struct Server {
    own: Option<Own>,
    url: String,
    /// Of the collections of one test, which may share a server.
    name: String,
    runtime: tokio::runtime::Runtime,
}

struct Own {
    binary: PathBuf,
    port: u16,
    args: Vec<String>,
    dir: tempfile::TempDir,
    child: Option<Child>,
}

fn binary() -> Option<PathBuf> {
    let named = std::env::var_os("SESSILE_SECANTUSD").map(PathBuf::from);
    let installed = std::env::var_os("HOME")
        .map(|home| PathBuf::from(home).join(".cache/sessile/secantusdb/bin/secantusd-py"));
    super::first_of(named.into_iter().chain(installed)).or_else(|| program("secantusd-py"))
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

impl Server {
    /// The server that was named, or one of the test's own. `None`, and a line that says so, without either.
    pub fn any() -> Option<Self> {
        match std::env::var("SESSILE_TEST_MONGODB") {
            Ok(url) if !url.is_empty() => Some(Self::of(None, url)),
            _ => Self::start(&[]),
        }
    }

    /// A server of the test's own, which may be killed.
    pub fn start(args: &[&str]) -> Option<Self> {
        let Some(binary) = binary() else {
            skipped("no secantusd-py for the MongoDB store, and SESSILE_TEST_MONGODB names no server");
            return None;
        };
        // A port may be taken by another between looking and starting.
        for _ in 0..5 {
            let (port, dir) = (free_port(), tempfile::tempdir().unwrap());
            let args = args.iter().map(|arg| (*arg).to_owned()).collect();
            let own = Own { binary: binary.clone(), port, args, dir, child: None };
            let mut server = Self::of(Some(own), format!("mongodb://127.0.0.1:{port}/"));
            if server.run() {
                return Some(server);
            }
        }
        panic!("{} does not start", binary.display());
    }

    fn of(own: Option<Own>, url: String) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("t{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        Self { own, url, name, runtime: runtime() }
    }

    /// What the suite is run against.
    pub fn version(&self) -> String {
        match &self.own {
            Some(own) => format!("SecantusDB {}, compatible", installed(&own.binary, "secantusdb")),
            None => "MongoDB, real".into(),
        }
    }

    fn run(&mut self) -> bool {
        let own = self.own.as_mut().unwrap();
        let child = Command::new(&own.binary)
            .args(["--host", "127.0.0.1", "--port", &own.port.to_string(), "--log-level", "ERROR"])
            .args(["--cache-size", "128M", "--sync-on-commit", "--storage-path"])
            .arg(own.dir.path().join("data"))
            .args(&own.args)
            .current_dir(own.dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        own.child = Some(child);
        let port = own.port;
        let listens = || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
        soon(|| listens() || self.has_ended()) && !self.has_ended()
    }

    fn has_ended(&mut self) -> bool {
        let child = self.own.as_mut().and_then(|own| own.child.as_mut());
        child.is_none_or(|child| child.try_wait().unwrap().is_some())
    }

    pub fn url(&self) -> String {
        self.url.clone()
    }

    pub fn port(&self) -> u16 {
        self.own.as_ref().unwrap().port
    }

    /// A name for the collections of one case.
    pub fn name(&self, case: &str) -> String {
        format!("{}_{case}", self.name)
    }

    /// Asks the server behind the store's back, in the database that its URL names.
    pub fn ask<T, F>(&self, call: impl FnOnce(Database) -> F) -> T
    where
        F: Future<Output = mongodb::error::Result<T>>,
    {
        self.runtime.block_on(async {
            let client = Client::with_uri_str(&self.url).await.unwrap();
            let database = client.default_database().unwrap_or_else(|| client.database("sessile"));
            let answer = call(database).await.unwrap();
            client.shutdown().await;
            answer
        })
    }

    pub fn with<T, F>(&self, collection: &str, call: impl FnOnce(Collection<Document>) -> F) -> T
    where
        F: Future<Output = mongodb::error::Result<T>>,
    {
        self.ask(|database| call(database.collection(collection)))
    }

    /// From now on only who knows [`PASSWORD`] may ask.
    pub fn wants_a_password(&mut self) {
        self.ask(async |database| {
            let admin = database.client().database("admin");
            let user = doc! { "createUser": "tester", "pwd": PASSWORD, "roles": ["root"] };
            admin.run_command(user).await
        });
        self.own.as_mut().unwrap().args.push("--auth".into());
        self.restart();
        self.url = format!("mongodb://tester:{PASSWORD}@127.0.0.1:{}/?authSource=admin", self.port());
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.own.as_mut().and_then(|own| own.child.take()) {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Starts it again, with what it has on its disk.
    pub fn restart(&mut self) {
        self.kill();
        assert!(soon(|| self.run()), "it does not start again");
    }

    /// Stops or resumes the process: its connections stay and nothing is answered.
    pub fn freeze(&self, stop: bool) {
        process::freeze(self.own.as_ref().unwrap().child.as_ref().unwrap().id(), stop);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.own.is_some() {
            return self.kill();
        }
        // Of a server that was lent, what the tests have made.
        let prefix = self.name.clone();
        self.ask(async |database| {
            for name in database.list_collection_names().await? {
                if name.starts_with(&format!("{prefix}_")) {
                    database.collection::<Document>(&name).drop().await?;
                }
            }
            Ok(())
        });
    }
}
