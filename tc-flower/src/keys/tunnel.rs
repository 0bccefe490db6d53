//! Keys of the tunnel a packet came out of.

use super::codec::{Byte, Net16, Net32, V4, V6, keys};
use super::{Taken, attr};
use crate::action::tunnel_key::{put_options, read_options};
use crate::action::{GeneveOption, TunnelOptions};
use alloc::vec::Vec;
use netlink_wire::{Attr, Malformed, Masked, MessageWriter, Why};

keys! {
    /// The outer headers of the tunnel, without its options.
    TunnelHeader {
        /// `TCA_FLOWER_KEY_ENC_KEY_ID`: the VNI or the GRE key.
        id: exact Net32(KEY_ENC_KEY_ID);
        /// `TCA_FLOWER_KEY_ENC_IPV4_SRC`
        ipv4_src: masked V4(KEY_ENC_IPV4_SRC, KEY_ENC_IPV4_SRC_MASK);
        /// `TCA_FLOWER_KEY_ENC_IPV4_DST`
        ipv4_dst: masked V4(KEY_ENC_IPV4_DST, KEY_ENC_IPV4_DST_MASK);
        /// `TCA_FLOWER_KEY_ENC_IPV6_SRC`
        ipv6_src: masked V6(KEY_ENC_IPV6_SRC, KEY_ENC_IPV6_SRC_MASK);
        /// `TCA_FLOWER_KEY_ENC_IPV6_DST`
        ipv6_dst: masked V6(KEY_ENC_IPV6_DST, KEY_ENC_IPV6_DST_MASK);
        /// `TCA_FLOWER_KEY_ENC_UDP_SRC_PORT`
        src_port: masked Net16(KEY_ENC_UDP_SRC_PORT, KEY_ENC_UDP_SRC_PORT_MASK);
        /// `TCA_FLOWER_KEY_ENC_UDP_DST_PORT`
        dst_port: masked Net16(KEY_ENC_UDP_DST_PORT, KEY_ENC_UDP_DST_PORT_MASK);
        /// `TCA_FLOWER_KEY_ENC_IP_TOS`
        tos: masked Byte(KEY_ENC_IP_TOS, KEY_ENC_IP_TOS_MASK);
        /// `TCA_FLOWER_KEY_ENC_IP_TTL`
        ttl: masked Byte(KEY_ENC_IP_TTL, KEY_ENC_IP_TTL_MASK);
        /// `TCA_FLOWER_KEY_ENC_FLAGS`: `TCA_FLOWER_KEY_FLAGS_TUNNEL_*`. Linux 6.11 and newer.
        flags: masked Net32(KEY_ENC_FLAGS, KEY_ENC_FLAGS_MASK);
    }
}

/// The tunnel a packet came out of.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Tunnel {
    /// Its outer headers.
    pub header: TunnelHeader,
    /// `TCA_FLOWER_KEY_ENC_OPTS`
    pub options: TunnelOptionKeys,
}

/// `TCA_FLOWER_KEY_ENC_OPTS`, `TCA_FLOWER_KEY_ENC_OPTS_MASK`: options of the tunnel header.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub enum TunnelOptionKeys {
    /// None.
    #[default]
    None,
    /// `TCA_FLOWER_KEY_ENC_OPTS_GENEVE`, in their order.
    Geneve(Vec<GeneveOptionKey>),
    /// `TCA_FLOWER_KEY_ENC_OPT_VXLAN_GBP`: the group based policy word.
    VxlanGbp(Masked<u32>),
}

/// One Geneve option to match.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct GeneveOptionKey {
    /// `TCA_FLOWER_KEY_ENC_OPT_GENEVE_CLASS`
    pub class: Masked<u16>,
    /// `TCA_FLOWER_KEY_ENC_OPT_GENEVE_TYPE`
    pub kind: Masked<u8>,
    /// `TCA_FLOWER_KEY_ENC_OPT_GENEVE_DATA`
    pub data: Vec<u8>,
    /// The mask of the data, as long as it.
    pub data_mask: Vec<u8>,
}

impl Tunnel {
    /// Whether there is no key of the tunnel.
    pub fn is_empty(&self) -> bool {
        self.header.is_empty() && self.options == TunnelOptionKeys::None
    }

    /// The same keys under the same masks without their values, but for the tunnel's ends and kinds of options.
    pub(super) fn without_values(&self) -> Self {
        let TunnelHeader { ipv4_src, ipv4_dst, ipv6_src, ipv6_dst, dst_port, .. } = self.header;
        let header =
            TunnelHeader { ipv4_src, ipv4_dst, ipv6_src, ipv6_dst, dst_port, ..self.header.without_values() };
        let options = match &self.options {
            TunnelOptionKeys::None => TunnelOptionKeys::None,
            TunnelOptionKeys::VxlanGbp(gbp) => TunnelOptionKeys::VxlanGbp(Masked { value: 0, ..*gbp }),
            TunnelOptionKeys::Geneve(keys) => {
                let mut keys = keys.clone();
                keys.iter_mut().for_each(|key| key.data.fill(0));
                TunnelOptionKeys::Geneve(keys)
            }
        };
        Self { header, options }
    }
}

impl TunnelOptionKeys {
    /// Reads `TCA_FLOWER_KEY_ENC_OPTS` or its mask, whichever comes first.
    pub(super) fn take(&mut self, attr: &Attr<'_>) -> Result<Taken, Malformed> {
        let is_mask = attr.kind() == attr::KEY_ENC_OPTS_MASK;
        let (options, unknown) = read_options(attr)?;
        if let Some(kind) = unknown {
            return Ok(Taken::UnknownOptions(kind));
        }
        match options {
            TunnelOptions::None => {}
            TunnelOptions::VxlanGbp(word) => {
                let mut gbp = match self {
                    Self::VxlanGbp(gbp) => Some(*gbp),
                    Self::None => None,
                    Self::Geneve(_) => return Err(attr.malformed(Why::BadValue)),
                };
                if is_mask {
                    super::take_mask(&mut gbp, word)
                } else {
                    super::take_value(&mut gbp, word)
                };
                *self = gbp.map_or(Self::None, Self::VxlanGbp);
            }
            TunnelOptions::Geneve(options) => self.take_geneve(attr, options, is_mask)?,
        }
        Ok(Taken::Yes)
    }

    /// Joins the options' values with their masks, which come in two lists of the same shape.
    fn take_geneve(
        &mut self,
        attr: &Attr<'_>,
        options: Vec<GeneveOption>,
        is_mask: bool,
    ) -> Result<(), Malformed> {
        let keys = match self {
            Self::None => {
                let keys = options.into_iter().map(|option| GeneveOptionKey::new(option, is_mask));
                *self = Self::Geneve(keys.collect());
                return Ok(());
            }
            Self::Geneve(keys) if keys.len() == options.len() => keys,
            _ => return Err(attr.malformed(Why::BadValue)),
        };
        for (key, option) in keys.iter_mut().zip(options) {
            if key.data.len() != option.data.len() {
                return Err(attr.malformed(Why::BadValue));
            }
            match is_mask {
                true => {
                    (key.class.mask, key.kind.mask, key.data_mask) = (option.class, option.kind, option.data);
                }
                false => {
                    (key.class.value, key.kind.value, key.data) = (option.class, option.kind, option.data);
                }
            }
        }
        Ok(())
    }

    pub(super) fn put(&self, writer: &mut MessageWriter) {
        let (value, mask) = match self {
            Self::None => return,
            Self::VxlanGbp(gbp) => (TunnelOptions::VxlanGbp(gbp.value), TunnelOptions::VxlanGbp(gbp.mask)),
            Self::Geneve(keys) => {
                let (values, masks) = keys.iter().map(GeneveOptionKey::split).unzip();
                (TunnelOptions::Geneve(values), TunnelOptions::Geneve(masks))
            }
        };
        put_options(writer, attr::KEY_ENC_OPTS, &value);
        put_options(writer, attr::KEY_ENC_OPTS_MASK, &mask);
    }
}

impl GeneveOptionKey {
    /// An option whose value or mask was read, the other still to come.
    fn new(option: GeneveOption, is_mask: bool) -> Self {
        let GeneveOption { class, kind, data } = option;
        let other = alloc::vec![if is_mask { 0 } else { 0xff }; data.len()];
        match is_mask {
            true => Self {
                class: Masked::new(0, class),
                kind: Masked::new(0, kind),
                data: other,
                data_mask: data,
            },
            false => Self { class: Masked::exact(class), kind: Masked::exact(kind), data, data_mask: other },
        }
    }

    fn split(&self) -> (GeneveOption, GeneveOption) {
        let value = GeneveOption { class: self.class.value, kind: self.kind.value, data: self.data.clone() };
        let mask =
            GeneveOption { class: self.class.mask, kind: self.kind.mask, data: self.data_mask.clone() };
        (value, mask)
    }
}
