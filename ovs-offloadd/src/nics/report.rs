//! What came of it, as values and as text.

use std::fmt::Write as _;

use netlink_wire::devlink::Handle;
use serde::Serialize;

use crate::lifecycle::command::command;
use crate::lifecycle::declared::Function;
use crate::lifecycle::observed::Observed;
use crate::lifecycle::run::{Failed, Outcome};
use crate::lifecycle::step::Operation;
use crate::lifecycle::target::Unmet;

/// How it ended for one NIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// Nothing was done: it was only asked what would be.
    Planned,
    /// Everything is as asked for.
    Reached,
    /// Something that is asked for cannot be; nothing was done.
    Impossible,
    /// A step failed, and everything is as it was before.
    Undone,
    /// A step failed, and not everything could be brought back.
    Stuck,
}

/// A step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StepView {
    /// What it does.
    pub step: String,
    /// The command that a person could type for it.
    pub command: String,
}

/// A function and its representor, as they are in the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PortView {
    /// `vf3`, `sf88`.
    pub function: String,
    /// Name of the representor.
    pub representor: Option<String>,
    /// Name of the function's own device, in the namespace where it is.
    pub device: Option<String>,
    /// Its address.
    pub mac: Option<String>,
    /// Its MTU in bytes.
    pub mtu: Option<u32>,
    /// The bridge that the representor is attached to.
    pub bridge: Option<String>,
}

/// What came of one NIC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NicReport {
    /// Its devlink handle.
    pub nic: String,
    /// How it ended.
    pub outcome: Ended,
    /// What was done, or would be.
    pub steps: Vec<StepView>,
    /// The step that failed, and why.
    pub failed: Option<String>,
    /// What cannot be.
    pub impossible: Vec<String>,
    /// What is otherwise than before though it should not.
    pub differences: Vec<String>,
    /// The functions that were asked for.
    pub ports: Vec<PortView>,
}

/// What came of all NICs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Each.
    pub nics: Vec<NicReport>,
}

fn steps(handle: &Handle, operations: &[Operation], now: &Observed) -> Vec<StepView> {
    let view = |operation: &Operation| StepView {
        step: operation.to_string(),
        command: command(handle, operation, now),
    };
    operations.iter().map(view).collect()
}

impl NicReport {
    fn new(handle: &Handle, outcome: Ended) -> Self {
        Self {
            nic: handle.to_string(),
            outcome,
            steps: Vec::new(),
            failed: None,
            impossible: Vec::new(),
            differences: Vec::new(),
            ports: Vec::new(),
        }
    }

    /// What would be done.
    pub fn planned(handle: &Handle, plan: Result<Vec<Operation>, Vec<Unmet>>, now: &Observed) -> Self {
        match plan {
            Ok(plan) => Self { steps: steps(handle, &plan, now), ..Self::new(handle, Ended::Planned) },
            Err(unmet) => Self::impossible(handle, &unmet),
        }
    }

    fn impossible(handle: &Handle, unmet: &[Unmet]) -> Self {
        let impossible = unmet.iter().map(Unmet::to_string).collect();
        Self { impossible, ..Self::new(handle, Ended::Impossible) }
    }

    /// What could not even be begun.
    pub fn not_begun(handle: &Handle, why: String) -> Self {
        Self { failed: Some(why), ..Self::new(handle, Ended::Undone) }
    }

    /// What was done; `names` is a reading in which the steps' devices have their names.
    pub fn ended(handle: &Handle, outcome: &Outcome, names: &Observed) -> Self {
        let mut report = match outcome {
            Outcome::Reached { .. } => Self::new(handle, Ended::Reached),
            Outcome::Impossible(unmet) => return Self::impossible(handle, unmet),
            Outcome::Undone { failed, .. } => {
                Self { failed: Some(failed.to_string()), ..Self::new(handle, Ended::Undone) }
            }
            Outcome::Stuck { failed, undo, differences, .. } => {
                let undo = undo.iter().map(Failed::to_string).map(|failed| format!("; undoing it: {failed}"));
                let failed = format!("{failed}{}", undo.collect::<String>());
                let (failed, differences) = (Some(failed), differences.clone());
                Self { failed, differences, ..Self::new(handle, Ended::Stuck) }
            }
        };
        if let Outcome::Reached { done } | Outcome::Undone { done, .. } | Outcome::Stuck { done, .. } =
            outcome
        {
            report.steps = steps(handle, done, names);
        }
        report
    }

    /// Adds how functions are now.
    pub fn with_ports(mut self, functions: impl Iterator<Item = Function>, now: &Observed) -> Self {
        let view = |function: Function| {
            let state = now.function(function)?;
            let device = state.netdev.as_ref();
            Some(PortView {
                function: function.word(),
                representor: state.representor.as_ref().map(|it| it.name.clone()),
                device: device.map(|it| it.name.clone()),
                mac: device.and_then(|it| it.address).or(state.hw_addr).map(|mac| mac.to_string()),
                mtu: device.map(|it| it.mtu),
                bridge: state.attachment.as_ref().map(|it| it.bridge.clone()),
            })
        };
        self.ports = functions.filter_map(view).collect();
        self
    }

    /// One sentence, for the log and `status`.
    pub fn sentence(&self) -> String {
        let count = self.steps.len();
        let steps = format!("{count} step{}", if count == 1 { "" } else { "s" });
        let failed = self.failed.as_deref().unwrap_or_default();
        match self.outcome {
            Ended::Planned => format!("{steps} to do"),
            Ended::Reached if count == 0 => "as declared".to_owned(),
            Ended::Reached => format!("as declared, after {steps}"),
            Ended::Impossible => format!("left as it is: {}", self.impossible.join("; ")),
            Ended::Undone => format!("left as it was: {failed}"),
            Ended::Stuck => format!("stuck in between: {failed}; {}", self.differences.join("; ")),
        }
    }
}

impl Report {
    /// 0 as asked for, 1 as before, 3 in between.
    pub fn exit_status(&self) -> u8 {
        let of = |nic: &NicReport| match nic.outcome {
            Ended::Planned | Ended::Reached => 0,
            Ended::Impossible | Ended::Undone => 1,
            Ended::Stuck => 3,
        };
        self.nics.iter().map(of).max().unwrap_or(0)
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut out = String::new();
        if self.nics.is_empty() {
            out.push_str("the configuration declares no NIC ([[device]])\n");
        }
        for nic in &self.nics {
            nic.text(&mut out);
        }
        out
    }
}

impl NicReport {
    fn text(&self, out: &mut String) {
        let heading = match self.outcome {
            Ended::Planned if self.steps.is_empty() => "is as declared; nothing to do",
            Ended::Planned => "would be changed",
            Ended::Reached if self.steps.is_empty() => "is as declared; nothing was done",
            Ended::Reached => "is as declared",
            Ended::Impossible => "is left as it is",
            Ended::Undone => "is as it was before: a step failed",
            Ended::Stuck => "is stuck in between: a step failed, and not everything could be undone",
        };
        let _ = writeln!(out, "{} {heading}", self.nic);
        for (number, step) in self.steps.iter().enumerate() {
            let _ = writeln!(out, "  {:>2}. {}\n        {}", number + 1, step.step, step.command);
        }
        for line in self.failed.iter().map(|why| format!("failed: {why}")) {
            let _ = writeln!(out, "  {line}");
        }
        for line in self.impossible.iter().map(|what| format!("impossible: {what}")) {
            let _ = writeln!(out, "  {line}");
        }
        for line in &self.differences {
            let _ = writeln!(out, "  not as before: {line}");
        }
        for port in &self.ports {
            let word = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
            let _ = writeln!(
                out,
                "  {}: representor {}, bridge {}, device {}, MAC address {}",
                port.function,
                word(&port.representor),
                word(&port.bridge),
                word(&port.device),
                word(&port.mac)
            );
        }
    }
}
