//! What this machine must be and have, checked first; what is missing is named, then installed with apt-get.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use crate::cache::Cache;
use crate::command::{output_of, run_logged};
use crate::problem::Problem;
use crate::progress;

/// The oldest Debian that is supported as a host.
const OLDEST_DEBIAN: u32 = 12;

/// Debian packages the lab needs on the host, with what for.
const PACKAGES: &[(&str, &str)] = &[
    ("qemu-system-x86", "runs the guest"),
    ("mmdebstrap", "builds the guest's userland"),
    ("debian-archive-keyring", "checks what mmdebstrap downloads"),
    ("e2fsprogs", "makes the guest's disk image"),
    ("busybox-static", "is the guest's first stage"),
    ("kmod", "resolves kernel modules"),
    ("xz-utils", "unpacks kernel modules"),
    ("python3-venv", "holds virtme-ng"),
    ("util-linux", "ends the guest with its starter"),
    ("gcc", "links the guest's programs"),
    ("libc6-dev", "links the guest's programs"),
];

/// Checks that this is a machine the lab can run on and installs what it lacks.
pub(crate) fn prepare(cache: &Cache) -> Result<(), Problem> {
    check_debian()?;
    check_architecture()?;
    check_root()?;
    check_disk(cache)?;
    install_missing(cache)
}

fn check_root() -> Result<(), Problem> {
    let uid = fs::metadata("/proc/self").map(|metadata| metadata.uid());
    match uid {
        Ok(0) => Ok(()),
        _ => Err(Problem::cannot(
            "The lab builds system images and needs root: run it as root, for example with `sudo -E env PATH=\"$PATH\" cargo xtask …`.",
        )),
    }
}

fn check_architecture() -> Result<(), Problem> {
    match std::env::consts::ARCH {
        "x86_64" => Ok(()),
        other => Err(Problem::cannot(format!(
            "The lab runs on x86_64 machines only, and this one is {other}: use another machine."
        ))),
    }
}

fn check_debian() -> Result<(), Problem> {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    match debian_version(&text) {
        Ok(_) => Ok(()),
        Err(found) => Err(Problem::cannot(format!(
            "The lab sets itself up on Debian {OLDEST_DEBIAN} or newer, and this is {found}: use such a machine, or a container of it."
        ))),
    }
}

/// The major version in an os-release file (testing and sid count as newest), or what the file says it is instead.
fn debian_version(os_release: &str) -> Result<u32, String> {
    let value = |key: &str| {
        let line = os_release.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.map(|value| value.trim_matches('"').to_owned())
    };
    let name = value("PRETTY_NAME").unwrap_or_else(|| "an unknown system".to_owned());
    if value("ID").as_deref() != Some("debian") {
        return Err(name);
    }
    match value("VERSION_ID").map(|version| version.parse::<u32>()) {
        None => Ok(u32::MAX),
        Some(Ok(version)) if version >= OLDEST_DEBIAN => Ok(version),
        Some(_) => Err(name),
    }
}

/// Free space needed for what is not in the cache yet, in GiB.
fn check_disk(cache: &Cache) -> Result<(), Problem> {
    let cached = fs::read_dir(cache.root()).into_iter().flatten().flatten().count();
    let needed = if cached > 3 { 2 } else { 8 };
    let output = output_of(Command::new("df").args(["--output=avail", "-B1G"]).arg(cache.root()));
    let free = output.and_then(|text| text.lines().nth(1)?.trim().parse::<u64>().ok());
    match free {
        Some(free) if free < needed => Err(Problem::cannot(format!(
            "{} has {free} GiB free and the lab needs {needed}: free some, or set XDG_CACHE_HOME to a larger disk.",
            cache.root().display()
        ))),
        _ => Ok(()),
    }
}

/// Whether dpkg has `package` installed.
fn installed(package: &str) -> bool {
    let status = output_of(Command::new("dpkg-query").args(["-W", "-f", "${db:Status-Abbrev}", package]));
    status.is_some_and(|status| status.starts_with("ii"))
}

fn install_missing(cache: &Cache) -> Result<(), Problem> {
    let missing: Vec<_> = PACKAGES.iter().filter(|(package, _)| !installed(package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("Will install with apt-get:");
    for (package, purpose) in &missing {
        eprintln!("    {package:<24} {purpose}");
    }
    let packages: Vec<&str> = missing.iter().map(|(package, _)| *package).collect();
    let log = cache.root().join("apt.log");
    progress::step("install Debian packages", || {
        let first = install(&packages, &log);
        if first.is_ok() {
            return Ok(());
        }
        progress::note("apt-get could not install them: updating its package lists and trying again");
        run_logged(Command::new("apt-get").arg("update"), &log)?;
        install(&packages, &log)
    })
}

fn install(packages: &[&str], log: &Path) -> Result<(), Problem> {
    let mut apt = Command::new("apt-get");
    apt.env("DEBIAN_FRONTEND", "noninteractive")
        .args(["install", "-y", "--no-install-recommends"])
        .args(packages);
    run_logged(&mut apt, log)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debian_before_12_and_other_systems_are_refused_by_name() {
        assert_eq!(debian_version("ID=debian\nVERSION_ID=\"12\"\n"), Ok(12));
        assert_eq!(debian_version("ID=debian\nPRETTY_NAME=\"Debian GNU/Linux forky/sid\"\n"), Ok(u32::MAX));
        let old = "PRETTY_NAME=\"Debian GNU/Linux 11\"\nID=debian\nVERSION_ID=\"11\"\n";
        assert_eq!(debian_version(old), Err("Debian GNU/Linux 11".to_owned()));
        assert_eq!(
            debian_version("ID=ubuntu\nPRETTY_NAME=\"Ubuntu 24.04\"\nVERSION_ID=\"24.04\"\n"),
            Err("Ubuntu 24.04".to_owned())
        );
        assert_eq!(debian_version(""), Err("an unknown system".to_owned()));
    }
}
