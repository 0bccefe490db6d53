//! A connection to a bridge as a controller has one, for changes that come faster than `ovs-ofctl` starts.
//!
//! OpenFlow 1.0, of which a test needs little (`openflow-1.0.h`, as in Open vSwitch's `include/openflow`).

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::{Failure, Outcome, Ovs, ensure};

const ANSWERS_WITHIN: Duration = Duration::from_secs(60);
const HELLO: u8 = 0;
const ERROR: u8 = 1;
const ECHO_REQUEST: u8 = 2;
const ECHO_REPLY: u8 = 3;
const FLOW_MOD: u8 = 14;
const BARRIER_REQUEST: u8 = 18;
const BARRIER_REPLY: u8 = 19;
/// `OFPFW_ALL`, without the Ethernet type, IP's protocol and both ports.
const WILDCARDS: u32 = ((1 << 22) - 1) & !(1 << 4 | 1 << 5 | 1 << 6 | 1 << 7);
const MODIFY_STRICT: u16 = 2;
const NO_BUFFER: u32 = u32::MAX;
const NO_PORT: u16 = 0xffff;
const OUTPUT: u16 = 0;
const SET_NW_TOS: u16 = 8;

/// A bridge's OpenFlow, over its management socket.
#[derive(Debug)]
pub struct OpenFlow {
    stream: UnixStream,
    xid: u32,
}

/// What one rule does with UDP of two ports.
#[derive(Debug, Clone, Copy)]
pub struct UdpRule {
    /// Its priority.
    pub priority: u16,
    /// Source and destination port.
    pub ports: (u16, u16),
    /// The type of service that packets get, a multiple of 4.
    pub tos: u8,
    /// The OpenFlow port that they leave by.
    pub output: u16,
}

impl OpenFlow {
    /// Connects to a bridge and greets it.
    pub fn connect(ovs: &Ovs, bridge: &str) -> Outcome<Self> {
        let stream = UnixStream::connect(ovs.rundir().join(format!("{bridge}.mgmt")))?;
        stream.set_read_timeout(Some(ANSWERS_WITHIN))?;
        let mut this = Self { stream, xid: 0 };
        this.send(HELLO, &[])?;
        Ok(this)
    }

    /// Asks for the rule with this priority and these ports to be this one.
    pub fn change(&mut self, rule: UdpRule) -> Outcome {
        let UdpRule { priority, ports: (src, dst), tos, output } = rule;
        let mut body = Vec::new();
        body.extend(WILDCARDS.to_be_bytes());
        // Incoming port, both MAC addresses, VLAN and its priority, padding.
        body.extend([0; 2 + 6 + 6 + 2 + 1 + 1]);
        body.extend(0x0800_u16.to_be_bytes());
        // TOS, UDP, padding, both addresses.
        body.extend([0, 17, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        [src, dst].iter().for_each(|port| body.extend(port.to_be_bytes()));
        // Cookie.
        body.extend([0; 8]);
        // Both time-outs are none.
        [MODIFY_STRICT, 0, 0, priority].iter().for_each(|word| body.extend(word.to_be_bytes()));
        body.extend(NO_BUFFER.to_be_bytes());
        [NO_PORT, 0].iter().for_each(|word| body.extend(word.to_be_bytes()));
        [SET_NW_TOS, 8].iter().for_each(|word| body.extend(word.to_be_bytes()));
        body.extend([tos, 0, 0, 0]);
        [OUTPUT, 8, output, 0].iter().for_each(|word| body.extend(word.to_be_bytes()));
        self.send(FLOW_MOD, &body).map(drop)
    }

    /// Waits until the bridge has done all that it was asked.
    pub fn settle(&mut self) -> Outcome {
        let barrier = self.send(BARRIER_REQUEST, &[])?;
        loop {
            let (kind, xid, body) = self.receive()?;
            match kind {
                BARRIER_REPLY if xid == barrier => return Ok(()),
                ECHO_REQUEST => self.reply(ECHO_REPLY, xid, &body)?,
                ERROR => return Err(Failure::new(format!("the bridge refuses a rule: {body:?}"))),
                _ => {}
            }
        }
    }

    fn send(&mut self, kind: u8, body: &[u8]) -> Outcome<u32> {
        self.xid += 1;
        self.reply(kind, self.xid, body)?;
        Ok(self.xid)
    }

    fn reply(&mut self, kind: u8, xid: u32, body: &[u8]) -> Outcome {
        let length = u16::try_from(8 + body.len())?;
        let mut message = vec![1, kind];
        message.extend(length.to_be_bytes());
        message.extend(xid.to_be_bytes());
        message.extend(body);
        Ok(self.stream.write_all(&message)?)
    }

    fn receive(&mut self) -> Outcome<(u8, u32, Vec<u8>)> {
        let mut header = [0; 8];
        self.stream.read_exact(&mut header)?;
        let [_, kind, high, low, xid @ ..] = header;
        let length = usize::from(u16::from_be_bytes([high, low]));
        ensure!(length >= 8, "an OpenFlow message of {length} bytes");
        let mut body = vec![0; length - 8];
        self.stream.read_exact(&mut body)?;
        Ok((kind, u32::from_be_bytes(xid), body))
    }
}
