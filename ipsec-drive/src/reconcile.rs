//! What is done next: from what is wanted, and from what the IKE daemon has.
//!
//! Only connections of our own names are looked at. What failed is tried again later and later, each connection for itself.

use alloc::borrow::ToOwned as _;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;

use crate::listed::ChildSa;
use crate::strongswan::children;
use crate::{Connection, ConnectionName, Guard, Offload, Wanted};

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
/// Two children for the same are one too many when both are there for so long: it is none that just comes in the place of another.
const DOUBLE_MS: u64 = 15_000;
/// Steps of one turn: the IKE daemon has other work, too. After loads its IKE SAs are listed, which takes it longer than many steps where
/// there are thousands of connections.
const STEPS_MAX: usize = 512;

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
    /// Have packets dropped that nothing protects.
    Guard(Guard),
}

impl Step {
    /// Which connection it is about.
    pub fn name(&self) -> &ConnectionName {
        match self {
            Self::Load(connection) => &connection.name,
            Self::Initiate { name, .. } | Self::Terminate { name, .. } => name,
            Self::Restart(name) | Self::Unload(name) => name,
            Self::Guard(guard) => &guard.name,
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
    /// Connections whose ends know each other, by name, whoever loaded them: what does not come up there is a child.
    pub established: BTreeSet<String>,
    /// Children that are to be had anew, by number, whatever their settings.
    pub renew: BTreeSet<u32>,
    /// Children that stay where the offload alone is another, by number: they are carried as it would have it.
    pub stay: BTreeSet<u32>,
}

impl There {
    /// What is told of one connection is true of those that the peer [cannot tell it from](Connection::is_beside): any of their IKE SAs
    /// may carry their children.
    pub fn share_beside(&mut self, wanted: &Wanted) {
        let mut between: BTreeMap<_, Vec<&Connection>> = BTreeMap::new();
        for connection in wanted.connections.values() {
            between.entry((connection.local, connection.remote)).or_default().push(connection);
        }
        for all in between.values().filter(|all| all.len() > 1) {
            for names in [&mut self.negotiating, &mut self.established] {
                let told = |of: &&&Connection| {
                    all.iter().any(|other| names.contains(other.name.as_str()) && other.is_beside(of))
                };
                let more: Vec<_> = all.iter().filter(told).map(|of| of.name.as_str().to_owned()).collect();
                names.extend(more);
            }
        }
    }
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
    /// There are more children than it takes, since then.
    is_double_since: Option<Millis>,
    /// Children that others are to be had for.
    outdated: BTreeMap<u32, Outdated>,
    /// That of the children that are made from now on.
    generation: u32,
    /// It is initiated at once when it is loaded: packets may be lost meanwhile.
    is_urgent: bool,
    /// All children that were listed last.
    listed: BTreeSet<u32>,
    /// It was loaded, and nothing was listed since then that shows which children came before.
    is_just_loaded: bool,
    /// Children that may have come just before it was loaded, with other settings.
    in_doubt: BTreeSet<u32>,
}

/// Why others are to be had for a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outdated {
    /// It was made with another offload than the one that is loaded.
    Offload,
    /// It was made with other settings, or is to be had anew.
    Otherwise,
}

/// How a connection stands, for whoever decides about its offload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    /// The offload that it is loaded with; none while it is not.
    pub(crate) offload: Option<Offload>,
    /// The IKE daemon did not take it.
    pub(crate) is_refused: bool,
    /// All children are there, and none of them is to be had anew.
    pub(crate) is_settled: bool,
    /// All of them were made with what is loaded, for sure.
    pub(crate) is_certain: bool,
    /// How often it was initiated since it was loaded or up.
    pub(crate) initiated: u32,
}

/// Brings an IKE daemon to what is wanted.
#[derive(Debug, Default)]
pub struct Reconciler {
    entries: BTreeMap<ConnectionName, Entry>,
    guard: Guarded,
}

/// What drops packets that nothing protects, as it was loaded.
#[derive(Debug, Default)]
struct Guarded {
    loaded: Option<Guard>,
    refused: Option<String>,
    failures: u32,
    not_before: Millis,
}

impl Guarded {
    /// It is loaded before everything else.
    fn step(&mut self, now: Millis, wanted: Option<&Guard>, there: &There) -> Option<Step> {
        let Some(guard) = wanted else {
            *self = Self::default();
            return None;
        };
        let is_there = self.loaded.as_ref() == Some(guard) && there.connections.contains(&guard.name);
        (!is_there && now >= self.not_before).then(|| Step::Guard(guard.clone()))
    }

    fn answered(&mut self, now: Millis, guard: &Guard, answer: Result<(), String>) {
        match answer {
            Ok(()) => *self = Self { loaded: Some(guard.clone()), ..Self::default() },
            Err(why) => {
                (self.refused, self.failures) = (Some(why), self.failures.saturating_add(1));
                self.not_before = now.after(wait(self.failures));
            }
        }
    }
}

impl Reconciler {
    /// The IKE daemon is another one, or has gone: nothing of what was loaded is there for sure.
    pub fn forget(&mut self) {
        self.entries.clear();
        self.guard = Guarded::default();
    }

    /// Why packets that nothing protects are not dropped, in the IKE daemon's words; none where they are, or are not to be.
    pub fn guard_refused(&self) -> Option<&str> {
        self.guard.refused.as_deref()
    }

    /// The steps to take now. Each is to be [answered](Self::answered); when nothing else happens, it is to be asked again in a
    /// second or so.
    pub fn steps(&mut self, now: Millis, wanted: &Wanted, there: &There) -> Vec<Step> {
        self.entries.retain(|name, _| wanted.connections.contains_key(name));
        let mut steps: Vec<Step> = self.guard.step(now, wanted.guard.as_ref(), there).into_iter().collect();
        // An IKE SA may be of a connection that has gone: charon has it anew for children of one beside that, where the peer ends it.
        let with_sas = there.children.iter().map(|child| &child.connection).chain(&there.established);
        let with_sas = with_sas.filter_map(|name| ConnectionName::ours(name));
        let ours: BTreeSet<ConnectionName> = there.connections.iter().cloned().chain(with_sas).collect();
        let is_wanted = |name: &ConnectionName| {
            wanted.connections.contains_key(name)
                || wanted.guard.as_ref().is_some_and(|guard| guard.name == *name)
        };
        let stale = ours.into_iter().filter(|name| !is_wanted(name));
        steps.extend(stale.map(Step::Unload));
        let mut listed: BTreeMap<&str, Vec<&ChildSa>> = BTreeMap::new();
        for child in &there.children {
            listed.entry(&child.connection).or_default().push(child);
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
            let mut has = listed.remove(name.as_str()).unwrap_or_default();
            entry.doubt(&has, there.negotiating.contains(name.as_str()));
            has.retain(|child| child.is_installed);
            entry.step(now, connection, &has, there, &mut steps);
        }
        steps.truncate(STEPS_MAX);
        steps
    }

    /// What came of a step.
    pub fn answered(&mut self, now: Millis, step: &Step, answer: Result<(), String>) {
        if let Step::Guard(guard) = step {
            return self.guard.answered(now, guard, answer);
        }
        let Some(entry) = self.entries.get_mut(step.name()) else { return };
        match (step, answer) {
            (Step::Load(connection), Ok(())) => {
                entry.loaded = Some(connection.clone());
                (entry.refused, entry.failures) = (None, 0);
                (entry.initiated, entry.is_up, entry.is_just_loaded) = (0, false, true);
                let is_urgent = core::mem::take(&mut entry.is_urgent);
                entry.initiate_not_before = if is_urgent { now } else { first_try(now, connection) };
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

    /// How a connection stood when steps were last asked for.
    pub(crate) fn standing(&self, name: &ConnectionName) -> Option<Standing> {
        self.entries.get(name).map(|entry| Standing {
            offload: entry.loaded.as_ref().map(|loaded| loaded.offload),
            is_refused: entry.loaded.is_none() && entry.refused.is_some(),
            is_settled: entry.loaded.is_some() && entry.is_up && entry.outdated.is_empty(),
            is_certain: entry.in_doubt.is_subset(&entry.outdated.keys().copied().collect()),
            initiated: entry.initiated,
        })
    }

    /// Whether a child may have been made with what its connection was loaded with before.
    pub(crate) fn is_in_doubt(&self, name: &ConnectionName, child: u32) -> bool {
        self.entries.get(name).is_some_and(|entry| entry.in_doubt.contains(&child))
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
            is_double_since: None,
            outdated: BTreeMap::new(),
            // Another than that of an earlier daemon, most likely.
            generation: (now.0 / 1_000) as u32,
            is_urgent: false,
            listed: BTreeSet::new(),
            is_just_loaded: false,
            in_doubt: BTreeSet::new(),
        }
    }

    /// Finds children that may not have been made with what is loaded. What strongSwan lists of a child does not tell which settings it
    /// has (6.0.1), but order does: one that was not listed before the connection was loaded, and is when it is listed next, may have come
    /// before that. The peer had it made, or we had and it was under way: as long as any is, there may be more.
    fn doubt(&mut self, all: &[&ChildSa], is_negotiating: bool) {
        let listed: BTreeSet<u32> = all.iter().map(|child| child.id).collect();
        self.in_doubt.retain(|id| listed.contains(id));
        if self.is_just_loaded {
            self.in_doubt.extend(listed.difference(&self.listed));
            self.is_just_loaded = is_negotiating;
        }
        self.listed = listed;
    }

    fn step(
        &mut self,
        now: Millis,
        connection: &Connection,
        has: &[&ChildSa],
        there: &There,
        steps: &mut Vec<Step>,
    ) {
        self.outdated.retain(|id, _| has.iter().any(|child| child.id == *id));
        for child in has.iter().filter(|child| there.renew.contains(&child.id)) {
            if self.outdated.insert(child.id, Outdated::Otherwise) != Some(Outdated::Otherwise) {
                self.is_urgent = true;
            }
        }
        if self.is_urgent && self.loaded.as_ref().is_some_and(|loaded| loaded.generation == self.generation) {
            self.generation = self.generation.wrapping_add(1);
        }
        let is_new = |loaded: &Connection| loaded.generation != self.generation;
        let is_as_wanted =
            self.loaded.as_ref().is_some_and(|loaded| is_same(loaded, connection) && !is_new(loaded));
        if !is_as_wanted {
            if now >= self.not_before {
                if !has.is_empty() && !self.loaded.as_ref().is_some_and(is_new) {
                    self.generation = self.generation.wrapping_add(1);
                }
                let connection = Connection { generation: self.generation, ..connection.clone() };
                steps.push(Step::Load(connection.clone()));
                self.outdates(&connection, has, there, steps);
            }
            return;
        }
        // Its tunnels may be others.
        self.loaded = Some(Connection { generation: self.generation, ..connection.clone() });
        let is_fresh = |child: &&&ChildSa| !self.outdated.contains_key(&child.id);
        let fresh: BTreeSet<&str> = has.iter().filter(is_fresh).map(|child| &*child.child).collect();
        let missing = children(connection).into_iter().map(|(child, _)| child);
        let missing: Vec<String> = missing.filter(|child| !fresh.contains(child.as_str())).collect();
        self.is_up = missing.is_empty();
        if self.is_up {
            (self.initiated, self.refused) = (0, None);
            self.initiate_not_before = first_try(now, connection);
            let name = &connection.name;
            steps.extend(self.outdated.keys().map(|id| Step::Terminate { name: name.clone(), id: *id }));
            let double = self.double(now, connection, has);
            steps.extend(double.into_iter().map(|id| Step::Terminate { name: name.clone(), id }));
        } else if now >= self.initiate_not_before && !there.negotiating.contains(connection.name.as_str()) {
            self.initiated = self.initiated.saturating_add(1);
            self.initiate_not_before = now.after(wait(self.initiated).max(RETRY_MS));
            let name = &connection.name;
            steps.extend(missing.into_iter().map(|child| Step::Initiate { name: name.clone(), child }));
        }
    }

    /// Children that another of the same is there for, by number: both ends had one made at the same time. Each takes an entry of a NIC.
    /// One of the ends takes them out, that which initiates first, and leaves the newest.
    fn double(&mut self, now: Millis, connection: &Connection, has: &[&ChildSa]) -> Vec<u32> {
        let mut newest: BTreeMap<&str, u32> = BTreeMap::new();
        let mut double = Vec::new();
        for child in has.iter().filter(|child| !self.outdated.contains_key(&child.id)) {
            let other = newest.get(&*child.child).copied();
            double.extend(other.map(|other| other.min(child.id)));
            newest.insert(&child.child, other.unwrap_or_default().max(child.id));
        }
        if double.is_empty() {
            self.is_double_since = None;
        }
        let since = (!double.is_empty()).then(|| *self.is_double_since.get_or_insert(now));
        let is_first = has.iter().any(|child| child.local.is_some_and(|local| local < connection.remote));
        match since {
            Some(since) if is_first && now >= since.after(DOUBLE_MS) => double,
            _ => Vec::new(),
        }
    }

    /// What is there was made with other settings, and does not change by itself: strongSwan rekeys it with those that it had (6.0.1).
    /// Where the offload alone is another, some may stay; not those that cannot be rekeyed without it.
    fn outdates(&mut self, connection: &Connection, has: &[&ChildSa], there: &There, steps: &mut Vec<Step>) {
        let Some(loaded) = self.loaded.take().filter(|_| !has.is_empty()) else { return };
        if (&loaded.auth, loaded.content) != (&connection.auth, connection.content) {
            steps.push(Step::Restart(connection.name.clone()));
            return;
        }
        // It stays until others are there.
        let is_otherwise =
            loaded.encap != connection.encap || loaded.replay_window != connection.replay_window;
        let may_stay = matches!(loaded.offload, Offload::Auto | Offload::None);
        for child in has {
            let why = self.outdated.get(&child.id);
            if is_otherwise || why == Some(&Outdated::Otherwise) {
                self.outdated.insert(child.id, Outdated::Otherwise);
            } else if loaded.offload == connection.offload {
                // It is another's turn.
            } else if may_stay && there.stay.contains(&child.id) {
                self.outdated.remove(&child.id);
            } else {
                self.outdated.insert(child.id, Outdated::Offload);
            }
        }
    }
}

/// Whether the IKE daemon has to be told nothing new. Which tunnels it is for is ours to know.
fn is_same(loaded: &Connection, wanted: &Connection) -> bool {
    loaded.auth == wanted.auth
        && loaded.content == wanted.content
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
mod tests;
