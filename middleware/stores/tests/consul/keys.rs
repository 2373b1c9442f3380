//! What is on the servers: namespaces, limits, damaged and foreign keys, indexes that lie.

use sessile_engine::store::Expired;

use super::*;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn row_key(n: u32) -> String {
    let hex = hex(id(n).as_bytes());
    format!("sessile/s/{}/{}", &hex[..2], &hex[2..])
}

fn set(server: &Server, key: &str, value: &[u8]) {
    assert_eq!(server.ask("PUT", &format!("kv/{key}"), value), (200, b"true".to_vec()));
}

fn keys(server: &Server, prefix: &str) -> usize {
    match server.ask("GET", &format!("kv/{prefix}?keys"), b"") {
        (200, keys) => serde_json::from_slice::<Vec<String>>(&keys).unwrap().len(),
        (status, _) => {
            assert_eq!(status, 404);
            0
        }
    }
}

fn count(store: &ConsulStore) -> usize {
    block_on(store.list(None, 100_000)).unwrap().len()
}

#[test]
fn namespaces_see_nothing_of_each_other() {
    let Some(server) = Server::start() else { return };
    let prefixes = ["a", "as", "a:", "a:s", "A", "at", "a.", "layout", "s", "b"];
    let stores: Vec<_> =
        prefixes.map(|p| ConsulStore::connect(&format!("{}/{p}", server.url())).unwrap()).into();
    let mut watch = block_on(stores[0].watch()).unwrap();
    for (version, store) in (1..).zip(&stores).skip(1) {
        done(store, &[insert(1, owned(version, "u")), insert(100 + version as u32, row(version))]);
    }
    assert_eq!(block_on(watch.next()).unwrap(), sessile_engine::store::Notice::Alive);
    done(&stores[0], &[insert(1, owned(1, "u")), insert(101, row(1))]);
    for (version, store) in (1..).zip(&stores) {
        assert_eq!(load(store, 1), Some(owned(version, "u")));
        assert_eq!(block_on(store.list(None, 100)).unwrap().len(), 2);
        assert_eq!(block_on(store.list_owner("u")).unwrap().len(), 1);
        assert_eq!(count(store), 2);
    }
    assert_eq!(block_on(stores[0].expire(u64::MAX, 0, 100)).unwrap(), Expired { removed: 2, more: false });
    for store in &stores[1..] {
        assert_eq!(count(store), 2);
    }
}

#[test]
fn nothing_is_left_of_rows_that_are_gone() {
    let Some(server) = Server::start() else { return };
    let store = open(&server);
    done(&store, &(0..300).map(|n| insert(n, owned(1, "u"))).collect::<Vec<_>>());
    done(
        &store,
        &(0..100).map(|n| update(n, 1, Row { expires_at: NOW, ..owned(2, "v") })).collect::<Vec<_>>(),
    );
    let rekey =
        |n: u32| Change::Rekey { from: id(n), expected: Some(2), to: id(1000 + n), row: owned(1, "w") };
    done(&store, &(0..50).map(rekey).collect::<Vec<_>>());
    done(&store, &(100..200).map(|n| Change::Delete { id: id(n) }).collect::<Vec<_>>());
    assert_eq!(
        (keys(&server, "sessile/s/"), keys(&server, "sessile/e/"), keys(&server, "sessile/o/")),
        (200, 200, 200)
    );
    assert_eq!(block_on(store.expire(NOW, 0, 10)).unwrap(), Expired { removed: 10, more: true });
    assert_eq!(block_on(store.expire(u64::MAX, 0, 1000)).unwrap(), Expired { removed: 190, more: false });
    assert_eq!(keys(&server, "sessile/"), keys(&server, "sessile/t/"), "the layout and the lanes");
}

/// The largest rows that are allowed, one in a transaction, and many small ones between them.
#[test]
fn a_commit_is_cut_at_the_limits_of_the_server() {
    let Some(server) = Server::start() else { return };
    let store =
        ConsulStore::builder(&server.url()).deadline(std::time::Duration::from_secs(30)).connect().unwrap();
    let large = |n: u32| Row { bytes: vec![n as u8; 320 << 10], ..owned(1, &"x".repeat(255)) };
    let mut changes: Vec<_> = (0..6).map(|n| insert(n, large(n))).collect();
    changes.extend((10..500).map(|n| insert(n, owned(1, "u"))));
    changes.extend((6..8).map(|n| insert(n, large(n))));
    done(&store, &changes);
    for n in 0..8 {
        assert_eq!(load(&store, n), Some(large(n)));
    }
    let to = Change::Rekey { from: id(1), expected: Some(1), to: id(9), row: large(9) };
    done(&store, &[to]);
    let mut ids: Vec<_> = (0..500).filter(|n| *n != 8 && *n != 1).map(|n| *id(n).as_bytes()).collect();
    ids.sort_unstable();
    for limit in [1000, 498, 300, 7] {
        let rows = block_on(store.list(None, limit)).unwrap();
        let listed: Vec<_> = rows.iter().map(|listed| *listed.id.as_bytes()).collect();
        assert_eq!(listed, ids[..limit.min(498)]);
    }
    assert_eq!(block_on(store.list_owner("u")).unwrap().len(), 490);
}

#[test]
fn a_damaged_row_blocks_nobody_else() {
    let Some(server) = Server::start() else { return };
    let store = open(&server);
    done(&store, &(0..10).map(|n| insert(n, owned(1, "u"))).collect::<Vec<_>>());
    for (n, raw) in
        (0..).zip([&b"nonsense that is longer than a head"[..], b"", b"short", b"\x02\0\0", &[1; 19], b"x"])
    {
        set(&server, &row_key(n), raw);
    }
    set(&server, "sessile/s/a-foreign-key", b"x");
    for n in 0..6 {
        let e = block_on(store.load(&id(n))).unwrap_err();
        assert_eq!(e.kind(), StoreErrorKind::Corrupt, "{n}: {e}");
    }
    assert_eq!(load(&store, 7), Some(owned(1, "u")));
    assert_eq!(block_on(store.list(None, 100)).unwrap().len(), 4);
    for limit in [1, 3, 5, 10, 11] {
        let (mut rows, mut damaged, mut after) = (0, Vec::new(), None);
        loop {
            let page = block_on(store.scan(after, limit)).unwrap();
            assert!(page.rows.len() + page.damaged.len() <= limit);
            rows += page.rows.len();
            damaged.extend(page.damaged);
            after = page.last;
            if after.is_none() {
                break;
            }
        }
        assert_eq!((rows, damaged.len()), (4, 6), "{limit} a page");
    }
    assert_eq!(block_on(store.list_owner("u")).unwrap().len(), 4);
    let rekey = |from, to| Change::Rekey { from: id(from), expected: None, to: id(to), row: row(2) };
    let changes = [
        insert(0, row(2)),
        update(1, 1, row(2)),
        Change::Delete { id: id(2) },
        rekey(7, 3),
        rekey(3, 50),
        Change::Quarantine { id: id(4) },
    ];
    use Outcome::{Done, Exists, Missing};
    assert_eq!(commit(&store, &changes).unwrap(), [Exists, Missing, Done, Exists, Missing, Done]);
    assert_eq!((load(&store, 2), load(&store, 4)), (None, None));
    let kept = server.ask("GET", &format!("kv/sessile/q/{}?raw", hex(id(4).as_bytes())), b"");
    assert_eq!(kept, (200, vec![1; 19]), "for the operator");
    // Rows 6 to 9 expire; the damaged ones go aside beside 4, and the index keys of 2 and 4 are cleared.
    assert_eq!(block_on(store.expire(u64::MAX, 0, 100)).unwrap(), Expired { removed: 4, more: false });
    assert_eq!((keys(&server, "sessile/q/"), keys(&server, "sessile/e/")), (5, 0));
}

#[test]
fn an_index_that_lies_is_not_believed() {
    let Some(server) = Server::start() else { return };
    let store = open(&server);
    done(&store, &[insert(1, owned(1, "a")), insert(2, owned(1, "b"))]);
    for n in [1, 2, 3] {
        let hex = hex(id(n).as_bytes());
        set(&server, &format!("sessile/o/u61/{hex}"), b"");
        set(&server, &format!("sessile/e/{:011x}/{:016x}{hex}", 0, 5), b"");
    }
    set(&server, "sessile/e/nonsense", b"");
    set(&server, "sessile/e/00000000000/nonsense", b"");
    for (owner, n) in [("a", 1), ("b", 2)] {
        let rows = block_on(store.list_owner(owner)).unwrap();
        assert_eq!(rows.iter().map(|listed| listed.id).collect::<Vec<_>>(), [id(n)]);
    }
    assert_eq!(block_on(store.expire(NOW, 0, 10)).unwrap(), Expired::default());
    assert_eq!(count(&store), 2);
    assert_eq!(block_on(store.expire(u64::MAX, 0, 10)).unwrap().removed, 2);
}

#[test]
fn what_is_not_ours_to_read_is_refused_and_left_alone() {
    let Some(server) = Server::start() else { return };
    let open = |prefix: &str| ConsulStore::builder(&server.url()).prefix(prefix).connect();
    set(&server, "newer/t/layout", b"2 x");
    assert_eq!(kind(open("newer")), StoreErrorKind::NewerFormat);
    for raw in [&b"1"[..], b"", b"x y", b"\xff 1"] {
        set(&server, "other/t/layout", raw);
        assert_eq!(kind(open("other")), StoreErrorKind::Foreign);
    }
    assert_eq!(keys(&server, "other/"), 1);
}

#[test]
fn lanes_of_stores_that_are_gone_are_removed_and_the_mark_stays() {
    let Some(server) = Server::start() else { return };
    const DAY: u64 = 24 * 3_600_000;
    for n in 0..5 {
        done(&open(&server), &[put(n, row(1))]);
    }
    assert_eq!(keys(&server, "sessile/t/lane/"), 5);
    let store = open(&server);
    block_on(store.expire(NOW + DAY, NOW + DAY, 10)).unwrap();
    assert_eq!(keys(&server, "sessile/t/lane/"), 6, "not yet old");
    block_on(store.expire(NOW + DAY + 1, NOW + DAY + 1, 10)).unwrap();
    assert_eq!(keys(&server, "sessile/t/lane/"), 2, "its own");
    assert_eq!(block_on(store.high_water()).unwrap(), NOW + DAY + 1);
    assert_eq!(block_on(open(&server).high_water()).unwrap(), NOW + DAY + 1);
}
