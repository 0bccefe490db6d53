//! Raw Ethernet sockets, packet(7): frames as they cross a device, VLAN tags included.
//! The only place of the tests that talks to libc about them; it knows no protocol but 802.1Q's tag.

use std::fs;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// The longest frame that is received whole, in bytes.
const FRAME_BYTES_MAX: usize = 65_600;
/// Where an 802.1Q tag sits in a frame.
const TAG_AT: usize = 12;

/// Sends frames out of a device and receives those that came in on it.
#[derive(Debug)]
pub(crate) struct PacketSocket {
    fd: OwnedFd,
}

impl PacketSocket {
    /// Binds to a device of the calling thread's network namespace.
    ///
    /// # Errors
    /// No such device, or no `CAP_NET_RAW`.
    pub(crate) fn open(device: &str) -> io::Result<Self> {
        let index = fs::read_to_string(format!("/sys/class/net/{device}/ifindex"))?;
        Self::bound_to(index.trim().parse().map_err(io::Error::other)?)
    }

    /// Binds to all devices of the calling thread's network namespace.
    ///
    /// # Errors
    /// No `CAP_NET_RAW`.
    pub(crate) fn open_all() -> io::Result<Self> {
        Self::bound_to(0)
    }

    fn bound_to(index: i32) -> io::Result<Self> {
        let protocol = u16::try_from(libc::ETH_P_ALL).map_err(io::Error::other)?.to_be();
        // SAFETY: socket(2) takes no pointers.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        check(fd as isize)?;
        // SAFETY: the descriptor is open, and nobody else's.
        let socket = Self { fd: unsafe { OwnedFd::from_raw_fd(fd) } };
        socket.set(libc::SOL_PACKET, libc::PACKET_AUXDATA, 1)?;
        socket.set(libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1)?;
        socket.set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 64 << 20)?;
        let address = libc::sockaddr_ll { sll_protocol: protocol, ..address_of(index) };
        // SAFETY: bind(2) reads no more than the size given.
        let bound = unsafe {
            libc::bind(
                socket.fd.as_raw_fd(),
                (&raw const address).cast(),
                mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        check(bound as isize)?;
        Ok(socket)
    }

    fn set(&self, level: i32, option: i32, value: i32) -> io::Result<()> {
        // SAFETY: the option value is an int, and so is its size.
        let done = unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                level,
                option,
                (&raw const value).cast(),
                mem::size_of::<i32>() as libc::socklen_t,
            )
        };
        check(done as isize).map(drop)
    }

    /// Sends one frame, from its Ethernet header on.
    ///
    /// # Errors
    /// What send(2) says, `ENETDOWN` among it.
    pub(crate) fn send(&self, frame: &[u8]) -> io::Result<()> {
        // SAFETY: the buffer is valid for its length.
        let sent = unsafe { libc::send(self.fd.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        check(sent).map(drop)
    }

    /// Sends one frame by the device with this index.
    ///
    /// # Errors
    /// What sendto(2) says.
    pub(crate) fn send_by(&self, ifindex: i32, frame: &[u8]) -> io::Result<()> {
        let address = address_of(ifindex);
        // SAFETY: buffer and address are valid for the lengths given.
        let sent = unsafe {
            libc::sendto(
                self.fd.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const address).cast(),
                mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        check(sent).map(drop)
    }

    /// The next frame that came in, with its VLAN tag where it was on the wire; `None` when none comes in time.
    ///
    /// # Errors
    /// What recvmsg(2) says.
    pub(crate) fn receive(&self, within: Duration) -> io::Result<Option<Vec<u8>>> {
        Ok(self.receive_from(within, &mut Vec::new())?.map(|(_, frame)| frame))
    }

    /// The same, with the index of the device it came in by. `buffer` is used again from one call to the next.
    ///
    /// # Errors
    /// What recvmsg(2) says.
    pub(crate) fn receive_from(
        &self,
        within: Duration,
        buffer: &mut Vec<u8>,
    ) -> io::Result<Option<(i32, Vec<u8>)>> {
        let until = Instant::now() + within;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let mut poll = libc::pollfd { fd: self.fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            let wait = i32::try_from(left.as_millis()).unwrap_or(i32::MAX);
            // SAFETY: one pollfd, as the count says.
            let ready = unsafe { libc::poll(&raw mut poll, 1, wait) };
            match check(ready as isize) {
                Ok(0) => return Ok(None),
                Ok(_) => return self.take(buffer).map(Some),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn take(&self, buffer: &mut Vec<u8>) -> io::Result<(i32, Vec<u8>)> {
        buffer.resize(FRAME_BYTES_MAX, 0);
        let mut control = [0_u64; 16];
        let mut from = address_of(0);
        let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        // SAFETY: all-zero is a valid msghdr.
        let mut message: libc::msghdr = unsafe { mem::zeroed() };
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_name = (&raw mut from).cast();
        message.msg_namelen = mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = mem::size_of_val(&control);
        // SAFETY: the buffers the message names are valid for their lengths and outlive the call.
        let length = unsafe { libc::recvmsg(self.fd.as_raw_fd(), &raw mut message, 0) };
        let mut frame = buffer.get(..check(length)?).unwrap_or(buffer).to_vec();
        let words = message.msg_controllen.div_ceil(mem::size_of::<u64>());
        if let Some(tag) = tag_of(control.get(..words).unwrap_or(&control))
            && frame.len() >= TAG_AT
        {
            frame.splice(TAG_AT..TAG_AT, tag);
        }
        Ok((from.sll_ifindex, frame))
    }

    /// Frames that found the receive buffer full since this was last asked (`PACKET_STATISTICS`).
    ///
    /// # Errors
    /// What getsockopt(2) says.
    pub(crate) fn dropped(&self) -> io::Result<u32> {
        // `struct tpacket_stats`: packets, drops.
        let mut statistics = [0_u32; 2];
        let mut length = mem::size_of_val(&statistics) as libc::socklen_t;
        // SAFETY: the buffer is valid for the length given.
        let done = unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                statistics.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        check(done as isize)?;
        Ok(statistics[1])
    }
}

fn address_of(ifindex: i32) -> libc::sockaddr_ll {
    libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: 0,
        sll_ifindex: ifindex,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    }
}

/// The VLAN tag that the kernel took out of the frame, from the control messages that came with it: each has a
/// `cmsghdr` (length, level, type) and, when it is `PACKET_AUXDATA`, a `tpacket_auxdata`, all in native byte order.
fn tag_of(control: &[u64]) -> Option<[u8; 4]> {
    let bytes: Vec<u8> = control.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let mut rest = &bytes[..];
    while let (Some(length), Some(level), Some(kind)) = (rest.first_chunk(), word(rest, 8), word(rest, 12)) {
        let length = usize::from_ne_bytes(*length);
        if level.cast_signed() == libc::SOL_PACKET && kind.cast_signed() == libc::PACKET_AUXDATA {
            // tp_status, tp_len, tp_snaplen, then four u16: tp_mac, tp_net, tp_vlan_tci, tp_vlan_tpid.
            let data = rest.get(16..36)?;
            let half =
                |at: usize| Some(u16::from_ne_bytes([*data.get(at)?, *data.get(at + 1)?]).to_be_bytes());
            let ([p0, p1], [t0, t1]) = (half(18)?, half(16)?);
            let valid = word(data, 0)? & libc::TP_STATUS_VLAN_VALID != 0;
            return valid.then_some([p0, p1, t0, t1]);
        }
        rest = rest.get(length.next_multiple_of(mem::size_of::<u64>()).max(16)..)?;
    }
    None
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

fn check(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}
