//! Moves of live tunnels between NIC and software: what each connection asks a NIC for, and which children are to be had anew.
//!
//! A move is always a new negotiation, so that no key is ever used in two places: children are made beside those that are there, which
//! go when the new ones are there (the [`Reconciler`]'s doing).

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use crate::listed::ChildSa;
use crate::loss::Losses;
use crate::place::Fact;
use crate::ranking::Ranking;
use crate::{
    Carriage, Carried, Connection, ConnectionName, Device, EspId, Kernel, Millis, Offload, Ranked,
    Reconciler, Seen, Terms, There, Wanted,
};

/// Security associations of others that count as an entry: as many as a tunnel over UDP has.
const SAS_OF_AN_ENTRY: u32 = 4;

/// What was done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moves {
    /// Connections that came into a NIC at our word.
    pub to_nic: u64,
    /// Connections that left one.
    pub to_software: u64,
    /// Connections that were to come into one, and did not.
    pub missed: u64,
    /// Children that the kernel had lost.
    pub lost: u64,
}

impl core::ops::Add for Moves {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            to_nic: self.to_nic.saturating_add(other.to_nic),
            to_software: self.to_software.saturating_add(other.to_software),
            missed: self.missed.saturating_add(other.missed),
            lost: self.lost.saturating_add(other.lost),
        }
    }
}

/// Decides what connections with offload `auto` ask for, and finds what was lost.
#[derive(Debug, Default)]
pub struct Mover {
    ranking: Ranking,
    losses: Losses,
    lost: BTreeSet<u32>,
    lost_total: u64,
    /// Children of ranked connections that may have been made with another offload than the one that is loaded.
    ranked: BTreeSet<u32>,
    /// Those of them whose connections are told what to have now.
    told: BTreeSet<u32>,
    read: Option<Millis>,
    /// What security associations had taken when the kernel was read last.
    taken: BTreeMap<EspId, (u64, u64)>,
    /// Where connections are carried, by name; those that the kernel has told of.
    carried: BTreeMap<ConnectionName, Carriage>,
    is_blind: bool,
}

impl Mover {
    /// What is to be asked for, in place of what is wanted; and, in `there`, which children are to be had anew, and which stay where
    /// they are though another offload is asked for. `is_unmet` says of a connection that a NIC's demand is known which it does not meet.
    ///
    /// Where nothing will be known of the kernel, `auto` is the IKE daemon's to act on: it tries mode packet, crypto, and software. What
    /// comes before the kernel has been read comes up in software, as everything does that is ranked.
    pub fn turn(
        &mut self,
        now: Millis,
        wanted: &Wanted,
        there: &mut There,
        seen: &Seen,
        reconciler: &Reconciler,
        is_unmet: impl Fn(&Connection) -> bool,
    ) -> Wanted {
        let mut asked = wanted.clone();
        self.is_blind = *seen == Seen::Never;
        let is_ranked = |name: &ConnectionName| {
            wanted.connections.get(name).is_some_and(|connection| connection.offload == Offload::Auto)
        };
        let kernel = match seen {
            Seen::Known(kernel) => kernel,
            Seen::Never => return asked,
            Seen::NotYet => {
                let ranked = asked.connections.iter_mut().filter(|(name, _)| is_ranked(name));
                ranked.for_each(|(name, connection)| connection.offload = self.ranking.asks(name));
                return asked;
            }
        };
        self.ranking.retain(is_ranked);
        let There { children, established, renew, stay, .. } = there;
        let foreign = foreign(children, kernel, is_ranked);
        let children = children_of(wanted, children);
        self.find_losses(now, &children, kernel, renew);
        self.carried.clear();
        for (name, children) in &children {
            let carriage = Carriage::of_all(children.iter().map(|child| kernel.carriage(child)));
            let Some(carriage) = carriage else { continue };
            self.carried.insert((*name).clone(), carriage);
            if is_ranked(name) {
                let nic = children.iter().find_map(|child| kernel.device(child));
                self.ranking.enrol(now, name, nic, carriage);
            }
        }
        self.hold_to_their_word(&children, is_ranked, renew);
        let told = wanted.connections.values().filter(|connection| !is_ranked(&connection.name));
        renew.extend(told.flat_map(|told| not_as_told(told, &children, kernel, reconciler)));
        self.observe(now, &children, kernel);
        for (name, connection) in wanted.connections.iter().filter(|(name, _)| is_ranked(name)) {
            let fact = Fact {
                carriage: self.carried.get(name).copied(),
                has_children: children.contains_key(name),
                is_established: established.contains(name.as_str()),
                standing: reconciler.standing(name),
                is_unmet: is_unmet(connection),
            };
            if self.ranking.judge(now, name, fact) {
                renew.extend(children.get(name).into_iter().flatten().map(|child| child.id));
            }
        }
        self.ranking.plan(now, &foreign);
        for (name, connection) in asked.connections.iter_mut().filter(|(name, _)| is_ranked(name)) {
            connection.offload = self.ranking.asks(name);
            let fits = |child: &&&ChildSa| {
                kernel.carriage(child).is_some_and(|carriage| carriage.fits(connection.offload))
            };
            let fitting = children.get(name).into_iter().flatten().filter(fits);
            stay.extend(fitting.map(|child| child.id));
        }
        asked
    }

    /// Takes over what an operator says.
    pub fn set_terms(&mut self, now: Millis, terms: Terms) {
        self.ranking.set_terms(now, terms);
    }

    /// How a connection ranks; none of one that asks for what it was told to ask for.
    pub fn ranked(&self, now: Millis, connection: &Connection) -> Option<Ranked> {
        if connection.offload != Offload::Auto || self.is_blind {
            return None;
        }
        Some(self.ranking.ranked(now, connection))
    }

    /// Where a connection is carried; none while the kernel has not told of all of it.
    pub fn carried(&self, name: &ConnectionName) -> Option<Carriage> {
        self.carried.get(name).copied()
    }

    /// Whether the kernel lacks something that one more reading of it would tell to be lost.
    pub fn has_doubts(&self) -> bool {
        self.losses.has_doubts()
    }

    /// What was done so far.
    pub fn moves(&self) -> Moves {
        let Ranking { moved_in, moved_out, missed, .. } = self.ranking;
        Moves { to_nic: moved_in, to_software: moved_out, missed, lost: self.lost_total }
    }

    /// Entries in use and those that are known to fit, by NIC; none for those whose device is not known.
    pub fn entries(&self) -> impl Iterator<Item = (Option<Device>, u32, Option<u32>)> {
        self.ranking.entries()
    }

    fn find_losses(
        &mut self,
        now: Millis,
        children: &Children<'_>,
        kernel: &Kernel,
        renew: &mut BTreeSet<u32>,
    ) {
        let lost = self.losses.look(now, children.values().flatten().copied(), kernel);
        self.lost_total += lost.difference(&self.lost).count() as u64;
        renew.extend(&lost);
        self.lost = lost;
    }

    /// Whoever is told what to have is held to it, at rekeys too: what was made while it was ranked may have other settings.
    fn hold_to_their_word(
        &mut self,
        children: &Children<'_>,
        is_ranked: impl Fn(&ConnectionName) -> bool + Copy,
        renew: &mut BTreeSet<u32>,
    ) {
        let of = |ranked: bool| {
            let all = children.iter().filter(move |(name, _)| is_ranked(name) == ranked);
            all.flat_map(|(_, all)| all).map(|child| child.id)
        };
        let was_ranked = |id: &u32| self.ranked.contains(id) || self.told.contains(id);
        let told: BTreeSet<u32> = of(false).filter(was_ranked).collect();
        let ranked: BTreeSet<u32> = of(true).collect();
        renew.extend(&told);
        (self.told, self.ranked) = (told, ranked);
    }

    /// Tells what moved, once for each reading.
    fn observe(&mut self, now: Millis, children: &Children<'_>, kernel: &Kernel) {
        if self.read.is_some_and(|read| kernel.read <= read) {
            return;
        }
        let before = self.read.replace(kernel.read);
        // Without a reading before, counters are where it begins.
        let over_ms = before.map_or(0, |before| kernel.read.0.saturating_sub(before.0));
        for (name, children) in children {
            let ids = children.iter().flat_map(|child| child.ids()).flatten();
            let moved = ids.filter_map(|id| {
                let sa = kernel.sas.get(&id)?;
                let (bytes, packets) = self.taken.get(&id).copied().unwrap_or_default();
                Some((sa.bytes.saturating_sub(bytes), sa.packets.saturating_sub(packets)))
            });
            let add = |sum: (u64, u64), more: (u64, u64)| {
                (sum.0.saturating_add(more.0), sum.1.saturating_add(more.1))
            };
            self.ranking.observe(now, name, moved.fold((0, 0), add), over_ms);
        }
        self.taken = kernel.sas.iter().map(|(id, sa)| (*id, (sa.bytes, sa.packets))).collect();
    }
}

/// Children that packets can use, by connection.
type Children<'a> = BTreeMap<ConnectionName, Vec<&'a ChildSa>>;

fn children_of<'a>(wanted: &Wanted, all: &'a [ChildSa]) -> Children<'a> {
    let mut children = Children::new();
    for child in all.iter().filter(|child| child.is_installed) {
        let name = ConnectionName::ours(&child.connection);
        if let Some(name) = name.filter(|name| wanted.connections.contains_key(name)) {
            children.entry(name).or_default().push(child);
        }
    }
    children
}

/// Children of a connection that is told what to have which may have been made with what it had to have before, and are carried otherwise.
fn not_as_told(
    told: &Connection,
    children: &Children<'_>,
    kernel: &Kernel,
    reconciler: &Reconciler,
) -> Vec<u32> {
    let is_otherwise = |child: &&&ChildSa| {
        reconciler.is_in_doubt(&told.name, child.id)
            && kernel.carriage(child).is_some_and(|carriage| !carriage.fits(told.offload))
    };
    children.get(&told.name).into_iter().flatten().filter(is_otherwise).map(|child| child.id).collect()
}

/// Entries of each device that no ranked connection has.
fn foreign(
    children: &[ChildSa],
    kernel: &Kernel,
    is_ranked: impl Fn(&ConnectionName) -> bool,
) -> BTreeMap<Device, u32> {
    let of_ranked =
        |child: &&ChildSa| ConnectionName::ours(&child.connection).is_some_and(|name| is_ranked(&name));
    let ranked: BTreeSet<EspId> =
        children.iter().filter(of_ranked).flat_map(ChildSa::ids).flatten().collect();
    let mut sas: BTreeMap<Device, u32> = BTreeMap::new();
    for (_, sa) in kernel.sas.iter().filter(|(id, _)| !ranked.contains(id)) {
        if let Some(device) = sa.device.filter(|_| sa.carried > Carried::Software) {
            *sas.entry(device).or_default() += 1;
        }
    }
    sas.values_mut().for_each(|sas| *sas = sas.div_ceil(SAS_OF_AN_ENTRY));
    sas
}
