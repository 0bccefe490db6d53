//! Ports of all flavours, and the functions behind them.

use super::handle::Handle;
use super::request;
use crate::attr::{Attr, Attrs};
use crate::genl::FamilyId;
use crate::ids::{Ifindex, Seq};
use crate::link::{HardwareAddress, ShortBytes};
use crate::malformed::{Malformed, Why};
use crate::message::flags;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;

const DEVLINK_CMD_PORT_GET: u8 = 5;
const DEVLINK_ATTR_PORT_INDEX: u16 = 3;
const DEVLINK_ATTR_PORT_NETDEV_IFINDEX: u16 = 6;
const DEVLINK_ATTR_PORT_NETDEV_NAME: u16 = 7;
const DEVLINK_ATTR_PORT_FLAVOUR: u16 = 77;
const DEVLINK_ATTR_PORT_NUMBER: u16 = 78;
const DEVLINK_ATTR_PORT_PCI_PF_NUMBER: u16 = 127;
const DEVLINK_ATTR_PORT_PCI_VF_NUMBER: u16 = 128;
const DEVLINK_ATTR_PORT_FUNCTION: u16 = 145;
const DEVLINK_ATTR_PORT_EXTERNAL: u16 = 149;
const DEVLINK_ATTR_PORT_CONTROLLER_NUMBER: u16 = 150;
const DEVLINK_ATTR_PORT_PCI_SF_NUMBER: u16 = 164;
const DEVLINK_PORT_FUNCTION_ATTR_HW_ADDR: u16 = 1;
const DEVLINK_PORT_FN_ATTR_STATE: u16 = 2;
const DEVLINK_PORT_FN_ATTR_OPSTATE: u16 = 3;
const DEVLINK_PORT_FN_ATTR_DEVLINK: u16 = 5;

/// `DEVLINK_ATTR_PORT_FLAVOUR`
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum PortFlavour {
    /// `DEVLINK_PORT_FLAVOUR_PHYSICAL`: an uplink.
    Physical,
    /// `DEVLINK_PORT_FLAVOUR_CPU`: of a switch chip, towards the host.
    Cpu,
    /// `DEVLINK_PORT_FLAVOUR_DSA`: of a switch chip, towards another.
    Dsa,
    /// `DEVLINK_PORT_FLAVOUR_PCI_PF`: the representor of a physical function.
    PciPf,
    /// `DEVLINK_PORT_FLAVOUR_PCI_VF`: the representor of a virtual function.
    PciVf,
    /// `DEVLINK_PORT_FLAVOUR_PCI_SF`: the representor of a sub-function.
    PciSf,
    /// `DEVLINK_PORT_FLAVOUR_VIRTUAL`: the function's own side.
    Virtual,
    /// `DEVLINK_PORT_FLAVOUR_UNUSED`: nothing is connected to it.
    Unused,
    /// Another number of `enum devlink_port_flavour`.
    Other(u16),
}

impl PortFlavour {
    const fn from_number(number: u16) -> Self {
        match number {
            0 => Self::Physical,
            1 => Self::Cpu,
            2 => Self::Dsa,
            3 => Self::PciPf,
            4 => Self::PciVf,
            5 => Self::Virtual,
            6 => Self::Unused,
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
            Self::Cpu => f.write_str("cpu"),
            Self::Dsa => f.write_str("dsa"),
            Self::PciPf => f.write_str("pcipf"),
            Self::PciVf => f.write_str("pcivf"),
            Self::PciSf => f.write_str("pcisf"),
            Self::Virtual => f.write_str("virtual"),
            Self::Unused => f.write_str("unused"),
            Self::Other(number) => write!(f, "flavour {number}"),
        }
    }
}

/// A port's index in its instance: `DEVLINK_ATTR_PORT_INDEX`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PortIndex(pub u32);

/// A port's function: `DEVLINK_ATTR_PORT_FUNCTION`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PortFunction {
    /// `DEVLINK_PORT_FUNCTION_ATTR_HW_ADDR`: the address that the function will see as its own.
    pub hw_addr: Option<HardwareAddress>,
    /// `DEVLINK_PORT_FN_ATTR_STATE`: 1 where a sub-function is active.
    pub state: Option<u8>,
    /// `DEVLINK_PORT_FN_ATTR_OPSTATE`: 1 where a driver is attached.
    pub opstate: Option<u8>,
    /// `DEVLINK_PORT_FN_ATTR_DEVLINK`: the function's own instance, as `auxiliary/mlx5_core.sf.4` (since Linux 6.7).
    pub instance: Option<Handle>,
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
                DEVLINK_PORT_FN_ATTR_DEVLINK => function.instance = Some(Handle::decode(attr.nested())?),
                _ => {}
            }
        }
        Ok(function)
    }
}

impl Port {
    pub(super) fn decode(attrs: Attrs<'_>) -> Result<Self, Malformed> {
        let mut port = Self {
            handle: Handle::decode(attrs)?,
            index: decode_index(attrs)?,
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

/// Which port a message is about.
pub(super) fn decode_index(attrs: Attrs<'_>) -> Result<PortIndex, Malformed> {
    find_index(attrs)?.ok_or_else(|| attrs.missing(DEVLINK_ATTR_PORT_INDEX))
}

/// Which port a message is about, if it is about one.
pub(super) fn find_index(attrs: Attrs<'_>) -> Result<Option<PortIndex>, Malformed> {
    attrs.find(DEVLINK_ATTR_PORT_INDEX)?.map(|index| index.u32().map(PortIndex)).transpose()
}

/// `DEVLINK_CMD_PORT_GET`: asks for all ports of all instances of the network namespace.
pub fn dump_ports(family: FamilyId, seq: Seq) -> Vec<u8> {
    request(family, DEVLINK_CMD_PORT_GET, flags::DUMP, seq).finish().expect("a request of fixed size")
}
