//! Checks that the pure crates cannot reach the standard library: no clock, no socket, no randomly seeded map.
//!
//! `#![no_std]` alone does not say so, for a crate may still name `extern crate std`, and so may its dependencies. They
//! are compiled against a sysroot that has core and alloc and nothing else: what needs std does not compile.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command::output_of;
use crate::problem::{Doing, Problem};
use crate::programs::host_target;

/// The crates that have to be pure.
pub(crate) const CRATES: &[&str] =
    &["netlink-wire", "tc-flower", "policies", "offload-engine", "ipsec-drive"];
/// What of the compiler's libraries they may use.
const LIBRARIES: &[&str] = &["libcore-", "liballoc-", "libcompiler_builtins-"];

/// A `cargo check` of the pure crates that fails when one of them, or what it depends on, uses std.
pub(crate) fn check(repository: &Path) -> Result<Command, Problem> {
    for name in CRATES {
        let root = repository.join(name).join("src/lib.rs");
        let text = fs::read_to_string(&root).doing(|| format!("read {}", root.display()))?;
        for attribute in ["#![no_std]", "#![forbid(unsafe_code)]"] {
            if !text.lines().any(|line| line.trim() == attribute) {
                return Err(Problem::Failed(format!("{} does not begin with {attribute}.", root.display())));
            }
        }
    }
    let target = host_target()?;
    let sysroot = sysroot_without_std(repository, &target)?;
    let variable = format!("CARGO_TARGET_{}_RUSTFLAGS", target.to_uppercase().replace('-', "_"));
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(repository).args(["check", "--quiet", "--target", &target]);
    cargo.arg("--target-dir").arg(repository.join("target/pure"));
    cargo.env_remove("RUSTFLAGS").env(variable, format!("--sysroot={}", sysroot.display()));
    for name in CRATES {
        cargo.args(["--package", name]);
    }
    Ok(cargo)
}

fn sysroot_without_std(repository: &Path, target: &str) -> Result<PathBuf, Problem> {
    let real = output_of(Command::new("rustc").args(["--print", "target-libdir"])).unwrap_or_default();
    let real = PathBuf::from(real.trim());
    let sysroot = repository.join("target/pure/sysroot");
    let libraries = sysroot.join("lib/rustlib").join(target).join("lib");
    let _ = fs::remove_dir_all(&sysroot);
    fs::create_dir_all(&libraries).doing(|| format!("make {}", libraries.display()))?;
    for found in fs::read_dir(&real).doing(|| format!("read {}", real.display()))? {
        let path = found.doing(|| format!("read {}", real.display()))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if LIBRARIES.iter().any(|library| name.starts_with(library)) {
            std::os::unix::fs::symlink(&path, libraries.join(&name)).doing(|| format!("link {name}"))?;
        }
    }
    Ok(sysroot)
}
