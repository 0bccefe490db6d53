//! Packets: as a NIC's port or a tunnel's device gives them, and how they are drawn.

use crate::choices::Choices;
use std::net::IpAddr;

/// What a tunnel's device tells of a packet (`struct ip_tunnel_info`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Outer {
    pub(crate) id: Option<u64>,
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    pub(crate) tos: u8,
    pub(crate) ttl: u8,
    pub(crate) tp_src: u16,
    pub(crate) tp_dst: u16,
    pub(crate) csum: bool,
    pub(crate) df: bool,
    pub(crate) oam: bool,
    pub(crate) options: Options,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Options {
    None,
    Geneve(Vec<u8>),
    Gbp(u32),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Packet {
    pub(crate) in_port: u32,
    pub(crate) outer: Option<Outer>,
    /// From the Ethernet header on, tags included.
    pub(crate) bytes: Vec<u8>,
}

pub(crate) fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub(crate) const IPV4: u16 = 0x0800;
pub(crate) const ARP: u16 = 0x0806;
pub(crate) const RARP: u16 = 0x8035;
pub(crate) const IPV6: u16 = 0x86dd;
pub(crate) const MPLS: u16 = 0x8847;
pub(crate) const MPLS_MC: u16 = 0x8848;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const SCTP: u8 = 132;
pub(crate) const ICMP: u8 = 1;
pub(crate) const ICMPV6: u8 = 58;

pub(crate) const fn is_vlan(ethertype: u16) -> bool {
    matches!(ethertype, 0x8100 | 0x88a8)
}

pub(crate) const fn is_mpls(ethertype: u16) -> bool {
    matches!(ethertype, MPLS | MPLS_MC)
}

pub(crate) fn mac(choices: &mut Choices) -> [u8; 6] {
    choices.of(&[[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2], [0xff; 6], [0; 6], [1, 0, 0x5e, 0, 0, 1]])
}

pub(crate) fn v4(choices: &mut Choices) -> [u8; 4] {
    choices.of(&[[10, 0, 0, 1], [10, 0, 0, 2], [0; 4], [10, 1, 0, 1], [255; 4]])
}

pub(crate) fn v6(choices: &mut Choices) -> [u8; 16] {
    let last = choices.of(&[1, 2, 0]);
    let mut address = [0; 16];
    address[15] = last;
    if choices.one_in(3) {
        address[..2].copy_from_slice(&[0xfe, 0x80]);
    }
    address
}

pub(crate) fn ttl(choices: &mut Choices) -> u8 {
    choices.of(&[64, 63, 1, 0, 255, 2])
}

pub(crate) fn port(choices: &mut Choices) -> u16 {
    choices.of(&[80, 0, 443, 4096, 65535])
}

/// The one's complement sum of 16-bit words, added to `sum`.
pub(crate) fn sum(bytes: &[u8], sum: u32) -> u32 {
    bytes.chunks(2).fold(sum, |sum, word| {
        sum + u32::from(u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)]))
    })
}

pub(crate) fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// A packet of this port.
pub(crate) fn draw(choices: &mut Choices, in_port: u32) -> Packet {
    let mut bytes = Vec::new();
    bytes.extend(mac(choices));
    bytes.extend(mac(choices));
    for _ in 0..choices.of(&[0, 0, 1, 1, 2, 3]) {
        bytes.extend(choices.of(&[0x8100_u16, 0x88a8]).to_be_bytes());
        let tci =
            choices.of(&[0, 5, 100, 4095]) | choices.of(&[0, 3, 7]) << 13 | choices.of(&[0_u16, 1]) << 12;
        bytes.extend(tci.to_be_bytes());
    }
    let ethertype = choices.of(&[IPV4, IPV4, IPV4, IPV6, IPV6, ARP, MPLS, MPLS_MC, RARP, 0x88cc, 46]);
    bytes.extend(ethertype.to_be_bytes());
    match ethertype {
        IPV4 => ipv4(choices, &mut bytes),
        IPV6 => ipv6(choices, &mut bytes),
        ARP | RARP => arp(choices, &mut bytes),
        MPLS | MPLS_MC => mpls(choices, &mut bytes),
        _ => bytes.extend([0; 46]),
    }
    Packet { in_port, outer: outer(choices, in_port), bytes }
}

fn ipv4(choices: &mut Choices, bytes: &mut Vec<u8>) {
    let words = choices.of(&[5_u8, 5, 6]);
    let proto = choices.of(&[TCP, UDP, UDP, ICMP, SCTP, 47, 0, ICMPV6, 4, 136, 137]);
    let fragment = choices.of(&[0_u16, 0, 0x4000, 0x2000, 0x2010, 0x0010]);
    let (src, dst) = (v4(choices), v4(choices));
    let payload = transport(choices, proto, &[&src[..], &dst[..]].concat(), fragment & 0x1fff == 0);
    let mut header = vec![0x40 | words, choices.of(&[0_u8, 0xb8, 3])];
    header.extend((u16::from(words) * 4 + payload.len() as u16).to_be_bytes());
    header.extend([0, 7]);
    header.extend(fragment.to_be_bytes());
    header.extend([ttl(choices), proto, 0, 0]);
    header.extend(src);
    header.extend(dst);
    header.resize(usize::from(words) * 4, 1);
    let check = !fold(sum(&header, 0));
    header[10..12].copy_from_slice(&check.to_be_bytes());
    bytes.extend(header);
    bytes.extend(payload);
}

fn ipv6(choices: &mut Choices, bytes: &mut Vec<u8>) {
    let proto = choices.of(&[TCP, UDP, ICMPV6, ICMPV6, SCTP, 47, 59, ICMP]);
    let (src, dst) = (v6(choices), v6(choices));
    // Hop-by-hop, destination options, or a fragment header: whole, first, later. Routing headers are left out.
    let extension = choices.of(&[0_u16, 0, 0, 1, 2, 3, 4, 5]);
    let is_later = extension == 5;
    let mut payload = transport(choices, proto, &[&src[..], &dst[..]].concat(), !is_later);
    let next = match extension {
        0 => proto,
        1 | 2 => {
            payload.splice(0..0, [proto, 0, 1, 4, 0, 0, 0, 0]);
            if extension == 1 { 0 } else { 60 }
        }
        fragment => {
            let offset = match fragment {
                3 => [0, 0],
                4 => [0, 1],
                _ => [0, 0x19],
            };
            payload.splice(0..0, [proto, 0, offset[0], offset[1], 0, 0, 0, 9]);
            44
        }
    };
    let class = choices.of(&[0_u8, 0xb8, 3]);
    let label = choices.of(&[0_u32, 0x12345]);
    bytes.extend((6 << 28 | u32::from(class) << 20 | label).to_be_bytes());
    bytes.extend((payload.len() as u16).to_be_bytes());
    bytes.extend([next, ttl(choices)]);
    bytes.extend(src);
    bytes.extend(dst);
    bytes.extend(payload);
}

/// With a checksum that is right, over addresses and payload, but for UDP without one.
fn transport(choices: &mut Choices, proto: u8, addresses: &[u8], is_first: bool) -> Vec<u8> {
    if !is_first {
        return choices.bytes::<16>().to_vec();
    }
    let mut bytes = Vec::new();
    let at = match proto {
        TCP => {
            bytes.extend([port(choices).to_be_bytes(), port(choices).to_be_bytes()].concat());
            bytes.extend([0; 8]);
            let flags = choices.of(&[0x10_u16, 0x02, 0x12, 0, 0xfff]);
            bytes.extend((5 << 12 | flags).to_be_bytes());
            bytes.extend([0, 8, 0, 0, 0, 0]);
            Some(16)
        }
        UDP => {
            bytes.extend([port(choices).to_be_bytes(), port(choices).to_be_bytes()].concat());
            bytes.extend([0, 16, 0, 0]);
            (!choices.one_in(3)).then_some(6)
        }
        ICMP => {
            bytes.extend([choices.of(&[8_u8, 0, 3]), choices.of(&[0_u8, 1]), 0, 0, 0, 1, 0, 1]);
            None
        }
        ICMPV6 => {
            let kind = choices.of(&[128_u8, 135, 136, 135, 136, 0]);
            bytes.extend([kind, choices.of(&[0_u8, 1]), 0, 0, 0, 0, 0, 0]);
            if matches!(kind, 135 | 136) {
                bytes.extend(v6(choices));
                bytes.extend([kind - 134, 1]);
                bytes.extend(mac(choices));
            }
            Some(2)
        }
        SCTP => {
            bytes.extend([port(choices).to_be_bytes(), port(choices).to_be_bytes()].concat());
            bytes.extend([0; 8]);
            None
        }
        _ => None,
    };
    bytes.extend(choices.bytes::<8>());
    if let Some(at) = at {
        let pseudo = sum(addresses, u32::from(proto) + bytes.len() as u32);
        let check = match (!fold(sum(&bytes, pseudo)), proto) {
            (0, UDP) => 0xffff,
            (check, _) => check,
        };
        bytes[at..at + 2].copy_from_slice(&check.to_be_bytes());
    }
    bytes
}

fn arp(choices: &mut Choices, bytes: &mut Vec<u8>) {
    bytes.extend(choices.of(&[1_u16, 1, 1, 6]).to_be_bytes());
    bytes.extend(IPV4.to_be_bytes());
    bytes.extend([6, 4]);
    bytes.extend(choices.of(&[1_u16, 2, 3, 0, 0x101]).to_be_bytes());
    bytes.extend(mac(choices));
    bytes.extend(v4(choices));
    bytes.extend(mac(choices));
    bytes.extend(v4(choices));
}

fn mpls(choices: &mut Choices, bytes: &mut Vec<u8>) {
    let entries = choices.of(&[1, 2, 3, 4]);
    for at in 1..=entries {
        bytes.extend(lse(choices, at == entries).to_be_bytes());
    }
    bytes.extend(choices.bytes::<32>());
}

pub(crate) fn lse(choices: &mut Choices, bottom: bool) -> u32 {
    let label = choices.of(&[100_u32, 0, 0xfffff]);
    label << 12 | choices.of(&[0_u32, 5]) << 9 | u32::from(bottom) << 8 | u32::from(ttl(choices))
}

/// Ports of the drawn datapath: 0 internal, 1 and 2 representors, 3 the uplink, 4 Geneve, 5 VXLAN, 6 GRE.
pub(crate) const PORTS: u32 = 7;

fn outer(choices: &mut Choices, in_port: u32) -> Option<Outer> {
    let tunnel = (4..=6).contains(&in_port).then(|| tunnel(choices, in_port))?;
    Some(Outer { tp_dst: udp_port(in_port).unwrap_or(0), ..tunnel })
}

/// The UDP port of a tunnel's device, to which all its packets come.
pub(crate) fn udp_port(port: u32) -> Option<u16> {
    [(4, 6081), (5, 4789)].into_iter().find(|(of, _)| *of == port).map(|(_, udp_port)| udp_port)
}

pub(crate) fn tunnel(choices: &mut Choices, port: u32) -> Outer {
    let is_v6 = choices.one_in(3);
    let mut address = || -> IpAddr { if is_v6 { v6(choices).into() } else { v4(choices).into() } };
    let (src, dst) = (address(), address());
    Outer {
        id: (port != 6 || choices.one_in(2)).then(|| choices.of(&[7, 0, 0xff_ffff])),
        src,
        dst,
        tos: choices.of(&[0, 0xb8]),
        ttl: ttl(choices),
        tp_src: choices.of(&[0, 40000]),
        tp_dst: choices.of(&[6081, 0]),
        csum: choices.one_in(2),
        df: choices.one_in(2),
        oam: choices.one_in(4),
        options: match port {
            4 => geneve(choices),
            5 if choices.one_in(2) => Options::Gbp(choices.of(&[0, 0x1234, 0x8_0000])),
            _ => Options::None,
        },
    }
}

fn geneve(choices: &mut Choices) -> Options {
    let mut bytes = Vec::new();
    for _ in 0..choices.below(3) {
        bytes.extend(choices.of(&[0x102_u16, 0x103]).to_be_bytes());
        let words = choices.of(&[1_u8, 2, 0]);
        bytes.extend([choices.of(&[0_u8, 0x80, 1]), words]);
        for _ in 0..words {
            bytes.extend(choices.of(&[[0, 1, 0, 2], [0; 4], [0xff; 4]]));
        }
    }
    if bytes.is_empty() { Options::None } else { Options::Geneve(bytes) }
}
