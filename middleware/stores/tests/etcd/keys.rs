//! What is on the servers: namespaces, limits, damaged and foreign keys, indexes that lie.

use etcd_client::GetOptions;
use sessile_engine::store::Expired;

use super::*;

fn key(kind: &str, n: u32) -> Vec<u8> {
    [format!("sessile/{kind}/").as_bytes(), id(n).as_bytes()].concat()
}

fn set(cluster: &Cluster, key: Vec<u8>, value: &[u8]) {
    cluster.ask(async |mut client| client.put(key, value, None).await);
}

fn keys(cluster: &Cluster, prefix: &str) -> usize {
    let options = GetOptions::new().with_prefix().with_count_only();
    let got = cluster.ask(async |mut client| client.get(prefix, Some(options)).await);
    usize::try_from(got.count()).unwrap()
}

#[test]
fn namespaces_see_nothing_of_each_other() {
    let Some(cluster) = Cluster::start(1) else { return };
    let prefixes = ["a", "as", "a:", "a:s", "*", "at", "am", "layout", "s", "b"];
    let stores: Vec<_> =
        prefixes.map(|p| EtcdStore::connect(&format!("{}/{p}", cluster.url())).unwrap()).into();
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
        assert_eq!(block_on(store.count()).unwrap(), Some(2));
    }
    assert_eq!(block_on(stores[0].expire(u64::MAX, 0, 100)).unwrap(), Expired { removed: 2, more: false });
    for store in &stores[1..] {
        assert_eq!(block_on(store.count()).unwrap(), Some(2));
    }
}

#[test]
fn nothing_is_left_of_rows_that_are_gone() {
    let Some(cluster) = Cluster::start(1) else { return };
    let store = open(&cluster);
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
        (keys(&cluster, "sessile/s/"), keys(&cluster, "sessile/e/"), keys(&cluster, "sessile/o/")),
        (200, 200, 200)
    );
    assert_eq!(block_on(store.expire(NOW, 0, 10)).unwrap(), Expired { removed: 10, more: true });
    assert_eq!(block_on(store.expire(u64::MAX, 0, 1000)).unwrap(), Expired { removed: 190, more: false });
    // The layout, the mark and the tick.
    assert_eq!(keys(&cluster, "sessile/"), 3);
}

/// The largest rows that are allowed, one in a transaction, and many small ones between them.
#[test]
fn a_commit_is_cut_at_the_limits_of_the_server() {
    let Some(cluster) = Cluster::start(1) else { return };
    let store =
        EtcdStore::builder(&cluster.url()).deadline(std::time::Duration::from_secs(30)).connect().unwrap();
    let large = |n: u32| Row { bytes: vec![n as u8; 1 << 20], ..owned(1, &"x".repeat(255)) };
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
    let Some(cluster) = Cluster::start(1) else { return };
    let store = open(&cluster);
    done(&store, &(0..10).map(|n| insert(n, owned(1, "u"))).collect::<Vec<_>>());
    for (n, raw) in
        (0..).zip([&b"nonsense that is longer than a head"[..], b"", b"short", b"\x02\0\0", &[1; 19], b"x"])
    {
        set(&cluster, key("s", n), raw);
    }
    set(&cluster, b"sessile/s/a foreign key".to_vec(), b"x");
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
    let kept = cluster.ask(async |mut client| client.get(key("q", 4), None).await);
    assert_ne!(kept.kvs()[0].lease(), 0, "for a while");
    // Rows 6 to 9 expire; the damaged ones go aside beside 4, and the index keys of 2 and 4 are cleared.
    assert_eq!(block_on(store.expire(u64::MAX, 0, 100)).unwrap(), Expired { removed: 4, more: false });
    assert_eq!((keys(&cluster, "sessile/q/"), keys(&cluster, "sessile/e/")), (5, 0));
}

#[test]
fn an_index_that_lies_is_not_believed() {
    let Some(cluster) = Cluster::start(1) else { return };
    let store = open(&cluster);
    done(&store, &[insert(1, owned(1, "a")), insert(2, owned(1, "b"))]);
    for n in [1, 2, 3] {
        set(&cluster, [b"sessile/o/61/", &id(n).as_bytes()[..]].concat(), b"");
        set(&cluster, [b"sessile/e/", &[0, 0, 0, 0, 0, 0, 0, 5][..], id(n).as_bytes()].concat(), b"");
    }
    set(&cluster, b"sessile/e/nonsense".to_vec(), b"");
    for (owner, n) in [("a", 1), ("b", 2)] {
        let rows = block_on(store.list_owner(owner)).unwrap();
        assert_eq!(rows.iter().map(|listed| listed.id).collect::<Vec<_>>(), [id(n)]);
    }
    assert_eq!(block_on(store.expire(NOW, 0, 10)).unwrap(), Expired::default());
    assert_eq!(block_on(store.count()).unwrap(), Some(2));
    assert_eq!(block_on(store.expire(u64::MAX, 0, 10)).unwrap().removed, 2);
}

#[test]
fn what_is_not_ours_to_read_is_refused_and_left_alone() {
    let Some(cluster) = Cluster::start(1) else { return };
    let open = |prefix: &str| EtcdStore::builder(&cluster.url()).prefix(prefix).connect();
    set(&cluster, b"newer/layout".to_vec(), b"2 x");
    assert_eq!(kind(open("newer")), StoreErrorKind::NewerFormat);
    for raw in [&b"1"[..], b"", b"x y", b"\xff 1"] {
        set(&cluster, b"other/layout".to_vec(), raw);
        assert_eq!(kind(open("other")), StoreErrorKind::Foreign);
    }
    assert_eq!(keys(&cluster, "other/"), 1);
}

#[test]
fn a_full_server_is_full() {
    let Some(cluster) = Cluster::start(1) else { return };
    let store = open(&cluster);
    done(&store, &[insert(1, row(1))]);
    cluster.raise_no_space();
    assert_eq!(kind(commit(&store, &[insert(2, row(1))])), StoreErrorKind::Full);
    assert_eq!(load(&store, 1), Some(row(1)), "reading goes on");
}
