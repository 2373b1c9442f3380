//! Runs a store's futures on a runtime of its own. It never looks at what they do.
//!
//! The engine polls a store from threads without a runtime (its writer, a `Drop`), and from requests that may be dropped
//! at any moment. So each call becomes a task: a caller that goes away leaves an exchange with the server complete, and
//! no connection with an answer that the next caller would take for its own.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use sessile_engine::store::{StoreError, StoreErrorKind};
use tokio::runtime::{Builder, Handle, Runtime};

/// A thread with a tokio runtime, and a deadline for each call.
#[derive(Clone)]
pub(crate) struct Driver {
    store: &'static str,
    deadline: Duration,
    runtime: Arc<Owned>,
}

/// `None` only while it is dropped.
struct Owned(Option<Runtime>);

impl Drop for Owned {
    fn drop(&mut self) {
        // A runtime that is dropped inside another one would wait for its tasks, and panic.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Driver {
    /// Starts the thread, named `sessile-` and the store's name.
    ///
    /// # Errors
    /// [`StoreErrorKind::Unavailable`] if the system has no thread to give.
    pub(crate) fn start(store: &'static str, deadline: Duration) -> Result<Self, StoreError> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name(format!("sessile-{store}"))
            .enable_all()
            .build()
            .map_err(|e| {
                StoreError::new(StoreErrorKind::Unavailable, store, "its thread could not be started")
                    .with_source(e)
            })?;
        Ok(Self { store, deadline, runtime: Arc::new(Owned(Some(runtime))) })
    }

    fn handle(&self) -> Option<&Handle> {
        self.runtime.0.as_ref().map(Runtime::handle)
    }

    /// How long a call may take.
    pub(crate) fn deadline(&self) -> Duration {
        self.deadline
    }

    /// Runs `call` to its end, or to the deadline.
    ///
    /// # Errors
    /// What `call` says, or [`StoreErrorKind::Unavailable`] when the deadline is over: then nobody knows what the
    /// server did.
    ///
    /// # Cancel safety
    /// If the future is dropped, `call` goes on by itself.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        call: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.run_within(self.deadline, call).await
    }

    /// As [`run`](Self::run), for a call that waits by itself, with a deadline of its own.
    pub(crate) async fn run_within<T: Send + 'static>(
        &self,
        deadline: Duration,
        call: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        let fail = |what: String| StoreError::new(StoreErrorKind::Unavailable, self.store, what);
        let Some(handle) = self.handle() else { return Err(fail("its thread has ended".into())) };
        let store = self.store;
        let task = handle.spawn(async move {
            tokio::time::timeout(deadline, call).await.unwrap_or_else(|_| {
                Err(StoreError::new(
                    StoreErrorKind::Unavailable,
                    store,
                    format!("no answer within {} ms", deadline.as_millis()),
                ))
            })
        });
        match task.await {
            Ok(result) => result,
            Err(e) if e.is_panic() => Err(fail("its driver panicked".into())),
            Err(_) => Err(fail("its thread has ended".into())),
        }
    }

    /// Runs `task` beside the calls, until it ends or the store is dropped.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(handle) = self.handle() {
            handle.spawn(task);
        }
    }
}
