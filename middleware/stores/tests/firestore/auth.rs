//! Tokens: where they come from, when another is fetched, and that none is shown.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sessile_stores::firestore::AccessToken;

use super::support::firestore::PROJECT;
use super::support::firestore::metadata::{Behaviour, Metadata};
use super::*;

const SECRET: &str = "s3cret-t0ken";

/// A store that asks the double as it would ask the service.
fn at(server: &Server) -> Builder {
    builder_at(&format!("firestore://{PROJECT}")).endpoint(format!("http://{}", server.authority()))
}

#[test]
fn a_token_of_the_metadata_server_is_used_until_it_is_refused() {
    let (server, metadata) = (Server::start(), Metadata::start());
    server.takes(&["token-1"]);
    // Two openings with a source of their own each, of which the first gets the first token.
    let builder = at(&server).metadata_host(metadata.authority());
    block_on(builder.migrate()).unwrap();
    server.takes(&["token-2"]);
    let store = block_on(builder.open()).unwrap();
    for n in 0..20 {
        done(&store, &[insert(n, row(1))]);
    }
    assert_eq!(metadata.given(), 2, "it is kept");
    // It was withdrawn: another is fetched, once, and the call is made all the same.
    server.takes(&["token-3"]);
    let asked = server.count("batchGet");
    assert_eq!(load(&store, 1), Some(row(1)));
    assert_eq!((metadata.given(), server.count("batchGet")), (3, asked + 2));
    done(&store, &[update(1, 1, row(2))]);
    // No token is taken any more: that is a mistake of the configuration, after one more attempt.
    server.takes(&[]);
    let sent = server.count("commit");
    let asked = server.count("batchGet");
    assert_eq!(kind(commit(&store, &[insert(90, row(1))])), StoreErrorKind::Config);
    assert_eq!(server.count("commit"), sent + 2);
    assert_eq!(kind(block_on(store.load(&id(1)))), StoreErrorKind::Config);
    assert_eq!(server.count("batchGet"), asked + 2);
    // The commit that was refused was not made.
    server.takes(&[&format!("token-{}", metadata.given() + 1)]);
    assert_eq!(load(&store, 90), None);
}

/// Who comes while another fetches a token waits for that one.
#[test]
fn many_calls_at_once_fetch_one_token() {
    let (server, metadata) = (Server::start(), Metadata::start());
    server.takes(&["token-1", "token-2"]);
    let builder = at(&server).metadata_host(metadata.authority());
    block_on(builder.migrate()).unwrap();
    let store = block_on(builder.open()).unwrap();
    server.takes(&["token-3"]);
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| assert_eq!(load(&store, 1), None));
        }
    });
    assert_eq!(metadata.given(), 3);
}

#[test]
fn a_token_that_has_ended_is_not_sent() {
    let (server, metadata) = (Server::start(), Metadata::start());
    metadata.behaves(Behaviour::Gives(0));
    server.takes(&["token-1", "token-2", "token-3", "token-4"]);
    let builder = at(&server).metadata_host(metadata.authority());
    block_on(builder.migrate()).unwrap();
    let store = block_on(builder.open()).unwrap();
    let given = metadata.given();
    let asked = server.count("batchGet");
    assert_eq!(load(&store, 1), None);
    assert_eq!((metadata.given(), server.count("batchGet")), (given + 1, asked + 1));
}

#[test]
fn what_is_wrong_with_the_metadata_server_is_told_in_kind() {
    let (server, metadata) = (Server::start(), Metadata::start());
    let builder = at(&server).metadata_host(metadata.authority());
    for (behaviour, wanted) in [
        (Behaviour::Closes, StoreErrorKind::Unavailable),
        (Behaviour::Status(503), StoreErrorKind::Unavailable),
        (Behaviour::Status(429), StoreErrorKind::Unavailable),
        (Behaviour::Nonsense, StoreErrorKind::Unavailable),
        // No service account, no right to it, and somebody who is no metadata server.
        (Behaviour::Status(404), StoreErrorKind::Config),
        (Behaviour::Status(403), StoreErrorKind::Config),
        (Behaviour::Nameless, StoreErrorKind::Config),
    ] {
        metadata.behaves(behaviour);
        let e = block_on(builder.clone().open()).map(drop).unwrap_err();
        assert_eq!(e.kind(), wanted, "{behaviour:?}: {e}");
        assert!(!format!("{e} {e:?}").contains("s3cret"), "{e:?}");
    }
    assert_eq!(server.count("batchGet"), 0, "nothing was asked without a token");
    let nobody = at(&server).metadata_host("127.0.0.1:1");
    assert_eq!(kind(block_on(nobody.open())), StoreErrorKind::Unavailable);
}

#[test]
fn the_app_may_bring_its_own_tokens() {
    let server = Server::start();
    server.takes(&[SECRET]);
    let fetched = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&fetched);
    let builder = at(&server).tokens(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        async { Ok(AccessToken::new(SECRET, Duration::from_secs(3600))) }
    });
    assert!(!format!("{builder:?}").contains(SECRET));
    let store = opened(builder);
    assert!(!format!("{store:?}").contains(SECRET));
    done(&store, &[insert(1, row(1))]);
    // One source for both openings, and each has its own token from it.
    assert_eq!(fetched.load(Ordering::Relaxed), 2);
    let failing = at(&server).tokens(|| async { Err("the vault is sealed".into()) });
    let e = block_on(failing.open()).map(drop).unwrap_err();
    assert_eq!(e.kind(), StoreErrorKind::Unavailable);
    assert!(std::error::Error::source(&e).unwrap().to_string().contains("vault"), "it keeps its source");
    let odd = at(&server).tokens(|| async { Ok(AccessToken::new("s3cret\n", Duration::from_secs(1))) });
    let e = block_on(odd.open()).map(drop).unwrap_err();
    assert_eq!(e.kind(), StoreErrorKind::Config);
    assert!(!format!("{e} {e:?}").contains("s3cret"));
}

#[test]
fn no_error_shows_a_token() {
    let server = Server::start();
    server.takes(&[SECRET]);
    let tokens = || async { Ok(AccessToken::new(SECRET, Duration::from_secs(3600))) };
    let store = opened(at(&server).tokens(tokens));
    server.takes(&[]);
    let refused = block_on(store.load(&id(1))).unwrap_err();
    server.kill();
    let unanswered = block_on(store.load(&id(1))).unwrap_err();
    for e in [refused, unanswered] {
        assert!(!format!("{e} {e:?}").contains(SECRET), "{e:?}");
    }
}
