//! IPsec of mode packet and rules of TC on the uplink itself: some NICs have either.

use std::fmt;

use crate::doctor::Filter;

/// Drivers that answer EBUSY to whichever of the two comes second: mlx5 (`mlx5e_ipsec_block_tc_offload()` of Linux 6.6 and newer), and
/// simnic, which does as mlx5 does. Rules of representors and of tunnel devices are not meant.
const EXCLUSIVE: [&str; 2] = ["mlx5_core", "simnic"];

/// Whether NICs of this driver have either of the two.
pub fn is_exclusive(driver: &str) -> bool {
    EXCLUSIVE.contains(&driver)
}

/// Rules of an uplink itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UplinkRules {
    /// Name of its network device.
    pub uplink: String,
    /// How many it has.
    pub filters: usize,
    /// How many of them are in hardware: those alone exclude anything.
    pub in_hw: usize,
}

impl UplinkRules {
    /// Counts them.
    pub fn of(uplink: &str, filters: &[Filter]) -> Self {
        let in_hw = filters.iter().filter(|filter| filter.in_hw == Some(true)).count();
        Self { uplink: uplink.to_owned(), filters: filters.len(), in_hw }
    }
}

impl fmt::Display for UplinkRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { uplink, filters, in_hw } = self;
        let (filters_are, are) =
            (if *filters == 1 { "filter" } else { "filters" }, if *in_hw == 1 { "is" } else { "are" });
        write!(f, "uplink {uplink} has {filters} {filters_are}, of which {in_hw} {are} in hardware")
    }
}
