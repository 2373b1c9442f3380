//! etcd servers of the test's own, one or several: on free ports of the loopback, in a temporary directory, ended with
//! the value.

use std::cell::Cell;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use etcd_client::{AlarmAction, AlarmOptions, AlarmType, Client, ConnectOptions, Error};

use super::process::soon;
use super::{free_port, process, program, skipped};

pub const PASSWORD: &str = "s3cret-of-the-server";

pub struct Cluster {
    members: Vec<Member>,
    dir: tempfile::TempDir,
    secured: Cell<bool>,
    /// Where members speak TLS too, each at a port of its own.
    certificates: Option<PathBuf>,
    runtime: tokio::runtime::Runtime,
}

struct Member {
    client: u16,
    tls: u16,
    peer: u16,
    process: Option<Child>,
}

impl Cluster {
    /// `None`, and a line that says so, where there is no server.
    pub fn start(members: usize) -> Option<Self> {
        Self::start_with(members, None)
    }

    /// One that speaks TLS as well, as the certificate in that directory.
    pub fn start_with_tls(certificates: &Path) -> Option<Self> {
        Self::start_with(1, Some(certificates))
    }

    fn start_with(members: usize, certificates: Option<&Path>) -> Option<Self> {
        if program("etcd").is_none() {
            skipped("no etcd for the etcd store");
            return None;
        }
        // A port may be taken by another between looking and starting.
        for _ in 0..5 {
            let member =
                |_| Member { client: free_port(), tls: free_port(), peer: free_port(), process: None };
            let members = (0..members).map(member).collect();
            let dir = tempfile::tempdir().unwrap();
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            let runtime = builder.worker_threads(1).enable_all().build().unwrap();
            let certificates = certificates.map(Path::to_owned);
            let mut cluster = Self { members, dir, secured: Cell::new(false), certificates, runtime };
            (0..cluster.members.len()).for_each(|n| cluster.run(n));
            if cluster.is_ready() {
                return Some(cluster);
            }
            (0..cluster.members.len()).for_each(|n| cluster.kill(n));
        }
        panic!("etcd does not start");
    }

    fn run(&mut self, n: usize) {
        let peer = |n: usize, member: &Member| format!("m{n}=http://127.0.0.1:{}", member.peer);
        let peers: Vec<_> = self.members.iter().enumerate().map(|(n, member)| peer(n, member)).collect();
        let mut own = format!("http://127.0.0.1:{}", self.members[n].client);
        let mut tls = Vec::new();
        if let Some(dir) = &self.certificates {
            own += &format!(",https://127.0.0.1:{}", self.members[n].tls);
            tls = ["--cert-file".into(), dir.join("server.pem"), "--key-file".into(), dir.join("server.key")]
                .into();
        }
        let to_peers = format!("http://127.0.0.1:{}", self.members[n].peer);
        let child = Command::new(program("etcd").unwrap())
            .args(["--name", &format!("m{n}"), "--log-level", "fatal", "--logger", "zap"])
            .args(["--heartbeat-interval", "50", "--election-timeout", "500"])
            .args(["--listen-client-urls", &own, "--advertise-client-urls", &own])
            .args(["--listen-peer-urls", &to_peers, "--initial-advertise-peer-urls", &to_peers])
            .args(["--initial-cluster", &peers.join(","), "--data-dir"])
            .arg(self.dir.path().join(format!("m{n}")))
            .args(tls)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.members[n].process = Some(child);
    }

    /// Waits for the answers of all members that run; `false` if one of them has ended.
    pub fn is_ready(&mut self) -> bool {
        soon(|| self.has_ended() || self.all_answer()) && !self.has_ended()
    }

    fn has_ended(&mut self) -> bool {
        let mut running = self.members.iter_mut().filter_map(|member| member.process.as_mut());
        running.any(|process| process.try_wait().unwrap().is_some())
    }

    fn all_answer(&self) -> bool {
        let running = (0..self.members.len()).filter(|n| self.members[*n].process.is_some());
        let asked = running.map(|n| self.try_ask(n, async |mut client| client.get("x", None).await));
        // A member that wants a password lives.
        asked.into_iter().all(|answer| match answer {
            Err(Error::GRpcStatus(status)) => i32::from(status.code()) == 3,
            answer => answer.is_ok(),
        })
    }

    pub fn url(&self) -> String {
        let hosts: Vec<_> =
            self.members.iter().map(|member| format!("127.0.0.1:{}", member.client)).collect();
        let user = if self.secured.get() { format!("root:{PASSWORD}@") } else { String::new() };
        format!("etcd://{user}{}", hosts.join(","))
    }

    pub fn tls_url(&self) -> String {
        format!("etcds://127.0.0.1:{}", self.members[0].tls)
    }

    fn try_ask<T, F>(&self, n: usize, call: impl FnOnce(Client) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut options = ConnectOptions::new().with_timeout(Duration::from_secs(2));
        if self.secured.get() {
            options = options.with_user("root", PASSWORD);
        }
        self.runtime.block_on(async {
            let address = format!("127.0.0.1:{}", self.members[n].client);
            call(Client::connect([address], Some(options)).await?).await
        })
    }

    /// Asks the first server behind the store's back.
    pub fn ask<T, F>(&self, call: impl FnOnce(Client) -> F) -> T
    where
        F: Future<Output = Result<T, Error>>,
    {
        self.try_ask(0, call).unwrap()
    }

    /// From now on only who knows [`PASSWORD`] may ask.
    pub fn wants_a_password(&self) {
        self.ask(async |mut client| {
            client.user_add("root", PASSWORD, None).await?;
            client.role_add("root").await?;
            client.user_grant_role("root", "root").await?;
            client.auth_enable().await
        });
        self.secured.set(true);
    }

    /// What the server does by itself when its quota is used up.
    pub fn raise_no_space(&self) {
        self.ask(async |mut client| {
            let member = client.status().await?.header().map_or(0, |header| header.member_id());
            let mut options = AlarmOptions::new();
            options.with_member(member);
            client.alarm(AlarmAction::Activate, AlarmType::Nospace, Some(options)).await
        });
    }

    /// `kill -9`.
    pub fn kill(&mut self, n: usize) {
        if let Some(mut process) = self.members[n].process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Starts a member again that was killed, with what it has on its disk, or without.
    pub fn restart(&mut self, n: usize, empty: bool) {
        self.kill(n);
        if empty {
            std::fs::remove_dir_all(self.dir.path().join(format!("m{n}"))).unwrap();
        }
        self.run(n);
        assert!(self.is_ready(), "it does not start again");
    }

    /// Stops or resumes a member: its connections stay and nothing is answered.
    pub fn freeze(&self, n: usize, stop: bool) {
        process::freeze(self.members[n].process.as_ref().unwrap().id(), stop);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        (0..self.members.len()).for_each(|n| self.kill(n));
    }
}
