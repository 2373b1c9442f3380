//! Waiting for a session to end or to change: the futures behind server-sent events and WebSockets. They hold
//! the handle, not the engine, and see the session as the handle does: through a renewal of its own request.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use super::{Session, Snapshot};
use crate::cache::{EntryRef, Phase, Read};
use crate::record::Record;
use crate::token::{SessionId, Token};

/// How the session of a handle came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ended {
    /// Its user destroyed it, in this or another request: a logout.
    Destroyed,
    /// Another request renewed it. Its data lives on under a token that this request does not have.
    Renewed,
    /// Its deadline or idle timeout has passed.
    Expired,
    /// It was revoked: by its id, with all of its owner's, or for a limit.
    Revoked,
    /// It has not ended, but the engine was closed and will tell no more.
    Closed,
}

/// What a watch finds.
enum Found {
    Alive(Record),
    /// A renewal of this very request is about to give it a new entry, or has failed to.
    Undecided,
    Over(Ended),
}

/// Watches the session of a handle.
struct Watch {
    session: Session,
    /// `None`: there was no session when the watch began. Nothing can come of it but the engine's end.
    entry: Option<EntryRef>,
    /// If there was none, because this request had destroyed it.
    destroyed: bool,
    /// Where `entry` leads while the grace of its rotation lasts.
    via: Option<EntryRef>,
    /// Set while a waker may be entered, for `entry` and `via`.
    ticket: Option<u64>,
}

/// The id that stands for no session: nobody has a token with this hash.
const NO_SESSION: SessionId = SessionId::from_bytes([0; 32]);

impl Watch {
    fn new(session: &Session) -> Self {
        let slot = session.unit().slot.lock();
        let (entry, destroyed) = (slot.entry.clone(), slot.destroyed);
        drop(slot);
        Self { session: session.clone(), entry, destroyed, via: None, ticket: None }
    }

    /// Enters the waker before anything is looked at, so that whatever happens after the look wakes it.
    fn enter(&mut self, waker: &Waker) {
        let watches = &self.session.core().watches;
        let ticket = *self.ticket.get_or_insert_with(|| watches.ticket());
        match &self.entry {
            Some(entry) => watches.enter(entry, ticket, waker),
            None => watches.enter_id(&NO_SESSION, ticket, waker),
        }
        if let Some(via) = &self.via {
            watches.enter(via, ticket, waker);
        }
    }

    fn leave(&mut self) {
        let Some(ticket) = self.ticket.take() else { return };
        let watches = &self.session.core().watches;
        match &self.entry {
            Some(entry) => watches.leave(entry, ticket),
            None => _ = watches.leave_id(&NO_SESSION, ticket),
        }
        if let Some(via) = self.via.take() {
            watches.leave(&via, ticket);
        }
    }

    fn look(&mut self, waker: Option<&Waker>) -> Found {
        loop {
            if let Some(waker) = waker {
                self.enter(waker);
            }
            let core = self.session.core();
            let Some(entry) = &self.entry else {
                return match (self.destroyed, core.is_closed()) {
                    (true, _) => Found::Over(Ended::Destroyed),
                    (_, true) => Found::Over(Ended::Closed),
                    _ => Found::Undecided,
                };
            };
            let now = core.clock.now_ms();
            match entry.read(now) {
                Read::Live(_) if core.is_closed() => return Found::Over(Ended::Closed),
                Read::Live(record) => return Found::Alive(record),
                Read::Due if core.asks_before_expiry(entry) => return Found::Undecided,
                Read::Due => {
                    core.expire(entry, now);
                    continue;
                }
                Read::Gone => {}
            }
            match entry.phase() {
                Phase::Expired => return Found::Over(Ended::Expired),
                Phase::Revoked => return Found::Over(Ended::Revoked),
                Phase::Renewed => {}
                Phase::Merging => return Found::Undecided,
                _ => return Found::Over(Ended::Destroyed),
            }
            // A rotation leaves a grace, during which this handle goes on. Its end wakes who waits for `entry`.
            if let Some(next) = core.successor(entry, now) {
                if waker.is_none() || self.via.as_ref().is_some_and(|via| via.is(&next)) {
                    match next.read(now) {
                        Read::Live(_) if core.is_closed() => return Found::Over(Ended::Closed),
                        Read::Live(record) => return Found::Alive(record),
                        Read::Due if core.asks_before_expiry(&next) => return Found::Undecided,
                        Read::Due => core.expire(&next, now),
                        Read::Gone => {}
                    }
                    continue;
                }
                self.leave();
                self.via = Some(next);
                continue;
            }
            if let Some(via) = &self.via {
                match via.phase() {
                    Phase::Expired => return Found::Over(Ended::Expired),
                    Phase::Revoked => return Found::Over(Ended::Revoked),
                    Phase::Destroyed => return Found::Over(Ended::Destroyed),
                    _ => {}
                }
            }
            // The slot after the entry: a renewal of this request has been announced in it before it began, and
            // is there with its outcome once it is over.
            let slot = self.session.unit().slot.lock();
            let renewing = slot.renewing;
            // An unpublished one is no successor: this request has begun another session.
            let next = slot.entry.clone().filter(|e| !e.is(entry) && e.phase() != Phase::Unpublished);
            drop(slot);
            match next {
                Some(next) => {
                    self.leave();
                    self.entry = Some(next);
                }
                None if renewing => return Found::Undecided,
                None => return Found::Over(Ended::Renewed),
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.leave();
    }
}

/// The future of [`Session::revoked`].
#[must_use = "futures do nothing unless polled"]
pub struct Revoked(Watch);

impl Future for Revoked {
    type Output = Ended;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ended> {
        match self.0.look(Some(cx.waker())) {
            Found::Alive(_) | Found::Undecided => Poll::Pending,
            Found::Over(how) => Poll::Ready(how),
        }
    }
}

impl fmt::Debug for Revoked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Revoked")
    }
}

/// The future of [`Session::changed`]. It may be awaited again after it was ready.
#[must_use = "futures do nothing unless polled"]
pub struct Changed {
    watch: Watch,
    /// What was told last.
    told: Option<Record>,
}

impl Future for Changed {
    type Output = Option<Snapshot>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Snapshot>> {
        let this = &mut *self;
        match this.watch.look(Some(cx.waker())) {
            Found::Undecided => Poll::Pending,
            Found::Over(_) => Poll::Ready(None),
            Found::Alive(record) => {
                let same = this.told.as_ref().is_some_and(|told| told.same_content(&record));
                this.told = Some(record.clone());
                if same { Poll::Pending } else { Poll::Ready(Some(Snapshot::new(record))) }
            }
        }
    }
}

impl fmt::Debug for Changed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Changed")
    }
}

impl Session {
    /// Waits until the session of this handle is over, and says how: destroyed, renewed by another request,
    /// expired, or revoked. Ready at once if it is over already. Also ready when the engine closes.
    ///
    /// A renewal by this handle's own request is no end: the handle lives on under the new token. Waiting is
    /// no use of the session and does not keep it from expiring. Without a session it waits for the engine's
    /// end only; call it after the first write.
    ///
    /// The future is `'static` and keeps the session's memory, not the engine.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    ///
    /// # Complexity
    /// An entry in a table per waiting future; sessions that nobody waits for cost nothing.
    ///
    /// # Examples
    /// ```
    /// # pollster::block_on(async {
    /// # let engine = sessile_engine::Engine::builder().in_memory()?;
    /// # let session = engine.session(None).await?;
    /// # session.put("k", &1)?;
    /// # session.commit().await?;
    /// let Some(id) = session.id() else { return Ok(()) };
    /// let revoked = session.revoked(); // to be awaited beside the stream's own events
    /// engine.destroy_session(&id).await?;
    /// assert_eq!(revoked.await, sessile_engine::Ended::Revoked);
    /// # Ok::<(), sessile_engine::Error>(()) }).unwrap();
    /// ```
    pub fn revoked(&self) -> Revoked {
        Revoked(Watch::new(self))
    }

    /// Waits until the session differs from what it is now, and gives it as it is then; `None` once it is over,
    /// or the engine closed. It can be awaited again for the next change, by reference.
    ///
    /// What counts is the content: values, owner, deadline, authentication. Uses of the session are no change, and a
    /// write that leaves everything as it was is none. Changes that follow each other quickly are told as one.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing. Awaiting it by reference in a `select!` loses no change.
    ///
    /// # Examples
    /// ```
    /// # pollster::block_on(async {
    /// # let engine = sessile_engine::Engine::builder().in_memory()?;
    /// # let session = engine.session(None).await?;
    /// # session.put("unread", &1)?;
    /// # session.commit().await?;
    /// let mut changed = session.changed();
    /// # session.put("unread", &2)?;
    /// # let mut stop = || session.destroy();
    /// while let Some(snapshot) = (&mut changed).await {
    ///     println!("unread: {:?}", snapshot.i64("unread")?); // or an event to the client
    /// #   stop()?;
    /// }
    /// # Ok::<(), sessile_engine::Error>(()) }).unwrap();
    /// ```
    pub fn changed(&self) -> Changed {
        let mut watch = Watch::new(self);
        let told = match watch.look(None) {
            Found::Alive(record) => Some(record),
            Found::Undecided | Found::Over(_) => None,
        };
        Changed { watch, told }
    }

    /// Announces that this request's renewal of `old` begins.
    pub(super) fn renewal_under_way(&self, old: &EntryRef) -> UnderWay<'_> {
        self.unit().slot.lock().renewing = true;
        UnderWay { session: self, old: old.clone() }
    }
}

/// A renewal that this request carries out. Dropped when it has failed.
pub(super) struct UnderWay<'a> {
    session: &'a Session,
    old: EntryRef,
}

impl UnderWay<'_> {
    /// The handle goes on with `entry`.
    pub(super) fn complete(self, entry: EntryRef, token: Token) {
        let mut slot = self.session.unit().slot.lock();
        slot.entry = Some(entry);
        slot.token = Some(token);
        slot.renewing = false;
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.session.unit().slot.lock().renewing = false;
        // Those who were undecided look again.
        self.session.core().watches.wake(&self.old);
    }
}
