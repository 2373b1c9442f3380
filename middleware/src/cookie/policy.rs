//! The attributes of the session cookie, checked once when the policy is built: a policy that exists can be
//! written into a header as it is, and no browser refuses it. It reads and writes no header itself.

use std::borrow::Cow;
use std::fmt;

use super::attributes::CookieAttributes;

#[cfg(test)]
mod tests;

const MAX_NAME: usize = 64;
/// Browsers ignore an attribute that is longer (RFC 6265bis).
const MAX_ATTRIBUTE: usize = 1024;
/// The longest name that DNS has.
const MAX_DOMAIN: usize = 253;

/// When a browser sends the cookie along with requests that another site caused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum SameSite {
    /// Never. A user who follows a link from another site arrives logged out.
    Strict,
    /// Only when the user navigates to the site. The default.
    #[default]
    Lax,
    /// Always. Needs `Secure`; consider [`partitioned`](CookiePolicyBuilder::partitioned).
    None,
}

/// Name and attributes of the session cookie.
///
/// The default is `session=…; Path=/; Secure; HttpOnly; SameSite=Lax`, persistent. A setting that weakens it
/// is named `insecure_…`.
///
/// # Examples
/// ```
/// use sessile::{CookiePolicy, SameSite};
///
/// let policy = CookiePolicy::builder().name("__Host-id").same_site(SameSite::Strict).build()?;
/// assert_eq!(policy.name(), "__Host-id");
///
/// // No browser would keep this one, so it is refused here and not found out in production.
/// assert!(CookiePolicy::builder().name("__Host-id").path("/shop").build().is_err());
/// # Ok::<(), sessile::ConfigError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CookiePolicy {
    name: Cow<'static, str>,
    /// Everything that follows the value and does not change: `; Path=/; Secure; …`.
    attributes: String,
    /// The same as settings.
    settings: CookieAttributes,
}

impl CookiePolicy {
    /// Starts from the defaults.
    pub fn builder() -> CookiePolicyBuilder {
        CookiePolicyBuilder { name: Cow::Borrowed("session"), settings: CookieAttributes::DEFAULT }
    }

    /// The name of the cookie.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the cookie outlives the browser, unless a session says otherwise.
    #[must_use]
    pub fn is_persistent(&self) -> bool {
        self.settings.persistent
    }

    pub(crate) fn attributes(&self) -> &str {
        &self.attributes
    }

    /// The same cookie with what `change` makes of its attributes.
    pub(crate) fn changed(&self, change: impl FnOnce(&mut CookieAttributes)) -> Result<Self, ConfigError> {
        let mut settings = self.settings.clone();
        change(&mut settings);
        CookiePolicyBuilder { name: self.name.clone(), settings }.build()
    }
}

impl Default for CookiePolicy {
    fn default() -> Self {
        CookiePolicy::builder().assemble()
    }
}

/// Builds a [`CookiePolicy`].
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct CookiePolicyBuilder {
    name: Cow<'static, str>,
    settings: CookieAttributes,
}

impl CookiePolicyBuilder {
    /// Names the cookie: a token of RFC 6265, at most 64 bytes. `session` by default.
    ///
    /// A name that begins with `__Host-` makes browsers refuse a cookie of that name from sibling domains and
    /// from plain HTTP; prefer it when the application owns its host.
    pub fn name(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.name = name.into();
        self
    }

    /// Limits the cookie to paths below `path`. `/` by default.
    pub fn path(mut self, path: impl Into<Cow<'static, str>>) -> Self {
        self.settings.path = path.into();
        self
    }

    /// Sends the cookie to the subdomains of `domain` too. None by default: only to the host that set it.
    ///
    /// # Examples
    /// ```
    /// use sessile::CookiePolicy;
    ///
    /// let policy = CookiePolicy::builder().domain("example.org").build()?;
    /// assert!(CookiePolicy::builder().name("__Host-id").domain("example.org").build().is_err());
    /// # Ok::<(), sessile::ConfigError>(())
    /// ```
    pub fn domain(mut self, domain: impl Into<Cow<'static, str>>) -> Self {
        self.settings.domain = Some(domain.into());
        self
    }

    /// When the cookie goes along with requests from other sites. [`SameSite::Lax`] by default.
    pub fn same_site(mut self, same_site: SameSite) -> Self {
        self.settings.same_site = same_site;
        self
    }

    /// Keeps one cookie per top-level site in third-party contexts (CHIPS). A user then has a session of
    /// their own inside each embedding site.
    ///
    /// # Examples
    /// ```
    /// use sessile::{CookiePolicy, SameSite};
    ///
    /// // For a page that other sites embed.
    /// let policy = CookiePolicy::builder().same_site(SameSite::None).partitioned().build()?;
    /// # Ok::<(), sessile::ConfigError>(())
    /// ```
    pub fn partitioned(mut self) -> Self {
        self.settings.partitioned = true;
        self
    }

    /// Whether the cookie outlives the browser. True by default; a session may ask for less, not for more.
    pub fn persistent(mut self, persistent: bool) -> Self {
        self.settings.persistent = persistent;
        self
    }

    /// Drops `Secure`: the token travels over plain HTTP, where anyone on the way can read it.
    ///
    /// # Examples
    /// ```
    /// use sessile::CookiePolicy;
    ///
    /// // For a development host that is not `localhost`.
    /// let policy = CookiePolicy::builder().insecure_http().build()?;
    /// # Ok::<(), sessile::ConfigError>(())
    /// ```
    pub fn insecure_http(mut self) -> Self {
        self.settings.secure = false;
        self
    }

    /// Drops `HttpOnly`: any script on the page can read the token.
    pub fn insecure_script_access(mut self) -> Self {
        self.settings.http_only = false;
        self
    }

    /// Checks the combination.
    ///
    /// # Errors
    /// A [`ConfigError`] that names the rule, when a browser would refuse or alter the cookie: a name that is
    /// no token, a path or domain with characters that end an attribute, a prefix whose conditions are not
    /// met (prefixes count in any case), `SameSite=None` or `Partitioned` without `Secure`.
    ///
    /// # Examples
    /// ```
    /// use sessile::{ConfigErrorKind, CookiePolicy, SameSite};
    ///
    /// let error = CookiePolicy::builder().same_site(SameSite::None).insecure_http().build().unwrap_err();
    /// assert_eq!(error.kind(), ConfigErrorKind::SameSite);
    /// # Ok::<(), sessile::ConfigError>(())
    /// ```
    pub fn build(self) -> Result<CookiePolicy, ConfigError> {
        check_name(&self.name)?;
        check_path(&self.settings.path)?;
        if let Some(domain) = &self.settings.domain {
            check_domain(domain)?;
        }
        self.check_prefix()?;
        if self.settings.same_site == SameSite::None && !self.settings.secure {
            return Err(ConfigError(ConfigErrorKind::SameSite, "SameSite=None needs Secure"));
        }
        if self.settings.partitioned && !self.settings.secure {
            return Err(ConfigError(ConfigErrorKind::Partitioned, "Partitioned needs Secure"));
        }
        Ok(self.assemble())
    }

    /// Browsers compare prefixes without regard to case, so a differently spelled prefix binds as well.
    fn check_prefix(&self) -> Result<(), ConfigError> {
        let has = |prefix: &str| {
            self.name.get(..prefix.len()).is_some_and(|head| head.eq_ignore_ascii_case(prefix))
        };
        let host = has("__Host-");
        let http = has("__Http-") || has("__Host-Http-");
        let refuse = |why| Err(ConfigError(ConfigErrorKind::Prefix, why));
        if (host || http || has("__Secure-")) && !self.settings.secure {
            return refuse("this name prefix needs Secure");
        }
        if http && !self.settings.http_only {
            return refuse("the __Http- prefixes need HttpOnly");
        }
        if host && self.settings.path != "/" {
            return refuse("the __Host- prefixes need Path=/");
        }
        if host && self.settings.domain.is_some() {
            return refuse("the __Host- prefixes allow no Domain");
        }
        Ok(())
    }

    fn assemble(self) -> CookiePolicy {
        CookiePolicy { name: self.name, attributes: self.settings.written(), settings: self.settings }
    }
}

fn check_name(name: &str) -> Result<(), ConfigError> {
    let refuse = |why| Err(ConfigError(ConfigErrorKind::Name, why));
    if name.is_empty() || name.len() > MAX_NAME {
        return refuse("a cookie name has 1 to 64 bytes");
    }
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)) {
        return refuse("a cookie name has letters, digits and !#$%&'*+-.^_`|~ only");
    }
    Ok(())
}

fn check_path(path: &str) -> Result<(), ConfigError> {
    let refuse = |why| Err(ConfigError(ConfigErrorKind::Path, why));
    if !path.starts_with('/') {
        return refuse("a cookie path begins with a slash");
    }
    if path.len() > MAX_ATTRIBUTE {
        return refuse("a cookie path has at most 1024 bytes");
    }
    // No request path contains a space, so a cookie path with one would match nothing.
    if !path.bytes().all(|b| b.is_ascii_graphic() && b != b';') {
        return refuse("a cookie path has visible ASCII characters other than a semicolon only");
    }
    Ok(())
}

fn check_domain(domain: &str) -> Result<(), ConfigError> {
    let refuse = |why| Err(ConfigError(ConfigErrorKind::Domain, why));
    if domain.len() > MAX_DOMAIN {
        return refuse("a cookie domain has at most 253 bytes");
    }
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if !domain.split('.').all(label) {
        return refuse(
            "a cookie domain has dot-separated labels of 1 to 63 ASCII letters, digits and inner hyphens",
        );
    }
    // A name whose last label is a number is an IP address (WHATWG URL), and those have no subdomains.
    if domain.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit())) {
        return refuse("a cookie domain is no IP address: without Domain the cookie goes to that host");
    }
    Ok(())
}

/// Which rule a [`ConfigError`] is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConfigErrorKind {
    /// The cookie's name.
    Name,
    /// The conditions of a name prefix such as `__Host-`.
    Prefix,
    /// The `Path` attribute.
    Path,
    /// The `Domain` attribute.
    Domain,
    /// The `SameSite` attribute.
    SameSite,
    /// The `Partitioned` attribute.
    Partitioned,
    /// The header of a [`HeaderTransport`](crate::HeaderTransport).
    Header,
}

/// A cookie policy or a transport that contradicts itself, or that no client would accept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError(pub(crate) ConfigErrorKind, pub(crate) &'static str);

impl ConfigError {
    /// Which rule was broken.
    #[must_use]
    pub fn kind(&self) -> ConfigErrorKind {
        self.0
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.0 == ConfigErrorKind::Header { "header" } else { "cookie" };
        write!(f, "session {what}: {}", self.1)
    }
}

impl std::error::Error for ConfigError {}
