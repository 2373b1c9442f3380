//! The operations whose futures are dropped, and what each may leave. They poll nothing themselves.

use sessile_engine::{Delivery, Merged};

use super::*;

/// Whether it was done, and what it left if it changes nothing.
fn looked<T>(done: Option<Result<T>>) -> (bool, Left) {
    let is_done = done.is_some();
    if let Some(done) = done {
        done.unwrap();
    }
    (is_done, Left::untouched())
}

pub(super) fn loading(w: &World, cutter: &Cutter<'_>) -> (bool, Left) {
    let done = cutter.run(Box::pin(w.engine.session(Some(&w.target))));
    if let Some(Ok(session)) = &done {
        assert_eq!(session.get::<i64>("n").unwrap(), Some(1));
    }
    looked(done)
}

pub(super) fn loading_untouched(w: &World, cutter: &Cutter<'_>) -> (bool, Left) {
    looked(cutter.run(Box::pin(w.engine.session_untouched(Some(&w.target)))))
}

pub(super) fn committing_a_new_session(w: &World, cutter: &Cutter<'_>) -> (bool, Left) {
    let session = begin(&w.engine, None);
    session.put("n", &5).unwrap();
    session.set_owner(Some(OWNER)).unwrap();
    let done = cutter.run(Box::pin(session.commit()));
    let is_done = done.is_some();
    let mut left = Left::untouched();
    left.given.extend(done.map(|done| (issued(done.unwrap()), 5)));
    if !is_done {
        assert!(session.is_revoked() || session.is_new(), "it was published, and nobody knows its token");
    }
    (is_done, left)
}

pub(super) fn committing_a_write(w: &World, cutter: &Cutter<'_>) -> (bool, Left) {
    let session = w.target();
    session.put("n", &2).unwrap();
    let done = cutter.run(Box::pin(session.commit()));
    // It happened when it was called.
    (done.is_some(), Left { values: &[2], ..Left::untouched() })
}

fn renewal(w: &World, cutter: &Cutter<'_>, session: &Session, keeps_old: bool) -> (bool, Left) {
    let done = cutter.run(Box::pin(session.commit()));
    let is_done = done.is_some();
    let mut left = Left { values: &[1], ..Left::untouched() };
    if let Some(done) = done {
        let new = issued(done.unwrap());
        if keeps_old {
            // The grace is kept in memory and ends with it.
            assert_eq!(n(&w.engine, &w.target), Some(1), "the old token has its grace");
            let holder = begin(&w.engine, Some(&w.target));
            let moved = holder.id();
            assert_eq!(moved, Some(new.id()));
            drop(holder);
            // No grace from here on.
            let session = begin(&w.engine, Some(&new));
            session.renew().unwrap();
            let newest = issued(block_on(session.commit()).unwrap());
            left.taken.push(new);
            left.given.push((newest, 1));
        } else {
            left.given.push((new, 1));
        }
        left.target = Fate::Ended;
    }
    (is_done, left)
}

pub(super) fn committing_a_renewal(w: &World, cutter: &Cutter<'_>) -> (bool, Left) {
    let session = w.target();
    session.renew().unwrap();
    renewal(w, cutter, &session, false)
}

pub(super) fn committing_a_rotation(w: &World, cutter: &Cutter<'_>) -> (bool, Left) {
    let session = w.target();
    session.rotate().unwrap();
    renewal(w, cutter, &session, true)
}

pub(super) fn committing_a_login(w: &World, cutter: &Cutter<'_>) -> (bool, Left) {
    let session = w.target();
    block_on(session.login(OWNER)).unwrap();
    renewal(w, cutter, &session, false)
}

pub(super) fn committing_a_destruction(w: &World, cutter: &Cutter<'_>) -> (bool, Left) {
    let session = w.target();
    session.destroy().unwrap();
    let done = cutter.run(Box::pin(session.commit()));
    if let Some(done) = &done {
        assert!(matches!(done, Ok(Delivery::Remove)), "{done:?}");
    }
    (done.is_some(), Left { target: Fate::Ended, ..Left::untouched() })
}

/// At the limit of sessions, so that others are counted and the oldest is ended.
pub(super) fn logging_in(w: &World, cutter: &Cutter<'_>) -> (bool, Left) {
    let session = begin(&w.engine, None);
    session.put("n", &7).unwrap();
    let token = issued(block_on(session.commit()).unwrap());
    let session = begin(&w.engine, Some(&token));
    let done = cutter.run(Box::pin(session.login(OWNER)));
    let is_done = done.is_some();
    if let Some(done) = done {
        done.unwrap();
    } else {
        assert_eq!(session.owner(), None, "half a login");
    }
    drop(session);
    (is_done, Left { given: vec![(token, 7)], ..Left::untouched() })
}

pub(super) fn syncing(w: &World, cutter: &Cutter<'_>) -> (bool, Left) {
    let session = w.target();
    session.put("n", &2).unwrap();
    let done = cutter.run(Box::pin(session.sync()));
    (looked(done).0, Left { values: &[2], ..Left::untouched() })
}

pub(super) fn flushing(w: &World, cutter: &Cutter<'_>) -> (bool, Left) {
    w.target().put("n", &2).unwrap();
    let done = cutter.run(Box::pin(w.engine.flush()));
    (looked(done).0, Left { values: &[2], ..Left::untouched() })
}

/// It blocks, so it is never pending; the writer must get through.
pub(super) fn closing(w: &World, cutter: &Cutter<'_>) -> (bool, Left) {
    w.target().put("n", &2).unwrap();
    let orders = w.orders.clone();
    let free = Cutter {
        at: if let Cut::Commits(_) = cutter.at { Cut::Polls { n: 1, woken: false } } else { cutter.at },
        orders: &orders,
    };
    let done = free.run(Box::pin(w.engine.close()));
    let closed = done.is_some();
    (looked(done).0, Left { values: &[2], closed, ..Left::untouched() })
}

pub(super) fn listing_an_owner(w: &World, cutter: &Cutter<'_>) -> (bool, Left) {
    let done = cutter.run(Box::pin(w.engine.sessions_of(OWNER)));
    if let Some(Ok(found)) = &done {
        assert_eq!(found.len(), 2);
    }
    looked(done)
}

/// All but the bystander.
pub(super) fn destroying_all(w: &World, cutter: &Cutter<'_>) -> (bool, Left) {
    let except = w.bystander.id();
    let done = cutter.run(Box::pin(w.engine.destroy_all(OWNER, Some(&except))));
    let is_done = looked(done).0;
    let target = if is_done { Fate::Ended } else { Fate::Either };
    (is_done, Left { target, ..Left::untouched() })
}

pub(super) fn destroying_by_id(w: &World, cutter: &Cutter<'_>) -> (bool, Left) {
    let id = w.target.id();
    let done = cutter.run(Box::pin(w.engine.destroy_session(&id)));
    let polled = !matches!(cutter.at, Cut::Polls { n: 0, .. });
    let target = if polled { Fate::Ended } else { Fate::Lives };
    (looked(done).0, Left { target, ..Left::untouched() })
}

pub(super) fn iterating(w: &World, cutter: &Cutter<'_>) -> (bool, Left) {
    w.target().put("n", &2).unwrap();
    let done = cutter.run(Box::pin(w.engine.iterate(None, 10)));
    if let Some(Ok(page)) = &done {
        assert_eq!(page.sessions.len(), 2);
    }
    (looked(done).0, Left { values: &[2], ..Left::untouched() })
}

pub(super) fn going_through_all(w: &World, cutter: &Cutter<'_>) -> (bool, Left) {
    let target = w.target.id();
    let visit = move |session: Session| async move {
        if session.id() == Some(target) {
            session.put("n", &2)?;
            session.sync().await?;
        }
        Ok(())
    };
    let done = cutter.run(Box::pin(w.engine.for_each(visit)));
    let is_done = looked(done).0;
    (is_done, Left { values: if is_done { &[2] } else { &[1, 2] }, ..Left::untouched() })
}

pub(super) fn opening_by_id(w: &World, cutter: &Cutter<'_>) -> (bool, Left) {
    let id = w.target.id();
    let done = cutter.run(Box::pin(w.engine.open(&id)));
    if let Some(Ok(session)) = &done {
        assert!(session.is_some());
    }
    looked(done)
}

pub(super) fn checkpointing(w: &World, cutter: &Cutter<'_>) -> (bool, Left) {
    w.target().put("n", &2).unwrap();
    // A checkpoint blocks; the writer must get through.
    let orders = w.orders.clone();
    let blocks = w.setup.journal && matches!(cutter.at, Cut::Commits(_));
    let at = if blocks { Cut::Polls { n: MOST_POLLS - 1, woken: false } } else { cutter.at };
    let done = Cutter { at, orders: &orders }.run(Box::pin(w.engine.checkpoint()));
    (looked(done).0, Left { values: &[2], ..Left::untouched() })
}

/// Into a session that does not come into being.
pub(super) fn merging(w: &World, cutter: &Cutter<'_>) -> (bool, Left) {
    let session = begin(&w.engine, None);
    session.put("mine", &1).unwrap();
    let done = cutter.run(Box::pin(session.merge(&w.target)));
    if let Some(Ok(merged)) = &done {
        assert_eq!(*merged, Merged::Done { keys: 1 });
    } else {
        assert_eq!(session.keys(), ["mine"], "half a merge");
    }
    looked(done)
}

pub(super) fn committing_a_merge(w: &World, cutter: &Cutter<'_>) -> (bool, Left) {
    let session = begin(&w.engine, None);
    session.set_owner(Some(OWNER)).unwrap();
    assert_eq!(block_on(session.merge(&w.target)).unwrap(), Merged::Done { keys: 1 });
    let done = cutter.run(Box::pin(session.commit()));
    let is_done = done.is_some();
    drop(session);
    let mut left = Left::untouched();
    if let Some(done) = done {
        left.given.push((issued(done.unwrap()), 1));
        left.target = Fate::Ended;
    }
    (is_done, left)
}

pub(super) fn merging_after_the_head(w: &World, cutter: &Cutter<'_>) -> (bool, Left) {
    let session = begin(&w.engine, Some(&w.bystander));
    block_on(session.commit()).unwrap();
    // So that the bystander keeps its own value.
    let done = cutter.run(Box::pin(session.merge_with(&w.target, sessile_engine::Conflicts::Ours)));
    let is_done = looked(done).0;
    let target = if is_done { Fate::Ended } else { Fate::Either };
    (is_done, Left { target, ..Left::untouched() })
}

/// It does not come by itself; it comes when the session ends.
pub(super) fn waiting_for_an_end(w: &World, cutter: &Cutter<'_>) -> (bool, Left) {
    let session = w.target();
    let mut left = Left::untouched();
    let Cut::Polls { n, woken: false } = cutter.at else { return (true, left) };
    if n == 0 {
        drop(session.revoked());
        return (false, left);
    }
    let waited = cutter.run(Box::pin(async {
        let mut first = Box::pin(session.revoked());
        let mut told = false;
        std::future::poll_fn(|cx| {
            let done = first.as_mut().poll(cx);
            if !std::mem::replace(&mut told, true) && done.is_pending() {
                w.target().destroy().unwrap();
            }
            done
        })
        .await
    }));
    left.target = Fate::Ended;
    (waited.is_some(), left)
}

pub(super) fn waiting_for_a_change(w: &World, cutter: &Cutter<'_>) -> (bool, Left) {
    let session = w.target();
    let mut left = Left::untouched();
    let Cut::Polls { n, woken: false } = cutter.at else { return (true, left) };
    if n == 0 {
        drop(session.changed());
        return (false, left);
    }
    let waited = cutter.run(Box::pin(async {
        let mut first = Box::pin(session.changed());
        let mut told = false;
        std::future::poll_fn(|cx| {
            let done = first.as_mut().poll(cx);
            if !std::mem::replace(&mut told, true) && done.is_pending() {
                w.target().put("n", &2).unwrap();
            }
            done
        })
        .await
    }));
    left.values = &[2];
    (waited.is_some(), left)
}

pub(super) fn counting(w: &World, cutter: &Cutter<'_>) -> (bool, Left) {
    (cutter.run(Box::pin(w.engine.stats())).is_some(), Left::untouched())
}

pub(super) fn loading_by_id(w: &World, cutter: &Cutter<'_>) -> (bool, Left) {
    let (by_id, id) = (w.engine.by_id(), w.target.id());
    looked(cutter.run(Box::pin(by_id.load(&id))))
}

/// To an id that nobody holds a token of; so the target is gone when it is done.
pub(super) fn renaming_by_id(w: &World, cutter: &Cutter<'_>) -> (bool, Left) {
    let (by_id, id) = (w.engine.by_id(), w.target.id());
    let to = Token::generate().unwrap();
    let done = cutter.run(Box::pin(by_id.rename(&id, to.id())));
    let is_done = looked(done).0;
    let mut left = Left::untouched();
    if is_done {
        left.given.push((to, 1));
        left.target = Fate::Ended;
    }
    (is_done, left)
}
