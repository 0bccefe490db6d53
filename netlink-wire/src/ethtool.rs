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
/// The feature of devices that carry security associations of ESP (`NETIF_F_HW_ESP_BIT`).
pub const ESP_HW_OFFLOAD: &str = "esp-hw-offload";
/// The feature that lets TC rules be placed in hardware (`NETIF_F_HW_TC_BIT`).
pub const HW_TC_OFFLOAD: &str = "hw-tc-offload";
/// `ETHTOOL_GENL_VERSION`
const VERSION: u8 = 1;

const ETHTOOL_MSG_STRSET_GET: u8 = 1;
const ETHTOOL_MSG_STRSET_GET_REPLY: u8 = 1;
const ETHTOOL_MSG_FEATURES_GET: u8 = 11;
const ETHTOOL_MSG_FEATURES_SET: u8 = 12;
const ETHTOOL_MSG_FEATURES_GET_REPLY: u8 = 11;
const ETHTOOL_MSG_FEATURES_NTF: u8 = 13;
const ETHTOOL_A_HEADER_DEV_INDEX: u16 = 1;
const ETHTOOL_A_HEADER_DEV_NAME: u16 = 2;
const ETHTOOL_A_HEADER_FLAGS: u16 = 3;
const ETHTOOL_FLAG_COMPACT_BITSETS: u32 = 1 << 0;
const ETHTOOL_A_FEATURES_HEADER: u16 = 1;
const ETHTOOL_A_FEATURES_HW: u16 = 2;
const ETHTOOL_A_FEATURES_WANTED: u16 = 3;
const ETHTOOL_A_FEATURES_ACTIVE: u16 = 4;
const ETHTOOL_A_FEATURES_NOCHANGE: u16 = 5;
const ETHTOOL_A_BITSET_NOMASK: u16 = 1;
const ETHTOOL_A_BITSET_BITS: u16 = 3;
const ETHTOOL_A_BITSET_VALUE: u16 = 4;
const ETHTOOL_A_BITSET_BITS_BIT: u16 = 1;
const ETHTOOL_A_BITSET_BIT_NAME: u16 = 2;
const ETHTOOL_A_BITSET_BIT_VALUE: u16 = 3;
const ETHTOOL_A_STRSET_HEADER: u16 = 1;
const ETHTOOL_A_STRSET_STRINGSETS: u16 = 2;
const ETHTOOL_A_STRINGSETS_STRINGSET: u16 = 1;
const ETHTOOL_A_STRINGSET_ID: u16 = 1;
const ETHTOOL_A_STRINGSET_STRINGS: u16 = 3;
const ETHTOOL_A_STRINGS_STRING: u16 = 1;
const ETHTOOL_A_STRING_INDEX: u16 = 1;
const ETHTOOL_A_STRING_VALUE: u16 = 2;
/// `ETH_SS_FEATURES`
const ETH_SS_FEATURES: u32 = 4;
/// More features than any kernel has (71 in Linux 6.12): a limit on what a message can make us keep.
const FEATURES_MAX: usize = 512;

/// The features of a device by name: the answer to [`get_features`].
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
        Feature::from_sets(has(&self.active), has(&self.changeable), has(&self.fixed))
    }

    /// Whether the device may carry security associations of ESP.
    pub fn esp_hw_offload(&self) -> bool {
        self.active.iter().any(|name| **name == *ESP_HW_OFFLOAD)
    }

    /// Reads the answer to [`get_features`].
    ///
    /// # Errors
    /// A message that is no such answer.
    pub fn decode(message: &Message<'_>) -> Result<Self, Malformed> {
        let (command, [], attrs) = genl::split::<0>(message, Family::Ethtool)?;
        if command.number != ETHTOOL_MSG_FEATURES_GET_REPLY {
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

/// Which bit a feature has in [`FeatureBits`]. The kernel's numbers differ from release to release.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FeatureBit(pub u32);

impl FeatureBit {
    /// Finds a feature in the answer to [`get_feature_names`]; none where the kernel does not know it.
    ///
    /// # Errors
    /// A message that is no such answer.
    pub fn find(message: &Message<'_>, feature: &str) -> Result<Option<Self>, Malformed> {
        let (command, [], attrs) = genl::split::<0>(message, Family::Ethtool)?;
        if command.number != ETHTOOL_MSG_STRSET_GET_REPLY {
            return Err(message.wrong_type(Family::Ethtool));
        }
        let Some(sets) = attrs.find(ETHTOOL_A_STRSET_STRINGSETS)? else { return Ok(None) };
        for set in sets.nested() {
            let set = set?.nested();
            if set.find(ETHTOOL_A_STRINGSET_ID)?.map(|id| id.u32()).transpose()? != Some(ETH_SS_FEATURES) {
                continue;
            }
            let Some(strings) = set.find(ETHTOOL_A_STRINGSET_STRINGS)? else { continue };
            for string in strings.nested() {
                let string = string?;
                if string.kind() != ETHTOOL_A_STRINGS_STRING {
                    continue;
                }
                let (index, value) = (
                    string.nested().find(ETHTOOL_A_STRING_INDEX)?,
                    string.nested().find(ETHTOOL_A_STRING_VALUE)?,
                );
                if let (Some(index), Some(value)) = (index, value)
                    && value.text()? == feature
                {
                    return Ok(Some(Self(index.u32()?)));
                }
            }
        }
        Ok(None)
    }
}

/// The features of a device as bits: the answer to [`dump_feature_bits`] and [`get_feature_bits`], and what the group
/// [`GROUP`] tells of a device whose features changed (`ETHTOOL_MSG_FEATURES_NTF`), by whomever they were changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FeatureBits {
    /// `ETHTOOL_A_HEADER_DEV_INDEX`
    pub ifindex: Ifindex,
    changeable: Box<[u8]>,
    active: Box<[u8]>,
    fixed: Box<[u8]>,
}

impl FeatureBits {
    /// The state of a feature.
    pub fn feature(&self, bit: FeatureBit) -> Feature {
        let has = |set: &[u8]| is_set(set, bit);
        Feature::from_sets(has(&self.active), has(&self.changeable), has(&self.fixed))
    }

    /// Reads an answer or a notification. None where the notification is about something else than features.
    ///
    /// # Errors
    /// A message that is neither, or one whose features are not bits.
    pub fn decode(message: &Message<'_>) -> Result<Option<Self>, Malformed> {
        let (command, [], attrs) = genl::split::<0>(message, Family::Ethtool)?;
        if !matches!(command.number, ETHTOOL_MSG_FEATURES_GET_REPLY | ETHTOOL_MSG_FEATURES_NTF) {
            return Ok(None);
        }
        let mut ifindex = None;
        let (mut changeable, mut active, mut fixed) = (None, None, None);
        for attr in attrs {
            let attr = attr?;
            match attr.kind() {
                ETHTOOL_A_FEATURES_HEADER => ifindex = decode_header(attr.nested())?.0,
                ETHTOOL_A_FEATURES_HW => changeable = Some(decode_bits(&attr)?),
                ETHTOOL_A_FEATURES_ACTIVE => active = Some(decode_bits(&attr)?),
                ETHTOOL_A_FEATURES_NOCHANGE => fixed = Some(decode_bits(&attr)?),
                _ => {}
            }
        }
        Ok(Some(Self {
            ifindex: ifindex.ok_or_else(|| attrs.missing(ETHTOOL_A_FEATURES_HEADER))?,
            changeable: changeable.ok_or_else(|| attrs.missing(ETHTOOL_A_FEATURES_HW))?,
            active: active.ok_or_else(|| attrs.missing(ETHTOOL_A_FEATURES_ACTIVE))?,
            fixed: fixed.ok_or_else(|| attrs.missing(ETHTOOL_A_FEATURES_NOCHANGE))?,
        }))
    }
}

/// Whether a bit is set in a bitmap of words of 32 bits in the host's byte order.
fn is_set(words: &[u8], bit: FeatureBit) -> bool {
    let word = usize::try_from(bit.0 / 32).ok().and_then(|index| words.as_chunks::<4>().0.get(index));
    word.is_some_and(|word| u32::from_ne_bytes(*word) & (1 << (bit.0 % 32)) != 0)
}

/// The words of the compact form of a bitset.
fn decode_bits(attr: &Attr<'_>) -> Result<Box<[u8]>, Malformed> {
    let nest = attr.nested();
    let value = nest.find(ETHTOOL_A_BITSET_VALUE)?.ok_or_else(|| nest.missing(ETHTOOL_A_BITSET_VALUE))?;
    if value.payload().len() > FEATURES_MAX / 8 {
        return Err(value.malformed(Why::TooMany));
    }
    Ok(Box::from(value.payload()))
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

impl Feature {
    const fn from_sets(active: bool, changeable: bool, fixed: bool) -> Self {
        match (active, changeable && !fixed) {
            (true, _) => Self::On,
            (false, true) => Self::Off,
            (false, false) => Self::Unsupported,
        }
    }
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

/// `ETHTOOL_MSG_FEATURES_GET`: asks for a device's features as bits.
pub fn get_feature_bits(family: FamilyId, ifindex: Ifindex, seq: Seq) -> Vec<u8> {
    feature_bits(family, Some(ifindex), flags::ACK, seq)
}

/// `ETHTOOL_MSG_FEATURES_GET`: asks for the features of all devices of the network namespace as bits.
pub fn dump_feature_bits(family: FamilyId, seq: Seq) -> Vec<u8> {
    feature_bits(family, None, flags::DUMP, seq)
}

fn feature_bits(family: FamilyId, ifindex: Option<Ifindex>, flags: u16, seq: Seq) -> Vec<u8> {
    let command = Command { number: ETHTOOL_MSG_FEATURES_GET, version: VERSION };
    let mut writer = genl::request(family, command, flags::REQUEST | flags, seq);
    writer.nest(ETHTOOL_A_FEATURES_HEADER, |writer| {
        if let Some(ifindex) = ifindex {
            writer.put_u32(ETHTOOL_A_HEADER_DEV_INDEX, ifindex.0);
        }
        writer.put_u32(ETHTOOL_A_HEADER_FLAGS, ETHTOOL_FLAG_COMPACT_BITSETS);
    });
    writer.finish().expect("a request of fixed size")
}

/// `ETHTOOL_MSG_STRSET_GET`: asks for the names of all features, for [`FeatureBit::find`].
pub fn get_feature_names(family: FamilyId, seq: Seq) -> Vec<u8> {
    let command = Command { number: ETHTOOL_MSG_STRSET_GET, version: VERSION };
    let mut writer = genl::request(family, command, flags::REQUEST | flags::ACK, seq);
    // Names of features are the same for all devices: none is named.
    writer.nest(ETHTOOL_A_STRSET_HEADER, |_| {});
    writer.nest(ETHTOOL_A_STRSET_STRINGSETS, |writer| {
        writer.nest(ETHTOOL_A_STRINGSETS_STRINGSET, |writer| {
            writer.put_u32(ETHTOOL_A_STRINGSET_ID, ETH_SS_FEATURES);
        });
    });
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
