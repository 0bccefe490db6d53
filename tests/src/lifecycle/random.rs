//! Random declarations on a simulated NIC, with faults at random steps.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use lab_tests::ensure;
use lab_tests::harness::{Failure, Lab, Netns, Outcome, Ovs, Simnic};
use netlink_wire::MacAddr;
use netlink_wire::devlink::EswitchMode;
use ovs_offloadd::io::nic::{Daemon, NicHands, Places};
use ovs_offloadd::lifecycle::declared::{Attach, DeclaredNic, DeclaredPort, Function, NetnsRef, NetnsWanted};
use ovs_offloadd::lifecycle::observed::{Nic, Observed, Place};
use ovs_offloadd::lifecycle::plan::plan;
use ovs_offloadd::lifecycle::run::{Hands, Outcome as Ended, run};
use ovs_offloadd::lifecycle::step::Operation;

use super::scene::bridge;

/// Sequences in every run of the tests.
const SOME: u64 = 15;
/// Sequences of the long test.
const MANY: u64 = 1_000;
/// Time between two looks for a change that a fault may have kept from being made.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// xorshift64*.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, sides: u32) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as u32) % sides.max(1)
    }

    fn one_in(&mut self, sides: u32) -> bool {
        self.below(sides) == 0
    }

    fn maybe<T: Clone>(&mut self, of: &[T]) -> Option<T> {
        of.get(self.below(of.len() as u32 + 1) as usize).cloned()
    }
}

/// What goes wrong with an operation.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    /// It is refused before it reaches the kernel.
    Refused,
    /// It is done, and answered with an error.
    RefusedAndDone,
    /// It says it is done, and is not.
    Silent,
    /// Everything is refused from here on.
    Dead,
}

/// The real hands, with faults.
struct Faulty {
    hands: NicHands,
    faults: BTreeMap<u32, Fault>,
    count: u32,
    dead: bool,
    hit: u32,
}

impl Hands for Faulty {
    fn observe(&mut self) -> Result<Observed, String> {
        self.hands.observe()
    }

    fn apply(&mut self, operation: &Operation, now: &Observed) -> Result<(), String> {
        let fault = self.faults.get(&self.count).copied();
        self.count += 1;
        self.hit += u32::from(fault.is_some());
        match fault {
            _ if self.dead => {}
            None => return self.hands.apply(operation, now),
            Some(Fault::Silent) => return Ok(()),
            Some(Fault::Refused) => {}
            Some(Fault::Dead) => self.dead = true,
            Some(Fault::RefusedAndDone) => {
                let _ = self.hands.apply(operation, now);
            }
        }
        Err("EIO: a fault of the test".to_owned())
    }

    fn wait(&mut self, tries: u32) -> bool {
        std::thread::sleep(LOOK_EVERY);
        tries < 4
    }
}

fn port(dice: &mut Dice, vf: u16, legacy: bool, namespaces: &[String]) -> DeclaredPort {
    let mut port = DeclaredPort::new(Function::vf(vf));
    port.mac = dice.maybe(&[MacAddr([2, 1, 1, 1, 1, vf as u8]), MacAddr([2, 1, 1, 1, 2, vf as u8])]);
    port.mtu = dice.maybe(&[1500, 9000, 2000]);
    let netns = namespaces.iter().map(|name| NetnsWanted::In(NetnsRef::Name(name.clone())));
    port.trust = dice.maybe(&[true, false]);
    port.netns = dice.maybe(&netns.chain([NetnsWanted::Home]).collect::<Vec<_>>());
    if !legacy {
        port.up = dice.maybe(&[true, true, false]);
        let external_ids = BTreeMap::from([("iface-id".to_owned(), format!("pod{}", dice.below(3)))]);
        let to = |bridge: &str| Attach::Bridge {
            bridge: bridge.to_owned(),
            external_ids: external_ids.clone(),
            may_move: true,
        };
        port.attach = dice.maybe(&[to("br0"), to("br1"), Attach::Nowhere]);
    }
    port
}

fn declare(dice: &mut Dice, nic: &Simnic, namespaces: &[String], now: &Nic) -> Outcome<DeclaredNic> {
    let mut declared = DeclaredNic::new(nic.devlink().parse()?);
    let legacy = dice.one_in(5);
    declared.mode = Some(if legacy { EswitchMode::Legacy } else { EswitchMode::Switchdev });
    declared.vfs = dice.maybe(&[3, 3, 3, 2, 0]);
    declared.mtu = dice.maybe(&[1500, 9000]);
    declared.hw_tc_offload = dice.maybe(&[true]);
    for vf in 0..2 {
        if declared.vfs.is_none_or(|count| vf < count) && dice.one_in(2) {
            let port = port(dice, vf, legacy, namespaces);
            declared.ports.push(port);
        }
    }
    declared.sfs = if legacy { Some(0) } else { dice.maybe(&[0, 1]) };
    if declared.sfs != Some(0) && dice.one_in(3) {
        let active = dice.maybe(&[true, true, false]);
        let mtu = dice.maybe(&[1500, 9000]);
        declared.ports.push(DeclaredPort { active, mtu, ..DeclaredPort::new(Function::sf(0)) });
    }
    // Most of the time a workload's function is given back before its NIC is turned over.
    for (function, _) in now.functions.iter().filter(|(_, state)| state.place != Place::Home) {
        let is_left = declared.vfs.is_none_or(|count| function.own_vf().is_none_or(|vf| vf < count));
        if is_left && declared.ports.iter().all(|port| port.function != *function) && !dice.one_in(5) {
            let netns = Some(NetnsWanted::Home);
            declared.ports.push(DeclaredPort { netns, ..DeclaredPort::new(*function) });
        }
    }
    // A workload that the configuration still knows is taken back; one that it does not is left alone, and refused.
    declared.known_namespaces = namespaces.iter().cloned().map(NetnsRef::Name).collect();
    Ok(declared)
}

fn faults(dice: &mut Dice) -> BTreeMap<u32, Fault> {
    let kinds = [Fault::Refused, Fault::Refused, Fault::RefusedAndDone, Fault::Silent, Fault::Dead];
    (0..dice.below(3)).map(|_| (dice.below(6), kinds[dice.below(kinds.len() as u32) as usize])).collect()
}

/// Everything that is not of the NIC under test.
#[derive(Debug, PartialEq)]
struct Foreign {
    other: BTreeMap<String, String>,
    /// One line for each row, in order: Open vSwitch lists them in any.
    rows: BTreeSet<String>,
}

struct Scene {
    ovs: Ovs,
    nic: Simnic,
    other: Simnic,
    namespaces: Vec<String>,
}

impl Scene {
    fn places(&self) -> Places {
        Places {
            database: format!("unix:{}", self.ovs.db_socket().display()),
            rundir: self.ovs.rundir().to_owned(),
            daemon: Daemon::Found,
        }
    }

    fn hands(&self, declared: &DeclaredNic) -> Outcome<NicHands> {
        NicHands::new(declared, self.places(), |_, _, _| {}).map_err(Failure::new)
    }

    fn look(&self, declared: &DeclaredNic) -> Outcome<Observed> {
        self.hands(declared)?.observe().map_err(Failure::new)
    }

    fn foreign(&self) -> Outcome<Foreign> {
        let other = DeclaredNic::new(self.other.devlink().parse()?);
        let other = self.look(&other)?.nic.ok_or_else(|| Failure::new("the other NIC is gone"))?.facts();
        let listed = ["--format=csv", "--no-headings", "--columns=name,external_ids"];
        let theirs = ["find", "Interface", "external_ids:iface-id=theirs"];
        let rows = self.ovs.vsctl(&[&listed[..], &theirs].concat())?;
        Ok(Foreign { other, rows: rows.lines().map(str::to_owned).collect() })
    }
}

#[derive(Debug, Default)]
struct Tally {
    reached: u32,
    undone: u32,
    stuck: u32,
    impossible: u32,
    steps: usize,
    faults: u32,
}

fn nic_of(observed: &Observed) -> Outcome<&Nic> {
    observed.nic.as_ref().ok_or_else(|| Failure::new("the NIC is gone"))
}

/// What is otherwise of functions that were not declared, and were not made anew with the mode or the number of VFs.
fn strayed(declared: &DeclaredNic, before: &Nic, now: &Nic) -> Vec<String> {
    if before.mode != now.mode {
        return Vec::new();
    }
    let named: BTreeSet<Function> = declared.ports.iter().map(|port| port.function).collect();
    let of = |nic: &Nic| Nic {
        functions: nic
            .functions
            .iter()
            .filter(|(at, _)| {
                !named.contains(at) && before.functions.contains_key(at) && now.functions.contains_key(at)
            })
            .map(|(at, state)| (*at, state.clone()))
            .collect(),
        ..Nic::default()
    };
    of(before).differences(&of(now))
}

fn sequence(scene: &Scene, seed: u64, tally: &mut Tally) -> Outcome {
    let mut dice = Dice::new(seed);
    let anything = DeclaredNic::new(scene.nic.devlink().parse()?);
    let declared = declare(&mut dice, &scene.nic, &scene.namespaces, nic_of(&scene.look(&anything)?)?)?;
    let (before, theirs) = (scene.look(&declared)?, scene.foreign()?);
    let faults = faults(&mut dice);
    // And what the driver itself refuses, so late in the midst of it as the dice have it.
    scene.nic.set("fail", "clear")?;
    let operations = [
        "eswitch_mode_set",
        "sriov",
        "fn_probe",
        "fn_hw_addr_set",
        "vf_trust",
        "open",
        "set_mtu",
        "fn_state_set",
        "port_new",
    ];
    for _ in 0..dice.below(3) {
        let operation = operations[dice.below(operations.len() as u32) as usize];
        scene.nic.set("fail", &format!("{operation} {} 5 a fault of the lab", dice.below(3) + 1))?;
    }
    let mut hands = Faulty { hands: scene.hands(&declared)?, faults, count: 0, dead: false, hit: 0 };
    let ended = run(&declared, &mut hands);
    tally.faults += hands.hit;
    scene.nic.set("fail", "clear")?;
    let now = scene.look(&declared)?;
    let at = format!("sequence {seed}, {declared:#?} with {:?} ended with {ended:#?}", hands.faults);
    let differences = nic_of(&before)?.differences(nic_of(&now)?);
    match &ended {
        Ended::Reached { done } => {
            tally.reached += 1;
            tally.steps += done.len();
            let left = plan(&declared, &now);
            ensure!(left == Ok(Vec::new()), "reached, and {left:?} is left to do: {at}");
            let strayed = strayed(&declared, nic_of(&before)?, nic_of(&now)?);
            ensure!(strayed.is_empty(), "what nobody declared: {strayed:#?}; {at}");
        }
        Ended::Impossible(_) => {
            tally.impossible += 1;
            ensure!(hands.count == 0 && differences.is_empty(), "impossible, but {differences:#?}: {at}");
        }
        Ended::Undone { .. } => {
            tally.undone += 1;
            ensure!(differences.is_empty(), "undone, but {differences:#?}: {at}");
        }
        Ended::Stuck { differences: told, .. } => {
            tally.stuck += 1;
            ensure!(*told == differences, "stuck, and really {differences:#?}: {at}");
        }
    }
    let foreign = scene.foreign()?;
    ensure!(foreign == theirs, "what is foreign was {theirs:#?}, is {foreign:#?}: {at}");
    Ok(())
}

fn sequences(lab: &mut Lab, count: u64) -> Outcome {
    let begin = Instant::now();
    let (nic, other) = (Simnic::with_total_vfs(0, 3)?, Simnic::with_total_vfs(1, 1)?);
    let ovs = bridge(lab)?;
    nic.set("mode_needs_unbound_vfs", "1")?;
    other.set_mode("switchdev")?;
    other.enable_vfs(1)?;
    ovs.vsctl(&["add-br", "br1"])?;
    // Theirs: a representor of another NIC, and a port whose name could be that of one of ours.
    for port in [other.representor(0), nic.representor(2)] {
        ovs.vsctl(&[
            "add-port",
            "br0",
            &port,
            "--",
            "set",
            "Interface",
            &port,
            "external_ids:iface-id=theirs",
        ])?;
    }
    let pods = [Netns::new(lab, "red")?, Netns::new(lab, "blue")?];
    let namespaces = pods.iter().map(|pod| pod.name().to_owned()).collect();
    let scene = Scene { ovs, nic, other, namespaces };
    let mut tally = Tally::default();
    for seed in 0..count {
        sequence(&scene, seed, &mut tally)?;
    }
    println!("{count} sequences in {:.1} s: {tally:?}", begin.elapsed().as_secs_f64());
    // The way there and the way back are among them, or the dice show nothing.
    let enough = tally.reached >= 1 && tally.undone >= 1;
    ensure!(enough, "there or back never came up: {tally:?}");
    Ok(())
}

pub(super) fn random_sequences_end_as_declared_or_as_before_or_say_so(lab: &mut Lab) -> Outcome {
    sequences(lab, SOME)
}

pub(super) fn a_thousand_random_sequences_end_as_declared_or_as_before_or_say_so(lab: &mut Lab) -> Outcome {
    sequences(lab, MANY)
}
