//! The index of cached sessions by owner: 16 bytes a session with an owner, nothing for the others. It owns no
//! session, keeps none alive and does not know the cache; a member names a session by its bucket hash.
//!
//! # Invariant
//! A member is there exactly while an entry of that owner is live and in the map. Every step that changes one
//! changes the other under the same lock:
//!
//! | step | under |
//! |---|---|
//! | publication, change of owner, end | the entry's write lock |
//! | coming in from the store, eviction | the shard's write lock |
//! | renewal | the old entry's write lock, the new member under the new entry's lock as well |
//!
//! The locks here are leaves: nothing is locked under them.
//!
//! # Listing
//! A [`Walk`] starts with one atomic look at an owner's members. Sessions that are renewed while it goes on are
//! told to it, under the lock that also moves the member: so whoever works through the members, the rows of the
//! store and then the moves meets every session that is there throughout, whatever its id is by then.

use std::collections::BTreeSet;
use std::hash::BuildHasher;

use crate::sync::{AtomicUsize, Mutex, Ordering};
use crate::token::SessionId;

/// Locks of the index: sessions of one owner share one.
const STRIPES: usize = 16;
/// What a member costs: its 16 bytes in tree nodes that are about two thirds full.
pub(crate) const MEMBER_BYTES: usize = 24;

/// Keyed, so that nobody who chooses names of owners can make them collide.
#[cfg(not(feature = "shuttle"))]
type Hasher = std::hash::RandomState;
/// Schedules must be repeatable.
#[cfg(feature = "shuttle")]
type Hasher = std::hash::BuildHasherDefault<std::hash::DefaultHasher>;

/// See the module.
pub(crate) struct OwnerIndex {
    hasher: Hasher,
    stripes: Box<[Mutex<Stripe>]>,
    len: AtomicUsize,
}

#[derive(Default)]
struct Stripe {
    /// Hash of the owner, bucket hash of the session. Owners that share a hash are told apart by the sessions'
    /// records. Two sessions of one owner that shared a bucket hash would share a member; ids are hashes of
    /// random tokens, so nobody can bring that about.
    members: BTreeSet<(u64, u64)>,
    /// Walks under way.
    walks: usize,
    /// Renewals since there were walks.
    moves: Vec<Move>,
}

#[derive(Clone, Copy)]
struct Move {
    owner: u64,
    from: SessionId,
    to: SessionId,
}

impl OwnerIndex {
    pub(crate) fn new() -> Self {
        Self {
            hasher: Hasher::default(),
            stripes: (0..STRIPES).map(|_| Mutex::new(Stripe::default())).collect(),
            len: AtomicUsize::new(0),
        }
    }

    /// What names `owner` here.
    pub(crate) fn hash(&self, owner: &str) -> u64 {
        self.hasher.hash_one(owner)
    }

    fn stripe(&self, hash: u64) -> &Mutex<Stripe> {
        &self.stripes[usize::try_from(hash % STRIPES as u64).unwrap_or(0)]
    }

    /// Members.
    pub(crate) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, owner: &str, id: &SessionId) {
        let hash = self.hash(owner);
        if self.stripe(hash).lock().members.insert((hash, id.bucket())) {
            self.len.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn remove(&self, owner: &str, id: &SessionId) {
        let hash = self.hash(owner);
        if self.stripe(hash).lock().members.remove(&(hash, id.bucket())) {
            self.len.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// A session in service passes from one owner to another; nobody stands for one that is not in service.
    pub(crate) fn change(&self, id: &SessionId, from: Option<&str>, to: Option<&str>) {
        if let Some(owner) = from {
            self.remove(owner, id);
        }
        if let Some(owner) = to {
            self.add(owner, id);
        }
    }

    /// A session of `owner` goes on as `to`: one step for everyone who looks.
    pub(crate) fn moved(&self, owner: &str, from: &SessionId, to: &SessionId) {
        let hash = self.hash(owner);
        let mut stripe = self.stripe(hash).lock();
        let gone = stripe.members.remove(&(hash, from.bucket()));
        let new = stripe.members.insert((hash, to.bucket()));
        if stripe.walks > 0 {
            stripe.moves.push(Move { owner: hash, from: *from, to: *to });
        }
        drop(stripe);
        match (gone, new) {
            (false, true) => _ = self.len.fetch_add(1, Ordering::Relaxed),
            (true, false) => _ = self.len.fetch_sub(1, Ordering::Relaxed),
            _ => {}
        }
    }

    /// Starts a walk over the sessions of `owner`.
    ///
    /// # Complexity
    /// O(cached sessions of that owner + log of all).
    pub(crate) fn walk(&self, owner: &str) -> Walk<'_> {
        let owner = self.hash(owner);
        let mut stripe = self.stripe(owner).lock();
        stripe.walks += 1;
        Walk {
            index: self,
            owner,
            seen: stripe.moves.len(),
            members: stripe.members.range((owner, 0)..=(owner, u64::MAX)).map(|&(_, id)| id).collect(),
        }
    }
}

/// A look at one owner's members that is told of renewals while it lives.
pub(crate) struct Walk<'a> {
    index: &'a OwnerIndex,
    owner: u64,
    seen: usize,
    /// Bucket hashes of the members when it began.
    pub(crate) members: Vec<u64>,
}

impl Walk<'_> {
    /// The owner's sessions that have moved since the last call, old and new id. When it returns nothing, nothing
    /// had moved at some moment during the call.
    pub(crate) fn moves(&mut self) -> Vec<(SessionId, SessionId)> {
        let stripe = self.index.stripe(self.owner).lock();
        let new = stripe.moves.get(self.seen..).unwrap_or_default();
        self.seen = stripe.moves.len();
        new.iter().filter(|m| m.owner == self.owner).map(|m| (m.from, m.to)).collect()
    }
}

impl Drop for Walk<'_> {
    fn drop(&mut self) {
        let mut stripe = self.index.stripe(self.owner).lock();
        stripe.walks -= 1;
        if stripe.walks == 0 {
            stripe.moves = Vec::new();
        }
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use super::*;

    fn id(n: u8) -> SessionId {
        SessionId::from_bytes([n; 32])
    }

    #[test]
    fn members_follow_and_walks_are_told_of_moves() {
        let index = OwnerIndex::new();
        index.add("a", &id(1));
        index.add("a", &id(1));
        index.add("b", &id(2));
        assert_eq!(index.len(), 2);
        let mut walk = index.walk("a");
        assert_eq!(walk.members, [id(1).bucket()]);
        index.moved("a", &id(1), &id(3));
        index.moved("b", &id(2), &id(4));
        assert_eq!(walk.moves(), [(id(1), id(3))]);
        assert_eq!(walk.moves(), []);
        drop(walk);
        index.moved("a", &id(3), &id(5));
        assert_eq!(index.walk("a").moves(), []);
        assert_eq!(index.walk("a").members, [id(5).bucket()]);
        index.remove("a", &id(5));
        index.remove("a", &id(5));
        index.remove("b", &id(4));
        assert_eq!(index.len(), 0);
        assert!(index.walk("a").members.is_empty());
    }
}
