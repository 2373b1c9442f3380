//! Which bodies take the text, and that a body which cannot take it does not announce it either.

use super::*;
use sessile_engine::{StoreError, StoreErrorKind};

fn error(kind: StoreErrorKind) -> Error {
    StoreError::new(kind, "test", "secret path /srv/x").into()
}

#[test]
fn the_default_says_503_for_a_store_and_names_no_cause() {
    for kind in
        [StoreErrorKind::Unavailable, StoreErrorKind::Io, StoreErrorKind::ReadOnly, StoreErrorKind::Closed]
    {
        let response: Response<String> = replacement(&default_policy(), &error(kind));
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE, "{kind:?}");
        assert_eq!(response.headers()[CACHE_CONTROL], "no-store");
        assert_eq!(response.body(), "the session could not be saved\n");
    }
}

#[derive(Default)]
struct Unknown;

#[test]
fn an_unknown_body_stays_empty_and_loses_the_length() {
    let policy: OnError = Arc::new(|_| {
        Response::builder().status(418).header(CONTENT_LENGTH, "5").body("hello".to_owned()).unwrap()
    });
    let known: Response<Vec<u8>> = replacement(&policy, &error(StoreErrorKind::Io));
    assert_eq!((known.status().as_u16(), known.body().as_slice()), (418, b"hello".as_slice()));
    assert!(known.headers().contains_key(CONTENT_LENGTH));
    let unknown: Response<Unknown> = replacement(&policy, &error(StoreErrorKind::Io));
    assert_eq!(unknown.status().as_u16(), 418);
    assert!(!unknown.headers().contains_key(CONTENT_LENGTH));
}
