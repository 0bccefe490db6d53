//! Addresses and names replaced, so that a recording can be given away.
//!
//! Addresses by Crypto-PAn's construction (Xu, Fan, Ammar and Moon, "Prefix-preserving IP address anonymization", 2002),
//! with SipHash-2-4 for the pseudorandom function: two addresses that share their first n bits share the first n bits of
//! what stands for them. The key is drawn at random and not kept.

use std::hash::Hasher as _;

use policies::language::Header;
use policies::recording::{Flow, Form, Key, NameKind, Record, write};
use siphasher::sip::SipHasher24;

/// What remains of a connection's label: its upper bits hold addresses (OVN keeps a MAC there).
const CT_LABEL_BITS: u128 = u32::MAX as u128;
/// The bits of a MAC address that say "multicast" and "local".
const MAC_KINDS: u128 = 0x0300_0000_0000;

/// Replaces addresses and names, the same ones by the same ones.
#[derive(Debug)]
pub struct Anonymiser {
    key: [u8; 16],
    names: [u32; NameKind::ALL.len()],
    values: Vec<u128>,
    form: Form,
}

/// What is replaced alike.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ip4,
    Ip6,
    Mac,
}

/// Which kind of address a header field is.
fn kind(header: Header) -> Option<Kind> {
    Some(match header {
        Header::Ip4Src
        | Header::Ip4Dst
        | Header::ArpSpa
        | Header::ArpTpa
        | Header::TunSrc
        | Header::TunDst => Kind::Ip4,
        Header::Ip6Src | Header::Ip6Dst | Header::NdTarget | Header::Tun6Src | Header::Tun6Dst => Kind::Ip6,
        Header::EthSrc | Header::EthDst | Header::ArpSha | Header::ArpTha | Header::NdSll | Header::NdTll => {
            Kind::Mac
        }
        _ => return None,
    })
}

impl Anonymiser {
    /// With a key that nobody else has.
    pub fn new(key: [u8; 16]) -> Self {
        Self { key, names: [0; NameKind::ALL.len()], values: Vec::new(), form: Form::new() }
    }

    /// Appends a record to `out` with what is to be replaced in it replaced.
    pub fn write(&mut self, out: &mut Vec<u8>, record: &Record<'_>) {
        match record {
            Record::Start(start) => {
                let start = policies::recording::Start { is_anonymised: true, ..*start };
                write(out, &Record::Start(start));
            }
            Record::Name(kind, text) => {
                let name = self.name(*kind, text);
                write(out, &Record::Name(*kind, name.as_deref().unwrap_or(text)));
            }
            Record::Form(form) => {
                self.form.clear();
                let kept = |(header, mask): &(Header, u128)| match header {
                    Header::CtLabel => (*header, mask & CT_LABEL_BITS),
                    _ => (*header, *mask),
                };
                self.form.extend(form.iter().map(kept));
                write(out, &Record::Form(&self.form));
            }
            Record::Flow(flow) => self.flow(out, flow),
            _ => write(out, record),
        }
    }

    /// What stands for a name; nothing for one that tells of nobody.
    fn name(&mut self, kind: NameKind, text: &str) -> Option<String> {
        let word = match kind {
            NameKind::Port => "port",
            NameKind::IfaceId => "iface",
            NameKind::Tenant => "tenant",
            NameKind::Workload => "workload",
            NameKind::Namespace => "namespace",
            NameKind::Chassis => "chassis",
            NameKind::Tunnel => return None,
        };
        if text.is_empty() {
            return None;
        }
        let count = &mut self.names[kind as usize];
        *count += 1;
        Some(format!("{word}-{count}"))
    }

    fn flow(&mut self, out: &mut Vec<u8>, flow: &Flow<'_>) {
        let mut values = std::mem::take(&mut self.values);
        values.clear();
        let key = flow.key.map(|key| {
            values.extend(key.fields.iter().zip(key.values).map(|((header, mask), value)| {
                match kind(*header) {
                    Some(kind) => self.address(kind, header.width(), *value) & mask,
                    None => *value,
                }
            }));
            Key { values: &values, ..key }
        });
        write(out, &Record::Flow(Flow { key, ..*flow }));
        self.values = values;
    }

    fn address(&self, kind: Kind, width: u8, value: u128) -> u128 {
        let mut replaced = 0;
        for bit in (0..width).rev() {
            // Each bit by those before it.
            let before = value.checked_shr(u32::from(bit) + 1).unwrap_or(0);
            let mut hasher = SipHasher24::new_with_key(&self.key);
            hasher.write_u8(kind as u8);
            hasher.write_u8(bit);
            hasher.write(&before.to_le_bytes());
            let turned = u128::from(hasher.finish() & 1);
            replaced = replaced << 1 | ((value >> bit & 1) ^ turned);
        }
        match kind {
            Kind::Mac => replaced & !MAC_KINDS | value & MAC_KINDS,
            Kind::Ip4 | Kind::Ip6 => replaced,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use policies::recording::{About, Book, Decoder, Home, Scribe};

    fn anonymiser() -> Anonymiser {
        Anonymiser::new(*b"a key for a test")
    }

    fn common_bits(a: u128, b: u128, width: u8) -> u32 {
        let differing = (a ^ b) << (128 - u32::from(width));
        differing.leading_zeros().min(u32::from(width))
    }

    #[test]
    fn addresses_that_share_a_prefix_share_one_of_the_same_length_afterwards() {
        let anonymiser = anonymiser();
        let addresses = [0x0a00_0001_u128, 0x0a00_0002, 0x0a00_ff02, 0x0a80_0000, 0xc0a8_0101, 0];
        for a in addresses {
            for b in addresses {
                let (a2, b2) = (anonymiser.address(Kind::Ip4, 32, a), anonymiser.address(Kind::Ip4, 32, b));
                assert_eq!(common_bits(a, b, 32), common_bits(a2, b2, 32), "{a:x} {b:x}: {a2:x} {b2:x}");
                let (a, b) = (a << 96 | 7, b << 96 | 7);
                let (a2, b2) = (anonymiser.address(Kind::Ip6, 128, a), anonymiser.address(Kind::Ip6, 128, b));
                assert_eq!(common_bits(a, b, 128), common_bits(a2, b2, 128));
            }
        }
        assert_ne!(anonymiser.address(Kind::Ip4, 32, 0x0a00_0001), 0x0a00_0001);
        let other = Anonymiser::new([7; 16]);
        assert_ne!(anonymiser.address(Kind::Ip4, 32, 0x0a00_0001), other.address(Kind::Ip4, 32, 0x0a00_0001));
    }

    #[test]
    fn multicast_stays_multicast_and_a_block_stays_a_block() {
        let anonymiser = anonymiser();
        for mac in [0x0100_5e00_0001, 0x0200_0000_0001, 0x3333_0000_0001] {
            let replaced = anonymiser.address(Kind::Mac, 48, mac);
            assert_eq!(replaced & MAC_KINDS, mac & MAC_KINDS);
            assert_ne!(replaced, mac);
        }
        let block = anonymiser.address(Kind::Ip4, 32, 0x0a01_0000) & 0xffff_0000;
        let inside = anonymiser.address(Kind::Ip4, 32, 0x0a01_1234);
        assert_eq!(inside & 0xffff_0000, block, "10.1.18.52 is in 10.1.0.0/16 before and after");
    }

    #[test]
    fn nothing_of_addresses_and_names_is_left_and_all_else_is() {
        let mut scribe = Scribe::new();
        let mut plain = Vec::new();
        let start = policies::recording::Start {
            wall_s: 5,
            epoch: policies::Micros::from_millis(500),
            is_anonymised: false,
        };
        write(&mut plain, &Record::Start(start));
        let mut subject = policies::language::Subject::default();
        subject.inport.name = Some("secret0");
        subject.inport.iface_id = Some("0f5e-secret");
        subject.encap = Some("geneve");
        subject.tenant = Some("secret tenant");
        subject.set_exact(Header::Ip4Src, 0x0a01_0203);
        subject.set(Header::Ip4Dst, 0x0a02_0000, 0xffff_0000);
        subject.set_exact(Header::EthSrc, 0x0a11_2233_4455);
        subject.set_exact(Header::CtLabel, 0x1122_3344_5566_0000_0000_0003);
        subject.set_exact(Header::L4Dst, 443);
        let about = About { number: 0, appeared_us: 0, home: Home::Tc, nic: Some(0) };
        scribe.flow(&mut plain, &about, &subject);

        let (mut decoder, mut anonymiser, mut out, mut at) = (Decoder::new(), anonymiser(), Vec::new(), 0);
        while let Some((record, length)) = decoder.read(&plain[at..]).unwrap() {
            anonymiser.write(&mut out, &record);
            at += length;
        }
        assert!(!String::from_utf8_lossy(&out).contains("secret"));
        let (mut decoder, mut book, mut at, mut seen) = (Decoder::new(), Book::new(), 0, false);
        while let Some((record, length)) = decoder.read(&out[at..]).unwrap() {
            at += length;
            book.take(&record).unwrap();
            if let Record::Start(start) = record {
                assert!(start.is_anonymised);
            }
            let Record::Flow(flow) = record else { continue };
            let mut outports = Vec::new();
            let subject = book.subject(&flow, &mut outports);
            assert_eq!((subject.inport.name, subject.inport.iface_id), (Some("port-1"), Some("iface-1")));
            assert_eq!((subject.encap, subject.tenant), (Some("geneve"), Some("tenant-1")));
            assert_eq!(subject.get(Header::L4Dst).value, 443);
            assert_eq!(subject.get(Header::CtLabel).value, 3);
            assert_eq!(subject.get(Header::CtLabel).mask, CT_LABEL_BITS);
            assert_eq!(subject.get(Header::Ip4Dst).mask, 0xffff_0000);
            for (header, was) in [
                (Header::Ip4Src, 0x0a01_0203),
                (Header::Ip4Dst, 0x0a02_0000),
                (Header::EthSrc, 0x0a11_2233_4455),
            ] {
                assert_ne!(subject.get(header).value, was, "{header:?}");
            }
            seen = true;
        }
        assert!(seen);
    }
}
