//! The configuration: one table of keys, read from a TOML file and from OVSDB.
//!
//! A key's name, default, meaning and check stand in [`keys::KEYS`] and nowhere else: the default file and
//! the reference page are written from it. Nothing here opens a socket.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipsec_drive::Offload;
use policies::rules::{Place, Rules};

use crate::lifecycle::declared::DeclaredNic;

pub mod devices;
mod document;
mod file;
pub mod keys;
mod rules;
mod value;

pub use document::{default_file, reference_page};
pub use file::{Assignment, ConfigError, ConfigErrors, Origin, Written, assignments_in};
pub use rules::{PolicyText, RULE_KEYS};
pub use value::{RateSetting, Scalar, show_duration};

/// What the daemon may do to Open vSwitch's rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ModeSetting {
    /// Follows `Open_vSwitch.other_config`: steer where hw-offload is on with tc-policy skip_hw, else observe.
    #[default]
    Auto,
    /// Reads only.
    Observe,
    /// Changes the placement of rules that Open vSwitch owns.
    Steer,
    /// Places rules of its own where Open vSwitch does not offload.
    Shadow,
}

/// How a promotion treats the counters of a flow that has already counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CountersSetting {
    /// Lets ovs-vswitchd carry them over first (`dpctl/mod-flow`).
    Exact,
    /// Replaces only; OpenFlow counters of Open vSwitch 3.2 and later may fall once.
    #[default]
    Fast,
}

/// What is done with rules that recirculation joins, as conntrack does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RecirculationSetting {
    /// They are placed where the kernel is known to go on in TC where the NIC stops.
    #[default]
    Auto,
    /// They are placed whatever is known.
    Always,
    /// They stay in software.
    Never,
}

/// Entries a NIC has room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CapacitySetting {
    /// Found out from the NIC's refusals (ENOSPC).
    #[default]
    Learn,
    /// Known.
    Entries(u64),
}

/// Installs that a NIC can bear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstallsSetting {
    /// Found out from how long its driver takes for one; [`Self::UNTIL_LEARNED`] before the first.
    Learn,
    /// Known, per second.
    PerSecond(u64),
}

impl InstallsSetting {
    /// Installs per second before the first, and unless configured.
    pub const UNTIL_LEARNED: u64 = 1_000;

    /// What holds before anything is learned.
    pub const fn per_s(self) -> u64 {
        match self {
            Self::Learn => Self::UNTIL_LEARNED,
            Self::PerSecond(number) => number,
        }
    }
}

impl Default for InstallsSetting {
    fn default() -> Self {
        Self::PerSecond(Self::UNTIL_LEARNED)
    }
}

/// What an entry is there to save.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SavingSetting {
    /// Bytes.
    #[default]
    Bytes,
    /// Packets.
    Packets,
    /// CPU time, by a model of the software datapath.
    Cpu,
}

/// Least severe message that is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogLevel {
    /// Failures.
    Error,
    /// And what needs attention.
    Warn,
    /// And what changed.
    #[default]
    Info,
    /// And each decision.
    Debug,
    /// And each message.
    Trace,
}

impl LogLevel {
    /// Every level by its word.
    pub const WORDS: &'static [(&'static str, Self)] = &[
        ("error", Self::Error),
        ("warn", Self::Warn),
        ("info", Self::Info),
        ("debug", Self::Debug),
        ("trace", Self::Trace),
    ];

    /// The level of that name.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::WORDS.iter().find(|(name, _)| *name == word).map(|(_, level)| *level)
    }
}

/// Where and how messages are logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// The journal if standard error is connected to it, else text.
    #[default]
    Auto,
    /// Lines on standard error.
    Text,
    /// JSON objects on standard error, one per line.
    Json,
    /// The journal's own protocol.
    Journald,
}

/// Everything a user can set.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Config {
    /// What the daemon may do.
    pub mode: ModeSetting,
    /// Where Open vSwitch is.
    pub ovs: Ovs,
    /// OVN's Southbound database.
    pub ovn: Ovn,
    /// The control socket.
    pub control: Control,
    /// Logging.
    pub log: Log,
    /// Steer mode.
    pub steer: Steer,
    /// Shadow mode.
    pub shadow: Shadow,
    /// Which flows earn an entry.
    pub policy: Policy,
    /// What the NICs can bear.
    pub nic: Nic,
    /// IPsec of tunnels.
    pub ipsec: Ipsec,
    /// How often state is read afresh.
    pub dump: Dump,
    /// Prometheus.
    pub metrics: Metrics,
    /// Bounds of the daemon itself.
    pub limits: Limits,
    /// The rules of the policy.
    pub rules: Rules,
    /// What NICs are declared to be.
    pub devices: Vec<DeclaredNic>,
}

/// Where Open vSwitch is.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Ovs {
    /// OVSDB remote: `unix:PATH`, `tcp:HOST:PORT` or `ssl:HOST:PORT`; the run directory's `db.sock` if absent.
    pub database: Option<String>,
    /// Run directory; `OVS_RUNDIR` or Open vSwitch's own if absent.
    pub rundir: Option<PathBuf>,
    /// Longest wait for an answer of ovs-vswitchd's main thread.
    pub vswitchd_timeout: Duration,
}

/// OVN's Southbound database.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Ovn {
    /// Where it is.
    pub southbound: SouthboundSetting,
    /// Whether this node's row of Chassis says what it can offload.
    pub publish: bool,
}

/// Where OVN's Southbound database is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum SouthboundSetting {
    /// It is not asked.
    #[default]
    None,
    /// Where ovn-controller finds it: `Open_vSwitch.external_ids:ovn-remote`.
    OvnRemote,
    /// These remotes, with commas.
    At(String),
}

/// The control socket.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Control {
    /// Its path; `<rundir>/ovs-offloadd.<pid>.ctl` if absent.
    pub socket: Option<PathBuf>,
}

/// Logging.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Log {
    /// Least severe message that is logged.
    pub level: LogLevel,
    /// Where and how.
    pub format: LogFormat,
}

/// Steer mode.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Steer {
    /// How a promotion treats counters.
    pub counters: CountersSetting,
    /// What is done with rules that recirculation joins.
    pub recirculation: RecirculationSetting,
}

/// Shadow mode.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Shadow {
    /// The guard's socket; none to do without.
    pub guard: Option<PathBuf>,
    /// Whether rules go for a moment before their megaflows look idle to Open vSwitch.
    pub gaps: bool,
}

/// Which flows earn an entry.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Policy {
    /// Where flows go that no rule matches.
    pub default: Place,
    /// What an entry is there to save.
    pub saving: SavingSetting,
    /// Least rate of a flow that is promoted.
    pub min_rate: RateSetting,
    /// Least age of a flow that is promoted.
    pub min_age: Duration,
    /// Margin by which a newcomer must beat the flow it displaces, as a fraction.
    pub hysteresis: f64,
    /// Least stay in hardware before a flow may be displaced.
    pub min_residency: Duration,
    /// Time between two readings of all TC filters, and two plans.
    pub epoch: Duration,
}

/// What the NICs can bear.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Nic {
    /// How late their counters may be.
    pub counter_delay: Duration,
    /// Entries of each NIC.
    pub capacity: CapacitySetting,
    /// Most installs in a second, per NIC.
    pub installs_per_s: InstallsSetting,
    /// Most installs at once, per NIC.
    pub install_burst: u64,
}

/// IPsec of tunnels, which an IKE daemon makes at our word.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ipsec {
    /// Whether it is to.
    pub drive: bool,
    /// Whether what Libreswan asks of NICs is written in OVSDB, where `ovs-monitor-ipsec` has it.
    pub libreswan: bool,
    /// Control socket of strongSwan's charon.
    pub vici: PathBuf,
    /// What a NIC is asked for where the tunnel does not say.
    pub offload: Offload,
    /// Connections that each NIC has room for.
    pub entries: CapacitySetting,
    /// The slowest tunnel that is worth an entry, in bits per second.
    pub min_rate: u64,
}

/// How often state is read afresh.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Dump {
    /// The kernel datapath's flows.
    pub datapath_interval: Duration,
}

/// Prometheus.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Metrics {
    /// Address of the HTTP listener; none if absent.
    pub listen: Option<SocketAddr>,
}

/// Bounds of the daemon itself.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Limits {
    /// Most flows that are tracked.
    pub flows_max: u64,
    /// New megaflows by one port in a second that mode shadow follows.
    pub new_flows_max: u64,
    /// Receive buffer of each notification socket, in bytes.
    pub socket_buffer: u64,
    /// Most requests to the kernel in flight.
    pub requests_in_flight: u64,
    /// Most clients of the control socket at a time.
    pub control_clients: u64,
    /// Most bytes an event log may take (`--record`).
    pub record_bytes: u64,
}

impl Config {
    /// The configuration of an empty file.
    pub fn defaults() -> Self {
        let mut config = Self::default();
        for key in keys::KEYS {
            let value = file::literal(key.default).expect("a default is a TOML value: tested");
            (key.set)(&mut config, &value).expect("a default passes its own check: tested");
        }
        config
    }

    /// Applies layers from the weakest to the strongest over the defaults.
    ///
    /// # Errors
    /// All that is wrong, with places; nothing is applied then.
    pub fn from_layers(layers: &[&[Assignment]]) -> Result<Self, ConfigErrors> {
        let mut config = Self::defaults();
        let mut errors = Vec::new();
        for assignment in layers.iter().copied().flatten() {
            if let Err(sentence) = (assignment.key.set)(&mut config, &assignment.value) {
                errors.push(ConfigError {
                    origin: assignment.origin.clone(),
                    sentence: format!("{} {sentence}", assignment.key.name),
                });
            }
        }
        ConfigErrors::none_or(errors).map(|()| config)
    }

    /// Applies a file over what is weaker than it, and compiles its rules.
    ///
    /// # Errors
    /// All that is wrong, with places; nothing is applied then.
    pub fn from_file(weaker: &[Assignment], file: &Written) -> Result<Self, ConfigErrors> {
        let mut config = Self::from_layers(&[weaker, &file.assignments])?;
        config.rules = file.policy.compile(config.policy.default)?;
        config.devices.clone_from(&file.devices);
        Ok(config)
    }

    /// The run directory shared with Open vSwitch.
    pub fn rundir(&self) -> PathBuf {
        self.ovs.rundir.clone().unwrap_or_else(default_rundir)
    }

    /// The OVSDB remote.
    pub fn database(&self) -> String {
        match &self.ovs.database {
            Some(remote) => remote.clone(),
            None => format!("unix:{}", self.rundir().join("db.sock").display()),
        }
    }

    /// Keys whose change needs a restart, of those that differ between two configurations.
    pub fn restart_needed(&self, new: &Self) -> Vec<&'static str> {
        let pairs = [
            ("ovs.database", self.ovs.database == new.ovs.database),
            ("ovs.rundir", self.ovs.rundir == new.ovs.rundir),
            ("control.socket", self.control == new.control),
            ("log.format", self.log.format == new.log.format),
            ("metrics.listen", self.metrics == new.metrics),
            ("limits.socket-buffer", self.limits.socket_buffer == new.limits.socket_buffer),
            ("limits.requests-in-flight", self.limits.requests_in_flight == new.limits.requests_in_flight),
            ("limits.control-clients", self.limits.control_clients == new.limits.control_clients),
        ];
        pairs.into_iter().filter(|(_, same)| !same).map(|(name, _)| name).collect()
    }
}

/// Open vSwitch's run directory: `OVS_RUNDIR`, or Debian's.
pub fn default_rundir() -> PathBuf {
    std::env::var_os("OVS_RUNDIR")
        .filter(|value| !value.is_empty())
        .map_or_else(|| PathBuf::from("/var/run/openvswitch"), PathBuf::from)
}

/// Longest configuration file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Reads a configuration file.
///
/// # Errors
/// All that is wrong in it, each with file, line and column.
pub fn read_file(path: &Path) -> Result<Written, ConfigErrors> {
    use std::io::Read as _;
    let unreadable = |why: String| {
        ConfigErrors::one(ConfigError {
            origin: Origin::Whole(path.to_owned()),
            sentence: format!("cannot read the configuration: {why}"),
        })
    };
    let opened = std::fs::File::open(path).map_err(|error| unreadable(error.to_string()))?;
    let mut bytes = Vec::new();
    opened.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| unreadable(error.to_string()))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(unreadable(format!("longer than {FILE_BYTES_MAX} bytes")));
    }
    let text = String::from_utf8(bytes).map_err(|error| unreadable(error.to_string()))?;
    assignments_in(path, &text)
}

/// Prefix of our keys in `Open_vSwitch.external_ids`.
pub const EXTERNAL_ID_PREFIX: &str = "offloadd-";

/// Reads the keys out of `Open_vSwitch.external_ids`: `policy.min-rate` is `offloadd-policy-min-rate` there.
///
/// # Errors
/// Every unknown key, and every key that only the file may set.
pub fn assignments_in_external_ids<'a>(
    entries: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<Vec<Assignment>, ConfigErrors> {
    let mut assignments = Vec::new();
    let mut errors = Vec::new();
    for (name, value) in entries {
        let Some(rest) = name.strip_prefix(EXTERNAL_ID_PREFIX) else { continue };
        let origin = Origin::ExternalIds(name.to_owned());
        match keys::KEYS.iter().find(|key| key.name.replace('.', "-") == rest) {
            Some(key) if key.in_ovsdb => {
                assignments.push(Assignment { key, value: Scalar::Loose(value.to_owned()), origin })
            }
            Some(key) => errors.push(ConfigError {
                origin,
                sentence: format!("{} can be set in the configuration file only", key.name),
            }),
            None => {
                let known =
                    keys::KEYS.iter().filter(|key| key.in_ovsdb).map(|key| key.name.replace('.', "-"));
                let hint = file::suggestion(rest, known)
                    .map_or_else(String::new, |name| format!("; did you mean {EXTERNAL_ID_PREFIX}{name}?"));
                errors.push(ConfigError { origin, sentence: format!("unknown key{hint}") });
            }
        }
    }
    ConfigErrors::none_or(errors).map(|()| assignments)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_text(text: &str) -> Result<Config, String> {
        let written = assignments_in(Path::new("c.toml"), text).map_err(|e| e.to_string())?;
        Config::from_file(&[], &written).map_err(|e| e.to_string())
    }

    #[test]
    fn an_empty_file_gives_the_defaults() {
        assert_eq!(from_text("").unwrap(), Config::defaults());
        assert_eq!(Config::defaults().mode, ModeSetting::Auto);
        assert_eq!(Config::defaults().policy.min_rate, RateSetting::Bits(0));
    }

    #[test]
    fn the_file_wins_over_ovsdb() {
        let low = assignments_in_external_ids([
            ("offloadd-policy-min-rate", "5 Mbit/s"),
            ("offloadd-nic-capacity", "64"),
            ("ovn-remote", "ssl:192.0.2.1:6642"),
        ])
        .unwrap();
        let high = assignments_in(Path::new("c.toml"), "[policy]\nmin-rate = \"7 Mbit/s\"\n").unwrap();
        let config = Config::from_file(&low, &high).unwrap();
        assert_eq!(config.policy.min_rate, RateSetting::Bits(7_000_000));
        assert_eq!(config.nic.capacity, CapacitySetting::Entries(64));
    }

    #[test]
    fn ovsdb_may_not_name_a_socket() {
        let error =
            assignments_in_external_ids([("offloadd-metrics-listen", "[::]:1")]).unwrap_err().to_string();
        assert_eq!(
            error,
            "external_ids:offloadd-metrics-listen: metrics.listen can be set in the configuration file only"
        );
    }

    #[test]
    fn a_wrong_value_in_ovsdb_names_its_key() {
        let low = assignments_in_external_ids([("offloadd-mode", "steeer")]).unwrap();
        let error = Config::from_layers(&[&low]).unwrap_err().to_string();
        assert!(error.starts_with("external_ids:offloadd-mode: mode \"steeer\" is not one of"), "{error}");
    }

    #[test]
    fn an_unknown_key_in_ovsdb_gets_a_suggestion() {
        let error = assignments_in_external_ids([("offloadd-policy-minrate", "1")]).unwrap_err().to_string();
        assert!(error.ends_with("did you mean offloadd-policy-min-rate?"), "{error}");
    }

    #[test]
    fn an_unreadable_file_is_one_sentence() {
        let error = read_file(Path::new("/nonexistent/x.toml")).unwrap_err().to_string();
        assert_eq!(
            error,
            "/nonexistent/x.toml: cannot read the configuration: No such file or directory (os error 2)"
        );
    }
}
