//! The packet of a tunnel that another is sent in.

use super::dice::Dice;
use super::packet::{size, sum};

/// Both ends, here and there.
pub(super) const NEAR_V4: [u8; 4] = [172, 31, 0, 1];
pub(super) const FAR_V4: [u8; 4] = [172, 31, 0, 2];
pub(super) const NEAR_V6: [u8; 16] = [0xfd, 0x31, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
pub(super) const FAR_V6: [u8; 16] = [0xfd, 0x31, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
/// MAC addresses of both ends' devices.
pub(super) const NEAR_MAC: [u8; 6] = [2, 0, 0, 0, 0xfa, 1];
pub(super) const FAR_MAC: [u8; 6] = [2, 0, 0, 0, 0xfa, 2];
pub(super) const GENEVE_PORT: u16 = 6081;
const VXLAN_PORT: u16 = 4789;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Geneve,
    Vxlan,
    Gre,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Outer {
    pub(super) kind: Kind,
    pub(super) v6: bool,
    pub(super) id: u32,
    pub(super) tos: u8,
    pub(super) ttl: u8,
    pub(super) from: u16,
    pub(super) df: bool,
    /// Of UDP.
    pub(super) checksum: bool,
    /// Of Geneve: control traffic.
    pub(super) oam: bool,
    /// Of Geneve, as they are on the wire.
    pub(super) options: Vec<u8>,
    /// Of VXLAN.
    pub(super) policy: Option<u16>,
    /// Bytes of options in IPv4's header, in words.
    pub(super) ip_options: u8,
}

impl Outer {
    pub(super) fn draw(kind: Kind, id: u32, dice: &mut Dice) -> Self {
        let is_udp = kind != Kind::Gre;
        let v6 = is_udp && dice.one_in(3);
        Self {
            kind,
            v6,
            id,
            tos: dice.of(&[0, 0, 0xb8, 0x28]),
            ttl: dice.of(&[64, 64, 1, 255]),
            from: dice.of(&[40_000, 1, 0xffff]),
            df: dice.one_in(2),
            checksum: is_udp && dice.one_in(2),
            oam: kind == Kind::Geneve && dice.one_in(8),
            options: if kind == Kind::Geneve { options(dice) } else { Vec::new() },
            policy: (kind == Kind::Vxlan && dice.one_in(2)).then(|| dice.of(&[0x1234, 1, 0xffff])),
            ip_options: 0,
        }
    }

    /// The least there can be.
    pub(super) const fn plain(kind: Kind, id: u32) -> Self {
        Self {
            kind,
            v6: false,
            id,
            tos: 0,
            ttl: 64,
            from: 50_000,
            df: true,
            checksum: false,
            oam: false,
            options: Vec::new(),
            policy: None,
            ip_options: 0,
        }
    }

    /// One thing about it is another.
    pub(super) fn mutate(&mut self, dice: &mut Dice) {
        match dice.below(9) {
            0 => self.id ^= dice.of(&[1, 0x80_0000]),
            1 => self.tos = dice.of(&[0, 1, 2, 3, 0xb8, 0xff]),
            2 => self.ttl = dice.of(&[1, 2, 64, 255]),
            3 => self.df = !self.df,
            4 => self.checksum = self.kind != Kind::Gre && !self.checksum,
            5 => self.oam = self.kind == Kind::Geneve && !self.oam,
            6 => self.options = if self.kind == Kind::Geneve { options(dice) } else { Vec::new() },
            7 if self.kind == Kind::Vxlan => {
                self.policy = dice.of(&[None, Some(0), Some(0x1234), Some(0x1235)])
            }
            8 => self.ip_options = 1,
            _ => self.from = dice.of(&[0, 1, 40_001]),
        }
    }

    /// The frame that has `inner` in it.
    pub(super) fn encode(&self, inner: &[u8]) -> Vec<u8> {
        let payload = [self.header(), inner.to_vec()].concat();
        let ends = match self.v6 {
            true => [FAR_V6, NEAR_V6].concat(),
            false => [FAR_V4, NEAR_V4].concat(),
        };
        let (proto, rest) = match self.kind {
            Kind::Gre => (47, payload),
            Kind::Geneve => (17, self.datagram(GENEVE_PORT, &ends, &payload)),
            Kind::Vxlan => (17, self.datagram(VXLAN_PORT, &ends, &payload)),
        };
        let head = [NEAR_MAC, FAR_MAC].concat();
        if self.v6 {
            let word = 6 << 28 | u32::from(self.tos) << 20;
            let ip = [&word.to_be_bytes()[..], &size(rest.len()).to_be_bytes(), &[proto, self.ttl]].concat();
            return [head, vec![0x86, 0xdd], ip, ends, rest].concat();
        }
        let words = 5 + usize::from(self.ip_options);
        let mut ip = vec![0x40 | words as u8, self.tos];
        ip.extend(size(4 * words + rest.len()).to_be_bytes());
        ip.extend([0, 1, if self.df { 0x40 } else { 0 }, 0, self.ttl, proto, 0, 0]);
        ip.extend(&ends);
        ip.resize(4 * words, 1);
        let check = !sum(&ip, 0);
        ip[10..12].copy_from_slice(&check.to_be_bytes());
        [head, vec![8, 0], ip, rest].concat()
    }

    fn datagram(&self, port: u16, ends: &[u8], payload: &[u8]) -> Vec<u8> {
        let length = size(8 + payload.len());
        let fields = [self.from.to_be_bytes(), port.to_be_bytes(), length.to_be_bytes(), [0, 0]].concat();
        let mut bytes = [&fields, payload].concat();
        if self.checksum {
            let check = match !sum(&bytes, u32::from(sum(ends, 17 + u32::from(length)))) {
                0 => 0xffff,
                check => check,
            };
            bytes[6..8].copy_from_slice(&check.to_be_bytes());
        }
        bytes
    }

    fn header(&self) -> Vec<u8> {
        let id = (self.id << 8).to_be_bytes();
        match self.kind {
            Kind::Gre => [&[0x20, 0, 0x65, 0x58][..], &self.id.to_be_bytes()].concat(),
            Kind::Vxlan => {
                let flags = if self.policy.is_some() { 0x88 } else { 0x08 };
                let policy = self.policy.unwrap_or(0).to_be_bytes();
                [&[flags, 0][..], &policy, &id].concat()
            }
            Kind::Geneve => {
                let is_critical = self.critical();
                let flags = u8::from(self.oam) << 7 | u8::from(is_critical) << 6;
                [&[(self.options.len() / 4) as u8, flags, 0x65, 0x58][..], &id, &self.options].concat()
            }
        }
    }

    /// Whether one of the options is critical, which the header has to say.
    fn critical(&self) -> bool {
        let (mut at, mut found) = (0, false);
        while let Some([_, _, kind, length]) = self.options.get(at..at + 4) {
            found |= kind & 0x80 != 0;
            at += 4 + usize::from(length & 0x1f) * 4;
        }
        found
    }
}

/// Those that the switch has names for, in either order, and one that it has none for.
fn options(dice: &mut Dice) -> Vec<u8> {
    let one = [1, 2, 0x80, 1, 0, 1, 0, dice.of(&[2, 3])];
    let two = [1, 3, 1, 2, 10, 11, 12, 13, 14, 15, 16, dice.of(&[17, 18])];
    match dice.below(6) {
        0 => Vec::new(),
        1 | 2 => one.to_vec(),
        3 => [&one[..], &two].concat(),
        4 => [&two[..], &one].concat(),
        _ => [&one[..], &[1, 4, 0, 1, 0, 0, 0, 1]].concat(),
    }
}
