//! The commit at the response head: publishing a new session, completing a renewal, waiting for durability, and
//! saying what the client must be told. It changes no data.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use super::login::counted_owner;
use super::slot::Closing;
use super::{Claim, Session, Slot, rotate};
use crate::cache::{Entry, EntryRef, Phase, Read};
use crate::clock::from_ms_saturating;
use crate::config::Release;
use crate::core::{Core, Published};
use crate::ending::Orphan;
use crate::engine::polled_after_completion;
use crate::error::{Error, ErrorKind, Result};
use crate::store::BoxFuture;
use crate::token::Token;
use crate::writer::{Lifetime, Renewal, RenewalWait};

#[cfg(all(test, not(feature = "shuttle")))]
mod tests;

/// What the client must be told about its token.
#[derive(Debug)]
#[non_exhaustive]
pub enum Delivery {
    /// Nothing.
    Nothing,
    /// Hold this token from now on.
    Issue(Issue),
    /// Forget the token.
    Remove,
}

/// A token to be delivered.
#[derive(Debug)]
#[non_exhaustive]
pub struct Issue {
    /// The token.
    pub token: Token,
    /// How long the session may live from now on.
    pub max_age: Duration,
    /// The same as a point in time by the wall clock of this moment, for cookies that need a date.
    pub expires_at: SystemTime,
    /// Whether the client should keep the token beyond its own session (a persistent cookie).
    pub persistent: bool,
}

/// Tries to find a free id for a new session. One is enough unless the random source is broken.
const PUBLISH_TRIES: usize = 3;

impl Session {
    /// Ends the request's part: to be called once, when the response head is about to leave. A new session is
    /// published, a renewal is carried out, and what must be durable before the response is waited for.
    /// Later calls find nothing to do. The handle stays live.
    ///
    /// Ready when first polled unless something must be waited for: a renewal, a destruction, any change at
    /// [`Durability::PowerLoss`](crate::Durability::PowerLoss), or room in the cache for a new session. At
    /// [`Durability::ProcessCrash`](crate::Durability::ProcessCrash) a change is written to the journal by this call
    /// itself.
    ///
    /// # Errors
    /// [`ErrorKind::Store`] and its relatives. The response must not be released then: a session that was to
    /// be new does not exist, a renewal has not happened. A destroyed session is dead all the same.
    ///
    /// # Cancel safety
    /// If the future is dropped, a new session is not left behind and a renewal does not happen; a destruction
    /// stands.
    ///
    /// # Examples
    /// ```
    /// # pollster::block_on(async {
    /// # let engine = sessile_engine::Engine::builder().in_memory()?;
    /// use sessile_engine::Delivery;
    ///
    /// let session = engine.session(None).await?;
    /// session.put("user", "ann")?;
    /// match session.commit().await? {
    ///     Delivery::Issue(issue) => println!("Set-Cookie: session={}", issue.token.encode().as_str()),
    ///     Delivery::Remove => println!("Set-Cookie: session=; Max-Age=0"),
    ///     _ => {}
    /// }
    /// # Ok::<(), sessile_engine::Error>(()) }).unwrap();
    /// ```
    pub fn commit(&self) -> Commit {
        let core = self.core();
        match self.unit().slot.close() {
            Closing::Already => return Commit::ready(Ok(Delivery::Nothing)),
            Closing::Plain { modified } if core.config.life.rotate_ms.is_none() => {
                if !modified || core.release == Release::AtOnce {
                    return Commit::ready(Ok(Delivery::Nothing));
                }
                if core.release == Release::Written
                    && let Some(Some(entry)) = self.unit().slot.unmoved()
                {
                    match core.write_now(entry) {
                        Ok(true) => return Commit::ready(Ok(Delivery::Nothing)),
                        Ok(false) => {}
                        Err(error) => return Commit::ready(Err(error)),
                    }
                }
            }
            Closing::Plain { .. } | Closing::Look => {}
        }
        let mut slot = self.unit().slot.lock();
        let has_store = core.store.is_some();
        let changed = slot.modified || slot.must_wait;
        let mut wait = has_store && (slot.must_wait || (changed && core.release == Release::Durable));
        if !wait && changed && core.release == Release::Written {
            match slot.entry.as_ref().filter(|entry| entry.phase() != Phase::Unpublished) {
                // What is published below is written there.
                None => {}
                Some(entry) => match core.write_now(entry) {
                    Ok(written) => wait = !written,
                    Err(error) => return Commit::ready(Err(error)),
                },
            }
        }
        let unpublished = slot.entry.as_ref().is_some_and(|e| e.phase() == Phase::Unpublished);
        let renew = slot.renew.take().map(|asked| match asked {
            Lifetime::Restart if slot.deadline_set => Lifetime::Keep,
            other => other,
        });
        // By itself, and then its failure is nobody's.
        let due = renew.is_none() && rotate::is_due(core, &slot);
        let renew = if due { Some(Lifetime::Rotate) } else { renew };
        let claims = std::mem::take(&mut slot.claims);
        if !wait && renew.is_none() && claims.is_empty() {
            if !unpublished {
                if slot.reissue {
                    return Commit::ready(issue(core, &slot));
                }
                let remove = slot.remove;
                return Commit::ready(Ok(if remove { Delivery::Remove } else { Delivery::Nothing }));
            }
            drop(slot);
            return Commit(State::Publishing(Some(self.clone())));
        }
        drop(slot);
        let session = self.clone();
        Commit(State::Waiting(Box::pin(async move {
            session.commit_slowly(unpublished, Renew { renew, by_itself: due }, wait, claims).await
        })))
    }

    /// Ends the request's part as [`commit`](Self::commit) does, of a handle that is done with, if that takes nothing:
    /// there is no other handle, and nothing was done that has to be waited for or that the client must hear of.
    ///
    /// # Errors
    /// The handle, which has to be committed.
    #[doc(hidden)]
    #[inline]
    pub fn leave(mut self) -> Result<(), Self> {
        let alone = self.unit.as_mut().and_then(triomphe::Arc::get_mut).is_some_and(|unit| {
            let Some(core) = unit.lane.as_ref().map(|lane| lane.core()) else { return false };
            core.config.life.rotate_ms.is_none() && unit.slot.is_plain(core.release == Release::AtOnce)
        });
        if alone { Ok(()) } else { Err(self) }
    }

    /// Publishes the new session, if there is room for it without waiting. Runs when the commit is polled, so
    /// that one which never is leaves nothing behind.
    fn publish_now(&self) -> PublishNow {
        let core = self.core();
        // Not under the handle's lock: an eviction is told to the observer.
        let owned = self.unit().slot.lock().entry.as_ref().is_some_and(|e| e.is_owned());
        if !core.evict(owned) {
            return PublishNow::MustWait;
        }
        let mut slot = self.unit().slot.lock();
        if counted_owner(core, &slot).is_some() {
            return PublishNow::MustWait;
        }
        let published = publish(core, &mut slot);
        let issued = issue(core, &slot);
        drop(slot);
        let entry = match published {
            Ok(Some(entry)) => entry,
            Ok(None) => return PublishNow::Done(issued),
            Err(error) => return PublishNow::Done(Err(error)),
        };
        core.announce(&entry);
        if core.release != Release::Written {
            return PublishNow::Done(issued);
        }
        let orphan = Orphan::new(core, entry.clone());
        match core.write_now(&entry) {
            Err(error) => PublishNow::Done(Err(error)),
            Ok(written) => {
                orphan.keep();
                if written { PublishNow::Done(issued) } else { PublishNow::Unwritten(entry) }
            }
        }
    }

    /// Waits for the writer to write a session that has just been published.
    async fn wait_published(self, entry: EntryRef) -> Result<Delivery> {
        let core = self.core().clone();
        let orphan = Orphan::new(&core, entry);
        core.queue.flush().await?;
        orphan.keep();
        issue(&core, &self.unit().slot.lock())
    }

    async fn commit_slowly(
        self,
        unpublished: bool,
        Renew { renew, by_itself }: Renew,
        mut wait: bool,
        claims: Vec<Claim>,
    ) -> Result<Delivery> {
        let core = self.core().clone();
        let mut told = {
            let slot = self.unit().slot.lock();
            match (slot.reissue, slot.remove) {
                (true, _) => Told::Issue,
                (false, true) => Told::Remove,
                (false, false) => Told::Nothing,
            }
        };
        let mut orphan = None;
        if unpublished {
            let owned = self.unit().slot.lock().entry.as_ref().is_some_and(|e| e.is_owned());
            core.make_room(owned).await?;
            let (entry, others_ended) = self.publish_within_limit(&core).await?;
            wait |= others_ended && core.store.is_some();
            if let Some(entry) = entry {
                core.announce(&entry);
                orphan = Some(Orphan::new(&core, entry.clone()));
                if core.release == Release::Written && !wait {
                    wait = !core.write_now(&entry)?;
                }
            }
            told = Told::Issue;
        }
        if wait {
            core.queue.flush().await?;
        }
        if !claims.is_empty() {
            // Only now that their data is stored here. Until their rows are deleted this may fail or be dropped: then
            // a new session ends, and they have their data back.
            if wait {
                claims.iter().for_each(Claim::bury);
                core.queue.flush().await?;
            }
            claims.into_iter().for_each(Claim::settle);
        }
        // Last, with nothing to wait for behind it: from here on the old token is dead, so the new one must be
        // on its way. The record it moves is the newest, and durable with it.
        if !unpublished && let Some(lifetime) = renew {
            match self.carry_out_renewal(&core, lifetime).await {
                Ok(()) => told = Told::Issue,
                // Somebody else destroyed or renewed it first: this client has, or gets, its news from there.
                Err(error) if error.is_revoked() => {
                    self.unit().slot.lock().check_not_handed()?;
                    told = Told::Nothing;
                }
                Err(error) if by_itself => {
                    tracing::debug!(target: "sessile", %error, "a token was not rotated; a later response will try");
                }
                Err(error) => return Err(error),
            }
        }
        if let Some(orphan) = orphan {
            orphan.keep();
        }
        let slot = self.unit().slot.lock();
        match told {
            Told::Nothing => Ok(Delivery::Nothing),
            Told::Remove => Ok(Delivery::Remove),
            Told::Issue => issue(&core, &slot),
        }
    }

    async fn carry_out_renewal(&self, core: &Arc<Core>, lifetime: Lifetime) -> Result<()> {
        let Some(mut old) = self.unit().slot.lock().entry.clone() else { return Ok(()) };
        loop {
            if lifetime != Lifetime::Rotate {
                old = core.in_service_quietly(old, core.clock.now_ms()).ok_or_else(crate::cache::revoked)?;
            } else {
                // If another request rotated it first, its response has the token. A second token on its way
                // beside that one could be the one that the client keeps, and be dead by then.
                old = core.under_its_id(&old, core.clock.now_ms()).ok_or_else(crate::cache::revoked)?;
            }
            let early = self.unit().slot.lock().next.take();
            let token = early.map_or_else(Token::generate, |token| Ok(*token))?;
            // Before anything else: until it is dropped, those who watch this handle wait for the outcome.
            let under_way = self.renewal_under_way(&old);
            let renewal = Renewal::new(old.clone(), token.id(), lifetime);
            let done = if core.store.is_some() {
                RenewalWait::start(core.clone(), renewal).await
            } else {
                renewal.run_in_memory(core)
            };
            match done {
                Ok(entry) => {
                    under_way.complete(entry, token);
                    return Ok(());
                }
                // A rotation came first, and left the old token its grace. Whoever asked for a renewal wants
                // that token dead.
                Err(error)
                    if error.is_revoked()
                        && lifetime != Lifetime::Rotate
                        && core.successor(&old, core.clock.now_ms()).is_some() => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// What came of publishing without waiting.
enum PublishNow {
    Done(Result<Delivery>),
    /// It is in service, but not in the journal.
    Unwritten(EntryRef),
    /// Nothing was done: something must be waited for first.
    MustWait,
}

/// The renewal to carry out.
#[derive(Default)]
struct Renew {
    renew: Option<Lifetime>,
    /// Nobody asked for it.
    by_itself: bool,
}

enum Told {
    Nothing,
    Issue,
    Remove,
}

/// Puts the slot's new session into service. `None` if it has expired already.
pub(super) fn publish(core: &Core, slot: &mut Slot) -> Result<Option<EntryRef>> {
    for _ in 0..PUBLISH_TRIES {
        let Some(entry) = slot.entry.clone() else { break };
        match core.publish(&entry) {
            Published::InService => return Ok(Some(entry)),
            Published::Over => return Ok(None),
            Published::Taken => slot.check_not_handed()?,
        }
        // The id is taken. The session under it is somebody else's and stays untouched.
        let Read::Live(record) = entry.read(core.clock.now_ms()) else { break };
        let token = Token::generate()?;
        slot.entry = Some(Entry::unpublished(token.id(), record));
        slot.token = Some(token);
    }
    Err(Error::new(ErrorKind::Random, "no unused session id was found: is the random source broken?"))
}

fn issue(core: &Core, slot: &Slot) -> Result<Delivery> {
    let now = core.clock.now_ms();
    if slot.handed {
        return Ok(Delivery::Nothing);
    }
    let (Some(entry), Some(token)) = (&slot.entry, &slot.token) else { return Ok(Delivery::Nothing) };
    // Ended in the very moment it was to be delivered: then there is nothing to deliver.
    let record = match entry.read(now) {
        Read::Live(record) => Some(record),
        Read::Due | Read::Gone => core.under_its_id(entry, now).and_then(|found| match found.read(now) {
            Read::Live(record) => Some(record),
            Read::Due | Read::Gone => None,
        }),
    };
    let Some(record) = record else { return Ok(Delivery::Nothing) };
    let left = record.deadline().saturating_sub(now);
    Ok(Delivery::Issue(Issue {
        token: token.clone(),
        max_age: Duration::from_millis(left),
        expires_at: from_ms_saturating(core.clock.wall_ms().saturating_add(left)),
        persistent: record.meta().persistent,
    }))
}

/// The future of [`Session::commit`].
#[must_use = "futures do nothing unless polled"]
pub struct Commit(State);

enum State {
    Ready(Option<Result<Delivery>>),
    /// A new session, to be published when this is polled.
    Publishing(Option<Session>),
    Waiting(BoxFuture<'static, Result<Delivery>>),
}

impl Commit {
    fn ready(result: Result<Delivery>) -> Self {
        Self(State::Ready(Some(result)))
    }
}

impl Future for Commit {
    type Output = Result<Delivery>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let State::Publishing(session) = &mut self.0 {
            let Some(session) = session.take() else { return Poll::Ready(Err(polled_after_completion())) };
            self.0 = State::Waiting(match session.publish_now() {
                PublishNow::Done(result) => return Poll::Ready(result),
                PublishNow::Unwritten(entry) => Box::pin(session.wait_published(entry)),
                PublishNow::MustWait => {
                    Box::pin(session.commit_slowly(true, Renew::default(), false, Vec::new()))
                }
            });
        }
        match &mut self.0 {
            State::Ready(result) => {
                Poll::Ready(result.take().unwrap_or_else(|| Err(polled_after_completion())))
            }
            State::Publishing(_) => Poll::Pending,
            State::Waiting(future) => future.as_mut().poll(cx),
        }
    }
}

impl fmt::Debug for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Commit")
    }
}
