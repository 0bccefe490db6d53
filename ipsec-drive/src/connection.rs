//! A connection that is wanted.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::net::IpAddr;

use crate::Secret;

/// `other_config` of the row of Open_vSwitch, as far as IPsec is concerned. Files are paths on this host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Host {
    /// `certificate`: our own.
    pub certificate: Option<String>,
    /// `private_key`: that of our certificate.
    pub private_key: Option<String>,
    /// `ca_cert`: who signs the peers' certificates.
    pub ca_cert: Option<String>,
    /// `ipsec_skb_mark`: the mark of packets that must not leave unless they are encrypted.
    pub skb_mark: Option<String>,
}

/// What a NIC is asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Offload {
    /// All of IPsec where the NIC can, else its ciphers, else software.
    #[default]
    Auto,
    /// All of IPsec, or the connection does not come up.
    Packet,
    /// The ciphers, or the connection does not come up.
    Crypto,
    /// Nothing: software.
    None,
}

impl Offload {
    /// The word of the configuration.
    pub fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Packet => "packet",
            Self::Crypto => "crypto",
            Self::None => "none",
        }
    }
}

/// Packets of tunnels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Carries {
    /// VXLAN to this UDP port.
    Vxlan(u16),
    /// Geneve to this UDP port.
    Geneve(u16),
    /// GRE.
    Gre,
}

impl Carries {
    /// The protocol's number and, of UDP, the port that tunnels are sent to.
    pub fn protocol(self) -> (u8, Option<u16>) {
        match self {
            Self::Vxlan(port) | Self::Geneve(port) => (17, Some(port)),
            Self::Gre => (47, None),
        }
    }
}

impl fmt::Display for Carries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vxlan(port) => write!(f, "vxlan-{port}"),
            Self::Geneve(port) => write!(f, "geneve-{port}"),
            Self::Gre => f.write_str("gre"),
        }
    }
}

/// How the ends know each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Auth {
    /// By a key that both have.
    Psk(Secret),
    /// By certificates that each has of the other. Files.
    SelfSigned {
        /// Our own.
        certificate: String,
        /// Its key.
        private_key: String,
        /// The peer's.
        remote_cert: String,
    },
    /// By certificates of one authority. Files.
    Ca {
        /// Our own.
        certificate: String,
        /// Its key.
        private_key: String,
        /// The authority's.
        ca_cert: String,
        /// The common name in the peer's.
        remote_name: String,
    },
}

impl Auth {
    /// `psk`, `self-signed` or `ca`.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Psk(_) => "psk",
            Self::SelfSigned { .. } => "self-signed",
            Self::Ca { .. } => "ca",
        }
    }
}

/// Which content the files have that a connection names: another number for another content, within one life of the daemon.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Content(pub u64);

/// The name of a connection in the IKE daemon. Ours begin with [`ConnectionName::PREFIX`], and nobody else's are touched.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnectionName(String);

impl ConnectionName {
    /// What ours begin with.
    pub const PREFIX: &'static str = "offloadd-";
    /// What the name of that ends with which drops a connection's packets where nothing encrypts them.
    const CLOSED: &'static str = "-closed";

    /// The name of what protects these packets between these addresses. It tells them, so that it is the same after a restart.
    pub fn of(carries: Carries, local: Option<IpAddr>, remote: IpAddr) -> Self {
        // vici takes a dot for the end of a section's name.
        let word = |address: IpAddr| alloc::format!("{address}").replace('.', "_");
        let from = local.map_or_else(String::new, |local| alloc::format!("-from-{}", word(local)));
        Self(alloc::format!("{}{carries}-to-{}{from}", Self::PREFIX, word(remote)))
    }

    /// The name of what drops packets that nothing protects.
    pub(crate) fn of_guard() -> Self {
        Self(alloc::format!("{}unencrypted", Self::PREFIX))
    }

    /// The name that an IKE daemon told, if it is that of one of our connections.
    pub fn ours(name: &str) -> Option<Self> {
        let is_ours = name.starts_with(Self::PREFIX) && !name.ends_with(Self::CLOSED);
        is_ours.then(|| Self(name.into()))
    }

    /// The name of ours that a child is of, by the child's own: that of its way behind the connection's.
    pub fn of_child(child: &str) -> Option<Self> {
        let ways = ["-in", "-out"];
        Self::ours(ways.into_iter().find_map(|way| child.strip_suffix(way)).unwrap_or(child))
    }

    /// The name of what drops its packets where nothing encrypts them. It comes and goes with the connection.
    pub fn closed(&self) -> String {
        alloc::format!("{}{}", self.0, Self::CLOSED)
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ConnectionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A connection that is wanted: tunnels of one type between two addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// Its name in the IKE daemon.
    pub name: ConnectionName,
    /// Interfaces whose packets it protects, sorted.
    pub tunnels: Vec<String>,
    /// Our address; none for the one that the route has.
    pub local: Option<IpAddr>,
    /// The peer's.
    pub remote: IpAddr,
    /// How they know each other.
    pub auth: Auth,
    /// What is in the files that this names; whoever reads them says so.
    pub content: Content,
    /// What is protected.
    pub carries: Carries,
    /// What a NIC is asked for.
    pub offload: Offload,
    /// Whether ESP is put into UDP even where no NAT is in between.
    pub encap: bool,
    /// Packets that the guard against replay looks back; none for the IKE daemon's default.
    pub replay_window: Option<u32>,
    /// Tells children from those before them: strongSwan makes none beside one with just the same settings (6.0.1: `not
    /// establishing CHILD_SA due to existing duplicate`). Of what is wanted it is 0, and whoever loads it counts.
    pub generation: u32,
}

impl Connection {
    /// Whether the peer cannot tell this connection from another by who we are: both are between the same ends, which know each other by
    /// the same means.
    pub fn is_beside(&self, other: &Self) -> bool {
        self.name != other.name
            && (self.local, self.remote) == (other.local, other.remote)
            && (&self.auth, self.content) == (&other.auth, other.content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_what_is_protected_and_has_no_dot() {
        let remote = [192, 0, 2, 2].into();
        let name = ConnectionName::of(Carries::Geneve(6_081), None, remote);
        assert_eq!(name.as_str(), "offloadd-geneve-6081-to-192_0_2_2");
        let name = ConnectionName::of(Carries::Gre, Some([192, 0, 2, 1].into()), remote);
        assert_eq!(name.as_str(), "offloadd-gre-to-192_0_2_2-from-192_0_2_1");
        let longest = "2001:db8:1111:2222:3333:4444:5555:6666".parse().unwrap();
        let name = ConnectionName::of(Carries::Geneve(60_810), Some(longest), longest);
        assert!(name.as_str().len() <= 255, "vici has a byte for the length");
        assert_eq!(ConnectionName::ours(name.as_str()), Some(name));
        assert_eq!(ConnectionName::ours("site-to-site"), None);
    }

    #[test]
    fn what_drops_packets_is_no_connection() {
        let name = ConnectionName::of(Carries::Geneve(6_081), None, [192, 0, 2, 2].into());
        assert_eq!(name.closed(), "offloadd-geneve-6081-to-192_0_2_2-closed");
        assert_eq!(ConnectionName::ours(&name.closed()), None);
    }
}
