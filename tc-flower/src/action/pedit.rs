//! The action `pedit`: rewrites header fields, four bytes at a time.

use super::codec::{Common, Generic, TC_GEN};
use alloc::vec::Vec;
use netlink_wire::attr::Fields;
use netlink_wire::{Attr, Attrs, Malformed, MessageWriter, Why};

/// Which header an offset counts from: `TCA_PEDIT_KEY_EX_HTYPE`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PeditHeader {
    /// `TCA_PEDIT_KEY_EX_HDR_TYPE_NETWORK`: the network header, whatever it is.
    Network,
    /// `TCA_PEDIT_KEY_EX_HDR_TYPE_ETH`
    Eth,
    /// `TCA_PEDIT_KEY_EX_HDR_TYPE_IP4`
    Ipv4,
    /// `TCA_PEDIT_KEY_EX_HDR_TYPE_IP6`
    Ipv6,
    /// `TCA_PEDIT_KEY_EX_HDR_TYPE_TCP`
    Tcp,
    /// `TCA_PEDIT_KEY_EX_HDR_TYPE_UDP`
    Udp,
}

const HEADERS: [PeditHeader; 6] = [
    PeditHeader::Network,
    PeditHeader::Eth,
    PeditHeader::Ipv4,
    PeditHeader::Ipv6,
    PeditHeader::Tcp,
    PeditHeader::Udp,
];

impl PeditHeader {
    /// Its name, as `tc` writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Network => "network",
            Self::Eth => "eth",
            Self::Ipv4 => "ip",
            Self::Ipv6 => "ip6",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// What is done with the bytes: `TCA_PEDIT_KEY_EX_CMD`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PeditCommand {
    /// `TCA_PEDIT_KEY_EX_CMD_SET`: set.
    Set,
    /// `TCA_PEDIT_KEY_EX_CMD_ADD`: added to, as one number per byte, 16 or 32 bits.
    Add,
}

/// One rewrite of four bytes: `struct tc_pedit_key`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PeditKey {
    /// Which header `offset` counts from.
    pub header: PeditHeader,
    /// What is done.
    pub command: PeditCommand,
    /// `off`: where, in bytes.
    pub offset: u32,
    /// `mask`: which bits are left as they are, in the order of the wire.
    pub keep: [u8; 4],
    /// `val`: the new bits, in the order of the wire.
    pub value: [u8; 4],
    /// `at`: where in the packet a further offset is read. Not used by Open vSwitch.
    pub at: u32,
    /// `offmask`: the mask of that.
    pub offset_mask: u32,
    /// `shift`: how far that is shifted.
    pub shift: u32,
}

/// The action `pedit`.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Pedit {
    /// The rewrites, in order.
    pub keys: Vec<PeditKey>,
    /// `flags` of `struct tc_pedit_sel`
    pub flags: u8,
    /// Whether it is of the old form (`TCA_PEDIT_PARMS`), without headers and commands.
    pub legacy: bool,
}

const TCA_PEDIT_TM: u16 = 1;
const TCA_PEDIT_PARMS: u16 = 2;
const TCA_PEDIT_PAD: u16 = 3;
const TCA_PEDIT_PARMS_EX: u16 = 4;
const TCA_PEDIT_KEYS_EX: u16 = 5;
const TCA_PEDIT_KEY_EX: u16 = 6;
const TCA_PEDIT_KEY_EX_HTYPE: u16 = 1;
const TCA_PEDIT_KEY_EX_CMD: u16 = 2;
/// Bytes of `struct tc_pedit_sel` without its keys.
const SEL: usize = TC_GEN + 4;
/// Bytes of `struct tc_pedit_key`.
const KEY: usize = 24;

impl Pedit {
    pub(super) fn read(options: Attrs<'_>, common: &mut Common) -> Result<Self, Malformed> {
        let (mut pedit, mut extended) = (None, None);
        for attr in options {
            let attr = attr?;
            match attr.kind() {
                TCA_PEDIT_PARMS | TCA_PEDIT_PARMS_EX => pedit = Some(Self::read_selector(&attr, common)?),
                TCA_PEDIT_KEYS_EX => extended = Some(attr.nested()),
                TCA_PEDIT_TM => common.take_times(&attr)?,
                TCA_PEDIT_PAD => {}
                other => common.unknown(other),
            }
        }
        let mut pedit = pedit.ok_or_else(|| options.missing(TCA_PEDIT_PARMS_EX))?;
        if let Some(extended) = extended {
            pedit.legacy = false;
            let mut keys = pedit.keys.iter_mut();
            for attr in extended {
                let attr = attr?;
                let key = keys.next().ok_or_else(|| attr.malformed(Why::TooMany))?;
                (key.header, key.command) = read_extension(&attr)?;
            }
        }
        Ok(pedit)
    }

    fn read_selector(attr: &Attr<'_>, common: &mut Common) -> Result<Self, Malformed> {
        common.generic = Generic::read(&attr.array::<TC_GEN>()?);
        let bytes = attr.payload();
        let mut fields = Fields(bytes.get(TC_GEN..).unwrap_or_default());
        let (count, flags) = (usize::from(fields.u8()), fields.u8());
        let keys = bytes.get(SEL..SEL + count * KEY).ok_or_else(|| attr.too_short(SEL + count * KEY))?;
        let keys = keys.chunks_exact(KEY).map(|bytes| {
            let mut fields = Fields(bytes);
            let (keep, value) = (fields.bytes(), fields.bytes());
            let (offset, at, offset_mask, shift) = (fields.u32(), fields.u32(), fields.u32(), fields.u32());
            let (header, command) = (PeditHeader::Network, PeditCommand::Set);
            PeditKey { header, command, offset, keep, value, at, offset_mask, shift }
        });
        Ok(Self { keys: keys.collect(), flags, legacy: true })
    }

    pub(super) fn put(&self, writer: &mut MessageWriter, generic: &Generic) {
        let mut selector = Vec::with_capacity(SEL + self.keys.len() * KEY);
        selector.extend_from_slice(&generic.with::<TC_GEN>());
        // More than 255 keys cannot have been read; the kernel refuses a count that disagrees with the length.
        selector.extend_from_slice(&[u8::try_from(self.keys.len()).unwrap_or(u8::MAX), self.flags, 0, 0]);
        for key in &self.keys {
            selector.extend_from_slice(&key.keep);
            selector.extend_from_slice(&key.value);
            for word in [key.offset, key.at, key.offset_mask, key.shift] {
                selector.extend_from_slice(&word.to_ne_bytes());
            }
        }
        writer.put(if self.legacy { TCA_PEDIT_PARMS } else { TCA_PEDIT_PARMS_EX }, &selector);
        if self.legacy {
            return;
        }
        writer.nest(TCA_PEDIT_KEYS_EX, |writer| {
            for key in &self.keys {
                writer.nest(TCA_PEDIT_KEY_EX, |writer| {
                    writer.put_u16(TCA_PEDIT_KEY_EX_HTYPE, key.header as u16);
                    writer.put_u16(TCA_PEDIT_KEY_EX_CMD, key.command as u16);
                });
            }
        });
    }
}

fn read_extension(attr: &Attr<'_>) -> Result<(PeditHeader, PeditCommand), Malformed> {
    let (mut header, mut command) = (None, None);
    for attr in attr.nested() {
        let attr = attr?;
        match attr.kind() {
            TCA_PEDIT_KEY_EX_HTYPE => {
                let known = HEADERS.get(usize::from(attr.u16()?));
                header = Some(*known.ok_or_else(|| attr.malformed(Why::BadValue))?);
            }
            TCA_PEDIT_KEY_EX_CMD => {
                command = Some(match attr.u16()? {
                    0 => PeditCommand::Set,
                    1 => PeditCommand::Add,
                    _ => return Err(attr.malformed(Why::BadValue)),
                });
            }
            _ => {}
        }
    }
    let header = header.ok_or_else(|| attr.nested().missing(TCA_PEDIT_KEY_EX_HTYPE))?;
    Ok((header, command.ok_or_else(|| attr.nested().missing(TCA_PEDIT_KEY_EX_CMD))?))
}
