//! Random sequences of declarations on a model of a NIC, with faults at random steps.

use std::collections::{BTreeMap, BTreeSet};

use netlink_wire::MacAddr;
use netlink_wire::devlink::{EswitchMode, Handle, InlineMode};

use super::declared::{Attach, DeclaredNic, DeclaredPort, Function, NetnsRef, NetnsWanted};
use super::observed::Nic;
use super::plan::plan;
use super::run::{Outcome, run};
use dice::Dice;
use model::{Fault, Faults, Model};

mod dice;
mod model;

fn handle() -> Handle {
    "sim/sim0".parse().expect("a handle")
}

fn port(dice: &mut Dice, function: Function) -> DeclaredPort {
    let mut port = DeclaredPort::new(function);
    port.mac = dice.maybe(&[MacAddr([2, 1, 1, 1, 1, 1]), MacAddr([2, 1, 1, 1, 1, 2])]);
    port.up = dice.maybe(&[true, true, false]);
    port.mtu = dice.maybe(&[1500, 9000, 2000]);
    if function.own_vf().is_some() {
        port.trust = dice.maybe(&[true, false]);
    } else {
        port.active = dice.maybe(&[true, true, false]);
    }
    let ids = BTreeMap::from([("iface-id".to_owned(), format!("pod{}", dice.below(3)))]);
    let bridge = |bridge: &str, may_move| Attach::Bridge {
        bridge: bridge.to_owned(),
        external_ids: ids.clone(),
        may_move,
    };
    port.attach =
        dice.maybe(&[bridge("br-a", true), bridge("br-b", true), bridge("br-b", false), Attach::Nowhere]);
    port.netns = dice.maybe(&[
        NetnsWanted::In(NetnsRef::Name("a".into())),
        NetnsWanted::In(NetnsRef::Pid(7)),
        NetnsWanted::In(NetnsRef::Path("/run/netns/c".into())),
        NetnsWanted::Home,
    ]);
    port
}

fn declare(dice: &mut Dice) -> DeclaredNic {
    let mut nic = DeclaredNic::new(handle());
    let legacy = dice.one_in(6);
    nic.mode = match legacy {
        true => Some(EswitchMode::Legacy),
        false => dice.maybe(&[EswitchMode::Switchdev; 5]),
    };
    nic.inline = dice.maybe(&[InlineMode::None, InlineMode::Transport]);
    nic.encap = dice.maybe(&[true, false]);
    nic.vfs = dice.maybe(&[4, 4, 4, 6, 2, 0]);
    nic.sfs = if legacy { Some(0) } else { dice.maybe(&[0, 2]) };
    nic.hw_tc_offload = dice.maybe(&[true, false]);
    nic.mtu = dice.maybe(&[1500, 9000]);
    for number in 0..4 {
        if nic.vfs.is_none_or(|count| number < count) && dice.one_in(2) {
            let mut port = port(dice, Function::vf(number));
            if legacy {
                (port.up, port.attach) = (None, None);
            }
            nic.ports.push(port);
        }
    }
    for number in 0..2 {
        if !legacy && nic.sfs != Some(0) && dice.one_in(3) {
            let port = port(dice, Function::sf(number));
            nic.ports.push(port);
        }
    }
    nic
}

fn faults(dice: &mut Dice) -> Faults {
    let kinds =
        [Fault::Refused, Fault::Refused, Fault::RefusedAndDone, Fault::Silent, Fault::Dead, Fault::Blind];
    let mut faults = Faults::default();
    for _ in 0..dice.below(4) {
        let kind = kinds[dice.below(kinds.len() as u32) as usize];
        faults.at.insert(dice.below(24), kind);
    }
    faults
}

/// What was never to be touched.
fn untouched(model: &Model) -> BTreeMap<&String, &BTreeMap<String, String>> {
    let foreign = model
        .rows
        .iter()
        .filter(|(_, row)| row.external_ids.get("iface-id").is_some_and(|id| id == "theirs"));
    foreign.map(|(port, row)| (port, &row.external_ids)).collect()
}

/// Of functions that are not declared, what is otherwise though the NIC was not made anew under them.
fn strayed(declared: &DeclaredNic, before: &Nic, now: &Nic) -> Vec<String> {
    let named: BTreeSet<Function> = declared.ports.iter().map(|port| port.function).collect();
    let same_mode = before.mode == now.mode;
    let subjects = before.functions.keys().filter(|at| !named.contains(at) && now.functions.contains_key(at));
    let mut strayed = Vec::new();
    for at in subjects {
        let (mut before, mut now) = (before.functions[at].clone(), now.functions[at].clone());
        for state in [&mut before, &mut now] {
            if !same_mode {
                (state.representor, state.attachment, state.hw_addr) = (None, None, None);
            }
        }
        let only = |state| Nic { functions: BTreeMap::from([(*at, state)]), ..Nic::default() };
        strayed.extend(only(before).differences(&only(now)));
    }
    strayed
}

#[derive(Debug, Default)]
struct Tally {
    reached: u32,
    steps: u32,
    undone: u32,
    stuck: u32,
    impossible: u32,
}

fn sequence(seed: u64, tally: &mut Tally) {
    let mut dice = Dice::new(seed);
    let mut model = Model::new(&mut dice);
    for turn in 0..6 {
        let declared = declare(&mut dice);
        let before = model.look();
        let theirs: Vec<String> = untouched(&model).keys().map(|port| (*port).clone()).collect();
        let their_ids: Vec<_> = untouched(&model).values().map(|ids| (*ids).clone()).collect();
        model.faults = faults(&mut dice);
        model.applied.clear();
        let outcome = run(&declared, &mut model);
        model.faults = Faults::default();
        let at = format!("seed {seed}, turn {turn}: {outcome:#?}");
        let now = model.look();
        let (was, is) = (before.nic.as_ref().expect("a NIC"), now.nic.as_ref().expect("a NIC"));
        let named_rows: BTreeSet<String> = declared
            .ports
            .iter()
            .filter(|port| matches!(port.attach, Some(Attach::Bridge { .. })))
            .map(|port| format!("pf0{}", port.function.word()))
            .collect();
        match &outcome {
            Outcome::Reached { done } => {
                tally.reached += 1;
                tally.steps += done.len() as u32;
                assert_eq!(plan(&declared, &now), Ok(Vec::new()), "{at}");
                assert_eq!(strayed(&declared, was, is), Vec::<String>::new(), "{at}");
                let again = run(&declared, &mut model);
                assert_eq!(again, Outcome::Reached { done: Vec::new() }, "{at}");
            }
            Outcome::Impossible(unmet) => {
                tally.impossible += 1;
                assert!(!unmet.is_empty() && model.applied.is_empty(), "{at}");
                assert_eq!(was.differences(is), Vec::<String>::new(), "{at}");
            }
            Outcome::Undone { .. } => {
                tally.undone += 1;
                assert_eq!(was.differences(is), Vec::<String>::new(), "{at}");
                assert_eq!(before.drain, now.drain, "{at}");
            }
            Outcome::Stuck { differences, .. } => {
                tally.stuck += 1;
                assert!(!differences.is_empty(), "{at}");
                let real = was.differences(is);
                let told =
                    |real: &String| differences.contains(real) || differences[0] == "it cannot be read";
                assert!(real.iter().all(told), "{at}\nbut really: {real:#?}");
                // The next sequence begins where somebody has put it right.
                return;
            }
        }
        // Ports of others stay as they are, unless the configuration names them.
        for (port, ids) in theirs.iter().zip(&their_ids) {
            if !named_rows.contains(port) {
                let row = model.rows.get(port).unwrap_or_else(|| panic!("{port} is gone; {at}"));
                assert_eq!((&row.external_ids, row.bridge.as_str()), (ids, "br-a"), "{at}");
            }
        }
    }
}

#[test]
fn every_sequence_ends_as_declared_or_as_before_or_says_that_it_did_not() {
    let mut tally = Tally::default();
    for seed in 0..12_000 {
        sequence(seed, &mut tally);
    }
    println!("{tally:?}");
    // Every outcome is among them in number, or the dice show nothing.
    for (outcome, count, least) in [
        ("reached", tally.reached, 5_000),
        ("undone", tally.undone, 5_000),
        ("stuck", tally.stuck, 500),
        ("impossible", tally.impossible, 5_000),
    ] {
        assert!(count >= least, "{outcome}: {tally:?}");
    }
}
