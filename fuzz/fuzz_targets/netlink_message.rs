#![no_main]
//! A received buffer: framing, acks with their reasons, and the small families that have no target of their own.

use libfuzzer_sys::fuzz_target;
use netlink_wire::genl::FamilyReport;
use netlink_wire::ovs_datapath::Datapath;
use netlink_wire::ovs_vport::Vport;
use netlink_wire::{Messages, ethtool, xfrm};

fuzz_target!(|bytes: &[u8]| {
    let mut end = 0;
    for message in Messages::new(bytes) {
        let Ok(message) = message else { break };
        assert!(message.offset >= end, "messages do not overlap");
        end = message.offset + netlink_wire::message::NLMSG_HDRLEN + message.payload.len();
        assert!(end <= bytes.len(), "a message ends inside of the buffer");
        if let Ok(Some(control)) = message.control() {
            drop(format!("{control:?}"));
        }
        drop(FamilyReport::decode(&message));
        drop(Datapath::decode(&message));
        drop(Vport::decode(&message));
        let _ = ethtool::Features::decode(&message).map(|features| features.hw_tc_offload());
        if let Ok(xfrm::Event::Policy(policy)) = xfrm::Event::decode(&message) {
            let remote = std::net::Ipv4Addr::LOCALHOST.into();
            let _ = (policy.encrypts(), policy.selector.takes(remote, 17, 4789));
        }
    }
});
