#![no_main]
//! A message of devlink or ethtool, or a device event.

use libfuzzer_sys::fuzz_target;
use netlink_wire::Messages;
use netlink_wire::devlink::{Event, Handle, Report};
use netlink_wire::ethtool::{FeatureBit, FeatureBits, HW_TC_OFFLOAD};
use netlink_wire::uevent::Uevent;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(event) = Uevent::decode(bytes) {
        assert!(!event.device().contains('/'));
    }
    for message in Messages::new(bytes).flatten() {
        let _ = FeatureBit::find(&message, HW_TC_OFFLOAD);
        if let Ok(Some(features)) = FeatureBits::decode(&message) {
            let _ = features.feature(FeatureBit(u32::MAX));
        }
        let Ok(report) = Report::decode(&message) else { continue };
        if let Event::Instance(instance) = report.event {
            // A name that is printed is read as the same, unless it has more slashes than the one between.
            let text = instance.handle.to_string();
            if text.matches('/').count() == 1
                && let Ok(handle) = text.parse::<Handle>()
            {
                assert_eq!(handle, instance.handle);
            }
        }
    }
});
