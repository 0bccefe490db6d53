//! rtnetlink's links: `struct ifinfomsg` and `IFLA_*` of `linux/if_link.h`.

use crate::attr::{Attr, Fields};
use crate::ids::{Ifindex, NetnsId, PortId, Seq};
use crate::malformed::{Family, Malformed};
use crate::message::{Message, flags};
use crate::writer::{MessageWriter, TooLong};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;

/// `RTM_NEWLINK`
pub const RTM_NEWLINK: u16 = 16;
/// `RTM_DELLINK`
pub const RTM_DELLINK: u16 = 17;
/// `RTM_GETLINK`
pub const RTM_GETLINK: u16 = 18;
/// `RTNLGRP_LINK`: the multicast group that reports links.
pub const RTNLGRP_LINK: u32 = 1;

/// `AF_BRIDGE` of `linux/socket.h`.
const AF_BRIDGE: u8 = 7;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_OPERSTATE: u16 = 16;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_CARRIER: u16 = 33;
const IFLA_PHYS_SWITCH_ID: u16 = 36;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_PHYS_PORT_NAME: u16 = 38;
const IFLA_TARGET_NETNSID: u16 = 46;
const IFLA_PROP_LIST: u16 = 52;
const IFLA_ALT_IFNAME: u16 = 53;
const IFLA_PERM_ADDRESS: u16 = 54;
const IFLA_PARENT_DEV_NAME: u16 = 56;
const IFLA_PARENT_DEV_BUS_NAME: u16 = 57;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_VXLAN_PORT: u16 = 15;
const IFLA_GENEVE_PORT: u16 = 5;
const IFLA_BOND_MODE: u16 = 1;
const IFLA_BOND_ACTIVE_SLAVE: u16 = 2;
const IFLA_BOND_SLAVE_STATE: u16 = 1;
const IFLA_BOND_SLAVE_MII_STATUS: u16 = 2;
/// What `IFLA_INFO_KIND` and `IFLA_INFO_SLAVE_KIND` say of bonds.
const BOND: &str = "bond";
/// `RTEXT_FILTER_SKIP_STATS`: leave the counters out of the answer.
const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;

/// The longest hardware address the kernel has (`MAX_ADDR_LEN`) and the longest switch id (`MAX_PHYS_ITEM_ID_LEN`).
const SHORT_BYTES_MAX: usize = 32;

/// Up to 32 bytes: a hardware address or a switch id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ShortBytes {
    length: u8,
    bytes: [u8; SHORT_BYTES_MAX],
}

impl ShortBytes {
    /// These bytes, or none where they are more than 32.
    pub fn new(from: &[u8]) -> Option<Self> {
        let mut bytes = [0; SHORT_BYTES_MAX];
        bytes.get_mut(..from.len())?.copy_from_slice(from);
        Some(Self { length: u8::try_from(from.len()).ok()?, bytes })
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    fn decode(attr: &Attr<'_>) -> Result<Self, Malformed> {
        Self::new(attr.payload()).ok_or_else(|| attr.malformed(crate::Why::TooMany))
    }
}

impl fmt::Debug for ShortBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// `IFLA_PHYS_SWITCH_ID`: the switch a port belongs to. Ports with the same one can be forwarded between in hardware.
///
/// Displayed as the kernel shows it in sysfs, hexadecimal without separators.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SwitchId(pub ShortBytes);

impl fmt::Display for SwitchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// `IFLA_ADDRESS`: a hardware address. Displayed as hexadecimal bytes with colons.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct HardwareAddress(pub ShortBytes);

impl HardwareAddress {
    /// The Ethernet address, if it is six bytes long.
    pub fn mac(&self) -> Option<crate::MacAddr> {
        self.0.as_bytes().try_into().ok().map(crate::MacAddr)
    }
}

impl fmt::Display for HardwareAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, byte) in self.0.as_bytes().iter().enumerate() {
            let separator = if n == 0 { "" } else { ":" };
            write!(f, "{separator}{byte:02x}")?;
        }
        Ok(())
    }
}

/// `ifi_flags`: `IFF_*` of `linux/if.h`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct LinkFlags(pub u32);

impl LinkFlags {
    /// `IFF_UP`: set up by the administrator.
    pub const fn is_up(self) -> bool {
        self.0 & 0x1 != 0
    }

    /// `IFF_LOWER_UP`: the driver has a carrier.
    pub const fn has_carrier(self) -> bool {
        self.0 & 0x1_0000 != 0
    }
}

/// `IFLA_OPERSTATE`: RFC 2863's operational state (`IF_OPER_*`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum OperState {
    /// `IF_OPER_UNKNOWN`, and any number newer than this crate.
    #[default]
    Unknown,
    /// `IF_OPER_NOTPRESENT`
    NotPresent,
    /// `IF_OPER_DOWN`
    Down,
    /// `IF_OPER_LOWERLAYERDOWN`
    LowerLayerDown,
    /// `IF_OPER_TESTING`
    Testing,
    /// `IF_OPER_DORMANT`
    Dormant,
    /// `IF_OPER_UP`
    Up,
}

impl OperState {
    const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::NotPresent,
            2 => Self::Down,
            3 => Self::LowerLayerDown,
            4 => Self::Testing,
            5 => Self::Dormant,
            6 => Self::Up,
            _ => Self::Unknown,
        }
    }

    /// The word `ip link` shows, in lower case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::NotPresent => "notpresent",
            Self::Down => "down",
            Self::LowerLayerDown => "lowerlayerdown",
            Self::Testing => "testing",
            Self::Dormant => "dormant",
            Self::Up => "up",
        }
    }
}

impl fmt::Display for OperState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A bond's own settings and state: `IFLA_INFO_DATA` of kind `bond`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Bond {
    /// `IFLA_BOND_MODE`: `BOND_MODE_*` of `linux/if_bonding.h`.
    pub mode: BondMode,
    /// `IFLA_BOND_ACTIVE_SLAVE`: the member that is used, in the modes that use one.
    pub active: Option<Ifindex>,
}

/// `IFLA_BOND_MODE`. Displayed as `ip` does: `active-backup`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct BondMode(pub u8);

impl fmt::Display for BondMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 7] = [
            "balance-rr",
            "active-backup",
            "balance-xor",
            "broadcast",
            "802.3ad",
            "balance-tlb",
            "balance-alb",
        ];
        match NAMES.get(usize::from(self.0)) {
            Some(name) => f.write_str(name),
            None => write!(f, "mode {}", self.0),
        }
    }
}

/// A member of a bond: `IFLA_INFO_SLAVE_DATA` of kind `bond`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct BondMember {
    /// `IFLA_BOND_SLAVE_STATE`: whether it may send and receive (`BOND_STATE_ACTIVE`) or waits (`BOND_STATE_BACKUP`).
    pub active: bool,
    /// `IFLA_BOND_SLAVE_MII_STATUS` is `BOND_LINK_UP`: the bond takes its link to be up.
    pub link_up: bool,
}

/// A network device as rtnetlink reports it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Link {
    /// Whether this reports that the device is gone (`RTM_DELLINK`).
    pub deleted: bool,
    /// Whether a Linux bridge tells of its port (`ifi_family` is `AF_BRIDGE`): that it joined, changed or left, in the
    /// words of a device that came or went, and with a part of its attributes.
    pub of_bridge: bool,
    /// The message's sequence number.
    pub seq: Seq,
    /// The message's port id.
    pub portid: PortId,
    /// `ifi_index`
    pub ifindex: Ifindex,
    /// `ifi_flags`
    pub flags: LinkFlags,
    /// `IFLA_IFNAME`. Absent in some notifications about a port of a bridge.
    pub name: Option<Box<str>>,
    /// `IFLA_ALT_IFNAME`: its other names.
    pub altnames: Vec<Box<str>>,
    /// `IFLA_IFALIAS`: free text of the administrator.
    pub alias: Option<Box<str>>,
    /// `IFLA_INFO_KIND`: `veth`, `bond`, `geneve`, `openvswitch`, … Physical devices and representors have none.
    pub kind: Option<Box<str>>,
    /// `IFLA_INFO_SLAVE_KIND`: what its master is, `openvswitch` or `bond`.
    pub master_kind: Option<Box<str>>,
    /// What a bond says of itself; none for other kinds.
    pub bond: Option<Bond>,
    /// What its bond says of it; none for what is no member of a bond.
    pub bond_member: Option<BondMember>,
    /// `IFLA_VXLAN_PORT`, `IFLA_GENEVE_PORT`: the UDP port that a tunnel's packets come to; none for other kinds.
    pub tunnel_port: Option<u16>,
    /// `IFLA_MTU`, in bytes.
    pub mtu: Option<u32>,
    /// `IFLA_OPERSTATE`
    pub operstate: OperState,
    /// `IFLA_CARRIER`
    pub carrier: Option<bool>,
    /// `IFLA_ADDRESS`
    pub address: Option<HardwareAddress>,
    /// `IFLA_PERM_ADDRESS`: the address it was made with.
    pub permanent_address: Option<HardwareAddress>,
    /// `IFLA_MASTER`: the bond or datapath it is a member of.
    pub master: Option<Ifindex>,
    /// `IFLA_LINK`: the device below or, for a veth, its peer.
    pub lower: Option<Ifindex>,
    /// `IFLA_LINK_NETNSID`: the namespace of that device, if it is another one.
    pub lower_netns: Option<NetnsId>,
    /// `IFLA_TARGET_NETNSID`: the namespace of this device, if the dump asked for another one.
    pub netns: Option<NetnsId>,
    /// `IFLA_PHYS_SWITCH_ID`
    pub switch_id: Option<SwitchId>,
    /// `IFLA_PHYS_PORT_NAME`: `p0` for an uplink, `pf0vf1` for the representor of a virtual function.
    pub port_name: Option<Box<str>>,
    /// `IFLA_PARENT_DEV_NAME`: the device below the network device, for example a PCI address.
    pub parent_name: Option<Box<str>>,
    /// `IFLA_PARENT_DEV_BUS_NAME`: that device's bus, for example `pci`.
    pub parent_bus: Option<Box<str>>,
}

impl Link {
    /// Reads an `RTM_NEWLINK` or `RTM_DELLINK`.
    ///
    /// # Errors
    /// A message of another type, or one that is broken.
    pub fn decode(message: &Message<'_>) -> Result<Self, Malformed> {
        let deleted = match message.header.kind {
            RTM_NEWLINK => false,
            RTM_DELLINK => true,
            _ => return Err(message.wrong_type(Family::Link)),
        };
        // struct ifinfomsg: family, pad, type, index, flags, change.
        let (header, attrs) = message.split::<16>(Family::Link)?;
        let of_bridge = header[0] == AF_BRIDGE;
        let mut fields = Fields(&header[4..]);
        let (ifindex, flags) = (Ifindex(fields.u32()), LinkFlags(fields.u32()));
        let (seq, portid) = (message.header.seq, message.header.portid);
        let mut link = Self { deleted, of_bridge, seq, portid, ifindex, flags, ..Self::default() };
        for attr in attrs {
            link.take(&attr?)?;
        }
        Ok(link)
    }

    fn take(&mut self, attr: &Attr<'_>) -> Result<(), Malformed> {
        let text = || attr.text().map(|text| Some(Box::from(text)));
        match attr.kind() {
            IFLA_ADDRESS => self.address = Some(HardwareAddress(ShortBytes::decode(attr)?)),
            IFLA_IFNAME => self.name = text()?,
            IFLA_MTU => self.mtu = Some(attr.u32()?),
            IFLA_LINK => self.lower = Some(Ifindex(attr.u32()?)),
            IFLA_MASTER => self.master = Some(Ifindex(attr.u32()?)),
            IFLA_OPERSTATE => self.operstate = OperState::from_number(attr.u8()?),
            IFLA_LINKINFO => self.take_info(attr)?,
            IFLA_IFALIAS => self.alias = text()?,
            IFLA_CARRIER => self.carrier = Some(attr.u8()? != 0),
            IFLA_PHYS_SWITCH_ID => self.switch_id = Some(SwitchId(ShortBytes::decode(attr)?)),
            IFLA_LINK_NETNSID => self.lower_netns = Some(NetnsId(attr.i32()?)),
            IFLA_PHYS_PORT_NAME => self.port_name = text()?,
            IFLA_TARGET_NETNSID => self.netns = Some(NetnsId(attr.i32()?)),
            IFLA_PROP_LIST => {
                for property in attr.nested() {
                    let property = property?;
                    if property.kind() == IFLA_ALT_IFNAME {
                        self.altnames.push(Box::from(property.text()?));
                    }
                }
            }
            IFLA_PERM_ADDRESS => self.permanent_address = Some(HardwareAddress(ShortBytes::decode(attr)?)),
            IFLA_PARENT_DEV_NAME => self.parent_name = text()?,
            IFLA_PARENT_DEV_BUS_NAME => self.parent_bus = text()?,
            _ => {}
        }
        Ok(())
    }
}

impl Link {
    fn take_info(&mut self, attr: &Attr<'_>) -> Result<(), Malformed> {
        // The kind comes before the data that it gives a meaning to, as in rtnl_link_fill.
        let (mut of_bond, mut in_bond, mut port_attr) = (false, false, None);
        for info in attr.nested() {
            let info = info?;
            match info.kind() {
                IFLA_INFO_KIND => {
                    self.kind = Some(Box::from(info.text()?));
                    of_bond = info.text()? == BOND;
                    port_attr = match info.text()? {
                        "vxlan" => Some(IFLA_VXLAN_PORT),
                        "geneve" => Some(IFLA_GENEVE_PORT),
                        _ => None,
                    };
                }
                IFLA_INFO_SLAVE_KIND => {
                    self.master_kind = Some(Box::from(info.text()?));
                    in_bond = info.text()? == BOND;
                }
                IFLA_INFO_DATA if of_bond => self.bond = Some(Bond::decode(&info)?),
                IFLA_INFO_DATA if port_attr.is_some() => {
                    for attr in info.nested() {
                        let attr = attr?;
                        if Some(attr.kind()) == port_attr {
                            self.tunnel_port = Some(attr.be16()?);
                        }
                    }
                }
                IFLA_INFO_SLAVE_DATA if in_bond => self.bond_member = Some(BondMember::decode(&info)?),
                _ => {}
            }
        }
        Ok(())
    }
}

impl Bond {
    fn decode(data: &Attr<'_>) -> Result<Self, Malformed> {
        let mut bond = Self::default();
        for attr in data.nested() {
            let attr = attr?;
            match attr.kind() {
                IFLA_BOND_MODE => bond.mode = BondMode(attr.u8()?),
                IFLA_BOND_ACTIVE_SLAVE => bond.active = Some(Ifindex(attr.u32()?)),
                _ => {}
            }
        }
        Ok(bond)
    }
}

impl BondMember {
    fn decode(data: &Attr<'_>) -> Result<Self, Malformed> {
        let mut member = Self::default();
        for attr in data.nested() {
            let attr = attr?;
            match attr.kind() {
                // BOND_STATE_ACTIVE and BOND_LINK_UP are both 0.
                IFLA_BOND_SLAVE_STATE => member.active = attr.u8()? == 0,
                IFLA_BOND_SLAVE_MII_STATUS => member.link_up = attr.u8()? == 0,
                _ => {}
            }
        }
        Ok(member)
    }
}

fn request(ifindex: Ifindex, flags: u16, seq: Seq) -> MessageWriter {
    let mut writer = MessageWriter::new(RTM_GETLINK, flags::REQUEST | flags, seq);
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&ifindex.0.to_ne_bytes());
    writer.fixed(&header);
    writer.put_u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
    writer
}

/// `RTM_GETLINK`: asks for all links of the network namespace, without their counters.
pub fn dump(seq: Seq) -> Vec<u8> {
    request(Ifindex(0), flags::DUMP, seq).finish().expect("a request of fixed size")
}

/// `RTM_GETLINK`: asks for one link.
pub fn get(ifindex: Ifindex, seq: Seq) -> Vec<u8> {
    request(ifindex, 0, seq).finish().expect("a request of fixed size")
}

/// `RTM_GETLINK`: asks for one link by its name or one of its other names.
///
/// # Errors
/// A name longer than an attribute can be.
pub fn get_by_name(name: &str, seq: Seq) -> Result<Vec<u8>, TooLong> {
    let mut writer = request(Ifindex(0), 0, seq);
    // IFLA_IFNAME takes at most 15 bytes, IFLA_ALT_IFNAME up to 127; the kernel looks both up in one table.
    writer.put_text(if name.len() < 16 { IFLA_IFNAME } else { IFLA_ALT_IFNAME }, name);
    writer.finish()
}
