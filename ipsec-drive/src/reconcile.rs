//! What is done next: from what is wanted, and from what the IKE daemon has.
//!
//! Only connections of our own names are looked at. What failed is tried again later and later, each connection for itself.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;

use crate::strongswan::{ChildSa, children};
use crate::{Connection, ConnectionName, Wanted};

/// Milliseconds of a clock that never goes back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Millis(pub u64);

impl Millis {
    fn after(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }
}

/// The first wait after a failure, and the longest.
const WAIT_MS: u64 = 1_000;
const WAIT_MS_MAX: u64 = 60_000;
/// The shortest wait for the peer before it is asked again.
const RETRY_MS: u64 = 3_000;
/// Where both ends would initiate, the one with the higher address lets the other go first: long enough for one try more, which the first
/// needs where this end did not know the connection yet.
const POLITE_MS: u64 = 8_000;
/// Steps of one turn: the IKE daemon has other work, too.
const STEPS_MAX: usize = 64;

/// A step to take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Load its key and the connection, in the place of what has its name.
    Load(Connection),
    /// Have a security association made.
    Initiate {
        /// The connection's name.
        name: ConnectionName,
        /// The child's.
        child: String,
    },
    /// Take out a child's security associations, which others are there for.
    Terminate {
        /// The connection's name.
        name: ConnectionName,
        /// The IKE daemon's number of the child.
        id: u32,
    },
    /// Have all of it made anew from the start: the ends know each other by something else now.
    Restart(ConnectionName),
    /// Take it out, its security associations and its key.
    Unload(ConnectionName),
}

impl Step {
    /// Which connection it is about.
    pub fn name(&self) -> &ConnectionName {
        match self {
            Self::Load(connection) => &connection.name,
            Self::Initiate { name, .. } | Self::Terminate { name, .. } => name,
            Self::Restart(name) | Self::Unload(name) => name,
        }
    }
}

/// What the IKE daemon has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct There {
    /// Connections of our names.
    pub connections: BTreeSet<ConnectionName>,
    /// Children of all names.
    pub children: Vec<ChildSa>,
    /// Connections that are negotiated at this moment, by name, whoever loaded them: what was initiated is under way.
    pub negotiating: BTreeSet<String>,
}

/// How far a connection is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It is going to be loaded.
    Waiting,
    /// The IKE daemon did not take it, in its own words.
    Refused(String),
    /// It is loaded, and is initiated or waits for the peer.
    Loaded,
    /// Its packets have security associations, of settings that it had before: others are on their way.
    Renewing,
    /// All its children have security associations.
    Up,
}

/// How far a connection is, and how often it was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// How far.
    pub state: State,
    /// How often it was initiated since it was up last.
    pub initiated: u32,
}

#[derive(Debug, Clone)]
struct Entry {
    /// As the IKE daemon took it.
    loaded: Option<Connection>,
    refused: Option<String>,
    failures: u32,
    not_before: Millis,
    initiated: u32,
    initiate_not_before: Millis,
    is_up: bool,
    /// Children that were made with other settings than those that are loaded.
    outdated: BTreeSet<u32>,
}

/// Brings an IKE daemon to what is wanted.
#[derive(Debug, Default)]
pub struct Reconciler {
    entries: BTreeMap<ConnectionName, Entry>,
}

impl Reconciler {
    /// The IKE daemon is another one, or has gone: nothing of what was loaded is there for sure.
    pub fn forget(&mut self) {
        self.entries.clear();
    }

    /// The steps to take now. Each is to be [answered](Self::answered); when nothing else happens, it is to be asked again in a
    /// second or so.
    pub fn steps(&mut self, now: Millis, wanted: &Wanted, there: &There) -> Vec<Step> {
        self.entries.retain(|name, _| wanted.connections.contains_key(name));
        let mut steps = Vec::new();
        let with_sas = there.children.iter().filter_map(|child| ConnectionName::ours(&child.connection));
        let ours: BTreeSet<ConnectionName> = there.connections.iter().cloned().chain(with_sas).collect();
        let stale = ours.into_iter().filter(|name| !wanted.connections.contains_key(name));
        steps.extend(stale.map(Step::Unload));
        let mut installed: BTreeMap<&str, Vec<&ChildSa>> = BTreeMap::new();
        for child in there.children.iter().filter(|child| child.is_installed) {
            installed.entry(&child.connection).or_default().push(child);
        }
        for (name, connection) in &wanted.connections {
            if steps.len() >= STEPS_MAX {
                break;
            }
            let entry = self.entries.entry(name.clone()).or_insert_with(|| Entry::new(now));
            let is_there = there.connections.contains(name);
            if !is_there && entry.loaded.take().is_some() {
                // Somebody took it out.
                entry.is_up = false;
            }
            let has = installed.get(name.as_str()).map(Vec::as_slice).unwrap_or_default();
            let is_negotiating = there.negotiating.contains(name.as_str());
            entry.step(now, connection, has, is_negotiating, &mut steps);
        }
        steps.truncate(STEPS_MAX);
        steps
    }

    /// What came of a step.
    pub fn answered(&mut self, now: Millis, step: &Step, answer: Result<(), String>) {
        let Some(entry) = self.entries.get_mut(step.name()) else { return };
        match (step, answer) {
            (Step::Load(connection), Ok(())) => {
                entry.loaded = Some(connection.clone());
                (entry.refused, entry.failures) = (None, 0);
                (entry.initiated, entry.is_up) = (0, false);
                entry.initiate_not_before = first_try(now, connection);
            }
            (Step::Initiate { .. }, answer) => {
                entry.refused = answer.err();
            }
            (_, Ok(())) => {}
            (_, Err(why)) => {
                entry.refused = Some(why);
                entry.failures = entry.failures.saturating_add(1);
                entry.not_before = now.after(wait(entry.failures));
            }
        }
    }

    /// How far each connection is.
    pub fn progress(&self) -> impl Iterator<Item = (&ConnectionName, Progress)> {
        self.entries.iter().map(|(name, entry)| {
            let state = match (&entry.refused, &entry.loaded) {
                (Some(why), _) => State::Refused(why.clone()),
                (None, None) => State::Waiting,
                (None, Some(_)) if entry.is_up => State::Up,
                (None, Some(_)) if !entry.outdated.is_empty() => State::Renewing,
                (None, Some(_)) => State::Loaded,
            };
            (name, Progress { state, initiated: entry.initiated })
        })
    }
}

impl Entry {
    fn new(now: Millis) -> Self {
        Self {
            loaded: None,
            refused: None,
            failures: 0,
            not_before: now,
            initiated: 0,
            initiate_not_before: now,
            is_up: false,
            outdated: BTreeSet::new(),
        }
    }

    fn step(
        &mut self,
        now: Millis,
        connection: &Connection,
        has: &[&ChildSa],
        is_negotiating: bool,
        steps: &mut Vec<Step>,
    ) {
        self.outdated.retain(|id| has.iter().any(|child| child.id == *id));
        let is_as_wanted = self.loaded.as_ref().is_some_and(|loaded| is_same(loaded, connection));
        if !is_as_wanted {
            if now >= self.not_before {
                steps.push(Step::Load(connection.clone()));
                self.outdates(connection, has, steps);
            }
            return;
        }
        // Its tunnels may be others.
        self.loaded = Some(connection.clone());
        let is_fresh = |child: &&&ChildSa| !self.outdated.contains(&child.id);
        let fresh: BTreeSet<&str> = has.iter().filter(is_fresh).map(|child| &*child.child).collect();
        let missing = children(connection).into_iter().map(|(child, _)| child);
        let missing: Vec<String> = missing.filter(|child| !fresh.contains(child.as_str())).collect();
        self.is_up = missing.is_empty();
        if self.is_up {
            (self.initiated, self.refused) = (0, None);
            self.initiate_not_before = first_try(now, connection);
            let name = &connection.name;
            steps.extend(self.outdated.iter().map(|id| Step::Terminate { name: name.clone(), id: *id }));
        } else if now >= self.initiate_not_before && !is_negotiating {
            self.initiated = self.initiated.saturating_add(1);
            self.initiate_not_before = now.after(wait(self.initiated).max(RETRY_MS));
            let name = &connection.name;
            steps.extend(missing.into_iter().map(|child| Step::Initiate { name: name.clone(), child }));
        }
    }

    /// What is there was made with other settings, and does not change by itself: strongSwan rekeys it with those that it had (6.0.1).
    fn outdates(&mut self, connection: &Connection, has: &[&ChildSa], steps: &mut Vec<Step>) {
        let Some(loaded) = self.loaded.take().filter(|_| !has.is_empty()) else { return };
        if loaded.auth == connection.auth {
            // It stays until others are there.
            self.outdated.extend(has.iter().map(|child| child.id));
        } else {
            steps.push(Step::Restart(connection.name.clone()));
        }
    }
}

/// Whether the IKE daemon has to be told nothing new. Which tunnels it is for is ours to know.
fn is_same(loaded: &Connection, wanted: &Connection) -> bool {
    loaded.auth == wanted.auth
        && loaded.offload == wanted.offload
        && loaded.encap == wanted.encap
        && loaded.replay_window == wanted.replay_window
}

/// Both ends may be told to initiate; one of them does it at once.
fn first_try(now: Millis, connection: &Connection) -> Millis {
    match connection.local.is_some_and(|local| local < connection.remote) {
        true => now,
        false => now.after(POLITE_MS),
    }
}

fn wait(failures: u32) -> u64 {
    WAIT_MS.checked_shl(failures.saturating_sub(1).min(16)).unwrap_or(WAIT_MS_MAX).min(WAIT_MS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Host, Offload, TunnelRow, wanted};

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
}
