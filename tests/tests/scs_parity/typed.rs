//! The typed getters and pops. SCS has a method per type; here one generic method has the type as parameter.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::{Duration, SystemTime};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sessile::value::{Bytes, Timestamp};
use sessile::{ErrorKind, Session};

use crate::support::Site;

/// Stores `value` in one request, and reads it, then pops it in others.
async fn round_trip<T: Serialize + DeserializeOwned + PartialEq + Debug + Default>(value: T) {
    // SCS: a missing key is the zero value. `get_or_default` is that; `get` tells the two apart.
    let site = Site::new();
    let mut browser = site.browser();
    browser.visit(async |session| session.put("k", &value).unwrap()).await;
    browser
        .visit(async |session| {
            assert_eq!(session.get::<T>("k").unwrap().as_ref(), Some(&value));
            assert_eq!(session.get::<T>("missing").unwrap(), None);
            assert_eq!(session.get_or_default::<T>("missing").unwrap(), T::default());
        })
        .await;
    browser
        .visit(async |session| {
            assert_eq!(session.pop::<T>("missing").unwrap(), None);
            assert_eq!(session.pop::<T>("k").unwrap().as_ref(), Some(&value));
            assert_eq!(session.pop::<T>("k").unwrap(), None);
        })
        .await;
    browser.visit(async |session| assert!(!session.exists("k"))).await;
}

async fn with(key: &str, value: impl Serialize, page: impl AsyncFnOnce(&Session)) {
    let site = Site::new();
    let mut browser = site.browser();
    browser.visit(async |session| session.put(key, &value).unwrap()).await;
    browser.visit(page).await;
}

#[tokio::test]
async fn get_string_and_pop_string() {
    round_trip("text".to_owned()).await;
}

#[tokio::test]
async fn get_bool_and_pop_bool() {
    round_trip(true).await;
}

#[tokio::test]
async fn get_int_and_pop_int() {
    round_trip(isize::MIN).await;
}

#[tokio::test]
async fn get_int64_and_a_pop_that_scs_lacks() {
    round_trip(i64::MIN).await;
}

#[tokio::test]
async fn get_int32_and_a_pop_that_scs_lacks() {
    round_trip(i32::MIN).await;
}

#[tokio::test]
async fn unsigned_integers_which_scs_lacks() {
    round_trip(u64::MAX).await;
}

#[tokio::test]
async fn get_float_and_pop_float() {
    round_trip(0.1f64).await;
}

#[tokio::test]
async fn get_bytes_and_pop_bytes() {
    let site = Site::new();
    let mut browser = site.browser();
    browser.visit(async |session| session.put_bytes("k", b"\0\xff").unwrap()).await;
    browser
        .visit(async |session| {
            assert_eq!(
                session.get::<Bytes>("k").unwrap().map(Bytes::into_vec).as_deref(),
                Some(&b"\0\xff"[..])
            );
            assert_eq!(session.snapshot().unwrap().bytes("k").unwrap(), Some(&b"\0\xff"[..]));
            assert!(session.pop::<Bytes>("k").unwrap().is_some());
            assert!(session.pop::<Bytes>("k").unwrap().is_none());
        })
        .await;
}

#[tokio::test]
async fn get_time_and_pop_time_need_no_registration() {
    // SCS: the commit fails with "gob: type not registered for interface: time.Time".
    let moment = Timestamp::from(SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_250));
    with("at", moment, async |session| {
        assert_eq!(session.get::<Timestamp>("at").unwrap(), Some(moment));
        assert_eq!(session.pop::<Timestamp>("at").unwrap(), Some(moment));
        assert_eq!(session.get::<Timestamp>("at").unwrap(), None);
    })
    .await;
}

#[tokio::test]
async fn lists_maps_and_structs_need_no_registration() {
    // SCS: `map[string]interface{}` and structs fail at the commit unless `gob.Register` was called.
    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    struct Cart {
        items: Vec<String>,
        total: u32,
    }
    round_trip(vec!["a".to_owned(), "b".to_owned()]).await;
    round_trip(BTreeMap::from([("a".to_owned(), 1), ("b".to_owned(), 2)])).await;
    round_trip(Cart { items: vec!["apple".to_owned()], total: 7 }).await;
}

#[tokio::test]
async fn a_value_of_another_type_is_an_error_that_names_the_key() {
    // SCS: the zero value, as if there were none.
    with("k", "text", async |session| {
        let error = session.get::<i64>("k").unwrap_err();
        assert_eq!((error.kind(), error.key()), (ErrorKind::TypeMismatch, Some("k")));
    })
    .await;
}

#[tokio::test]
async fn integers_are_converted_where_they_fit() {
    // SCS: the exact Go type, so `GetInt` of a stored `int64` is 0.
    with("k", 300i64, async |session| {
        assert_eq!(session.get::<u16>("k").unwrap(), Some(300));
        assert_eq!(session.get::<u8>("k").unwrap_err().kind(), ErrorKind::TypeMismatch);
    })
    .await;
}

#[tokio::test]
async fn a_pop_of_another_type_deletes_nothing() {
    // SCS: returns the zero value and deletes the value.
    with("k", "text", async |session| {
        assert_eq!(session.pop::<i64>("k").unwrap_err().kind(), ErrorKind::TypeMismatch);
        assert_eq!(session.get::<String>("k").unwrap().as_deref(), Some("text"));
    })
    .await;
}
