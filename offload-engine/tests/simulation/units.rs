//! Megaflows that recirculation joins, and a NIC that hands back in the middle what it has no rule for.

use crate::facts::Scene;
use crate::kernel::Kernel;
use crate::ovs::ufid;
use crate::rng::Rng;
use netlink_wire::Ufid;
use offload_engine::{ChainRestore, Counters, Engine, Event, Micros, Placement, Refusal, Replacement};
use tc_flower::{Chain, FilterFlags, ReplaceActions};

/// The way of some packets, drawn from those that the numbers of megaflows allow (`Rule::chains`).
pub(crate) fn way(rng: &mut Rng) -> Vec<Ufid> {
    let first = 1 + rng.below(3);
    let way: &[u64] = match rng.below(4) {
        0 => &[11 + rng.below(2)],
        1 => &[first, 4 + rng.below(2), 9 + rng.below(2)],
        _ => &[first, 6 + rng.below(3)],
    };
    way.iter().map(|number| ufid(*number)).collect()
}

/// What is sent keeps the order, by what the engine knows when it sends it.
pub(crate) fn check_order(engine: &Engine, now: Micros, request: &Replacement) {
    let Some(ufid) = request.filter.ufid() else { return };
    let Some(unit) = engine.unit(ufid) else { return };
    let in_hw = engine.flow(now, ufid).is_some_and(|flow| flow.placement == Placement::Hardware);
    let to_hw = !request.filter.flags.contains(FilterFlags::SKIP_HW);
    if to_hw && !in_hw && unit.chain != Chain(0) {
        assert!(unit.before.iter().any(|(_, in_hw)| *in_hw), "{ufid} is promoted before what leads to it");
    }
    // What Open vSwitch wants is put back at once, whatever leans on what is there.
    let is_repair = request.actions == ReplaceActions::Fresh;
    if !to_hw && in_hw && !is_repair {
        for (after, _) in unit.after.iter().filter(|(_, in_hw)| *in_hw) {
            let other = engine
                .unit(*after)
                .is_some_and(|unit| unit.before.iter().any(|(before, in_hw)| *in_hw && *before != ufid));
            assert!(other, "{ufid} is demoted before {after}, which nothing else leads to");
        }
    }
}

/// At rest every rule in hardware is of use: packets get to it, and find the next there.
pub(crate) fn check(kernel: &Kernel) {
    let in_hw = || kernel.filters.iter().filter(|(_, filter)| filter.in_hw());
    for (address, filter) in in_hw() {
        let reached =
            address.chain == Chain(0) || in_hw().any(|(_, other)| other.goes_to == Some(address.chain));
        assert!(reached, "no packet gets to {:?} in hardware", filter.rule);
        let leads = filter.goes_to.is_none_or(|chain| in_hw().any(|(other, _)| other.chain == chain));
        assert!(leads, "{:?} leads nowhere in hardware", filter.rule);
    }
}

/// A scene in which packets pass 1 and then 6, which the kernel is known to be good for, or not.
fn scene(restore: ChainRestore) -> Scene {
    let mut scene = Scene::new(Counters::Fast);
    scene.kernel.units = true;
    scene.tell(Event::ChainRestore(restore));
    for number in [1, 6] {
        scene.ovs.install(&mut scene.kernel, ufid(number), 1);
    }
    scene
}

fn epochs(scene: &mut Scene, count: u32) {
    for _ in 0..count {
        scene.kernel.packets_through(&[ufid(1), ufid(6)], 1_000);
        scene.epoch();
        while let Some(replacement) = scene.take_replacement() {
            scene.carry_out(replacement);
        }
    }
}

#[test]
fn what_recirculation_joins_is_held_back_until_the_kernel_is_known_to_go_on_where_the_nic_stops() {
    for restore in [ChainRestore::Unknown, ChainRestore::Missing] {
        let mut scene = scene(restore);
        epochs(&mut scene, 6);
        assert_eq!(scene.kernel.in_hw(), 0);
        for number in [1, 6] {
            let flow = scene.engine.flow(scene.now, ufid(number)).expect("known");
            assert_eq!(flow.refusal, Some(&Refusal::NoChainRestore));
        }
        assert_eq!(scene.engine.held_back_for_chain_restore(), 2);
        scene.tell(Event::ChainRestore(ChainRestore::Works));
        epochs(&mut scene, 6);
        assert_eq!(scene.kernel.in_hw(), 2);
        assert_eq!(scene.engine.held_back_for_chain_restore(), 0);
        // Told otherwise, it leaves.
        scene.tell(Event::ChainRestore(restore));
        epochs(&mut scene, 4);
        assert_eq!(scene.kernel.in_hw(), 0);
    }
}

#[test]
fn nothing_is_missed_in_the_middle_once_a_unit_is_in_hardware() {
    let mut scene = scene(ChainRestore::Works);
    epochs(&mut scene, 6);
    assert_eq!(scene.kernel.in_hw(), 2);
    let missed = scene.kernel.missed_in_the_middle;
    epochs(&mut scene, 6);
    assert_eq!(scene.kernel.missed_in_the_middle, missed);
    let unit = scene.engine.unit(ufid(6)).expect("joined");
    assert_eq!((unit.chain, unit.goes_to, unit.before), (Chain(5), None, vec![(ufid(1), true)]));
}

/// Packets of the denied connection are seen by software from the beginning, so that it knows what became of its mark.
#[test]
fn what_leads_to_a_change_of_established_connections_is_in_software_for_as_long_as_there_is_one() {
    let mut scene = scene(ChainRestore::Works);
    epochs(&mut scene, 6);
    assert_eq!(scene.kernel.in_hw(), 2);
    scene.ovs.install(&mut scene.kernel, ufid(1_020), 1);
    epochs(&mut scene, 6);
    assert_eq!(scene.kernel.in_hw(), 0);
    for number in [1, 1_020] {
        let flow = scene.engine.flow(scene.now, ufid(number)).expect("known");
        assert_eq!(flow.refusal, Some(&Refusal::MarksConnections), "of {number}");
    }
    scene.ovs.delete(&mut scene.kernel, ufid(1_020));
    epochs(&mut scene, 6);
    assert_eq!(scene.kernel.in_hw(), 2);
    assert_eq!(scene.engine.flow(scene.now, ufid(1)).expect("known").refusal, None);
}
