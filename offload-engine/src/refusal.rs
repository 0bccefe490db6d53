//! Why a megaflow is not in hardware, in words a person can act on.

use crate::shadow::Untranslatable;
use alloc::string::{String, ToString as _};
use core::fmt;
use netlink_wire::Errno;

/// Why a kernel without `CONFIG_NET_TC_SKB_EXT` keeps what recirculation joins out of hardware.
pub(crate) const NO_CHAIN_RESTORE: &str = "it is joined to others by recirculation, and this kernel cannot go on in TC where \
     the NIC stops (CONFIG_NET_TC_SKB_EXT is off)";

/// Longest driver text kept, in bytes: texts become metric labels and table rows.
pub const REASON_TEXT_MAX: usize = 160;

/// What the kernel or the driver answered to a rule it did not take.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// The table has no free entry.
    TableFull,
    /// The driver does not take such a rule; its own words, where it has any.
    Driver(String),
    /// The driver did not take the rule and gave no reason.
    DriverSilent,
    /// Others of its shape were refused, so that this one was not tried: what was said of them.
    Shape(String),
    /// A probe saw the driver refuse a part of it by itself, so that it was not tried: which part, and the driver's words.
    Probed(String),
    /// The kernel refused the request.
    Kernel {
        /// The error number.
        errno: Errno,
        /// The extended ack's text, empty where there is none.
        text: String,
    },
    /// The rule could not be written back as it is, so it is not touched: something in it is not understood, or is
    /// bound to software.
    Unsupported(String),
    /// It is joined to others by recirculation, and the kernel does not go on where the NIC stops, or is not known to.
    NoChainRestore,
    /// The setting keeps what recirculation joins in software.
    RecirculationOff,
    /// It, or one that it leads to, changes the mark or the labels of connections that are established. A NIC passes their
    /// packets on, and changes nothing: the driver is not told what is to be written.
    MarksConnections,
    /// The driver said that it has the rule, which gets packets of others only, and none came to it in hardware.
    NotReached,
    /// The ingress port is not a port of a NIC with `hw-tc-offload` on.
    NoOffloadPort,
    /// The host's own stack encrypts or drops the packets of its tunnel, which a NIC would send as they are.
    IpsecInHost,
    /// The driver said that it has the rule, and twice the packets passed by it all the same.
    PassedBy,
    /// Its counters cannot be carried across promotion.
    Counters(String),
    /// No rule of our own does what it does (shadow mode).
    Untranslatable(Untranslatable),
    /// It is longer than is kept of a megaflow, so that no rule can be made from it (shadow mode).
    TooLong,
    /// At its port there are filters of others, which packets would pass by in hardware (shadow mode).
    FiltersOfOthers,
    /// Its port shares its filters with others in a block, where a rule would take their packets too (shadow mode).
    SharedBlock,
    /// Another megaflow takes some of its packets and does something else with them, so that it is not certain what
    /// becomes of these in software (shadow mode).
    Overlaps,
    /// No guard would remove its rule if the daemon died (shadow mode).
    NoGuard,
    /// More new megaflows come by its port than are followed (shadow mode).
    TooManyNew,
}

/// How a [`Refusal`] is dealt with: the one place where retries are decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The table is full: try when an entry is free.
    WhenRoom,
    /// Passing trouble: try again soon.
    Soon,
    /// This shape is not taken: try again only after a long time or when something changed.
    WhenChanged,
}

impl Refusal {
    /// Reads a driver's answer to a rule the kernel accepted and the driver did not.
    ///
    /// With no flags a driver's failure is a success that is `not_in_hw`: the errno is lost, the text is all there
    /// is (Linux, `net/sched/cls_flower.c`, `fl_hw_replace_filter`).
    pub fn from_driver(text: Option<&str>) -> Self {
        let Some(text) = text.map(str::trim).filter(|text| !text.is_empty()) else {
            return Self::DriverSilent;
        };
        if tells_full_table(text) { Self::TableFull } else { Self::Driver(bounded(text)) }
    }

    /// Reads the kernel's refusal of the request itself.
    pub fn from_kernel(errno: Errno, text: Option<&str>) -> Self {
        if errno == Errno::ENOSPC || text.is_some_and(tells_full_table) {
            return Self::TableFull;
        }
        Self::Kernel { errno, text: bounded(text.unwrap_or_default().trim()) }
    }

    /// What becomes of the others of a shape that was refused for this reason.
    pub(crate) fn of_shape(&self) -> Self {
        Self::Shape(bounded(&self.to_string()))
    }

    /// A probe saw the driver refuse `what`, in these words.
    pub(crate) fn probed(what: &str, why: &str) -> Self {
        Self::Probed(bounded(&alloc::format!("{what}: {why}")))
    }

    /// Whether it may be the shape of the rule that was refused, and not just this rule.
    pub(crate) fn blames_shape(&self) -> bool {
        match self {
            Self::Driver(_) | Self::DriverSilent => true,
            Self::Kernel { errno, .. } => !is_passing(*errno),
            _ => false,
        }
    }

    /// The flow's counters could not be saved; `why` in ovs-vswitchd's words.
    pub fn counters(why: &str) -> Self {
        Self::Counters(bounded(why.trim()))
    }

    /// What to do about it.
    pub fn retry(&self) -> Retry {
        match self {
            Self::TableFull => Retry::WhenRoom,
            Self::Kernel { errno, .. } if is_passing(*errno) => Retry::Soon,
            Self::Counters(_) | Self::NotReached => Retry::Soon,
            Self::Driver(_)
            | Self::DriverSilent
            | Self::Shape(_)
            | Self::Probed(_)
            | Self::Kernel { .. }
            | Self::Unsupported(_)
            | Self::NoChainRestore
            | Self::RecirculationOff
            | Self::MarksConnections
            | Self::NoOffloadPort
            | Self::IpsecInHost
            | Self::Untranslatable(_)
            | Self::TooLong
            | Self::FiltersOfOthers
            | Self::SharedBlock
            | Self::Overlaps
            | Self::NoGuard
            | Self::TooManyNew
            | Self::PassedBy => Retry::WhenChanged,
        }
    }

    /// Whether the operator may have changed what it came from: the driver, its firmware, the kernel, Open vSwitch.
    /// What the rule itself or its port lacks is judged anew with every change of these.
    pub(crate) fn may_be_over(&self) -> bool {
        !matches!(
            self,
            Self::Unsupported(_)
                | Self::NoOffloadPort
                | Self::IpsecInHost
                | Self::NoChainRestore
                | Self::RecirculationOff
                | Self::MarksConnections
                | Self::Untranslatable(_)
                | Self::TooLong
                | Self::FiltersOfOthers
                | Self::SharedBlock
                | Self::Overlaps
                | Self::NoGuard
                | Self::TooManyNew
        )
    }

    /// Whether it comes of the rule, its port or the kernel as they are, and not of a try.
    pub(crate) fn is_of_rule(&self) -> bool {
        !self.may_be_over()
    }

    /// A short word for metrics, from a closed set.
    pub fn label(&self) -> &'static str {
        match self {
            Self::TableFull => "table_full",
            Self::Driver(_) => "driver",
            Self::DriverSilent => "driver_silent",
            Self::Shape(_) => "shape",
            Self::Probed(_) => "probed",
            Self::Kernel { .. } => "kernel",
            Self::Unsupported(_) => "unsupported",
            Self::NoChainRestore => "no_chain_restore",
            Self::RecirculationOff => "recirculation_off",
            Self::MarksConnections => "marks_connections",
            Self::NotReached => "not_reached",
            Self::NoOffloadPort => "no_offload_port",
            Self::IpsecInHost => "ipsec_in_host",
            Self::PassedBy => "passed_by",
            Self::Counters(_) => "counters",
            Self::Untranslatable(why) => why.refusal_label(),
            Self::TooLong => "too_long",
            Self::FiltersOfOthers => "filters_of_others",
            Self::SharedBlock => "shared_block",
            Self::Overlaps => "overlaps",
            Self::NoGuard => "no_guard",
            Self::TooManyNew => "too_many_new",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TableFull => f.write_str("the NIC's rule table is full"),
            Self::Driver(text) => write!(f, "the driver says: {text}"),
            Self::DriverSilent => f.write_str("the driver refused the rule without a reason"),
            Self::Shape(why) => write!(f, "not tried, since others of its shape were refused: {why}"),
            Self::Probed(why) => write!(f, "not tried, since a probe saw the driver refuse {why}"),
            Self::Kernel { errno, text } if text.is_empty() => write!(f, "the kernel says: {errno}"),
            Self::Kernel { errno, text } => write!(f, "the kernel says: {errno}: {text}"),
            Self::Unsupported(what) => {
                write!(f, "left alone, since it could not be written back as it is: {what}")
            }
            Self::NoChainRestore => f.write_str(NO_CHAIN_RESTORE),
            Self::RecirculationOff => f.write_str(
                "it is joined to others by recirculation, which steer.recirculation = \"never\" keeps in software",
            ),
            Self::MarksConnections => f.write_str(
                "it, or one that it leads to, changes the mark or the labels of established connections, which a NIC does \
                 not do",
            ),
            Self::NotReached => f.write_str(
                "no packet came to it in hardware: their connections, or what leads to it, stay in software",
            ),
            Self::IpsecInHost => f.write_str(
                "the host's own stack encrypts or drops the packets of its tunnel, which a NIC would send in the clear (docs/ipsec.md)",
            ),
            Self::NoOffloadPort => {
                f.write_str("the ingress port is not a port of a switchdev NIC with hw-tc-offload on")
            }
            Self::PassedBy => f.write_str(
                "the driver said that the rule was in hardware, but the packets went on passing by it",
            ),
            Self::Counters(why) => write!(f, "its OpenFlow counters could not be carried over: {why}"),
            Self::Untranslatable(why) => write!(f, "no rule can be made from it: {why}"),
            Self::TooLong => f.write_str("no rule can be made from it: its key and actions are too long"),
            Self::FiltersOfOthers => {
                f.write_str("at its port there are filters of others, which its packets would pass by in hardware")
            }
            Self::SharedBlock => f.write_str("its port shares its filters with other devices"),
            Self::Overlaps => f.write_str(
                "another megaflow takes some of its packets and does something else with them, and which of the two does is \
                 not certain",
            ),
            Self::NoGuard => {
                f.write_str("ovs-offload-guard, which would remove its rule if ovs-offloadd died, is not there")
            }
            Self::TooManyNew => f.write_str(
                "more new megaflows come by its port than limits.new-flows-max: all of that port stay in software until that \
                 is over",
            ),
        }
    }
}

/// Whether an error may be gone a moment later.
fn is_passing(errno: Errno) -> bool {
    matches!(errno, Errno::EAGAIN | Errno::EBUSY | Errno::EINTR | Errno::ENOMEM | Errno::EEXIST)
}

/// Whether a driver's text says that the table is full. Drivers have no common wording.
fn tells_full_table(text: &str) -> bool {
    const WORDS: [&str; 5] = ["table full", "table is full", "no space", "no free", "enospc"];
    let text = text.to_ascii_lowercase();
    WORDS.iter().any(|word| text.contains(word))
}

/// Cuts `text` to [`REASON_TEXT_MAX`] bytes at a character's end, control characters made spaces.
fn bounded(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars().map(|c| if c.is_control() { ' ' } else { c }) {
        if out.len() + c.len_utf8() > REASON_TEXT_MAX {
            break;
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn full_table_is_told_by_errno_and_by_text() {
        assert_eq!(Refusal::from_kernel(Errno::ENOSPC, None), Refusal::TableFull);
        assert_eq!(Refusal::from_driver(Some("simnic: hardware table full.")), Refusal::TableFull);
        assert_eq!(Refusal::TableFull.retry(), Retry::WhenRoom);
    }

    #[test]
    fn shape_that_the_driver_does_not_take_waits_for_a_change() {
        let refusal = Refusal::from_driver(Some("Requested chain is out of supported range"));
        assert_eq!(refusal.retry(), Retry::WhenChanged);
        assert_eq!(refusal.to_string(), "the driver says: Requested chain is out of supported range");
    }

    #[test]
    fn driver_without_words_is_said_to_be_silent() {
        assert_eq!(Refusal::from_driver(None), Refusal::DriverSilent);
        assert_eq!(Refusal::from_driver(Some("  ")), Refusal::DriverSilent);
    }

    #[test]
    fn text_of_a_driver_is_bounded_and_on_one_line() {
        let Refusal::Driver(text) = Refusal::from_driver(Some(&"é\n".repeat(500))) else { panic!() };
        assert!(text.len() <= REASON_TEXT_MAX);
        assert!(!text.contains('\n'));
    }
}
