//! A directory for one guest's logs that no other guest writes to at the same time.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use crate::problem::{Doing, Problem};

/// The file in it that names the process it belongs to.
const OWNER: &str = ".owner";

/// Given back when dropped.
#[derive(Debug)]
pub(crate) struct LogDirectory(PathBuf);

impl LogDirectory {
    /// `directory`, or, while another process uses that, `directory-2` and so on.
    pub(crate) fn own(directory: &Path) -> Result<Self, Problem> {
        let name = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for number in 1_u32.. {
            let path = if number == 1 {
                directory.to_path_buf()
            } else {
                directory.with_file_name(format!("{name}-{number}"))
            };
            fs::create_dir_all(&path).doing(|| format!("make {}", path.display()))?;
            if claim(&path)? {
                return Ok(Self(path));
            }
        }
        Err(Problem::Failed(format!("every directory beside {} is in use", directory.display())))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for LogDirectory {
    fn drop(&mut self) {
        // Left behind, it names a process that is gone, and the next one takes it over.
        let _ = fs::remove_file(self.0.join(OWNER));
    }
}

fn claim(directory: &Path) -> Result<bool, Problem> {
    let owner = directory.join(OWNER);
    let what = || format!("claim {}", directory.display());
    for _ in 0..2 {
        match File::create_new(&owner) {
            Ok(mut file) => {
                write!(file, "{}", std::process::id()).doing(what)?;
                return Ok(true);
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).doing(what),
        }
        let pid = fs::read_to_string(&owner).unwrap_or_default();
        // Not written yet, or running.
        if pid.is_empty() || Path::new("/proc").join(&pid).exists() {
            return Ok(false);
        }
        let _ = fs::remove_file(&owner);
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_guests_at_once_have_logs_of_their_own() {
        let base = std::env::temp_dir().join(format!("xtask-logs-{}", std::process::id()));
        let first = LogDirectory::own(&base.join("lab")).unwrap();
        let second = LogDirectory::own(&base.join("lab")).unwrap();
        assert_eq!(first.path(), base.join("lab"));
        assert_eq!(second.path(), base.join("lab-2"));
        drop(first);
        assert_eq!(LogDirectory::own(&base.join("lab")).unwrap().path(), base.join("lab"));
        drop(second);
        fs::write(base.join("lab").join(OWNER), "4194305").unwrap();
        let taken_over = LogDirectory::own(&base.join("lab")).unwrap();
        assert_eq!(taken_over.path(), base.join("lab"), "its owner is gone: no process has such a number");
        fs::remove_dir_all(&base).unwrap();
    }
}
