//! What stands in the table, and which tables are refused.

use std::collections::{HashMap, HashSet};

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
    TimeToLiveStatus,
};

use super::*;

type Item = HashMap<String, AttributeValue>;

fn text(text: &str) -> AttributeValue {
    AttributeValue::S(text.into())
}

fn number(n: &str) -> AttributeValue {
    AttributeValue::N(n.into())
}

fn hex(n: u32) -> String {
    id(n).as_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn get(server: &Server, name: &str, shard: &str, id: &str) -> Option<Item> {
    server.ask(async |client| {
        let get = client.get_item().table_name(server.table(name)).consistent_read(true);
        get.key("shard", text(shard)).key("id", text(id)).send().await.unwrap().item
    })
}

/// Sets attributes of an item behind the store's back.
fn set(server: &Server, name: &str, shard: &str, id: &str, changed: &[(&str, Option<AttributeValue>)]) {
    let mut item = get(server, name, shard, id).unwrap_or_default();
    item.extend([("shard".to_owned(), text(shard)), ("id".to_owned(), text(id))]);
    for (attribute, value) in changed {
        item.remove(*attribute);
        item.extend(value.clone().map(|value| ((*attribute).to_owned(), value)));
    }
    server.ask(async |client| {
        client.put_item().table_name(server.table(name)).set_item(Some(item)).send().await.unwrap()
    });
}

#[test]
fn it_is_opened_with_its_table_only() {
    let Some(server) = Server::local() else { return };
    let builder = || builder(&server, "t");
    assert_eq!(kind(block_on(builder().open())), StoreErrorKind::Config);
    std::thread::scope(|scope| {
        let nodes: Vec<_> = (0..6).map(|_| scope.spawn(|| block_on(builder().migrate()))).collect();
        nodes.into_iter().for_each(|node| node.join().unwrap().unwrap());
    });
    assert!(block_on(builder().open()).is_ok());
    // What is there stays.
    done(&open(&server, "t"), &[insert(1, row(1))]);
    block_on(builder().migrate()).unwrap();
    assert_eq!(load(&open(&server, "t"), 1), Some(row(1)));
    for (version, wanted) in [
        (number("2"), StoreErrorKind::NewerFormat),
        (number("0"), StoreErrorKind::Foreign),
        (text("1"), StoreErrorKind::Foreign),
    ] {
        set(&server, "t", "layout", "layout", &[("version", Some(version))]);
        block_on(builder().migrate()).unwrap();
        assert_eq!(kind(block_on(builder().open())), wanted);
    }
}

#[test]
fn a_table_of_others_is_refused_and_left_alone() {
    let Some(server) = Server::local() else { return };
    for (name, keys) in [("one", &["pk"][..]), ("two", &["shard", "id"])] {
        server.ask(async |client| {
            let mut create = client.create_table().table_name(server.table(name));
            create = create.billing_mode(BillingMode::PayPerRequest);
            for (key, kind) in keys.iter().zip([KeyType::Hash, KeyType::Range]) {
                let schema = KeySchemaElement::builder().attribute_name(*key).key_type(kind);
                let attribute = AttributeDefinition::builder().attribute_name(*key);
                let attribute = attribute.attribute_type(ScalarAttributeType::S).build().unwrap();
                create = create.key_schema(schema.build().unwrap()).attribute_definitions(attribute);
            }
            create.send().await.unwrap()
        });
        assert_eq!(kind(block_on(builder(&server, name).migrate())), StoreErrorKind::Config, "{name}");
        assert_eq!(kind(block_on(builder(&server, name).open())), StoreErrorKind::Config, "{name}");
        let count = server
            .ask(async |client| client.scan().table_name(server.table(name)).send().await.unwrap().count);
        assert_eq!(count, 0, "{name}");
    }
}

#[test]
fn the_table_holds_what_it_says() {
    let Some(server) = Server::local() else { return };
    let store = open(&server, "t");
    let later = Row { expires_at: 4_000_000_123_456, bytes: (0..=255).collect(), ..owned(2, "Ann") };
    done(&store, &[insert(1, row(1)), update(1, 1, later.clone())]);
    assert_eq!(load(&store, 1), Some(later));
    let digits = hex(1);
    let held = get(&server, "t", &digits[..1], &digits).unwrap();
    let record = AttributeValue::B(Blob::new((0..=255).collect::<Vec<u8>>()));
    let wanted = [
        ("shard", text(&digits[..1])),
        ("id", text(&digits)),
        ("version", number("2")),
        ("due", number("4000000123456")),
        ("owner", text("uAnn")),
        ("record", record),
        ("ttl", number("4000086524")),
    ];
    assert_eq!(held, Item::from(wanted.map(|(name, value)| (name.to_owned(), value))));
    for other in ["ann", "Ann ", "ANN", "Ánn", "", "uAnn"] {
        assert!(block_on(store.list_owner(other)).unwrap().is_empty(), "{other}");
    }
    assert_eq!(block_on(store.list_owner("Ann")).unwrap().len(), 1);
    done(&store, &[Change::Quarantine { id: id(1) }]);
    let aside = get(&server, "t", &format!("quarantine/{}", &digits[..1]), &digits).unwrap();
    assert_eq!(aside["quarantined_at"], number(&NOW.to_string()));
    assert_eq!((&aside["version"], aside.get("ttl")), (&number("2"), None));
}

/// The service is to end rows by itself, and says by which attribute.
#[test]
fn the_table_has_a_time_to_live_and_is_paid_by_request() {
    let Some(server) = Server::local() else { return };
    let _ = open(&server, "t");
    block_on(builder(&server, "t").migrate()).unwrap();
    let (ttl, table) = server.ask(async |client| {
        let table = server.table("t");
        let ttl = client.describe_time_to_live().table_name(&table).send().await.unwrap();
        (
            ttl.time_to_live_description.unwrap(),
            client.describe_table().table_name(&table).send().await.unwrap(),
        )
    });
    assert_eq!(ttl.time_to_live_status, Some(TimeToLiveStatus::Enabled));
    assert_eq!(ttl.attribute_name.as_deref(), Some("ttl"));
    let billing = table.table.unwrap().billing_mode_summary.unwrap();
    assert_eq!(billing.billing_mode, Some(BillingMode::PayPerRequest));
}

#[test]
fn a_damaged_row_is_corrupt_by_itself_named_by_a_scan_and_put_aside() {
    let Some(server) = Server::local() else { return };
    let store = open(&server, "t");
    done(&store, &(0..9).map(|n| insert(n, owned(1, "a"))).collect::<Vec<_>>());
    for (n, attribute, value) in [
        (4, "version", Some(text("1"))),
        (5, "record", Some(text("text"))),
        (6, "due", Some(number("-1.5"))),
        (7, "owner", Some(text("someone"))),
        (8, "version", None),
    ] {
        set(&server, "t", &hex(n)[..1], &hex(n), &[(attribute, value)]);
    }
    for n in 4..9 {
        assert_eq!(kind(block_on(store.load(&id(n)))), StoreErrorKind::Corrupt);
        assert_eq!(commit(&store, &[insert(n, row(2))]).unwrap(), [Outcome::Exists]);
        assert_eq!(commit(&store, &[rekey(0, 1, n, row(2))]).unwrap(), [Outcome::Exists]);
        // The version of some can be read, and nothing else is asked for.
        if matches!(n, 4 | 8) {
            assert_eq!(commit(&store, &[update(n, 1, row(2))]).unwrap(), [Outcome::Missing]);
            assert_eq!(commit(&store, &[rekey(n, 1, 90, row(2))]).unwrap(), [Outcome::Missing]);
        }
    }
    let scan = block_on(store.scan(None, 100)).unwrap();
    assert_eq!((scan.rows.len(), scan.damaged.len()), (4, 5), "{:?}", scan.damaged);
    assert_eq!(block_on(store.list(None, 4)).unwrap().len(), 4);
    assert_eq!(block_on(store.list_owner("a")).unwrap().len(), 4);
    done(&store, &(4..9).map(|n| Change::Quarantine { id: id(n) }).collect::<Vec<_>>());
    assert!(block_on(store.scan(None, 100)).unwrap().damaged.is_empty());
    for n in 4..9 {
        assert!(get(&server, "t", &format!("quarantine/{}", &hex(n)[..1]), &hex(n)).is_some(), "{n}");
    }
    done(&store, &(4..9).map(|n| insert(n, row(1))).collect::<Vec<_>>());
    assert_eq!(block_on(store.list(None, 100)).unwrap().len(), 9);
}

/// Items that are no rows: they are neither listed nor in the way, and a due one does not stop the sweep.
#[test]
fn items_of_others_are_left_aside() {
    let Some(server) = Server::local() else { return };
    let store = open(&server, "t");
    done(&store, &[insert(1, Row { expires_at: NOW + 1, ..row(1) })]);
    for digits in ["0", "zz", &hex(2).to_uppercase(), &format!("{}0", hex(2))] {
        let foreign = [("due", Some(number("5"))), ("owner", Some(text("ua")))];
        set(&server, "t", &hex(1)[..1], digits, &foreign);
    }
    assert_eq!(block_on(store.list(None, 10)).unwrap().len(), 1);
    assert!(block_on(store.list_owner("a")).unwrap().is_empty());
    let swept = block_on(store.expire(NOW + 1, 0, 1)).unwrap();
    assert_eq!((swept.removed, swept.more), (1, false));
}

/// An answer has 1 MB at most, and a request for several rows a hundred: what is longer comes in pieces, and whole.
#[test]
fn listings_that_take_several_answers_are_whole() {
    const LARGE: u32 = 12;
    const SMALL: u32 = 230;
    let Some(server) = Server::local() else { return };
    let store = open(&server, "t");
    let large = |version| Row { bytes: vec![7; 300_000], ..owned(version, "large") };
    done(&store, &(0..LARGE).map(|n| insert(n, large(1))).collect::<Vec<_>>());
    done(&store, &(LARGE..LARGE + SMALL).map(|n| insert(n, owned(1, "small"))).collect::<Vec<_>>());
    let mut all: Vec<_> = (0..LARGE + SMALL).map(id).collect();
    all.sort_unstable();
    let ids =
        |listed: Vec<sessile_engine::store::Listed>| listed.into_iter().map(|l| l.id).collect::<Vec<_>>();
    assert_eq!(ids(block_on(store.list(None, 10_000)).unwrap()), all);
    let (mut paged, mut after) = (Vec::new(), None);
    loop {
        let page = ids(block_on(store.list(after, 50)).unwrap());
        after = page.last().copied();
        if page.is_empty() {
            break;
        }
        paged.extend(page);
    }
    assert_eq!(paged, all);
    for (owner, wanted) in [("large", LARGE), ("small", SMALL)] {
        let owned = block_on(store.list_owner(owner)).unwrap();
        let different: HashSet<_> = owned.iter().map(|listed| listed.id).collect();
        assert_eq!((owned.len(), different.len()), (wanted as usize, wanted as usize), "{owner}");
    }
    // moto counts the bytes of a record as base64, and takes none of the largest size.
    let largest = Row { bytes: vec![1; 300_000], ..owned(2, &"o".repeat(255)) };
    done(&store, &[update(0, 1, largest.clone()), rekey(0, 2, 5000, largest.clone())]);
    assert_eq!(load(&store, 5000), Some(largest));
    done(&store, &[Change::Quarantine { id: id(5000) }]);
    assert_eq!(load(&store, 5000), None);
}
