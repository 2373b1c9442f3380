//! rkyv archives as values, seen from outside.

use sessile_engine::rkyv::{Archive, Serialize};
use sessile_engine::store::MemoryStore;
use sessile_engine::value::{Kind, Value};
use sessile_engine::{Engine, ErrorKind, SessionKey};

use super::{begin, fresh, issued, kind, memory};

#[derive(Archive, Serialize, PartialEq, Debug)]
#[rkyv(crate = sessile_engine::rkyv, compare(PartialEq), derive(Debug))]
struct Cart {
    items: Vec<(String, u64)>,
}

const CART: SessionKey<Cart> = SessionKey::new("cart");

fn cart() -> Cart {
    Cart { items: vec![("a".into(), 1), ("something longer than a pointer".into(), u64::MAX)] }
}

#[test]
fn an_archive_is_read_in_place() {
    let engine = memory();
    let session = begin(&engine, Some(&fresh(&engine)));
    CART.put_archived(&session, &cart()).unwrap();
    let snapshot = session.snapshot().unwrap();
    assert_eq!(*snapshot.archived::<Cart>("cart").unwrap().unwrap(), cart());
    assert_eq!(*CART.archived_in(&snapshot).unwrap().unwrap(), cart());
    assert!(snapshot.archived::<Cart>("none").unwrap().is_none());
    for owner in ["u", "us", "use", "user", "user:", "user:4"] {
        session.set_owner(Some(owner)).unwrap();
        session.put("a", owner).unwrap();
        assert_eq!(*CART.archived_in(&session.snapshot().unwrap()).unwrap().unwrap(), cart());
    }
    session
        .transact(|tx| {
            assert_eq!(*tx.archived::<Cart>("cart")?.unwrap(), cart());
            tx.put_archived("other", &cart())?;
            assert!(CART.remove_in(tx));
            Ok(())
        })
        .unwrap();
    assert_eq!(*session.snapshot().unwrap().archived::<Cart>("other").unwrap().unwrap(), cart());
}

#[test]
fn what_is_no_archive_of_the_type_is_an_error() {
    let engine = memory();
    let session = begin(&engine, None);
    session.put("k", "v").unwrap();
    session.put_archived("n", &7_u64).unwrap();
    let snapshot = session.snapshot().unwrap();
    for key in ["k", "n"] {
        let error = snapshot.archived::<Cart>(key).unwrap_err();
        assert_eq!((error.kind(), error.key()), (ErrorKind::TypeMismatch, Some(key)));
    }
    assert_eq!(kind(snapshot.archived::<u32>("n")), ErrorKind::TypeMismatch);
    assert_eq!(kind(session.get::<u64>("n")), ErrorKind::TypeMismatch);
    assert_eq!(kind(session.pop::<u64>("n")), ErrorKind::TypeMismatch);
    assert_eq!(snapshot.value("n").map(|v| v.kind()), Some(Kind::Archived));
    assert!(matches!(session.get::<Value>("n").unwrap(), Some(Value::Bytes(_))));
    assert!(session.remove("n").unwrap());
}

#[test]
fn limits_hold_for_archives() {
    let engine = Engine::builder().max_record_bytes(1024).in_memory().unwrap();
    let session = begin(&engine, None);
    assert_eq!(kind(session.put_archived("big", &vec![0_u8; 2000])), ErrorKind::Limit);
    assert_eq!(kind(session.put_archived("wide", &1_u128)), ErrorKind::Serialize);
    assert_eq!(session.id(), None);
}

#[test]
fn an_archive_survives_the_store() {
    let store = MemoryStore::default();
    let engine = Engine::builder().open(store.clone()).unwrap();
    let session = begin(&engine, None);
    session.put("k", "v").unwrap();
    CART.put_archived(&session, &cart()).unwrap();
    let token = issued(&session);
    drop(session);
    pollster::block_on(engine.close()).unwrap();
    let engine = Engine::builder().open(store).unwrap();
    let snapshot = begin(&engine, Some(&token)).snapshot().unwrap();
    assert_eq!(*CART.archived_in(&snapshot).unwrap().unwrap(), cart());
}
