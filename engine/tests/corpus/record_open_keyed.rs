//! Stored bytes under keys are hostile too: `Record::open_with` refuses them, or gives a record that comes out of a
//! second seal and open the same. The first byte of the input says whether the rest is a whole sealed record, or what
//! follows a right header with the id of a key at hand; or a change that is made to a record that opens.

use std::sync::LazyLock;

use sessile_engine::record::{Meta, Record};
use sessile_engine::{Key, Keyring, Protection, SessionId};

const ID: SessionId = SessionId::from_bytes([0x5e; 32]);
/// Magic, version, fingerprint, kind, reserved byte, key id.
const PREFIX: usize = 12;

fn key(n: u8) -> Key {
    Key::from_bytes(&std::array::from_fn(|i| n.wrapping_add(i as u8))).expect("bytes that differ")
}

static RINGS: LazyLock<[Keyring; 2]> = LazyLock::new(|| {
    [Protection::Authenticate, Protection::Encrypt].map(|protection| {
        Keyring::new(protection, key(1)).accept(key(2)).expect("another key").accept_unkeyed(true)
    })
});
static SEALED: LazyLock<[Vec<u8>; 2]> = LazyLock::new(|| {
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
    RINGS.each_ref().map(|ring| Record::empty(&meta).seal_with(&ID, ring).expect("random bytes"))
});

pub(crate) fn run(input: &[u8]) {
    let Some((how, rest)) = input.split_first() else { return };
    let which = usize::from(how & 1);
    let (ring, right) = (&RINGS[which], &SEALED[which]);
    match how >> 1 & 3 {
        0 => open(rest, ring),
        1 => open(&[&right[..PREFIX], rest].concat(), ring),
        // Any other bytes in a part of a right record: never the same record, and never another.
        _ => {
            let mut changed = right.clone();
            for (to, change) in changed.iter_mut().skip(usize::from(how >> 3)).zip(rest) {
                *to ^= change;
            }
            if changed != *right {
                assert!(Record::open_with(&ID, 1, &changed, ring).is_err());
            }
        }
    }
}

fn open(sealed: &[u8], ring: &Keyring) {
    let Ok(record) = Record::open_with(&ID, 1, sealed, ring) else { return };
    let again = record.seal_with(&ID, ring).expect("random bytes");
    let reopened = Record::open_with(&ID, record.version(), &again, ring).expect("what was sealed opens");
    assert_eq!(reopened.seal(&ID), record.seal(&ID));
    let other = SessionId::from_bytes([0x5f; 32]);
    assert!(Record::open_with(&other, record.version(), &again, ring).is_err());
    assert!(Record::open_with(&ID, record.version() ^ 1, &again, ring).is_err());
}
