//! IPsec's security associations and policies: read once, and from then on notifications say what changes.
//!
//! Counters are told by no notification: whoever asks for them has everything read again. The kernel sends keys along; every
//! buffer that held some is wiped.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Duration;

use ipsec_drive::{Device, Kernel, Millis};
use netlink_wire::address::{self, HostAddress};
use netlink_wire::ethtool::{self, Features};
use netlink_wire::xfrm::{self, Event};
use netlink_wire::{Ifindex, Messages};
use offload_engine::IpsecPolicy;
use tokio::sync::mpsc;
use tracing::{debug, info, warn};
use zeroize::Zeroize as _;

use super::tc::Dropped;
use crate::io::netlink::{Asker, DATAGRAM_BYTES_MAX, Protocol, Received, Socket};
use crate::ipsec::{Ipsec, Reading};

const BUFFERS_PER_TURN: usize = 64;
/// Rows of one answer.
const ROWS_MAX: usize = 1 << 18;
/// Devices that are asked whether they do IPsec, and that are known to have been reset.
const DEVICES_MAX: usize = 64;
/// Where nothing is in doubt, so many times as long as a reading took there is none.
const REST: u64 = 20;
/// Policies are told again after so many microseconds for each of them: all rules are judged anew by them.
const JUDGED_US: u64 = 20;
/// Longest wait for an answer of which a part has come.
const LIMIT: Duration = Duration::from_secs(10);
const GROUPS: [u32; 4] =
    [xfrm::XFRMNLGRP_SA, xfrm::XFRMNLGRP_POLICY, xfrm::XFRMNLGRP_EXPIRE, xfrm::XFRMNLGRP_ACQUIRE];

/// All that was read: IPsec, and this host's addresses, by which the devices of its ends are found.
#[derive(Debug)]
pub(crate) struct Whole {
    ipsec: Reading,
    hosts: Hosts,
}

/// This host's addresses, and which of their devices do IPsec.
#[derive(Debug, Default)]
struct Hosts {
    addresses: Vec<HostAddress>,
    able: BTreeSet<Device>,
}

/// What the socket or the reader has.
#[derive(Debug)]
pub(crate) enum Ready {
    Notifications(Received),
    Read(Result<Whole, String>),
}

/// The socket, the thread that reads, and what both told.
#[derive(Debug)]
pub(crate) struct Xfrm {
    // None where the kernel has no IPsec, or gives it to nobody without CAP_NET_ADMIN.
    notifications: Option<Socket>,
    why_not: Option<String>,
    ask: Option<mpsc::Sender<()>>,
    read: mpsc::Receiver<Result<Whole, String>>,
    running: bool,
    /// When the reading began that runs, or ran last, and the last that was whole.
    began: Millis,
    whole: Option<Millis>,
    /// How long the last one took.
    took_ms: u64,
    /// Policies are not told before that.
    protection_due: Millis,
    hosts: Hosts,
    /// When devices were last reset that kept what the kernel has of them; the latest of them.
    resets: BTreeMap<Device, Millis>,
    // Something was lost since the reading that runs began, or it failed.
    look_again: bool,
    buffer: Vec<u8>,
    pub(crate) books: Ipsec,
    pub(crate) dropped: Dropped,
    pub(crate) overruns: u64,
}

impl Xfrm {
    /// Opens the socket, hears changes from here on, and asks for all there is.
    pub(crate) fn open(receive_bytes: usize) -> io::Result<Self> {
        let opened = Socket::open(Protocol::Xfrm, receive_bytes).and_then(|socket| {
            GROUPS.iter().try_for_each(|group| socket.join(*group))?;
            Ok(socket)
        });
        let (told, read) = mpsc::channel(1);
        let mut xfrm = Self {
            notifications: None,
            why_not: None,
            ask: None,
            read,
            running: false,
            began: Millis(0),
            whole: None,
            took_ms: 0,
            protection_due: Millis(0),
            hosts: Hosts::default(),
            resets: BTreeMap::new(),
            look_again: false,
            buffer: vec![0; DATAGRAM_BYTES_MAX],
            books: Ipsec::default(),
            dropped: Dropped::default(),
            overruns: 0,
        };
        match opened {
            Ok(socket) => {
                xfrm.notifications = Some(socket);
                xfrm.ask = Some(start(told)?);
                xfrm.look();
            }
            // Such a kernel encrypts nothing.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::PROTONOSUPPORT.raw_os_error()) => {
                info!("the kernel has no IPsec");
                xfrm.books.read(Reading::default());
            }
            Err(error) => {
                warn!(%error, "IPsec will not be watched");
                xfrm.why_not = Some(format!("IPsec cannot be watched: {error}"));
            }
        }
        Ok(xfrm)
    }

    /// Why nothing is known, where that is so.
    pub(crate) fn why_not(&self) -> Option<&str> {
        self.why_not.as_deref()
    }

    /// Waits for something to take. Cancel-safe.
    pub(crate) async fn ready(&mut self) -> io::Result<Ready> {
        let Some(socket) = &self.notifications else { return std::future::pending().await };
        tokio::select! {
            biased;
            received = socket.receive(&mut self.buffer) => received.map(Ready::Notifications),
            Some(reading) = self.read.recv() => Ok(Ready::Read(reading)),
        }
    }

    /// Takes what was ready, and what waits behind it.
    pub(crate) fn take(&mut self, ready: Ready) -> io::Result<()> {
        match ready {
            Ready::Notifications(received) => self.notified(received)?,
            Ready::Read(reading) => {
                // What was told before the answer came is newer than it.
                self.drain()?;
                self.running = false;
                self.took_ms = self.since_begun();
                match reading {
                    Ok(whole) => {
                        self.books.read(whole.ipsec);
                        self.hosts = whole.hosts;
                        self.whole = Some(self.began);
                    }
                    Err(why) => {
                        warn!(%why, "IPsec cannot be read");
                        self.books.give_up();
                        self.look_again = true;
                        return Ok(());
                    }
                }
                if std::mem::take(&mut self.look_again) {
                    self.look();
                }
            }
        }
        Ok(())
    }

    fn notified(&mut self, mut received: Received) -> io::Result<()> {
        for turn in 1.. {
            match received {
                Received::Bytes(length) => self.hear(length),
                Received::Overrun => {
                    self.overruns += 1;
                    self.look();
                }
                Received::Nothing => break,
            }
            if turn == BUFFERS_PER_TURN {
                break;
            }
            let Some(socket) = &self.notifications else { break };
            received = socket.try_receive(&mut self.buffer)?;
        }
        Ok(())
    }

    fn drain(&mut self) -> io::Result<()> {
        let Some(socket) = &self.notifications else { return Ok(()) };
        let received = socket.try_receive(&mut self.buffer)?;
        self.notified(received)
    }

    fn hear(&mut self, length: usize) {
        for message in Messages::new(&self.buffer[..length]) {
            match message.and_then(|message| Event::decode(&message)) {
                Ok(event) => self.books.told(event),
                Err(malformed) => {
                    self.dropped.0 += 1;
                    debug!(%malformed, "message of IPsec dropped");
                }
            }
        }
        self.buffer[..length].zeroize();
    }

    /// Has everything read again; returns whether there is something to wait for.
    pub(crate) fn look(&mut self) -> bool {
        let Some(ask) = &self.ask else { return false };
        if self.running {
            self.look_again = true;
            return true;
        }
        self.books.begin();
        self.began = crate::ike::now();
        self.running = ask.try_send(()).is_ok();
        self.running
    }

    /// Asks for what is true now; returns whether there is something to wait for.
    pub(crate) fn want(&mut self) -> bool {
        if self.running { true } else { self.look() }
    }

    fn since_begun(&self) -> u64 {
        crate::ike::now().0.saturating_sub(self.began.0)
    }

    /// Has everything read again where that was last begun so long ago, and where `rests` it took but a small part of the time.
    pub(crate) fn look_every(&mut self, every: Duration, rests: bool) {
        let rest = if rests { self.took_ms.saturating_mul(REST) } else { 0 };
        if !self.running && u128::from(self.since_begun()) >= every.as_millis().max(rest.into()) {
            self.look();
        }
    }

    /// The policies that are about tunnels with others, where they may be others than when this was last asked; where there are many,
    /// changes are gathered.
    pub(crate) fn take_protection(&mut self) -> Option<Vec<IpsecPolicy>> {
        let now = crate::ike::now();
        if now < self.protection_due {
            return None;
        }
        let protection = self.books.take_protection()?;
        let gathers_ms = (self.books.policies() as u64).saturating_mul(JUDGED_US) / 1_000;
        self.protection_due = Millis(now.0.saturating_add(gathers_ms));
        Some(protection)
    }

    /// How long changes of policies are gathered yet; none where they are told at once.
    pub(crate) fn gathers_for(&self) -> Option<Duration> {
        let left = self.protection_due.0.saturating_sub(crate::ike::now().0);
        (left > 0).then(|| Duration::from_millis(left))
    }

    /// What whoever drives an IKE daemon looks at, where it may be otherwise than when this was last asked.
    pub(crate) fn take_driven(&mut self) -> Option<Kernel> {
        let read = self.whole?;
        let sas = self.books.take_driven()?;
        let devices = self.hosts.addresses.iter().map(|of| (of.address, Device(of.ifindex.0)));
        let (devices, able) = (devices.collect(), self.hosts.able.clone());
        Some(Kernel { read, sas, devices, able, resets: self.resets.clone() })
    }

    /// Devices were reset just now. That is told with the next reading.
    pub(crate) fn reset(&mut self, devices: &[Ifindex]) {
        let now = crate::ike::now();
        self.resets.extend(devices.iter().map(|device| (Device(device.0), now)));
        while self.resets.len() > DEVICES_MAX {
            let oldest = self.resets.iter().min_by_key(|(_, at)| **at).map(|(device, _)| *device);
            oldest.map(|device| self.resets.remove(&device));
        }
    }

    /// Whether everything that was asked for has been read.
    pub(crate) fn is_read(&self) -> bool {
        !self.running
    }

    /// Looks again where a reading failed. To be called from time to time.
    pub(crate) fn retry(&mut self) {
        if !self.running && std::mem::take(&mut self.look_again) {
            self.look();
        }
    }
}

/// Starts the thread that reads: a driver that carries a security association is asked for its counters, and may take its
/// time.
fn start(told: mpsc::Sender<Result<Whole, String>>) -> io::Result<mpsc::Sender<()>> {
    let (ask, mut asked) = mpsc::channel(1);
    std::thread::Builder::new().name("reads-ipsec".to_owned()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let Ok(runtime) = runtime else { return };
        while asked.blocking_recv().is_some() {
            if told.blocking_send(runtime.block_on(read())).is_err() {
                return;
            }
        }
    })?;
    Ok(ask)
}

async fn read() -> Result<Whole, String> {
    let mut asker = Asker::open(Protocol::Xfrm, LIMIT)?;
    let sas = asker.ask(ROWS_MAX, xfrm::dump_sas, |message| {
        Ok(match Event::decode(message)? {
            Event::Sa(sa) => Some(*sa),
            _ => None,
        })
    });
    let sas = sas.await?;
    let policies = asker.ask(ROWS_MAX, xfrm::dump_policies, |message| {
        Ok(match Event::decode(message)? {
            Event::Policy(policy) => Some(*policy),
            _ => None,
        })
    });
    let ipsec = Reading { sas, policies: policies.await? };
    let mut asker = Asker::open(Protocol::Route, LIMIT)?;
    let addresses = asker.ask(ROWS_MAX, address::dump, HostAddress::decode).await?;
    let able = able(addresses.iter().map(|of| of.ifindex).collect()).await.unwrap_or_else(|why| {
        debug!(%why, "which devices do IPsec is not known");
        BTreeSet::new()
    });
    Ok(Whole { ipsec, hosts: Hosts { addresses, able } })
}

/// Those of these devices that do IPsec.
async fn able(devices: BTreeSet<Ifindex>) -> Result<BTreeSet<Device>, String> {
    let mut asker = Asker::open(Protocol::Generic, LIMIT)?;
    let family = asker.family(ethtool::FAMILY).await?;
    let mut able = BTreeSet::new();
    for ifindex in devices.into_iter().take(DEVICES_MAX) {
        let request = |seq| ethtool::get_features(family, ifindex, seq);
        // It may have gone meanwhile.
        let found = asker.ask(ROWS_MAX, request, |message| Features::decode(message).map(Some)).await;
        if found.is_ok_and(|found| found.iter().any(Features::esp_hw_offload)) {
            able.insert(Device(ifindex.0));
        }
    }
    Ok(able)
}
