//! Changing keys: stored records are sealed anew, and nothing else about them changes.

use std::sync::atomic::{AtomicBool, Ordering};

use sessile_engine::record::Record;

use super::*;

/// More than one turn of the pass looks at.
const MANY: usize = 300;

/// A store with sessions as `ring` seals them.
fn filled(ring: Option<Keyring>, n: usize) -> (MemoryStore, Vec<Token>) {
    let store = MemoryStore::new();
    let mut builder = Engine::builder().idle_timeout(Duration::from_secs(3600));
    if let Some(ring) = ring {
        builder = builder.keyring(ring);
    }
    let engine = builder.open(store.clone()).unwrap();
    let tokens =
        (0..n).map(|i| create(&engine, Some(&format!("user:{}", i % 7)), &format!("v{i}"))).collect();
    close(engine);
    (store, tokens)
}

#[test]
fn stored_sessions_are_sealed_anew_and_the_old_key_can_go() {
    let (store, tokens) = filled(Some(ring(1)), MANY);
    let before = rows(&store);
    assert!(before.iter().all(|l| sealed_with(&l.row, &key(1))));

    let engine = builder(ring(2).accept(key(1)).unwrap()).open(store.clone()).unwrap();
    let state = rekeyed(&engine);
    assert_eq!((state.resealed, state.left, state.unopened, state.damaged), (MANY as u64, Some(0), 0, 0));
    assert!(state.passes >= 2, "a pass that found nothing is the proof: {state:?}");
    assert_eq!(state.checked, MANY as u64);
    close(engine);

    // Only the envelope is another.
    let after = rows(&store);
    assert_eq!(after.len(), before.len());
    for (old, new) in before.iter().zip(&after) {
        assert!(sealed_with(&new.row, &key(2)));
        let (a, b) = (&old.row, &new.row);
        assert_eq!((old.id, a.version, a.expires_at, &a.owner), (new.id, b.version, b.expires_at, &b.owner));
        let open = |row: &Row, n| Record::open_with(&old.id, row.version, &row.bytes, &ring(n)).unwrap();
        assert_eq!(open(a, 1).seal(&old.id), open(b, 2).seal(&old.id));
    }

    let engine = builder(ring(2)).open(store).unwrap();
    for (i, token) in tokens.iter().enumerate() {
        assert_eq!(value(&engine, token), Some(format!("v{i}")));
    }
    let state = rekeyed(&engine);
    assert_eq!((state.passes, state.resealed), (1, 0));
}

#[test]
fn another_protection_and_a_first_key_count_as_a_change() {
    let authenticate = || Keyring::new(Protection::Authenticate, key(1));
    for (from, to) in [
        (None, authenticate().accept_unkeyed(true)),
        (None, ring(1).accept_unkeyed(true)),
        (Some(authenticate()), ring(1)),
        (Some(ring(1)), authenticate()),
    ] {
        let (store, tokens) = filled(from, 3);
        let kind = rows(&store)[0].row.bytes[KIND_AT];
        let engine = builder(to).open(store.clone()).unwrap();
        assert_eq!(rekeyed(&engine).resealed, 3);
        assert_eq!(value(&engine, &tokens[0]).as_deref(), Some("v0"));
        close(engine);
        assert!(rows(&store).iter().all(|l| l.row.bytes[KIND_AT] != kind));
    }
}

/// A session that is written anyway needs no pass.
#[test]
fn what_is_written_is_sealed_with_the_active_key() {
    let (store, tokens) = filled(Some(ring(1)), 1);
    let engine = builder(ring(2).accept(key(1)).unwrap()).open(store.clone()).unwrap();
    begin(&engine, &tokens[0]).put("value", "new").unwrap();
    block_on(engine.flush()).unwrap();
    assert!(sealed_with(&row(&store, &tokens[0]), &key(2)));
    close(engine);
}

/// A cached session whose row is sealed anew under it goes on as if nothing had happened.
#[test]
fn a_cached_session_goes_on_from_the_version_it_was_read_at() {
    let (store, tokens) = filled(Some(ring(1)), 2);
    let version = row(&store, &tokens[0]).version;
    let engine = builder(ring(2).accept(key(1)).unwrap()).open(store.clone()).unwrap();
    let cached = begin(&engine, &tokens[0]);
    rekeyed(&engine);
    assert_eq!(row(&store, &tokens[0]).version, version, "no version of its own");
    cached.put("value", "new").unwrap();
    block_on(engine.flush()).unwrap();
    let written = row(&store, &tokens[0]);
    assert_eq!(written.version, version + 1, "the compare-and-set found what it expected");
    assert!(sealed_with(&written, &key(2)));
    close(engine);
    let engine = builder(ring(2)).open(store).unwrap();
    assert_eq!(value(&engine, &tokens[0]).as_deref(), Some("new"));
}

/// Writes, ends and renewals during the pass all stand, and nothing comes back.
#[test]
fn the_pass_overwrites_nothing_and_brings_nothing_back() {
    let (store, tokens) = filled(Some(ring(1)), MANY);
    let engine = builder(ring(2).accept(key(1)).unwrap()).open(store.clone()).unwrap();
    let over = AtomicBool::new(false);
    let renewed: Vec<(usize, Token)> = std::thread::scope(|scope| {
        let (engine, tokens, over) = (&engine, &tokens, &over);
        let writer = scope.spawn(move || {
            let mut round = 0;
            while !over.load(Ordering::Relaxed) {
                round += 1;
                for token in tokens.iter().skip(3).step_by(4) {
                    begin(engine, token).put("round", &round).unwrap();
                }
                block_on(engine.flush()).unwrap();
            }
            round
        });
        let mut renewed = Vec::new();
        for (i, token) in tokens.iter().enumerate() {
            match i % 4 {
                0 => {
                    begin(engine, token).destroy().unwrap();
                    block_on(engine.flush()).unwrap();
                }
                1 => {
                    let session = begin(engine, token);
                    session.renew().unwrap();
                    match block_on(session.commit()).unwrap() {
                        Delivery::Issue(issue) => renewed.push((i, issue.token)),
                        other => panic!("expected a token, got {other:?}"),
                    }
                }
                _ => {}
            }
        }
        rekeyed(engine);
        over.store(true, Ordering::Relaxed);
        assert!(writer.join().unwrap() > 0);
        renewed
    });
    close(engine);
    assert_eq!(rows(&store).len(), MANY / 4 * 3);
    assert!(rows(&store).iter().all(|l| sealed_with(&l.row, &key(2))));

    let engine = builder(ring(2)).open(store).unwrap();
    for (i, token) in tokens.iter().enumerate() {
        let expected = (i % 4 >= 2).then(|| format!("v{i}"));
        assert_eq!(value(&engine, token), expected, "{i}");
        assert_eq!(begin(&engine, token).exists("round"), i % 4 == 3);
    }
    for (i, token) in &renewed {
        assert_eq!(value(&engine, token), Some(format!("v{i}")));
    }
    assert_eq!(block_on(engine.stats()).quarantined, 0);
}

/// A redb file rotated while it is closed and opened again in the middle: the pass begins anew and ends.
#[test]
fn a_pass_that_was_cut_short_is_made_up_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sessions.redb");
    let engine = builder(ring(1)).open_redb(&path).unwrap();
    let tokens: Vec<Token> = (0..MANY).map(|i| create(&engine, None, &format!("v{i}"))).collect();
    close(engine);
    for _ in 0..3 {
        close(builder(ring(2).accept(key(1)).unwrap()).open_redb(&path).unwrap());
    }
    let engine = builder(ring(2).accept(key(1)).unwrap()).open_redb(&path).unwrap();
    rekeyed(&engine);
    close(engine);
    let engine = builder(ring(2)).open_redb(&path).unwrap();
    for (i, token) in tokens.iter().enumerate() {
        assert_eq!(value(&engine, token), Some(format!("v{i}")));
    }
}
