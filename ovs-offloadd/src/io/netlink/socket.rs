//! One netlink socket, registered with tokio.

use std::io;

use netlink_sys::SocketAddr;
use netlink_wire::PortId;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A netlink protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Links and TC.
    Route,
    /// Generic netlink: the Open vSwitch datapath, devlink.
    Generic,
    /// The kernel's device events.
    Uevent,
    /// IPsec.
    Xfrm,
}

impl Protocol {
    const fn number(self) -> isize {
        match self {
            Self::Route => netlink_sys::protocols::NETLINK_ROUTE,
            Self::Generic => netlink_sys::protocols::NETLINK_GENERIC,
            Self::Uevent => netlink_sys::protocols::NETLINK_KOBJECT_UEVENT,
            Self::Xfrm => netlink_sys::protocols::NETLINK_XFRM,
        }
    }
}

/// What a read of a socket gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// Messages, this many bytes at the start of the buffer.
    Bytes(usize),
    /// Messages were lost, because we read too slowly; those that follow are good again.
    Overrun,
    /// Nothing is there now.
    Nothing,
}

/// A netlink socket that talks to the kernel alone.
#[derive(Debug)]
pub struct Socket {
    inner: AsyncFd<netlink_sys::Socket>,
    portid: PortId,
}

/// Bytes that hold any one datagram of the kernel: dumps fill at most 32 KiB, notifications a page or two.
pub const DATAGRAM_BYTES_MAX: usize = 64 * 1024;

impl Socket {
    /// Opens a socket with a receive buffer of that size.
    ///
    /// Texts of successful answers are asked for too (NETLINK_EXT_ACK), without the request in them
    /// (NETLINK_CAP_ACK), and requests are checked strictly where the kernel can.
    ///
    /// # Errors
    /// Those of socket(2), bind(2) and setsockopt(2).
    pub fn open(protocol: Protocol, receive_bytes: usize) -> io::Result<Self> {
        let mut socket = netlink_sys::Socket::new(protocol.number())?;
        let address = socket.bind_auto()?;
        // Connected to port 0, the kernel, the socket takes nothing from other processes (af_netlink.c,
        // netlink_getsockbyportid).
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_non_blocking(true)?;
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        if protocol == Protocol::Route {
            // Absent before Linux 4.20; dumps are then filtered on our side alone.
            let _ = socket.set_netlink_get_strict_chk(true);
        }
        // SAFETY: the socket owns its descriptor, which stays open and the same until AsyncFd drops it.
        let inner = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?;
        // Beyond rmem_max only CAP_NET_ADMIN may go; without it the limit is the most there is.
        if rustix::net::sockopt::set_socket_recv_buffer_size_force(&inner, receive_bytes).is_err() {
            rustix::net::sockopt::set_socket_recv_buffer_size(&inner, receive_bytes)?;
        }
        Ok(Self { inner, portid: PortId(address.port_number()) })
    }

    /// The socket's own address: answers carry it, and notifications of changes it asked for.
    pub fn portid(&self) -> PortId {
        self.portid
    }

    /// Joins a multicast group by its number.
    ///
    /// # Errors
    /// Those of setsockopt(2).
    pub fn join(&self, group: u32) -> io::Result<()> {
        self.inner.get_ref().add_membership(group)
    }

    /// Hears notifications of other network namespaces that have an id here, too.
    ///
    /// # Errors
    /// Those of setsockopt(2); needs CAP_NET_BROADCAST.
    pub fn hear_all_namespaces(&self) -> io::Result<()> {
        self.inner.get_ref().set_listen_all_namespaces(true)
    }

    /// Sends requests, one or several whole messages.
    ///
    /// The kernel carries them out before this returns; the answers wait in the receive buffer.
    ///
    /// # Errors
    /// Those of send(2).
    pub fn send(&self, messages: &[u8]) -> io::Result<()> {
        loop {
            match rustix::net::send(&self.inner, messages, SendFlags::empty()) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Reads what is there, without waiting.
    ///
    /// # Errors
    /// Those of recv(2), but for a full buffer, which is [`Received::Overrun`].
    pub fn try_receive(&self, buffer: &mut [u8]) -> io::Result<Received> {
        loop {
            return match rustix::net::recv(&self.inner, &mut *buffer, RecvFlags::TRUNC) {
                // A datagram that was cut has lost messages, as a full buffer has.
                Ok((kept, whole)) if whole > kept => Ok(Received::Overrun),
                Ok((kept, _)) => Ok(Received::Bytes(kept)),
                Err(Errno::AGAIN) => Ok(Received::Nothing),
                Err(Errno::NOBUFS) => Ok(Received::Overrun),
                Err(Errno::INTR) => continue,
                Err(errno) => Err(errno.into()),
            };
        }
    }

    /// Waits for messages or an overrun; never gives [`Received::Nothing`]. Cancel-safe.
    ///
    /// # Errors
    /// As [`try_receive`](Self::try_receive).
    pub async fn receive(&self, buffer: &mut [u8]) -> io::Result<Received> {
        loop {
            let mut guard = self.inner.readable().await?;
            match self.try_receive(buffer)? {
                Received::Nothing => guard.clear_ready(),
                received => return Ok(received),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_wire::{Message, MessageWriter, Seq};

    // RTM_GETLINK dump of the own namespace: needs no privilege.
    const RTM_GETLINK: u16 = 18;
    const RTM_NEWLINK: u16 = 16;

    fn dump_links(seq: u32) -> Vec<u8> {
        use netlink_wire::message::flags;
        let mut writer = MessageWriter::new(RTM_GETLINK, flags::REQUEST | flags::DUMP, Seq(seq));
        writer.fixed(&[0; 16]);
        writer.finish().unwrap()
    }

    #[tokio::test]
    async fn the_kernel_answers_a_dump_to_our_port() {
        let socket = Socket::open(Protocol::Route, 1 << 20).unwrap();
        socket.send(&dump_links(7)).unwrap();
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        let Received::Bytes(length) = socket.receive(&mut buffer).await.unwrap() else { panic!() };
        let first = Message::first(&buffer[..length]).unwrap();
        assert_eq!(
            (first.header.kind, first.header.seq, first.header.portid),
            (RTM_NEWLINK, Seq(7), socket.portid())
        );
    }

    #[tokio::test]
    async fn an_overrun_is_told_and_what_follows_is_good_again() {
        let socket = Socket::open(Protocol::Route, 2048).unwrap();
        // Answers to many single requests outgrow a small buffer; the kernel then drops and remembers ENOBUFS.
        for seq in 0..200 {
            let mut writer = MessageWriter::new(RTM_GETLINK, 1, Seq(seq));
            let mut lo = [0; 16];
            lo[4..8].copy_from_slice(&1_i32.to_ne_bytes());
            writer.fixed(&lo);
            if socket.send(&writer.finish().unwrap()).is_err() {
                break;
            }
        }
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        let mut overruns = 0;
        loop {
            match socket.try_receive(&mut buffer).unwrap() {
                Received::Overrun => overruns += 1,
                Received::Bytes(_) => {}
                Received::Nothing => break,
            }
        }
        assert!(overruns >= 1);
        socket.send(&dump_links(9)).unwrap();
        assert!(matches!(socket.receive(&mut buffer).await.unwrap(), Received::Bytes(_)));
    }

    #[tokio::test]
    async fn another_process_cannot_speak_for_the_kernel() {
        let ours = Socket::open(Protocol::Route, 1 << 20).unwrap();
        let mut theirs = netlink_sys::Socket::new(Protocol::Route.number()).unwrap();
        theirs.bind_auto().unwrap();
        let _ = theirs.send_to(&dump_links(1), &SocketAddr::new(ours.portid().0, 0), 0);
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        assert_eq!(ours.try_receive(&mut buffer).unwrap(), Received::Nothing);
    }
}
