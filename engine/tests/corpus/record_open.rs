//! Stored bytes are hostile: `Record::open` refuses them or gives a record that can be read whole and that
//! comes out of a second seal and open the same. The first byte of the input says whether the rest is a whole
//! sealed record, or a body that gets a right header and tag, so that the checks behind the tag are reached too.

use sessile_engine::SessionId;
use sessile_engine::record::{Meta, Record};
use xxhash_rust::xxh3::Xxh3;

const ID: SessionId = SessionId::from_bytes([0x5e; 32]);

pub(crate) fn run(input: &[u8]) {
    let Some((how, rest)) = input.split_first() else { return };
    let sealed = if how & 1 == 0 { rest.to_vec() } else { with_right_tag(rest) };
    let Ok(record) = Record::open(&ID, &sealed) else { return };
    read(&record);

    let again = record.seal(&ID);
    let reopened = Record::open(&ID, &again).expect("a record that was opened can be sealed and opened");
    assert_eq!(reopened.iter().count(), record.iter().count());
    read(&reopened);
    assert_eq!(reopened.seal(&ID), again);

    // Bound to its id: a row moved to another session is refused.
    assert!(Record::open(&SessionId::from_bytes([0x5f; 32]), &again).is_err());
}

/// `body` under the header that a sealed record of this build has, with the tag that belongs to it.
fn with_right_tag(body: &[u8]) -> Vec<u8> {
    const BEFORE_TAG: usize = 8;
    let meta = Meta {
        version: 1,
        created_at: 1,
        last_seen: 1,
        deadline: 2,
        idle_timeout: None,
        authenticated_at: None,
        issued_at: 1,
        persistent: true,
        anonymous_idle: false,
    };
    let mut sealed = Record::empty(&meta).seal(&ID);
    sealed.truncate(BEFORE_TAG);
    let mut hasher = Xxh3::new();
    hasher.update(ID.as_bytes());
    hasher.update(&sealed);
    hasher.update(body);
    sealed.extend_from_slice(&hasher.digest().to_le_bytes());
    sealed.extend_from_slice(body);
    sealed
}

fn read(record: &Record) {
    let mut previous: Option<String> = None;
    for (key, value) in record.iter() {
        // Keys are sorted and unique, and each is found by its name.
        assert!(previous.as_deref().is_none_or(|previous| previous < key));
        previous = Some(key.to_owned());
        assert!(record.get(key).is_some());
        // Walks the whole tree of the value.
        let _ = format!("{value:?}");
    }
}
