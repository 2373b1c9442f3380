//! How a commit is made of scripts in several slots. It decides the order of steps; what a step does, the scripts say.

use std::collections::{BTreeMap, HashSet};

use sessile_engine::SessionId;
use sessile_engine::store::{Change, Outcome, StoreError, StoreErrorKind};

use ::redis::Value;

use super::Spread;
use super::join::{join_all, try_join_all};
use super::slots::bucket_of;
use crate::redis::scripts::{self, Answer};
use crate::redis::shared::command;
use crate::redis::{error, row};

/// How often a renewal looks anew for a row that is not where it was a moment ago.
const LOOKS: usize = 8;
/// The part of a row's value that tells what it is.
const HEAD: &[u8] = b"18";

impl Spread {
    /// Makes `changes`. If it fails, each of them is made or not.
    pub(in crate::redis) async fn commit(
        &self,
        now: u64,
        changes: &[Change],
    ) -> Result<Vec<Outcome>, StoreError> {
        if changes.is_empty() {
            self.raise(now).await?;
            return Ok(Vec::new());
        }
        let mut outcomes = vec![None; changes.len()];
        let mut rest = 0..changes.len();
        while !rest.is_empty() {
            let wave = wave(changes, rest.clone());
            rest.start = wave.end;
            self.make(now, changes, wave, &mut outcomes).await?;
        }
        outcomes.into_iter().map(|outcome| outcome.ok_or_else(|| error::unexpected("a commit"))).collect()
    }

    /// Raises the high-water mark, and changes nothing else.
    pub(super) async fn raise(&self, time: u64) -> Result<(), StoreError> {
        for call in self.bucket(0)?.commit(time, [], None) {
            self.router.run(0, "a commit", &call).await?;
        }
        Ok(())
    }

    /// Makes changes of which none waits for another, but those of one id in one bucket.
    async fn make(
        &self,
        now: u64,
        changes: &[Change],
        wave: std::ops::Range<usize>,
        outcomes: &mut [Option<Outcome>],
    ) -> Result<(), StoreError> {
        let (mut plain, mut moves) = (BTreeMap::<u8, Vec<usize>>::new(), Vec::new());
        for (n, change) in changes.iter().enumerate().skip(wave.start).take(wave.len()) {
            match change {
                Change::Rekey { from, to, .. } if from != to => moves.push((n, change)),
                other => plain.entry(bucket_of(ids(other).0)).or_default().push(n),
            }
        }
        let plain = async {
            let mut done = Vec::new();
            let mut elsewhere = BTreeMap::<u8, Vec<usize>>::new();
            for (n, answer) in self.scatter(now, changes, plain).await? {
                match answer {
                    Answer::Became(outcome) => done.push((n, outcome)),
                    Answer::Elsewhere(home) => elsewhere.entry(home).or_default().push(n),
                }
            }
            for bucket in elsewhere.values_mut() {
                bucket.sort_unstable();
            }
            for (n, answer) in self.scatter(now, changes, elsewhere).await? {
                match answer {
                    Answer::Became(outcome) => done.push((n, outcome)),
                    // A pointer leads to a row, never to another pointer.
                    Answer::Elsewhere(_) => return Err(error::unexpected("a commit")),
                }
            }
            Ok(done)
        };
        let moves = async {
            let moves =
                moves.into_iter().map(|(n, change)| async move { Ok((n, self.rekey(now, change).await?)) });
            try_join_all(moves).await
        };
        let (plain, moves) = tokio::join!(plain, moves);
        for (n, outcome) in plain?.into_iter().chain(moves?) {
            if let Some(slot) = outcomes.get_mut(n) {
                *slot = Some(outcome);
            }
        }
        Ok(())
    }

    /// Makes the changes of each bucket there, in order.
    async fn scatter(
        &self,
        now: u64,
        changes: &[Change],
        buckets: BTreeMap<u8, Vec<usize>>,
    ) -> Result<Vec<(usize, Answer)>, StoreError> {
        let parts = buckets.into_iter().map(|(bucket, numbers)| async move {
            let calls =
                self.bucket(bucket)?.commit(now, numbers.iter().filter_map(|n| changes.get(*n)), None);
            let mut answers = Vec::with_capacity(numbers.len());
            for call in calls {
                // Not at once: the second must not be before the first if that one was redirected.
                answers.extend(answers_in(&self.router.run(bucket, "a commit", &call).await?)?);
            }
            if answers.len() != numbers.len() {
                return Err(error::unexpected("a commit"));
            }
            Ok(numbers.into_iter().zip(answers).collect::<Vec<_>>())
        });
        let mut all = Vec::new();
        for part in join_all(parts).await {
            all.extend(part?);
        }
        Ok(all)
    }

    /// Gives a row another id, as the documentation of [`cluster`](super) says.
    async fn rekey(&self, now: u64, change: &Change) -> Result<Outcome, StoreError> {
        let Change::Rekey { from, to, row, .. } = change else { return Err(error::unexpected("a renewal")) };
        for _ in 0..LOOKS {
            let Some(home) = self.home(from).await? else {
                return Ok(if self.load_head(to).await? { Outcome::Exists } else { Outcome::Missing });
            };
            if home != bucket_of(to) {
                match self.point(now, to, home, row.expires_at).await? {
                    Answer::Became(Outcome::Done) => {}
                    Answer::Became(outcome) => return Ok(outcome),
                    // It was a renewed session's before, with another home.
                    Answer::Elsewhere(_) => return Ok(Outcome::Exists),
                }
            }
            let [call] = &self.bucket(home)?.commit(now, [change], None)[..] else {
                return Err(error::unexpected("a renewal"));
            };
            let answer = self.router.run(home, "a renewal", call).await?;
            match answers_in(&answer)?.pop() {
                Some(Answer::Became(outcome)) => return Ok(outcome),
                // The old id has ended and begun again in between.
                Some(Answer::Elsewhere(_)) => {}
                None => return Err(error::unexpected("a renewal")),
            }
        }
        Err(error::own(StoreErrorKind::Unavailable, "the row was moved again and again"))
    }

    /// The first step of a renewal: a pointer where the new id belongs.
    pub(super) async fn point(
        &self,
        now: u64,
        to: &SessionId,
        home: u8,
        due: u64,
    ) -> Result<Answer, StoreError> {
        let bucket = bucket_of(to);
        let call = self.bucket(bucket)?.point(now, to, home, due);
        let answer = self.router.run(bucket, "a renewal", &call).await?;
        answers_in(&answer)?.pop().ok_or_else(|| error::unexpected("a renewal"))
    }

    /// The bucket where a row of `id` is, if there is one; whether it is there still, only a script there can say.
    async fn home(&self, id: &SessionId) -> Result<Option<u8>, StoreError> {
        let bucket = bucket_of(id);
        let head = self.head(bucket, id).await?;
        Ok(head.map(|head| row::home_of(&head).unwrap_or(bucket)))
    }

    /// Whether there is a row of `id`, damaged or not.
    async fn load_head(&self, id: &SessionId) -> Result<bool, StoreError> {
        Ok(match self.home(id).await? {
            None => false,
            Some(home) if home == bucket_of(id) => true,
            Some(home) => self.head(home, id).await?.is_some(),
        })
    }

    async fn head(&self, bucket: u8, id: &SessionId) -> Result<Option<Vec<u8>>, StoreError> {
        let key = self.bucket(bucket)?.row_key(id);
        let cmd = command("GETRANGE", &[key.as_bytes(), b"0", HEAD]);
        match self.router.read(bucket, "a renewal", &cmd).await {
            Ok(value) => {
                let head = scripts::bytes(&value).unwrap_or_default();
                Ok((!head.is_empty()).then(|| head.to_vec()))
            }
            // Something else is in its place: the script says what that means.
            Err(e) if e.kind() == StoreErrorKind::Foreign => Ok(Some(Vec::new())),
            Err(e) => Err(e),
        }
    }
}

fn answers_in(value: &Value) -> Result<Vec<Answer>, StoreError> {
    if let Some(refused) = scripts::refusal(value) {
        return Err(refused);
    }
    let Value::Array(items) = value else { return Err(error::unexpected("a commit")) };
    items.iter().map(|item| scripts::became(item).ok_or_else(|| error::unexpected("a commit"))).collect()
}

/// The id of a change, and that which it moves to.
fn ids(change: &Change) -> (&SessionId, Option<&SessionId>) {
    match change {
        Change::Insert { id, .. }
        | Change::Update { id, .. }
        | Change::Put { id, .. }
        | Change::Delete { id }
        | Change::Quarantine { id } => (id, None),
        Change::Rekey { from, to, .. } => (from, Some(to)),
    }
}

/// The first changes of `rest` that can be made at once: up to one that has an id in common with a renewal.
fn wave(changes: &[Change], rest: std::ops::Range<usize>) -> std::ops::Range<usize> {
    let (mut all, mut moved) = (HashSet::new(), HashSet::new());
    let mut end = rest.start;
    for change in changes.get(rest.clone()).unwrap_or_default() {
        let (id, to) = ids(change);
        let known = |set: &HashSet<&[u8; 32]>| {
            set.contains(id.as_bytes()) || to.is_some_and(|to| set.contains(to.as_bytes()))
        };
        if known(&moved) || (to.is_some() && known(&all)) {
            break;
        }
        for id in [Some(id), to].into_iter().flatten() {
            all.insert(id.as_bytes());
            if to.is_some() {
                moved.insert(id.as_bytes());
            }
        }
        end += 1;
    }
    rest.start..end
}

#[cfg(test)]
mod tests {
    use sessile_engine::store::Row;

    use super::*;

    fn id(n: u8) -> SessionId {
        SessionId::from_bytes([n; 32])
    }

    fn put(n: u8) -> Change {
        Change::Put { id: id(n), row: row() }
    }

    fn rekey(from: u8, to: u8) -> Change {
        Change::Rekey { from: id(from), expected: None, to: id(to), row: row() }
    }

    fn row() -> Row {
        Row { version: 1, expires_at: 1, owner: None, bytes: Vec::new() }
    }

    #[test]
    fn a_renewal_waits_for_what_has_its_ids_and_is_waited_for() {
        for (changes, first) in [
            (vec![put(1), put(1), put(2), rekey(3, 4), rekey(5, 6)], 5),
            (vec![put(1), rekey(1, 2)], 1),
            (vec![put(2), rekey(1, 2)], 1),
            (vec![rekey(1, 2), rekey(2, 3)], 1),
            (vec![rekey(1, 2), put(1)], 1),
            (vec![rekey(1, 2), put(3), put(2)], 2),
            (vec![], 0),
        ] {
            assert_eq!(wave(&changes, 0..changes.len()), 0..first, "{changes:?}");
        }
        let changes = [rekey(1, 2), rekey(2, 3), put(4)];
        assert_eq!(wave(&changes, 1..3), 1..3);
    }
}
