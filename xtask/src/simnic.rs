//! The simulated SmartNIC's kernel module, built against the guest's kernel and added to its modules.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cache::{self, Cache};
use crate::command::run_logged;
use crate::kernel::{Kernel, in_chroot};
use crate::problem::{Doing, Problem};

/// A directory with `boot/vmlinuz` and `lib/modules/VERSION`, simnic among the modules.
pub(crate) fn with_simnic(cache: &Cache, repository: &Path, kernel: &Kernel) -> Result<PathBuf, Problem> {
    let source = repository.join("lab/simnic");
    let content = cache::content_of(&source, &[".c", ".h", "Makefile", "Kbuild"])?;
    let parts = [content.as_str(), &kernel.dir.display().to_string()];
    let title = format!("build simnic for {}", kernel.version);
    cache.entry(&format!("modules-{}", kernel.version), &parts, &title, |dir| {
        // Hard links: a few hundred modules take no space and no time, and nothing writes to them.
        let mut copy = Command::new("cp");
        copy.arg("-al").arg(kernel.dir.join("boot")).arg(kernel.dir.join("lib")).arg(dir);
        run_logged(&mut copy, &dir.join("copy.log"))?;
        let modules = dir.join("lib/modules").join(&kernel.version);
        build(&source, kernel, &modules.join("updates"), &dir.join("build.log"))?;
        // depmod writes its tables anew beside the old ones, so the links' other ends stay as they are.
        let mut depmod = Command::new("depmod");
        depmod.arg("-b").arg(dir).arg(&kernel.version);
        run_logged(&mut depmod, &dir.join("depmod.log"))
    })
}

/// Builds the module in the kernel's chroot and puts it into `destination`.
fn build(source: &Path, kernel: &Kernel, destination: &Path, log: &Path) -> Result<(), Problem> {
    let name = format!("simnic-{}", std::process::id());
    let work = kernel.chroot.join(&name);
    let mut copy = Command::new("cp");
    copy.arg("-r").arg(source).arg(&work);
    run_logged(&mut copy, log)?;
    let inside = format!("M=/{name}");
    let built = run_logged(
        &mut in_chroot(&kernel.chroot, &["make", "-C", &kernel.build_dir, &inside, "modules"]),
        log,
    );
    let taken = built.and_then(|()| {
        fs::create_dir_all(destination).doing(|| format!("make {}", destination.display()))?;
        let module = work.join("simnic.ko");
        fs::copy(&module, destination.join("simnic.ko"))
            .map(drop)
            .doing(|| format!("copy {}", module.display()))
    });
    fs::remove_dir_all(&work).doing(|| format!("remove {}", work.display()))?;
    taken
}
