//! What megaflows moved, software and hardware apart, never going backwards.
//!
//! The kernel's counters of one filter restart whenever the filter is replaced with fresh actions; the totals kept
//! here carry on across that.

use core::ops::AddAssign;

/// Length of an Ethernet header without tags, in bytes.
///
/// TC counts a packet at ingress without it; the OVS datapath and NICs count it (OVS,
/// `Documentation/howto/tc-offload.rst`, "byte count").
pub const ETHERNET_HEADER_BYTES: u64 = 14;

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes, the Ethernet header included.
    pub bytes: u64,
}

impl Count {
    /// A count of `packets` packets with `bytes` bytes in all.
    pub const fn new(packets: u64, bytes: u64) -> Self {
        Self { packets, bytes }
    }

    fn since(self, earlier: Self) -> Self {
        Self {
            packets: self.packets.saturating_sub(earlier.packets),
            bytes: self.bytes.saturating_sub(earlier.bytes),
        }
    }

    /// Whether nothing was counted.
    pub const fn is_zero(self) -> bool {
        self.packets == 0 && self.bytes == 0
    }
}

impl AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.packets = self.packets.saturating_add(other.packets);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

/// What went through software and what through hardware.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Forwarded by the host: TC's software path or the OVS kernel datapath.
    pub software: Count,
    /// Forwarded by the NIC.
    pub hardware: Count,
}

impl Traffic {
    /// Both parts together.
    pub fn total(self) -> Count {
        let mut all = self.software;
        all += self.hardware;
        all
    }

    /// Whether nothing was counted in either part.
    pub const fn is_zero(self) -> bool {
        self.software.is_zero() && self.hardware.is_zero()
    }

    /// What was counted after `earlier`, part by part, never below zero.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            software: self.software.since(earlier.software),
            hardware: self.hardware.since(earlier.hardware),
        }
    }
}

impl AddAssign for Traffic {
    fn add_assign(&mut self, other: Self) {
        self.software += other.software;
        self.hardware += other.hardware;
    }
}

/// Turns readings of a counter that may restart into increments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meter {
    last: Traffic,
}

impl Meter {
    /// The counted thing was made anew: its counters start at zero.
    pub fn restart(&mut self) {
        self.last = Traffic::default();
    }

    /// Takes a reading; returns what was counted since the one before.
    ///
    /// A total below the last one means that the counter restarted unseen: then the whole reading is new. When
    /// only one part fell (a packet moved from the software to the hardware column of the same reading), the rise of
    /// the other is cut so that the sum stays right.
    pub fn read(&mut self, reading: Traffic) -> Traffic {
        let (now, before) = (reading.total(), self.last.total());
        if now.packets < before.packets {
            self.last = reading;
            return reading;
        }
        let mut rise = reading.since(self.last);
        let whole = now.since(before);
        rise.hardware = least(rise.hardware, whole);
        rise.software = whole.since(rise.hardware);
        self.last = reading;
        rise
    }

    /// The last reading.
    pub fn last(&self) -> Traffic {
        self.last
    }
}

fn least(a: Count, b: Count) -> Count {
    Count::new(a.packets.min(b.packets), a.bytes.min(b.bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traffic(software: u64, hardware: u64) -> Traffic {
        Traffic {
            software: Count::new(software, software * 100),
            hardware: Count::new(hardware, hardware * 100),
        }
    }

    #[test]
    fn rises_are_told_part_by_part() {
        let mut meter = Meter::default();
        assert_eq!(meter.read(traffic(5, 0)), traffic(5, 0));
        assert_eq!(meter.read(traffic(6, 10)), traffic(1, 10));
        assert_eq!(meter.read(traffic(6, 10)), traffic(0, 0));
    }

    #[test]
    fn counter_that_restarted_unseen_counts_from_zero() {
        let mut meter = Meter::default();
        meter.read(traffic(50, 10));
        assert_eq!(meter.read(traffic(3, 0)), traffic(3, 0));
    }

    #[test]
    fn packet_that_changes_column_is_not_counted_twice() {
        let mut meter = Meter::default();
        meter.read(traffic(10, 0));
        assert_eq!(meter.read(traffic(8, 4)).total(), Count::new(2, 200));
    }

    #[test]
    fn restart_makes_the_next_reading_new() {
        let mut meter = Meter::default();
        meter.read(traffic(10, 0));
        meter.restart();
        assert_eq!(meter.read(traffic(12, 0)), traffic(12, 0));
    }
}
