//! The generic netlink family `devlink` of `linux/devlink.h`: instances, their eswitch and their ports.

use crate::attr::{Attr, Attrs};
use crate::genl::{self, Command, FamilyId};
use crate::ids::{Ifindex, PortId, Seq};
use crate::link::{HardwareAddress, ShortBytes};
use crate::malformed::{Family, Malformed, Why};
use crate::message::{Message, flags};
use crate::writer::{MessageWriter, TooLong};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;

/// `DEVLINK_GENL_NAME`
pub const FAMILY: &str = "devlink";
/// `DEVLINK_GENL_MCGRP_CONFIG_NAME`
pub const GROUP: &str = "config";
/// `DEVLINK_GENL_VERSION`
const VERSION: u8 = 1;

const DEVLINK_CMD_GET: u8 = 1;
const DEVLINK_CMD_NEW: u8 = 3;
const DEVLINK_CMD_DEL: u8 = 4;
const DEVLINK_CMD_PORT_GET: u8 = 5;
const DEVLINK_CMD_PORT_NEW: u8 = 7;
const DEVLINK_CMD_PORT_DEL: u8 = 8;
const DEVLINK_CMD_ESWITCH_GET: u8 = 29;
const DEVLINK_CMD_ESWITCH_SET: u8 = 30;

const DEVLINK_ATTR_BUS_NAME: u16 = 1;
const DEVLINK_ATTR_DEV_NAME: u16 = 2;
const DEVLINK_ATTR_PORT_INDEX: u16 = 3;
const DEVLINK_ATTR_PORT_NETDEV_IFINDEX: u16 = 6;
const DEVLINK_ATTR_PORT_NETDEV_NAME: u16 = 7;
const DEVLINK_ATTR_ESWITCH_MODE: u16 = 25;
const DEVLINK_ATTR_ESWITCH_INLINE_MODE: u16 = 26;
const DEVLINK_ATTR_ESWITCH_ENCAP_MODE: u16 = 62;
const DEVLINK_ATTR_PORT_FLAVOUR: u16 = 77;
const DEVLINK_ATTR_PORT_NUMBER: u16 = 78;
const DEVLINK_ATTR_PORT_PCI_PF_NUMBER: u16 = 127;
const DEVLINK_ATTR_PORT_PCI_VF_NUMBER: u16 = 128;
const DEVLINK_ATTR_RELOAD_FAILED: u16 = 136;
const DEVLINK_ATTR_PORT_FUNCTION: u16 = 145;
const DEVLINK_ATTR_PORT_EXTERNAL: u16 = 149;
const DEVLINK_ATTR_PORT_CONTROLLER_NUMBER: u16 = 150;
const DEVLINK_ATTR_PORT_PCI_SF_NUMBER: u16 = 164;
const DEVLINK_PORT_FUNCTION_ATTR_HW_ADDR: u16 = 1;
const DEVLINK_PORT_FN_ATTR_STATE: u16 = 2;
const DEVLINK_PORT_FN_ATTR_OPSTATE: u16 = 3;

/// A devlink instance: `DEVLINK_ATTR_BUS_NAME` and `DEVLINK_ATTR_DEV_NAME`. Displayed as `devlink` does:
/// `pci/0000:03:00.0`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Handle {
    /// `DEVLINK_ATTR_BUS_NAME`
    pub bus: Box<str>,
    /// `DEVLINK_ATTR_DEV_NAME`
    pub device: Box<str>,
}

impl Handle {
    fn decode(attrs: Attrs<'_>) -> Result<Self, Malformed> {
        let (mut bus, mut device) = (None, None);
        for attr in attrs {
            let attr = attr?;
            match attr.kind() {
                DEVLINK_ATTR_BUS_NAME => bus = Some(Box::from(attr.text()?)),
                DEVLINK_ATTR_DEV_NAME => device = Some(Box::from(attr.text()?)),
                _ => continue,
            }
            if bus.is_some() && device.is_some() {
                break;
            }
        }
        Ok(Self {
            bus: bus.ok_or_else(|| attrs.missing(DEVLINK_ATTR_BUS_NAME))?,
            device: device.ok_or_else(|| attrs.missing(DEVLINK_ATTR_DEV_NAME))?,
        })
    }

    fn put(&self, writer: &mut MessageWriter) {
        writer.put_text(DEVLINK_ATTR_BUS_NAME, &self.bus);
        writer.put_text(DEVLINK_ATTR_DEV_NAME, &self.device);
    }
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.bus, self.device)
    }
}

/// A text that is not `bus/device`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotAHandle;

impl fmt::Display for NotAHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a devlink handle: expected BUS/DEVICE, for example pci/0000:03:00.0")
    }
}

impl core::error::Error for NotAHandle {}

impl core::str::FromStr for Handle {
    type Err = NotAHandle;

    fn from_str(text: &str) -> Result<Self, NotAHandle> {
        match text.split_once('/') {
            Some((bus, device)) if !bus.is_empty() && !device.is_empty() && !device.contains('/') => {
                Ok(Self { bus: Box::from(bus), device: Box::from(device) })
            }
            _ => Err(NotAHandle),
        }
    }
}

/// `DEVLINK_ATTR_ESWITCH_MODE`
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum EswitchMode {
    /// `DEVLINK_ESWITCH_MODE_LEGACY`: the card switches by MAC address and VLAN, there are no representors.
    Legacy,
    /// `DEVLINK_ESWITCH_MODE_SWITCHDEV`: representors, and rules placed through them.
    Switchdev,
    /// A number newer than this crate.
    Other(u16),
}

impl EswitchMode {
    const fn from_number(number: u16) -> Self {
        match number {
            0 => Self::Legacy,
            1 => Self::Switchdev,
            other => Self::Other(other),
        }
    }

    const fn number(self) -> u16 {
        match self {
            Self::Legacy => 0,
            Self::Switchdev => 1,
            Self::Other(other) => other,
        }
    }
}

impl fmt::Display for EswitchMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Legacy => f.write_str("legacy"),
            Self::Switchdev => f.write_str("switchdev"),
            Self::Other(number) => write!(f, "mode {number}"),
        }
    }
}

/// `DEVLINK_ATTR_PORT_FLAVOUR`
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum PortFlavour {
    /// `DEVLINK_PORT_FLAVOUR_PHYSICAL`: an uplink.
    Physical,
    /// `DEVLINK_PORT_FLAVOUR_PCI_PF`: the representor of a physical function.
    PciPf,
    /// `DEVLINK_PORT_FLAVOUR_PCI_VF`: the representor of a virtual function.
    PciVf,
    /// `DEVLINK_PORT_FLAVOUR_PCI_SF`: the representor of a sub-function.
    PciSf,
    /// `DEVLINK_PORT_FLAVOUR_VIRTUAL`: the function's own side.
    Virtual,
    /// Another number of `enum devlink_port_flavour`.
    Other(u16),
}

impl PortFlavour {
    const fn from_number(number: u16) -> Self {
        match number {
            0 => Self::Physical,
            3 => Self::PciPf,
            4 => Self::PciVf,
            5 => Self::Virtual,
            7 => Self::PciSf,
            other => Self::Other(other),
        }
    }
}

/// The word `devlink port show` prints.
impl fmt::Display for PortFlavour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Physical => f.write_str("physical"),
            Self::PciPf => f.write_str("pcipf"),
            Self::PciVf => f.write_str("pcivf"),
            Self::PciSf => f.write_str("pcisf"),
            Self::Virtual => f.write_str("virtual"),
            Self::Other(number) => write!(f, "flavour {number}"),
        }
    }
}

/// A port's index in its instance: `DEVLINK_ATTR_PORT_INDEX`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PortIndex(pub u32);

/// An instance: `DEVLINK_CMD_NEW`, `DEVLINK_CMD_DEL`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Instance {
    /// Its name.
    pub handle: Handle,
    /// `DEVLINK_ATTR_RELOAD_FAILED`: its last reload failed and it does not work.
    pub reload_failed: bool,
}

/// An instance's eswitch: `DEVLINK_CMD_ESWITCH_GET`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Eswitch {
    /// The instance's name.
    pub handle: Handle,
    /// `DEVLINK_ATTR_ESWITCH_MODE`
    pub mode: Option<EswitchMode>,
    /// `DEVLINK_ATTR_ESWITCH_INLINE_MODE`
    pub inline_mode: Option<u8>,
    /// `DEVLINK_ATTR_ESWITCH_ENCAP_MODE`: whether tunnels can be offloaded.
    pub encap_mode: Option<u8>,
}

/// A port's function: `DEVLINK_ATTR_PORT_FUNCTION`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PortFunction {
    /// `DEVLINK_PORT_FUNCTION_ATTR_HW_ADDR`: the address that the function will see as its own.
    pub hw_addr: Option<HardwareAddress>,
    /// `DEVLINK_PORT_FN_ATTR_STATE`: 1 where a sub-function is active.
    pub state: Option<u8>,
    /// `DEVLINK_PORT_FN_ATTR_OPSTATE`: 1 where a driver is attached.
    pub opstate: Option<u8>,
}

/// A port: `DEVLINK_CMD_PORT_NEW`, `DEVLINK_CMD_PORT_DEL`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Port {
    /// The instance's name.
    pub handle: Handle,
    /// `DEVLINK_ATTR_PORT_INDEX`
    pub index: PortIndex,
    /// `DEVLINK_ATTR_PORT_FLAVOUR`
    pub flavour: Option<PortFlavour>,
    /// `DEVLINK_ATTR_PORT_NUMBER`: a physical port's number.
    pub number: Option<u32>,
    /// `DEVLINK_ATTR_PORT_CONTROLLER_NUMBER`: 0 for this host, another for a host behind a DPU.
    pub controller: Option<u32>,
    /// `DEVLINK_ATTR_PORT_EXTERNAL`: the function is on another host.
    pub external: bool,
    /// `DEVLINK_ATTR_PORT_PCI_PF_NUMBER`
    pub pf: Option<u16>,
    /// `DEVLINK_ATTR_PORT_PCI_VF_NUMBER`
    pub vf: Option<u16>,
    /// `DEVLINK_ATTR_PORT_PCI_SF_NUMBER`
    pub sf: Option<u32>,
    /// `DEVLINK_ATTR_PORT_NETDEV_IFINDEX`: the network device that represents it.
    pub ifindex: Option<Ifindex>,
    /// `DEVLINK_ATTR_PORT_NETDEV_NAME`
    pub netdev: Option<Box<str>>,
    /// `DEVLINK_ATTR_PORT_FUNCTION`
    pub function: Option<PortFunction>,
}

/// A message of the family that is understood here.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Event {
    /// An instance exists.
    Instance(Instance),
    /// An instance is gone.
    InstanceDeleted(Handle),
    /// A port exists, or changed.
    Port(Port),
    /// A port is gone.
    PortDeleted(Handle, PortIndex),
    /// The answer to [`get_eswitch`].
    Eswitch(Eswitch),
    /// Something else of devlink: parameters, health reporters, traps.
    Other(u8),
}

/// A message of the family, with where it came from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// The message's sequence number.
    pub seq: Seq,
    /// The message's port id.
    pub portid: PortId,
    /// What it says.
    pub event: Event,
}

impl Report {
    /// Reads one message of the family.
    ///
    /// # Errors
    /// A message that is broken.
    pub fn decode(message: &Message<'_>) -> Result<Self, Malformed> {
        let (command, [], attrs) = genl::split::<0>(message, Family::Devlink)?;
        let event = match command.number {
            DEVLINK_CMD_NEW => Event::Instance(decode_instance(attrs)?),
            DEVLINK_CMD_DEL => Event::InstanceDeleted(Handle::decode(attrs)?),
            DEVLINK_CMD_PORT_NEW => Event::Port(Port::decode(attrs)?),
            DEVLINK_CMD_PORT_DEL => {
                let index = attrs.find(DEVLINK_ATTR_PORT_INDEX)?;
                let index = index.ok_or_else(|| attrs.missing(DEVLINK_ATTR_PORT_INDEX))?.u32()?;
                Event::PortDeleted(Handle::decode(attrs)?, PortIndex(index))
            }
            DEVLINK_CMD_ESWITCH_GET | DEVLINK_CMD_ESWITCH_SET => Event::Eswitch(decode_eswitch(attrs)?),
            other => Event::Other(other),
        };
        Ok(Self { seq: message.header.seq, portid: message.header.portid, event })
    }
}

fn decode_instance(attrs: Attrs<'_>) -> Result<Instance, Malformed> {
    let failed = attrs.find(DEVLINK_ATTR_RELOAD_FAILED)?;
    let reload_failed = failed.map(|attr| attr.u8()).transpose()?.is_some_and(|failed| failed != 0);
    Ok(Instance { handle: Handle::decode(attrs)?, reload_failed })
}

fn decode_eswitch(attrs: Attrs<'_>) -> Result<Eswitch, Malformed> {
    let handle = Handle::decode(attrs)?;
    let mut eswitch = Eswitch { handle, mode: None, inline_mode: None, encap_mode: None };
    for attr in attrs {
        let attr = attr?;
        match attr.kind() {
            DEVLINK_ATTR_ESWITCH_MODE => eswitch.mode = Some(EswitchMode::from_number(attr.u16()?)),
            DEVLINK_ATTR_ESWITCH_INLINE_MODE => eswitch.inline_mode = Some(attr.u8()?),
            DEVLINK_ATTR_ESWITCH_ENCAP_MODE => eswitch.encap_mode = Some(attr.u8()?),
            _ => {}
        }
    }
    Ok(eswitch)
}

impl PortFunction {
    fn decode(attr: &Attr<'_>) -> Result<Self, Malformed> {
        let mut function = Self::default();
        for attr in attr.nested() {
            let attr = attr?;
            match attr.kind() {
                DEVLINK_PORT_FUNCTION_ATTR_HW_ADDR => {
                    let address =
                        ShortBytes::new(attr.payload()).ok_or_else(|| attr.malformed(Why::TooMany))?;
                    function.hw_addr = Some(HardwareAddress(address));
                }
                DEVLINK_PORT_FN_ATTR_STATE => function.state = Some(attr.u8()?),
                DEVLINK_PORT_FN_ATTR_OPSTATE => function.opstate = Some(attr.u8()?),
                _ => {}
            }
        }
        Ok(function)
    }
}

impl Port {
    fn decode(attrs: Attrs<'_>) -> Result<Self, Malformed> {
        let index = attrs.find(DEVLINK_ATTR_PORT_INDEX)?;
        let mut port = Self {
            handle: Handle::decode(attrs)?,
            index: PortIndex(index.ok_or_else(|| attrs.missing(DEVLINK_ATTR_PORT_INDEX))?.u32()?),
            flavour: None,
            number: None,
            controller: None,
            external: false,
            pf: None,
            vf: None,
            sf: None,
            ifindex: None,
            netdev: None,
            function: None,
        };
        for attr in attrs {
            let attr = attr?;
            match attr.kind() {
                DEVLINK_ATTR_PORT_FLAVOUR => port.flavour = Some(PortFlavour::from_number(attr.u16()?)),
                DEVLINK_ATTR_PORT_NUMBER => port.number = Some(attr.u32()?),
                DEVLINK_ATTR_PORT_CONTROLLER_NUMBER => port.controller = Some(attr.u32()?),
                DEVLINK_ATTR_PORT_EXTERNAL => port.external = attr.u8()? != 0,
                DEVLINK_ATTR_PORT_PCI_PF_NUMBER => port.pf = Some(attr.u16()?),
                DEVLINK_ATTR_PORT_PCI_VF_NUMBER => port.vf = Some(attr.u16()?),
                DEVLINK_ATTR_PORT_PCI_SF_NUMBER => port.sf = Some(attr.u32()?),
                DEVLINK_ATTR_PORT_NETDEV_IFINDEX => port.ifindex = Some(Ifindex(attr.u32()?)),
                DEVLINK_ATTR_PORT_NETDEV_NAME => port.netdev = Some(Box::from(attr.text()?)),
                DEVLINK_ATTR_PORT_FUNCTION => port.function = Some(PortFunction::decode(&attr)?),
                _ => {}
            }
        }
        Ok(port)
    }
}

fn request(family: FamilyId, command: u8, flags: u16, seq: Seq) -> MessageWriter {
    genl::request(family, Command { number: command, version: VERSION }, flags::REQUEST | flags, seq)
}

/// `DEVLINK_CMD_GET`: asks for all instances of the network namespace.
pub fn dump_instances(family: FamilyId, seq: Seq) -> Vec<u8> {
    request(family, DEVLINK_CMD_GET, flags::DUMP, seq).finish().expect("a request of fixed size")
}

/// `DEVLINK_CMD_PORT_GET`: asks for all ports of all instances of the network namespace.
pub fn dump_ports(family: FamilyId, seq: Seq) -> Vec<u8> {
    request(family, DEVLINK_CMD_PORT_GET, flags::DUMP, seq).finish().expect("a request of fixed size")
}

/// `DEVLINK_CMD_ESWITCH_GET`: asks for an instance's eswitch. EOPNOTSUPP where it has none.
///
/// # Errors
/// A handle longer than an attribute can be.
pub fn get_eswitch(family: FamilyId, handle: &Handle, seq: Seq) -> Result<Vec<u8>, TooLong> {
    let mut writer = request(family, DEVLINK_CMD_ESWITCH_GET, flags::ACK, seq);
    handle.put(&mut writer);
    writer.finish()
}

/// `DEVLINK_CMD_ESWITCH_SET`: changes an instance's eswitch mode. Needs CAP_NET_ADMIN, and takes a card seconds.
///
/// # Errors
/// A handle longer than an attribute can be.
pub fn set_eswitch_mode(
    family: FamilyId,
    handle: &Handle,
    mode: EswitchMode,
    seq: Seq,
) -> Result<Vec<u8>, TooLong> {
    let mut writer = request(family, DEVLINK_CMD_ESWITCH_SET, flags::ACK, seq);
    handle.put(&mut writer);
    writer.put_u16(DEVLINK_ATTR_ESWITCH_MODE, mode.number());
    writer.finish()
}
