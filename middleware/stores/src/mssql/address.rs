//! What a URL of SQL Server says: where, as whom, and whether encrypted. It never prints a password, nor a part of a URL
//! that it does not understand.

use std::fmt;

use sessile_engine::store::{StoreError, StoreErrorKind};

use super::NAME;

const PORT: u16 = 1433;

/// How a connection is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encryption {
    /// Not at all, the password included.
    Off,
    /// TLS inside of TDS 7, as all versions know it.
    On,
    /// TDS 8: TLS around everything.
    Strict,
}

/// Where a server is, and who asks.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) database: Option<String>,
    pub(super) user: String,
    pub(super) password: String,
    pub(super) encryption: Encryption,
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Address")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("database", &self.database)
            .field("encryption", &self.encryption)
            .finish_non_exhaustive()
    }
}

fn wrong(what: &'static str) -> StoreError {
    StoreError::new(StoreErrorKind::Config, NAME, what)
}

/// Undoes `%XX`.
fn decoded(text: &str) -> Option<String> {
    let digit = |b: u8| char::from(b).to_digit(16);
    let (mut out, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((first, behind)) = rest.split_first() {
        if *first != b'%' {
            out.push(*first);
            rest = behind;
            continue;
        }
        let [high, low, behind @ ..] = behind else { return None };
        out.push(u8::try_from(digit(*high)? << 4 | digit(*low)?).ok()?);
        rest = behind;
    }
    String::from_utf8(out).ok()
}

impl Address {
    /// Reads `mssql://user:password@host:port/database?encrypt=…`.
    ///
    /// # Errors
    /// [`StoreErrorKind::Config`], which says what is wrong with it.
    pub(super) fn parse(url: &str) -> Result<Self, StoreError> {
        let unreadable =
            || wrong("its URL cannot be read: expected mssql://user:password@host:port/database");
        let (scheme, rest) = url.split_once("://").ok_or_else(unreadable)?;
        if !matches!(scheme, "mssql" | "sqlserver") {
            return Err(unreadable());
        }
        let (rest, options) = rest.split_once('?').map_or((rest, None), |(rest, o)| (rest, Some(o)));
        let (rest, database) = rest.split_once('/').map_or((rest, ""), |(rest, database)| (rest, database));
        // The user's name and the password have no `@` of their own: it would be written as `%40`.
        let (user, host) = rest.split_once('@').ok_or_else(|| wrong("its URL names no user"))?;
        let (user, password) = user.split_once(':').unwrap_or((user, ""));
        let (host, port) = match host.strip_prefix('[') {
            Some(v6) => {
                let (host, port) = v6.split_once(']').ok_or_else(unreadable)?;
                (host, port.strip_prefix(':').or(port.is_empty().then_some("")).ok_or_else(unreadable)?)
            }
            None => host.split_once(':').unwrap_or((host, "")),
        };
        let port = if port.is_empty() { PORT } else { port.parse().map_err(|_| unreadable())? };
        let text = |text: &str| decoded(text).ok_or_else(unreadable);
        let (host, user, database) = (text(host)?, text(user)?, text(database)?);
        if host.is_empty() || user.is_empty() || database.contains('/') {
            return Err(unreadable());
        }
        let mut encryption = Encryption::On;
        for option in options.into_iter().flat_map(|options| options.split('&')) {
            encryption = match option {
                "encrypt=true" => Encryption::On,
                "encrypt=strict" => Encryption::Strict,
                "encrypt=false" => Encryption::Off,
                _ => return Err(wrong("its URL has an option that is not `encrypt=true|strict|false`")),
            };
        }
        Ok(Self {
            host,
            port,
            database: Some(database).filter(|database| !database.is_empty()),
            user,
            password: text(password)?,
            encryption,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(text: &str) -> String {
        text.bytes().map(|b| format!("%{b:02x}")).collect()
    }

    #[test]
    fn addresses_are_read() {
        let read = |url: &str| Address::parse(url).unwrap();
        let plain = read("mssql://app:s3cret@db.internal/app");
        assert_eq!(
            (plain.host.as_str(), plain.port, plain.encryption),
            ("db.internal", 1433, Encryption::On)
        );
        assert_eq!((plain.user.as_str(), plain.password.as_str()), ("app", "s3cret"));
        assert_eq!(plain.database.as_deref(), Some("app"));
        let v6 = read("sqlserver://app:s%40%2f@[::1]:99?encrypt=false");
        assert_eq!((v6.host.as_str(), v6.port, v6.encryption), ("::1", 99, Encryption::Off));
        assert_eq!((v6.password.as_str(), v6.database), ("s@/", None));
        assert_eq!(read("mssql://app@h:1/?encrypt=strict").encryption, Encryption::Strict);
        assert!(!format!("{plain:?}").contains("s3cret"));
    }

    #[test]
    fn what_cannot_be_read_is_not_shown() {
        for url in [
            "secret",
            "mssql:secret",
            "mysql://u:secret@h/d",
            "mssql://h/secret",
            "mssql://u:secret@/d",
            "mssql://:secret@h/d",
            "mssql://u:secret@h:99999/d",
            "mssql://u:secret@h:x/d",
            "mssql://u:secret%@h/d",
            "mssql://u:secret%ff@h/d",
            "mssql://u:secret@[::1/d",
            "mssql://u:secret@[::1]x/d",
            "mssql://u:secret@h/d/e",
            "mssql://u:p@h/d?secret=1",
            "mssql://u:p@h/d?encrypt=secret",
            "mssql://u:p@h/d?encrypt=false&encrypt",
        ] {
            let e = Address::parse(url).unwrap_err();
            assert_eq!(e.kind(), StoreErrorKind::Config, "{url}");
            assert!(!format!("{e} {e:?}").contains("secret"), "{e:?}");
        }
    }

    proptest! {
        #[test]
        fn anything_is_read_or_refused(url in ".{0,60}", inner in "[@:/?%\\[\\]a-f0-9&=]{0,40}") {
            let _ = Address::parse(&url);
            let _ = Address::parse(&format!("mssql://{inner}"));
        }

        #[test]
        fn names_and_passwords_are_kept(user in ".{1,20}", password in ".{0,20}", database in "[^/]{1,20}") {
            let url = format!("mssql://{}:{}@h/{}", encoded(&user), encoded(&password), encoded(&database));
            let read = Address::parse(&url).unwrap();
            prop_assert_eq!((read.user, read.password, read.database), (user, password, Some(database)));
        }
    }
}
