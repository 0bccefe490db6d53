//! The generic netlink family `ovs_vport` of `linux/openvswitch.h`: the ports of the datapaths.

use crate::attr::{Attr, Fields};
use crate::genl::{self, Command, FamilyId};
use crate::ids::{DpPort, Ifindex, NetnsId, PortId, Seq};
use crate::malformed::{Family, Malformed};
use crate::message::{Message, flags};
pub use crate::ovs_datapath::Change;
use alloc::boxed::Box;
use alloc::vec::Vec;

/// `OVS_VPORT_FAMILY`
pub const FAMILY: &str = "ovs_vport";
/// `OVS_VPORT_MCGROUP`
pub const GROUP: &str = "ovs_vport";
/// `OVS_VPORT_VERSION`
const VERSION: u8 = 1;
const OVS_VPORT_CMD_GET: u8 = 3;

const OVS_VPORT_ATTR_PORT_NO: u16 = 1;
const OVS_VPORT_ATTR_TYPE: u16 = 2;
const OVS_VPORT_ATTR_NAME: u16 = 3;
const OVS_VPORT_ATTR_OPTIONS: u16 = 4;
const OVS_VPORT_ATTR_STATS: u16 = 6;
const OVS_VPORT_ATTR_IFINDEX: u16 = 8;
const OVS_VPORT_ATTR_NETNSID: u16 = 9;
const OVS_TUNNEL_ATTR_DST_PORT: u16 = 1;

/// `enum ovs_vport_type`
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum VportKind {
    /// `OVS_VPORT_TYPE_NETDEV`: a network device. Open vSwitch makes its tunnels this way too.
    Netdev,
    /// `OVS_VPORT_TYPE_INTERNAL`: a network device that the datapath implements.
    Internal,
    /// `OVS_VPORT_TYPE_GRE`
    Gre,
    /// `OVS_VPORT_TYPE_VXLAN`
    Vxlan,
    /// `OVS_VPORT_TYPE_GENEVE`
    Geneve,
    /// A number newer than this crate.
    Other(u32),
}

impl VportKind {
    const fn from_number(number: u32) -> Self {
        match number {
            1 => Self::Netdev,
            2 => Self::Internal,
            3 => Self::Gre,
            4 => Self::Vxlan,
            5 => Self::Geneve,
            other => Self::Other(other),
        }
    }
}

/// `struct ovs_vport_stats`: packets as the datapath saw them on this port.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VportStats {
    /// Packets received.
    pub rx_packets: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Bad packets received.
    pub rx_errors: u64,
    /// Packets that could not be sent.
    pub tx_errors: u64,
    /// Received packets dropped.
    pub rx_dropped: u64,
    /// Packets to send dropped.
    pub tx_dropped: u64,
}

impl VportStats {
    fn decode(attr: &Attr<'_>) -> Result<Self, Malformed> {
        let bytes = attr.array::<64>()?;
        let mut fields = Fields(&bytes);
        Ok(Self {
            rx_packets: fields.u64(),
            tx_packets: fields.u64(),
            rx_bytes: fields.u64(),
            tx_bytes: fields.u64(),
            rx_errors: fields.u64(),
            tx_errors: fields.u64(),
            rx_dropped: fields.u64(),
            tx_dropped: fields.u64(),
        })
    }
}

/// A port of a datapath.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Vport {
    /// What happened to it.
    pub change: Change,
    /// The message's sequence number.
    pub seq: Seq,
    /// The message's port id.
    pub portid: PortId,
    /// `dp_ifindex`: the datapath it is a port of.
    pub dp: Ifindex,
    /// `OVS_VPORT_ATTR_PORT_NO`
    pub port: DpPort,
    /// `OVS_VPORT_ATTR_TYPE`
    pub kind: VportKind,
    /// `OVS_VPORT_ATTR_NAME`: the network device's name.
    pub name: Box<str>,
    /// `OVS_VPORT_ATTR_IFINDEX`: the network device.
    pub ifindex: Option<Ifindex>,
    /// `OVS_VPORT_ATTR_NETNSID`: the network namespace of that device, if it is another one.
    pub netns: Option<NetnsId>,
    /// `OVS_TUNNEL_ATTR_DST_PORT`: the UDP port of a tunnel.
    pub tunnel_port: Option<u16>,
    /// `OVS_VPORT_ATTR_STATS`
    pub stats: Option<VportStats>,
}

impl Vport {
    /// Reads one message of the family.
    ///
    /// # Errors
    /// A message that is not one of this family, or lacks the port's number or name.
    pub fn decode(message: &Message<'_>) -> Result<Self, Malformed> {
        let (command, header, attrs) = genl::split::<4>(message, Family::OvsVport)?;
        let change =
            Change::from_command(command.number).ok_or_else(|| message.wrong_type(Family::OvsVport))?;
        let (mut port, mut kind, mut name) = (None, None, None);
        let (mut ifindex, mut netns, mut tunnel_port, mut stats) = (None, None, None, None);
        for attr in attrs {
            let attr = attr?;
            match attr.kind() {
                OVS_VPORT_ATTR_PORT_NO => port = Some(DpPort(attr.u32()?)),
                OVS_VPORT_ATTR_TYPE => kind = Some(VportKind::from_number(attr.u32()?)),
                OVS_VPORT_ATTR_NAME => name = Some(Box::from(attr.text()?)),
                OVS_VPORT_ATTR_OPTIONS => {
                    let found = attr.nested().find(OVS_TUNNEL_ATTR_DST_PORT)?;
                    tunnel_port = found.map(|attr| attr.u16()).transpose()?;
                }
                OVS_VPORT_ATTR_STATS => stats = Some(VportStats::decode(&attr)?),
                OVS_VPORT_ATTR_IFINDEX => ifindex = Some(Ifindex(attr.u32()?)),
                OVS_VPORT_ATTR_NETNSID => netns = Some(NetnsId(attr.i32()?)),
                _ => {}
            }
        }
        Ok(Self {
            change,
            seq: message.header.seq,
            portid: message.header.portid,
            dp: Ifindex(u32::from_ne_bytes(header)),
            port: port.ok_or_else(|| attrs.missing(OVS_VPORT_ATTR_PORT_NO))?,
            kind: kind.ok_or_else(|| attrs.missing(OVS_VPORT_ATTR_TYPE))?,
            name: name.ok_or_else(|| attrs.missing(OVS_VPORT_ATTR_NAME))?,
            ifindex,
            netns,
            tunnel_port,
            stats,
        })
    }
}

/// `OVS_VPORT_CMD_GET`: asks for all ports of a datapath.
pub fn dump(family: FamilyId, dp: Ifindex, seq: Seq) -> Vec<u8> {
    let command = Command { number: OVS_VPORT_CMD_GET, version: VERSION };
    let mut writer = genl::request(family, command, flags::REQUEST | flags::DUMP, seq);
    writer.fixed(&dp.0.to_ne_bytes());
    writer.finish().expect("a request of fixed size")
}
