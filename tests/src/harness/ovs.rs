//! An Open vSwitch of a test's own: database, daemons and datapath.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::{Failure, Lab, Netns, Outcome, output, run, wait_until};

/// The longest a daemon may take to end after a signal.
const ENDS_WITHIN: Duration = Duration::from_secs(60);

/// An ovsdb-server and an ovs-vswitchd with their own run directory, stopped when dropped if they were started here.
#[derive(Debug)]
pub struct Ovs {
    dir: PathBuf,
    /// The namespace it has its ports in, if not the guest's own.
    netns: Option<String>,
    started_here: bool,
}

/// A daemon of Open vSwitch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OvsDaemon {
    /// The database server.
    Ovsdb,
    /// The switch.
    Vswitchd,
}

impl OvsDaemon {
    fn name(self) -> &'static str {
        match self {
            Self::Ovsdb => "ovsdb-server",
            Self::Vswitchd => "ovs-vswitchd",
        }
    }
}

impl Ovs {
    /// Starts both with `other_config` in the Open_vSwitch table, each like `hw-offload=true`.
    pub fn start(lab: &Lab, other_config: &[&str]) -> Outcome<Self> {
        Self::start_at(lab, None, other_config)
    }

    /// The same with its ports in `netns`, beside one that has them in the guest's own namespace, or in another.
    pub fn start_in(lab: &Lab, netns: &Netns, other_config: &[&str]) -> Outcome<Self> {
        Self::start_at(lab, Some(netns.name().to_owned()), other_config)
    }

    fn start_at(lab: &Lab, netns: Option<String>, other_config: &[&str]) -> Outcome<Self> {
        let name = netns.as_ref().map_or_else(|| "ovs".to_owned(), |netns| format!("ovs-{netns}"));
        let ovs = Self { dir: lab.dir().join(name), netns, started_here: true };
        let settings = other_config.iter().map(|setting| format!("other_config:{setting}"));
        output(ovs.script("start").args(settings))?;
        Ok(ovs)
    }

    /// The Open vSwitch that runs with this run directory.
    pub fn running(rundir: &Path) -> Self {
        Self { dir: rundir.to_path_buf(), netns: None, started_here: false }
    }

    /// Starts both as the daemon's mode steer wants them.
    pub fn for_steering(lab: &Lab) -> Outcome<Self> {
        Self::start(lab, &["hw-offload=true", "tc-policy=skip_hw"])
    }

    fn script(&self, verb: &str) -> Command {
        let mut command = self.in_netns("ovs.sh");
        command.arg(verb).arg(&self.dir);
        command
    }

    /// The same Open vSwitch, which this value does not stop.
    pub(super) fn as_running(&self) -> Self {
        Self { dir: self.dir.clone(), netns: self.netns.clone(), started_here: false }
    }

    /// `program`, to be run where its ports are.
    pub(super) fn in_netns(&self, program: &str) -> Command {
        match &self.netns {
            Some(netns) => Netns::existing(netns).command(program),
            None => Command::new(program),
        }
    }

    /// The run directory, `OVS_RUNDIR`.
    pub fn rundir(&self) -> &Path {
        &self.dir
    }

    /// The database's socket.
    pub fn db_socket(&self) -> PathBuf {
        self.dir.join("db.sock")
    }

    /// `program` with the environment in which Open vSwitch's own tools find this one.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("OVS_RUNDIR", &self.dir).env("OVS_LOGDIR", &self.dir).env("OVS_DBDIR", &self.dir);
        command
    }

    /// `ovs-vsctl ARGUMENTS`, waiting for ovs-vswitchd to have done it.
    pub fn vsctl(&self, arguments: &[&str]) -> Outcome<String> {
        output(self.command("ovs-vsctl").arg("--timeout=60").args(arguments))
    }

    /// `ovs-ofctl ARGUMENTS`, tried again where ovs-vswitchd closed the connection before a word was said: 3.1 does so
    /// on a busy machine.
    pub fn ofctl(&self, arguments: &[&str]) -> Outcome<String> {
        let once = || output(self.command("ovs-ofctl").arg("--timeout=60").args(arguments));
        match once() {
            Err(failure) if failure.to_string().contains("failed to connect to socket") => once(),
            result => result,
        }
    }

    /// `ovs-appctl ARGUMENTS`, to ovs-vswitchd.
    pub fn appctl(&self, arguments: &[&str]) -> Outcome<String> {
        output(self.command("ovs-appctl").arg("--timeout=60").args(arguments))
    }

    /// The datapath's flows with their keys, `dpctl/dump-flows -m`, of one type: `tc`, `ovs` or `offloaded`.
    pub fn flows(&self, kind: &str) -> Outcome<Vec<String>> {
        let text = self.appctl(&["dpctl/dump-flows", "-m", "--names", &format!("type={kind}")])?;
        Ok(text.lines().filter(|line| line.contains("ufid:")).map(str::to_owned).collect())
    }

    /// The process of `daemon`.
    pub fn pid(&self, daemon: OvsDaemon) -> Outcome<u32> {
        let path = self.dir.join(format!("{}.pid", daemon.name()));
        let text = fs::read_to_string(&path)
            .map_err(|error| Failure::new(format!("{}: {error}", path.display())))?;
        Ok(text.trim().parse()?)
    }

    /// Sends `signal` (`KILL`, `STOP`, `CONT` …) to `daemon`; after `KILL` and `TERM`, waits for its end.
    pub fn signal(&self, daemon: OvsDaemon, signal: &str) -> Outcome {
        let pid = self.pid(daemon)?;
        run("kill", &[&format!("-{signal}"), &pid.to_string()])?;
        if !matches!(signal, "KILL" | "TERM") {
            return Ok(());
        }
        let process = PathBuf::from(format!("/proc/{pid}"));
        wait_until(&format!("{} has ended", daemon.name()), ENDS_WITHIN, || Ok(!process.exists()))
    }

    /// Starts `daemon` again after it was ended; its database stays as it was.
    pub fn restart(&self, daemon: OvsDaemon) -> Outcome {
        output(&mut self.script(daemon.name())).map(drop)
    }

    /// ovs-vswitchd's log.
    pub fn log(&self) -> Outcome<String> {
        Ok(fs::read_to_string(self.dir.join("ovs-vswitchd.log"))?)
    }
}

impl Drop for Ovs {
    fn drop(&mut self) {
        if !self.started_here {
            return;
        }
        if let Err(failure) = output(&mut self.script("stop")) {
            eprintln!("stopping Open vSwitch: {failure}");
        }
    }
}
