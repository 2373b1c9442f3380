//! An entry's place in the index of owners: a member is there exactly while its entry is live and in the map. Edits
//! and ends of an entry see to that themselves; here is what comes with a change of the map.

use super::{Entry, Phase};
use crate::owner::OwnerIndex;
use crate::record::Record;
use crate::token::SessionId;

impl Entry {
    /// Enters the session into the index of owners if it is in service. For an entry that has just come into
    /// the map, under the shard's lock.
    pub(crate) fn add_to(&self, owners: &OwnerIndex) {
        let record = self.record.read();
        if let Some(owner) = record.as_ref().and_then(Record::owner)
            && self.phase() == Phase::Live
        {
            owners.add(owner, &self.id);
        }
    }

    /// Takes an evicted session out of the index of owners, under the shard's lock.
    pub(crate) fn remove_from(&self, owners: &OwnerIndex) {
        if let Some(owner) = self.record.read().as_ref().and_then(Record::owner) {
            owners.remove(owner, &self.id);
        }
    }

    /// As [`add_to`](Self::add_to) for the entry that takes the place of `old`, a session of `old_owner`. Under
    /// the lock of `old`.
    pub(crate) fn succeed(&self, old: &SessionId, old_owner: Option<&str>, owners: &OwnerIndex) {
        let record = self.record.read();
        // Already ended or given to somebody else again: then this adds nothing.
        let owner = record.as_ref().and_then(Record::owner);
        match old_owner {
            Some(owned) if owner == Some(owned) => owners.moved(owned, old, &self.id),
            _ => {
                if let Some(owned) = old_owner {
                    owners.remove(owned, old);
                }
                if let Some(owner) = owner {
                    owners.add(owner, &self.id);
                }
            }
        }
    }
}
