//! Addresses: what the URLs of one server, of a cluster and of sentinels name. It connects to nothing and repeats no
//! password.

use std::sync::Arc;
use std::time::Duration;

use ::redis::{Client, ConnectionAddr, IntoConnectionInfo as _, ProtocolVersion};
use sessile_engine::store::{StoreError, StoreErrorKind};

use super::error;
use super::sentinel::Sentinel;

/// Where the rows are.
#[derive(Clone)]
pub(super) enum Address {
    Server(Box<Client>),
    /// Nodes of one cluster, which know the others.
    Cluster(Vec<Client>),
    /// Sentinels, which know the primary.
    Sentinel(Arc<Sentinel>),
}

const SENTINEL_PORT: &str = "26379";

fn wrong(what: impl Into<std::borrow::Cow<'static, str>>) -> StoreError {
    error::own(StoreErrorKind::Config, what)
}

/// Reads a URL. The driver's errors are not repeated: they might hold a part of the address.
pub(super) fn parse(url: &str) -> Result<Address, StoreError> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", ""));
    let (plain, kind) = scheme.split_once('+').unwrap_or((scheme, ""));
    let is_plain = matches!(plain, "redis" | "rediss" | "valkey" | "valkeys");
    match kind {
        "cluster" if is_plain => {
            let Many { user, hosts, path, query } = Many::of(rest);
            let path = path.trim_end_matches('/');
            if !matches!(path, "" | "/0") {
                return Err(wrong("a cluster has no databases: the address must end after the last port"));
            }
            let nodes =
                hosts.split(',').map(|host| client(&format!("{plain}://{user}{host}/{query}"))).collect();
            cluster(nodes)
        }
        "sentinel" if is_plain => {
            let Many { user, hosts, path, query } = Many::of(rest);
            let mut parts = path.trim_matches('/').split('/');
            let (name, db) = (parts.next().unwrap_or_default(), parts.next().unwrap_or("0"));
            if name.is_empty() || parts.next().is_some() {
                return Err(wrong("the address of sentinels must end with the name of the primary"));
            }
            let (mut kept, mut of_sentinels) = (Vec::new(), ("", ""));
            for pair in query.trim_start_matches('?').split('&').filter(|pair| !pair.is_empty()) {
                match pair.split_once('=') {
                    Some(("sentinel_user", value)) => of_sentinels.0 = value,
                    Some(("sentinel_password", value)) => of_sentinels.1 = value,
                    _ => kept.push(pair),
                }
            }
            let with_port = |host: &str| {
                let bare = host.rsplit_once(']').map_or(host, |(_, rest)| rest);
                if bare.contains(':') { host.to_owned() } else { format!("{host}:{SENTINEL_PORT}") }
            };
            let own = match of_sentinels {
                ("", "") => String::new(),
                (user, password) => format!("{user}:{password}@"),
            };
            let sentinels: Result<Vec<_>, _> = hosts
                .split(',')
                .map(|host| client(&format!("{plain}://{own}{}/", with_port(host))))
                .collect();
            let query = if kept.is_empty() { String::new() } else { format!("?{}", kept.join("&")) };
            let primary = client(&format!("{plain}://{user}primary/{db}{query}"))?;
            sentinel(sentinels, name, primary)
        }
        _ => Ok(Address::Server(Box::new(resp3(client(url)?)?))),
    }
}

pub(super) fn cluster(nodes: Result<Vec<Client>, StoreError>) -> Result<Address, StoreError> {
    let nodes: Vec<_> = nodes?.into_iter().map(resp3).collect::<Result<_, _>>()?;
    if nodes.is_empty() || nodes.iter().any(|node| of(node.get_connection_info().addr()).is_none()) {
        return Err(wrong("a cluster is named by the hosts and ports of some of its nodes"));
    }
    if nodes.iter().any(|node| node.get_connection_info().redis_settings().db() != 0) {
        return Err(wrong("a cluster has no databases"));
    }
    Ok(Address::Cluster(nodes))
}

pub(super) fn sentinel(
    sentinels: Result<Vec<Client>, StoreError>,
    name: &str,
    primary: Client,
) -> Result<Address, StoreError> {
    let sentinels = sentinels?;
    let is_host = |client: &Client| of(client.get_connection_info().addr()).is_some();
    if sentinels.is_empty() || !is_host(&primary) {
        return Err(wrong("sentinels are named by their hosts and ports, and a primary has those too"));
    }
    Ok(Address::Sentinel(Arc::new(Sentinel::new(sentinels, name, resp3(primary)?))))
}

impl Address {
    /// How long a sentinel may take to answer.
    pub(super) fn with_patience(self, patience: Duration) -> Self {
        match self {
            Self::Sentinel(sentinel) => Self::Sentinel(Arc::new(sentinel.with_patience(patience))),
            other => other,
        }
    }
}

/// The parts of a URL with several hosts.
struct Many<'a> {
    /// With its `@`.
    user: &'a str,
    hosts: &'a str,
    path: &'a str,
    /// With its `?`.
    query: &'a str,
}

impl<'a> Many<'a> {
    fn of(rest: &'a str) -> Self {
        let (rest, query) = rest.split_at(rest.find('?').unwrap_or(rest.len()));
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (user, hosts) = authority.split_at(authority.rfind('@').map_or(0, |at| at + 1));
        Self { user, hosts, path, query }
    }
}

fn client(url: &str) -> Result<Client, StoreError> {
    let info = url.into_connection_info().map_err(|e| {
        wrong(format!("the address is not one of Redis ({}); see `RedisStore::builder`", e.category()))
    })?;
    Client::open(info).map_err(|e| wrong(format!("the address cannot be used ({})", e.category())))
}

/// Changes are told in the newer protocol only.
pub(super) fn resp3(client: Client) -> Result<Client, StoreError> {
    let info = client.get_connection_info().clone();
    let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    Client::open(info.set_redis_settings(settings))
        .map_err(|e| wrong(format!("the address cannot be used ({})", e.category())))
}

/// `host:port`; none of a socket's path.
pub(super) fn of(addr: &ConnectionAddr) -> Option<String> {
    match addr {
        ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
            Some(format!("{host}:{port}"))
        }
        _ => None,
    }
}

/// The same kind of connection, to another server.
pub(super) fn moved(addr: &ConnectionAddr, host: &str, port: u16) -> Option<ConnectionAddr> {
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    match addr.clone() {
        ConnectionAddr::Tcp(..) => Some(ConnectionAddr::Tcp(host, port)),
        ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
            Some(ConnectionAddr::TcpTls { host, port, insecure, tls_params })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hosts(clients: &[Client]) -> Vec<String> {
        clients.iter().filter_map(|client| of(client.get_connection_info().addr())).collect()
    }

    #[test]
    fn urls_name_clusters_and_sentinels() {
        let Ok(Address::Cluster(nodes)) = parse("redis+cluster://u:p@a:7001,b:7002,[::1]:7003") else {
            panic!("no cluster")
        };
        assert_eq!(hosts(&nodes)[..2], ["a:7001", "b:7002"]);
        assert!(nodes.iter().all(|node| {
            let settings = node.get_connection_info().redis_settings();
            settings.password() == Some("p")
                && settings.username() == Some("u")
                && settings.protocol() == ProtocolVersion::RESP3
        }));
        assert!(matches!(parse("valkey+cluster://a/"), Ok(Address::Cluster(_))));
        let url = "redis+sentinel://:p%40@a:7001,b/main/3?sentinel_password=s";
        let Ok(Address::Sentinel(sentinel)) = parse(url) else { panic!("no sentinel") };
        assert_eq!(hosts(sentinel.sentinels()), ["a:7001", "b:26379"]);
        let own = sentinel.sentinels()[0].get_connection_info().redis_settings();
        assert_eq!((own.username(), own.password()), (None, Some("s")));
        assert_eq!(sentinel.name(), "main");
        let primary = sentinel.template().get_connection_info().redis_settings();
        assert_eq!((primary.password(), primary.db()), (Some("p@"), 3));
    }

    #[test]
    fn what_names_neither_is_refused_and_not_repeated() {
        for url in [
            "redis+cluster://",
            "redis+cluster://u:s3cret@a/1",
            "redis+cluster://u:s3cret@a:x,b",
            "redis+cluster://u:s3cret@a,,b",
            "redis+sentinel://u:s3cret@a",
            "redis+sentinel://u:s3cret@a/",
            "redis+sentinel://u:s3cret@a/name/s3cret",
            "redis+sentinel://u:s3cret@a/name/1/2",
            "http+cluster://u:s3cret@a",
            "redis+other://u:s3cret@a",
            "+cluster://u:s3cret@a",
        ] {
            let Err(e) = parse(url) else { panic!("{url} was accepted") };
            assert_eq!(e.kind(), StoreErrorKind::Config, "{url}");
            assert!(!format!("{e} {e:?}").contains("s3cret"), "{e:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_is_too_much(text in "\\PC{0,60}") {
            let _ = parse(&text);
            let _ = parse(&format!("redis+cluster://{text}"));
            let _ = parse(&format!("redis+sentinel://{text}"));
        }
    }
}
