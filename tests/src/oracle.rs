//! What a crash may leave of a session: its operations with the times of their answers, and the verdict on what was
//! found. It sends nothing and restarts nothing.
//!
//! After a restart a session must be what *some prefix* of its log makes of it, and the prefix must reach at least to the
//! last operation that had to be durable.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::Jar;

/// Keys and values.
pub type State = BTreeMap<String, String>;

/// What an operation does to a session.
#[derive(Debug, Clone)]
pub enum Op {
    /// Sets a key.
    Put(String, String),
    /// Removes a key.
    Remove(String),
    /// Removes all keys.
    Clear,
    /// Adds one to `count`.
    Count,
    /// Changes nothing but the token.
    Renew,
}

impl Op {
    /// The playground's route.
    #[must_use]
    pub fn path(&self) -> String {
        match self {
            Self::Put(key, value) => format!("/put?key={key}&value={value}"),
            Self::Remove(key) => format!("/remove?key={key}"),
            Self::Clear => "/clear".to_owned(),
            Self::Count => "/count".to_owned(),
            Self::Renew => "/renew".to_owned(),
        }
    }

    /// What it makes of `state`.
    ///
    /// # Panics
    /// If `count` is not a number.
    pub fn apply(&self, state: &mut State) {
        match self {
            Self::Put(key, value) => drop(state.insert(key.clone(), value.clone())),
            Self::Remove(key) => drop(state.remove(key)),
            Self::Clear => state.clear(),
            Self::Count => {
                let n = state.get("count").map_or(0, |n| n.parse::<u64>().unwrap());
                state.insert("count".to_owned(), (n + 1).to_string());
            }
            Self::Renew => {}
        }
    }
}

/// A session as its client knows it.
#[derive(Debug)]
pub struct Known {
    /// Its token.
    pub jar: Jar,
    /// What the last restart found.
    pub base: State,
    /// Whether `base` is on disk; a session made since the last restart has none.
    pub based: bool,
    /// The operations since, in order, with the time of the answer. Only the last one can lack it.
    pub log: Vec<(Op, Option<Instant>)>,
    /// A destruction was sent but not answered: alive and dead are both right.
    pub perhaps_dead: bool,
    /// The last operation is a renewal that was not answered: if it happened, nobody knows the new token.
    pub perhaps_renewed: bool,
}

impl Known {
    /// A session that `log` began.
    #[must_use]
    pub fn new(jar: Jar, log: Vec<(Op, Option<Instant>)>) -> Self {
        Self { jar, base: State::new(), based: false, log, perhaps_dead: false, perhaps_renewed: false }
    }

    /// Goes on from what a restart found, and was judged to be right.
    pub fn rebase(&mut self, found: State) {
        self.base = found;
        self.based = true;
        self.log.clear();
        self.perhaps_dead = false;
        self.perhaps_renewed = false;
    }

    /// Judges what was found after the crash at `killed`. With `slack`, what was answered less than that before may be
    /// lost, unless a renewal followed; without, nothing that was answered.
    ///
    /// Returns how many answered operations are lost, and how long before the crash the oldest of them was answered.
    ///
    /// # Panics
    /// If `found` is not allowed.
    #[must_use]
    pub fn check(&self, found: Option<&State>, killed: Instant, slack: Option<Duration>) -> (u64, Duration) {
        let age = |answer: &Option<Instant>| answer.map(|at| killed.saturating_duration_since(at));
        // The least prefix that must be there.
        let must = self
            .log
            .iter()
            .rposition(|(op, answer)| match (age(answer), slack) {
                (None, _) => false,
                (Some(_), None) => true,
                (Some(age), Some(slack)) => age > slack || matches!(op, Op::Renew),
            })
            .map_or(0, |at| at + 1);

        let kept = match found {
            None => {
                if self.perhaps_dead || self.perhaps_renewed {
                    return (0, Duration::ZERO);
                }
                let log = self.ages(killed);
                assert!(!self.based, "a session that was on disk is gone; log {log:?}");
                assert_eq!(must, 0, "a session is gone that had to be durable; log {log:?}");
                0
            }
            Some(found) => {
                let mut state = self.base.clone();
                let mut matching = (self.based && &state == found).then_some(0);
                for (at, (op, _)) in self.log.iter().enumerate() {
                    op.apply(&mut state);
                    if &state == found {
                        matching = Some(at + 1);
                    }
                }
                let kept = matching.unwrap_or_else(|| {
                    let (base, log) = (&self.base, self.ages(killed));
                    panic!("a state that never was: {found:?}\nbase {base:?}\nlog {log:?}")
                });
                assert!(kept >= must, "{kept} operations of {must} are there; log {:?}", self.ages(killed));
                kept
            }
        };
        let lost = self.log[kept..].iter().filter_map(|(_, answer)| age(answer));
        lost.fold((0, Duration::ZERO), |(n, oldest), age| (n + 1, oldest.max(age)))
    }

    /// The log for people: each operation, and how long before the kill it was answered.
    fn ages(&self, killed: Instant) -> Vec<String> {
        self.log
            .iter()
            .map(|(op, answer)| match answer {
                Some(at) => format!("{op:?} {:?} before", killed.saturating_duration_since(*at)),
                None => format!("{op:?} unanswered"),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(log: Vec<(Op, Option<Instant>)>) -> Known {
        Known::new(Jar::default(), log)
    }

    fn put(value: &str) -> Op {
        Op::Put("k".to_owned(), value.to_owned())
    }

    fn state(value: &str) -> State {
        State::from([("k".to_owned(), value.to_owned())])
    }

    #[test]
    fn the_oracle_allows_what_a_window_allows() {
        let start = Instant::now();
        let at = |ms| Some(start + Duration::from_millis(ms));
        let killed = start + Duration::from_secs(10);
        let slack = Some(Duration::from_secs(1));
        let s =
            known(vec![(put("a"), at(0)), (put("b"), at(9_500)), (put("c"), at(9_990)), (put("d"), None)]);
        assert_eq!(s.check(Some(&state("d")), killed, slack), (0, Duration::ZERO));
        assert_eq!(s.check(Some(&state("c")), killed, slack), (0, Duration::ZERO));
        assert_eq!(s.check(Some(&state("b")), killed, slack), (1, Duration::from_millis(10)));
        assert_eq!(s.check(Some(&state("a")), killed, slack), (2, Duration::from_millis(500)));
        assert_eq!(s.check(Some(&state("c")), killed, None), (0, Duration::ZERO));
        let young = known(vec![(put("a"), at(9_900))]);
        assert_eq!(young.check(None, killed, slack), (1, Duration::from_millis(100)));
    }

    #[test]
    #[should_panic(expected = "a session is gone that had to be durable")]
    fn the_oracle_refuses_a_lost_old_session() {
        let start = Instant::now();
        let s = known(vec![(put("a"), Some(start))]);
        let _ = s.check(None, start + Duration::from_secs(2), Some(Duration::from_secs(1)));
    }

    #[test]
    #[should_panic(expected = "a session that was on disk is gone")]
    fn the_oracle_refuses_a_lost_session_that_a_restart_had_found() {
        let start = Instant::now();
        let mut s = known(Vec::new());
        s.rebase(state("a"));
        let _ = s.check(None, start, Some(Duration::from_secs(1)));
    }

    #[test]
    #[should_panic(expected = "1 operations of 2 are there")]
    fn the_oracle_refuses_a_lost_write_under_power_durability() {
        let start = Instant::now();
        let s = known(vec![(put("a"), Some(start)), (put("b"), Some(start))]);
        let _ = s.check(Some(&state("a")), start, None);
    }

    #[test]
    #[should_panic(expected = "a state that never was")]
    fn the_oracle_refuses_a_wrong_value() {
        let start = Instant::now();
        let s = known(vec![(put("a"), Some(start))]);
        let _ = s.check(Some(&state("z")), start, Some(Duration::from_secs(1)));
    }

    #[test]
    #[should_panic(expected = "1 operations of 3 are there")]
    fn the_oracle_refuses_a_renewal_that_lost_what_came_before() {
        let start = Instant::now();
        let log = vec![
            (put("a"), Some(start)),
            (put("b"), Some(start)),
            (Op::Renew, Some(start)),
            (put("c"), None),
        ];
        let _ = known(log).check(Some(&state("a")), start, Some(Duration::from_secs(1)));
    }
}
