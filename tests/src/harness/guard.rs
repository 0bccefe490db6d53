//! The guard of mode shadow.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::{Lab, Outcome, run, wait_until};

/// The longest it may take until it listens.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// The longest it may take to end after a signal.
const ENDS_WITHIN: Duration = Duration::from_secs(60);

/// An ovs-offload-guard, ended when dropped.
#[derive(Debug)]
pub struct Guard {
    child: Option<Child>,
    socket: PathBuf,
    arguments: Vec<String>,
    log: PathBuf,
}

impl Guard {
    /// One that is not started yet, with these arguments beside where it listens.
    pub fn new(lab: &Lab, arguments: &[&str]) -> Self {
        Self {
            child: None,
            socket: lab.dir().join("guard.sock"),
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
            log: lab.dir().join("guard.log"),
        }
    }

    /// What it is started with next.
    pub fn set_arguments(&mut self, arguments: &[&str]) {
        self.arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
    }

    /// Where it listens: what the daemon's `shadow.guard` has to be.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Starts it, after [`Guard::kill`] too, and does not wait.
    pub fn spawn(&mut self) -> Outcome {
        let out = File::options().create(true).append(true).open(&self.log)?;
        let err = out.try_clone()?;
        let mut command = Command::new("ovs-offload-guard");
        command.arg("--socket").arg(&self.socket).args(&self.arguments).env("RUST_BACKTRACE", "1");
        self.child = Some(command.stdin(Stdio::null()).stdout(out).stderr(err).spawn()?);
        Ok(())
    }

    /// Starts it and waits until it has said in its log that it is ready.
    pub fn start(&mut self) -> Outcome {
        let before = self.log().matches("ready").count();
        self.spawn()?;
        wait_until("ovs-offload-guard is ready", READY_WITHIN, || {
            Ok(self.log().matches("ready").count() > before)
        })
    }

    /// Its process.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Kills it and waits for its end.
    pub fn kill(&mut self) -> Outcome {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        run("kill", &["-KILL", &child.id().to_string()])?;
        wait_until("ovs-offload-guard has ended", ENDS_WITHIN, || Ok(child.try_wait()?.is_some()))
    }

    /// Everything it logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Gone already, perhaps: then both fail, and that is as good.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
