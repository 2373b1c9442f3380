//! `Cookie` lines are hostile: whatever they hold, the request gets the session that a second, simpler reading of
//! RFC 6265bis finds in them, or none, and never a panic.
//!
//! The input is a program that puts lines together, so that real tokens are among what they hold.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::LazyLock;
use std::task::{Context, Poll, Waker};

use http::{HeaderValue, Request, Response, header};
use sessile::engine::Delivery;
use sessile::{Engine, Session, SessionLayer, Token};
use tower_layer::Layer;
use tower_service::Service;

const NAME: &[u8] = b"session";
const TOKEN: usize = 43;
/// What `docs/security.md` says of a request's `Cookie` lines.
const MOST_BYTES: usize = 16 * 1024;
const MOST_PAIRS: usize = 64;
const MOST_VALUES: usize = 4;

/// What is ready at once, as everything in memory is.
fn now<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => done,
        Poll::Pending => panic!("sessions in memory need no wait"),
    }
}

struct World {
    engine: Engine,
    /// Two that live, and one that was destroyed.
    tokens: [String; 3],
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let engine = Engine::builder().in_memory().expect("an engine");
    let tokens = std::array::from_fn(|n| {
        let session = now(engine.session(None)).expect("a session");
        session.put("n", &n).expect("a write");
        let Ok(Delivery::Issue(issue)) = now(session.commit()) else { panic!("a new session has a token") };
        if n == 2 {
            now(engine.destroy_session(&issue.token.id())).expect("a logout");
        }
        issue.token.encode().as_str().to_owned()
    });
    World { engine, tokens }
});

/// Answers with the session's number.
#[derive(Clone)]
struct Handler;

impl Service<Request<()>> for Handler {
    type Response = Response<String>;
    type Error = Infallible;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Response<String>, Infallible>>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<()>) -> Self::Future {
        Box::pin(async move {
            let session: Session = Session::from_request(&request).await.expect("memory does not fail");
            let n = session.get::<usize>("n").expect("a number");
            Ok(Response::new(format!("{n:?}")))
        })
    }
}

/// The session that these lines lead to, by the letter of the rules.
fn wanted(lines: &[Vec<u8>], world: &World) -> Option<usize> {
    if lines.iter().map(Vec::len).sum::<usize>() > MOST_BYTES {
        return None;
    }
    let pairs: Vec<&[u8]> = lines.iter().flat_map(|line| line.split(|b| *b == b';')).collect();
    if pairs.len() > MOST_PAIRS {
        return None;
    }
    let mut values: Vec<&[u8]> = Vec::new();
    for pair in pairs {
        let pair = pair.trim_ascii();
        let Some(at) = pair.iter().position(|b| *b == b'=') else { continue };
        let (name, value) = (&pair[..at], &pair[at + 1..]);
        if name == NAME && value.len() == TOKEN && !values.contains(&value) {
            values.push(value);
        }
    }
    values.truncate(MOST_VALUES);
    values.into_iter().find_map(|value| (0..2).find(|n| world.tokens[*n].as_bytes() == value))
}

pub(crate) fn run(input: &[u8]) {
    let world = &*WORLD;
    let mut bytes: VecDeque<u8> = input.iter().copied().collect();
    let mut lines: Vec<Vec<u8>> = vec![Vec::new()];
    while let Some(tag) = bytes.pop_front() {
        let mut next = || bytes.pop_front().unwrap_or(0);
        let Some(line) = lines.last_mut() else { return };
        match tag {
            0..40 => line.extend(b"session="),
            40..70 => line.extend(world.tokens[usize::from(tag) % 3].bytes()),
            70..90 => line.extend([b"; ", &b";"[..], b" ;\t", b";;"][usize::from(tag) % 4]),
            90..100 => lines.push(Vec::new()),
            100..110 => line.extend((0..TOKEN).map(|_| b'A' + next() % 26)),
            110..120 => {
                let token = world.tokens[usize::from(tag) % 2].as_bytes();
                let cut = usize::from(next()) % (TOKEN + 1);
                line.extend(&token[..cut]);
            }
            120..125 => line.extend(b"Session="),
            125..130 => line.extend(b"session ="),
            130..140 => line.extend(b"a=b;".repeat(usize::from(next()))),
            140..150 => line.extend(b"x".repeat(usize::from(next()) * 16)),
            150..155 => line.extend(b"\""),
            155..160 => line.extend(b"="),
            _ => line.push(next()),
        }
    }
    let mut request = Request::new(());
    // What cannot be in a header does not get as far as here.
    lines.retain(|line| match HeaderValue::from_bytes(line) {
        Ok(value) => {
            request.headers_mut().append(header::COOKIE, value);
            true
        }
        Err(_) => false,
    });
    let mut service = SessionLayer::new(world.engine.clone()).layer(Handler);
    let Ok(response) = now(service.call(request));
    let wanted = wanted(&lines, world);
    assert_eq!(*response.body(), format!("{wanted:?}"), "{lines:?}");
    // No foreign bytes are a session, and nobody is given a new one for having looked.
    assert!(!response.headers().contains_key(header::SET_COOKIE));
    for line in &lines {
        if let Some(token) = Token::parse(line) {
            assert_eq!(token.encode().as_str().as_bytes(), &**line);
        }
    }
}
