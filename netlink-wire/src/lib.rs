#![no_std]
#![forbid(unsafe_code)]
//! Netlink framing, extended acks and message families, decoded from and encoded to bytes. No sockets.
//!
//! Every decoder takes bytes and gives a value or a [`Malformed`]; every encoder gives the bytes of one whole
//! request. Nothing here opens a socket, reads a clock or keeps state between two messages.
//!
//! | module | what it speaks |
//! |---|---|
//! | [`attr`], [`writer`] | attributes (`struct nlattr`), read and written |
//! | [`message`], [`extack`] | `struct nlmsghdr`, acks, errors, the end of a dump |
//! | [`genl`] | generic netlink and the resolution of a family by its name |
//! | [`ovs_datapath`], [`ovs_vport`], [`ovs_flow`] | the Open vSwitch kernel datapath |
//! | [`link`], [`link_change`] | rtnetlink's links, read and changed |
//! | [`address`] | addresses of devices |
//! | [`netns`] | numbers of network namespaces |
//! | [`devlink`] | devlink instances, eswitch, ports, health, resources, versions |
//! | [`ethtool`] | device features, of which `hw-tc-offload` matters here |
//! | [`uevent`] | devices that come, change and go |
//! | [`xfrm`] | IPsec's security associations and policies, without keys |

extern crate alloc;

pub mod address;
pub mod attr;
pub mod devlink;
pub mod errno;
pub mod ether;
pub mod ethtool;
pub mod extack;
pub mod genl;
pub mod ids;
pub mod link;
pub mod link_change;
pub mod malformed;
pub mod masked;
pub mod message;
pub mod netns;
pub mod ovs_datapath;
pub mod ovs_flow;
pub mod ovs_vport;
pub mod uevent;
pub mod ufid;
pub mod writer;
pub mod xfrm;

pub use attr::{Attr, Attrs};
pub use errno::Errno;
pub use ether::{EtherType, MacAddr};
pub use extack::Extack;
pub use ids::{DpPort, Ifindex, MonotonicMs, NetnsId, PortId, RecircId, Seq};
pub use malformed::{Family, Malformed, Why};
pub use masked::{Bits, Masked};
pub use message::{Answer, Control, Header, Message, Messages};
pub use ufid::Ufid;
pub use writer::{MessageWriter, TooLong};
