//! The way to the servers: one of them at a time, another when it fails. It sends questions and knows no keys.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions, GetOptions, GetResponse, KvClient, Txn, TxnResponse, WatchClient};
use sessile_engine::store::{StoreError, StoreErrorKind};
use tokio::sync::Mutex;

use super::error;

/// Largest answer: a page of the largest rows.
const MAX_ANSWER: usize = 256 << 20;
/// Between two attempts, when no server answers.
const PAUSE: Duration = Duration::from_millis(50);

pub(super) struct Link {
    servers: Vec<Server>,
    /// The one that is asked: any number, of which the remainder counts.
    current: AtomicUsize,
    options: ConnectOptions,
    /// How long one server may take, so that there is time for another.
    patience: Duration,
    closed: AtomicBool,
}

struct Server {
    address: String,
    client: Mutex<Option<Client>>,
}

/// Why an attempt failed, and whether it may have been applied.
struct Failed {
    e: StoreError,
    not_sent: bool,
}

impl Link {
    pub(super) fn new(addresses: &[String], options: ConnectOptions, deadline: Duration) -> Self {
        let server = |address: &String| Server { address: address.clone(), client: Mutex::new(None) };
        Self {
            servers: addresses.iter().map(server).collect(),
            current: AtomicUsize::new(0),
            options,
            patience: if addresses.len() > 1 { deadline / 3 } else { deadline },
            closed: AtomicBool::new(false),
        }
    }

    pub(super) fn patience(&self) -> Duration {
        self.patience
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Hangs up. What is on its way comes to its end.
    pub(super) async fn close(&self) {
        self.closed.store(true, Ordering::Release);
        for server in &self.servers {
            server.client.lock().await.take();
        }
    }

    /// Asks another server from now on, unless somebody decided so before.
    pub(super) fn leave(&self, at: usize) {
        let _ = self.current.compare_exchange(at, at.wrapping_add(1), Ordering::AcqRel, Ordering::Acquire);
    }

    async fn forget(&self, at: usize) {
        if let Some(server) = self.servers.get(at % self.servers.len().max(1)) {
            server.client.lock().await.take();
        }
    }

    /// A client of the server of now, and what to say to [`leave`](Self::leave).
    async fn client(&self) -> (usize, Result<Client, etcd_client::Error>) {
        let at = self.current.load(Ordering::Acquire);
        let Some(server) = self.servers.get(at % self.servers.len().max(1)) else {
            return (at, Err(etcd_client::Error::InvalidArgs("no server".into())));
        };
        let mut client = server.client.lock().await;
        if let Some(client) = &*client {
            return (at, Ok(client.clone()));
        }
        // It connects when it is used; with a password, it asks for a token now.
        let connected = Client::connect([&server.address], Some(self.options.clone())).await;
        if let Ok(connected) = &connected {
            *client = Some(connected.clone());
        }
        (at, connected)
    }

    async fn attempt<T, F>(&self, what: &'static str, call: impl FnOnce(Client) -> F) -> Result<T, Failed>
    where
        F: Future<Output = Result<T, etcd_client::Error>> + Send,
    {
        if self.is_closed() {
            return Err(Failed { e: error::closed(), not_sent: false });
        }
        let mut asked = self.current.load(Ordering::Acquire);
        let mut sent = false;
        let attempt = async {
            let (at, client) = self.client().await;
            asked = at;
            let client = client?;
            sent = true;
            call(client).await
        };
        let failed = match tokio::time::timeout(self.patience, attempt).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(e)) => Failed { not_sent: !sent || error::was_not_sent(&e), e: error::of(what, e) },
            Err(_) => {
                // Its connection may lead nowhere: the next call has another.
                self.forget(asked).await;
                let what = format!("{what}: no answer within {} ms", self.patience.as_millis());
                Failed { e: error::own(StoreErrorKind::Unavailable, what), not_sent: !sent }
            }
        };
        if failed.e.kind() == StoreErrorKind::Unavailable {
            self.leave(asked);
        }
        Err(failed)
    }

    /// Asks one server after another while `again` says so of a failure; the store's deadline ends it.
    async fn ask<T, F>(
        &self,
        what: &'static str,
        again: fn(&Failed) -> bool,
        call: impl Fn(Client) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, etcd_client::Error>> + Send,
    {
        for tried in 1.. {
            match self.attempt(what, &call).await {
                Ok(answer) => return Ok(answer),
                Err(failed) => {
                    let enough = tried >= 3 * self.servers.len();
                    if enough || failed.e.kind() != StoreErrorKind::Unavailable || !again(&failed) {
                        return Err(failed.e);
                    }
                }
            }
            if tried % self.servers.len() == 0 {
                tokio::time::sleep(PAUSE).await;
            }
        }
        Err(error::closed())
    }

    /// Reads, from whichever server answers, what a majority has.
    pub(super) async fn get(
        &self,
        what: &'static str,
        key: &[u8],
        options: &GetOptions,
    ) -> Result<GetResponse, StoreError> {
        self.ask(
            what,
            |_| true,
            |client| {
                let (key, options) = (key.to_vec(), options.clone());
                async move { kv(&client).get(key, Some(options)).await }
            },
        )
        .await
    }

    /// Reads many keys at one revision.
    pub(super) async fn read(&self, what: &'static str, txn: &Txn) -> Result<TxnResponse, StoreError> {
        self.ask(
            what,
            |_| true,
            |client| {
                let txn = txn.clone();
                async move { kv(&client).txn(txn).await }
            },
        )
        .await
    }

    /// Changes something, once: it is sent again only if nobody can have taken it.
    pub(super) async fn write(&self, what: &'static str, txn: &Txn) -> Result<TxnResponse, StoreError> {
        self.ask(
            what,
            |failed| failed.not_sent,
            |client| {
                let txn = txn.clone();
                async move { kv(&client).txn(txn).await }
            },
        )
        .await
    }

    /// A new lease; one that is not used runs out.
    pub(super) async fn lease(&self, ttl: Duration) -> Result<i64, StoreError> {
        let seconds = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
        let grant = |mut client: Client| async move { Ok(client.lease_grant(seconds, None).await?.id()) };
        self.ask("a lease", |_| true, grant).await
    }

    /// For a watch: the client of the server of now.
    pub(super) async fn watcher(&self) -> Result<(usize, WatchClient), StoreError> {
        if self.is_closed() {
            return Err(error::closed());
        }
        let (at, client) = self.client().await;
        match client {
            Ok(client) => Ok((at, client.watch_client().max_decoding_message_size(MAX_ANSWER))),
            Err(e) => {
                self.leave(at);
                Err(error::of("no news of changes", e))
            }
        }
    }
}

fn kv(client: &Client) -> KvClient {
    client.kv_client().max_decoding_message_size(MAX_ANSWER)
}
