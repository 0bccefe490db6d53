//! What the doctor knows of a host, as plain values: gathered once, judged without asking again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use netlink_wire::Ifindex;
use offload_engine::{OvsVersion, TcPolicy};

use crate::config::ModeSetting;

/// A fact, or why it cannot be had.
pub type Fact<T> = Result<T, String>;

/// Everything that is judged.
#[derive(Debug, Clone)]
pub struct Facts {
    /// NICs: devlink instances that have an eswitch.
    pub nics: Fact<Vec<Nic>>,
    /// The kernel.
    pub kernel: Kernel,
    /// Network devices of this namespace.
    pub links: Fact<BTreeMap<Ifindex, Link>>,
    /// Open vSwitch's database.
    pub ovsdb: Fact<Ovs>,
    /// ovs-vswitchd; the error says why it is taken not to run.
    pub vswitchd: Fact<Process>,
    /// Whether the kernel datapath shares recirculation ids with TC; nothing where there is no datapath.
    pub shares_recirc_ids: Fact<Option<bool>>,
    /// Routes of the main table.
    pub routes: Fact<Vec<Route>>,
    /// Devices with a qdisc that has an ingress hook, and its kind: `ingress` or `clsact`.
    pub ingress_qdiscs: Fact<BTreeMap<Ifindex, String>>,
    /// Filters of the datapath's ports, at the hook that Open vSwitch uses: of internal ports egress, else ingress.
    pub filters: BTreeMap<Ifindex, Fact<Vec<Filter>>>,
    /// Devices that carry IPsec.
    pub ipsec: Fact<Vec<IpsecOffload>>,
    /// The version of the ovn-controller that runs; none where none does.
    pub ovn: Option<String>,
    /// ovs-offloadd's mode by its configuration.
    pub mode: Fact<ModeSetting>,
    /// Whether ovs-offloadd runs.
    pub daemon_runs: bool,
    /// Why no ovs-offload-guard can be reached where the configuration has it, if none can.
    pub no_guard: Option<String>,
    /// `shadow.gaps` of that configuration.
    pub gaps: bool,
    /// Whether this process has CAP_NET_ADMIN.
    pub net_admin: Fact<bool>,
}

/// The kernel.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// `uname -r`.
    pub release: String,
    /// `uname -v`: when it was built, and Debian's from what.
    pub built: String,
    /// Its build options that are `y` or `m`, by name without `CONFIG_`; anything not here is off.
    pub options: Fact<BTreeMap<String, char>>,
    /// Modules that are loaded, built in or on disk, with `_` for `-`.
    pub modules: Fact<BTreeSet<String>>,
}

/// A NIC: a devlink instance with an eswitch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nic {
    /// Its devlink handle, `pci/0000:03:00.0`.
    pub handle: String,
    /// Its driver, empty where it has none.
    pub driver: String,
    /// `legacy` or `switchdev`.
    pub mode: Fact<String>,
    /// Whether its eswitch can put packets into tunnels, where it says so.
    pub encap: Option<bool>,
    /// Its last reload failed.
    pub reload_failed: bool,
    /// Virtual functions that are on (`sriov_numvfs`).
    pub vfs: u32,
    /// Health reporters of the NIC and of its ports.
    pub health: Fact<Vec<Reporter>>,
}

/// A health reporter: what a driver watches of its device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reporter {
    /// Its name, `fw`, `tx` ….
    pub name: String,
    /// Index of the devlink port it watches; none where it watches the NIC.
    pub port: Option<u32>,
    /// It reported an error and has not recovered.
    pub in_error: bool,
    /// Errors since the driver was bound.
    pub errors: u64,
    /// Recoveries since the driver was bound.
    pub recoveries: u64,
    /// Whether it recovers by itself; none where it cannot recover.
    pub auto_recover: Option<bool>,
}

/// What a network device of a switch stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The wire.
    Uplink,
    /// A function: its other end is in a virtual machine, a container or a host.
    Representor,
}

/// `hw-tc-offload` of a network device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HwTcOffload {
    /// Rules may go into hardware.
    On,
    /// They may not, and that can be changed.
    Off,
    /// The device has no such feature.
    Unsupported,
}

/// A network device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// Its other names.
    pub altnames: Vec<String>,
    /// Set up by the administrator.
    pub up: bool,
    /// The driver has a carrier.
    pub carrier: bool,
    /// Largest packet without the Ethernet header, in bytes.
    pub mtu: Option<u32>,
    /// `bond`, `geneve` …; physical devices and representors have none.
    pub kind: Option<String>,
    /// What it is a member of.
    pub master: Option<Ifindex>,
    /// The device below it as a devlink handle would name it, `pci/0000:03:00.0`.
    pub parent: Option<String>,
    /// What it stands for, if it belongs to a switch.
    pub role: Option<Role>,
    /// `phys_port_name`: `p0`, `pf0vf1`.
    pub port_name: Option<String>,
    /// Asked of ports of a switch only.
    pub hw_tc_offload: Option<Fact<HwTcOffload>>,
}

/// What Open vSwitch's database says.
#[derive(Debug, Clone, Default)]
pub struct Ovs {
    /// The version of the ovs-vswitchd that runs, else `ovs_version`.
    pub version: Option<String>,
    /// `other_config:hw-offload`.
    pub hw_offload: bool,
    /// `other_config:tc-policy`.
    pub tc_policy: TcPolicy,
    /// `other_config:max-idle`, in milliseconds, where it is set.
    pub max_idle_ms: Option<u64>,
    /// Interfaces of all bridges.
    pub interfaces: Vec<Interface>,
}

impl Ovs {
    /// The version as numbers.
    pub fn numbers(&self) -> Option<OvsVersion> {
        self.version.as_deref().and_then(OvsVersion::parse)
    }
}

/// An interface of a bridge.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Interface {
    /// The bridge.
    pub bridge: String,
    /// Whether the bridge is of the userspace datapath.
    pub userspace: bool,
    /// Its name, for an interface of no type that of the network device.
    pub name: String,
    /// `type`, empty for a network device.
    pub kind: String,
    /// OpenFlow port; -1 if it could not be made.
    pub ofport: Option<i64>,
    /// Open vSwitch's own words on why it could not be made.
    pub error: Option<String>,
    /// `options:remote_ip` of a tunnel, where it is an address.
    pub remote_ip: Option<IpAddr>,
    /// Whether OVN made it, whose tunnels carry options in each packet.
    pub ovn: bool,
    /// `ingress_policing_rate`, in kbit/s; 0 for none.
    pub policing_kbps: i64,
    /// `ingress_policing_kpkts_rate`, in 1000 packets/s; 0 for none.
    pub policing_kpkts: i64,
    /// `options:ipsec_*` of a tunnel, without that beginning.
    pub ipsec: BTreeMap<String, String>,
}

impl Interface {
    /// Whether it is a network device that Open vSwitch was told to use.
    pub fn is_netdev(&self) -> bool {
        !self.userspace && matches!(self.kind.as_str(), "" | "system")
    }
}

/// A device that carries IPsec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IpsecOffload {
    /// The device.
    pub ifindex: Ifindex,
    /// Security associations of mode `packet`.
    pub packet_states: u64,
    /// Policies of mode `packet`.
    pub packet_policies: u64,
}

/// A process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// Milliseconds since it started.
    pub age_ms: u64,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub to: IpAddr,
    /// Bits of the prefix.
    pub prefix: u8,
    /// The device, by name.
    pub device: String,
    /// Lower is preferred.
    pub metric: u32,
}

/// A TC filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Its chain.
    pub chain: u32,
    /// Its priority, `pref` in `tc`; lower is asked first.
    pub prio: u16,
    /// `flower`, `matchall` …
    pub classifier: String,
    /// Whether it carries a megaflow's id, as Open vSwitch's do.
    pub of_ovs: bool,
    /// `skip_hw`: it must not go into hardware.
    pub skip_hw: bool,
    /// Whether it is in hardware, where that is told: `flower` and `matchall` do.
    pub in_hw: Option<bool>,
    /// Milliseconds since it was made, if it tells.
    pub age_ms: Option<u64>,
}

impl Facts {
    /// Devices of a switch of this role, by index.
    pub fn of_role(&self, role: Role) -> impl Iterator<Item = (Ifindex, &Link)> {
        self.all_links().filter(move |(_, link)| link.role == Some(role))
    }

    /// All devices; none where they cannot be had.
    pub fn all_links(&self) -> impl Iterator<Item = (Ifindex, &Link)> {
        self.links.iter().flatten().map(|(ifindex, link)| (*ifindex, link))
    }

    /// The device of this very name.
    pub fn link_named(&self, name: &str) -> Option<(Ifindex, &Link)> {
        self.all_links().find(|(_, link)| link.name == name)
    }

    /// All interfaces of the database; none where it cannot be had.
    pub fn interfaces(&self) -> impl Iterator<Item = &Interface> {
        self.ovsdb.iter().flat_map(|ovs| &ovs.interfaces)
    }

    /// The interface that a device is in the database, by itself or as the member of a bond that is.
    pub fn interface_of(&self, link: &Link) -> Option<&Interface> {
        let own = |link: &Link| self.interfaces().find(|interface| interface.name == link.name);
        own(link).or_else(|| {
            let master = self.links.as_ref().ok()?.get(&link.master?)?;
            own(master).filter(|_| matches!(master.kind.as_deref(), Some("bond" | "team")))
        })
    }

    /// The hook of a device that Open vSwitch's filters are at, as `tc` calls it.
    pub fn hook_of(link: &Link) -> &'static str {
        if link.kind.as_deref() == Some("openvswitch") { "egress" } else { "ingress" }
    }

    /// Whether a device is a port of an Open vSwitch datapath.
    pub fn is_datapath_port(&self, link: &Link) -> bool {
        let master = link.master.and_then(|master| self.links.as_ref().ok()?.get(&master));
        master.is_some_and(|master| master.kind.as_deref() == Some("openvswitch"))
    }

    /// Whether a device is a member of something other than an Open vSwitch datapath: a Linux bridge, a VRF.
    pub fn is_elsewhere(&self, link: &Link) -> bool {
        let master = link.master.and_then(|master| self.links.as_ref().ok()?.get(&master));
        master.is_some_and(|master| master.kind.as_deref() != Some("openvswitch"))
    }

    /// The devices of a NIC.
    pub fn links_of<'a>(&'a self, nic: &'a Nic) -> impl Iterator<Item = &'a Link> {
        self.all_links().map(|(_, link)| link).filter(|link| link.parent.as_ref() == Some(&nic.handle))
    }

    /// The device that packets to an address leave by.
    pub fn device_to(&self, address: IpAddr) -> Option<&str> {
        let routes = self.routes.iter().flatten().filter(|route| covers(route, address));
        let best = routes.min_by_key(|route| (std::cmp::Reverse(route.prefix), route.metric))?;
        Some(&best.device)
    }
}

fn covers(route: &Route, address: IpAddr) -> bool {
    let (to, address, width) = match (route.to, address) {
        (IpAddr::V4(to), IpAddr::V4(address)) => {
            (u128::from(to.to_bits()), u128::from(address.to_bits()), 32)
        }
        (IpAddr::V6(to), IpAddr::V6(address)) => (to.to_bits(), address.to_bits(), 128),
        _ => return false,
    };
    let host_bits = u32::from(width - route.prefix.min(width));
    // A shift by the whole width is no shift in Rust: the default route covers everything.
    (to ^ address).checked_shr(host_bits).unwrap_or(0) == 0
}

/// What a device of a switch stands for, by devlink's flavour or, where devlink says nothing, by `phys_port_name`.
pub fn role_of(flavour: Option<&str>, port_name: Option<&str>) -> Option<Role> {
    match flavour {
        Some("physical") => return Some(Role::Uplink),
        Some("pcipf" | "pcivf" | "pcisf") => return Some(Role::Representor),
        _ => {}
    }
    let name = port_name?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match name.strip_prefix('p') {
        Some(rest) if is_number(rest) => Some(Role::Uplink),
        _ if ["pf", "vf", "sf"].iter().any(|part| name.contains(part)) => Some(Role::Representor),
        _ => None,
    }
}

/// A host with nothing wrong, for tests to spoil.
#[cfg(test)]
pub(crate) mod sample {
    use super::*;

    pub(crate) const UPLINK: Ifindex = Ifindex(10);
    pub(crate) const VF0: Ifindex = Ifindex(11);
    pub(crate) const VF1: Ifindex = Ifindex(12);
    pub(crate) const OVS_SYSTEM: Ifindex = Ifindex(3);

    pub(crate) fn link(name: &str, role: Option<Role>, port_name: &str) -> Link {
        Link {
            name: name.into(),
            altnames: vec![],
            up: true,
            carrier: true,
            mtu: Some(1500),
            kind: None,
            master: Some(OVS_SYSTEM),
            parent: role.map(|_| "pci/0000:03:00.0".into()),
            role,
            port_name: role.map(|_| port_name.into()),
            hw_tc_offload: role.map(|_| Ok(HwTcOffload::On)),
        }
    }

    pub(crate) fn interface(name: &str, ofport: i64) -> Interface {
        Interface { bridge: "br0".into(), name: name.into(), ofport: Some(ofport), ..Interface::default() }
    }

    pub(crate) fn filter(prio: u16) -> Filter {
        Filter {
            chain: 0,
            prio,
            classifier: "flower".into(),
            of_ovs: true,
            skip_hw: true,
            in_hw: Some(false),
            age_ms: Some(5_000),
        }
    }

    pub(crate) fn healthy() -> Facts {
        let on = ["NET_CLS_FLOWER", "NET_TC_SKB_EXT", "NET_SWITCHDEV", "NET_CLS_ACT", "NET_SCH_INGRESS"];
        let actions = [
            "NET_ACT_MIRRED",
            "NET_ACT_GACT",
            "NET_ACT_PEDIT",
            "NET_ACT_CSUM",
            "NET_ACT_VLAN",
            "NET_ACT_SKBEDIT",
            "NET_ACT_TUNNEL_KEY",
            "NET_ACT_POLICE",
            "NET_ACT_CT",
        ];
        let modules = [
            "cls_flower",
            "sch_ingress",
            "act_mirred",
            "act_gact",
            "act_pedit",
            "act_csum",
            "act_vlan",
            "act_skbedit",
            "act_tunnel_key",
            "act_police",
            "act_ct",
            "openvswitch",
        ];
        let links = [
            (
                OVS_SYSTEM,
                Link { kind: Some("openvswitch".into()), master: None, ..link("ovs-system", None, "") },
            ),
            (UPLINK, link("eth0", Some(Role::Uplink), "p0")),
            (VF0, link("eth0_0", Some(Role::Representor), "pf0vf0")),
            (VF1, link("eth0_1", Some(Role::Representor), "pf0vf1")),
        ];
        let nic = Nic {
            handle: "pci/0000:03:00.0".into(),
            driver: "mlx5_core".into(),
            mode: Ok("switchdev".into()),
            encap: Some(true),
            reload_failed: false,
            vfs: 2,
            health: Ok(vec![]),
        };
        Facts {
            nics: Ok(vec![nic]),
            kernel: Kernel {
                release: "6.12.0".into(),
                built: "#1 SMP".into(),
                options: Ok(on.iter().chain(&actions).map(|name| ((*name).to_owned(), 'm')).collect()),
                modules: Ok(modules.iter().map(|name| (*name).to_owned()).collect()),
            },
            links: Ok(links.into()),
            ovsdb: Ok(Ovs {
                version: Some("3.5.0".into()),
                hw_offload: true,
                tc_policy: TcPolicy::SkipHw,
                max_idle_ms: None,
                interfaces: vec![interface("eth0", 1), interface("eth0_0", 2), interface("eth0_1", 3)],
            }),
            vswitchd: Ok(Process { pid: 7, age_ms: 60_000 }),
            shares_recirc_ids: Ok(Some(true)),
            routes: Ok(vec![]),
            ingress_qdiscs: Ok([UPLINK, VF0, VF1].map(|ifindex| (ifindex, "ingress".to_owned())).into()),
            filters: [(VF0, Ok(vec![filter(2), filter(3)])), (VF1, Ok(vec![]))].into(),
            ipsec: Ok(vec![]),
            ovn: None,
            mode: Ok(ModeSetting::Auto),
            daemon_runs: false,
            no_guard: None,
            gaps: false,
            net_admin: Ok(true),
        }
    }

    impl Facts {
        pub(crate) fn link_mut(&mut self, ifindex: Ifindex) -> &mut Link {
            self.links.as_mut().unwrap().get_mut(&ifindex).unwrap()
        }

        pub(crate) fn ovs_mut(&mut self) -> &mut Ovs {
            self.ovsdb.as_mut().unwrap()
        }

        pub(crate) fn interface_mut(&mut self, name: &str) -> &mut Interface {
            self.ovs_mut().interfaces.iter_mut().find(|interface| interface.name == name).unwrap()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(to: &str, prefix: u8, device: &str, metric: u32) -> Route {
        Route { to: to.parse().unwrap(), prefix, device: device.into(), metric }
    }

    #[test]
    fn the_longest_prefix_decides_and_then_the_metric() {
        let mut facts = sample::healthy();
        facts.routes = Ok(vec![
            route("0.0.0.0", 0, "default", 0),
            route("10.0.0.0", 8, "wide", 0),
            route("10.1.0.0", 16, "worse", 100),
            route("10.1.0.0", 16, "narrow", 10),
            route("fd00::", 8, "six", 0),
        ]);
        let to = |address: &str| facts.device_to(address.parse().unwrap());
        assert_eq!(to("10.1.2.3"), Some("narrow"));
        assert_eq!(to("10.2.2.3"), Some("wide"));
        assert_eq!(to("192.0.2.1"), Some("default"));
        assert_eq!(to("fd12::1"), Some("six"));
        assert_eq!(to("2001:db8::1"), None);
    }

    #[test]
    fn devlink_tells_the_role_and_the_port_name_stands_in() {
        assert_eq!(role_of(Some("physical"), Some("pf0vf1")), Some(Role::Uplink));
        assert_eq!(role_of(Some("pcisf"), None), Some(Role::Representor));
        assert_eq!(role_of(None, Some("p1")), Some(Role::Uplink));
        assert_eq!(role_of(None, Some("c1pf0vf3")), Some(Role::Representor));
        assert_eq!(role_of(Some("virtual"), None), None);
    }

    #[test]
    fn a_member_of_a_bond_has_the_bonds_interface() {
        let mut facts = sample::healthy();
        let bond = Link { kind: Some("bond".into()), ..sample::link("bond0", None, "") };
        facts.links.as_mut().unwrap().insert(Ifindex(20), bond);
        facts.link_mut(sample::UPLINK).master = Some(Ifindex(20));
        facts.interface_mut("eth0").name = "bond0".into();
        let uplink = facts.link_named("eth0").unwrap().1;
        assert_eq!(facts.interface_of(uplink).unwrap().name, "bond0");
    }
}
