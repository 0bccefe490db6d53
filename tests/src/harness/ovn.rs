//! OVN beside an Open vSwitch of a test: lab/topologies/ovn.sh.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::{Lab, Outcome, Ovs, output, run, wait_until};

/// The longest a killed process may take to be gone.
const ENDS_WITHIN: Duration = Duration::from_secs(60);

/// Both databases, northd, and the ovn-controllers that joined; stopped when dropped.
#[derive(Debug)]
pub struct Ovn {
    dir: PathBuf,
    /// The directories of the ovn-controllers.
    controllers: Vec<PathBuf>,
}

impl Ovn {
    /// Starts the central part.
    pub fn central(lab: &Lab) -> Outcome<Self> {
        let ovn = Self { dir: lab.dir().join("ovn"), controllers: Vec::new() };
        output(&mut ovn.script("central"))?;
        Ok(ovn)
    }

    /// Starts the central part and the ovn-controller of `ovs`, chassis `lab`, whose tunnels end at `encap_ip`.
    pub fn start(lab: &Lab, ovs: &Ovs, encap_ip: &str) -> Outcome<Self> {
        let mut ovn = Self::central(lab)?;
        ovn.join(ovs, "lab", encap_ip)?;
        Ok(ovn)
    }

    /// Makes `ovs` the chassis `name`, whose tunnels end at `encap_ip`, and starts its ovn-controller.
    pub fn join(&mut self, ovs: &Ovs, name: &str, encap_ip: &str) -> Outcome {
        ovs.vsctl(&[
            "set",
            "Open_vSwitch",
            ".",
            &format!("external_ids:system-id={name}"),
            &format!("external_ids:ovn-remote={}", self.remote()),
            "external_ids:ovn-encap-type=geneve",
            &format!("external_ids:ovn-encap-ip={encap_ip}"),
        ])?;
        self.controllers.push(self.dir.join(name));
        self.start_controller(ovs, name)
    }

    /// Starts the ovn-controller of the chassis `name` again.
    pub fn start_controller(&self, ovs: &Ovs, name: &str) -> Outcome {
        let dir = self.dir.join(name);
        output(ovs.in_netns("ovn.sh").arg("controller").arg(&dir).arg(ovs.rundir())).map(drop)
    }

    /// Has the ovn-controller of the chassis `name` take its chassis and its tunnels away, and end.
    pub fn leave(&self, name: &str) -> Outcome {
        output(Command::new("ovn.sh").arg("leave").arg(self.dir.join(name))).map(drop)
    }

    /// Kills the ovn-controller of the chassis `name`; what it set up stays.
    pub fn kill_controller(&self, name: &str) -> Outcome {
        kill(&self.dir.join(name).join("ovn-controller.pid"))
    }

    /// Kills ovn-northd and starts it again.
    pub fn restart_northd(&self) -> Outcome {
        kill(&self.dir.join("ovn-northd.pid"))?;
        output(&mut self.script("northd")).map(drop)
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

    /// `ovn-nbctl` with these words; what is between two `'` is one of them.
    pub fn nb(&self, words: &str) -> Outcome<String> {
        self.nbctl(&split(words))
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
        kill(&self.dir.join("sb.pid"))
    }

    /// Starts it again.
    pub fn restart_southbound(&self) -> Outcome {
        output(&mut self.script("southbound")).map(drop)
    }
}

/// Words as a shell makes them of blanks and `'`.
fn split(text: &str) -> Vec<&str> {
    let parts = text.split('\'').enumerate();
    let words = parts.flat_map(|(at, part)| -> Box<dyn Iterator<Item = &str>> {
        if at % 2 == 1 { Box::new(std::iter::once(part)) } else { Box::new(part.split_whitespace()) }
    });
    words.collect()
}

/// Kills the process that `pidfile` names, and waits for its end.
fn kill(pidfile: &Path) -> Outcome {
    let text = std::fs::read_to_string(pidfile)?;
    let pid = text.trim();
    run("kill", &["-KILL", pid])?;
    let process = Path::new("/proc").join(pid);
    wait_until(&format!("process {pid} has ended"), ENDS_WITHIN, || Ok(!process.exists()))
}

impl Drop for Ovn {
    fn drop(&mut self) {
        for dir in self.controllers.iter().chain([&self.dir]) {
            if let Err(failure) = output(Command::new("ovn.sh").arg("stop").arg(dir)) {
                eprintln!("stopping OVN: {failure}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_quoted_is_one_word() {
        assert_eq!(split("acl-add blue 'ip4 && udp' drop"), ["acl-add", "blue", "ip4 && udp", "drop"]);
    }
}
