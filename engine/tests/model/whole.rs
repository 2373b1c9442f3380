//! What is done to an engine as a whole: listings, endings by owner and by id, administration. It compares the answers, and
//! the rows of the store, with the model.

use pollster::block_on;
use sessile_engine::{ErrorKind, SessionId};

use crate::model::{State, Val};
use crate::ops::Level;
use crate::run::{Case, Verdict, ensure, look};

/// A session in a listing: its id and its keys.
pub(crate) type Seen = (SessionId, Vec<String>);

impl Case {
    pub(crate) fn sessions_of(&mut self, owner: &str) -> Verdict {
        let done = block_on(self.engine().sessions_of(owner));
        let Some(found) = self.store(done)? else { return Ok(()) };
        let mut found: Vec<SessionId> = found.into_iter().map(|info| info.id).collect();
        let mut wanted: Vec<SessionId> =
            self.model.of_owner(owner).iter().filter_map(|id| self.model.ids[*id].sid).collect();
        found.sort();
        wanted.sort();
        ensure!(found == wanted, "sessions of {owner}: found {found:?}, wanted {wanted:?}");
        Ok(())
    }

    pub(crate) fn destroy_all(&mut self, owner: &str, except: Option<u8>) -> Verdict {
        let except = except.and_then(|pick| self.pick(pick));
        let sid = except.and_then(|id| self.model.ids[id].sid);
        let wanted: Vec<usize> =
            self.model.of_owner(owner).into_iter().filter(|id| Some(*id) != except).collect();
        if self.may_latch {
            self.heal();
        }
        let mut done = block_on(self.engine().destroy_all(owner, sid.as_ref()));
        if done.is_err() && !self.may_latch {
            // "Calling again is right."
            self.store(done)?;
            self.heal();
            self.world.settle().map_err(|e| format!("a store that works again: {e}"))?;
            done = block_on(self.engine().destroy_all(owner, sid.as_ref()));
            ensure!(done.is_ok(), "again: {done:?}");
        } else if let Ok(ended) = done {
            ensure!(ended == wanted.len(), "{ended} ended of {}", wanted.len());
        }
        for id in wanted {
            self.end(id);
        }
        for id in 0..self.model.ids.len() {
            let claimed = matches!(&self.model.ids[id].state, State::Claimed(live) if live.view.owner.as_deref() == Some(owner));
            if claimed && Some(id) != except {
                self.end(id);
            }
        }
        if self.store(done)?.is_some() {
            self.durable();
        }
        Ok(())
    }

    pub(crate) fn destroy_session(&mut self, pick: u8) -> Verdict {
        let Some(id) = self.pick(pick) else { return Ok(()) };
        let Some(sid) = self.model.ids[id].sid else { return Ok(()) };
        let done = block_on(self.engine().destroy_session(&sid));
        if let Some(at) = self.model.end_of(id) {
            self.end(at);
        }
        if self.store(done)?.is_some() {
            self.durable();
        }
        Ok(())
    }

    pub(crate) fn admin(&mut self, pick: u8, key: &str, value: &Val) -> Verdict {
        let Some(id) = self.pick(pick) else { return Ok(()) };
        let Some(sid) = self.model.ids[id].sid else { return Ok(()) };
        let done = block_on(self.engine().open(&sid));
        let Some(session) = self.store(done)? else { return Ok(()) };
        ensure!(session.is_some() == self.model.is_live(id), "open gave {session:?}");
        let Some(session) = session else { return Ok(()) };
        let view = look(&session)?;
        self.same(id, view.as_ref())?;
        let refused = session.renew().map_err(|e| e.kind());
        ensure!(
            matches!(refused, Err(ErrorKind::HeadSent | ErrorKind::ReadOnly)),
            "a renewal without a client: {refused:?}"
        );
        let done = session.put(key, value);
        if self.write(done, None)?.is_some() {
            if let Some(live) = self.model.live_mut(id) {
                live.view.data.insert(key.to_owned(), value.clone());
            }
            self.model.changed(id);
        }
        Ok(())
    }

    /// All sessions, page by page. `None` if the store failed.
    pub(crate) fn iterate(&mut self, limit: usize) -> Verdict<Option<Vec<Seen>>> {
        let (mut after, mut found) = (None, Vec::new());
        loop {
            let page = block_on(self.engine().iterate(after, limit));
            if after.is_none() && page.is_ok() {
                self.durable();
            }
            let Some(page) = self.store(page)? else { return Ok(None) };
            for (info, snapshot) in page.sessions {
                found.push((info.id, snapshot.iter().map(|(key, _)| key.to_owned()).collect()));
            }
            after = page.next;
            if after.is_none() {
                found.sort();
                return Ok(Some(found));
            }
        }
    }

    pub(crate) fn compare_listing(&self, found: &[Seen]) -> Verdict {
        let mut wanted = Vec::new();
        for id in self.model.all_live() {
            if let (Some(sid), Some(live)) = (self.model.ids[id].sid, self.model.live(id)) {
                wanted.push((sid, live.view.data.keys().cloned().collect::<Vec<_>>()));
            }
        }
        wanted.sort();
        ensure!(found == wanted, "a listing\nfound  {found:?}\nwanted {wanted:?}");
        Ok(())
    }

    /// The store has a row of everything that lives, and of nothing that was ended.
    pub(crate) fn check_rows(&self) -> Verdict {
        if self.model.setup.level == Level::Memory {
            return Ok(());
        }
        let rows = self.world.stored();
        for (id, entry) in self.model.ids.iter().enumerate() {
            let Some(sid) = entry.sid else { continue };
            let is_there = rows.contains(&sid);
            match &entry.state {
                State::Live(_) => ensure!(is_there, "id {id} has no row"),
                // One that is over may have been swept.
                State::Claimed(live) if self.model.now < live.ends(false).0 => {
                    ensure!(is_there, "id {id}, claimed, has no row");
                }
                State::Claimed(_) => {}
                State::Expired => {}
                _ => ensure!(!is_there, "id {id} ({:?}) has a row", entry.state),
            }
        }
        let known = |row: &SessionId| self.model.ids.iter().any(|id| id.sid.as_ref() == Some(row));
        ensure!(self.littered || rows.iter().all(known), "a row of nobody");
        Ok(())
    }
}
