//! A library under test, and the loops that put requests through it. The loops are compiled for each library, so that
//! none pays for being one of many.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use http::header::{CONTENT_TYPE, COOKIE, SET_COOKIE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::Empty;
use sessile_bench::alloc::counted;
use sessile_bench::cycle::run;
use sessile_bench::data::Stream;
use tower_service::Service;

use crate::out::{processor_time, quantile};
use crate::work::Work;

pub type Body = Empty<Bytes>;
pub type Req = Request<()>;
pub type Resp = Response<Body>;

/// The response of every handler: like any real one it has a content type.
pub fn respond(seen: u64) -> Resp {
    let mut response = Response::new(Body::new());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    std::hint::black_box(seen);
    response
}

/// The response to a pop.
pub fn popped(found: bool) -> Resp {
    let mut response = respond(0);
    *response.status_mut() = if found { StatusCode::OK } else { StatusCode::NO_CONTENT };
    response
}

/// The response to a look at the counter.
pub fn count(n: u64) -> Resp {
    let mut response = respond(0);
    response.headers_mut().insert(crate::work::COUNT_HEADER, HeaderValue::from(n));
    response
}

/// How futures of a library are driven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drive {
    /// They are ready when polled: no executor between the clock and the library.
    Poll,
    /// They wait for other threads.
    Block,
}

/// What cycles cost.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    pub ns: f64,
    pub allocations: f64,
    pub bytes: f64,
}

/// What many requests at once did.
#[derive(Debug, Clone, Default)]
pub struct Crowd {
    pub requests: u64,
    pub ok: u64,
    pub seconds: f64,
    /// Of all threads, the library's own among them.
    pub processor_seconds: f64,
    pub latencies_us: Vec<f64>,
}

/// Which sessions a crowd wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aim {
    Spread,
    One,
}

/// How long a crowd works.
#[derive(Debug, Clone, Copy)]
pub enum Until {
    After(Duration),
    /// Each task makes one request.
    Once,
}

pub trait Subject {
    fn name(&self) -> &str;

    /// Whether the data is on the client's side: nothing to race for, nothing in memory.
    fn client_side(&self) -> bool {
        false
    }

    /// Whether it can do this at all.
    fn can(&self, work: Work) -> bool {
        work != Work::ReadInPlace
    }

    /// Cookie headers of `n` new sessions.
    fn populate(&mut self, n: usize, work: Work) -> Vec<HeaderValue> {
        (0..n)
            .map(|_| {
                let cookie = self.once(work, None).1.unwrap_or(HeaderValue::from_static(""));
                // The first clone allocates what all share. It is the harness's, so it is made here.
                drop(cookie.clone());
                cookie
            })
            .collect()
    }

    /// One request, and what it did to the cookie.
    fn once(&mut self, work: Work, cookie: Option<HeaderValue>) -> (u16, Option<HeaderValue>, HeaderMap);

    /// One request for each cookie in turn, on the clock; the cookies that come back.
    fn each(&mut self, work: Work, cookies: &mut [HeaderValue]) -> Cost;

    /// `n` requests with random ones of `cookies`, on the clock.
    fn random(&mut self, work: Work, cookies: &[HeaderValue], stream: &mut Stream, n: usize) -> Cost;

    /// `tasks` at once on `workers` threads. `None`: not for this framework.
    fn crowd(
        &self,
        _: Work,
        _: &[HeaderValue],
        _: Aim,
        _workers: usize,
        _tasks: usize,
        _: Until,
    ) -> Option<Crowd> {
        None
    }

    /// Lets a library write out what it holds back.
    fn settle(&mut self) {}
}

/// The cookies that a response sets, as the header that brings them back.
pub fn cookie_of(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut all = String::new();
    for line in headers.get_all(SET_COOKIE) {
        let text = line.to_str().ok()?;
        let pair = text.split(';').next().unwrap_or_default().trim();
        let value = pair.split_once('=').map_or("", |(_, value)| value);
        if value.is_empty() || text.contains("Max-Age=0") {
            continue;
        }
        if !all.is_empty() {
            all.push_str("; ");
        }
        all.push_str(pair);
    }
    if all.is_empty() { None } else { HeaderValue::from_str(&all).ok() }
}

pub fn request(cookie: Option<HeaderValue>) -> Req {
    let mut request = Request::new(());
    if let Some(cookie) = cookie {
        request.headers_mut().insert(COOKIE, cookie);
    }
    request
}

/// A cookie as it comes out of a socket: its bytes are in the processor's cache, because they have just been read.
pub fn received(cookie: &HeaderValue) -> HeaderValue {
    std::hint::black_box(cookie.as_bytes().iter().fold(0_u8, |sum, byte| sum ^ byte));
    cookie.clone()
}

/// A library that is a tower layer.
pub struct Tower<S, F> {
    name: &'static str,
    drive: Drive,
    client_side: bool,
    in_place: bool,
    make: F,
    made: Vec<(Work, S)>,
    settle: Box<dyn FnMut() + Send>,
}

impl<S, F> Tower<S, F>
where
    S: Service<Req, Response = Resp, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    F: Fn(Work) -> S,
{
    pub fn new(name: &'static str, drive: Drive, make: F) -> Self {
        Self {
            name,
            drive,
            client_side: false,
            in_place: false,
            make,
            made: Vec::new(),
            settle: Box::new(|| ()),
        }
    }

    pub fn client_side(mut self) -> Self {
        self.client_side = true;
        self
    }

    pub fn in_place(mut self) -> Self {
        self.in_place = true;
        self
    }

    pub fn settle_by(mut self, settle: impl FnMut() + Send + 'static) -> Self {
        self.settle = Box::new(settle);
        self
    }

    fn service(&mut self, work: Work) -> S {
        if let Some((_, service)) = self.made.iter().find(|(w, _)| *w == work) {
            return service.clone();
        }
        let service = (self.make)(work);
        self.made.push((work, service.clone()));
        service
    }
}

/// Drives one call.
#[inline]
fn drive<T>(how: Drive, future: impl Future<Output = Result<T, Infallible>>) -> T {
    let result = match how {
        Drive::Poll => run(future),
        Drive::Block => tokio::runtime::Handle::current().block_on(future),
    };
    match result {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

/// Requests that are on the clock together.
const SLICE: usize = 250;

/// Puts `n` steps on the clock and on the allocator's books. The time is the median of slices: what other processes
/// take of the machine falls on some of them only.
///
/// `prepare` makes what each step takes, off the clock, a slice ahead of it.
#[inline]
pub fn measured<T>(n: usize, mut prepare: impl FnMut(usize) -> T, mut step: impl FnMut(T)) -> Cost {
    let mut slices = Vec::with_capacity(n / SLICE + 1);
    let mut ready = Vec::with_capacity(SLICE);
    let before = counted();
    for from in (0..n).step_by(SLICE) {
        let to = n.min(from + SLICE);
        ready.extend((from..to).map(&mut prepare));
        let start = Instant::now();
        for prepared in ready.drain(..) {
            step(prepared);
        }
        slices.push(start.elapsed().as_secs_f64() * 1e9 / (to - from) as f64);
    }
    let after = counted();
    slices.sort_by(f64::total_cmp);
    let per = |x: f64| x / n.max(1) as f64;
    Cost {
        ns: quantile(&slices, 0.5),
        allocations: per((after.0 - before.0) as f64),
        bytes: per((after.1 - before.1) as f64),
    }
}

impl<S, F> Subject for Tower<S, F>
where
    S: Service<Req, Response = Resp, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    F: Fn(Work) -> S,
{
    fn name(&self) -> &str {
        self.name
    }

    fn client_side(&self) -> bool {
        self.client_side
    }

    fn can(&self, work: Work) -> bool {
        self.in_place || work != Work::ReadInPlace
    }

    fn once(&mut self, work: Work, cookie: Option<HeaderValue>) -> (u16, Option<HeaderValue>, HeaderMap) {
        let response = drive(self.drive, self.service(work).call(request(cookie)));
        (response.status().as_u16(), cookie_of(response.headers()), response.headers().clone())
    }

    fn each(&mut self, work: Work, cookies: &mut [HeaderValue]) -> Cost {
        let (mut service, how) = (self.service(work), self.drive);
        let fresh = matches!(work, Work::New(_) | Work::NewIdle(_) | Work::NewShort(_));
        let mut heads = Vec::with_capacity(cookies.len());
        let prepare = |i: usize| (!fresh).then(|| received(&cookies[i]));
        let cost = measured(cookies.len(), prepare, |cookie| {
            let mut response = drive(how, service.call(request(cookie)));
            heads.push(std::mem::take(response.headers_mut()));
        });
        for (cookie, head) in cookies.iter_mut().zip(&heads) {
            if let Some(new) = cookie_of(head) {
                *cookie = new;
            }
        }
        cost
    }

    fn random(&mut self, work: Work, cookies: &[HeaderValue], stream: &mut Stream, n: usize) -> Cost {
        let (mut service, how) = (self.service(work), self.drive);
        let prepare = |_| received(&cookies[stream.below(cookies.len())]);
        measured(n, prepare, |cookie| {
            std::hint::black_box(drive(how, service.call(request(Some(cookie)))).status());
        })
    }

    fn crowd(
        &self,
        work: Work,
        cookies: &[HeaderValue],
        aim: Aim,
        workers: usize,
        tasks: usize,
        until: Until,
    ) -> Option<Crowd> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build().ok()?;
        // Layers may start tasks of their own, which belong to the runtime that lives on.
        let service = (self.make)(work);
        let stop = Arc::new(AtomicBool::new(false));
        let cookies: Arc<[HeaderValue]> = if aim == Aim::One { cookies[..1].into() } else { cookies.into() };
        let (start, ran) = (Instant::now(), processor_time("self"));
        let handles: Vec<_> = (0..tasks)
            .map(|task| {
                let (mut service, stop, cookies) = (service.clone(), stop.clone(), cookies.clone());
                runtime.spawn(async move {
                    let mut stream = Stream::new(task as u64 * 7919 + 1);
                    let mut latencies = Vec::new();
                    // Its own until the end: counters that threads share would be measured with the library.
                    let (mut requests, mut ok) = (0_u64, 0_u64);
                    loop {
                        let cookie = cookies[stream.below(cookies.len())].clone();
                        // One in sixteen: the clock costs as much as a part of a request.
                        let begun =
                            (requests.is_multiple_of(16) && latencies.len() < 100_000).then(Instant::now);
                        let Ok(response) = service.call(request(Some(cookie))).await;
                        requests += 1;
                        latencies.extend(begun.map(|begun| begun.elapsed().as_secs_f64() * 1e6));
                        ok += u64::from(response.status() == StatusCode::OK);
                        if matches!(until, Until::Once) || stop.load(Ordering::Relaxed) {
                            return (requests, ok, latencies);
                        }
                        // As between two requests of a connection.
                        tokio::task::yield_now().await;
                    }
                })
            })
            .collect();
        if let Until::After(time) = until {
            std::thread::sleep(time);
            stop.store(true, Ordering::Relaxed);
        }
        let mut crowd = Crowd::default();
        for handle in handles {
            let (requests, ok, latencies) = runtime.block_on(handle).ok()?;
            crowd.requests += requests;
            crowd.ok += ok;
            crowd.latencies_us.extend(latencies);
        }
        crowd.seconds = start.elapsed().as_secs_f64();
        // The runtime's threads are still there, with what they have run.
        crowd.processor_seconds = (processor_time("self") - ran) / 1e9;
        crowd.latencies_us.sort_by(f64::total_cmp);
        Some(crowd)
    }

    fn settle(&mut self) {
        (self.settle)();
    }
}
