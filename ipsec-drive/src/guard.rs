//! What keeps tunnels' packets from passing in the clear: `other_config:ipsec_skb_mark`.
//!
//! As with `ovs-monitor-ipsec`, it is about all tunnels of the host and not those alone that are to be protected: packets that have the mark
//! and that no connection is for are dropped.

use alloc::collections::BTreeSet;
use core::fmt;

use crate::{Carries, Connection, ConnectionName};

/// Ports of UDP that tunnels go to unless they say otherwise: Geneve's and VXLAN's.
const PORTS: [u16; 2] = [6_081, 4_789];

/// A mark of packets, as it is compared: `value/mask`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SkbMark {
    /// What there is to be.
    value: u32,
    /// Where it is looked at.
    mask: u32,
}

impl SkbMark {
    /// Reads `value/mask`, each in decimal or behind `0x`; without a mask all is looked at.
    pub fn read(text: &str) -> Option<Self> {
        let number = |text: &str| match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
            Some(digits) => u32::from_str_radix(digits, 16).ok(),
            None => text.parse().ok(),
        };
        let (value, mask) = text.trim().split_once('/').unwrap_or((text.trim(), "0xffffffff"));
        Some(Self { value: number(value)?, mask: number(mask)? })
    }
}

impl fmt::Display for SkbMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}/{:#x}", self.value, self.mask)
    }
}

/// What is dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guard {
    /// Its name in the IKE daemon.
    pub name: ConnectionName,
    /// The mark of the packets.
    pub mark: SkbMark,
    /// Ports of UDP that tunnels go to. GRE and STT are dropped, too.
    pub ports: BTreeSet<u16>,
}

impl Guard {
    /// The one for these packets: of the ports that tunnels have, and of those that these connections are for.
    pub fn new<'a>(mark: SkbMark, connections: impl IntoIterator<Item = &'a Connection>) -> Self {
        let of = |connection: &Connection| match connection.carries {
            Carries::Vxlan(port) | Carries::Geneve(port) => Some(port),
            Carries::Gre => None,
        };
        let ports = PORTS.into_iter().chain(connections.into_iter().filter_map(of));
        Self { name: ConnectionName::of_guard(), mark, ports: ports.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString as _;

    #[test]
    fn a_mark_is_read_in_both_bases_and_nothing_else_is_one() {
        let read = |text: &str| SkbMark::read(text).map(|mark| mark.to_string());
        assert_eq!(read("0/1").as_deref(), Some("0x0/0x1"));
        assert_eq!(read("0x10/0xF0").as_deref(), Some("0x10/0xf0"));
        assert_eq!(read("7").as_deref(), Some("0x7/0xffffffff"));
        for wrong in ["", "/", "1/", "one/1", "1/2/3", "-1/1", "0x100000000/1"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
