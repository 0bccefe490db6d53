//! Set actions as `pedit`: what is set of a header, in words of four bytes.
//!
//! Checksums: the kernel datapath keeps them up as it writes (`set_ipv4()`, `set_ipv6()`, `set_udp()`, … of
//! `net/openvswitch/actions.c`), and TC computes those that the action `csum` names anew. Named are those that the kernel
//! datapath keeps up, of the protocols that the packets may have, and no others: it leaves UDP-Lite's wrong, and so does
//! TC unless asked. A UDP checksum of 0 stays 0 in both over IPv4.

use super::untranslatable::{Done, Untranslatable};
use super::{Fragment, Headers};
use alloc::vec::Vec;
use netlink_wire::ovs_flow::SetField;
use netlink_wire::ovs_flow::keys::{EthKey, Ipv4Key, Ipv6Key, PortsKey};
use netlink_wire::{Bits, EtherType, Masked};
use tc_flower::action::{CsumFlags, Pedit, PeditCommand, PeditHeader, PeditKey};
use tc_flower::keys::ip::proto;

/// `OVS_KEY_ATTR_*` of keys that can be set.
const ETHERNET: u16 = 4;
const IPV4: u16 = 7;
const IPV6: u16 = 8;
const TCP: u16 = 9;
const UDP: u16 = 10;

/// A rewrite, and the checksums that it spoils.
#[derive(Clone, Debug, Default)]
pub(super) struct Rewrite {
    pub(super) pedit: Pedit,
    pub(super) checksums: CsumFlags,
}

/// What `field` sets, of packets with these headers; nothing where it is none of the keys that `pedit` is for.
pub(super) fn of(field: &SetField<'_>, headers: &mut Headers) -> Result<Rewrite, Untranslatable> {
    let cannot = Untranslatable::Action(Done::Set(field.key));
    let keys = field.keys().map_err(|_| cannot)?;
    let mut words = Words::default();
    let checksums = match field.key {
        ETHERNET => {
            let EthKey { src, dst } = keys.eth.ok_or(cannot)?;
            words.set(PeditHeader::Eth, 0, dst.map(|mac| mac.0));
            words.set(PeditHeader::Eth, 6, src.map(|mac| mac.0));
            return Ok(words.rewrite(CsumFlags::NONE));
        }
        IPV4 => v4(&mut words, keys.ipv4.ok_or(cannot)?, field, headers)?,
        IPV6 => v6(&mut words, keys.ipv6.ok_or(cannot)?, field, headers)?,
        TCP => ports(&mut words, PeditHeader::Tcp, proto::TCP, keys.tcp.ok_or(cannot)?, headers)?,
        UDP => ports(&mut words, PeditHeader::Udp, proto::UDP, keys.udp.ok_or(cannot)?, headers)?,
        _ => return Err(cannot),
    };
    if headers.tags > 1 {
        return Err(Untranslatable::Action(Done::SetBelowTags));
    }
    Ok(words.rewrite(checksums))
}

const OTHER: Untranslatable = Untranslatable::Action(Done::SetOfOther);

/// The time to live, or the hop limit, set to `ttl`.
pub(super) fn time_to_live(ttl: u8, headers: &mut Headers) -> Result<Rewrite, Untranslatable> {
    if headers.tags > 1 {
        return Err(Untranslatable::Action(Done::SetBelowTags));
    }
    let mut words = Words::default();
    let checksums = match headers.ethertype {
        Some(EtherType::IPV4) => {
            words.set(PeditHeader::Ipv4, 8, Masked::exact([ttl]));
            CsumFlags::IPV4
        }
        Some(EtherType::IPV6) => {
            words.set(PeditHeader::Ipv6, 7, Masked::exact([ttl]));
            CsumFlags::NONE
        }
        _ => return Err(OTHER),
    };
    headers.note_ttl(Masked::exact(ttl));
    Ok(words.rewrite(checksums))
}

fn v4(
    words: &mut Words,
    ip: Ipv4Key,
    field: &SetField<'_>,
    headers: &mut Headers,
) -> Result<CsumFlags, Untranslatable> {
    if headers.ethertype != Some(EtherType::IPV4) {
        return Err(OTHER);
    }
    // These are never set; a set action of all bits repeats what they are.
    if field.masked && !(ip.proto.is_any() && ip.frag.is_any()) {
        return Err(Untranslatable::Action(Done::Set(field.key)));
    }
    words.set(PeditHeader::Ipv4, 1, ip.tos.map(u8::to_be_bytes));
    words.set(PeditHeader::Ipv4, 8, ip.ttl.map(u8::to_be_bytes));
    words.set(PeditHeader::Ipv4, 12, ip.src.map(|src| src.octets()));
    words.set(PeditHeader::Ipv4, 16, ip.dst.map(|dst| dst.octets()));
    headers.note_ttl(ip.ttl);
    let moves = !ip.src.is_any() || !ip.dst.is_any();
    let transport = if moves { pseudo_header(headers, CsumFlags::NONE)? } else { CsumFlags::NONE };
    let changes = moves || !ip.tos.is_any() || !ip.ttl.is_any();
    Ok(if changes { transport | CsumFlags::IPV4 } else { CsumFlags::NONE })
}

fn v6(
    words: &mut Words,
    ip: Ipv6Key,
    field: &SetField<'_>,
    headers: &mut Headers,
) -> Result<CsumFlags, Untranslatable> {
    if headers.ethertype != Some(EtherType::IPV6) {
        return Err(OTHER);
    }
    if field.masked && !(ip.proto.is_any() && ip.frag.is_any()) {
        return Err(Untranslatable::Action(Done::Set(field.key)));
    }
    // Version, 4 bits; traffic class, 8 bits; flow label, 20 bits.
    let first = |class: u8, label: u32| (u32::from(class) << 20 | label & 0xfffff).to_be_bytes();
    let word = Masked::new(first(ip.tclass.value, ip.label.value), first(ip.tclass.mask, ip.label.mask));
    words.set(PeditHeader::Ipv6, 0, word);
    words.set(PeditHeader::Ipv6, 7, ip.hlimit.map(u8::to_be_bytes));
    words.set(PeditHeader::Ipv6, 8, ip.src.map(|src| src.octets()));
    words.set(PeditHeader::Ipv6, 24, ip.dst.map(|dst| dst.octets()));
    headers.note_ttl(ip.hlimit);
    let moves = !ip.src.is_any() || !ip.dst.is_any();
    if moves { pseudo_header(headers, CsumFlags::ICMP) } else { Ok(CsumFlags::NONE) }
}

/// The checksums that cover the addresses: of TCP and UDP, and what `more` has. That of one fragment would be computed over
/// the fragment alone.
fn pseudo_header(headers: &Headers, more: CsumFlags) -> Result<CsumFlags, Untranslatable> {
    let all = CsumFlags::TCP | CsumFlags::UDP | more;
    let checksums = match headers.proto {
        Some(proto::TCP) => CsumFlags::TCP,
        Some(proto::UDP) => CsumFlags::UDP,
        Some(proto::ICMPV6) => more,
        Some(_) => CsumFlags::NONE,
        None => all,
    };
    match headers.fragment {
        // Both leave what follows a later fragment's header alone.
        Fragment::Later => Ok(CsumFlags::NONE),
        Fragment::First if checksums != CsumFlags::NONE => Err(Untranslatable::Action(Done::SetOfFragment)),
        _ => Ok(checksums),
    }
}

fn ports(
    words: &mut Words,
    header: PeditHeader,
    of: u8,
    ports: PortsKey,
    headers: &Headers,
) -> Result<CsumFlags, Untranslatable> {
    let is_ip = matches!(headers.ethertype, Some(EtherType::IPV4 | EtherType::IPV6));
    if !is_ip || headers.proto != Some(of) {
        return Err(OTHER);
    }
    if headers.fragment != Fragment::No {
        return Err(Untranslatable::Action(Done::SetOfFragment));
    }
    words.set(header, 0, ports.src.map(u16::to_be_bytes));
    words.set(header, 2, ports.dst.map(u16::to_be_bytes));
    Ok(match (ports.src.is_any() && ports.dst.is_any(), of) {
        (true, _) => CsumFlags::NONE,
        (false, proto::TCP) => CsumFlags::TCP,
        (false, _) => CsumFlags::UDP,
    })
}

/// What is set, in the order in which it is written.
#[derive(Default)]
struct Words(Vec<PeditKey>);

impl Words {
    /// Sets bytes at `offset` of a header.
    fn set<const N: usize>(&mut self, header: PeditHeader, offset: u32, bytes: Masked<[u8; N]>)
    where
        [u8; N]: Bits,
    {
        let value = bytes.significant();
        for (at, (value, mask)) in (offset..).zip(value.into_iter().zip(bytes.mask)) {
            if mask != 0 {
                let (word, byte) = (at & !3, (at & 3) as usize);
                let key = self.word(header, word);
                key.keep[byte] &= !mask;
                key.value[byte] |= value;
            }
        }
    }

    fn word(&mut self, header: PeditHeader, offset: u32) -> &mut PeditKey {
        let known = self.0.iter().position(|key| (key.header, key.offset) == (header, offset));
        let at = known.unwrap_or_else(|| {
            self.0.push(PeditKey {
                header,
                command: PeditCommand::Set,
                offset,
                keep: [0xff; 4],
                value: [0; 4],
                at: 0,
                offset_mask: 0,
                shift: 0,
            });
            self.0.len() - 1
        });
        &mut self.0[at]
    }

    fn rewrite(self, checksums: CsumFlags) -> Rewrite {
        Rewrite { pedit: Pedit { keys: self.0, ..Pedit::default() }, checksums }
    }
}
