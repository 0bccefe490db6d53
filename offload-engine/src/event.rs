//! What happens to the engine, and what it wants done.
//!
//! Contract with the shell that carries it out:
//! - every effect with an [`OpId`] is answered by exactly one [`Event::Answer`] with that id, refusals and lost
//!   connections included;
//! - whatever else was read from the kernel or from ovs-vswitchd, the notifications that were queued by then are
//!   delivered before it: the order of changes in TC is what counters and races are judged by;
//! - [`Effect::Journal`] is on stable ground (a file that survives the process) before the effect after it starts.

use crate::chains::ChainRestore;
use crate::counters::Count;
use crate::dpctl::{FlowText, FlowTextError};
use crate::ovs::OvsSettings;
use crate::ports::{NicFacts, NicId, PortFacts};
use crate::probed::ProbedRefusal;
use crate::protection::IpsecPolicy;
use crate::settings::Settings;
use crate::shadow::Abilities;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::IpAddr;
use netlink_wire::ovs_flow::FlowBody;
use netlink_wire::{DpPort, Errno, Ifindex, Ufid};
use policies::Micros;
use policies::rules::Rules;
use tc_flower::{Chain, Filter, FilterAddress, FilterCounters, FilterReport, Location, Prio, ReplaceActions};

/// One thing asked of the shell, to tell its answer by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId(pub u64);

/// One pass over the filters of a location or over the kernel datapath's flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Round(pub u64);

/// Who made a change that a notification tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Author {
    /// We did, in this operation (the notification carries our socket's port id and the request's sequence number).
    Us(OpId),
    /// Open vSwitch, or anybody else.
    Other,
}

/// Who the daemon is connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peer {
    /// ovsdb-server.
    Ovsdb,
    /// ovs-vswitchd's control socket.
    Vswitchd,
    /// The kernel's netlink sockets.
    Netlink,
}

/// What a guard lets us do with rules of our own (mode shadow).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lease {
    /// There is no guard, or it has taken them out: none may be there.
    #[default]
    None,
    /// An earlier daemon's may be there. For a while they may be taken over, before the guard takes them out; none may be made.
    TakingOver,
    /// They may be made, and stay.
    Held,
}

/// A filter to write in the place of the one at its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replacement {
    /// The filter, with the flags it is to have.
    pub filter: Filter,
    /// Whether the kernel makes new actions or keeps those that are there.
    pub actions: ReplaceActions,
}

/// What a filter replacement or removal came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acked {
    /// The driver's or kernel's text, if any.
    pub extack: Option<String>,
}

/// The kernel refused a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The error number.
    pub errno: Errno,
    /// The extended ack's text, if any.
    pub extack: Option<String>,
}

/// What ovs-vswitchd's control socket answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandError {
    /// It answered with an error; its words.
    Failed(String),
    /// The connection was lost before the answer: the command may or may not have been carried out.
    Lost,
    /// It answered what we cannot read.
    Unreadable(FlowTextError),
}

/// The answer to one operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To [`Effect::Replace`].
    Replaced {
        /// The filter as it was the moment before, if it could be read.
        before: Option<Box<FilterReport>>,
        /// What the kernel said to the replacement.
        result: Result<Acked, Refused>,
        /// How long the kernel, and the driver in it, took for reading and replacing: from before the request was sent until
        /// it was answered, and nothing else. Unknown where nothing was sent, or nothing measured.
        took: Option<Micros>,
    },
    /// To [`Effect::Replace`] with `unless_counted`: it has counted something, and is as it was.
    Counted,
    /// To [`Effect::DeleteFilter`].
    FilterDeleted(Result<Acked, Refused>),
    /// To [`Effect::AddFilter`].
    Added {
        /// The filter as the kernel made it, which says where it is.
        made: Option<Box<FilterReport>>,
        /// What the kernel said.
        result: Result<Acked, Refused>,
        /// How long the kernel, and the driver in it, took. Unknown where nothing was sent.
        took: Option<Micros>,
    },
    /// To [`Effect::ReadFlow`].
    FlowRead(Result<FlowText, CommandError>),
    /// To [`Effect::ModifyFlow`] and [`Effect::DeleteFlow`].
    CommandDone(Result<(), CommandError>),
    /// To [`Effect::Detrace`]: what was printed.
    Detraced(Result<String, CommandError>),
}

/// A flow of the OVS kernel datapath.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Megaflow {
    /// Its id. A flow that was installed without one cannot be told from others and is left out.
    pub ufid: Ufid,
    /// The datapath it is in, by the netdev index of its own device: numbers of ports are of one datapath.
    pub dp: Ifindex,
    /// The port it comes in by; a notification of its deletion does not tell.
    pub in_port: Option<DpPort>,
    /// It is kept out of TC for its recirculation alone: the kernel shares no recirculation ids with TC.
    pub needs_chain_restore: bool,
    /// What it moved since it was installed, where that is told.
    pub counted: Option<Count>,
    /// What of it TC cannot express, in words, where that can be seen: the likely reason for its being here.
    pub unfit: Option<String>,
    /// Key, mask and actions. A notification of its deletion does not tell; what is longer than
    /// [`FlowBody::BYTES_MAX`] is not told of at all.
    pub body: Option<FlowBody>,
}

/// What happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The configuration was read or reloaded.
    Settings(Box<Settings>),
    /// The rules of the policy were read or reloaded.
    Policy(Box<Rules>),
    /// OVSDB told what Open vSwitch's settings are.
    Ovs(OvsSettings),
    /// A connection came up or went down.
    Peer {
        /// Which.
        peer: Peer,
        /// Whether it is up.
        up: bool,
    },
    /// OVSDB told which chassis tunnels lead to, by the address of each: all of them.
    Chassis(BTreeMap<IpAddr, String>),
    /// The kernel told which policies of IPsec the host has: all of them that are about tunnels with others.
    Ipsec(Vec<IpsecPolicy>),
    /// The kernel, by what Open vSwitch could turn on, goes on in TC where a NIC stops, or does not.
    ChainRestore(ChainRestore),
    /// A NIC appeared or changed.
    Nic(Box<NicFacts>),
    /// A NIC is gone.
    NicGone(NicId),
    /// A NIC lost all its rules, though TC may still say `in_hw`.
    NicReset(NicId),
    /// What probes saw drivers refuse, all of it: what was told before holds no longer.
    Probed(Vec<ProbedRefusal>),
    /// A port appeared or changed.
    Port(Box<PortFacts>),
    /// A port's netdev is gone.
    PortGone(Ifindex),
    /// Notification: a filter was made or changed.
    FilterNew {
        /// The filter in full.
        report: Box<FilterReport>,
        /// Who did it.
        author: Author,
    },
    /// Notification: a filter was deleted.
    FilterGone {
        /// The filter with its last counters.
        report: Box<FilterReport>,
        /// Who did it.
        author: Author,
    },
    /// Notification: filters went away together, without a message of their own.
    FiltersGone {
        /// Where.
        location: Location,
        /// Of this chain only.
        chain: Option<Chain>,
        /// Of this priority only.
        prio: Option<Prio>,
    },
    /// A terse dump came past a filter.
    FilterCounted {
        /// Which dump.
        round: Round,
        /// Where it is and what it counted.
        counters: FilterCounters,
    },
    /// A full dump came past a filter.
    FilterDumped {
        /// Which dump.
        round: Round,
        /// The filter.
        report: Box<FilterReport>,
    },
    /// A dump of one location ended.
    FiltersDumped {
        /// Which dump.
        round: Round,
        /// Where.
        location: Location,
        /// Whether it saw everything. A dump that the kernel marks interrupted did not.
        complete: bool,
    },
    /// Notification or dump: a flow of the kernel datapath.
    Megaflow {
        /// The dump, or nothing for a notification.
        round: Option<Round>,
        /// The flow.
        flow: Box<Megaflow>,
    },
    /// Notification: a flow of the kernel datapath was deleted.
    MegaflowGone(Box<Megaflow>),
    /// A dump of the kernel datapath's flows ended.
    MegaflowsDumped {
        /// Which dump.
        round: Round,
        /// Whether it saw everything.
        complete: bool,
    },
    /// TC notifications were lost.
    TcOverrun,
    /// OVS datapath notifications were lost.
    DatapathOverrun,
    /// The answer to an operation.
    Answer {
        /// Which.
        op: OpId,
        /// What it says.
        answer: Answer,
    },
    /// What an earlier daemon had in flight when it ended; sent once, before anything else of TC.
    JournalFound(Vec<Ufid>),
    /// The operator wants hardware emptied (`true`) or used again.
    Drain(bool),
    /// One NIC is to be emptied (`on`) or used again, whatever holds for all of them.
    DrainNic {
        /// Which.
        nic: NicId,
        /// Emptied, and kept empty.
        on: bool,
    },
    /// What of TC the kernel has that rules of shadow mode may need.
    Kernel(Abilities),
    /// The guard of mode shadow says otherwise than before.
    Lease(Lease),
    /// The daemon ends: rules of our own are to go, and the mode with them.
    Ending,
    /// The time the engine asked to be woken at has come.
    Wake,
}

/// What the engine wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Dump the filters of a location.
    DumpFilters {
        /// To tell it by.
        round: Round,
        /// Where.
        location: Location,
        /// Counters, flags and cookies only.
        terse: bool,
    },
    /// Dump the kernel datapath's flows.
    DumpMegaflows {
        /// To tell it by.
        round: Round,
    },
    /// Read the filter, then at once replace it: two requests in one batch.
    Replace {
        /// To tell the answer by.
        op: OpId,
        /// The replacement; never with `NLM_F_CREATE`.
        request: Box<Replacement>,
        /// Leave the filter as it is where the reading shows that it has counted something: [`Answer::Counted`]. The two requests
        /// are none of one batch, then.
        unless_counted: bool,
    },
    /// `dpctl/get-flow`.
    ReadFlow {
        /// To tell the answer by.
        op: OpId,
        /// Which.
        ufid: Ufid,
    },
    /// `dpctl/mod-flow` to what the flow already is.
    ModifyFlow {
        /// To tell the answer by.
        op: OpId,
        /// The flow as read.
        flow: Box<FlowText>,
    },
    /// `dpctl/del-flow`: OVS decides about its next packet afresh.
    DeleteFlow {
        /// To tell the answer by.
        op: OpId,
        /// Which.
        ufid: Ufid,
    },
    /// `ofproto/detrace`: the OpenFlow rules that a megaflow is of.
    Detrace {
        /// To tell the answer by.
        op: OpId,
        /// Which.
        ufid: Ufid,
    },
    /// Make a filter where there is none at its address, in the ingress hook of its device, and the qdisc `clsact` for it
    /// where the device has no ingress hook. The kernel chooses its handle.
    AddFilter {
        /// To tell the answer by.
        op: OpId,
        /// The filter, with handle 0; for hardware only.
        filter: Box<Filter>,
    },
    /// Delete a filter of ours that no flow of Open vSwitch stands behind: a replacement that hit another flow's place
    /// when an earlier daemon ended, or a rule of shadow mode.
    DeleteFilter {
        /// To tell the answer by.
        op: OpId,
        /// Which.
        address: FilterAddress,
    },
    /// Tell the guard that an earlier daemon's rules on these devices were taken over as far as they are right, and that those
    /// which are not are being removed: it need not remove them. Those on other devices are for it.
    TookOver {
        /// All that were read.
        devices: Vec<Ifindex>,
        /// How many rules were right.
        rules: usize,
    },
    /// More new megaflows come by a port than mode shadow follows, or no longer: the log is to say so.
    Shed {
        /// Its name.
        port: String,
        /// Whether they do.
        on: bool,
    },
    /// Note the flows that have a command in flight, in place of those noted before.
    Journal(Vec<Ufid>),
}

impl Effect {
    /// Whether it changes anything outside of the daemon.
    pub fn changes_something(&self) -> bool {
        matches!(
            self,
            Self::Replace { .. }
                | Self::ModifyFlow { .. }
                | Self::DeleteFlow { .. }
                | Self::DeleteFilter { .. }
                | Self::AddFilter { .. }
        )
    }
}
