//! A systemd with a host's rights, in namespaces of its own: the guest's first process is none.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::{Failure, Lab, Outcome, output, run, wait_for, wait_until};

/// The longest an emulated guest may take for a step.
const WITHIN: Duration = Duration::from_secs(60);
/// Debian's units that a service's log and its dependencies need.
const FROM_DEBIAN: &[&str] = &[
    "basic.target",
    "shutdown.target",
    "sysinit.target",
    "systemd-journald-dev-log.socket",
    "systemd-journald.service",
    "systemd-journald.socket",
];

/// A systemd and its services, all of them ended when dropped. See lab/topologies/systemd.sh.
#[derive(Debug)]
pub struct Systemd {
    dir: PathBuf,
    unshare: Child,
    /// systemd, as the guest numbers it.
    pid: String,
    /// Files that were made in the guest for others to lie over.
    made: Vec<PathBuf>,
}

impl Systemd {
    /// Starts it with these `units`, each a path in the directory of units and a text, and these `files`, each a path of
    /// the guest and what lies there; `rundir` is what its services find as `/run/openvswitch`.
    pub fn start(lab: &Lab, rundir: &Path, units: &[(&str, &str)], files: &[(&str, &Path)]) -> Outcome<Self> {
        let dir = lab.dir().join("systemd");
        fs::create_dir_all(dir.join("shared"))?;
        for (name, place) in [("openvswitch", rundir), ("netns", Path::new("/run/netns"))] {
            symlink(place, dir.join("shared").join(name))?;
        }
        for name in FROM_DEBIAN {
            let to = dir.join("units").join(name);
            fs::create_dir_all(dir.join("units"))?;
            fs::copy(Path::new("/usr/lib/systemd/system").join(name), to)?;
        }
        write(&dir.join("units/lab.target"), "[Unit]\nWants=systemd-journald.service\n")?;
        for (name, text) in units {
            write(&dir.join("units").join(name), text)?;
        }
        write(&dir.join("root/etc/machine-id"), "6c61620000000000000000000000006c\n")?;
        let mut made = Vec::new();
        for (place, from) in files {
            let to = dir.join("root").join(place.trim_start_matches('/'));
            fs::create_dir_all(to.parent().unwrap_or(&dir))?;
            fs::copy(from, to)?;
            if !fs::exists(place)? {
                made.push(PathBuf::from(place));
            }
        }
        let log = fs::File::create(dir.join("systemd.log"))?;
        let mut command = Command::new("systemd.sh");
        command.arg("start").arg(&dir).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut systemd = Self { dir, unshare: command.spawn()?, pid: String::new(), made };
        let parent = systemd.unshare.id().to_string();
        systemd.pid = wait_for("systemd starts", WITHIN, || {
            let child = run("pgrep", &["--parent", &parent, "--exact", "systemd"])?;
            Ok(Some(child.trim().to_owned()))
        })?;
        wait_until("systemd has started", WITHIN, || {
            Ok(systemd.run("systemctl", &["is-system-running"])?.trim() == "running")
        })?;
        Ok(systemd)
    }

    /// `program`, to be run beside its services: with their process ids and its mounts.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.pid, "--mount", "--pid", "--cgroup", "--uts", "--ipc", program]);
        command.env("SYSTEMD_UNIT_PATH", "/run/lab-units").env("SYSTEMD_PAGER", "");
        // As in a shell of the host.
        command.env_remove("OVS_RUNDIR");
        command
    }

    /// Runs a program there and gives its output.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Outcome<String> {
        output(self.command(program).args(arguments))
    }

    /// `systemctl VERB UNIT`; where it fails, with what the unit logged.
    pub fn ctl(&self, verb: &str, unit: &str) -> Outcome {
        self.run("systemctl", &[verb, unit]).map(drop).map_err(|failure| {
            let status = output(self.command("systemctl").args(["status", "--full", unit]));
            let status = status.unwrap_or_else(|said| said.to_string());
            Failure::new(format!("{failure}\n{status}\n{}", self.log(unit).unwrap_or_default()))
        })
    }

    /// What a service logged, its messages only.
    pub fn log(&self, unit: &str) -> Outcome<String> {
        self.run("journalctl", &["--sync"])?;
        self.run("journalctl", &["--output=cat", "--unit", unit])
    }

    /// The first process of a service, as its neighbours number it.
    pub fn main_pid(&self, unit: &str) -> Outcome<u32> {
        Ok(self.run("systemctl", &["show", "--property=MainPID", "--value", unit])?.trim().parse()?)
    }

    /// A file of the service's process in `/proc`.
    pub fn proc(&self, pid: u32, file: &str) -> Outcome<String> {
        self.run("cat", &[&format!("/proc/{pid}/{file}")])
    }

    /// Writes another text to a file that lies over the guest's.
    pub fn write(&self, place: &str, text: &str) -> Outcome {
        Ok(fs::write(self.dir.join("root").join(place.trim_start_matches('/')), text)?)
    }

    /// Writes a unit or a drop-in, or removes it with none, and has systemd read it.
    pub fn set_unit(&self, name: &str, text: Option<&str>) -> Outcome {
        let path = self.dir.join("units").join(name);
        match text {
            Some(text) => write(&path, text)?,
            None => fs::remove_file(path)?,
        }
        self.run("systemctl", &["daemon-reload"]).map(drop)
    }
}

fn write(path: &Path, text: &str) -> Outcome {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    Ok(fs::write(path, text)?)
}

impl Drop for Systemd {
    fn drop(&mut self) {
        // The first process of a namespace takes all others along; unshare takes it along, by --kill-child.
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
        let gone = || Ok(!fs::exists(format!("/proc/{}", self.pid))?);
        if !self.pid.is_empty()
            && let Err(failure) = wait_until("systemd has ended", WITHIN, gone)
        {
            eprintln!("stopping systemd: {failure}");
        }
        // Cgroups cost nothing when they are empty, and are made again with the same names.
        let _ = run("find", &["/sys/fs/cgroup/systemd.sh", "-depth", "-type", "d", "-delete"]);
        for path in &self.made {
            let _ = fs::remove_file(path);
        }
    }
}
