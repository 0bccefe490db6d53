//! `ovs-monitor-ipsec` with the strongSwan that it knows: charon by its starter, which reads `ipsec.conf`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::{Failure, Lab, Netns, Outcome, Ovs, cpu_time_with_children, memory_kib, output, wait_until};

/// Where the image has the starter's packages, unpacked (`lab/images/customize.sh`).
const STARTER: &str = "/opt/strongswan-starter";
/// The longest it may take until charon is there.
const READY_WITHIN: Duration = Duration::from_secs(180);

/// What is run in a mount namespace of its own: the starter's files where they would be if its packages were installed, and `/etc` that may
/// be written. `$1` is a directory; what follows is the program.
const IN_PLACE: &str = r#"
set -eu
dir=$1
shift
mkdir -p "$dir/etc" "$dir/lib"
for root in '' /opt/strongswan-starter; do
	cp -a "$root/etc/." "$dir/etc"
	if [ -d "$root/usr/lib/ipsec" ]; then cp -a "$root/usr/lib/ipsec/." "$dir/lib"; fi
done
cp "$dir/charon.conf" "$dir/etc/strongswan.d/lab.conf"
mount --bind "$dir/etc" /etc
mkdir -p /usr/lib/ipsec
mount --bind "$dir/lib" /usr/lib/ipsec
mount --bind /opt/strongswan-starter/usr/sbin/ipsec /usr/sbin/ipsec
exec "$@"
"#;

/// An `ovs-monitor-ipsec` in a network namespace with its charon, ended when dropped.
#[derive(Debug)]
pub struct StarterMonitor {
    child: Child,
    dir: PathBuf,
}

impl StarterMonitor {
    /// Starts it beside an ovsdb-server, with `more` lines in the section `charon` of the configuration, and waits for its charon.
    pub fn start(lab: &Lab, netns: &Netns, ovs: &Ovs, more: &str) -> Outcome<Self> {
        let dir = lab.dir().join("starter");
        fs::create_dir_all(&dir)?;
        let log = dir.join("charon.log");
        let config = format!(
            "charon {{\n{more} filelog {{\n log {{\n path = {}\n default = 1\n flush_line = yes\n append = yes\n }}\n }}\n}}\n",
            log.display()
        );
        fs::write(dir.join("charon.conf"), config)?;
        let mut command = netns.command("unshare");
        command.args(["-m", "--propagation", "private", "bash", "-c", IN_PLACE, "in-place"]).arg(&dir);
        command.arg("/usr/share/openvswitch/scripts/ovs-monitor-ipsec").arg("--ike-daemon=strongswan");
        command.args(["-vconsole:off", "-vfile:info"]);
        command.arg(format!("--log-file={}", dir.join("monitor.log").display()));
        command.arg(format!("--pidfile={}", ovs.rundir().join("ovs-monitor-ipsec.pid").display()));
        command.arg(format!("unix:{}", ovs.db_socket().display()));
        command.env("OVS_RUNDIR", ovs.rundir()).env("OVS_LOGDIR", &dir);
        let out = File::create(dir.join("monitor.out"))?;
        let err = out.try_clone()?;
        let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn()?;
        let mut monitor = Self { child, dir };
        wait_until("ovs-monitor-ipsec has started charon", READY_WITHIN, || {
            if let Some(status) = monitor.child.try_wait()? {
                return Err(Failure::new(format!(
                    "ovs-monitor-ipsec ended with {status}: {}",
                    monitor.said()
                )));
            }
            Ok(monitor.charon().is_some() && Path::new("/run/charon.ctl").exists())
        })
        .map_err(|failure| Failure::new(format!("{failure}\n{}", monitor.said())))?;
        Ok(monitor)
    }

    /// Why a guest cannot have it; none where it can.
    pub fn lacking() -> Option<String> {
        let starter = Path::new(STARTER).join("usr/lib/ipsec/starter");
        (!starter.exists()).then(|| format!("{} is not there: use --release trixie", starter.display()))
    }

    /// The process of `ovs-monitor-ipsec`.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Charon's process.
    pub fn charon(&self) -> Option<u32> {
        fs::read_to_string("/run/charon.pid").ok()?.trim().parse().ok()
    }

    /// The starter's process.
    pub fn starter(&self) -> Option<u32> {
        fs::read_to_string("/run/starter.charon.pid").ok()?.trim().parse().ok()
    }

    /// Memory of `ovs-monitor-ipsec` with the starter, and of charon, in KiB.
    pub fn memory_kib(&self) -> Outcome<[u64; 2]> {
        let of = |pid: Option<u32>| pid.map_or(Ok(0), memory_kib);
        Ok([memory_kib(self.pid())? + of(self.starter())?, of(self.charon())?])
    }

    /// CPU time of `ovs-monitor-ipsec` and the starter with all that they ran, and of charon.
    pub fn cpu_time(&self) -> Outcome<[Duration; 2]> {
        let of = |pid: Option<u32>| pid.map_or(Ok(Duration::ZERO), cpu_time_with_children);
        Ok([cpu_time_with_children(self.pid())? + of(self.starter())?, of(self.charon())?])
    }

    /// `ipsec ARGUMENTS`.
    pub fn ipsec(&self, arguments: &[&str]) -> Outcome<String> {
        let pid = self.pid().to_string();
        output(Command::new("nsenter").args(["-m", "-n", "-t", &pid, "/usr/sbin/ipsec"]).args(arguments))
    }

    /// The last that each of them logged.
    pub fn said(&self) -> String {
        let tail = |name: &str| {
            let text = fs::read_to_string(self.dir.join(name)).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(20)..].join("\n")
        };
        ["monitor.out", "monitor.log", "charon.log"].map(tail).join("\n---\n")
    }
}

impl Drop for StarterMonitor {
    fn drop(&mut self) {
        // Its charon is nobody's child here, and ends by this alone.
        if let Err(failure) = self.ipsec(&["stop"]) {
            eprintln!("stopping strongSwan's starter: {failure}");
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
