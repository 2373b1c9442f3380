//! What is on the server: which keys, for how long, and what is made of items that nobody understands.

use std::time::{SystemTime, UNIX_EPOCH};

use super::*;

fn now() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

fn due(expires_at: u64) -> Row {
    Row { expires_at, ..row(1) }
}

/// The server is slower than nothing, and rounds.
fn is_about(found: i64, wanted: i64) -> bool {
    (wanted - 60..=wanted + 1).contains(&found)
}

#[test]
fn the_server_keeps_a_row_until_five_minutes_after_it_is_due() {
    const DAY_MS: u64 = 24 * 3600 * 1000;
    let Some(server) = Server::start(&[]) else { return };
    let store = open(&server);
    let now = now();
    for (n, left_ms, wanted) in [
        (1, 0, 300),
        (2, 3_600_000, 3900),
        // From a month on, times are moments to the server.
        (3, 30 * DAY_MS, 30 * 24 * 3600 + 300),
        (4, 400 * DAY_MS, 400 * 24 * 3600 + 300),
    ] {
        assert_eq!(block_on(store.commit(now, &[insert(n, due(now + left_ms))])).unwrap(), [Outcome::Done]);
        let (_, ttl) = server.item(&key(n)).unwrap();
        assert!(is_about(ttl, wanted), "{left_ms} ms left: {ttl} s");
        assert_eq!(block_on(store.load(&id(n))).unwrap(), Some(due(now + left_ms)));
    }
    // A touch that moves the end moves the server's too.
    let moved = Change::Update { id: id(1), expected: 1, row: due(now + 3_600_000) };
    assert_eq!(block_on(store.commit(now, &[moved])).unwrap(), [Outcome::Done]);
    assert!(is_about(server.item(&key(1)).unwrap().1, 3900));
    done(&store, &[insert(5, due(u64::MAX))]);
    assert_eq!(server.item(&key(5)).unwrap().1, -1, "what never ends is kept");
}

/// A clock that was far ahead for a while ends nothing.
#[test]
fn a_commit_counts_from_its_own_time() {
    let Some(server) = Server::start(&[]) else { return };
    let store = open(&server);
    let now = now();
    let _ = block_on(store.commit(now + 1_000_000_000, &[])).unwrap();
    let _ = block_on(store.commit(now, &[insert(1, due(now + 3_600_000))])).unwrap();
    assert!(is_about(server.item(&key(1)).unwrap().1, 3900));
}

#[test]
fn what_was_ended_leaves_a_tombstone_that_a_late_creation_finds() {
    let Some(server) = Server::start(&[]) else { return };
    let store = open(&server);
    done(&store, &[insert(1, row(1)), insert(2, row(1))]);
    done(&store, &[delete(1), rekey(2, 1, 3, row(1)), delete(4)]);
    // The second one was renewed, the last one never reached the server before it was ended.
    for n in [1, 2, 4] {
        let (value, ttl) = server.item(&key(n)).unwrap();
        assert_eq!(value, b"t");
        assert!(is_about(ttl, 600), "{ttl}");
        let late = server.ask(&format!("ms {} 1 ME T1000\r\nx\r\n", key(n)));
        assert_eq!(late, "NS\r\n", "a creation that comes late");
        assert_eq!(load(&store, n), None);
        // On purpose it may be begun anew.
        done(&store, &[insert(n, row(9))]);
        assert_eq!(load(&store, n), Some(row(9)));
    }
}

#[test]
fn the_largest_row_fits_and_a_smaller_server_says_that_it_is_too_large() {
    let (Some(server), Some(small)) =
        (Server::start(&[]), Server::start(&["-I", "64k", "-o", "slab_chunk_max=32768"]))
    else {
        return;
    };
    let store = open(&server);
    let owner = Some("u".repeat(255).into());
    let largest = Row { bytes: vec![0xA5; store.capabilities().max_row_bytes], owner, ..row(1) };
    let prefix = "p".repeat(64);
    let with_longest_keys = builder(&server).prefix(&prefix).connect().unwrap();
    done(&with_longest_keys, &[insert(1, largest.clone())]);
    done(&with_longest_keys, &[rekey(1, 1, 2, largest.clone())]);
    assert_eq!(load(&with_longest_keys, 2), Some(largest.clone()));
    let store = open(&small);
    done(&store, &[insert(1, row(1))]);
    assert_eq!(kind(commit(&store, &[insert(2, largest)])), StoreErrorKind::TooLarge);
    assert_eq!(load(&store, 2), None);
    done(&store, &[insert(3, row(3))]);
    assert_eq!((load(&store, 1), load(&store, 3)), (Some(row(1)), Some(row(3))));
}

/// It would overwrite whatever anybody else has written.
#[test]
fn a_server_that_compares_nothing_is_refused() {
    let Some(server) = Server::start(&["-C"]) else { return };
    assert_eq!(kind(builder(&server).connect()), StoreErrorKind::Config);
}

#[test]
fn stores_with_different_prefixes_see_nothing_of_each_other() {
    let Some(server) = Server::start(&[]) else { return };
    let one = open(&server);
    let other = MemcachedStore::builder(&format!("{}/other", server.url())).connect().unwrap();
    done(&one, &[insert(1, row(1))]);
    assert_eq!(load(&other, 1), None);
    done(&other, &[insert(1, row(2)), delete(1)]);
    assert_eq!(load(&one, 1), Some(row(1)));
    assert_eq!(block_on(one.high_water()).unwrap(), NOW);
}

#[test]
fn a_damaged_item_is_put_aside_with_its_bytes() {
    let Some(server) = Server::start(&[]) else { return };
    let store = open(&server);
    for (n, value) in (1..).zip([&b"x"[..], b"", b"r", b"r\x02", b"p123", b"m123", b"t "]) {
        server.set(&key(n), value);
        assert_eq!(kind(block_on(store.load(&id(n)))), StoreErrorKind::Corrupt, "{value:?}");
        assert_eq!(commit(&store, &[update(n, 1, row(2))]).unwrap(), [Outcome::Missing]);
        assert_eq!(commit(&store, &[insert(n, row(2))]).unwrap(), [Outcome::Exists]);
        assert_eq!(commit(&store, &[rekey(n, 1, 99, row(2))]).unwrap(), [Outcome::Missing]);
        assert_eq!(server.item(&key(99)), None, "nothing is left of it");
        done(&store, &[Change::Quarantine { id: id(n) }]);
        assert_eq!(load(&store, n), None);
        let (aside, ttl) = server.item(&format!("sessile/1/q/{}", id(n))).unwrap();
        assert_eq!(aside, value);
        assert!(is_about(ttl, 30 * 24 * 3600), "{ttl}");
        done(&store, &[insert(n, row(2))]);
    }
}

#[test]
fn sessions_are_spread_over_all_servers_and_a_renewal_goes_from_one_to_another() {
    let (Some(one), Some(other)) = (Server::start(&[]), Server::start(&[])) else { return };
    let url = format!("{},127.0.0.1:{}", one.url(), other.port());
    let store = MemcachedStore::builder(&url).deadline(BOUND).connect().unwrap();
    done(&store, &(0..64).map(|n| insert(n, row(1))).collect::<Vec<_>>());
    let on = |server: &Server| (0..64).filter(|n| server.item(&key(*n)).is_some()).count();
    assert_eq!(on(&one) + on(&other), 64);
    assert!(on(&one) > 10 && on(&other) > 10, "{} and {}", on(&one), on(&other));
    done(&store, &(0..64).map(|n| rekey(n, 1, n + 100, row(2))).collect::<Vec<_>>());
    for n in 0..64 {
        assert_eq!((load(&store, n), load(&store, n + 100)), (None, Some(row(2))));
    }
    // A server that is away takes its own sessions with it only, and nobody else has them.
    drop(other);
    let left = (100..164).filter(|n| one.item(&key(*n)).is_some()).count();
    let hasty = MemcachedStore::builder(&url).deadline(Duration::from_millis(500));
    assert_eq!(kind(hasty.connect()), StoreErrorKind::Unavailable, "all must be there");
    let loaded = (100..164).filter(|n| block_on(store.load(&id(*n))).is_ok_and(|row| row.is_some())).count();
    assert_eq!(loaded, left);
}
