//! strongSwan's IKE daemon, one for each host of a test.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use super::{Failure, Lab, Netns, Outcome, output, wait_until};

/// The longest it may take until it answers.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// A charon in a network namespace, killed when dropped.
#[derive(Debug)]
pub struct Charon {
    child: Child,
    netns: String,
    dir: PathBuf,
}

impl Charon {
    /// Starts it, and waits until it answers on its socket.
    pub fn start(lab: &Lab, netns: &Netns) -> Outcome<Self> {
        Self::start_with(lab, netns, "")
    }

    /// The same with `more` lines in the section `charon` of its configuration.
    pub fn start_with(lab: &Lab, netns: &Netns, more: &str) -> Outcome<Self> {
        let dir = lab.dir().join(format!("charon-{}", netns.name()));
        fs::create_dir_all(&dir)?;
        let place = dir.display();
        let config = format!(
            "charon {{\n load_modular = yes\n{more} plugins {{\n include /etc/strongswan.d/charon/*.conf\n \
             vici {{\n socket = unix://{place}/charon.vici\n }}\n }}\n \
             filelog {{\n log {{\n path = {place}/charon.log\n default = 1\n flush_line = yes\n append = yes\n }}\n }}\n}}\n"
        );
        fs::write(dir.join("strongswan.conf"), config)?;
        let child = spawn(netns.name(), &dir)?;
        let mut charon = Self { child, netns: netns.name().to_owned(), dir };
        charon.wait_ready()?;
        Ok(charon)
    }

    /// Its control socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("charon.vici")
    }

    /// `swanctl ARGUMENTS`.
    pub fn swanctl(&self, arguments: &[&str]) -> Outcome<String> {
        let uri = format!("unix://{}", self.socket().display());
        let mut command = Netns::existing(&self.netns).command("swanctl");
        output(command.args(arguments).args(["--uri", &uri]).env("STRONGSWAN_CONF", self.config()))
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills it, so that it takes leave of nobody, and starts it again.
    pub fn kill_and_restart(&mut self) -> Outcome {
        self.child.kill()?;
        self.child.wait()?;
        // What is there is nobody's: the next one's own is to be told from it.
        fs::remove_file(self.socket())?;
        self.child = spawn(&self.netns, &self.dir)?;
        self.wait_ready()
    }

    /// Everything it logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("charon.log")).unwrap_or_default()
    }

    fn config(&self) -> PathBuf {
        self.dir.join("strongswan.conf")
    }

    fn wait_ready(&mut self) -> Outcome {
        wait_until("charon answers", READY_WITHIN, || {
            if let Some(status) = self.child.try_wait()? {
                return Err(Failure::new(format!("charon ended with {status}: {}", self.log())));
            }
            Ok(self.socket().exists() && self.swanctl(&["--version", "--daemon"]).is_ok())
        })
    }
}

impl Drop for Charon {
    fn drop(&mut self) {
        // Gone already, perhaps: then both fail, and that is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(netns: &str, dir: &Path) -> Outcome<Child> {
    let out = File::options().create(true).append(true).open(dir.join("charon.out"))?;
    let err = out.try_clone()?;
    let mut command = Netns::existing(netns).command("charon-systemd");
    command.env("STRONGSWAN_CONF", dir.join("strongswan.conf"));
    Ok(command.stdin(Stdio::null()).stdout(out).stderr(err).spawn()?)
}
