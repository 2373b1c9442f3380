//! Two engines that change one session at the same time.

use pollster::block_on;
use sessile_engine::store::{MemoryStore, Store};

use crate::support::{begin, commit, fresh, get, put, strict_pair};

#[test]
fn different_keys_both_survive() {
    let (_, a, b) = strict_pair();
    let token = fresh(&a);
    let (one, other) = (begin(&a, &token), begin(&b, &token));
    one.put("one", &1).unwrap();
    other.put("other", &2).unwrap();
    commit(&one);
    commit(&other);
    for engine in [&a, &b] {
        let session = begin(engine, &token);
        assert_eq!(session.keys(), ["k", "one", "other"]);
    }
}

#[test]
fn of_one_key_the_later_commit_wins_and_removals_count() {
    let (_, a, b) = strict_pair();
    let token = fresh(&a);
    put(&a, &token, "x", 1);
    let (one, other) = (begin(&a, &token), begin(&b, &token));
    one.put("k", &7).unwrap();
    one.remove("x").unwrap();
    other.put("k", &8).unwrap();
    commit(&one);
    commit(&other);
    for engine in [&a, &b] {
        assert_eq!(get(engine, &token, "k"), Some(8));
        assert_eq!(get(engine, &token, "x"), None, "nobody put it back");
    }
}

#[test]
fn owners_deadlines_and_data_are_merged_each_by_itself() {
    let (rows, a, b) = strict_pair();
    let token = fresh(&a);
    let (one, other) = (begin(&a, &token), begin(&b, &token));
    one.set_owner(Some("ann")).unwrap();
    other.remember_me(false).unwrap();
    other.put("k", &3).unwrap();
    commit(&one);
    commit(&other);
    let session = begin(&a, &token);
    assert_eq!(session.owner().as_deref(), Some("ann"));
    assert!(!session.is_persistent());
    assert_eq!(session.get("k").unwrap(), Some(3));
    assert_eq!(block_on(rows.list_owner("ann")).unwrap().len(), 1);
    assert_eq!(block_on(b.sessions_of("ann")).unwrap().len(), 1);
}

#[test]
fn a_handle_from_before_another_engines_change_sees_it_after_its_own_commit() {
    let (_, a, b) = strict_pair();
    let token = fresh(&a);
    let session = begin(&a, &token);
    put(&b, &token, "b", 5);
    assert_eq!(session.get::<u64>("b").unwrap(), None, "read when it was loaded");
    session.put("a", &6).unwrap();
    commit(&session);
    assert_eq!(session.get("b").unwrap(), Some(5));
    assert_eq!(session.get("a").unwrap(), Some(6));
}

#[test]
fn a_transaction_on_the_stored_state_sees_what_others_have_stored() {
    let (_, a, b) = strict_pair();
    let token = fresh(&a);
    let session = begin(&a, &token);
    put(&b, &token, "k", 41);
    session.put("mine", &1).unwrap();
    let n = block_on(session.update_stored("k", |n: Option<u64>| n.unwrap_or(0) + 1)).unwrap();
    assert_eq!(n, 42);
    assert_eq!(get(&b, &token, "k"), Some(42));
    assert_eq!(get(&b, &token, "mine"), Some(1), "what the request wrote before was stored with it");
    assert_eq!(session.get("k").unwrap(), Some(42));
}

#[test]
fn a_value_is_popped_once_however_many_engines_ask() {
    let (_, a, b) = strict_pair();
    let token = fresh(&a);
    put(&a, &token, "coupon", 17);
    let (one, other) = (begin(&a, &token), begin(&b, &token));
    let got = [&one, &other].map(|session| block_on(session.pop_stored::<u64>("coupon")).unwrap());
    assert_eq!(got, [Some(17), None]);
    assert_eq!(get(&b, &token, "coupon"), None);
    let error = block_on(one.pop_stored::<String>("k")).unwrap_err();
    assert_eq!(error.kind(), sessile_engine::ErrorKind::TypeMismatch);
    assert_eq!(get(&b, &token, "k"), Some(0), "a pop of the wrong type deletes nothing");
}

#[test]
fn a_new_session_can_be_counted_in_before_it_is_stored() {
    let (rows, a, b) = strict_pair();
    let session = block_on(a.session(None)).unwrap();
    assert_eq!(block_on(session.pop_stored::<u64>("n")).unwrap(), None);
    assert_eq!(block_on(session.update_stored("n", |n: Option<u64>| n.unwrap_or(0) + 1)).unwrap(), 1);
    assert_eq!(rows.len(), 0, "nothing before its response");
    let token = crate::support::issued(&session);
    assert_eq!(get(&b, &token, "n"), Some(1));
}

#[test]
fn without_others_the_stored_state_is_that_in_memory() {
    let engine = sessile_engine::Engine::builder().open(MemoryStore::new()).unwrap();
    let token = fresh(&engine);
    let session = begin(&engine, &token);
    assert_eq!(block_on(session.update_stored("k", |n: Option<u64>| n.unwrap_or(0) + 1)).unwrap(), 1);
    assert_eq!(get(&engine, &token, "k"), Some(1));
}

#[test]
fn what_is_written_behind_is_merged_too() {
    let rows = MemoryStore::shared();
    let open = || {
        let builder = sessile_engine::Engine::builder().durability(sessile_engine::Durability::eventual());
        builder.open(rows.clone()).unwrap()
    };
    let (a, b) = (open(), open());
    let token = fresh(&a);
    block_on(a.flush()).unwrap();
    let (one, other) = (begin(&a, &token), begin(&b, &token));
    for n in 0..50 {
        one.put(&format!("a{n}"), &n).unwrap();
        other.put(&format!("b{n}"), &n).unwrap();
    }
    commit(&one);
    commit(&other);
    block_on(a.close()).unwrap();
    block_on(b.close()).unwrap();
    let c = open();
    assert_eq!(begin(&c, &token).keys().len(), 101);
}
