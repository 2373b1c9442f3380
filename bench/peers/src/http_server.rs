//! One library behind axum on a loopback port, with one thread: `peers serve --only NAME`. It measures nothing.

use std::io::Read;

use axum::Router;
use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::args::Args;
use crate::work::Work;
use crate::{Outcome, axum_session, ours, tower_sessions};

/// Routes of a library whose handler takes the session by its extractor.
fn routes<E, Fut, F>(act: F) -> Router
where
    E: FromRequestParts<()> + Send + 'static,
    Fut: Future<Output = StatusCode> + Send + 'static,
    F: Fn(Work, E) -> Fut + Clone + Send + Sync + 'static,
{
    let with = move |work| {
        let act = act.clone();
        get(move |session: E| {
            let act = act.clone();
            async move { answer(act(work, session).await) }
        })
    };
    Router::new()
        .route("/untouched", get(|| async { answer(StatusCode::OK) }))
        .route("/read", with(Work::Read))
        .route("/write", with(Work::Write))
        .route("/new", with(Work::New(5)))
}

fn answer(status: StatusCode) -> Response {
    (status, [("content-type", "text/plain")]).into_response()
}

/// The router of the subject of this name.
fn router(name: &str, dir: &std::path::Path) -> Outcome<Router> {
    use sessile::engine::Durability;
    let level = match name {
        crate::OURS_EVENTUAL => Some(Durability::eventual()),
        crate::OURS_PROCESS => Some(Durability::process_crash()),
        crate::OURS_POWER => Some(Durability::PowerLoss),
        _ => None,
    };
    if let Some(level) = level {
        let engine = ours::engine(dir, "serve.redb", level, false)?;
        let act = |work, session: sessile::Session| async move {
            ours::act(work, &session).await.map_or(StatusCode::INTERNAL_SERVER_ERROR, |r| r.status())
        };
        return Ok(routes(act).layer(sessile::SessionLayer::new(engine)));
    }
    Ok(match name {
        "bare axum" => {
            let bare = || async { answer(StatusCode::OK) };
            ["/untouched", "/read", "/write", "/new"]
                .iter()
                .fold(Router::new(), |r, path| r.route(path, get(bare)))
        }
        "tower-sessions 0.15, MemoryStore" => {
            use tower_sessions::v0_15;
            routes(|work, session: tower_sessions_0_15::Session| async move {
                v0_15::act(work, &session).await.map_or(StatusCode::INTERNAL_SERVER_ERROR, |r| r.status())
            })
            .layer(v0_15::layer(v0_15::memory(), Work::Read))
        }
        "tower-sessions 0.14, moka" => {
            use tower_sessions::v0_14;
            routes(|work, session: tower_sessions_0_14::Session| async move {
                v0_14::act(work, &session).await.map_or(StatusCode::INTERNAL_SERVER_ERROR, |r| r.status())
            })
            .layer(v0_14::layer(v0_14::moka(), Work::Read))
        }
        "axum_session" => {
            use ::axum_session::{Session, SessionLayer, SessionNullPool};
            routes(|work, session: Session<SessionNullPool>| async move {
                axum_session::act(work, &session).await.status()
            })
            .layer(SessionLayer::new(axum_session::store()?))
        }
        other => return Err(format!("cannot serve {other}").into()),
    })
}

/// Serves until its standard input ends.
pub fn serve(args: &Args, dir: &std::path::Path) -> Outcome {
    let name = args.only.first().ok_or("serve needs --only NAME")?;
    let router = router(name, dir)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))?;
    println!("{}", serde_json::json!({"name": name, "address": listener.local_addr()?.to_string()}));
    let (ended, end) = tokio::sync::oneshot::channel::<()>();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read(&mut [0]);
        drop(ended);
    });
    runtime.block_on(async {
        tokio::select! {
            served = axum::serve(listener, router) => served,
            _ = end => Ok(()),
        }
    })?;
    Ok(())
}
