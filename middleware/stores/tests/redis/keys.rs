//! What is on the server: namespaces, times to live, damaged and foreign keys, indexes that lie.

use sessile_engine::store::Expired;

use super::*;

/// What a key may outlive its row by: the grace of five minutes.
const GRACE_MS: i64 = 5 * 60 * 1000;

fn key(n: u32) -> String {
    format!("sessile:s:{{{}}}", hex(id(n)))
}

fn real_now(server: &Server) -> u64 {
    let time: Vec<u64> = server.ask(&["TIME"]);
    time[0] * 1000 + time[1] / 1000
}

#[test]
fn namespaces_see_nothing_of_each_other() {
    let Some(server) = Server::start() else { return };
    // Prefixes of each other, and such that look like a pattern or like a name of ours.
    let prefixes = ["a", "as:", "a:", "a:s:", "a:o:", "*", "a*", "?", "[a]", "am", "ax", "ameta"];
    let stores: Vec<_> =
        prefixes.map(|p| RedisStore::builder(&server.url()).prefix(p).connect().unwrap()).into();
    for (version, store) in (1..).zip(&stores) {
        done(store, &[insert(1, owned(version, "u")), insert(100 + version as u32, row(version))]);
    }
    for (version, store) in (1..).zip(&stores) {
        assert_eq!(load(store, 1), Some(owned(version, "u")));
        assert_eq!(block_on(store.list(None, 100)).unwrap().len(), 2);
        assert_eq!(block_on(store.list_owner("u")).unwrap().len(), 1);
        assert_eq!(block_on(store.count()).unwrap(), Some(2));
    }
    let all = NOW + 2_000_000;
    assert_eq!(block_on(stores[0].expire(all, 0, 100)).unwrap(), Expired { removed: 2, more: false });
    for store in &stores[1..] {
        assert_eq!(block_on(store.count()).unwrap(), Some(2));
    }
    let keys: Vec<String> = server.ask(&["KEYS", "*"]);
    let unknown: Vec<_> = keys.iter().filter(|k| !prefixes.iter().any(|p| k.starts_with(p))).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn foreign_keys_are_neither_listed_nor_touched() {
    let Some(server) = Server::start() else { return };
    let store = open(&server);
    let _: String = server.ask(&["SET", "sessile:other", "x"]);
    let _: String = server.ask(&["SET", "elsewhere", "x"]);
    done(&store, &[insert(1, row(1))]);
    assert_eq!(block_on(store.list(None, 10)).unwrap().len(), 1);
    assert_eq!(block_on(store.expire(u64::MAX, 0, 10)).unwrap().removed, 1);
    block_on(store.close()).unwrap();
    assert_eq!(server.ask::<String>(&["GET", "sessile:other"]), "x");
    assert_eq!(server.ask::<String>(&["GET", "elsewhere"]), "x");
}

#[test]
fn every_row_that_ends_has_a_time_to_live_and_follows_its_changes() {
    let Some(server) = Server::start() else { return };
    let store = open(&server);
    let at = real_now(&server) + 3_600_000;
    let lives = |key: &str| server.ask::<i64>(&["PEXPIRETIME", key]);
    let ends = |at: u64| i64::try_from(at).unwrap() + GRACE_MS;
    let of = |version, at| Row { owner: Some("u".into()), ..due(version, at) };
    done(&store, &[insert(1, of(1, at))]);
    assert_eq!(lives(&key(1)), ends(at));
    done(&store, &[update(1, 1, of(2, at + 5000))]);
    assert_eq!(lives(&key(1)), ends(at + 5000));
    done(&store, &[update(1, 2, of(3, at - 5000))]);
    assert_eq!(lives(&key(1)), ends(at - 5000));
    done(&store, &[put(1, of(4, u64::MAX))]);
    assert_eq!(lives(&key(1)), -1, "it never ends");
    done(&store, &[put(1, of(5, at)), put(2, of(1, at + 1)), put(2, of(2, at - 1))]);
    let owners: Vec<String> = server.ask(&["KEYS", "sessile:o:*"]);
    assert_eq!(owners.len(), 1);
    assert_eq!(lives(&owners[0]), ends(at), "as long as its last row");
    let to = Change::Rekey { from: id(1), expected: Some(5), to: id(3), row: of(1, at + 7) };
    done(&store, &[to]);
    assert_eq!(lives(&key(3)), ends(at + 7));
}

#[test]
fn a_row_that_was_due_before_it_was_written_does_not_stay_for_ever() {
    let Some(server) = Server::start() else { return };
    let store = open(&server);
    for at in [0, 1, real_now(&server) - 10 * 60 * 1000] {
        done(&store, &[put(1, due(1, at))]);
        assert!(server.ask::<i64>(&["PTTL", &key(1)]) < 1, "due at {at}");
        assert_eq!(load(&store, 1), None);
        // It is found by the sweep nevertheless, once, and its id is free.
        assert_eq!(block_on(store.expire(NOW, 0, 10)).unwrap(), Expired { removed: 1, more: false });
        assert_eq!(block_on(store.expire(NOW, 0, 10)).unwrap(), Expired::default());
        assert_eq!(block_on(store.count()).unwrap(), Some(0));
    }
    // Due, but not for longer than the clocks may differ.
    done(&store, &[insert(1, due(1, real_now(&server) - 1000))]);
    assert_eq!(load(&store, 1).map(|row| row.version), Some(1));
}

#[test]
fn a_damaged_row_blocks_nobody_else() {
    let Some(server) = Server::start() else { return };
    let store = open(&server);
    done(&store, &(0..10).map(|n| insert(n, owned(1, "u"))).collect::<Vec<_>>());
    let damage = |n: u32, how: &[&str]| {
        let name = key(n);
        let args: Vec<&str> = how.iter().map(|arg| if *arg == "K" { name.as_str() } else { arg }).collect();
        let _: redis::Value = server.ask(&args);
    };
    damage(0, &["SET", "K", "nonsense that is longer than a head"]);
    damage(1, &["SETRANGE", "K", "0", "\x02"]);
    damage(2, &["SET", "K", ""]);
    let _: i64 = server.ask(&["DEL", &key(3)]);
    damage(3, &["HSET", "K", "a", "b"]);
    damage(4, &["SETRANGE", "K", "2", "\x7f"]);
    damage(5, &["SET", "K", "short"]);
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
        damaged.sort_unstable_by_key(|id| *id.as_bytes());
        let mut wanted: Vec<_> = (0..6).map(id).collect();
        wanted.sort_unstable_by_key(|id| *id.as_bytes());
        assert_eq!((rows, damaged), (4, wanted), "{limit} a page");
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
    let keep: i64 = server.ask(&["PTTL", &key(4).replace(":s:", ":q:")]);
    assert!(keep > 0 && keep <= 30 * 24 * 3_600_000, "{keep}");
    // Rows 6 to 9 expire; the damaged ones go aside beside 4.
    let all = NOW + 2_000_000;
    assert_eq!(block_on(store.expire(all, 0, 100)).unwrap(), Expired { removed: 4, more: false });
    assert_eq!(block_on(store.count()).unwrap(), Some(0));
    assert_eq!(server.ask::<Vec<String>>(&["KEYS", "sessile:q:*"]).len(), 5);
}

#[test]
fn an_owner_index_that_lies_is_not_believed_and_mended() {
    let Some(server) = Server::start() else { return };
    let store = open(&server);
    done(&store, &[insert(1, owned(1, "a")), insert(2, owned(1, "b"))]);
    let index: Vec<String> = server.ask(&["KEYS", "sessile:o:*"]);
    let mut connection = redis::Client::open(server.url()).unwrap().get_connection().unwrap();
    for key in &index {
        for n in [1, 2, 3] {
            let () = redis::cmd("ZADD")
                .arg(key)
                .arg(NOW)
                .arg(&id(n).as_bytes()[..])
                .query(&mut connection)
                .unwrap();
        }
    }
    for (owner, n) in [("a", 1), ("b", 2)] {
        let rows = block_on(store.list_owner(owner)).unwrap();
        assert_eq!(rows.iter().map(|listed| listed.id).collect::<Vec<_>>(), [id(n)]);
    }
    for key in &index {
        assert_eq!(server.ask::<i64>(&["ZCARD", key]), 1, "the wrong entries are gone");
    }
}

#[test]
fn what_is_not_ours_to_read_is_refused_and_left_alone() {
    let Some(server) = Server::start() else { return };
    let open = |prefix: &str| RedisStore::builder(&server.url()).prefix(prefix).connect();
    let _: i64 = server.ask(&["HSET", "newer:meta", "layout", "2", "list", "1"]);
    assert_eq!(kind(open("newer:")), StoreErrorKind::NewerFormat);
    let _: i64 = server.ask(&["HSET", "other:meta", "who", "else"]);
    assert_eq!(kind(open("other:")), StoreErrorKind::Foreign);
    let _: String = server.ask(&["SET", "text:meta", "x"]);
    assert_eq!(kind(open("text:")), StoreErrorKind::Foreign);
    assert_eq!(server.ask::<String>(&["GET", "text:meta"]), "x");
    assert_eq!(server.ask::<i64>(&["HLEN", "other:meta"]), 1);
    open("listed:").unwrap();
    let unlisted = RedisStore::builder(&server.url()).prefix("listed:").listing(false);
    assert_eq!(kind(unlisted.connect()), StoreErrorKind::Config);
    assert_eq!(server.ask::<i64>(&["EXISTS", "newer:lease"]), 0);
}

#[test]
fn two_engines_worth_of_stores_see_each_others_rows() {
    let Some(server) = Server::start() else { return };
    let (a, b) = (open(&server), block_on(RedisStore::builder(&server.url()).connect_async()).unwrap());
    done(&a, &[insert(1, row(1))]);
    assert_eq!(load(&b, 1), Some(row(1)));
    done(&b, &[update(1, 1, row(2))]);
    assert_eq!(commit(&a, &[update(1, 1, row(2))]).unwrap(), [Outcome::Conflict { found: 2 }]);
    done(&a, &[Change::Delete { id: id(1) }]);
    assert_eq!(commit(&b, &[update(1, 2, row(3))]).unwrap(), [Outcome::Missing]);
    assert_eq!(load(&b, 1), None);
}

/// Pages are cut by their size too; nothing is left out at the cuts.
#[test]
fn a_listing_of_large_rows_is_whole() {
    let Some(server) = Server::start() else { return };
    let store =
        RedisStore::builder(&server.url()).deadline(std::time::Duration::from_secs(30)).connect().unwrap();
    let large = |n: u32| Row { bytes: vec![n as u8; 3 << 20], ..row(1) };
    for n in 0..8 {
        done(&store, &[insert(n, large(n))]);
    }
    done(&store, &(8..600).map(|n| insert(n, row(1))).collect::<Vec<_>>());
    let mut ids: Vec<_> = (0..600).map(|n| *id(n).as_bytes()).collect();
    ids.sort_unstable();
    for limit in [1000, 600, 300, 7] {
        let rows = block_on(store.list(None, limit)).unwrap();
        let listed: Vec<_> = rows.iter().map(|listed| *listed.id.as_bytes()).collect();
        assert_eq!(listed, ids[..limit.min(600)]);
    }
    assert_eq!(block_on(store.scan(None, 1000)).unwrap().last, None);
    assert_eq!(block_on(store.scan(None, 500)).unwrap().rows.len(), 500);
}
