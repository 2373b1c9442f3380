//! Tests of records.

use super::*;
use crate::token::SessionId;
use crate::value::Encoded;

pub(crate) fn meta() -> Meta {
    Meta {
        version: 1,
        created_at: 1_700_000_000_000,
        last_seen: 1_700_000_000_001,
        deadline: 1_700_086_400_000,
        idle_timeout: None,
        authenticated_at: None,
        persistent: true,
    }
}

#[test]
fn smoke() {
    let limits = Limits::default();
    let mut r = Record::empty(&meta());
    for (k, v) in [
        ("name", "twenty bytes of name"),
        ("role", "operator"),
        ("csrf", "0123456789abcdef0123456789abcdef"),
        ("last_page", "012345678901234567890123456789012345678901234567890123456789"),
    ] {
        r = r.put(&meta(), k, &Encoded::of(v).unwrap(), &limits).unwrap();
    }
    r = r.put(&meta(), "user_id", &Encoded::of(&7_i64).unwrap(), &limits).unwrap();
    assert!(r.byte_len() <= 290, "{}", r.byte_len());
    assert_eq!(r.get("role").unwrap().as_str(), Some("operator"));
    let id = SessionId::from_bytes([7; 32]);
    let sealed = r.seal(&id);
    let back = Record::open(&id, &sealed).unwrap();
    assert_eq!(back.body(), r.body());
    assert_eq!(back.len(), 5);
}
