//! actix-session with its cookie store, in actix-web's own test service: another framework, so another bare subject.

use std::time::Duration;

use actix_session::config::{PersistentSession, TtlExtensionPolicy};
use actix_session::storage::CookieSessionStore;
use actix_session::{Session, SessionMiddleware};
use actix_web::body::MessageBody;
use actix_web::cookie::Key;
use actix_web::dev::{Service, ServiceResponse};
use actix_web::test::{TestRequest, init_service};
use actix_web::{App, HttpRequest, HttpResponse, web};
use http::header::SET_COOKIE;
use http::{HeaderMap, HeaderValue};
use sessile_bench::cycle::run;
use sessile_bench::data::Stream;

use crate::subject::{Cost, Subject, cookie_of, measured, received};
use crate::work::{CSRF, FLASH, NAME, ROLE, Work, more_keys, page};

type Request = actix_http::Request;

struct Actix<S, F> {
    name: &'static str,
    make: F,
    made: Vec<(Work, S)>,
    client_side: bool,
}

/// The handler without sessions.
pub fn bare() -> Box<dyn Subject> {
    let make = |_| {
        let handler = |request: HttpRequest| async move {
            std::hint::black_box(request.headers().get("cookie").map(|c| c.len()));
            HttpResponse::Ok().content_type("text/plain").finish()
        };
        run(init_service(App::new().route("/", web::get().to(handler))))
    };
    Box::new(Actix { name: "bare actix", make, made: Vec::new(), client_side: false })
}

pub fn subject() -> Box<dyn Subject> {
    let key = Key::from(&[7; 64]);
    let make = move |work| {
        let policy = if work == Work::Touch {
            TtlExtensionPolicy::OnEveryRequest
        } else {
            TtlExtensionPolicy::OnStateChanges
        };
        let sessions = SessionMiddleware::builder(CookieSessionStore::default(), key.clone())
            .session_lifecycle(PersistentSession::default().session_ttl_extension_policy(policy))
            .build();
        let handler = move |session: Session| handle(work, session);
        // Lazy: no route asks for a session that does not name it.
        if work == Work::Untouched {
            let handler = |request: HttpRequest| async move {
                std::hint::black_box(request.headers().get("cookie").map(|c| c.len()));
                HttpResponse::Ok().content_type("text/plain").finish()
            };
            return run(init_service(App::new().wrap(sessions).route("/", web::get().to(handler))));
        }
        run(init_service(App::new().wrap(sessions).route("/", web::get().to(handler))))
    };
    Box::new(Actix { name: "actix-session, cookie", make, made: Vec::new(), client_side: true })
}

async fn handle(work: Work, session: Session) -> HttpResponse {
    act(work, &session).await.unwrap_or_else(|_| HttpResponse::InternalServerError().finish())
}

fn read(session: &Session) -> Result<u64, actix_web::Error> {
    let user = session.get::<i64>("user_id")?.unwrap_or(0);
    let role = session.get::<String>("role")?.unwrap_or_default();
    Ok(user.unsigned_abs() + role.len() as u64)
}

async fn act(work: Work, session: &Session) -> Result<HttpResponse, actix_web::Error> {
    match work {
        Work::Untouched | Work::ReadInPlace => {}
        Work::Read | Work::Touch => {
            std::hint::black_box(read(session)?);
        }
        Work::Write => {
            std::hint::black_box(read(session)?);
            session.insert("last_page", page())?;
        }
        Work::New(keys) | Work::NewIdle(keys) | Work::NewShort(keys) => {
            session.insert("user_id", 4_711_i64)?;
            session.insert("name", NAME)?;
            session.insert("role", ROLE)?;
            session.insert("csrf", CSRF)?;
            session.insert("last_page", page())?;
            for (i, (key, text)) in more_keys(keys).enumerate() {
                match text {
                    Some(text) => session.insert(key, text)?,
                    None => session.insert(key, i as u64)?,
                }
            }
        }
        Work::PutFlash => session.insert(FLASH, "your changes are saved")?,
        Work::Pop | Work::SlowPop => {
            if work == Work::SlowPop {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            if session.remove_as::<String>(FLASH).is_none() {
                return Ok(HttpResponse::NoContent().finish());
            }
        }
        Work::Renew => session.renew(),
        Work::Destroy => session.purge(),
        Work::Count | Work::SlowCount => {
            let n = session.get::<u64>("count")?.unwrap_or(0);
            if work == Work::SlowCount {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            session.insert("count", n + 1)?;
        }
        Work::ReadCount => {}
    }
    Ok(HttpResponse::Ok().content_type("text/plain").finish())
}

fn request(cookie: Option<&HeaderValue>) -> Request {
    let request = TestRequest::get().uri("/");
    match cookie {
        Some(cookie) => request.insert_header(("cookie", cookie.as_bytes())).to_request(),
        None => request.to_request(),
    }
}

/// Its `http` is of another version.
fn head<B>(response: &ServiceResponse<B>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for value in response.headers().get_all("set-cookie") {
        if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
            headers.append(SET_COOKIE, value);
        }
    }
    headers
}

impl<S, F, B> Actix<S, F>
where
    S: Service<Request, Response = ServiceResponse<B>, Error = actix_web::Error>,
    B: MessageBody,
    F: Fn(Work) -> S,
{
    fn at(&mut self, work: Work) -> usize {
        if let Some(at) = self.made.iter().position(|(w, _)| *w == work) {
            return at;
        }
        let service = (self.make)(work);
        self.made.push((work, service));
        self.made.len() - 1
    }
}

impl<S, F, B> Subject for Actix<S, F>
where
    S: Service<Request, Response = ServiceResponse<B>, Error = actix_web::Error>,
    B: MessageBody,
    F: Fn(Work) -> S,
{
    fn name(&self) -> &str {
        self.name
    }

    fn client_side(&self) -> bool {
        self.client_side
    }

    fn once(&mut self, work: Work, cookie: Option<HeaderValue>) -> (u16, Option<HeaderValue>, HeaderMap) {
        let at = self.at(work);
        match run(self.made[at].1.call(request(cookie.as_ref()))) {
            Ok(response) => {
                let head = head(&response);
                (response.status().as_u16(), cookie_of(&head), head)
            }
            Err(_) => (500, None, HeaderMap::new()),
        }
    }

    fn each(&mut self, work: Work, cookies: &mut [HeaderValue]) -> Cost {
        let at = self.at(work);
        let service = &self.made[at].1;
        let fresh = matches!(work, Work::New(_) | Work::NewIdle(_) | Work::NewShort(_));
        let mut responses = Vec::with_capacity(cookies.len());
        let prepare = |i: usize| (!fresh).then(|| received(&cookies[i]));
        let cost = measured(cookies.len(), prepare, |cookie| {
            responses.push(run(service.call(request(cookie.as_ref()))));
        });
        for (cookie, response) in cookies.iter_mut().zip(responses) {
            if let Some(new) = response.ok().and_then(|response| cookie_of(&head(&response))) {
                *cookie = new;
            }
        }
        cost
    }

    fn random(&mut self, work: Work, cookies: &[HeaderValue], stream: &mut Stream, n: usize) -> Cost {
        let at = self.at(work);
        let service = &self.made[at].1;
        let prepare = |_| received(&cookies[stream.below(cookies.len())]);
        measured(n, prepare, |cookie| {
            std::hint::black_box(run(service.call(request(Some(&cookie)))).is_ok());
        })
    }
}
