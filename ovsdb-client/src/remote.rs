//! Where a server is, in Open vSwitch's own words (ovsdb(7), "Connection Methods").

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use thiserror::Error;

/// The port that IANA gave to OVSDB.
pub const DEFAULT_PORT: u16 = 6640;

/// An active connection method.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Remote {
    /// A Unix socket: `unix:PATH`.
    Unix(PathBuf),
    /// Plain TCP: `tcp:IP[:PORT]`.
    Tcp(SocketAddr),
    /// TLS over TCP: `ssl:IP[:PORT]`.
    Ssl(SocketAddr),
}

/// A remote that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{text:?} is not a remote: {why}. Write unix:PATH, tcp:IP:PORT or ssl:IP:PORT, an IPv6 address in brackets"
)]
pub struct ParseRemoteError {
    text: String,
    why: &'static str,
}

impl FromStr for Remote {
    type Err = ParseRemoteError;

    fn from_str(text: &str) -> Result<Self, ParseRemoteError> {
        let error = |why| ParseRemoteError { text: text.to_owned(), why };
        let (method, rest) = text.split_once(':').ok_or(error("there is no connection method"))?;
        match method {
            "unix" if rest.is_empty() => Err(error("the path is missing")),
            "unix" => Ok(Self::Unix(rest.into())),
            "tcp" => parse_address(rest).map(Self::Tcp).map_err(error),
            "ssl" => parse_address(rest).map(Self::Ssl).map_err(error),
            "punix" | "ptcp" | "pssl" => Err(error("a passive method is for servers")),
            _ => Err(error("the connection method is unknown")),
        }
    }
}

fn parse_address(text: &str) -> Result<SocketAddr, &'static str> {
    let (host, port) = match text.strip_prefix('[').map(|rest| rest.split_once(']')) {
        Some(Some((host, port))) => (host, port.strip_prefix(':').or((port.is_empty()).then_some(""))),
        Some(None) => return Err("the bracket is not closed"),
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, Some("")),
        },
    };
    let address: IpAddr = host.parse().map_err(|_| "the IP address cannot be read")?;
    if address.is_ipv6() != text.starts_with('[') {
        return Err("an IPv6 address, and only that, goes in brackets");
    }
    match port {
        Some("") => Ok(SocketAddr::new(address, DEFAULT_PORT)),
        Some(port) => {
            let port = port.parse().map_err(|_| "the port is not a number from 1 to 65535")?;
            if port == 0 {
                Err("the port is not a number from 1 to 65535")
            } else {
                Ok(SocketAddr::new(address, port))
            }
        }
        None => Err("there is something other than a port after the address"),
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp:{address}"),
            Self::Ssl(address) => write!(f, "ssl:{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remotes_are_read_and_written_as_open_vswitch_does() {
        for text in ["unix:/var/run/openvswitch/db.sock", "tcp:127.0.0.1:6640", "ssl:[2001:db8::1]:6642"] {
            assert_eq!(text.parse::<Remote>().unwrap().to_string(), text);
        }
        assert_eq!("tcp:10.0.0.1".parse::<Remote>().unwrap().to_string(), "tcp:10.0.0.1:6640");
        assert_eq!("ssl:[::1]".parse::<Remote>().unwrap().to_string(), "ssl:[::1]:6640");
    }

    #[test]
    fn what_is_no_remote_says_why() {
        for text in [
            "",
            "/run/db.sock",
            "unix:",
            "ptcp:6640",
            "tcp:localhost:1",
            "tcp:::1:6640",
            "tcp:[::1:6640",
            "tcp:[::1]x",
            "tcp:[10.0.0.1]:1",
            "tcp:10.0.0.1:0",
            "tcp:10.0.0.1:65536",
            "http:10.0.0.1",
        ] {
            assert!(text.parse::<Remote>().is_err(), "{text}");
        }
    }
}
