//! The loop: take the next event with its time, hand both to the engine, carry out the effects it returns.
//!
//! Every effect answers with an event, also one that could not be carried out; every queue is bounded.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use netlink_wire::Errno;
use offload_engine::{
    Answer, CommandError, Effect, Engine, Event, Micros, Mode, ModeWanted, OpId, OvsSettings, OvsVersion,
    Peer, Refused,
};
use tokio::sync::{mpsc, watch};
use tracing::{error, info, warn};

mod answers;
mod control;
mod datapath;
mod discovery;
mod groups;
mod guard;
mod ike;
mod journal;
mod ovsdb;
mod probes;
mod query;
mod reader;
mod reconcile;
mod revalidator;
mod settings;
mod southbound;
mod startup;
mod tc;
mod unfit;
mod vswitchd;
mod xfrm;

use control::Ask;
use journal::Journal;
use settings::ConfigState;

use crate::config::ModeSetting;
use crate::event_log::Recorder;
use crate::inventory::{Failover, Inventory};

pub(crate) use ovsdb::ovsdb_tls;
pub(crate) use settings::engine_settings;
pub(crate) use southbound::remotes as southbound_remotes;
pub use startup::{Options, PROGRAM, check, run};
pub(crate) use vswitchd::version_in;

/// Events handed to the engine before sockets and timers get their turn again.
const EVENTS_PER_TURN: usize = 8_192;

/// The longest that the end waits for rules of our own to go.
const RULES_GO_WITHIN: Duration = Duration::from_secs(10);

/// The longest that the start waits for the guard's first word.
const GUARD_ANSWERS_WITHIN: Duration = Duration::from_millis(500);

/// Turns of the runtime after the end was asked for.
const LAST_TURNS: usize = 64;

/// The monotonic clock of the engine.
fn now() -> Micros {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let micros = i128::from(time.tv_sec) * 1_000_000 + i128::from(time.tv_nsec) / 1_000;
    Micros(u64::try_from(micros).unwrap_or_default())
}

/// The state of a connection, for `status`.
#[derive(Debug, Default, Clone)]
struct Connection {
    up: bool,
    detail: Option<String>,
    losses: u64,
}

impl Connection {
    /// Takes the new state; returns whether the engine has to hear of it.
    fn set(&mut self, state: Result<(), String>) -> bool {
        let was_up = self.up;
        self.up = state.is_ok();
        self.losses += u64::from(was_up && !self.up);
        self.detail = state.err();
        was_up != self.up
    }
}

/// Promotions at two moments, for their rate.
#[derive(Debug, Clone, Copy)]
struct Pace {
    at: Instant,
    promotions: u64,
    per_s: u64,
}

struct Daemon {
    engine: Engine,
    events: VecDeque<Event>,
    tc: tc::Tc,
    datapath: datapath::KernelDatapath,
    discovery: discovery::Discovery,
    inventory: Inventory,
    ipsec: xfrm::Xfrm,
    ike: ike::Ike,
    probes: probes::Probes,
    vswitchd: vswitchd::Vswitchd,
    vswitchd_limit: watch::Sender<Duration>,
    /// Readings of flows that may be sent, if they are wanted still once the engine has had all events.
    readings: Vec<(OpId, vswitchd::Command)>,
    config: ConfigState,
    level: crate::logging::LevelHandle,
    journal: Journal,
    journal_error: Option<String>,
    ovsdb_connection: Connection,
    vswitchd_connection: Connection,
    ovs_settings: Option<OvsSettings>,
    // Of the process that runs; OVSDB has what the package wrote at its start, if it did.
    vswitchd_version: Option<String>,
    ovs_version: Option<String>,
    /// What OVSDB told last of interfaces and tunnels.
    interfaces: BTreeMap<String, crate::inventory::OvsInterface>,
    tunnels: BTreeMap<IpAddr, String>,
    southbound: southbound::Link,
    /// The chassis that tunnels lead to, as the engine was told.
    chassis: BTreeMap<IpAddr, String>,
    kernel: String,
    started: Instant,
    pace: Pace,
    recorder: Option<Recorder>,
    // Questions that wait for how much of their resources NICs use, and since when.
    deferred: Vec<(Ask, Instant)>,
    draining: bool,
    guard: guard::Guard,
    nics: reconcile::Reconciler,
    ready: bool,
    ending: bool,
    /// Ends when rules of our own are gone, or else then.
    ends_by: Option<Instant>,
}

/// What the loop waits for, beside the daemon's own sockets.
struct Channels {
    said: mpsc::Receiver<vswitchd::Said>,
    ovsdb: mpsc::Receiver<ovsdb::News>,
    southbound: mpsc::Receiver<southbound::News>,
    asked: mpsc::Receiver<Ask>,
    probed: mpsc::Receiver<probes::Found>,
    nics: mpsc::Receiver<reconcile::Reports>,
}

/// What happened.
enum Happened {
    Tc(tc::Ready),
    Datapath(datapath::Ready),
    Discovery(discovery::Ready),
    Xfrm(xfrm::Ready),
    Said(vswitchd::Said),
    Ovsdb(ovsdb::News),
    Southbound(southbound::News),
    Asked(Ask),
    Probed(probes::Found),
    Nics(reconcile::Reports),
    NicsDue,
    Guard,
    Alive,
    Wake,
    Reload,
    End,
    Nothing,
}

impl Daemon {
    /// Runs until it is told to end.
    async fn run(mut self, mut channels: Channels, mut signals: startup::Signals) -> Result<(), String> {
        let mut told = Vec::new();
        self.datapath.look(&mut told);
        let mut events = Vec::new();
        self.take_told(told, &mut events);
        self.events.extend(events);
        let mut alive = tokio::time::interval(startup::watchdog_interval());
        alive.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !self.has_ended() {
            // Events beyond a turn's worth go on at once, but sockets and clients get their turn in between.
            let wait = if self.events.is_empty() { self.engine.wake_at().since(now()) } else { Micros::ZERO };
            let wait = Duration::from_micros(wait.0);
            let wait = self.ipsec.gathers_for().map_or(wait, |left| left.min(wait));
            let happened = tokio::select! {
                ready = self.tc.ready() => Happened::Tc(ready.map_err(broken)?),
                ready = self.datapath.ready() => Happened::Datapath(ready.map_err(broken)?),
                ready = self.discovery.ready() => Happened::Discovery(ready.map_err(broken)?),
                ready = self.ipsec.ready() => Happened::Xfrm(ready.map_err(broken)?),
                Some(said) = channels.said.recv() => Happened::Said(said),
                Some(news) = channels.ovsdb.recv() => Happened::Ovsdb(news),
                Some(news) = channels.southbound.recv() => Happened::Southbound(news),
                Some(ask) = channels.asked.recv() => Happened::Asked(ask),
                Some(found) = channels.probed.recv() => Happened::Probed(found),
                Some(reports) = channels.nics.recv() => Happened::Nics(reports),
                () = self.nics.due() => Happened::NicsDue,
                () = self.guard.ready() => Happened::Guard,
                () = self.guard.due() => Happened::Guard,
                _ = alive.tick() => Happened::Alive,
                _ = signals.reload.recv() => Happened::Reload,
                _ = signals.terminate.recv() => Happened::End,
                _ = signals.interrupt.recv() => Happened::End,
                () = tokio::time::sleep(wait) => {
                    if self.events.is_empty() { Happened::Wake } else { Happened::Nothing }
                }
            };
            self.happened(happened)?;
            self.work()?;
        }
        self.guard.leave(&mut Vec::new());
        info!("ovs-offloadd ends; rules of Open vSwitch in hardware stay with it");
        startup::notify_stopping();
        // Who asked for the end gets its answer: the connection's task has to be run for it.
        for _ in 0..LAST_TURNS {
            tokio::task::yield_now().await;
        }
        if let Some(Err(why)) = self.recorder.as_mut().map(Recorder::flush) {
            warn!(%why, "the end of the event log is lost");
        }
        Ok(())
    }

    fn happened(&mut self, happened: Happened) -> Result<(), String> {
        let mut events = Vec::new();
        match happened {
            Happened::Tc(ready) => self.tc.take(ready, &mut events).map_err(broken)?,
            Happened::Datapath(ready) => {
                let mut told = Vec::new();
                self.datapath.take(ready, &mut told).map_err(broken)?;
                self.take_told(told, &mut events);
            }
            Happened::Discovery(ready) => {
                self.discovery.take(ready, &mut self.inventory, &mut events).map_err(broken)?;
                self.ike.gone(&self.discovery.take_gone(), &mut self.ipsec);
                self.answer_deferred(&mut events);
                self.nics.something_changed();
            }
            Happened::Xfrm(ready) => {
                self.ipsec.take(ready).map_err(broken)?;
                self.answer_deferred(&mut events);
            }
            Happened::Said(said) => self.take_said(said, &mut events)?,
            Happened::Ovsdb(news) => self.take_news(news, &mut events)?,
            Happened::Southbound(news) => {
                if self.southbound.take(news) {
                    self.tell_interfaces(&mut events);
                }
            }
            Happened::Asked(ask) => self.take_or_defer(ask, &mut events),
            Happened::Probed(found) => self.probes.take(found, self.inventory.nics_told(), &mut events),
            Happened::Nics(reports) => self.nics.take(reports),
            Happened::NicsDue => self.nics.begin(),
            // Each turn has a word with it.
            Happened::Guard => {}
            Happened::Alive => {
                self.alive();
                let mut told = Vec::new();
                self.datapath.retry(&mut told);
                self.take_told(told, &mut events);
                self.discovery.retry(&mut self.inventory);
                self.ipsec.retry();
                self.ike.look(&mut self.ipsec);
                self.answer_deferred(&mut events);
            }
            Happened::Wake => events.push(Event::Wake),
            Happened::Reload => {
                startup::notify_reloading();
                // What is wrong is logged and shown in status.
                let _ = self.reload(&mut events);
                startup::notify_ready();
            }
            Happened::End => self.end(&mut events),
            Happened::Nothing => {}
        }
        for Failover { bond, from, to } in self.inventory.take_failovers() {
            match to {
                Some(to) => info!(bond, "failover: from {from} to {to}"),
                None => info!(bond, "failover: {from} carries nothing any more, the others do"),
            }
        }
        self.forget_probes_of_reset_nics(&mut events);
        self.inventory.changes(&mut events);
        events.extend(self.ipsec.take_protection().map(Event::Ipsec));
        self.see_to_guard(&mut events);
        if events.iter().any(|event| matches!(event, Event::Nic(_))) {
            self.probes.look(self.inventory.nics_told(), None);
        }
        self.events.extend(events);
        Ok(())
    }

    /// A NIC that was reset may run other firmware.
    fn forget_probes_of_reset_nics(&mut self, events: &mut Vec<Event>) {
        let reset = events.iter().filter_map(|event| match event {
            Event::NicReset(id) => self.inventory.nics_told().find(|nic| nic.id == *id),
            _ => None,
        });
        for handle in reset.map(|nic| nic.devlink.clone()).collect::<Vec<_>>() {
            self.probes.forget(Some(&handle), events);
        }
    }

    /// Hands a turn's worth of events to the engine and carries out what it wants.
    fn work(&mut self) -> Result<(), String> {
        let mut effects = Vec::new();
        for _ in 0..EVENTS_PER_TURN {
            let Some(event) = self.events.pop_front() else {
                self.send_readings();
                return Ok(());
            };
            let at = now();
            let entry = self
                .recorder
                .as_ref()
                .map(|_| Recorder::entry(&event, &mut self.tc.raws, || self.config.recorded()));
            self.engine.handle(at, event, &mut effects);
            if let Some(entry) = entry {
                self.record(at, entry, &effects);
            }
            for effect in effects.drain(..) {
                carry_out(self.carry(), effect);
            }
        }
        Ok(())
    }

    /// Sends the readings that the engine still waits for. Open vSwitch warns of a flow that it is asked for and has not.
    fn send_readings(&mut self) {
        for (op, reading) in std::mem::take(&mut self.readings) {
            let sent = match self.engine.awaits_reading(op) {
                true => self.vswitchd.read(op, reading),
                false => Err(Answer::FlowRead(Err(CommandError::Lost))),
            };
            self.events.extend(sent.err().map(|answer| Event::Answer { op, answer }));
        }
    }

    fn record(&mut self, at: Micros, entry: crate::event_log::Entry, effects: &[Effect]) {
        let Some(recorder) = &mut self.recorder else { return };
        if let Err(why) = recorder.add(at, entry, effects) {
            warn!(%why, "recording has ended");
            let _ = recorder.flush();
            self.recorder = None;
            self.tc.raws.turn(false);
        }
    }

    fn carry(&mut self) -> Carry<'_> {
        Carry {
            tc: &mut self.tc,
            datapath: &mut self.datapath,
            vswitchd: &self.vswitchd,
            journal: &self.journal,
            journal_error: &mut self.journal_error,
            inventory: &mut self.inventory,
            guard: &mut self.guard,
            events: &mut self.events,
        }
    }

    /// Has a word with the guard, if one is needed: as long as the mode is wanted, and until it has been left.
    fn see_to_guard(&mut self, events: &mut Vec<Event>) {
        let config = self.config.config();
        let is_shadow = config.mode == ModeSetting::Shadow || self.engine.mode() == Mode::Shadow;
        self.guard.need(config.shadow.guard.as_deref().filter(|_| is_shadow), events);
        self.guard.turn(events);
    }

    /// Meets the guard before anything is read: whether rules that are found may be taken over is for it to say.
    async fn meet_guard(&mut self) {
        let mut events = Vec::new();
        self.see_to_guard(&mut events);
        if self.guard.is_connected() {
            let _ = tokio::time::timeout(GUARD_ANSWERS_WITHIN, self.guard.ready()).await;
            self.see_to_guard(&mut events);
        }
        self.events.extend(events);
    }

    /// Begins to end. Rules of our own go first: with the daemon gone, nobody would.
    fn end(&mut self, events: &mut Vec<Event>) {
        if self.engine.mode() != Mode::Shadow {
            self.ending = true;
        } else if self.ends_by.is_none() {
            self.ends_by = Some(Instant::now() + RULES_GO_WITHIN);
            events.push(Event::Ending);
        }
    }

    /// Whether there is nothing of ours left that the end has to wait for.
    fn has_ended(&self) -> bool {
        let Some(by) = self.ends_by else { return self.ending };
        if self.engine.mode() != Mode::Shadow {
            return true;
        }
        let late = Instant::now() >= by;
        if late {
            error!("rules of ovs-offloadd are still in TC, and do not go: they have to be removed by hand");
        }
        late
    }

    fn take_told(&mut self, told: Vec<datapath::Told>, events: &mut Vec<Event>) {
        take_told(&mut self.inventory, told, events);
    }

    fn take_said(&mut self, said: vswitchd::Said, events: &mut Vec<Event>) -> Result<(), String> {
        match said {
            vswitchd::Said::Answer(op, answer) => {
                // The order of changes in TC is what races are judged by.
                self.tc.drain_notifications(events).map_err(broken)?;
                events.push(Event::Answer { op, answer });
            }
            vswitchd::Said::Rests(op, reading) => {
                // The round that has just ended may have deleted the flow.
                self.tc.drain_notifications(events).map_err(broken)?;
                self.readings.push((op, reading));
            }
            vswitchd::Said::Version(version) => {
                self.vswitchd_version = Some(version);
                self.tell_ovs(events);
            }
            vswitchd::Said::Up(state) => {
                let why = state.as_ref().err().cloned();
                if self.vswitchd_connection.set(state) {
                    match why {
                        None => info!("ovs-vswitchd is there"),
                        Some(why) => warn!(%why, "ovs-vswitchd is not there"),
                    }
                    self.tc.drain_notifications(events).map_err(broken)?;
                    events.push(Event::Peer { peer: Peer::Vswitchd, up: self.vswitchd_connection.up });
                }
            }
        }
        Ok(())
    }

    fn take_news(&mut self, news: ovsdb::News, events: &mut Vec<Event>) -> Result<(), String> {
        match news {
            ovsdb::News::Connection(state) => {
                if let Err(why) = &state {
                    warn!(%why, "OVSDB is not there");
                }
                if self.ovsdb_connection.set(state) {
                    events.push(Event::Peer { peer: Peer::Ovsdb, up: self.ovsdb_connection.up });
                }
            }
            ovsdb::News::State(state) => {
                let state = *state;
                let changed = self.config.take_external_ids(
                    state.external_ids.iter().map(|(key, value)| (key.as_str(), value.as_str())),
                );
                (self.interfaces, self.tunnels) = (state.interfaces, state.chassis);
                self.ike.found(state.ipsec);
                self.southbound.found(&state.external_ids, &self.interfaces);
                self.tell_interfaces(events);
                self.nics.something_changed();
                self.ovs_settings = Some(state.settings);
                self.ovs_version = state.version;
                self.tell_ovs(events);
                if changed {
                    self.apply_config(events);
                }
                self.become_ready(&state.settings)?;
            }
        }
        Ok(())
    }

    /// Tells of interfaces and chassis what both databases know.
    fn tell_interfaces(&mut self, events: &mut Vec<Event>) {
        let mut interfaces = self.interfaces.clone();
        for row in interfaces.values_mut() {
            if let Some(workload) = &mut row.workload {
                self.southbound.known.complete(row.iface_id.as_deref(), workload);
            }
        }
        self.inventory.interfaces_are(interfaces);
        let chassis = self.southbound.known.chassis_beside(&self.tunnels);
        if self.chassis != chassis {
            events.push(Event::Chassis(chassis.clone()));
            self.chassis = chassis;
        }
    }

    /// Tells what is set in OVSDB and what version runs: as ovs-vswitchd says it, else as OVSDB has it.
    fn tell_ovs(&mut self, events: &mut Vec<Event>) {
        let Some(mut settings) = self.ovs_settings else { return };
        if let Some(version) = self.vswitchd_version.as_deref().and_then(OvsVersion::parse) {
            settings.version = Some(version);
        }
        events.push(Event::Ovs(settings));
    }

    /// With the first state of OVSDB everything is known that can be refused at the start.
    fn become_ready(&mut self, ovs: &offload_engine::OvsSettings) -> Result<(), String> {
        if self.ready {
            return Ok(());
        }
        let wanted = settings::engine_settings(self.config.config()).mode;
        if wanted == ModeWanted::Steer && Mode::choose(wanted, ovs) != Mode::Steer {
            return Err(startup::not_ready_to_steer(ovs));
        }
        self.ready = true;
        self.nics.declare(&self.config.config().devices);
        startup::notify_ready();
        info!(version = env!("CARGO_PKG_VERSION"), mode = Mode::choose(wanted, ovs).as_str(), "ready");
        Ok(())
    }

    fn reload(&mut self, events: &mut Vec<Event>) -> Result<(), String> {
        self.config.reload()?;
        self.probes.forget(None, events);
        self.apply_config(events);
        Ok(())
    }

    fn apply_config(&mut self, events: &mut Vec<Event>) {
        let config = self.config.config();
        self.level.set(config.log.level);
        self.vswitchd_limit.send_replace(config.ovs.vswitchd_timeout);
        self.southbound.configure(&config.ovn);
        self.ike.configure(config);
        events.push(Event::Settings(Box::new(settings::engine_settings(config))));
        events.push(Event::Policy(Box::new(config.rules.clone())));
        if self.ready {
            self.nics.declare(&config.devices);
        }
        for key in self.config.restart_needed() {
            warn!(key, "a restart is needed for this change of the configuration");
        }
    }

    fn alive(&mut self) {
        startup::notify_alive();
        let status = self.engine.status(now());
        self.southbound.publish(&status);
        let promotions = status.tally.promotions;
        let past = self.pace.at.elapsed();
        if past >= Duration::from_secs(1) {
            let done = promotions.saturating_sub(self.pace.promotions) as f64;
            let per_s = (done / past.as_secs_f64()).round() as u64;
            self.pace = Pace { at: Instant::now(), promotions, per_s };
        }
    }
}

fn broken(error: std::io::Error) -> String {
    format!("a netlink socket is broken: {error}")
}

fn take_told(inventory: &mut Inventory, told: Vec<datapath::Told>, events: &mut Vec<Event>) {
    for told in told {
        match told {
            datapath::Told::Event(event) => events.push(event),
            datapath::Told::Port(port) => inventory.vport(port),
            datapath::Told::PortGone(port) => inventory.vport_gone((port.dp, port.port)),
            datapath::Told::PortsComplete(ports) => inventory.vports_are(ports),
        }
    }
}

/// What effects are carried out with.
struct Carry<'d> {
    tc: &'d mut tc::Tc,
    datapath: &'d mut datapath::KernelDatapath,
    vswitchd: &'d vswitchd::Vswitchd,
    journal: &'d Journal,
    journal_error: &'d mut Option<String>,
    inventory: &'d mut Inventory,
    guard: &'d mut guard::Guard,
    events: &'d mut VecDeque<Event>,
}

fn carry_out(carry: Carry<'_>, effect: Effect) {
    let mut events = Vec::new();
    let command = |command, op| match carry.vswitchd.send(op, command) {
        Ok(()) => None,
        Err(answer) => Some(Event::Answer { op, answer }),
    };
    match effect {
        Effect::DumpFilters { round, location, terse } => carry.tc.dump(round, location, terse, &mut events),
        Effect::DumpMegaflows { round } => {
            let mut told = Vec::new();
            carry.datapath.dump(round, &mut told);
            take_told(carry.inventory, told, &mut events);
        }
        Effect::Replace { op, request, unless_counted } => {
            carry.tc.replace(op, &request, unless_counted, &mut events);
        }
        Effect::AddFilter { op, filter } if carry.guard.may_make(now()) => {
            carry.tc.add(op, &filter, &mut events);
        }
        Effect::AddFilter { op, .. } => {
            let extack = Some("the guard's lease has run out".to_owned());
            let result = Err(Refused { errno: Errno::EAGAIN, extack });
            events.push(Event::Answer { op, answer: Answer::Added { made: None, result, took: None } });
        }
        Effect::TookOver { devices, rules } => {
            if rules > 0 {
                info!(rules, "rules of an earlier ovs-offloadd are taken over");
            }
            carry.guard.took_over(devices.into_iter().map(|device| device.0).collect(), &mut events);
        }
        Effect::Shed { port, on: true } => {
            warn!(%port, "more new megaflows come by a port than limits.new-flows-max; all of that port stay in software until that is over");
        }
        Effect::Shed { port, on: false } => info!(%port, "megaflows of the port may go to hardware again"),
        Effect::DeleteFilter { op, address } => carry.tc.delete(op, &address, &mut events),
        Effect::Detrace { op, ufid } => events.extend(command(vswitchd::Command::Detrace(ufid), op)),
        Effect::ReadFlow { op, ufid } => events.extend(command(vswitchd::Command::Read(ufid), op)),
        Effect::ModifyFlow { op, flow } => match carry.journal_error {
            None => events.extend(command(vswitchd::Command::Modify(flow), op)),
            // Without a journal a crash would leave a race behind that nobody repairs.
            Some(why) => {
                let failed = CommandError::Failed(format!("the journal cannot be written: {why}"));
                events.push(Event::Answer { op, answer: Answer::CommandDone(Err(failed)) });
            }
        },
        Effect::DeleteFlow { op, ufid } => events.extend(command(vswitchd::Command::Delete(ufid), op)),
        Effect::Journal(flows) => {
            *carry.journal_error = carry.journal.write(&flows).err().map(|error| error.to_string());
            if let Some(why) = carry.journal_error {
                error!(%why, "cannot write the journal; counters cannot be carried over until it can be");
            }
        }
    }
    carry.events.extend(events);
}

/// Where the configuration is looked for if none is named.
pub fn default_config_file() -> PathBuf {
    PathBuf::from("/etc/ovs-offloadd.toml")
}

/// Shared by the control socket and the metrics listener.
type SharedControl = Arc<control::Control>;
