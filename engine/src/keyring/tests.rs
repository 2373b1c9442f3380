//! Tests of keys and rings: ids, texts, and everything that is refused.

use super::*;
use crate::error::ErrorKind;

/// A key of our own making: not random, but like none other.
fn key(n: u8) -> Key {
    Key::from_bytes(&secret(n)).unwrap()
}

fn secret(n: u8) -> [u8; KEY_BYTES] {
    std::array::from_fn(|i| n.wrapping_mul(31).wrapping_add(i as u8))
}

#[test]
fn the_derivation_of_keys_is_pinned() {
    // Computed apart: HMAC-SHA-256 of the labels under the bytes 0, 1, …, 31.
    let key = key(0);
    assert_eq!(key.id(), 0x6a15_110f);
    assert_eq!(
        key.authenticate(b"", b""),
        [0xc6, 0x8c, 0xea, 0xe3, 0x59, 0x06, 0xfd, 0x7e, 0xc4, 0x6b, 0x42, 0xac, 0x12, 0xa0, 0xd0, 0x5c]
    );
    assert_eq!(key.encode().as_str(), "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8");
}

#[test]
fn a_key_survives_its_text_and_no_other_text_is_one() {
    let generated = Key::generate().unwrap();
    let text = generated.encode();
    let again = Key::from_base64url(text.as_str()).unwrap();
    assert!(generated.is(&again));
    assert!(!generated.is(&Key::generate().unwrap()));

    let text = text.as_str();
    let padded = format!("{text}=");
    let spaced = format!(" {text}");
    let standard = format!("+{}", &text[1..]);
    // The two bits behind the 256th must be zero.
    let loose = format!("{}B", &text[..42]);
    for wrong in ["", "secret", &padded, &spaced, &standard, &loose, &text[..42], &text.repeat(2)] {
        let error = Key::from_base64url(wrong).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        for shown in [format!("{error}"), format!("{error:?}")] {
            assert!(wrong.is_empty() || !shown.contains(wrong), "{shown}");
        }
    }
}

#[test]
fn a_buffer_that_nobody_filled_is_no_key() {
    for byte in [0, 1, 0xff] {
        assert_eq!(Key::from_bytes(&[byte; KEY_BYTES]).unwrap_err().kind(), ErrorKind::Config);
    }
    let zero = "A".repeat(43);
    let error = Key::from_base64url(&zero).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(!format!("{error:?}").contains(&zero));
}

#[test]
fn a_ring_refuses_keys_that_contradict_each_other() {
    let refused = |ring: Result<Keyring>, what: &str| {
        let error = ring.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains(what), "{error}");
    };
    let ring = || Keyring::new(Protection::Encrypt, key(1));
    refused(ring().accept(key(1)), "active key");
    refused(ring().accept(key(2)).unwrap().accept(key(2)), "twice");
    let id = key(1).id();
    refused(ring().accept(key(2).with_id(id)), "same id");
    refused(ring().accept(key(2)).unwrap().accept(key(3).with_id(key(2).id())), "same id");

    let ring = ring().accept(key(2)).unwrap().accept(key(3)).unwrap();
    for n in 1..=3 {
        assert!(ring.key(key(n).id()).unwrap().is(&key(n)));
    }
    assert!(ring.key(key(4).id()).is_none());
}

#[test]
fn debug_shows_ids_and_no_byte_of_a_key() {
    let ring = Keyring::new(Protection::Encrypt, key(1)).accept(key(2)).unwrap();
    let builder = crate::Engine::builder().keyring(Keyring::new(Protection::Authenticate, key(1)));
    let shown = format!("{ring:?} {ring:#?} {:?} {:?} {builder:?}", key(1), key(1).encode());
    assert!(shown.contains(&format!("{:08x}", key(1).id())));
    for n in [1, 2] {
        let bytes = secret(n);
        assert!(!shown.contains(key(n).encode().as_str()));
        for run in bytes.windows(3) {
            let decimal = format!("{}, {}, {}", run[0], run[1], run[2]);
            let hex: String = run.iter().map(|b| format!("{b:02x}")).collect();
            assert!(!shown.contains(&decimal) && !shown.contains(&hex), "{shown}");
        }
    }
}

#[test]
fn keys_are_independent_of_each_other_and_of_their_use() {
    let nonce = [0; NONCE_BYTES];
    let (mut a, mut b) = ([0; 64], [0; 64]);
    let tag_a = key(1).encrypt(&nonce, b"x", &mut a).unwrap();
    let tag_b = key(2).encrypt(&nonce, b"x", &mut b).unwrap();
    assert_ne!(a, b);
    assert_ne!(tag_a, tag_b);
    assert_ne!(key(1).authenticate(b"x", &a), key(2).authenticate(b"x", &a));
    // A wrong tag leaves the bytes as they are.
    let before = a;
    assert_eq!(key(2).decrypt(&nonce, b"x", &mut a, &tag_a), Err(WrongTag));
    assert_eq!(key(1).decrypt(&nonce, b"y", &mut a, &tag_a), Err(WrongTag));
    assert_eq!(a, before);
    key(1).decrypt(&nonce, b"x", &mut a, &tag_a).unwrap();
    assert_eq!(a, [0; 64]);
}
