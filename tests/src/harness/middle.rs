//! What is between two NICs and sees all that goes over the wire.

use std::fs;

use super::{Outcome, Simnic, run};

/// Two NICs that let everything pass between two others. Their uplinks stay in the guest's own namespace, and see on the wire
/// what the host of a NIC does not: packets as its hardware sends them.
#[derive(Debug)]
pub struct Middle([Simnic; 2]);

impl Middle {
    /// Plugs in NICs of these ids, wires each to one of `ends`, and lets packets pass.
    pub fn between(ends: [&Simnic; 2], ids: [u32; 2]) -> Outcome<Self> {
        let middle = Self([Simnic::new(ids[0], 0)?, Simnic::new(ids[1], 0)?]);
        for (nic, end) in middle.0.iter().zip(ends) {
            nic.wire(end)?;
            let device = nic.uplink();
            fs::write(format!("/proc/sys/net/ipv6/conf/{device}/disable_ipv6"), "1")?;
            run("ip", &["link", "set", &device, "up"])?;
            run("tc", &["qdisc", "add", "dev", &device, "clsact"])?;
        }
        for (from, to) in [(0, 1), (1, 0)] {
            let (from, to) = (middle.device(from), middle.device(to));
            let filter = ["filter", "add", "dev", &from, "ingress", "matchall", "skip_hw"];
            run("tc", &[&filter[..], &["action", "mirred", "egress", "redirect", "dev", &to]].concat())?;
        }
        Ok(middle)
    }

    /// The device that hears what one end sends.
    pub fn device(&self, end: usize) -> String {
        self.0[end].uplink()
    }
}
