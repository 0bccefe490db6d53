//! Addresses of this host's devices: `RTM_GETADDR` of `linux/rtnetlink.h`, `struct ifaddrmsg` and `IFA_*` of `linux/if_addr.h`.

use crate::attr::Attr;
use crate::ids::{Ifindex, Seq};
use crate::malformed::{Family, Malformed};
use crate::message::{Message, flags};
use crate::writer::MessageWriter;
use alloc::vec::Vec;
use core::net::IpAddr;

const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
/// Bytes of `struct ifaddrmsg`.
const HEADER: usize = 8;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// An address, and the device that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostAddress {
    /// The device.
    pub ifindex: Ifindex,
    /// Our address; on a point-to-point link not the peer's.
    pub address: IpAddr,
}

/// Asks for the addresses of all devices, of both families.
pub fn dump(seq: Seq) -> Vec<u8> {
    let mut writer = MessageWriter::new(RTM_GETADDR, flags::REQUEST | flags::DUMP, seq);
    writer.fixed(&[0; HEADER]);
    writer.finish().expect("a request of fixed size")
}

impl HostAddress {
    /// Reads a message of the answer; none of an address of another family, or of none.
    ///
    /// # Errors
    /// A message that is no such answer.
    pub fn decode(message: &Message<'_>) -> Result<Option<Self>, Malformed> {
        if message.header.kind != RTM_NEWADDR {
            return Err(message.wrong_type(Family::Link));
        }
        let ([family, _, _, _, index @ ..], attrs) = message.split::<HEADER>(Family::Link)?;
        let local = attrs.find(IFA_LOCAL)?;
        let Some(attr) = local.map_or_else(|| attrs.find(IFA_ADDRESS), |local| Ok(Some(local)))? else {
            return Ok(None);
        };
        let address = |attr: Attr<'_>| {
            Ok(match family {
                AF_INET => Some(IpAddr::from(attr.array::<4>()?)),
                AF_INET6 => Some(IpAddr::from(attr.array::<16>()?)),
                _ => None,
            })
        };
        let ifindex = Ifindex(u32::from_ne_bytes(index));
        Ok(address(attr)?.map(|address| Self { ifindex, address }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Messages;

    fn read(family: u8, attrs: &[(u16, &[u8])]) -> Result<Option<HostAddress>, Malformed> {
        let mut writer = MessageWriter::new(RTM_NEWADDR, 0, Seq(1));
        let mut header = [0; HEADER];
        header[0] = family;
        header[4..].copy_from_slice(&7_u32.to_ne_bytes());
        writer.fixed(&header);
        attrs.iter().for_each(|(kind, value)| writer.put(*kind, value));
        let bytes = writer.finish().unwrap();
        HostAddress::decode(&Messages::new(&bytes).next().unwrap().unwrap())
    }

    #[test]
    fn an_address_is_that_of_our_end_and_of_either_family() {
        let at = |address: IpAddr| Some(HostAddress { ifindex: Ifindex(7), address });
        let ours = [192, 0, 2, 1];
        assert_eq!(read(AF_INET, &[(IFA_ADDRESS, &ours)]), Ok(at(ours.into())));
        assert_eq!(read(AF_INET, &[(IFA_ADDRESS, &[192, 0, 2, 9]), (IFA_LOCAL, &ours)]), Ok(at(ours.into())));
        let six = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        assert_eq!(read(AF_INET6, &[(IFA_ADDRESS, &six)]), Ok(at(six.into())));
        assert_eq!(read(28, &[(IFA_ADDRESS, &ours)]), Ok(None));
        assert_eq!(read(AF_INET, &[]), Ok(None));
        assert!(read(AF_INET, &[(IFA_ADDRESS, &[1, 2])]).is_err());
    }

    #[test]
    fn no_cut_off_answer_makes_it_panic() {
        let whole = dump(Seq(1));
        for length in 0..whole.len() {
            for message in Messages::new(&whole[..length]).flatten() {
                assert!(HostAddress::decode(&message).is_err());
            }
        }
    }
}
