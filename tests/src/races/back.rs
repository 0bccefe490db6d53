//! How long actions that had been replaced were in place again, as the kernel's notifications tell.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use lab_tests::harness::Seen;
use tc_flower::{Change, FilterAddress};

/// What was ordered by OpenFlow, in order of time.
#[derive(Debug, Default)]
pub(super) struct Orders(Vec<(Instant, Range<u16>, u8)>);

/// Times in which an older action was in place after a newer one had been.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Back {
    pub(super) times: u32,
    pub(super) longest: Duration,
}

impl Orders {
    /// The flows with these source ports are to have this TOS: told before it is ordered.
    pub(super) fn add(&mut self, at: Instant, ports: Range<u16>, tos: u8) {
        self.0.push((at, ports, tos));
    }

    /// Reads from `changes`, in the order in which they were told, when an action that had been replaced was back.
    ///
    /// Whoever put it there: a replacement of ours, or Open vSwitch at our word (`dpctl/mod-flow`). It ends with the next
    /// change at that place. Two changes at one moment may be told in either order, so this can be too long, but not too
    /// short by more than the time a notification takes.
    pub(super) fn time_back(&self, changes: &[Seen]) -> Back {
        let mut there: BTreeMap<FilterAddress, (u16, usize)> = BTreeMap::new();
        let mut flows: BTreeMap<u16, FlowState> = BTreeMap::new();
        let mut back = Back::default();
        for seen in changes {
            // A filter that is made takes the place of one whose end is told later.
            let before = match seen.change {
                Change::Deleted if seen.late => continue,
                Change::Deleted => there.remove(&seen.address),
                Change::New => {
                    let order = seen.source_port.and_then(|port| Some((port, self.order(port, seen)?)));
                    if let Some((port, order)) = order {
                        let flow = flows.entry(port).or_default();
                        flow.newest = flow.newest.max(order);
                    }
                    match order {
                        Some(order) => there.insert(seen.address, order),
                        None => there.remove(&seen.address),
                    }
                }
            };
            let concerned = seen.source_port.into_iter().chain(before.map(|(port, _)| port));
            for port in concerned {
                let Some(flow) = flows.get_mut(&port) else { continue };
                let is_back = there.values().any(|(of, order)| *of == port && *order < flow.newest);
                flow.told(is_back, seen.at, &mut back);
            }
        }
        back
    }

    /// The last order before that, counted from 1, that asked for such an action; before all orders, TOS 0.
    fn order(&self, port: u16, seen: &Seen) -> Option<usize> {
        if !self.0.iter().any(|(_, ports, _)| ports.contains(&port)) {
            return None;
        }
        let asked = self
            .0
            .iter()
            .enumerate()
            .rev()
            .find(|(_, (at, ports, tos))| *at <= seen.at && ports.contains(&port) && *tos == seen.tos);
        asked.map(|(index, _)| index + 1).or((seen.tos == 0).then_some(0))
    }
}

#[derive(Debug, Default)]
struct FlowState {
    /// The newest order that was in place.
    newest: usize,
    back_since: Option<Instant>,
}

impl FlowState {
    fn told(&mut self, is_back: bool, at: Instant, back: &mut Back) {
        match (is_back, self.back_since) {
            (true, None) => self.back_since = Some(at),
            (false, Some(since)) => {
                self.back_since = None;
                back.times += 1;
                back.longest = back.longest.max(at - since);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_wire::Ifindex;
    use tc_flower::{Chain, Handle, Location, Prio};

    fn told(at: Instant, change: Change, tos: u8) -> Seen {
        let address = FilterAddress {
            location: Location::ingress(Ifindex(7)),
            chain: Chain(0),
            prio: Prio(2),
            protocol: tc_flower::EtherType(0x0800),
            handle: Handle(1),
        };
        Seen {
            at,
            portid: 1,
            change,
            address,
            ufid: String::new(),
            was_there: true,
            was_in_hw: false,
            in_hw: false,
            skip_hw: false,
            creates: false,
            late: false,
            source_port: Some(20_000),
            tos,
        }
    }

    #[test]
    fn an_older_action_is_back_until_the_next_change() {
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        let mut orders = Orders::default();
        orders.add(at(10), 20_000..20_040, 4);
        orders.add(at(100), 20_000..20_040, 8);
        let changes = [(20, 4), (30, 4), (110, 4), (120, 8), (130, 4), (155, 8), (160, 4), (163, 8)];
        let told: Vec<Seen> = changes.iter().map(|(ms, tos)| told(at(*ms), Change::New, *tos)).collect();
        let back = orders.time_back(&told);
        assert_eq!(back, Back { times: 2, longest: Duration::from_millis(25) });
        assert_eq!(
            orders.time_back(&told[..4]),
            Back::default(),
            "what has not been replaced yet is not back"
        );
    }

    #[test]
    fn a_deletion_ends_it_and_the_same_action_ordered_again_is_new() {
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        let mut orders = Orders::default();
        for (ms, tos) in [(0, 4), (10, 8), (20, 4)] {
            orders.add(at(ms), 20_000..20_001, tos);
        }
        let told = [
            told(at(1), Change::New, 4),
            told(at(11), Change::New, 8),
            told(at(12), Change::New, 4),
            told(at(19), Change::Deleted, 4),
            told(at(21), Change::New, 4),
        ];
        assert_eq!(orders.time_back(&told), Back { times: 1, longest: Duration::from_millis(7) });
    }

    #[test]
    fn a_place_that_another_flow_takes_is_left_though_its_end_is_told_late() {
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        let mut orders = Orders::default();
        orders.add(at(0), 20_000..20_002, 4);
        orders.add(at(10), 20_000..20_002, 8);
        let mut late = told(at(14), Change::Deleted, 4);
        late.late = true;
        let elsewhere = |mut seen: Seen| {
            seen.address.handle = Handle(2);
            seen
        };
        let told = [
            told(at(1), Change::New, 4),
            elsewhere(told(at(11), Change::New, 8)),
            Seen { source_port: Some(20_001), ..told(at(13), Change::New, 8) },
            late,
            elsewhere(told(at(40), Change::New, 8)),
        ];
        assert_eq!(orders.time_back(&told), Back { times: 1, longest: Duration::from_millis(2) });
    }
}
