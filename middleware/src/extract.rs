//! [`Session`]: how a handler or a tower service gets the session of the request it serves. The session is
//! loaded when it is first asked for, once a request; nothing is committed here.

use std::any::TypeId;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::vec;

use http::Request;
use http::request::Parts;
use pin_project_lite::pin_project;
use sessile_engine::{Begin, Commit, Session as Live, Token};

use crate::audit::meter::Wait;
use crate::layer::Main;
use crate::rejection::SessionRejection;
use crate::scope::{Found, Remote, Settled, Source};
use crate::transport::{Candidates, RequestHead};

/// The session of the request being served.
///
/// It dereferences to the engine's [`Session`](sessile_engine::Session), which has all operations. `M` is
/// the marker of the [`SessionLayer`](crate::SessionLayer) it comes from. All extractions within a request
/// give the same session; clones may move into bodies and tasks and stay live after the response head.
///
/// Under axum it is an extractor (feature `axum`); `Option<Session>` is `None` where the layer is missing.
///
/// # Examples
/// In any tower service, between taking the request and passing it on:
/// ```
/// use sessile::{Session, SessionRejection};
///
/// async fn user<B>(request: &http::Request<B>) -> Result<Option<String>, SessionRejection> {
///     let session: Session = Session::from_request(request).await?;
///     Ok(session.get("user").unwrap_or(None))
/// }
/// ```
pub struct Session<M = Main> {
    live: Live,
    marker: PhantomData<fn() -> M>,
}

impl<M> Session<M> {
    fn new(live: Live) -> Self {
        Self { live, marker: PhantomData }
    }

    /// The engine's handle.
    #[must_use]
    pub fn into_inner(self) -> Live {
        self.live
    }
}

impl<M: 'static> Session<M> {
    /// The session of the request being served, if it has been loaded already. For synchronous code deep
    /// inside a handler; call it from the handler's own task.
    ///
    /// # Examples
    /// ```
    /// use sessile::Session;
    ///
    /// /// Called from handlers behind the layer, which need not pass the session on.
    /// fn user() -> Option<String> {
    ///     let session: Session = Session::current()?;
    ///     session.get("user").ok().flatten()
    /// }
    /// assert_eq!(user(), None, "no request is being served");
    /// ```
    #[must_use]
    pub fn current() -> Option<Self> {
        match Source::in_scope(TypeId::of::<M>())? {
            Found::Session(live) => Some(Self::new(live)),
            Found::Source(_) => None,
        }
    }

    /// Loads the session of `request`, or gives the one that it has already.
    ///
    /// The returned future keeps nothing of the request. It is ready at the first poll when the session is in
    /// memory or the request brings none.
    ///
    /// # Errors
    /// [`SessionRejection::MissingLayer`] where neither this task is inside a layer of this marker nor the
    /// request carries a handle; [`SessionRejection::LoadFailed`] when the store fails.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing; the session can be asked for again.
    pub fn from_request<B>(request: &Request<B>) -> Load<M> {
        Load::start(request.into())
    }

    /// As [`from_request`](Self::from_request), but this is no use of the session: it does not put off the end of its
    /// idle timeout. For requests that nobody made by hand, such as polling. If the request has its session
    /// already, that was one.
    ///
    /// # Errors
    /// As for [`from_request`](Self::from_request).
    pub fn untouched<B>(request: &Request<B>) -> Load<M> {
        Load::untouched(request.into())
    }

    /// The same for the head of a request.
    ///
    /// # Errors
    /// As for [`from_request`](Self::from_request).
    pub fn from_parts(parts: &Parts) -> Load<M> {
        Load::start(parts.into())
    }

    /// Begins the request's session with a token that the application found itself, say in the request's body:
    /// the session of `token`, or an empty one. The layer's transport is not asked. From here on this is the
    /// request's session for every extractor; a layer whose tokens travel in bodies has the transport
    /// [`InBody`](crate::InBody).
    ///
    /// Only on the handler's own task, and before anything else asks for the session.
    ///
    /// # Errors
    /// [`SessionRejection::AlreadyLoaded`] if the request has a session already and it is not the one of
    /// `token`; otherwise as for [`from_request`](Self::from_request).
    ///
    /// # Cancel safety
    /// As for [`from_request`](Self::from_request).
    ///
    /// # Examples
    /// ```
    /// use sessile::{Session, SessionRejection, Token};
    ///
    /// async fn of_body(body: &str) -> Result<Session, SessionRejection> {
    ///     Session::from_token(Token::parse(body.trim().as_bytes()).as_ref()).await
    /// }
    /// ```
    pub fn from_token(token: Option<&Token>) -> Load<M> {
        Load::with_token(token)
    }
}

impl<M> Deref for Session<M> {
    type Target = Live;

    fn deref(&self) -> &Live {
        &self.live
    }
}

impl<M> Clone for Session<M> {
    fn clone(&self) -> Self {
        Self::new(self.live.clone())
    }
}

impl<M> fmt::Debug for Session<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Session").field(&self.live.id()).finish()
    }
}

/// The session, extracted without using it: see [`Session::untouched`].
///
/// # Examples
/// ```
/// use sessile::{Session, Untouched};
///
/// // A page that asks every few seconds must not keep its user logged in.
/// async fn unread(Untouched(session): Untouched) -> String {
///     session.get_or("unread", 0).unwrap_or(0).to_string()
/// }
/// ```
#[derive(Debug, Clone)]
pub struct Untouched<M = Main>(pub Session<M>);

/// A request's way to its session from another task: in the request's extensions when the layer has
/// [`request_extension`](crate::SessionLayer::request_extension) on.
///
/// [`Session::from_request`] and the extractor find it by themselves.
pub struct SessionHandle<M = Main> {
    remote: Arc<Remote>,
    marker: PhantomData<fn() -> M>,
}

impl<M> SessionHandle<M> {
    pub(crate) fn new(remote: Arc<Remote>) -> Self {
        Self { remote, marker: PhantomData }
    }
}

impl<M> Clone for SessionHandle<M> {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.remote))
    }
}

impl<M> fmt::Debug for SessionHandle<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionHandle").finish_non_exhaustive()
    }
}

/// The future of [`Session::from_request`].
///
/// It is as small as a session: it lives in the handler's future, whether or not there is anything to wait for.
#[must_use = "a future does nothing until it is polled"]
pub struct Load<M = Main> {
    step: Step,
    marker: PhantomData<fn() -> M>,
}

enum Step {
    Found(Live),
    Missing,
    /// The request has another session already.
    Taken,
    /// Only the store can tell, or there is more than one answer.
    Slow(Pin<Box<Slow>>),
    Done,
}

/// Whether a load is a use of the session.
#[derive(Clone, Copy)]
enum Touch {
    Yes,
    No,
}

impl Touch {
    fn begin(self, source: &Source, token: Option<&Token>) -> Begin {
        let engine = &source.shared().engine;
        match self {
            Self::Yes => engine.session(token),
            Self::No => engine.session_untouched(token),
        }
    }
}

pin_project! {
    /// A load that may have to wait.
    struct Slow {
        source: Source,
        touch: Touch,
        // The other tokens the client sent: none, unless somebody planted cookies.
        rest: vec::IntoIter<Token>,
        #[pin]
        wait: Waiting,
        meter: Wait,
    }
}

pin_project! {
    #[project = WaitingProj]
    enum Waiting {
        Loading { #[pin] begin: Begin },
        // Loaded after the response head: the session must know that nothing can be issued any more.
        Closing { #[pin] commit: Commit, live: Option<Live> },
    }
}

impl<M: 'static> Load<M> {
    fn start(request: RequestHead<'_>) -> Self {
        Self::with(request, Source::for_request(TypeId::of::<M>(), request), Touch::Yes)
    }

    fn untouched(request: RequestHead<'_>) -> Self {
        Self::with(request, Source::in_scope(TypeId::of::<M>()), Touch::No)
    }

    fn with(request: RequestHead<'_>, in_scope: Option<Found>, touch: Touch) -> Self {
        let found = in_scope.or_else(|| {
            request.extensions().get::<SessionHandle<M>>().map(|handle| Source::behind(&handle.remote))
        });
        Self::new(match found {
            Some(Found::Session(live)) => Step::Found(live),
            Some(Found::Source(source)) => {
                let candidates = source.shared().carrier.find(request, &source.shared().cookie);
                Step::begin(source, candidates, touch)
            }
            None => Step::Missing,
        })
    }

    fn with_token(token: Option<&Token>) -> Self {
        Self::new(match Source::in_scope(TypeId::of::<M>()) {
            Some(Found::Session(live)) if token.is_some() && live.id() == token.map(Token::id) => {
                Step::Found(live)
            }
            Some(Found::Session(_)) => Step::Taken,
            Some(Found::Source(source)) => Step::begin(source, Candidates::of(token), Touch::Yes),
            None => Step::Missing,
        })
    }

    fn new(step: Step) -> Self {
        Self { step, marker: PhantomData }
    }
}

impl Step {
    fn begin(source: Source, candidates: Candidates, touch: Touch) -> Self {
        if let Some(live) = source.consult(candidates.fingerprint) {
            return Self::Found(live);
        }
        candidates.report();
        let begin = touch.begin(&source, candidates.first.as_ref());
        let wait = Waiting::Loading { begin };
        Self::Slow(Box::pin(Slow { source, touch, rest: candidates.rest, wait, meter: Wait::default() }))
    }
}

impl Future for Slow {
    /// `None` if the request is not being served here.
    type Output = Result<Option<Live>, SessionRejection>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.wait.as_mut().project() {
                WaitingProj::Loading { mut begin } => {
                    let Poll::Ready(loaded) = begin.as_mut().poll(cx) else {
                        this.meter.begin();
                        return Poll::Pending;
                    };
                    this.meter.end("sessile_load_wait_seconds");
                    let loaded = this.source.shared().admit(loaded).map_err(SessionRejection::load_failed)?;
                    // In this order: asking the session costs a look at the clock.
                    if !this.rest.as_slice().is_empty()
                        && loaded.id().is_none()
                        && !loaded.is_stand_in()
                        && let Some(token) = this.rest.next()
                    {
                        begin.set(this.touch.begin(this.source, Some(&token)));
                        continue;
                    }
                    match this.source.settle(loaded) {
                        Settled::Earlier(live, spare) => {
                            drop(spare);
                            return Poll::Ready(Ok(Some(live)));
                        }
                        Settled::Kept(live) => return Poll::Ready(Ok(Some(live))),
                        Settled::Late(live) => {
                            let commit = live.commit();
                            this.wait.set(Waiting::Closing { commit, live: Some(live) });
                        }
                        Settled::Lost => return Poll::Ready(Ok(None)),
                    }
                }
                WaitingProj::Closing { commit, live } => {
                    // What it would deliver cannot be delivered, and it has nothing to fail with: the session
                    // was loaded a moment ago.
                    let _ = ready!(commit.poll(cx));
                    return Poll::Ready(Ok(live.take()));
                }
            }
        }
    }
}

impl<M> Future for Load<M> {
    type Output = Result<Session<M>, SessionRejection>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let loaded = match std::mem::replace(&mut self.step, Step::Done) {
            Step::Found(live) => Ok(live),
            Step::Missing => Err(SessionRejection::missing_layer::<M>()),
            Step::Taken => Err(SessionRejection::already_loaded()),
            Step::Slow(mut slow) => match slow.as_mut().poll(cx) {
                Poll::Ready(loaded) => loaded?.ok_or_else(SessionRejection::missing_layer::<M>),
                Poll::Pending => {
                    self.step = Step::Slow(slow);
                    return Poll::Pending;
                }
            },
            Step::Done => panic!("`Load` polled after completion"),
        };
        Poll::Ready(loaded.map(Session::new))
    }
}

impl<M> fmt::Debug for Load<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Load").finish_non_exhaustive()
    }
}

#[cfg(feature = "axum")]
mod axum {
    //! The extractors. They are thin: everything happens in [`Load`].

    use axum_core::extract::{FromRequestParts, OptionalFromRequestParts};
    use http::request::Parts;

    use super::{Load, Session, Untouched};
    use crate::rejection::SessionRejection;

    impl<S: Sync, M: 'static> FromRequestParts<S> for Session<M> {
        type Rejection = SessionRejection;

        fn from_request_parts(
            parts: &mut Parts,
            _: &S,
        ) -> impl Future<Output = Result<Self, SessionRejection>> {
            Session::from_parts(parts)
        }
    }

    impl<S: Sync, M: 'static> FromRequestParts<S> for Untouched<M> {
        type Rejection = SessionRejection;

        async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, SessionRejection> {
            Load::untouched((&*parts).into()).await.map(Self)
        }
    }

    impl<S: Sync, M: 'static> OptionalFromRequestParts<S> for Session<M> {
        type Rejection = SessionRejection;

        async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, SessionRejection> {
            let load: Load<M> = Session::from_parts(parts);
            if load.is_missing() { Ok(None) } else { load.await.map(Some) }
        }
    }
}

#[cfg(feature = "axum")]
impl<M> Load<M> {
    /// Whether there is nothing to load from. Nothing is traced then.
    fn is_missing(&self) -> bool {
        matches!(self.step, Step::Missing)
    }
}
