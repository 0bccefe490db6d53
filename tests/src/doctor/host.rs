//! The kernel and its modules, and what users may see.

use std::fs;
use std::path::{Path, PathBuf};

use lab_tests::ensure;
use lab_tests::harness::{Lab, Outcome, Ovs, Simnic, output, run};

use super::complaint::{Says, shell, shown};
use crate::steer::version;

/// The user `nobody` of Debian.
const NOBODY: &str = "65534";

/// The kernel's configuration as it would lie in `/boot`; removed when dropped.
struct BootConfig(PathBuf);

impl BootConfig {
    /// A kernel with these options as modules, and nothing else.
    fn write(release: &str, options: &[&str]) -> Outcome<Self> {
        let path = Path::new("/boot").join(format!("config-{release}"));
        fs::create_dir_all("/boot")?;
        fs::write(&path, options.iter().map(|option| format!("CONFIG_{option}=m\n")).collect::<String>())?;
        Ok(Self(path))
    }
}

impl Drop for BootConfig {
    fn drop(&mut self) {
        // Left behind it would make the next test's kernel one without options, which that would say.
        let _ = fs::remove_file(&self.0);
    }
}

/// Options without which something is missing.
const OPTIONS: [&str; 14] = [
    "NET_SWITCHDEV",
    "NET_CLS_ACT",
    "NET_SCH_INGRESS",
    "NET_CLS_FLOWER",
    "NET_ACT_MIRRED",
    "NET_ACT_GACT",
    "NET_ACT_PEDIT",
    "NET_ACT_CSUM",
    "NET_ACT_VLAN",
    "NET_ACT_SKBEDIT",
    "NET_ACT_TUNNEL_KEY",
    "NET_ACT_POLICE",
    "NET_ACT_CT",
    "NET_TC_SKB_EXT",
];

pub(super) fn what_kernel_and_release_lack_is_named_and_what_a_user_may_not_see_is_told(
    lab: &mut Lab,
) -> Outcome {
    let ovs = Ovs::for_steering(lab)?;
    let release = run("uname", &["-r"])?;
    let has = |says: &Says, id: &str, name: &str| says.found().contains(&(id.to_owned(), name.to_owned()));

    // No NIC is plugged in, and the guest has no file with its kernel's options.
    let says = Says::now(&ovs, &[])?;
    for id in ["no-nic", "kernel-options-unknown"] {
        ensure!(has(&says, id, ""), "doctor does not say {id}: {:?}", says.found());
    }
    let old = version(&ovs)? < (3, 5);
    let has_defects = says.found().iter().any(|(id, _)| id == "ovs-version-defects");
    ensure!(has_defects == old, "of this release doctor says {:?}", says.found());
    if old {
        shown("kube-ovn#1816", &says)?;
        let what = says.field("ovs-version-defects", "what")?;
        if version(&ovs)? < (3, 2) {
            shown("sriov-network-operator#384", &says)?;
            ensure!(what.contains("max-revalidator"), "of this release doctor says: {what}");
        }
    }
    defects_of_ovn(lab, &ovs)?;
    let all = BootConfig::write(release.trim(), &OPTIONS)?;
    let says = Says::now(&ovs, &[])?;
    let of_kernel =
        |says: &Says| says.found().into_iter().filter(|(id, _)| id.starts_with("kernel")).collect::<Vec<_>>();
    ensure!(of_kernel(&says).is_empty(), "of a kernel with all options doctor says {:?}", of_kernel(&says));
    drop(all);

    let lacking: Vec<&str> = OPTIONS
        .into_iter()
        .filter(|option| !["NET_CLS_FLOWER", "NET_ACT_CT", "NET_TC_SKB_EXT"].contains(option))
        .collect();
    let some = BootConfig::write(release.trim(), &lacking)?;
    let says = Says::now(&ovs, &[])?;
    for (id, option) in [
        ("kernel-no-offload", "CONFIG_NET_CLS_FLOWER"),
        ("kernel-no-action", "CONFIG_NET_ACT_CT"),
        ("kernel-no-skb-ext", "CONFIG_NET_TC_SKB_EXT"),
    ] {
        ensure!(has(&says, id, option), "without {option} doctor says {:?}", says.found());
    }
    shown("ovn-org/ovn#173", &says)?;
    drop(some);
    missing_module(lab, &ovs, release.trim())?;
    what_a_user_may_not_see(&ovs)
}

/// Starts the release's ovn-controller, whose version is that of its ovn-northd.
fn defects_of_ovn(lab: &Lab, ovs: &Ovs) -> Outcome {
    let rundir = lab.dir().join("ovn");
    fs::create_dir_all(&rundir)?;
    let pidfile = rundir.join("ovn-controller.pid");
    let ovn = |command: &mut std::process::Command| {
        command.env("OVN_RUNDIR", &rundir);
    };
    let database = format!("unix:{}", ovs.rundir().join("db.sock").display());
    let mut start = ovs.command("ovn-controller");
    ovn(&mut start);
    start.arg(&database).args(["--detach", "--no-chdir", &format!("--pidfile={}", pidfile.display())]);
    output(&mut start)?;
    let mut doctor = ovs.command("ovs-offloadctl");
    ovn(&mut doctor);
    let says = Says::by(doctor.args(["doctor", "--output", "json"]));
    run("kill", &[fs::read_to_string(&pidfile)?.trim()])?;
    let says = says?;
    let told = run("ovn-controller", &["--version"])?;
    let version = told.split_whitespace().nth(1).unwrap_or_default();
    // Of trixie and bookworm: OVN 25.03.0 and 23.03.1.
    let defective = version.starts_with("25.03.0") || version.starts_with("25.03.1");
    let found = says.found().contains(&("ovn-version-defects".to_owned(), version.to_owned()));
    ensure!(found == defective, "of OVN {version} doctor says {:?}", says.found());
    if defective {
        let what = says.field("ovn-version-defects", "what")?;
        ensure!(what.contains("SNAT zone"), "of OVN {version} doctor says: {what}");
    }
    Ok(())
}

/// Takes the module `act_ct` out of the kernel and out of the list of those on disk.
fn missing_module(lab: &Lab, ovs: &Ovs, release: &str) -> Outcome {
    let dep = format!("/lib/modules/{release}/modules.dep");
    let listed = fs::read_to_string(&dep)?;
    if !listed.contains("/act_ct.ko") {
        // Built in: it cannot be missing.
        return Ok(());
    }
    let without = lab.dir().join("modules.dep");
    let kept = listed.lines().filter(|line| !line.contains("/act_ct.ko"));
    fs::write(&without, kept.map(|line| format!("{line}\n")).collect::<String>())?;
    run("modprobe", &["-r", "act_ct"])?;
    run("mount", &["--bind", &without.to_string_lossy(), &dep])?;
    let says = Says::now(ovs, &[]);
    run("umount", &[&dep])?;
    let says = says?;
    let missing = ("module-missing".to_owned(), "act_ct".to_owned());
    ensure!(says.found().contains(&missing), "without act_ct doctor says {:?}", says.found());
    shell(ovs, &says.field("module-missing", "command")?)?;
    let says = Says::now(ovs, &[])?;
    ensure!(!says.found().contains(&missing), "act_ct is loaded, and doctor says {:?}", says.found());
    Ok(())
}

/// What is hidden from a user is told, each by itself.
fn what_a_user_may_not_see(ovs: &Ovs) -> Outcome {
    let nic = Simnic::new(0, 1)?;
    let mut nobody = ovs.command("setpriv");
    nobody.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "ovs-offloadctl"]);
    let says = Says::by(nobody.args(["doctor", "--output", "json", "--timeout", "3"]))?;
    let expected = [
        ("no-net-admin", "CAP_NET_ADMIN"),
        ("ovsdb-unreachable", ""),
        ("eswitch-unreadable", &*nic.devlink()),
    ];
    for (id, name) in expected {
        let found = says.found();
        ensure!(found.contains(&(id.to_owned(), name.to_owned())), "to nobody doctor says {found:?}");
    }
    let what = says.field("ovsdb-unreachable", "what")?;
    ensure!(what.contains("denied"), "doctor says: {what}");
    Ok(())
}
