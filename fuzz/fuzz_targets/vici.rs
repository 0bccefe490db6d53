#![no_main]
//! A packet of strongSwan's.

use ipsec_drive::strongswan::child_sas;
use ipsec_drive::vici::{Packet, packet};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(Packet::Event { message, .. } | Packet::Response(message)) = packet(bytes) {
        let all = child_sas(&message);
        assert!(all.len() * 4 <= bytes.len(), "a child takes its elements");
    }
});
