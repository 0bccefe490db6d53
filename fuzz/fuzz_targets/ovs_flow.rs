#![no_main]
//! A megaflow of the kernel datapath: read in full and for its counters alone, which agree, and printed.

use libfuzzer_sys::fuzz_target;
use netlink_wire::Messages;
use netlink_wire::ovs_flow::{FlowCounters, Megaflow};

fuzz_target!(|bytes: &[u8]| {
    for message in Messages::new(bytes).flatten() {
        let Ok(flow) = Megaflow::decode(&message) else { continue };
        assert_eq!(FlowCounters::decode(&message), Ok(flow.counters));
        if let Some(keys) = &flow.keys {
            assert!(!keys.to_string().contains('\n'));
        }
        if let Some(actions) = &flow.actions {
            assert!(!actions.to_string().is_empty());
            actions.visit(&mut |action| drop(action.clone()));
        }
        assert_eq!(flow.clone().into_owned(), flow);
    }
});
