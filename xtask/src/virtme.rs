//! virtme-ng, in a Python environment of its own under the cache directory.

use std::path::PathBuf;
use std::process::Command;

use crate::cache::Cache;
use crate::command::run_logged;
use crate::problem::Problem;

/// The release of virtme-ng that the guest runner's arguments are written for.
const VERSION: &str = "1.42";

/// The path of `virtme-run`: found in the cache, or installed from the configured Python package index.
pub(crate) fn virtme_run(cache: &Cache) -> Result<PathBuf, Problem> {
    let title = format!("install virtme-ng {VERSION} with pip");
    // The environment's scripts name their interpreter by its path: it is made where it stays.
    let place = cache.root().join(format!("venv-{VERSION}"));
    let entry = cache.entry("virtme-ng", &[VERSION], &title, |dir| {
        let log = dir.join("pip.log");
        run_logged(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&place), &log)?;
        let requirement = format!("virtme-ng=={VERSION}");
        run_logged(
            Command::new(place.join("bin/python")).args(["-m", "pip", "install", "--quiet", &requirement]),
            &log,
        )
    })?;
    let program = place.join("bin/virtme-run");
    if program.is_file() {
        return Ok(program);
    }
    Err(Problem::cannot(format!(
        "virtme-ng is no longer at {}: remove {} to install it again.",
        place.display(),
        entry.display()
    )))
}
