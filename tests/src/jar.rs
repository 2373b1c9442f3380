//! One client's session cookie, kept as a browser keeps it. It insists on what every response of sessile must
//! obey: at most one `Set-Cookie` of our name.

use crate::client::Response;

/// The name of the session cookie.
pub const NAME: &str = "session";

/// A `Set-Cookie` header, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetCookie {
    /// The token; empty when the cookie is removed.
    pub value: String,
    /// The attributes in the order sent, names in lower case, without values where there are none.
    pub attributes: Vec<(String, String)>,
}

impl SetCookie {
    /// Reads the value of a `Set-Cookie` header if it is of our cookie.
    #[must_use]
    pub fn parse(header: &str) -> Option<Self> {
        let mut parts = header.split(';').map(str::trim);
        let value = parts.next()?.strip_prefix(NAME)?.strip_prefix('=')?.to_owned();
        let attributes = parts
            .map(|a| {
                let (name, value) = a.split_once('=').unwrap_or((a, ""));
                (name.to_ascii_lowercase(), value.to_owned())
            })
            .collect();
        Some(Self { value, attributes })
    }

    /// The value of attribute `name` (lower case), if it was sent.
    #[must_use]
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// Whether it tells the client to forget the cookie.
    #[must_use]
    pub fn is_removal(&self) -> bool {
        self.attribute("max-age").is_some_and(|age| age.parse::<i64>().unwrap() <= 0)
    }
}

/// The session cookie that a client holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Jar {
    token: Option<String>,
}

impl Jar {
    /// A jar that holds `token`.
    #[must_use]
    pub fn with(token: &str) -> Self {
        Self { token: Some(token.to_owned()) }
    }

    /// The token held.
    #[must_use]
    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// The `Cookie` header to send.
    #[must_use]
    pub fn header(&self) -> Option<String> {
        self.token.as_ref().map(|t| format!("{NAME}={t}"))
    }

    /// Does what the response says.
    ///
    /// # Panics
    /// If it has two cookies of our name.
    pub fn apply(&mut self, response: &Response) {
        if let Some(cookie) = response.set_cookie() {
            self.token = (!cookie.is_removal()).then_some(cookie.value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_whatever_their_case() {
        let c = SetCookie::parse("session=abc; HttpOnly; Max-Age=86400; Path=/").unwrap();
        assert_eq!(c.value, "abc");
        assert_eq!(c.attribute("httponly"), Some(""));
        assert_eq!(c.attribute("path"), Some("/"));
        assert_eq!(c.attribute("secure"), None);
        assert!(!c.is_removal());
        assert!(SetCookie::parse("session=; Max-Age=0").unwrap().is_removal());
        assert_eq!(SetCookie::parse("sessions=abc"), None);
    }
}
