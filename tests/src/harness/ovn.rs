//! OVN beside an Open vSwitch of a test: lab/topologies/ovn.sh.

use std::path::PathBuf;
use std::process::Command;

use super::{Lab, Outcome, Ovs, output, run};

/// Both databases, northd and one ovn-controller, stopped when dropped.
#[derive(Debug)]
pub struct Ovn {
    dir: PathBuf,
    ovs_dir: PathBuf,
}

impl Ovn {
    /// Starts the central part, tells `ovs` of it and starts its ovn-controller; the chassis' tunnels end at `encap_ip`.
    pub fn start(lab: &Lab, ovs: &Ovs, encap_ip: &str) -> Outcome<Self> {
        let ovn = Self { dir: lab.dir().join("ovn"), ovs_dir: ovs.rundir().to_path_buf() };
        output(&mut ovn.script("central"))?;
        ovs.vsctl(&[
            "set",
            "Open_vSwitch",
            ".",
            &format!("external_ids:ovn-remote={}", ovn.remote()),
            "external_ids:ovn-encap-type=geneve",
            &format!("external_ids:ovn-encap-ip={encap_ip}"),
        ])?;
        output(ovn.script("controller").arg(&ovn.ovs_dir))?;
        Ok(ovn)
    }

    /// The Southbound database's remote.
    pub fn remote(&self) -> String {
        format!("unix:{}", self.dir.join("sb.sock").display())
    }

    fn script(&self, verb: &str) -> Command {
        let mut command = Command::new("ovn.sh");
        command.arg(verb).arg(&self.dir);
        command
    }

    /// `ovn-nbctl ARGUMENTS`.
    pub fn nbctl(&self, arguments: &[&str]) -> Outcome<String> {
        let db = format!("--db=unix:{}", self.dir.join("nb.sock").display());
        output(Command::new("ovn-nbctl").arg(db).arg("--timeout=60").args(arguments))
    }

    /// `ovn-sbctl ARGUMENTS`.
    pub fn sbctl(&self, arguments: &[&str]) -> Outcome<String> {
        output(
            Command::new("ovn-sbctl")
                .arg(format!("--db={}", self.remote()))
                .arg("--timeout=60")
                .args(arguments),
        )
    }

    /// Kills the Southbound server; its database stays.
    pub fn kill_southbound(&self) -> Outcome {
        let pid = std::fs::read_to_string(self.dir.join("sb.pid"))?;
        run("kill", &["-KILL", pid.trim()]).map(drop)
    }

    /// Starts it again.
    pub fn restart_southbound(&self) -> Outcome {
        output(&mut self.script("southbound")).map(drop)
    }
}

impl Drop for Ovn {
    fn drop(&mut self) {
        if let Err(failure) = output(&mut self.script("stop")) {
            eprintln!("stopping OVN: {failure}");
        }
    }
}
