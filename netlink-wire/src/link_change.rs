//! Changes of a link: `RTM_SETLINK` of `linux/rtnetlink.h`. All need CAP_NET_ADMIN.

use crate::attr::Attr;
use crate::ether::MacAddr;
use crate::ids::{Ifindex, NetnsId, Seq};
use crate::link::RTM_GETLINK;
use crate::malformed::{Family, Malformed, Why};
use crate::message::{Message, flags};
use crate::writer::MessageWriter;
use alloc::vec::Vec;

const RTM_SETLINK: u16 = 19;
const IFF_UP: u32 = 0x1;
const IFLA_ADDRESS: u16 = 1;
const IFLA_MTU: u16 = 4;
const IFLA_VFINFO_LIST: u16 = 22;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_TARGET_NETNSID: u16 = 46;
const IFLA_VF_INFO: u16 = 1;
const IFLA_VF_MAC: u16 = 1;
const IFLA_VF_TRUST: u16 = 9;
const RTEXT_FILTER_VF: u32 = 1 << 0;
const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;
/// `MAX_ADDR_LEN`: bytes of the address in `struct ifla_vf_mac`.
const MAX_ADDR_LEN: usize = 32;
/// More virtual functions than any NIC has: a limit on what a message can make us keep.
const VFS_MAX: usize = 65_536;

fn message(kind: u16, ifindex: Ifindex, up: Option<bool>, flags: u16, seq: Seq) -> MessageWriter {
    let mut writer = MessageWriter::new(kind, flags::REQUEST | flags, seq);
    // struct ifinfomsg: family, pad, type, index, flags, change.
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&ifindex.0.to_ne_bytes());
    if let Some(up) = up {
        header[8..12].copy_from_slice(&(if up { IFF_UP } else { 0 }).to_ne_bytes());
        header[12..16].copy_from_slice(&IFF_UP.to_ne_bytes());
    }
    writer.fixed(&header);
    writer
}

fn change(ifindex: Ifindex, seq: Seq, fill: impl FnOnce(&mut MessageWriter)) -> Vec<u8> {
    let mut writer = message(RTM_SETLINK, ifindex, None, flags::ACK, seq);
    fill(&mut writer);
    writer.finish().expect("a request of fixed size")
}

/// Sets a link up or down: `IFF_UP`.
pub fn set_up(ifindex: Ifindex, up: bool, seq: Seq) -> Vec<u8> {
    message(RTM_SETLINK, ifindex, Some(up), flags::ACK, seq).finish().expect("a request of fixed size")
}

/// Sets a link's MTU in bytes: `IFLA_MTU`.
pub fn set_mtu(ifindex: Ifindex, mtu: u32, seq: Seq) -> Vec<u8> {
    change(ifindex, seq, |writer| writer.put_u32(IFLA_MTU, mtu))
}

/// Sets a link's Ethernet address: `IFLA_ADDRESS`.
pub fn set_address(ifindex: Ifindex, address: MacAddr, seq: Seq) -> Vec<u8> {
    change(ifindex, seq, |writer| writer.put(IFLA_ADDRESS, &address.0))
}

/// Moves a link to the network namespace of an open descriptor: `IFLA_NET_NS_FD`. It arrives there set down.
pub fn move_to_fd(ifindex: Ifindex, namespace: i32, seq: Seq) -> Vec<u8> {
    change(ifindex, seq, |writer| writer.put(IFLA_NET_NS_FD, &namespace.to_ne_bytes()))
}

/// Moves a link to a network namespace by its number in the socket's: `IFLA_TARGET_NETNSID`, which `RTM_SETLINK` takes for
/// where to (`rtnl_link_get_net_by_nlattr`), not for where from.
pub fn move_to_id(ifindex: Ifindex, namespace: NetnsId, seq: Seq) -> Vec<u8> {
    change(ifindex, seq, |writer| writer.put(IFLA_TARGET_NETNSID, &namespace.0.to_ne_bytes()))
}

fn set_vf(uplink: Ifindex, seq: Seq, attr: u16, payload: &[u8]) -> Vec<u8> {
    change(uplink, seq, |writer| {
        writer.nest(IFLA_VFINFO_LIST, |writer| {
            writer.nest(IFLA_VF_INFO, |writer| writer.put(attr, payload));
        });
    })
}

/// Trusts a virtual function, or no more, by its physical function's link: `IFLA_VF_TRUST`.
pub fn set_vf_trust(uplink: Ifindex, vf: u16, trust: bool, seq: Seq) -> Vec<u8> {
    // struct ifla_vf_trust
    let mut payload = [0; 8];
    payload[..4].copy_from_slice(&u32::from(vf).to_ne_bytes());
    payload[4..].copy_from_slice(&u32::from(trust).to_ne_bytes());
    set_vf(uplink, seq, IFLA_VF_TRUST, &payload)
}

/// Gives a virtual function an address, by its physical function's link: `IFLA_VF_MAC`.
pub fn set_vf_address(uplink: Ifindex, vf: u16, address: MacAddr, seq: Seq) -> Vec<u8> {
    // struct ifla_vf_mac
    let mut payload = [0; 4 + MAX_ADDR_LEN];
    payload[..4].copy_from_slice(&u32::from(vf).to_ne_bytes());
    payload[4..10].copy_from_slice(&address.0);
    set_vf(uplink, seq, IFLA_VF_MAC, &payload)
}

/// `RTM_GETLINK`: asks for a link with what it knows of its virtual functions, for [`Vf::decode_all`].
pub fn get_with_vfs(uplink: Ifindex, seq: Seq) -> Vec<u8> {
    let mut writer = message(RTM_GETLINK, uplink, None, 0, seq);
    writer.put_u32(IFLA_EXT_MASK, RTEXT_FILTER_VF | RTEXT_FILTER_SKIP_STATS);
    writer.finish().expect("a request of fixed size")
}

/// `RTM_GETLINK`: asks for all links of another network namespace, by its number in the socket's.
pub fn dump_in(namespace: NetnsId, seq: Seq) -> Vec<u8> {
    let mut writer = message(RTM_GETLINK, Ifindex(0), None, flags::DUMP, seq);
    writer.put_u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
    writer.put(IFLA_TARGET_NETNSID, &namespace.0.to_ne_bytes());
    writer.finish().expect("a request of fixed size")
}

/// What a physical function knows of a virtual one: `IFLA_VF_INFO`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Vf {
    /// Its number.
    pub number: u32,
    /// `IFLA_VF_MAC`; zeros where none was set.
    pub address: Option<MacAddr>,
    /// `IFLA_VF_TRUST`
    pub trust: Option<bool>,
}

impl Vf {
    /// Reads the answer to [`get_with_vfs`].
    ///
    /// # Errors
    /// A message that is no such answer.
    pub fn decode_all(message: &Message<'_>) -> Result<Vec<Self>, Malformed> {
        if message.header.kind != crate::link::RTM_NEWLINK {
            return Err(message.wrong_type(Family::Link));
        }
        let (_, attrs) = message.split::<16>(Family::Link)?;
        let mut vfs = Vec::new();
        let Some(list) = attrs.find(IFLA_VFINFO_LIST)? else { return Ok(vfs) };
        for info in list.nested() {
            let info = info?;
            if vfs.len() == VFS_MAX {
                return Err(info.malformed(Why::TooMany));
            }
            vfs.push(Self::decode(&info)?);
        }
        Ok(vfs)
    }

    fn decode(info: &Attr<'_>) -> Result<Self, Malformed> {
        let mut vf = Self::default();
        for attr in info.nested() {
            let attr = attr?;
            let payload = attr.payload();
            let number = |at: usize| {
                let bytes = payload.get(at..at + 4).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok());
                bytes.map(u32::from_ne_bytes).ok_or_else(|| attr.malformed(Why::Truncated))
            };
            match attr.kind() {
                IFLA_VF_MAC => {
                    vf.number = number(0)?;
                    let address = payload.get(4..10).and_then(|bytes| <[u8; 6]>::try_from(bytes).ok());
                    vf.address = address.map(MacAddr);
                }
                IFLA_VF_TRUST => {
                    // The kernel says all ones where the driver knows of no trust (rtnl_fill_vfinfo).
                    let setting = number(4)?;
                    vf.trust = (setting != u32::MAX).then_some(setting != 0);
                }
                _ => {}
            }
        }
        Ok(vf)
    }
}
