//! [`SessionService`]: opens the scope of one request and hands it on. It waits for nothing.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use tower_service::Service;

use crate::extract::SessionHandle;
use crate::future::ResponseFuture;
use crate::lane::Lanes;
use crate::layer::Main;
use crate::scope::{self, Frame};

/// The service that [`SessionLayer`](crate::SessionLayer) makes.
///
/// Readiness is the inner service's. `call` calls it at once, on the instance that was polled ready, and
/// keeps nothing of it for later; so there is no clone to swap.
pub struct SessionService<S, M = Main> {
    inner: S,
    lanes: Lanes,
    marker: PhantomData<fn() -> M>,
}

impl<S, M> SessionService<S, M> {
    pub(crate) fn new(inner: S, lanes: Lanes) -> Self {
        Self { inner, lanes, marker: PhantomData }
    }

    /// The inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The inner service.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Takes the inner service out.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, M, ReqB, ResB> Service<Request<ReqB>> for SessionService<S, M>
where
    S: Service<Request<ReqB>, Response = Response<ResB>>,
    ResB: Default + 'static,
    M: 'static,
{
    type Response = Response<ResB>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, ResB>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqB>) -> Self::Future {
        let shared = self.lanes.mine();
        let cookie = shared.cookie_for((&request).into());
        let frame = if shared.request_extension {
            let (frame, remote) = Frame::remote(Arc::clone(shared));
            request.extensions_mut().insert(SessionHandle::<M>::new(remote));
            frame
        } else {
            Frame::local(Arc::clone(shared))
        };
        let mut slot = Some(frame);
        let entered = scope::enter(&mut slot);
        let inner = self.inner.call(request);
        drop(entered);
        ResponseFuture::new(inner, slot, cookie)
    }
}

impl<S: Clone, M> Clone for SessionService<S, M> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), lanes: self.lanes.clone(), marker: PhantomData }
    }
}

impl<S: fmt::Debug, M> fmt::Debug for SessionService<S, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionService").field("inner", &self.inner).finish_non_exhaustive()
    }
}
