//! Tunnels: the one a packet came out of, as a match, and the one it is to be sent through, as an action.

use super::Abilities;
use super::keys::masked;
use super::untranslatable::{Done, Looked, Missing, Untranslatable};
use crate::ports::{PortFacts, PortKind};
use alloc::vec::Vec;
use netlink_wire::ovs_flow::keys::RawKey;
use netlink_wire::ovs_flow::{TunnelFlags, TunnelKey};
use netlink_wire::{Bits, Masked};
use tc_flower::action::{GeneveOption, TunnelOptions, TunnelSet};
use tc_flower::keys::{
    GeneveOptionKey, TUNNEL_CSUM, TUNNEL_DONT_FRAGMENT, TUNNEL_OAM, Tunnel, TunnelHeader, TunnelOptionKeys,
};

type Outcome<T> = Result<T, Untranslatable>;

const fn no_key(what: Looked) -> Untranslatable {
    Untranslatable::NoKey(what)
}

/// The tunnel that packets of `port` came out of.
pub(super) fn matched(key: Option<&TunnelKey>, port: &PortFacts, kernel: Abilities) -> Outcome<Tunnel> {
    if port.kind != PortKind::Tunnel {
        // The list of masks has a tunnel for packets of none, too: what it asks for is then zero.
        return match key.is_none_or(fits_no_tunnel) {
            true => Ok(Tunnel::default()),
            false => Err(Untranslatable::NoPacket(Looked::Tunnel)),
        };
    }
    let key = key.ok_or(no_key(Looked::TunnelEnds))?;
    if let Some(attr) = key.unknown {
        return Err(no_key(Looked::Unknown(attr)));
    }
    let mut header = TunnelHeader { id: id(key.id, port)?, ..ends(key)? };
    header.tos = key.tos.and_then(masked);
    header.ttl = key.ttl.and_then(masked);
    header.src_port = key.tp_src.and_then(masked);
    header.dst_port = dst_port(key.tp_dst.unwrap_or_default(), port)?;
    header.flags = flags(key.flags)?;
    if header.flags.is_some() && !kernel.tunnel_flags {
        return Err(Untranslatable::Kernel(Missing::TunnelFlags));
    }
    Ok(Tunnel { header, options: options(key)? })
}

/// All packets of a tunnel over UDP come to the port of its device, which the kernel datapath does not look at, and NICs want to
/// be told (Open vSwitch's own filters have it, too: `netdev_tc_flow_put()`).
fn dst_port(key: Masked<u16>, port: &PortFacts) -> Outcome<Option<Masked<u16>>> {
    match port.tunnel_port {
        Some(of_device) if (key.value ^ of_device) & key.mask != 0 => {
            Err(Untranslatable::NoPacket(Looked::TunnelEnds))
        }
        Some(of_device) => Ok(Some(Masked::exact(of_device))),
        None => Ok(masked(key)),
    }
}

/// Whether packets of no tunnel fit.
fn fits_no_tunnel(key: &TunnelKey) -> bool {
    fn unset<T: Bits>(key: Option<Masked<T>>) -> bool {
        key.is_none_or(|key| key.significant() == T::ZEROS)
    }
    let TunnelKey {
        id,
        ipv4_src,
        ipv4_dst,
        ipv6_src,
        ipv6_dst,
        tos,
        ttl,
        tp_src,
        tp_dst,
        flags,
        geneve,
        vxlan_gbp,
        erspan,
        unknown,
    } = key;
    unset(*id)
        && unset(*ipv4_src)
        && unset(*ipv4_dst)
        && unset(*ipv6_src)
        && unset(*ipv6_dst)
        && unset(*tos)
        && unset(*ttl)
        && unset(*tp_src)
        && unset(*tp_dst)
        && unset(Some(*flags))
        && geneve.as_ref().is_none_or(|options| options.value.is_empty())
        && vxlan_gbp.is_none()
        && erspan.is_none()
        && unknown.is_none()
}

/// Flower takes the whole id or none, of 32 bits. Whether there is one is told where it matters (`OVS_TUNNEL_KEY_ATTR_ID` in
/// the mask); to flower, a GRE packet without a key has key 0.
fn id(key: Option<Masked<u64>>, port: &PortFacts) -> Outcome<Option<u32>> {
    let Some(key) = key else { return Ok(None) };
    let always_has_one = matches!(port.tunnel_kind.as_deref(), Some("geneve" | "vxlan"));
    if key.significant() == 0 && !always_has_one {
        return Err(no_key(Looked::TunnelId));
    }
    let low = u64::from(u32::MAX);
    match key.mask & low {
        0 if key.is_any() => Ok(None),
        mask if mask == low => {
            u32::try_from(key.significant()).map(Some).map_err(|_| no_key(Looked::TunnelId))
        }
        _ => Err(Untranslatable::Partly(Looked::TunnelId)),
    }
}

/// Both ends, of one family: their presence is what tells flower the family, which a megaflow always matches.
fn ends(key: &TunnelKey) -> Outcome<TunnelHeader> {
    let v4 = (key.ipv4_src.unwrap_or_default(), key.ipv4_dst.unwrap_or_default());
    let v6 = (key.ipv6_src.unwrap_or_default(), key.ipv6_dst.unwrap_or_default());
    let is_v4 = !v4.0.is_any() || !v4.1.is_any();
    let is_v6 = !v6.0.is_any() || !v6.1.is_any();
    match (is_v4, is_v6) {
        (true, false) => Ok(TunnelHeader {
            ipv4_src: Some(Masked::new(v4.0.significant(), v4.0.mask)),
            ipv4_dst: Some(Masked::new(v4.1.significant(), v4.1.mask)),
            ..TunnelHeader::default()
        }),
        (false, true) => Ok(TunnelHeader {
            ipv6_src: Some(Masked::new(v6.0.significant(), v6.0.mask)),
            ipv6_dst: Some(Masked::new(v6.1.significant(), v6.1.mask)),
            ..TunnelHeader::default()
        }),
        _ => Err(no_key(Looked::TunnelEnds)),
    }
}

const FLAGS: [(TunnelFlags, u32); 3] = [
    (TunnelFlags::CSUM, TUNNEL_CSUM),
    (TunnelFlags::DONT_FRAGMENT, TUNNEL_DONT_FRAGMENT),
    (TunnelFlags::OAM, TUNNEL_OAM),
];

fn flags(key: Masked<TunnelFlags>) -> Outcome<Option<Masked<u32>>> {
    if key.mask.0 & !(FLAGS.iter().fold(0, |all, (flag, _)| all | flag.0)) != 0 {
        return Err(no_key(Looked::TunnelFlags));
    }
    let bits = |of: TunnelFlags| {
        FLAGS.iter().filter(|(flag, _)| of.contains(*flag)).fold(0, |bits, (_, bit)| bits | bit)
    };
    Ok(masked(Masked::new(bits(key.value), bits(key.mask))))
}

fn options(key: &TunnelKey) -> Outcome<TunnelOptionKeys> {
    if key.erspan.as_ref().is_some_and(|erspan| !erspan.value.is_empty()) {
        return Err(no_key(Looked::TunnelOptions));
    }
    let geneve = key.geneve.as_ref().filter(|options| !options.value.is_empty());
    match (geneve, key.vxlan_gbp) {
        (None, None) => Ok(TunnelOptionKeys::None),
        (None, Some(gbp)) => Ok(TunnelOptionKeys::VxlanGbp(Masked::new(gbp.significant(), gbp.mask))),
        (Some(options), None) => {
            matched_geneve(options).map(TunnelOptionKeys::Geneve).ok_or(no_key(Looked::TunnelOptions))
        }
        (Some(_), Some(_)) => Err(no_key(Looked::TunnelOptions)),
    }
}

/// Bytes of an option without its data (`struct geneve_opt`): class, type, and length in 4 bytes behind three bits that
/// are always 0.
const GENEVE_HEADER: usize = 4;
const GENEVE_LENGTH: u8 = 0x1f;

/// One option as it is on the wire, and what follows it. None where it is cut off, or without data, which the kernel
/// takes neither as a key nor as an action.
fn split_geneve(bytes: &[u8]) -> Option<(GeneveOption, &[u8])> {
    let [class_high, class_low, kind, length, rest @ ..] = bytes else { return None };
    let (data, rest) = rest.split_at_checked(usize::from(length & GENEVE_LENGTH) * 4)?;
    let is_plain = length & !GENEVE_LENGTH == 0 && !data.is_empty();
    let class = u16::from_be_bytes([*class_high, *class_low]);
    is_plain.then(|| (GeneveOption { class, kind: *kind, data: data.to_vec() }, rest))
}

/// Options are matched by their place, and there are as many as the key has: the kernel datapath matches the length of
/// all (`tun_opts_len`).
fn matched_geneve(key: &RawKey) -> Option<Vec<GeneveOptionKey>> {
    let mut all = Vec::new();
    let (mut value, mut mask) = (&*key.value, &*key.mask);
    while !value.is_empty() {
        let (option, rest) = split_geneve(value)?;
        let (its_mask, mask_rest) = match mask {
            // No mask at all: the length alone matters.
            [] => (None, &[][..]),
            _ => {
                let (its, rest) = mask.split_at_checked(GENEVE_HEADER + option.data.len())?;
                (Some(its), rest)
            }
        };
        let header = its_mask.map_or([0; 3], |its| [its[0], its[1], its[2]]);
        let data_mask =
            its_mask.map_or_else(|| alloc::vec![0; option.data.len()], |its| its[GENEVE_HEADER..].to_vec());
        let class = Masked::new(option.class, u16::from_be_bytes([header[0], header[1]]));
        let kind = Masked::new(option.kind, header[2]);
        let data = option.data.iter().zip(&data_mask).map(|(byte, mask)| byte & mask).collect();
        all.push(GeneveOptionKey {
            class: Masked::new(class.significant(), class.mask),
            kind: Masked::new(kind.significant(), kind.mask),
            data,
            data_mask,
        });
        (value, mask) = (rest, mask_rest);
    }
    mask.is_empty().then_some(all)
}

/// The tunnel that packets are to be sent through.
pub(super) fn set(key: &TunnelKey, kernel: Abilities) -> Outcome<TunnelSet> {
    let cannot = Untranslatable::Action(Done::Tunnel);
    // Ports are written by the tunnel's device, but for that of the other end; `tunnel_key` has no control bit.
    let beyond = key.unknown.is_some()
        || key.erspan.is_some()
        || key.tp_src.is_some_and(|port| port.value != 0)
        || key.flags.value.contains(TunnelFlags::OAM)
        || key.flags.value.contains(TunnelFlags::INFO_BRIDGE);
    if beyond {
        return Err(cannot);
    }
    let (csum, no_frag) =
        (key.flags.value.contains(TunnelFlags::CSUM), key.flags.value.contains(TunnelFlags::DONT_FRAGMENT));
    if no_frag && !kernel.tunnel_no_fragment {
        return Err(Untranslatable::Kernel(Missing::TunnelNoFragment));
    }
    let id = key.id.map(|id| u32::try_from(id.value)).transpose().map_err(|_| cannot)?;
    let mut set = TunnelSet {
        id,
        dst_port: key.tp_dst.map(|port| port.value).filter(|port| *port != 0),
        tos: key.tos.map(|tos| tos.value).filter(|tos| *tos != 0),
        ttl: key.ttl.map(|ttl| ttl.value).filter(|ttl| *ttl != 0),
        no_csum: Some(!csum),
        no_frag,
        options: set_options(key).ok_or(cannot)?,
        ..TunnelSet::default()
    };
    // The action wants both ends of one family.
    let v4 = key.ipv4_dst.map(|dst| dst.value).filter(|dst| !dst.is_unspecified());
    let v6 = key.ipv6_dst.map(|dst| dst.value).filter(|dst| !dst.is_unspecified());
    match (v4, v6) {
        (Some(dst), None) => {
            set.ipv4_src = Some(key.ipv4_src.unwrap_or_default().value);
            set.ipv4_dst = Some(dst);
        }
        (None, Some(dst)) => {
            set.ipv6_src = Some(key.ipv6_src.unwrap_or_default().value);
            set.ipv6_dst = Some(dst);
        }
        _ => return Err(cannot),
    }
    Ok(set)
}

fn set_options(key: &TunnelKey) -> Option<TunnelOptions> {
    let geneve = key.geneve.as_ref().filter(|options| !options.value.is_empty());
    match (geneve, key.vxlan_gbp) {
        (None, None) => Some(TunnelOptions::None),
        (None, Some(gbp)) => Some(TunnelOptions::VxlanGbp(gbp.value)),
        (Some(options), None) => {
            let (mut all, mut rest) = (Vec::new(), &*options.value);
            while !rest.is_empty() {
                let option;
                (option, rest) = split_geneve(rest)?;
                all.push(option);
            }
            Some(TunnelOptions::Geneve(all))
        }
        (Some(_), Some(_)) => None,
    }
}
