//! What stands in the collections, and what is refused.

use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, Bson, doc};

use super::support::mongodb::PASSWORD;
use super::*;

fn key(n: u32) -> Bson {
    Bson::Binary(Binary { subtype: BinarySubtype::Generic, bytes: id(n).as_bytes().to_vec() })
}

#[test]
fn it_is_opened_with_its_collections_only() {
    let Some(server) = Server::any() else { return };
    let builder = || builder(&server, "t");
    assert_eq!(kind(block_on(builder().open())), StoreErrorKind::Config);
    std::thread::scope(|scope| {
        let nodes: Vec<_> = (0..6).map(|_| scope.spawn(|| block_on(builder().migrate()))).collect();
        nodes.into_iter().for_each(|node| node.join().unwrap().unwrap());
    });
    assert!(block_on(builder().open()).is_ok());
    let meta = server.name("t_meta");
    for (version, wanted) in [
        (Bson::Int64(2), StoreErrorKind::NewerFormat),
        (Bson::Int64(0), StoreErrorKind::Foreign),
        (Bson::String("1".into()), StoreErrorKind::Foreign),
    ] {
        let set = doc! { "$set": { "version": version } };
        server.with(&meta, async |meta| meta.update_one(doc! { "_id": "layout" }, set).await);
        block_on(builder().migrate()).unwrap();
        assert_eq!(kind(block_on(builder().open())), wanted);
    }
}

#[test]
fn the_collection_holds_what_it_says() {
    let Some(server) = Server::any() else { return };
    let store = open(&server, "t");
    let later = Row { expires_at: 4_000_000_123_456, bytes: (0..=255).collect(), ..owned(2, "Ann") };
    done(&store, &[insert(1, row(1)), update(1, 1, later.clone())]);
    assert_eq!(load(&store, 1), Some(later));
    let rows = server.name("t");
    let held = server.with(&rows, async |rows| rows.find_one(doc! { "_id": key(1) }).await).unwrap();
    let wanted = doc! {
        "_id": key(1),
        "version": 2_i64,
        "due": 4_000_000_123_456_i64,
        "record": Binary { subtype: BinarySubtype::Generic, bytes: (0..=255).collect() },
        "owner": "Ann",
    };
    assert_eq!(held, wanted);
    for other in ["ann", "Ann ", "ANN", "Ánn", ""] {
        assert!(block_on(store.list_owner(other)).unwrap().is_empty());
    }
    assert_eq!(block_on(store.list_owner("Ann")).unwrap().len(), 1);
    done(&store, &[Change::Quarantine { id: id(1) }]);
    let aside = server.name("t_quarantine");
    let aside = server.with(&aside, async |rows| rows.find_one(doc! { "_id": key(1) }).await).unwrap();
    assert_eq!(aside.get_i64("quarantined_at").unwrap(), NOW.cast_signed());
    assert_eq!(aside.get_i64("version").unwrap(), 2);
}

/// Sweeps and listings of an owner do not read what they are not about.
#[test]
fn what_is_due_and_what_is_owned_is_found_by_an_index() {
    let Some(server) = Server::any() else { return };
    let store = open(&server, "t");
    done(&store, &(0..300).map(|n| insert(n, owned(1, &format!("u{n}")))).collect::<Vec<_>>());
    let name = server.name("t");
    for (filter, sort, index) in [
        (doc! { "due": { "$gte": 0_i64, "$lte": 5_i64 } }, doc! { "due": 1 }, "due"),
        (doc! { "owner": "u7" }, doc! {}, "owner"),
    ] {
        let mut find = doc! { "find": &name, "filter": filter };
        if !sort.is_empty() {
            find.insert("sort", sort);
        }
        let explain = doc! { "explain": find, "verbosity": "queryPlanner" };
        let plan = server.ask(async |database| database.run_command(explain).await).to_string();
        assert!(plan.contains("IXSCAN") && plan.contains(&format!("\"indexName\": \"{index}\"")), "{plan}");
    }
}

#[test]
fn a_damaged_row_is_corrupt_by_itself_named_by_a_scan_and_put_aside() {
    let Some(server) = Server::any() else { return };
    let store = open(&server, "t");
    done(&store, &(0..9).map(|n| insert(n, owned(1, "a"))).collect::<Vec<_>>());
    for (n, set) in [
        (4, doc! { "version": "1" }),
        (5, doc! { "record": "text" }),
        (6, doc! { "from": "nowhere" }),
        (7, doc! { "to": 1 }),
    ] {
        server.with(&server.name("t"), async |rows| {
            rows.update_one(doc! { "_id": key(n) }, doc! { "$set": set }).await
        });
    }
    for n in 4..7 {
        assert_eq!(kind(block_on(store.load(&id(n)))), StoreErrorKind::Corrupt);
        assert_eq!(commit(&store, &[insert(n, row(2))]).unwrap(), [Outcome::Exists]);
        // The version of 5 can be read, and nothing else is asked for.
        if n != 5 {
            assert_eq!(commit(&store, &[update(n, 1, row(2))]).unwrap(), [Outcome::Missing]);
            assert_eq!(commit(&store, &[rekey(n, 1, 90, row(2))]).unwrap(), [Outcome::Missing]);
        }
    }
    let scan = block_on(store.scan(None, 100)).unwrap();
    assert_eq!(scan.rows.len(), 5);
    assert_eq!(scan.damaged.len(), 3, "{:?}", scan.damaged);
    assert_eq!(block_on(store.list(None, 5)).unwrap().len(), 5);
    assert_eq!(block_on(store.list_owner("a")).unwrap().len(), 5);
    done(&store, &(4..8).map(|n| Change::Quarantine { id: id(n) }).collect::<Vec<_>>());
    assert_eq!(block_on(store.count()).unwrap(), Some(5));
    let aside = server.name("t_quarantine");
    assert_eq!(server.with(&aside, async |rows| rows.count_documents(doc! {}).await), 4);
    done(&store, &(4..8).map(|n| insert(n, row(1))).collect::<Vec<_>>());
}

#[test]
fn what_the_app_has_stored_beside_the_rows_is_left_alone() {
    let Some(server) = Server::any() else { return };
    let store = open(&server, "t");
    done(&store, &[insert(1, row(1))]);
    let foreign = vec![
        doc! { "_id": "a note", "due": 1_i64, "owner": "u" },
        doc! { "_id": 5, "due": 1_i64 },
        doc! { "_id": mongodb::bson::oid::ObjectId::new(), "due": 1_i64 },
    ];
    server.with(&server.name("t"), async |rows| rows.insert_many(foreign).await);
    assert_eq!(block_on(store.expire(NOW, 0, 10)).unwrap().removed, 0);
    assert_eq!(block_on(store.list(None, 10)).unwrap().len(), 1);
    assert!(block_on(store.list_owner("u")).unwrap().is_empty());
    assert_eq!(block_on(store.count()).unwrap(), Some(1));
    assert_eq!(server.with(&server.name("t"), async |rows| rows.count_documents(doc! {}).await), 4);
}

#[test]
fn what_is_wrong_with_the_configuration_is_said_without_the_password() {
    let wrong = "n0t-the-password";
    let at = |rest: &str| format!("mongodb://tester:{wrong}@{rest}");
    for (url, wanted) in [
        (wrong.to_owned(), StoreErrorKind::Config),
        (format!("nongodb://tester:{wrong}@127.0.0.1/x"), StoreErrorKind::Config),
        (at("127.0.0.1:99999/x"), StoreErrorKind::Config),
        (at(""), StoreErrorKind::Config),
        (at("127.0.0.1/admin"), StoreErrorKind::Config),
        (at("127.0.0.1/x?w=1"), StoreErrorKind::Config),
        (at("127.0.0.1/x?w=0"), StoreErrorKind::Config),
        (at("127.0.0.1/x?journal=false"), StoreErrorKind::Config),
        (at("127.0.0.1/x?readPreference=secondary"), StoreErrorKind::Config),
        (at("127.0.0.1/x?readConcernLevel=local"), StoreErrorKind::Config),
        (format!("mongodb+srv://tester:{wrong}@sessions.invalid/x"), StoreErrorKind::Config),
        (at("127.0.0.1:1/x"), StoreErrorKind::Unavailable),
        (
            at("127.0.0.1:1/x?retryWrites=true&w=majority&journal=true&wtimeoutMS=5"),
            StoreErrorKind::Unavailable,
        ),
        (
            at("127.0.0.1:1/x?readConcernLevel=linearizable&readPreference=primary"),
            StoreErrorKind::Unavailable,
        ),
        (at("127.0.0.1:1/x?tls=true"), StoreErrorKind::Unavailable),
    ] {
        let builder = MongoStore::builder(url.clone()).deadline(Duration::from_millis(200));
        assert!(!format!("{builder:?}").contains(wrong));
        for e in [block_on(builder.migrate()).unwrap_err(), block_on(builder.open()).unwrap_err()] {
            assert_eq!(e.kind(), wanted, "{url}: {e}");
            assert!(!format!("{e} {e:?}").contains(wrong), "{e:?}");
        }
    }
}

#[test]
fn a_wrong_password_is_a_mistake_of_the_configuration_and_nothing_prints_the_right_one() {
    let Some(mut server) = Server::start(&[]) else { return };
    server.wants_a_password();
    let url = |url: String| MongoStore::builder(url).deadline(BOUND);
    let none = server.url().replace(&format!("tester:{PASSWORD}@"), "");
    for wrong in [server.url().replace(PASSWORD, "wr0ng-guess"), none] {
        for e in
            [block_on(url(wrong.clone()).migrate()).unwrap_err(), block_on(url(wrong).open()).unwrap_err()]
        {
            assert_eq!(e.kind(), StoreErrorKind::Config, "{e} {e:?}");
            assert!(!format!("{e} {e:?}").contains("wr0ng-guess"), "{e:?}");
        }
    }
    let store = open(&server, "t");
    assert!(!format!("{store:?} {:?}", builder(&server, "t")).contains(PASSWORD));
    done(&store, &[insert(1, row(1))]);
    server.kill();
    let hasty = builder(&server, "t").deadline(Duration::from_millis(300));
    let e = block_on(hasty.open()).unwrap_err();
    assert!(!format!("{e} {e:?}").contains(PASSWORD), "{e:?}");
}

#[test]
fn the_largest_rows_and_batches_fit() {
    let Some(server) = Server::any() else { return };
    let store = open(&server, "t");
    let most = store.capabilities().max_row_bytes;
    let large = |version, len| Row { bytes: vec![0xA5; len], ..owned(version, &"o".repeat(255)) };
    done(&store, &[insert(1, large(1, most)), insert(2, large(1, most)), insert(3, row(1))]);
    done(&store, &[update(1, 1, large(2, most)), Change::Delete { id: id(3) }]);
    assert!(load(&store, 1) == Some(large(2, most)));
    assert_eq!(kind(commit(&store, &[insert(4, large(1, most + 1))])), StoreErrorKind::TooLarge);
    let long = Row { owner: Some("o".repeat(256).into()), ..row(1) };
    assert_eq!(kind(commit(&store, &[insert(4, long)])), StoreErrorKind::TooLarge);
    done(&store, &(100..1400).map(|n| insert(n, large(1, 2000))).collect::<Vec<_>>());
    assert_eq!(block_on(store.count()).unwrap(), Some(1302));
    done(&store, &(100..1400).map(|n| Change::Delete { id: id(n) }).collect::<Vec<_>>());
    assert_eq!(block_on(store.list(None, 10)).unwrap().len(), 2);
}
