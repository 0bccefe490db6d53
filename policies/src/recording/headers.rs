//! Header fields by their codes in a recording. Codes stay what they are; new ones are added at the end.

use crate::language::Header;

pub(super) const HEADERS: [Header; Header::COUNT] = [
    Header::EthSrc,
    Header::EthDst,
    Header::EthType,
    Header::VlanTci,
    Header::InnerVlanTci,
    Header::MplsLse,
    Header::IpProto,
    Header::IpTos,
    Header::IpTtl,
    Header::IpFrag,
    Header::Ip4Src,
    Header::Ip4Dst,
    Header::Ip6Src,
    Header::Ip6Dst,
    Header::Ip6Label,
    Header::ArpOp,
    Header::ArpSpa,
    Header::ArpTpa,
    Header::ArpSha,
    Header::ArpTha,
    Header::L4Src,
    Header::L4Dst,
    Header::TcpFlags,
    Header::IcmpType,
    Header::IcmpCode,
    Header::NdTarget,
    Header::NdSll,
    Header::NdTll,
    Header::CtState,
    Header::CtZone,
    Header::CtMark,
    Header::CtLabel,
    Header::Tunnel,
    Header::TunId,
    Header::TunSrc,
    Header::TunDst,
    Header::Tun6Src,
    Header::Tun6Dst,
    Header::TunTos,
    Header::TunTtl,
    Header::TunTpSrc,
    Header::TunTpDst,
    Header::RecircId,
    Header::PktMark,
    Header::SkbPriority,
    Header::DpHash,
];

/// The code of each field, by the field's place among all.
const CODES: [u8; Header::COUNT] = {
    let mut codes = [u8::MAX; Header::COUNT];
    let mut code = 0;
    while code < Header::COUNT {
        codes[HEADERS[code] as usize] = code as u8;
        code += 1;
    }
    codes
};

pub(super) fn code(header: Header) -> u8 {
    CODES[header as usize]
}

pub(super) fn header(code: u8) -> Option<Header> {
    HEADERS.get(usize::from(code)).copied()
}

/// Bytes that a value of the field takes.
pub(super) fn bytes(header: Header) -> usize {
    usize::from(header.width()).div_ceil(8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_has_a_code_of_its_own() {
        for field in Header::all() {
            assert_eq!(header(code(field)), Some(field), "{field:?}");
        }
        // These are in files that exist.
        assert_eq!((code(Header::EthSrc), code(Header::Ip4Dst), code(Header::DpHash)), (0, 11, 45));
    }
}
