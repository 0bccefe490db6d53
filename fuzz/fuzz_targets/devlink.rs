#![no_main]
//! A message of devlink.

use libfuzzer_sys::fuzz_target;
use netlink_wire::Messages;
use netlink_wire::devlink::{Event, Handle, Report};

fuzz_target!(|bytes: &[u8]| {
    for message in Messages::new(bytes).flatten() {
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
