//! The loop: take the next event with its time, hand both to the engine, carry out the effects it returns.
//!
//! Every effect answers with an event, also one that could not be carried out; every queue is bounded.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use offload_engine::{
    Answer, CommandError, Effect, Engine, Event, Micros, Mode, ModeWanted, OpId, OvsSettings,
};
use tokio::sync::{mpsc, watch};
use tracing::{error, info, warn};

mod answers;
mod control;
mod datapath;
mod discovery;
mod effects;
mod groups;
mod guard;
mod ike;
mod journal;
mod ovsdb;
mod peers;
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
use effects::carry_out;
use journal::Journal;
use peers::Connection;
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
                self.ike.reset(&self.discovery.take_reset(), &mut self.ipsec);
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

/// Where the configuration is looked for if none is named.
pub fn default_config_file() -> PathBuf {
    PathBuf::from("/etc/ovs-offloadd.toml")
}

/// Shared by the control socket and the metrics listener.
type SharedControl = Arc<control::Control>;
