//! Counts audit events and times what requests waited for, through the `metrics` facade. Names and labels are in
//! the table of [`AuditObserver`](super::AuditObserver).

use std::time::Instant;

pub(crate) fn count(event: &'static str, by: Option<&'static str>) {
    match by {
        Some(by) => metrics::counter!("sessile_events_total", "event" => event, "by" => by).increment(1),
        None => metrics::counter!("sessile_events_total", "event" => event).increment(1),
    }
}

/// Runs from the first time something was not ready to when it is.
#[derive(Debug, Default)]
pub(crate) struct Wait(Option<Instant>);

impl Wait {
    #[expect(clippy::disallowed_methods, reason = "a wait is real time, whatever clock the engine runs on")]
    pub(crate) fn begin(&mut self) {
        self.0.get_or_insert_with(Instant::now);
    }

    pub(crate) fn end(&mut self, histogram: &'static str) {
        if let Some(since) = self.0.take() {
            metrics::histogram!(histogram).record(since.elapsed());
        }
    }
}
