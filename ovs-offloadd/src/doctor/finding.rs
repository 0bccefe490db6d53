//! Findings: what is wrong, why it matters, and how to mend it.

use std::fmt;

use clap::Args;
use serde::{Serialize, Serializer};
use std::path::PathBuf;

/// What `ovs-offloadctl doctor` is told.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct DoctorArgs {
    /// Configuration file of ovs-offloadd [default: /etc/ovs-offloadd.toml, if there is one]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Instead of looking: try one rule for each match and action at this port, an uplink or a representor, in a chain of its own,
    /// and tell what NIC and driver take. No packet is treated otherwise meanwhile, and none of the rules is left
    #[arg(long, value_name = "PORT")]
    pub probe: Option<String>,
    /// The chain to try them in, one that no filter is in or goes to; some drivers take low ones alone [default: 268435440]
    #[arg(long, value_name = "NUMBER", requires = "probe",
          value_parser = clap::value_parser!(u32).range(1..=i64::from(crate::probe::CHAIN_MAX)))]
    pub chain: Option<u32>,
}

/// How bad a finding is; the worst of all decides the exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing, or it could not be looked at.
    Note,
    /// Some flows stay out of hardware, or a limit does not hold for all.
    Warning,
    /// Flows of a whole port, NIC or host stay out of hardware, or packets are lost or go astray.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// Where on the way from firmware to flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Firmware, driver and eswitch.
    Nic,
    /// The kernel and its modules.
    Kernel,
    /// Uplinks and representors.
    Ports,
    /// Open vSwitch and its settings.
    Ovs,
    /// Tunnels and what carries them.
    Tunnels,
    /// TC's qdiscs and filters.
    Tc,
    /// ovs-offloadd: its configuration, and what we may do.
    Daemon,
}

impl Stage {
    /// From firmware to flow.
    pub const ALL: [Self; 7] =
        [Self::Nic, Self::Kernel, Self::Ports, Self::Ovs, Self::Tunnels, Self::Tc, Self::Daemon];

    /// The word in lists and in JSON.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Nic => "nic",
            Self::Kernel => "kernel",
            Self::Ports => "ports",
            Self::Ovs => "ovs",
            Self::Tunnels => "tunnels",
            Self::Tc => "tc",
            Self::Daemon => "daemon",
        }
    }
}

/// What can be found: all findings with one id.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// Its name, which never changes: lower case, with hyphens.
    pub id: &'static str,
    /// Whether a test of the lab brings it about; the others are shown by unit tests.
    pub in_lab: bool,
    /// Where it is found.
    pub stage: Stage,
    /// How bad it is at worst.
    pub severity: Severity,
    /// What people see of it: the complaint.
    pub complaint: &'static str,
    /// Why it matters.
    pub why: &'static str,
    /// How to mend it.
    pub mend: &'static str,
}

/// Something found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What kind it is.
    #[serde(rename = "id", serialize_with = "id_of")]
    pub kind: &'static Kind,
    /// Where it is found.
    pub stage: Stage,
    /// How bad it is.
    pub severity: Severity,
    /// What it is about: ports, NICs, modules, options.
    pub names: Vec<String>,
    /// What is wrong, in a sentence.
    pub what: String,
    /// Why it matters.
    pub why: &'static str,
    /// How to mend it.
    pub mend: &'static str,
    /// The command that mends it, where there is one.
    pub command: Option<String>,
}

fn id_of<S: Serializer>(kind: &&'static Kind, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(kind.id)
}

impl Kind {
    /// A finding of this kind, about these.
    pub fn found<N: Into<String>>(
        &'static self,
        names: impl IntoIterator<Item = N>,
        what: impl Into<String>,
    ) -> Finding {
        Finding {
            kind: self,
            stage: self.stage,
            severity: self.severity,
            names: names.into_iter().map(Into::into).collect(),
            what: what.into(),
            why: self.why,
            mend: self.mend,
            command: None,
        }
    }
}

impl Finding {
    /// With the command that mends it.
    #[must_use]
    pub fn run(self, command: impl Into<String>) -> Self {
        Self { command: Some(command.into()), ..self }
    }

    /// This bad, and not as bad as its kind can be.
    #[must_use]
    pub fn but(self, severity: Severity) -> Self {
        debug_assert!(severity <= self.kind.severity, "{} is at worst {}", self.kind.id, self.kind.severity);
        Self { severity, ..self }
    }
}
