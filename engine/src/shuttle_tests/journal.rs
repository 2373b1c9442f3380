//! Schedules of the journal: what is acknowledged is found whatever a checkpoint does meanwhile, and the states of a
//! session are in the journal in their order, whoever of the writer and the requests puts them there.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use shuttle::future::block_on;
use shuttle::thread;

use super::{Writer, check, commit_new, open};
use crate::journal::{Disk, Journaled, Segment, Sizes};
use crate::record::Record;
use crate::store::{Change, MemoryStore, Row, Store};
use crate::{Durability, Engine, SessionId};

/// Files that no schedule can tear: each call is one step.
#[derive(Clone, Default)]
struct MemoryDisk(Arc<Mutex<BTreeMap<u32, Arc<MemoryFile>>>>);

#[derive(Default)]
struct MemoryFile(Mutex<Vec<u8>>);

fn held<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Disk for MemoryDisk {
    fn segments(&self) -> io::Result<Vec<u32>> {
        Ok(held(&self.0).keys().copied().collect())
    }

    fn create(&self, number: u32) -> io::Result<Arc<dyn Segment>> {
        let file = Arc::new(MemoryFile::default());
        held(&self.0).insert(number, Arc::clone(&file));
        Ok(file)
    }

    fn open(&self, number: u32) -> io::Result<Arc<dyn Segment>> {
        match held(&self.0).get(&number) {
            Some(file) => Ok(Arc::clone(file) as Arc<dyn Segment>),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn remove(&self, number: u32) -> io::Result<()> {
        held(&self.0).remove(&number).map(drop).ok_or(io::ErrorKind::NotFound.into())
    }

    fn set_aside(&self, number: u32) -> io::Result<()> {
        self.remove(number)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn check(&self, _: u32, _: &dyn Segment) -> Result<(), crate::StoreError> {
        Ok(())
    }

    fn release(&self) {}
}

impl Segment for MemoryFile {
    fn len(&self) -> io::Result<u64> {
        Ok(held(&self.0).len() as u64)
    }

    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        let bytes = held(&self.0);
        let at = usize::try_from(at).expect("small");
        buffer.copy_from_slice(bytes.get(at..at + buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, at: u64, new: &[u8]) -> io::Result<()> {
        let mut bytes = held(&self.0);
        let at = usize::try_from(at).expect("small");
        let end = bytes.len().max(at + new.len());
        bytes.resize(end, 0);
        bytes[at..at + new.len()].copy_from_slice(new);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        held(&self.0).truncate(usize::try_from(len).expect("small"));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

const SIZES: Sizes = Sizes { segment_bytes: 400, bytes: 1 << 20, items: 1000, chunk: 1000 };

fn journaled(rows: &MemoryStore) -> Arc<Journaled> {
    let disk = Box::new(MemoryDisk::default());
    Arc::new(Journaled::on_disk(disk, Arc::new(rows.clone()), SIZES).expect("opens"))
}

fn load(journal: &Journaled, id: &SessionId) -> Option<Row> {
    block_on(Store::load(journal, id)).expect("loads")
}

#[test]
fn shuttle_a_checkpoint_hides_and_revives_nothing() {
    check(|| {
        let journal = journaled(&MemoryStore::new());
        let id = SessionId::from_bytes([7; 32]);
        let row = |version| Row { version, expires_at: u64::MAX, owner: None, bytes: vec![1] };
        // The latest state that was begun and that was acknowledged: 1 and 2 are versions, 3 is the deletion.
        let (begun, done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let writing = {
            let (journal, begun, done) = (journal.clone(), begun.clone(), done.clone());
            thread::spawn(move || {
                for state in 1..=3 {
                    begun.store(state, Ordering::SeqCst);
                    let change =
                        if state == 3 { Change::Delete { id } } else { Change::Put { id, row: row(state) } };
                    journal.write(1, &[change]).expect("writes");
                    done.store(state, Ordering::SeqCst);
                }
            })
        };
        let carrying = {
            let journal = journal.clone();
            thread::spawn(move || {
                for _ in 0..2 {
                    journal.checkpoint().expect("hands on");
                }
            })
        };
        for _ in 0..3 {
            let before = done.load(Ordering::SeqCst);
            let found = load(&journal, &id).map(|row| row.version);
            let after = begun.load(Ordering::SeqCst);
            let fine = match found {
                Some(version) => (before..=after).contains(&version),
                None => before == 0 || after == 3,
            };
            assert!(fine, "found {found:?} between {before} and {after}");
        }
        writing.join().expect("writes");
        carrying.join().expect("hands on");
        assert!(load(&journal, &id).is_none());
        journal.checkpoint().expect("hands on");
        assert!(load(&journal, &id).is_none());
    });
}

fn engine(journal: &Arc<Journaled>) -> Engine {
    let level = Durability::process_crash();
    Engine::builder().manual().durability(level).open_journaled(journal.clone()).expect("opens")
}

#[test]
fn shuttle_what_was_answered_is_in_the_journal() {
    check(|| {
        let journal = journaled(&MemoryStore::new());
        let engine = engine(&journal);
        let session = block_on(engine.session(None)).expect("begins");
        session.put("n", &0_u32).expect("puts");
        let writer = Writer::start(&engine);
        let token = commit_new(&session);
        let requests: Vec<_> = ["a", "b"]
            .into_iter()
            .map(|key| {
                let (engine, token, journal) = (engine.clone(), token.clone(), journal.clone());
                thread::spawn(move || {
                    let session = open(&engine, &token);
                    session.put(key, &1_u32).expect("puts");
                    block_on(session.commit()).expect("commits");
                    // What a process would find that starts now.
                    let row = load(&journal, &token.id()).expect("it is there");
                    let record = Record::open(&token.id(), &row.bytes).expect("it is intact");
                    assert!(record.get(key).is_some(), "{key} was answered and is not in the journal");
                })
            })
            .collect();
        for request in requests {
            request.join().expect("a request");
        }
        writer.finish(&engine);
        let row = load(&journal, &token.id()).expect("it is there");
        let record = Record::open(&token.id(), &row.bytes).expect("it is intact");
        assert_eq!(record.keys().count(), 3, "an older state came last");
    });
}

#[test]
fn shuttle_a_logout_is_the_last_word_in_the_journal() {
    check(|| {
        let journal = journaled(&MemoryStore::new());
        let engine = engine(&journal);
        let session = block_on(engine.session(None)).expect("begins");
        session.put("n", &0_u32).expect("puts");
        let writer = Writer::start(&engine);
        let token = commit_new(&session);
        let writing = {
            let (engine, token) = (engine.clone(), token.clone());
            thread::spawn(move || {
                let session = open(&engine, &token);
                if session.put("late", &1_u32).is_ok() {
                    block_on(session.commit()).expect("commits");
                }
            })
        };
        let leaving = open(&engine, &token);
        leaving.destroy().expect("destroys");
        block_on(leaving.commit()).expect("commits");
        assert!(load(&journal, &token.id()).is_none(), "the logout was answered");
        writing.join().expect("a request");
        writer.finish(&engine);
        assert!(load(&journal, &token.id()).is_none(), "a late write brought it back");
    });
}
