//! Records at rest under keys: what a store holds, what a wrong key does, and how keys are changed.

#![cfg(not(feature = "shuttle"))]
#![allow(clippy::unwrap_used, reason = "a failure is what a test reports by panicking")]

mod rotation;
mod wrong_keys;

use std::time::{Duration, Instant};

use pollster::block_on;
use sessile_engine::store::{Change, Listed, MemoryStore, Row, Store};
use sessile_engine::{Builder, Delivery, Engine, Key, Keyring, Protection, Rekeying, Session, Token};

const BOTH: [Protection; 2] = [Protection::Authenticate, Protection::Encrypt];

/// Where a sealed record says how it was sealed.
const KIND_AT: usize = 6;
const KEY_ID_AT: usize = 8;

fn key(n: u8) -> Key {
    Key::from_bytes(&std::array::from_fn(|i| n.wrapping_mul(31).wrapping_add(i as u8))).unwrap()
}

fn ring(n: u8) -> Keyring {
    Keyring::new(Protection::Encrypt, key(n))
}

fn builder(ring: Keyring) -> Builder {
    Engine::builder().keyring(ring)
}

fn begin(engine: &Engine, token: &Token) -> Session {
    block_on(engine.session(Some(token))).unwrap()
}

/// A published session of `owner` that holds `value`.
fn create(engine: &Engine, owner: Option<&str>, value: &str) -> Token {
    block_on(async {
        let session = engine.session(None).await.unwrap();
        session.put("value", value).unwrap();
        if let Some(owner) = owner {
            session.login(owner).await.unwrap();
        }
        match session.commit().await.unwrap() {
            Delivery::Issue(issue) => issue.token,
            other => panic!("expected a token, got {other:?}"),
        }
    })
}

fn value(engine: &Engine, token: &Token) -> Option<String> {
    begin(engine, token).get("value").unwrap()
}

fn close(engine: Engine) {
    block_on(engine.close()).unwrap();
}

fn rows(store: &MemoryStore) -> Vec<Listed> {
    block_on(store.list(None, usize::MAX)).unwrap()
}

fn row(store: &MemoryStore, token: &Token) -> Row {
    block_on(store.load(&token.id())).unwrap().unwrap()
}

/// Writes to the store behind the engine's back.
fn set(store: &MemoryStore, id: sessile_engine::SessionId, row: Row) {
    let _ = block_on(store.commit(0, &[Change::Put { id, row }])).unwrap();
}

fn sealed_with(row: &Row, key: &Key) -> bool {
    row.bytes[KIND_AT] != 0 && row.bytes[KEY_ID_AT..][..4] == key.id().to_le_bytes()
}

/// Waits until the background pass is through.
#[expect(clippy::disallowed_methods, reason = "a bound in real time on what must not hang")]
fn rekeyed(engine: &Engine) -> Rekeying {
    let start = Instant::now();
    loop {
        let state = block_on(engine.rekeying()).unwrap();
        if state.complete {
            return state;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "never complete: {state:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn sessions_come_back_under_both_protections() {
    for protection in BOTH {
        let store = MemoryStore::new();
        let ring = || Keyring::new(protection, key(1));
        let engine = builder(ring()).open(store.clone()).unwrap();
        let token = create(&engine, Some("user:42"), "before");
        begin(&engine, &token).put("value", "after").unwrap();
        close(engine);
        assert!(sealed_with(&row(&store, &token), &key(1)));

        let engine = builder(ring()).open(store.clone()).unwrap();
        assert_eq!(value(&engine, &token).as_deref(), Some("after"));
        assert_eq!(block_on(engine.sessions_of("user:42")).unwrap().len(), 1);
        assert_eq!(block_on(engine.iterate(None, 10)).unwrap().sessions.len(), 1);
        // Renewed: the row under the new id is sealed too, and bound to it.
        let session = begin(&engine, &token);
        session.renew().unwrap();
        let Delivery::Issue(issue) = block_on(session.commit()).unwrap() else { panic!("a new token") };
        close(engine);
        assert!(sealed_with(&row(&store, &issue.token), &key(1)));
        let engine = builder(ring()).open(store.clone()).unwrap();
        assert_eq!(value(&engine, &issue.token).as_deref(), Some("after"));
        assert_eq!(value(&engine, &token), None);
        close(engine);
    }
}

/// What a thief of the file finds: owners and times, no value and no token.
#[test]
fn an_encrypted_file_holds_no_value_and_no_token() {
    use base64::Engine as _;
    let dir = tempfile::tempdir().unwrap();
    let found = |name: &str, ring: Option<Keyring>| {
        let path = dir.path().join(name);
        let mut builder = Engine::builder();
        if let Some(ring) = ring {
            builder = builder.keyring(ring);
        }
        let engine = builder.open_redb(&path).unwrap();
        let mut wanted = vec![b"MARKER-OF-A-VALUE".to_vec(), b"marker-of-a-key".to_vec()];
        for i in 0..50 {
            let token = create(&engine, Some("marker:owner"), "MARKER-OF-A-VALUE");
            let session = begin(&engine, &token);
            session.put("marker-of-a-key", &i).unwrap();
            let text = token.encode();
            wanted.push(text.as_str().as_bytes().to_vec());
            wanted.push(base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text.as_str()).unwrap());
            block_on(engine.flush()).unwrap();
        }
        close(engine);
        let bytes = std::fs::read(&path).unwrap();
        let holds = |what: &[u8]| bytes.windows(what.len()).any(|w| w == what);
        assert!(holds(b"marker:owner"), "owners are in clear");
        [holds(&wanted[0]), holds(&wanted[1]), wanted[2..].iter().any(|token| holds(token))]
    };
    assert_eq!(found("encrypted", Some(ring(1))), [false; 3]);
    // What the same search finds in what is not encrypted.
    let readable = Keyring::new(Protection::Authenticate, key(1));
    assert_eq!(found("authenticated", Some(readable)), [true, true, false]);
    assert_eq!(found("plain", None), [true, true, false]);
}

#[test]
fn an_engine_in_memory_and_one_without_keys_have_nothing_to_rekey() {
    let engine = builder(ring(1)).in_memory().unwrap();
    let token = create(&engine, None, "v");
    assert_eq!(value(&engine, &token).as_deref(), Some("v"));
    assert_eq!(block_on(engine.rekeying()), None);
    let engine = Engine::builder().open(MemoryStore::new()).unwrap();
    assert_eq!(block_on(engine.rekeying()), None);
}
