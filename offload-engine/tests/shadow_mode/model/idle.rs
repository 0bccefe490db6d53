//! What Open vSwitch takes for idle: it sees the packets of the kernel datapath, and none that hardware takes.

use super::*;

/// A second of busy flows.
pub(crate) struct Busy {
    /// The longest that Open vSwitch saw no packet of one of them.
    pub(crate) idle: Micros,
    /// Packets of all.
    pub(crate) packets: u64,
    /// Those of them that hardware took.
    pub(crate) by_hardware: u64,
}

impl Run {
    /// Three flows, each with a packet in every millisecond, with early gaps or without.
    pub(crate) fn be_busy_for_a_second(&mut self, gaps: bool) -> Busy {
        self.tell(Event::Settings(Box::new(Settings { gaps, ..settings(self.mode, self.plan) })));
        for number in 1..=3 {
            let flow = Flow { to: 2, packets: 0 };
            self.flows.insert(number, flow);
            self.notify_datapath(Event::Megaflow { round: None, flow: megaflow(number, flow) });
        }
        let mut used: BTreeMap<u64, Micros> = (1..=3).map(|number| (number, self.now)).collect();
        let mut busy = Busy { idle: Micros::ZERO, packets: 0, by_hardware: 0 };
        for _ in 0..1_000 {
            for (number, used) in &mut used {
                let before = self.flows[number].packets;
                self.send(*number, 1);
                busy.packets += 1;
                match self.flows[number].packets > before {
                    true => *used = self.now,
                    false => busy.by_hardware += 1,
                }
                busy.idle = busy.idle.max(self.now.since(*used));
            }
            self.pass(1);
            self.check_rules();
        }
        busy
    }

    /// Time goes by, without packets.
    pub(crate) fn pass(&mut self, millis: u32) {
        for _ in 0..millis {
            self.now = self.now.plus(Micros::from_millis(1));
            self.wake();
            self.deliver_datapath(usize::MAX);
            self.go_on_dumping();
            self.deliver_tc();
            self.carry_on();
        }
    }

    /// Rules in the NIC.
    pub(crate) fn rules(&self) -> usize {
        self.filters.len()
    }
}
