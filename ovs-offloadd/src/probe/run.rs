//! The walk through the list: each filter is installed and removed before the next.

use std::sync::atomic::{AtomicBool, Ordering};

use netlink_wire::Errno;
use tc_flower::{Chain, Filter, FilterAddress, FilterFlags, Handle, Location, Prio};

use super::list::{BASE_DROP, BASE_OUTPUT, Group, INTO_GENEVE, Needs, OUT_OF_TUNNEL, Probe, probes};
use super::report::{Outcome, Tried};
use super::scene::Scene;

/// The chain that filters are tried in, if no other is asked for: near the highest that TC has (2^28 - 1), where no
/// recirculation id of Open vSwitch gets to (it counts from 1), and where none of its filters goes to.
pub const SCRATCH_CHAIN: Chain = Chain(0x0fff_fff0);

/// The number that all filters of ours have, by which they are known: "ovpb". TC gives numbers from 1 on to those that ask
/// for none, as Open vSwitch does.
///
/// They carry no cookie. Open vSwitch takes a filter with one for a megaflow of its own (`netdev_tc_flow_dump_next()`; 3.1
/// reads 16 bytes of it, however long it is), and leaves one without alone.
pub const MARK: Handle = Handle(0x6f76_7062);

/// The priority: drivers have few of them.
const PRIO: Prio = Prio(1);

/// What the kernel answered to a filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answered {
    /// It is there.
    Installed {
        /// Whether the kernel reports it in hardware.
        is_in_hw: bool,
        /// What the driver said nevertheless.
        text: Option<String>,
    },
    /// It is not: the error, and the words of the driver or the kernel.
    Refused(Errno, Option<String>),
}

/// TC, as far as a probe needs it.
pub(super) trait Tc {
    /// Adds a filter where there is none.
    ///
    /// # Errors
    /// A sentence, where it is not known whether the filter is there.
    async fn install(&mut self, filter: &Filter) -> Result<Answered, String>;

    /// Removes a filter; it is as good if it is not there.
    ///
    /// # Errors
    /// A sentence.
    async fn remove(&mut self, address: &FilterAddress) -> Result<(), String>;

    /// Where the filters of a location and chain are.
    ///
    /// # Errors
    /// A sentence.
    async fn filters(&mut self, location: Location, chain: Chain) -> Result<Vec<FilterAddress>, String>;
}

/// Removes what an earlier probe left at these places in this chain; how many there were.
///
/// # Errors
/// There are filters of others in the chain; or TC does not answer.
pub(super) async fn clear(tc: &mut impl Tc, places: &[Location], chain: Chain) -> Result<u64, String> {
    let mut removed = 0;
    for place in places {
        let there = tc.filters(*place, chain).await?;
        let (ours, others): (Vec<_>, Vec<_>) = there.into_iter().partition(|address| address.handle == MARK);
        if let Some(other) = others.first() {
            return Err(format!(
                "chain {chain} is in use, by the filter at {other}; choose another one: --chain"
            ));
        }
        for address in ours {
            tc.remove(&address).await?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Tries every filter of the list, until `stop` is set. Whether all were tried is told by whether it is.
///
/// # Errors
/// A filter could not be removed; nothing more is tried then.
pub(super) async fn walk(
    tc: &mut impl Tc,
    scene: &Scene,
    chain: Chain,
    stop: &AtomicBool,
) -> Result<Vec<Tried>, String> {
    let mut tried: Vec<Tried> = Vec::new();
    for probe in probes(&scene.devices, Chain(chain.0 + 1)) {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let outcome = match (scene.place(probe.needs), lacking_base(&tried, &probe)) {
            (Err(missing), _) => Outcome::NotTried { text: missing.to_owned() },
            (_, Some(base)) => Outcome::NotTried { text: format!("\"{base}\" is not taken") },
            (Ok(place), None) => attempt(tc, filter_of(&probe, place, chain)).await?,
        };
        tried.push(Tried { id: probe.id.to_owned(), group: probe.group, outcome });
    }
    Ok(tried)
}

/// The simple rule that was not taken and that this one builds on.
fn lacking_base(tried: &[Tried], probe: &Probe) -> Option<&'static str> {
    if probe.group == Group::Base {
        return None;
    }
    let is_taken = |id: &str| tried.iter().any(|tried| tried.id == id && tried.outcome.is_taken());
    let base = match probe.needs {
        Needs::Nothing => BASE_DROP,
        Needs::Output | Needs::TwoOutputs => BASE_OUTPUT,
        Needs::Geneve if probe.id != INTO_GENEVE => INTO_GENEVE,
        Needs::FromTunnel | Needs::FromGeneve | Needs::FromVxlan if probe.id != OUT_OF_TUNNEL => {
            OUT_OF_TUNNEL
        }
        // They send into a tunnel, or are elsewhere.
        _ => return (!is_taken(BASE_DROP) && !is_taken(BASE_OUTPUT)).then_some(BASE_DROP),
    };
    (!is_taken(base)).then_some(base)
}

fn filter_of(probe: &Probe, location: Location, chain: Chain) -> Filter {
    Filter {
        address: FilterAddress { location, chain, prio: PRIO, protocol: probe.protocol, handle: MARK },
        flags: flags_of(probe),
        class_id: None,
        indev: None,
        keys: probe.keys.clone(),
        actions: probe.actions.clone(),
    }
}

/// `skip_sw`, so that the driver has to answer. At a tunnel's device the kernel takes no such filter, since the device is
/// not the driver's (`tc_setup_cb_add()`, `nooffloaddevcnt`): there it is asked in passing, and the answer is whether the
/// filter is in hardware. No packet gets to it: its chain is one that no other filter goes to.
fn flags_of(probe: &Probe) -> FilterFlags {
    match probe.needs {
        Needs::FromTunnel | Needs::FromGeneve | Needs::FromVxlan => FilterFlags::VERBOSE,
        _ => FilterFlags::SKIP_SW | FilterFlags::VERBOSE,
    }
}

async fn attempt(tc: &mut impl Tc, filter: Filter) -> Result<Outcome, String> {
    let answered = tc.install(&filter).await;
    if !matches!(answered, Ok(Answered::Refused(..))) {
        let removed = tc.remove(&filter.address).await;
        removed.map_err(|why| format!("the filter at {} could not be removed: {why}", filter.address))?;
    }
    Ok(match answered? {
        Answered::Installed { is_in_hw: true, text } => Outcome::taken(text),
        // Words of a driver that did not have to answer.
        Answered::Installed { is_in_hw: false, text: Some(text) } => {
            Outcome::refused(Errno::EOPNOTSUPP, Some(text))
        }
        Answered::Installed { is_in_hw: false, text: None } => Outcome::not_in_hw(),
        Answered::Refused(errno, text) => Outcome::refused(errno, text),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Role;
    use crate::probe::list::Devices;
    use netlink_wire::Ifindex;
    use std::collections::BTreeSet;
    use tc_flower::{ActionKind, Parts};

    /// TC with a driver that refuses what it is told to.
    #[derive(Default)]
    struct Fake {
        there: BTreeSet<FilterAddress>,
        most: usize,
        installed: Vec<Filter>,
        refuse: Option<fn(&Filter) -> bool>,
        stuck: bool,
    }

    impl Tc for Fake {
        async fn install(&mut self, filter: &Filter) -> Result<Answered, String> {
            tc_flower::request::add(filter, netlink_wire::Seq(1)).expect("it can be written");
            if self.refuse.is_some_and(|refuse| refuse(filter)) {
                return Ok(Answered::Refused(Errno::EOPNOTSUPP, Some("fake: no".into())));
            }
            assert!(self.there.insert(filter.address), "{} is there already", filter.address);
            self.most = self.most.max(self.there.len());
            self.installed.push(filter.clone());
            Ok(Answered::Installed { is_in_hw: true, text: None })
        }

        async fn remove(&mut self, address: &FilterAddress) -> Result<(), String> {
            if self.stuck {
                return Err("stuck".into());
            }
            self.there.remove(address);
            Ok(())
        }

        async fn filters(&mut self, location: Location, chain: Chain) -> Result<Vec<FilterAddress>, String> {
            let there = self.there.iter();
            Ok(there.filter(|at| at.location == location && at.chain == chain).copied().collect())
        }
    }

    fn scene() -> Scene {
        Scene {
            nic: "sim/0".into(),
            driver: "sim".into(),
            port: "rep".into(),
            port_name: None,
            role: Role::Representor,
            toward: Some(("up".into(), Role::Uplink)),
            tunnels: Vec::new(),
            qdisc: "ingress".into(),
            location: Location::ingress(Ifindex(7)),
            devices: Devices {
                port: Ifindex(7),
                output: Some(Ifindex(8)),
                mirror: Some(Ifindex(9)),
                geneve: Some(Ifindex(10)),
                vxlan: Some(Ifindex(11)),
                geneve_port: 6081,
                vxlan_port: 4789,
                remote: Some(std::net::Ipv4Addr::LOCALHOST),
                remote6: Some(std::net::Ipv6Addr::LOCALHOST),
            },
        }
    }

    async fn walked(tc: &mut Fake, scene: &Scene) -> Vec<Tried> {
        walk(tc, scene, SCRATCH_CHAIN, &AtomicBool::new(false)).await.unwrap()
    }

    #[tokio::test]
    async fn every_filter_is_skip_sw_but_at_a_tunnel_in_the_scratch_chain_alone_there_and_gone_afterwards() {
        let mut tc = Fake::default();
        let tried = walked(&mut tc, &scene()).await;
        assert!(tried.iter().all(|tried| tried.outcome.is_taken()), "{tried:?}");
        assert_eq!(tried.len(), tc.installed.len());
        assert!(tried.len() > 120, "{}", tried.len());
        assert_eq!((tc.there.len(), tc.most), (0, 1));
        for filter in &tc.installed {
            assert_eq!((filter.address.chain, filter.address.handle), (SCRATCH_CHAIN, MARK));
            let at_tunnel = filter.address.location != scene().location;
            let skip_sw = if at_tunnel { FilterFlags::NONE } else { FilterFlags::SKIP_SW };
            assert_eq!(filter.flags, skip_sw | FilterFlags::VERBOSE);
            assert!(filter.actions.iter().all(|action| action.cookie.is_none()));
        }
    }

    #[tokio::test]
    async fn what_the_driver_refuses_is_told_with_its_words_and_the_rest_is_tried() {
        let pushes = |filter: &Filter| {
            filter
                .actions
                .iter()
                .any(|action| matches!(action.kind, ActionKind::Vlan(tc_flower::action::Vlan::Push { .. })))
        };
        let mut tc = Fake { refuse: Some(pushes), ..Fake::default() };
        let tried = walked(&mut tc, &scene()).await;
        let refused: Vec<&str> =
            tried.iter().filter(|tried| !tried.outcome.is_taken()).map(|tried| &*tried.id).collect();
        assert_eq!(
            refused,
            [
                "vlan push",
                "vlan push 802.1ad",
                "mirror, vlan push, output",
                "vlan push twice, output",
                "vlan pop, vlan push, output"
            ]
        );
        assert_eq!(
            tried.iter().find(|tried| tried.id == "vlan push").unwrap().outcome,
            Outcome::Refused { text: Some("fake: no".into()) }
        );
    }

    #[tokio::test]
    async fn what_needs_a_rule_that_is_not_taken_or_a_device_that_is_not_there_is_not_tried() {
        let outputs = |filter: &Filter| {
            filter.actions.iter().any(|action| matches!(action.kind, ActionKind::Mirred(_)))
        };
        let mut tc = Fake { refuse: Some(outputs), ..Fake::default() };
        let mut without_tunnels = scene();
        (without_tunnels.devices.geneve, without_tunnels.devices.vxlan) = (None, None);
        let tried = walked(&mut tc, &without_tunnels).await;
        let outcome = |id: &str| &tried.iter().find(|tried| tried.id == id).unwrap().outcome;
        assert!(matches!(outcome(BASE_OUTPUT), Outcome::Refused { .. }));
        assert_eq!(*outcome("vlan push"), Outcome::NotTried { text: "\"ip, output\" is not taken".into() });
        assert!(
            matches!(outcome("tun.tos"), Outcome::NotTried { text } if text.contains("no tunnel device"))
        );
        assert!(outcome("ip4.src").is_taken() && outcome("goto chain").is_taken());
    }

    #[tokio::test]
    async fn an_interrupted_walk_leaves_nothing_and_one_that_cannot_clean_up_ends() {
        let mut tc = Fake::default();
        assert_eq!(walk(&mut tc, &scene(), SCRATCH_CHAIN, &AtomicBool::new(true)).await, Ok(Vec::new()));
        let mut tc = Fake { stuck: true, ..Fake::default() };
        let why = walk(&mut tc, &scene(), SCRATCH_CHAIN, &AtomicBool::new(false)).await.unwrap_err();
        assert!(why.contains("could not be removed: stuck"), "{why}");
        assert_eq!(tc.installed.len(), 1);
    }

    #[tokio::test]
    async fn what_an_earlier_probe_left_is_removed_and_a_chain_of_others_is_left_alone() {
        let place = Location::ingress(Ifindex(7));
        let at = |handle| FilterAddress {
            location: place,
            chain: SCRATCH_CHAIN,
            prio: Prio(3),
            protocol: netlink_wire::EtherType::IPV4,
            handle,
        };
        let mut tc = Fake { there: [at(MARK)].into(), ..Fake::default() };
        assert_eq!(clear(&mut tc, &[place], SCRATCH_CHAIN).await, Ok(1));
        assert!(tc.there.is_empty());
        tc.there.insert(at(Handle(1)));
        tc.there.insert(at(MARK));
        let why = clear(&mut tc, &[place], SCRATCH_CHAIN).await.unwrap_err();
        assert!(why.contains("--chain"), "{why}");
        assert_eq!(tc.there.len(), 2, "nothing was removed");
    }

    #[test]
    fn a_probes_name_stands_for_one_filter_and_what_it_blames_is_its_own() {
        let all = probes(&scene().devices, Chain(9));
        let ids: BTreeSet<&str> = all.iter().map(|probe| probe.id).collect();
        assert_eq!(ids.len(), all.len());
        let blamed: Vec<(&str, Parts)> =
            all.iter().filter_map(|probe| Some((probe.id, probe.blames()?))).collect();
        // What was tried with one kind of tunnel is not held against the others, nor what was tried at a tunnel's device.
        let of_tunnels: Vec<&str> =
            blamed.iter().map(|(id, _)| *id).filter(|id| id.starts_with("tun")).collect();
        assert_eq!(of_tunnels, ["tunnel set geneve, one option", "tunnel set geneve, two options"]);
        for (number, (id, parts)) in blamed.iter().enumerate() {
            let same = blamed[number + 1..].iter().find(|(_, other)| other == parts);
            assert_eq!(same.map(|(other, _)| (*id, *other)), None);
        }
    }
}
