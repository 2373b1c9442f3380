//! The way to the servers: which of them has a key, and some connections to each. It sends single questions and knows
//! nothing of sessions.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use async_memcached::{Client, Error, MetaProtocol as _, Status};
use sessile_engine::SessionId;
use sessile_engine::store::{StoreError, StoreErrorKind};
use tokio::sync::Semaphore;

use super::error;

pub(super) struct Link {
    servers: Vec<Server>,
    closed: AtomicBool,
}

struct Server {
    address: String,
    /// Where it stands among the others.
    seed: u64,
    /// As many connections may be in use.
    permits: Semaphore,
    idle: Mutex<Vec<Client>>,
}

/// A value, and what it is compared by.
pub(super) struct Seen {
    pub(super) cas: u64,
    pub(super) raw: Vec<u8>,
}

/// What a write of one item asks for.
#[derive(Clone, Copy)]
pub(super) enum If {
    /// Nothing is there.
    Absent,
    /// It is what was seen.
    Unchanged(u64),
    Always,
}

/// FNV-1a: a number for an address that is the same in every process.
fn seed(address: &str) -> u64 {
    address
        .bytes()
        .fold(0xCBF2_9CE4_8422_2325, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}

/// SplitMix64's last steps.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

impl Link {
    pub(super) fn new(addresses: Vec<String>, pool_size: usize) -> Self {
        let server = |address: String| Server {
            seed: seed(&address),
            address,
            permits: Semaphore::new(pool_size.clamp(1, Semaphore::MAX_PERMITS)),
            idle: Mutex::default(),
        };
        Self { servers: addresses.into_iter().map(server).collect(), closed: AtomicBool::new(false) }
    }

    pub(super) fn servers(&self) -> usize {
        self.servers.len()
    }

    /// The server of an id: the one that scores highest with it (rendezvous hashing). The order of the list does not
    /// matter, and a server more or less moves its own share of the sessions only.
    pub(super) fn place(&self, id: &SessionId) -> usize {
        let (head, _) = id.as_bytes().split_first_chunk::<8>().unwrap_or((&[0; 8], &[]));
        let head = u64::from_le_bytes(*head);
        let scores = self.servers.iter().map(|server| mix(server.seed ^ head));
        scores.enumerate().max_by_key(|(_, score)| *score).map_or(0, |(n, _)| n)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Hangs up. What is on its way comes to its end.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        for server in &self.servers {
            server.forget();
        }
    }

    fn server(&self, at: usize) -> Result<&Server, StoreError> {
        if self.is_closed() {
            return Err(error::closed());
        }
        self.servers.get(at).ok_or_else(|| error::own(StoreErrorKind::Config, "there is no such server"))
    }

    /// The item of a key.
    pub(super) async fn get(
        &self,
        at: usize,
        what: &'static str,
        key: &str,
    ) -> Result<Option<Seen>, StoreError> {
        let server = self.server(at)?;
        let _permit = server.permit().await?;
        // A connection may have been closed while it was idle. It changes nothing to ask again over a new one.
        if let Some(client) = server.take() {
            match server.get(client, key).await {
                Err(e) if !matches!(e, Error::Protocol(_)) => server.forget(),
                answer => return answer.map_err(|e| error::of(what, e)),
            }
        }
        let client = server.connect().await.map_err(|e| error::of(what, e))?;
        server.get(client, key).await.map_err(|e| error::of(what, e))
    }

    /// Writes an item; `false` if it is not as was asked for. It is sent once: if the answer is lost, it is written or
    /// not.
    pub(super) async fn set(
        &self,
        at: usize,
        what: &'static str,
        key: &str,
        value: &[u8],
        ttl: u64,
        only: If,
    ) -> Result<bool, StoreError> {
        let server = self.server(at)?;
        let _permit = server.permit().await?;
        let mut client = match server.take() {
            Some(client) => client,
            None => server.connect().await.map_err(|e| error::of(what, e))?,
        };
        let ttl = format!("T{ttl}");
        let compared = match only {
            If::Absent => "ME".to_owned(),
            If::Unchanged(cas) => format!("C{cas}"),
            If::Always => "MS".to_owned(),
        };
        let flags: [&str; 2] = [&ttl, &compared];
        let answer = client.meta_set(key, value, false, None, Some(&flags)).await;
        server.written(client, what, answer.map(|_| ()))
    }

    /// Removes an item if it is what was seen; `false` if it is not.
    pub(super) async fn remove(
        &self,
        at: usize,
        what: &'static str,
        key: &str,
        cas: u64,
    ) -> Result<bool, StoreError> {
        let server = self.server(at)?;
        let _permit = server.permit().await?;
        let mut client = match server.take() {
            Some(client) => client,
            None => server.connect().await.map_err(|e| error::of(what, e))?,
        };
        let compared = format!("C{cas}");
        let answer = client.meta_delete(key, false, None, Some(&[&compared])).await;
        server.written(client, what, answer.map(|_| ()))
    }

    /// What version a server says it has.
    pub(super) async fn version(&self, at: usize) -> Result<String, StoreError> {
        let server = self.server(at)?;
        let _permit = server.permit().await?;
        let mut client = server.connect().await.map_err(|e| error::of("opening", e))?;
        let version = client.version().await.map_err(|e| error::of("opening", e))?;
        server.keep(client);
        Ok(version.trim().to_owned())
    }
}

impl Server {
    async fn permit(&self) -> Result<tokio::sync::SemaphorePermit<'_>, StoreError> {
        self.permits.acquire().await.map_err(|_| error::closed())
    }

    async fn connect(&self) -> Result<Client, Error> {
        Client::new(format!("tcp://{}", self.address)).await
    }

    async fn get(&self, mut client: Client, key: &str) -> Result<Option<Seen>, Error> {
        // The value, and what it is compared by.
        let found = client.meta_get(key, false, None, Some(&["v", "c"])).await?;
        self.keep(client);
        Ok(found.map(|found| Seen { cas: found.cas.unwrap_or(0), raw: found.data.unwrap_or_default() }))
    }

    /// What an answer to a write means. After any but the expected ones nobody knows what the connection says next.
    fn written(
        &self,
        client: Client,
        what: &'static str,
        answer: Result<(), Error>,
    ) -> Result<bool, StoreError> {
        let done = match answer {
            Ok(()) => true,
            Err(Error::Protocol(Status::NotStored | Status::Exists | Status::NotFound)) => false,
            Err(e) => {
                if !matches!(e, Error::Protocol(_)) {
                    self.forget();
                }
                return Err(error::of(what, e));
            }
        };
        self.keep(client);
        Ok(done)
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Client>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Option<Client> {
        self.idle().pop()
    }

    fn keep(&self, client: Client) {
        self.idle().push(client);
    }

    /// One connection has failed, so the others may lead nowhere too.
    fn forget(&self) {
        let forgotten = std::mem::take(&mut *self.idle());
        drop(forgotten);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u64) -> SessionId {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&mix(n).to_le_bytes());
        SessionId::from_bytes(bytes)
    }

    fn places(addresses: &[&str]) -> Vec<String> {
        let link = Link::new(addresses.iter().map(|a| (*a).to_owned()).collect(), 1);
        (0..3000).map(|n| link.servers[link.place(&id(n))].address.clone()).collect()
    }

    #[test]
    fn every_process_finds_a_session_on_the_same_server_whatever_the_order_of_the_list() {
        let one = places(&["a:1", "b:1", "c:1"]);
        assert_eq!(one, places(&["c:1", "a:1", "b:1"]));
        for address in ["a:1", "b:1", "c:1"] {
            let share = one.iter().filter(|place| *place == address).count();
            assert!((800..1200).contains(&share), "{address} has {share} of 3000");
        }
        // Pinned: another function would lose all sessions of who upgrades.
        assert_eq!(seed("a:1"), 0xE661_E419_04A0_9E69);
    }

    #[test]
    fn a_server_more_moves_only_what_it_gets_itself() {
        let (before, after) = (places(&["a:1", "b:1"]), places(&["a:1", "b:1", "c:1"]));
        assert!(before.iter().zip(&after).all(|(before, after)| before == after || after == "c:1"));
    }
}
