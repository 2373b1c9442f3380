//! One case: every operation is done to the engine and to the model, and what they answer is compared. An error is a
//! difference, told in words.

use std::time::{Duration, UNIX_EPOCH};

use pollster::block_on;
use sessile_engine::{Engine, ErrorKind, Result, Session, Token};

use crate::model::{FLASHES, GRACE_MS, Live, Model, State, Val, View, ms};
use crate::ops::{HANDLES, Level, Limit, Op, Setup};
use crate::whole::Seen;
use crate::world::World;

/// What differs.
pub(crate) type Verdict<T = ()> = std::result::Result<T, String>;

macro_rules! ensure {
    ($holds:expr, $($text:tt)+) => {
        if !$holds {
            return Err(format!($($text)+));
        }
    };
}

pub(crate) use ensure;

pub(crate) const START_MS: u64 = 1_800_000_000_000;
/// Sessions that an owner may have, in cases with a limit.
pub(crate) const LIMIT: usize = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    Restart,
    Rotate,
}

/// A request, as the model knows it.
pub(crate) struct Handle {
    pub(crate) session: Session,
    pub(crate) id: Option<usize>,
    pub(crate) head_sent: bool,
    pub(crate) modified: bool,
    pub(crate) destroyed: bool,
    pub(crate) remove: bool,
    pub(crate) must_wait: bool,
    pub(crate) reissue: bool,
    pub(crate) deadline_set: bool,
    pub(crate) renew: Option<Ask>,
    /// Sessions whose data it took, and whether they get it back if it comes to nothing.
    pub(crate) claims: Vec<(usize, bool)>,
}

pub(crate) struct Case {
    pub(crate) world: World,
    pub(crate) model: Model,
    pub(crate) handles: [Option<Handle>; HANDLES],
    /// A fault was ordered: calls that reach the store may fail.
    pub(crate) armed: bool,
    /// A fault was ordered after which the engine takes no more writes.
    pub(crate) may_latch: bool,
    /// It takes none.
    pub(crate) latched: bool,
    /// A commit failed, so the store may have rows of nobody.
    pub(crate) loose: bool,
    /// A start found such rows, or may have found such that were over.
    pub(crate) littered: bool,
}

/// Runs a case.
pub(crate) fn run(setup: Setup, ops: &[Op]) -> Verdict {
    let mut case = Case {
        world: World::new(setup, START_MS),
        model: Model::new(setup, START_MS),
        handles: Default::default(),
        armed: false,
        may_latch: false,
        latched: false,
        loose: false,
        littered: false,
    };
    for (at, op) in ops.iter().enumerate() {
        case.step(*op).map_err(|what| format!("step {at}, {op:?}: {what}"))?;
    }
    case.finish().map_err(|what| format!("at the end: {what}"))
}

pub(crate) fn owner(n: u8) -> String {
    format!("user:{n}")
}

fn key(n: u8) -> String {
    format!("k{n}")
}

pub(crate) fn value(n: u8) -> Val {
    if n.is_multiple_of(2) { Val::Int(i64::from(n)) } else { Val::Text("x".repeat(usize::from(n) * 3)) }
}

/// All that a handle shows.
pub(crate) fn look(session: &Session) -> Verdict<Option<View>> {
    let since =
        |time: Option<std::time::SystemTime>| time.map(|t| t.duration_since(UNIX_EPOCH).map_or(0, ms));
    if session.id().is_none() {
        return Ok(None);
    }
    let mut data = std::collections::BTreeMap::new();
    for key in session.keys() {
        let value = if key == FLASHES {
            let all = session.peek_flashes().map_err(|e| e.to_string())?;
            Val::Flashes(all.into_iter().map(|flash| flash.text).collect())
        } else {
            session.get::<Val>(&key).map_err(|e| e.to_string())?.ok_or("a key without a value")?
        };
        data.insert(key, value);
    }
    Ok(Some(View {
        data,
        owner: session.owner(),
        created: since(session.created_at()).ok_or("no time of creation")?,
        deadline: since(session.deadline()).ok_or("no deadline")?,
        idle: session.idle_timeout().map(ms),
        persistent: session.is_persistent(),
        authenticated: since(session.authenticated_at()),
    }))
}

impl Case {
    pub(crate) fn engine(&self) -> Engine {
        self.world.engine.clone()
    }

    fn step(&mut self, op: Op) -> Verdict {
        self.time_passes()?;
        match op {
            Op::On { place, pick, act } => self.on(place, pick, act),
            Op::Flush => {
                let done = block_on(self.engine().flush());
                if self.store(done)?.is_some() {
                    self.durable();
                    if !self.model.setup.journal {
                        self.check_rows()?;
                    }
                }
                Ok(())
            }
            Op::Checkpoint => {
                let done = block_on(self.engine().checkpoint());
                if self.store(done)?.is_some() {
                    self.durable();
                    self.check_rows()?;
                }
                Ok(())
            }
            Op::SessionsOf { owner: n } => self.sessions_of(&owner(n)),
            Op::DestroyAll { owner: n, except } => self.destroy_all(&owner(n), except),
            Op::DestroySession { pick } => self.destroy_session(pick),
            Op::Iterate { limit } => {
                let found = self.iterate(usize::from(limit))?;
                if let Some(found) = found {
                    self.compare_listing(&found)?;
                }
                Ok(())
            }
            Op::Admin { pick, key: k, value: v } => self.admin(pick, &key(k), &value(v)),
            Op::Advance(by) => {
                self.advance(by);
                Ok(())
            }
            Op::AdvanceToEnd { pick, before } => {
                let Some(id) = self.pick(pick) else { return Ok(()) };
                let Some(live) = self.model.live(id) else { return Ok(()) };
                let end = live.ends(self.model.setup.tight).0 - u64::from(before);
                self.advance(Duration::from_millis(end.saturating_sub(self.model.now)));
                Ok(())
            }
            Op::StepWall(n) => {
                let now = self.model.now;
                let to = [1, now / 2, now - 1000, now + 1000, now * 2];
                self.world.clock.step_wall_to(to[usize::from(n) % to.len()]);
                Ok(())
            }
            Op::Fault { on, times, kind, lost } => {
                self.world.fail(on, times, kind, lost);
                self.armed = true;
                self.may_latch |= kind == crate::ops::Kind::Io;
                Ok(())
            }
            Op::Heal => {
                self.heal();
                if !self.may_latch {
                    self.world.settle().map_err(|e| format!("a store that works again: {e}"))?;
                    self.durable();
                }
                Ok(())
            }
            Op::Restart => self.restart(),
            Op::Kill => self.kill(),
            Op::CheckAll => self.check_all(),
        }
    }

    fn finish(&mut self) -> Verdict {
        self.time_passes()?;
        self.check_all()?;
        self.restart()?;
        self.check_all()
    }

    pub(crate) fn heal(&mut self) {
        self.world.faults.heal();
        self.armed = false;
    }

    fn advance(&mut self, by: Duration) {
        self.world.clock.advance(by);
        self.model.now += ms(by);
    }

    /// What time ends, and what it may have ended.
    fn time_passes(&mut self) -> Verdict {
        self.model.expire();
        // A request whose session was over before it was published comes to nothing.
        for place in 0..HANDLES {
            let over = |h: &Handle| {
                let entry = h.id.map(|id| &self.model.ids[id]);
                entry.is_some_and(|e| e.state == State::Expired && e.token.is_none())
            };
            if self.handles[place].as_ref().is_some_and(over) {
                self.drop_handle(place);
            }
        }
        for id in self.model.expire() {
            let Some(token) = self.model.ids[id].token.clone() else { continue };
            self.heal();
            match self.view_of(&token)? {
                None => self.model.ids[id].state = State::Expired,
                Some(view) => self.same(id, Some(&view))?,
            }
        }
        Ok(())
    }

    // ---- answers ----

    /// An answer that depends on the store: it may fail only if that was ordered.
    pub(crate) fn store<T>(&mut self, done: Result<T>) -> Verdict<Option<T>> {
        match done {
            Ok(value) => Ok(Some(value)),
            Err(e) => {
                let store = matches!(e.kind(), ErrorKind::Store | ErrorKind::ReadOnly);
                ensure!(store && (self.armed || self.may_latch), "an error that nobody ordered: {e}");
                self.latched |= e.kind() == ErrorKind::ReadOnly;
                Ok(None)
            }
        }
    }

    /// The answer to a write. `None` if it did nothing.
    pub(crate) fn write<T>(&mut self, done: Result<T>, want: Option<ErrorKind>) -> Verdict<Option<T>> {
        match done {
            Err(e) if e.kind() == ErrorKind::ReadOnly && self.may_latch => {
                self.latched = true;
                Ok(None)
            }
            Ok(_) if self.latched => Err("a write after the engine had refused others".into()),
            Ok(value) if want.is_none() => Ok(Some(value)),
            Err(e) if Some(e.kind()) == want => Ok(None),
            Ok(_) => Err(format!("it worked; expected {want:?}")),
            Err(e) => Err(format!("{:?} ({e}); expected {want:?}", e.kind())),
        }
    }

    /// Everything is in the store.
    pub(crate) fn durable(&mut self) {
        self.model.all_durable();
        self.loose = false;
    }

    // ---- sessions ----

    /// One of the ids that clients know.
    pub(crate) fn pick(&self, pick: u8) -> Option<usize> {
        let known: Vec<usize> =
            (0..self.model.ids.len()).filter(|id| self.model.ids[*id].token.is_some()).collect();
        // The newest more often than the oldest.
        let recent = known.iter().rev().take(8).copied().collect::<Vec<_>>();
        let from = if pick.is_multiple_of(8) { &known } else { &recent };
        (!from.is_empty()).then(|| from[usize::from(pick) % from.len()])
    }

    pub(crate) fn token(&self, id: usize) -> Verdict<Token> {
        self.model.ids[id].token.clone().ok_or_else(|| "an id without a token".into())
    }

    fn view_of(&self, token: &Token) -> Verdict<Option<View>> {
        let session =
            block_on(self.engine().session_untouched(Some(token))).map_err(|e| format!("a load: {e}"))?;
        look(&session)
    }

    /// Compares what was found where `id` leads.
    pub(crate) fn same(&self, id: usize, found: Option<&View>) -> Verdict {
        let wanted = self.model.live(id).map(|live| &live.view);
        ensure!(
            wanted == found,
            "id {id} ({:?})\nfound  {found:?}\nwanted {wanted:?}",
            self.model.ids[id].state
        );
        Ok(())
    }

    pub(crate) fn end(&mut self, id: usize) {
        self.model.ids[id].state = State::Gone;
        self.model.changed(id);
    }

    /// Lets go of data that a merge took.
    pub(crate) fn release(&mut self, claims: Vec<(usize, bool)>, done: bool) {
        for (id, give_back) in claims {
            let State::Claimed(live) = &self.model.ids[id].state else { continue };
            if give_back && !done {
                self.model.ids[id].state = State::Live(live.clone());
            } else {
                self.end(id);
            }
        }
        // What was given back may be over by now.
        self.model.expire();
    }

    pub(crate) fn drop_handle(&mut self, place: usize) {
        let Some(handle) = self.handles[place].take() else { return };
        drop(handle.session);
        self.release(handle.claims, false);
        if let Some(id) = handle.id.filter(|id| self.model.is_unpublished(*id)) {
            self.model.ids[id].state = State::Gone;
        }
    }

    /// Makes room for one more session of `owner` beside `own`. Returns whether others were ended.
    pub(crate) fn admit(&mut self, owner: &str, own: Option<usize>) -> std::result::Result<bool, ErrorKind> {
        let Some(policy) = self.model.setup.limit else { return Ok(false) };
        let all = self.model.of_owner(owner);
        let mut others: Vec<usize> = all.iter().copied().filter(|id| Some(*id) != own).collect();
        if others.len() < LIMIT {
            return Ok(false);
        }
        if policy == Limit::Refuse {
            return if others.len() < all.len() { Ok(false) } else { Err(ErrorKind::OwnerLimit) };
        }
        others.sort_by_key(|id| {
            let view = self.model.live(*id).map(|live| (live.view.authenticated, live.view.created));
            (view, self.model.ids[*id].sid.map(|sid| *sid.as_bytes()))
        });
        let excess = others.len() + 1 - LIMIT;
        for id in others.into_iter().take(excess) {
            self.end(id);
        }
        Ok(true)
    }

    fn check_all(&mut self) -> Verdict {
        self.heal();
        for id in 0..self.model.ids.len() {
            let Some(token) = self.model.ids[id].token.clone() else { continue };
            let found = self.view_of(&token)?;
            self.same(id, found.as_ref())?;
        }
        for place in 0..HANDLES {
            if self.handles[place].is_some() {
                self.look_at(place)?;
            }
        }
        if !self.may_latch {
            self.world.settle().map_err(|e| format!("a store that works again: {e}"))?;
            self.durable();
            if let Some(found) = self.iterate(3)? {
                self.compare_listing(&found)?;
            }
        }
        (0..3).try_for_each(|n| self.sessions_of(&owner(n)))
    }

    // ---- crashes ----

    fn restart(&mut self) -> Verdict {
        (0..HANDLES).for_each(|place| self.drop_handle(place));
        self.world.clock.step_wall_to(self.model.now);
        let closed = self.world.restart();
        match closed {
            Ok(()) if self.model.setup.level != Level::Memory => self.durable(),
            Ok(()) => self.forget_all(),
            Err(e) => ensure!(self.may_latch, "closing: {e}"),
        }
        self.adopt()
    }

    fn kill(&mut self) -> Verdict {
        self.world.clock.step_wall_to(self.model.now);
        let handles = std::mem::take(&mut self.handles);
        self.world.kill();
        for handle in handles.into_iter().flatten() {
            if let Some(id) = handle.id.filter(|id| self.model.is_unpublished(*id)) {
                self.model.ids[id].state = State::Gone;
            }
        }
        if self.model.setup.level == Level::Memory {
            self.forget_all();
        }
        self.adopt()
    }

    /// An engine without a store loses everything.
    fn forget_all(&mut self) {
        for id in 0..self.model.ids.len() {
            self.end(id);
        }
        self.durable();
    }

    /// Goes on from what a start found.
    fn adopt(&mut self) -> Verdict {
        (self.armed, self.may_latch, self.latched) = (false, false, false);
        for id in 0..self.model.ids.len() {
            let Some(token) = self.model.ids[id].token.clone() else {
                // Its row may be there, and over.
                if self.loose && self.model.ids[id].state == State::Gone {
                    self.model.ids[id].state = State::Expired;
                }
                continue;
            };
            let found = self.view_of(&token)?;
            self.model.adopt(id, found)?;
        }
        self.littered |= self.loose;
        // What nobody holds a token of.
        let Some(found) = self.iterate_loosely()? else { return Ok(()) };
        for (sid, _) in found {
            let known = self.model.all_live().any(|id| self.model.ids[id].sid == Some(sid));
            if !known {
                ensure!(self.loose, "a session of nobody: {sid}");
                block_on(self.engine().destroy_session(&sid)).map_err(|e| e.to_string())?;
            }
        }
        self.loose = false;
        Ok(())
    }

    fn iterate_loosely(&mut self) -> Verdict<Option<Vec<Seen>>> {
        let loose = self.loose;
        let found = self.iterate(100);
        self.loose = loose;
        found
    }

    pub(crate) fn alias(&self, to: usize) -> State {
        State::Alias { to, until: self.model.now + GRACE_MS }
    }

    pub(crate) fn fresh(&self) -> Live {
        Live { view: View::fresh(&self.model.setup, self.model.now), used: self.model.now, slack: 0 }
    }
}
