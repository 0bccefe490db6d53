//! What a NIC and its driver take and refuse: as a value, as text, as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use netlink_wire::Errno;
use serde::{Deserialize, Serialize};

use super::list::{BASE_DROP, BASE_OUTPUT, Group};
use crate::doctor::Role;

/// The format of the document; one that says otherwise is not read.
pub const FORMAT: u32 = 1;
/// Longest text of a driver that is kept, in bytes.
const TEXT_MAX: usize = 240;

/// What became of one filter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// The kernel reported it in hardware.
    Taken {
        /// What the driver said nevertheless.
        text: Option<String>,
    },
    /// Refused as something that cannot be done: EOPNOTSUPP.
    Refused {
        /// The words of the driver, or of the kernel for it.
        text: Option<String>,
    },
    /// Refused with another error: it says nothing certain of the match or action.
    Failed {
        /// The error.
        errno: String,
        /// The words of the driver or the kernel.
        text: Option<String>,
    },
    /// It was not tried.
    NotTried {
        /// Why.
        text: String,
    },
}

impl Outcome {
    /// What the kernel's answer means.
    pub(super) fn refused(errno: Errno, text: Option<String>) -> Self {
        let text = text.map(|text| bounded(&text)).filter(|text| !text.is_empty());
        match errno {
            Errno::EOPNOTSUPP => Self::Refused { text },
            errno => Self::Failed { errno: errno.to_string(), text },
        }
    }

    pub(super) fn taken(text: Option<String>) -> Self {
        Self::Taken { text: text.map(|text| bounded(&text)).filter(|text| !text.is_empty()) }
    }

    /// The kernel has it, and no driver.
    pub(super) fn not_in_hw() -> Self {
        Self::Failed {
            errno: "none".to_owned(),
            text: Some("the kernel took it, and reports it in no hardware".to_owned()),
        }
    }

    /// Whether it was taken.
    pub const fn is_taken(&self) -> bool {
        matches!(self, Self::Taken { .. })
    }

    fn word(&self) -> &'static str {
        match self {
            Self::Taken { .. } => "taken",
            Self::Refused { .. } => "refused",
            Self::Failed { .. } => "failed",
            Self::NotTried { .. } => "not tried",
        }
    }

    fn words(&self) -> String {
        match self {
            Self::Taken { text } | Self::Refused { text } => text.clone().unwrap_or_default(),
            Self::Failed { errno, text: Some(text) } => format!("{errno}: {text}"),
            Self::Failed { errno, text: None } => errno.clone(),
            Self::NotTried { text } => text.clone(),
        }
    }
}

/// One filter that was to be tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tried {
    /// Its name, which never changes.
    pub id: String,
    /// What it is about.
    pub group: Group,
    /// What became of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// What answered: what a result holds for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// The driver.
    pub driver: String,
    /// Its own version, where it is not the kernel's.
    pub driver_version: Option<String>,
    /// The firmware that runs, where the driver tells.
    pub firmware: Option<String>,
    /// `uname -r`
    pub kernel: String,
    /// `uname -v`: a kernel that was built anew may have the same release.
    pub kernel_build: String,
}

/// What `probed at` and `toward` can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PortRole {
    /// The NIC's side of the wire.
    Uplink,
    /// Stands for a VF or SF.
    Representor,
}

impl From<Role> for PortRole {
    fn from(role: Role) -> Self {
        match role {
            Role::Uplink => Self::Uplink,
            Role::Representor => Self::Representor,
        }
    }
}

impl PortRole {
    /// The word in lists and in JSON.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Uplink => "uplink",
            Self::Representor => "representor",
        }
    }
}

/// A port by its name, with what it stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortName {
    /// The network device.
    pub name: String,
    /// What it stands for.
    pub role: PortRole,
}

/// What one NIC takes at one port: the capability matrix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Matrix {
    /// [`FORMAT`]
    pub format: u32,
    /// Seconds since 1970 when it ended.
    pub probed_at_s: u64,
    /// ovs-offloadctl's version.
    pub ovs_offloadd: String,
    /// The NIC's devlink handle.
    pub nic: String,
    /// What answered.
    #[serde(flatten)]
    pub versions: Versions,
    /// The port that filters were at.
    pub port: PortName,
    /// Its `phys_port_name`.
    pub port_name: Option<String>,
    /// The port that packets would be sent to.
    pub toward: Option<PortName>,
    /// Tunnel devices that filters were at, or sent to.
    pub tunnels: Vec<String>,
    /// The qdisc that filters hung on, which was there.
    pub qdisc: String,
    /// The chain that they were in.
    pub chain: u32,
    /// Filters of earlier probes that had been left, and were removed.
    pub left_over: u64,
    /// Whether all was tried; not so when it was interrupted.
    pub complete: bool,
    /// Each filter.
    pub tried: Vec<Tried>,
}

impl Matrix {
    /// The outcome of one.
    pub fn outcome(&self, id: &str) -> Option<&Outcome> {
        self.tried.iter().find(|tried| tried.id == id).map(|tried| &tried.outcome)
    }

    /// Whether simple rules were taken, so that a refusal says something of what was refused.
    pub fn says_something(&self) -> bool {
        self.complete && self.base_is_taken()
    }

    fn base_is_taken(&self) -> bool {
        [BASE_DROP, BASE_OUTPUT].iter().any(|id| self.outcome(id).is_some_and(Outcome::is_taken))
    }

    /// 0 where anything is known now, 1 where not even the simplest rule was taken or it was interrupted.
    pub fn exit_status(&self) -> u8 {
        u8::from(!self.says_something())
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let or_unknown = |text: &Option<String>| text.clone().unwrap_or_else(|| "unknown".to_owned());
        let Versions { driver, driver_version, firmware, kernel, .. } = &self.versions;
        let version = driver_version.as_ref().map(|version| format!(" {version}")).unwrap_or_default();
        let _ = writeln!(
            out,
            "nic      {}, driver {driver}{version}, firmware {}",
            self.nic,
            or_unknown(firmware)
        );
        let _ = writeln!(out, "kernel   {kernel}");
        let _ = write!(out, "port     {} ({}", self.port.name, self.port.role.word());
        let _ =
            write!(out, "{})", self.port_name.as_ref().map(|name| format!(" {name}")).unwrap_or_default());
        if let Some(toward) = &self.toward {
            let _ = write!(out, ", toward {} ({})", toward.name, toward.role.word());
        }
        let _ = writeln!(out, "\nfilters  skip_sw, at {} in chain {}; none is left", self.qdisc, self.chain);
        if self.left_over > 0 {
            let _ = writeln!(
                out,
                "         {} of an earlier probe were left there, and are removed",
                self.left_over
            );
        }
        let width = self.tried.iter().map(|tried| tried.id.len()).max().unwrap_or(0);
        for group in Group::ALL {
            let _ = writeln!(out, "{}", group.word());
            for tried in self.tried.iter().filter(|tried| tried.group == group) {
                let line =
                    format!("  {:<width$}  {:<9}  {}", tried.id, tried.outcome.word(), tried.outcome.words());
                let _ = writeln!(out, "{}", line.trim_end());
            }
        }
        let _ = writeln!(out, "{}", self.sum());
        out
    }

    fn sum(&self) -> String {
        let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
        for tried in &self.tried {
            *counts.entry(tried.outcome.word()).or_default() += 1;
        }
        let of = |word: &str| format!("{} {word}", counts.get(word).copied().unwrap_or(0));
        let counts = ["taken", "refused", "failed", "not tried"].map(of).join(", ");
        match (self.complete, self.base_is_taken()) {
            (false, _) => format!("{counts}; interrupted: this is not kept"),
            (true, true) => counts,
            (true, false) => format!(
                "{counts}; not even the simplest rule was taken, so nothing is known of the others. If the chain is why (`--chain`), \
                 try one that the driver takes"
            ),
        }
    }
}

/// Cuts `text` at a character's end, control characters made spaces.
fn bounded(text: &str) -> String {
    let mut out = String::new();
    for c in text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }) {
        if out.len() + c.len_utf8() > TEXT_MAX {
            break;
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn matrix(tried: &[(&str, Group, Outcome)]) -> Matrix {
        let of = |(id, group, outcome): &(&str, Group, Outcome)| Tried {
            id: (*id).to_owned(),
            group: *group,
            outcome: outcome.clone(),
        };
        Matrix {
            format: FORMAT,
            probed_at_s: 1_700_000_000,
            ovs_offloadd: "0.1.0".into(),
            nic: "pci/0000:03:00.0".into(),
            versions: Versions {
                driver: "mlx5_core".into(),
                driver_version: None,
                firmware: Some("28.43.2566".into()),
                kernel: "6.12.0".into(),
                kernel_build: "#1 SMP".into(),
            },
            port: PortName { name: "eth0_0".into(), role: PortRole::Representor },
            port_name: Some("pf0vf0".into()),
            toward: Some(PortName { name: "eth0".into(), role: PortRole::Uplink }),
            tunnels: Vec::new(),
            qdisc: "ingress".into(),
            chain: 0x0fff_fff0,
            left_over: 0,
            complete: true,
            tried: tried.iter().map(of).collect(),
        }
    }

    pub(crate) fn taken() -> Outcome {
        Outcome::Taken { text: None }
    }

    pub(crate) fn refused(text: &str) -> Outcome {
        Outcome::Refused { text: Some(text.into()) }
    }

    #[test]
    fn the_matrix_for_people_has_versions_outcomes_and_the_drivers_words() {
        let failed = Outcome::refused(Errno::ENOSPC, Some("table full\n".into()));
        let matrix = matrix(&[
            (BASE_DROP, Group::Base, taken()),
            ("ct_state +inv", Group::Match, refused("only ct_state trk, est, new and rpl are supported")),
            ("mirror", Group::Action, failed),
        ]);
        assert_eq!(
            matrix.text(),
            "\
nic      pci/0000:03:00.0, driver mlx5_core, firmware 28.43.2566
kernel   6.12.0
port     eth0_0 (representor pf0vf0), toward eth0 (uplink)
filters  skip_sw, at ingress in chain 268435440; none is left
base
  ip, drop       taken
match
  ct_state +inv  refused    only ct_state trk, est, new and rpl are supported
action
  mirror         failed     ENOSPC (28): table full
combination
1 taken, 1 refused, 1 failed, 0 not tried
"
        );
        assert_eq!(matrix.exit_status(), 0);
    }

    #[test]
    fn json_is_read_as_it_was_written() {
        let matrix = matrix(&[
            (BASE_DROP, Group::Base, taken()),
            ("vlan push", Group::Action, refused("no")),
            ("sample", Group::Action, Outcome::NotTried { text: "why".into() }),
        ]);
        let text = serde_json::to_string_pretty(&matrix).unwrap();
        assert_eq!(serde_json::from_str::<Matrix>(&text).unwrap(), matrix);
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&json["driver"], &json["firmware"]), (&"mlx5_core".into(), &"28.43.2566".into()));
        assert_eq!(
            (&json["tried"][1]["outcome"], &json["tried"][1]["text"]),
            (&"refused".into(), &"no".into())
        );
    }

    #[test]
    fn where_no_simple_rule_is_taken_nothing_is_said_of_the_others() {
        let mut seen = matrix(&[
            (BASE_DROP, Group::Base, refused("Requested chain is out of supported range")),
            ("vlan push", Group::Action, refused("Requested chain is out of supported range")),
        ]);
        assert!(!seen.says_something() && seen.exit_status() == 1 && seen.text().contains("--chain"));
        seen.tried[0].outcome = taken();
        assert!(seen.says_something());
        seen.complete = false;
        assert!(!seen.says_something() && seen.text().contains("interrupted"));
    }
}
