//! The kernel's log during one test: a warning or worse fails the test that caused it.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;

use super::Outcome;

/// `O_NONBLOCK` of asm-generic/fcntl.h: reading past the last record answers EAGAIN.
const O_NONBLOCK: i32 = 0o4000;
/// What the kernel begins its complaints with.
const COMPLAINTS: &[&str] = &[
    "BUG: ",
    "WARNING: ",
    "Oops: ",
    "general protection fault",
    "possible circular locking",
    "possible recursive locking",
    "inconsistent lock state",
    "suspicious RCU usage",
    "INFO: task ",
    "unregister_netdevice: waiting for",
    "UBSAN: ",
    "refcount_t: ",
    "leaked reference",
];

/// Complaints that are nobody's fault here, each told by all of its parts.
const KNOWN: &[&[&str]] = &[
    // Up to 6.15 the kernel takes the options that it copies behind `struct ip_tunnel_info` for an overflow of it, once in
    // each place: with the first Geneve packet with options that it receives itself, and with the first action of Open
    // vSwitch's that sets some.
    &["WARNING: ", "include/net/ip_tunnels.h", "geneve_udp_encap_recv"],
    &["WARNING: ", "include/net/ip_tunnels.h", "validate_and_copy_set_tun"],
];

/// A reader of `/dev/kmsg` that begins with what comes after it was made.
#[derive(Debug)]
pub(super) struct KernelLog {
    file: File,
}

impl KernelLog {
    /// Begins here.
    pub(super) fn from_now() -> Outcome<Self> {
        let mut file = OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open("/dev/kmsg")?;
        file.seek(SeekFrom::End(0))?;
        Ok(Self { file })
    }

    /// The messages since, one per line.
    pub(super) fn read(&mut self) -> String {
        let mut text = String::new();
        let mut record = [0; 8192];
        // One record per read; the end is EAGAIN, and EPIPE says that old records were overwritten: go on.
        loop {
            match self.file.read(&mut record) {
                Ok(0) => break,
                Ok(count) => {
                    let record = String::from_utf8_lossy(&record[..count]);
                    let message = record.split_once(';').map_or(&*record, |(_, message)| message);
                    text.push_str(message.lines().next().unwrap_or_default());
                    text.push('\n');
                }
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
                Err(_) => break,
            }
        }
        text
    }
}

/// The first complaint in `messages`.
pub(super) fn complaint(messages: &str) -> Option<&str> {
    let is_known = |line: &str| KNOWN.iter().any(|parts| parts.iter().all(|part| line.contains(part)));
    let mut lines = messages.lines().filter(|line| !is_known(line));
    lines.find(|line| COMPLAINTS.iter().any(|complaint| line.contains(complaint)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_warning_is_found_among_other_messages() {
        let log = "simnic: loaded\nWARNING: CPU: 0 PID: 1 at net/core/dev.c:1 x\neth0: link up\n";
        assert_eq!(complaint(log), Some("WARNING: CPU: 0 PID: 1 at net/core/dev.c:1 x"));
        assert_eq!(complaint("openvswitch: Open vSwitch switching datapath\n"), None);
        let geneve =
            "WARNING: CPU: 0 PID: 203 at include/net/ip_tunnels.h:707 geneve_udp_encap_recv+0x871/0x890";
        assert_eq!(complaint(geneve), None);
        assert!(complaint(&format!("{geneve}\nBUG: unable to handle page fault")).is_some());
    }
}
