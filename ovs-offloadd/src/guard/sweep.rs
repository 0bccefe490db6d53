//! The removal of rules that nobody answers for.
//!
//! Rules of mode shadow are known by their cookies, at priorities 9 to 16 of chain 0 of a device's ingress hook
//! (`offload_engine::shadow::layout`). All devices of the network namespace that have such a hook are looked at; what anybody
//! said about devices is not needed.

use std::collections::BTreeSet;

use netlink_wire::{Errno, Ifindex};
use offload_engine::shadow::layout::{self, Origin};
use tc_flower::{Detail, FilterAddress, Hook, Location, TcEvent, request};

use super::Scope;
use crate::io::netlink::{Blocking, Unanswered};

/// Passes over all devices, the last of which has to find nothing.
const PASSES_MAX: usize = 8;

/// What a removal came to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Swept {
    /// Rules that were there and are not any more.
    pub removed: u64,
    /// What is in the way of there being none left; none if nothing is.
    pub failed: Option<String>,
}

impl Swept {
    /// Whether nothing is left of what was to be removed.
    pub fn is_whole(&self) -> bool {
        self.failed.is_none()
    }
}

/// Removes what is in `scope`; tells each removed rule to `tell`.
pub fn sweep(kernel: &mut Blocking, scope: &Scope, mut tell: impl FnMut(&FilterAddress)) -> Swept {
    let mut swept = Swept::default();
    for _ in 0..PASSES_MAX {
        swept.failed = None;
        let found = match find(kernel, scope) {
            Ok(found) if found.is_empty() => return swept,
            Ok(found) => found,
            Err(why) => {
                swept.failed = Some(why.to_string());
                continue;
            }
        };
        for address in found {
            match remove(kernel, &address) {
                Ok(true) => {
                    swept.removed += 1;
                    tell(&address);
                }
                Ok(false) => {}
                Err(why) => swept.failed = Some(format!("{address}: {why}")),
            }
        }
    }
    swept.failed.get_or_insert_with(|| "new ones came as fast as they were removed".to_owned());
    swept
}

fn is_in(scope: &Scope, device: Ifindex) -> bool {
    match scope {
        Scope::All => true,
        Scope::NotOn(devices) => !devices.contains(&device.0),
    }
}

/// All rules of mode shadow in `scope`.
fn find(kernel: &mut Blocking, scope: &Scope) -> Result<Vec<FilterAddress>, Unanswered> {
    let mut devices = BTreeSet::new();
    kernel.ask(request::dump_qdiscs, |message| {
        if let Ok(TcEvent::Qdisc(qdisc)) = TcEvent::decode(message)
            && qdisc.has_hook(Hook::Ingress)
            && is_in(scope, qdisc.ifindex)
        {
            devices.insert(qdisc.ifindex);
        }
    })?;
    let mut found = Vec::new();
    for device in devices {
        let location = Location::ingress(device);
        let asked = kernel.ask(
            |seq| request::dump(location, Some(layout::CHAIN), Detail::Full, seq),
            |message| {
                if let Ok(TcEvent::Filter(report)) = TcEvent::decode(message)
                    && report.address.chain == layout::CHAIN
                    && layout::is_ours(report.address.prio)
                    && Origin::of_filter(&report).is_some()
                {
                    found.push(report.address);
                }
            },
        );
        match asked {
            // Its device or qdisc went meanwhile, and all filters with it.
            Err(Unanswered::Refused { errno, .. }) if is_absence(errno) => {}
            asked => asked?,
        }
    }
    Ok(found)
}

/// Removes one; whether it was there.
fn remove(kernel: &mut Blocking, address: &FilterAddress) -> Result<bool, Unanswered> {
    match kernel.ask(|seq| request::delete(address, seq), |_| {}) {
        Ok(()) => Ok(true),
        Err(Unanswered::Refused { errno, .. }) if is_absence(errno) => Ok(false),
        Err(why) => Err(why),
    }
}

/// No filter, no device, no qdisc.
fn is_absence(errno: Errno) -> bool {
    [Errno::ENOENT, Errno::ENODEV, Errno::EINVAL].contains(&errno)
}
