//! What a daemon tells a new engine of its surroundings: an Open vSwitch that is steered, one NIC, one representor.

use netlink_wire::Ifindex;
use offload_engine::{Event, NicFacts, NicId, OvsSettings, OvsVersion, Peer, PortFacts, PortKind, TcPolicy};
use tc_flower::Location;

/// The events, in the order a daemon tells them in; the representor's filters are at `location`.
pub(crate) fn events(location: Location) -> [Event; 4] {
    [
        Event::Ovs(OvsSettings {
            version: Some(OvsVersion::new(3, 5, 0)),
            hw_offload: true,
            tc_policy: TcPolicy::SkipHw,
            max_idle: None,
        }),
        Event::Nic(Box::new(NicFacts {
            id: NicId(0),
            devlink: "sim/0".into(),
            driver: "sim".into(),
            switch_id: "00".into(),
            eswitch_mode: "switchdev".into(),
        })),
        Event::Port(Box::new(PortFacts {
            name: "rep0".into(),
            ifindex: Ifindex(7),
            location,
            dp_port: None,
            dp: None,
            bridge: "br0".into(),
            iface_id: None,
            workload: None,
            kind: PortKind::Representor,
            tunnel_kind: None,
            tunnel_port: None,
            nic: Some(NicId(0)),
            hw_tc_offload: true,
        })),
        Event::Peer { peer: Peer::Vswitchd, up: true },
    ]
}
