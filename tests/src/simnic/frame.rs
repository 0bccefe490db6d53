//! Ethernet frames for tests: built from what matters to the test, checksums right unless said otherwise.

/// What every test frame's payload begins with, so that a capture can tell it from the machine's own chatter.
pub(super) const MARK: &[u8] = b"simnic test frame ";

/// A frame's layers, outermost first.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub(super) dst: [u8; 6],
    pub(super) src: [u8; 6],
    /// (TPID, TCI), outermost first.
    pub(super) tags: Vec<(u16, u16)>,
    pub(super) body: Body,
}

#[derive(Clone, Debug)]
pub(super) enum Body {
    Ipv4(Ipv4),
    Ipv6(Ipv6),
    Arp { op: u16, sha: [u8; 6], sip: [u8; 4], tha: [u8; 6], tip: [u8; 4] },
    Mpls { label: u32, tc: u8, ttl: u8 },
    Other(u16),
}

#[derive(Clone, Debug)]
pub(super) struct Ipv4 {
    pub(super) src: [u8; 4],
    pub(super) dst: [u8; 4],
    pub(super) tos: u8,
    pub(super) ttl: u8,
    /// Flags and offset as in the header.
    pub(super) fragment: u16,
    pub(super) l4: L4,
}

#[derive(Clone, Debug)]
pub(super) struct Ipv6 {
    pub(super) src: [u8; 16],
    pub(super) dst: [u8; 16],
    pub(super) class: u8,
    pub(super) hop_limit: u8,
    pub(super) l4: L4,
}

#[derive(Clone, Debug)]
pub(super) enum L4 {
    Tcp {
        src: u16,
        dst: u16,
        flags: u8,
    },
    Udp {
        src: u16,
        dst: u16,
        checksum: bool,
    },
    /// ICMP in IPv4, `ICMPv6` in IPv6.
    Icmp {
        kind: u8,
        code: u8,
    },
    Other(u8),
}

pub(super) fn frame() -> Frame {
    Frame {
        dst: [2, 0, 0, 0, 0, 2],
        src: [2, 0, 0, 0, 0, 1],
        tags: Vec::new(),
        body: Body::Ipv4(ipv4(tcp(1000, 80))),
    }
}

pub(super) fn ipv4(l4: L4) -> Ipv4 {
    Ipv4 { src: [10, 0, 0, 1], dst: [10, 0, 0, 2], tos: 0, ttl: 64, fragment: 0x4000, l4 }
}

pub(super) fn ipv6(l4: L4) -> Ipv6 {
    Ipv6 { src: address6(1), dst: address6(2), class: 0, hop_limit: 64, l4 }
}

pub(super) fn address6(last: u8) -> [u8; 16] {
    [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]
}

pub(super) fn tcp(src: u16, dst: u16) -> L4 {
    L4::Tcp { src, dst, flags: 0x10 }
}

pub(super) fn udp(src: u16, dst: u16) -> L4 {
    L4::Udp { src, dst, checksum: true }
}

impl Frame {
    pub(super) fn body(mut self, body: Body) -> Self {
        self.body = body;
        self
    }

    pub(super) fn v4(self, change: impl FnOnce(&mut Ipv4)) -> Self {
        let mut header = ipv4(tcp(1000, 80));
        change(&mut header);
        self.body(Body::Ipv4(header))
    }

    pub(super) fn v6(self, change: impl FnOnce(&mut Ipv6)) -> Self {
        let mut header = ipv6(tcp(1000, 80));
        change(&mut header);
        self.body(Body::Ipv6(header))
    }

    pub(super) fn tag(mut self, tpid: u16, tci: u16) -> Self {
        self.tags.push((tpid, tci));
        self
    }

    /// The bytes, with `id` in the payload to know the frame by.
    pub(super) fn encode(&self, id: usize) -> Vec<u8> {
        let mut payload = MARK.to_vec();
        // An odd length, so that checksums have an odd byte at the end.
        payload.extend_from_slice(format!("{id:05}").as_bytes());
        let (ethertype, body) = match &self.body {
            Body::Ipv4(header) => (0x0800, header.encode(&payload)),
            Body::Ipv6(header) => (0x86dd, header.encode(&payload)),
            Body::Arp { op, sha, sip, tha, tip } => {
                let mut arp = vec![0, 1, 8, 0, 6, 4];
                arp.extend_from_slice(&op.to_be_bytes());
                arp.extend_from_slice(&[&sha[..], sip, tha, tip].concat());
                (0x0806, [arp, payload].concat())
            }
            Body::Mpls { label, tc, ttl } => {
                let entry = label << 12 | u32::from(*tc) << 9 | 1 << 8 | u32::from(*ttl);
                (0x8847, [&entry.to_be_bytes()[..], &ipv4(udp(1, 2)).encode(&payload)].concat())
            }
            Body::Other(ethertype) => (*ethertype, payload),
        };
        let mut bytes = [self.dst, self.src].concat();
        for (tpid, tci) in &self.tags {
            bytes.extend_from_slice(&tpid.to_be_bytes());
            bytes.extend_from_slice(&tci.to_be_bytes());
        }
        bytes.extend_from_slice(&u16::to_be_bytes(ethertype));
        bytes.extend_from_slice(&body);
        bytes
    }
}

impl Ipv4 {
    fn encode(&self, payload: &[u8]) -> Vec<u8> {
        let pseudo = [&self.src[..], &self.dst].concat();
        let l4 = self.l4.encode(&pseudo, payload, 1);
        let mut header = vec![0x45, self.tos];
        header.extend_from_slice(&length(20 + l4.len()).to_be_bytes());
        header.extend_from_slice(&[0x12, 0x34]);
        header.extend_from_slice(&self.fragment.to_be_bytes());
        header.extend_from_slice(&[self.ttl, self.l4.protocol(1), 0, 0]);
        header.extend_from_slice(&pseudo);
        let sum = checksum(&header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        [header, l4].concat()
    }
}

impl Ipv6 {
    fn encode(&self, payload: &[u8]) -> Vec<u8> {
        let pseudo = [&self.src[..], &self.dst].concat();
        let l4 = self.l4.encode(&pseudo, payload, 58);
        let mut header = (0x6000_0000 | u32::from(self.class) << 20).to_be_bytes().to_vec();
        header.extend_from_slice(&length(l4.len()).to_be_bytes());
        header.extend_from_slice(&[self.l4.protocol(58), self.hop_limit]);
        header.extend_from_slice(&pseudo);
        [header, l4].concat()
    }
}

impl L4 {
    fn protocol(&self, icmp: u8) -> u8 {
        match self {
            Self::Tcp { .. } => 6,
            Self::Udp { .. } => 17,
            Self::Icmp { .. } => icmp,
            Self::Other(protocol) => *protocol,
        }
    }

    fn encode(&self, addresses: &[u8], payload: &[u8], icmp: u8) -> Vec<u8> {
        let (header, at) = match self {
            Self::Tcp { src, dst, flags } => {
                let ports = [src.to_be_bytes(), dst.to_be_bytes()].concat();
                ([&ports[..], &[0, 0, 0, 1, 0, 0, 0, 2, 0x50, *flags, 1, 0, 0, 0, 0, 0]].concat(), Some(16))
            }
            Self::Udp { src, dst, checksum } => {
                let size = length(8 + payload.len());
                let fields = [src.to_be_bytes(), dst.to_be_bytes(), size.to_be_bytes(), [0, 0]].concat();
                (fields, checksum.then_some(6))
            }
            Self::Icmp { kind, code } => (vec![*kind, *code, 0, 0, 0, 7, 0, 1], Some(2)),
            Self::Other(_) => (Vec::new(), None),
        };
        let mut segment = [&header[..], payload].concat();
        if let Some(at) = at {
            let mut summed = Vec::new();
            if self.protocol(icmp) != 1 {
                summed.extend_from_slice(addresses);
                summed.extend_from_slice(&[0, self.protocol(icmp)]);
                summed.extend_from_slice(&length(segment.len()).to_be_bytes());
            }
            summed.extend_from_slice(&segment);
            segment[at..at + 2].copy_from_slice(&checksum(&summed).to_be_bytes());
        }
        segment
    }
}

fn length(bytes: usize) -> u16 {
    u16::try_from(bytes).unwrap_or(u16::MAX)
}

/// RFC 1071, over bytes whose checksum field is zero.
pub(super) fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}
