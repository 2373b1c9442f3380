//! Which changes of a commit can be made at the same time, where each is a request of its own, and how several are under way
//! at once. It knows no server.

use std::collections::HashSet;
use std::future::Future;
use std::ops::Range;

use sessile_engine::SessionId;
use sessile_engine::store::{Change, StoreError, StoreErrorKind};
use tokio::task::JoinSet;

/// The id of a change, and that which it moves to.
pub(crate) fn ids(change: &Change) -> [Option<&SessionId>; 2] {
    match change {
        Change::Insert { id, .. }
        | Change::Update { id, .. }
        | Change::Put { id, .. }
        | Change::Delete { id }
        | Change::Quarantine { id } => [Some(id), None],
        Change::Rekey { from, to, .. } => [Some(from), Some(to)],
    }
}

/// The first changes of `rest` that can be made at once: up to one that has an id in common with another.
pub(crate) fn wave(changes: &[Change], rest: Range<usize>) -> Range<usize> {
    let mut seen: HashSet<&[u8; 32]> = HashSet::new();
    let mut end = rest.start;
    for change in changes.get(rest.clone()).unwrap_or_default() {
        if ids(change).into_iter().flatten().any(|id| seen.contains(id.as_bytes())) {
            break;
        }
        seen.extend(ids(change).into_iter().flatten().map(SessionId::as_bytes));
        end += 1;
    }
    rest.start..end
}

/// Runs `call` for each of `items`, up to `width` of them at once, on behalf of `store`. What they gave is in the order of
/// the items.
///
/// # Errors
/// The first error that a call gives. Those that are under way then are broken off, and the rest does not begin.
pub(crate) async fn each<T, R, F>(
    store: &'static str,
    width: usize,
    items: impl IntoIterator<Item = T>,
    call: impl Fn(T) -> F,
) -> Result<Vec<R>, StoreError>
where
    F: Future<Output = Result<R, StoreError>> + Send + 'static,
    R: Send + 'static,
{
    let mut waiting = items.into_iter().enumerate();
    let mut given = Vec::new();
    let mut running = JoinSet::new();
    loop {
        while running.len() < width
            && let Some((n, item)) = waiting.next()
        {
            let call = call(item);
            running.spawn(async move { (n, call.await) });
        }
        let Some(done) = running.join_next().await else { break };
        let (n, result) = done.map_err(|e| {
            StoreError::new(StoreErrorKind::Unavailable, store, "a part of a call has ended").with_source(e)
        })?;
        given.push((n, result?));
    }
    given.sort_unstable_by_key(|(n, _)| *n);
    Ok(given.into_iter().map(|(_, given)| given).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use sessile_engine::store::Row;

    use super::*;

    fn id(n: u8) -> SessionId {
        SessionId::from_bytes([n; 32])
    }

    fn row() -> Row {
        Row { version: 1, expires_at: 1, owner: None, bytes: Vec::new() }
    }

    fn put(n: u8) -> Change {
        Change::Put { id: id(n), row: row() }
    }

    fn rekey(from: u8, to: u8) -> Change {
        Change::Rekey { from: id(from), expected: None, to: id(to), row: row() }
    }

    #[test]
    fn changes_of_one_id_are_not_made_at_once() {
        for (changes, first) in [
            (vec![put(1), put(2), rekey(3, 4), rekey(5, 6)], 4),
            (vec![put(1), put(1)], 1),
            (vec![put(2), rekey(1, 2)], 1),
            (vec![rekey(1, 2), rekey(2, 3)], 1),
            (vec![rekey(1, 2), put(3), Change::Delete { id: id(1) }], 2),
            (vec![rekey(1, 1), put(2)], 2),
            (vec![], 0),
        ] {
            assert_eq!(wave(&changes, 0..changes.len()), 0..first, "{changes:?}");
        }
        assert_eq!(wave(&[rekey(1, 2), rekey(2, 3), put(4)], 1..3), 1..3);
    }

    #[tokio::test]
    async fn so_many_run_at_once_and_answers_are_in_order() {
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let given = each("x", 3, 0..50_u64, |n| {
            let (running, most) = (Arc::clone(&running), Arc::clone(&most));
            async move {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                for _ in 0..n % 5 {
                    tokio::task::yield_now().await;
                }
                running.fetch_sub(1, Ordering::SeqCst);
                Ok(n)
            }
        });
        assert_eq!(given.await.unwrap(), (0..50).collect::<Vec<_>>());
        assert_eq!(most.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn the_first_error_ends_it() {
        let begun = Arc::new(AtomicUsize::new(0));
        let given: Result<Vec<()>, _> = each("x", 2, 0..50, |n| {
            begun.fetch_add(1, Ordering::SeqCst);
            async move {
                match n {
                    3 => Err(StoreError::new(StoreErrorKind::Full, "x", "it is full")),
                    _ => Ok(()),
                }
            }
        })
        .await;
        assert_eq!(given.unwrap_err().kind(), StoreErrorKind::Full);
        assert!(begun.load(Ordering::SeqCst) < 10);
    }
}
