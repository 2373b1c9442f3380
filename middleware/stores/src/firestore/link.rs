//! The way to the service: questions of its REST API with a token, and the forms of the answers. It knows no rows.

use std::sync::atomic::{AtomicBool, Ordering};

use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use sessile_engine::store::{StoreError, StoreErrorKind};

use super::doc::{self, Document};
use super::error::{self, Refusal};
use super::token::Tokens;
use crate::web::Web;

/// A service takes 10 MiB in one request.
const MAX_REQUEST: usize = 10_000_000;

pub(super) struct Link {
    web: Web,
    /// `https://host/v1/projects/P/databases/D/documents`
    base: String,
    tokens: Tokens,
    closed: AtomicBool,
}

/// What became of a commit.
#[derive(Debug)]
pub(super) enum Committed {
    Done,
    /// Nothing was written: a document is not as it was when it was read.
    Stale,
    /// Nothing was written: others are at the same documents.
    Contended(StoreError),
    /// Nothing was sent: it is more than a request may have.
    TooLarge(StoreError),
}

/// A part of an answer, of whichever question.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Part {
    /// Of `batchGet`.
    #[serde(default)]
    found: Option<Document>,
    /// Of `runQuery`.
    #[serde(default)]
    document: Option<Document>,
    /// Of `runAggregationQuery`.
    #[serde(default)]
    result: Option<Value>,
    /// What ended the answer before its time.
    #[serde(default)]
    error: Option<Status>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Made {
    commit_time: String,
}

#[derive(Deserialize)]
struct Failed {
    error: Status,
}

#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    code: u16,
    #[serde(default)]
    message: String,
    #[serde(default)]
    status: String,
}

impl Status {
    fn refusal(self, status: StatusCode) -> Refusal {
        let status = StatusCode::from_u16(self.code).unwrap_or(status);
        Refusal { status, code: self.status, message: self.message }
    }
}

/// What a refused question was told: of one answer, or in a list of them.
fn refusal(status: StatusCode, body: &[u8]) -> Refusal {
    let told = serde_json::from_slice::<Failed>(body).ok().map(|failed| failed.error);
    let told = told.or_else(|| {
        let parts: Vec<Part> = serde_json::from_slice(body).ok()?;
        parts.into_iter().find_map(|part| part.error)
    });
    match told {
        Some(told) => told.refusal(status),
        None => {
            let message = String::from_utf8_lossy(body.get(..1000).unwrap_or(body)).into_owned();
            Refusal { status, code: String::new(), message }
        }
    }
}

/// All parts of an answer, unless one of them is an error.
fn parts(what: &'static str, answer: &Response<Bytes>) -> Result<Vec<Part>, StoreError> {
    if answer.status() != StatusCode::OK {
        return Err(refusal(answer.status(), answer.body()).into_error(what));
    }
    let mut parts: Vec<Part> = serde_json::from_slice(answer.body()).map_err(|_| error::unexpected(what))?;
    match parts.iter_mut().find_map(|part| part.error.take()) {
        Some(told) => Err(told.refusal(StatusCode::INTERNAL_SERVER_ERROR).into_error(what)),
        None => Ok(parts),
    }
}

fn committed(what: &'static str, answer: &Response<Bytes>) -> Result<Committed, StoreError> {
    if answer.status() == StatusCode::OK {
        // Somebody else may answer so; then nobody knows what was made.
        let made =
            serde_json::from_slice::<Made>(answer.body()).is_ok_and(|made| !made.commit_time.is_empty());
        return if made { Ok(Committed::Done) } else { Err(error::unexpected(what)) };
    }
    let refusal = refusal(answer.status(), answer.body());
    match () {
        () if refusal.is_stale() => Ok(Committed::Stale),
        () if refusal.is_contention() => Ok(Committed::Contended(refusal.into_error(what))),
        () => Err(refusal.into_error(what)),
    }
}

impl Link {
    pub(super) fn new(web: Web, base: String, tokens: Tokens) -> Self {
        Self { web, base, tokens, closed: AtomicBool::new(false) }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Asks nothing any more. What is on its way comes to its end.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    async fn send(
        &self,
        what: &'static str,
        verb: &str,
        token: &HeaderValue,
        body: &Bytes,
    ) -> Result<Response<Bytes>, StoreError> {
        if self.is_closed() {
            return Err(error::closed());
        }
        let request = Request::post(format!("{}:{verb}", self.base))
            .header(header::AUTHORIZATION, token)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::from(body.clone()))
            .map_err(|_| error::own(StoreErrorKind::Config, "its address cannot be asked"))?;
        self.web.ask(request).await.map_err(|e| error::unanswered(what, e))
    }

    /// One question. A token that is refused is replaced once: nothing was done with it.
    async fn ask(&self, what: &'static str, verb: &str, body: &Bytes) -> Result<Response<Bytes>, StoreError> {
        let token = self.tokens.get().await?;
        let answer = self.send(what, verb, &token, body).await?;
        if answer.status() != StatusCode::UNAUTHORIZED {
            return Ok(answer);
        }
        match self.tokens.other_than(&token).await? {
            Some(token) => self.send(what, verb, &token, body).await,
            None => Ok(answer),
        }
    }

    /// A question that changes nothing: it is asked again over another connection if the first has ended.
    async fn read(&self, what: &'static str, verb: &str, body: &Value) -> Result<Vec<Part>, StoreError> {
        let body = Bytes::from(body.to_string());
        let answer = match self.ask(what, verb, &body).await {
            Err(e) if e.kind() == StoreErrorKind::Unavailable => self.ask(what, verb, &body).await?,
            answer => answer?,
        };
        parts(what, &answer)
    }

    /// Those of these documents that there are, in any order.
    pub(super) async fn get(
        &self,
        what: &'static str,
        names: &[String],
    ) -> Result<Vec<Document>, StoreError> {
        let parts = self.read(what, "batchGet", &json!({ "documents": names })).await?;
        Ok(parts.into_iter().filter_map(|part| part.found).collect())
    }

    /// The documents that a query finds, in its order.
    pub(super) async fn query(&self, what: &'static str, query: &Value) -> Result<Vec<Document>, StoreError> {
        let parts = self.read(what, "runQuery", query).await?;
        Ok(parts.into_iter().filter_map(|part| part.document).collect())
    }

    pub(super) async fn count(&self, what: &'static str, query: &Value) -> Result<u64, StoreError> {
        let parts = self.read(what, "runAggregationQuery", query).await?;
        let counted = parts.iter().find_map(|part| part.result.as_ref()?.get("aggregateFields")?.get("rows"));
        let counted = doc::integer_of(counted).and_then(|count| u64::try_from(count).ok());
        counted.ok_or_else(|| error::unexpected(what))
    }

    /// Makes all writes or none. It is sent once: a commit whose answer is lost was made or not.
    pub(super) async fn commit(&self, what: &'static str, writes: &[Value]) -> Result<Committed, StoreError> {
        let body = Bytes::from(json!({ "writes": writes }).to_string());
        if body.len() > MAX_REQUEST {
            let e = error::own(StoreErrorKind::TooLarge, format!("{what}: it does not fit into one request"));
            return Ok(Committed::TooLarge(e));
        }
        committed(what, &self.ask(what, "commit", &body).await?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answer(status: u16, body: &[u8]) -> Response<Bytes> {
        Response::builder().status(status).body(Bytes::copy_from_slice(body)).unwrap()
    }

    #[test]
    fn documents_are_read_and_errors_among_them_are_found() {
        let found = br#"[{"found":{"name":"n","fields":{"a":{"integerValue":"1"}},"createTime":"x","updateTime":"u"},"readTime":"r"},{"missing":"m","readTime":"r"}]"#;
        let found = parts("x", &answer(200, found)).unwrap();
        let documents: Vec<_> = found.into_iter().filter_map(|part| part.found).collect();
        let fields = json!({"a": {"integerValue": "1"}}).as_object().unwrap().clone();
        assert_eq!(documents, [Document { name: "n".into(), fields, update_time: "u".into() }]);
        for (status, body, wanted) in [
            (
                404,
                r#"[{"error":{"code":404,"message":"no database","status":"NOT_FOUND"}}]"#,
                StoreErrorKind::Config,
            ),
            (
                503,
                r#"{"error":{"code":503,"message":"later","status":"UNAVAILABLE"}}"#,
                StoreErrorKind::Unavailable,
            ),
            (
                200,
                r#"[{"readTime":"r"},{"error":{"code":403,"message":"no","status":"PERMISSION_DENIED"}}]"#,
                StoreErrorKind::Config,
            ),
            (200, "<html>", StoreErrorKind::Unavailable),
            (502, "<html>", StoreErrorKind::Unavailable),
        ] {
            let e = parts("x", &answer(status, body.as_bytes())).map(drop).unwrap_err();
            assert_eq!(e.kind(), wanted, "{body}: {e}");
        }
    }

    #[test]
    fn a_commit_is_done_stale_contended_or_refused() {
        let body = |code: &str| format!(r#"{{"error":{{"code":400,"message":"m","status":"{code}"}}}}"#);
        let of = |code: &str| committed("x", &answer(400, body(code).as_bytes()));
        let made = br#"{"writeResults":[{}],"commitTime":"2014-10-02T15:01:23.045123Z"}"#;
        assert!(matches!(committed("x", &answer(200, made)), Ok(Committed::Done)));
        assert_eq!(committed("x", &answer(200, b"{}")).unwrap_err().kind(), StoreErrorKind::Unavailable);
        for code in ["FAILED_PRECONDITION", "ALREADY_EXISTS", "NOT_FOUND"] {
            assert!(matches!(of(code), Ok(Committed::Stale)), "{code}");
        }
        assert!(matches!(of("ABORTED"), Ok(Committed::Contended(_))));
        assert_eq!(of("INVALID_ARGUMENT").unwrap_err().kind(), StoreErrorKind::Config);
    }

    proptest! {
        #[test]
        fn no_answer_is_beyond_words(body in proptest::collection::vec(any::<u8>(), 0..200), json in "[\\[\\]{}\":,a-zT0-9 ]{0,60}", status in 100_u16..600) {
            for body in [&body[..], json.as_bytes()] {
                let _ = parts("x", &answer(status, body)).map_err(|e| e.to_string());
                let _ = committed("x", &answer(status, body)).map_err(|e| e.to_string());
            }
        }
    }
}
