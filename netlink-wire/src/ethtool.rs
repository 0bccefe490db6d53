//! The generic netlink family `ethtool` of `linux/ethtool_netlink.h`: a device's features.

use crate::attr::{Attr, Attrs};
use crate::genl::{self, Command, FamilyId};
use crate::ids::{Ifindex, Seq};
use crate::malformed::{Family, Malformed, Why};
use crate::message::{Message, flags};
use crate::writer::{MessageWriter, TooLong};
use alloc::boxed::Box;
use alloc::vec::Vec;

/// `ETHTOOL_GENL_NAME`
pub const FAMILY: &str = "ethtool";
/// `ETHTOOL_MCGRP_MONITOR_NAME`
pub const GROUP: &str = "monitor";
/// The feature that lets TC rules be placed in hardware (`NETIF_F_HW_TC_BIT`).
pub const HW_TC_OFFLOAD: &str = "hw-tc-offload";
/// `ETHTOOL_GENL_VERSION`
const VERSION: u8 = 1;

const ETHTOOL_MSG_FEATURES_GET: u8 = 11;
const ETHTOOL_MSG_FEATURES_SET: u8 = 12;
const ETHTOOL_MSG_FEATURES_GET_REPLY: u8 = 11;
const ETHTOOL_MSG_FEATURES_NTF: u8 = 13;
const ETHTOOL_A_HEADER_DEV_INDEX: u16 = 1;
const ETHTOOL_A_HEADER_DEV_NAME: u16 = 2;
const ETHTOOL_A_FEATURES_HEADER: u16 = 1;
const ETHTOOL_A_FEATURES_HW: u16 = 2;
const ETHTOOL_A_FEATURES_WANTED: u16 = 3;
const ETHTOOL_A_FEATURES_ACTIVE: u16 = 4;
const ETHTOOL_A_FEATURES_NOCHANGE: u16 = 5;
const ETHTOOL_A_BITSET_NOMASK: u16 = 1;
const ETHTOOL_A_BITSET_BITS: u16 = 3;
const ETHTOOL_A_BITSET_BITS_BIT: u16 = 1;
const ETHTOOL_A_BITSET_BIT_NAME: u16 = 2;
const ETHTOOL_A_BITSET_BIT_VALUE: u16 = 3;
/// More features than any kernel has (71 in Linux 6.12): a limit on what a message can make us keep.
const FEATURES_MAX: usize = 512;

/// The features of a device: `ETHTOOL_MSG_FEATURES_GET_REPLY`, `ETHTOOL_MSG_FEATURES_NTF`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Features {
    /// `ETHTOOL_A_HEADER_DEV_INDEX`
    pub ifindex: Ifindex,
    /// `ETHTOOL_A_HEADER_DEV_NAME`
    pub name: Option<Box<str>>,
    /// `ETHTOOL_A_FEATURES_HW`: what can be switched.
    pub changeable: Vec<Box<str>>,
    /// `ETHTOOL_A_FEATURES_WANTED`: what was asked for.
    pub wanted: Vec<Box<str>>,
    /// `ETHTOOL_A_FEATURES_ACTIVE`: what is on.
    pub active: Vec<Box<str>>,
    /// `ETHTOOL_A_FEATURES_NOCHANGE`: what can never be switched.
    pub fixed: Vec<Box<str>>,
}

impl Features {
    /// Whether TC rules may be placed in the device's hardware.
    pub fn hw_tc_offload(&self) -> Feature {
        let has = |set: &[Box<str>]| set.iter().any(|name| **name == *HW_TC_OFFLOAD);
        match (has(&self.active), has(&self.changeable) && !has(&self.fixed)) {
            (true, _) => Feature::On,
            (false, true) => Feature::Off,
            (false, false) => Feature::Unsupported,
        }
    }

    /// Reads the answer to [`get_features`], or a notification of the group [`GROUP`].
    ///
    /// # Errors
    /// A message that is no such answer.
    pub fn decode(message: &Message<'_>) -> Result<Self, Malformed> {
        let (command, [], attrs) = genl::split::<0>(message, Family::Ethtool)?;
        if !matches!(command.number, ETHTOOL_MSG_FEATURES_GET_REPLY | ETHTOOL_MSG_FEATURES_NTF) {
            return Err(message.wrong_type(Family::Ethtool));
        }
        let (mut ifindex, mut name) = (None, None);
        let (mut changeable, mut wanted) = (Vec::new(), Vec::new());
        let (mut active, mut fixed) = (Vec::new(), Vec::new());
        for attr in attrs {
            let attr = attr?;
            match attr.kind() {
                ETHTOOL_A_FEATURES_HEADER => (ifindex, name) = decode_header(attr.nested())?,
                ETHTOOL_A_FEATURES_HW => changeable = decode_bitset(&attr)?,
                ETHTOOL_A_FEATURES_WANTED => wanted = decode_bitset(&attr)?,
                ETHTOOL_A_FEATURES_ACTIVE => active = decode_bitset(&attr)?,
                ETHTOOL_A_FEATURES_NOCHANGE => fixed = decode_bitset(&attr)?,
                _ => {}
            }
        }
        let ifindex = ifindex.ok_or_else(|| attrs.missing(ETHTOOL_A_FEATURES_HEADER))?;
        Ok(Self { ifindex, name, changeable, wanted, active, fixed })
    }
}

/// The state of one feature.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Feature {
    /// On.
    On,
    /// Off, and can be switched on.
    Off,
    /// The device does not have it.
    Unsupported,
}

type DeviceName = (Option<Ifindex>, Option<Box<str>>);

fn decode_header(attrs: Attrs<'_>) -> Result<DeviceName, Malformed> {
    let (mut ifindex, mut name) = (None, None);
    for attr in attrs {
        let attr = attr?;
        match attr.kind() {
            ETHTOOL_A_HEADER_DEV_INDEX => ifindex = Some(Ifindex(attr.u32()?)),
            ETHTOOL_A_HEADER_DEV_NAME => name = Some(Box::from(attr.text()?)),
            _ => {}
        }
    }
    Ok((ifindex, name))
}

/// The names of the bits that are set, from the verbose form of a bitset.
fn decode_bitset(attr: &Attr<'_>) -> Result<Vec<Box<str>>, Malformed> {
    let mut names = Vec::new();
    let attrs = attr.nested();
    // Without a mask every listed bit is set; with one, a bit is set if it has a value.
    let without_mask = attrs.find(ETHTOOL_A_BITSET_NOMASK)?.is_some();
    let Some(bits) = attrs.find(ETHTOOL_A_BITSET_BITS)? else { return Ok(names) };
    for bit in bits.nested() {
        let bit = bit?;
        if bit.kind() != ETHTOOL_A_BITSET_BITS_BIT {
            continue;
        }
        let is_set = without_mask || bit.nested().find(ETHTOOL_A_BITSET_BIT_VALUE)?.is_some();
        if let Some(name) = bit.nested().find(ETHTOOL_A_BITSET_BIT_NAME)?.filter(|_| is_set) {
            if names.len() == FEATURES_MAX {
                return Err(bit.malformed(Why::TooMany));
            }
            names.push(Box::from(name.text()?));
        }
    }
    Ok(names)
}

fn request(family: FamilyId, command: u8, ifindex: Ifindex, flags: u16, seq: Seq) -> MessageWriter {
    let command = Command { number: command, version: VERSION };
    let mut writer = genl::request(family, command, flags::REQUEST | flags, seq);
    writer.nest(ETHTOOL_A_FEATURES_HEADER, |writer| writer.put_u32(ETHTOOL_A_HEADER_DEV_INDEX, ifindex.0));
    writer
}

/// `ETHTOOL_MSG_FEATURES_GET`: asks for a device's features by name.
pub fn get_features(family: FamilyId, ifindex: Ifindex, seq: Seq) -> Vec<u8> {
    let writer = request(family, ETHTOOL_MSG_FEATURES_GET, ifindex, flags::ACK, seq);
    writer.finish().expect("a request of fixed size")
}

/// `ETHTOOL_MSG_FEATURES_SET`: switches one feature, for example [`HW_TC_OFFLOAD`]. Needs CAP_NET_ADMIN.
///
/// # Errors
/// A name longer than an attribute can be.
pub fn set_feature(
    family: FamilyId,
    ifindex: Ifindex,
    feature: &str,
    on: bool,
    seq: Seq,
) -> Result<Vec<u8>, TooLong> {
    let mut writer = request(family, ETHTOOL_MSG_FEATURES_SET, ifindex, flags::ACK, seq);
    writer.nest(ETHTOOL_A_FEATURES_WANTED, |writer| {
        writer.nest(ETHTOOL_A_BITSET_BITS, |writer| {
            writer.nest(ETHTOOL_A_BITSET_BITS_BIT, |writer| {
                writer.put_text(ETHTOOL_A_BITSET_BIT_NAME, feature);
                if on {
                    writer.put_flag(ETHTOOL_A_BITSET_BIT_VALUE);
                }
            });
        });
    });
    writer.finish()
}
