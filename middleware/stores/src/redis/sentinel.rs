//! Asks sentinels which server is the primary. It reads no rows and never asks a replica.

use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{Client, Value};
use sessile_engine::store::{StoreError, StoreErrorKind};

use super::link::connection_config;
use super::{address, error, scripts};

/// The sentinels of one primary.
pub(super) struct Sentinel {
    sentinels: Vec<Client>,
    name: String,
    /// How to connect to the primary, whatever its address is.
    template: Client,
    patience: Duration,
}

impl Sentinel {
    pub(super) fn new(sentinels: Vec<Client>, name: &str, template: Client) -> Self {
        Self { sentinels, name: name.to_owned(), template, patience: Duration::from_millis(500) }
    }

    /// Each sentinel gets its part of `patience`, so that one that is down does not take all of it.
    pub(super) fn with_patience(&self, patience: Duration) -> Self {
        let parts = u32::try_from(self.sentinels.len()).unwrap_or(u32::MAX).saturating_add(1);
        Self {
            sentinels: self.sentinels.clone(),
            name: self.name.clone(),
            template: self.template.clone(),
            patience: patience / parts,
        }
    }

    #[cfg(test)]
    pub(super) fn sentinels(&self) -> &[Client] {
        &self.sentinels
    }

    #[cfg(test)]
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    #[cfg(test)]
    pub(super) fn template(&self) -> &Client {
        &self.template
    }

    /// A client for the primary of now.
    pub(super) async fn primary(&self) -> Result<Client, StoreError> {
        let at = self.locate().await?;
        let wrong =
            || error::own(StoreErrorKind::Config, "the sentinels name an address that cannot be used");
        let (host, port) = at.rsplit_once(':').ok_or_else(wrong)?;
        let info = self.template.get_connection_info().clone();
        let port = port.parse().map_err(|_| wrong())?;
        let addr = address::moved(info.addr(), host, port).ok_or_else(wrong)?;
        Client::open(info.set_addr(addr)).map_err(|_| wrong())
    }

    /// `host:port` of the primary, as the first sentinel that answers says.
    pub(super) async fn locate(&self) -> Result<String, StoreError> {
        let silent = || error::own(StoreErrorKind::Unavailable, "a sentinel does not answer");
        let mut failed = None;
        for sentinel in &self.sentinels {
            match tokio::time::timeout(self.patience, self.ask(sentinel)).await {
                Ok(Ok(Some(at))) => return Ok(at),
                Ok(Ok(None)) => {
                    let what = "the sentinels know no primary of this name";
                    failed = Some(error::own(StoreErrorKind::Unavailable, what));
                }
                Ok(Err(e)) => failed = Some(e),
                Err(_) => failed = Some(silent()),
            }
        }
        Err(failed.unwrap_or_else(silent))
    }

    async fn ask(&self, sentinel: &Client) -> Result<Option<String>, StoreError> {
        let config = connection_config(self.patience);
        let connection = sentinel.get_multiplexed_async_connection_with_config(&config).await;
        let mut connection = connection.map_err(|e| error::of("no connection to a sentinel", e))?;
        let mut cmd = ::redis::cmd("SENTINEL");
        cmd.arg("GET-MASTER-ADDR-BY-NAME").arg(&self.name);
        let said = cmd.query_async(&mut connection).await;
        match said.map_err(|e| error::of("a sentinel", e))? {
            Value::Nil => Ok(None),
            Value::Array(parts) => {
                let text = |part: &Value| {
                    scripts::bytes(part).and_then(|text| std::str::from_utf8(text).ok()).map(str::to_owned)
                };
                match &parts[..] {
                    [host, port] => match (text(host), text(port)) {
                        (Some(host), Some(port)) => Ok(Some(format!("{host}:{port}"))),
                        _ => Err(error::unexpected("a sentinel")),
                    },
                    _ => Err(error::unexpected("a sentinel")),
                }
            }
            _ => Err(error::unexpected("a sentinel")),
        }
    }
}

/// Whether the other end is a primary: a sentinel may not know yet that it is none any more.
pub(super) async fn confirm(connection: &mut MultiplexedConnection) -> Result<(), StoreError> {
    let said = ::redis::cmd("ROLE").query_async::<Value>(connection).await;
    is_primary(&said.map_err(|e| error::of("the role of a server", e))?)
}

/// The same, of its answer to `ROLE`.
pub(super) fn is_primary(said: &Value) -> Result<(), StoreError> {
    match said {
        Value::Array(parts) if parts.first().and_then(scripts::bytes) == Some(b"master") => Ok(()),
        Value::Array(_) => {
            Err(error::own(StoreErrorKind::Unavailable, "the server is a replica: a failover is under way"))
        }
        _ => Err(error::unexpected("the role of a server")),
    }
}
