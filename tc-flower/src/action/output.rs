//! Actions that decide where a packet goes: mirred, gact and sample.

use super::Control;
use super::codec::{Common, Generic, TC_GEN};
use crate::BlockIndex;
use netlink_wire::attr::Fields;
use netlink_wire::{Attrs, Ifindex, Malformed, MessageWriter, Why};

/// Which side of a device a packet is handed to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Direction {
    /// It is sent by the device.
    Egress,
    /// It is received by the device. Open vSwitch does this for internal ports.
    Ingress,
}

/// To whom.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum MirredTarget {
    /// `ifindex` of `struct tc_mirred`: a device.
    Device(Ifindex),
    /// `TCA_MIRRED_BLOCKID`: all devices of a shared block. Linux 6.8 and newer.
    Block(BlockIndex),
}

/// The action `mirred`: sends a packet, or a copy, out of or into a device.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Mirred {
    /// To whom.
    pub target: MirredTarget,
    /// Which side of it.
    pub direction: Direction,
    /// Whether it is a copy (`TCA_*_MIRROR`), not the packet itself (`TCA_*_REDIR`).
    pub copy: bool,
}

const TCA_MIRRED_TM: u16 = 1;
const TCA_MIRRED_PARMS: u16 = 2;
const TCA_MIRRED_PAD: u16 = 3;
const TCA_MIRRED_BLOCKID: u16 = 4;

impl Mirred {
    pub(super) fn read(options: Attrs<'_>, common: &mut Common) -> Result<Self, Malformed> {
        let (mut mirred, mut block) = (None, None);
        for attr in options {
            let attr = attr?;
            match attr.kind() {
                TCA_MIRRED_PARMS => {
                    let bytes = attr.array::<{ TC_GEN + 8 }>()?;
                    common.generic = Generic::read(&bytes);
                    let mut fields = Fields(&bytes[TC_GEN..]);
                    let (direction, copy) = match fields.i32() {
                        1 => (Direction::Egress, false),
                        2 => (Direction::Egress, true),
                        3 => (Direction::Ingress, false),
                        4 => (Direction::Ingress, true),
                        _ => return Err(attr.malformed(Why::BadValue)),
                    };
                    let target = MirredTarget::Device(Ifindex(fields.u32()));
                    mirred = Some(Self { target, direction, copy });
                }
                TCA_MIRRED_BLOCKID => block = Some(BlockIndex(attr.u32()?)),
                TCA_MIRRED_TM => common.take_times(&attr)?,
                TCA_MIRRED_PAD => {}
                other => common.unknown(other),
            }
        }
        let mut mirred = mirred.ok_or_else(|| options.missing(TCA_MIRRED_PARMS))?;
        if let Some(block) = block {
            mirred.target = MirredTarget::Block(block);
        }
        Ok(mirred)
    }

    pub(super) fn put(&self, writer: &mut MessageWriter, generic: &Generic) {
        let action: i32 = match (self.direction, self.copy) {
            (Direction::Egress, false) => 1,
            (Direction::Egress, true) => 2,
            (Direction::Ingress, false) => 3,
            (Direction::Ingress, true) => 4,
        };
        let ifindex = match self.target {
            MirredTarget::Device(ifindex) => ifindex.0,
            MirredTarget::Block(_) => 0,
        };
        let mut parms = generic.with::<{ TC_GEN + 8 }>();
        parms[TC_GEN..TC_GEN + 4].copy_from_slice(&action.to_ne_bytes());
        parms[TC_GEN + 4..].copy_from_slice(&ifindex.to_ne_bytes());
        writer.put(TCA_MIRRED_PARMS, &parms);
        if let MirredTarget::Block(block) = self.target {
            writer.put_u32(TCA_MIRRED_BLOCKID, block.0);
        }
    }
}

/// `TCA_GACT_PROB`: another control for some of the packets.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct GactProbability {
    /// `ptype`: 1 at random, 2 every `value`th.
    pub kind: u16,
    /// `pval`: one in how many.
    pub value: u16,
    /// `paction`: what happens to those.
    pub control: Control,
}

/// The action `gact`: nothing but its control.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Gact {
    /// `TCA_GACT_PROB`
    pub probability: Option<GactProbability>,
}

const TCA_GACT_TM: u16 = 1;
const TCA_GACT_PARMS: u16 = 2;
const TCA_GACT_PROB: u16 = 3;
const TCA_GACT_PAD: u16 = 4;

impl Gact {
    pub(super) fn read(options: Attrs<'_>, common: &mut Common) -> Result<Self, Malformed> {
        let mut gact = Self::default();
        for attr in options {
            let attr = attr?;
            match attr.kind() {
                TCA_GACT_PARMS => common.generic = Generic::read(&attr.array::<TC_GEN>()?),
                TCA_GACT_PROB => {
                    let bytes = attr.array::<8>()?;
                    let mut fields = Fields(&bytes);
                    let (kind, value) = (fields.u16(), fields.u16());
                    let control = Control::from_number(fields.i32());
                    gact.probability = Some(GactProbability { kind, value, control });
                }
                TCA_GACT_TM => common.take_times(&attr)?,
                TCA_GACT_PAD => {}
                other => common.unknown(other),
            }
        }
        Ok(gact)
    }

    pub(super) fn put(&self, writer: &mut MessageWriter, generic: &Generic) {
        writer.put(TCA_GACT_PARMS, &generic.with::<TC_GEN>());
        if let Some(probability) = &self.probability {
            let mut bytes = [0; 8];
            bytes[..2].copy_from_slice(&probability.kind.to_ne_bytes());
            bytes[2..4].copy_from_slice(&probability.value.to_ne_bytes());
            bytes[4..].copy_from_slice(&probability.control.number().to_ne_bytes());
            writer.put(TCA_GACT_PROB, &bytes);
        }
    }
}

/// The action `sample`: copies some packets to the psample group of user space.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Sample {
    /// `TCA_SAMPLE_RATE`: one in how many.
    pub rate: u32,
    /// `TCA_SAMPLE_TRUNC_SIZE`: how many bytes of each.
    pub truncate: Option<u32>,
    /// `TCA_SAMPLE_PSAMPLE_GROUP`
    pub group: u32,
}

const TCA_SAMPLE_TM: u16 = 1;
const TCA_SAMPLE_PARMS: u16 = 2;
const TCA_SAMPLE_RATE: u16 = 3;
const TCA_SAMPLE_TRUNC_SIZE: u16 = 4;
const TCA_SAMPLE_PSAMPLE_GROUP: u16 = 5;
const TCA_SAMPLE_PAD: u16 = 6;

impl Sample {
    pub(super) fn read(options: Attrs<'_>, common: &mut Common) -> Result<Self, Malformed> {
        let mut sample = Self::default();
        for attr in options {
            let attr = attr?;
            match attr.kind() {
                TCA_SAMPLE_PARMS => common.generic = Generic::read(&attr.array::<TC_GEN>()?),
                TCA_SAMPLE_RATE => sample.rate = attr.u32()?,
                TCA_SAMPLE_TRUNC_SIZE => sample.truncate = Some(attr.u32()?),
                TCA_SAMPLE_PSAMPLE_GROUP => sample.group = attr.u32()?,
                TCA_SAMPLE_TM => common.take_times(&attr)?,
                TCA_SAMPLE_PAD => {}
                other => common.unknown(other),
            }
        }
        Ok(sample)
    }

    pub(super) fn put(&self, writer: &mut MessageWriter, generic: &Generic) {
        writer.put(TCA_SAMPLE_PARMS, &generic.with::<TC_GEN>());
        writer.put_u32(TCA_SAMPLE_RATE, self.rate);
        if let Some(truncate) = self.truncate {
            writer.put_u32(TCA_SAMPLE_TRUNC_SIZE, truncate);
        }
        writer.put_u32(TCA_SAMPLE_PSAMPLE_GROUP, self.group);
    }
}
