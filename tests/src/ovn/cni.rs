//! Pods as the orchestrators' own CNI plug-ins attach them to `br-int` and take them off again: the same names, the same rows,
//! the same order.
//!
//! Read in the sources of Kube-OVN (`pkg/daemon/ovs_linux.go`), ovn-kubernetes (`go-controller/pkg/cni/helper_linux.go`) and
//! ovs-cni (`pkg/sriov/plugin.go`, `pkg/sriov/sriov.go`). Left out is what does not touch ports: bandwidth, routes, gateways.

use std::fs;

use lab_tests::harness::{Failure, Lab, Netns, Outcome, Ovs, Simnic, ensure, run, wait_until};

use super::DONE_WITHIN;

/// Whose plug-in it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cni {
    KubeOvn,
    OvnKubernetes,
    Ovs,
}

impl Cni {
    pub(super) const ALL: [Self; 3] = [Self::KubeOvn, Self::OvnKubernetes, Self::Ovs];

    /// As `port list` names it.
    pub(super) fn orchestrator(self) -> &'static str {
        match self {
            Self::KubeOvn => "kube-ovn",
            Self::OvnKubernetes => "ovn-kubernetes",
            Self::Ovs => "ovs-cni",
        }
    }

    /// The pod's device in its namespace: ovs-cni makes secondary interfaces.
    fn interface(self) -> &'static str {
        match self {
            Self::KubeOvn | Self::OvnKubernetes => "eth0",
            Self::Ovs => "net1",
        }
    }
}

/// What the plug-in is asked for.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) cni: Cni,
    pub(super) vf: u32,
    /// The container's (or sandbox's) ID.
    pub(super) container: String,
    pub(super) name: String,
    pub(super) namespace: String,
    /// The pod's UID.
    pub(super) uid: String,
    pub(super) mac: String,
    /// With its length.
    pub(super) address: String,
}

impl Request {
    /// The logical port's name, by each orchestrator's own rule.
    pub(super) fn iface_id(&self) -> String {
        match self.cni {
            Cni::KubeOvn => format!("{}.{}", self.name, self.namespace),
            Cni::OvnKubernetes => format!("{}_{}", self.namespace, self.name),
            Cni::Ovs => format!("net1-{}", self.name),
        }
    }

    /// The workload as `port list` names it.
    pub(super) fn workload(&self) -> String {
        match self.cni {
            Cni::KubeOvn | Cni::OvnKubernetes => format!("{}/{}", self.namespace, self.name),
            Cni::Ovs => self.uid.clone(),
        }
    }

    fn ip(&self) -> &str {
        self.address.split('/').next().unwrap_or_default()
    }
}

/// A pod that is plugged in.
#[derive(Debug)]
pub(super) struct Pod {
    pub(super) request: Request,
    pub(super) netns: Netns,
    /// Name of its representor now.
    pub(super) representor: String,
    /// Name of the VF's device in the host.
    device: String,
}

/// The representor of a VF, found as `sriovnet` finds it: by switch and port, since names say nothing.
pub(super) fn representor_of(nic: &Simnic, vf: u32) -> Outcome<String> {
    let read = |device: &str, file: &str| fs::read_to_string(format!("/sys/class/net/{device}/{file}"));
    let switch = read(&nic.uplink(), "phys_switch_id")?;
    let port = format!("pf0vf{vf}");
    for entry in fs::read_dir("/sys/class/net")? {
        let device = entry?.file_name().to_string_lossy().into_owned();
        let is_of_switch = read(&device, "phys_switch_id").is_ok_and(|of_it| of_it == switch);
        if is_of_switch && read(&device, "phys_port_name").is_ok_and(|name| name.trim() == port) {
            return Ok(device);
        }
    }
    Err(Failure::new(format!("VF {vf} has no representor")))
}

/// The VF's device in the host, by its place on the bus.
fn device_of(nic: &Simnic, vf: u32) -> Outcome<String> {
    let path = format!("/sys/bus/simnic/devices/{}/net", nic.vf_device(vf));
    let mut names = fs::read_dir(&path)?;
    let name = names.next().ok_or_else(|| Failure::new(format!("{path} is empty")))??;
    Ok(name.file_name().to_string_lossy().into_owned())
}

/// `ip WORDS`, split at blanks.
fn ip(words: &str) -> Outcome {
    run("ip", &words.split_whitespace().collect::<Vec<_>>()).map(drop)
}

impl Pod {
    /// CNI ADD.
    pub(super) fn plug(lab: &mut Lab, ovs: &Ovs, nic: &Simnic, request: Request) -> Outcome<Self> {
        let netns = Netns::new(lab, "pod")?;
        let (representor, device) = (representor_of(nic, request.vf)?, device_of(nic, request.vf)?);
        let mut pod = Self { request, netns, representor, device };
        match pod.request.cni {
            Cni::KubeOvn => pod.add_kube_ovn(ovs, nic)?,
            Cni::OvnKubernetes => pod.add_ovn_kubernetes(ovs)?,
            Cni::Ovs => pod.add_ovs_cni(ovs, nic)?,
        }
        Ok(pod)
    }

    /// CNI DEL, and the end of the pod's namespace after it.
    pub(super) fn unplug(self, ovs: &Ovs, nic: &Simnic) -> Outcome {
        match self.request.cni {
            Cni::KubeOvn => self.delete_kube_ovn(ovs, nic)?,
            Cni::OvnKubernetes => self.delete_ovn_kubernetes(ovs)?,
            Cni::Ovs => self.delete_ovs_cni(ovs)?,
        }
        let device = self.device.clone();
        drop(self);
        wait_until("the VF is back", DONE_WITHIN, || Ok(fs::exists(format!("/sys/class/net/{device}"))?))
    }

    /// `ip WORDS` in the pod.
    fn ip(&self, words: &str) -> Outcome {
        self.netns.run(&[&["ip"], &words.split_whitespace().collect::<Vec<_>>()[..]].concat()).map(drop)
    }

    /// The VF's device becomes the pod's.
    fn move_in(&self) -> Outcome {
        let (device, interface) = (&self.device, self.request.cni.interface());
        ip(&format!("link set {device} netns {}", self.netns.name()))?;
        self.ip(&format!("link set {device} down"))?;
        self.ip(&format!("link set {device} name {interface}"))?;
        self.ip(&format!("link set {interface} address {} mtu 1400", self.request.mac))?;
        self.ip(&format!("link set {interface} up"))?;
        self.ip(&format!("address add {} dev {interface}", self.request.address))
    }

    /// What `ovs-vsctl` waits for before the pod is told to be ready.
    fn wait_installed(&self, ovs: &Ovs) -> Outcome {
        wait_until(&format!("{} is installed", self.request.iface_id()), DONE_WITHIN, || {
            let get = ["--if-exists", "get", "Interface", &self.representor, "external_ids:ovn-installed"];
            Ok(ovs.vsctl(&get)?.trim().trim_matches('"') == "true")
        })
    }

    /// `setupSriovInterface`, `configureNic`: the representor is renamed, and stays down until it is on the bridge.
    fn add_kube_ovn(&mut self, ovs: &Ovs, nic: &Simnic) -> Outcome {
        let request = &self.request;
        let name = format!("{}_h", &request.container[..12]);
        ip(&format!("link set {} down", self.representor))?;
        ip(&format!("link set {} name {name}", self.representor))?;
        self.representor = name;
        ip(&format!("link set {} vf {} mac {}", nic.uplink(), request.vf, request.mac))?;
        let ids = [
            format!("external_ids:iface-id={}", request.iface_id()),
            "external_ids:vendor=kube-ovn".to_owned(),
            format!("external_ids:pod_name={}", request.name),
            format!("external_ids:pod_namespace={}", request.namespace),
            format!("external_ids:pod_netns=/var/run/netns/{}", self.netns.name()),
            format!("external_ids:ip={}", request.ip()),
        ];
        self.add_port(ovs, &[], &ids)?;
        ip(&format!("link set {} mtu 1400", self.representor))?;
        ip(&format!("link set {} up", self.representor))?;
        ip(&format!("link set {} txqueuelen 1000", self.representor))?;
        self.wait_installed(ovs)?;
        ip(&format!("link set {} alias {}", self.device, self.device))?;
        self.move_in()
    }

    /// `deleteNic`: the VF's device gets its name back but stays in the pod's namespace (`releaseVf` moves it to where it is),
    /// and comes back when that ends; the representor goes down before its port goes, and keeps the name.
    fn delete_kube_ovn(&self, ovs: &Ovs, nic: &Simnic) -> Outcome {
        let interface = self.request.cni.interface();
        self.ip(&format!("link set {interface} down"))?;
        self.ip(&format!("link set {interface} name {}", self.device))?;
        ip(&format!("link set {} down", self.representor))?;
        ovs.vsctl(&["--if-exists", "--with-iface", "del-port", "br-int", &self.representor])?;
        ip(&format!("link set {} vf {} mac 00:00:00:00:00:00", nic.uplink(), self.request.vf))
    }

    /// `setupSriovInterface`, `ConfigureOVS`: the VF's device is moved first; a port of an earlier pod on this representor goes,
    /// and so does one that has the iface-id.
    fn add_ovn_kubernetes(&self, ovs: &Ovs) -> Outcome {
        let (request, representor) = (&self.request, &self.representor);
        self.move_in()?;
        ovs.vsctl(&["--if-exists", "del-port", representor])?;
        ip(&format!("link set {representor} up"))?;
        ip(&format!("link set {representor} mtu 1400"))?;
        let of_iface_id = format!("external-ids:iface-id={}", request.iface_id());
        let find = ["--columns=name", "--bare", "--no-headings", "find", "Interface", &of_iface_id];
        for stale in ovs.vsctl(&find)?.split_whitespace().filter(|name| name != representor) {
            ovs.vsctl(&["--with-iface", "del-port", "br-int", stale])?;
        }
        let ids = [
            format!("external_ids:attached_mac={}", request.mac),
            format!("external_ids:iface-id={}", request.iface_id()),
            format!("external_ids:iface-id-ver={}", request.uid),
            format!("external_ids:sandbox={}", request.container),
            format!("external_ids:ip_addresses={}", request.address),
            format!("external_ids:vf-netdev-name={}", self.device),
        ];
        self.add_port(ovs, &["other_config:transient=true"], &ids)?;
        self.wait_installed(ovs)
    }

    /// `UnconfigureInterface`: the VF's device is back before its port goes; the representor stays up, and so its name.
    fn delete_ovn_kubernetes(&self, ovs: &Ovs) -> Outcome {
        let interface = self.request.cni.interface();
        self.ip(&format!("link set {interface} down"))?;
        self.ip(&format!("link set {interface} name {}", self.device))?;
        self.ip(&format!("link set {} netns 1", self.device))?;
        ovs.vsctl(&["del-port", "br-int", &self.representor]).map(drop)
    }

    /// `SetupSriovInterface`, `AttachIfaceToBridge`: port and interface in one transaction, the pod in the port's row.
    fn add_ovs_cni(&self, ovs: &Ovs, nic: &Simnic) -> Outcome {
        let (request, representor) = (&self.request, &self.representor);
        ip(&format!("link set {representor} mtu 1400"))?;
        ip(&format!("link set {} vf {} mac {}", nic.uplink(), request.vf, request.mac))?;
        self.move_in()?;
        let words = [
            "--id=@i create Interface".to_owned(),
            format!("name={representor} external_ids:iface-id={}", request.iface_id()),
            "-- --id=@p create Port".to_owned(),
            format!(
                "name={representor} interfaces=@i vlan_mode=trunk external_ids:contPodUid={}",
                request.uid
            ),
            format!("external_ids:contNetns=/var/run/netns/{}", self.netns.name()),
            format!("external_ids:contIface={}", request.cni.interface()),
            "external_ids:owner=ovs-cni.network.kubevirt.io -- add Bridge br-int ports @p".to_owned(),
        ]
        .join(" ");
        ovs.vsctl(&[&["--"], &words.split_whitespace().collect::<Vec<_>>()[..]].concat())?;
        ip(&format!("link set {representor} up"))
    }

    /// `CmdDel`: the port that has this namespace and interface in its row goes first, then the VF's device comes back, up.
    fn delete_ovs_cni(&self, ovs: &Ovs) -> Outcome {
        let interface = self.request.cni.interface();
        let found = ovs.vsctl(&[
            "--columns=name",
            "--bare",
            "--no-headings",
            "find",
            "Port",
            &format!("external_ids:contIface={interface}"),
            &format!("external_ids:contNetns=/var/run/netns/{}", self.netns.name()),
            "external_ids:owner=ovs-cni.network.kubevirt.io",
        ])?;
        ensure!(found.trim() == self.representor, "the pod's port is found as {found:?}");
        ovs.vsctl(&["del-port", "br-int", found.trim()])?;
        self.ip(&format!("link set {interface} down"))?;
        self.ip(&format!("link set {interface} name {}", self.device))?;
        self.ip(&format!("link set {} up", self.device))?;
        self.ip(&format!("link set {} netns 1", self.device))
    }

    /// `ovs-vsctl --may-exist add-port br-int REPRESENTOR` with columns of the port and of the interface.
    fn add_port(&self, ovs: &Ovs, port: &[&str], interface: &[String]) -> Outcome {
        let interface: Vec<&str> = interface.iter().map(String::as_str).collect();
        let add = ["--may-exist", "add-port", "br-int", &self.representor];
        let set = ["--", "set", "Interface", &self.representor];
        ovs.vsctl(&[&add[..], port, &set, &interface].concat()).map(drop)
    }
}
