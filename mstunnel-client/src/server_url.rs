//! The URL of a server: `https://HOST[:PORT][/GROUP]`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use rustls_pki_types::ServerName;

/// The longest path; a server reads 255 bytes of target.
const MAX_PATH_BYTES: usize = 255;

/// Where a server is, and the group URL if there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerUrl {
    host: Host,
    port: u16,
    path: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    Name(String),
    Address(IpAddr),
}

/// Why a text is not the URL of a server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServerUrlError {
    /// Another scheme.
    #[error("{0:?} is no server: want https://HOST[:PORT][/GROUP]")]
    Scheme(String),
    /// Something in front of `@`.
    #[error("a URL with a user or password in it is refused: use --user and --password-file")]
    UserInfo,
    /// A host that is neither a name nor an address.
    #[error("{0:?} is neither a host name nor an address (an IPv6 address goes in brackets)")]
    Host(String),
    /// A port that is no number from 1 to 65535.
    #[error("{0:?} is no port: want 1 to 65535")]
    Port(String),
    /// A path with a query, a fragment, spaces or too many bytes.
    #[error("{0:?} is no group path")]
    Path(String),
}

impl ServerUrl {
    /// The host, as a name to be verified.
    pub fn server_name(&self) -> ServerName<'static> {
        match &self.host {
            Host::Name(name) => {
                ServerName::try_from(name.clone()).expect("the host was checked when the URL was read")
            }
            Host::Address(address) => ServerName::from(*address),
        }
    }

    /// The host as text, without brackets.
    pub fn host(&self) -> String {
        match &self.host {
            Host::Name(name) => name.clone(),
            Host::Address(address) => address.to_string(),
        }
    }

    /// The address, if the host is one.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        match self.host {
            Host::Name(_) => None,
            Host::Address(address) => Some(address),
        }
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The path, `/` unless there is a group URL.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The value of a Host field: the port is left out when it is 443.
    pub fn host_field(&self) -> String {
        let host = match &self.host {
            Host::Address(IpAddr::V6(address)) => format!("[{address}]"),
            Host::Address(IpAddr::V4(_)) | Host::Name(_) => self.host(),
        };
        if self.port == 443 { host } else { format!("{host}:{}", self.port) }
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}{}", self.host_field(), if self.path == "/" { "" } else { &self.path })
    }
}

impl FromStr for ServerUrl {
    type Err = ServerUrlError;

    /// Reads a URL; the scheme may be left out, since there is only one.
    fn from_str(text: &str) -> Result<Self, ServerUrlError> {
        let rest = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => rest,
            Some(_) => return Err(ServerUrlError::Scheme(text.to_owned())),
            None => text,
        };
        let (authority, path) = match rest.find(['/', '?', '#']) {
            Some(at) => rest.split_at(at),
            None => (rest, "/"),
        };
        if authority.contains('@') {
            return Err(ServerUrlError::UserInfo);
        }
        let (host, port) = split_port(authority)?;
        let is_path = path.starts_with('/') && !path.starts_with("//") && path.len() <= MAX_PATH_BYTES;
        if !is_path || path.bytes().any(|byte| !byte.is_ascii_graphic() || matches!(byte, b'?' | b'#')) {
            return Err(ServerUrlError::Path(path.to_owned()));
        }
        let path = if path.len() > 1 { path.trim_end_matches('/') } else { path };
        Ok(Self { host, port, path: path.to_owned() })
    }
}

fn split_port(authority: &str) -> Result<(Host, u16), ServerUrlError> {
    let refused = || ServerUrlError::Host(authority.to_owned());
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (address, port) = rest.split_once(']').ok_or_else(refused)?;
        let address = address.parse().map_err(|_| refused())?;
        (Host::Address(IpAddr::V6(address)), port)
    } else {
        let (host, port) = authority.find(':').map_or((authority, ""), |at| authority.split_at(at));
        let host = match host.parse::<IpAddr>() {
            Ok(address) => Host::Address(address),
            Err(_) => match ServerName::try_from(host.to_ascii_lowercase()) {
                Ok(ServerName::DnsName(name)) => Host::Name(name.as_ref().to_owned()),
                Ok(_) | Err(_) => return Err(refused()),
            },
        };
        (host, port)
    };
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => 443,
        Some(digits) => match digits.parse() {
            Ok(port) if port > 0 && digits.bytes().all(|byte| byte.is_ascii_digit()) => port,
            _ => return Err(ServerUrlError::Port(digits.to_owned())),
        },
        None => return Err(refused()),
    };
    Ok((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<(String, u16, String), ServerUrlError> {
        text.parse::<ServerUrl>().map(|url| (url.host_field(), url.port(), url.path().to_owned()))
    }

    #[test]
    fn urls_of_servers_are_read() {
        for (text, host, port, path) in [
            ("https://vpn.example", "vpn.example", 443, "/"),
            ("HTTPS://VPN.Example:443/", "vpn.example", 443, "/"),
            ("vpn.example/staff", "vpn.example", 443, "/staff"),
            ("https://192.0.2.1:4443/staff/", "192.0.2.1:4443", 4443, "/staff"),
            ("https://[2001:db8::1]:8443", "[2001:db8::1]:8443", 8443, "/"),
            ("[2001:db8::1]", "[2001:db8::1]", 443, "/"),
        ] {
            assert_eq!(read(text), Ok((host.to_owned(), port, path.to_owned())), "{text}");
        }
    }

    /// Covers: R61, R70
    #[test]
    fn plain_http_passwords_and_nonsense_are_refused() {
        assert!(matches!(read("http://vpn.example"), Err(ServerUrlError::Scheme(_))));
        assert!(matches!(read("ftp://vpn.example"), Err(ServerUrlError::Scheme(_))));
        assert_eq!(read("https://alice:secret@vpn.example"), Err(ServerUrlError::UserInfo));
        for text in
            ["https://", "https://a b", "https://[::1", "https://2001:db8::1", "https://[vpn]", "https://-"]
        {
            assert!(matches!(read(text), Err(ServerUrlError::Host(_) | ServerUrlError::Port(_))), "{text}");
        }
        for text in ["vpn:0", "vpn:65536", "vpn:", "vpn:+1", "vpn:x"] {
            assert!(matches!(read(text), Err(ServerUrlError::Port(_))), "{text}");
        }
        for text in ["vpn/a?b", "vpn?b", "vpn/a#b", "vpn//a", "vpn/\u{e9}"] {
            assert!(matches!(read(text), Err(ServerUrlError::Path(_))), "{text}");
        }
    }
}
