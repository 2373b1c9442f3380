//! Finds the server of a bucket and asks it, through moves and failovers. It knows no rows.
//!
//! The driver's own client of clusters is not used. It repeats a request whose answer was lost, and a commit must not be
//! made twice; without that it follows no redirection either. Here a request is sent again only if a server has said that
//! it did nothing, or if it only reads.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ::redis::{Client, Cmd, ErrorKind, ServerErrorKind, Value};
use sessile_engine::store::{StoreError, StoreErrorKind};

use super::join::join_all;
use super::slots::{self, Topology};
use crate::redis::link::{Call, Failed, Link, Origin};
use crate::redis::{address, error, scripts};

/// The first pause before a server is asked again that could not do anything; it doubles up to the longest.
const PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);
/// Redirections in a row that are followed at once.
const HOPS: u32 = 3;

/// The servers of a cluster.
pub(in crate::redis) struct Router {
    seeds: Vec<Client>,
    patience: Duration,
    map: Mutex<Map>,
    /// Held while the nodes are asked who serves what.
    asking: tokio::sync::Mutex<()>,
    /// How often they have been asked.
    asked: AtomicU64,
    closed: std::sync::atomic::AtomicBool,
}

#[derive(Default)]
struct Map {
    links: HashMap<String, Arc<Link>>,
    owners: HashMap<u8, Arc<Link>>,
}

/// What is asked of a bucket.
enum Question<'a> {
    /// It only reads, and may be repeated.
    Read(&'a Cmd),
    Script {
        call: &'a Call,
        reads: bool,
    },
}

impl Router {
    pub(in crate::redis) fn new(seeds: Vec<Client>, patience: Duration) -> Self {
        Self {
            seeds,
            patience,
            map: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
            asked: AtomicU64::new(0),
            closed: std::sync::atomic::AtomicBool::new(false),
        }
    }

    pub(in crate::redis) fn patience(&self) -> Duration {
        self.patience
    }

    pub(in crate::redis) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(in crate::redis) fn close(&self) -> bool {
        !self.closed.swap(true, Ordering::AcqRel)
    }

    pub(in crate::redis) fn hang_up(&self) {
        *self.map() = Map::default();
    }

    fn map(&self) -> MutexGuard<'_, Map> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client for the node at `address`, with the settings of the first seed.
    pub(in crate::redis) fn client(&self, address: &str) -> Result<Client, StoreError> {
        let wrong = || error::own(StoreErrorKind::Config, "the cluster names an address that cannot be used");
        let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().map_err(|_| wrong())?;
        let info = self.seeds.first().ok_or_else(wrong)?.get_connection_info().clone();
        let addr = address::moved(info.addr(), host, port).ok_or_else(wrong)?;
        Client::open(info.set_addr(addr)).map_err(|_| wrong())
    }

    fn link(&self, address: &str) -> Result<Arc<Link>, StoreError> {
        if let Some(link) = self.map().links.get(address) {
            return Ok(Arc::clone(link));
        }
        let link = Arc::new(Link::new(Origin::Server(Box::new(self.client(address)?)), self.patience));
        Ok(Arc::clone(self.map().links.entry(address.to_owned()).or_insert(link)))
    }

    /// Asks who serves what, unless somebody else has just done so.
    async fn refresh(&self) -> Result<(), StoreError> {
        let before = self.asked.load(Ordering::Acquire);
        let _asking = self.asking.lock().await;
        if before == self.asked.load(Ordering::Acquire) {
            self.explore().await?;
            self.asked.fetch_add(1, Ordering::AcqRel);
        }
        Ok(())
    }

    /// Asks all nodes that are known who serves what, and takes over what they say together.
    pub(in crate::redis) async fn explore(&self) -> Result<Topology, StoreError> {
        let mut known: Vec<_> = self.map().links.keys().cloned().collect();
        let seeds = self.seeds.iter().filter_map(|seed| address::of(seed.get_connection_info().addr()));
        known.extend(seeds);
        known.sort_unstable();
        known.dedup();
        // A node that is down must not keep us from what the others say.
        let patience = self.patience.min(Duration::from_millis(500)) / 2;
        let answers = join_all(known.iter().map(|node| async move {
            let link = self.link(node)?;
            match tokio::time::timeout(patience, view(&link, node)).await {
                Ok(view) => view,
                Err(_) => {
                    Err(error::own(StoreErrorKind::Unavailable, "a node of the cluster does not answer"))
                }
            }
        }))
        .await;
        let mut topology = Topology::default();
        let (mut said, mut failed) = (false, None);
        for answer in answers {
            match answer {
                Ok(view) => {
                    said = true;
                    topology.merge(view);
                }
                // A wrong password tells more than a node that is down.
                Err(e) if e.kind() == StoreErrorKind::Config => failed = Some(e),
                Err(e) => failed = failed.or(Some(e)),
            }
        }
        if !said {
            let none = || error::own(StoreErrorKind::Config, "the cluster has no nodes");
            return Err(failed.unwrap_or_else(none));
        }
        self.take_over(&topology)?;
        Ok(topology)
    }

    /// Believes what nodes say together.
    pub(in crate::redis) fn take_over(&self, topology: &Topology) -> Result<(), StoreError> {
        let mut owners = HashMap::with_capacity(slots::BUCKETS);
        for (bucket, (_, address)) in &topology.owners {
            owners.insert(*bucket, self.link(address)?);
        }
        let mut map = self.map();
        map.links.retain(|address, _| topology.primaries.contains(address));
        map.owners = owners;
        Ok(())
    }

    async fn owner(&self, bucket: u8) -> Result<Option<Arc<Link>>, StoreError> {
        let known = || self.map().owners.get(&bucket).map(Arc::clone);
        if let Some(link) = known() {
            return Ok(Some(link));
        }
        self.refresh().await?;
        Ok(known())
    }

    /// Asks for what can be asked again.
    pub(super) async fn read(&self, bucket: u8, what: &'static str, cmd: &Cmd) -> Result<Value, StoreError> {
        self.ask(bucket, what, Question::Read(cmd)).await
    }

    /// Runs a script that writes: if the answer is lost, nobody knows whether it did.
    pub(super) async fn run(&self, bucket: u8, what: &'static str, call: &Call) -> Result<Value, StoreError> {
        self.ask(bucket, what, Question::Script { call, reads: false }).await
    }

    /// Runs a script that only reads, or may as well be run twice.
    pub(super) async fn run_reading(
        &self,
        bucket: u8,
        what: &'static str,
        call: &Call,
    ) -> Result<Value, StoreError> {
        self.ask(bucket, what, Question::Script { call, reads: true }).await
    }

    /// Asks until there is an answer: the caller's deadline is the end of it.
    async fn ask(&self, bucket: u8, what: &'static str, question: Question<'_>) -> Result<Value, StoreError> {
        let (mut hops, mut pause, mut asking) = (0, PAUSE, None::<Arc<Link>>);
        let mut failures = 0;
        loop {
            let (link, is_asking) = match asking.take() {
                Some(link) => (link, true),
                None => match self.owner(bucket).await? {
                    Some(link) => (link, false),
                    None => {
                        self.wait(&mut pause, bucket).await;
                        continue;
                    }
                },
            };
            let answer = match &question {
                Question::Read(cmd) => link.try_ask(cmd, is_asking).await,
                Question::Script { call, .. } => link.try_run(call, is_asking).await,
            };
            let e = match answer {
                // Some of its keys are here and some there. That lasts while the slot moves.
                Ok(value) if scripts::is_again(&value) => {
                    rest(&mut pause).await;
                    continue;
                }
                Ok(value) => return Ok(value),
                Err(Failed::NotSent(_)) => {
                    // Nobody has it. Another may serve the slot by now.
                    self.wait(&mut pause, bucket).await;
                    continue;
                }
                Err(Failed::Lost(e)) => {
                    self.forget(bucket);
                    failures += 1;
                    let reads = matches!(question, Question::Read(_) | Question::Script { reads: true, .. });
                    if !reads || failures > HOPS {
                        return Err(error::of(what, e));
                    }
                    continue;
                }
                Err(Failed::Said(e)) => e,
            };
            let place = e.redirect_node().and_then(|(to, _)| slots::redirected(to, &link.address()));
            match (e.kind(), place) {
                (ErrorKind::Server(ServerErrorKind::Moved), Some(to)) => {
                    let there = self.link(&to)?;
                    self.map().owners.insert(bucket, there);
                }
                (ErrorKind::Server(ServerErrorKind::Ask), Some(to)) => asking = Some(self.link(&to)?),
                (ErrorKind::Server(ServerErrorKind::TryAgain), _) => {
                    rest(&mut pause).await;
                    continue;
                }
                (
                    ErrorKind::Server(
                        ServerErrorKind::ClusterDown
                        | ServerErrorKind::MasterDown
                        | ServerErrorKind::BusyLoading
                        | ServerErrorKind::ReadOnly,
                    ),
                    _,
                ) => {
                    self.wait(&mut pause, bucket).await;
                    continue;
                }
                _ => return Err(error::of(what, e)),
            }
            hops += 1;
            if hops > HOPS {
                // Two nodes that name each other.
                self.wait(&mut pause, bucket).await;
            }
        }
    }

    fn forget(&self, bucket: u8) {
        self.map().owners.remove(&bucket);
    }

    /// Gives the cluster time, and asks anew who serves the bucket.
    async fn wait(&self, pause: &mut Duration, bucket: u8) {
        rest(pause).await;
        self.forget(bucket);
    }
}

async fn rest(pause: &mut Duration) {
    tokio::time::sleep(*pause).await;
    *pause = (*pause * 2).min(LONGEST_PAUSE);
}

/// What the node of `link` sees.
async fn view(link: &Link, address: &str) -> Result<Topology, StoreError> {
    let mut cmd = ::redis::cmd("CLUSTER");
    cmd.arg("NODES");
    let said = link.ask("the nodes of the cluster", &cmd).await?;
    understood(&said, address)
}

/// The same, of its answer.
pub(in crate::redis) fn understood(said: &Value, address: &str) -> Result<Topology, StoreError> {
    let text = scripts::bytes(said).and_then(|text| std::str::from_utf8(text).ok());
    text.and_then(|text| Topology::parse(text, address))
        .ok_or_else(|| error::unexpected("the nodes of the cluster"))
}
