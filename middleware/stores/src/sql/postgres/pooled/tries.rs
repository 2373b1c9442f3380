//! When a call is tried again: while others are in the way, and once with another connection. It knows no statement.

use std::time::Duration;

use super::held::Held;
use super::{Meaning, Pool};

/// Between two tries. Nothing is counted: the deadline of the call ends it.
const PAUSE: Duration = Duration::from_millis(2);

/// What became of one try.
pub(super) enum Tried<T, E> {
    Done(T),
    /// The connection had ended before anything was changed.
    Stale(E),
    /// Others were in the way.
    Race,
}

#[derive(Default)]
pub(super) struct Tries {
    fresh: bool,
}

impl Tries {
    /// What was done, or `None` if it must be tried again.
    pub(super) async fn judge<T, E>(&mut self, tried: Tried<T, E>) -> Result<Option<T>, E> {
        match tried {
            Tried::Done(value) => return Ok(Some(value)),
            Tried::Stale(e) if self.fresh => return Err(e),
            Tried::Stale(_) => self.fresh = true,
            Tried::Race => tokio::time::sleep(PAUSE).await,
        }
        Ok(None)
    }

    /// Gives the connection back, or closes it, and judges: there was no transaction.
    pub(super) async fn after_reading<P: Pool, T>(
        &mut self,
        held: Held<P>,
        answer: Result<T, P::Error>,
    ) -> Result<Option<T>, P::Error> {
        let tried = match answer {
            Ok(value) => {
                held.done();
                Tried::Done(value)
            }
            Err(e) if e.is_stale() => Tried::Stale(e),
            Err(e) if e.is_answer() => {
                held.done();
                if !e.is_race() {
                    return Err(e);
                }
                Tried::Race
            }
            Err(e) => return Err(e),
        };
        self.judge(tried).await
    }
}
