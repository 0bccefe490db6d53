//! What a NIC is declared to be: a `[[device]]` of the configuration, or what `port attach` was asked for.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use netlink_wire::devlink::{EswitchMode, Handle, InlineMode};
use netlink_wire::{MacAddr, NetnsId};

/// What is declared of one NIC. What is absent is left as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeclaredNic {
    /// Its devlink handle.
    pub handle: Handle,
    /// Mode of its eswitch.
    pub mode: Option<EswitchMode>,
    /// How much of a packet's header the driver copies into the descriptor.
    pub inline: Option<InlineMode>,
    /// Whether its eswitch encapsulates.
    pub encap: Option<bool>,
    /// Virtual functions there are, numbered from 0.
    pub vfs: Option<u16>,
    /// Sub-functions there are, numbered from 0; others of this host are removed.
    pub sfs: Option<u32>,
    /// `hw-tc-offload` of the uplink and of the representors of the declared ports.
    pub hw_tc_offload: Option<bool>,
    /// MTU of the uplink, in bytes.
    pub mtu: Option<u32>,
    /// Its functions.
    pub ports: Vec<DeclaredPort>,
    /// Namespaces where functions may be that are to come back.
    pub known_namespaces: Vec<NetnsRef>,
}

impl DeclaredNic {
    /// A NIC of which nothing is declared.
    pub fn new(handle: Handle) -> Self {
        Self {
            handle,
            mode: None,
            inline: None,
            encap: None,
            vfs: None,
            sfs: None,
            hw_tc_offload: None,
            mtu: None,
            ports: Vec::new(),
            known_namespaces: Vec::new(),
        }
    }

    /// The namespaces that are named.
    pub fn namespaces(&self) -> impl Iterator<Item = &NetnsRef> {
        let wanted = self.ports.iter().filter_map(|port| match &port.netns {
            Some(NetnsWanted::In(netns)) => Some(netns),
            _ => None,
        });
        wanted.chain(&self.known_namespaces)
    }
}

/// What is declared of one function of a NIC and its representor. What is absent is left as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeclaredPort {
    /// Which.
    pub function: Function,
    /// The address that the function has.
    pub mac: Option<MacAddr>,
    /// Whether a sub-function is active.
    pub active: Option<bool>,
    /// Whether the representor is up.
    pub up: Option<bool>,
    /// Whether the function is trusted.
    pub trust: Option<bool>,
    /// MTU of representor and function, in bytes.
    pub mtu: Option<u32>,
    /// Where the representor is attached.
    pub attach: Option<Attach>,
    /// Where the function's own network device is.
    pub netns: Option<NetnsWanted>,
}

impl DeclaredPort {
    /// A function of which nothing is declared but that it exists.
    pub fn new(function: Function) -> Self {
        Self {
            function,
            mac: None,
            active: None,
            up: None,
            trust: None,
            mtu: None,
            attach: None,
            netns: None,
        }
    }
}

/// Where a representor is attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attach {
    /// To no bridge: what was attached by us is removed.
    Nowhere,
    /// To this bridge.
    Bridge {
        /// The bridge's name.
        bridge: String,
        /// Keys of the interface's `external_ids`; others are left as they are.
        external_ids: BTreeMap<String, String>,
        /// Whether a port that somebody else attached elsewhere may be moved.
        may_move: bool,
    },
}

/// Where a function's own network device is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetnsWanted {
    /// In our own namespace.
    Home,
    /// In this one.
    In(NetnsRef),
}

/// A network namespace as people name it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NetnsRef {
    /// A file that it is bound to: `/run/netns/blue`, `/proc/4711/ns/net`.
    Path(PathBuf),
    /// That of a process.
    Pid(u32),
    /// As `ip netns` names it.
    Name(String),
    /// By its number in ours; what the kernel says of where a device is.
    Id(NetnsId),
}

impl NetnsRef {
    /// Reads a path, the number of a process or a name.
    ///
    /// # Errors
    /// What would do.
    pub fn parse(text: &str) -> Result<Self, String> {
        let is_name = !text.is_empty()
            && text.len() <= 255
            && !text.contains(['/', '\0'])
            && !matches!(text, "." | "..");
        match text.parse() {
            _ if text.starts_with('/') && !text.contains('\0') => Ok(Self::Path(PathBuf::from(text))),
            Ok(pid) if pid != 0 => Ok(Self::Pid(pid)),
            Err(_) if is_name => Ok(Self::Name(text.to_owned())),
            _ => Err("must be an absolute path, the number of a process, or a name of `ip netns`".to_owned()),
        }
    }

    /// The file to open; none for a number of the kernel's.
    pub fn path(&self) -> Option<PathBuf> {
        match self {
            Self::Path(path) => Some(path.clone()),
            Self::Pid(pid) => Some(PathBuf::from(format!("/proc/{pid}/ns/net"))),
            Self::Name(name) => Some(PathBuf::from(format!("/run/netns/{name}"))),
            Self::Id(_) => None,
        }
    }
}

impl fmt::Display for NetnsRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Pid(pid) => write!(f, "{pid}"),
            Self::Name(name) => f.write_str(name),
            Self::Id(id) => write!(f, "nsid {id}"),
        }
    }
}

/// What kind of function, and its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FunctionKind {
    /// A virtual function.
    Vf(u16),
    /// A sub-function, by the number its maker gave it.
    Sf(u32),
}

/// A function of a NIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Function {
    /// 0 for this host; another for a host behind a DPU.
    pub controller: u32,
    /// Which function of that host.
    pub kind: FunctionKind,
}

impl Function {
    /// A virtual function of this host.
    pub const fn vf(number: u16) -> Self {
        Self { controller: 0, kind: FunctionKind::Vf(number) }
    }

    /// A sub-function of this host.
    pub const fn sf(number: u32) -> Self {
        Self { controller: 0, kind: FunctionKind::Sf(number) }
    }

    /// Its number, if it is a virtual function of this host.
    pub const fn own_vf(self) -> Option<u16> {
        match (self.controller, self.kind) {
            (0, FunctionKind::Vf(number)) => Some(number),
            _ => None,
        }
    }

    /// Its number, if it is a sub-function of this host.
    pub const fn own_sf(self) -> Option<u32> {
        match (self.controller, self.kind) {
            (0, FunctionKind::Sf(number)) => Some(number),
            _ => None,
        }
    }

    /// One word, as in a representor's name: `vf3`, `sf88`, `c1vf3`.
    pub fn word(self) -> String {
        let controller = match self.controller {
            0 => String::new(),
            number => format!("c{number}"),
        };
        match self.kind {
            FunctionKind::Vf(number) => format!("{controller}vf{number}"),
            FunctionKind::Sf(number) => format!("{controller}sf{number}"),
        }
    }

    /// Reads what [`word`](Self::word) writes.
    pub fn from_word(text: &str) -> Option<Self> {
        let (controller, rest) = match text.strip_prefix('c') {
            Some(rest) => {
                let end = rest.find(|c: char| !c.is_ascii_digit())?;
                (rest[..end].parse().ok()?, &rest[end..])
            }
            None => (0, text),
        };
        let kind = match (rest.strip_prefix("vf"), rest.strip_prefix("sf")) {
            (Some(number), _) => FunctionKind::Vf(number.parse().ok()?),
            (_, Some(number)) => FunctionKind::Sf(number.parse().ok()?),
            _ => return None,
        };
        Some(Self { controller, kind })
    }
}

impl fmt::Display for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            FunctionKind::Vf(number) => write!(f, "VF {number}")?,
            FunctionKind::Sf(number) => write!(f, "SF {number}")?,
        }
        match self.controller {
            0 => Ok(()),
            controller => write!(f, " of controller {controller}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_a_path_a_process_or_a_name() {
        assert_eq!(NetnsRef::parse("/run/netns/a"), Ok(NetnsRef::Path("/run/netns/a".into())));
        assert_eq!(NetnsRef::parse("4711"), Ok(NetnsRef::Pid(4711)));
        assert_eq!(NetnsRef::parse("blue"), Ok(NetnsRef::Name("blue".into())));
        for text in ["", "a/b", "..", "0", "a\0b"] {
            assert!(NetnsRef::parse(text).is_err(), "{text:?}");
        }
    }
}
