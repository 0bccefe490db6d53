//! NICs as the configuration declares them: `[[device]]` with its `[[device.port]]`.
//!
//! [`DEVICE_KEYS`] and [`PORT_KEYS`] are to them what [`KEYS`](super::keys::KEYS) is to the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use netlink_wire::MacAddr;
use netlink_wire::devlink::{EswitchMode, Handle, InlineMode};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::file::{ConfigError, Origin, line_and_column, scalar, suggestion};
use super::value::Scalar;
use crate::lifecycle::declared::{
    Attach, DeclaredNic, DeclaredPort, Function, FunctionKind, NetnsRef, NetnsWanted,
};
use crate::lifecycle::observed::MARK;

/// A key of a device or of a port of it, and what it sets.
#[derive(Debug)]
pub struct DeviceKey<T: 'static> {
    /// Its name.
    pub name: &'static str,
    /// What may be written, in words.
    pub shape: &'static str,
    /// What it does, in sentences.
    pub doc: &'static str,
    /// Checks a value and puts it in its place.
    pub set: fn(&mut T, &Scalar) -> Result<(), String>,
}

/// The name under which the file has what this module reads.
pub(super) const TABLE: &str = "device";
/// What holds a device's ports.
const PORTS: &str = "port";
/// The one key whose value is a table.
const EXTERNAL_IDS: &str = "external-ids";

const MODES: &[(&str, EswitchMode)] =
    &[("legacy", EswitchMode::Legacy), ("switchdev", EswitchMode::Switchdev)];
const INLINE: &[(&str, InlineMode)] = &[
    ("none", InlineMode::None),
    ("link", InlineMode::Link),
    ("network", InlineMode::Network),
    ("transport", InlineMode::Transport),
];
const ENCAP: &[(&str, bool)] = &[("none", false), ("basic", true)];
const UP: &[(&str, bool)] = &[("up", true), ("down", false)];
const ACTIVE: &[(&str, bool)] = &[("active", true), ("inactive", false)];

fn mtu(value: &Scalar) -> Result<Option<u32>, String> {
    value.integer(68, 65_535).map(|bytes| Some(bytes as u32))
}

/// Reads an Ethernet address that a function can have.
///
/// # Errors
/// What would do.
pub fn mac(text: &str) -> Result<MacAddr, String> {
    let wanted = || "must be a unicast Ethernet address, such as \"02:00:00:00:00:01\"".to_owned();
    let mut bytes = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut bytes {
        let part = parts.next().filter(|part| part.len() == 2).ok_or_else(wanted)?;
        *byte = u8::from_str_radix(part, 16).map_err(|_| wanted())?;
    }
    let fits = parts.next().is_none() && bytes[0] & 1 == 0 && bytes != [0; 6];
    fits.then_some(MacAddr(bytes)).ok_or_else(wanted)
}

/// Every key of a device, in the order in which people write them.
pub static DEVICE_KEYS: &[DeviceKey<DeclaredNic>] = &[
    DeviceKey {
        name: "handle",
        shape: "devlink handle, unique",
        doc: "The NIC: `pci/0000:03:00.0`, as `devlink dev show` has it.",
        set: |nic, value| {
            nic.handle = value.string()?.parse().map_err(|error| format!("is {error}"))?;
            Ok(())
        },
    },
    DeviceKey {
        name: "eswitch-mode",
        shape: "\"legacy\" or \"switchdev\"",
        doc: "Mode of its eswitch. A change empties the NIC of flows, unbinds its VFs, and binds them again.",
        set: |nic, value| value.one_of(MODES).map(|mode| nic.mode = Some(mode)),
    },
    DeviceKey {
        name: "inline-mode",
        shape: "\"none\", \"link\", \"network\" or \"transport\"",
        doc: "How much of a packet's header the driver copies into the descriptor.",
        set: |nic, value| value.one_of(INLINE).map(|mode| nic.inline = Some(mode)),
    },
    DeviceKey {
        name: "encap-mode",
        shape: "\"none\" or \"basic\"",
        doc: "Whether its eswitch encapsulates.",
        set: |nic, value| value.one_of(ENCAP).map(|on| nic.encap = Some(on)),
    },
    DeviceKey {
        name: "vfs",
        shape: "whole number from 0 to 4096",
        doc: "Virtual functions there are. A change of a number other than 0 removes all of them first, and is refused \
              while one is in use.",
        set: |nic, value| value.integer(0, 4_096).map(|count| nic.vfs = Some(count as u16)),
    },
    DeviceKey {
        name: "sfs",
        shape: "whole number from 0 to 4096",
        doc: "Sub-functions there are, numbered from 0; others of this host are removed. Without it those are made that \
              ports name, and none is removed.",
        set: |nic, value| value.integer(0, 4_096).map(|count| nic.sfs = Some(count as u32)),
    },
    DeviceKey {
        name: "hw-tc-offload",
        shape: "true or false",
        doc: "Whether TC rules may be placed in hardware, for the uplink and for the representors of the ports below.",
        set: |nic, value| value.boolean().map(|on| nic.hw_tc_offload = Some(on)),
    },
    DeviceKey {
        name: "mtu",
        shape: "whole number of bytes from 68 to 65535",
        doc: "MTU of the uplink. Of a tunnel's underlay it has to exceed that of the ports by what the tunnel adds.",
        set: |nic, value| mtu(value).map(|mtu| nic.mtu = mtu),
    },
];

/// A port as it is read, before its parts are put together.
#[derive(Debug, Default)]
pub struct PortText {
    kind: Vec<FunctionKind>,
    controller: u32,
    mac: Option<MacAddr>,
    active: Option<bool>,
    up: Option<bool>,
    trust: Option<bool>,
    mtu: Option<u32>,
    bridge: Option<String>,
    iface_id: Option<String>,
    netns: Option<NetnsRef>,
}

/// Every key of a port but `external-ids`, in the order in which people write them.
pub static PORT_KEYS: &[DeviceKey<PortText>] = &[
    DeviceKey {
        name: "vf",
        shape: "whole number from 0 to 4095",
        doc: "The virtual function.",
        set: |port, value| {
            value.integer(0, 4_095).map(|number| port.kind.push(FunctionKind::Vf(number as u16)))
        },
    },
    DeviceKey {
        name: "sf",
        shape: "whole number from 0 to 4294967295",
        doc: "The sub-function, by the number it was made with; it is made if it is not there.",
        set: |port, value| {
            value.integer(0, u32::MAX.into()).map(|number| port.kind.push(FunctionKind::Sf(number as u32)))
        },
    },
    DeviceKey {
        name: "controller",
        shape: "whole number from 0 to 255",
        doc: "On a DPU: 1 or more for a function of a host that the DPU serves. 0, this host, if absent.",
        set: |port, value| value.integer(0, 255).map(|number| port.controller = number as u32),
    },
    DeviceKey {
        name: "mac",
        shape: "Ethernet address",
        doc: "Address of the function, and of its network device while that is with us.",
        set: |port, value| mac(value.string()?).map(|mac| port.mac = Some(mac)),
    },
    DeviceKey {
        name: "state",
        shape: "\"active\" or \"inactive\"",
        doc: "Of a sub-function: whether it is there for a driver.",
        set: |port, value| value.one_of(ACTIVE).map(|on| port.active = Some(on)),
    },
    DeviceKey {
        name: "link",
        shape: "\"up\" or \"down\"",
        doc: "State of the representor.",
        set: |port, value| value.one_of(UP).map(|up| port.up = Some(up)),
    },
    DeviceKey {
        name: "trust",
        shape: "true or false",
        doc: "Of a virtual function: whether it may change its address and be promiscuous.",
        set: |port, value| value.boolean().map(|on| port.trust = Some(on)),
    },
    DeviceKey {
        name: "mtu",
        shape: "whole number of bytes from 68 to 65535",
        doc: "MTU of representor and function.",
        set: |port, value| mtu(value).map(|mtu| port.mtu = mtu),
    },
    DeviceKey {
        name: "bridge",
        shape: "name of a bridge of Open vSwitch",
        doc: "Where the representor is attached; it is removed from another bridge.",
        set: |port, value| value.string().map(|name| port.bridge = Some(name.to_owned())),
    },
    DeviceKey {
        name: "iface-id",
        shape: "text, unique",
        doc: "external_ids:iface-id of the representor's interface: OVN's logical port.",
        set: |port, value| value.string().map(|id| port.iface_id = Some(id.to_owned())),
    },
    DeviceKey {
        name: "netns",
        shape: "path, number of a process, or name of `ip netns`",
        doc: "Where the function's network device goes.",
        set: |port, value| {
            let netns = match value {
                Scalar::Integer(number) => NetnsRef::parse(&number.to_string()),
                value => NetnsRef::parse(value.string()?),
            };
            netns.map(|netns| port.netns = Some(netns))
        },
    },
];

/// For `external-ids`, as the keys above have it: shape and meaning.
pub(super) const EXTERNAL_IDS_DOC: (&str, &str, &str) = (
    EXTERNAL_IDS,
    "table of texts",
    "Further keys of external_ids: `{ sandbox = \"a1b2\" }`. Others there stay as they are.",
);

/// The devices of a file, as they are read.
#[derive(Debug)]
pub(super) struct Devices<'f> {
    path: PathBuf,
    file: &'f str,
    pub(super) nics: Vec<DeclaredNic>,
    iface_ids: BTreeSet<String>,
    pub(super) errors: Vec<ConfigError>,
}

impl<'f> Devices<'f> {
    pub(super) fn new(path: &Path, file: &'f str) -> Self {
        Self { path: path.to_owned(), file, nics: Vec::new(), iface_ids: BTreeSet::new(), errors: Vec::new() }
    }

    fn error(&mut self, offset: usize, sentence: impl Into<String>) {
        let (line, column) = line_and_column(self.file, offset);
        let origin = Origin::File { path: self.path.clone(), line, column };
        self.errors.push(ConfigError { origin, sentence: sentence.into() });
    }

    /// Takes the value of `device`.
    pub(super) fn take(&mut self, value: &Spanned<DeValue<'_>>) {
        let sentence = "a device begins with [[device]]";
        let DeValue::Array(devices) = value.get_ref() else {
            return self.error(value.span().start, sentence);
        };
        for device in devices {
            match device.get_ref() {
                DeValue::Table(table) => self.device(device.span().start, table),
                _ => self.error(device.span().start, sentence),
            }
        }
    }

    fn keys<T>(
        &mut self,
        of: &str,
        keys: &'static [DeviceKey<T>],
        table: &DeTable<'_>,
        special: &[&str],
        into: &mut T,
    ) {
        for (name, value) in table.iter().filter(|(name, _)| !special.contains(&name.get_ref().as_ref())) {
            let Some(key) = keys.iter().find(|key| key.name == name.get_ref()) else {
                let known = keys.iter().map(|key| key.name).chain(special.iter().copied()).map(str::to_owned);
                let hint = suggestion(name.get_ref(), known);
                let hint = hint.map_or_else(String::new, |name| format!("; did you mean {name}?"));
                self.error(name.span().start, format!("unknown key {} of a {of}{hint}", name.get_ref()));
                continue;
            };
            if let Err(sentence) = scalar(value.get_ref()).and_then(|value| (key.set)(into, &value)) {
                self.error(value.span().start, format!("{} {sentence}", key.name));
            }
        }
    }

    fn device(&mut self, at: usize, table: &DeTable<'_>) {
        let nameless = Handle { bus: "".into(), device: "".into() };
        let mut nic = DeclaredNic::new(nameless);
        self.keys("device", DEVICE_KEYS, table, &[PORTS], &mut nic);
        if !table.contains_key("handle") {
            self.error(at, "a device needs a handle");
        } else if self.nics.iter().any(|known| known.handle == nic.handle) && !nic.handle.bus.is_empty() {
            self.error(at, format!("{} is declared twice", nic.handle));
        }
        let legacy = nic.mode == Some(EswitchMode::Legacy);
        if legacy && nic.sfs.is_some_and(|count| count > 0) {
            self.error(at, "sfs needs eswitch-mode \"switchdev\"");
        }
        let sentence = "a port begins with [[device.port]]";
        match table.get(PORTS).map(|ports| (ports.span().start, ports.get_ref())) {
            None => {}
            Some((_, DeValue::Array(ports))) => {
                for port in ports {
                    match port.get_ref() {
                        DeValue::Table(table) => self.port(port.span().start, table, &mut nic),
                        _ => self.error(port.span().start, sentence),
                    }
                }
            }
            Some((at, _)) => self.error(at, sentence),
        }
        self.nics.push(nic);
    }

    fn port(&mut self, at: usize, table: &DeTable<'_>, nic: &mut DeclaredNic) {
        let mut text = PortText::default();
        self.keys("port", PORT_KEYS, table, &[EXTERNAL_IDS], &mut text);
        let mut external_ids = table.get(EXTERNAL_IDS).map(|ids| self.external_ids(ids)).unwrap_or_default();
        let [kind] = text.kind[..] else {
            // One that is wrong has been told already.
            if text.kind.len() > 1 || !(table.contains_key("vf") || table.contains_key("sf")) {
                self.error(at, "a port is either a vf or an sf");
            }
            return;
        };
        let function = Function { controller: text.controller, kind };
        self.contradictions(at, function, &text, nic);
        if let Some(id) = &text.iface_id {
            if external_ids.contains_key("iface-id") {
                self.error(at, "iface-id is there twice: by itself and in external-ids");
            } else if !self.iface_ids.insert(id.clone()) {
                self.error(at, format!("iface-id {id:?} is that of two ports"));
            }
            external_ids.insert("iface-id".to_owned(), id.clone());
        }
        if text.bridge.is_none() && !external_ids.is_empty() {
            self.error(at, "iface-id and external-ids need a bridge");
        }
        let attach = text.bridge.map(|bridge| Attach::Bridge { bridge, external_ids, may_move: true });
        nic.ports.push(DeclaredPort {
            function,
            mac: text.mac,
            active: text.active,
            up: text.up,
            trust: text.trust,
            mtu: text.mtu,
            attach,
            netns: text.netns.map(NetnsWanted::In),
        });
    }

    fn contradictions(&mut self, at: usize, function: Function, text: &PortText, nic: &DeclaredNic) {
        if nic.ports.iter().any(|port| port.function == function) {
            self.error(at, format!("{function} is declared twice"));
        }
        let legacy = nic.mode == Some(EswitchMode::Legacy);
        match function.kind {
            FunctionKind::Vf(number) => {
                if let Some(count) = nic.vfs.filter(|count| function.controller == 0 && number >= *count) {
                    self.error(at, format!("there is no {function}: vfs is {count}"));
                }
                if text.active.is_some() {
                    self.error(at, "state is for sub-functions");
                }
            }
            FunctionKind::Sf(number) => {
                if let Some(count) = nic.sfs.filter(|count| function.controller == 0 && number >= *count) {
                    self.error(at, format!("there is no {function}: sfs is {count}"));
                }
                if text.trust.is_some() {
                    self.error(at, "trust is for virtual functions");
                }
                if legacy {
                    self.error(at, "an sf needs eswitch-mode \"switchdev\"");
                }
            }
        }
        if legacy && (text.up.is_some() || text.bridge.is_some()) {
            self.error(at, "link and bridge are of the representor, which needs eswitch-mode \"switchdev\"");
        }
        if text.netns.is_some() && (function.controller != 0 || text.active == Some(false)) {
            self.error(at, format!("{function} has no network device on this host to go to a netns"));
        }
    }

    fn external_ids(&mut self, value: &Spanned<DeValue<'_>>) -> BTreeMap<String, String> {
        let mut ids = BTreeMap::new();
        let DeValue::Table(table) = value.get_ref() else {
            self.error(value.span().start, "external-ids must be a table of texts");
            return ids;
        };
        for (name, value) in table {
            match value.get_ref() {
                _ if name.get_ref().as_ref() == MARK => {
                    self.error(name.span().start, format!("{MARK} is set by ovs-offloadd itself"));
                }
                DeValue::String(text) => {
                    ids.insert(name.get_ref().to_string(), text.to_string());
                }
                _ => {
                    self.error(value.span().start, format!("external-ids: {} must be a text", name.get_ref()))
                }
            }
        }
        ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, assignments_in};

    fn devices(text: &str) -> Result<Vec<DeclaredNic>, String> {
        let written = assignments_in(Path::new("c.toml"), text).map_err(|errors| errors.to_string())?;
        Config::from_file(&[], &written).map(|config| config.devices).map_err(|errors| errors.to_string())
    }

    #[test]
    fn every_key_of_a_device_and_its_ports_is_read() {
        let text = r#"
            [nic]
            capacity = 64
            [[device]]
            handle = "pci/0000:03:00.0"
            eswitch-mode = "switchdev"
            inline-mode = "transport"
            encap-mode = "basic"
            vfs = 4
            sfs = 1
            hw-tc-offload = true
            mtu = 9100
            [[device.port]]
            vf = 3
            mac = "02:00:00:00:00:01"
            link = "up"
            trust = true
            mtu = 9000
            bridge = "br-int"
            iface-id = "pod1"
            external-ids = { sandbox = "a1" }
            netns = 4711
            [[device.port]]
            sf = 0
            state = "active"
            netns = "/run/netns/blue"
            [[device.port]]
            vf = 7
            controller = 1
            [[device]]
            handle = "pci/0000:03:00.1"
        "#;
        let nics = devices(text).unwrap();
        assert_eq!(nics.len(), 2);
        let nic = &nics[0];
        assert_eq!(nic.handle.to_string(), "pci/0000:03:00.0");
        assert_eq!(
            (nic.mode, nic.inline, nic.encap),
            (Some(EswitchMode::Switchdev), Some(InlineMode::Transport), Some(true))
        );
        assert_eq!(
            (nic.vfs, nic.sfs, nic.hw_tc_offload, nic.mtu),
            (Some(4), Some(1), Some(true), Some(9100))
        );
        let [vf, sf, other] = &nic.ports[..] else { panic!("{nic:?}") };
        let ids = [("iface-id", "pod1"), ("sandbox", "a1")];
        let external_ids = ids.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        assert_eq!(
            *vf,
            DeclaredPort {
                mac: Some(MacAddr([2, 0, 0, 0, 0, 1])),
                up: Some(true),
                trust: Some(true),
                mtu: Some(9000),
                attach: Some(Attach::Bridge { bridge: "br-int".into(), external_ids, may_move: true }),
                netns: Some(NetnsWanted::In(NetnsRef::Pid(4711))),
                ..DeclaredPort::new(Function::vf(3))
            }
        );
        let blue = NetnsWanted::In(NetnsRef::Path("/run/netns/blue".into()));
        assert_eq!((sf.function, sf.active, &sf.netns), (Function::sf(0), Some(true), &Some(blue)));
        assert_eq!(other.function, Function { controller: 1, ..Function::vf(7) });
        assert_eq!(nics[1], DeclaredNic::new("pci/0000:03:00.1".parse().unwrap()));
    }

    #[test]
    fn what_is_wrong_or_contradicts_itself_has_line_and_column() {
        let begin = "[[device]]\nhandle = \"pci/a\"\n";
        let port = "[[device.port]]\nvf = 1\n";
        for (text, sentence) in [
            ("device = 3\n".to_owned(), "c.toml:1:10: a device begins with [[device]]"),
            ("[[device]]\n".to_owned(), "c.toml:1:1: a device needs a handle"),
            (
                "[[device]]\nhandle = \"x\"\n".to_owned(),
                "c.toml:2:10: handle is not a devlink handle: expected BUS/DEVICE, for example pci/0000:03:00.0",
            ),
            (format!("{begin}vf = 3\n"), "c.toml:3:1: unknown key vf of a device; did you mean vfs?"),
            (
                format!("{begin}{port}iface = \"x\"\n"),
                "c.toml:5:1: unknown key iface of a port; did you mean iface-id?",
            ),
            (format!("{begin}vfs = 70000\n"), "c.toml:3:7: vfs must be a whole number from 0 to 4096"),
            (format!("{begin}{begin}"), "c.toml:3:1: pci/a is declared twice"),
            (format!("{begin}{port}{port}"), "c.toml:5:1: VF 1 is declared twice"),
            (format!("{begin}vfs = 1\n{port}"), "c.toml:4:1: there is no VF 1: vfs is 1"),
            (format!("{begin}{port}sf = 1\n"), "c.toml:3:1: a port is either a vf or an sf"),
            (format!("{begin}[[device.port]]\n"), "c.toml:3:1: a port is either a vf or an sf"),
            (format!("{begin}{port}state = \"active\"\n"), "c.toml:3:1: state is for sub-functions"),
            (
                format!("{begin}{port}iface-id = \"a\"\n"),
                "c.toml:3:1: iface-id and external-ids need a bridge",
            ),
            (
                format!("{begin}{port}mac = \"01:00:00:00:00:00\"\n"),
                "c.toml:5:7: mac must be a unicast Ethernet address, such as \"02:00:00:00:00:01\"",
            ),
            (
                format!("{begin}{port}netns = \"a/b\"\n"),
                "c.toml:5:9: netns must be an absolute path, the number of a process, or a name of `ip netns`",
            ),
            (
                format!("{begin}eswitch-mode = \"legacy\"\n{port}bridge = \"br\"\n"),
                "c.toml:4:1: link and bridge are of the representor, which needs eswitch-mode \"switchdev\"",
            ),
            (
                format!("{begin}{port}bridge = \"b\"\nexternal-ids = {{ offloadd-attached = \"x\" }}\n"),
                "c.toml:6:18: offloadd-attached is set by ovs-offloadd itself",
            ),
            ("[[devic]]\n".to_owned(), "c.toml:1:3: unknown key devic; did you mean device?"),
        ] {
            assert_eq!(devices(&text), Err(sentence.to_owned()), "{text}");
        }
    }
}
