//! The host's security associations and policies, as the kernel tells them: pure books.
//!
//! What is read while notifications come in stands behind them: a row that was told meanwhile is newer.

use std::collections::{BTreeMap, BTreeSet};

use ipsec_drive::{Carried, Device, EspId, KernelSa};
use netlink_wire::xfrm::{Event, Policy, PolicyIndex, Sa, SaDirection, SaId};
use offload_engine::IpsecPolicy;

mod demands;
mod exclusion;
mod owner;
mod policies;
mod report;

pub use demands::{Demand, demands, unmet};
pub use exclusion::{UplinkRules, is_exclusive};
pub use owner::{Listed, Owners};
pub use report::{Scene, sa_list, sa_why};

use policies::Policies;

/// Most security associations, and most policies, that are kept; the rest is counted.
const ROWS_MAX: usize = 65_536;
/// `XFRM_POLICY` of protocols: any (0), and `IPSEC_PROTO_ANY` of a flush.
const EVERY_PROTOCOL: [u8; 2] = [0, 255];
/// `IPPROTO_ESP`
const ESP: u8 = 50;

/// All that was read.
#[derive(Debug, Default)]
pub struct Reading {
    /// Security associations.
    pub sas: Vec<Sa>,
    /// Policies.
    pub policies: Vec<Policy>,
}

/// What a kernel without IPsec, and one with it, have told.
#[derive(Debug, Default)]
pub struct Ipsec {
    sas: BTreeMap<SaId, Sa>,
    policies: Policies,
    // What those took that are gone.
    gone: BTreeMap<Class, Sum>,
    // What notifications told since a reading began; none while nothing is read.
    told_meanwhile: Option<Touched>,
    is_read: bool,
    policies_changed: bool,
    sas_changed: bool,
    /// Rows that were left out, for there are too many.
    pub left_out: u64,
    /// Soft and hard limits that were reached.
    pub expired: [u64; 2],
    /// Packets that needed a security association that was not there.
    pub acquires: u64,
}

/// Where a security association is carried, and which way its packets go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Class {
    /// `packet`, `crypto` or `none`.
    pub offload: &'static str,
    /// `in`, `out` or `unknown`.
    pub direction: &'static str,
}

/// What security associations took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum {
    /// How many there are.
    pub sas: u64,
    /// Bytes.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Packets outside of the replay window.
    pub outside_window: u64,
    /// Packets that came again.
    pub replayed: u64,
    /// Packets that were forged or broken.
    pub forged: u64,
}

#[derive(Debug, Default)]
struct Touched {
    sas: BTreeSet<SaId>,
    policies: BTreeSet<PolicyIndex>,
    // A flush says of rows that nobody names that they are gone.
    sas_flushed: Vec<u8>,
    policies_flushed: bool,
}

impl Touched {
    fn has_sa(&self, id: &SaId) -> bool {
        self.sas.contains(id) || self.sas_flushed.iter().any(|proto| is_of(*proto, id))
    }
}

fn is_of(flushed: u8, id: &SaId) -> bool {
    EVERY_PROTOCOL.contains(&flushed) || flushed == id.proto
}

impl Ipsec {
    /// Takes a notification.
    pub fn told(&mut self, event: Event) {
        match event {
            Event::Sa(sa) => {
                let sa = *sa;
                self.touch(|touched| touched.sas.insert(sa.id));
                self.keep_sa(sa);
            }
            Event::SaGone { id, counted } => self.sa_gone(id, counted),
            Event::SaExpired { hard: false, .. } => self.expired[0] += 1,
            Event::SaExpired { id, counted, .. } => {
                self.expired[1] += 1;
                self.sa_gone(id, Some(counted));
            }
            Event::SasGone(proto) => {
                self.touch(|touched| {
                    touched.sas_flushed.push(proto);
                    true
                });
                let gone: Vec<SaId> = self.sas.keys().filter(|id| is_of(proto, id)).copied().collect();
                gone.into_iter().for_each(|id| self.forget(&id, None));
            }
            Event::Policy(policy) => {
                self.touch(|touched| touched.policies.insert(policy.index));
                self.keep_policy(*policy);
                self.policies_changed = true;
            }
            Event::PolicyGone(index) => {
                self.touch(|touched| touched.policies.insert(index));
                self.policies.remove(index);
                self.policies_changed = true;
            }
            Event::PoliciesGone => {
                self.touch(|touched| {
                    touched.policies_flushed = true;
                    true
                });
                self.policies.clear();
                self.policies_changed = true;
            }
            Event::Acquire(_) => self.acquires += 1,
            Event::Nothing => {}
        }
    }

    fn sa_gone(&mut self, id: SaId, counted: Option<(u64, u64)>) {
        self.touch(|touched| touched.sas.insert(id));
        self.forget(&id, counted);
    }

    /// Forgets a security association, but not what it took.
    fn forget(&mut self, id: &SaId, counted: Option<(u64, u64)>) {
        let Some(sa) = self.sas.remove(id) else { return };
        self.sas_changed = true;
        let class = self.class(&sa);
        let (bytes, packets) = counted.unwrap_or((sa.bytes, sa.packets));
        let gone = self.gone.entry(class).or_default();
        (gone.bytes, gone.packets) = (gone.bytes + bytes, gone.packets + packets);
        gone.outside_window += u64::from(sa.outside_window);
        gone.replayed += u64::from(sa.replayed);
        gone.forged += u64::from(sa.forged);
    }

    fn class(&self, sa: &Sa) -> Class {
        Class {
            offload: sa.offload.map_or("none", |offload| offload.word()),
            direction: self.direction(sa).map_or("unknown", SaDirection::word),
        }
    }

    /// What all security associations took, those that are gone included, by where they were carried and which way.
    pub fn sums(&self) -> BTreeMap<Class, Sum> {
        let mut sums = self.gone.clone();
        for sa in self.sas.values() {
            let sum = sums.entry(self.class(sa)).or_default();
            sum.sas += 1;
            (sum.bytes, sum.packets) = (sum.bytes + sa.bytes, sum.packets + sa.packets);
            sum.outside_window += u64::from(sa.outside_window);
            sum.replayed += u64::from(sa.replayed);
            sum.forged += u64::from(sa.forged);
        }
        sums
    }

    fn touch(&mut self, touch: impl FnOnce(&mut Touched) -> bool) {
        if let Some(touched) = &mut self.told_meanwhile {
            touch(touched);
        }
    }

    fn keep_sa(&mut self, sa: Sa) {
        self.sas_changed = true;
        match self.sas.len() < ROWS_MAX || self.sas.contains_key(&sa.id) {
            true => drop(self.sas.insert(sa.id, sa)),
            false => self.left_out += 1,
        }
    }

    fn keep_policy(&mut self, policy: Policy) {
        match self.policies.len() < ROWS_MAX || self.policies.has(policy.index) {
            true => self.policies.keep(policy),
            false => self.left_out += 1,
        }
    }

    /// A reading begins: to be called before the kernel is asked.
    pub fn begin(&mut self) {
        self.told_meanwhile = Some(Touched::default());
    }

    /// A reading failed: what is there stands.
    pub fn give_up(&mut self) {
        self.told_meanwhile = None;
    }

    /// Takes all that was read. What was told since it began stands.
    pub fn read(&mut self, reading: Reading) {
        let touched = self.told_meanwhile.take().unwrap_or_default();
        self.left_out = 0;
        let read: BTreeSet<SaId> = reading.sas.iter().map(|sa| sa.id).collect();
        let lost = |id: &&SaId| !touched.sas.contains(*id) && !read.contains(*id);
        let lost: Vec<SaId> = self.sas.keys().filter(lost).copied().collect();
        lost.iter().for_each(|id| self.forget(id, None));
        for sa in reading.sas.into_iter().filter(|sa| !touched.has_sa(&sa.id)) {
            self.keep_sa(sa);
        }
        self.policies.retain(|index| touched.policies.contains(&index));
        let is_good =
            |policy: &Policy| !touched.policies_flushed && !touched.policies.contains(&policy.index);
        for policy in reading.policies.into_iter().filter(is_good) {
            self.keep_policy(policy);
        }
        (self.is_read, self.policies_changed, self.sas_changed) = (true, true, true);
    }

    /// The policies that are about tunnels with others, in order, where they may be others than when this was last asked;
    /// none before all were read.
    pub fn take_protection(&mut self) -> Option<Vec<IpsecPolicy>> {
        if !self.is_read || !std::mem::take(&mut self.policies_changed) {
            return None;
        }
        Some(self.policies.protection())
    }

    /// Security associations of ESP as whoever drives an IKE daemon looks at them, where they may be others than when this was last asked;
    /// none before all were read.
    pub fn take_driven(&mut self) -> Option<BTreeMap<EspId, KernelSa>> {
        if !self.is_read || !std::mem::take(&mut self.sas_changed) {
            return None;
        }
        // Tunnels have no mark.
        let of_tunnels = self.sas.values().filter(|sa| sa.id.proto == ESP && sa.id.mark.1 == 0);
        let driven = of_tunnels.map(|sa| {
            let carried = match sa.offload {
                None => Carried::Software,
                Some(offload) if offload.packet => Carried::Packet,
                Some(_) => Carried::Crypto,
            };
            let device = sa.offload.map(|offload| Device(offload.ifindex.0));
            let id = EspId { dst: sa.id.dst, spi: sa.id.spi.0 };
            (id, KernelSa { src: Some(sa.src), carried, device, bytes: sa.bytes, packets: sa.packets })
        });
        Some(driven.collect())
    }

    /// Every security association, by its name.
    pub fn sas(&self) -> impl Iterator<Item = &Sa> {
        self.sas.values()
    }

    /// Policies that are kept.
    pub fn policies(&self) -> usize {
        self.policies.len()
    }

    /// Which way a security association's packets go: as the kernel was told, else as the policies use it.
    pub fn direction(&self, sa: &Sa) -> Option<SaDirection> {
        sa.told_direction().or_else(|| self.policies.direction(sa))
    }
}

#[cfg(test)]
pub(crate) mod sample {
    use netlink_wire::xfrm::*;

    /// A security association of mode transport that a ConnectX can carry, to 192.0.2.2.
    pub(crate) fn sa(spi: u32) -> Sa {
        let limit = Limit { soft: None, hard: None };
        Sa {
            id: SaId { dst: [192, 0, 2, 2].into(), spi: Spi(spi), proto: 50, mark: (0, 0) },
            src: [192, 0, 2, 1].into(),
            selector: Selector { src: None, dst: None, proto: 0, sport: (0, 0), dport: (0, 0) },
            mode: SaMode::Transport,
            reqid: Reqid(1),
            direction: None,
            if_id: 0,
            esn: true,
            udp_encap: false,
            algorithms: [
                Some(Algorithm { name: "rfc4106(gcm(aes))".into(), key_bits: 288, icv_bits: Some(128) }),
                None,
            ],
            lifetime: Lifetime { bytes: limit, packets: limit, ..Lifetime::default() },
            bytes: 1_000,
            packets: 10,
            added_at_s: 0,
            replay: Replay { window: 32, sent: 0, received: 0 },
            replayed: 0,
            outside_window: 0,
            forged: 0,
            offload: None,
        }
    }

    /// A policy that has packets of Geneve to 192.0.2.2 encrypted by the above.
    pub(crate) fn policy(index: u32, direction: PolicyDirection) -> Policy {
        let peer = Some(Prefix { address: [192, 0, 2, 2].into(), bits: 32 });
        let here = Some(Prefix { address: [192, 0, 2, 1].into(), bits: 32 });
        let (src, dst) = if direction == PolicyDirection::In { (peer, here) } else { (here, peer) };
        Policy {
            index: PolicyIndex(index),
            direction,
            selector: Selector { src, dst, proto: 17, sport: (0, 0), dport: (6081, !0) },
            priority: 100,
            blocks: false,
            templates: vec![Template {
                dst: None,
                reqid: Reqid(1),
                mode: SaMode::Transport,
                optional: false,
            }],
            mark: (0, 0),
            if_id: 0,
            offload: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::sample::{policy, sa};
    use super::*;
    use netlink_wire::Ifindex;
    use netlink_wire::xfrm::{DeviceOffload, PolicyDirection};

    fn spis(ipsec: &Ipsec) -> Vec<u32> {
        ipsec.sas().map(|sa| sa.id.spi.0).collect()
    }

    #[test]
    fn a_reading_never_undoes_what_was_told_meanwhile() {
        let mut ipsec = Ipsec::default();
        for spi in [1, 2] {
            ipsec.told(Event::Sa(Box::new(sa(spi))));
        }
        ipsec.begin();
        ipsec.told(Event::SaGone { id: sa(2).id, counted: None });
        ipsec.told(Event::Sa(Box::new(sa(3))));
        // The kernel was read before both, and had lost the first, of which we were not told.
        ipsec.read(Reading { sas: vec![sa(2), sa(4)], policies: Vec::new() });
        assert_eq!(spis(&ipsec), [3, 4]);
        ipsec.begin();
        ipsec.told(Event::SasGone(50));
        ipsec.told(Event::Sa(Box::new(sa(5))));
        ipsec.read(Reading { sas: vec![sa(3), sa(4)], policies: Vec::new() });
        assert_eq!(spis(&ipsec), [5]);
    }

    #[test]
    fn security_associations_are_handed_to_the_driver_once_they_were_read_and_when_they_change() {
        let mut ipsec = Ipsec::default();
        ipsec.told(Event::Sa(Box::new(sa(1))));
        assert_eq!(ipsec.take_driven(), None, "there may be others");
        let mut carried = sa(2);
        carried.offload = Some(DeviceOffload { ifindex: Ifindex(7), packet: true, inbound: false });
        let (mut marked, mut of_ah) = (sa(3), sa(4));
        (marked.id.mark, of_ah.id.proto) = ((1, 1), 51);
        ipsec.begin();
        ipsec.read(Reading { sas: vec![sa(1), carried, marked, of_ah], policies: Vec::new() });
        let driven = ipsec.take_driven().unwrap();
        let told: Vec<_> = driven.values().map(|sa| (sa.carried, sa.device, sa.bytes)).collect();
        assert_eq!(told, [(Carried::Software, None, 1_000), (Carried::Packet, Some(Device(7)), 1_000)]);
        assert_eq!(ipsec.take_driven(), None);
        ipsec.told(Event::SaGone { id: sa(1).id, counted: None });
        assert_eq!(ipsec.take_driven().map(|driven| driven.len()), Some(1));
    }

    #[test]
    fn limits_end_a_security_association_at_the_hard_one() {
        let mut ipsec = Ipsec::default();
        ipsec.told(Event::Sa(Box::new(sa(1))));
        ipsec.told(Event::SaExpired { id: sa(1).id, hard: false, counted: (1, 1) });
        assert_eq!((spis(&ipsec), ipsec.expired), (vec![1], [1, 0]));
        ipsec.told(Event::SaExpired { id: sa(1).id, hard: true, counted: (1_500, 15) });
        assert_eq!((spis(&ipsec), ipsec.expired), (vec![], [1, 1]));
    }

    #[test]
    fn what_security_associations_took_never_falls_when_they_go() {
        let mut ipsec = Ipsec::default();
        let class = Class { offload: "none", direction: "unknown" };
        let took = |ipsec: &Ipsec| {
            let sum = ipsec.sums()[&class];
            (sum.sas, sum.bytes, sum.packets)
        };
        for spi in 1..=4 {
            ipsec.told(Event::Sa(Box::new(sa(spi))));
        }
        assert_eq!(took(&ipsec), (4, 4_000, 40));
        ipsec.told(Event::SaGone { id: sa(1).id, counted: Some((1_500, 15)) });
        assert_eq!(took(&ipsec), (3, 4_500, 45));
        ipsec.begin();
        ipsec.read(Reading { sas: vec![sa(3), sa(4)], policies: Vec::new() });
        assert_eq!(took(&ipsec), (2, 4_500, 45), "the end of one was not told");
        ipsec.told(Event::SasGone(0));
        assert_eq!(took(&ipsec), (0, 4_500, 45));
    }

    #[test]
    fn policies_are_told_once_they_are_all_known_and_when_they_change() {
        let mut ipsec = Ipsec::default();
        let out = policy(1, PolicyDirection::Out);
        ipsec.told(Event::Policy(Box::new(out.clone())));
        assert_eq!(ipsec.take_protection(), None, "there may be others");
        ipsec.begin();
        ipsec.read(Reading { sas: Vec::new(), policies: vec![out.clone(), policy(2, PolicyDirection::In)] });
        let protection = ipsec.take_protection().unwrap();
        assert_eq!(protection.len(), 2);
        assert!(protection.iter().all(|policy| policy.encrypts && policy.peer == out.selector.dst));
        assert_eq!(ipsec.take_protection(), None, "nothing changed");
        ipsec.told(Event::PolicyGone(out.index));
        assert_eq!(ipsec.take_protection().unwrap().len(), 1);
        ipsec.told(Event::PoliciesGone);
        assert_eq!(ipsec.take_protection(), Some(Vec::new()));
    }

    #[test]
    fn policies_that_no_tunnel_meets_are_not_told() {
        let mut ipsec = Ipsec::default();
        let (mut marked, mut tcp) = (policy(1, PolicyDirection::Out), policy(3, PolicyDirection::Out));
        marked.mark = (1, 1);
        tcp.selector.proto = 6;
        let forward = policy(4, PolicyDirection::Forward);
        ipsec.read(Reading { sas: Vec::new(), policies: vec![marked, tcp, forward] });
        assert_eq!(ipsec.take_protection(), Some(Vec::new()));
    }

    #[test]
    fn what_encrypts_or_drops_is_the_host_unless_a_device_has_the_whole_policy() {
        let told = |change: &dyn Fn(&mut Policy)| {
            let (mut ipsec, mut out) = (Ipsec::default(), policy(1, PolicyDirection::Out));
            change(&mut out);
            ipsec.read(Reading { sas: Vec::new(), policies: vec![out] });
            let told = ipsec.take_protection().unwrap()[0];
            (told.encrypts, told.in_host, told.partly)
        };
        let device = |packet| Some(DeviceOffload { ifindex: Ifindex(7), packet, inbound: false });
        assert_eq!(told(&|_| ()), (true, true, false));
        assert_eq!(told(&|policy| policy.offload = device(true)), (true, false, false));
        assert_eq!(told(&|policy| policy.offload = device(false)), (true, true, false));
        assert_eq!(told(&|policy| policy.blocks = true), (false, true, false));
        assert_eq!(told(&|policy| policy.selector.sport = (0, 0x8000)), (true, true, true));
        assert_eq!(told(&|policy| policy.templates.clear()), (false, false, false));
    }

    #[test]
    fn the_way_of_packets_is_told_by_the_policies_where_the_kernel_was_not() {
        let mut ipsec = Ipsec::default();
        assert_eq!(ipsec.direction(&sa(1)), None);
        ipsec.told(Event::Policy(Box::new(policy(1, PolicyDirection::Out))));
        assert_eq!(ipsec.direction(&sa(1)), Some(SaDirection::Out));
        let mut back = sa(2);
        (back.src, back.id.dst) = (back.id.dst, back.src);
        assert_eq!(ipsec.direction(&back), None);
        ipsec.told(Event::Policy(Box::new(policy(2, PolicyDirection::In))));
        assert_eq!(ipsec.direction(&back), Some(SaDirection::In));
    }

    #[test]
    fn no_more_rows_are_kept_than_there_is_room_for() {
        let mut ipsec = Ipsec::default();
        let many = (0..=u32::try_from(ROWS_MAX).unwrap()).map(sa).collect();
        ipsec.read(Reading { sas: many, policies: Vec::new() });
        assert_eq!((ipsec.sas().count(), ipsec.left_out), (ROWS_MAX, 1));
    }
}
