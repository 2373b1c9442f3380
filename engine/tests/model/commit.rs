//! The commit at the response head, to the engine and to the model: what becomes durable, what the client is told, and
//! what a renewal makes of the ids.

use pollster::block_on;
use sessile_engine::{Delivery, ErrorKind, Issue, Session};

use crate::model::{LIFETIME_MS, State, Stored, ms};
use crate::ops::Level;
use crate::run::{Ask, Case, LIMIT, Verdict, ensure};

impl Case {
    pub(crate) fn commit(&mut self, place: usize, session: &Session, keep: bool) -> Verdict {
        if self.h(place).head_sent {
            let done = block_on(session.commit());
            ensure!(matches!(done, Ok(Delivery::Nothing)), "a second commit: {done:?}");
            if !keep {
                self.drop_handle(place);
            }
            return Ok(());
        }
        let setup = self.model.setup;
        let id = self.h(place).id;
        let unpublished = id.is_some_and(|id| self.model.is_unpublished(id));
        let new_owner = self.view(place).filter(|_| unpublished).and_then(|view| view.owner);
        if setup.limit.is_some() && new_owner.is_some() {
            self.heal();
        }
        let done = block_on(session.commit());
        let h = self.h(place);
        h.head_sent = true;
        let renew = h.renew.take();
        let claims = std::mem::take(&mut h.claims);
        let changed = h.modified || h.must_wait;
        let durable = match setup.level {
            Level::Memory | Level::Eventual => false,
            Level::ProcessCrash => !setup.journal,
            Level::PowerLoss => true,
        };
        let mut wait = setup.level != Level::Memory && (h.must_wait || (changed && durable));
        let written = setup.level == Level::ProcessCrash && setup.journal;
        let mut refused = None;
        if let Some(owner) = new_owner {
            match self.admit(&owner, None) {
                Ok(ended) => wait |= ended,
                Err(kind) => refused = Some(kind),
            }
        }
        if let Some(kind) = refused {
            let limited = matches!(&done, Err(e) if e.kind() == kind);
            let store = matches!(&done, Err(e) if e.kind() == ErrorKind::Store) && self.may_latch;
            ensure!(limited || store, "beyond the limit of {LIMIT}: {done:?}");
            return self.commit_failed(place, unpublished, false, claims);
        }
        let Some(delivery) = self.store(done)? else {
            return self.commit_failed(place, unpublished, renew.is_some(), claims);
        };
        let told = if unpublished {
            let id = id.ok_or("an unpublished session without an id")?;
            self.publish(id)?;
            if written && !wait {
                self.model.durable(id);
            }
            Some(id)
        } else {
            None
        };
        if wait {
            self.durable();
        } else if written
            && changed
            && let Some(id) = id.filter(|_| !unpublished)
        {
            if self.model.is_live(id) {
                self.model.durable(id);
            } else {
                self.durable();
            }
        }
        let had_claims = !claims.is_empty();
        self.release(claims, true);
        if had_claims && wait {
            self.durable();
        }
        self.deliver(place, delivery, told, renew)?;
        if !keep {
            self.drop_handle(place);
        }
        Ok(())
    }

    /// The new session is in service, under the token that was delivered.
    fn publish(&mut self, id: usize) -> Verdict {
        let State::Unpublished(live) = self.model.ids[id].state.clone() else {
            return Err("the model publishes twice".into());
        };
        self.model.ids[id].state = State::Live(live);
        self.model.changed(id);
        Ok(())
    }

    fn commit_failed(
        &mut self,
        place: usize,
        unpublished: bool,
        renewing: bool,
        claims: Vec<(usize, bool)>,
    ) -> Verdict {
        self.loose = true;
        let id = self.h(place).id;
        if let Some(id) = id.filter(|_| unpublished) {
            self.model.ids[id].state = State::Gone;
        } else if let Some(at) = id.filter(|_| renewing).and_then(|id| self.model.resolve(id)) {
            // Its row may have been moved, and is moved back.
            self.model.ids[at].stored.push(Stored::nothing());
            self.model.changed(at);
        }
        self.release(claims, false);
        self.drop_handle(place);
        Ok(())
    }

    /// What the client is told, and a renewal.
    fn deliver(
        &mut self,
        place: usize,
        delivery: Delivery,
        published: Option<usize>,
        renew: Option<Ask>,
    ) -> Verdict {
        let h = self.h(place);
        let (id, reissue, remove) = (h.id, h.reissue, h.remove);
        let keep = h.deadline_set;
        let from = match (renew, id) {
            (Some(Ask::Restart), Some(id)) => Some(self.model.resolve(id)),
            (Some(Ask::Rotate), Some(id)) => Some(Some(id).filter(|id| self.model.is_live(*id))),
            _ => None,
        };
        match (published, from) {
            (Some(id), _) => {
                let Delivery::Issue(issue) = delivery else {
                    return Err(format!("a new session: {delivery:?}"));
                };
                ensure!(Some(issue.token.id()) == self.model.ids[id].sid, "the token of another session");
                self.model.ids[id].token = Some(issue.token.clone());
                self.check_issue(id, &issue)
            }
            (None, Some(None)) => {
                ensure!(matches!(delivery, Delivery::Nothing), "a renewal that came too late: {delivery:?}");
                Ok(())
            }
            (None, Some(Some(old))) => {
                let Delivery::Issue(issue) = delivery else { return Err(format!("a renewal: {delivery:?}")) };
                let State::Live(mut live) = self.model.ids[old].state.clone() else {
                    return Err("the model renews what is not live".into());
                };
                if renew == Some(Ask::Restart) {
                    live.used = self.model.now;
                    live.slack = 0;
                    if !keep {
                        live.view.deadline = self.model.now + LIFETIME_MS;
                    }
                }
                let sid = issue.token.id();
                let new = self.model.add(State::Live(live), Some(sid), Some(issue.token.clone()));
                self.model.ids[old].state =
                    if renew == Some(Ask::Rotate) { self.alias(new) } else { State::Gone };
                for id in [old, new] {
                    self.model.changed(id);
                    if self.model.setup.level != Level::Memory {
                        self.model.durable(id);
                    }
                }
                self.h(place).id = Some(new);
                self.check_issue(new, &issue)
            }
            (None, None) => {
                let direct = id.filter(|id| self.model.is_live(*id));
                match (reissue, direct, remove) {
                    (true, Some(id), _) => {
                        let Delivery::Issue(issue) = delivery else {
                            return Err(format!("a later deadline: {delivery:?}"));
                        };
                        ensure!(
                            Some(issue.token.id()) == self.model.ids[id].sid,
                            "the token of another session"
                        );
                        self.check_issue(id, &issue)
                    }
                    (false, _, true) => {
                        ensure!(matches!(delivery, Delivery::Remove), "a removal: {delivery:?}");
                        Ok(())
                    }
                    _ => {
                        ensure!(matches!(delivery, Delivery::Nothing), "nothing to tell: {delivery:?}");
                        Ok(())
                    }
                }
            }
        }
    }

    fn check_issue(&self, id: usize, issue: &Issue) -> Verdict {
        let Some(live) = self.model.live(id) else { return Err("it is not live".into()) };
        let left = live.view.deadline - self.model.now;
        ensure!(ms(issue.max_age) == left, "max age {:?}, wanted {left} ms", issue.max_age);
        ensure!(issue.persistent == live.view.persistent, "persistent: {}", issue.persistent);
        Ok(())
    }
}
