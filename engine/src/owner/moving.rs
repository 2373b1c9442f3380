//! Which rows belong to a renewal that is under way. It decides nothing about the renewal, and knows no store.

use std::collections::BTreeMap;

use crate::cache::{EntryRef, Phase};
use crate::sync::{AtomicU64, Mutex, Ordering};
use crate::token::SessionId;

/// Ids that the store may have rows of while the session is still, or again, served under another: targets of
/// renewals, from before their commit until the swap in memory or the confirmed deletion of the row.
#[derive(Default)]
pub(crate) struct Moving {
    targets: Mutex<BTreeMap<SessionId, Target>>,
    undone: AtomicU64,
}

struct Target {
    old: EntryRef,
    /// The session stays where it is, and the row is to be deleted.
    given_up: bool,
}

impl Moving {
    /// `old` may be stored under `to` from now on.
    pub(crate) fn begin(&self, to: SessionId, old: EntryRef) {
        self.targets.lock().insert(to, Target { old, given_up: false });
    }

    /// The session will not be served under `to`.
    pub(crate) fn give_up(&self, to: &SessionId) {
        if let Some(target) = self.targets.lock().get_mut(to) {
            target.given_up = true;
        }
    }

    /// The row of `to` is the session's own, or gone.
    pub(crate) fn end(&self, to: &SessionId) {
        let mut targets = self.targets.lock();
        if targets.get(to).is_some_and(|t| t.given_up) {
            // Before the target is forgotten: see `undone`.
            self.undone.fetch_add(1, Ordering::SeqCst);
        }
        let _old = targets.remove(to);
    }

    /// Counts renewals that were undone in the store: the row is under the old id again. Who read rows
    /// while this changed may have seen the session under the new id only, and not know any more whose it
    /// was; so it reads again.
    pub(crate) fn undone(&self) -> u64 {
        self.undone.load(Ordering::SeqCst)
    }

    /// Entries whose row may be under another id, with ids behind `after` and, if given, up to `last`.
    pub(crate) fn olds(&self, after: Option<&SessionId>, last: Option<&SessionId>) -> Vec<EntryRef> {
        let within = |id: &SessionId| after.is_none_or(|a| id > a) && last.is_none_or(|l| id <= l);
        let targets = self.targets.lock();
        targets.values().filter(|t| within(t.old.id())).map(|t| t.old.clone()).collect()
    }

    /// Whose session the row of `to` holds, if not its own.
    pub(super) fn get(&self, to: &SessionId) -> Option<EntryRef> {
        let (old, given_up) = {
            let targets = self.targets.lock();
            let target = targets.get(to)?;
            (target.old.clone(), target.given_up)
        };
        // Asked under the entry's lock: once the swap has been made, the row is the session's own.
        let swapped = old.expires_at().is_none() && old.phase() == Phase::Renewed;
        (given_up || !swapped).then_some(old)
    }

    /// Where `old` may be stored besides its own id.
    pub(crate) fn targets(&self, old: &EntryRef) -> Vec<SessionId> {
        self.targets.lock().iter().filter(|(_, t)| t.old.is(old)).map(|(to, _)| *to).collect()
    }
}
