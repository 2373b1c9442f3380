//! tower-sessions, in the two versions that are in use: 0.15 with what supports it, 0.14 with the published stores.

/// The handler and the layers of one version. The versions share every name and no type.
macro_rules! version {
    ($version:ident) => {
        use std::time::Duration;

        use time::Duration as Span;
        use tower_layer::Layer;
        use $version::{Expiry, Session, SessionManagerLayer, SessionStore};

        use crate::subject::{Drive, Req, Resp, Subject, Tower, count, popped, respond};
        use crate::work::{CSRF, FLASH, NAME, ROLE, Work, deadline, more_keys, page};

        type Outcome<T> = Result<T, $version::session::Error>;

        pub fn layer<T: SessionStore + Clone>(store: T, work: Work) -> SessionManagerLayer<T> {
            // A session lives on by being used only if it is always saved.
            SessionManagerLayer::new(store)
                .with_expiry(Expiry::OnInactivity(Span::days(1)))
                .with_always_save(work == Work::Touch)
        }

        pub fn subject<T: SessionStore + Clone>(
            name: &'static str,
            drive: Drive,
            store: T,
        ) -> Box<dyn Subject> {
            let make = move |work| {
                let handler =
                    tower::service_fn(move |request: Req| async move { Ok(handle(work, request).await) });
                layer(store.clone(), work).layer(handler)
            };
            Box::new(Tower::new(name, drive, make))
        }

        pub async fn handle(work: Work, request: Req) -> Resp {
            if work == Work::Untouched {
                return respond(0);
            }
            // What its extractor does.
            let Some(session) = request.extensions().get::<Session>().cloned() else { return failed() };
            act(work, &session).await.unwrap_or_else(|_| failed())
        }

        fn failed() -> Resp {
            let mut response = respond(0);
            *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
            response
        }

        pub async fn read(session: &Session) -> Outcome<u64> {
            let user = session.get::<i64>("user_id").await?.unwrap_or(0);
            let role = session.get::<String>("role").await?.unwrap_or_default();
            Ok(user.unsigned_abs() + role.len() as u64)
        }

        pub async fn act(work: Work, session: &Session) -> Outcome<Resp> {
            let mut seen = 0;
            match work {
                Work::Untouched | Work::ReadInPlace => {}
                Work::Read | Work::Touch => seen = read(session).await?,
                Work::Write => {
                    seen = read(session).await?;
                    session.insert("last_page", page()).await?;
                }
                Work::New(keys) | Work::NewIdle(keys) | Work::NewShort(keys) => {
                    if let Work::NewShort(_) = work {
                        session.set_expiry(Some(Expiry::AtDateTime(deadline().into())));
                    }
                    session.insert("user_id", 4_711_i64).await?;
                    session.insert("name", NAME).await?;
                    session.insert("role", ROLE).await?;
                    session.insert("csrf", CSRF).await?;
                    session.insert("last_page", page()).await?;
                    for (i, (key, text)) in more_keys(keys).enumerate() {
                        match text {
                            Some(text) => session.insert(key, text).await?,
                            None => session.insert(key, i as u64).await?,
                        }
                    }
                }
                Work::PutFlash => session.insert(FLASH, "your changes are saved").await?,
                Work::Pop => return Ok(popped(session.remove::<String>(FLASH).await?.is_some())),
                Work::SlowPop => {
                    session.get::<u64>("count").await?;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    return Ok(popped(session.remove::<String>(FLASH).await?.is_some()));
                }
                Work::Renew => session.cycle_id().await?,
                Work::Destroy => session.flush().await?,
                Work::Count | Work::SlowCount => {
                    let n = session.get::<u64>("count").await?.unwrap_or(0);
                    if work == Work::SlowCount {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    session.insert("count", n + 1).await?;
                }
                Work::ReadCount => return Ok(count(session.get("count").await?.unwrap_or(0))),
            }
            Ok(respond(seen))
        }
    };
}

pub mod v0_14 {
    version!(tower_sessions_0_14);

    use tower_sessions_0_14::{CachingSessionStore, MemoryStore};
    use tower_sessions_moka_store::MokaStore;
    use tower_sessions_redis_store::RedisStore;
    use tower_sessions_redis_store::fred::prelude::{ClientLike, Config, Pool};

    /// Its store over a Redis server, with a pool as its example has it.
    pub async fn redis(url: &str) -> crate::Outcome<RedisStore<Pool>> {
        let pool = Pool::new(Config::from_url(url)?, None, None, None, 6)?;
        drop(pool.connect());
        pool.wait_for_connect().await?;
        Ok(RedisStore::new(pool))
    }

    /// The cache in front, as its documentation shows it; behind it memory, so that the library is measured.
    pub fn moka() -> CachingSessionStore<MokaStore, MemoryStore> {
        CachingSessionStore::new(MokaStore::new(Some(20_000_000)), MemoryStore::default())
    }
}

pub mod v0_15 {
    version!(tower_sessions_0_15);

    pub fn memory() -> tower_sessions_0_15::MemoryStore {
        tower_sessions_0_15::MemoryStore::default()
    }
}
