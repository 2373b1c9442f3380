//! The public conformance suite for implementors of `Store`: every sentence of its contract
//! that can be checked from outside, one named case each. It knows no particular store, and what a store
//! says it cannot do is checked too: the call must fail with
//! [`Unsupported`](super::StoreErrorKind::Unsupported).
//!
//! Not covered by semver: cases are added whenever a store is found to get something wrong.
//!
//! A failed case panics with its name. Run all of them with [`run`], or one test a case with [`cases`].
//! Times are far in the future, so that a store with a native time to live sees nothing expire by itself.
//!
//! ```
//! use sessile_engine::store::MemoryStore;
//! use sessile_engine::store::conformance::{Subject, run};
//!
//! # pollster::block_on(async {
//! run(async || {
//!     let store = MemoryStore::new();
//!     let same_rows = store.clone();
//!     Subject::new(store).reopened_by(move || Box::pin(std::future::ready(Subject::new(same_rows.clone()))))
//! })
//! .await;
//! # });
//! ```

mod change;
mod index;
mod limits;
mod order;

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use super::{
    BoxFuture, Capabilities, Change, DynStore, Expired, Listed, Outcome, Row, Store, StoreErrorKind,
};
use crate::token::SessionId;

/// The engine time at which the cases happen: late in the 21st century.
const NOW: u64 = 4_000_000_000_000;

type Reopen = Arc<dyn Fn() -> BoxFuture<'static, Subject> + Send + Sync>;

/// An empty store to run one case on.
pub struct Subject {
    store: Arc<dyn DynStore>,
    reopen: Option<Reopen>,
    case: &'static str,
}

/// One named check.
pub struct Case {
    name: &'static str,
    run: fn(Subject) -> BoxFuture<'static, ()>,
}

macro_rules! cases {
    ($($module:ident: $($case:ident)+;)+) => {
        &[$($(Case { name: stringify!($case), run: |subject| Box::pin($module::$case(subject)) },)+)+]
    };
}

static CASES: &[Case] = cases! {
    change:
        an_empty_store_has_nothing
        insert_adds_a_row
        insert_never_overwrites
        update_replaces_at_the_right_version
        update_to_the_same_version_replaces_the_bytes
        update_reports_another_version
        update_of_a_missing_row_adds_nothing
        update_never_resurrects
        put_sets_the_row_whatever_is_there
        put_over_a_quarantined_row
        delete_removes
        delete_is_idempotent
        rekey_moves
        rekey_of_a_missing_row_adds_nothing
        rekey_never_overwrites
        rekey_to_itself_changes_nothing
        rekey_moves_at_the_right_version_only
        rekeys_chain
        a_rekeyed_row_accepts_no_update_under_its_old_id
        quarantine_hides
        quarantine_of_a_missing_row_is_done
        quarantine_twice_with_an_insert_between
        an_empty_commit_does_nothing;
    order:
        insert_then_delete_in_one_commit
        delete_then_insert_in_one_commit
        insert_then_update_in_one_commit
        update_then_rekey_in_one_commit
        rekey_then_insert_of_the_old_id_in_one_commit
        delete_then_rekey_in_one_commit
        a_refused_change_does_not_stop_the_next
        outcomes_keep_the_order_of_the_changes
        a_thousand_rows_in_one_commit
        one_of_many_concurrent_updates_wins
        one_of_many_concurrent_inserts_wins
        one_of_many_concurrent_rekeys_wins
        concurrent_commits_of_distinct_rows_all_land
        dropped_loads_change_nothing
        an_applied_commit_is_visible_at_once;
    index:
        expire_removes_the_longest_due_first
        expire_never_removes_early
        expire_removes_at_the_very_time
        expire_keeps_to_its_limit
        expire_with_limit_zero_removes_nothing
        expire_follows_a_row_that_moved_later
        expire_follows_a_row_that_moved_earlier
        put_moves_the_expiry
        expire_follows_a_rekeyed_row
        expire_spares_a_row_that_was_inserted_again
        expire_does_not_count_deleted_rows
        expire_removes_ten_thousand_rows
        rows_that_never_expire_stay
        an_expired_row_can_be_loaded_until_it_is_removed
        high_water_starts_at_zero_and_only_rises
        list_is_ordered_and_paged
        list_goes_on_behind_a_deleted_id
        scan_goes_over_all_rows
        list_of_an_empty_store
        list_owner_finds_all_rows_of_one_owner
        list_owner_follows_changes
        list_owner_keeps_similar_names_apart
        list_owner_forgets_removed_rows
        list_owner_takes_the_longest_and_the_empty_name
        count_is_the_number_of_rows;
    limits:
        every_byte_survives
        an_empty_record_is_a_record
        large_records_survive
        ids_that_differ_in_one_bit_are_different
        the_largest_numbers_survive
        rows_grow_and_shrink
        an_oversized_row_is_refused
        an_oversized_owner_is_refused
        everything_survives_reopening
        expiry_goes_on_after_reopening
        close_is_idempotent
        a_closed_store_refuses_every_call;
};

/// All cases.
#[must_use]
pub fn cases() -> &'static [Case] {
    CASES
}

/// Runs every case, each on a new, empty store from `make`.
///
/// # Panics
/// If a case fails; the message starts with its name.
pub async fn run(make: impl AsyncFn() -> Subject) -> Report {
    let mut can = Capabilities::full();
    for case in CASES {
        let subject = make().await;
        can = subject.can();
        case.run(subject).await;
    }
    Report { can }
}

/// What a store that has passed [`run`] says it can do.
#[derive(Debug, Clone, Copy)]
pub struct Report {
    can: Capabilities,
}

impl Report {
    /// The row of a table of stores: the store's name, the server that it was run against, cases that passed, whether a
    /// re-key is atomic, whether it lists all, lists by owner, tells of changes, has no other users, the grain of expiry
    /// or that rows end by themselves, and the largest row.
    #[must_use]
    pub fn row(&self, store: &str, server: &str) -> String {
        let can = &self.can;
        let says = |yes: bool| if yes { "yes" } else { "no" };
        let largest = match can.max_row_bytes {
            usize::MAX => "any".to_owned(),
            bytes if bytes >> 20 > 0 => format!("{} MiB", bytes >> 20),
            bytes => format!("{bytes} B"),
        };
        let grain = if can.sweeps { format!("{} ms", can.ttl_grain_ms) } else { "by itself".to_owned() };
        format!(
            "| {store} | {server} | {} of {} | {} | {} | {} | {} | {} | {grain} | {largest} |",
            CASES.len(),
            CASES.len(),
            says(can.atomic_rekey),
            says(can.list),
            says(can.by_owner),
            says(can.watch),
            says(can.exclusive),
        )
    }
}

impl Case {
    /// The case's name, in snake case.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Runs the case on an empty store.
    ///
    /// # Panics
    /// If the case fails; the message starts with its name.
    pub async fn run(&self, mut subject: Subject) {
        subject.case = self.name;
        (self.run)(subject).await;
    }
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl Subject {
    /// An empty store.
    pub fn new(store: impl Store) -> Self {
        Self { store: Arc::new(store), reopen: None, case: "" }
    }

    /// `reopen` opens the same rows again, after the suite has closed the store. Without it, nothing is
    /// checked across a restart.
    #[must_use]
    pub fn reopened_by(
        mut self,
        reopen: impl Fn() -> BoxFuture<'static, Self> + Send + Sync + 'static,
    ) -> Self {
        self.reopen = Some(Arc::new(reopen));
        self
    }

    fn can(&self) -> Capabilities {
        self.store.capabilities()
    }

    /// Commits and checks the outcomes.
    async fn commit(&self, changes: &[Change], expected: &[Outcome]) {
        let outcomes = self.store.commit(NOW, changes).await;
        match outcomes {
            Ok(outcomes) => assert_eq!(outcomes, expected, "{}: outcomes of {changes:?}", self.case),
            Err(e) => panic!("{}: commit failed: {e}", self.case),
        }
    }

    /// Commits changes that must all be done.
    async fn done(&self, changes: &[Change]) {
        self.commit(changes, &vec![Outcome::Done; changes.len()]).await;
    }

    /// Checks what is stored under `id`, contents included.
    async fn holds(&self, id: SessionId, expected: Option<&Row>) {
        let row = self.load(id).await;
        let same = row.as_ref() == expected;
        assert!(same, "{}: {id:?} holds {row:?}, not {expected:?}", self.case);
    }

    async fn load(&self, id: SessionId) -> Option<Row> {
        match self.store.load(&id).await {
            Ok(row) => row,
            Err(e) => panic!("{}: load failed: {e}", self.case),
        }
    }

    async fn expire(&self, now: u64, limit: usize) -> Expired {
        match self.store.expire(now, now, limit).await {
            Ok(expired) => {
                assert!(expired.removed <= limit as u64, "{}: more than {limit} removed", self.case);
                expired
            }
            Err(e) => panic!("{}: expire failed: {e}", self.case),
        }
    }

    /// Expires until nothing more is due; returns how many rows that removed.
    async fn expire_all(&self, now: u64) -> u64 {
        let mut removed = 0;
        for _ in 0..10_000 {
            let expired = self.expire(now, 512).await;
            removed += expired.removed;
            if !expired.more {
                return removed;
            }
        }
        panic!("{}: expire never comes to an end", self.case);
    }

    /// Expires what is due by `now`, and checks how many rows that removed: none in a store that does not sweep. Returns
    /// whether it does.
    async fn sweeps(&self, now: u64, expected: u64) -> bool {
        let sweeps = self.can().sweeps;
        let expected = if sweeps { expected } else { 0 };
        assert_eq!(self.expire_all(now).await, expected, "{}: rows due by {now}", self.case);
        sweeps
    }

    async fn high_water(&self) -> u64 {
        match self.store.high_water().await {
            Ok(mark) => mark,
            Err(e) => panic!("{}: high_water failed: {e}", self.case),
        }
    }

    /// A page of the listing, or `None` from a store that rightly does not list.
    async fn list(&self, after: Option<SessionId>, limit: usize) -> Option<Vec<Listed>> {
        match self.store.list(after, limit).await {
            Ok(rows) => {
                assert!(self.can().list, "{}: list works but is not among the capabilities", self.case);
                assert!(rows.len() <= limit, "{}: list returned more than {limit}", self.case);
                Some(rows)
            }
            Err(e) => {
                assert!(!self.can().list, "{}: list failed: {e}", self.case);
                assert_eq!(e.kind(), StoreErrorKind::Unsupported, "{}: list", self.case);
                None
            }
        }
    }

    /// Checks the ids of all rows of an owner, in any order, with the rows' contents as `load` gives them.
    async fn owns(&self, owner: &str, expected: &[SessionId]) {
        match self.store.list_owner(owner).await {
            Ok(rows) => {
                assert!(self.can().by_owner, "{}: list_owner is not among the capabilities", self.case);
                for listed in &rows {
                    self.holds(listed.id, Some(&listed.row)).await;
                }
                let mut ids: Vec<_> = rows.iter().map(|r| *r.id.as_bytes()).collect();
                let mut wanted: Vec<_> = expected.iter().map(|id| *id.as_bytes()).collect();
                ids.sort_unstable();
                wanted.sort_unstable();
                assert_eq!(ids, wanted, "{}: rows of owner {owner:?}", self.case);
            }
            Err(e) => {
                assert!(!self.can().by_owner, "{}: list_owner failed: {e}", self.case);
                assert_eq!(e.kind(), StoreErrorKind::Unsupported, "{}: list_owner", self.case);
            }
        }
    }

    /// Checks the number of rows, if the store can tell.
    async fn counts(&self, expected: u64) {
        match self.store.count().await {
            Ok(count) => assert_eq!(count.unwrap_or(expected), expected, "{}: count", self.case),
            Err(e) => panic!("{}: count failed: {e}", self.case),
        }
    }

    /// The same rows, opened again, if the subject can do that.
    async fn reopen(self) -> Option<Self> {
        let reopen = self.reopen?;
        if let Err(e) = self.store.close().await {
            panic!("{}: close failed: {e}", self.case);
        }
        drop(self.store);
        let mut again = reopen().await;
        again.case = self.case;
        Some(again)
    }
}

/// The `n`th id of a case. Neighbours in `n` are far apart in order.
fn id(n: u32) -> SessionId {
    let mut bytes = [0x5A; 32];
    bytes[..4].copy_from_slice(&n.wrapping_mul(0x9E37_79B1).to_le_bytes());
    bytes[28..].copy_from_slice(&n.to_le_bytes());
    SessionId::from_bytes(bytes)
}

/// A row of no owner that is due in a while.
fn row(version: u64) -> Row {
    due(version, NOW + 1_000_000)
}

fn due(version: u64, expires_at: u64) -> Row {
    let bytes = version.to_le_bytes().repeat(20);
    Row { version, expires_at, owner: None, bytes }
}

fn owned(version: u64, owner: &str) -> Row {
    Row { owner: Some(owner.into()), ..row(version) }
}

fn insert(n: u32, row: Row) -> Change {
    Change::Insert { id: id(n), row }
}

fn update(n: u32, expected: u64, row: Row) -> Change {
    Change::Update { id: id(n), expected, row }
}

fn put(n: u32, row: Row) -> Change {
    Change::Put { id: id(n), row }
}

fn delete(n: u32) -> Change {
    Change::Delete { id: id(n) }
}

fn rekey(from: u32, to: u32, row: Row) -> Change {
    Change::Rekey { from: id(from), expected: None, to: id(to), row }
}

fn rekey_at(from: u32, expected: u64, to: u32, row: Row) -> Change {
    Change::Rekey { from: id(from), expected: Some(expected), to: id(to), row }
}

fn quarantine(n: u32) -> Change {
    Change::Quarantine { id: id(n) }
}

/// Polls all futures until all are done.
async fn all<T: Unpin>(futures: Vec<BoxFuture<'_, T>>) -> Vec<T> {
    let mut futures: Vec<_> = futures.into_iter().map(|f| (f, None)).collect();
    poll_fn(|cx| {
        let mut pending = false;
        for (future, result) in &mut futures {
            if result.is_none() {
                match future.as_mut().poll(cx) {
                    Poll::Ready(value) => *result = Some(value),
                    Poll::Pending => pending = true,
                }
            }
        }
        if pending { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    futures.into_iter().filter_map(|(_, result)| result).collect()
}
