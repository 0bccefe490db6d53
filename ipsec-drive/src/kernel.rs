//! What the kernel says of security associations, joined to the children that an IKE daemon tells of.

use alloc::collections::BTreeMap;
use core::fmt;
use core::net::IpAddr;

use crate::strongswan::ChildSa;
use crate::{Millis, Offload};

/// Where a security association is carried. What more is done by a device is more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Carried {
    /// In software.
    #[default]
    Software,
    /// A device does the ciphers.
    Crypto,
    /// A device does all of IPsec.
    Packet,
}

impl Carried {
    /// `packet`, `crypto` or `none`, as in the configuration.
    pub fn word(self) -> &'static str {
        match self {
            Self::Software => "none",
            Self::Crypto => "crypto",
            Self::Packet => "packet",
        }
    }
}

/// A device by its ifindex.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Device(pub u32);

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ifindex {}", self.0)
    }
}

/// A security association of ESP by what names it: where its packets go, and its SPI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct EspId {
    /// The address that its packets go to.
    pub dst: IpAddr,
    /// Its SPI.
    pub spi: u32,
}

/// A security association as the kernel has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KernelSa {
    /// Where it is carried.
    pub carried: Carried,
    /// By which device, where one does.
    pub device: Option<Device>,
    /// Bytes that it took, as of the last whole reading.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
}

/// What the kernel has: notifications are in it, but counters and what went without a word are as of the last whole reading.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kernel {
    /// When the last whole reading began.
    pub read: Millis,
    /// Security associations of ESP.
    pub sas: BTreeMap<EspId, KernelSa>,
    /// Devices by the addresses of this host that they have.
    pub devices: BTreeMap<IpAddr, Device>,
}

/// What is known of what the kernel has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Seen {
    /// Nothing before it has been read.
    #[default]
    NotYet,
    /// Nothing, for it is not told to us.
    Never,
    /// This.
    Known(Kernel),
}

/// Where the security associations of a child are carried: the least that a device does for one of them, and the most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Carriage {
    /// The least.
    pub least: Carried,
    /// The most.
    pub most: Carried,
}

impl Carriage {
    /// Of all of these; none of nothing, and none where it is not known of one.
    pub fn of_all(all: impl IntoIterator<Item = Option<Self>>) -> Option<Self> {
        let with = |one: Self, other: Self| Self {
            least: one.least.min(other.least),
            most: one.most.max(other.most),
        };
        let mut all = all.into_iter();
        let first = all.next()??;
        all.try_fold(first, |so_far, next| Some(with(so_far, next?)))
    }

    /// Whether that is what such a connection has when it is made.
    pub(crate) fn fits(self, offload: Offload) -> bool {
        match offload {
            Offload::Auto => self.least >= Carried::Crypto,
            Offload::Packet => self.least == Carried::Packet,
            Offload::Crypto => self.least == Carried::Crypto && self.most == Carried::Crypto,
            Offload::None => self.most == Carried::Software,
        }
    }
}

impl ChildSa {
    /// Its security associations by what names them, that of what comes in first.
    pub fn ids(&self) -> [Option<EspId>; 2] {
        let [inward, outward] = self.spis;
        let id = |dst: Option<IpAddr>, spi: Option<u32>| Some(EspId { dst: dst?, spi: spi? });
        [id(self.local, inward), id(self.remote, outward)]
    }
}

impl Kernel {
    /// Where a child is carried; none where the kernel has not told of all of it.
    pub fn carriage(&self, child: &ChildSa) -> Option<Carriage> {
        let of = |id: Option<EspId>| {
            let carried = self.sas.get(&id?)?.carried;
            Some(Carriage { least: carried, most: carried })
        };
        Carriage::of_all(child.ids().into_iter().map(of))
    }

    /// The device that has our end of a child.
    pub fn device(&self, child: &ChildSa) -> Option<Device> {
        self.devices.get(&child.local?).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn child(spis: [Option<u32>; 2]) -> ChildSa {
        ChildSa {
            connection: "c".into(),
            child: "c-in".into(),
            id: 1,
            is_installed: true,
            local: Some([192, 0, 2, 1].into()),
            remote: Some([192, 0, 2, 2].into()),
            spis,
        }
    }

    #[test]
    fn a_child_is_carried_as_its_security_associations_are_and_not_known_before_all_are_told() {
        let [inward, outward] = child([Some(1), Some(2)]).ids().map(Option::unwrap);
        let mut kernel = Kernel::default();
        let sa = |carried| KernelSa { carried, ..KernelSa::default() };
        kernel.sas.insert(inward, sa(Carried::Packet));
        assert_eq!(kernel.carriage(&child([Some(1), Some(2)])), None);
        kernel.sas.insert(outward, sa(Carried::Software));
        let carriage = kernel.carriage(&child([Some(1), Some(2)])).unwrap();
        assert_eq!((carriage.least, carriage.most), (Carried::Software, Carried::Packet));
        assert_eq!(kernel.carriage(&child([Some(2), Some(1)])), None, "an SPI is its receiver's");
        assert_eq!(kernel.carriage(&child([Some(1), None])), None);
        assert_eq!(Carriage::of_all([]), None);
    }

    #[test]
    fn what_is_carried_fits_the_offload_that_would_give_it() {
        use Carried::{Crypto, Packet, Software};
        let fits = |least, most| {
            let all = [Offload::Auto, Offload::Packet, Offload::Crypto, Offload::None];
            all.map(|offload| Carriage { least, most }.fits(offload))
        };
        assert_eq!(fits(Packet, Packet), [true, true, false, false]);
        assert_eq!(fits(Crypto, Crypto), [true, false, true, false]);
        assert_eq!(fits(Crypto, Packet), [true, false, false, false]);
        assert_eq!(fits(Software, Packet), [false; 4]);
        assert_eq!(fits(Software, Software), [false, false, false, true]);
    }
}
