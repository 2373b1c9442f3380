//! Parts of the addresses of servers that more than one store reads. It knows no scheme.

/// `host:port` of `host:port`, `[v6]:port` or `host`; `None` if it is none of these.
pub(crate) fn authority(host: &str, default_port: u16) -> Option<String> {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, port.parse::<u16>().ok()?),
        _ => (host, default_port),
    };
    let plain = |c: u8| c.is_ascii_alphanumeric() || b"-._".contains(&c);
    let inner = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    let fits = match inner {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !name.is_empty() && name.bytes().all(plain),
    };
    fits.then(|| format!("{name}:{port}"))
}

/// The text of a part of a URL.
pub(crate) fn decode(part: &str) -> Option<String> {
    let mut out = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let Some((byte, behind)) = rest.split_first() {
        rest = behind;
        if *byte != b'%' {
            out.push(*byte);
            continue;
        }
        let (hex, behind) = rest.split_at_checked(2)?;
        let hex = std::str::from_utf8(hex).ok().filter(|hex| hex.bytes().all(|c| c.is_ascii_hexdigit()))?;
        out.push(u8::from_str_radix(hex, 16).ok()?);
        rest = behind;
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read() {
        for (host, wanted) in [("a.b:1", "a.b:1"), ("[::1]:2", "[::1]:2"), ("[::1]", "[::1]:9"), ("c", "c:9")]
        {
            assert_eq!(authority(host, 9).as_deref(), Some(wanted));
        }
        for host in ["", ":1", "h:", "h:99999", "h h", "[x]:1", "u@h", "h/x", "é"] {
            assert_eq!(authority(host, 9), None, "{host}");
        }
    }

    #[test]
    fn escapes_are_read() {
        assert_eq!(decode("u%40x%2F%c3%A9+").as_deref(), Some("u@x/é+"));
        for part in ["%", "%4", "%zz", "%+1", "%ff"] {
            assert_eq!(decode(part), None, "{part}");
        }
    }
}
