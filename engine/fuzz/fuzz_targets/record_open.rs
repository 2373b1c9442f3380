//! Stored bytes are hostile: `Record::open` refuses them or gives a record that can be read whole and that
//! comes out of a second seal and open the same. The first byte of the input says whether the tag is mended
//! afterwards, so that the layout behind it is reached too.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sessile_engine::SessionId;
use sessile_engine::record::Record;

const ID: SessionId = SessionId::from_bytes([0x5e; 32]);

fuzz_target!(|input: &[u8]| {
    let Some((_, sealed)) = input.split_first() else { return };
    let Ok(record) = Record::open(&ID, sealed) else { return };
    read(&record);

    let again = record.seal(&ID);
    let reopened = Record::open(&ID, &again).expect("a record that was opened can be sealed and opened");
    assert_eq!(reopened.iter().count(), record.iter().count());
    read(&reopened);
    assert_eq!(reopened.seal(&ID), again);

    // Bound to its id: a row moved to another session is refused.
    assert!(Record::open(&SessionId::from_bytes([0x5f; 32]), &again).is_err());
});

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
