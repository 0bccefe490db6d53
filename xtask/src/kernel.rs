//! Guest kernels: Debian's own, or small ones built from Debian's source with what Debian leaves out.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

use crate::cache::{self, Cache};
use crate::command::{output_of, run_logged};
use crate::debian::{Release, Tree};
use crate::image::packages;
use crate::problem::{Doing, Problem};

/// A kernel that guests run on, chosen apart from their userland.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flavour {
    /// Trixie's, Linux 6.12.
    Trixie,
    /// Sid's, the newest.
    Sid,
    /// Trixie's source with `CONFIG_NET_TC_SKB_EXT`, for conntrack flows in TC.
    Ct,
    /// `Ct` with KASAN, lockdep and other checkers.
    Debug,
}

impl Flavour {
    /// Every kernel.
    pub(crate) const ALL: [Self; 4] = [Self::Trixie, Self::Sid, Self::Ct, Self::Debug];

    /// The name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Trixie => "trixie",
            Self::Sid => "sid",
            Self::Ct => "ct",
            Self::Debug => "debug",
        }
    }

    /// Files under lab/kernel whose options it is built with; none when it is Debian's own build.
    fn configs(self) -> &'static [&'static str] {
        match self {
            Self::Trixie | Self::Sid => &[],
            Self::Ct => &["ct.config"],
            Self::Debug => &["ct.config", "debug.config"],
        }
    }
}

impl fmt::Display for Flavour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Flavour {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|flavour| flavour.name() == text);
        found.ok_or_else(|| format!("there is no kernel `{text}` here: use trixie, sid, ct or debug"))
    }
}

/// A kernel ready to boot, and where modules for it are built.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// Holds `boot/vmlinuz` and `lib/modules/VERSION`.
    pub(crate) dir: PathBuf,
    /// As `uname -r` says it.
    pub(crate) version: String,
    /// The chroot with its compiler and headers.
    pub(crate) chroot: PathBuf,
    /// Its build directory, inside the chroot.
    pub(crate) build_dir: String,
}

/// The kernel `flavour`: found in the cache or made.
pub(crate) fn kernel(cache: &Cache, repository: &Path, flavour: Flavour) -> Result<Kernel, Problem> {
    let scripts = repository.join("lab/kernel");
    match flavour {
        Flavour::Trixie => debian_kernel(cache, &scripts, Release::Trixie),
        Flavour::Sid => debian_kernel(cache, &scripts, Release::Sid),
        Flavour::Ct | Flavour::Debug => source_kernel(cache, &scripts, flavour),
    }
}

fn debian_kernel(cache: &Cache, scripts: &Path, release: Release) -> Result<Kernel, Problem> {
    let packages = packages(&scripts.join("headers.packages"))?;
    let fetch = scripts.join("fetch-image.sh");
    let parts = [release.codename(), &packages.join(" "), &read(&fetch)?];
    let title = format!("fetch the kernel of {release} and its headers");
    let entry = cache.entry(&format!("kernel-{release}"), &parts, &title, |dir| {
        let chroot = dir.join("chroot");
        Tree { release, packages: &packages, customize: Some(&fetch) }
            .make(&chroot, &dir.join("mmdebstrap.log"))?;
        take_kernel(&chroot.join("kernel"), dir)
    })?;
    let version = version_in(&entry)?;
    let build_dir = format!("/lib/modules/{version}/build");
    Ok(Kernel { chroot: entry.join("chroot"), dir: entry, version, build_dir })
}

fn source_kernel(cache: &Cache, scripts: &Path, flavour: Flavour) -> Result<Kernel, Problem> {
    let packages = packages(&scripts.join("source.packages"))?;
    let chroot_parts = ["trixie", &packages.join(" ")];
    let chroot =
        cache.entry("kernel-source", &chroot_parts, "fetch the kernel's source and its tools", |dir| {
            let tree = Tree { release: Release::Trixie, packages: &packages, customize: None };
            tree.make(&dir.join("chroot"), &dir.join("mmdebstrap.log"))?;
            let unpack = "cd /usr/src && tar -xJf linux-source-*.tar.xz && rm linux-source-*.tar.xz";
            run_logged(&mut in_chroot(&dir.join("chroot"), &["sh", "-c", unpack]), &dir.join("unpack.log"))
        })?;
    let chroot = chroot.join("chroot");
    let mut parts = vec![read(&scripts.join("build.sh"))?, chroot.display().to_string()];
    for config in flavour.configs() {
        parts.push(read(&scripts.join(config))?);
    }
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let build_name = format!("{flavour}-{}", cache::key(&parts));
    let title = format!("build the kernel {flavour} from source (5 to 15 minutes on two cores)");
    let entry = cache.entry(&format!("kernel-{flavour}"), &parts, &title, |dir| {
        let inside = chroot.join("lab");
        fs::create_dir_all(&inside).doing(|| format!("make {}", inside.display()))?;
        let mut arguments = vec!["/lab/build.sh".to_owned(), build_name.clone()];
        copy(&scripts.join("build.sh"), &inside.join("build.sh"))?;
        for config in flavour.configs() {
            copy(&scripts.join(config), &inside.join(config))?;
            arguments.push(format!("/lab/{config}"));
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        run_logged(&mut in_chroot(&chroot, &arguments), &dir.join("build.log"))?;
        take_kernel(&chroot.join("kernel").join(&build_name), dir)
    })?;
    let version = version_in(&entry)?;
    Ok(Kernel { dir: entry, version, chroot, build_dir: format!("/build/{build_name}") })
}

/// A command inside `chroot`, with what a build expects in /proc and /dev.
pub(crate) fn in_chroot(chroot: &Path, arguments: &[&str]) -> Command {
    let script = "mount -t proc proc \"$0/proc\"; mount --rbind /dev \"$0/dev\"; exec chroot \"$0\" \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script]).arg(chroot).args(arguments);
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C.UTF-8").env("HOME", "/root");
    command
}

/// Directories of modules that no guest of the lab can use: hardware, file systems, sound.
const UNUSED_MODULES: &str = "kernel/sound kernel/virt kernel/samples";
/// What stays of kernel/drivers, of kernel/drivers/net and of kernel/fs.
const USED_DRIVERS: &str = "net virtio block char ptp pps";
const USED_NET_DRIVERS: &str = "bonding ipvlan netdevsim team vxlan wireguard";
const USED_FILE_SYSTEMS: &str = "9p autofs configfs ext4 fuse jbd2 mbcache netfs nls overlayfs squashfs";

/// Moves the unpacked kernel `from` to `to`/boot and `to`/lib, without the modules that no guest uses and with the
/// rest uncompressed: both make a guest start faster.
fn take_kernel(from: &Path, to: &Path) -> Result<(), Problem> {
    let script = r#"
set -eu
from=$1 to=$2
if [ -d "$from/usr/lib/modules" ]; then modules=$from/usr/lib/modules; else modules=$from/lib/modules; fi
mkdir -p "$to/boot" "$to/lib"
cp "$(find "$from" -type f -name 'vmlinuz*' | head -n 1)" "$to/boot/vmlinuz"
mv "$modules" "$to/lib/modules"
rm -rf "$from"
cd "$to"/lib/modules/*
version=${PWD##*/}
rm -rf build source $3
keep() { # DIRECTORY NAMES TYPE: removes what is not named
	[ -d "$1" ] || return 0
	for found in $(find "$1" -mindepth 1 -maxdepth 1 $3); do
		case " $2 " in *" $(basename "${found%.ko*}") "*) ;; *) rm -rf "$found" ;; esac
	done
}
keep kernel/drivers "$4" ""
keep kernel/drivers/net "$5" "-type d"
keep kernel/fs "$6" ""
find . -name '*.ko.xz' -exec xz -d {} +
find . -name '*.ko.zst' -exec zstd -q --rm -d {} +
depmod -b "$to" "$version"
"#;
    let mut command = Command::new("sh");
    command.args(["-c", script, "take-kernel"]).arg(from).arg(to);
    command.args([UNUSED_MODULES, USED_DRIVERS, USED_NET_DRIVERS, USED_FILE_SYSTEMS]);
    run_logged(&mut command, &to.join("take.log"))
}

fn version_in(dir: &Path) -> Result<String, Problem> {
    let modules = dir.join("lib/modules");
    let found = output_of(Command::new("ls").arg(&modules)).unwrap_or_default().trim().to_owned();
    let unusable = || {
        Problem::cannot(format!(
            "{} holds no single kernel version: remove {}.",
            modules.display(),
            dir.display()
        ))
    };
    if found.is_empty() || found.contains('\n') { Err(unusable()) } else { Ok(found) }
}

fn read(path: &Path) -> Result<String, Problem> {
    fs::read_to_string(path).doing(|| format!("read {}", path.display()))
}

fn copy(from: &Path, to: &Path) -> Result<(), Problem> {
    fs::copy(from, to).map(drop).doing(|| format!("copy {} to {}", from.display(), to.display()))
}
