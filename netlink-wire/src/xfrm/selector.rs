//! Which packets IPsec is about: `struct xfrm_selector`, and the addresses in it.

use crate::attr::Fields;
use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// `AF_INET`
const AF_INET: u16 = 2;
/// `AF_INET6`
const AF_INET6: u16 = 10;
/// Bytes of `xfrm_address_t`.
pub(super) const ADDRESS: usize = 16;

/// An address of a family: `xfrm_address_t`, of which IPv4 has the first four bytes.
pub(super) fn address(bytes: [u8; ADDRESS], family: u16) -> Option<IpAddr> {
    match family {
        AF_INET => Some(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]).into()),
        AF_INET6 => Some(Ipv6Addr::from(bytes).into()),
        _ => None,
    }
}

/// Addresses that begin with the same bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Prefix {
    /// One of them.
    pub address: IpAddr,
    /// How many bits are the same: 32 or 128 for one address alone, 0 for all of the family.
    pub bits: u8,
}

impl Prefix {
    /// Whether it is one of them.
    pub fn has(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(ours), IpAddr::V4(other)) => {
                same(ours.to_bits().into(), other.to_bits().into(), 32, self.bits)
            }
            (IpAddr::V6(ours), IpAddr::V6(other)) => same(ours.to_bits(), other.to_bits(), 128, self.bits),
            _ => false,
        }
    }
}

fn same(a: u128, b: u128, width: u32, bits: u8) -> bool {
    let left_out = width.saturating_sub(bits.into());
    (a ^ b).checked_shr(left_out).unwrap_or(0) == 0
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

/// Which packets: by addresses, protocol and ports.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Selector {
    /// Where they come from; none for anywhere, of whatever family.
    pub src: Option<Prefix>,
    /// Where they go to.
    pub dst: Option<Prefix>,
    /// `IPPROTO_*`; 0 for any.
    pub proto: u8,
    /// Source port and the bits of it that matter.
    pub sport: (u16, u16),
    /// Destination port and the bits of it that matter.
    pub dport: (u16, u16),
}

impl Selector {
    /// Reads `struct xfrm_selector`, 56 bytes.
    pub(super) fn read(fields: &mut Fields<'_>) -> Self {
        let (dst, src) = (fields.bytes(), fields.bytes());
        let dport = (fields.be16(), fields.be16());
        let sport = (fields.be16(), fields.be16());
        let (family, dst_bits, src_bits, proto) = (fields.u16(), fields.u8(), fields.u8(), fields.u8());
        // Three bytes of padding, the device and the user, which neither OVS nor an IKE daemon sets for a tunnel.
        fields.bytes::<11>();
        let prefix = |bytes, bits| address(bytes, family).map(|address| Prefix { address, bits });
        Self { src: prefix(src, src_bits), dst: prefix(dst, dst_bits), proto, sport, dport }
    }

    /// Whether a packet to that address and destination port is one of them, wherever it comes from.
    pub fn takes(&self, dst: IpAddr, proto: u8, dport: u16) -> bool {
        let (port, mask) = self.dport;
        self.dst.is_none_or(|prefix| prefix.has(dst))
            && (self.proto == 0 || self.proto == proto)
            && (dport ^ port) & mask == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(address: &str, bits: u8) -> Prefix {
        Prefix { address: address.parse().expect("an address"), bits }
    }

    #[test]
    fn a_prefix_has_the_addresses_that_begin_alike() {
        for (of, address, has) in [
            (prefix("192.0.2.1", 32), "192.0.2.1", true),
            (prefix("192.0.2.1", 32), "192.0.2.2", false),
            (prefix("192.0.2.0", 24), "192.0.2.200", true),
            (prefix("192.0.2.0", 24), "192.0.3.0", false),
            (prefix("0.0.0.0", 0), "255.1.2.3", true),
            (prefix("::", 0), "2001:db8::1", true),
            (prefix("2001:db8::", 64), "2001:db8::ffff", true),
            (prefix("2001:db8::", 64), "2001:db8:0:1::", false),
            (prefix("2001:db8::1", 128), "2001:db8::1", true),
            (prefix("0.0.0.0", 0), "::1", false),
            // No format forbids it: longer than the address is.
            (prefix("192.0.2.1", 200), "192.0.2.1", true),
        ] {
            assert_eq!(of.has(address.parse().expect("an address")), has, "{of} {address}");
        }
    }
}
