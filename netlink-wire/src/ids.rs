//! The numbers netlink names things by, one type each. No meaning beyond identity belongs here.

/// Declares a newtype over a number that identifies something, and how it is written. For the crates of this project.
#[doc(hidden)]
#[macro_export]
macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty), $shape:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
        pub struct $name(pub $inner);

        impl ::core::fmt::Display for $name {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                write!(f, $shape, self.0)
            }
        }
    };
}

id!(
    /// A network device's number in its network namespace: `ifi_index` of `struct ifinfomsg`, `tcm_ifindex` of
    /// `struct tcmsg`, `dp_ifindex` of `struct ovs_header` (there the device of the datapath's local port).
    Ifindex(u32),
    "{}"
);
id!(
    /// A port's number in an Open vSwitch kernel datapath: `OVS_VPORT_ATTR_PORT_NO`, `OVS_KEY_ATTR_IN_PORT`,
    /// `OVS_ACTION_ATTR_OUTPUT`. Port 0 is the local port (`OVSP_LOCAL`).
    DpPort(u32),
    "{}"
);
id!(
    /// A recirculation id of an Open vSwitch datapath: `OVS_KEY_ATTR_RECIRC_ID`, `OVS_ACTION_ATTR_RECIRC`. In TC it
    /// is the chain. 0 is a packet that was not recirculated.
    RecircId(u32),
    "{:#x}"
);
id!(
    /// A request's sequence number: `nlmsg_seq` of `struct nlmsghdr`. Its answers carry the same number; a
    /// notification carries that of the request that caused it, or 0.
    Seq(u32),
    "{}"
);
id!(
    /// A netlink socket's address: `nlmsg_pid` of `struct nlmsghdr`. In an answer, that of the socket that asked; in a
    /// notification, that of the socket whose request caused it, or 0 for the kernel's own doing.
    PortId(u32),
    "{}"
);
id!(
    /// A network namespace as another one knows it: `IFLA_LINK_NETNSID`, `OVS_VPORT_ATTR_NETNSID`.
    NetnsId(i32),
    "{}"
);
id!(
    /// Milliseconds of `CLOCK_MONOTONIC`.
    MonotonicMs(u64),
    "{} ms"
);
