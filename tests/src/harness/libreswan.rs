//! Libreswan's IKE daemon with the `ovs-monitor-ipsec` that tells it what to protect, one of each for each host of a test.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::{Failure, Lab, Netns, Outcome, Ovs, output, wait_until};

const PLUTO: &str = "/usr/libexec/ipsec/pluto";
const MONITOR: &str = "/usr/share/openvswitch/scripts/ovs-monitor-ipsec";
/// The longest it may take until each answers.
const READY_WITHIN: Duration = Duration::from_secs(90);

/// Both in a network namespace, killed when dropped.
#[derive(Debug)]
pub struct Libreswan {
    pluto: Child,
    monitor: Child,
    netns: String,
    dir: PathBuf,
}

impl Libreswan {
    /// Starts them, and waits until pluto answers and the other holds its pidfile.
    pub fn start(lab: &Lab, netns: &Netns, ovs: &Ovs) -> Outcome<Self> {
        let dir = lab.dir().join(format!("libreswan-{}", netns.name()));
        for below in ["run", "nss", "ipsec.d"] {
            fs::create_dir_all(dir.join(below))?;
        }
        // Whoever tells pluto what to do writes both anew.
        fs::write(dir.join("ipsec.conf"), "config setup\n")?;
        fs::write(dir.join("ipsec.secrets"), "")?;
        output(Command::new("ipsec").args(["initnss", "--nssdir"]).arg(dir.join("nss")))?;
        let mut pluto = netns.command(PLUTO);
        pluto.args(["--nofork", "--no-dnssec"]);
        for (option, below) in [
            ("--config", "ipsec.conf"),
            ("--secretsfile", "ipsec.secrets"),
            ("--rundir", "run"),
            ("--nssdir", "nss"),
            ("--ipsecdir", "ipsec.d"),
            ("--logfile", "pluto.log"),
        ] {
            pluto.arg(option).arg(dir.join(below));
        }
        let pluto = spawn(pluto, &dir.join("pluto.out"))?;
        let monitor = monitor(netns, ovs, &dir)?;
        let mut libreswan = Self { pluto, monitor, netns: netns.name().to_owned(), dir };
        wait_until("pluto answers", READY_WITHIN, || {
            libreswan.is_running()?;
            Ok(libreswan.status().is_ok())
        })?;
        let pidfile = ovs.rundir().join("ovs-monitor-ipsec.pid");
        wait_until("ovs-monitor-ipsec runs", READY_WITHIN, || {
            libreswan.is_running()?;
            Ok(pidfile.exists())
        })?;
        Ok(libreswan)
    }

    /// `ipsec status`.
    pub fn status(&self) -> Outcome<String> {
        let mut command = Netns::existing(&self.netns).command("ipsec");
        output(command.args(["status", "--ctlsocket"]).arg(self.dir.join("run/pluto.ctl")))
    }

    /// Everything that both logged.
    pub fn log(&self) -> String {
        let read = |name: &str| fs::read_to_string(self.dir.join(name)).unwrap_or_default();
        format!("{}{}", read("monitor.log"), read("pluto.log"))
    }

    fn is_running(&mut self) -> Outcome {
        for (name, child) in [("pluto", &mut self.pluto), ("ovs-monitor-ipsec", &mut self.monitor)] {
            if let Some(status) = child.try_wait()? {
                let said = |name: &str| fs::read_to_string(self.dir.join(name)).unwrap_or_default();
                let (one, other) = (said("pluto.out"), said("monitor.out"));
                return Err(Failure::new(format!("{name} ended with {status}: {one}\n{other}")));
            }
        }
        Ok(())
    }
}

impl Drop for Libreswan {
    fn drop(&mut self) {
        // Gone already, perhaps: then it fails, and that is as good.
        for child in [&mut self.monitor, &mut self.pluto] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn monitor(netns: &Netns, ovs: &Ovs, dir: &Path) -> Outcome<Child> {
    let mut command = netns.command(MONITOR);
    command.env("OVS_RUNDIR", ovs.rundir()).env("OVS_LOGDIR", dir);
    command.args(["--ike-daemon=libreswan", "--no-restart-ike-daemon", "-vconsole:off", "-vfile:info"]);
    for (option, below) in [
        ("--log-file", "monitor.log"),
        ("--ipsec-conf", "ipsec.conf"),
        ("--ipsec-secrets", "ipsec.secrets"),
        ("--ipsec-d", "nss"),
        ("--ipsec-ctl", "run/pluto.ctl"),
    ] {
        command.arg(format!("{option}={}", dir.join(below).display()));
    }
    command.arg(format!("--pidfile={}", ovs.rundir().join("ovs-monitor-ipsec.pid").display()));
    command.arg(format!("unix:{}", ovs.db_socket().display()));
    spawn(command, &dir.join("monitor.out"))
}

fn spawn(mut command: Command, out: &Path) -> Outcome<Child> {
    let out = File::create(out)?;
    let err = out.try_clone()?;
    Ok(command.stdin(Stdio::null()).stdout(out).stderr(err).spawn()?)
}
