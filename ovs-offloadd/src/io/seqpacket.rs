//! Unix sockets whose packets keep their bounds (`SOCK_SEQPACKET`), which neither the standard library nor tokio has.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Connections that wait to be taken.
const BACKLOG: i32 = 8;

fn socket(flags: SocketFlags) -> io::Result<OwnedFd> {
    let flags = flags | SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// Listens at `path` for this user alone, in place of whoever listened there before.
///
/// # Errors
/// Those of socket(2), bind(2), listen(2) and chmod(2).
pub fn listen(path: &Path) -> io::Result<OwnedFd> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = socket(SocketFlags::empty())?;
    rustix::net::bind(&listener, &SocketAddrUnix::new(path)?)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    rustix::net::listen(&listener, BACKLOG)?;
    Ok(listener)
}

/// The next connection and the process that it is from; none if none waits.
///
/// # Errors
/// Those of accept(2).
pub fn accept(listener: &OwnedFd) -> io::Result<Option<(OwnedFd, i32)>> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    match rustix::net::accept_with(listener, flags) {
        Ok(connection) => {
            let pid = rustix::net::sockopt::socket_peercred(&connection)?.pid.as_raw_nonzero().get();
            Ok(Some((connection, pid)))
        }
        Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Connects to who listens at `path`.
///
/// # Errors
/// Those of socket(2) and connect(2); EAGAIN where too many wait there.
pub fn connect(path: &Path) -> io::Result<OwnedFd> {
    let socket = socket(SocketFlags::empty())?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// Has the runtime tell when there is something to receive.
///
/// # Errors
/// Those of epoll_ctl(2).
pub fn register(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd stays open and the same until AsyncFd drops it.
    unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }.map_err(Into::into)
}

/// Sends one packet, without waiting.
///
/// # Errors
/// Those of send(2); EAGAIN where the other end has not read what was sent before.
pub fn send(socket: &OwnedFd, packet: &[u8]) -> io::Result<()> {
    rustix::net::send(socket, packet, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// What a read gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packet {
    /// One packet, this many bytes at the start of the buffer.
    Bytes(usize),
    /// None is there now.
    Nothing,
    /// The other end is gone.
    End,
}

/// Reads one packet, without waiting. One that is longer than the buffer is an error.
///
/// # Errors
/// Those of recv(2).
pub fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<Packet> {
    match rustix::net::recv(socket, buffer, RecvFlags::TRUNC) {
        Ok((0, _)) => Ok(Packet::End),
        Ok((kept, whole)) if whole > kept => Err(io::Error::other("a packet is too long")),
        Ok((kept, _)) => Ok(Packet::Bytes(kept)),
        Err(Errno::AGAIN | Errno::INTR) => Ok(Packet::Nothing),
        Err(Errno::CONNRESET) => Ok(Packet::End),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_keep_their_bounds_and_an_end_is_told_after_them() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        std::fs::write(&path, "left by somebody").unwrap();
        let listener = listen(&path).unwrap();
        assert!(accept(&listener).unwrap().is_none());
        let client = connect(&path).unwrap();
        let (server, pid) = accept(&listener).unwrap().unwrap();
        assert_eq!(pid, rustix::process::getpid().as_raw_nonzero().get());
        send(&client, b"one").unwrap();
        send(&client, b"more").unwrap();
        drop(client);
        let mut buffer = [0; 16];
        assert_eq!(receive(&server, &mut buffer).unwrap(), Packet::Bytes(3));
        assert!(receive(&server, &mut buffer[..2]).is_err());
        assert_eq!(receive(&server, &mut buffer).unwrap(), Packet::End);
        assert!(send(&server, b"too late").is_err());
    }
}
