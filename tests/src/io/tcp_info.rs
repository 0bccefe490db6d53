//! What the kernel tells of a TCP socket.

use std::io;
use std::mem;
use std::net::TcpStream;
use std::os::fd::AsRawFd;

/// Segments that this end had to send again since the connection began: `tcpi_total_retrans` of `TCP_INFO`, tcp(7).
///
/// # Errors
/// What getsockopt(2) says.
pub(crate) fn retransmits(stream: &TcpStream) -> io::Result<u64> {
    // SAFETY: `tcp_info` consists of integers; all bits zero is a value of it.
    let mut info: libc::tcp_info = unsafe { mem::zeroed() };
    let mut length = mem::size_of_val(&info) as libc::socklen_t;
    // SAFETY: the descriptor is open; `info` has room for `length` bytes, and both live through the call.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(u64::from(info.tcpi_total_retrans))
}
