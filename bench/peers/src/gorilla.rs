//! gorilla/sessions' way in Rust: the whole session is a signed cookie, decoded when it is asked for and encoded anew
//! when it changed. It tells how much of gorilla's figures is the way and how much is Go. Not a library.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use http::HeaderValue;
use http::header::{COOKIE, SET_COOKIE};
use serde_json::Value;
use sha2::Sha256;

use crate::subject::{Drive, Req, Resp, Subject, Tower, count, popped, respond};
use crate::work::{CSRF, FLASH, NAME, ROLE, Work, more_keys, page};

const COOKIE_NAME: &str = "session=";
const KEY: &[u8; 32] = b"a key of thirty-two bytes, fixed";

type Data = HashMap<String, Value>;

pub fn subject() -> Box<dyn Subject> {
    let make = |work| tower::service_fn(move |request: Req| async move { Ok(handle(work, request).await) });
    Box::new(Tower::new("signed cookie, gorilla's way", Drive::Poll, make).client_side())
}

fn tag(date: &str, payload: &str) -> Option<[u8; 32]> {
    let mut mac = Hmac::<Sha256>::new_from_slice(KEY).ok()?;
    mac.update(COOKIE_NAME.as_bytes());
    mac.update(date.as_bytes());
    mac.update(b"|");
    mac.update(payload.as_bytes());
    Some(mac.finalize().into_bytes().into())
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// `base64(date | base64(json) | mac)`, as securecookie.
fn encode(data: &Data) -> Option<HeaderValue> {
    let payload = BASE64_URL_SAFE_NO_PAD.encode(serde_json::to_vec(data).ok()?);
    let date = now().to_string();
    let tag = tag(&date, &payload)?;
    let mut all = format!("{date}|{payload}|").into_bytes();
    all.extend_from_slice(&tag);
    let value = BASE64_URL_SAFE_NO_PAD.encode(all);
    HeaderValue::from_str(&format!(
        "{COOKIE_NAME}{value}; Path=/; Max-Age=86400; HttpOnly; Secure; SameSite=Lax"
    ))
    .ok()
}

fn decode(request: &Req) -> Option<Data> {
    let header = request.headers().get(COOKIE)?.to_str().ok()?;
    let value = header.split("; ").find_map(|pair| pair.strip_prefix(COOKIE_NAME))?;
    let all = BASE64_URL_SAFE_NO_PAD.decode(value).ok()?;
    let (text, found) = all.split_last_chunk::<32>()?;
    let (date, payload) = std::str::from_utf8(text).ok()?.strip_suffix('|')?.split_once('|')?;
    let mut mac = Hmac::<Sha256>::new_from_slice(KEY).ok()?;
    mac.update(COOKIE_NAME.as_bytes());
    mac.update(date.as_bytes());
    mac.update(b"|");
    mac.update(payload.as_bytes());
    mac.verify_slice(found).ok()?;
    if date.parse::<u64>().ok()? + 86_400 < now() {
        return None;
    }
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
}

fn read(data: &Data) -> u64 {
    let user = data.get("user_id").and_then(Value::as_i64).unwrap_or(0);
    let role = data.get("role").and_then(Value::as_str).unwrap_or_default().to_owned();
    user.unsigned_abs() + role.len() as u64
}

async fn handle(work: Work, request: Req) -> Resp {
    if work == Work::Untouched {
        return respond(0);
    }
    let mut data = decode(&request).unwrap_or_default();
    let mut response = respond(0);
    match work {
        Work::Untouched | Work::ReadInPlace => {}
        Work::Read => {
            std::hint::black_box(read(&data));
            return response;
        }
        Work::Touch => {
            std::hint::black_box(read(&data));
        }
        Work::Write => {
            std::hint::black_box(read(&data));
            data.insert("last_page".to_owned(), page().into());
        }
        Work::New(keys) | Work::NewIdle(keys) | Work::NewShort(keys) => {
            data.insert("user_id".to_owned(), 4_711_i64.into());
            for (key, value) in [("name", NAME), ("role", ROLE), ("csrf", CSRF), ("last_page", page())] {
                data.insert(key.to_owned(), value.into());
            }
            for (i, (key, text)) in more_keys(keys).enumerate() {
                data.insert(key.to_owned(), text.map_or_else(|| i.into(), Value::from));
            }
        }
        Work::PutFlash => {
            data.insert(FLASH.to_owned(), "your changes are saved".into());
        }
        Work::Pop | Work::SlowPop => {
            if work == Work::SlowPop {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            response = popped(data.remove(FLASH).is_some());
        }
        // The cookie is the session: there is nothing to renew but its date.
        Work::Renew => {}
        Work::Destroy => {
            let gone =
                HeaderValue::from_static("session=; Path=/; Max-Age=0; HttpOnly; Secure; SameSite=Lax");
            response.headers_mut().insert(SET_COOKIE, gone);
            return response;
        }
        Work::Count | Work::SlowCount => {
            let n = data.get("count").and_then(Value::as_u64).unwrap_or(0);
            if work == Work::SlowCount {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            data.insert("count".to_owned(), (n + 1).into());
        }
        Work::ReadCount => return count(data.get("count").and_then(Value::as_u64).unwrap_or(0)),
    }
    if let Some(cookie) = encode(&data) {
        response.headers_mut().insert(SET_COOKIE, cookie);
    }
    response
}
