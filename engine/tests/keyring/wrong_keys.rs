//! A wrong keyring logs nobody out and destroys nothing; a changed row under the right one is damage.

use sessile_engine::clock::ManualClock;
use sessile_engine::{ErrorKind, StoreErrorKind};

use super::*;

/// Sessions under key 1 and one under key 2, so that an engine with either key starts.
fn mixed() -> (MemoryStore, Vec<Token>, Token) {
    let store = MemoryStore::new();
    let engine = builder(ring(1)).open(store.clone()).unwrap();
    let of_one = (0..5).map(|i| create(&engine, Some("one"), &format!("v{i}"))).collect();
    close(engine);
    let other = MemoryStore::new();
    let engine = builder(ring(2)).open(other.clone()).unwrap();
    let of_two = create(&engine, Some("two"), "w");
    close(engine);
    set(&store, of_two.id(), row(&other, &of_two));
    (store, of_one, of_two)
}

#[test]
fn a_session_of_an_unknown_key_is_an_error_and_its_row_stays() {
    let (store, of_one, of_two) = mixed();
    let before = rows(&store);
    let engine = builder(ring(2)).open(store.clone()).unwrap();
    assert_eq!(value(&engine, &of_two).as_deref(), Some("w"));
    for token in &of_one {
        let error = block_on(engine.session(Some(token))).unwrap_err();
        assert_eq!((error.kind(), error.http_status()), (ErrorKind::Store, 503));
        assert!(!error.is_temporary());
        let error = error.store_error().unwrap();
        assert_eq!(error.kind(), StoreErrorKind::Key);
        assert!(error.to_string().contains(&format!("{:08x}", key(1).id())), "{error}");
    }
    // Never a partial list.
    assert_eq!(block_on(engine.sessions_of("one")).unwrap_err().kind(), ErrorKind::Store);
    assert_eq!(block_on(engine.iterate(None, 10)).unwrap_err().kind(), ErrorKind::Store);
    assert_eq!(block_on(engine.open(&of_one[0].id())).unwrap_err().kind(), ErrorKind::Store);
    assert_eq!(block_on(engine.sessions_of("two")).unwrap().len(), 1);
    let state = rekeyed(&engine);
    assert_eq!((state.unopened, state.damaged, state.resealed), (5, 0, 0));
    let stats = block_on(engine.stats());
    assert!(stats.unopened >= 7, "{stats:?}");
    assert_eq!(stats.quarantined, 0);
    close(engine);
    assert_eq!(rows(&store), before);

    // With the right ring they are all there.
    let engine = builder(ring(2).accept(key(1)).unwrap()).open(store).unwrap();
    for (i, token) in of_one.iter().enumerate() {
        assert_eq!(value(&engine, token), Some(format!("v{i}")));
    }
    assert_eq!(block_on(engine.sessions_of("one")).unwrap().len(), 5);
}

/// Revoking needs no key: who must be logged out is, whatever the keys.
#[test]
fn sessions_of_an_unknown_key_can_be_ended() {
    let (store, of_one, of_two) = mixed();
    let engine = builder(ring(2)).open(store.clone()).unwrap();
    block_on(engine.destroy_session(&of_one[0].id())).unwrap();
    assert_eq!(block_on(engine.destroy_all("one", None)).unwrap(), 4);
    close(engine);
    assert_eq!(rows(&store).iter().map(|l| l.id).collect::<Vec<_>>(), [of_two.id()]);
}

#[test]
fn an_engine_whose_keys_open_nothing_does_not_start() {
    for protection in BOTH {
        let store = MemoryStore::new();
        let engine = builder(Keyring::new(protection, key(1))).open(store.clone()).unwrap();
        let token = create(&engine, None, "v");
        close(engine);
        let before = rows(&store);
        let refused = |builder: Builder| {
            let error = builder.open(store.clone()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{error}");
            assert!(error.to_string().contains(&format!("{:08x}", key(1).id())), "names the key: {error}");
        };
        refused(builder(ring(2)));
        refused(builder(ring(2).accept(key(3)).unwrap().accept_unkeyed(true)));
        refused(Engine::builder());
        assert_eq!(rows(&store), before);
        let engine = builder(ring(2).accept(key(1)).unwrap()).open(store.clone()).unwrap();
        assert_eq!(value(&engine, &token).as_deref(), Some("v"));
        close(engine);
    }
}

#[test]
fn expired_sessions_of_a_lost_key_keep_no_engine_from_starting() {
    let store = MemoryStore::new();
    let clock = ManualClock::new(1_800_000_000_000);
    let minute = Duration::from_secs(60);
    let engine = builder(ring(1)).clock(clock.clone()).lifetime(minute).open(store.clone()).unwrap();
    create(&engine, None, "v");
    close(engine);
    let open = || builder(ring(2)).clock(clock.clone()).open(store.clone());
    assert_eq!(open().unwrap_err().kind(), ErrorKind::Config);
    clock.advance(minute);
    assert_eq!(rows(&store).len(), 1);
    open().unwrap();
}

#[test]
fn records_without_a_key_are_refused_until_they_are_accepted() {
    let store = MemoryStore::new();
    let engine = Engine::builder().open(store.clone()).unwrap();
    let token = create(&engine, None, "v");
    close(engine);
    let before = rows(&store);
    assert_eq!(builder(ring(1)).open(store.clone()).unwrap_err().kind(), ErrorKind::Config);

    // Beside one with a key the engine starts, and leaves it alone all the same.
    let mixed = MemoryStore::new();
    let engine = builder(ring(1)).open(mixed.clone()).unwrap();
    let keyed = create(&engine, None, "w");
    close(engine);
    set(&mixed, token.id(), before[0].row.clone());
    let engine = builder(ring(1)).open(mixed.clone()).unwrap();
    let error = block_on(engine.session(Some(&token))).unwrap_err();
    assert_eq!(error.store_error().unwrap().kind(), StoreErrorKind::Key);
    assert_eq!(value(&engine, &keyed).as_deref(), Some("w"));
    assert_eq!(block_on(engine.stats()).quarantined, 0);
    assert_eq!(rekeyed(&engine).unopened, 1);
    close(engine);
    assert_eq!(row(&mixed, &token), before[0].row);

    let engine = builder(ring(1).accept_unkeyed(true)).open(mixed.clone()).unwrap();
    assert_eq!(value(&engine, &token).as_deref(), Some("v"));
    assert_eq!(rekeyed(&engine).resealed, 1);
    close(engine);
    let engine = builder(ring(1)).open(mixed.clone()).unwrap();
    assert_eq!(value(&engine, &token).as_deref(), Some("v"));
    close(engine);
}

/// Rows that were put together from parts of others, under the right key.
#[test]
fn a_forged_row_is_quarantined_and_nobody_else_suffers() {
    for protection in BOTH {
        let store = MemoryStore::new();
        let ring = || Keyring::new(protection, key(1));
        let engine = builder(ring()).open(store.clone()).unwrap();
        let tokens: Vec<Token> = (0..5).map(|i| create(&engine, None, &format!("v{i}"))).collect();
        block_on(engine.flush()).unwrap();
        let old = row(&store, &tokens[0]);
        begin(&engine, &tokens[0]).put("value", "newer").unwrap();
        close(engine);
        let new = row(&store, &tokens[0]);
        assert!(new.version > old.version);
        // An older record in a row of the newer version.
        set(&store, tokens[0].id(), Row { bytes: old.bytes.clone(), ..new });
        // Another session's record.
        let other = row(&store, &tokens[2]);
        set(&store, tokens[1].id(), Row { bytes: other.bytes.clone(), ..row(&store, &tokens[1]) });
        // A changed bit.
        let mut flipped = row(&store, &tokens[3]);
        *flipped.bytes.last_mut().unwrap() ^= 1;
        set(&store, tokens[3].id(), flipped);

        let engine = builder(ring()).open(store.clone()).unwrap();
        for (i, token) in tokens.iter().enumerate() {
            let expected = (i == 2 || i == 4).then(|| format!("v{i}"));
            assert_eq!(value(&engine, token), expected, "{protection:?} {i}");
        }
        assert_eq!(block_on(engine.stats()).quarantined, 3);
        assert_eq!(block_on(engine.stats()).unopened, 0);
        block_on(engine.flush()).unwrap();
        assert_eq!(rows(&store).len(), 2);
        close(engine);
    }
}

/// What binding the version does not give: a whole row that was put back is one that was valid once.
#[test]
fn a_row_that_is_put_back_whole_is_not_noticed() {
    let store = MemoryStore::new();
    let engine = builder(ring(1)).open(store.clone()).unwrap();
    let token = create(&engine, None, "old");
    block_on(engine.flush()).unwrap();
    let old = row(&store, &token);
    begin(&engine, &token).put("value", "new").unwrap();
    close(engine);
    set(&store, token.id(), old);
    let engine = builder(ring(1)).open(store).unwrap();
    assert_eq!(value(&engine, &token).as_deref(), Some("old"));
}
