//! Who we are to Google: bearer tokens, where they come from, and how long one is used. It prints none.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{HeaderValue, Request, StatusCode};
use http_body_util::Full;
use serde::Deserialize;
use sessile_engine::store::{StoreError, StoreErrorKind};
use tokio::sync::Mutex as Gate;
use tokio::time::Instant;

use super::error;
use crate::web::Web;

/// A token is replaced so long before its end, or a quarter of its life before. The metadata server gives the next one
/// by then.
const AHEAD: Duration = Duration::from_secs(225);
/// How long a token that is still good is used on after the next one could not be had.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest that a token is taken to last.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
const METADATA_PATH: &str = "/computeMetadata/v1/instance/service-accounts/default/token";

/// An access token of OAuth 2.0, from a source of the app: see [`Builder::tokens`](super::Builder::tokens).
#[derive(Clone)]
pub struct AccessToken {
    token: String,
    lasts: Duration,
}

impl AccessToken {
    /// A token that is good for so long from now on.
    #[must_use]
    pub fn new(token: impl Into<String>, lasts: Duration) -> Self {
        Self { token: token.into(), lasts }
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessToken").field("lasts", &self.lasts).finish_non_exhaustive()
    }
}

type Fetching = Pin<Box<dyn Future<Output = Result<AccessToken, StoreError>> + Send>>;

/// Where tokens come from.
#[derive(Clone)]
pub(super) struct Source(Arc<dyn Fn() -> Fetching + Send + Sync>);

impl Source {
    /// The app's own.
    pub(super) fn of_app<F>(fetch: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<AccessToken, Box<dyn Error + Send + Sync>>> + Send + 'static,
    {
        Self(Arc::new(move || {
            let fetching = fetch();
            Box::pin(async move {
                fetching.await.map_err(|e| {
                    error::own(StoreErrorKind::Unavailable, "the app's source has no token").with_source(e)
                })
            })
        }))
    }

    /// The metadata server of a platform of Google's, at `host:port`.
    pub(super) fn metadata(web: Web, authority: &str) -> Self {
        let (web, url): (_, Arc<str>) = (Arc::new(web), format!("http://{authority}{METADATA_PATH}").into());
        Self(Arc::new(move || Box::pin(from_metadata(Arc::clone(&web), Arc::clone(&url)))))
    }
}

#[derive(Deserialize)]
struct Answer {
    access_token: String,
    expires_in: u64,
}

async fn from_metadata(web: Arc<Web>, url: Arc<str>) -> Result<AccessToken, StoreError> {
    let own = |kind, what: String| error::own(kind, what);
    let request = Request::get(&*url).header("metadata-flavor", "Google").body(Full::default());
    let request = request
        .map_err(|_| own(StoreErrorKind::Config, "the metadata server's address cannot be asked".into()))?;
    let answer = web.ask(request).await.map_err(|e| {
        own(StoreErrorKind::Unavailable, "the metadata server does not answer; is there one?".into())
            .with_source(e)
    })?;
    match answer.status() {
        StatusCode::OK => {}
        status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
            let what = format!("the metadata server says {}", status.as_u16());
            return Err(own(StoreErrorKind::Unavailable, what));
        }
        status => {
            let what = format!("the metadata server has no token of a service account: {}", status.as_u16());
            return Err(own(StoreErrorKind::Config, what));
        }
    }
    // Whoever else answers at that name does not know it.
    if answer.headers().get("metadata-flavor").is_none_or(|flavor| flavor != "Google") {
        return Err(own(StoreErrorKind::Config, "what answers is no metadata server".into()));
    }
    // The parser's own error could quote the token.
    let answer: Answer = serde_json::from_slice(answer.body()).map_err(|_| {
        own(StoreErrorKind::Unavailable, "the metadata server's answer has an unexpected form".into())
    })?;
    Ok(AccessToken::new(answer.access_token, Duration::from_secs(answer.expires_in)))
}

/// A token as it is sent, and until when it is used.
#[derive(Clone)]
struct Held {
    header: HeaderValue,
    /// From when on the next one is looked for.
    ages: Instant,
    ends: Instant,
}

impl Held {
    fn of(token: AccessToken, now: Instant) -> Result<Self, StoreError> {
        let lasts = token.lasts.min(LONGEST);
        let mut header = HeaderValue::try_from(format!("Bearer {}", token.token))
            .map_err(|_| error::own(StoreErrorKind::Config, "the token has characters that no token has"))?;
        header.set_sensitive(true);
        let ends = now + lasts;
        Ok(Self { header, ages: now + (lasts - AHEAD.min(lasts / 4)), ends })
    }
}

/// The token in use.
pub(super) struct Tokens {
    source: Option<Source>,
    held: Mutex<Option<Held>>,
    /// One looks for the next token, the others wait or use what there is.
    gate: Gate<()>,
}

impl Tokens {
    pub(super) fn new(source: Source) -> Self {
        Self { source: Some(source), held: Mutex::new(None), gate: Gate::new(()) }
    }

    /// What the emulator takes for an administrator.
    pub(super) fn of_emulator() -> Self {
        let now = Instant::now();
        let header = HeaderValue::from_static("Bearer owner");
        let held = Some(Held { header, ages: now, ends: now });
        Self { source: None, held: Mutex::new(held), gate: Gate::new(()) }
    }

    fn held(&self) -> Option<Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn hold(&self, held: Held) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = Some(held);
    }

    /// A token that is good by our clock.
    ///
    /// # Errors
    /// What the source says, if there is none left.
    pub(super) async fn get(&self) -> Result<HeaderValue, StoreError> {
        let (Some(source), now) = (&self.source, Instant::now()) else {
            return self.held().map(|held| held.header).ok_or_else(error::closed);
        };
        match self.held() {
            Some(held) if now < held.ages => Ok(held.header),
            Some(held) if now < held.ends => {
                // Nobody waits for another who looks ahead.
                let Ok(_gate) = self.gate.try_lock() else { return Ok(held.header) };
                match self.fetch(source).await {
                    Ok(header) => Ok(header),
                    Err(e) => {
                        tracing::debug!(store = super::NAME, error = %e, "the next token could not be had yet");
                        self.hold(Held { ages: now + PATIENCE, ..held.clone() });
                        Ok(held.header)
                    }
                }
            }
            old => self.replace(source, old.as_ref().map(|held| &held.header)).await,
        }
    }

    /// Another token than `refused`, which the service does not take; `None` if there can be no other.
    ///
    /// # Errors
    /// What the source says.
    pub(super) async fn other_than(&self, refused: &HeaderValue) -> Result<Option<HeaderValue>, StoreError> {
        match &self.source {
            Some(source) => self.replace(source, Some(refused)).await.map(Some),
            None => Ok(None),
        }
    }

    /// Fetches a token, unless somebody has fetched one in place of `old` while we waited.
    async fn replace(&self, source: &Source, old: Option<&HeaderValue>) -> Result<HeaderValue, StoreError> {
        let _gate = self.gate.lock().await;
        match self.held() {
            Some(held) if Some(&held.header) != old && Instant::now() < held.ends => Ok(held.header),
            _ => self.fetch(source).await,
        }
    }

    async fn fetch(&self, source: &Source) -> Result<HeaderValue, StoreError> {
        // Before the question: what is on its way is not lost from the token's life.
        let asked = Instant::now();
        let held = Held::of((source.0)().await?, asked)?;
        let header = held.header.clone();
        self.hold(held);
        Ok(header)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn a_token_ages_before_it_ends() {
        let now = Instant::now();
        let held = |secs| Held::of(AccessToken::new("t", Duration::from_secs(secs)), now).unwrap();
        for (lasts, ages) in [(3600, 3375), (100, 75), (0, 0), (u64::MAX, 24 * 3600 - 225)] {
            assert_eq!(held(lasts).ages, now + Duration::from_secs(ages), "{lasts}");
            assert_eq!(held(lasts).ends, now + Duration::from_secs(lasts).min(LONGEST));
        }
        assert!(held(1).header.is_sensitive());
        assert!(Held::of(AccessToken::new("a\nb", Duration::ZERO), now).is_err());
        assert!(!format!("{:?}", AccessToken::new("s3cret", Duration::ZERO)).contains("s3cret"));
    }

    /// The n-th token is `t{n}`, from a source that fails from the `until`-th on.
    fn counting(until: u32) -> (Tokens, Arc<AtomicU32>) {
        let count = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&count);
        let tokens = Tokens::new(Source::of_app(move || {
            let n = counted.fetch_add(1, Ordering::Relaxed);
            async move {
                match n < until {
                    true => Ok(AccessToken::new(format!("t{n}"), Duration::from_secs(1000))),
                    false => Err("none left".into()),
                }
            }
        }));
        (tokens, count)
    }

    fn ages(tokens: &Tokens, by: Duration) {
        let held = tokens.held().unwrap();
        tokens.hold(Held { ages: held.ages - by, ends: held.ends - by, ..held });
    }

    #[test]
    fn tokens_are_used_until_they_age_and_while_there_is_no_other() {
        pollster::block_on(async {
            let (tokens, count) = counting(2);
            for _ in 0..3 {
                assert_eq!(tokens.get().await.unwrap(), "Bearer t0");
            }
            assert_eq!(count.load(Ordering::Relaxed), 1);
            ages(&tokens, Duration::from_secs(900));
            assert_eq!(tokens.get().await.unwrap(), "Bearer t1", "it was replaced before its end");
            ages(&tokens, Duration::from_secs(900));
            for _ in 0..3 {
                assert_eq!(tokens.get().await.unwrap(), "Bearer t1", "it is still good");
            }
            assert_eq!(count.load(Ordering::Relaxed), 3, "the source has some time to recover");
            ages(&tokens, Duration::from_secs(900));
            assert_eq!(tokens.get().await.unwrap_err().kind(), StoreErrorKind::Unavailable);
        });
    }

    #[test]
    fn a_refused_token_is_replaced_once_for_all_who_had_it() {
        pollster::block_on(async {
            let (tokens, count) = counting(9);
            let first = tokens.get().await.unwrap();
            for _ in 0..3 {
                assert_eq!(tokens.other_than(&first).await.unwrap().unwrap(), "Bearer t1");
            }
            assert_eq!(count.load(Ordering::Relaxed), 2);
            let emulator = Tokens::of_emulator();
            let owner = emulator.get().await.unwrap();
            assert_eq!(owner, "Bearer owner");
            assert_eq!(emulator.other_than(&owner).await.unwrap(), None);
        });
    }
}
