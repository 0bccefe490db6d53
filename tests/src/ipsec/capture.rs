//! What is on the wire, in files of tcpdump.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use lab_tests::harness::{Lab, Outcome, run, wait_until};

use super::hosts::DONE_WITHIN;

/// What is in every ping, and may be seen by nobody on the wire.
pub(super) const SEEN: &[u8] = b"PLAINTEXT-of-16b";

/// What goes over the wire, on file.
pub(super) struct Capture {
    child: Child,
    file: PathBuf,
}

impl Capture {
    /// Starts it with the words that are to come first, and waits until it listens.
    pub(super) fn start(lab: &Lab, mut command: Command, name: &str) -> Outcome<Self> {
        let file = lab.dir().join(format!("{name}.pcap"));
        command.args(["--immediate-mode", "-U", "-s", "0", "-w"]).arg(&file);
        let log = fs::File::create(lab.dir().join(format!("{name}.tcpdump")))?;
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?;
        let capture = Self { child, file };
        // The file's header is written once it listens.
        wait_until("tcpdump listens", DONE_WITHIN, || {
            Ok(fs::metadata(&capture.file).is_ok_and(|file| file.len() >= 24))
        })?;
        Ok(capture)
    }

    /// Ends it: whether something in the clear is in it, and its packets of ESP.
    pub(super) fn stop(mut self) -> Outcome<(bool, usize)> {
        let bytes = self.end()?;
        let seen = bytes.windows(SEEN.len()).any(|window| window == SEEN);
        Ok((seen, self.packets("esp")?))
    }

    /// Ends it: the file.
    pub(super) fn bytes(mut self) -> Outcome<Vec<u8>> {
        self.end()
    }

    fn end(&mut self) -> Outcome<Vec<u8>> {
        run("kill", &["-INT", &self.child.id().to_string()])?;
        self.child.wait()?;
        Ok(fs::read(&self.file)?)
    }

    pub(super) fn packets(&self, of: &str) -> Outcome<usize> {
        let path = self.file.display().to_string();
        Ok(run("tcpdump", &["-n", "-r", &path, of])?.lines().count())
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // Ended already, in most cases.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
