//! Cargo's helpers that tests need: those of the toolchain, and pinned ones built once into the cache.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cache::Cache;
use crate::command::{output_of, run_logged};
use crate::problem::Problem;
use crate::progress;

/// A program that `cargo install` builds, at the version the tests were written with.
#[derive(Debug)]
pub(crate) struct Tool {
    /// Crate and program.
    name: &'static str,
    version: &'static str,
}

/// Checks licences, bans and sources of the dependencies.
pub(crate) const CARGO_DENY: Tool = Tool { name: "cargo-deny", version: "0.20.2" };
/// Runs fuzz targets.
pub(crate) const CARGO_FUZZ: Tool = Tool { name: "cargo-fuzz", version: "0.13.2" };

impl Tool {
    /// The program's path: found in the cache, or built.
    pub(crate) fn path(&self, cache: &Cache) -> Result<PathBuf, Problem> {
        let title = format!("build {} {} with cargo install", self.name, self.version);
        let entry = cache.entry(self.name, &[self.version], &title, |dir| {
            let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
            cargo.args(["install", "--locked", "--version", self.version, "--root"]).arg(dir).arg(self.name);
            // They run for seconds: building them optimised would cost minutes to save none.
            cargo.args(["--profile", "dev"]).env("CARGO_PROFILE_DEV_DEBUG", "false");
            cargo.arg("--target-dir").arg(dir.join("build")).env_remove("RUSTFLAGS");
            run_logged(&mut cargo, &dir.join("install.log"))?;
            // Only the program is kept; what it was built from is a hundred times its size.
            let _ = std::fs::remove_dir_all(dir.join("build"));
            Ok(())
        })?;
        Ok(entry.join("bin").join(self.name))
    }
}

/// Fetches the dependencies of every platform: cargo-deny judges all of them, and a build leaves other platforms' out.
pub(crate) fn dependencies(repository: &Path) -> Result<(), Problem> {
    let mut fetch = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    fetch.current_dir(repository).args(["fetch", "--locked"]);
    // Without a word of the network when all of them are there.
    let mut at_hand = Command::new(fetch.get_program());
    at_hand.current_dir(repository).args(["fetch", "--locked", "--offline"]);
    if output_of(&mut at_hand).is_some() {
        return Ok(());
    }
    progress::step("fetch the dependencies of every platform", || {
        run_logged(&mut fetch, &std::env::temp_dir().join("cargo-fetch.log"))
    })
}

/// Checks that the toolchain has rustfmt and clippy, and adds them where rustup can.
pub(crate) fn toolchain_components(repository: &Path) -> Result<(), Problem> {
    for (component, subcommand) in [("rustfmt", "fmt"), ("clippy", "clippy")] {
        let has = || {
            output_of(Command::new("cargo").current_dir(repository).args([subcommand, "--version"])).is_some()
        };
        if has() {
            continue;
        }
        eprintln!("Will install with rustup: {component}");
        let add = progress::step(&format!("install {component}"), || {
            let mut rustup = Command::new("rustup");
            rustup.args(["component", "add", component]);
            run_logged(&mut rustup, &std::env::temp_dir().join("rustup.log"))
        });
        if add.is_err() || !has() {
            return Err(Problem::cannot(format!(
                "The Rust toolchain has no {component}: install it, for example with `rustup component add {component}`."
            )));
        }
    }
    Ok(())
}
