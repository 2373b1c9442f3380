//! What is known of the stored state of each cached session, over a store that other engines write to as well: the record
//! that is stored there, as far as this engine knows, and since when it knows. It knows no store and no clock, and holds no
//! session: an entry whose state is forgotten here is read again before it is believed.
//!
//! Lock order: an entry's lock, then a stripe's.
//!
//! # Why no notice is missed
//! A reader takes [`Near::notices`] before it reads the store, and gives it back with what it read. A notice that came in
//! between has raised the counter, so what was read counts as old already.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::record::Record;
use crate::sync::{AtomicU32, AtomicU64, Mutex, Ordering};
use crate::token::SessionId;

const STRIPES: usize = 64;
/// Counters of notices. A notice about one session makes others of its counter be read once more.
const COUNTERS: usize = 1024;

/// The ids are hashes already.
#[derive(Default)]
struct Bucket(u64);

impl Hasher for Bucket {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 = self.0.rotate_left(5) ^ u64::from_le_bytes(word);
        }
    }
}

type Stripe = HashMap<SessionId, Known, BuildHasherDefault<Bucket>>;

/// What is known of one session's row.
struct Known {
    /// What is stored, as far as we know.
    base: Record,
    /// Engine time in ms at which the store was asked, or told us; 0 if it has to be asked.
    seen_at: u64,
    /// Commits in a row that others came before.
    conflicts: u32,
    /// The row may have been moved to this id by a renewal that came to nothing.
    strayed: Option<SessionId>,
    /// Tells one knowledge from a later one of the same id.
    stamp: u64,
}

/// The table.
pub(crate) struct Near {
    stripes: Box<[Mutex<Stripe>]>,
    counters: Box<[AtomicU32]>,
    stamps: AtomicU64,
    /// What was seen before this engine time may be old.
    trusted_from: AtomicU64,
}

impl Near {
    pub(crate) fn new() -> Self {
        Self {
            stripes: (0..STRIPES).map(|_| Mutex::new(Stripe::default())).collect(),
            counters: (0..COUNTERS).map(|_| AtomicU32::new(0)).collect(),
            stamps: AtomicU64::new(0),
            trusted_from: AtomicU64::new(0),
        }
    }

    fn stripe(&self, id: &SessionId) -> &Mutex<Stripe> {
        &self.stripes[usize::from(id.as_bytes()[29]) % STRIPES]
    }

    fn counter(&self, id: &SessionId) -> &AtomicU32 {
        let [.., a, b] = id.as_bytes();
        &self.counters[usize::from(u16::from_le_bytes([*a, *b])) % COUNTERS]
    }

    /// To be taken before the store is asked about `id`, and given to [`learn`](Self::learn).
    pub(crate) fn notices(&self, id: &SessionId) -> u32 {
        self.counter(id).load(Ordering::SeqCst)
    }

    /// The store said at `at` that `base` is stored.
    pub(crate) fn learn(&self, id: &SessionId, base: &Record, at: u64, notices: u32) {
        let mut stripe = self.stripe(id).lock();
        // Under the lock that a notice takes after it has raised the counter.
        let seen_at = if self.notices(id) == notices { at } else { 0 };
        match stripe.get_mut(id) {
            Some(known) => {
                if !known.base.ptr_eq(base) {
                    known.base = base.clone();
                }
                known.seen_at = seen_at;
            }
            None => {
                let stamp = self.stamps.fetch_add(1, Ordering::Relaxed);
                let known = Known { base: base.clone(), seen_at, conflicts: 0, strayed: None, stamp };
                stripe.insert(*id, known);
            }
        }
    }

    /// This engine has stored `base`, in a commit that began at `at`.
    pub(crate) fn stored(&self, id: &SessionId, base: &Record, at: u64, notices: u32) {
        self.learn(id, base, at, notices);
        if let Some(known) = self.stripe(id).lock().get_mut(id) {
            known.conflicts = 0;
            known.strayed = None;
        }
    }

    /// What is stored, as far as is known.
    pub(crate) fn base(&self, id: &SessionId) -> Option<Record> {
        self.stripe(id).lock().get(id).map(|known| known.base.clone())
    }

    /// When the store was asked last, if nothing has happened since that would make the answer old.
    pub(crate) fn seen_at(&self, id: &SessionId) -> Option<u64> {
        let at = self.stripe(id).lock().get(id)?.seen_at;
        (at != 0 && at >= self.trusted_from.load(Ordering::SeqCst)).then_some(at)
    }

    /// Others have changed `id`, or may have.
    pub(crate) fn doubt(&self, id: &SessionId) {
        self.counter(id).fetch_add(1, Ordering::SeqCst);
        if let Some(known) = self.stripe(id).lock().get_mut(id) {
            known.seen_at = 0;
        }
    }

    /// Others may have changed anything before `now`.
    pub(crate) fn doubt_all(&self, now: u64) {
        for counter in &self.counters {
            counter.fetch_add(1, Ordering::SeqCst);
        }
        // What was seen within this millisecond may have been seen before.
        self.trusted_from.fetch_max(now.saturating_add(1), Ordering::SeqCst);
    }

    /// Another commit in a row lost to others. How many that were.
    pub(crate) fn lost(&self, id: &SessionId) -> u32 {
        let mut stripe = self.stripe(id).lock();
        let Some(known) = stripe.get_mut(id) else { return 1 };
        known.conflicts += 1;
        known.conflicts
    }

    /// The row may have been moved to `to`, from where the next commit is to fetch it.
    pub(crate) fn strayed(&self, id: &SessionId, to: SessionId) {
        if let Some(known) = self.stripe(id).lock().get_mut(id) {
            known.strayed = Some(to);
        }
    }

    /// Where the row may have been moved.
    pub(crate) fn where_strayed(&self, id: &SessionId) -> Option<SessionId> {
        self.stripe(id).lock().get(id)?.strayed
    }

    /// The row is where it belongs.
    pub(crate) fn found(&self, id: &SessionId) {
        if let Some(known) = self.stripe(id).lock().get_mut(id) {
            known.strayed = None;
        }
    }

    /// Forgets the sessions of one stripe that are not `cached`. `turn` goes round.
    pub(crate) fn tidy(&self, turn: usize, cached: impl Fn(&SessionId) -> bool) {
        let stripe = &self.stripes[turn % STRIPES];
        let ids: Vec<_> = stripe.lock().iter().map(|(id, known)| (*id, known.stamp)).collect();
        for (id, stamp) in ids {
            if cached(&id) {
                continue;
            }
            let mut stripe = stripe.lock();
            // What was learnt meanwhile is of a session that is cached again.
            if stripe.get(&id).is_some_and(|known| known.stamp == stamp) {
                stripe.remove(&id);
            }
        }
    }

    /// Sessions that are known.
    #[cfg(all(test, not(feature = "shuttle")))]
    pub(crate) fn len(&self) -> usize {
        self.stripes.iter().map(|stripe| stripe.lock().len()).sum()
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use super::*;
    use crate::record::tests::meta;

    fn id(n: u8) -> SessionId {
        SessionId::from_bytes([n; 32])
    }

    #[test]
    fn what_was_read_before_a_notice_is_old() {
        let near = Near::new();
        let record = Record::empty(&meta());
        let before = near.notices(&id(1));
        near.learn(&id(1), &record, 10, before);
        assert_eq!(near.seen_at(&id(1)), Some(10));
        near.doubt(&id(1));
        assert_eq!(near.seen_at(&id(1)), None);
        near.learn(&id(1), &record, 11, before);
        assert_eq!(near.seen_at(&id(1)), None, "the notice came while it was read");
        near.learn(&id(1), &record, 12, near.notices(&id(1)));
        assert_eq!(near.seen_at(&id(1)), Some(12));
        near.doubt_all(13);
        assert_eq!(near.seen_at(&id(1)), None);
        near.learn(&id(1), &record, 14, near.notices(&id(1)));
        assert_eq!(near.seen_at(&id(1)), Some(14));
        assert!(near.base(&id(2)).is_none());
    }

    #[test]
    fn what_is_not_cached_is_forgotten() {
        let near = Near::new();
        for n in 0..100 {
            near.learn(&id(n), &Record::empty(&meta()), 1, near.notices(&id(n)));
        }
        for turn in 0..STRIPES {
            near.tidy(turn, |id| id.as_bytes()[0] < 10);
        }
        assert_eq!(near.len(), 10);
    }
}
