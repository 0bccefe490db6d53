//! Which tunnels get a NIC's entries: those with offload `auto`, by the bytes that they move, with the planner that ranks megaflows.
//!
//! An entry is a connection's: two security associations of GRE, four of a tunnel over UDP, and as many more while they are rekeyed.
//! What the planner was told is what the kernel showed: a move is done when security associations are where they were to be.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use policies::planner::{Capacity, Explanation, Planner, Refusal, Sample, Settings, Verdict};
use policies::{Micros, Rate};

use crate::place::{Fact, Judged, Missed, Place, Tunnel, TunnelId};
use crate::{Carriage, Carried, Connection, ConnectionName, Device, Millis, Offload};

/// A tunnel's time goes so many times as slow as a megaflow's, since a move costs both ends a negotiation and not an entry of a table
/// alone: half a second of the planner's is a minute here. All rates are so many times as high there.
const SLOWER: u64 = 120;
/// What an operator says of ranking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Connections that each NIC has room for; none to learn that from what it refuses.
    pub entries: Option<u32>,
    /// The slowest tunnel that is worth a negotiation, in bytes per second.
    pub min_rate: u64,
}

impl Default for Terms {
    fn default() -> Self {
        Self { entries: None, min_rate: 125_000 }
    }
}

impl Terms {
    fn settings(self) -> Settings {
        Settings {
            min_rate: Rate::BytesPerSecond(self.min_rate.saturating_mul(SLOWER)),
            // A minute.
            min_residency: Micros::from_millis(500),
            // Readings are 10 s apart.
            counter_delay: Micros::from_millis(84),
            capacity: match self.entries {
                Some(entries) => Capacity::Fixed(entries),
                None => Capacity::Learned { initial: None },
            },
            // A negotiation is some milliseconds of CPU time at both ends; so are these bytes, in software.
            install_cost: 20_000_000,
            // One in a second.
            installs_per_s: 120,
            install_burst: 16,
            in_flight_max: 32,
            // Two minutes, up to two hours.
            retry_after: Micros::from_secs(1),
            retry_after_max: Micros::from_secs(60),
            ..Settings::default()
        }
    }
}

/// How a connection ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rank {
    /// It is not up, or the kernel has not told of it yet: it asks no NIC for anything.
    Unknown,
    /// It has an entry.
    Held,
    /// It was given an entry, and is on its way there.
    Moving,
    /// Its entry is another's, and it is on its way to software.
    Leaving,
    /// It moves too little: bytes per second, and what it needs.
    TooSlow {
        /// What it moves.
        rate: u64,
        /// What it has to.
        needs: u64,
    },
    /// It is in line for an entry.
    InLine {
        /// Its place, from 1.
        rank: u64,
        /// Of so many.
        of: u64,
    },
    /// It is not tried before so many milliseconds have passed.
    Waits {
        /// Milliseconds.
        ms: u64,
    },
}

/// How a connection ranks, and what came of the last try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ranked {
    /// How it ranks.
    pub rank: Rank,
    /// What it asks a NIC for at this time: `auto`, `crypto` or `none`.
    pub asks: Offload,
    /// Why it is not in the NIC, and how often in a row it was tried; none where it was never tried, or has an entry.
    pub missed: Option<(Missed, u32)>,
    /// It came up without mode packet alone, which is tried again after so many milliseconds.
    pub packet_again_ms: Option<u64>,
}

/// The planners, one for each NIC, and the connections that they rank.
#[derive(Debug, Default)]
pub(crate) struct Ranking {
    terms: Terms,
    nics: BTreeMap<Option<Device>, Planner<TunnelId>>,
    tunnels: BTreeMap<ConnectionName, Tunnel>,
    names: BTreeMap<TunnelId, ConnectionName>,
    next: u32,
    /// Connections that came into a NIC at our word, that left one, and that were to come and did not.
    pub(crate) moved_in: u64,
    pub(crate) moved_out: u64,
    pub(crate) missed: u64,
}

fn at(now: Millis) -> Micros {
    span(now.0)
}

fn span(ms: u64) -> Micros {
    Micros(ms.saturating_mul(1_000) / SLOWER)
}

impl Ranking {
    pub(crate) fn set_terms(&mut self, now: Millis, terms: Terms) {
        if self.terms != terms {
            self.terms = terms;
            self.nics.values_mut().for_each(|nic| nic.set_settings(at(now), terms.settings()));
        }
    }

    /// Forgets all that `is_ranked` does not hold for.
    pub(crate) fn retain(&mut self, is_ranked: impl Fn(&ConnectionName) -> bool) {
        let gone: Vec<ConnectionName> =
            self.tunnels.keys().filter(|name| !is_ranked(name)).cloned().collect();
        for tunnel in gone.iter().filter_map(|name| self.tunnels.remove(name)) {
            self.names.remove(&tunnel.id);
            if let Some(nic) = self.nics.get_mut(&tunnel.nic) {
                nic.forget(tunnel.id);
            }
        }
        let used = |nic: &Option<Device>| self.tunnels.values().any(|tunnel| tunnel.nic == *nic);
        let idle: Vec<Option<Device>> = self.nics.keys().filter(|nic| !used(nic)).copied().collect();
        idle.iter().for_each(|nic| drop(self.nics.remove(nic)));
    }

    /// A connection is up, its end of this device's, and is carried so. One that is known may have come to another device.
    pub(crate) fn enrol(
        &mut self,
        now: Millis,
        name: &ConnectionName,
        nic: Option<Device>,
        carriage: Carriage,
    ) {
        let is_in_nic = carriage.least >= Carried::Crypto;
        let known = self.tunnels.get_mut(name);
        let id = match &known {
            Some(tunnel) if tunnel.nic == nic => return,
            Some(tunnel) => tunnel.id,
            None => {
                self.next = self.next.wrapping_add(1);
                TunnelId(self.next)
            }
        };
        let place = if is_in_nic { Place::Placed } else { Place::Software };
        let planner = self.nics.entry(nic).or_insert_with(|| Planner::new(self.terms.settings()));
        planner.set_verdict(at(now), id, Verdict::default());
        if is_in_nic {
            planner.placed(at(now), id);
        }
        match known {
            Some(tunnel) => {
                let before = core::mem::replace(&mut tunnel.nic, nic);
                tunnel.place = place;
                if let Some(planner) = self.nics.get_mut(&before) {
                    planner.forget(id);
                }
            }
            None => {
                let tunnel = Tunnel::new(id, nic, place);
                self.tunnels.insert(name.clone(), tunnel);
                self.names.insert(id, name.clone());
            }
        }
    }

    /// What a connection moved in so many milliseconds.
    pub(crate) fn observe(&mut self, now: Millis, name: &ConnectionName, moved: (u64, u64), over_ms: u64) {
        let Some(tunnel) = self.tunnels.get(name) else { return };
        let (bytes, packets) = moved;
        if let Some(planner) = self.nics.get_mut(&tunnel.nic) {
            planner.observe(at(now), tunnel.id, Sample { packets, bytes, over: span(over_ms) });
        }
    }

    /// Tells the planner what became of a connection. Returns whether its children are to be had anew: some are where they must not be.
    pub(crate) fn judge(&mut self, now: Millis, name: &ConnectionName, fact: Fact) -> bool {
        let Some(tunnel) = self.tunnels.get_mut(name) else { return false };
        let Some(planner) = self.nics.get_mut(&tunnel.nic) else { return false };
        let (id, time) = (tunnel.id, at(now));
        let was = tunnel.place;
        match tunnel.judge(now, fact) {
            Judged::Stays => return false,
            Judged::Anew => return true,
            Judged::CameIn => {
                self.moved_in += u64::from(was == Place::Promoting);
                planner.placed(time, id);
            }
            Judged::Missed(missed) => {
                self.missed += 1;
                // A NIC that takes none at all is full with none.
                let is_full = missed == Missed::CameInSoftware && !fact.is_unmet;
                planner.refused(time, id, if is_full { Refusal::TableFull } else { Refusal::Transient });
            }
            Judged::Left { is_half } => {
                self.moved_out += 1;
                planner.unplaced(time, id);
                if is_half {
                    planner.refused(time, id, Refusal::Transient);
                }
            }
        }
        false
    }

    /// Entries that others have of each NIC, and what is done next: from then on [`Self::asks`] says so.
    pub(crate) fn plan(&mut self, now: Millis, foreign: &BTreeMap<Device, u32>) {
        for (nic, planner) in &mut self.nics {
            let of_others = nic.and_then(|device| foreign.get(&device)).copied();
            planner.set_foreign_entries(of_others.unwrap_or_default());
            let plan = planner.plan(at(now));
            let places = [(plan.promote, Place::Promoting), (plan.demote, Place::Demoting)];
            for (ids, place) in places {
                for name in ids.iter().filter_map(|id| self.names.get(id)) {
                    if let Some(tunnel) = self.tunnels.get_mut(name) {
                        tunnel.goes(place);
                    }
                }
            }
        }
    }

    /// What a connection with offload `auto` asks a NIC for at this time.
    pub(crate) fn asks(&self, name: &ConnectionName) -> Offload {
        self.tunnels.get(name).map_or(Offload::None, Tunnel::asks)
    }

    /// How a connection with offload `auto` ranks.
    pub(crate) fn ranked(&self, now: Millis, connection: &Connection) -> Ranked {
        let Some(tunnel) = self.tunnels.get(&connection.name) else {
            return Ranked { rank: Rank::Unknown, asks: Offload::None, missed: None, packet_again_ms: None };
        };
        let of_planner = |span: Micros| span.0.saturating_mul(SLOWER) / 1_000;
        let rank = match tunnel.place {
            Place::Placed => Rank::Held,
            Place::Promoting => Rank::Moving,
            Place::Demoting => Rank::Leaving,
            Place::Software => {
                let planner = self.nics.get(&tunnel.nic);
                match planner.map(|planner| planner.explain(at(now), tunnel.id)) {
                    Some(Explanation::TooSlow { rate, needs }) => {
                        let per_s = |rate: Rate| match rate {
                            Rate::BytesPerSecond(rate) | Rate::PacketsPerSecond(rate) => rate / SLOWER,
                        };
                        Rank::TooSlow { rate: per_s(rate), needs: per_s(needs) }
                    }
                    Some(Explanation::Waiting { rank, of, .. }) => Rank::InLine { rank, of: of.max(rank) },
                    Some(Explanation::BlockedUntil { until, .. }) => {
                        Rank::Waits { ms: of_planner(until.since(at(now))) }
                    }
                    _ => Rank::Unknown,
                }
            }
        };
        let again = tunnel.packet_again.filter(|_| tunnel.is_lesser && tunnel.place == Place::Placed);
        Ranked {
            rank,
            asks: tunnel.asks(),
            missed: tunnel.missed,
            packet_again_ms: again.map(|(again, _)| again.0.saturating_sub(now.0)),
        }
    }

    /// Entries in use and those that are known to fit, by NIC.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (Option<Device>, u32, Option<u32>)> {
        self.nics.iter().map(|(nic, planner)| {
            let counts = planner.counts();
            (*nic, counts.placed.saturating_add(counts.promoting), counts.capacity)
        })
    }
}
