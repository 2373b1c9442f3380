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
use tokio::task::JoinHandle;

/// A thread with a tokio runtime, and a deadline for each call.
#[derive(Clone)]
pub(crate) struct Driver {
    store: &'static str,
    deadline: Duration,
    runtime: Arc<Owned>,
    /// Where calls run whose connections belong to another runtime; their deadlines still run here.
    connections: Option<Handle>,
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
        Ok(Self { store, deadline, runtime: Arc::new(Owned(Some(runtime))), connections: None })
    }

    /// As [`start`](Self::start), for connections of the app that live on the runtime of the caller: there the calls run,
    /// so that no connection ends with the store. If that runtime stands still, calls end by their deadline.
    ///
    /// # Errors
    /// [`StoreErrorKind::Config`] if the caller is not on a runtime of tokio's with several threads: one with a single thread
    /// stands still whenever something waits for the store there.
    pub(crate) fn beside(store: &'static str, deadline: Duration) -> Result<Self, StoreError> {
        let wrong = |what: &'static str| StoreError::new(StoreErrorKind::Config, store, what);
        let app = Handle::try_current()
            .map_err(|e| wrong("it must be opened on the tokio runtime of its pool").with_source(e))?;
        if app.runtime_flavor() == tokio::runtime::RuntimeFlavor::CurrentThread {
            return Err(wrong(
                "the pool of a runtime with one thread cannot be shared: use `rt-multi-thread`",
            ));
        }
        Ok(Self { connections: Some(app), ..Self::start(store, deadline)? })
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
        let task = match &self.connections {
            None => handle.spawn(within(self.store, deadline, call)),
            Some(app) => {
                let elsewhere = Elsewhere(app.spawn(call));
                handle.spawn(within(self.store, deadline, elsewhere.result(self.store)))
            }
        };
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

async fn within<T>(
    store: &'static str,
    deadline: Duration,
    call: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    tokio::time::timeout(deadline, call).await.unwrap_or_else(|_| {
        Err(StoreError::new(
            StoreErrorKind::Unavailable,
            store,
            format!("no answer within {} ms", deadline.as_millis()),
        ))
    })
}

/// A call on another runtime, which ends with whoever waits for it.
struct Elsewhere<T>(JoinHandle<Result<T, StoreError>>);

impl<T> Elsewhere<T> {
    async fn result(mut self, store: &'static str) -> Result<T, StoreError> {
        (&mut self.0).await.unwrap_or_else(|e| {
            let what = if e.is_panic() { "its driver panicked" } else { "the runtime of its pool has ended" };
            Err(StoreError::new(StoreErrorKind::Unavailable, store, what))
        })
    }
}

impl<T> Drop for Elsewhere<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
