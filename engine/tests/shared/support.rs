//! Engines over one store, and a store that tells nobody anything.

use std::time::{Duration, Instant};

use pollster::block_on;
use sessile_engine::store::{
    Capabilities, Change, Expired, Listed, MemoryStore, Outcome, Row, Store, StoreError,
};
use sessile_engine::{Builder, Delivery, Engine, Result, Session, SessionId, Token};

/// Nothing here takes this long unless it never happens.
const BOUND: Duration = Duration::from_secs(30);

/// A shared store without notices.
pub(crate) struct Silent(pub(crate) MemoryStore);

impl Store for Silent {
    fn name(&self) -> &'static str {
        "silent"
    }
    fn capabilities(&self) -> Capabilities {
        let mut can = self.0.capabilities();
        can.exclusive = false;
        can.watch = false;
        can
    }
    async fn high_water(&self) -> Result<u64, StoreError> {
        self.0.high_water().await
    }
    async fn load(&self, id: &SessionId) -> Result<Option<Row>, StoreError> {
        self.0.load(id).await
    }
    async fn commit(&self, now: u64, changes: &[Change]) -> Result<Vec<Outcome>, StoreError> {
        self.0.commit(now, changes).await
    }
    async fn expire(&self, now: u64, high_water: u64, limit: usize) -> Result<Expired, StoreError> {
        self.0.expire(now, high_water, limit).await
    }
    async fn list(&self, after: Option<SessionId>, limit: usize) -> Result<Vec<Listed>, StoreError> {
        self.0.list(after, limit).await
    }
    async fn list_owner(&self, owner: &str) -> Result<Vec<Listed>, StoreError> {
        self.0.list_owner(owner).await
    }
    async fn count(&self) -> Result<Option<u64>, StoreError> {
        self.0.count().await
    }
    async fn close(&self) -> Result<(), StoreError> {
        self.0.close().await
    }
}

/// Two engines over a store that tells nothing and is asked for each request: what they see depends on no thread.
pub(crate) fn strict_pair() -> (MemoryStore, Engine, Engine) {
    let rows = MemoryStore::new();
    let open = || strict().open(Silent(rows.clone())).unwrap();
    let (a, b) = (open(), open());
    (rows, a, b)
}

pub(crate) fn strict() -> Builder {
    Engine::builder().max_staleness(Duration::ZERO)
}

pub(crate) fn begin(engine: &Engine, token: &Token) -> Session {
    block_on(engine.session(Some(token))).unwrap()
}

pub(crate) fn commit(session: &Session) -> Delivery {
    block_on(session.commit()).unwrap()
}

pub(crate) fn issued(session: &Session) -> Token {
    match commit(session) {
        Delivery::Issue(issue) => issue.token,
        other => panic!("expected a token, got {other:?}"),
    }
}

/// A session with `k` = 0, stored.
pub(crate) fn fresh(engine: &Engine) -> Token {
    let session = block_on(engine.session(None)).unwrap();
    session.put("k", &0).unwrap();
    issued(&session)
}

/// One request that puts a value.
pub(crate) fn put(engine: &Engine, token: &Token, key: &str, value: u64) {
    let session = begin(engine, token);
    session.put(key, &value).unwrap();
    commit(&session);
}

/// What one request reads.
pub(crate) fn get(engine: &Engine, token: &Token, key: &str) -> Option<u64> {
    begin(engine, token).get(key).unwrap()
}

#[expect(clippy::disallowed_methods, reason = "a bound in real time on what must not hang")]
pub(crate) fn soon(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < BOUND, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
