//! What the stores in PostgreSQL have in common, whatever client the app has: the statements, what the server's codes
//! mean, the watch, and all of a store over an app's pool. It knows no client.

pub(crate) mod columns;
#[cfg(any(feature = "sqlx-0_9", feature = "diesel-async-0_9"))]
pub(crate) mod pooled;
pub(crate) mod text;
pub(crate) mod watch;

use sessile_engine::store::StoreErrorKind;

/// Others were in the way; the transaction did nothing. A key that is there already was not there when the rows were
/// locked.
pub(crate) fn is_race(code: &str) -> bool {
    matches!(code, "40001" | "40P01" | "23505")
}

/// The server ends, and with it the connection.
pub(crate) const ADMIN_SHUTDOWN: &str = "57P01";
pub(crate) const UNDEFINED_TABLE: &str = "42P01";

pub(crate) fn kind_of(code: &str) -> StoreErrorKind {
    match code {
        "53100" => StoreErrorKind::Full,
        "54000" => StoreErrorKind::TooLarge,
        "XX001" | "XX002" => StoreErrorKind::Corrupt,
        _ => match code.get(..2) {
            Some("28" | "3D" | "3F" | "42" | "22" | "23" | "0A") => StoreErrorKind::Config,
            // Among them a statement that was ended by its own time limit, a server that ends, and a standby.
            _ => StoreErrorKind::Unavailable,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_their_kinds() {
        for (code, kind) in [
            ("53100", StoreErrorKind::Full),
            ("53200", StoreErrorKind::Unavailable),
            ("53300", StoreErrorKind::Unavailable),
            ("57P01", StoreErrorKind::Unavailable),
            ("57P03", StoreErrorKind::Unavailable),
            ("57014", StoreErrorKind::Unavailable),
            ("55P03", StoreErrorKind::Unavailable),
            ("25006", StoreErrorKind::Unavailable),
            ("08006", StoreErrorKind::Unavailable),
            ("40001", StoreErrorKind::Unavailable),
            // The server's disk, not ours: no other row is in doubt.
            ("58030", StoreErrorKind::Unavailable),
            ("28P01", StoreErrorKind::Config),
            ("28000", StoreErrorKind::Config),
            ("3D000", StoreErrorKind::Config),
            ("42P01", StoreErrorKind::Config),
            ("42501", StoreErrorKind::Config),
            ("42703", StoreErrorKind::Config),
            ("54000", StoreErrorKind::TooLarge),
            ("XX001", StoreErrorKind::Corrupt),
            ("", StoreErrorKind::Unavailable),
            ("é", StoreErrorKind::Unavailable),
        ] {
            assert_eq!(kind_of(code), kind, "{code}");
        }
    }
}
