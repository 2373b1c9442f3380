//! Cases of several changes: in one commit, and in commits at the same time.

use std::sync::Arc;
use std::task::{Context, Waker};

use super::{Change, NOW, Outcome, Subject, all, delete, id, insert, owned, rekey, rekey_at, row, update};

const WRITERS: u64 = 8;

pub(super) async fn insert_then_delete_in_one_commit(s: Subject) {
    s.done(&[insert(1, owned(1, "a")), delete(1)]).await;
    s.holds(id(1), None).await;
    s.owns("a", &[]).await;
    s.counts(0).await;
}

pub(super) async fn delete_then_insert_in_one_commit(s: Subject) {
    s.done(&[insert(1, owned(1, "a"))]).await;
    s.done(&[delete(1), insert(1, owned(5, "b"))]).await;
    s.holds(id(1), Some(&owned(5, "b"))).await;
    s.owns("a", &[]).await;
    s.owns("b", &[id(1)]).await;
    s.done(&[delete(1), insert(1, owned(6, "b"))]).await;
    s.owns("b", &[id(1)]).await;
}

pub(super) async fn insert_then_update_in_one_commit(s: Subject) {
    let changes = [insert(1, row(1)), update(1, 1, row(2)), update(1, 1, row(3)), update(1, 2, row(4))];
    s.commit(&changes, &[Outcome::Done, Outcome::Done, Outcome::Conflict { found: 2 }, Outcome::Done]).await;
    s.holds(id(1), Some(&row(4))).await;
}

pub(super) async fn update_then_rekey_in_one_commit(s: Subject) {
    s.done(&[insert(1, row(1))]).await;
    s.done(&[update(1, 1, row(2)), rekey(1, 2, row(3)), update(2, 3, row(4))]).await;
    s.holds(id(1), None).await;
    s.holds(id(2), Some(&row(4))).await;
}

pub(super) async fn rekey_then_insert_of_the_old_id_in_one_commit(s: Subject) {
    s.done(&[insert(1, owned(1, "a"))]).await;
    s.done(&[rekey(1, 2, owned(2, "a")), insert(1, owned(9, "a"))]).await;
    s.holds(id(1), Some(&owned(9, "a"))).await;
    s.holds(id(2), Some(&owned(2, "a"))).await;
    s.owns("a", &[id(1), id(2)]).await;
}

pub(super) async fn delete_then_rekey_in_one_commit(s: Subject) {
    s.done(&[insert(1, row(1)), insert(2, row(1))]).await;
    s.done(&[delete(2), rekey(1, 2, row(2))]).await;
    s.holds(id(2), Some(&row(2))).await;
    s.commit(&[delete(2), rekey(2, 3, row(3))], &[Outcome::Done, Outcome::Missing]).await;
    s.holds(id(3), None).await;
}

pub(super) async fn a_refused_change_does_not_stop_the_next(s: Subject) {
    s.done(&[insert(1, row(1))]).await;
    let changes =
        [insert(1, row(2)), update(5, 1, row(2)), insert(2, row(1)), update(1, 9, row(10)), delete(1)];
    let expected =
        [Outcome::Exists, Outcome::Missing, Outcome::Done, Outcome::Conflict { found: 1 }, Outcome::Done];
    s.commit(&changes, &expected).await;
    s.holds(id(1), None).await;
    s.holds(id(2), Some(&row(1))).await;
}

pub(super) async fn outcomes_keep_the_order_of_the_changes(s: Subject) {
    s.done(&(0..50).step_by(2).map(|n| insert(n, row(1))).collect::<Vec<_>>()).await;
    let changes: Vec<_> = (0..50).map(|n| insert(n, row(2))).collect();
    let expected: Vec<_> =
        (0..50).map(|n| if n % 2 == 0 { Outcome::Exists } else { Outcome::Done }).collect();
    s.commit(&changes, &expected).await;
}

pub(super) async fn a_thousand_rows_in_one_commit(s: Subject) {
    s.done(&(0..1000).map(|n| insert(n, row(u64::from(n) + 1))).collect::<Vec<_>>()).await;
    s.counts(1000).await;
    s.done(&(0..1000).map(|n| update(n, u64::from(n) + 1, row(u64::from(n) + 2))).collect::<Vec<_>>()).await;
    for n in 0..1000 {
        s.holds(id(n), Some(&row(u64::from(n) + 2))).await;
    }
}

/// Commits each list at the same time. An exclusive store gets a thread for each, since its futures are
/// ready at once; any other store gets one task, since its futures may need the task's runtime.
async fn at_once(s: &Subject, commits: Vec<Vec<Change>>) -> Vec<Vec<Outcome>> {
    let results = if s.can().exclusive {
        let threads: Vec<_> = commits
            .into_iter()
            .map(|changes| {
                let store = Arc::clone(&s.store);
                std::thread::spawn(move || pollster::block_on(store.commit(NOW, &changes)))
            })
            .collect();
        threads.into_iter().filter_map(|t| t.join().ok()).collect()
    } else {
        all(commits.iter().map(|changes| s.store.commit(NOW, changes)).collect()).await
    };
    results
        .into_iter()
        .map(|r| match r {
            Ok(outcomes) => outcomes,
            Err(e) => panic!("{}: a concurrent commit failed: {e}", s.case),
        })
        .collect()
}

pub(super) async fn one_of_many_concurrent_updates_wins(s: Subject) {
    s.done(&[insert(1, row(1))]).await;
    for version in 1..=20 {
        let commits = (0..WRITERS).map(|_| vec![update(1, version, row(version + 1))]).collect();
        let outcomes = at_once(&s, commits).await;
        assert_eq!(outcomes.len() as u64, WRITERS, "{}: a commit panicked", s.case);
        let done = outcomes.iter().filter(|o| o[..] == [Outcome::Done]).count();
        let lost =
            outcomes.iter().filter(|o| o[..] == [Outcome::Conflict { found: version + 1 }]).count() as u64;
        assert_eq!((done, lost), (1, WRITERS - 1), "{}: {outcomes:?}", s.case);
    }
    s.holds(id(1), Some(&row(21))).await;
}

pub(super) async fn one_of_many_concurrent_inserts_wins(s: Subject) {
    for n in 0..20 {
        let commits = (1..=WRITERS).map(|version| vec![insert(n, row(version))]).collect();
        let outcomes = at_once(&s, commits).await;
        let winners: Vec<u64> =
            (1..).zip(&outcomes).filter(|(_, o)| o[..] == [Outcome::Done]).map(|(v, _)| v).collect();
        assert_eq!((winners.len(), outcomes.len() as u64), (1, WRITERS), "{}: {outcomes:?}", s.case);
        s.holds(id(n), Some(&row(winners[0]))).await;
    }
}

pub(super) async fn one_of_many_concurrent_rekeys_wins(s: Subject) {
    for n in 0..20 {
        s.done(&[insert(n, row(7))]).await;
        let to = |w: u32| 1000 + n * 100 + w;
        let commits = (0..8).map(|w| vec![rekey_at(n, 7, to(w), row(1))]).collect();
        let outcomes = at_once(&s, commits).await;
        let winners = outcomes.iter().filter(|o| o[..] == [Outcome::Done]).count();
        let late = outcomes.iter().filter(|o| o[..] == [Outcome::Missing]).count() as u64;
        assert_eq!((winners, late), (1, WRITERS - 1), "{}: {outcomes:?}", s.case);
        s.holds(id(n), None).await;
    }
    s.counts(20).await;
}

pub(super) async fn concurrent_commits_of_distinct_rows_all_land(s: Subject) {
    let commits = (0..8).map(|w| (0..50).map(|n| insert(w * 50 + n, row(1))).collect()).collect();
    for outcomes in at_once(&s, commits).await {
        assert_eq!(outcomes, [Outcome::Done; 50], "{}", s.case);
    }
    s.counts(400).await;
    for n in 0..400 {
        s.holds(id(n), Some(&row(1))).await;
    }
}

pub(super) async fn dropped_loads_change_nothing(s: Subject) {
    s.done(&[insert(1, row(1))]).await;
    let wanted = id(1);
    for polls in [0, 1, 1, 0] {
        let mut load = s.store.load(&wanted);
        for _ in 0..polls {
            let _ = load.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        }
        drop(load);
        let mut list = s.store.list(None, 5);
        for _ in 0..polls {
            let _ = list.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        }
    }
    s.holds(id(1), Some(&row(1))).await;
    s.done(&[update(1, 1, row(2))]).await;
    s.holds(id(1), Some(&row(2))).await;
}

pub(super) async fn an_applied_commit_is_visible_at_once(s: Subject) {
    s.done(&[insert(1, row(1))]).await;
    for version in 1..=100 {
        s.done(&[update(1, version, row(version + 1))]).await;
        s.holds(id(1), Some(&row(version + 1))).await;
    }
}
