//! What kind of rule a filter is: where it is, which fields it matches under which masks, and which actions it has.

use crate::action::{Ct, Mpls, Pedit, TunnelKey, TunnelOptions, TunnelSet, Vlan};
use crate::{
    Action, ActionKind, Chain, Control, Filter, FilterAddress, FilterFlags, Handle, Prio, ReplaceActions,
    Unsupported, request,
};
use alloc::boxed::Box;
use netlink_wire::{MacAddr, Masked, Seq};

/// The shape of a filter. A driver that does not take one filter of a shape takes none of it, as a rule.
///
/// Two filters have the same shape if they differ in values only: in the addresses and ports they match, in what is
/// written into the packet, in their priority, handle and cookie. Protocols, TCP flags, fragments and the state of
/// connections count as structure, and so do the devices a packet comes in and goes out by and a tunnel's far end: a
/// driver may refuse because of them.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Shape(
    /// The request that would write the filter without its values, which makes a shape comparable.
    Box<[u8]>,
);

impl Shape {
    /// The shape of `filter`.
    ///
    /// # Errors
    /// A filter that cannot be written.
    pub fn of(filter: &Filter) -> Result<Self, Unsupported> {
        let FilterAddress { location, chain, protocol, .. } = filter.address;
        let address = FilterAddress {
            location,
            chain: kind_of_chain(chain),
            prio: Prio(0),
            protocol,
            handle: Handle(0),
        };
        let bare = Filter {
            address,
            flags: FilterFlags::NONE,
            class_id: filter.class_id,
            indev: filter.indev.clone(),
            keys: filter.keys.without_values(),
            actions: filter.actions.iter().map(without_values).collect(),
        };
        let request = request::replace(&bare, ReplaceActions::Fresh, Seq(0))?;
        Ok(Self(request.into_boxed_slice()))
    }
}

/// The first chain, or any other: Open vSwitch numbers them by recirc_id.
fn kind_of_chain(chain: Chain) -> Chain {
    Chain(chain.0.min(1))
}

fn without_values(action: &Action) -> Action {
    let control = match action.control {
        Control::Goto(chain) => Control::Goto(kind_of_chain(chain)),
        other => other,
    };
    let kind = match &action.kind {
        ActionKind::Vlan(vlan) => ActionKind::Vlan(without_tag(*vlan)),
        ActionKind::Mpls(mpls) => ActionKind::Mpls(Mpls {
            label: mpls.label.map(|_| 0),
            tc: mpls.tc.map(|_| 0),
            ttl: mpls.ttl.map(|_| 0),
            bos: mpls.bos.map(|_| 0),
            ..*mpls
        }),
        ActionKind::TunnelKey(TunnelKey::Set(set)) => {
            ActionKind::TunnelKey(TunnelKey::Set(Box::new(without_id(set))))
        }
        ActionKind::Pedit(pedit) => ActionKind::Pedit(without_new_bits(pedit)),
        ActionKind::Ct(ct) => ActionKind::Ct(Box::new(without_marks(ct))),
        other => other.clone(),
    };
    Action { kind, control, cookie: None, ..action.clone() }
}

fn without_tag(vlan: Vlan) -> Vlan {
    match vlan {
        Vlan::Push { protocol, prio, .. } => Vlan::Push { id: 0, protocol, prio: prio.map(|_| 0) },
        Vlan::Modify { protocol, prio, .. } => Vlan::Modify { id: 0, protocol, prio: prio.map(|_| 0) },
        Vlan::PushEth { .. } => Vlan::PushEth { dst: MacAddr([0; 6]), src: MacAddr([0; 6]) },
        other => other,
    }
}

fn without_id(set: &TunnelSet) -> TunnelSet {
    let options = match &set.options {
        TunnelOptions::Geneve(options) => {
            let mut options = options.clone();
            options.iter_mut().for_each(|option| option.data.fill(0));
            TunnelOptions::Geneve(options)
        }
        TunnelOptions::VxlanGbp(_) => TunnelOptions::VxlanGbp(0),
        TunnelOptions::None => TunnelOptions::None,
    };
    let (id, tos, ttl) = (set.id.map(|_| 0), set.tos.map(|_| 0), set.ttl.map(|_| 0));
    TunnelSet { id, tos, ttl, options, ..set.clone() }
}

fn without_new_bits(pedit: &Pedit) -> Pedit {
    let mut pedit = pedit.clone();
    pedit.keys.iter_mut().for_each(|key| key.value = [0; 4]);
    pedit
}

/// Zones are counted through by Open vSwitch's users, one per port for instance.
fn without_marks(ct: &Ct) -> Ct {
    Ct {
        zone: ct.zone.map(|_| 0),
        mark: ct.mark.map(|mark| Masked { value: 0, ..mark }),
        labels: ct.labels.map(|labels| Masked { value: [0; 16], ..labels }),
        ..ct.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::{Direction, Mirred, MirredTarget, PeditCommand, PeditHeader, PeditKey};
    use crate::keys::{Ip, Ipv4, Udp};
    use crate::{Cookie, Hook, Ifindex, Location, Match};
    use alloc::vec;
    use core::net::Ipv4Addr;
    use netlink_wire::{EtherType, Ufid};

    fn filter(number: u8) -> Filter {
        let address = FilterAddress {
            location: Location::Device { ifindex: Ifindex(7), hook: Hook::Ingress },
            chain: Chain(0),
            prio: Prio(u16::from(number)),
            protocol: EtherType::IPV4,
            handle: Handle(u32::from(number)),
        };
        let keys = Match {
            ip: Ip { proto: Some(17), ..Ip::default() },
            ipv4: Ipv4 { src: Some(Masked::exact(Ipv4Addr::new(10, 0, 0, number))), ..Ipv4::default() },
            udp: Udp { dst: Some(Masked::exact(u16::from(number))), ..Udp::default() },
            ..Match::default()
        };
        let rewrite = PeditKey {
            header: PeditHeader::Ipv4,
            command: PeditCommand::Set,
            offset: 16,
            keep: [0; 4],
            value: [10, 0, 1, number],
            at: 0,
            offset_mask: 0,
            shift: 0,
        };
        let cookie = Some(Cookie::from(Ufid::from_bytes([number; 16])));
        let pedit = ActionKind::Pedit(Pedit { keys: vec![rewrite], ..Pedit::default() });
        let actions = vec![
            Action { cookie, ..Action::new(pedit, Control::Pipe) },
            Action { cookie, ..Action::new(leave(9), Control::Stolen) },
        ];
        Filter { address, flags: FilterFlags::NONE, class_id: None, indev: None, keys, actions }
    }

    fn leave(device: u32) -> ActionKind {
        let target = MirredTarget::Device(Ifindex(device));
        ActionKind::Mirred(Mirred { direction: Direction::Egress, copy: false, target })
    }

    fn shape(filter: &Filter) -> Shape {
        Shape::of(filter).expect("the filter can be written")
    }

    #[test]
    fn filters_that_differ_in_values_only_have_one_shape() {
        assert_eq!(shape(&filter(1)), shape(&filter(2)));
        let mut recirculated = [filter(1), filter(2)];
        recirculated[0].address.chain = Chain(5);
        recirculated[1].address.chain = Chain(6);
        assert_eq!(shape(&recirculated[0]), shape(&recirculated[1]));
        assert_ne!(shape(&recirculated[0]), shape(&filter(1)));
    }

    #[test]
    fn masks_protocols_devices_and_actions_are_structure() {
        let plain = shape(&filter(1));
        let changes: [fn(&mut Filter); 7] = [
            |filter| filter.keys.udp.dst = Some(Masked::new(0, 0xff00)),
            |filter| filter.keys.udp.src = Some(Masked::exact(1)),
            |filter| filter.keys.ip.proto = Some(6),
            |filter| filter.address.location = Location::Device { ifindex: Ifindex(8), hook: Hook::Ingress },
            |filter| filter.actions[1].kind = leave(10),
            |filter| drop(filter.actions.remove(0)),
            |filter| {
                let ActionKind::Pedit(pedit) = &mut filter.actions[0].kind else { return };
                pedit.keys[0].offset = 12;
            },
        ];
        for (number, change) in changes.into_iter().enumerate() {
            let mut changed = filter(1);
            change(&mut changed);
            assert_ne!(shape(&changed), plain, "change {number}");
        }
    }
}
