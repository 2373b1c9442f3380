//! What an engine ought to do, in the simplest way there is: ordered maps and a clock that is a number. It knows what each
//! call does to what a client may see, and which earlier states a crash may leave. It calls no engine.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sessile_engine::{SessionId, Token};

use crate::ops::Setup;

/// Lifetime of a session, and the grace of a rotated token.
pub(crate) const LIFETIME_MS: u64 = 3_600_000;
pub(crate) const GRACE_MS: u64 = 10_000;
pub(crate) const FLASHES: &str = "sessile.flash";

/// A value under a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Val {
    Int(i64),
    Text(String),
    #[serde(skip)]
    Flashes(Vec<String>),
}

/// What a client may see of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) data: BTreeMap<String, Val>,
    pub(crate) owner: Option<String>,
    pub(crate) created: u64,
    pub(crate) deadline: u64,
    pub(crate) idle: Option<u64>,
    pub(crate) persistent: bool,
    pub(crate) authenticated: Option<u64>,
}

impl View {
    pub(crate) fn fresh(setup: &Setup, now: u64) -> Self {
        Self {
            data: BTreeMap::new(),
            owner: None,
            created: now,
            deadline: now + LIFETIME_MS,
            idle: setup.idle.map(ms),
            persistent: true,
            authenticated: None,
        }
    }
}

/// A session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Live {
    pub(crate) view: View,
    /// Its latest use.
    pub(crate) used: u64,
    /// How much later its idle timeout may end, since uses are written down only so often.
    pub(crate) slack: u64,
}

/// How often a use is written down.
fn interval(idle: u64) -> u64 {
    (idle / 20).max(1000)
}

impl Live {
    /// When it ends: at the earliest, and at the latest.
    pub(crate) fn ends(&self, tight: bool) -> (u64, u64) {
        let deadline = self.view.deadline;
        match self.view.idle {
            None => (deadline, deadline),
            Some(idle) => {
                let slack = self.slack + if tight { interval(idle) } else { 0 };
                let end = self.used + idle;
                (deadline.min(end), deadline.min(end + slack))
            }
        }
    }
}

/// What an id stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    /// Nobody but the request that began it knows of it.
    Unpublished(Live),
    Live(Live),
    /// Its data was taken by a merge that may come to nothing.
    Claimed(Live),
    /// Rotated: it leads to another id until then.
    Alias {
        to: usize,
        until: u64,
    },
    Expired,
    /// Ended for good.
    Gone,
}

/// A state that the disk may have.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) view: Option<View>,
    /// The latest use that it remembers: at least, and at most.
    pub(crate) used: (u64, u64),
    /// A use that memory knows of, since.
    pub(crate) touched: Option<u64>,
}

impl Stored {
    /// No row.
    pub(crate) fn nothing() -> Self {
        Self { view: None, used: (0, 0), touched: None }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Id {
    /// Once a client was given it.
    pub(crate) token: Option<Token>,
    pub(crate) sid: Option<SessionId>,
    pub(crate) state: State,
    /// What a crash may leave, oldest first.
    pub(crate) stored: Vec<Stored>,
}

/// The model.
pub(crate) struct Model {
    pub(crate) setup: Setup,
    pub(crate) now: u64,
    pub(crate) ids: Vec<Id>,
}

pub(crate) fn ms(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap()
}

impl Model {
    pub(crate) fn new(setup: Setup, now: u64) -> Self {
        Self { setup, now, ids: Vec::new() }
    }

    pub(crate) fn add(&mut self, state: State, sid: Option<SessionId>, token: Option<Token>) -> usize {
        self.ids.push(Id { token, sid, state, stored: vec![Stored::nothing()] });
        self.ids.len() - 1
    }

    /// The id under which the session lives that `id` leads to.
    pub(crate) fn resolve(&self, id: usize) -> Option<usize> {
        let mut at = id;
        loop {
            match &self.ids[at].state {
                State::Unpublished(_) | State::Live(_) => return Some(at),
                State::Alias { to, until } if self.now < *until => at = *to,
                _ => return None,
            }
        }
    }

    /// The id at which a logout through `id` ends the session: also one whose data a merge has taken.
    pub(crate) fn end_of(&self, id: usize) -> Option<usize> {
        let mut at = id;
        loop {
            match &self.ids[at].state {
                State::Unpublished(_) | State::Live(_) | State::Claimed(_) => return Some(at),
                State::Alias { to, until } if self.now < *until => at = *to,
                _ => return None,
            }
        }
    }

    pub(crate) fn live(&self, id: usize) -> Option<&Live> {
        match &self.ids[self.resolve(id)?].state {
            State::Unpublished(live) | State::Live(live) => Some(live),
            _ => None,
        }
    }

    pub(crate) fn live_mut(&mut self, id: usize) -> Option<&mut Live> {
        let at = self.resolve(id)?;
        match &mut self.ids[at].state {
            State::Unpublished(live) | State::Live(live) => Some(live),
            _ => None,
        }
    }

    /// Whether this very id is in service.
    pub(crate) fn is_live(&self, id: usize) -> bool {
        matches!(self.ids[id].state, State::Live(_))
    }

    pub(crate) fn is_unpublished(&self, id: usize) -> bool {
        matches!(self.ids[id].state, State::Unpublished(_))
    }

    /// All ids in service.
    pub(crate) fn all_live(&self) -> impl Iterator<Item = usize> {
        (0..self.ids.len()).filter(|id| self.is_live(*id))
    }

    pub(crate) fn of_owner(&self, owner: &str) -> Vec<usize> {
        self.all_live()
            .filter(|id| self.live(*id).is_some_and(|l| l.view.owner.as_deref() == Some(owner)))
            .collect()
    }

    /// Ends what is over for certain, and returns what may be.
    pub(crate) fn expire(&mut self) -> Vec<usize> {
        let mut perhaps = Vec::new();
        for (at, id) in self.ids.iter_mut().enumerate() {
            let (State::Live(live) | State::Unpublished(live)) = &id.state else { continue };
            let (from, to) = live.ends(self.setup.tight && matches!(id.state, State::Live(_)));
            if self.now >= to {
                id.state = State::Expired;
            } else if self.now >= from {
                perhaps.push(at);
            }
        }
        perhaps
    }

    // ---- what a crash may leave ----

    /// The state under `id` has changed.
    pub(crate) fn changed(&mut self, id: usize) {
        let tight = self.setup.tight;
        let entry = &mut self.ids[id];
        let stored = match &entry.state {
            State::Live(live) | State::Claimed(live) => {
                let most = live.used + live.ends(tight).1 - live.ends(tight).0;
                Stored { view: Some(live.view.clone()), used: (live.used, most), touched: None }
            }
            State::Unpublished(_) | State::Expired => return,
            State::Alias { .. } | State::Gone => Stored::nothing(),
        };
        entry.stored.push(stored);
    }

    /// A use of the session that `id` leads to.
    pub(crate) fn touch(&mut self, id: usize) {
        let now = self.now;
        let Some(at) = self.resolve(id) else { return };
        if let Some(live) = self.live_mut(at) {
            live.used = now;
            live.slack = 0;
        }
        if let Some(last) = self.ids[at].stored.last_mut() {
            last.used.1 = now;
            last.touched = Some(now);
        }
    }

    /// What `id` is now is on the disk.
    pub(crate) fn durable(&mut self, id: usize) {
        let stored = &mut self.ids[id].stored;
        stored.drain(..stored.len() - 1);
        if let Some(Stored { view: Some(view), used, touched: Some(touched) }) = stored.first_mut()
            && let Some(idle) = view.idle
        {
            // A later use would have been written down.
            used.0 = used.0.max(touched.saturating_sub(interval(idle)));
        }
    }

    /// Everything is on the disk.
    pub(crate) fn all_durable(&mut self) {
        (0..self.ids.len()).for_each(|id| self.durable(id));
    }

    /// Judges what a start found under `id`, and goes on from it.
    pub(crate) fn adopt(&mut self, id: usize, found: Option<View>) -> Result<(), String> {
        let now = self.now;
        let entry = &mut self.ids[id];
        let stored = std::mem::take(&mut entry.stored);
        let span = |s: &Stored| {
            let idle = s.view.as_ref().and_then(|v| v.idle);
            idle.map_or((u64::MAX, u64::MAX), |idle| (s.used.0 + idle, s.used.1 + idle + interval(idle)))
        };
        let Some(view) = found else {
            let gone = stored
                .iter()
                .any(|s| s.view.as_ref().is_none_or(|view| now >= view.deadline || now >= span(s).0));
            if !gone {
                return Err(format!("id {id} is gone; allowed: {stored:?}"));
            }
            // An end that a crash undid may have left a row that is over.
            let expired = entry.state == State::Expired || stored.iter().any(|s| s.view.is_some());
            entry.state = if expired { State::Expired } else { State::Gone };
            entry.stored = vec![Stored::nothing()];
            return Ok(());
        };
        let same: Vec<&Stored> = stored
            .iter()
            .filter(|s| s.view.as_ref() == Some(&view) && now < view.deadline && now < span(s).1)
            .collect();
        if same.is_empty() {
            return Err(format!("id {id} at {now}: found {view:?}; allowed: {stored:?}"));
        }
        let from = same.iter().map(|s| s.used.0).min().unwrap_or(0);
        let to = same.iter().map(|s| s.used.1).max().unwrap_or(0);
        let slack = to - from + view.idle.map_or(0, interval);
        entry.state = State::Live(Live { view: view.clone(), used: from, slack });
        entry.stored = vec![Stored { view: Some(view), used: (from, to), touched: None }];
        Ok(())
    }
}
