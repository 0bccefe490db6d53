//! Links, devlink and ethtool: dumps at the start and after an overrun, notifications in between.

use std::collections::{BTreeSet, VecDeque};
use std::io;

use netlink_wire::devlink::{self, Handle};
use netlink_wire::ethtool::{self, Feature};
use netlink_wire::genl::{self, FamilyId, FamilyReport};
use netlink_wire::link::{self, Link};
use netlink_wire::message::Control;
use netlink_wire::{Ifindex, Malformed, Message, Messages, Seq};
use offload_engine::{Event, NicId};
use tracing::{debug, warn};

use super::inventory::Inventory;
use super::tc::Dropped;
use crate::io::netlink::{DATAGRAM_BYTES_MAX, Protocol, Received, Socket};

const BUFFERS_PER_TURN: usize = 64;
const WAITING_MAX: usize = 65_536;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Family(&'static str),
    Instances,
    DevlinkPorts,
    Eswitch(Handle),
    Features(Ifindex),
}

/// The sockets that find ports and NICs.
#[derive(Debug)]
pub(crate) struct Discovery {
    links: Socket,
    link_dump: Socket,
    generic: Socket,
    devlink_notifications: Socket,
    devlink: Option<FamilyId>,
    ethtool: Option<FamilyId>,
    waiting: VecDeque<Step>,
    running: Option<(Step, Seq)>,
    link_dump_seq: Option<Seq>,
    links_dumped: BTreeSet<Ifindex>,
    links_interrupted: bool,
    next_seq: u32,
    buffers: [Vec<u8>; 4],
    pub(crate) dropped: Dropped,
    pub(crate) overruns: u64,
}

/// Which socket has something to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ready {
    Links(Received),
    LinkDump(Received),
    Generic(Received),
    Devlink(Received),
}

impl Discovery {
    /// Opens the sockets, hears link changes from here on, and asks for all there is.
    pub(crate) fn open(receive_bytes: usize) -> io::Result<Self> {
        let links = Socket::open(Protocol::Route, receive_bytes)?;
        links.join(link::RTNLGRP_LINK)?;
        let mut discovery = Self {
            links,
            link_dump: Socket::open(Protocol::Route, 1 << 20)?,
            generic: Socket::open(Protocol::Generic, 1 << 20)?,
            devlink_notifications: Socket::open(Protocol::Generic, receive_bytes)?,
            devlink: None,
            ethtool: None,
            waiting: VecDeque::from([Step::Family(ethtool::FAMILY), Step::Family(devlink::FAMILY)]),
            running: None,
            link_dump_seq: None,
            links_dumped: BTreeSet::new(),
            links_interrupted: false,
            next_seq: 1,
            buffers: std::array::from_fn(|_| vec![0; DATAGRAM_BYTES_MAX]),
            dropped: Dropped::default(),
            overruns: 0,
        };
        discovery.look();
        Ok(discovery)
    }

    /// Reads everything afresh.
    pub(crate) fn look(&mut self) {
        self.dump_links();
        for step in [Step::Instances, Step::DevlinkPorts] {
            if !self.waiting.contains(&step) {
                self.waiting.push_back(step);
            }
        }
        self.go_on();
    }

    /// Waits for a socket to have something. Cancel-safe: nothing is awaited after a socket was read.
    pub(crate) async fn ready(&mut self) -> io::Result<Ready> {
        let [links, link_dump, generic, devlink] = &mut self.buffers;
        tokio::select! {
            biased;
            received = self.links.receive(links) => Ok(Ready::Links(received?)),
            received = self.link_dump.receive(link_dump) => Ok(Ready::LinkDump(received?)),
            received = self.generic.receive(generic) => Ok(Ready::Generic(received?)),
            received = self.devlink_notifications.receive(devlink) => Ok(Ready::Devlink(received?)),
        }
    }

    /// Takes what [`ready`](Self::ready) told of.
    pub(crate) fn take(
        &mut self,
        ready: Ready,
        inventory: &mut Inventory,
        events: &mut Vec<Event>,
    ) -> io::Result<()> {
        match ready {
            Ready::Links(received) => {
                self.take_buffer(0, received, |this, message| this.take_link(message, inventory));
                for _ in 0..BUFFERS_PER_TURN {
                    let received = self.links.try_receive(&mut self.buffers[0])?;
                    if received == Received::Nothing {
                        break;
                    }
                    self.take_buffer(0, received, |this, message| this.take_link(message, inventory));
                }
            }
            Ready::LinkDump(received) => {
                self.links_interrupted |= received == Received::Overrun;
                self.take_buffer(1, received, |this, message| this.take_link_dump(message, inventory));
            }
            Ready::Generic(received) => {
                if received == Received::Overrun {
                    self.running = None;
                }
                self.take_buffer(2, received, |this, message| this.take_generic(message, inventory));
            }
            Ready::Devlink(received) => {
                let mut reset = Vec::new();
                self.take_buffer(3, received, |this, message| {
                    this.take_devlink(message, inventory, Some(&mut reset))
                });
                events.extend(reset.into_iter().map(Event::NicReset));
            }
        }
        self.go_on();
        Ok(())
    }

    fn take_buffer(
        &mut self,
        index: usize,
        received: Received,
        mut take: impl FnMut(&mut Self, &Message<'_>) -> Result<(), Malformed>,
    ) {
        let length = match received {
            Received::Bytes(length) => length,
            Received::Nothing => return,
            Received::Overrun => {
                self.overruns += 1;
                self.look();
                return;
            }
        };
        let buffer = std::mem::take(&mut self.buffers[index]);
        for message in Messages::new(&buffer[..length]) {
            if let Err(malformed) = message.and_then(|message| take(self, &message)) {
                debug!(%malformed, "message about links or NICs dropped");
                self.dropped.0 += 1;
            }
        }
        self.buffers[index] = buffer;
    }

    fn seq(&mut self) -> Seq {
        let seq = Seq(self.next_seq);
        self.next_seq = self.next_seq.checked_add(1).unwrap_or(1);
        seq
    }

    fn dump_links(&mut self) {
        if self.link_dump_seq.is_some() {
            // The running dump began before whatever makes us ask again.
            self.links_interrupted = true;
            return;
        }
        let seq = self.seq();
        self.links_dumped.clear();
        self.links_interrupted = false;
        match self.link_dump.send(&link::dump(seq)) {
            Ok(()) => self.link_dump_seq = Some(seq),
            Err(error) => warn!(%error, "cannot ask for links"),
        }
    }

    fn take_link(&mut self, message: &Message<'_>, inventory: &mut Inventory) -> Result<(), Malformed> {
        let link = Link::decode(message)?;
        if link.deleted {
            // A bridge tells of a port that left it in the same words; that netdev exists still.
            if link.name.is_some() || link.kind.is_some() {
                inventory.link_gone(link.ifindex);
            }
            return Ok(());
        }
        self.found(link, inventory);
        Ok(())
    }

    fn found(&mut self, link: Link, inventory: &mut Inventory) {
        let ifindex = link.ifindex;
        if inventory.link(link) && self.waiting.len() < WAITING_MAX {
            let step = Step::Features(ifindex);
            if !self.waiting.contains(&step) {
                self.waiting.push_back(step);
            }
        }
    }

    fn take_link_dump(&mut self, message: &Message<'_>, inventory: &mut Inventory) -> Result<(), Malformed> {
        if Some(message.header.seq) != self.link_dump_seq {
            return Ok(());
        }
        self.links_interrupted |= message.header.dump_was_interrupted();
        match message.control()? {
            Some(Control::Done(answer) | Control::Answer(answer)) => {
                self.link_dump_seq = None;
                if answer.is_success() && !self.links_interrupted {
                    inventory.links_are(&self.links_dumped);
                } else {
                    self.dump_links();
                }
            }
            Some(_) => {}
            None => {
                let link = Link::decode(message)?;
                self.links_dumped.insert(link.ifindex);
                self.found(link, inventory);
            }
        }
        Ok(())
    }

    fn go_on(&mut self) {
        while self.running.is_none() {
            let Some(step) = self.waiting.pop_front() else { return };
            let seq = self.seq();
            let request = match (&step, self.devlink, self.ethtool) {
                (Step::Family(name), _, _) => Some(genl::get_family(name, seq)),
                (Step::Instances, Some(family), _) => Some(devlink::dump_instances(family, seq)),
                (Step::DevlinkPorts, Some(family), _) => Some(devlink::dump_ports(family, seq)),
                (Step::Eswitch(handle), Some(family), _) => devlink::get_eswitch(family, handle, seq).ok(),
                (Step::Features(ifindex), _, Some(family)) => {
                    Some(ethtool::get_features(family, *ifindex, seq))
                }
                _ => None,
            };
            let Some(request) = request else { continue };
            match self.generic.send(&request) {
                Ok(()) => self.running = Some((step, seq)),
                Err(error) => warn!(%error, ?step, "cannot ask the kernel"),
            }
        }
    }

    fn take_generic(&mut self, message: &Message<'_>, inventory: &mut Inventory) -> Result<(), Malformed> {
        let Some((step, seq)) = &self.running else { return Ok(()) };
        if *seq != message.header.seq {
            return Ok(());
        }
        let step = step.clone();
        match message.control()? {
            Some(Control::Done(answer) | Control::Answer(answer)) => {
                self.running = None;
                if let (Step::Features(ifindex), false) = (&step, answer.is_success()) {
                    inventory.hw_tc_offload(*ifindex, false);
                }
                Ok(())
            }
            Some(_) => Ok(()),
            None => self.take_generic_part(&step, message, inventory),
        }
    }

    fn take_generic_part(
        &mut self,
        step: &Step,
        message: &Message<'_>,
        inventory: &mut Inventory,
    ) -> Result<(), Malformed> {
        match step {
            Step::Family(name) => {
                let family = FamilyReport::decode(message)?;
                if *name == ethtool::FAMILY {
                    self.ethtool = Some(family.id);
                    return Ok(());
                }
                self.devlink = Some(family.id);
                if let Some(group) = family.group(devlink::GROUP)
                    && let Err(error) = self.devlink_notifications.join(group.0)
                {
                    warn!(%error, "cannot hear devlink notifications");
                }
                Ok(())
            }
            Step::Features(ifindex) => {
                let on = ethtool::Features::decode(message)?.hw_tc_offload() == Feature::On;
                inventory.hw_tc_offload(*ifindex, on);
                Ok(())
            }
            Step::Instances | Step::DevlinkPorts | Step::Eswitch(_) => {
                self.take_devlink(message, inventory, None)
            }
        }
    }

    fn take_devlink(
        &mut self,
        message: &Message<'_>,
        inventory: &mut Inventory,
        reset: Option<&mut Vec<NicId>>,
    ) -> Result<(), Malformed> {
        if Some(FamilyId(message.header.kind)) != self.devlink {
            return Ok(());
        }
        match devlink::Report::decode(message)?.event {
            devlink::Event::Instance(instance) => {
                // An instance that is told anew came up from a reload: its rules are gone.
                if let Some(reset) = reset {
                    reset.extend(inventory.nics_of(&instance.handle));
                }
                self.waiting.push_back(Step::Eswitch(instance.handle));
            }
            devlink::Event::InstanceDeleted(handle) => inventory.devlink_gone(&handle),
            devlink::Event::Port(port) => {
                let step = Step::Eswitch(port.handle.clone());
                if reset.is_some() && !self.waiting.contains(&step) {
                    self.waiting.push_back(step);
                }
                inventory.devlink_port(port);
            }
            devlink::Event::PortDeleted(handle, index) => inventory.devlink_port_gone(&handle, index.0),
            devlink::Event::Eswitch(eswitch) => {
                if let Some(mode) = eswitch.mode {
                    let driver = crate::io::sysfs::driver_of(&eswitch.handle.bus, &eswitch.handle.device);
                    inventory.eswitch(eswitch.handle, mode, driver);
                }
            }
            _ => {}
        }
        Ok(())
    }
}
