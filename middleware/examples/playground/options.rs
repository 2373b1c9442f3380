//! The command line: what can be asked for and how it is spelled. It opens nothing.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use clap::error::ErrorKind;
use clap::{ArgAction, CommandFactory as _, Parser, ValueEnum};
use sessile::CookiePolicy;
use tracing_subscriber::filter::LevelFilter;

/// How long a write may wait to be durable.
pub(crate) const WINDOW: Duration = Duration::from_millis(50);

/// Serve the whole session API of sessile over HTTP.
#[derive(Parser)]
#[command(name = "playground", version)]
pub(crate) struct Options {
    /// Address and port to listen on; port 0 takes a free one.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:4000")]
    pub(crate) listen: SocketAddr,
    /// Where sessions live: `memory`, `redb:PATH`, `sled:PATH`, or the URL of a server that other playgrounds may use too:
    /// `redis://…`, `postgres://…`, `mysql://…`, `etcd://…`, `mongodb://…`, `sqlite:PATH` and others, each if the build has its
    /// feature.
    #[arg(long, value_name = "memory|redb:PATH|sled:PATH|URL", default_value = "redb:sessions.redb")]
    pub(crate) store: StoreOption,
    /// How long a session lives, used or not: `24h`, `20m`, `500ms`.
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = parse_duration, allow_hyphen_values = true)]
    pub(crate) lifetime: Duration,
    /// How long a session lives unused; without it idle sessions live as long as busy ones.
    #[arg(long, value_name = "TIME", value_parser = parse_duration, allow_hyphen_values = true)]
    pub(crate) idle: Option<Duration>,
    /// What an answered write survives: with `eventual` a crash may lose the last 50 ms, with `process` only a loss of
    /// power may, with `power` nothing is lost.
    #[arg(long, value_enum, default_value_t = DurabilityOption::Process)]
    pub(crate) durability: DurabilityOption,
    /// Memory for cached sessions: `64MiB`, `1GB`, or bytes.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) memory_limit: Option<usize>,
    /// Send the cookie without `Secure`, for clients that refuse it over plain HTTP.
    #[arg(long)]
    pub(crate) insecure_http: bool,
    /// How tokens travel: in a cookie, or in `X-Session-Token` and `Authorization: Bearer`.
    #[arg(long, value_enum, default_value_t = TransportOption::Cookie)]
    pub(crate) transport: TransportOption,
    /// The name of the cookie; `session` without it.
    #[arg(long, value_name = "NAME", value_parser = parse_cookie_name)]
    pub(crate) cookie_name: Option<String>,
    /// Whether browsers keep the cookie when they are closed; `/remember` changes it for one session.
    #[arg(long, value_name = "true|false", default_value_t = true, action = ArgAction::Set)]
    pub(crate) persist: bool,
    /// Give a session a new token when its token is this many seconds old.
    #[arg(long, value_name = "SECS", value_parser = clap::value_parser!(u64).range(1..=MAX_SECS))]
    pub(crate) rotate: Option<u64>,
    /// How many sessions one owner may have.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_sessions: Option<u32>,
    /// What a login beyond `--max-sessions` does.
    #[arg(long, value_enum, default_value_t = FullOption::Refuse)]
    pub(crate) when_full: FullOption,
    /// Serve `/token`, which shows a client its own token, to scripts of the page as well.
    #[arg(long)]
    pub(crate) show_token: bool,
    /// What is logged to stderr: `info` has the audit log of sessions.
    #[arg(long, value_name = "off|error|warn|info|debug|trace", default_value = "info", value_parser = parse_level)]
    pub(crate) log: LevelFilter,
}

/// A century: more is a typing error.
const MAX_SECS: u64 = 100 * 366 * 24 * 60 * 60;

impl Options {
    /// The command line of this process. Ends the process with code 2 if it is wrong.
    pub(crate) fn from_command_line() -> Self {
        let options = Self::parse();
        if options.transport == TransportOption::Header && options.cookie_name.is_some() {
            Self::command()
                .error(ErrorKind::ArgumentConflict, "--cookie-name means nothing with --transport header")
                .exit();
        }
        options
    }
}

#[derive(Clone)]
pub(crate) enum StoreOption {
    Memory,
    Redb(PathBuf),
    #[cfg(feature = "sled")]
    Sled(PathBuf),
    #[cfg(any(
        feature = "redis",
        feature = "postgres",
        feature = "mysql",
        feature = "mssql",
        feature = "sqlite",
        feature = "etcd",
        feature = "consul",
        feature = "mongodb",
        feature = "dynamodb",
        feature = "firestore",
        feature = "memcached"
    ))]
    Remote(String),
}

impl FromStr for StoreOption {
    type Err = &'static str;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        match s.split_once(':') {
            None if s == "memory" => Ok(Self::Memory),
            Some(("redb", path)) if !path.is_empty() => Ok(Self::Redb(path.into())),
            #[cfg(feature = "sled")]
            Some(("sled", path)) if !path.is_empty() => Ok(Self::Sled(path.into())),
            #[cfg(not(feature = "sled"))]
            Some(("sled", _)) => Err("this build has no sled store: build it with `--features sled`"),
            #[cfg(any(
                feature = "redis",
                feature = "postgres",
                feature = "mysql",
                feature = "mssql",
                feature = "sqlite",
                feature = "etcd",
                feature = "consul",
                feature = "mongodb",
                feature = "dynamodb",
                feature = "firestore",
                feature = "memcached"
            ))]
            Some((scheme, rest)) if is_remote(scheme, rest) => Ok(Self::Remote(s.to_owned())),
            #[cfg(not(any(
                feature = "redis",
                feature = "postgres",
                feature = "mysql",
                feature = "mssql",
                feature = "sqlite",
                feature = "etcd",
                feature = "consul",
                feature = "mongodb",
                feature = "dynamodb",
                feature = "firestore",
                feature = "memcached"
            )))]
            Some((scheme, rest)) if is_remote(scheme, rest) => {
                Err("this build has no remote store: build it with `--features redis` or another")
            }
            _ => Err("expected `memory`, `redb:PATH`, `sled:PATH` or the URL of a server"),
        }
    }
}

impl fmt::Display for StoreOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("memory"),
            Self::Redb(path) => write!(f, "redb:{}", path.display()),
            #[cfg(feature = "sled")]
            Self::Sled(path) => write!(f, "sled:{}", path.display()),
            // The rest may hold a password.
            #[cfg(any(
                feature = "redis",
                feature = "postgres",
                feature = "mysql",
                feature = "mssql",
                feature = "sqlite",
                feature = "etcd",
                feature = "consul",
                feature = "mongodb",
                feature = "dynamodb",
                feature = "firestore",
                feature = "memcached"
            ))]
            Self::Remote(url) => write!(f, "a {} server", url.split(':').next().unwrap_or_default()),
        }
    }
}

/// Which servers this build knows is said by what opens their stores.
fn is_remote(scheme: &str, rest: &str) -> bool {
    match scheme {
        "sqlite" => !rest.is_empty(),
        "memory" | "redb" | "sled" | "" => false,
        _ => rest.strip_prefix("//").is_some_and(|rest| !rest.is_empty()),
    }
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum DurabilityOption {
    Eventual,
    Process,
    Power,
}

impl fmt::Display for DurabilityOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Eventual => write!(f, "eventual({}ms)", WINDOW.as_millis()),
            Self::Process => write!(f, "process({}ms)", WINDOW.as_millis()),
            Self::Power => f.write_str("power"),
        }
    }
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub(crate) enum TransportOption {
    Cookie,
    Header,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum FullOption {
    /// It is refused with 403.
    Refuse,
    /// The session whose login is the longest ago ends.
    DropOldest,
}

fn parse_duration(s: &str) -> Result<Duration, String> {
    let signed: jiff::SignedDuration =
        s.parse().map_err(|_| "expected a time like `24h`, `20m` or `500ms`".to_owned())?;
    match Duration::try_from(signed) {
        Ok(d) if !d.is_zero() => Ok(d),
        _ => Err("must be longer than zero".to_owned()),
    }
}

fn parse_size(s: &str) -> Result<usize, String> {
    let size: ByteSize = s.parse().map_err(|_| "expected a size like `64MiB`".to_owned())?;
    match usize::try_from(size.as_u64()) {
        Ok(n) if n > 0 => Ok(n),
        Ok(_) => Err("must be more than zero".to_owned()),
        Err(_) => Err("is more than this machine can address".to_owned()),
    }
}

fn parse_cookie_name(s: &str) -> Result<String, String> {
    CookiePolicy::builder().name(s.to_owned()).build().map(|_| s.to_owned()).map_err(|e| e.to_string())
}

fn parse_level(s: &str) -> Result<LevelFilter, String> {
    s.parse().map_err(|_| "expected `off`, `error`, `warn`, `info`, `debug` or `trace`".to_owned())
}
