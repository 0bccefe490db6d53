//! What the kernel tells, counted beside the daemon on sockets of the same groups.

use lab_tests::harness::{Failure, Outcome};
use netlink_wire::devlink::{self, Report};
use netlink_wire::ethtool::{self, FeatureBits};
use netlink_wire::link::{self, Link};
use netlink_wire::{Message, Messages};
use ovs_offloadd::io::netlink::{Asker, DATAGRAM_BYTES_MAX, Protocol, Received, Socket};
use std::time::Duration;

/// Holds the notifications of some thousand changes.
const BUFFER: usize = 64 << 20;

/// Listens to links, devlink and features.
pub(super) struct Witness {
    // The sockets belong to it.
    runtime: tokio::runtime::Runtime,
    links: Socket,
    generic: Socket,
    devlink: u16,
    buffer: Vec<u8>,
    told: Told,
}

/// Notifications that were heard.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) link: u64,
    pub(super) devlink: u64,
    pub(super) ethtool: u64,
}

impl Witness {
    pub(super) fn new() -> Outcome<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let guard = runtime.enter();
        let (links, generic) =
            (Socket::open(Protocol::Route, BUFFER)?, Socket::open(Protocol::Generic, BUFFER)?);
        links.join(link::RTNLGRP_LINK)?;
        let mut asker = Asker::open(Protocol::Generic, Duration::from_secs(5)).map_err(Failure::new)?;
        let mut devlink = 0;
        for (name, group) in [(devlink::FAMILY, devlink::GROUP), (ethtool::FAMILY, ethtool::GROUP)] {
            let family = runtime.block_on(asker.family_report(name)).map_err(Failure::new)?;
            let group = family.group(group).ok_or_else(|| Failure::new(format!("{name} has no group")))?;
            generic.join(group.0)?;
            if name == devlink::FAMILY {
                devlink = family.id.0;
            }
        }
        drop(guard);
        let buffer = vec![0; DATAGRAM_BYTES_MAX];
        Ok(Self { runtime, links, generic, devlink, buffer, told: Told::default() })
    }

    /// What has been told until now.
    pub(super) fn told(&mut self) -> Outcome<Told> {
        let _guard = self.runtime.enter();
        let devlink = self.devlink;
        let told = &mut self.told;
        drain(&self.links, &mut self.buffer, |message| {
            told.link += u64::from(!Link::decode(message)?.of_bridge);
            Ok(())
        })?;
        drain(&self.generic, &mut self.buffer, |message| {
            if message.header.kind == devlink {
                let other = matches!(Report::decode(message)?.event, devlink::Event::Other(_));
                told.devlink += u64::from(!other);
            } else {
                told.ethtool += u64::from(FeatureBits::decode(message)?.is_some());
            }
            Ok(())
        })?;
        Ok(self.told)
    }
}

fn drain(
    socket: &Socket,
    buffer: &mut [u8],
    mut take: impl FnMut(&Message<'_>) -> Result<(), netlink_wire::Malformed>,
) -> Outcome {
    loop {
        match socket.try_receive(buffer)? {
            Received::Nothing => return Ok(()),
            Received::Overrun => return Err(Failure::new("the witness lost notifications")),
            Received::Bytes(length) => {
                for message in Messages::new(&buffer[..length]) {
                    let taken = message.and_then(|message| take(&message));
                    taken.map_err(|malformed| Failure::new(malformed.to_string()))?;
                }
            }
        }
    }
}
