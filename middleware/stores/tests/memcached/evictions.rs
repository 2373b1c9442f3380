//! A server that needs the room: any session may end at any time, and none comes back.

use super::*;

#[test]
fn an_evicted_session_has_ended() {
    let Some(server) = Server::start(&[]) else { return };
    let store = open(&server);
    done(&store, &[insert(1, row(1))]);
    server.evict(&key(1));
    assert_eq!(load(&store, 1), None);
    assert_eq!(commit(&store, &[update(1, 1, row(2))]).unwrap(), [Outcome::Missing]);
    assert_eq!(commit(&store, &[rekey(1, 1, 2, row(2))]).unwrap(), [Outcome::Missing]);
    assert_eq!((load(&store, 1), load(&store, 2)), (None, None), "nothing brings it back");
    assert_eq!(server.item(&key(2)), None, "nothing is left of the renewal");
}

/// The documented exception: what was to stop a late creation is evicted, too.
#[test]
fn without_its_tombstone_a_creation_that_comes_late_comes_through() {
    let Some(server) = Server::start(&[]) else { return };
    let store = open(&server);
    done(&store, &[insert(1, row(1))]);
    let (value, _) = server.item(&key(1)).unwrap();
    done(&store, &[delete(1)]);
    server.evict(&key(1));
    assert_eq!(load(&store, 1), None, "by itself it does not come back");
    let head = format!("ms {} {} ME T1000\r\n", key(1), value.len());
    drop(server.send(&[head.as_bytes(), &value, b"\r\n"].concat()));
    assert!(soon(|| load(&store, 1).is_some()));
}

#[test]
fn an_evicted_mark_is_raised_again() {
    let Some(server) = Server::start(&[]) else { return };
    let store = open(&server);
    done(&store, &[insert(1, row(1))]);
    assert_eq!(block_on(store.high_water()).unwrap(), NOW);
    server.evict("sessile/1/mark");
    assert_eq!(block_on(store.high_water()).unwrap(), 0);
    let _ = block_on(store.commit(NOW + 1, &[])).unwrap();
    assert_eq!(block_on(store.high_water()).unwrap(), NOW + 1);
}

/// More rows than fit: each that is left is whole, and none that was ended or renewed is back.
#[test]
fn under_pressure_what_is_left_is_whole_and_what_was_ended_stays_ended() {
    const ROWS: u32 = 3000;
    let Some(server) = Server::start(&["-m", "8"]) else { return };
    let store = open(&server);
    let large = |n: u32| Row { bytes: n.to_le_bytes().repeat(4000), ..row(u64::from(n) + 1) };
    for n in 0..ROWS {
        done(&store, &[insert(n, large(n))]);
        match n % 4 {
            0 => done(&store, &[delete(n)]),
            1 => {
                // Mostly it is still there to be renewed.
                let _ = commit(&store, &[rekey(n, u64::from(n) + 1, n + ROWS, large(n))]).unwrap();
            }
            _ => {}
        }
    }
    assert!(server.stat("evictions") > 0, "the server had room for all of them");
    let mut left = 0;
    for n in 0..ROWS {
        let (old, renewed) = (load(&store, n), load(&store, n + ROWS));
        for found in [&old, &renewed].into_iter().flatten() {
            assert!(*found == large(n), "row {n}");
            left += 1;
        }
        assert!(n % 4 > 1 || old.is_none(), "row {n} is back");
        if old.is_none() {
            assert_eq!(commit(&store, &[update(n, u64::from(n) + 1, row(9))]).unwrap(), [Outcome::Missing]);
            assert_eq!(load(&store, n), None);
        }
    }
    assert!(left > 0 && left < ROWS, "{left}");
    println!("{left} of {ROWS} were left, {} evictions", server.stat("evictions"));
}

#[test]
fn a_server_that_may_not_evict_says_that_it_is_full() {
    let Some(server) = Server::start(&["-m", "8", "-M"]) else { return };
    let store = open(&server);
    let large = Row { bytes: vec![7; 100_000], ..row(1) };
    let refused = (0..1000).find_map(|n| commit(&store, &[insert(n, large.clone())]).err().map(|e| (n, e)));
    let (n, e) = refused.expect("it takes any number");
    assert_eq!(e.kind(), StoreErrorKind::Full, "{e}");
    assert_eq!(load(&store, 0), Some(large.clone()));
    for gone in 0..n.min(20) {
        let item = key(gone);
        server.evict(&item);
    }
    assert!(soon(|| commit(&store, &[insert(5000, large.clone())]).is_ok()), "there is room again");
}
