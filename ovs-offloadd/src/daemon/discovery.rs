//! Links, devlink, ethtool and device events: everything is read once, and from then on notifications say what changes.
//!
//! What no notification says — an eswitch's modes, virtual functions, resources — is asked for when a notification says
//! that something changed there. Nothing is asked for by a timer, but for what could not be answered.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use netlink_wire::devlink::{self, Handle};
use netlink_wire::ethtool::{FeatureBit, FeatureBits};
use netlink_wire::genl::FamilyId;
use netlink_wire::link::{self, Link};
use netlink_wire::uevent::{self, Uevent};
use netlink_wire::{Ifindex, Malformed, Message, Messages};
use offload_engine::{Event, NicId};
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

use super::groups::{Families, Heard, Source, join};
use super::reader::{self, Question, Told};
use super::tc::Dropped;
use crate::inventory::{Inventory, Open};
use crate::io::netlink::{DATAGRAM_BYTES_MAX, Protocol, Received, Socket};

const BUFFERS_PER_TURN: usize = 64;
/// Questions that wait: those about single NICs are bounded by the NICs, the others by their kinds.
const WAITING_MAX: usize = 4_096;

/// Questions for one thread: at most one is under way.
#[derive(Debug)]
struct Lane {
    ask: mpsc::Sender<Question>,
    waiting: VecDeque<Question>,
    running: Option<Question>,
}

/// The sockets and threads that find ports and NICs.
#[derive(Debug)]
pub(crate) struct Discovery {
    links: Socket,
    generic: Socket,
    uevents: Option<Socket>,
    devlink: Option<FamilyId>,
    ethtool: Option<(FamilyId, FeatureBit)>,
    // One for what takes the lock of links, one for what takes those of devlink instances.
    lanes: [Lane; 2],
    told: mpsc::Receiver<Told>,
    failed: Vec<Question>,
    new_devices: Vec<Ifindex>,
    gone: Vec<Ifindex>,
    reset: Vec<Ifindex>,
    began: Instant,
    complete_after: Option<Duration>,
    buffers: [Vec<u8>; 3],
    heard: [Heard; Source::ALL.len()],
    asked: u64,
    pub(crate) dropped: Dropped,
    pub(crate) overruns: u64,
}

/// What there is to take.
#[derive(Debug)]
pub(crate) enum Ready {
    Links(Received),
    Generic(Received),
    Uevent(Received),
    Told(Told),
}

impl Discovery {
    /// Opens the sockets, hears changes from here on, and asks for all there is.
    pub(crate) async fn open(receive_bytes: usize, inventory: &mut Inventory) -> io::Result<Self> {
        let began = Instant::now();
        let links = Socket::open(Protocol::Route, receive_bytes)?;
        links.join(link::RTNLGRP_LINK)?;
        let generic = Socket::open(Protocol::Generic, receive_bytes)?;
        let Families { devlink, ethtool } = join(&generic).await;
        let uevents = Socket::open(Protocol::Uevent, receive_bytes).and_then(|socket| {
            socket.join(uevent::KERNEL_GROUP)?;
            Ok(socket)
        });
        let uevents = uevents.inspect_err(|error| warn!(%error, "device events will not be heard")).ok();
        let (tell, told) = mpsc::channel(2);
        let lane = |name| -> io::Result<Lane> {
            Ok(Lane { ask: reader::start(name, tell.clone())?, waiting: VecDeque::new(), running: None })
        };
        let mut discovery = Self {
            links,
            generic,
            uevents,
            devlink,
            ethtool,
            lanes: [lane("reads-links")?, lane("reads-nics")?],
            told,
            failed: Vec::new(),
            new_devices: Vec::new(),
            gone: Vec::new(),
            reset: Vec::new(),
            began,
            complete_after: None,
            buffers: std::array::from_fn(|_| vec![0; DATAGRAM_BYTES_MAX]),
            heard: [Heard::default(); Source::ALL.len()],
            asked: 0,
            dropped: Dropped::default(),
            overruns: 0,
        };
        discovery.look();
        discovery.go_on(inventory);
        Ok(discovery)
    }

    /// What was heard, by source.
    pub(crate) fn heard(&self) -> [(Source, Heard); Source::ALL.len()] {
        std::array::from_fn(|index| (Source::ALL[index], self.heard[index]))
    }

    /// Questions that were asked of the kernel.
    pub(crate) fn asked(&self) -> u64 {
        self.asked
    }

    /// How long it took from [`open`](Self::open) until everything had been read; none before.
    pub(crate) fn complete_after(&self) -> Option<Duration> {
        self.complete_after
    }

    /// Reads everything afresh.
    fn look(&mut self) {
        let all =
            [Question::Links, Question::Features, Question::Instances, Question::Ports, Question::Health];
        for question in all.into_iter().chain([Question::Infos]) {
            self.want(question);
        }
    }

    fn want(&mut self, question: Question) {
        let lane = &mut self.lanes[usize::from(!question.is_of_links())];
        if let Question::FeaturesOf(more) = &question {
            let waits = lane.waiting.iter_mut().find_map(|waiting| match waiting {
                Question::FeaturesOf(devices) => Some(devices),
                _ => None,
            });
            if let Some(devices) = waits {
                devices.extend(more);
                return;
            }
        }
        if lane.waiting.len() < WAITING_MAX && !lane.waiting.contains(&question) {
            lane.waiting.push_back(question);
        }
    }

    /// Asks again what could not be answered. To be called from time to time; does nothing where there is nothing.
    pub(crate) fn retry(&mut self, inventory: &mut Inventory) {
        for question in std::mem::take(&mut self.failed) {
            self.want(question);
        }
        self.go_on(inventory);
    }

    /// Asks how much of their resources NICs use, which nobody tells. Whether there is anything to wait for.
    pub(crate) fn want_resources(&mut self, inventory: &mut Inventory) -> bool {
        let handles: Vec<Handle> = inventory.with_resources().cloned().collect();
        for handle in &handles {
            self.want(Question::Resources(handle.clone()));
        }
        self.go_on(inventory);
        !handles.is_empty()
    }

    /// Whether all resources that were asked for have been read.
    pub(crate) fn resources_are_read(&self) -> bool {
        let of_resources = |question: &Question| matches!(question, Question::Resources(_));
        let [_, of_nics] = &self.lanes;
        !of_nics.running.as_ref().is_some_and(of_resources) && !of_nics.waiting.iter().any(of_resources)
    }

    /// Whether everything that was asked has been answered.
    fn is_idle(&self) -> bool {
        self.lanes.iter().all(|lane| lane.running.is_none() && lane.waiting.is_empty())
    }

    /// Waits for something to take. Cancel-safe: nothing is awaited after a socket was read.
    pub(crate) async fn ready(&mut self) -> io::Result<Ready> {
        let [links, generic, uevents] = &mut self.buffers;
        tokio::select! {
            biased;
            received = self.links.receive(links) => Ok(Ready::Links(received?)),
            received = self.generic.receive(generic) => Ok(Ready::Generic(received?)),
            received = async {
                match &self.uevents {
                    Some(socket) => socket.receive(uevents).await,
                    None => std::future::pending().await,
                }
            } => Ok(Ready::Uevent(received?)),
            Some(told) = self.told.recv() => Ok(Ready::Told(told)),
        }
    }

    /// Takes what [`ready`](Self::ready) gave, and what else is there of its kind.
    pub(crate) fn take(
        &mut self,
        ready: Ready,
        inventory: &mut Inventory,
        events: &mut Vec<Event>,
    ) -> io::Result<()> {
        let mut reset = Vec::new();
        match ready {
            Ready::Told(told) => self.take_told(told, inventory),
            Ready::Links(received) => {
                self.take_all(
                    0,
                    received,
                    |this| this.links.try_receive(&mut this.buffers[0]),
                    |this, bytes| {
                        this.take_messages(bytes, |this, message| this.take_link(message, inventory));
                    },
                )?;
            }
            Ready::Generic(received) => {
                self.take_all(
                    1,
                    received,
                    |this| this.generic.try_receive(&mut this.buffers[1]),
                    |this, bytes| {
                        this.take_messages(bytes, |this, message| {
                            this.take_generic(message, inventory, &mut reset)
                        });
                    },
                )?;
            }
            Ready::Uevent(received) => {
                let again = |this: &mut Self| match &this.uevents {
                    Some(socket) => socket.try_receive(&mut this.buffers[2]),
                    None => Ok(Received::Nothing),
                };
                self.take_all(2, received, again, |this, bytes| this.take_uevent(bytes, inventory))?;
            }
        }
        if !self.new_devices.is_empty() {
            let devices = std::mem::take(&mut self.new_devices);
            self.want(Question::FeaturesOf(devices));
        }
        for handle in inventory.take_recovered() {
            info!(nic = %handle, "its firmware was reset: what hardware had of it is placed anew");
            reset.extend(inventory.nics_of(&handle));
            self.reset.extend(inventory.uplinks_of(&handle));
        }
        events.extend(reset.into_iter().map(Event::NicReset));
        self.go_on(inventory);
        Ok(())
    }

    /// Uplinks whose NIC's firmware was reset since this was last asked.
    pub(crate) fn take_reset(&mut self) -> Vec<Ifindex> {
        std::mem::take(&mut self.reset)
    }

    /// Devices that have gone, or were set down, since this was last asked.
    pub(crate) fn take_gone(&mut self) -> Vec<Ifindex> {
        std::mem::take(&mut self.gone)
    }

    /// Takes what was received and what else waits on that socket, up to a turn's worth.
    fn take_all(
        &mut self,
        buffer: usize,
        mut received: Received,
        mut again: impl FnMut(&mut Self) -> io::Result<Received>,
        mut take: impl FnMut(&mut Self, &[u8]),
    ) -> io::Result<()> {
        let mut more = BUFFERS_PER_TURN;
        loop {
            match received {
                Received::Nothing => return Ok(()),
                Received::Overrun => {
                    self.overruns += 1;
                    self.look();
                }
                Received::Bytes(length) => {
                    let bytes = std::mem::take(&mut self.buffers[buffer]);
                    take(self, &bytes[..length]);
                    self.buffers[buffer] = bytes;
                }
            }
            // Only here, with everything taken: what was received is not there to be received again.
            if more == 0 {
                return Ok(());
            }
            more -= 1;
            received = again(self)?;
        }
    }

    fn take_messages(
        &mut self,
        bytes: &[u8],
        mut take: impl FnMut(&mut Self, &Message<'_>) -> Result<(), Malformed>,
    ) {
        for message in Messages::new(bytes) {
            if let Err(malformed) = message.and_then(|message| take(self, &message)) {
                debug!(%malformed, "message about links or NICs dropped");
                self.dropped.0 += 1;
            }
        }
    }

    fn count(&mut self, source: Source, is_update: bool) {
        let heard = &mut self.heard[source as usize];
        heard.notifications += 1;
        heard.updates += u64::from(is_update);
    }

    fn take_link(&mut self, message: &Message<'_>, inventory: &mut Inventory) -> Result<(), Malformed> {
        let link = Link::decode(message)?;
        self.count(Source::Link, !link.of_bridge);
        if !link.of_bridge && (link.deleted || !link.flags.is_up()) {
            self.gone.push(link.ifindex);
        }
        let ifindex = link.ifindex;
        let open = inventory.link(link);
        self.take_open(ifindex, open, inventory);
        Ok(())
    }

    fn take_open(&mut self, ifindex: Ifindex, open: Open, inventory: &Inventory) {
        if open.features {
            self.new_devices.push(ifindex);
        }
        if let Some(handle) = open.nic {
            self.want(Question::Nic(handle));
        }
        if let Some(bus) = open.bus {
            let handles: Vec<Handle> = inventory.with_functions(&bus).cloned().collect();
            for handle in handles {
                self.want(Question::Nic(handle));
            }
        }
    }

    fn take_generic(
        &mut self,
        message: &Message<'_>,
        inventory: &mut Inventory,
        reset: &mut Vec<NicId>,
    ) -> Result<(), Malformed> {
        let family = FamilyId(message.header.kind);
        if Some(family) == self.devlink {
            return self.take_devlink(message, inventory, reset);
        }
        if let Some((ethtool, bit)) = self.ethtool
            && family == ethtool
        {
            let features = FeatureBits::decode(message)?;
            self.count(Source::Ethtool, features.is_some());
            if let Some(features) = features {
                inventory.feature(features.ifindex, features.feature(bit));
            }
        }
        Ok(())
    }

    fn take_devlink(
        &mut self,
        message: &Message<'_>,
        inventory: &mut Inventory,
        reset: &mut Vec<NicId>,
    ) -> Result<(), Malformed> {
        let event = devlink::Report::decode(message)?.event;
        self.count(Source::Devlink, !matches!(event, devlink::Event::Other(_)));
        match event {
            devlink::Event::Instance(instance) => {
                // An instance that is told anew came up from a reload: its rules are gone.
                reset.extend(inventory.nics_of(&instance.handle));
                let handle = instance.handle.clone();
                inventory.instance(instance);
                for question in [Question::Health, Question::Infos, Question::Nic(handle.clone())] {
                    self.want(question);
                }
                self.want(Question::Resources(handle));
            }
            devlink::Event::InstanceDeleted(handle) => inventory.instance_gone(&handle),
            devlink::Event::Port(port) => {
                let handle = port.handle.clone();
                if inventory.port(port) {
                    // Ports come with a change of mode or of the number of functions, and may have health reporters.
                    self.want(Question::Nic(handle));
                    self.want(Question::Health);
                }
            }
            devlink::Event::PortDeleted(handle, index) => {
                inventory.port_gone(&handle, index);
                self.want(Question::Nic(handle));
            }
            devlink::Event::Health(reporter) => inventory.reporter(reporter),
            // Nobody tells of these; they are answers.
            _ => {}
        }
        Ok(())
    }

    fn take_uevent(&mut self, bytes: &[u8], inventory: &Inventory) {
        let event = match Uevent::decode(bytes) {
            Ok(event) => event,
            Err(malformed) => {
                debug!(%malformed, "device event dropped");
                self.dropped.0 += 1;
                return;
            }
        };
        let handle = match event.action {
            uevent::Action::Change | uevent::Action::Bind | uevent::Action::Unbind => {
                inventory.instance_of(event.subsystem, event.device())
            }
            _ => None,
        };
        self.count(Source::Uevent, false);
        if let Some(handle) = handle {
            self.want(Question::Nic(handle));
        }
    }

    fn take_told(&mut self, told: Told, inventory: &mut Inventory) {
        let of_links = match &told {
            Told::Links(_) | Told::Features(_) | Told::FeaturesOf(_) => true,
            Told::Failed(question, _) => question.is_of_links(),
            _ => false,
        };
        self.lanes[usize::from(!of_links)].running = None;
        match told {
            Told::Links(links) => {
                for (ifindex, mut open) in inventory.links(links) {
                    // All features are read next.
                    open.features = false;
                    self.take_open(ifindex, open, inventory);
                }
            }
            Told::Features(all) => inventory.features(all),
            Told::FeaturesOf(some) => {
                for (ifindex, feature) in some {
                    inventory.feature(ifindex, feature);
                }
            }
            Told::Instances(instances) => {
                for handle in inventory.instances(instances) {
                    self.want(Question::Nic(handle.clone()));
                    self.want(Question::Resources(handle));
                }
            }
            Told::Ports(ports) => inventory.ports(ports),
            Told::Health(reporters) => inventory.health(reporters),
            Told::Infos(infos) => inventory.infos(infos),
            Told::Nic(handle, eswitch, device) => {
                inventory.device(handle.clone(), device);
                if inventory.eswitch(handle, eswitch) {
                    self.want(Question::Links);
                }
            }
            Told::Resources(handle, resources) => inventory.resources(handle, resources),
            Told::Gone => {}
            Told::Failed(question, why) => {
                warn!(%why, ?question, "the kernel was asked of NICs and gave no answer");
                self.failed.push(question);
            }
        }
    }

    fn go_on(&mut self, inventory: &mut Inventory) {
        for lane in &mut self.lanes {
            if lane.running.is_some() {
                continue;
            }
            let Some(question) = lane.waiting.pop_front() else { continue };
            match &question {
                Question::Links => inventory.begin_links(),
                Question::Features => inventory.begin_features(),
                Question::Instances => inventory.begin_instances(),
                Question::Ports => inventory.begin_ports(),
                Question::Health => inventory.begin_health(),
                _ => {}
            }
            // The thread takes one question at a time and is not busy: there is room.
            match lane.ask.try_send(question.clone()) {
                Ok(()) => {
                    lane.running = Some(question);
                    self.asked += 1;
                }
                Err(error) => warn!(%error, "a thread that reads NICs has ended"),
            }
        }
        if self.complete_after.is_none() && self.is_idle() && self.failed.is_empty() {
            let after = self.began.elapsed();
            self.complete_after = Some(after);
            let ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
            info!(ms, links = inventory.links_known(), "all links, ports and NICs are read");
        }
    }
}
