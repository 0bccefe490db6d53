//! Keys of connection tracking.

use super::codec::{Host16, Host32, Raw16, keys};
use core::fmt;
use netlink_wire::Masked;

keys! {
    /// What connection tracking said of the packet.
    Conntrack {
        /// `TCA_FLOWER_KEY_CT_STATE`: `TCA_FLOWER_KEY_CT_FLAGS_*`, displayed by [`CtState`].
        state: masked Host16(KEY_CT_STATE, KEY_CT_STATE_MASK);
        /// `TCA_FLOWER_KEY_CT_ZONE`
        zone: masked Host16(KEY_CT_ZONE, KEY_CT_ZONE_MASK);
        /// `TCA_FLOWER_KEY_CT_MARK`
        mark: masked Host32(KEY_CT_MARK, KEY_CT_MARK_MASK);
        /// `TCA_FLOWER_KEY_CT_LABELS`
        labels: masked Raw16(KEY_CT_LABELS, KEY_CT_LABELS_MASK);
    }
}

/// `TCA_FLOWER_KEY_CT_FLAGS_*`, by their bit, as Open vSwitch abbreviates them.
const STATES: [(u16, &str); 6] =
    [(1 << 0, "new"), (1 << 1, "est"), (1 << 2, "rel"), (1 << 3, "trk"), (1 << 4, "inv"), (1 << 5, "rpl")];

/// A match on connection states, displayed as Open vSwitch does: `+trk+est-rpl`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CtState(pub Masked<u16>);

impl fmt::Display for CtState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (bit, name) in STATES.into_iter().filter(|(bit, _)| self.0.mask & bit != 0) {
            let sign = if self.0.value & bit != 0 { '+' } else { '-' };
            write!(f, "{sign}{name}")?;
        }
        Ok(())
    }
}
