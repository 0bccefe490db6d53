//! Tunnels: what the NIC puts around packets and takes off them, against the kernel's own tunnel devices; neighbours and
//! routes followed; hardware to hardware between two NICs, in the clear and encrypted.

mod encrypted;
mod followed;
mod hardware_to_hardware;
mod rig;
mod same_as_kernel;

pub(super) use encrypted::*;
pub(super) use followed::*;
pub(super) use hardware_to_hardware::*;
pub(super) use same_as_kernel::*;
