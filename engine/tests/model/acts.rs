//! What a request does, to the engine and to the model. Each act says what answer it expects before it asks.

use std::time::{Duration, UNIX_EPOCH};

use pollster::block_on;
use sessile_engine::{Conflicts, ErrorKind, Flash, Level as FlashLevel, Merged, Session};

use crate::model::{FLASHES, State, Val, View, ms};
use crate::ops::{Act, Limit};
use crate::run::{Ask, Case, Handle, Verdict, ensure, look, owner, value};

/// Flash messages that a session keeps.
const MOST_FLASHES: usize = 64;

fn key(n: u8) -> String {
    format!("k{n}")
}

impl Case {
    pub(crate) fn on(&mut self, place: usize, pick: u8, act: Act) -> Verdict {
        if self.handles[place].is_none() && !self.begin(place, pick)? {
            return Ok(());
        }
        let session = self.h(place).session.clone();
        match act {
            Act::Look => self.look_at(place),
            Act::Get { key: k } => {
                let found = session.get::<Val>(&key(k)).map_err(|e| e.to_string())?;
                let wanted = self.data(place, &key(k));
                ensure!(found == wanted, "found {found:?}, wanted {wanted:?}");
                ensure!(session.exists(&key(k)) == wanted.is_some(), "exists");
                Ok(())
            }
            Act::GetWrong { key: k } => {
                let found = session.get::<Vec<i64>>(&key(k)).map_err(|e| e.kind());
                let wanted = self.data(place, &key(k)).map_or(Ok(None), |_| Err(ErrorKind::TypeMismatch));
                ensure!(found == wanted, "found {found:?}, wanted {wanted:?}");
                Ok(())
            }
            Act::Put { key: k, value: v } => {
                let want = self.want_create(place);
                if self.write(session.put(&key(k), &value(v)), want)?.is_some() {
                    self.change(place, |view| drop(view.data.insert(key(k), value(v))));
                }
                Ok(())
            }
            Act::PutBad => {
                let want = self.want_create(place).or(Some(ErrorKind::InvalidKey));
                self.write(session.put("", &1), want).map(drop)
            }
            Act::Pop { key: k } => self.pop(place, &session, &key(k)),
            Act::PopWrong { key: k } => {
                let found = session.pop::<Vec<i64>>(&key(k)).map_err(|e| e.kind());
                let wanted = self.data(place, &key(k)).map_or(Ok(None), |_| Err(ErrorKind::TypeMismatch));
                ensure!(found == wanted, "found {found:?}, wanted {wanted:?}");
                Ok(())
            }
            Act::Remove { key: k } => {
                let want = self.want_edit(place);
                if let Some(removed) = self.write_if(place, session.remove(&key(k)), want)? {
                    let was = self.data(place, &key(k)).is_some();
                    ensure!(removed == was, "removed: {removed}");
                    if was {
                        self.change(place, |view| drop(view.data.remove(&key(k))));
                    }
                }
                Ok(())
            }
            Act::Clear => {
                let want = self.want_edit(place);
                let had = self.view(place).is_some_and(|view| !view.data.is_empty());
                if self.write_if(place, session.clear(), want)?.is_some() && had {
                    self.change(place, |view| view.data.clear());
                }
                Ok(())
            }
            Act::Update { key: k, by } => self.update(place, &session, &key(k), i64::from(by)),
            Act::Transact { a, b, fail } => self.transact(place, &session, &key(a), &key(b), fail),
            Act::Flash { n } => {
                let want = self.want_create(place);
                let text = format!("message {n}");
                if self.write(session.flash(FlashLevel::Info, &text), want)?.is_some() {
                    self.change(place, |view| {
                        let all = view.data.entry(FLASHES.into()).or_insert(Val::Flashes(Vec::new()));
                        if let Val::Flashes(all) = all {
                            all.push(text);
                            let oldest = all.len().saturating_sub(MOST_FLASHES);
                            all.drain(..oldest);
                        }
                    });
                }
                Ok(())
            }
            Act::Flashes => self.flashes(place, &session),
            Act::SetOwner(n) => self.set_owner(place, &session, n.map(owner)),
            Act::Login(n) => self.login(place, &session, &owner(n)),
            Act::Renew => self.ask(place, session.renew(), Ask::Restart),
            Act::Rotate => self.ask(place, session.rotate(), Ask::Rotate),
            Act::Destroy => self.destroy(place, &session),
            Act::Merge { pick, ours } => self.merge(place, &session, pick, ours),
            Act::SetLifetime(d) => self.set_deadline(place, session.set_lifetime(d), d),
            Act::SetDeadline(d) => {
                let at = UNIX_EPOCH + Duration::from_millis(self.model.now) + d;
                self.set_deadline(place, session.set_deadline(at), d)
            }
            Act::SetIdle(idle) => self.set_idle(place, &session, idle),
            Act::RememberMe(on) => {
                let want = match self.h(place).head_sent {
                    true => Some(ErrorKind::HeadSent),
                    false => self.want_create(place),
                };
                let done = session.remember_me(on);
                if want == Some(ErrorKind::HeadSent) && done.is_err() {
                    let kind = done.map_err(|e| e.kind());
                    ensure!(kind == Err(ErrorKind::HeadSent), "{kind:?}");
                    return Ok(());
                }
                if self.write(done, want)?.is_some() {
                    self.change_meta(place, |view| view.persistent = on);
                }
                Ok(())
            }
            Act::Sync => {
                let unpublished = self.h(place).id.is_some_and(|id| self.model.is_unpublished(id));
                let done = block_on(session.sync());
                if unpublished {
                    ensure!(done.is_ok(), "sync of a new session: {done:?}");
                    self.h(place).must_wait = true;
                } else if self.store(done)?.is_some() {
                    self.durable();
                }
                Ok(())
            }
            Act::Commit { keep } => self.commit(place, &session, keep),
            Act::Drop => {
                drop(session);
                self.drop_handle(place);
                Ok(())
            }
        }
    }

    /// A request begins. `false` if the store failed.
    fn begin(&mut self, place: usize, pick: u8) -> Verdict<bool> {
        let id = if pick == 0 { None } else { self.pick(pick - 1) };
        let token = id.map(|id| self.token(id)).transpose()?;
        let done = block_on(self.engine().session(token.as_ref()));
        let Some(session) = self.store(done)? else { return Ok(false) };
        let at = id.and_then(|id| self.model.resolve(id));
        let sid = at.and_then(|at| self.model.ids[at].sid);
        ensure!(session.id() == sid, "token {id:?} gave {:?}, wanted {sid:?}", session.id());
        if let Some(at) = at {
            self.model.touch(at);
        }
        self.handles[place] = Some(Handle {
            session,
            id: id.filter(|_| at.is_some()),
            head_sent: false,
            modified: false,
            destroyed: false,
            remove: false,
            must_wait: false,
            reissue: false,
            deadline_set: false,
            renew: None,
            claims: Vec::new(),
        });
        Ok(true)
    }

    pub(crate) fn h(&mut self, place: usize) -> &mut Handle {
        self.handles[place].as_mut().expect("a request is under way")
    }

    pub(crate) fn view(&mut self, place: usize) -> Option<View> {
        let id = self.h(place).id?;
        self.model.live(id).map(|live| live.view.clone())
    }

    fn data(&mut self, place: usize, key: &str) -> Option<Val> {
        self.view(place)?.data.get(key).cloned()
    }

    /// What becomes of a write that may begin a session.
    fn want_create(&mut self, place: usize) -> Option<ErrorKind> {
        let h = self.h(place);
        match h.id {
            None => h.head_sent.then_some(ErrorKind::HeadSent),
            Some(id) => self.model.resolve(id).is_none().then_some(ErrorKind::Revoked),
        }
    }

    /// What becomes of one that may not.
    fn want_edit(&mut self, place: usize) -> Option<ErrorKind> {
        let id = self.h(place).id?;
        self.model.resolve(id).is_none().then_some(ErrorKind::Revoked)
    }

    /// The answer to a write that begins no session: without one it does nothing.
    fn write_if<T>(
        &mut self,
        place: usize,
        done: sessile_engine::Result<T>,
        want: Option<ErrorKind>,
    ) -> Verdict<Option<T>> {
        let written = self.write(done, want)?;
        Ok(written.filter(|_| self.handles[place].as_ref().is_some_and(|h| h.id.is_some())))
    }

    /// Something was written; a session comes into being if there was none.
    fn change(&mut self, place: usize, change: impl FnOnce(&mut View)) {
        let fresh = self.fresh();
        let sid = self.h(place).session.id();
        let id = match self.h(place).id {
            Some(id) => id,
            None => {
                let id = self.model.add(State::Unpublished(fresh), sid, None);
                self.h(place).id = Some(id);
                id
            }
        };
        self.h(place).modified = true;
        if let Some(live) = self.model.live_mut(id) {
            change(&mut live.view);
        }
        if let Some(at) = self.model.resolve(id) {
            self.model.changed(at);
        }
    }

    /// As `change`, for what the client may have to be told, and which is nothing if it is as before.
    fn change_meta(&mut self, place: usize, change: impl FnOnce(&mut View)) {
        let before = self.view(place).unwrap_or_else(|| self.fresh().view);
        let mut after = before.clone();
        change(&mut after);
        if after == before {
            return;
        }
        let reissue = after.deadline > before.deadline || after.persistent != before.persistent;
        self.change(place, |view| {
            view.deadline = after.deadline;
            view.idle = after.idle;
            view.persistent = after.persistent;
        });
        self.h(place).reissue |= reissue;
    }

    pub(crate) fn look_at(&mut self, place: usize) -> Verdict {
        let session = self.h(place).session.clone();
        let (found, wanted) = (look(&session)?, self.view(place));
        ensure!(found == wanted, "a handle\nfound  {found:?}\nwanted {wanted:?}");
        let id = self.h(place).id;
        let sid = id.and_then(|id| self.model.resolve(id)).and_then(|id| self.model.ids[id].sid);
        ensure!(session.id() == sid, "id {:?}, wanted {sid:?}", session.id());
        let revoked = id.map_or(self.h(place).destroyed, |id| self.model.resolve(id).is_none());
        ensure!(session.is_revoked() == revoked, "revoked: {}", session.is_revoked());
        let keys: Vec<String> = wanted.map(|view| view.data.into_keys().collect()).unwrap_or_default();
        ensure!(session.keys() == keys, "keys {:?}", session.keys());
        Ok(())
    }

    // ---- data ----

    fn pop(&mut self, place: usize, session: &Session, key: &str) -> Verdict {
        let wanted = self.data(place, key);
        let done = session.pop::<Val>(key);
        if wanted.is_none() {
            ensure!(matches!(done, Ok(None)), "a pop of nothing: {done:?}");
            return Ok(());
        }
        if let Some(found) = self.write(done, None)? {
            ensure!(found == wanted, "popped {found:?}, wanted {wanted:?}");
            self.change(place, |view| drop(view.data.remove(key)));
        }
        Ok(())
    }

    fn update(&mut self, place: usize, session: &Session, key: &str, by: i64) -> Verdict {
        let before = self.data(place, key);
        let wrong = matches!(before, Some(Val::Text(_))).then_some(ErrorKind::TypeMismatch);
        let want = self.want_create(place).or(wrong);
        let done = session.update(key, |n: Option<i64>| n.unwrap_or(0) + by);
        if let Some(new) = self.write(done, want)? {
            let old = if let Some(Val::Int(n)) = before { n } else { 0 };
            ensure!(new == old + by, "updated to {new}");
            self.change(place, |view| drop(view.data.insert(key.into(), Val::Int(new))));
        }
        Ok(())
    }

    fn transact(&mut self, place: usize, session: &Session, a: &str, b: &str, fail: bool) -> Verdict {
        let want = self.want_create(place).or(fail.then_some(ErrorKind::TypeMismatch));
        let done = session.transact(|tx| {
            tx.put(a, &1)?;
            let n = tx.get::<i64>(a)?.unwrap_or(0);
            tx.remove(b);
            tx.put("sum", &n)?;
            if fail {
                tx.get::<Vec<i64>>("sum")?;
            }
            Ok(tx.exists(a))
        });
        if let Some(there) = self.write(done, want)? {
            ensure!(there == (a != b), "the transaction sees its own writes");
            self.change(place, |view| {
                view.data.insert(a.into(), Val::Int(1));
                view.data.remove(b);
                view.data.insert("sum".into(), Val::Int(1));
            });
        }
        Ok(())
    }

    fn flashes(&mut self, place: usize, session: &Session) -> Verdict {
        let wanted = self.data(place, FLASHES);
        let done = session.flashes();
        let Some(Val::Flashes(wanted)) = wanted else {
            ensure!(matches!(&done, Ok(none) if none.is_empty()), "flashes of nothing: {done:?}");
            return Ok(());
        };
        if let Some(found) = self.write(done, None)? {
            let found: Vec<String> = found.into_iter().map(|flash: Flash| flash.text).collect();
            ensure!(found == wanted, "flashes {found:?}, wanted {wanted:?}");
            self.change(place, |view| drop(view.data.remove(FLASHES)));
        }
        Ok(())
    }

    // ---- life ----

    fn set_owner(&mut self, place: usize, session: &Session, owner: Option<String>) -> Verdict {
        let before = self.view(place).and_then(|view| view.owner);
        let published = self.h(place).id.is_some_and(|id| !self.model.is_unpublished(id));
        let limited = self.model.setup.limit.is_some() && published && owner.is_some() && owner != before;
        let want = self.want_create(place).or(limited.then_some(ErrorKind::OwnerLimit));
        if self.write(session.set_owner(owner.as_deref()), want)?.is_some() && owner != before {
            self.change(place, |view| view.owner = owner);
        }
        Ok(())
    }

    fn login(&mut self, place: usize, session: &Session, owner: &str) -> Verdict {
        let head = self.h(place).head_sent.then_some(ErrorKind::HeadSent);
        let mut want = head.or_else(|| self.want_create(place));
        let id = self.h(place).id;
        let published = id.is_some_and(|id| !self.model.is_unpublished(id));
        if self.model.setup.limit.is_some() {
            // Whether a failed count ended others cannot be told.
            self.heal();
        }
        let mut others_ended = false;
        let refuses = self.model.setup.limit == Some(Limit::Refuse);
        if want.is_none() && !self.latched && (published || refuses) {
            let own = id.filter(|_| published).and_then(|id| self.model.resolve(id));
            match self.admit(owner, own) {
                Ok(ended) => others_ended = ended,
                Err(kind) => want = Some(kind),
            }
        }
        let had = id.is_some();
        let done = block_on(session.login(owner));
        let now = self.model.now;
        if self.write(done, want)?.is_some() {
            self.change(place, |view| {
                view.owner = Some(owner.to_owned());
                // Kept in whole seconds after the creation.
                view.authenticated = Some(view.created + (now - view.created) / 1000 * 1000);
            });
            let h = self.h(place);
            h.must_wait |= others_ended && had;
            if published {
                h.renew = Some(Ask::Restart);
            }
        }
        Ok(())
    }

    fn ask(&mut self, place: usize, done: sessile_engine::Result<()>, ask: Ask) -> Verdict {
        let h = self.h(place);
        let want = match (h.head_sent, h.id) {
            (true, _) => Some(ErrorKind::HeadSent),
            (false, None) => None,
            (false, Some(_)) => self.want_edit(place),
        };
        if self.write(done, want)?.is_none() {
            return Ok(());
        }
        let Some(id) = self.h(place).id else { return Ok(()) };
        let rotated = ask == Ask::Rotate && self.model.resolve(id) != Some(id);
        let unpublished = self.model.is_unpublished(id);
        let h = self.h(place);
        if !unpublished && h.renew != Some(Ask::Restart) && !rotated {
            h.renew = Some(ask);
        }
        Ok(())
    }

    fn destroy(&mut self, place: usize, session: &Session) -> Verdict {
        session.destroy().map_err(|e| format!("destroy: {e}"))?;
        let Some(id) = self.h(place).id.take() else { return Ok(()) };
        let published = !self.model.is_unpublished(id);
        let h = self.h(place);
        let claims = std::mem::take(&mut h.claims);
        h.modified = false;
        h.reissue = false;
        h.deadline_set = false;
        h.renew = None;
        h.destroyed = true;
        h.must_wait |= published || !claims.is_empty();
        h.remove |= published;
        self.release(claims, true);
        if let Some(at) = self.model.end_of(id) {
            self.end(at);
        }
        self.look_at(place)
    }

    fn merge(&mut self, place: usize, session: &Session, pick: u8, ours: bool) -> Verdict {
        let Some(theirs) = self.pick(pick) else { return Ok(()) };
        let token = self.token(theirs)?;
        if self.h(place).head_sent {
            // A failure behind it leaves it done, and the doubt is not worth a model.
            self.heal();
            if self.may_latch {
                return Ok(());
            }
        }
        let conflicts = if ours { Conflicts::Ours } else { Conflicts::Theirs };
        let done = block_on(session.merge_with(&token, conflicts));
        let other = self.model.resolve(theirs);
        let own = self.h(place).id;
        let wanted = match other {
            None => Ok(Merged::Absent),
            Some(other) if own.and_then(|own| self.model.resolve(own)) == Some(other) => Ok(Merged::Same),
            Some(other) => match self.want_create(place) {
                Some(kind) => Err(kind),
                None => {
                    let keys = self.model.live(other).map_or(0, |live| live.view.data.len());
                    Ok(Merged::Done { keys })
                }
            },
        };
        let done = match done {
            Err(e) if matches!(e.kind(), ErrorKind::Store | ErrorKind::ReadOnly) => {
                return self.store::<()>(Err(e)).map(drop);
            }
            done => done.map_err(|e| e.kind()),
        };
        ensure!(done == wanted, "merge: {done:?}, wanted {wanted:?}");
        let (Ok(Merged::Done { .. }), Some(other)) = (done, other) else { return Ok(()) };
        let State::Live(their) = self.model.ids[other].state.clone() else {
            return Err("the model merges what is not live".into());
        };
        self.model.ids[other].state = State::Claimed(their.clone());
        let before = self.view(place).unwrap_or_else(|| self.fresh().view);
        let view = their.view;
        let reissue = view.deadline > before.deadline || (view.persistent && !before.persistent);
        self.change(place, |mine| {
            for (key, value) in view.data {
                if !(ours && mine.data.contains_key(&key)) {
                    mine.data.insert(key, value);
                }
            }
            mine.deadline = mine.deadline.max(view.deadline);
            mine.persistent |= view.persistent;
        });
        let unpublished = self.h(place).id.is_some_and(|id| self.model.is_unpublished(id));
        let h = self.h(place);
        h.reissue |= reissue;
        h.must_wait = true;
        if h.head_sent {
            self.release(vec![(other, false)], true);
            self.durable();
        } else {
            h.claims.push((other, unpublished));
        }
        Ok(())
    }

    fn set_deadline(&mut self, place: usize, done: sessile_engine::Result<()>, by: Duration) -> Verdict {
        if by.is_zero() {
            let kind = done.map_err(|e| e.kind());
            ensure!(kind == Err(ErrorKind::InvalidTime), "a deadline of now: {kind:?}");
            return Ok(());
        }
        let want = self.want_create(place);
        let at = self.model.now + ms(by);
        if self.write(done, want)?.is_some() {
            self.change_meta(place, |view| view.deadline = at);
            self.h(place).deadline_set = true;
        }
        Ok(())
    }

    fn set_idle(&mut self, place: usize, session: &Session, idle: Option<Duration>) -> Verdict {
        let done = session.set_idle_timeout(idle);
        if idle.is_some_and(|idle| idle.is_zero()) {
            let kind = done.map_err(|e| e.kind());
            ensure!(kind == Err(ErrorKind::InvalidTime), "an idle timeout of nothing: {kind:?}");
            return Ok(());
        }
        if let Some(id) = self.h(place).id {
            self.model.touch(id);
        }
        let want = self.want_create(place);
        if self.write(done, want)?.is_some() {
            self.change_meta(place, |view| view.idle = idle.map(ms));
        }
        Ok(())
    }
}
