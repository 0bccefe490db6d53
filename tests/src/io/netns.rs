//! Entering a network namespace with a thread.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Moves the calling thread, and no other, into the namespace that `ip netns` knows by this name.
///
/// # Errors
/// No such namespace, or no `CAP_SYS_ADMIN`.
pub(crate) fn enter(name: &str) -> io::Result<()> {
    let namespace = File::open(format!("/run/netns/{name}"))?;
    // SAFETY: setns(2) takes no pointers; the descriptor is open.
    if unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
