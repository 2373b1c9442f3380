//! [`ResponseFuture`]: runs the inner service inside its scope, then commits the session at the response
//! head and writes the headers. It never looks at a body.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::Response;
use pin_project_lite::pin_project;
use sessile_engine::{Commit, Delivery, Error};

use crate::audit::meter::Wait;
use crate::fail;
use crate::layer::{RequestCookie, Shared};
use crate::scope::{self, Frame};

pin_project! {
    /// The future of a [`SessionService`](crate::SessionService)'s response.
    ///
    /// # Cancel safety
    /// Dropped before the response head is there, it commits nothing: a new session is not published, a
    /// renewal is forgotten and the old token goes on working. Dropped while the commit is under way, the
    /// commit may or may not happen; it never happens by halves.
    pub struct ResponseFuture<F, B> {
        #[pin]
        state: State<F, B>,
        frame: Option<Frame>,
        cookie: Option<Box<RequestCookie>>,
        wait: Wait,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F, B> {
        Running { #[pin] inner: F },
        Committing { #[pin] commit: Commit, response: Option<Response<B>> },
        Done,
    }
}

impl<F, B> ResponseFuture<F, B> {
    pub(crate) fn new(inner: F, frame: Option<Frame>, cookie: Option<Box<RequestCookie>>) -> Self {
        Self { state: State::Running { inner }, frame, cookie, wait: Wait::default() }
    }
}

impl<F, B, E> Future for ResponseFuture<F, B>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Default + 'static,
{
    type Output = Result<Response<B>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        match this.state.as_mut().project() {
            StateProj::Running { inner } => {
                // Changed in place and handed on whole: a response head is not cheap to move.
                let entered = scope::enter(this.frame);
                let polled = inner.poll(cx);
                drop(entered);
                let mut result = ready!(polled);
                let mut session = None;
                if let (Ok(response), Some(frame)) = (&mut result, this.frame.as_mut()) {
                    let finished = frame.finish();
                    if finished.consulted {
                        frame.shared.carrier.vary(response.headers_mut());
                    }
                    session = finished.session;
                    if !matches!(this.cookie.as_deref(), Some(Err(_))) {
                        session = session.and_then(|session| session.leave().err());
                    }
                }
                let (Some(session), true) = (session, result.is_ok()) else {
                    this.state.set(State::Done);
                    *this.frame = None;
                    return Poll::Ready(result);
                };
                let response = result?;
                if let Some(Err(error)) = this.cookie.as_deref() {
                    this.state.set(State::Done);
                    return Poll::Ready(Ok(fail::misconfigured(error)));
                }
                let mut commit = session.commit();
                // Ready at once, unless something has to be waited for.
                match Pin::new(&mut commit).poll(cx) {
                    Poll::Ready(committed) => {
                        this.state.set(State::Done);
                        let frame = this.frame.take();
                        Poll::Ready(Ok(match &frame {
                            Some(frame) => {
                                deliver(&frame.shared, this.cookie.as_deref(), committed, response)
                            }
                            None => response,
                        }))
                    }
                    Poll::Pending => {
                        this.wait.begin();
                        this.state.set(State::Committing { commit, response: Some(response) });
                        Poll::Pending
                    }
                }
            }
            StateProj::Committing { commit, response } => {
                let Poll::Ready(committed) = commit.poll(cx) else {
                    this.wait.begin();
                    return Poll::Pending;
                };
                this.wait.end("sessile_commit_wait_seconds");
                let response = response.take();
                this.state.set(State::Done);
                let (Some(response), Some(frame)) = (response, this.frame.take()) else {
                    unreachable!("a commit starts with a response and a frame and ends once")
                };
                Poll::Ready(Ok(deliver(&frame.shared, this.cookie.as_deref(), committed, response)))
            }
            StateProj::Done => panic!("`ResponseFuture` polled after completion"),
        }
    }
}

/// Tells the client what the commit came to.
fn deliver<B: Default + 'static>(
    shared: &Shared,
    cookie: Option<&RequestCookie>,
    committed: Result<Delivery, Error>,
    response: Response<B>,
) -> Response<B> {
    let cookie = cookie.and_then(|cookie| cookie.as_ref().ok()).unwrap_or(&shared.cookie);
    match committed {
        Ok(delivery) => shared.carrier.deliver(&delivery, cookie, shared.cache_control, response),
        // Another request logged this session out: nothing is left to deliver, and nothing went wrong.
        Err(error) if error.is_revoked() => response,
        Err(error) => {
            let mut response = fail::replacement(&shared.on_error, &error);
            shared.carrier.vary(response.headers_mut());
            response
        }
    }
}

impl<F, B> fmt::Debug for ResponseFuture<F, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
