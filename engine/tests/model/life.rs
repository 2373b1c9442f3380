//! What a request does to the life of its session: owner, login, renewal, destruction, merge, deadlines. Each act says what
//! answer it expects.

use std::time::Duration;

use pollster::block_on;
use sessile_engine::{Conflicts, ErrorKind, Merged, Session};

use crate::model::{State, ms};
use crate::ops::Limit;
use crate::run::{Ask, Case, Verdict, ensure};

impl Case {
    pub(crate) fn set_owner(&mut self, place: usize, session: &Session, owner: Option<String>) -> Verdict {
        let before = self.view(place).and_then(|view| view.owner);
        let published = self.h(place).id.is_some_and(|id| !self.model.is_unpublished(id));
        let limited = self.model.setup.limit.is_some() && published && owner.is_some() && owner != before;
        let want = self.want_create(place).or(limited.then_some(ErrorKind::OwnerLimit));
        if self.write(session.set_owner(owner.as_deref()), want)?.is_some() && owner != before {
            self.change(place, |view| view.owner = owner);
        }
        Ok(())
    }

    pub(crate) fn login(&mut self, place: usize, session: &Session, owner: &str) -> Verdict {
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

    pub(crate) fn ask(&mut self, place: usize, done: sessile_engine::Result<()>, ask: Ask) -> Verdict {
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

    pub(crate) fn destroy(&mut self, place: usize, session: &Session) -> Verdict {
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

    pub(crate) fn merge(&mut self, place: usize, session: &Session, pick: u8, ours: bool) -> Verdict {
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

    pub(crate) fn set_deadline(
        &mut self,
        place: usize,
        done: sessile_engine::Result<()>,
        by: Duration,
    ) -> Verdict {
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

    pub(crate) fn set_idle(&mut self, place: usize, session: &Session, idle: Option<Duration>) -> Verdict {
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
