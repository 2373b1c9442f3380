//! Tests of the envelopes with a key: what they bind, what they refuse, and their bytes.

use std::collections::HashSet;
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::keyring::{Key, Keyring, Protection};
use crate::record::layout::{COMMON_LEN, KIND_HMAC_SHA256, KIND_XCHACHA20POLY1305, KIND_XXH3};

const BOTH: [Protection; 2] = [Protection::Authenticate, Protection::Encrypt];

fn key(n: u8) -> Key {
    Key::from_bytes(&std::array::from_fn(|i| n.wrapping_mul(31).wrapping_add(i as u8))).unwrap()
}

fn ring(protection: Protection, n: u8) -> Keyring {
    Keyring::new(protection, key(n))
}

fn open(ring: &Keyring, sealed: &[u8]) -> Result<Record, OpenError> {
    Record::open_with(&ID, meta().version, sealed, ring)
}

#[test]
fn records_come_back_the_same() {
    for protection in BOTH {
        let ring = ring(protection, 1);
        for record in samples() {
            let opened = open(&ring, &record.seal_with(&ID, &ring).unwrap()).unwrap();
            assert_eq!(opened.body(), record.body());
            assert_eq!(opened.body().as_ptr().addr() % BODY_ALIGN, 0);
            exercise(&opened);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_record_comes_back_under_its_own_id_version_and_key(
        entries in prop::collection::btree_map("[a-z]{1,12}", any_value(), 0..6),
        id: [u8; 32],
        version: u64,
        encrypt: bool,
    ) {
        let ring = ring(if encrypt { Protection::Encrypt } else { Protection::Authenticate }, 1);
        let id = SessionId::from_bytes(id);
        let mut record = Record::empty(&meta());
        for (key, value) in &entries {
            record = put(&record, key, value.clone());
        }
        let record = record.with_meta(&Meta { version, ..meta() });
        let sealed = record.seal_with(&id, &ring).unwrap();
        let opened = Record::open_with(&id, version, &sealed, &ring).unwrap();
        prop_assert_eq!(opened.body(), record.body());

        let mut other = *id.as_bytes();
        other[usize::from(other[0] % 32)] ^= 1;
        let other = SessionId::from_bytes(other);
        prop_assert_eq!(Record::open_with(&other, version, &sealed, &ring).err(), Some(OpenError::Tag));
        for wrong in [version.wrapping_sub(1), version.wrapping_add(1), version ^ (1 << 63)] {
            prop_assert_eq!(Record::open_with(&id, wrong, &sealed, &ring).err(), Some(OpenError::Tag));
        }
    }

    #[test]
    fn random_bytes_never_panic_and_are_refused(mut bytes: Vec<u8>, kind in 0_u8..4) {
        let ring = ring(Protection::Encrypt, 1).accept_unkeyed(true);
        prop_assert!(open(&ring, &bytes).is_err());
        // Under a right header, key id included.
        let mut sealed = seal::common(kind).to_vec();
        sealed.extend_from_slice(&key(1).id().to_le_bytes());
        sealed.append(&mut bytes);
        prop_assert!(open(&ring, &sealed).is_err());
    }
}

#[test]
fn every_flipped_bit_is_refused() {
    for protection in BOTH {
        let ring = ring(protection, 1).accept_unkeyed(true);
        let record = five_keys();
        let mut sealed = record.seal_with(&ID, &ring).unwrap();
        for bit in 0..sealed.len() * 8 {
            sealed[bit / 8] ^= 1 << (bit % 8);
            let error = open(&ring, &sealed).expect_err("a changed record");
            // Only the key id tells of a key that is not at hand.
            let in_key_id = (COMMON_LEN * 8..COMMON_LEN * 8 + 32).contains(&bit);
            assert_eq!(error.is_key(), in_key_id, "bit {bit}: {error}");
            sealed[bit / 8] ^= 1 << (bit % 8);
        }
        assert_eq!(open(&ring, &sealed).unwrap().body(), record.body());
        for len in 0..sealed.len() {
            assert!(!open(&ring, &sealed[..len]).expect_err("a cut record").is_key(), "{len}");
        }
        sealed.push(0);
        assert_eq!(open(&ring, &sealed).err(), Some(OpenError::Tag));
    }
}

#[test]
fn what_one_key_sealed_no_other_opens() {
    for protection in BOTH {
        let sealed = five_keys().seal_with(&ID, &ring(protection, 1)).unwrap();
        let unknown = Some(OpenError::UnknownKey { key_id: key(1).id() });
        assert_eq!(open(&ring(protection, 2), &sealed).err(), unknown);
        assert_eq!(Record::open(&ID, &sealed).err(), unknown);
        // Another key that claims the id: the tag is wrong.
        let thief = Keyring::new(protection, key(2).with_id(key(1).id()));
        assert_eq!(open(&thief, &sealed).err(), Some(OpenError::Tag));
        // Retired, it opens, whatever the ring does for new records.
        for new in BOTH {
            let rotated = ring(new, 2).accept(key(1)).unwrap();
            assert_eq!(open(&rotated, &sealed).unwrap().body(), five_keys().body());
            assert!(!is_current(&sealed, &rotated));
        }
        assert!(is_current(&sealed, &ring(protection, 1)));
        for other in BOTH {
            assert_eq!(is_current(&sealed, &ring(other, 1)), other == protection);
        }
    }
}

#[test]
fn records_without_a_key_open_only_where_that_is_said() {
    let sealed = five_keys().seal(&ID);
    for protection in BOTH {
        let ring = ring(protection, 1);
        assert_eq!(open(&ring, &sealed).err(), Some(OpenError::Unkeyed));
        let ring = ring.accept_unkeyed(true);
        assert_eq!(open(&ring, &sealed).unwrap().body(), five_keys().body());
        assert!(!is_current(&sealed, &ring));
        let mut damaged = sealed.clone();
        *damaged.last_mut().unwrap() ^= 1;
        assert_eq!(open(&ring, &damaged).err(), Some(OpenError::Tag));
    }
}

#[test]
fn a_record_is_not_taken_for_one_of_another_kind() {
    let kinds = [KIND_XXH3, KIND_XCHACHA20POLY1305, KIND_HMAC_SHA256, 3, 255];
    let ring = ring(Protection::Encrypt, 1).accept_unkeyed(true);
    for protection in BOTH {
        let sealed = five_keys().seal_with(&ID, &self::ring(protection, 1)).unwrap();
        for kind in kinds.into_iter().filter(|kind| *kind != sealed[KIND_AT]) {
            let mut changed = sealed.clone();
            changed[KIND_AT] = kind;
            let error = open(&ring, &changed).unwrap_err();
            assert_eq!(error, if kind > 2 { OpenError::Layout } else { OpenError::Tag });
        }
    }
}

#[test]
fn an_encrypted_record_shows_nothing_of_its_body() {
    let record = put(&all_kinds(), "secret", "a-value-to-be-looked-for");
    let holds = |sealed: &[u8], what: &str| sealed.windows(what.len()).any(|w| w == what.as_bytes());
    let encrypted = record.seal_with(&ID, &ring(Protection::Encrypt, 1)).unwrap();
    let authenticated = record.seal_with(&ID, &ring(Protection::Authenticate, 1)).unwrap();
    for what in ["a-value-to-be-looked-for", "secret", "user:42", "timestamp"] {
        assert!(!holds(&encrypted, what), "{what}");
        assert!(holds(&authenticated, what), "{what}");
    }
}

/// No two of many seals of one record share a nonce, or a ciphertext.
#[test]
fn no_nonce_is_used_twice() {
    let ring = ring(Protection::Encrypt, 1);
    let record = Record::empty(&meta());
    let mut nonces = HashSet::new();
    let mut tags = HashSet::new();
    for _ in 0..100_000 {
        let sealed = record.seal_with(&ID, &ring).unwrap();
        assert!(nonces.insert(<[u8; 24]>::try_from(&sealed[12..36]).unwrap()));
        assert!(tags.insert(<[u8; 16]>::try_from(&sealed[36..52]).unwrap()));
    }
}

/// Set `SESSILE_BLESS` to write the files anew: only for a new format version, under new names.
#[test]
fn the_golden_files_pin_the_keyed_envelopes() {
    let nonce = std::array::from_fn(|i| 0x40 + i as u8);
    let record = all_kinds();
    for (name, sealed) in [
        ("record-v1-encrypted.bin", record.seal_encrypted(&ID, &key(0), &nonce).unwrap()),
        ("record-v1-authenticated.bin", record.seal_with(&ID, &ring(Protection::Authenticate, 0)).unwrap()),
    ] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
        if std::env::var_os("SESSILE_BLESS").is_some() {
            std::fs::write(&path, &sealed).unwrap();
        }
        let golden = std::fs::read(&path).unwrap();
        assert_eq!(sealed, golden, "the format changed without a new version: {name}");
        let opened = open(&ring(Protection::Encrypt, 0), &golden).unwrap();
        assert_eq!(opened.body(), record.body());
    }
}
