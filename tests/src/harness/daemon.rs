//! The daemon under test.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::{Failure, Lab, Outcome, Ovs, output, run, wait_until};

/// The longest the daemon may take until it answers.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// The longest it may take to end after a signal.
const ENDS_WITHIN: Duration = Duration::from_secs(60);

/// An ovs-offloadd beside one Open vSwitch, ended when dropped.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    config: PathBuf,
    arguments: Vec<String>,
    log: PathBuf,
    ovs: Ovs,
}

impl Daemon {
    /// Starts it with this configuration file's text, and waits until it answers on its control socket.
    pub fn start(lab: &Lab, ovs: &Ovs, config: &str) -> Outcome<Self> {
        Self::start_with(lab, ovs, config, &[])
    }

    /// The same, with more `arguments` than the configuration file.
    pub fn start_with(lab: &Lab, ovs: &Ovs, config: &str, arguments: &[&str]) -> Outcome<Self> {
        // Beside Open vSwitch's, since another test host may have both too.
        let name =
            ovs.rundir().file_name().unwrap_or_default().to_string_lossy().replacen("ovs", "offloadd", 1);
        let path = lab.dir().join(format!("{name}.toml"));
        fs::write(&path, config)?;
        let log = lab.dir().join(format!("{name}.log"));
        let ovs = ovs.as_running();
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let child = spawn(&path, &arguments, &log, &ovs)?;
        let mut daemon = Self { child, config: path, arguments, log, ovs };
        daemon.wait_ready()?;
        Ok(daemon)
    }

    /// Writes another configuration file; it is read at the next reload.
    pub fn configure(&self, config: &str) -> Outcome {
        Ok(fs::write(&self.config, config)?)
    }

    /// Starts it again, after [`Daemon::signal`] ended it.
    pub fn restart(&mut self) -> Outcome {
        self.child = spawn(&self.config, &self.arguments, &self.log, &self.ovs)?;
        self.wait_ready()
    }

    fn wait_ready(&mut self) -> Outcome {
        let deadline_text = "ovs-offloadd answers";
        let rundir = self.ovs.rundir().to_path_buf();
        let child = &mut self.child;
        let ready = wait_until(deadline_text, READY_WITHIN, || {
            if let Some(status) = child.try_wait()? {
                return Err(Failure::new(format!("ovs-offloadd ended with {status}")));
            }
            // Without its socket the tool need not be started to find out.
            let socket = rundir.join(format!("ovs-offloadd.{}.ctl", child.id()));
            Ok(socket.exists() && output(ctl(&rundir).arg("version")).is_ok())
        });
        ready.map_err(|failure| Failure::new(format!("{failure}\n{}", self.log_tail())))
    }

    /// `ovs-offloadctl ARGUMENTS`.
    pub fn ctl(&self, arguments: &[&str]) -> Outcome<String> {
        output(ctl(self.ovs.rundir()).args(arguments))
    }

    /// What `ovs-offloadctl ARGUMENTS --output json` answers.
    pub fn json(&self, arguments: &[&str]) -> Outcome<Value> {
        let text = self.ctl(&[arguments, &["--output", "json"]].concat())?;
        Ok(serde_json::from_str(&text)?)
    }

    /// `ovs-offloadctl ARGUMENTS`, which goes on until it is interrupted.
    pub fn start_ctl(&self, arguments: &[&str]) -> Outcome<RunningCtl> {
        let mut command = ctl(self.ovs.rundir());
        let child = command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        Ok(RunningCtl { child })
    }

    /// Every megaflow it knows, as `flow list` shows them.
    pub fn flows(&self) -> Outcome<Vec<Value>> {
        let answer = self.json(&["flow", "list", "--limit", "0"])?;
        let flows = answer["flows"].as_array().cloned();
        flows.ok_or_else(|| Failure::new(format!("`flow list` answers {answer}")))
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends `signal` (`KILL`, `TERM`, `HUP`, `STOP` …); after `KILL` and `TERM`, waits for its end.
    pub fn signal(&mut self, signal: &str) -> Outcome {
        run("kill", &[&format!("-{signal}"), &self.child.id().to_string()])?;
        if !matches!(signal, "KILL" | "TERM") {
            return Ok(());
        }
        let child = &mut self.child;
        wait_until("ovs-offloadd has ended", ENDS_WITHIN, || Ok(child.try_wait()?.is_some()))
    }

    /// Everything it logged.
    pub fn log(&self) -> Outcome<String> {
        Ok(fs::read_to_string(&self.log)?)
    }

    fn log_tail(&self) -> String {
        let log = self.log().unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Gone already, perhaps: then both fail, and that is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An ovs-offloadctl that runs beside the test, killed when dropped.
#[derive(Debug)]
pub struct RunningCtl {
    child: Child,
}

impl RunningCtl {
    /// Presses Ctrl-C and waits for its end: what it printed.
    pub fn interrupt(mut self) -> Outcome<String> {
        run("kill", &["-INT", &self.child.id().to_string()])?;
        let child = &mut self.child;
        wait_until("ovs-offloadctl has ended", ENDS_WITHIN, || Ok(child.try_wait()?.is_some()))?;
        let status = child.wait()?;
        let mut text = String::new();
        if let Some(printed) = &mut child.stdout {
            printed.read_to_string(&mut text)?;
        }
        if !status.success() {
            return Err(Failure::new(format!("ovs-offloadctl ended with {status}: {text}")));
        }
        Ok(text)
    }
}

impl Drop for RunningCtl {
    fn drop(&mut self) {
        // Gone already, most likely: then both fail, and that is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ctl(rundir: &Path) -> Command {
    let mut command = Command::new("ovs-offloadctl");
    command.env("OVS_RUNDIR", rundir);
    command
}

fn spawn(config: &PathBuf, arguments: &[String], log: &PathBuf, ovs: &Ovs) -> Outcome<Child> {
    let out = File::options().create(true).append(true).open(log)?;
    let err = out.try_clone()?;
    let mut command = ovs.in_netns("ovs-offloadd");
    command
        .arg("--config")
        .arg(config)
        .args(arguments)
        .env("OVS_RUNDIR", ovs.rundir())
        .env("RUST_BACKTRACE", "1");
    Ok(command.stdin(Stdio::null()).stdout(out).stderr(err).spawn()?)
}
