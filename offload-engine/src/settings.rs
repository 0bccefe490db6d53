//! What an operator may set about the engine.

use crate::chains::Recirculation;
use crate::ovs::ModeWanted;
use policies::Micros;
use policies::planner;

/// How OpenFlow's counters are kept right when a flow that already counted is promoted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Counters {
    /// Promote cleanly: ovs-vswitchd first saves the flow's counters (`dpctl/mod-flow`), then the fresh filter is
    /// replaced.
    Exact,
    /// Only replace. OVS 3.2 and later takes what the flow had counted out of its OpenFlow counters, once.
    #[default]
    Fast,
}

impl Counters {
    /// The word used in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Fast => "fast",
        }
    }
}

/// Everything an operator may set about the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Which mode. Default: auto.
    pub mode: ModeWanted,
    /// What happens to OpenFlow's counters at promotion. Default: fast.
    pub counters: Counters,
    /// What is done with filters that recirculation joins. Default: auto.
    pub recirculation: Recirculation,
    /// Time between two readings of the TC filters, after each of which the planner runs. Default: 500 ms.
    pub epoch: Micros,
    /// Time between two readings of the kernel datapath's flows. Default: 2 s.
    pub datapath_interval: Micros,
    /// How long Open vSwitch must have left a flow alone before it is promoted cleanly. Default: 1 s, two of its
    /// revalidations.
    pub settle: Micros,
    /// `dpctl/mod-flow` commands under way at once. Default: 4: ovs-vswitchd's main thread runs them.
    pub commands_in_flight_max: u32,
    /// Megaflows kept track of. Default: 1,000,000; more are counted and left alone.
    pub megaflows_max: u32,
    /// New megaflows by one port in a second that mode shadow follows. Default: 20,000; where more come, the port's stay in software.
    pub new_megaflows_max: u32,
    /// Whether mode shadow places rules only while it holds a guard's lease. Default: no, as in simulations.
    pub needs_guard: bool,
    /// Whether rules of mode shadow go for a moment before their megaflows look idle to Open vSwitch. Default: no.
    pub gaps: bool,
    /// What the planner of each NIC works by.
    pub planner: planner::Settings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mode: ModeWanted::Auto,
            counters: Counters::Fast,
            recirculation: Recirculation::Auto,
            epoch: Micros::from_millis(500),
            datapath_interval: Micros::from_secs(2),
            settle: Micros::from_secs(1),
            commands_in_flight_max: 4,
            megaflows_max: 1_000_000,
            new_megaflows_max: 20_000,
            needs_guard: false,
            gaps: false,
            planner: planner::Settings::default(),
        }
    }
}
