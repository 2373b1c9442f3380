//! Rows T2, T3 and T5: what a token is, and what happens to a string that is none. T1 and T6 need the inside of
//! the engine, T4, T7 and T8 are in `quiet.rs`.

use std::collections::HashSet;
use std::fmt::Display;
use std::hash::Hash;
use std::marker::PhantomData;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderValue;
use http::header::COOKIE;
use sessile::engine::store::MemoryStore;
use sessile::engine::store::fault::FaultOp;
use sessile::{Engine, SessionLayer, Token};
use sessile_tests::Rng;

use crate::support::*;

#[tokio::test]
async fn t2_a_cookie_is_32_random_bytes_and_nothing_else() {
    let layer = memory();
    let mut tokens = Vec::new();
    for i in 0..300 {
        let cookie = match i % 3 {
            0 => begin(&layer, "a").await,
            1 => begin(&layer, &"long".repeat(1000)).await,
            _ => login(&layer, "", "user:42").await,
        };
        let value = cookie.strip_prefix("session=").unwrap();
        assert_eq!(value.len(), 43);
        let bytes: [u8; 32] = URL_SAFE_NO_PAD.decode(value).unwrap().try_into().unwrap();
        tokens.push(bytes);
    }
    assert_eq!(tokens.iter().collect::<HashSet<_>>().len(), tokens.len());
    // Of 300 random bytes at one place 177 are different on average; below 120 is as good as impossible. A
    // version, a time, a counter or a kind in any place would show here.
    for place in 0..32 {
        let values: HashSet<u8> = tokens.iter().map(|t| t[place]).collect();
        assert!(values.len() > 120, "byte {place} has {} values", values.len());
    }
}

#[tokio::test]
async fn t3_what_is_no_token_reaches_no_store() {
    let (engine, orders) = over(Engine::builder(), &MemoryStore::new());
    let layer = SessionLayer::new(engine.clone());
    let good = begin(&layer, "v").await;
    let good = good.strip_prefix("session=").unwrap();
    let mut bad: Vec<Vec<u8>> = [
        "",
        "0",
        "null",
        "../../etc/passwd",
        "' OR 1=1 --",
        "*",
        "session",
        "%41%41",
        "\"\"",
        &good[..42],
        &format!("{good}A"),
        &format!("{good}="),
        &format!("\"{good}\""),
        &format!("{good}%00"),
        &good.repeat(2),
        &"A".repeat(15_000),
        &"A".repeat(1 << 20),
        &format!("{}B", &"A".repeat(42)),
        &format!("+{}", &good[1..]),
        &format!("/{}", &good[1..]),
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec();
    let mut rng = Rng::announced("t3_what_is_no_token_reaches_no_store");
    for _ in 0..5_000 {
        let mut text = good.as_bytes().to_vec();
        if rng.index(2) == 0 {
            // One wrong byte somewhere in a good token.
            text[rng.index(43)] = [b'+', b'/', b'=', b'.', b' ', b'\t', 0x80, 0xff][rng.index(8)];
        } else {
            text = (0..rng.index(90)).map(|_| 0x21 + u8::try_from(rng.index(0xde)).unwrap()).collect();
        }
        bad.push(text);
    }
    let mut asked = 0;
    for text in &bad {
        let line = [b"session=".as_slice(), text].concat();
        let Ok(line) = HeaderValue::from_bytes(&line) else { continue };
        let presented = text.split(|&b| b == b';').next().unwrap_or_default();
        if Token::parse(presented.trim_ascii()).is_some() {
            continue;
        }
        asked += 1;
        let mut request = request(&[]);
        request.headers_mut().insert(COOKIE, line);
        let response = send(&layer, request, async |s| {
            assert!(s.is_new());
            ok()
        })
        .await;
        assert_eq!(set(&response).len(), 0);
    }
    assert!(asked > 4_000, "{asked}");
    assert_eq!(orders.calls(FaultOp::Load), 0, "no store was asked");
    assert!(!alive(&layer, &stranger()).await);
    assert_eq!(orders.calls(FaultOp::Load), 1, "a store is asked for what is a token");
}

/// Whether `T` has a trait, asked at compile time and answered at run time: the inherent constant, which is there
/// only if the bound holds, goes before the trait's.
struct Has<T>(PhantomData<T>);

trait Otherwise {
    const EQ: bool = false;
    const ORD: bool = false;
    const HASH: bool = false;
    const DISPLAY: bool = false;
}

impl<T> Otherwise for Has<T> {}

macro_rules! has {
    ($($name:ident: $bound:path),*) => {
        $(impl<T: $bound> Has<T> {
            const $name: bool = true;
        })*
    };
}

has!(EQ: PartialEq, ORD: PartialOrd, HASH: Hash, DISPLAY: Display);

#[test]
fn t5_tokens_are_found_by_hash_and_never_compared() {
    // The attacker's input is hashed before anything is compared, so that no timing tells how near a guess was.
    // What must not exist is a way to compare tokens themselves.
    let token = [Has::<Token>::EQ, Has::<Token>::ORD, Has::<Token>::HASH, Has::<Token>::DISPLAY];
    assert_eq!(token, [false; 4]);
    let id = [
        Has::<sessile::SessionId>::EQ,
        Has::<sessile::SessionId>::ORD,
        Has::<sessile::SessionId>::HASH,
        Has::<sessile::SessionId>::DISPLAY,
    ];
    assert_eq!(id, [true; 4], "this test would see them");
}
