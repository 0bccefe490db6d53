use super::*;
use crate::{Host, Offload, TunnelRow, wanted};
use alloc::vec;

fn want(tunnels: &[&[(&str, &str)]]) -> Wanted {
    let rows = tunnels.iter().enumerate().map(|(number, options)| {
        let options = options.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        TunnelRow::read(&alloc::format!("tun{number}"), "geneve", &options).unwrap()
    });
    let rows: Vec<TunnelRow> = rows.collect();
    wanted(&rows, &Host::default(), Offload::Auto)
}

const ONE: &[(&str, &str)] = &[("psk", "x"), ("remote_ip", "192.0.2.2"), ("local_ip", "192.0.2.1")];

/// An IKE daemon that does what it is told.
#[derive(Default)]
struct Daemon {
    there: There,
    refuses: Option<&'static str>,
    peer_answers: bool,
    next: u32,
}

impl Daemon {
    fn take(&mut self, step: &Step) -> Result<(), String> {
        if let Some(why) = self.refuses {
            return Err(why.into());
        }
        match step {
            Step::Guard(guard) => drop(self.there.connections.insert(guard.name.clone())),
            Step::Load(connection) => drop(self.there.connections.insert(connection.name.clone())),
            Step::Initiate { name, child } if self.peer_answers => {
                self.next += 1;
                self.there.children.push(ChildSa {
                    connection: name.as_str().into(),
                    child: child.clone(),
                    id: self.next,
                    is_installed: true,
                    local: None,
                    remote: None,
                    spis: [Some(self.next), Some(self.next)],
                });
            }
            Step::Unload(name) => {
                self.there.connections.remove(name);
                self.there.established.remove(name.as_str());
                self.there.children.retain(|child| child.connection != name.as_str());
            }
            Step::Restart(name) => {
                self.there.children.retain(|child| child.connection != name.as_str());
            }
            Step::Terminate { id, .. } => self.there.children.retain(|child| child.id != *id),
            Step::Initiate { .. } => {}
        }
        Ok(())
    }

    /// Takes steps at a moment until there are none, or it was asked ten times; returns those that were taken.
    fn settle(&mut self, reconciler: &mut Reconciler, at: u64, wanted: &Wanted) -> Vec<Step> {
        let mut all = Vec::new();
        for _ in 0..10 {
            let steps = reconciler.steps(Millis(at), wanted, &self.there);
            if steps.is_empty() {
                return all;
            }
            for step in steps {
                let answer = self.take(&step);
                reconciler.answered(Millis(at), &step, answer);
                all.push(step);
            }
        }
        panic!("it does not come to an end: {all:?}");
    }
}

fn words(steps: &[Step]) -> Vec<&'static str> {
    let word = |step: &Step| match step {
        Step::Load(_) => "load",
        Step::Initiate { .. } => "initiate",
        Step::Terminate { .. } => "terminate",
        Step::Restart(_) => "restart",
        Step::Unload(_) => "unload",
        Step::Guard(_) => "guard",
    };
    steps.iter().map(word).collect()
}

fn states(reconciler: &Reconciler) -> Vec<State> {
    reconciler.progress().map(|(_, progress)| progress.state).collect()
}

#[test]
fn what_is_wanted_is_loaded_and_initiated_once() {
    let (mut daemon, mut reconciler) =
        (Daemon { peer_answers: true, ..Daemon::default() }, Reconciler::default());
    let wanted = want(&[ONE]);
    assert_eq!(words(&daemon.settle(&mut reconciler, 0, &wanted)), ["load", "initiate", "initiate"]);
    assert_eq!(states(&reconciler), [State::Up]);
    assert_eq!(daemon.settle(&mut reconciler, 100_000, &wanted), []);
}

#[test]
fn what_is_wanted_no_more_is_unloaded_and_what_others_loaded_stays() {
    let (mut daemon, mut reconciler) =
        (Daemon { peer_answers: true, ..Daemon::default() }, Reconciler::default());
    daemon.there.children.push(ChildSa {
        connection: "site-to-site".into(),
        child: "net".into(),
        id: 99,
        is_installed: true,
        local: None,
        remote: None,
        spis: [None, None],
    });
    daemon.settle(&mut reconciler, 0, &want(&[ONE]));
    let steps = daemon.settle(&mut reconciler, 1, &want(&[]));
    assert_eq!(words(&steps), ["unload"]);
    assert_eq!((daemon.there.children.len(), daemon.there.connections.len()), (1, 0));
    assert_eq!(reconciler.progress().count(), 0);
}

#[test]
fn an_ike_sa_that_is_there_again_for_a_connection_that_was_taken_out_is_taken_out_too() {
    let mut reconciler = Reconciler::default();
    let mut daemon = Daemon { peer_answers: true, ..Daemon::default() };
    let beside = [&[("dst_port", "8")], ONE].concat();
    daemon.settle(&mut reconciler, 0, &want(&[ONE, &beside]));
    let gone = want(&[&beside]).connections.into_keys().next().unwrap();
    assert_eq!(words(&daemon.settle(&mut reconciler, 1, &want(&[ONE]))), ["unload"]);
    daemon.there.established = [gone.as_str().to_owned(), "site-to-site".to_owned()].into();
    assert_eq!(daemon.settle(&mut reconciler, 2, &want(&[ONE])), [Step::Unload(gone)]);
    assert_eq!(daemon.there.established, ["site-to-site".to_owned()].into());
}

#[test]
fn what_an_earlier_daemon_of_ours_loaded_is_loaded_again_or_taken_out() {
    let mut daemon = Daemon { peer_answers: true, ..Daemon::default() };
    let both = want(&[ONE, &[("psk", "x"), ("remote_ip", "192.0.2.3"), ("local_ip", "192.0.2.1")]]);
    daemon.settle(&mut Reconciler::default(), 0, &both);
    // Its security associations stay: loading makes none anew.
    let steps = daemon.settle(&mut Reconciler::default(), 0, &want(&[ONE]));
    assert_eq!(words(&steps), ["unload", "load"]);
    assert_eq!(daemon.there.children.len(), 2);
}

#[test]
fn a_refusal_is_kept_and_tried_again_later_and_later() {
    let mut daemon = Daemon { refuses: Some("no such plugin"), ..Daemon::default() };
    let (mut reconciler, wanted) = (Reconciler::default(), want(&[ONE]));
    let loads = |daemon: &mut Daemon, reconciler: &mut Reconciler, until: u64| {
        let turns = (0..until).step_by(500).map(|at| daemon.settle(reconciler, at, &wanted).len());
        turns.sum::<usize>()
    };
    let tries = loads(&mut daemon, &mut reconciler, 600_000);
    assert!((10..=20).contains(&tries), "{tries} in ten minutes");
    assert_eq!(states(&reconciler), [State::Refused("no such plugin".into())]);
    (daemon.refuses, daemon.peer_answers) = (None, true);
    daemon.settle(&mut reconciler, 700_000, &wanted);
    assert_eq!(states(&reconciler), [State::Up]);
}

#[test]
fn a_peer_that_is_silent_is_asked_again_later_and_later() {
    let (mut daemon, mut reconciler) = (Daemon::default(), Reconciler::default());
    let wanted = want(&[ONE]);
    let turns = (0..600_000).step_by(500);
    let asked: usize = turns.map(|at| daemon.settle(&mut reconciler, at, &wanted).len()).sum();
    assert!((20..=50).contains(&asked), "{asked} in ten minutes");
    assert_eq!(states(&reconciler), [State::Loaded]);
}

#[test]
fn the_end_with_the_lower_address_goes_first() {
    let higher: &[(&str, &str)] = &[("psk", "x"), ("remote_ip", "192.0.2.2"), ("local_ip", "192.0.2.3")];
    let (mut daemon, mut reconciler) = (Daemon::default(), Reconciler::default());
    assert_eq!(words(&daemon.settle(&mut reconciler, 0, &want(&[higher]))), ["load"]);
    assert_eq!(daemon.settle(&mut reconciler, POLITE_MS - 1, &want(&[higher])), []);
    let steps = daemon.settle(&mut reconciler, POLITE_MS, &want(&[higher]));
    assert_eq!(words(&steps), ["initiate", "initiate"]);
}

#[test]
fn another_offload_is_had_before_what_was_there_goes_and_another_key_from_the_start() {
    let (mut daemon, mut reconciler) =
        (Daemon { peer_answers: true, ..Daemon::default() }, Reconciler::default());
    daemon.settle(&mut reconciler, 0, &want(&[ONE]));
    let offloaded: Vec<_> = ONE.iter().copied().chain([("ipsec_nic-offload", "packet")]).collect();
    let before: Vec<u32> = daemon.there.children.iter().map(|child| child.id).collect();
    daemon.peer_answers = false;
    let steps = daemon.settle(&mut reconciler, 1, &want(&[&offloaded]));
    assert_eq!(words(&steps), ["load", "initiate", "initiate"]);
    assert_eq!(daemon.there.children.len(), 2, "what is there stays while there is nothing else");
    assert_eq!(states(&reconciler), [State::Renewing]);
    daemon.peer_answers = true;
    let steps = daemon.settle(&mut reconciler, 10_000, &want(&[&offloaded]));
    assert_eq!(words(&steps), ["initiate", "initiate", "terminate", "terminate"]);
    assert!(daemon.there.children.iter().all(|child| !before.contains(&child.id)));
    assert_eq!(states(&reconciler), [State::Up]);
    let rekeyed: Vec<_> =
        offloaded.iter().copied().filter(|(key, _)| *key != "psk").chain([("psk", "y")]).collect();
    let steps = daemon.settle(&mut reconciler, 10_001, &want(&[&rekeyed]));
    assert_eq!(words(&steps), ["load", "restart", "initiate", "initiate"]);
}

#[test]
fn what_is_negotiated_is_not_initiated_once_more() {
    let (mut daemon, mut reconciler, wanted) = (Daemon::default(), Reconciler::default(), want(&[ONE]));
    daemon.settle(&mut reconciler, 0, &wanted);
    let name = wanted.connections.keys().next().unwrap().as_str().into();
    daemon.there.negotiating.insert(name);
    assert_eq!(daemon.settle(&mut reconciler, 100_000, &wanted), []);
    daemon.there.negotiating.clear();
    assert_eq!(words(&daemon.settle(&mut reconciler, 100_001, &wanted)), ["initiate", "initiate"]);
}

#[test]
fn what_somebody_took_out_is_loaded_again() {
    let (mut daemon, mut reconciler) =
        (Daemon { peer_answers: true, ..Daemon::default() }, Reconciler::default());
    let wanted = want(&[ONE]);
    daemon.settle(&mut reconciler, 0, &wanted);
    daemon.there = There::default();
    assert_eq!(words(&daemon.settle(&mut reconciler, 1, &wanted)), ["load", "initiate", "initiate"]);
}

#[test]
fn steps_of_one_turn_are_bounded() {
    let rows: Vec<TunnelRow> = (0..1_000)
        .map(|number| {
            let options = [
                ("psk", "x".into()),
                ("remote_ip", alloc::format!("10.0.{}.{}", number / 250, number % 250 + 1)),
            ];
            let options =
                options.into_iter().map(|(key, value): (&str, String)| (key.into(), value)).collect();
            TunnelRow::read(&alloc::format!("tun{number}"), "gre", &options).unwrap()
        })
        .collect();
    let wanted = wanted(&rows, &Host::default(), Offload::Auto);
    let steps = Reconciler::default().steps(Millis(0), &wanted, &There::default());
    assert_eq!(steps.len(), STEPS_MAX);
}

#[test]
fn a_child_that_is_to_be_had_anew_is_negotiated_at_once_and_goes_when_the_other_is_there() {
    let (mut daemon, mut reconciler) =
        (Daemon { peer_answers: true, ..Daemon::default() }, Reconciler::default());
    let wanted = want(&[ONE]);
    daemon.settle(&mut reconciler, 0, &wanted);
    let lost = daemon.there.children[0].id;
    daemon.there.renew.insert(lost);
    let steps = daemon.settle(&mut reconciler, 1, &wanted);
    assert_eq!(
        words(&steps),
        ["load", "initiate", "terminate"],
        "beside one of its generation it would be a duplicate"
    );
    assert!(daemon.there.children.iter().all(|child| child.id != lost));
    assert_eq!(daemon.there.children.len(), 2);
}

#[test]
fn what_may_stay_is_not_negotiated_anew_for_another_offload_but_where_it_could_not_be_rekeyed() {
    let settle = |from: Offload, to: Offload| {
        let (mut daemon, mut reconciler) =
            (Daemon { peer_answers: true, ..Daemon::default() }, Reconciler::default());
        let mut wanted = want(&[ONE]);
        let mut set = |offload| {
            wanted.connections.values_mut().for_each(|connection| connection.offload = offload);
            wanted.clone()
        };
        daemon.settle(&mut reconciler, 0, &set(from));
        daemon.there.stay = daemon.there.children.iter().map(|child| child.id).collect();
        daemon.settle(&mut reconciler, 1, &set(to)).len()
    };
    assert_eq!(settle(Offload::Auto, Offload::None), 1, "it is loaded");
    assert_eq!(settle(Offload::None, Offload::Auto), 1);
    assert_eq!(settle(Offload::Packet, Offload::Auto), 5, "and initiated, and the others go");
}

#[test]
fn what_drops_packets_is_loaded_before_all_else_and_goes_with_the_mark() {
    let (mut daemon, mut reconciler) = (Daemon::default(), Reconciler::default());
    let mut wanted = want(&[ONE]);
    let guard = |mark: &str| Some(Guard::new(crate::SkbMark::read(mark).unwrap(), []));
    wanted.guard = guard("0/1");
    let steps = daemon.settle(&mut reconciler, 0, &wanted);
    assert_eq!(words(&steps)[..2], ["guard", "load"]);
    assert_eq!(daemon.settle(&mut reconciler, 1, &wanted), []);
    wanted.guard = guard("1/1");
    assert_eq!(words(&daemon.settle(&mut reconciler, 2, &wanted)), ["guard"]);
    let name = wanted.guard.clone().unwrap().name;
    daemon.there.connections.remove(&name);
    assert_eq!(words(&daemon.settle(&mut reconciler, 3, &wanted)), ["guard"], "somebody took it out");
    wanted.guard = None;
    assert_eq!(daemon.settle(&mut reconciler, 4, &wanted), [Step::Unload(name)]);
    daemon.refuses = Some("no");
    wanted.guard = guard("0/1");
    let steps = reconciler.steps(Millis(5), &wanted, &daemon.there);
    reconciler.answered(Millis(5), &steps[0], Err("no".into()));
    assert_eq!(reconciler.guard_refused(), Some("no"));
    assert_eq!(words(&reconciler.steps(Millis(6), &wanted, &daemon.there)), Vec::<&str>::new());
    assert_eq!(words(&reconciler.steps(Millis(2_000), &wanted, &daemon.there)), ["guard"]);
}

#[test]
fn files_of_another_content_begin_from_the_start() {
    let (mut daemon, mut reconciler) =
        (Daemon { peer_answers: true, ..Daemon::default() }, Reconciler::default());
    let mut wanted = want(&[ONE]);
    daemon.settle(&mut reconciler, 0, &wanted);
    assert_eq!(states(&reconciler), [State::Up]);
    wanted.connections.values_mut().for_each(|connection| connection.content = crate::Content(1));
    assert_eq!(words(&daemon.settle(&mut reconciler, 1, &wanted))[..2], ["load", "restart"]);
    assert_eq!(states(&reconciler), [State::Up]);
    assert_eq!(daemon.settle(&mut reconciler, 2, &wanted), []);
}

#[test]
fn what_is_under_way_between_two_ends_may_be_that_of_any_connection_which_the_peer_takes_for_the_same() {
    let port = |port| [&[("dst_port", port)], ONE].concat();
    let other_key = [("dst_port", "3"), ("psk", "y"), ONE[1], ONE[2]];
    let wanted = want(&[&port("1"), &port("2"), &other_key, &[ONE[0], ("remote_ip", "192.0.2.3"), ONE[2]]]);
    let named = |port: &str| {
        let name = wanted.connections.keys().find(|name| name.as_str().contains(port)).unwrap();
        name.as_str().to_owned()
    };
    let mut there = There { negotiating: [named("geneve-1-")].into(), ..There::default() };
    there.share_beside(&wanted);
    assert_eq!(there.negotiating, [named("geneve-1-"), named("geneve-2-")].into());
    assert!(there.established.is_empty());
    there.established.insert(named("geneve-3-"));
    there.share_beside(&wanted);
    assert_eq!(there.established, [named("geneve-3-")].into(), "with another key it is another's");
}

#[test]
fn of_two_children_for_the_same_the_older_goes_by_the_word_of_the_end_that_initiates_first() {
    for (local, expected) in [([192, 0, 2, 1], vec!["terminate"; 2]), ([192, 0, 2, 3], vec![])] {
        let (mut daemon, mut reconciler) =
            (Daemon { peer_answers: true, ..Daemon::default() }, Reconciler::default());
        let wanted = want(&[&[("psk", "x"), ("remote_ip", "192.0.2.2")]]);
        daemon.settle(&mut reconciler, POLITE_MS, &wanted);
        daemon.settle(&mut reconciler, 2 * POLITE_MS, &wanted);
        let first = daemon.there.children.clone();
        // The peer had some made at the same time.
        daemon
            .there
            .children
            .extend(first.iter().map(|child| ChildSa { id: child.id + 10, ..child.clone() }));
        daemon.there.children.iter_mut().for_each(|child| child.local = Some(local.into()));
        let begin = 3 * POLITE_MS;
        assert_eq!(daemon.settle(&mut reconciler, begin, &wanted), []);
        assert_eq!(daemon.settle(&mut reconciler, begin + DOUBLE_MS - 1, &wanted), []);
        assert_eq!(words(&daemon.settle(&mut reconciler, begin + DOUBLE_MS, &wanted)), expected);
        let left = daemon.there.children.iter().filter(|child| child.id > 10).count();
        assert_eq!((left, daemon.there.children.len()), (2, 4 - expected.len()), "the newest stay");
        assert_eq!(states(&reconciler), [State::Up]);
    }
}
