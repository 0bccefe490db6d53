//! A NIC, an Open vSwitch, and the commands as an operator gives them.

use std::fs;
use std::process::Command;

use serde_json::Value;

use lab_tests::ensure;
use lab_tests::harness::{Failure, Lab, Outcome, Ovs, run};

/// What a command ended with and printed.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) status: i32,
    pub(super) report: Value,
}

impl Said {
    /// The outcome of the only NIC.
    pub(super) fn outcome(&self) -> &str {
        self.report["nics"][0]["outcome"].as_str().unwrap_or_default()
    }

    /// What was done, or would be.
    pub(super) fn steps(&self) -> Vec<String> {
        let steps = self.report["nics"][0]["steps"].as_array().cloned().unwrap_or_default();
        steps.iter().map(|step| step["step"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// Everything is as asked for, after this many steps.
    pub(super) fn reached_after(&self, steps: usize) -> Outcome {
        let fits = self.status == 0 && self.outcome() == "reached" && self.steps().len() == steps;
        ensure!(fits, "not reached after {steps} steps: {self:?}");
        Ok(())
    }

    /// Everything is as asked for, after some steps.
    pub(super) fn reached(&self) -> Outcome {
        let fits = self.status == 0 && self.outcome() == "reached" && !self.steps().is_empty();
        ensure!(fits, "not reached: {self:?}");
        Ok(())
    }
}

/// `ovs-offloadctl ARGUMENTS --output json` with any exit status.
pub(super) fn ctl(ovs: &Ovs, arguments: &[&str]) -> Outcome<Said> {
    let mut command = ovs.command("ovs-offloadctl");
    said(command.args(arguments).args(["--output", "json"]))
}

fn said(command: &mut Command) -> Outcome<Said> {
    let output = command.output()?;
    let status = output.status.code().unwrap_or(-1);
    let report = serde_json::from_slice(&output.stdout).map_err(|error| {
        Failure::new(format!("status {status}, {error}: {}", String::from_utf8_lossy(&output.stderr)))
    })?;
    Ok(Said { status, report })
}

/// `nic apply` of this configuration.
pub(super) fn apply(lab: &Lab, ovs: &Ovs, config: &str, more: &[&str]) -> Outcome<Said> {
    let path = lab.dir().join("nics.toml");
    fs::write(&path, config)?;
    let path = path.to_string_lossy().into_owned();
    ctl(ovs, &[&["nic", "apply", "--config", &path], more].concat())
}

/// An Open vSwitch with a bridge `br0`.
pub(super) fn bridge(lab: &Lab) -> Outcome<Ovs> {
    let ovs = Ovs::start(lab, &["hw-offload=false"])?;
    ovs.vsctl(&["add-br", "br0"])?;
    Ok(ovs)
}

/// An attribute of a device of the guest's own namespace.
pub(super) fn attribute(device: &str, name: &str) -> Outcome<String> {
    Ok(fs::read_to_string(format!("/sys/class/net/{device}/{name}"))?.trim().to_owned())
}

/// Whether the administrator has set a device up.
pub(super) fn is_up(device: &str) -> Outcome<bool> {
    let flags = attribute(device, "flags")?;
    let flags = u32::from_str_radix(flags.trim_start_matches("0x"), 16)?;
    Ok(flags & 1 != 0)
}

/// Whether the guest's own namespace has such a device.
pub(super) fn exists(device: &str) -> bool {
    fs::exists(format!("/sys/class/net/{device}")).unwrap_or(false)
}

/// The eswitch mode of a devlink handle.
pub(super) fn mode(handle: &str) -> Outcome<String> {
    let text = run("devlink", &["dev", "eswitch", "show", handle])?;
    let mut words = text.split_whitespace().skip_while(|word| *word != "mode");
    words.next();
    Ok(words.next().unwrap_or_default().to_owned())
}
