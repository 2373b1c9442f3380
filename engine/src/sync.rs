//! The one switch between real locks and shuttle's: everything concurrent in the engine takes its locks,
//! atomics and condition variables from here, so that the schedule tests run the code that ships.

#[cfg(not(feature = "shuttle"))]
mod real {
    pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard, RwLock, RwLockWriteGuard};
    pub(crate) use std::sync::atomic::{
        AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering,
    };
    pub(crate) use std::time::Duration;

    /// Waits on `condvar` until notified or until `timeout` has passed.
    pub(crate) fn wait_for<T>(
        condvar: &Condvar,
        guard: &mut parking_lot::MutexGuard<'_, T>,
        timeout: Duration,
    ) {
        let _ = condvar.wait_for(guard, timeout);
    }
}

#[cfg(not(feature = "shuttle"))]
pub(crate) use real::*;

#[cfg(feature = "shuttle")]
mod modelled {
    //! Shuttle's types with parking_lot's non-poisoning signatures.
    pub(crate) use shuttle::sync::RwLockWriteGuard;
    pub(crate) use shuttle::sync::atomic::{
        AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering,
    };
    use std::ops::{Deref, DerefMut};
    pub(crate) use std::time::Duration;

    fn held<G>(r: std::sync::LockResult<G>) -> G {
        r.unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    #[derive(Debug, Default)]
    pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);
    /// A guard that a condition variable can take out and put back.
    pub(crate) struct MutexGuard<'a, T>(Option<shuttle::sync::MutexGuard<'a, T>>);

    impl<T> Mutex<T> {
        pub(crate) fn new(t: T) -> Self {
            Self(shuttle::sync::Mutex::new(t))
        }
        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            MutexGuard(Some(held(self.0.lock())))
        }
    }
    impl<T> Deref for MutexGuard<'_, T> {
        type Target = T;
        fn deref(&self) -> &T {
            self.0.as_ref().expect("held")
        }
    }
    impl<T> DerefMut for MutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            self.0.as_mut().expect("held")
        }
    }

    #[derive(Debug, Default)]
    pub(crate) struct RwLock<T>(shuttle::sync::RwLock<T>);
    impl<T> RwLock<T> {
        pub(crate) fn new(t: T) -> Self {
            Self(shuttle::sync::RwLock::new(t))
        }
        pub(crate) fn read(&self) -> shuttle::sync::RwLockReadGuard<'_, T> {
            held(self.0.read())
        }
        pub(crate) fn write(&self) -> shuttle::sync::RwLockWriteGuard<'_, T> {
            held(self.0.write())
        }
    }

    #[derive(Debug, Default)]
    pub(crate) struct Condvar(shuttle::sync::Condvar);
    impl Condvar {
        pub(crate) fn new() -> Self {
            Self(shuttle::sync::Condvar::new())
        }
        pub(crate) fn notify_one(&self) {
            self.0.notify_one();
        }
        pub(crate) fn notify_all(&self) {
            self.0.notify_all();
        }
    }

    pub(crate) fn wait_for<T>(condvar: &Condvar, guard: &mut MutexGuard<'_, T>, timeout: Duration) {
        let inner = guard.0.take().expect("held");
        let (inner, _) = held(condvar.0.wait_timeout(inner, timeout));
        guard.0 = Some(inner);
    }
}

#[cfg(feature = "shuttle")]
pub(crate) use modelled::*;
