//! An event as it stands in the log.

use netlink_wire::ovs_flow::FlowBody;
use netlink_wire::{DpPort, Ifindex, Message, Ufid};
use offload_engine::shadow::Abilities;
use offload_engine::{
    Author, ChainRestore, Count, Event, Lease, Megaflow, Micros, NicFacts, NicId, OpId, OvsSettings,
    OvsVersion, Peer, Round, Settings, TcPolicy,
};
use serde::{Deserialize, Serialize};
use tc_flower::{BlockIndex, Chain, FilterCounters, Hook, Location, Prio};

use super::Setting;
use super::answer::AnswerEntry;
use super::ipsec::IpsecEntry;
use super::policy::PolicyEntry;
use super::port::PortEntry;
use super::probed::ProbedEntry;
use super::raw::{Hex, Raws, report};
use crate::config::{Assignment, Config, Origin, keys::KEYS};

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Place {
    Device(u32, u32),
    Block(u32),
}

impl Place {
    pub(super) fn of(location: Location) -> Self {
        match location {
            Location::Device { ifindex, hook } => Self::Device(ifindex.0, hook.parent()),
            Location::Block(block) => Self::Block(block.0),
        }
    }

    pub(super) fn location(self) -> Location {
        match self {
            Self::Block(block) => Location::Block(BlockIndex(block)),
            Self::Device(ifindex, parent) => {
                let hooks = [Hook::Ingress, Hook::Egress];
                let hook = hooks.into_iter().find(|hook| hook.parent() == parent);
                Location::Device { ifindex: Ifindex(ifindex), hook: hook.unwrap_or(Hook::Class(parent)) }
            }
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct NicEntry {
    id: u16,
    devlink: String,
    driver: String,
    switch_id: String,
    eswitch_mode: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct FlowEntry {
    ufid: String,
    dp: u32,
    in_port: Option<u32>,
    counted: Option<(u64, u64)>,
    unfit: Option<String>,
    needs_chain_restore: bool,
    /// Key, mask and actions as the kernel sent them.
    body: Option<(Hex, Option<Hex>, Hex)>,
}

/// An event of the log.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Entry {
    Settings(Vec<Setting>),
    Policy(PolicyEntry),
    Ovs {
        version: Option<(u16, u16, u16)>,
        hw_offload: bool,
        tc_policy: String,
        /// Absent where it is not set, and in logs of before it was read.
        #[serde(default)]
        max_idle_us: Option<u64>,
    },
    Peer {
        peer: String,
        up: bool,
    },
    #[serde(rename = "nic")]
    Nic(NicEntry),
    NicGone(u16),
    NicReset(u16),
    Probed(Vec<ProbedEntry>),
    /// Whether the kernel goes on in TC where a NIC stops; nothing where that is not known.
    ChainRestore(Option<bool>),
    /// Address and name.
    Chassis(Vec<(String, String)>),
    Ipsec(Vec<IpsecEntry>),
    #[serde(rename = "port")]
    Port(PortEntry),
    PortGone(u32),
    FilterNew {
        raw: Hex,
        by: Option<u64>,
    },
    FilterGone {
        raw: Hex,
        by: Option<u64>,
    },
    FiltersGone {
        at: Place,
        chain: Option<u32>,
        prio: Option<u16>,
    },
    FilterCounted {
        round: u64,
        raw: Hex,
    },
    FilterDumped {
        round: u64,
        raw: Hex,
    },
    FiltersDumped {
        round: u64,
        at: Place,
        complete: bool,
    },
    Megaflow {
        round: Option<u64>,
        flow: FlowEntry,
    },
    MegaflowGone(FlowEntry),
    MegaflowsDumped {
        round: u64,
        complete: bool,
    },
    TcOverrun,
    DatapathOverrun,
    Answer {
        op: u64,
        answer: AnswerEntry,
    },
    JournalFound(Vec<String>),
    Drain(bool),
    DrainNic {
        nic: u16,
        on: bool,
    },
    /// `tunnel_flags`, `tunnel_no_fragment`
    Kernel(bool, bool),
    /// What the guard lets mode shadow do: `none`, `taking_over` or `held`.
    Lease(String),
    Ending,
    Wake,
    /// An event of a kind that the log does not know; it cannot be replayed.
    Unknown(String),
}

/// The engine's settings from those of the log.
pub(super) fn settings_of(settings: &[Setting]) -> Result<Settings, String> {
    let mut assignments = Vec::new();
    for Setting(name, value) in settings {
        let key = KEYS.iter().find(|key| key.name == name).ok_or_else(|| format!("unknown key {name}"))?;
        let origin = Origin::Whole("log".into());
        assignments.push(Assignment { key, value: value.clone(), origin });
    }
    let config = Config::from_layers(&[&assignments]).map_err(|errors| errors.to_string())?;
    Ok(crate::daemon::engine_settings(&config))
}

const PEERS: [(Peer, &str); 3] =
    [(Peer::Ovsdb, "ovsdb"), (Peer::Vswitchd, "vswitchd"), (Peer::Netlink, "netlink")];
const LEASES: [(Lease, &str); 3] =
    [(Lease::None, "none"), (Lease::TakingOver, "taking_over"), (Lease::Held, "held")];

impl FlowEntry {
    fn of(flow: &Megaflow) -> Self {
        Self {
            ufid: flow.ufid.to_string(),
            dp: flow.dp.0,
            in_port: flow.in_port.map(|port| port.0),
            counted: flow.counted.map(|count| (count.packets, count.bytes)),
            unfit: flow.unfit.clone(),
            needs_chain_restore: flow.needs_chain_restore,
            body: flow.body.as_ref().map(|body| {
                let (key, mask, actions) = body.parts();
                (Hex(key.to_vec()), mask.map(|mask| Hex(mask.to_vec())), Hex(actions.to_vec()))
            }),
        }
    }

    fn flow(self) -> Result<Box<Megaflow>, String> {
        let read = |(key, mask, actions): (Hex, Option<Hex>, Hex)| {
            let body = FlowBody::from_parts(&key.0, mask.as_ref().map(|mask| &*mask.0), &actions.0);
            body.map_err(|error| error.to_string())
        };
        Ok(Box::new(Megaflow {
            ufid: ufid(&self.ufid)?,
            dp: Ifindex(self.dp),
            in_port: self.in_port.map(DpPort),
            counted: self.counted.map(|(packets, bytes)| Count::new(packets, bytes)),
            unfit: self.unfit,
            needs_chain_restore: self.needs_chain_restore,
            body: self.body.map(read).transpose()?,
        }))
    }
}

pub(super) fn ufid(text: &str) -> Result<Ufid, String> {
    text.parse().map_err(|_| format!("{text:?} is no ufid"))
}

fn author(by: Option<u64>) -> Author {
    by.map_or(Author::Other, |op| Author::Us(OpId(op)))
}

fn by(author: Author) -> Option<u64> {
    match author {
        Author::Us(op) => Some(op.0),
        Author::Other => None,
    }
}

impl Entry {
    pub(super) fn of(event: &Event, raws: &mut Raws, settings: impl FnOnce() -> Vec<Setting>) -> Self {
        match event {
            Event::Settings(_) => Self::Settings(settings()),
            Event::Policy(rules) => Self::Policy(PolicyEntry::of(rules)),
            Event::Ovs(ovs) => Self::Ovs {
                version: ovs.version.map(|version| (version.major, version.minor, version.patch)),
                hw_offload: ovs.hw_offload,
                tc_policy: ovs.tc_policy.as_str().to_owned(),
                max_idle_us: ovs.max_idle.map(|time| time.0),
            },
            Event::Peer { peer, up } => {
                let word = PEERS.iter().find(|(known, _)| known == peer).map_or("", |(_, word)| word);
                Self::Peer { peer: word.to_owned(), up: *up }
            }
            Event::Nic(nic) => Self::Nic(NicEntry {
                id: nic.id.0,
                devlink: nic.devlink.clone(),
                driver: nic.driver.clone(),
                switch_id: nic.switch_id.clone(),
                eswitch_mode: nic.eswitch_mode.clone(),
            }),
            Event::NicGone(nic) => Self::NicGone(nic.0),
            Event::NicReset(nic) => Self::NicReset(nic.0),
            Event::Probed(refusals) => Self::Probed(refusals.iter().map(ProbedEntry::of).collect()),
            Event::Chassis(chassis) => Self::Chassis(
                chassis.iter().map(|(address, name)| (address.to_string(), name.clone())).collect(),
            ),
            Event::Ipsec(policies) => Self::Ipsec(policies.iter().map(IpsecEntry::of).collect()),
            Event::Port(port) => Self::Port(PortEntry::of(port)),
            Event::PortGone(ifindex) => Self::PortGone(ifindex.0),
            Event::ChainRestore(restore) => Self::ChainRestore(match restore {
                ChainRestore::Works => Some(true),
                ChainRestore::Missing => Some(false),
                ChainRestore::Unknown => None,
            }),
            Event::Drain(on) => Self::Drain(*on),
            Event::DrainNic { nic, on } => Self::DrainNic { nic: nic.0, on: *on },
            Event::Kernel(has) => Self::Kernel(has.tunnel_flags, has.tunnel_no_fragment),
            Event::Lease(lease) => {
                let word = LEASES.iter().find(|(known, _)| known == lease).map_or("", |(_, word)| word);
                Self::Lease(word.to_owned())
            }
            Event::Ending => Self::Ending,
            Event::Wake => Self::Wake,
            Event::JournalFound(flows) => Self::JournalFound(flows.iter().map(ToString::to_string).collect()),
            Event::Answer { op, answer } => Self::Answer { op: op.0, answer: AnswerEntry::of(answer, raws) },
            reported => Self::of_report(reported, raws),
        }
    }

    fn of_report(event: &Event, raws: &mut Raws) -> Self {
        match event {
            Event::FilterNew { author, .. } => Self::FilterNew { raw: raws.take(), by: by(*author) },
            Event::FilterGone { author, .. } => Self::FilterGone { raw: raws.take(), by: by(*author) },
            Event::FiltersGone { location, chain, prio } => Self::FiltersGone {
                at: Place::of(*location),
                chain: chain.map(|chain| chain.0),
                prio: prio.map(|prio| prio.0),
            },
            Event::FilterCounted { round, .. } => Self::FilterCounted { round: round.0, raw: raws.take() },
            Event::FilterDumped { round, .. } => Self::FilterDumped { round: round.0, raw: raws.take() },
            Event::FiltersDumped { round, location, complete } => {
                Self::FiltersDumped { round: round.0, at: Place::of(*location), complete: *complete }
            }
            Event::Megaflow { round, flow } => {
                Self::Megaflow { round: round.map(|round| round.0), flow: FlowEntry::of(flow) }
            }
            Event::MegaflowGone(flow) => Self::MegaflowGone(FlowEntry::of(flow)),
            Event::MegaflowsDumped { round, complete } => {
                Self::MegaflowsDumped { round: round.0, complete: *complete }
            }
            Event::TcOverrun => Self::TcOverrun,
            Event::DatapathOverrun => Self::DatapathOverrun,
            other => Self::Unknown(format!("{other:?}")),
        }
    }

    pub(super) fn into_event(self) -> Result<Event, String> {
        Ok(match self {
            Self::Settings(settings) => Event::Settings(Box::new(settings_of(&settings)?)),
            Self::Policy(policy) => Event::Policy(Box::new(policy.rules()?)),
            Self::Ovs { version, hw_offload, tc_policy, max_idle_us } => Event::Ovs(OvsSettings {
                version: version.map(|(major, minor, patch)| OvsVersion::new(major, minor, patch)),
                hw_offload,
                tc_policy: TcPolicy::parse(&tc_policy),
                max_idle: max_idle_us.map(Micros),
            }),
            Self::Peer { peer, up } => {
                let known = PEERS.iter().find(|(_, word)| *word == peer);
                let (peer, _) = known.ok_or_else(|| format!("unknown peer {peer}"))?;
                Event::Peer { peer: *peer, up }
            }
            Self::Nic(NicEntry { id, devlink, driver, switch_id, eswitch_mode }) => {
                Event::Nic(Box::new(NicFacts { id: NicId(id), devlink, driver, switch_id, eswitch_mode }))
            }
            Self::NicGone(nic) => Event::NicGone(NicId(nic)),
            Self::NicReset(nic) => Event::NicReset(NicId(nic)),
            Self::Probed(refusals) => {
                Event::Probed(refusals.into_iter().map(ProbedEntry::refusal).collect::<Result<_, _>>()?)
            }
            Self::Chassis(chassis) => {
                let told = |(address, name): (String, String)| match address.parse() {
                    Ok(address) => Ok((address, name)),
                    Err(_) => Err(format!("no address of a chassis: {address}")),
                };
                Event::Chassis(chassis.into_iter().map(told).collect::<Result<_, _>>()?)
            }
            Self::Port(port) => Event::Port(Box::new(port.facts()?)),
            Self::PortGone(ifindex) => Event::PortGone(Ifindex(ifindex)),
            Self::Answer { op, answer } => Event::Answer { op: OpId(op), answer: answer.answer()? },
            Self::JournalFound(flows) => {
                Event::JournalFound(flows.iter().map(|text| ufid(text)).collect::<Result<_, _>>()?)
            }
            Self::Ipsec(policies) => {
                Event::Ipsec(policies.into_iter().map(IpsecEntry::policy).collect::<Result<_, _>>()?)
            }
            Self::ChainRestore(works) => Event::ChainRestore(match works {
                Some(true) => ChainRestore::Works,
                Some(false) => ChainRestore::Missing,
                None => ChainRestore::Unknown,
            }),
            Self::Drain(on) => Event::Drain(on),
            Self::DrainNic { nic, on } => Event::DrainNic { nic: NicId(nic), on },
            Self::Kernel(tunnel_flags, tunnel_no_fragment) => {
                Event::Kernel(Abilities { tunnel_flags, tunnel_no_fragment })
            }
            Self::Lease(word) => {
                let known = LEASES.iter().find(|(_, known)| *known == word);
                let (lease, _) = known.ok_or_else(|| format!("unknown lease {word}"))?;
                Event::Lease(*lease)
            }
            Self::Ending => Event::Ending,
            Self::Wake => Event::Wake,
            Self::Unknown(event) => return Err(format!("this event cannot be replayed: {event}")),
            reported => reported.into_report()?,
        })
    }

    fn into_report(self) -> Result<Event, String> {
        Ok(match self {
            Self::FilterNew { raw, by } => Event::FilterNew { report: report(&raw)?, author: author(by) },
            Self::FilterGone { raw, by } => Event::FilterGone { report: report(&raw)?, author: author(by) },
            Self::FiltersGone { at, chain, prio } => {
                Event::FiltersGone { location: at.location(), chain: chain.map(Chain), prio: prio.map(Prio) }
            }
            Self::FilterCounted { round, raw } => {
                let message = Message::first(&raw.0).map_err(|error| error.to_string())?;
                let counters = FilterCounters::decode(&message).map_err(|error| error.to_string())?;
                let counters = counters.ok_or("the message is no filter")?;
                Event::FilterCounted { round: Round(round), counters }
            }
            Self::FilterDumped { round, raw } => {
                Event::FilterDumped { round: Round(round), report: report(&raw)? }
            }
            Self::FiltersDumped { round, at, complete } => {
                Event::FiltersDumped { round: Round(round), location: at.location(), complete }
            }
            Self::Megaflow { round, flow } => Event::Megaflow { round: round.map(Round), flow: flow.flow()? },
            Self::MegaflowGone(flow) => Event::MegaflowGone(flow.flow()?),
            Self::MegaflowsDumped { round, complete } => {
                Event::MegaflowsDumped { round: Round(round), complete }
            }
            Self::TcOverrun => Event::TcOverrun,
            Self::DatapathOverrun => Event::DatapathOverrun,
            other => return Err(format!("this event cannot be replayed: {other:?}")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_of_the_kernel_datapath_comes_back_from_the_log_as_it_was() {
        let body =
            FlowBody::from_parts(&[8, 0, 3, 0, 5, 0, 0, 0], Some(&[8, 0, 3, 0, 0xff, 0xff, 0xff, 0xff]), &[]);
        let flow = Megaflow {
            ufid: "a8a8cb2c-1b0d-4b0b-8a7c-8b3e3b1a5a01".parse().unwrap(),
            dp: Ifindex(9),
            in_port: Some(DpPort(5)),
            counted: Some(Count::new(3, 300)),
            unfit: None,
            needs_chain_restore: false,
            body: Some(body.unwrap()),
        };
        for flow in [flow.clone(), Megaflow { body: None, ..flow }] {
            let text = serde_json::to_string(&FlowEntry::of(&flow)).unwrap();
            let read: FlowEntry = serde_json::from_str(&text).unwrap();
            assert_eq!(*read.flow().unwrap(), flow, "{text}");
        }
    }
}
