//! Packets: drawn from small sets of values, boundary values among them, so that the matches of a pipeline meet them.

use super::dice::Dice;
use super::outer::Outer;

pub(super) const IPV4: u16 = 0x0800;
pub(super) const ARP: u16 = 0x0806;
pub(super) const RARP: u16 = 0x8035;
pub(super) const IPV6: u16 = 0x86dd;
pub(super) const MPLS: u16 = 0x8847;
pub(super) const MPLS_MULTICAST: u16 = 0x8848;
/// Of the frame that ends a port's share of a phase (IEEE Std 802 local experimental 2).
pub(super) const BARRIER: u16 = 0x88b6;

pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const SCTP: u8 = 132;
pub(super) const ICMP: u8 = 1;
pub(super) const ICMPV6: u8 = 58;

/// How the last bytes of every frame begin; the number that tells frames apart follows.
const MARK: [u8; 4] = [0xd1, 0xff, 0x0e, 0x5e];
/// Bytes of mark and number.
pub(super) const TRAILER: usize = 8;

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Packet {
    pub(super) dst: [u8; 6],
    pub(super) src: [u8; 6],
    /// (TPID, TCI), outermost first.
    pub(super) tags: Vec<(u16, u16)>,
    pub(super) body: Body,
    /// Bytes before the trailer.
    pub(super) payload: usize,
    pub(super) damage: Damage,
    /// The tunnel's packet that it is sent in.
    pub(super) outer: Option<Outer>,
}

/// What is done to the bytes of a packet that was made as it should be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Damage {
    None,
    /// Only so many bytes are left before the trailer.
    Cut(usize),
    /// Bytes between the network packet's end and the frame's.
    Padded(usize),
    /// A byte is another.
    Byte(usize, u8),
    /// A checksum of the transport is wrong.
    Checksum,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Body {
    Ip(Ip),
    Arp(Arp),
    Mpls { ethertype: u16, stack: Vec<u32>, inner: Ip },
    Other(u16),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ip {
    pub(super) v6: bool,
    /// IPv4's are the last four bytes.
    pub(super) src: [u8; 16],
    pub(super) dst: [u8; 16],
    pub(super) tos: u8,
    pub(super) ttl: u8,
    pub(super) label: u32,
    /// As in IPv4's header: DF, MF, offset in units of 8 bytes.
    pub(super) fragment: u16,
    /// IPv4's options in words; IPv6's extension headers, of this kind.
    pub(super) options: u8,
    pub(super) proto: u8,
    /// Ports; type and code of ICMP.
    pub(super) from: u16,
    pub(super) to: u16,
    pub(super) tcp_flags: u16,
    /// Of UDP.
    pub(super) no_checksum: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Arp {
    pub(super) ethertype: u16,
    pub(super) hardware: u16,
    pub(super) op: u16,
    pub(super) sha: [u8; 6],
    pub(super) spa: [u8; 4],
    pub(super) tha: [u8; 6],
    pub(super) tpa: [u8; 4],
}

pub(super) fn mac(dice: &mut Dice) -> [u8; 6] {
    dice.of(&[
        [2, 0, 0, 0, 0, 1],
        [2, 0, 0, 0, 0, 2],
        [2, 0, 0, 0, 0, 0x12],
        [0xff; 6],
        [0; 6],
        [1, 0, 0x5e, 0, 0, 1],
    ])
}

pub(super) fn v4(dice: &mut Dice) -> [u8; 4] {
    dice.of(&[
        [10, 0, 0, 1],
        [10, 0, 0, 2],
        [10, 1, 0, 1],
        [172, 16, 255, 254],
        [0; 4],
        [255; 4],
        [224, 0, 0, 1],
    ])
}

fn v6(dice: &mut Dice) -> [u8; 16] {
    let mut address = [0; 16];
    address[..2].copy_from_slice(&dice.of(&[[0xfd, 0], [0xfd, 0], [0xfe, 0x80], [0, 0], [0xff, 2]]));
    address[15] = dice.of(&[1, 2, 0, 0xff]);
    address
}

pub(super) fn address(dice: &mut Dice, is_v6: bool) -> [u8; 16] {
    if is_v6 {
        return v6(dice);
    }
    let mut address = [0; 16];
    address[12..].copy_from_slice(&v4(dice));
    address
}

pub(super) fn ttl(dice: &mut Dice) -> u8 {
    dice.of(&[64, 64, 63, 2, 1, 0, 255])
}

pub(super) fn port(dice: &mut Dice) -> u16 {
    dice.of(&[80, 443, 53, 4096, 0, 65535])
}

pub(super) fn tag(dice: &mut Dice) -> (u16, u16) {
    let tci = dice.of(&[5, 100, 0, 4095]) | dice.of(&[0, 3, 7]) << 13 | dice.of(&[0_u16, 0, 0, 1]) << 12;
    (dice.of(&[0x8100_u16, 0x8100, 0x88a8]), tci)
}

pub(super) fn entry(dice: &mut Dice, bottom: bool) -> u32 {
    let label = dice.of(&[100_u32, 16, 0, 0xfffff]);
    label << 12 | dice.of(&[0_u32, 5]) << 9 | u32::from(bottom) << 8 | u32::from(ttl(dice))
}

impl Ip {
    pub(super) fn draw(dice: &mut Dice) -> Self {
        let is_v6 = dice.one_in(3);
        let icmp = if is_v6 { ICMPV6 } else { ICMP };
        let proto = dice.of(&[TCP, TCP, TCP, UDP, UDP, UDP, icmp, SCTP, 47, 0x63]);
        let mut ip = Self {
            v6: is_v6,
            src: address(dice, is_v6),
            dst: address(dice, is_v6),
            tos: dice.of(&[0, 0, 0xb8, 0x28, 3, 0xff]),
            ttl: ttl(dice),
            label: dice.of(&[0, 0, 0x12345]),
            fragment: if is_v6 { 0 } else { dice.of(&[0, 0x4000]) },
            options: 0,
            proto,
            from: port(dice),
            to: port(dice),
            tcp_flags: dice.of(&[0x10, 0x02, 0x12, 0x01, 0xfff, 0]),
            no_checksum: dice.one_in(6),
        };
        if proto == icmp {
            ip.from = if is_v6 { dice.of(&[128, 129, 135, 136]) } else { dice.of(&[8, 0, 3]) };
            ip.to = dice.of(&[0, 0, 1]);
        }
        if dice.one_in(12) {
            ip.fragment = dice.of(&[0x2000, 0x2010, 0x0010, 0x6000]);
        }
        if dice.one_in(16) {
            ip.options = dice.of(&[1, 2, 10]);
        }
        ip
    }

    fn is_later(&self) -> bool {
        self.fragment & 0x1fff != 0
    }

    fn is_fragment(&self) -> bool {
        self.fragment & 0x3fff != 0
    }

    fn encode(&self, payload: &[u8]) -> Vec<u8> {
        let ends = match self.v6 {
            true => [self.src, self.dst].concat(),
            false => [&self.src[12..], &self.dst[12..]].concat(),
        };
        let l4 = if self.is_later() { payload.to_vec() } else { self.transport(&ends, payload) };
        if self.v6 {
            let (next, rest) = self.extended(l4);
            let word = 6 << 28 | u32::from(self.tos) << 20 | self.label;
            return [
                &word.to_be_bytes()[..],
                &size(rest.len()).to_be_bytes(),
                &[next, self.ttl],
                &ends,
                &rest,
            ]
            .concat();
        }
        let words = 5 + usize::from(self.options);
        let mut header = vec![0x40 | words as u8, self.tos];
        header.extend(size(words * 4 + l4.len()).to_be_bytes());
        header.extend([0x12, 0x34]);
        header.extend(self.fragment.to_be_bytes());
        header.extend([self.ttl, self.proto, 0, 0]);
        header.extend(&ends);
        header.resize(words * 4, 1);
        let check = !sum(&header, 0);
        header[10..12].copy_from_slice(&check.to_be_bytes());
        [header, l4].concat()
    }

    /// IPv6's headers between its own and the transport's.
    fn extended(&self, l4: Vec<u8>) -> (u8, Vec<u8>) {
        let (mut next, mut rest) = (self.proto, l4);
        if self.is_fragment() {
            let offset = (self.fragment & 0x1fff) << 3 | u16::from(self.fragment & 0x2000 != 0);
            let header = [next, 0, (offset >> 8) as u8, offset as u8, 0, 0, 0, 9];
            (next, rest) = (44, [&header[..], &rest].concat());
        }
        if self.options > 0 {
            // Padding, in hop-by-hop or in destination options.
            rest = [&[next, 0, 1, 4, 0, 0, 0, 0][..], &rest].concat();
            next = if self.options == 1 { 0 } else { 60 };
        }
        (next, rest)
    }

    fn transport(&self, ends: &[u8], payload: &[u8]) -> Vec<u8> {
        let ports = [self.from.to_be_bytes(), self.to.to_be_bytes()].concat();
        let (mut bytes, check_at, is_over_ends) = match self.proto {
            TCP => {
                let words = 5 << 12 | self.tcp_flags;
                let rest =
                    [&[0, 0, 0, 1, 0, 0, 0, 2][..], &words.to_be_bytes(), &[1, 0, 0, 0, 0, 0]].concat();
                ([ports, rest].concat(), Some(16), true)
            }
            UDP => {
                let length = size(8 + payload.len()).to_be_bytes();
                ([ports, length.to_vec(), vec![0, 0]].concat(), (!self.no_checksum).then_some(6), true)
            }
            SCTP => ([ports, vec![0, 0, 0, 1, 0, 0, 0, 0]].concat(), None, false),
            ICMP if !self.v6 => (vec![self.from as u8, self.to as u8, 0, 0, 0, 7, 0, 1], Some(2), false),
            ICMPV6 if self.v6 => {
                let mut bytes = vec![self.from as u8, self.to as u8, 0, 0, 0, 0, 0, 0];
                if matches!(self.from, 135 | 136) {
                    bytes.extend(self.dst);
                    bytes.extend([(self.from - 134) as u8, 1, 2, 0, 0, 0, 0, 7]);
                }
                (bytes, Some(2), true)
            }
            _ => (Vec::new(), None, false),
        };
        bytes.extend(payload);
        if let Some(at) = check_at {
            let of_ends = if is_over_ends {
                u32::from(sum(ends, u32::from(self.proto) + bytes.len() as u32))
            } else {
                0
            };
            let check = match (!sum(&bytes, of_ends), self.proto) {
                (0, UDP) => 0xffff,
                (check, _) => check,
            };
            bytes[at..at + 2].copy_from_slice(&check.to_be_bytes());
        }
        bytes
    }
}

impl Arp {
    fn draw(dice: &mut Dice) -> Self {
        Self {
            ethertype: dice.of(&[ARP, ARP, ARP, RARP]),
            hardware: dice.of(&[1, 1, 1, 1, 6]),
            op: dice.of(&[1, 2, 1, 2, 3, 0, 0x101]),
            sha: mac(dice),
            spa: v4(dice),
            tha: mac(dice),
            tpa: v4(dice),
        }
    }
}

impl Packet {
    pub(super) fn draw(dice: &mut Dice) -> Self {
        let mut tags = Vec::new();
        for _ in 0..dice.of(&[0, 0, 0, 1, 1, 2]) {
            tags.push(tag(dice));
        }
        let body = match dice.below(16) {
            0..=10 => Body::Ip(Ip::draw(dice)),
            11 | 12 => Body::Arp(Arp::draw(dice)),
            13 | 14 => mpls(dice),
            _ => Body::Other(dice.of(&[0x88cc, 0x88b5, 46, 0x894f])),
        };
        Self {
            dst: mac(dice),
            src: mac(dice),
            tags,
            body,
            payload: dice.of(&[24, 25, 37, 200]),
            damage: Damage::None,
            outer: None,
        }
    }

    /// The Ethernet type after all tags.
    pub(super) fn ethertype(&self) -> u16 {
        match &self.body {
            Body::Ip(ip) if ip.v6 => IPV6,
            Body::Ip(_) => IPV4,
            Body::Arp(arp) => arp.ethertype,
            Body::Mpls { ethertype, .. } | Body::Other(ethertype) => *ethertype,
        }
    }

    /// How far from the frame's end the checksum is that a rewrite makes and the kernel datapath does not: of UDP over IPv6
    /// that has none.
    pub(super) fn checksum_that_is_made(&self) -> Option<usize> {
        let Body::Ip(ip) = &self.body else { return None };
        if !(ip.v6 && ip.proto == UDP && ip.no_checksum) || ip.is_fragment() {
            return None;
        }
        let with = Self { body: Body::Ip(Ip { no_checksum: false, ..ip.clone() }), ..self.clone() };
        let (with, without) = (with.inner(0), self.inner(0));
        let at = with.iter().zip(&without).position(|(with, without)| with != without)?;
        // Its first byte may be zero in both.
        Some(without.len() - (at & !1))
    }

    /// The frame, with `number` at its end; what is in the tunnel's packet, if it is sent in one.
    pub(super) fn inner(&self, number: u32) -> Vec<u8> {
        let trailer = [&MARK[..], &number.to_be_bytes()].concat();
        let payload = [vec![0x5a; self.payload], trailer.clone()].concat();
        let body = match &self.body {
            Body::Ip(ip) => ip.encode(&payload),
            Body::Mpls { stack, inner, .. } => {
                let stack: Vec<u8> = stack.iter().flat_map(|entry| entry.to_be_bytes()).collect();
                [stack, inner.encode(&payload)].concat()
            }
            Body::Arp(arp) => {
                let head =
                    [arp.hardware.to_be_bytes(), IPV4.to_be_bytes(), [6, 4], arp.op.to_be_bytes()].concat();
                [&head[..], &arp.sha, &arp.spa, &arp.tha, &arp.tpa, &payload].concat()
            }
            Body::Other(_) => payload,
        };
        let mut bytes = [self.dst, self.src].concat();
        for (tpid, tci) in &self.tags {
            bytes.extend([tpid.to_be_bytes(), tci.to_be_bytes()].concat());
        }
        bytes.extend(self.ethertype().to_be_bytes());
        bytes.extend(body);
        self.damage(bytes, &trailer)
    }

    fn damage(&self, mut bytes: Vec<u8>, trailer: &[u8]) -> Vec<u8> {
        match self.damage {
            Damage::None => {}
            Damage::Cut(length) if length + TRAILER < bytes.len() => {
                bytes.truncate(length);
                bytes.extend(trailer);
            }
            Damage::Cut(_) => {}
            Damage::Padded(length) => {
                bytes.resize(bytes.len() + length, 0);
                bytes.extend(trailer);
            }
            Damage::Byte(at, value) => {
                let last = bytes.len() - TRAILER;
                bytes[at.min(last - 1)] = value;
            }
            // Whatever covers the payload does not cover this.
            Damage::Checksum => {
                let at = bytes.len() - TRAILER - 1;
                bytes[at] ^= 0x11;
            }
        }
        bytes
    }

    /// What is sent.
    pub(super) fn encode(&self, number: u32) -> Vec<u8> {
        let inner = self.inner(number);
        self.outer.as_ref().map_or_else(|| inner.clone(), |outer| outer.encode(&inner))
    }
}

pub(super) fn mpls(dice: &mut Dice) -> Body {
    let depth = dice.of(&[1, 1, 2, 3, 4]);
    Body::Mpls {
        ethertype: dice.of(&[MPLS, MPLS, MPLS_MULTICAST]),
        stack: (1..=depth).map(|at| entry(dice, at == depth)).collect(),
        inner: Ip::draw(dice),
    }
}

/// The frame that follows all others of a port.
pub(super) fn barrier(number: u32) -> Vec<u8> {
    let head = [[2, 0, 0, 0, 0, 9], [2, 0, 0, 0, 0, 8]].concat();
    [&head[..], &BARRIER.to_be_bytes(), &[0; 46], &MARK, &number.to_be_bytes()].concat()
}

/// The number at the end of a frame of ours.
pub(super) fn number(frame: &[u8]) -> Option<u32> {
    let (_, trailer) = frame.split_last_chunk::<TRAILER>()?;
    let [m0, m1, m2, m3, number @ ..] = *trailer;
    ([m0, m1, m2, m3] == MARK).then_some(u32::from_be_bytes(number))
}

pub(super) fn size(bytes: usize) -> u16 {
    u16::try_from(bytes).unwrap_or(u16::MAX)
}

/// RFC 1071, without the complement.
pub(super) fn sum(bytes: &[u8], begin: u32) -> u16 {
    let mut sum = bytes.chunks(2).fold(begin, |sum, pair| {
        sum + u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]))
    });
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
