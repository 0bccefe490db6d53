//! The run directory shared with Open vSwitch: pidfiles and the control sockets named after them.
//!
//! A pidfile counts only while a process holds a POSIX lock on it, exactly as Open vSwitch does it
//! (`lib/daemon-unix.c`), so that ovs-appctl finds us and we find ovs-vswitchd.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::process::{Flock, FlockType, fcntl_getlk};
use thiserror::Error;

/// A pidfile that this process holds; removed when dropped.
#[derive(Debug)]
pub struct Pidfile {
    path: PathBuf,
    // Keeps the lock: a POSIX lock goes with any descriptor of the file that the process closes.
    _locked: File,
}

/// Why a pidfile could not be taken.
#[derive(Debug, Error)]
pub enum PidfileError {
    /// Another process holds it.
    #[error("another {program} runs already (pid {pid}, {}); nothing changed", path.display())]
    Running {
        /// The program.
        program: String,
        /// The other process.
        pid: i32,
        /// The pidfile.
        path: PathBuf,
    },
    /// The run directory cannot be used.
    #[error("cannot write {}: {source}; is Open vSwitch installed, and is this its run directory?", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Pidfile {
    /// Takes `<rundir>/<program>.pid` for this process.
    ///
    /// # Errors
    /// [`PidfileError::Running`] if another process holds it.
    pub fn take(rundir: &Path, program: &str) -> Result<Self, PidfileError> {
        let path = rundir.join(format!("{program}.pid"));
        let temporary = rundir.join(format!("{program}.pid.tmp"));
        let failed = |source: io::Error| PidfileError::Io { path: temporary.clone(), source };
        let running =
            |pid: i32| PidfileError::Running { program: program.to_owned(), pid, path: path.clone() };
        let mut file =
            File::options().create(true).append(true).read(true).open(&temporary).map_err(failed)?;
        if fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(running(lock_holder(&file).unwrap_or_default()));
        }
        if let Some(pid) = held_pid(&path) {
            let _ = std::fs::remove_file(&temporary);
            return Err(running(pid));
        }
        file.set_len(0).map_err(failed)?;
        writeln!(file, "{}", std::process::id()).map_err(failed)?;
        std::fs::rename(&temporary, &path).map_err(failed)?;
        Ok(Self { path, _locked: file })
    }
}

impl Drop for Pidfile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn lock_holder(file: &File) -> Option<i32> {
    let whole_file = Flock::from(FlockType::WriteLock);
    // Another process namespace shows as pid 0; the lock counts all the same.
    fcntl_getlk(file, &whole_file).ok().flatten().map(|lock| lock.pid.map_or(0, |pid| pid.as_raw_pid()))
}

/// The pid in a pidfile, if a process other than this one holds its lock.
fn held_pid(path: &Path) -> Option<i32> {
    let mut file = File::open(path).ok()?;
    let holder = lock_holder(&file)?;
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(64).read_to_string(&mut text).ok()?;
    Some(text.trim().parse().unwrap_or(holder))
}

/// Why a daemon's control socket was not found.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NotRunning {
    /// There is no pidfile.
    #[error("{program} is not running: there is no {}", pidfile.display())]
    NoPidfile {
        /// The program.
        program: String,
        /// Where its pidfile would be.
        pidfile: PathBuf,
    },
    /// The pidfile was left behind.
    #[error("{program} is not running: {} was left behind by a process that is gone", pidfile.display())]
    Stale {
        /// The program.
        program: String,
        /// The pidfile.
        pidfile: PathBuf,
    },
    /// The pidfile cannot be read.
    #[error("cannot read {}: {why}", pidfile.display())]
    Unreadable {
        /// The pidfile.
        pidfile: PathBuf,
        /// Why.
        why: String,
    },
}

/// The control socket of a running daemon, found as ovs-appctl finds it.
///
/// # Errors
/// [`NotRunning`] says why there is none.
pub fn control_socket(rundir: &Path, program: &str) -> Result<PathBuf, NotRunning> {
    running_pid(rundir, program).map(|pid| rundir.join(format!("{program}.{pid}.ctl")))
}

/// The process of a running daemon, by its pidfile.
///
/// # Errors
/// [`NotRunning`] says why there is none.
pub fn running_pid(rundir: &Path, program: &str) -> Result<i32, NotRunning> {
    let pidfile = rundir.join(format!("{program}.pid"));
    match File::open(&pidfile) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(NotRunning::NoPidfile { program: program.to_owned(), pidfile });
        }
        Err(error) => return Err(NotRunning::Unreadable { pidfile, why: error.to_string() }),
        Ok(_) => {}
    }
    match held_pid(&pidfile) {
        Some(pid) => Ok(pid),
        None => Err(NotRunning::Stale { program: program.to_owned(), pidfile }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pidfile_holds_the_pid_and_goes_with_its_owner() {
        let directory = tempfile::tempdir().unwrap();
        let pidfile = Pidfile::take(directory.path(), "p").unwrap();
        let path = directory.path().join("p.pid");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        drop(pidfile);
        assert!(!path.exists());
    }

    #[test]
    fn a_run_directory_that_is_not_there_is_one_sentence() {
        let error = Pidfile::take(Path::new("/nonexistent"), "p").unwrap_err().to_string();
        assert!(error.starts_with("cannot write /nonexistent/p.pid.tmp: No such file"), "{error}");
    }

    #[test]
    fn a_pidfile_without_a_lock_is_stale() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("p.pid"), "1\n").unwrap();
        assert!(matches!(control_socket(directory.path(), "p"), Err(NotRunning::Stale { .. })));
        assert!(matches!(control_socket(directory.path(), "q"), Err(NotRunning::NoPidfile { .. })));
        // What a crashed daemon left behind does not stop the next one.
        Pidfile::take(directory.path(), "p").unwrap();
    }
}
