//! The programs that run in the guest, built here so that they run on any userland.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command::{output_of, run_shown};
use crate::problem::Problem;
use crate::progress;

/// What is on PATH in the guest, of which package.
const PROGRAMS: &[(&str, &str)] = &[
    ("ovs-offloadd", "ovs-offloadd"),
    ("ovs-offloadd", "ovs-offloadctl"),
    ("ovs-offloadd", "ovs-offload-guard"),
    ("lab-tests", "lab-tests"),
];

/// Arguments and environment that make cargo build what a guest can run.
///
/// The C library is linked statically, for a guest's may be older than this machine's; and for that the target has to
/// be named, so that procedural macros, which run here, stay dynamic.
pub(crate) fn cargo_for_guest(subcommand: &str, repository: &Path) -> Result<Command, Problem> {
    let target = host_target()?;
    let variable = format!("CARGO_TARGET_{}_RUSTFLAGS", target.to_uppercase().replace('-', "_"));
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(repository).arg(subcommand).args(["--profile", "lab", "--target", &target]);
    cargo.env_remove("RUSTFLAGS").env(variable, "-C target-feature=+crt-static");
    Ok(cargo)
}

/// Builds the guest's programs and says where they are.
pub(crate) fn build(repository: &Path) -> Result<Vec<PathBuf>, Problem> {
    progress::step("build the programs for the guest", || {
        let mut cargo = cargo_for_guest("build", repository)?;
        cargo.args(["--quiet", "--package", "ovs-offloadd", "--package", "lab-tests"]);
        run_shown(&mut cargo)
    })?;
    let built = repository.join("target").join(host_target()?).join("lab");
    Ok(PROGRAMS.iter().map(|(_, program)| built.join(program)).filter(|path| path.is_file()).collect())
}

/// The target triple of this machine's compiler.
pub(crate) fn host_target() -> Result<String, Problem> {
    let version = output_of(Command::new("rustc").arg("-vV")).unwrap_or_default();
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).ok_or_else(|| {
        Problem::cannot("`rustc -vV` names no host: install a Rust toolchain, for example with rustup.")
    })
}
