//! Answers that no server gives when it is asked to: what is sent again, what is not, and what the engine is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::support::dynamodb::{SECRET, Stub, refusal};
use super::*;

fn store(stub: &Stub) -> DynamoStore {
    block_on(DynamoStore::builder(&stub.url()).deadline(BOUND).open()).unwrap()
}

fn cancelled(codes: [&str; 2]) -> String {
    let reasons = codes.map(|code| format!(r#"{{"Code":"{code}","Message":"m"}}"#)).join(",");
    let kind = "com.amazonaws.dynamodb.v20120810#TransactionCanceledException";
    format!(r#"{{"__type":"{kind}","Message":"cancelled","CancellationReasons":[{reasons}]}}"#)
}

/// The first `times` requests of every kind are refused.
fn refuses(times: u32, status: u16, code: &'static str) -> Stub {
    Stub::start(move |_, _, n| (n < times).then(|| (status, refusal(code, "too much"))))
}

#[test]
fn what_the_service_has_no_capacity_for_is_sent_again_and_told_if_that_lasts() {
    for code in ["ProvisionedThroughputExceededException", "ThrottlingException", "RequestLimitExceeded"] {
        let stub = refuses(2, 400, code);
        let store = store(&stub);
        assert_eq!(commit(&store, &[insert(1, row(1))]).unwrap(), [Outcome::Done]);
        assert_eq!(commit(&store, &[rekey(1, 1, 2, row(1))]).unwrap(), [Outcome::Done]);
        assert_eq!(load(&store, 1), None);
        for asked in ["putitem", "transactwriteitems", "getitem"] {
            assert_eq!(stub.asked(asked), 3, "{code} {asked}");
        }
        let stub = refuses(u32::MAX, 400, code);
        let store = self::store(&stub);
        let error = commit(&store, &[insert(1, row(1))]).unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Unavailable);
        assert!(error.to_string().contains(code), "{error}");
        assert!(std::error::Error::source(&error).is_some(), "it keeps what the client says");
        assert_eq!(kind(block_on(store.load(&id(1)))), StoreErrorKind::Unavailable);
        assert_eq!(kind(commit(&store, &[rekey(1, 1, 2, row(1))])), StoreErrorKind::Unavailable);
    }
}

#[test]
fn what_another_transaction_was_in_the_way_of_is_sent_again() {
    let stub = Stub::start(|operation, _, n| match operation {
        "transactwriteitems" if n < 5 => Some((
            400,
            cancelled([["None", "TransactionConflict"], ["TransactionConflict", "None"]][n as usize % 2]),
        )),
        "putitem" if n < 5 => Some((400, refusal("TransactionConflictException", "ongoing"))),
        _ => None,
    });
    let store = store(&stub);
    assert_eq!(commit(&store, &[rekey(1, 1, 2, row(1))]).unwrap(), [Outcome::Done]);
    assert_eq!(commit(&store, &[update(1, 1, row(1))]).unwrap(), [Outcome::Done]);
    assert_eq!((stub.asked("transactwriteitems"), stub.asked("putitem")), (6, 6));
}

/// A transaction that is refused for several reasons is decided by the condition that failed.
#[test]
fn a_renewal_is_told_what_stood_in_its_way() {
    for (codes, wanted) in [
        (["ConditionalCheckFailed", "ConditionalCheckFailed"], Outcome::Exists),
        (["ConditionalCheckFailed", "TransactionConflict"], Outcome::Exists),
        (["None", "ConditionalCheckFailed"], Outcome::Missing),
    ] {
        let stub = Stub::start(move |operation, _, _| {
            (operation == "transactwriteitems").then(|| (400, cancelled(codes)))
        });
        assert_eq!(commit(&store(&stub), &[rekey(1, 1, 2, row(1))]).unwrap(), [wanted], "{codes:?}");
    }
    for (code, wanted) in [
        ("ItemCollectionSizeLimitExceeded", StoreErrorKind::Full),
        ("ThrottlingError", StoreErrorKind::Unavailable),
        ("AccessDenied", StoreErrorKind::Config),
    ] {
        let stub = Stub::start(move |operation, _, _| {
            (operation == "transactwriteitems").then(|| (400, cancelled(["None", code])))
        });
        assert_eq!(kind(commit(&store(&stub), &[rekey(1, 1, 2, row(1))])), wanted, "{code}");
    }
}

/// A change whose answer is lost may have been made: sent again, it would meet itself. A question may be asked again, and so
/// may what makes no difference the second time.
#[test]
fn a_change_that_was_not_answered_is_not_sent_again() {
    for answer in [(500, refusal("InternalServerError", "x")), (503, "nonsense".to_owned())] {
        let answered = answer.clone();
        let stub = Stub::start(move |operation, _, n| {
            (n == 0 && operation != "updateitem").then(|| answered.clone())
        });
        let store = store(&stub);
        assert_eq!(kind(commit(&store, &[insert(1, row(1))])), StoreErrorKind::Unavailable, "{answer:?}");
        assert_eq!(stub.asked("putitem"), 1);
        assert_eq!(kind(commit(&store, &[rekey(1, 1, 2, row(1))])), StoreErrorKind::Unavailable);
        assert_eq!(stub.asked("transactwriteitems"), 1);
        assert_eq!(commit(&store, &[Change::Delete { id: id(1) }]).unwrap(), [Outcome::Done]);
        assert_eq!(stub.asked("deleteitem"), 2);
        assert_eq!(load(&store, 1), None);
        assert_eq!(stub.asked("getitem"), 2);
    }
}

#[test]
fn what_is_wrong_for_good_is_a_mistake_of_the_configuration_and_shows_no_secret() {
    for code in ["AccessDeniedException", "UnrecognizedClientException", "ResourceNotFoundException"] {
        let stub = refuses(u32::MAX, 400, code);
        let store = store(&stub);
        for error in [
            block_on(store.load(&id(1))).unwrap_err(),
            commit(&store, &[insert(1, row(1))]).unwrap_err(),
            block_on(store.list_owner("u")).unwrap_err(),
        ] {
            assert_eq!(error.kind(), StoreErrorKind::Config, "{error}");
            assert!(!format!("{error} {error:?} {store:?}").contains(SECRET), "{error:?}");
        }
        assert_eq!(stub.asked("getitem"), 1, "{code} is not asked again");
    }
    let denied = Stub::start(|_, _, _| Some((400, refusal("AccessDeniedException", "no"))));
    let migrated = block_on(DynamoStore::builder(&denied.url()).deadline(BOUND).migrate());
    assert_eq!(kind(migrated), StoreErrorKind::Config);
    // Who signs requests for others than the server does not say the secret either.
    let nobody = DynamoStore::builder(&format!("dynamodb://k:{SECRET}@127.0.0.1:1")).deadline(BOUND);
    let error = block_on(nobody.open()).unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    assert!(!format!("{error} {error:?}").contains(SECRET), "{error:?}");
}

#[test]
fn an_answer_that_is_none_is_an_error() {
    for answer in ["", "[", "{\"Item\":[]}", "<html>"] {
        let stub = Stub::start(move |_, _, _| Some((200, answer.to_owned())));
        let loaded = block_on(store(&stub).load(&id(1)));
        // An empty body is that of an empty answer.
        match answer {
            "" => assert_eq!(loaded.unwrap(), None),
            _ => assert_eq!(kind(loaded), StoreErrorKind::Corrupt, "{answer}"),
        }
    }
}

/// What an answer has no room for is asked for again.
#[test]
fn what_was_left_out_of_an_answer_is_asked_for() {
    let found = |n: u32, left: &str| {
        format!(
            r#"{{"Responses":{{"sessile_sessions":[{{"time":{{"N":"{n}"}}}}]}},"UnprocessedKeys":{{{left}}}}}"#
        )
    };
    let left = r#""sessile_sessions":{"Keys":[{"shard":{"S":"mark/1"},"id":{"S":"mark"}}]}"#;
    let stub = Stub::start(move |operation, _, n| match (operation, n) {
        ("batchgetitem", 0) => Some((200, found(5, left))),
        ("batchgetitem", _) => Some((200, found(9, ""))),
        _ => None,
    });
    assert_eq!(block_on(store(&stub).high_water()).unwrap(), 9);
    assert_eq!(stub.asked("batchgetitem"), 2);
}

/// A session that is renewed while its owner's are listed may be in neither of two shards when each is looked at.
#[test]
fn a_session_that_moves_during_a_listing_of_its_owner_is_found_by_the_next_look() {
    let digits: String = id(7).as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let key = format!(r#""shard":{{"S":"{}"}},"id":{{"S":"{digits}"}}"#, &digits[..1]);
    let index = format!(r#"{{"Items":[{{{key},"owner":{{"S":"uann"}}}}]}}"#);
    let fields = r#""version":{"N":"3"},"due":{"N":"4"},"owner":{"S":"uann"},"record":{"B":""}"#;
    let rows = format!(r#"{{"Responses":{{"sessile_sessions":[{{{key},{fields}}}]}}}}"#);
    // The first look, at each of sixteen shards, finds nothing.
    let stub = Stub::start(move |operation, _, n| match operation {
        "query" if n == 16 => Some((200, index.clone())),
        "batchgetitem" => Some((200, rows.clone())),
        _ => None,
    });
    let found = block_on(store(&stub).list_owner("ann")).unwrap();
    assert_eq!(found.iter().map(|listed| listed.id).collect::<Vec<_>>(), [id(7)]);
    assert_eq!(stub.asked("query"), 48, "until a look finds nothing new");
}

/// Calls whose deadline ends while their answer is on its way leave it to nobody.
#[test]
fn no_call_gets_the_answer_to_a_call_whose_deadline_ended() {
    let digits = |n: u32| id(n).as_bytes().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let known: Vec<_> = (0..20).map(|n| (digits(n), u64::from(n) + 1)).collect();
    let held = Arc::new(AtomicU32::new(0));
    let until = Arc::clone(&held);
    let stub = Stub::start(move |operation, body, n| {
        let (_, version) =
            known.iter().find(|(digits, _)| operation == "getitem" && body.contains(digits))?;
        // Those that came before are answered later.
        while n < until.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let record = r#""record":{"B":""}"#;
        Some((200, format!(r#"{{"Item":{{"version":{{"N":"{version}"}},"due":{{"N":"1"}},{record}}}}}"#)))
    });
    let store = block_on(DynamoStore::builder(&stub.url()).deadline(Duration::from_secs(2)).open()).unwrap();
    let version = |n| load(&store, n).unwrap().version;
    assert_eq!(version(1), 2);
    for round in 0..3 {
        let asked = stub.asked("getitem") as u32;
        held.store(asked + 1, Ordering::Release);
        let e = block_on(store.load(&id(1))).unwrap_err();
        assert_eq!(e.kind(), StoreErrorKind::Unavailable, "{e}");
        // What has been held back is answered now, to nobody.
        if round % 2 == 0 {
            held.store(0, Ordering::Release);
        }
        for n in 2..20 {
            assert_eq!(version(n), u64::from(n) + 1);
        }
        held.store(0, Ordering::Release);
    }
}
