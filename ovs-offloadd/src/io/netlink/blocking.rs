//! Questions to the kernel by a process that does nothing else meanwhile, and has no runtime.

use std::io;
use std::time::Duration;

use netlink_sys::SocketAddr;
use netlink_wire::message::Control;
use netlink_wire::{Errno, Message, Messages, Seq};
use rustix::net::RecvFlags;
use rustix::net::sockopt::Timeout;

use super::DATAGRAM_BYTES_MAX;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    /// The kernel refused.
    #[error("{errno}{}", text.as_deref().map(|text| format!(": {text}")).unwrap_or_default())]
    Refused {
        /// Its error.
        errno: Errno,
        /// Its words.
        text: Option<String>,
    },
    /// The table changed while it was read.
    #[error("it changed while it was read")]
    Interrupted,
    /// Something else.
    #[error("{0}")]
    Failed(String),
}

/// A socket of `NETLINK_ROUTE` that asks and waits.
#[derive(Debug)]
pub struct Blocking {
    socket: netlink_sys::Socket,
    seq: u32,
    buffer: Vec<u8>,
}

impl Blocking {
    /// Opens it; `limit` is the longest wait for a part of an answer.
    ///
    /// # Errors
    /// Those of socket(2), bind(2) and setsockopt(2).
    pub fn open(limit: Duration) -> io::Result<Self> {
        let mut socket = netlink_sys::Socket::new(netlink_sys::protocols::NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        // Absent before Linux 4.20; dumps are then filtered on our side alone.
        let _ = socket.set_netlink_get_strict_chk(true);
        rustix::net::sockopt::set_socket_timeout(&socket, Timeout::Recv, Some(limit))?;
        Ok(Self { socket, seq: 0, buffer: vec![0; DATAGRAM_BYTES_MAX] })
    }

    /// Asks, and gives each message of the answer to `part`.
    ///
    /// # Errors
    /// Why the answer is not whole; parts of it may have been given by then.
    pub fn ask(
        &mut self,
        request: impl FnOnce(Seq) -> Vec<u8>,
        mut part: impl FnMut(&Message<'_>),
    ) -> Result<(), Unanswered> {
        self.seq = self.seq.checked_add(1).unwrap_or(1);
        let seq = Seq(self.seq);
        let failed = |error: io::Error| Unanswered::Failed(error.to_string());
        self.socket.send(&request(seq), 0).map_err(failed)?;
        let mut interrupted = false;
        loop {
            let length = match rustix::net::recv(&self.socket, &mut self.buffer[..], RecvFlags::TRUNC) {
                Err(rustix::io::Errno::INTR) => continue,
                Ok((kept, whole)) if whole > kept => return Err(Unanswered::Interrupted),
                received => received.map_err(|errno| failed(errno.into()))?.0,
            };
            for message in Messages::new(&self.buffer[..length]) {
                let message = message.map_err(|malformed| Unanswered::Failed(malformed.to_string()))?;
                if message.header.seq != seq {
                    continue;
                }
                interrupted |= message.header.dump_was_interrupted();
                let control = message.control();
                match control.map_err(|malformed| Unanswered::Failed(malformed.to_string()))? {
                    Some(Control::Answer(answer) | Control::Done(answer)) => {
                        return match answer.errno {
                            Some(errno) => {
                                let text = answer.extack.text.as_deref().map(str::to_owned);
                                Err(Unanswered::Refused { errno, text })
                            }
                            None if interrupted => Err(Unanswered::Interrupted),
                            None => Ok(()),
                        };
                    }
                    Some(_) => {}
                    None => part(&message),
                }
            }
        }
    }
}
