//! A token has one spelling: whatever `Token::parse` accepts, `encode` gives back byte for byte. The same for
//! session ids.

use sessile_engine::{SessionId, Token};

pub(crate) fn run(text: &[u8]) {
    if let Some(token) = Token::parse(text) {
        assert_eq!(token.encode().as_str().as_bytes(), text);
        assert_eq!(Token::parse(text).map(|again| again.id()), Some(token.id()));
    }
    if let Some(id) = std::str::from_utf8(text).ok().and_then(|text| text.parse::<SessionId>().ok()) {
        assert_eq!(id.to_string().as_bytes(), text);
    }
    // The first bytes as a token's characters, so that most inputs have the right length and alphabet.
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    if let Some(head) = text.first_chunk::<43>() {
        let mapped = head.map(|byte| ALPHABET[usize::from(byte & 63)]);
        let canonical = head[42] & 3 == 0;
        let token = Token::parse(&mapped);
        assert_eq!(token.is_some(), canonical);
        if let Some(token) = token {
            assert_eq!(token.encode().as_str().as_bytes(), mapped);
        }
    }
}
