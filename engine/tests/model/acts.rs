//! What a request does, to the engine and to the model. Each act says what answer it expects before it asks.

use std::time::{Duration, UNIX_EPOCH};

use pollster::block_on;
use sessile_engine::{ErrorKind, Flash, Level as FlashLevel, Session};

use crate::model::{FLASHES, State, Val, View};
use crate::ops::Act;
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
    pub(crate) fn want_create(&mut self, place: usize) -> Option<ErrorKind> {
        let h = self.h(place);
        match h.id {
            None => h.head_sent.then_some(ErrorKind::HeadSent),
            Some(id) => self.model.resolve(id).is_none().then_some(ErrorKind::Revoked),
        }
    }

    /// What becomes of one that may not.
    pub(crate) fn want_edit(&mut self, place: usize) -> Option<ErrorKind> {
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
    pub(crate) fn change(&mut self, place: usize, change: impl FnOnce(&mut View)) {
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
    pub(crate) fn change_meta(&mut self, place: usize, change: impl FnOnce(&mut View)) {
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
}
