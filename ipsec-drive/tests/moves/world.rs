//! A simulated charon, kernel and NIC, and the loads of tunnels.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use ipsec_drive::listed::ChildSa;
use ipsec_drive::strongswan::children;
use ipsec_drive::{
    Carried, Connection, ConnectionName, Device, EspId, Host, Kernel, KernelSa, Millis, Mover, Offload,
    Reconciler, Seen, Step, Terms, There, TunnelRow, Wanted, wanted,
};

pub(crate) const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const NIC: Device = Device(7);
/// Between two readings of the kernel.
const READ_EVERY_MS: u64 = 10_000;

/// Random numbers of a seed (splitmix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// What the NIC takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Takes {
    Everything,
    Nothing,
    /// Security associations of mode packet without the policies that belong to them: no child comes up.
    CryptoAlone,
}

/// What the daemon sees of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sees {
    Kernel,
    /// In milliseconds.
    NothingBefore(u64),
    Nothing,
}

/// Who has a child made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    ByUs,
    ByPeer,
}

pub(crate) struct World {
    pub(crate) random: Random,
    pub(crate) now: u64,
    pub(crate) wanted: Wanted,
    pub(crate) names: Vec<ConnectionName>,
    /// Bytes per second, by connection.
    pub(crate) rates: BTreeMap<ConnectionName, u64>,
    pub(crate) mover: Mover,
    pub(crate) reconciler: Reconciler,
    /// Security associations that the NIC has room for.
    pub(crate) room: usize,
    pub(crate) takes: Takes,
    pub(crate) sees: Sees,
    /// Of a hundred initiations so many are not answered.
    pub(crate) silent_percent: u64,
    /// Before so many loads with another offload the peer comes first, which has children made with the settings of before.
    pub(crate) peer_is_first: BTreeMap<ConnectionName, u32>,
    loaded: BTreeMap<ConnectionName, Connection>,
    pub(crate) children: Vec<ChildSa>,
    pub(crate) kernel: BTreeMap<EspId, KernelSa>,
    on_their_way: Vec<(u64, ConnectionName, String)>,
    /// What children were made with: none is made beside one of the same.
    made_with: BTreeMap<u32, (Offload, u32)>,
    told: Kernel,
    was_busy: bool,
    next: u32,
    pub(crate) steps: BTreeMap<&'static str, u64>,
    /// Connections that had children once.
    was_up: BTreeSet<ConnectionName>,
}

impl World {
    pub(crate) fn new(seed: u64, tunnels: u8, terms: Terms, offload: Offload) -> Self {
        let rows = (0..tunnels).map(|number| {
            let options = [
                ("psk", "x".to_owned()),
                ("remote_ip", format!("10.0.1.{}", number + 1)),
                ("local_ip", LOCAL.to_string()),
            ];
            let options = options.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
            TunnelRow::read(&format!("tun{number}"), "geneve", &options).expect("it is marked")
        });
        let rows: Vec<TunnelRow> = rows.collect();
        let wanted = wanted(&rows, &Host::default(), offload);
        let names: Vec<ConnectionName> = wanted.connections.keys().cloned().collect();
        let mut mover = Mover::default();
        mover.set_terms(Millis(0), terms);
        Self {
            random: Random(seed),
            now: 0,
            wanted,
            rates: names.iter().map(|name| (name.clone(), 0)).collect(),
            names,
            mover,
            reconciler: Reconciler::default(),
            room: usize::MAX,
            takes: Takes::Everything,
            sees: Sees::Kernel,
            silent_percent: 0,
            peer_is_first: BTreeMap::new(),
            loaded: BTreeMap::new(),
            children: Vec::new(),
            kernel: BTreeMap::new(),
            on_their_way: Vec::new(),
            made_with: BTreeMap::new(),
            told: Kernel { devices: [(LOCAL, NIC)].into(), ..Kernel::default() },
            was_busy: false,
            next: 0,
            steps: BTreeMap::new(),
            was_up: BTreeSet::new(),
        }
    }

    /// Lets a second pass, or where nothing is on its way the time until the next reading, and checks what must hold in each. Returns how
    /// many it were.
    pub(crate) fn pass(&mut self) -> u64 {
        let is_idle = self.on_their_way.is_empty() && !self.was_busy;
        let left = (READ_EVERY_MS - self.now % READ_EVERY_MS) / 1_000;
        let seconds = if is_idle { left } else { 1 };
        self.now += seconds * 1_000;
        self.traffic(seconds);
        self.arrive();
        // Notifications tell at once; what goes without one, and counters, with the next reading.
        let is_read = self.now.is_multiple_of(READ_EVERY_MS);
        if is_read {
            (self.told.sas, self.told.read) = (self.kernel.clone(), Millis(self.now));
        } else {
            for (id, sa) in &self.kernel {
                self.told.sas.entry(*id).or_insert(KernelSa { bytes: 0, packets: 0, ..*sa });
            }
        }
        let mut there = There {
            connections: self.loaded.keys().cloned().collect(),
            children: self.children.clone(),
            negotiating: self.on_their_way.iter().map(|(_, name, _)| name.as_str().to_owned()).collect(),
            established: self.names.iter().map(|name| name.as_str().to_owned()).collect(),
            ..There::default()
        };
        let now = Millis(self.now);
        let seen = match self.sees {
            Sees::Kernel => Seen::Known(self.told.clone()),
            Sees::NothingBefore(then) if self.now >= then => Seen::Known(self.told.clone()),
            Sees::NothingBefore(_) => Seen::NotYet,
            Sees::Nothing => Seen::Never,
        };
        let asked = self.mover.turn(now, &self.wanted, &mut there, &seen, &self.reconciler, |_| false);
        let steps = self.reconciler.steps(now, &asked, &there);
        self.was_busy = !steps.is_empty();
        for step in steps {
            self.take(&step);
            self.reconciler.answered(now, &step, Ok(()));
        }
        for child in &self.children {
            self.was_up.extend(ConnectionName::ours(&child.connection));
        }
        let with_children: BTreeSet<&str> =
            self.children.iter().map(|child| child.connection.as_str()).collect();
        for name in &self.was_up {
            assert!(with_children.contains(name.as_str()), "{name} has no children at {} ms", self.now);
        }
        seconds
    }

    pub(crate) fn seconds(&mut self, seconds: u64) {
        let mut passed = 0;
        while passed < seconds {
            passed += self.pass();
        }
    }

    fn traffic(&mut self, seconds: u64) {
        // What goes out goes by the newest of a name.
        let newest: BTreeMap<String, usize> =
            self.children.iter().enumerate().map(|(at, child)| (child.child.clone(), at)).collect();
        let rates: BTreeMap<&str, u64> =
            self.rates.iter().map(|(name, rate)| (name.as_str(), *rate)).collect();
        for at in newest.into_values() {
            let rate = rates.get(self.children[at].connection.as_str()).copied().unwrap_or_default();
            let moved = seconds * rate * (70 + self.random.below(60)) / 100 / 2;
            let [_, Some(id)] = self.children[at].ids() else { continue };
            if let Some(sa) = self.kernel.get_mut(&id) {
                (sa.bytes, sa.packets) = (sa.bytes + moved, sa.packets + moved / 1_000);
            }
        }
    }

    /// Children come that were asked for.
    fn arrive(&mut self) {
        let (come, wait) = std::mem::take(&mut self.on_their_way)
            .into_iter()
            .partition::<Vec<_>, _>(|(at, ..)| *at <= self.now);
        self.on_their_way = wait;
        for (_, name, child) in come {
            self.make(&name, child, Asked::ByUs);
        }
    }

    /// A child comes, with the settings that its connection is loaded with at this moment.
    fn make(&mut self, name: &ConnectionName, child: String, asked: Asked) {
        let Some(connection) = self.loaded.get(name) else { return };
        let has_room =
            self.kernel.values().filter(|sa| sa.carried > Carried::Software).count() + 2 <= self.room;
        let carried = match (connection.offload, self.takes) {
            (Offload::Auto | Offload::Packet, Takes::CryptoAlone) => return,
            (Offload::Auto | Offload::Packet, Takes::Everything) if has_room => Carried::Packet,
            (Offload::Crypto, Takes::Everything | Takes::CryptoAlone) if has_room => Carried::Crypto,
            (Offload::Auto | Offload::None, _) => Carried::Software,
            (Offload::Packet | Offload::Crypto, _) => return,
        };
        let with = (connection.offload, connection.generation % 64);
        let is_duplicate = |there: &ChildSa| there.child == child && self.made_with[&there.id] == with;
        // Whoever initiates looks for it.
        if asked == Asked::ByUs && self.children.iter().any(is_duplicate) {
            return;
        }
        self.next += 1;
        self.made_with.insert(self.next, with);
        let new = ChildSa {
            connection: name.as_str().to_owned(),
            child,
            id: self.next,
            is_installed: true,
            local: Some(LOCAL),
            remote: Some(connection.remote),
            spis: [Some(self.next), Some(self.next)],
        };
        for id in new.ids().into_iter().flatten() {
            let device = (carried > Carried::Software).then_some(NIC);
            let before =
                self.kernel.insert(id, KernelSa { src: None, carried, device, bytes: 0, packets: 0 });
            assert_eq!(before, None, "a key in two places");
        }
        self.children.push(new);
    }

    /// The peer moves the connection too, and is faster.
    fn peer_comes_first(&mut self, with: &Connection) {
        let name = &with.name;
        let is_another = self.loaded.get(name).is_some_and(|loaded| loaded.offload != with.offload);
        let Some(times) = self.peer_is_first.get_mut(name).filter(|times| is_another && **times > 0) else {
            return;
        };
        *times -= 1;
        for (child, _) in children(with) {
            self.make(name, child, Asked::ByPeer);
        }
    }

    fn take(&mut self, step: &Step) {
        let word = match step {
            Step::Load(connection) => {
                self.peer_comes_first(connection);
                self.loaded.insert(connection.name.clone(), connection.clone());
                "load"
            }
            Step::Initiate { name, child } => {
                if self.random.below(100) >= self.silent_percent {
                    let after = 500 + self.random.below(2_000);
                    self.on_their_way.push((self.now + after, name.clone(), child.clone()));
                }
                "initiate"
            }
            Step::Terminate { id, .. } => {
                let gone = self.children.iter().position(|child| child.id == *id).expect("it was listed");
                for id in self.children.remove(gone).ids().into_iter().flatten() {
                    self.kernel.remove(&id);
                    self.told.sas.remove(&id);
                }
                "terminate"
            }
            Step::Restart(_) | Step::Unload(_) | Step::Guard(_) => {
                panic!("a move takes nothing down: {step:?}")
            }
        };
        *self.steps.entry(word).or_default() += 1;
    }

    /// The NIC goes and comes back; nobody is told that the kernel has lost what it carried.
    pub(crate) fn reset(&mut self) {
        self.kernel.retain(|_, sa| sa.carried == Carried::Software);
    }

    /// The NIC's firmware loses what it has, and the kernel still has it.
    pub(crate) fn firmware_resets(&mut self) {
        self.told.resets.insert(NIC, Millis(self.now));
    }

    pub(crate) fn initiations(&self) -> u64 {
        self.steps.get("initiate").copied().unwrap_or_default()
    }

    /// Connections that have something in the NIC.
    pub(crate) fn in_nic(&self) -> BTreeSet<ConnectionName> {
        let is_in = |child: &&ChildSa| {
            let sas = child.ids().into_iter().flatten().filter_map(|id| self.kernel.get(&id));
            sas.into_iter().any(|sa| sa.carried > Carried::Software)
        };
        let children = self.children.iter().filter(is_in);
        children.filter_map(|child| ConnectionName::ours(&child.connection)).collect()
    }

    /// Bytes per second of those in the NIC, and the most that so many could have.
    pub(crate) fn share(&self, entries: usize) -> (u64, u64) {
        let within = self.in_nic().iter().map(|name| self.rates[name]).sum();
        let mut rates: Vec<u64> = self.rates.values().copied().collect();
        rates.sort_unstable_by_key(|rate| std::cmp::Reverse(*rate));
        (within, rates.into_iter().take(entries).sum())
    }
}
