//! How far a megaflow's packets travel, and whose they are: from the ports it comes in and goes out by, and the tunnel.

use crate::ports::{PortFacts, PortKind, Ports};
use crate::protection::Outer;
use crate::workload::Workload;
use core::net::IpAddr;
use policies::language::{Locality, Subject};

/// Where a port leads to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leads {
    /// To a workload of this node: somebody gave it an iface-id, or it stands for a function of the NIC.
    ToWorkload,
    /// To other nodes of the overlay.
    IntoTunnel,
    /// To the NIC's wire.
    ToWire,
    /// To the host itself, or nobody knows.
    Elsewhere,
}

fn leads(port: &PortFacts) -> Leads {
    match port.kind {
        PortKind::Tunnel => Leads::IntoTunnel,
        PortKind::Uplink => Leads::ToWire,
        PortKind::Representor => Leads::ToWorkload,
        _ if port.workload.is_some() || port.iface_id.is_some() => Leads::ToWorkload,
        PortKind::Internal | PortKind::Other => Leads::Elsewhere,
    }
}

/// The ports that packets pass, collected while a rule's actions are read.
#[derive(Clone, Copy)]
pub(crate) struct Journey<'a> {
    from: Option<&'a PortFacts>,
    /// The first egress port that belongs to a workload.
    receiver: Option<&'a PortFacts>,
    /// The other end of the tunnel that packets come out of, else of the one they are put into.
    remote: Option<IpAddr>,
    /// The destination port of the tunnel's packets, where it is told.
    tunnel_dport: Option<u16>,
    /// The first tunnel that packets are put into.
    tunnel: Option<&'a PortFacts>,
    to_workload: bool,
    into_tunnel: bool,
    to_wire: bool,
    /// To a port that is none of the above, or not known.
    elsewhere: bool,
}

impl<'a> Journey<'a> {
    /// Begins at a port, out of the tunnel whose other end is `remote`, and whose packets go to the port `dport`.
    pub(crate) fn new(from: Option<&'a PortFacts>, remote: Option<IpAddr>, dport: Option<u16>) -> Self {
        Self {
            from,
            receiver: None,
            remote,
            tunnel_dport: dport,
            tunnel: None,
            to_workload: false,
            into_tunnel: false,
            to_wire: false,
            elsewhere: false,
        }
    }

    /// Packets are put into a tunnel to `remote`, and its packets go to the port `dport`.
    pub(crate) fn through(&mut self, remote: Option<IpAddr>, dport: Option<u16>) {
        if self.remote.is_none() {
            (self.remote, self.tunnel_dport) = (remote, dport);
        }
        self.into_tunnel = true;
    }

    /// Packets, or copies of them, leave by a port.
    pub(crate) fn to(&mut self, port: Option<&'a PortFacts>) {
        match port.map(leads) {
            Some(Leads::ToWorkload) => self.to_workload = true,
            Some(Leads::IntoTunnel) => self.into_tunnel = true,
            Some(Leads::ToWire) => self.to_wire = true,
            Some(Leads::Elsewhere) | None => self.elsewhere = true,
        }
        if self.tunnel.is_none() {
            self.tunnel = port.filter(|port| port.kind == PortKind::Tunnel);
        }
        if self.receiver.is_none() {
            self.receiver = port.filter(|port| port.workload.is_some());
        }
    }

    /// How far they travel. Of packets that go to several ports: as far as the farthest. While it is open where they go
    /// (`undecided`), only what is certain whatever comes.
    fn locality(&self, undecided: bool) -> Locality {
        match self.from.map(leads) {
            Some(Leads::IntoTunnel) if self.to_wire => Locality::External,
            Some(Leads::IntoTunnel) => Locality::CrossNode,
            Some(Leads::ToWire) if self.to_workload || self.into_tunnel => Locality::External,
            Some(Leads::ToWorkload) if self.to_wire => Locality::External,
            Some(Leads::ToWorkload | Leads::Elsewhere) if self.into_tunnel => Locality::CrossNode,
            Some(Leads::ToWorkload) if self.to_workload && !self.elsewhere && !undecided => {
                Locality::SameNode
            }
            _ => Locality::Unknown,
        }
    }

    /// Tells of it. `undecided`: other rules yet say where the packets go.
    pub(crate) fn tell(&self, subject: &mut Subject<'a>, ports: &'a Ports, undecided: bool) {
        subject.locality = self.locality(undecided);
        let workload = |port: Option<&'a PortFacts>| port.and_then(|port| port.workload.as_ref());
        let of: Option<&'a Workload> = workload(self.from).or(workload(self.receiver));
        // That there is none is known once it is known where the packets come from and go to.
        let is_told = self.from.is_some_and(|port| !port.bridge.is_empty()) && !undecided && !self.elsewhere;
        let none = is_told.then_some("");
        subject.workload = of.map(|workload| workload.name.as_str()).or(none);
        subject.namespace = match of {
            Some(workload) => Some(workload.namespace.as_deref().unwrap_or_default()),
            None => none,
        };
        subject.tenant = match of {
            Some(workload) => workload.tenant.as_deref(),
            None => none,
        };
        subject.chassis = match self.remote {
            Some(remote) => ports.chassis_at(remote),
            None => (!self.into_tunnel && !undecided).then_some(""),
        };
        subject.encrypted = self.encrypted(ports, undecided);
        subject.needs_host = self.outer().is_some_and(|outer| ports.needs_host(outer.as_ref()));
    }

    /// Whether the tunnel's packets are encrypted. Open vSwitch hands packets without a tunnel to devices past IPsec
    /// (`ovs_vport_send()`), so that those are not.
    fn encrypted(&self, ports: &Ports, undecided: bool) -> Option<bool> {
        match self.outer() {
            Some(outer) => ports.encrypts(&outer?),
            None => (!self.into_tunnel && !undecided).then_some(false),
        }
    }

    /// The packets of the tunnel that it is part of, where they are known; none where no tunnel is.
    fn outer(&self) -> Option<Option<Outer>> {
        let is_tunnel = |port: &&PortFacts| port.kind == PortKind::Tunnel;
        let out_of = self.from.filter(is_tunnel);
        let tunnel = out_of.or(self.tunnel)?;
        let of =
            |remote| Outer::of(tunnel.tunnel_kind.as_deref()?, remote, out_of.is_some(), self.tunnel_dport);
        Some(self.remote.and_then(of))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protection::IpsecPolicy;
    use crate::workload::Orchestrator;
    use netlink_wire::Ifindex;
    use netlink_wire::xfrm::Prefix;
    use tc_flower::Location;

    fn port(name: &str, kind: PortKind, workload: Option<&str>) -> PortFacts {
        PortFacts {
            name: name.into(),
            ifindex: Ifindex(1),
            location: Location::ingress(Ifindex(1)),
            dp_port: None,
            dp: None,
            bridge: "br-int".into(),
            iface_id: workload.map(Into::into),
            workload: workload.map(|name| Workload {
                orchestrator: Orchestrator::KubeOvn,
                name: name.into(),
                namespace: Some("prod".into()),
                tenant: Some("prod".into()),
                logical_switch: None,
            }),
            kind,
            tunnel_kind: (kind == PortKind::Tunnel).then(|| "geneve".into()),
            tunnel_port: None,
            nic: None,
            hw_tc_offload: false,
        }
    }

    const REMOTE: IpAddr = IpAddr::V4(core::net::Ipv4Addr::new(192, 0, 2, 2));

    #[test]
    fn packets_travel_as_far_as_their_farthest_port() {
        let [web, db] = ["web", "db"].map(|name| port(name, PortKind::Other, Some(name)));
        let tunnel = port("genev_sys_6081", PortKind::Tunnel, None);
        let wire = port("p0", PortKind::Uplink, None);
        let host = port("br-ex", PortKind::Internal, None);
        let representor = port("pf0vf1", PortKind::Representor, None);
        for (from, to, locality) in [
            (&web, &[&db][..], Locality::SameNode),
            (&representor, &[&db], Locality::SameNode),
            (&web, &[&db, &tunnel], Locality::CrossNode),
            (&web, &[&db, &tunnel, &wire], Locality::External),
            (&web, &[&host], Locality::Unknown),
            (&web, &[&db, &host], Locality::Unknown),
            (&web, &[], Locality::Unknown),
            (&tunnel, &[&web], Locality::CrossNode),
            (&tunnel, &[], Locality::CrossNode),
            (&tunnel, &[&wire], Locality::External),
            (&wire, &[&web], Locality::External),
            (&wire, &[&tunnel], Locality::External),
            (&wire, &[&host], Locality::Unknown),
            (&host, &[&wire], Locality::Unknown),
            (&host, &[&tunnel], Locality::CrossNode),
        ] {
            let mut journey = Journey::new(Some(from), None, None);
            to.iter().for_each(|port| journey.to(Some(port)));
            let names: alloc::vec::Vec<_> = to.iter().map(|port| &port.name).collect();
            assert_eq!(journey.locality(false), locality, "{} to {names:?}", from.name);
        }
    }

    #[test]
    fn what_is_not_decided_yet_is_not_told() {
        let (web, db) = (port("web", PortKind::Other, Some("web")), port("db", PortKind::Other, Some("db")));
        let mut journey = Journey::new(Some(&web), None, None);
        assert_eq!(journey.locality(true), Locality::Unknown);
        journey.to(Some(&db));
        assert_eq!(
            (journey.locality(true), journey.locality(false)),
            (Locality::Unknown, Locality::SameNode)
        );
        let mut subject = Subject::default();
        let (wire, ports) = (port("p0", PortKind::Uplink, None), Ports::default());
        Journey::new(Some(&wire), None, None).tell(&mut subject, &ports, true);
        assert_eq!(
            (subject.workload, subject.namespace, subject.tenant, subject.chassis),
            (None, None, None, None)
        );
    }

    #[test]
    fn the_sender_is_named_before_the_receiver_and_the_tunnels_end_by_its_chassis() {
        let [web, db] = ["web", "db"].map(|name| port(name, PortKind::Other, Some(name)));
        let tunnel = port("genev_sys_6081", PortKind::Tunnel, None);
        let mut ports = Ports::default();
        ports.set_chassis([(REMOTE, "node-2".into())].into());
        let mut subject = Subject::default();
        let mut journey = Journey::new(Some(&web), None, None);
        journey.to(Some(&db));
        journey.tell(&mut subject, &ports, false);
        assert_eq!(
            (subject.workload, subject.namespace, subject.chassis),
            (Some("web"), Some("prod"), Some(""))
        );

        let mut journey = Journey::new(Some(&tunnel), Some(REMOTE), None);
        journey.to(Some(&db));
        journey.tell(&mut subject, &ports, false);
        assert_eq!(
            (subject.workload, subject.tenant, subject.chassis),
            (Some("db"), Some("prod"), Some("node-2"))
        );

        let mut journey = Journey::new(Some(&web), None, None);
        journey.through(Some(REMOTE), None);
        journey.to(Some(&tunnel));
        journey.tell(&mut subject, &ports, false);
        assert_eq!(
            (subject.workload, subject.chassis, subject.locality),
            (Some("web"), Some("node-2"), Locality::CrossNode)
        );
    }

    #[test]
    fn an_end_that_nobody_named_is_not_known() {
        let (web, ports) = (port("web", PortKind::Other, Some("web")), Ports::default());
        let mut journey = Journey::new(Some(&web), None, None);
        journey.through(Some(REMOTE), None);
        let mut subject = Subject::default();
        journey.tell(&mut subject, &ports, false);
        assert_eq!(subject.chassis, None);
    }

    #[test]
    fn packets_are_encrypted_where_a_policy_protects_their_tunnel() {
        let [web, db] = ["web", "db"].map(|name| port(name, PortKind::Other, Some(name)));
        let tunnel = port("genev_sys_6081", PortKind::Tunnel, None);
        let policy = |inbound, dport| IpsecPolicy {
            priority: 1,
            inbound,
            peer: Some(Prefix { address: REMOTE, bits: 32 }),
            proto: 17,
            dport: (dport, !0),
            encrypts: true,
            in_host: true,
            partly: false,
        };
        let encrypted = |journey: &Journey<'_>, ports: &Ports, undecided| {
            let mut subject = Subject::default();
            journey.tell(&mut subject, ports, undecided);
            subject.encrypted
        };
        let mut out = Journey::new(Some(&web), None, None);
        out.through(Some(REMOTE), None);
        out.to(Some(&tunnel));
        let mut into = Journey::new(Some(&tunnel), Some(REMOTE), Some(6081));
        into.to(Some(&db));
        let mut beside = Journey::new(Some(&web), None, None);
        beside.to(Some(&db));
        let mut ports = Ports::default();
        assert_eq!(encrypted(&out, &ports, false), None, "nobody has told of policies");
        assert_eq!(encrypted(&beside, &ports, false), Some(false));
        assert_eq!(encrypted(&Journey::new(Some(&web), None, None), &ports, true), None);
        ports.set_ipsec(alloc::vec![policy(false, 6081)]);
        assert_eq!(
            (encrypted(&out, &ports, false), encrypted(&into, &ports, false)),
            (Some(true), Some(false))
        );
        ports.set_ipsec(alloc::vec![policy(true, 6081)]);
        assert_eq!(
            (encrypted(&out, &ports, false), encrypted(&into, &ports, true)),
            (Some(false), Some(true))
        );
        ports.set_ipsec(alloc::vec![policy(false, 7777)]);
        assert_eq!(encrypted(&out, &ports, false), Some(false), "the policy is about another port");
    }
}
