//! A connection on which something is under way. Given back in the middle of a transaction, or of an answer, it would
//! answer the next caller with this one's rows: so it is closed unless its work is done.

use std::ops::{Deref, DerefMut};

use super::{Connection, Pool};

/// A connection that goes back to the pool only when its work is [`done`](Self::done).
pub(super) struct Held<P: Pool>(Option<P::Lent>);

impl<P: Pool> Held<P> {
    pub(super) async fn from(pool: &P) -> Result<Self, P::Error> {
        Ok(Self(Some(pool.lend().await?)))
    }

    /// Nothing is under way on it.
    pub(super) fn done(mut self) {
        self.0 = None;
    }

    /// Ends the transaction, whatever its state, and gives the connection back.
    pub(super) async fn roll_back(mut self) -> Result<(), P::Error> {
        self.run("ROLLBACK").await?;
        self.done();
        Ok(())
    }

    /// Takes it from the pool for good.
    pub(super) fn keep(mut self) -> Option<P::Connection> {
        self.0.take().map(P::detach)
    }
}

impl<P: Pool> Drop for Held<P> {
    fn drop(&mut self) {
        if let Some(lent) = self.0.take() {
            drop(P::detach(lent));
        }
    }
}

impl<P: Pool> Deref for Held<P> {
    type Target = P::Connection;

    fn deref(&self) -> &P::Connection {
        match &self.0 {
            Some(lent) => lent,
            // `done` and `keep` take the value: nobody can look any more.
            None => unreachable!("a connection that was given back"),
        }
    }
}

impl<P: Pool> DerefMut for Held<P> {
    fn deref_mut(&mut self) -> &mut P::Connection {
        match &mut self.0 {
            Some(lent) => lent,
            // As above.
            None => unreachable!("a connection that was given back"),
        }
    }
}
