//! Packets that TC has no words for, and that its rules treat otherwise than the kernel datapath: those whose headers are
//! cut off or broken, and those whose checksums are wrong. The translator names these (`offload_engine::shadow`).

use super::packet::{ARP, ICMP, ICMPV6, IPV4, IPV6, MPLS, MPLS_MULTICAST, RARP, SCTP, TCP, UDP, sum};

const CUT: &str = "a header that is cut off";
const BROKEN: &str = "an IP header that says what is not so";
const CHECKSUM: &str = "a wrong checksum";
/// The translator names it; how it is treated otherwise is certain, and is all that may differ.
pub(super) const NO_CHECKSUM: &str = "UDP over IPv6 without a checksum, which a rewrite makes";

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// What is odd about a frame, if anything is.
pub(super) fn about(frame: &[u8]) -> Option<&'static str> {
    let (mut at, mut tags) = (12, 0);
    while matches!(be16(frame, at), Some(0x8100 | 0x88a8)) && tags < 3 {
        (at, tags) = (at + 4, tags + 1);
    }
    let Some(ethertype) = be16(frame, at) else { return Some(CUT) };
    let rest = frame.get(at + 2..).unwrap_or_default();
    match ethertype {
        IPV4 => ipv4(rest),
        IPV6 => ipv6(rest),
        ARP | RARP => (rest.len() < 28).then_some(CUT),
        MPLS | MPLS_MULTICAST => {
            let entries = rest.chunks_exact(4).position(|entry| entry[2] & 1 != 0);
            entries.is_none().then_some(CUT)
        }
        0x8100 | 0x88a8 => Some(CUT),
        _ => None,
    }
}

fn ipv4(bytes: &[u8]) -> Option<&'static str> {
    if bytes.len() < 20 {
        return Some(CUT);
    }
    let (header, total) = (usize::from(bytes[0] & 15) * 4, usize::from(be16(bytes, 2)?));
    if bytes[0] >> 4 != 4 || header < 20 || total < header || total > bytes.len() {
        return Some(BROKEN);
    }
    if sum(&bytes[..header], 0) != 0xffff {
        return Some(CHECKSUM);
    }
    let fragment = be16(bytes, 6)? & 0x3fff;
    match fragment & 0x1fff {
        0 => transport(bytes[9], &bytes[12..20], &bytes[header..total], fragment != 0),
        _ => None,
    }
}

fn ipv6(bytes: &[u8]) -> Option<&'static str> {
    if bytes.len() < 40 {
        return Some(CUT);
    }
    let total = 40 + usize::from(be16(bytes, 4)?);
    if bytes[0] >> 4 != 6 || total > bytes.len() {
        return Some(BROKEN);
    }
    let (mut next, mut at, mut is_fragment) = (bytes[6], 40, false);
    loop {
        let Some(header) = bytes[..total].get(at..) else { return Some(CUT) };
        let length = match next {
            // A routing header's last address is what a checksum covers.
            43 => return Some(BROKEN),
            0 | 60 => header.get(1).map(|words| 8 + usize::from(*words) * 8),
            44 => {
                let offset = be16(header, 2)?;
                if offset & !7 != 0 {
                    return None;
                }
                is_fragment |= offset & 1 != 0;
                Some(8)
            }
            _ => return transport(next, &bytes[8..40], header, is_fragment),
        };
        match length.filter(|length| *length <= header.len()) {
            Some(length) => (next, at) = (header[0], at + length),
            None => return Some(CUT),
        }
    }
}

fn transport(proto: u8, ends: &[u8], bytes: &[u8], is_fragment: bool) -> Option<&'static str> {
    let is_v6 = ends.len() > 8;
    let (least, over_ends) = match proto {
        TCP => (20, true),
        UDP => (8, true),
        SCTP => (12, false),
        ICMP if !is_v6 => (8, false),
        ICMPV6 if is_v6 => (if matches!(bytes.first(), Some(135 | 136)) { 24 } else { 8 }, true),
        _ => return None,
    };
    if bytes.len() < least
        || (proto == TCP && !(20..=bytes.len()).contains(&(usize::from(bytes[12] >> 4) * 4)))
    {
        return Some(CUT);
    }
    if proto == UDP && usize::from(be16(bytes, 4)?) != bytes.len() && !is_fragment {
        return Some(BROKEN);
    }
    let has_none = proto == SCTP || is_fragment || (proto == UDP && be16(bytes, 6) == Some(0));
    let begin = match over_ends {
        true => u32::from(sum(ends, u32::from(proto))) + bytes.len() as u32,
        false => 0,
    };
    (!has_none && sum(bytes, begin) != 0xffff).then_some(CHECKSUM)
}

#[cfg(test)]
mod tests {
    use super::super::dice::Dice;
    use super::super::packet::{Damage, Packet};
    use super::*;

    #[test]
    fn the_checksum_that_a_rewrite_makes_is_found_where_udp_over_ipv6_has_none() {
        let mut found = 0;
        for seed in 0..5_000 {
            let packet = Packet::draw(&mut Dice::new(seed));
            let frame = packet.inner(7);
            let Some(from_end) = packet.checksum_that_is_made() else { continue };
            let at = frame.len() - from_end;
            assert_eq!(frame[at..at + 2], [0, 0], "{packet:?}");
            let ports = frame.get(at - 6..at - 2).map(|ports| (be16(ports, 0), be16(ports, 2)));
            let super::super::packet::Body::Ip(ip) = &packet.body else { panic!("{packet:?}") };
            assert_eq!(ports, Some((Some(ip.from), Some(ip.to))), "{packet:?}");
            found += 1;
        }
        assert!(found > 20, "{found}");
    }

    #[test]
    fn nothing_is_odd_about_packets_as_they_are_drawn_and_something_about_damaged_ones() {
        let mut found = 0;
        for seed in 0..20_000 {
            let packet = Packet::draw(&mut Dice::new(seed));
            assert_eq!(about(&packet.inner(7)), None, "{packet:?}");
            let cut = Packet { damage: Damage::Cut(30 + 4 * packet.tags.len()), ..packet };
            found += usize::from(about(&cut.inner(7)).is_some());
        }
        assert!(found > 10_000, "{found}");
    }
}
