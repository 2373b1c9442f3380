//! The writer over a store that other engines write to: what became of its changes, given that others may have come first.
//! What is then put together from both is decided in `shared/`.

use std::sync::Arc;

use super::{Item, Renewal, Work};
use crate::cache::EntryRef;
use crate::core::Core;
use crate::error::{Error, ErrorKind, StoreError};
use crate::shared::Shared;
use crate::store::{DynStore, Outcome};

/// What lost to others and must look at what they did.
#[derive(Default)]
pub(super) struct Lost {
    entries: Vec<EntryRef>,
    renewals: Vec<Arc<Renewal>>,
}

impl Core {
    /// One change of a batch whose commit began at `began`. Returns whether it must be made again.
    pub(super) fn applied_among_others(
        &self,
        shared: &Shared,
        began: u64,
        item: Item,
        outcome: Outcome,
        lost: &mut Lost,
    ) -> bool {
        let near = &shared.near;
        match (item, outcome) {
            (Item::Write(entry, picked), Outcome::Done) => {
                if let Some(from) = near.where_strayed(entry.id()) {
                    self.came_home(&from);
                }
                match picked {
                    Some((record, notices)) => entry.written_as(near, &record, began, notices),
                    None => entry.written(),
                }
                false
            }
            (Item::Write(entry, _), Outcome::Missing) => {
                if let Some(from) = near.where_strayed(entry.id()) {
                    self.came_home(&from);
                }
                self.ended_elsewhere(&entry);
                false
            }
            (Item::Write(entry, _), Outcome::Exists | Outcome::Conflict { .. }) => {
                if let Some(from) = near.where_strayed(entry.id()) {
                    // It had never gone.
                    self.came_home(&from);
                    near.found(entry.id());
                }
                lost.entries.push(entry);
                true
            }
            (Item::Renewal(renewal), Outcome::Done) => {
                renewal.resolve(self, Ok(()));
                false
            }
            (Item::Renewal(renewal), Outcome::Missing) => {
                renewal.ended_elsewhere(self);
                false
            }
            (Item::Renewal(renewal), Outcome::Conflict { .. }) => {
                lost.renewals.push(renewal);
                true
            }
            (Item::Renewal(renewal), Outcome::Exists) => {
                let message = "the store refused to re-key the session: its new id is taken";
                renewal.resolve(self, Err(Error::new(ErrorKind::Store, message)));
                false
            }
            (item, outcome) => self.applied(item, outcome, &mut Work::default()),
        }
    }

    /// The row of a renewal that came to nothing is not under the new id any more.
    fn came_home(&self, from: &crate::token::SessionId) {
        self.cache.note_removal(from);
        self.moving.end(from);
    }

    /// Has what lost take over what others stored, and queues it again.
    pub(super) fn settle_lost(
        &self,
        store: &dyn DynStore,
        lost: Lost,
        again: &mut Work,
    ) -> Option<StoreError> {
        let mut failure = None;
        if !lost.entries.is_empty() {
            let (entries, failed) = self.settle_conflicts(store, lost.entries);
            again.dirty.extend(entries);
            failure = failed;
        }
        for renewal in lost.renewals {
            if !renewal.try_again(self) {
                // Nobody waits any more.
                let message = "the session was changed by another engine";
                renewal.resolve(self, Err(Error::new(ErrorKind::Store, message)));
                continue;
            }
            match pollster::block_on(self.read_again(&renewal.old)) {
                Ok(_) => again.renewals.push(renewal),
                Err(error) => renewal.refuse(error),
            }
        }
        failure
    }
}
