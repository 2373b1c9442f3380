//! What an error of the driver means for the engine: whether trying again may help. It repeats what the server said,
//! and never an address with credentials in it.

use ::redis::{ErrorKind, RedisError, ServerErrorKind};
use sessile_engine::store::{StoreError, StoreErrorKind};

use super::NAME;

/// An error without a cause in the driver.
pub(super) fn own(kind: StoreErrorKind, what: impl Into<std::borrow::Cow<'static, str>>) -> StoreError {
    StoreError::new(kind, NAME, what)
}

/// The store was closed.
pub(super) fn closed() -> StoreError {
    own(StoreErrorKind::Closed, "the store was closed")
}

/// The server answered something that no script of ours answers.
pub(super) fn unexpected(what: &'static str) -> StoreError {
    own(StoreErrorKind::Corrupt, format!("{what}: the server's answer has an unexpected form"))
}

/// What the driver reports.
pub(super) fn of(what: &'static str, e: RedisError) -> StoreError {
    own(kind(&e), what).with_source(e)
}

/// Whether the connection is of no more use: it is broken, or leads to a server that lost its role.
pub(super) fn is_of_connection(e: &RedisError) -> bool {
    e.is_unrecoverable_error()
        || e.is_io_error()
        || matches!(e.kind(), ErrorKind::Parse | ErrorKind::Server(ServerErrorKind::ReadOnly))
}

fn kind(e: &RedisError) -> StoreErrorKind {
    use StoreErrorKind::{Config, Corrupt, Foreign, Full, Unavailable};
    let says = |text: &str| e.detail().is_some_and(|detail| detail.contains(text));
    match e.kind() {
        ErrorKind::AuthenticationFailed
        | ErrorKind::InvalidClientConfig
        | ErrorKind::RESP3NotSupported
        | ErrorKind::EmptySentinelList
        | ErrorKind::Server(ServerErrorKind::NoPerm | ServerErrorKind::CrossSlot) => Config,
        ErrorKind::UnexpectedReturnType => Corrupt,
        ErrorKind::Extension => match e.code() {
            Some("OOM") => Full,
            Some("WRONGPASS" | "NOAUTH" | "NOPROTO" | "DENIED") => Config,
            Some("WRONGTYPE") => Foreign,
            // MISCONF, NOREPLICAS, BUSY, UNKILLABLE, and what later servers say.
            _ => Unavailable,
        },
        ErrorKind::Server(ServerErrorKind::ResponseError) => {
            // Before Redis 7 a script hides the code of the command that failed in it.
            if says("OOM command not allowed") {
                Full
            } else if says("max number of clients") || says("-LOADING") || says("-READONLY") {
                Unavailable
            } else {
                Config
            }
        }
        _ => Unavailable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_say_whether_trying_again_may_help() {
        use StoreErrorKind::{Config, Foreign, Full, Unavailable};
        let server = |line: &str| {
            let raw = format!("-{line}\r\n");
            match ::redis::parse_redis_value(raw.as_bytes()) {
                Ok(::redis::Value::ServerError(e)) => RedisError::from(e),
                other => panic!("{line}: {other:?}"),
            }
        };
        for (line, wanted) in [
            ("OOM command not allowed when used memory > 'maxmemory'.", Full),
            ("ERR Error running script (call to f_1): @user_script:1: -OOM command not allowed", Full),
            ("LOADING Redis is loading the dataset in memory", Unavailable),
            ("READONLY You can't write against a read only replica.", Unavailable),
            ("MOVED 3999 127.0.0.1:6381", Unavailable),
            ("CLUSTERDOWN The cluster is down", Unavailable),
            ("MASTERDOWN Link with MASTER is down", Unavailable),
            ("MISCONF Redis is configured to save RDB snapshots", Unavailable),
            ("NOREPLICAS Not enough good replicas to write.", Unavailable),
            ("BUSY Redis is busy running a script.", Unavailable),
            ("ERR max number of clients reached", Unavailable),
            ("SOMETHING new", Unavailable),
            ("WRONGPASS invalid username-password pair", Config),
            ("NOAUTH Authentication required.", Config),
            ("NOPERM this user has no permissions", Config),
            ("CROSSSLOT Keys in request don't hash to the same slot", Config),
            ("ERR unknown command 'EVALSHA'", Config),
            ("WRONGTYPE Operation against a key holding the wrong kind of value", Foreign),
        ] {
            assert_eq!(kind(&server(line)), wanted, "{line}");
        }
        let io = RedisError::from(std::io::Error::from(std::io::ErrorKind::ConnectionReset));
        assert_eq!(kind(&io), Unavailable);
        assert!(is_of_connection(&io));
        assert!(is_of_connection(&server("READONLY You can't write")));
        assert!(!is_of_connection(&server("OOM command not allowed")));
        assert!(!is_of_connection(&server("NOSCRIPT No matching script.")));
    }
}
