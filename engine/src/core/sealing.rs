//! Between records and rows: sealing with the engine's keys, opening with them, and what becomes of a row that does
//! not open. It owns the line between damage, which is quarantined, and a wrong keyring, which leaves every row alone.

use super::{Core, stored_idle_end};
use crate::error::{Error, ErrorKind, Result, StoreError, StoreErrorKind};
use crate::record::{OpenError, Record};
use crate::store::Row;
use crate::store::row::Head;
use crate::token::SessionId;

/// Rows looked at when the engine starts, to find out whether it has the right keys.
const SAMPLE: usize = 16;

/// What the row of `record` has besides the sealed record.
pub(super) fn row_head(record: &Record) -> Head<'_> {
    Head {
        version: record.version(),
        expires_at: record.deadline().min(stored_idle_end(record)),
        owner: record.owner(),
    }
}

impl Core {
    /// The row that stores `record` under `id`.
    ///
    /// # Errors
    /// [`StoreErrorKind::Unavailable`] if the operating system gives no random bytes.
    pub(crate) fn row(&self, id: &SessionId, record: &Record) -> Result<Row, StoreError> {
        let Head { version, expires_at, owner } = row_head(record);
        Ok(Row { version, expires_at, owner: owner.map(Into::into), bytes: self.seal(id, record)? })
    }

    /// `record` in its envelope.
    pub(crate) fn seal(&self, id: &SessionId, record: &Record) -> Result<Vec<u8>, StoreError> {
        let Some(ring) = &self.config.keyring else { return Ok(record.seal(id)) };
        record.seal_with(id, ring).map_err(|error| {
            StoreError::new(StoreErrorKind::Unavailable, self.store_name(), "a record could not be sealed")
                .with_source(error)
        })
    }

    /// As [`seal`](Self::seal), behind what `out` holds.
    pub(crate) fn seal_into(
        &self,
        id: &SessionId,
        record: &Record,
        out: &mut Vec<u8>,
    ) -> Result<(), StoreError> {
        if self.config.keyring.is_none() {
            record.seal_into(id, out);
        } else {
            out.extend_from_slice(&self.seal(id, record)?);
        }
        Ok(())
    }

    /// The record in `row`. A damaged one is quarantined, and an [`ErrorKind::Corrupt`]; one that needs a key that the
    /// engine does not have stays as it is, and is an [`ErrorKind::Store`].
    pub(crate) fn open_row(&self, id: &SessionId, row: &Row) -> Result<Record> {
        match self.try_open(id, row) {
            Ok(record) => Ok(record),
            Err(error) if error.is_key() => {
                self.counters.unopened.add(1);
                // Every request for such a session comes here: told ever more rarely.
                let n = self.counters.unopened.get();
                if n.is_power_of_two() {
                    tracing::error!(
                        target: "sessile", %error, n,
                        "the engine has the wrong keys; sessions cannot be opened and are left as they are"
                    );
                }
                Err(StoreError::new(
                    StoreErrorKind::Key,
                    self.store_name(),
                    "a session cannot be opened with the engine's keys",
                )
                .with_source(error)
                .into())
            }
            Err(error) => Err(self.quarantine(id, &error.to_string())),
        }
    }

    /// The record in `row`, without any consequences.
    pub(crate) fn try_open(&self, id: &SessionId, row: &Row) -> Result<Record, OpenError> {
        match &self.config.keyring {
            None => Record::open(id, &row.bytes),
            Some(ring) => Record::open_with(id, row.version, &row.bytes, ring),
        }
    }

    /// Refuses to start with keys that open none of the first few stored sessions.
    ///
    /// A store that cannot list, or cannot now, is not asked: each session is checked when it is read in any case.
    ///
    /// # Errors
    /// [`ErrorKind::Config`].
    pub(crate) async fn check_keys(&self) -> Result<()> {
        let Some(store) = &self.store else { return Ok(()) };
        if !store.capabilities().list {
            return Ok(());
        }
        let Ok(rows) = store.list(None, SAMPLE).await else { return Ok(()) };
        let now = self.clock.now_ms();
        let mut refused = None;
        for listed in rows.iter().filter(|listed| now < listed.row.expires_at) {
            match self.try_open(&listed.id, &listed.row) {
                Err(error) if error.is_key() => refused = Some(error),
                _ => return Ok(()),
            }
        }
        let Some(error) = refused else { return Ok(()) };
        let what = if self.config.keyring.is_some() {
            "the keyring opens none of the sessions in the store"
        } else {
            "the sessions in the store were sealed with a key, and the engine has no keyring"
        };
        Err(Error::new(ErrorKind::Config, what).with_source(error))
    }

    fn store_name(&self) -> &'static str {
        self.store.as_ref().map_or("memory", |store| store.name())
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use std::sync::atomic::Ordering;

    use pollster::block_on;

    use super::*;
    use crate::store::{MemoryStore, Store};
    use crate::{Delivery, Engine, Health, Key, Keyring, Protection};

    /// Without random bytes nothing is written that could share a nonce, and nothing is lost.
    #[test]
    fn what_cannot_be_sealed_waits_and_is_written_later() {
        let ring = Keyring::new(Protection::Encrypt, Key::generate().unwrap());
        let out_of_random = ring.out_of_random.clone();
        let store = MemoryStore::new();
        let engine = Engine::builder().keyring(ring).open(store.clone()).unwrap();
        let session = block_on(engine.session(None)).unwrap();
        session.put("n", &1).unwrap();
        let Delivery::Issue(issue) = block_on(session.commit()).unwrap() else { panic!("a token") };
        block_on(engine.flush()).unwrap();
        let stored = || block_on(store.load(&issue.token.id())).unwrap();
        let before = stored();

        out_of_random.store(true, Ordering::Relaxed);
        session.put("n", &2).unwrap();
        let error = block_on(engine.flush()).unwrap_err();
        assert_eq!(error.store_error().unwrap().kind(), StoreErrorKind::Unavailable);
        assert!(error.is_temporary());
        assert!(matches!(engine.health(), Health::Degraded { .. }));
        assert_eq!(stored(), before);
        let renewing = block_on(engine.session(Some(&issue.token))).unwrap();
        renewing.renew().unwrap();
        let error = block_on(renewing.commit()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Store);
        assert_eq!(session.get::<u64>("n").unwrap(), Some(2));

        out_of_random.store(false, Ordering::Relaxed);
        // The writer may be at a try that still fails.
        while block_on(engine.flush()).is_err() {}
        assert_eq!(engine.health(), Health::Ok);
        let row = stored().expect("under its old id");
        let core = engine.core();
        assert_eq!(core.try_open(&issue.token.id(), &row).unwrap().get("n").unwrap().as_i64(), Some(2));
        assert_eq!(block_on(store.count()).unwrap(), Some(1));
    }
}
