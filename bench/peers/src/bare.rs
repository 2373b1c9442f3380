//! The handler without sessions: what every other subject's figures are net of.

use http::header::COOKIE;

use crate::subject::{Drive, Req, Subject, Tower, respond};

pub fn tower() -> Box<dyn Subject> {
    Box::new(Tower::new("bare tower", Drive::Poll, |_| {
        tower::service_fn(|request: Req| async move {
            Ok(respond(request.headers().get(COOKIE).map_or(0, |c| c.len() as u64)))
        })
    }))
}
