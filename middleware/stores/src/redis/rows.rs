//! The rows of a namespace: on one server, or spread over a cluster. It passes each call on to the one or the other.

use std::sync::Arc;

use sessile_engine::SessionId;
use sessile_engine::store::{Change, Expired, Listed, Outcome, Row, StoreError, StoreErrorKind};

use super::address::Address;
use super::cluster::{Router, Spread};
use super::config::Builder;
use super::error;
use super::lease::Lease;
use super::link::{Link, Origin};
use super::row::Names;
use super::scripts::Scripts;
use super::shared::Shared;

pub(super) enum Rows {
    One(Arc<Shared>),
    Spread(Box<Spread>),
}

impl Rows {
    pub(super) fn new(settings: &Builder, address: Address) -> Result<Self, StoreError> {
        let origin = match address.with_patience(settings.deadline) {
            Address::Server(client) => Origin::Server(client),
            Address::Sentinel(sentinel) => Origin::Sentinel(sentinel),
            Address::Cluster(seeds) => {
                if settings.lease.is_some() {
                    return Err(error::own(
                        StoreErrorKind::Config,
                        "a cluster cannot be exclusive: no commit over several of its servers is whole or not made",
                    ));
                }
                let router = Router::new(seeds, settings.deadline);
                return Ok(Self::Spread(Box::new(Spread::new(router, &settings.prefix, settings.listing))));
            }
        };
        Ok(Self::One(Arc::new(Shared {
            link: Link::new(origin, settings.deadline),
            scripts: Scripts::new(Names::new(&settings.prefix), settings.listing),
            listing: settings.listing,
            lease: settings.lease.map(Lease::new).transpose()?,
        })))
    }

    pub(super) fn is_closed(&self) -> bool {
        match self {
            Self::One(shared) => shared.link.is_closed(),
            Self::Spread(spread) => spread.router.is_closed(),
        }
    }

    /// Refuses all later calls. Returns whether this call closed it.
    pub(super) fn close(&self) -> bool {
        match self {
            Self::One(shared) => shared.link.close(),
            Self::Spread(spread) => spread.router.close(),
        }
    }

    pub(super) async fn leave(&self) -> Result<(), StoreError> {
        match self {
            Self::One(shared) => shared.leave().await,
            Self::Spread(spread) => {
                spread.router.hang_up();
                Ok(())
            }
        }
    }

    pub(super) async fn open(&self) -> Result<(), StoreError> {
        match self {
            Self::One(shared) => shared.open().await,
            Self::Spread(spread) => spread.open().await,
        }
    }

    pub(super) async fn high_water(&self) -> Result<u64, StoreError> {
        match self {
            Self::One(shared) => shared.high_water().await,
            Self::Spread(spread) => spread.high_water().await,
        }
    }

    pub(super) async fn load(&self, id: &SessionId) -> Result<Option<Row>, StoreError> {
        match self {
            Self::One(shared) => shared.load(id).await,
            Self::Spread(spread) => spread.load(id).await,
        }
    }

    pub(super) async fn commit(&self, now: u64, changes: &[Change]) -> Result<Vec<Outcome>, StoreError> {
        match self {
            Self::One(shared) => shared.commit(now, changes).await,
            Self::Spread(spread) => spread.commit(now, changes).await,
        }
    }

    pub(super) async fn expire(
        &self,
        now: u64,
        high_water: u64,
        limit: usize,
    ) -> Result<Expired, StoreError> {
        match self {
            Self::One(shared) => shared.expire(now, high_water, limit).await,
            Self::Spread(spread) => spread.expire(now, high_water, limit).await,
        }
    }

    /// Rows behind `after`, and the ids of damaged ones: as many as `limit` together if they are to be named.
    pub(super) async fn page(
        &self,
        after: Option<SessionId>,
        limit: usize,
        name_damaged: bool,
    ) -> Result<(Vec<Listed>, Vec<SessionId>), StoreError> {
        match self {
            Self::One(shared) => shared.page(after, limit, name_damaged).await,
            Self::Spread(spread) => spread.page(after, limit, name_damaged).await,
        }
    }

    pub(super) async fn list_owner(&self, owner: &str) -> Result<Vec<Listed>, StoreError> {
        match self {
            Self::One(shared) => shared.list_owner(owner).await,
            Self::Spread(spread) => spread.list_owner(owner).await,
        }
    }

    pub(super) async fn count(&self) -> Result<u64, StoreError> {
        match self {
            Self::One(shared) => shared.count().await,
            Self::Spread(spread) => spread.count().await,
        }
    }
}
