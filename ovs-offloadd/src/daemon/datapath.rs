//! The kernel datapath of Open vSwitch: its ports and flows, by dump and by notification.
//!
//! The families come with the module `openvswitch`, which generic netlink's controller tells of; until then every dump is
//! empty. Nothing is asked for by a timer, but for what could not be read.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;

use netlink_wire::genl::{self, FamilyEvent, FamilyId, FamilyReport, GENL_ID_CTRL};
use netlink_wire::message::Control;
use netlink_wire::ovs_datapath::{self, Change, Datapath};
use netlink_wire::ovs_flow::{self, FlowBody, Megaflow, Omit};
use netlink_wire::ovs_vport::{self, Vport};
use netlink_wire::{Ifindex, Message, Messages, Seq};
use offload_engine::{ChainRestore, Count, Event, Round};
use tracing::{debug, info, warn};

use super::tc::Dropped;
use crate::io::netlink::{DATAGRAM_BYTES_MAX, Protocol, Received, Socket};

const BUFFERS_PER_TURN: usize = 64;
/// Notifications read before an answer at most: as many as a socket of some 50 MB holds. Where there are more, they come
/// faster than they are read.
const BUFFERS_BEFORE_ANSWER: usize = 1 << 16;

/// What the datapath's sockets tell.
#[derive(Debug)]
pub(crate) enum Told {
    /// For the engine.
    Event(Event),
    /// A port exists or changed.
    Port(Vport),
    /// A port is gone.
    PortGone(Vport),
    /// All ports have been told, once more: those not told are gone.
    PortsComplete(Vec<Vport>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Families {
    datapath: FamilyId,
    vport: FamilyId,
    flow: FamilyId,
}

/// Steps of a reading, in the order in which they are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Family(&'static str),
    Datapaths,
    Ports(Ifindex),
    Flows(Round, Ifindex),
    /// Nothing is asked: all flows of a round have been told.
    FlowsEnd(Round),
    PortsEnd,
}

#[derive(Debug)]
struct Running {
    step: Step,
    seq: Seq,
    interrupted: bool,
}

/// The sockets of the kernel datapath.
#[derive(Debug)]
pub(crate) struct KernelDatapath {
    requests: Socket,
    notifications: Socket,
    found: BTreeMap<&'static str, FamilyReport>,
    families: Option<Families>,
    // By their device, and whether they share recirculation ids with TC.
    datapaths: BTreeMap<Ifindex, bool>,
    ports: Vec<Vport>,
    // Whether all datapaths of a round could be read whole.
    rounds_incomplete: BTreeSet<Round>,
    ports_interrupted: bool,
    // What was asked could not be read whole.
    look_again: bool,
    waiting: VecDeque<Step>,
    running: Option<Running>,
    next_seq: u32,
    buffer: Vec<u8>,
    notification_buffer: Vec<u8>,
    pub(crate) dropped: Dropped,
    pub(crate) overruns: u64,
}

/// Which socket has something to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ready {
    Notifications(Received),
    Requests(Received),
}

const FAMILIES: [&str; 3] = [ovs_datapath::FAMILY, ovs_vport::FAMILY, ovs_flow::FAMILY];

impl KernelDatapath {
    /// Opens the sockets and hears of families from here on; [`look`](Self::look) finds those there are.
    pub(crate) fn open(receive_bytes: usize) -> io::Result<Self> {
        let notifications = Socket::open(Protocol::Generic, receive_bytes)?;
        notifications.join(genl::CONTROL_GROUP.0)?;
        Ok(Self {
            requests: Socket::open(Protocol::Generic, 1 << 20)?,
            notifications,
            found: BTreeMap::new(),
            families: None,
            datapaths: BTreeMap::new(),
            ports: Vec::new(),
            rounds_incomplete: BTreeSet::new(),
            ports_interrupted: false,
            look_again: false,
            waiting: VecDeque::new(),
            running: None,
            next_seq: 1,
            buffer: vec![0; DATAGRAM_BYTES_MAX],
            notification_buffer: vec![0; DATAGRAM_BYTES_MAX],
            dropped: Dropped::default(),
            overruns: 0,
        })
    }

    /// Whether the module is there.
    pub(crate) fn is_there(&self) -> bool {
        self.families.is_some()
    }

    /// Looks again where what there is could not be read whole. To be called from time to time.
    pub(crate) fn retry(&mut self, told: &mut Vec<Told>) {
        if std::mem::take(&mut self.look_again) {
            self.look(told);
        }
    }

    /// Finds what there is: the families first, then datapaths and ports.
    pub(crate) fn look(&mut self, told: &mut Vec<Told>) {
        let busy =
            |step: &Step| matches!(step, Step::Family(_) | Step::Datapaths | Step::Ports(_) | Step::PortsEnd);
        if self.waiting.iter().any(busy) || self.running.as_ref().is_some_and(|running| busy(&running.step)) {
            return;
        }
        if self.families.is_none() {
            self.waiting.extend(FAMILIES.map(Step::Family));
        }
        self.waiting.push_back(Step::Datapaths);
        self.go_on(told);
    }

    /// Reads all flows.
    pub(crate) fn dump(&mut self, round: Round, told: &mut Vec<Told>) {
        for dp in self.datapaths.keys() {
            self.waiting.push_back(Step::Flows(round, *dp));
        }
        self.waiting.push_back(Step::FlowsEnd(round));
        self.go_on(told);
    }

    /// Waits for a socket to have something. Cancel-safe: nothing is awaited after a socket was read.
    pub(crate) async fn ready(&mut self) -> io::Result<Ready> {
        tokio::select! {
            biased;
            received = self.notifications.receive(&mut self.notification_buffer) => {
                Ok(Ready::Notifications(received?))
            }
            received = self.requests.receive(&mut self.buffer) => Ok(Ready::Requests(received?)),
        }
    }

    /// Takes what [`ready`](Self::ready) told of.
    pub(crate) fn take(&mut self, ready: Ready, told: &mut Vec<Told>) -> io::Result<()> {
        match ready {
            Ready::Notifications(received) => {
                self.take_notifications(received, told);
                self.take_queued(BUFFERS_PER_TURN, told)?;
            }
            Ready::Requests(received) => {
                // What was queued by now comes before what was asked: the order is what the engine judges a dump by.
                if !self.take_queued(BUFFERS_BEFORE_ANSWER, told)? {
                    told.push(Told::Event(Event::DatapathOverrun));
                }
                self.take_answers(received, told);
                self.go_on(told);
            }
        }
        Ok(())
    }

    /// Takes notifications that are queued; whether there is none left.
    fn take_queued(&mut self, buffers: usize, told: &mut Vec<Told>) -> io::Result<bool> {
        for _ in 0..buffers {
            match self.notifications.try_receive(&mut self.notification_buffer)? {
                Received::Nothing => return Ok(true),
                received => self.take_notifications(received, told),
            }
        }
        Ok(false)
    }

    fn go_on(&mut self, told: &mut Vec<Told>) {
        while self.running.is_none() {
            let Some(step) = self.waiting.pop_front() else { return };
            let seq = Seq(self.next_seq);
            self.next_seq = self.next_seq.checked_add(1).unwrap_or(1);
            let request = match (step, self.families) {
                (Step::Family(name), _) => genl::get_family(name, seq),
                (Step::FlowsEnd(round), _) => {
                    let complete = !self.rounds_incomplete.remove(&round);
                    told.push(Told::Event(Event::MegaflowsDumped { round, complete }));
                    continue;
                }
                (Step::PortsEnd, _) => {
                    let ports = std::mem::take(&mut self.ports);
                    match std::mem::take(&mut self.ports_interrupted) {
                        false => told.push(Told::PortsComplete(ports)),
                        true => self.look_again = true,
                    }
                    continue;
                }
                (_, None) => continue,
                (Step::Datapaths, Some(families)) => ovs_datapath::dump(families.datapath, seq),
                (Step::Ports(dp), Some(families)) => ovs_vport::dump(families.vport, dp, seq),
                (Step::Flows(_, dp), Some(families)) => {
                    ovs_flow::dump(families.flow, dp, Omit::default(), seq)
                }
            };
            let running = Running { step, seq, interrupted: false };
            if let Err(error) = self.requests.send(&request) {
                warn!(%error, ?step, "cannot ask the kernel datapath");
                self.finish(running, false, told);
                continue;
            }
            if step == Step::Datapaths {
                self.datapaths.clear();
            }
            self.running = Some(running);
        }
    }

    fn finish(&mut self, running: Running, complete: bool, told: &mut Vec<Told>) {
        let complete = complete && !running.interrupted;
        match running.step {
            Step::Flows(round, _) if !complete => {
                self.rounds_incomplete.insert(round);
            }
            Step::Ports(_) if !complete => self.ports_interrupted = true,
            Step::Datapaths => {
                if complete {
                    told.push(Told::Event(self.chain_restore()));
                }
                self.ports.clear();
                self.ports_interrupted = !complete;
                self.waiting.push_front(Step::PortsEnd);
                for dp in self.datapaths.keys() {
                    self.waiting.push_front(Step::Ports(*dp));
                }
            }
            Step::Family(ovs_flow::FAMILY) => self.join(told),
            _ => {}
        }
    }

    /// Open vSwitch asks for shared recirculation ids wherever it offloads, and the kernel refuses that where it cannot go on in
    /// TC where a NIC stops (`ovs_dp_change()`). A datapath that nobody asked that of tells nothing, but is like one that was
    /// refused; nothing is in TC then.
    fn chain_restore(&self) -> Event {
        Event::ChainRestore(match self.datapaths.values().min() {
            Some(true) => ChainRestore::Works,
            Some(false) => ChainRestore::Missing,
            None => ChainRestore::Unknown,
        })
    }

    fn join(&mut self, told: &mut Vec<Told>) {
        let id = |name: &str| self.found.get(name).map(|family| family.id);
        let families = (id(ovs_datapath::FAMILY), id(ovs_vport::FAMILY), id(ovs_flow::FAMILY));
        let (Some(datapath), Some(vport), Some(flow)) = families else { return };
        let groups = [ovs_datapath::GROUP, ovs_vport::GROUP, ovs_flow::GROUP];
        for (family, group) in FAMILIES.iter().zip(groups) {
            let Some(number) = self.found.get(family).and_then(|report| report.group(group)) else {
                continue;
            };
            if let Err(error) = self.notifications.join(number.0) {
                warn!(%error, group, "cannot hear notifications of the kernel datapath");
            }
        }
        self.families = Some(Families { datapath, vport, flow });
        // Flows made before the group was joined were not told.
        told.push(Told::Event(Event::DatapathOverrun));
        info!("kernel datapath found");
    }

    fn take_answers(&mut self, received: Received, told: &mut Vec<Told>) {
        let length = match received {
            Received::Bytes(length) => length,
            Received::Nothing => return,
            Received::Overrun => {
                self.overruns += 1;
                if let Some(running) = self.running.take() {
                    self.finish(running, false, told);
                }
                return;
            }
        };
        let buffer = std::mem::take(&mut self.buffer);
        for message in Messages::new(&buffer[..length]) {
            match message {
                Ok(message) => self.take_answer(&message, told),
                Err(malformed) => {
                    warn!(%malformed, "answer of the kernel datapath dropped");
                    self.dropped.0 += 1;
                }
            }
        }
        self.buffer = buffer;
    }

    fn take_answer(&mut self, message: &Message<'_>, told: &mut Vec<Told>) {
        let Some(running) = self.running.as_mut().filter(|running| running.seq == message.header.seq) else {
            return;
        };
        running.interrupted |= message.header.dump_was_interrupted();
        match message.control() {
            Ok(Some(Control::Done(answer) | Control::Answer(answer))) => {
                // A datapath that went away between two steps is no error.
                let complete = answer.is_success();
                if let Some(running) = self.running.take() {
                    self.finish(running, complete, told);
                }
            }
            Ok(Some(_)) => {}
            Ok(None) => self.take_part(message, told),
            Err(malformed) => {
                warn!(%malformed, "answer of the kernel datapath is malformed");
                self.dropped.0 += 1;
            }
        }
    }

    fn take_part(&mut self, message: &Message<'_>, told: &mut Vec<Told>) {
        let Some(running) = self.running.as_mut() else { return };
        let outcome = match running.step {
            Step::Family(name) => FamilyReport::decode(message).map(|family| {
                self.found.insert(name, family);
            }),
            Step::Datapaths => Datapath::decode(message).map(|datapath| {
                self.datapaths.insert(datapath.ifindex, datapath.features.shares_recirc_ids_with_tc());
            }),
            Step::Ports(_) => Vport::decode(message).map(|port| self.ports.push(port)),
            Step::Flows(round, dp) => Megaflow::decode_with_body(message).map(|(flow, body)| {
                let shares = self.datapaths.get(&dp).copied().unwrap_or(true);
                let flow = for_engine(&flow, body, shares).map(Box::new);
                told.extend(flow.map(|flow| Told::Event(Event::Megaflow { round: Some(round), flow })));
            }),
            Step::FlowsEnd(_) | Step::PortsEnd => Ok(()),
        };
        if let Err(malformed) = outcome {
            debug!(%malformed, "part of a datapath dump dropped");
            self.dropped.0 += 1;
            running.interrupted = true;
        }
    }

    fn take_notifications(&mut self, received: Received, told: &mut Vec<Told>) {
        let length = match received {
            Received::Bytes(length) => length,
            Received::Nothing => return,
            Received::Overrun => {
                self.overruns += 1;
                told.push(Told::Event(Event::DatapathOverrun));
                self.look(told);
                return;
            }
        };
        let buffer = std::mem::take(&mut self.notification_buffer);
        for message in Messages::new(&buffer[..length]) {
            let outcome = message.and_then(|message| match self.families {
                _ if message.header.kind == GENL_ID_CTRL.0 => self.take_family(&message, told),
                Some(families) => self.notified(&message, families, told),
                None => Ok(()),
            });
            if let Err(malformed) = outcome {
                debug!(%malformed, "datapath notification dropped");
                self.dropped.0 += 1;
            }
        }
        self.notification_buffer = buffer;
    }

    /// A family came or went.
    fn take_family(
        &mut self,
        message: &Message<'_>,
        told: &mut Vec<Told>,
    ) -> Result<(), netlink_wire::Malformed> {
        match FamilyEvent::decode(message)? {
            // It is registered last of those that are needed.
            FamilyEvent::New(family) if *family.name == *ovs_flow::FAMILY => self.look(told),
            FamilyEvent::Gone(family) if *family.name == *ovs_flow::FAMILY => {
                self.families = None;
                self.found.clear();
                self.datapaths.clear();
                told.push(Told::PortsComplete(Vec::new()));
                told.push(Told::Event(Event::DatapathOverrun));
                info!("the kernel datapath is gone");
            }
            _ => {}
        }
        Ok(())
    }

    fn notified(
        &mut self,
        message: &Message<'_>,
        families: Families,
        told: &mut Vec<Told>,
    ) -> Result<(), netlink_wire::Malformed> {
        let kind = FamilyId(message.header.kind);
        if kind == families.flow {
            let (flow, body) = Megaflow::decode_with_body(message)?;
            let shares = self.datapaths.get(&flow.counters.dp).copied().unwrap_or(true);
            let change = flow.counters.change;
            let Some(flow) = for_engine(&flow, body, shares).map(Box::new) else { return Ok(()) };
            told.push(Told::Event(match change {
                Change::Deleted => Event::MegaflowGone(flow),
                Change::New | Change::Set => Event::Megaflow { round: None, flow },
            }));
        } else if kind == families.vport {
            let port = Vport::decode(message)?;
            told.push(match port.change {
                Change::Deleted => Told::PortGone(port),
                Change::New | Change::Set => Told::Port(port),
            });
        } else if kind == families.datapath {
            let datapath = Datapath::decode(message)?;
            match datapath.change {
                Change::Deleted => {
                    // Its flows go without a word each.
                    self.datapaths.remove(&datapath.ifindex);
                    told.push(Told::Event(Event::DatapathOverrun));
                }
                // What there is, is looked at below.
                Change::New | Change::Set => {
                    let shares = datapath.features.shares_recirc_ids_with_tc();
                    self.datapaths.insert(datapath.ifindex, shares);
                }
            }
            self.look(told);
        }
        Ok(())
    }
}

/// A flow as the engine wants to hear of it; none for one without an id, which cannot be told from others.
fn for_engine(
    flow: &Megaflow<'_>,
    body: Option<FlowBody>,
    shares_recirc_ids: bool,
) -> Option<offload_engine::Megaflow> {
    let counters = &flow.counters;
    Some(offload_engine::Megaflow {
        ufid: counters.ufid?,
        dp: counters.dp,
        in_port: flow.keys.as_ref().and_then(|keys| keys.in_port).map(|port| port.value),
        counted: Some(Count::new(counters.stats.packets, counters.stats.bytes)),
        unfit: super::unfit::reason(flow, shares_recirc_ids),
        needs_chain_restore: super::unfit::needs_chain_restore(flow, shares_recirc_ids),
        body,
    })
}
