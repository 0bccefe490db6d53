//! Events in, effects out.

use crate::event::{Answer, Effect, Event, OpId, Peer};
use crate::history::History;
use crate::ledger::Stage;
use crate::ovs::{Mode, ModeWanted};
use crate::placing::{Draining, Observe, Placing};
use crate::settings::Settings;
use crate::shadow::Shadow;
use crate::steer::Steer;
use crate::watch::Change;
use crate::world::{Doubt, World};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use netlink_wire::Ufid;
use policies::Micros;
use tc_flower::Location;

/// Between a dump of the kernel datapath that did not settle what was lost, and the next.
const AGAIN_AFTER: Micros = Micros::from_millis(50);

/// The decisions of ovs-offloadd.
///
/// Feed every event to [`Engine::handle`] with its time and carry out the effects it returns; send [`Event::Wake`]
/// when [`Engine::wake_at`] has come. The same events at the same times give the same effects.
#[derive(Debug)]
pub struct Engine {
    pub(crate) world: World,
    pub(crate) mode: Mode,
    pub(crate) placing: Box<dyn Placing>,
    pub(crate) started: Micros,
    pub(crate) peers: BTreeMap<Peer, bool>,
    pub(crate) history: History,
    pub(crate) draining: Draining,
    next_epoch: Micros,
    next_datapath_round: Micros,
    /// When the latest reading of the kernel datapath was asked for.
    datapath_round_began: Micros,
    journal: BTreeSet<Ufid>,
    ending: bool,
}

impl Engine {
    /// An engine that knows nothing yet. It observes until it is told otherwise.
    pub fn new(now: Micros, settings: Settings) -> Self {
        Self {
            world: World::new(settings),
            mode: Mode::Observe,
            placing: Box::new(Observe::default()),
            started: now,
            peers: BTreeMap::new(),
            history: History::default(),
            draining: Draining::default(),
            next_epoch: now,
            next_datapath_round: now,
            datapath_round_began: now,
            journal: BTreeSet::new(),
            ending: false,
        }
    }

    /// Takes one event; appends what is to be done about it to `fx`, in order.
    pub fn handle(&mut self, now: Micros, event: Event, fx: &mut Vec<Effect>) {
        let first = fx.len();
        let settles = matches!(event, Event::Answer { .. } | Event::JournalFound(_));
        match event {
            Event::Answer { op, answer } => self.answered(now, op, answer, fx),
            Event::Wake => self.wake(now, fx),
            Event::FilterNew { .. }
            | Event::FilterGone { .. }
            | Event::FiltersGone { .. }
            | Event::FilterCounted { .. }
            | Event::FilterDumped { .. }
            | Event::FiltersDumped { .. }
            | Event::Megaflow { .. }
            | Event::MegaflowGone(_)
            | Event::MegaflowsDumped { .. } => self.reported(now, event, fx),
            _ => self.told(now, event, fx),
        }
        if !self.world.rejoined.is_empty() {
            self.placing.rejoined(&mut self.world, now);
        }
        if !self.world.own.encumbered.is_empty() {
            self.placing.encumbered(&mut self.world, now, fx);
        }
        if self.world.own.strays_due().is_some_and(|due| now >= due) {
            self.world.remove_strays(now, fx);
        }
        self.world.ask_for_openflow(now, fx);
        self.follow_mode(now, fx);
        if settles || fx[first..].iter().any(Effect::changes_something) {
            self.keep_journal(first, fx);
        }
    }

    /// Whether what [`Effect::ReadFlow`] asked for is still of use: the flow is where it was, and unchanged.
    pub fn awaits_reading(&self, op: OpId) -> bool {
        let entry = self.world.ops.get(&op).and_then(|ufid| self.world.ledger.get(*ufid));
        entry.is_some_and(|entry| {
            let is_unchanged =
                matches!(entry.stage, Stage::Reading { op: asked, changed } if asked == op && changed == entry.changed);
            is_unchanged && entry.filter.is_some()
        })
    }

    /// When the engine next wants [`Event::Wake`].
    pub fn wake_at(&self) -> Micros {
        let placing = self.placing.wake_at(&self.world).unwrap_or(self.next_epoch);
        let strays = self.world.own.strays_due().unwrap_or(self.next_epoch);
        let openflow = self.world.openflow.wake_at().filter(|_| self.world.vswitchd_up);
        let openflow = openflow.unwrap_or(self.next_epoch);
        self.next_epoch.min(self.next_datapath_round).min(placing).min(strays).min(openflow)
    }

    fn answered(&mut self, now: Micros, op: OpId, answer: Answer, fx: &mut Vec<Effect>) {
        if let Answer::Detraced(text) = answer {
            let own = &self.world.own;
            return self.world.openflow.answered(now, op, text, |ufid| own.get(ufid).is_some());
        }
        match self.world.own.stray_answered(now, op, &answer) {
            Some(true) => self.world.tally.orphans_deleted += 1,
            Some(false) => {}
            None => self.placing.answered(&mut self.world, now, op, answer, fx),
        }
    }

    /// What TC and the kernel datapath report.
    fn reported(&mut self, now: Micros, event: Event, fx: &mut Vec<Effect>) {
        let world = &mut self.world;
        let change = match event {
            Event::FilterNew { report, author } => world.filter_new(now, report, author),
            Event::FilterGone { report, .. } => world.filter_gone(now, &report),
            Event::FilterCounted { round, counters } => world.filter_counted(now, &counters, round),
            Event::FilterDumped { round, report } => world.filter_dumped(now, report, round),
            Event::Megaflow { round, flow } => world.megaflow(now, &flow, round),
            Event::MegaflowGone(flow) => world.megaflow_gone(now, &flow),
            Event::MegaflowsDumped { round, complete } => {
                let changes = world.megaflows_dumped(now, round, complete);
                self.act_on(now, changes, fx);
                self.placing.datapath_read(&mut self.world, now, fx);
                if self.world.datapath_doubt == Doubt::Settled {
                    // Of a host with so many megaflows, reading them would be all that is done.
                    let took = now.since(self.datapath_round_began);
                    self.next_datapath_round = self.next_datapath_round.max(now.plus(took).plus(took));
                } else {
                    self.next_datapath_round = now.plus(AGAIN_AFTER).min(self.next_datapath_round);
                }
                Change::Nothing
            }
            Event::FiltersGone { location, chain, prio } => {
                let changes = world.filters_gone(now, location, chain, prio);
                return self.act_on(now, changes, fx);
            }
            Event::FiltersDumped { round, location, complete } => {
                let was_under_way = !world.sweep.outstanding.is_empty();
                let changes = world.filters_dumped(now, location, round, complete);
                self.act_on(now, changes, fx);
                if was_under_way && self.world.sweep.outstanding.is_empty() {
                    self.history.note(now, self.world.totals.all);
                    self.world.record_epoch(now);
                    self.placing.epoch(&mut self.world, now, fx);
                }
                return;
            }
            _ => Change::Nothing,
        };
        self.act_on(now, [change], fx);
    }

    fn act_on(&mut self, now: Micros, changes: impl IntoIterator<Item = Change>, fx: &mut Vec<Effect>) {
        for change in changes {
            let decided = match change {
                Change::Made { ufid, .. } | Change::Found { ufid } => {
                    self.world.decide(now, ufid);
                    None
                }
                Change::Told { ufid } if self.world.judges_datapath => {
                    self.world.decide(now, ufid);
                    None
                }
                // Time alone may change what the rules say.
                Change::Read { ufid, .. } | Change::Counted { ufid, .. }
                    if self.world.policy.rules().depend_on_time() =>
                {
                    self.world.decide(now, ufid).then_some(Change::Decided { ufid })
                }
                _ => None,
            };
            self.placing.changed(&mut self.world, now, change, fx);
            if let Some(decided) = decided {
                self.placing.changed(&mut self.world, now, decided, fx);
            }
        }
    }

    fn act_on_decisions(&mut self, now: Micros, decided: Vec<Ufid>, fx: &mut Vec<Effect>) {
        for ufid in decided {
            self.placing.changed(&mut self.world, now, Change::Decided { ufid }, fx);
        }
    }

    /// What OVSDB, links, the operator and the daemon itself tell.
    fn told(&mut self, now: Micros, event: Event, fx: &mut Vec<Effect>) {
        match event {
            Event::Settings(settings) => {
                let needed_guard = self.world.settings.needs_guard;
                self.world.settings = *settings;
                self.placing.reconfigured(&mut self.world, now);
                if self.world.settings.needs_guard != needed_guard {
                    self.lease_changed(now, fx);
                }
            }
            Event::Lease(lease) => {
                self.world.lease = lease;
                self.lease_changed(now, fx);
            }
            Event::Policy(rules) => {
                let decided = self.world.set_rules(now, *rules);
                self.placing.rules_changed(&mut self.world, now, &decided, fx);
            }
            Event::Ovs(ovs) => self.world.ovs = ovs,
            Event::Peer { peer, up } => self.peer(now, peer, up, fx),
            Event::Chassis(chassis) => {
                let decided = self.world.set_chassis(now, chassis);
                self.act_on_decisions(now, decided, fx);
            }
            Event::Ipsec(policies) => {
                let decided = self.world.set_ipsec(now, policies);
                self.act_on_decisions(now, decided, fx);
            }
            Event::ChainRestore(restore) if restore != self.world.chain_restore => {
                self.world.chain_restore = restore;
                self.placing.chain_restore_changed(&mut self.world, now, fx);
            }
            Event::Kernel(abilities) => self.world.abilities = abilities,
            Event::Ending => self.ending = true,
            Event::Nic(nic) => self.world.ports.set_nic(*nic),
            Event::NicGone(nic) => self.world.ports.remove_nic(nic),
            Event::NicReset(nic) => {
                if self.world.probed.forget(nic) {
                    self.placing.probed(&mut self.world, now);
                }
                self.placing.nic_reset(&mut self.world, now, nic, fx);
            }
            Event::Probed(refusals) => {
                self.world.probed.are(refusals);
                self.placing.probed(&mut self.world, now);
            }
            Event::Port(port) => {
                let (ifindex, location) = (port.ifindex, port.location);
                let known = self.world.ports.get(ifindex).is_some_and(|known| known.is_named_like(&port));
                let before = self.world.ports.set(*port);
                if !known {
                    let decided = self.world.decide_of_port(now, ifindex, location);
                    self.act_on_decisions(now, decided, fx);
                    self.world.record_port(ifindex, location);
                }
                if before.is_none_or(|before| before.location != location) {
                    self.world.read_in_full.insert(location);
                    self.next_epoch = now;
                }
                self.placing.ports_changed(&mut self.world, now, fx);
            }
            Event::PortGone(ifindex) => {
                if let Some(port) = self.world.ports.remove(ifindex) {
                    self.port_gone(now, port.location, fx);
                    let decided = self.world.decide_of_port(now, ifindex, port.location);
                    self.act_on_decisions(now, decided, fx);
                }
            }
            Event::TcOverrun => {
                self.world.trust_nothing(now);
                self.placing.overrun(&mut self.world, now, fx);
                self.next_epoch = now;
            }
            Event::DatapathOverrun => {
                self.world.doubt_datapath();
                self.placing.overrun(&mut self.world, now, fx);
                self.next_datapath_round = now;
            }
            Event::JournalFound(flows) => {
                let flows: BTreeSet<Ufid> = flows.into_iter().collect();
                self.journal.extend(flows.iter().copied());
                self.placing.take_suspects(flows);
            }
            Event::Drain(on) => {
                self.draining.all = on;
                self.placing.drain(&mut self.world, now, &self.draining, fx);
            }
            Event::DrainNic { nic, on } => {
                if on {
                    self.draining.nics.insert(nic);
                } else {
                    self.draining.nics.remove(&nic);
                }
                self.placing.drain(&mut self.world, now, &self.draining, fx);
            }
            _ => {}
        }
    }

    fn peer(&mut self, now: Micros, peer: Peer, up: bool, fx: &mut Vec<Effect>) {
        self.peers.insert(peer, up);
        if peer == Peer::Vswitchd {
            self.world.vswitchd_up = up;
            if up {
                self.world.openflow.restarted(now);
                self.placing.vswitchd_up(&mut self.world, now, fx);
                if self.world.datapath_doubt != Doubt::Settled {
                    self.next_datapath_round = now;
                }
            } else {
                self.placing.vswitchd_down(&mut self.world, now, fx);
            }
        }
    }

    fn lease_changed(&mut self, now: Micros, fx: &mut Vec<Effect>) {
        if !self.world.takes_over() {
            self.world.own.give_up_left();
        }
        self.placing.lease_changed(&mut self.world, now, fx);
    }

    fn port_gone(&mut self, now: Micros, location: Location, fx: &mut Vec<Effect>) {
        self.world.read_in_full.remove(&location);
        if self.world.ports.at(location).is_none() {
            self.world.sweep.outstanding.remove(&location);
            let changes = self.world.filters_of_ovs_gone(now, location, None, None);
            self.act_on(now, changes, fx);
        }
        self.placing.ports_changed(&mut self.world, now, fx);
    }

    fn wake(&mut self, now: Micros, fx: &mut Vec<Effect>) {
        if now >= self.next_epoch {
            self.next_epoch = now.plus(self.world.settings.epoch);
            if self.world.ports.locations().is_empty() {
                self.world.record_epoch(now);
                self.placing.epoch(&mut self.world, now, fx);
            } else {
                self.world.start_sweep(fx);
            }
        }
        if now >= self.next_datapath_round {
            // What is flushed is told by no notification, and rules made from it wait for this reading.
            let Settings { datapath_interval, epoch, .. } = self.world.settings;
            let judges = self.world.judges_datapath;
            let interval = if judges { datapath_interval.min(epoch) } else { datapath_interval };
            self.next_datapath_round = now.plus(interval);
            if self.world.datapath_round.is_none() {
                self.datapath_round_began = now;
            }
            self.world.start_datapath_round(fx);
        }
        self.placing.wake(&mut self.world, now, fx);
    }

    /// Changes the mode when the settings ask for it and nothing is under way.
    fn follow_mode(&mut self, now: Micros, fx: &mut Vec<Effect>) {
        let asked = if self.ending && self.world.settings.mode == ModeWanted::Shadow {
            ModeWanted::Observe
        } else {
            self.world.settings.mode
        };
        let wanted = Mode::choose(asked, &self.world.ovs);
        if wanted == self.mode {
            return self.placing.stay(&mut self.world, now, fx);
        }
        if !self.placing.leave(&mut self.world, now, fx) || !self.world.ops.is_empty() {
            return;
        }
        let suspects = self.placing.give_suspects();
        self.placing = match wanted {
            Mode::Observe => Box::new(Observe::default()),
            Mode::Steer => Box::new(Steer::default()),
            Mode::Shadow => Box::new(Shadow::default()),
        };
        self.world.judges_datapath = self.placing.judges_datapath();
        self.mode = wanted;
        self.placing.take_suspects(suspects);
        self.placing.drain(&mut self.world, now, &self.draining, fx);
        // A new mode learns of every filter as if it were found now.
        let locations = self.world.ports.locations();
        self.world.read_in_full.extend(locations);
        for ufid in self.world.ledger.select(|entry| entry.filter.is_some()) {
            self.placing.changed(&mut self.world, now, Change::Found { ufid }, fx);
        }
        if self.world.judges_datapath {
            // Flushes before now may not have shown yet.
            self.world.datapath_doubt = Doubt::Queued;
            self.next_datapath_round = now;
            let told = self.world.ledger.select(|entry| entry.filter.is_none() && self.world.judges(entry));
            self.act_on(now, told.into_iter().map(|ufid| Change::Told { ufid }), fx);
        }
    }

    /// Notes in the journal what gets under way, before it does.
    fn keep_journal(&mut self, first: usize, fx: &mut Vec<Effect>) {
        let in_flight = self.placing.in_flight(&self.world);
        let more = !in_flight.is_subset(&self.journal);
        let done = in_flight.is_empty() && !self.journal.is_empty();
        if more || done {
            fx.insert(first, Effect::Journal(in_flight.iter().copied().collect()));
            self.journal = in_flight;
        }
    }
}
