//! The way to the agent: questions over HTTP, and the forms of the answers. It knows no keys.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::Full;
use hyper::body::Bytes;
use serde::{Deserialize, Serialize};
use sessile_engine::store::StoreError;

use super::error;
use crate::web::{Connector, Web};

pub(super) struct Link {
    web: Web,
    /// `http://host:port`
    base: String,
    token: Option<HeaderValue>,
    closed: AtomicBool,
}

/// A key and what it holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) value: Vec<u8>,
    pub(super) revision: u64,
}

/// What stands under a prefix, and the number to wait on for more.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) entries: Vec<Entry>,
    pub(super) index: u64,
}

/// One operation of a transaction. Those on rows fail if the key's last change is not `Index`; 0 stands for no key.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Operation {
    #[serde(rename = "KV")]
    kv: OperationKv,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct OperationKv {
    verb: &'static str,
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<u64>,
}

impl Operation {
    fn new(verb: &'static str, key: String, value: Option<&[u8]>, index: Option<u64>) -> Self {
        let value = value.map(|value| STANDARD.encode(value));
        Self { kv: OperationKv { verb, key, value, index } }
    }

    /// Reads a key, and whatever has a longer name that begins so.
    pub(super) fn get(key: String) -> Self {
        Self::new("get-tree", key, None, None)
    }

    pub(super) fn set(key: String, value: &[u8]) -> Self {
        Self::new("set", key, Some(value), None)
    }

    pub(super) fn delete(key: String) -> Self {
        Self::new("delete", key, None, None)
    }

    pub(super) fn set_at(key: String, revision: u64, value: &[u8]) -> Self {
        Self::new("cas", key, Some(value), Some(revision))
    }

    /// The key has not changed; 0: it does not exist.
    pub(super) fn check(key: String, revision: u64) -> Self {
        match revision {
            0 => Self::new("check-not-exists", key, None, None),
            _ => Self::new("check-index", key, None, Some(revision)),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawEntry {
    key: String,
    /// Base64; null if it is empty.
    #[serde(default)]
    value: Option<String>,
    modify_index: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawAnswer {
    #[serde(default)]
    results: Option<Vec<RawResult>>,
    #[serde(default)]
    errors: Option<Vec<RawError>>,
}

#[derive(Deserialize)]
struct RawResult {
    #[serde(rename = "KV")]
    kv: RawEntry,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawError {
    #[serde(default)]
    what: String,
}

impl RawEntry {
    fn read(self, what: &'static str) -> Result<Entry, StoreError> {
        let value = STANDARD.decode(self.value.unwrap_or_default()).map_err(|_| error::unexpected(what))?;
        Ok(Entry { key: self.key, value, revision: self.modify_index })
    }
}

fn entries(what: &'static str, body: &[u8]) -> Result<Vec<Entry>, StoreError> {
    let raw: Vec<RawEntry> = serde_json::from_slice(body).map_err(|_| error::unexpected(what))?;
    raw.into_iter().map(|entry| entry.read(what)).collect()
}

/// What was read, or `None` if the transaction was not made because a row has changed.
fn outcome(what: &'static str, status: StatusCode, body: &[u8]) -> Result<Option<Vec<Entry>>, StoreError> {
    if !matches!(status, StatusCode::OK | StatusCode::CONFLICT) {
        return Err(error::refused(what, status, body));
    }
    let answer: RawAnswer = serde_json::from_slice(body).map_err(|_| error::unexpected(what))?;
    if status == StatusCode::OK {
        let results = answer.results.unwrap_or_default().into_iter();
        return results.map(|result| result.kv.read(what)).collect::<Result<_, _>>().map(Some);
    }
    let errors = answer.errors.unwrap_or_default();
    match errors.iter().find(|e| error::is_for_good(&e.what)) {
        Some(e) => Err(error::refused(what, StatusCode::FORBIDDEN, e.what.as_bytes())),
        None => Ok(None),
    }
}

struct Answer {
    status: StatusCode,
    /// `X-Consul-Index`
    index: Option<u64>,
    body: Bytes,
}

impl Link {
    pub(super) fn new(base: String, token: Option<HeaderValue>, connector: Connector) -> Self {
        Self { web: Web::new(connector), base, token, closed: AtomicBool::new(false) }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Asks nothing any more. What is on its way comes to its end.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// One question. Dropping the future costs its connection, so that no other question can get the answer.
    async fn ask(
        &self,
        what: &'static str,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<Answer, StoreError> {
        if self.is_closed() {
            return Err(error::closed());
        }
        let mut request = Request::builder().method(method).uri(format!("{}/v1/{path}", self.base));
        if let Some(token) = &self.token {
            request = request.header("x-consul-token", token);
        }
        let request = request.body(Full::from(body)).map_err(|_| {
            error::own(sessile_engine::store::StoreErrorKind::Config, "its address cannot be asked")
        })?;
        let (head, body) = self.web.ask(request).await.map_err(|e| error::unanswered(what, e))?.into_parts();
        let index = head.headers.get("x-consul-index");
        let index = index.and_then(|index| index.to_str().ok()?.parse().ok());
        Ok(Answer { status: head.status, index, body })
    }

    /// Reads what a majority has.
    async fn read(&self, what: &'static str, path: String) -> Result<Option<Answer>, StoreError> {
        let answer = self.ask(what, Method::GET, &path, Vec::new()).await?;
        match answer.status {
            StatusCode::OK => Ok(Some(answer)),
            // No such key, and no error of an older server.
            StatusCode::NOT_FOUND if answer.index.is_some() => Ok(None),
            status => Err(error::refused(what, status, &answer.body)),
        }
    }

    pub(super) async fn get(&self, what: &'static str, key: &str) -> Result<Option<Entry>, StoreError> {
        let Some(answer) = self.read(what, format!("kv/{key}?consistent")).await? else { return Ok(None) };
        Ok(entries(what, &answer.body)?.into_iter().next())
    }

    /// The names of the keys that begin with `prefix`, in their order; up to the first slash behind it if only `one_level`
    /// is asked for, each once.
    pub(super) async fn keys(
        &self,
        what: &'static str,
        prefix: &str,
        one_level: bool,
    ) -> Result<Vec<String>, StoreError> {
        let separator = if one_level { "&separator=/" } else { "" };
        let path = format!("kv/{prefix}?keys&consistent{separator}");
        let Some(answer) = self.read(what, path).await? else { return Ok(Vec::new()) };
        let mut keys: Vec<String> =
            serde_json::from_slice(&answer.body).map_err(|_| error::unexpected(what))?;
        keys.sort_unstable();
        Ok(keys)
    }

    /// All that stands under `prefix`: at once, or when something has changed behind `index`, or when `wait` is over.
    pub(super) async fn tree(
        &self,
        what: &'static str,
        prefix: &str,
        behind: Option<(u64, Duration)>,
    ) -> Result<Tree, StoreError> {
        let wait = behind
            .map(|(index, wait)| format!("&index={index}&wait={}ms", wait.as_millis()))
            .unwrap_or_default();
        let path = format!("kv/{prefix}?recurse&consistent{wait}");
        let answer = self.ask(what, Method::GET, &path, Vec::new()).await?;
        let entries = match answer.status {
            StatusCode::OK => entries(what, &answer.body)?,
            StatusCode::NOT_FOUND => Vec::new(),
            status => return Err(error::refused(what, status, &answer.body)),
        };
        Ok(Tree { entries, index: answer.index.ok_or_else(|| error::unexpected(what))? })
    }

    /// Sets a key: whatever is there, or only if its last change is the one given (0: if there is none). Says whether it
    /// was set.
    pub(super) async fn put(
        &self,
        what: &'static str,
        key: &str,
        at: Option<u64>,
        value: Vec<u8>,
    ) -> Result<bool, StoreError> {
        let at = at.map(|at| format!("?cas={at}")).unwrap_or_default();
        self.write(what, Method::PUT, &format!("kv/{key}{at}"), value).await
    }

    /// Removes a key, if its last change is the one given.
    pub(super) async fn delete(&self, what: &'static str, key: &str, at: u64) -> Result<bool, StoreError> {
        self.write(what, Method::DELETE, &format!("kv/{key}?cas={at}"), Vec::new()).await
    }

    async fn write(
        &self,
        what: &'static str,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<bool, StoreError> {
        let answer = self.ask(what, method, path, body).await?;
        match (answer.status, answer.body.trim_ascii()) {
            (StatusCode::OK, b"true") => Ok(true),
            (StatusCode::OK, b"false") => Ok(false),
            (StatusCode::OK, _) => Err(error::unexpected(what)),
            (status, said) => Err(error::refused(what, status, said)),
        }
    }

    /// Does all of it or nothing; `None` if a row has another revision than it was told.
    pub(super) async fn transact(
        &self,
        what: &'static str,
        operations: &[Operation],
    ) -> Result<Option<Vec<Entry>>, StoreError> {
        let body = serde_json::to_vec(operations).map_err(|_| error::unexpected(what))?;
        let answer = self.ask(what, Method::PUT, "txn?consistent", body).await?;
        outcome(what, answer.status, &answer.body)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sessile_engine::store::StoreErrorKind;

    use super::*;

    #[test]
    fn operations_are_written_as_the_server_reads_them() {
        let written = |operation: Operation| serde_json::to_string(&operation).unwrap();
        for (operation, wanted) in [
            (Operation::get("k".into()), r#"{"KV":{"Verb":"get-tree","Key":"k"}}"#),
            (Operation::set("k".into(), b"v"), r#"{"KV":{"Verb":"set","Key":"k","Value":"dg=="}}"#),
            (Operation::delete("k".into()), r#"{"KV":{"Verb":"delete","Key":"k"}}"#),
            (
                Operation::set_at("k".into(), 0, b""),
                r#"{"KV":{"Verb":"cas","Key":"k","Value":"","Index":0}}"#,
            ),
            (Operation::check("k".into(), 7), r#"{"KV":{"Verb":"check-index","Key":"k","Index":7}}"#),
            (Operation::check("k".into(), 0), r#"{"KV":{"Verb":"check-not-exists","Key":"k"}}"#),
        ] {
            assert_eq!(written(operation), wanted);
        }
    }

    #[test]
    fn a_conflict_and_a_refusal_are_told_apart() {
        let stale =
            br#"{"Results":null,"Errors":[{"OpIndex":0,"What":"failed to set key \"k\", index is stale"}]}"#;
        assert_eq!(outcome("x", StatusCode::CONFLICT, stale).unwrap(), None);
        let denied = br#"{"Results":null,"Errors":[{"OpIndex":0,"What":"Permission denied"}]}"#;
        assert_eq!(outcome("x", StatusCode::CONFLICT, denied).unwrap_err().kind(), StoreErrorKind::Config);
        let found = br#"{"Results":[{"KV":{"LockIndex":0,"Key":"k","Flags":0,"Value":"dg==","CreateIndex":3,"ModifyIndex":4}},{"KV":{"LockIndex":0,"Key":"l","Flags":0,"Value":null,"CreateIndex":3,"ModifyIndex":5}}],"Errors":null}"#;
        let wanted = [
            Entry { key: "k".into(), value: b"v".to_vec(), revision: 4 },
            Entry { key: "l".into(), value: Vec::new(), revision: 5 },
        ];
        assert_eq!(outcome("x", StatusCode::OK, found).unwrap().unwrap(), wanted);
    }

    proptest! {
        #[test]
        fn no_answer_is_beyond_words(body in proptest::collection::vec(any::<u8>(), 0..200), json in "[\\[\\]{}\":,a-zKVey0-9 ]{0,60}", status in 100_u16..600) {
            let status = StatusCode::from_u16(status).unwrap();
            for body in [&body[..], json.as_bytes()] {
                let _ = outcome("x", status, body).map_err(|e| e.to_string());
                let _ = entries("x", body).map_err(|e| e.to_string());
            }
        }
    }
}
