//! The audit log: what happened to sessions and what was odd about requests, as `tracing` events at the target
//! `sessile::audit`, and counted (feature `metrics`). No event has a token or an id; where one is needed to
//! tell sessions apart it has a [`SessionTag`].

#[cfg(feature = "metrics")]
#[path = "metrics.rs"]
pub(crate) mod meter;
#[cfg(not(feature = "metrics"))]
#[path = "no_metrics.rs"]
pub(crate) mod meter;
mod tag;

use std::fmt;
use std::sync::Arc;

use sessile_engine::{ErrorKind, Event, ExpiredBy, Observer, RevokedBy, SessionId};

pub use self::tag::SessionTag;

/// Writes every [`Event`] of the engine to `tracing`, and counts it with the feature `metrics`.
///
/// Give it to [`Builder::observer`](sessile_engine::Builder::observer). The layer writes its own events
/// (malformed, ambiguous and oversized requests) to the same target in any case.
///
/// # Events
/// All have the target `sessile::audit` and the field `event`; those about one session the field `session`, a
/// [`SessionTag`].
///
/// | `event` | level | further fields | meaning |
/// |---|---|---|---|
/// | `created` | info | `session` | a new session was published |
/// | `renewed` | info | `session`, `was` | it got a new token, and with it a new tag |
/// | `destroyed` | info | `session`, `by` = `holder` | ended through a handle: a logout |
/// | `revoked` | info | `session`, `by` = `id`, `owner`, `owner_limit` or `undelivered` | ended by its id, with all of its owner's, for the limit of sessions per owner, or because its response never left |
/// | `expired` | debug | `session`, `by` = `idle` or `deadline` | its time came while it was in memory |
/// | `evicted` | debug | `session` | left memory; its row stays |
/// | `unknown` | info | `session` | a token that opens no session: never issued, or its session is over |
/// | `malformed` | info | | a request presented what is no token |
/// | `ambiguous` | warn | `tokens` | a request presented several tokens; the first live one counted |
/// | `over_budget` | warn | | a request's cookies exceeded the budget; it had no session |
/// | `limit` | warn | `session`, `kind` | a write was refused |
/// | `corrupt` | error | `session`, `reason` | a stored session failed its check and was quarantined |
/// | `mended` | warn | `session`, `reason` | a stored session failed its check while it was in memory, and is written anew |
/// | `store_down` | error | `error` | the store failed |
/// | `store_up` | info | | it works again |
///
/// # Metrics
/// With the feature `metrics`, through the [`metrics`](https://docs.rs/metrics) facade:
///
/// | name | kind | labels | meaning |
/// |---|---|---|---|
/// | `sessile_events_total` | counter | `event`; `by` for `destroyed`, `revoked`, `expired` | the events above |
/// | `sessile_load_wait_seconds` | histogram | | how long requests waited for the store to load their session; cache hits are not in it |
/// | `sessile_commit_wait_seconds` | histogram | | how long response heads waited for their commit; commits that need not wait are not in it |
///
/// # Examples
/// ```
/// use sessile::{AuditObserver, Engine};
///
/// let engine = Engine::builder().observer(AuditObserver::new()).in_memory()?;
/// # Ok::<(), sessile::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct AuditObserver {
    next: Option<Arc<dyn Observer>>,
}

impl AuditObserver {
    /// An observer that only writes the audit log.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Hands each event to `next` as well, after it is written.
    #[must_use]
    pub fn and(self, next: impl Observer) -> Self {
        match self.next {
            None => Self { next: Some(Arc::new(next)) },
            Some(first) => Self {
                next: Some(Arc::new(move |event: &Event| {
                    first.on_event(event);
                    next.on_event(event);
                })),
            },
        }
    }
}

impl Observer for AuditObserver {
    fn on_event(&self, event: &Event) {
        write(event);
        if let Some(next) = &self.next {
            next.on_event(event);
        }
    }
}

impl fmt::Debug for AuditObserver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditObserver").field("next", &self.next.is_some()).finish()
    }
}

/// One event: its level, its name, and the fields beyond.
macro_rules! audit {
    ($level:ident, $event:literal $(, $field:ident = $value:expr)*) => {{
        meter::count($event, audit!(@by $($field = $value,)*));
        tracing::$level!(target: "sessile::audit", event = $event $(, $field = $value)*);
    }};
    (@by $first:ident = $_:expr, by = $by:expr,) => { Some($by) };
    (@by $($rest:tt)*) => { None };
}

fn tag(id: &SessionId) -> tracing::field::DisplayValue<SessionTag> {
    tracing::field::display(SessionTag::of(id))
}

fn write(event: &Event) {
    match event {
        Event::Created { id } => audit!(info, "created", session = tag(id)),
        Event::Renewed { from, to } => audit!(info, "renewed", session = tag(to), was = tag(from)),
        Event::Destroyed { id } => audit!(info, "destroyed", session = tag(id), by = "holder"),
        Event::Revoked { id, by } => audit!(info, "revoked", session = tag(id), by = revoker(*by)),
        Event::Expired { id, by } => {
            let by = if *by == ExpiredBy::Idle { "idle" } else { "deadline" };
            audit!(debug, "expired", session = tag(id), by = by);
        }
        Event::Evicted { id } => audit!(debug, "evicted", session = tag(id)),
        Event::Unknown { id } => audit!(info, "unknown", session = tag(id)),
        Event::LimitHit { id, kind } => {
            let kind = if *kind == ErrorKind::Limit { "record" } else { "memory" };
            audit!(warn, "limit", session = id.as_ref().map(tag), kind = kind);
        }
        Event::Quarantined { id, reason } => {
            audit!(error, "corrupt", session = tag(id), reason = reason.as_str());
        }
        Event::Mended { id, reason } => {
            audit!(warn, "mended", session = tag(id), reason = reason.as_str());
        }
        Event::StoreDown { error } => audit!(error, "store_down", error = error.as_str()),
        Event::StoreUp => audit!(info, "store_up"),
        // What a newer engine adds.
        other => audit!(info, "other", kind = name_of(other)),
    }
}

/// The name of an event that has no row in the table yet, without its fields: they may hold ids.
fn name_of(event: &Event) -> String {
    format!("{event:?}").chars().take_while(char::is_ascii_alphanumeric).collect()
}

/// A request presented what is no token.
pub(crate) fn malformed() {
    audit!(info, "malformed");
}

/// A request presented several tokens.
pub(crate) fn ambiguous(tokens: usize) {
    audit!(warn, "ambiguous", tokens = tokens);
}

/// A request's cookies exceeded the budget.
pub(crate) fn over_budget() {
    audit!(warn, "over_budget");
}

/// Who revoked a session, as a word of the audit log.
fn revoker(by: RevokedBy) -> &'static str {
    match by {
        RevokedBy::Id => "id",
        RevokedBy::Owner => "owner",
        RevokedBy::OwnerLimit => "owner_limit",
        RevokedBy::Undelivered => "undelivered",
        _ => "engine",
    }
}
