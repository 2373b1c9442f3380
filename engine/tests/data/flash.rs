//! Flash messages.

use std::sync::Mutex;

use sessile_engine::{ErrorKind, Flash, Level, Status};

use super::{begin, fresh, issued, kind, memory, race};

fn texts(flashes: &[Flash]) -> Vec<&str> {
    flashes.iter().map(|f| f.text.as_str()).collect()
}

#[test]
fn messages_are_read_once_in_order_with_level_and_name() {
    let engine = memory();
    let session = begin(&engine, None);
    session.flash(Level::Success, "Saved.").unwrap();
    session.flash_to("form", Level::Error, "Too short.").unwrap();
    session.flash(Level::Info, "<b>").unwrap();
    let token = issued(&session);

    let session = begin(&engine, Some(&token));
    assert_eq!(texts(&session.peek_flashes().unwrap()), ["Saved.", "Too short.", "<b>"]);
    assert_eq!(session.status(), Status::Unmodified, "a peek writes nothing");
    let form = session.flashes_of("form").unwrap();
    assert_eq!((form[0].level, &*form[0].name, &*form[0].text), (Level::Error, "form", "Too short."));
    assert!(session.flashes_of("form").unwrap().is_empty());
    assert_eq!(session.keys(), ["sessile.flash"]);
    let all = session.flashes().unwrap();
    assert_eq!(texts(&all), ["Saved.", "<b>"]);
    assert_eq!((all[0].level, &*all[0].name), (Level::Success, ""));
    assert!(session.flashes().unwrap().is_empty());
    assert!(session.keys().is_empty());
    let json = serde_json::to_string(&all[0]).unwrap();
    assert_eq!(json, r#"{"level":"success","name":"","text":"Saved."}"#);
}

#[test]
fn asking_for_messages_writes_nothing_and_begins_nothing() {
    let engine = memory();
    let empty = begin(&engine, None);
    assert!(empty.flashes().unwrap().is_empty());
    assert!(empty.flashes_of("x").unwrap().is_empty());
    assert!(empty.peek_flashes().unwrap().is_empty());
    assert_eq!(empty.id(), None);
    let session = begin(&engine, Some(&fresh(&engine)));
    assert!(session.flashes().unwrap().is_empty());
    session.transact(|tx| tx.flashes()).unwrap();
    assert_eq!(session.status(), Status::Unmodified);
}

#[test]
fn messages_survive_a_renewal_and_go_with_destroy_and_clear() {
    let engine = memory();
    let token = fresh(&engine);
    let session = begin(&engine, Some(&token));
    session.flash(Level::Info, "hello").unwrap();
    session.renew().unwrap();
    let token = issued(&session);
    let session = begin(&engine, Some(&token));
    assert_eq!(texts(&session.peek_flashes().unwrap()), ["hello"]);
    session.clear().unwrap();
    assert!(session.flashes().unwrap().is_empty());
    session.flash(Level::Info, "gone").unwrap();
    session.destroy().unwrap();
    session.flash(Level::Info, "You are logged out.").unwrap();
    let next = issued(&session);
    assert_ne!(next.id(), token.id());
    assert_eq!(texts(&begin(&engine, Some(&next)).flashes().unwrap()), ["You are logged out."]);
}

#[test]
fn the_oldest_messages_make_room() {
    let engine = memory();
    let session = begin(&engine, None);
    for n in 0..70 {
        session.flash(Level::Debug, &n.to_string()).unwrap();
    }
    let flashes = session.flashes().unwrap();
    assert_eq!(flashes.len(), 64);
    assert_eq!((flashes[0].text.as_str(), flashes[63].text.as_str()), ("6", "69"));
    session.flash(Level::Info, "kept").unwrap();
    assert_eq!(kind(session.flash(Level::Info, &"x".repeat(100_000))), ErrorKind::Limit);
    assert_eq!(texts(&session.flashes().unwrap()), ["kept"]);
}

#[test]
fn a_value_of_another_kind_under_the_key_is_an_error_and_stays() {
    let engine = memory();
    let session = begin(&engine, None);
    session.put("sessile.flash", "mine").unwrap();
    assert_eq!(kind(session.flashes()), ErrorKind::TypeMismatch);
    assert_eq!(kind(session.peek_flashes()), ErrorKind::TypeMismatch);
    assert_eq!(kind(session.flash(Level::Info, "x")), ErrorKind::TypeMismatch);
    assert_eq!(session.get::<String>("sessile.flash").unwrap().as_deref(), Some("mine"));
}

#[test]
fn transactions_carry_messages_with_the_rest() {
    let engine = memory();
    let session = begin(&engine, None);
    session
        .transact(|tx| {
            tx.flash(Level::Info, "a")?;
            assert_eq!(tx.flashes()?.len(), 1);
            tx.flash(Level::Success, "b")?;
            tx.put("k", &1)
        })
        .unwrap();
    assert_eq!(texts(&session.flashes().unwrap()), ["b"]);
}

#[test]
fn levels_are_ordered_and_have_names() {
    let all = [Level::Debug, Level::Info, Level::Success, Level::Warning, Level::Error];
    assert!(all.is_sorted());
    for level in all {
        assert_eq!(level.to_string().parse(), Ok(level));
        assert_eq!(serde_json::to_string(&level).unwrap(), format!("\"{level}\""));
    }
    assert!("Info".parse::<Level>().is_err());
}

#[test]
fn each_message_is_delivered_once_among_racing_requests() {
    let engine = memory();
    let token = fresh(&engine);
    for _ in 0..100 {
        let session = begin(&engine, Some(&token));
        session.flash_to("odd", Level::Info, "1").unwrap();
        session.flash(Level::Info, "2").unwrap();
        let got = Mutex::new(Vec::new());
        race(&engine, &token, 24, |i, session| {
            let taken = match i % 4 {
                0 => return session.flash(Level::Info, &format!("by {i:02}")).unwrap(),
                1 => session.flashes_of("odd"),
                _ => session.flashes(),
            };
            got.lock().unwrap().extend(taken.unwrap());
        });
        let mut got = got.into_inner().unwrap();
        got.extend(session.flashes().unwrap());
        let mut texts = texts(&got);
        texts.sort_unstable();
        assert_eq!(texts, ["1", "2", "by 00", "by 04", "by 08", "by 12", "by 16", "by 20"]);
    }
}
