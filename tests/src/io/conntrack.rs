//! The one word that the tests say to conntrack itself: forget all. nfnetlink(7), of which the guest has no program.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// `NETLINK_NETFILTER` of uapi/linux/netlink.h.
const NETLINK_NETFILTER: i32 = 12;
/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE` of uapi/linux/netfilter/nfnetlink.h and `…_conntrack.h`.
const CT_DELETE: u16 = 1 << 8 | 2;
/// `NLM_F_REQUEST | NLM_F_ACK` of uapi/linux/netlink.h.
const REQUEST_ACK: u16 = 1 | 4;
/// `NLMSG_ERROR`, whose body begins with an errno, negative, or 0.
const ERROR: u16 = 2;

/// Removes every connection of the calling thread's network namespace, of all zones.
///
/// # Errors
/// What the kernel answers, or no `CAP_NET_ADMIN`.
pub(crate) fn flush() -> io::Result<()> {
    // SAFETY: socket(2) takes no pointers.
    let fd =
        unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, NETLINK_NETFILTER) };
    check(fd as isize)?;
    // SAFETY: the descriptor is open, and nobody else's.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // nlmsghdr: length, type, flags, sequence, port; nfgenmsg: AF_UNSPEC, version 0, resource 0. No attribute: all.
    let mut request = 20_u32.to_ne_bytes().to_vec();
    request.extend_from_slice(&[CT_DELETE.to_ne_bytes(), REQUEST_ACK.to_ne_bytes()].concat());
    request.extend_from_slice(&[0; 12]);
    // SAFETY: the buffer is valid for its length.
    let sent = unsafe { libc::send(fd.as_raw_fd(), request.as_ptr().cast(), request.len(), 0) };
    check(sent)?;
    let mut answer = [0_u8; 256];
    // SAFETY: as above.
    let length = check(unsafe {
        libc::recv(fd.as_raw_fd(), answer.as_mut_ptr().cast(), mem::size_of_val(&answer), 0)
    })?;
    match (answer.get(4..6), answer.get(16..20)) {
        (Some(kind), Some(code)) if length >= 20 && kind == ERROR.to_ne_bytes() => {
            match i32::from_ne_bytes([code[0], code[1], code[2], code[3]]) {
                0 => Ok(()),
                code => Err(io::Error::from_raw_os_error(-code)),
            }
        }
        _ => Err(io::Error::other("conntrack answered with something else than an acknowledgement")),
    }
}

fn check(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}
