//! What the kernel says of security associations, joined to the children that an IKE daemon tells of.

use alloc::collections::{BTreeMap, BTreeSet};
use core::fmt;
use core::net::IpAddr;

use crate::libreswan::Able;
use crate::listed::ChildSa;
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
    /// Where its packets come from; none where that was not told.
    pub src: Option<IpAddr>,
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
    /// Those of them whose feature `esp-hw-offload` is on.
    pub able: BTreeSet<Device>,
    /// When devices were last reset that kept what the kernel has of them: what they carried before is not in their hardware any more.
    pub resets: BTreeMap<Device, Millis>,
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

    /// When a device was last reset that carries some of a child; none where none of them was.
    pub(crate) fn reset_below(&self, child: &ChildSa) -> Option<Millis> {
        let sas = child.ids().into_iter().flatten().filter_map(|id| self.sas.get(&id));
        let devices = sas.filter(|sa| sa.carried > Carried::Software).filter_map(|sa| sa.device);
        devices.filter_map(|device| self.resets.get(&device).copied()).max()
    }

    /// Where what is between two hosts is carried, whoever made it; none while there is nothing for one of the ways. Our own address is
    /// any where it is none.
    pub fn carriage_between(&self, local: Option<IpAddr>, remote: IpAddr) -> Option<Carriage> {
        let ways = [true, false].map(|outward| {
            let all = self.between(outward, local, remote);
            Carriage::of_all(all.map(|(_, sa)| Some(Carriage { least: sa.carried, most: sa.carried })))
        });
        Carriage::of_all(ways)
    }

    /// Whether the device that has our end does IPsec: our address, or the one that packets to the peer have.
    pub fn able_between(&self, local: Option<IpAddr>, remote: IpAddr) -> Able {
        match self.local(local, remote).and_then(|local| self.devices.get(&local)) {
            Some(device) if self.able.contains(device) => Able::Yes,
            Some(_) => Able::No,
            None => Able::Unknown,
        }
    }

    /// Our end of what goes to a peer: our address where it is said, else the one that packets to the peer have.
    pub fn local(&self, said: Option<IpAddr>, remote: IpAddr) -> Option<IpAddr> {
        said.or_else(|| self.between(true, None, remote).find_map(|(_, sa)| sa.src))
    }

    /// Security associations of one way between two hosts.
    fn between(
        &self,
        is_outward: bool,
        local: Option<IpAddr>,
        remote: IpAddr,
    ) -> impl Iterator<Item = (&EspId, &KernelSa)> {
        self.sas.iter().filter(move |(id, sa)| {
            let (there, here) = if is_outward { (Some(id.dst), sa.src) } else { (sa.src, Some(id.dst)) };
            let is_ours = |address: IpAddr| local.is_none_or(|local| local == address);
            // One that the kernel waits for has no SPI yet.
            id.spi != 0 && there == Some(remote) && here.is_some_and(is_ours)
        })
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
    fn what_is_between_two_hosts_is_carried_as_the_least_of_it_is_and_both_ways_are_there() {
        let (here, there, other) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into(), [192, 0, 2, 3].into());
        let mut kernel = Kernel::default();
        let mut add = |src, dst, spi, carried| {
            let sa = KernelSa { src: Some(src), carried, ..KernelSa::default() };
            kernel.sas.insert(EspId { dst, spi }, sa);
            [None, Some(here), Some(other)].map(|local| kernel.carriage_between(local, there))
        };
        assert_eq!(add(here, there, 1, Carried::Packet), [None; 3], "it has one way alone");
        assert_eq!(add(there, here, 0, Carried::Packet), [None; 3], "the kernel waits for that one");
        let packet = Some(Carriage { least: Carried::Packet, most: Carried::Packet });
        assert_eq!(add(there, here, 2, Carried::Packet), [packet, packet, None]);
        assert_eq!(add(other, here, 3, Carried::Software), [packet, packet, None]);
        let some = Some(Carriage { least: Carried::Software, most: Carried::Packet });
        assert_eq!(add(here, there, 4, Carried::Software), [some, some, None]);
    }

    #[test]
    fn the_device_that_would_carry_a_tunnel_is_found_by_our_address_or_by_what_leaves() {
        let (here, there) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        let mut kernel = Kernel::default();
        kernel.devices.insert(here, Device(7));
        let able = |kernel: &Kernel| [Some(here), None].map(|local| kernel.able_between(local, there));
        assert_eq!(able(&kernel), [Able::No, Able::Unknown]);
        kernel.able.insert(Device(7));
        assert_eq!(able(&kernel), [Able::Yes, Able::Unknown]);
        kernel.sas.insert(EspId { dst: there, spi: 1 }, KernelSa { src: Some(here), ..KernelSa::default() });
        assert_eq!(able(&kernel), [Able::Yes, Able::Yes]);
        assert_eq!([Some(here), None].map(|said| kernel.local(said, there)), [Some(here); 2]);
        assert_eq!(kernel.local(None, here), None);
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
