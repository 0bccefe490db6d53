//! Commands and options.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use netlink_wire::xfrm::Spi;
use netlink_wire::{MacAddr, Ufid};

use crate::doctor::DoctorArgs;
use crate::lifecycle::declared::{Function, NetnsRef};
use crate::lifecycle::observed::MARK;
use crate::recording::RecordArgs;
use crate::replay::ReplayArgs;

/// What `doctor` ends with; 2 means the same everywhere.
const DOCTOR_STATUS: &str = "Exit status: 0 nothing worse than notes, 1 errors, 3 warnings and no errors, 2 wrong usage. With --probe: \
                             0 probed, 1 the NIC takes no rule, or the port cannot be probed.";

/// What the commands that change NICs end with; 2 means the same everywhere.
const LIFECYCLE_STATUS: &str = "Exit status: 0 everything is as asked for, 1 it cannot be, or a step failed and all is as it was before, \
                                3 a step failed and something is left in between (it is said what), 2 wrong usage.";

/// How an answer is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum OutputFormat {
    /// For people.
    #[default]
    Table,
    /// For programs: one JSON document.
    Json,
}

/// ovs-offloadctl's command line.
#[derive(Debug, Parser)]
#[command(
    name = "ovs-offloadctl",
    version,
    about = "Ask and command ovs-offloadd: which datapath flows live in the SmartNIC, and why the others do not",
    after_help = "Exit status: 0 done, 1 the daemon refused or found nothing, 2 wrong usage or no daemon. `doctor` ends with 1 or 3 \
                  where it found something; see there.",
    max_term_width = 110
)]
pub struct Cli {
    /// Daemon to talk to: a program name whose pidfile is in the run directory, or the path of a control socket
    #[arg(short, long, global = true, default_value = "ovs-offloadd", value_name = "NAME|SOCKET")]
    pub target: String,
    /// Run directory [default: $OVS_RUNDIR or /var/run/openvswitch]
    #[arg(long, global = true, value_name = "DIR")]
    pub rundir: Option<PathBuf>,
    /// Longest wait for an answer, in seconds
    #[arg(long, global = true, default_value_t = 30, value_name = "SECONDS",
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub timeout: u64,
    /// How to print
    #[arg(short, long, global = true, value_enum, default_value_t)]
    pub output: OutputFormat,
    /// What to do
    #[command(subcommand)]
    pub verb: Verb,
}

/// Everything ovs-offloadctl can do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Asked of the daemon.
    /// Of which function of which NIC.
    #[command(flatten)]
    Asked(Query),
    /// Done without the daemon.
    /// Of which function of which NIC.
    #[command(flatten)]
    Local(Local),
}

/// What the daemon answers.
#[derive(Debug, Clone, PartialEq, Subcommand)]
pub enum Query {
    /// Show mode, connections, traffic by placement, NICs and refusals at a glance
    Status,
    /// Datapath flows
    #[command(subcommand)]
    Flow(FlowQuery),
    /// Ports of Open vSwitch bridges
    #[command(subcommand)]
    Port(PortQuery),
    /// NICs with an embedded switch
    #[command(subcommand)]
    Nic(NicQuery),
    /// Refusals by reason
    #[command(subcommand)]
    Refusal(RefusalQuery),
    /// OpenFlow rules whose packets Open vSwitch cannot see
    #[command(subcommand)]
    Openflow(OpenflowQuery),
    /// IPsec's security associations
    #[command(subcommand)]
    Sa(SaQuery),
    /// Tunnels that are marked for IPsec
    #[command(subcommand)]
    Tunnel(TunnelQuery),
    /// The rules that decide which flows may be in hardware
    #[command(subcommand)]
    Policy(PolicyQuery),
    /// Recordings of the flow table under way; `record` uses these
    #[command(subcommand, hide = true)]
    Recording(RecordingQuery),
    /// What `doctor --probe` saw; it uses these
    #[command(subcommand, hide = true)]
    Probe(ProbeQuery),
    /// Read the configuration again; a wrong one changes nothing
    Reload,
    /// Empty the hardware and keep it empty, or use it again
    Drain {
        /// Only this NIC: its number in `nic list`, or its devlink handle
        #[arg(long, value_name = "NIC")]
        nic: Option<String>,
        /// Use the hardware again
        #[arg(long)]
        off: bool,
    },
    /// Show the daemon's version
    Version,
}

/// About flows.
#[derive(Debug, Clone, PartialEq, Subcommand)]
pub enum FlowQuery {
    /// List flows with their placement, its reason, and their rate
    List(FlowListArgs),
    /// Explain one flow: where it is, why, and what it would take to move it
    Why {
        /// The flow's id as Open vSwitch prints it, with or without `ufid:`
        ufid: Ufid,
    },
}

/// About ports.
#[derive(Debug, Clone, PartialEq, Subcommand)]
pub enum PortQuery {
    /// List ports with their NIC and their packets by placement
    List(PortListArgs),
    /// Give a workload its VF or SF, and the representor a place on a bridge; needs no daemon
    #[command(after_help = LIFECYCLE_STATUS)]
    Attach(PortAttachArgs),
    /// Take a VF or SF back from its workload, and its representor from its bridge; needs no daemon
    #[command(after_help = LIFECYCLE_STATUS)]
    Detach(PortDetachArgs),
}

/// Which function of which NIC.
#[derive(Debug, Clone, PartialEq, Args)]
pub struct FunctionArgs {
    /// The NIC: its number in `nic list`, or its devlink handle (`pci/0000:03:00.0`)
    #[arg(long, value_name = "NIC")]
    pub nic: String,
    /// The virtual function
    #[arg(long, value_name = "NUMBER", required_unless_present = "sf", conflicts_with = "sf")]
    pub vf: Option<u16>,
    /// The sub-function; `attach` makes it if it is not there
    #[arg(long, value_name = "NUMBER")]
    pub sf: Option<u32>,
    /// Configuration file that says where Open vSwitch is [default: /etc/ovs-offloadd.toml, if there is one]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print what would be done, with the commands for it, and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

impl FunctionArgs {
    /// The function.
    pub fn function(&self) -> Function {
        match (self.vf, self.sf) {
            (Some(number), _) => Function::vf(number),
            (None, number) => Function::sf(number.unwrap_or_default()),
        }
    }
}

/// What to attach, and where.
#[derive(Debug, Clone, PartialEq, Args)]
pub struct PortAttachArgs {
    /// Of which function of which NIC.
    #[command(flatten)]
    pub function: FunctionArgs,
    /// The bridge for the representor
    #[arg(long, value_name = "NAME")]
    pub bridge: String,
    /// external_ids:iface-id of the representor's interface: OVN's logical port
    #[arg(long, value_name = "TEXT")]
    pub iface_id: Option<String>,
    /// Further keys of external_ids
    #[arg(long = "external-id", value_name = "KEY=VALUE", value_parser = key_and_value)]
    pub external_ids: Vec<(String, String)>,
    /// Network namespace for the function's device: a path, the number of a process, or a name of `ip netns`
    #[arg(long, value_name = "PATH|PID|NAME", value_parser = NetnsRef::parse)]
    pub netns: Option<NetnsRef>,
    /// Address of the function
    #[arg(long, value_name = "ADDRESS", value_parser = crate::config::devices::mac)]
    pub mac: Option<MacAddr>,
    /// MTU of representor and function, in bytes
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(68..=65_535))]
    pub mtu: Option<u32>,
}

/// What to detach.
#[derive(Debug, Clone, PartialEq, Args)]
pub struct PortDetachArgs {
    /// Of which function of which NIC.
    #[command(flatten)]
    pub function: FunctionArgs,
    /// Network namespace where the function's device is, if `ip netns` has no name for it
    #[arg(long, value_name = "PATH|PID|NAME", value_parser = NetnsRef::parse)]
    pub netns: Option<NetnsRef>,
}

impl PortQuery {
    /// Whether it is done without the daemon.
    pub fn is_local(&self) -> bool {
        !matches!(self, Self::List(_))
    }
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((MARK, _)) => Err(format!("{MARK} is set by ovs-offloadctl itself")),
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("must be KEY=VALUE".to_owned()),
    }
}

/// Which ports to list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Args)]
pub struct PortListArgs {
    /// List representors instead: what is behind them, their port of Open vSwitch, and ports whose representor is gone
    #[arg(long)]
    pub representors: bool,
}

/// About NICs.
#[derive(Debug, Clone, PartialEq, Subcommand)]
pub enum NicQuery {
    /// List NICs with mode, firmware, functions, entries used, refusals and health
    List,
    /// Show all of one NIC: versions, health reporters, resources, uplinks, bonds and representors
    Show {
        /// Its number, its devlink handle, its device or its uplink: `0`, `pci/0000:03:00.0`, `0000:03:00.0`, `ens1f0`
        nic: String,
    },
    /// Make NICs as the configuration declares them, or leave them as they are; needs no daemon
    #[command(after_help = LIFECYCLE_STATUS)]
    Apply(NicApplyArgs),
}

/// What to make of NICs.
#[derive(Debug, Clone, PartialEq, Args)]
pub struct NicApplyArgs {
    /// Print what would be done, with the commands for it, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Only this NIC, by its devlink handle
    #[arg(long, value_name = "HANDLE")]
    pub nic: Option<String>,
    /// The configuration [default: /etc/ovs-offloadd.toml]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

impl NicQuery {
    /// Whether it is done without the daemon.
    pub fn is_local(&self) -> bool {
        !matches!(self, Self::List | Self::Show { .. })
    }
}

/// About refusals.
#[derive(Debug, Clone, PartialEq, Subcommand)]
pub enum RefusalQuery {
    /// List what was refused, by reason, with the driver's own words
    List,
}

/// About OpenFlow rules.
#[derive(Debug, Clone, PartialEq, Subcommand)]
pub enum OpenflowQuery {
    /// List what hardware took in mode shadow by bridge, table and cookie; the rules' own counters do not have it
    List,
}

/// About security associations. Keys are shown nowhere.
#[derive(Debug, Clone, PartialEq, Subcommand)]
pub enum SaQuery {
    /// List security associations: the tunnel each protects, where it is carried, and what it took
    List,
    /// Explain those with one SPI: where they are carried, why, and what a NIC would demand of them
    Why {
        /// Security parameter index, in decimal or, with `0x`, in hexadecimal
        #[arg(value_parser = parse_spi)]
        spi: Spi,
    },
}

/// About tunnels that are marked for IPsec. Keys are shown nowhere.
#[derive(Debug, Clone, PartialEq, Subcommand)]
pub enum TunnelQuery {
    /// List tunnels that OVSDB marks for IPsec: how the ends know each other, what a NIC is asked for, and how far each is, with the
    /// reason
    List,
}

fn parse_spi(text: &str) -> Result<Spi, String> {
    let spi = match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    };
    spi.map(Spi).map_err(|_| format!("{text} is no SPI: a number up to 0xffffffff"))
}

/// About recordings of the flow table.
#[derive(Debug, Clone, PartialEq, Subcommand)]
pub enum RecordingQuery {
    /// Begin to record; answers with the session's number
    Start,
    /// Read what was recorded, in base 64
    Read {
        /// The session's number
        session: u64,
        /// How many bytes of it were read already; these are dropped
        from: u64,
    },
    /// Record no further; what is left can still be read
    Stop {
        /// The session's number
        session: u64,
    },
}

/// About what probes saw.
#[derive(Debug, Clone, PartialEq, Subcommand)]
pub enum ProbeQuery {
    /// Read what is kept of probes, and try no rule that contains what was refused
    Load,
}

/// About the policy.
#[derive(Debug, Clone, PartialEq, Subcommand)]
pub enum PolicyQuery {
    /// Check the rules of a configuration file, and all else in it; needs no daemon
    Check {
        /// The file [default: /etc/ovs-offloadd.toml]
        file: Option<PathBuf>,
    },
    /// Show the rules in force with the flows they decide about
    Show,
    /// Show which rule decides about a flow, and how it comes to that
    Test(PolicyTestArgs),
}

/// What to try the policy on.
#[derive(Debug, Clone, PartialEq, Args)]
pub struct PolicyTestArgs {
    /// The flow: the id of a live one, a megaflow as Open vSwitch prints it (`in_port(2),eth_type(0x0800),…`), or fields and
    /// values of the language (`tcp.dst=443, ip4.src=10.0.0.0/8, inport=pf0vf0`)
    #[arg(long, value_name = "FLOW")]
    pub flow: String,
    /// Try the rules of this file instead of those in force; needs no daemon
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

impl PolicyQuery {
    /// Whether it is answered without the daemon.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Check { .. } => true,
            Self::Show => false,
            Self::Test(test) => test.config.is_some(),
        }
    }
}

/// Which flows to list.
#[derive(Debug, Clone, PartialEq, Args)]
pub struct FlowListArgs {
    /// Only flows placed there
    #[arg(long, value_enum)]
    pub placement: Option<PlacementFilter>,
    /// Only flows that come in by this port
    #[arg(long, value_name = "NAME")]
    pub port: Option<String>,
    /// Only flows of this NIC
    #[arg(long, value_name = "NUMBER")]
    pub nic: Option<u16>,
    /// Only flows whose reason contains this text
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// Only flows whose match contains this text
    #[arg(long = "match", value_name = "TEXT")]
    pub key: Option<String>,
    /// What to sort by, greatest first
    #[arg(long, value_enum, default_value_t)]
    pub sort: FlowOrder,
    /// Turn the order round
    #[arg(long)]
    pub reverse: bool,
    /// Most flows to list; 0 lists all
    #[arg(long, default_value_t = 50, value_name = "NUMBER")]
    pub limit: usize,
}

/// A placement to filter by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PlacementFilter {
    /// In hardware.
    Hardware,
    /// In software, whether in TC or in the kernel datapath.
    Software,
}

/// What flows can be sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum FlowOrder {
    /// Bits per second now.
    #[default]
    Rate,
    /// Packets since first seen.
    Packets,
    /// Bytes since first seen.
    Bytes,
    /// Time since first seen.
    Age,
    /// Name of the port.
    Port,
}

/// What needs no daemon.
#[derive(Debug, Clone, PartialEq, Subcommand)]
pub enum Local {
    /// Look for what keeps flows out of the NIC, from firmware to flow, and say how to mend it; changes nothing. With --probe:
    /// try what a NIC and its driver take
    #[command(after_help = DOCTOR_STATUS)]
    Doctor(DoctorArgs),
    /// Write the flow table's history to a file for `replay`: which flows there are, and what each moves when
    Record(RecordArgs),
    /// Run the planner on recorded traffic, next to Open vSwitch's rule, an oracle and others; of an event log, check
    /// that the engine still wants what it wanted
    Replay(ReplayArgs),
    /// Print the completions of a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write one for every command
    Man {
        /// Directory to write ovs-offloadctl.1 and a page for each command to
        #[arg(long, value_name = "DIR")]
        directory: Option<PathBuf>,
    },
}
