#![no_main]
//! A link of rtnetlink.

use libfuzzer_sys::fuzz_target;
use netlink_wire::Messages;
use netlink_wire::link::Link;

fuzz_target!(|bytes: &[u8]| {
    for message in Messages::new(bytes).flatten() {
        let Ok(link) = Link::decode(&message) else { continue };
        drop(link.address.map(|address| (address.mac(), address.to_string())));
        drop(link.switch_id.map(|id| id.to_string()));
    }
});
