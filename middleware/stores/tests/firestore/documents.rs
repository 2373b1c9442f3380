//! What stands in the database: names, layouts, damaged rows, limits, and what a commit costs.

use serde_json::{Value as Json, json};

use super::support::firestore::{PROJECT, root};
use super::*;

/// A row's document, put there by somebody else.
fn write(server: &Server, path: &str, fields: &Json) {
    let update = json!({"update": {"name": format!("{}/{path}", root("(default)")), "fields": fields}});
    let (status, said) = server.ask("commit", &json!({ "writes": [update] }));
    assert_eq!(status, 200, "{said}");
}

fn read(server: &Server, path: &str) -> Json {
    let name = format!("{}/{path}", root("(default)"));
    server.ask("batchGet", &json!({ "documents": [name] })).1[0]["found"]["fields"].clone()
}

fn path_of(n: u32) -> String {
    let hex: String = id(n).as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sessile_sessions/{hex}")
}

#[test]
fn it_is_opened_with_its_documents_only() {
    let server = Server::start();
    let builder = || builder_at(&server.url());
    assert_eq!(kind(block_on(builder().open())), StoreErrorKind::Config);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| block_on(builder().migrate()).unwrap());
        }
    });
    assert!(block_on(builder().open()).is_ok());
    for (version, wanted) in [
        (json!({"integerValue": "2"}), StoreErrorKind::NewerFormat),
        (json!({"integerValue": "0"}), StoreErrorKind::Foreign),
        (json!({"stringValue": "1"}), StoreErrorKind::Foreign),
    ] {
        write(&server, "sessile_sessions_meta/layout", &json!({ "version": version }));
        block_on(builder().migrate()).unwrap();
        assert_eq!(kind(block_on(builder().open())), wanted);
    }
}

#[test]
fn collections_and_databases_see_nothing_of_each_other() {
    let server = Server::start();
    let stores = [
        opened(builder_at(&server.url())),
        opened(builder_at(&server.url()).collection("other")),
        opened(builder_at(&format!("{}&collection=third", server.url()))),
        opened(builder_at(&format!("firestore://{PROJECT}/other?emulator={}", server.authority()))),
    ];
    for (n, store) in (1..).zip(&stores) {
        done(store, &[insert(1, owned(n, "u"))]);
    }
    for (n, store) in (1..).zip(&stores) {
        assert_eq!(load(store, 1), Some(owned(n, "u")));
        assert_eq!(block_on(store.count()).unwrap(), Some(1));
        assert_eq!(block_on(store.list_owner("u")).unwrap().len(), 1);
        assert_eq!(block_on(store.expire(u64::MAX, 0, 10)).unwrap().removed, 1);
        assert!(stores.iter().skip(n as usize).all(|other| load(other, 1).is_some()));
    }
    assert!(!server.paths("other", "sessile_sessions_meta/").is_empty());
}

#[test]
fn a_database_or_a_project_that_is_not_there_is_a_mistake_of_the_configuration() {
    let server = Server::start();
    for url in [
        format!("firestore://{PROJECT}/absent?emulator={}", server.authority()),
        format!("firestore://somebody-elses?emulator={}", server.authority()),
    ] {
        assert_eq!(kind(block_on(builder_at(&url).migrate())), StoreErrorKind::Config, "{url}");
        assert_eq!(kind(block_on(builder_at(&url).open())), StoreErrorKind::Config, "{url}");
    }
}

#[test]
fn a_row_is_a_document_that_people_can_read() {
    let server = Server::start();
    let store = open(&server);
    let due = 1_800_000_000_123;
    done(
        &store,
        &[insert(1, Row { expires_at: due, owner: Some("ann".into()), bytes: vec![0, 255], version: 3 })],
    );
    let wanted = json!({
        "version": {"integerValue": "3"},
        "due": {"stringValue": "00000001800000000123"},
        "owner": {"stringValue": "ann"},
        "record": {"bytesValue": "AP8="},
        // Five minutes later, in January of 2027.
        "ttl": {"timestampValue": "2027-01-15T08:05:00.123Z"},
    });
    assert_eq!(read(&server, &path_of(1)), wanted);
    // What no timestamp can say has no field for the policy.
    done(&store, &[insert(2, Row { expires_at: u64::MAX, ..row(1) })]);
    assert_eq!(read(&server, &path_of(2))["ttl"], Json::Null);
}

/// A damaged document ends nobody else's session, is told to who loads it, and can be put aside as it is.
#[test]
fn damaged_documents_are_met_by_all_calls() {
    let server = Server::start();
    let store = open(&server);
    done(&store, &(0..5).map(|n| insert(n, owned(1, "u"))).collect::<Vec<_>>());
    let odd = json!({
        "version": {"stringValue": "1"},
        "due": {"stringValue": "00000000000000000009"},
        "owner": {"stringValue": "u"},
        "more": {"arrayValue": {"values": [{"nullValue": null}]}},
    });
    write(&server, &path_of(2), &odd);
    write(&server, &path_of(3), &json!({}));
    for n in [2, 3] {
        assert_eq!(kind(block_on(store.load(&id(n)))), StoreErrorKind::Corrupt);
        assert_eq!(commit(&store, &[update(n, 1, row(2))]).unwrap(), [Outcome::Missing]);
        assert_eq!(commit(&store, &[insert(n, row(2))]).unwrap(), [Outcome::Exists]);
        assert_eq!(commit(&store, &[rekey(n, 1, 9, row(2))]).unwrap(), [Outcome::Missing]);
    }
    assert_eq!(block_on(store.list(None, 10)).unwrap().len(), 3);
    assert_eq!(block_on(store.list_owner("u")).unwrap().len(), 3);
    let scanned = block_on(store.scan(None, 10)).unwrap();
    assert_eq!((scanned.rows.len(), scanned.damaged.len()), (3, 2));
    done(&store, &[Change::Quarantine { id: id(2) }, Change::Quarantine { id: id(4) }]);
    assert_eq!((load(&store, 2), load(&store, 4)), (None, None));
    let aside = |n| read(&server, &path_of(n).replace("sessions/", "sessions_quarantine/"));
    let mut kept = odd;
    kept["quarantined_at"] = json!({"stringValue": format!("{NOW:020}")});
    assert_eq!(aside(2), kept);
    assert_eq!(
        aside(4)["record"]["bytesValue"].as_str(),
        read(&server, &path_of(0))["record"]["bytesValue"].as_str()
    );
    assert_eq!(aside(4)["ttl"], Json::Null, "no policy removes it");
    // The other damaged one goes when somebody sets the row.
    done(&store, &[put(3, row(5))]);
    assert_eq!(load(&store, 3), Some(row(5)));
}

#[test]
fn a_mark_that_is_damaged_counts_as_none() {
    let server = Server::start();
    let store = open(&server);
    for n in 0..32 {
        let fields = json!({"time": {"stringValue": "x"}});
        write(&server, &format!("sessile_sessions_meta/mark-{n:02}"), &fields);
    }
    assert_eq!(block_on(store.high_water()).unwrap(), 0);
    assert!(block_on(store.commit(5, &[])).is_ok());
    assert_eq!(block_on(store.high_water()).unwrap(), 5);
    // Another store knows of it, and does not lower it.
    let other = open(&server);
    assert!(block_on(other.commit(3, &[insert(1, row(1))])).is_ok());
    assert_eq!(block_on(open(&server).high_water()).unwrap(), 5);
}

/// The largest rows, alone and in one commit that does not fit into one request.
#[test]
fn the_largest_rows_fit() {
    let server = Server::start();
    let store = open(&server);
    let largest = store.capabilities().max_row_bytes;
    let large = |n: u8| Row { bytes: vec![n; largest], ..owned(u64::from(n), &"o".repeat(255)) };
    let changes: Vec<_> = (1..=14).map(|n| insert(n, large(n as u8))).collect();
    let sent = server.count("commit");
    done(&store, &changes);
    assert!(server.count("commit") > sent + 1, "it was more than one request");
    assert!((1..=14).all(|n| load(&store, n) == Some(large(n as u8))));
    assert_eq!(block_on(store.list_owner(&"o".repeat(255))).unwrap().len(), 14);
    let e = commit(&store, &[insert(20, Row { bytes: vec![0; largest + 1], ..row(1) })]).unwrap_err();
    assert_eq!(e.kind(), StoreErrorKind::TooLarge);
    // All of them damaged, and put aside at once.
    let record = read(&server, &path_of(1))["record"].clone();
    (1..=14).for_each(|n| write(&server, &path_of(n), &json!({ "record": record })));
    done(&store, &(1..=14).map(|n| Change::Quarantine { id: id(n) }).collect::<Vec<_>>());
    assert_eq!(block_on(store.count()).unwrap(), Some(0));
    assert_eq!(server.paths("(default)", "sessile_sessions_quarantine/").len(), 14);
}

/// Each exchange, and each document that is read, is paid for.
#[test]
fn a_commit_asks_no_more_than_it_must() {
    let server = Server::start();
    let store = open(&server);
    let counts = || ["batchGet", "commit"].map(|verb| server.count(verb));
    let asked = |changes: &[Change], outcomes: &[Outcome]| {
        let before = counts();
        assert_eq!(commit(&store, changes).unwrap(), outcomes);
        let after = counts();
        [after[0] - before[0], after[1] - before[1]]
    };
    assert_eq!(asked(&[insert(1, row(1)), insert(2, row(1))], &[Outcome::Done; 2]), [0, 1]);
    assert_eq!(asked(&[update(1, 1, row(2)), insert(3, row(1))], &[Outcome::Done; 2]), [1, 1]);
    assert_eq!(asked(&[rekey(1, 2, 4, row(3))], &[Outcome::Done]), [1, 1]);
    // Refused by what was read: nothing is sent.
    assert_eq!(asked(&[update(4, 9, row(9))], &[Outcome::Conflict { found: 3 }]), [1, 0]);
    assert_eq!(asked(&[insert(2, row(9))], &[Outcome::Exists]), [1, 1]);
    // The mark is written with the rows, and not twice.
    let before = counts();
    assert!(block_on(store.commit(NOW + 1, &[insert(5, row(1))])).is_ok());
    assert!(block_on(store.commit(NOW + 1, &[])).is_ok());
    assert_eq!(counts(), [before[0], before[1] + 1]);
    assert_eq!(block_on(store.high_water()).unwrap(), NOW + 1);
}

/// Pages of a listing are those of Firestore, and what is no row of ours is passed over.
#[test]
fn long_listings_come_in_pages() {
    const ROWS: u32 = 230;
    let server = Server::start();
    let store = open(&server);
    done(&store, &(0..ROWS).map(|n| insert(n, owned(1, "u"))).collect::<Vec<_>>());
    for name in ["0", "zzz", &"F".repeat(64)] {
        write(&server, &format!("sessile_sessions/{name}"), &json!({"owner": {"stringValue": "u"}}));
    }
    let all = block_on(store.list(None, 1000)).unwrap();
    assert_eq!(all.len(), ROWS as usize);
    assert!(all.windows(2).all(|two| two[0].id < two[1].id));
    let before = server.count("runQuery");
    assert_eq!(block_on(store.list(Some(all[9].id), 3)).unwrap(), all[10..13]);
    assert_eq!(server.count("runQuery"), before + 1);
    assert_eq!(block_on(store.list_owner("u")).unwrap().len(), ROWS as usize);
}
