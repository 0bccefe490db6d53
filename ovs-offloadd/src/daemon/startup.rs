//! The start: everything that can be refused is refused before anything is changed, in one sentence.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use caps::{CapSet, Capability};
use offload_engine::shadow::Abilities;
use offload_engine::{Engine, Event, Mode, OvsSettings, Peer, TcPolicy};
use sd_notify::NotifyState;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tracing::{info, warn};

use super::control::Control;
use super::journal::Journal;
use super::reconcile::Reconciler;
use super::settings::{ConfigState, engine_settings};
use super::{Channels, Connection, Daemon, Pace, SharedControl, now, ovsdb, tc, vswitchd};
use crate::config::{Config, ModeSetting};
use crate::event_log::Recorder;
use crate::io::rundir::Pidfile;
use crate::io::unixctl;
use crate::metrics;

/// Our name in the run directory.
pub const PROGRAM: &str = "ovs-offloadd";

/// What the command line says.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The configuration file; none for the defaults.
    pub config_file: Option<PathBuf>,
    /// The event log to write, if one is wanted.
    pub record: Option<PathBuf>,
}

/// Reads the configuration and does nothing else.
///
/// # Errors
/// All that is wrong with it.
pub fn check(options: &Options) -> Result<(), String> {
    ConfigState::read(options.config_file.clone()).map(|_| ())
}

/// Runs the daemon until it is told to end.
///
/// # Errors
/// One sentence that says why it cannot run; nothing was changed then.
pub fn run(options: &Options) -> Result<(), String> {
    let config = ConfigState::read(options.config_file.clone())?;
    let level = crate::logging::start(config.config().log.format, config.config().log.level)?;
    may_change_the_kernel(config.config())?;
    let pidfile = Pidfile::take(&config.config().rundir(), PROGRAM).map_err(|refused| refused.to_string())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start the runtime: {error}"))?;
    let outcome = runtime.block_on(start(config, level, options.record.as_deref()));
    // The socket and the pidfile go in this order, so that nobody finds a pid without a socket.
    drop(runtime);
    drop(pidfile);
    outcome
}

/// Signals that the daemon hears.
pub(super) struct Signals {
    pub(super) reload: Signal,
    pub(super) terminate: Signal,
    pub(super) interrupt: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            reload: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }
}

async fn start(
    config: ConfigState,
    level: crate::logging::LevelHandle,
    record: Option<&Path>,
) -> Result<(), String> {
    let settings = config.config().clone();
    let rundir = settings.rundir();
    let signals = Signals::listen().map_err(|error| format!("cannot listen to signals: {error}"))?;
    // A wrong remote is refused here; one that is lost later is connected to again.
    let (ovsdb, database) = ovsdb::start(&settings.database()).await?;
    let (control, asked) = Control::new();
    let control: SharedControl = Arc::new(control);
    let socket = serve_control(&settings, &rundir, Arc::clone(&control))?;
    let (nics, reports) = Reconciler::new(settings.database(), rundir.clone(), socket);
    serve_metrics(&settings, control).await?;
    let (vswitchd_limit, limit) = watch::channel(settings.ovs.vswitchd_timeout);
    let (vswitchd, said) = vswitchd::Vswitchd::start(rundir.clone(), limit);
    let (link, southbound) = super::southbound::Link::start(&settings.ovn);
    let journal = Journal::at(&rundir);
    let (probes, probed) = super::probes::Probes::new(rundir.clone());
    let buffer = usize::try_from(settings.limits.socket_buffer).unwrap_or(usize::MAX);
    let in_flight = usize::try_from(settings.limits.requests_in_flight).unwrap_or(usize::MAX);
    let netlink = |error: io::Error| format!("cannot open a netlink socket: {error}");
    let started = now();
    let recorder = record.map(|path| {
        Recorder::create(path, settings.limits.record_bytes, started, config.recorded())
            .map_err(|error| format!("cannot write the event log {}: {error}", path.display()))
    });
    let recorder = recorder.transpose()?;
    let mut inventory = super::Inventory::default();
    let discovery = super::discovery::Discovery::open(buffer, &mut inventory).await.map_err(netlink)?;
    let mut daemon = Daemon {
        engine: Engine::new(started, engine_settings(&settings)),
        events: std::collections::VecDeque::new(),
        tc: tc::Tc::open(buffer, in_flight).map_err(netlink)?,
        datapath: super::datapath::KernelDatapath::open(buffer).map_err(netlink)?,
        discovery,
        inventory,
        ipsec: super::xfrm::Xfrm::open(buffer).map_err(netlink)?,
        ike: super::ike::Ike::start(&settings, database),
        probes,
        vswitchd,
        vswitchd_limit,
        readings: Vec::new(),
        config,
        level,
        journal,
        journal_error: None,
        ovsdb_connection: Connection::default(),
        vswitchd_connection: Connection::default(),
        ovs_settings: None,
        vswitchd_version: None,
        ovs_version: None,
        interfaces: std::collections::BTreeMap::new(),
        tunnels: std::collections::BTreeMap::new(),
        southbound: link,
        chassis: std::collections::BTreeMap::new(),
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        started: Instant::now(),
        pace: Pace { at: Instant::now(), promotions: 0, per_s: 0 },
        recorder,
        deferred: Vec::new(),
        draining: false,
        guard: super::guard::Guard::new(),
        nics,
        ready: false,
        ending: false,
        ends_by: None,
    };
    daemon.tc.raws.turn(daemon.recorder.is_some());
    let in_flight = daemon.journal.read().map_err(|error| format!("cannot read the journal: {error}"))?;
    if !in_flight.is_empty() {
        info!(flows = in_flight.len(), "an earlier ovs-offloadd ended with commands in flight");
    }
    daemon.meet_guard().await;
    daemon.events.push_back(Event::JournalFound(in_flight));
    daemon.events.push_back(Event::Kernel(abilities(&daemon.kernel)));
    daemon.events.push_back(Event::Policy(Box::new(settings.rules.clone())));
    daemon.events.push_back(Event::Peer { peer: Peer::Netlink, up: true });
    daemon.run(Channels { said, ovsdb, southbound, asked, probed, nics: reports }, signals).await
}

/// What of TC a kernel of this release has, by the version in which it came. A release that is not understood has none of it.
fn abilities(release: &str) -> Abilities {
    let mut numbers = release.split(['.', '-', '+']).map(str::parse::<u32>);
    let version = match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor),
        _ => (0, 0),
    };
    Abilities { tunnel_flags: version >= (6, 11), tunnel_no_fragment: version >= (6, 3) }
}

/// Refuses to start without the capability that the mode may come to need.
fn may_change_the_kernel(config: &Config) -> Result<(), String> {
    let needed = match config.mode {
        ModeSetting::Observe => return Ok(()),
        ModeSetting::Auto => "auto",
        ModeSetting::Steer => "steer",
        ModeSetting::Shadow => "shadow",
    };
    match caps::has_cap(None, CapSet::Effective, Capability::CAP_NET_ADMIN) {
        Ok(true) => Ok(()),
        Ok(false) => Err(format!(
            "mode {needed} needs the capability CAP_NET_ADMIN, which this process lacks; start it as root or by \
             systemd, or set mode = \"observe\"; nothing changed"
        )),
        Err(error) => Err(format!("cannot read the capabilities of this process: {error}")),
    }
}

/// Listens on the control socket, and says where that is.
fn serve_control(config: &Config, rundir: &Path, control: SharedControl) -> Result<PathBuf, String> {
    let path = match &config.control.socket {
        Some(path) => path.clone(),
        None => rundir.join(format!("{PROGRAM}.{}.ctl", std::process::id())),
    };
    let clients = usize::try_from(config.limits.control_clients).unwrap_or(usize::MAX);
    let server = unixctl::Server::bind(&path, clients)
        .map_err(|error| format!("cannot listen on the control socket {}: {error}", path.display()))?;
    tokio::spawn(async move { server.serve(control).await });
    Ok(path)
}

async fn serve_metrics(config: &Config, control: SharedControl) -> Result<(), String> {
    let Some(address) = config.metrics.listen else { return Ok(()) };
    let clients = usize::try_from(config.limits.control_clients).unwrap_or(usize::MAX);
    let listener = TcpListener::bind(address).await.map_err(|error| {
        format!("cannot listen for Prometheus on {address} (metrics.listen): {error}; \"off\" does without")
    })?;
    if !address.ip().is_loopback() {
        warn!(%address, "metrics are served beyond this host, without authentication");
    }
    tokio::spawn(metrics::serve(listener, clients, control));
    Ok(())
}

/// Why Open vSwitch cannot be steered as it is set up.
pub(super) fn not_ready_to_steer(ovs: &OvsSettings) -> String {
    let mut missing = Vec::new();
    if !ovs.hw_offload {
        missing.push("other_config:hw-offload=true".to_owned());
    }
    if ovs.tc_policy != TcPolicy::SkipHw {
        missing.push(format!("other_config:tc-policy=skip_hw (it is {})", ovs.tc_policy.as_str()));
    }
    format!(
        "mode steer needs Open vSwitch to have {}; set it with ovs-vsctl set Open_vSwitch . … and restart \
         ovs-vswitchd, or set mode = \"auto\"; nothing changed",
        missing.join(" and ")
    )
}

/// Why the mode in force is not the one asked for.
pub(super) fn mode_note(asked: ModeSetting, mode: Mode, ovs: &OvsSettings) -> Option<String> {
    match (asked, mode) {
        (ModeSetting::Steer, Mode::Observe) => Some(not_ready_to_steer(ovs)),
        (ModeSetting::Shadow, Mode::Observe) => Some(
            "observing: mode shadow is for other_config:hw-offload=false, and Open vSwitch offloads by itself"
                .to_owned(),
        ),
        (ModeSetting::Auto, Mode::Observe) if ovs.hw_offload => Some(format!(
            "observing: steering needs other_config:tc-policy=skip_hw in Open vSwitch (it is {})",
            ovs.tc_policy.as_str()
        )),
        (ModeSetting::Auto, Mode::Observe) => {
            Some("observing: steering needs other_config:hw-offload=true in Open vSwitch".to_owned())
        }
        _ => None,
    }
}

/// Time between two signs of life: half of what systemd allows, at most a second.
pub(super) fn watchdog_interval() -> Duration {
    let longest = Duration::from_secs(1);
    sd_notify::watchdog_enabled()
        .map_or(longest, |allowed| (allowed / 2).min(longest))
        .max(Duration::from_millis(10))
}

// Without systemd there is nobody to notify, which is no failure.
pub(super) fn notify_ready() {
    let _ = sd_notify::notify(&[NotifyState::Ready]);
}

pub(super) fn notify_alive() {
    let _ = sd_notify::notify(&[NotifyState::Watchdog]);
}

pub(super) fn notify_stopping() {
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
}

pub(super) fn notify_reloading() {
    if let Ok(time) = NotifyState::monotonic_usec_now() {
        let _ = sd_notify::notify(&[NotifyState::Reloading, time]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernels_abilities_are_told_by_its_release() {
        assert_eq!(abilities("6.12.117+deb13-amd64"), Abilities::ALL);
        assert_eq!(abilities("6.3-rc1"), Abilities { tunnel_flags: false, tunnel_no_fragment: true });
        assert_eq!(abilities("5.15.0"), Abilities::default());
        assert_eq!(abilities("custom"), Abilities::default());
    }

    #[test]
    fn what_open_vswitch_lacks_is_named() {
        let off = OvsSettings::default();
        let sentence = not_ready_to_steer(&off);
        assert!(
            sentence.contains("hw-offload=true and other_config:tc-policy=skip_hw (it is none)"),
            "{sentence}"
        );
        let policy = OvsSettings { hw_offload: true, ..off };
        assert!(!not_ready_to_steer(&policy).contains("hw-offload"));
    }

    #[test]
    fn the_mode_in_force_is_explained_where_it_is_another() {
        let off = OvsSettings::default();
        assert!(mode_note(ModeSetting::Auto, Mode::Observe, &off).is_some());
        assert!(mode_note(ModeSetting::Steer, Mode::Observe, &off).is_some());
        assert!(mode_note(ModeSetting::Shadow, Mode::Observe, &off).is_some());
        assert_eq!(mode_note(ModeSetting::Shadow, Mode::Shadow, &off), None);
        assert_eq!(mode_note(ModeSetting::Observe, Mode::Observe, &off), None);
        assert_eq!(mode_note(ModeSetting::Auto, Mode::Steer, &off), None);
    }
}
