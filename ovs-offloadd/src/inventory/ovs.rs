//! What Open vSwitch's database says of a port.

use std::net::IpAddr;

use offload_engine::Workload;

/// What OVSDB says of an interface.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OvsInterface {
    /// The bridge it is on.
    pub bridge: String,
    /// `external_ids:iface-id`.
    pub iface_id: Option<String>,
    /// Whether it is a network device (`type` is empty or `system`), and its bridge of the kernel's datapath.
    pub is_netdev: bool,
    /// `ifindex`: of the device that Open vSwitch opened. Kept by it where the device is gone.
    pub ifindex: Option<u32>,
    /// `error`: why Open vSwitch could not open it, in its own words.
    pub error: Option<String>,
    /// `options:remote_ip`: of a tunnel, its other end; none where flows tell it.
    pub remote: Option<IpAddr>,
    /// What it was plugged for.
    pub workload: Option<Workload>,
}
