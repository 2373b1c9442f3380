//! [`CookieAttributes`]: what follows the value in a `Set-Cookie`, as settings. The rules that they must keep
//! together are in [`policy`](super::policy); nothing here is checked.

use std::borrow::Cow;

use super::policy::SameSite;

/// The attributes of the session cookie, to be changed for one request by the hook of
/// [`SessionLayer::cookie_for_request`](crate::SessionLayer::cookie_for_request).
///
/// They start as the layer's [`CookiePolicy`](crate::CookiePolicy) has them. The name is not among them: the
/// cookie is found by its name. What the hook leaves is checked by the same rules as a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CookieAttributes {
    pub(super) path: Cow<'static, str>,
    pub(super) domain: Option<Cow<'static, str>>,
    pub(super) same_site: SameSite,
    pub(super) secure: bool,
    pub(super) http_only: bool,
    pub(super) partitioned: bool,
    pub(super) persistent: bool,
}

impl CookieAttributes {
    pub(super) const DEFAULT: Self = Self {
        path: Cow::Borrowed("/"),
        domain: None,
        same_site: SameSite::Lax,
        secure: true,
        http_only: true,
        partitioned: false,
        persistent: true,
    };

    /// Limits the cookie to paths below `path`.
    pub fn path(&mut self, path: impl Into<Cow<'static, str>>) -> &mut Self {
        self.path = path.into();
        self
    }

    /// Sends the cookie to the subdomains of `domain` too, or only to the host that set it.
    ///
    /// Take the domain from a list of your own: the `Host` header is the client's word.
    pub fn domain(&mut self, domain: Option<impl Into<Cow<'static, str>>>) -> &mut Self {
        self.domain = domain.map(Into::into);
        self
    }

    /// When the cookie goes along with requests from other sites.
    pub fn same_site(&mut self, same_site: SameSite) -> &mut Self {
        self.same_site = same_site;
        self
    }

    /// One cookie per top-level site in third-party contexts (CHIPS), or not.
    pub fn partitioned(&mut self, on: bool) -> &mut Self {
        self.partitioned = on;
        self
    }

    /// Whether the cookie outlives the browser. A session may ask for less, not for more.
    pub fn persistent(&mut self, persistent: bool) -> &mut Self {
        self.persistent = persistent;
        self
    }

    /// Sets `Secure` again where the layer's policy has dropped it.
    pub fn secure(&mut self) -> &mut Self {
        self.secure = true;
        self
    }

    /// Drops `Secure`: the token travels over plain HTTP, where anyone on the way can read it.
    pub fn insecure_http(&mut self) -> &mut Self {
        self.secure = false;
        self
    }

    /// Sets `HttpOnly` again where the layer's policy has dropped it.
    pub fn http_only(&mut self) -> &mut Self {
        self.http_only = true;
        self
    }

    /// Drops `HttpOnly`: any script on the page can read the token.
    pub fn insecure_script_access(&mut self) -> &mut Self {
        self.http_only = false;
        self
    }

    /// As they are written: `; Path=/; Secure; …`.
    pub(super) fn written(&self) -> String {
        let mut line = format!("; Path={}", self.path);
        if let Some(domain) = &self.domain {
            line.push_str("; Domain=");
            line.push_str(domain);
        }
        if self.secure {
            line.push_str("; Secure");
        }
        if self.http_only {
            line.push_str("; HttpOnly");
        }
        line.push_str(match self.same_site {
            SameSite::Strict => "; SameSite=Strict",
            SameSite::Lax => "; SameSite=Lax",
            SameSite::None => "; SameSite=None",
        });
        if self.partitioned {
            line.push_str("; Partitioned");
        }
        line
    }
}
