//! Typed keys: a name and a type that belong together, as a constant. They hold no value and forward every call.

use std::borrow::{Borrow, Cow};
use std::fmt;
use std::marker::PhantomData;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Session, Snapshot, Transaction};
use crate::error::{Error, ErrorKind, Result};
use crate::value::{Archivable, ValueRef, archived, decode};

/// What begins so belongs to sessile.
const RESERVED: &str = "sessile.";
/// The default limit of a key, and the longest name of a typed one.
const MAX_NAME: usize = 256;

/// Whether sessile keeps its own values under `key`.
pub(super) const fn is_reserved(key: &str) -> bool {
    let (key, reserved) = (key.as_bytes(), RESERVED.as_bytes());
    let mut at = 0;
    while at < reserved.len() {
        if at == key.len() || key[at] != reserved[at] {
            return false;
        }
        at += 1;
    }
    true
}

/// A key with the type of its value.
///
/// Declared once, as a constant, it keeps every use of a key to one name and one type; the name is checked when the
/// constant is compiled. Methods with `_in` work inside a [`Transaction`]; those that only read also work on a
/// [`Snapshot`]. The value is the same as under [`Session::put`] with the name.
///
/// # Examples
/// ```
/// # pollster::block_on(async {
/// use sessile_engine::SessionKey;
///
/// const CART: SessionKey<Vec<String>> = SessionKey::new("cart");
/// const VISITS: SessionKey<u32> = SessionKey::new("visits");
///
/// # let engine = sessile_engine::Engine::builder().in_memory()?;
/// # let session = engine.session(None).await?;
/// CART.put(&session, &vec!["apple".to_owned()])?;
/// VISITS.update(&session, |n| n.unwrap_or(0) + 1)?;
/// session.transact(|tx| {
///     let mut cart = CART.get_in(tx)?.unwrap_or_default();
///     cart.push("pear".to_owned());
///     CART.put_in(tx, &cart)
/// })?;
/// assert_eq!(CART.pop(&session)?, Some(vec!["apple".to_owned(), "pear".to_owned()]));
/// # Ok::<(), sessile_engine::Error>(()) }).unwrap();
/// ```
///
/// A bad name does not compile:
/// ```compile_fail
/// const EMPTY: sessile_engine::SessionKey<u32> = sessile_engine::SessionKey::new("");
/// ```
pub struct SessionKey<T> {
    namespace: &'static str,
    name: &'static str,
    of: PhantomData<fn() -> T>,
}

impl<T> SessionKey<T> {
    /// The key called `name`.
    ///
    /// # Panics
    /// If the name is empty, has more than 256 bytes, or begins with `sessile.`: in a constant, while it is
    /// compiled.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        assert!(!name.is_empty(), "a session key must not be empty");
        assert!(name.len() <= MAX_NAME, "a session key has at most 256 bytes");
        assert!(!is_reserved(name), "session keys that begin with `sessile.` are reserved");
        Self { namespace: "", name, of: PhantomData }
    }

    /// The key's whole name.
    #[must_use]
    pub fn name(&self) -> Cow<'static, str> {
        if self.namespace.is_empty() {
            return Cow::Borrowed(self.name);
        }
        Cow::Owned([self.namespace, ".", self.name].concat())
    }

    /// As [`Session::get`].
    ///
    /// # Errors
    /// As there.
    pub fn get(&self, session: &Session) -> Result<Option<T>>
    where
        T: DeserializeOwned,
    {
        session.get(&self.name())
    }

    /// As [`Session::get_or`].
    ///
    /// # Errors
    /// As there.
    pub fn get_or(&self, session: &Session, default: T) -> Result<T>
    where
        T: DeserializeOwned,
    {
        session.get_or(&self.name(), default)
    }

    /// As [`Session::get_or_default`].
    ///
    /// # Errors
    /// As there.
    pub fn get_or_default(&self, session: &Session) -> Result<T>
    where
        T: DeserializeOwned + Default,
    {
        session.get_or_default(&self.name())
    }

    /// As [`Session::put`]. Takes what `T` can be borrowed as, too: a `&str` for a `SessionKey<String>`.
    ///
    /// # Errors
    /// As there.
    pub fn put<Q: Serialize + ?Sized>(&self, session: &Session, value: &Q) -> Result<()>
    where
        T: Borrow<Q>,
    {
        session.put(&self.name(), value)
    }

    /// As [`Session::pop`].
    ///
    /// # Errors
    /// As there.
    pub fn pop(&self, session: &Session) -> Result<Option<T>>
    where
        T: DeserializeOwned,
    {
        session.pop(&self.name())
    }

    /// As [`Session::update`].
    ///
    /// # Errors
    /// As there.
    pub fn update(&self, session: &Session, f: impl FnMut(Option<T>) -> T) -> Result<T>
    where
        T: Serialize + DeserializeOwned,
    {
        session.update(&self.name(), f)
    }

    /// As [`Session::remove`].
    ///
    /// # Errors
    /// As there.
    pub fn remove(&self, session: &Session) -> Result<bool> {
        session.remove(&self.name())
    }

    /// As [`Session::exists`].
    #[must_use]
    pub fn exists(&self, session: &Session) -> bool {
        session.exists(&self.name())
    }

    /// As [`Session::put_archived`]; [`archived_in`](Self::archived_in) reads it.
    ///
    /// # Errors
    /// As there.
    pub fn put_archived(&self, session: &Session, value: &T) -> Result<()>
    where
        T: Archivable,
    {
        session.put_archived(&self.name(), value)
    }

    /// The value in a snapshot or transaction; strings and bytes may be borrowed.
    ///
    /// # Errors
    /// As [`Snapshot::get`].
    pub fn get_in<'a, V: View>(&self, view: &'a V) -> Result<Option<T>>
    where
        T: Deserialize<'a>,
    {
        let name = self.name();
        view.value_of(&name).map(decode).transpose().map_err(|e| e.with_key(&name))
    }

    /// Whether there is a value in a snapshot or transaction.
    #[must_use]
    pub fn exists_in<V: View>(&self, view: &V) -> bool {
        view.value_of(&self.name()).is_some()
    }

    /// The archive in a snapshot or transaction, read in place.
    ///
    /// # Errors
    /// As [`Snapshot::archived`].
    pub fn archived_in<'a, V: View>(&self, view: &'a V) -> Result<Option<&'a T::Archived>>
    where
        T: Archivable,
    {
        let name = self.name();
        archived_at::<T>(view.value_of(&name), &name)
    }

    /// As [`Transaction::put`].
    ///
    /// # Errors
    /// As there.
    pub fn put_in<Q: Serialize + ?Sized>(&self, tx: &mut Transaction, value: &Q) -> Result<()>
    where
        T: Borrow<Q>,
    {
        tx.put(&self.name(), value)
    }

    /// As [`Transaction::pop`].
    ///
    /// # Errors
    /// As there.
    pub fn pop_in(&self, tx: &mut Transaction) -> Result<Option<T>>
    where
        T: DeserializeOwned,
    {
        tx.pop(&self.name())
    }

    /// As [`Transaction::remove`].
    pub fn remove_in(&self, tx: &mut Transaction) -> bool {
        tx.remove(&self.name())
    }
}

impl<T> Clone for SessionKey<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for SessionKey<T> {}

impl<T> fmt::Debug for SessionKey<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionKey<{}>({:?})", std::any::type_name::<T>(), self.name())
    }
}

/// A prefix for the keys of a library, so that they meet nobody else's.
///
/// # Examples
/// ```
/// use sessile_engine::{Namespace, SessionKey};
///
/// const OAUTH: Namespace = Namespace::new("acme-oauth");
/// const STATE: SessionKey<String> = OAUTH.key("state");
/// assert_eq!(STATE.name(), "acme-oauth.state");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Namespace(&'static str);

impl Namespace {
    /// The namespace called `name`. Its keys are called `name.key`.
    ///
    /// # Panics
    /// If the name is empty, or `sessile` or begins with `sessile.`: in a constant, while it is compiled.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        assert!(!name.is_empty(), "a namespace must not be empty");
        let own = is_reserved(name) || (name.len() + 1 == RESERVED.len() && starts_reserved(name));
        assert!(!own, "the namespace `sessile` is reserved");
        Self(name)
    }

    /// The key `name` in this namespace.
    ///
    /// # Panics
    /// If the name is empty, or has more than 256 bytes together with the namespace: in a constant, while it is
    /// compiled.
    #[must_use]
    pub const fn key<T>(self, name: &'static str) -> SessionKey<T> {
        assert!(!name.is_empty(), "a session key must not be empty");
        assert!(self.0.len() + 1 + name.len() <= MAX_NAME, "a session key has at most 256 bytes");
        SessionKey { namespace: self.0, name, of: PhantomData }
    }
}

/// Whether `name`, which is one byte shorter, is the reserved prefix without its dot.
const fn starts_reserved(name: &str) -> bool {
    let (name, reserved) = (name.as_bytes(), RESERVED.as_bytes());
    let mut at = 0;
    while at < name.len() {
        if name[at] != reserved[at] {
            return false;
        }
        at += 1;
    }
    true
}

/// What typed keys can be read from: [`Snapshot`] and [`Transaction`].
pub trait View: sealed::Sealed {
    /// The value under `key`, read in place.
    fn value_of(&self, key: &str) -> Option<ValueRef<'_>>;
}

impl View for Snapshot {
    fn value_of(&self, key: &str) -> Option<ValueRef<'_>> {
        self.value(key)
    }
}

impl View for Transaction {
    fn value_of(&self, key: &str) -> Option<ValueRef<'_>> {
        self.value(key)
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Snapshot {}
    impl Sealed for super::Transaction {}
}

/// `value`, which was found under `key`, as an archive.
pub(super) fn archived_at<'a, T: Archivable>(
    value: Option<ValueRef<'a>>,
    key: &str,
) -> Result<Option<&'a T::Archived>> {
    let archive = match value {
        None => return Ok(None),
        Some(ValueRef::Archived(bytes)) => archived::read::<T>(bytes),
        Some(other) => {
            Err(Error::new(ErrorKind::TypeMismatch, format!("wanted an archive, found {}", other.kind())))
        }
    };
    archive.map(Some).map_err(|e| e.with_key(key))
}
