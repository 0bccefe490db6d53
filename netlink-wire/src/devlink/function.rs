//! What can be done to ports and the functions behind them.

use super::handle::Handle;
use super::port::PortIndex;
use super::{DEVLINK_CMD_PORT_DEL, DEVLINK_CMD_PORT_NEW, request};
use crate::ether::MacAddr;
use crate::genl::FamilyId;
use crate::ids::Seq;
use crate::message::flags;
use crate::writer::{MessageWriter, TooLong};
use alloc::vec::Vec;

const DEVLINK_CMD_PORT_SET: u8 = 6;
const DEVLINK_ATTR_PORT_INDEX: u16 = 3;
const DEVLINK_ATTR_PORT_FLAVOUR: u16 = 77;
const DEVLINK_ATTR_PORT_PCI_PF_NUMBER: u16 = 127;
const DEVLINK_ATTR_PORT_FUNCTION: u16 = 145;
const DEVLINK_ATTR_PORT_PCI_SF_NUMBER: u16 = 164;
const DEVLINK_PORT_FUNCTION_ATTR_HW_ADDR: u16 = 1;
const DEVLINK_PORT_FN_ATTR_STATE: u16 = 2;
const DEVLINK_PORT_FLAVOUR_PCI_SF: u16 = 7;

/// `DEVLINK_CMD_PORT_NEW`: makes sub-function `number` of physical function `pf`, inactive. Answered with its port. Needs
/// CAP_NET_ADMIN.
///
/// # Errors
/// A handle longer than an attribute can be.
pub fn add_sub_function(
    family: FamilyId,
    handle: &Handle,
    pf: u16,
    number: u32,
    seq: Seq,
) -> Result<Vec<u8>, TooLong> {
    let mut writer = request(family, DEVLINK_CMD_PORT_NEW, flags::ACK, seq);
    handle.put(&mut writer);
    writer.put_u16(DEVLINK_ATTR_PORT_FLAVOUR, DEVLINK_PORT_FLAVOUR_PCI_SF);
    writer.put_u16(DEVLINK_ATTR_PORT_PCI_PF_NUMBER, pf);
    writer.put_u32(DEVLINK_ATTR_PORT_PCI_SF_NUMBER, number);
    writer.finish()
}

/// `DEVLINK_CMD_PORT_DEL`: removes a sub-function by its port. Needs CAP_NET_ADMIN.
///
/// # Errors
/// A handle longer than an attribute can be.
pub fn delete_port(family: FamilyId, handle: &Handle, port: PortIndex, seq: Seq) -> Result<Vec<u8>, TooLong> {
    let mut writer = request(family, DEVLINK_CMD_PORT_DEL, flags::ACK, seq);
    handle.put(&mut writer);
    writer.put_u32(DEVLINK_ATTR_PORT_INDEX, port.0);
    writer.finish()
}

fn set_function(
    family: FamilyId,
    handle: &Handle,
    port: PortIndex,
    seq: Seq,
    fill: impl FnOnce(&mut MessageWriter),
) -> Result<Vec<u8>, TooLong> {
    let mut writer = request(family, DEVLINK_CMD_PORT_SET, flags::ACK, seq);
    handle.put(&mut writer);
    writer.put_u32(DEVLINK_ATTR_PORT_INDEX, port.0);
    writer.nest(DEVLINK_ATTR_PORT_FUNCTION, fill);
    writer.finish()
}

/// `DEVLINK_CMD_PORT_SET` of `DEVLINK_PORT_FUNCTION_ATTR_HW_ADDR`: the address that a function sees as its own; most
/// drivers take it when the function is probed. Needs CAP_NET_ADMIN.
///
/// # Errors
/// A handle longer than an attribute can be.
pub fn set_function_address(
    family: FamilyId,
    handle: &Handle,
    port: PortIndex,
    address: MacAddr,
    seq: Seq,
) -> Result<Vec<u8>, TooLong> {
    set_function(family, handle, port, seq, |writer| {
        writer.put(DEVLINK_PORT_FUNCTION_ATTR_HW_ADDR, &address.0);
    })
}

/// `DEVLINK_CMD_PORT_SET` of `DEVLINK_PORT_FN_ATTR_STATE`: activates a sub-function, or the contrary. Needs
/// CAP_NET_ADMIN.
///
/// # Errors
/// A handle longer than an attribute can be.
pub fn set_function_state(
    family: FamilyId,
    handle: &Handle,
    port: PortIndex,
    active: bool,
    seq: Seq,
) -> Result<Vec<u8>, TooLong> {
    set_function(family, handle, port, seq, |writer| {
        writer.put_u8(DEVLINK_PORT_FN_ATTR_STATE, u8::from(active));
    })
}
