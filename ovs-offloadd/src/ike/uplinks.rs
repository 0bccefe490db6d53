//! The uplinks below tunnels: rules of TC on them, which mode packet excludes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use ipsec_drive::{Connection, ConnectionName, Millis, Offload, Seen, Wanted};
use netlink_wire::Ifindex;
use netlink_wire::address::{self, HostAddress};
use tracing::debug;

use super::now;
use crate::doctor::excluding_rules;
use crate::io::netlink::{Asker, Protocol};
use crate::ipsec::{self, Demand, UplinkRules};

/// Longest wait for an answer of the kernel.
const LIMIT: Duration = Duration::from_secs(10);
/// Between two looks while nothing is tried, in milliseconds, and the oldest that is good enough before something is.
const LOOK_EVERY: u64 = 10_000;
const LOOK_BEFORE: u64 = 1_000;
/// Addresses of this host that are read.
const ADDRESSES_MAX: usize = 1 << 18;
/// Uplinks that are looked at.
const UPLINKS_MAX: usize = 64;

/// What is known of them.
#[derive(Debug, Default)]
pub(super) struct Uplinks {
    looked: Option<Millis>,
    /// What was asked of NICs when it was looked last.
    asked: BTreeMap<ConnectionName, Offload>,
    /// By our address.
    rules: BTreeMap<IpAddr, UplinkRules>,
}

/// A connection that a NIC may be asked to do all of IPsec for.
fn is_for_packet(connection: &Connection) -> bool {
    matches!(connection.offload, Offload::Packet | Offload::Auto)
}

impl Uplinks {
    /// Looks at those that connections may use in mode packet; `is_settled` says that all are up. What is not, or is asked of a NIC for the
    /// first time, may be loaded next, so that an older look is not good enough.
    pub(super) async fn look(&mut self, wanted: &Wanted, kernel: &Seen, is_settled: bool) {
        let ours: BTreeSet<IpAddr> = wanted
            .connections
            .values()
            .filter(|connection| is_for_packet(connection))
            .filter_map(|connection| local(connection, kernel))
            .collect();
        if ours.is_empty() {
            *self = Self::default();
            return;
        }
        let of = |connection: &Connection| (connection.name.clone(), connection.offload);
        let asked: BTreeMap<_, _> = wanted.connections.values().map(of).collect();
        let oldest = if is_settled && asked == self.asked { LOOK_EVERY } else { LOOK_BEFORE };
        if self.looked.is_some_and(|at| now().0.saturating_sub(at.0) < oldest) {
            return;
        }
        // A driver may have the kernel wait, and so whoever asks it.
        let read = tokio::task::spawn_blocking(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.map_err(|error| error.to_string())?.block_on(read(ours))
        });
        let read = read.await.unwrap_or_else(|error| Err(error.to_string()));
        (self.looked, self.asked) = (Some(now()), asked);
        match read {
            Ok(rules) => self.rules = rules,
            Err(why) => debug!(%why, "which rules uplinks have is not known"),
        }
    }

    /// Has software do what the rules of an uplink keep its NIC from. strongSwan 6.0.1 would ask the kernel again for ever, whose answer is
    /// EBUSY, and answer nobody meanwhile.
    pub(super) fn spare_charon(&self, asked: &mut Wanted, kernel: &Seen) {
        let is_kept = |connection: &Connection| {
            is_for_packet(connection)
                && local(connection, kernel).is_some_and(|local| self.rules.contains_key(&local))
        };
        for connection in asked.connections.values_mut().filter(|connection| is_kept(connection)) {
            connection.offload = Offload::None;
        }
    }

    /// What of a NIC's demands a connection does not meet.
    pub(super) fn unmet(&self, connection: &Connection, kernel: &Seen) -> Vec<Demand> {
        ipsec::unmet(connection, local(connection, kernel).and_then(|local| self.rules.get(&local)))
    }
}

/// Our end, where it is known.
fn local(connection: &Connection, kernel: &Seen) -> Option<IpAddr> {
    match kernel {
        Seen::Known(kernel) => kernel.local(connection.local, connection.remote),
        Seen::NotYet | Seen::Never => connection.local,
    }
}

async fn read(ours: BTreeSet<IpAddr>) -> Result<BTreeMap<IpAddr, UplinkRules>, String> {
    let mut asker = Asker::open(Protocol::Route, LIMIT)?;
    let addresses = asker.ask(ADDRESSES_MAX, address::dump, HostAddress::decode).await?;
    let of_ours: Vec<HostAddress> = addresses.into_iter().filter(|of| ours.contains(&of.address)).collect();
    let devices: BTreeSet<Ifindex> = of_ours.iter().map(|of| of.ifindex).take(UPLINKS_MAX).collect();
    let rules = excluding_rules(LIMIT, &devices).await?;
    Ok(of_ours.iter().filter_map(|of| Some((of.address, rules.get(&of.ifindex)?.clone()))).collect())
}
