#![no_main]
//! A packet of strongSwan's.

use ipsec_drive::listed::{EVENTS, ike_sas, told};
use ipsec_drive::vici::{Packet, packet};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(Packet::Event { message, .. } | Packet::Response(message)) = packet(bytes) {
        for event in EVENTS {
            let _ = told(event, &message);
        }
        let all: usize = ike_sas(&message).iter().map(|(_, children)| children.len()).sum();
        assert!(all * 4 <= bytes.len(), "a child takes its elements");
    }
});
