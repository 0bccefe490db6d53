//! The action `tunnel_key`: sets or removes the tunnel that a packet is to be sent through.

use super::codec::{Common, Generic, TC_GEN};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::net::{Ipv4Addr, Ipv6Addr};
use netlink_wire::attr::Fields;
use netlink_wire::{Attr, Attrs, Malformed, MessageWriter, Why};

/// The action `tunnel_key`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum TunnelKey {
    /// `TCA_TUNNEL_KEY_ACT_SET`: the packet is to be sent through this tunnel.
    Set(Box<TunnelSet>),
    /// `TCA_TUNNEL_KEY_ACT_RELEASE`: the packet forgets the tunnel it came out of.
    Release,
}

/// The outer headers of a tunnel.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct TunnelSet {
    /// `TCA_TUNNEL_KEY_ENC_KEY_ID`: the VNI or the GRE key.
    pub id: Option<u32>,
    /// `TCA_TUNNEL_KEY_ENC_IPV4_SRC`
    pub ipv4_src: Option<Ipv4Addr>,
    /// `TCA_TUNNEL_KEY_ENC_IPV4_DST`
    pub ipv4_dst: Option<Ipv4Addr>,
    /// `TCA_TUNNEL_KEY_ENC_IPV6_SRC`
    pub ipv6_src: Option<Ipv6Addr>,
    /// `TCA_TUNNEL_KEY_ENC_IPV6_DST`
    pub ipv6_dst: Option<Ipv6Addr>,
    /// `TCA_TUNNEL_KEY_ENC_DST_PORT`
    pub dst_port: Option<u16>,
    /// `TCA_TUNNEL_KEY_ENC_TOS`
    pub tos: Option<u8>,
    /// `TCA_TUNNEL_KEY_ENC_TTL`
    pub ttl: Option<u8>,
    /// `TCA_TUNNEL_KEY_NO_CSUM`: without a UDP checksum.
    pub no_csum: Option<bool>,
    /// `TCA_TUNNEL_KEY_NO_FRAG`: the outer packet must not be fragmented. Linux 6.3 and newer.
    pub no_frag: bool,
    /// `TCA_TUNNEL_KEY_ENC_OPTS`
    pub options: TunnelOptions,
}

/// `TCA_TUNNEL_KEY_ENC_OPTS`: options of the tunnel header.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub enum TunnelOptions {
    /// None.
    #[default]
    None,
    /// `TCA_TUNNEL_KEY_ENC_OPTS_GENEVE`, in their order.
    Geneve(Vec<GeneveOption>),
    /// `TCA_TUNNEL_KEY_ENC_OPT_VXLAN_GBP`: the group based policy word.
    VxlanGbp(u32),
}

/// One Geneve option (RFC 8926 §3.5).
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct GeneveOption {
    /// `TCA_TUNNEL_KEY_ENC_OPT_GENEVE_CLASS`
    pub class: u16,
    /// `TCA_TUNNEL_KEY_ENC_OPT_GENEVE_TYPE`
    pub kind: u8,
    /// `TCA_TUNNEL_KEY_ENC_OPT_GENEVE_DATA`: 4 to 128 bytes, a multiple of 4.
    pub data: Vec<u8>,
}

const TCA_TUNNEL_KEY_TM: u16 = 1;
const TCA_TUNNEL_KEY_PARMS: u16 = 2;
const TCA_TUNNEL_KEY_ENC_IPV4_SRC: u16 = 3;
const TCA_TUNNEL_KEY_ENC_IPV4_DST: u16 = 4;
const TCA_TUNNEL_KEY_ENC_IPV6_SRC: u16 = 5;
const TCA_TUNNEL_KEY_ENC_IPV6_DST: u16 = 6;
const TCA_TUNNEL_KEY_ENC_KEY_ID: u16 = 7;
const TCA_TUNNEL_KEY_PAD: u16 = 8;
const TCA_TUNNEL_KEY_ENC_DST_PORT: u16 = 9;
const TCA_TUNNEL_KEY_NO_CSUM: u16 = 10;
const TCA_TUNNEL_KEY_ENC_OPTS: u16 = 11;
const TCA_TUNNEL_KEY_ENC_TOS: u16 = 12;
const TCA_TUNNEL_KEY_ENC_TTL: u16 = 13;
const TCA_TUNNEL_KEY_NO_FRAG: u16 = 14;

/// `TCA_TUNNEL_KEY_ENC_OPTS_*`, whose numbers the flower keys share (`TCA_FLOWER_KEY_ENC_OPTS_*`).
pub(crate) const OPTS_GENEVE: u16 = 1;
pub(crate) const OPTS_VXLAN: u16 = 2;
/// `TCA_TUNNEL_KEY_ENC_OPT_GENEVE_*`, `TCA_FLOWER_KEY_ENC_OPT_GENEVE_*`.
pub(crate) const GENEVE_CLASS: u16 = 1;
pub(crate) const GENEVE_TYPE: u16 = 2;
pub(crate) const GENEVE_DATA: u16 = 3;
/// `TCA_TUNNEL_KEY_ENC_OPT_VXLAN_GBP`, `TCA_FLOWER_KEY_ENC_OPT_VXLAN_GBP`.
pub(crate) const VXLAN_GBP: u16 = 1;

/// Options as they are on the wire, with an option's kind if it is not understood.
pub(crate) fn read_options(attr: &Attr<'_>) -> Result<(TunnelOptions, Option<u16>), Malformed> {
    let (mut geneve, mut gbp, mut unknown) = (Vec::new(), None, None);
    for attr in attr.nested() {
        let attr = attr?;
        match attr.kind() {
            OPTS_GENEVE => read_geneve(attr.nested(), &mut geneve)?,
            OPTS_VXLAN => match attr.nested().find(VXLAN_GBP)? {
                Some(attr) => gbp = Some(attr.u32()?),
                None => return Err(attr.nested().missing(VXLAN_GBP)),
            },
            other => unknown = Some(other),
        }
    }
    let options = match (geneve.is_empty(), gbp) {
        (true, None) => TunnelOptions::None,
        (true, Some(gbp)) => TunnelOptions::VxlanGbp(gbp),
        (false, None) => TunnelOptions::Geneve(geneve),
        (false, Some(_)) => return Err(attr.malformed(Why::TooMany)),
    };
    Ok((options, unknown))
}

/// The kernel lists all options in one nest, class, type and data of each after the other; requests have one nest per
/// option, because of a repeated attribute the kernel takes the last.
fn read_geneve(attrs: Attrs<'_>, options: &mut Vec<GeneveOption>) -> Result<(), Malformed> {
    let mut option = GeneveOption::default();
    let mut expected = GENEVE_CLASS;
    for attr in attrs {
        let attr = attr?;
        if attr.kind() != expected {
            return Err(attr.malformed(Why::BadValue));
        }
        match attr.kind() {
            GENEVE_CLASS => option.class = attr.be16()?,
            GENEVE_TYPE => option.kind = attr.u8()?,
            _ => {
                option.data = attr.payload().to_vec();
                options.push(core::mem::take(&mut option));
            }
        }
        expected = expected % GENEVE_DATA + 1;
    }
    match expected {
        GENEVE_CLASS => Ok(()),
        missing => Err(attrs.missing(missing)),
    }
}

/// Writes options, one nest per Geneve option.
pub(crate) fn put_options(writer: &mut MessageWriter, attr: u16, options: &TunnelOptions) {
    match options {
        TunnelOptions::None => {}
        TunnelOptions::Geneve(options) => writer.nest(attr, |writer| {
            for option in options {
                writer.nest(OPTS_GENEVE, |writer| {
                    writer.put_be16(GENEVE_CLASS, option.class);
                    writer.put_u8(GENEVE_TYPE, option.kind);
                    writer.put(GENEVE_DATA, &option.data);
                });
            }
        }),
        TunnelOptions::VxlanGbp(gbp) => writer.nest(attr, |writer| {
            writer.nest(OPTS_VXLAN, |writer| writer.put_u32(VXLAN_GBP, *gbp));
        }),
    }
}

impl TunnelKey {
    pub(super) fn read(options: Attrs<'_>, common: &mut Common) -> Result<Self, Malformed> {
        let (mut what, mut set) = (None, TunnelSet::default());
        for attr in options {
            let attr = attr?;
            match attr.kind() {
                TCA_TUNNEL_KEY_PARMS => {
                    let bytes = attr.array::<{ TC_GEN + 4 }>()?;
                    common.generic = Generic::read(&bytes);
                    what = Some((Fields(&bytes[TC_GEN..]).i32(), attr));
                }
                TCA_TUNNEL_KEY_TM => common.take_times(&attr)?,
                TCA_TUNNEL_KEY_PAD => {}
                TCA_TUNNEL_KEY_ENC_OPTS => {
                    let unknown;
                    (set.options, unknown) = read_options(&attr)?;
                    if unknown.is_some() {
                        common.unknown(TCA_TUNNEL_KEY_ENC_OPTS);
                    }
                }
                other => {
                    if !set.take(&attr)? {
                        common.unknown(other);
                    }
                }
            }
        }
        match what.ok_or_else(|| options.missing(TCA_TUNNEL_KEY_PARMS))? {
            (1, _) => Ok(Self::Set(Box::new(set))),
            (2, _) => Ok(Self::Release),
            (_, parms) => Err(parms.malformed(Why::BadValue)),
        }
    }

    pub(super) fn put(&self, writer: &mut MessageWriter, generic: &Generic) {
        let what: i32 = match self {
            Self::Set(_) => 1,
            Self::Release => 2,
        };
        let mut parms = generic.with::<{ TC_GEN + 4 }>();
        parms[TC_GEN..].copy_from_slice(&what.to_ne_bytes());
        writer.put(TCA_TUNNEL_KEY_PARMS, &parms);
        if let Self::Set(set) = self {
            set.put(writer);
        }
    }
}

impl TunnelSet {
    fn take(&mut self, attr: &Attr<'_>) -> Result<bool, Malformed> {
        match attr.kind() {
            TCA_TUNNEL_KEY_ENC_IPV4_SRC => self.ipv4_src = Some(attr.ipv4()?),
            TCA_TUNNEL_KEY_ENC_IPV4_DST => self.ipv4_dst = Some(attr.ipv4()?),
            TCA_TUNNEL_KEY_ENC_IPV6_SRC => self.ipv6_src = Some(attr.ipv6()?),
            TCA_TUNNEL_KEY_ENC_IPV6_DST => self.ipv6_dst = Some(attr.ipv6()?),
            TCA_TUNNEL_KEY_ENC_KEY_ID => self.id = Some(attr.be32()?),
            TCA_TUNNEL_KEY_ENC_DST_PORT => self.dst_port = Some(attr.be16()?),
            TCA_TUNNEL_KEY_NO_CSUM => self.no_csum = Some(attr.u8()? != 0),
            TCA_TUNNEL_KEY_ENC_TOS => self.tos = Some(attr.u8()?),
            TCA_TUNNEL_KEY_ENC_TTL => self.ttl = Some(attr.u8()?),
            TCA_TUNNEL_KEY_NO_FRAG => self.no_frag = true,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn put(&self, writer: &mut MessageWriter) {
        for (attr, address) in
            [(TCA_TUNNEL_KEY_ENC_IPV4_SRC, self.ipv4_src), (TCA_TUNNEL_KEY_ENC_IPV4_DST, self.ipv4_dst)]
        {
            if let Some(address) = address {
                writer.put(attr, &address.octets());
            }
        }
        for (attr, address) in
            [(TCA_TUNNEL_KEY_ENC_IPV6_SRC, self.ipv6_src), (TCA_TUNNEL_KEY_ENC_IPV6_DST, self.ipv6_dst)]
        {
            if let Some(address) = address {
                writer.put(attr, &address.octets());
            }
        }
        if let Some(id) = self.id {
            writer.put_be32(TCA_TUNNEL_KEY_ENC_KEY_ID, id);
        }
        if let Some(port) = self.dst_port {
            writer.put_be16(TCA_TUNNEL_KEY_ENC_DST_PORT, port);
        }
        let bytes = [
            (TCA_TUNNEL_KEY_NO_CSUM, self.no_csum.map(u8::from)),
            (TCA_TUNNEL_KEY_ENC_TOS, self.tos),
            (TCA_TUNNEL_KEY_ENC_TTL, self.ttl),
        ];
        for (attr, value) in bytes {
            if let Some(value) = value {
                writer.put_u8(attr, value);
            }
        }
        if self.no_frag {
            writer.put_flag(TCA_TUNNEL_KEY_NO_FRAG);
        }
        put_options(writer, TCA_TUNNEL_KEY_ENC_OPTS, &self.options);
    }
}
