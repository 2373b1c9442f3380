//! Tests of tokens and ids: one spelling each, nothing leaks, nothing repeats.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

/// What `parse` must mean, from a codec that shares no code with it.
fn reference(text: &[u8]) -> Option<Vec<u8>> {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).ok().filter(|b| b.len() == TOKEN_BYTES)
}

fn check(text: &[u8]) -> Result<(), TestCaseError> {
    let parsed = Token::parse(text);
    prop_assert_eq!(parsed.as_ref().map(|t| t.0.to_vec()), reference(text));
    if let Some(token) = parsed {
        let again = token.encode();
        prop_assert_eq!(again.as_bytes().as_slice(), text);
    }
    Ok(())
}

fn near_alphabet() -> impl Strategy<Value = u8> {
    prop_oneof![
        40 => (0usize..64).prop_map(|i| BASE64URL[i]),
        1 => any::<u8>(),
        1 => prop::sample::select(b"+/=@[`{:,. \0".to_vec()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn parse_accepts_exactly_what_encode_writes(text in prop::collection::vec(near_alphabet(), 43..=43)) {
        check(&text)?;
    }

    #[test]
    fn mutated_tokens(bytes: [u8; 32], mutations in prop::collection::vec((0u8..4, 0usize..44, any::<u8>()), 0..3)) {
        let token = Token::from_bytes(bytes);
        let mut text = token.encode().as_bytes().to_vec();
        prop_assert_eq!(Token::parse(&text).map(|t| t.0), Some(bytes));
        for (how, at, byte) in mutations {
            let at = at.min(text.len().saturating_sub(1));
            match how {
                0 => text[at] = byte,
                1 => text[at] ^= 1 << (byte % 8),
                2 => text.insert(at, byte),
                _ => drop(text.remove(at)),
            }
        }
        check(&text)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn parse_of_anything(text in prop::collection::vec(any::<u8>(), 0..100)) {
        check(&text)?;
    }

    #[test]
    fn an_id_survives_writing_and_reading(bytes: [u8; 32], at in 0usize..64, other: u8) {
        let id = SessionId::from_bytes(bytes);
        let text = id.to_string();
        prop_assert_eq!(text.parse::<SessionId>(), Ok(id));
        let json = serde_json::to_string(&id).unwrap();
        prop_assert_eq!(&json, &format!("\"{text}\""));
        prop_assert_eq!(serde_json::from_str::<SessionId>(&json).unwrap(), id);
        // Whatever is read is written the same way again.
        let mut text = text.into_bytes();
        text[at] = other;
        if let Some(id) = std::str::from_utf8(&text).ok().and_then(|t| t.parse::<SessionId>().ok()) {
            prop_assert_eq!(id.to_string().into_bytes(), text);
        }
    }
}

#[test]
fn one_last_character_in_four_is_canonical() {
    for first in [b'A', b'_'] {
        let accepted: Vec<u8> = BASE64URL
            .iter()
            .copied()
            .filter(|&last| {
                let mut text = [first; 43];
                text[42] = last;
                Token::parse(&text).is_some()
            })
            .collect();
        assert_eq!(accepted, b"AEIMQUYcgkosw048");
    }
}

#[test]
fn every_wrong_character_is_refused_everywhere() {
    let good = Token::from_bytes([0xa5; 32]).encode();
    for at in 0..43 {
        for byte in 0..=255 {
            let mut text = *good.as_bytes();
            text[at] = byte;
            assert_eq!(Token::parse(&text).is_some(), reference(&text).is_some(), "{byte} at {at}");
        }
    }
}

#[test]
fn wrong_lengths_are_refused() {
    let good = Token::from_bytes([7; 32]).encode();
    let text = good.as_bytes();
    assert!(Token::parse(text).is_some());
    for len in 0..43 {
        assert!(Token::parse(&text[..len]).is_none());
    }
    for extra in [&b"A"[..], b"=", b"\0", b"\n", b" ", b"AAAA"] {
        assert!(Token::parse(&[text, extra].concat()).is_none());
        assert!(Token::parse(&[extra, text].concat()).is_none());
    }
    assert!(Token::parse(&vec![b'A'; 1 << 20]).is_none());
    assert!(Token::parse(format!("{}A", "ä".repeat(21)).as_bytes()).is_none());
}

#[test]
fn generated_tokens_are_distinct_and_balanced() {
    const N: usize = 100_000;
    let mut seen = HashSet::with_capacity(N);
    let mut ones = [0usize; 256];
    for _ in 0..N {
        let token = Token::generate().unwrap();
        for (bit, count) in ones.iter_mut().enumerate() {
            *count += usize::from(token.0[bit / 8] >> (bit % 8) & 1);
        }
        assert!(seen.insert(token.0));
    }
    // Seven standard deviations (158 each) of a fair coin: false alarms about once in 10^9 runs.
    for (bit, &count) in ones.iter().enumerate() {
        assert!(count.abs_diff(N / 2) < 1_107, "bit {bit} is set in {count} of {N}");
    }
}

#[test]
fn without_random_bytes_there_is_no_token() {
    let error = Token::generate_with(|_| Err(getrandom::Error::UNSUPPORTED)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Random);
    assert!(std::error::Error::source(&error).is_some());
    let token = Token::generate_with(|bytes| {
        bytes.fill(3);
        Ok(())
    });
    assert_eq!(token.unwrap().0, [3; 32]);
}

#[test]
fn nothing_prints_a_token() {
    for _ in 0..100 {
        let token = Token::generate().unwrap();
        let text = token.encode();
        assert_eq!(format!("{token:?} {token:#?}"), "Token(…) Token(…)");
        assert_eq!(format!("{text:?} {text:#?}"), "EncodedToken(…) EncodedToken(…)");
    }
}

#[test]
fn the_id_is_the_sha256_of_the_bytes() {
    let counted = Token::from_bytes(std::array::from_fn(|i| i as u8));
    // Computed with `printf '%b' "$(printf '\\x%02x' {0..31})" | sha256sum`.
    assert_eq!(counted.id().to_string(), "630dcd2966c4336691125448bbb25b4ff412a49c732db2c8abc1b8581bd710dd");
    // Computed with `head -c 32 /dev/zero | sha256sum`.
    let id = Token::from_bytes([0; 32]).id();
    assert_eq!(id.to_string(), "66687aadf862bd776c8fc18b8e9f8e20089714856ee233b3902a591d0d5f2925");
    assert_eq!(format!("{id:?}"), "SessionId(66687aad…)");
    assert_eq!(id.bucket(), 0x77bd_62f8_ad7a_6866);
    assert_eq!(Token::from_bytes([0; 32]).encode().as_str(), "A".repeat(43));
    assert_eq!(&*Token::from_bytes([255; 32]).encode(), format!("{}8", "_".repeat(42)));
}

#[test]
fn ids_are_read_strictly() {
    let good = "66687aadf862bd776c8fc18b8e9f8e20089714856ee233b3902a591d0d5f2925";
    assert!(good.parse::<SessionId>().is_ok());
    let bad = [String::new(), good.to_uppercase(), format!("{good} "), good[1..].to_owned(), "g".repeat(64)];
    for text in &bad {
        assert_eq!(text.parse::<SessionId>(), Err(ParseSessionIdError(())), "{text:?}");
        assert!(serde_json::from_value::<SessionId>(text.clone().into()).is_err());
    }
}

#[test]
fn dropping_overwrites_the_bytes() {
    let mut token = Token::from_bytes([9; 32]);
    token.0.zeroize();
    assert_eq!(token.0, [0; 32]);
    assert!(std::mem::needs_drop::<Token>() && std::mem::needs_drop::<EncodedToken>());
}
