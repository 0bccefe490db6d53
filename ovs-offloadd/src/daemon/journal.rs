//! The flows that have a command in flight, in a file that outlives the process.
//!
//! It need not outlive the machine: a command in flight does not either. So it is written and renamed, not synced.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use netlink_wire::Ufid;
use tracing::warn;

/// Longest journal that is read back, in bytes; the engine has a few flows in flight.
const BYTES_MAX: u64 = 1 << 20;

/// The journal file.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
}

impl Journal {
    pub(crate) fn at(rundir: &Path) -> Self {
        Self { path: rundir.join("ovs-offloadd.journal") }
    }

    /// What an earlier daemon had in flight. Lines that are no ufid are skipped.
    pub(crate) fn read(&self) -> io::Result<Vec<Ufid>> {
        use std::io::Read as _;
        let mut text = String::new();
        match std::fs::File::open(&self.path) {
            Ok(file) => file.take(BYTES_MAX).read_to_string(&mut text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut flows = Vec::new();
        for line in text.lines() {
            match line.parse() {
                Ok(ufid) => flows.push(ufid),
                Err(_) => warn!(line, "line of the journal is no ufid"),
            }
        }
        Ok(flows)
    }

    /// Notes these flows in place of those noted before.
    pub(crate) fn write(&self, flows: &[Ufid]) -> io::Result<()> {
        if flows.is_empty() {
            return match std::fs::remove_file(&self.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
        let temporary = self.path.with_extension("journal.tmp");
        let mut file = std::fs::File::create(&temporary)?;
        let text: String = flows.iter().map(|ufid| format!("{ufid}\n")).collect();
        file.write_all(text.as_bytes())?;
        std::fs::rename(temporary, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_noted_is_found_by_the_next_daemon() {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal::at(directory.path());
        assert!(journal.read().unwrap().is_empty());
        let flows: Vec<Ufid> = vec![
            "a8a8cb2c-1b0d-4b0b-8a7c-8b3e3b1a5a01".parse().unwrap(),
            "00000000-0000-0000-0000-000000000001".parse().unwrap(),
        ];
        journal.write(&flows).unwrap();
        assert_eq!(Journal::at(directory.path()).read().unwrap(), flows);
        journal.write(&[]).unwrap();
        assert!(journal.read().unwrap().is_empty());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_damaged_journal_gives_what_is_left_of_it() {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal::at(directory.path());
        std::fs::write(&journal.path, "nonsense\na8a8cb2c-1b0d-4b0b-8a7c-8b3e3b1a5a01\n\n").unwrap();
        assert_eq!(journal.read().unwrap().len(), 1);
    }
}
