//! `Put`, `Get`, `Pop`, `Remove`, `Clear`, `Exists` and `Keys`, and which of them mark the session modified.

use sessile::{ErrorKind, Status};

use crate::support::{Session, Site};

/// A request of a browser whose session has `a` = 1 and `b` = `two`.
async fn with_two(page: impl AsyncFnOnce(&Session)) {
    let site = Site::new();
    let mut browser = site.browser();
    browser
        .visit(async |session| {
            session.put("a", &1).unwrap();
            session.put("b", "two").unwrap();
        })
        .await;
    browser.visit(page).await;
}

fn modified(session: &Session) -> bool {
    session.status() == Status::Modified
}

#[tokio::test]
async fn put_sets_a_value() {
    with_two(async |session| {
        session.put("c", "three").unwrap();
        assert_eq!(session.get::<String>("c").unwrap().as_deref(), Some("three"));
    })
    .await;
}

#[tokio::test]
async fn put_replaces_a_value_and_its_type() {
    with_two(async |session| {
        session.put("a", "one").unwrap();
        assert_eq!(session.get::<String>("a").unwrap().as_deref(), Some("one"));
    })
    .await;
}

#[tokio::test]
async fn put_always_marks_modified() {
    with_two(async |session| {
        session.put("a", &1).unwrap();
        assert!(modified(session));
    })
    .await;
}

#[tokio::test]
async fn put_stores_a_copy() {
    // SCS: stores the reference; what the handler does to the value afterwards is stored too, or not, by chance.
    with_two(async |session| {
        let mut list = vec![1];
        session.put("list", &list).unwrap();
        list.push(2);
        assert_eq!(session.get::<Vec<i32>>("list").unwrap(), Some(vec![1]));
    })
    .await;
}

#[tokio::test]
async fn put_of_an_empty_key_is_refused() {
    // SCS: allowed. An empty key is a mistake.
    with_two(async |session| {
        assert_eq!(session.put("", &1).unwrap_err().kind(), ErrorKind::InvalidKey);
        assert!(!modified(session));
    })
    .await;
}

#[tokio::test]
async fn put_of_nil_is_allowed() {
    with_two(async |session| {
        session.put("nil", &None::<i32>).unwrap();
        assert_eq!(session.get::<Option<i32>>("nil").unwrap(), Some(None));
    })
    .await;
}

#[tokio::test]
async fn put_of_what_cannot_be_stored_fails_at_the_call() {
    // SCS: `Put` takes anything, and the commit fails.
    with_two(async |session| {
        assert_eq!(session.put("big", &vec![1u64; 100_000]).unwrap_err().kind(), ErrorKind::Limit);
        assert!(!modified(session) && !session.exists("big"));
    })
    .await;
}

#[tokio::test]
async fn get_of_a_missing_key_is_none() {
    with_two(async |session| assert_eq!(session.get::<i32>("c").unwrap(), None)).await;
}

#[tokio::test]
async fn get_never_marks_modified() {
    with_two(async |session| {
        assert_eq!(session.get::<i32>("a").unwrap(), Some(1));
        assert!(!modified(session));
    })
    .await;
}

#[tokio::test]
async fn changing_what_get_returned_changes_nothing() {
    // SCS: changes the value in memory without storing it.
    with_two(async |session| {
        session.get::<String>("b").unwrap().unwrap().push('!');
        assert_eq!(session.get::<String>("b").unwrap().as_deref(), Some("two"));
    })
    .await;
}

#[tokio::test]
async fn pop_returns_the_value_and_deletes_it() {
    with_two(async |session| {
        assert_eq!(session.pop::<i32>("a").unwrap(), Some(1));
        assert!(!session.exists("a") && modified(session));
    })
    .await;
}

#[tokio::test]
async fn pop_of_a_missing_key_is_none_and_marks_nothing() {
    with_two(async |session| {
        assert_eq!(session.pop::<i32>("c").unwrap(), None);
        assert!(!modified(session));
    })
    .await;
}

#[tokio::test]
async fn remove_deletes_a_value() {
    with_two(async |session| {
        assert!(session.remove("a").unwrap());
        assert!(!session.exists("a") && modified(session));
    })
    .await;
}

#[tokio::test]
async fn remove_of_a_missing_key_does_nothing() {
    with_two(async |session| {
        assert!(!session.remove("c").unwrap());
        assert!(!modified(session));
    })
    .await;
}

#[tokio::test]
async fn clear_drops_all_values_and_marks_modified() {
    with_two(async |session| {
        session.clear().unwrap();
        assert!(session.keys().is_empty() && modified(session));
    })
    .await;
}

#[tokio::test]
async fn clear_keeps_token_and_deadline() {
    with_two(async |session| {
        let before = (session.id(), session.deadline());
        assert!(before.0.is_some() && before.1.is_some());
        session.clear().unwrap();
        assert_eq!((session.id(), session.deadline()), before);
    })
    .await;
}

#[tokio::test]
async fn clear_of_a_session_without_values_marks_nothing() {
    let site = Site::new();
    let seen = site
        .browser()
        .visit(async |session| {
            session.clear().unwrap();
            assert!(!modified(session));
        })
        .await;
    assert!(seen.sets_no_cookie());
}

#[tokio::test]
async fn exists_tells_presence() {
    with_two(async |session| assert!(session.exists("a") && !session.exists("c"))).await;
}

#[tokio::test]
async fn exists_is_true_for_a_stored_nil() {
    with_two(async |session| {
        session.put("nil", &()).unwrap();
        assert!(session.exists("nil"));
    })
    .await;
}

#[tokio::test]
async fn exists_never_marks_modified() {
    with_two(async |session| assert!(session.exists("a") && !modified(session))).await;
}

#[tokio::test]
async fn keys_are_sorted() {
    with_two(async |session| {
        session.put("aa", &1).unwrap();
        session.put("Z", &1).unwrap();
        assert_eq!(session.keys(), ["Z", "a", "aa", "b"]);
    })
    .await;
}

#[tokio::test]
async fn keys_of_an_empty_session_is_an_empty_list() {
    Site::new().browser().visit(async |session| assert!(session.keys().is_empty())).await;
}

#[tokio::test]
async fn keys_never_marks_modified() {
    with_two(async |session| assert!(!session.keys().is_empty() && !modified(session))).await;
}

#[tokio::test]
async fn several_puts_are_one_row() {
    let site = Site::new();
    let mut browser = site.visitor("k", "v").await;
    site.writes().await;
    browser
        .visit(async |session| {
            session
                .transact(|tx| {
                    tx.put("a", &1)?;
                    tx.put("b", &2)
                })
                .unwrap();
        })
        .await;
    assert_eq!(site.writes().await, 1);
}
