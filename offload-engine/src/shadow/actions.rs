//! What is done with the packets: a megaflow's actions as TC's.
//!
//! Sources: Linux 6.12, `do_execute_actions()` of `net/openvswitch/actions.c` and what `flow_netlink.c` lets in;
//! `net/sched/act_*.c`. Where both come to the same function (`skb_vlan_push()`, `skb_mpls_pop()`, …), so do they here.

use super::layout::{Origin, RARP};
use super::rewrite;
use super::tunnel;
use super::untranslatable::{Done, Untranslatable};
use super::{Abilities, Headers, keys};
use crate::ports::{PortFacts, PortKind};
use alloc::boxed::Box;
use alloc::vec::Vec;
use netlink_wire::ovs_flow::{FlowAction, FlowActions, SetField};
use netlink_wire::{DpPort, EtherType, Masked};
use tc_flower::action::{
    Csum, CsumFlags, Direction, Gact, Mirred, MirredTarget, Mpls, MplsCommand, Skbedit, TunnelKey, TunnelSet,
    Vlan,
};
use tc_flower::{Action, ActionFlags, ActionKind, Control, Cookie};

/// `TCA_ACT_MAX_PRIO`
const ACTIONS_MAX: usize = 32;
/// `OVS_KEY_ATTR_MPLS`, `OVS_KEY_ATTR_TUNNEL`
const KEY_MPLS: u16 = 21;
const KEY_TUNNEL: u16 = 16;

type Outcome<T> = Result<T, Untranslatable>;

/// The actions of a filter, for packets with these headers.
pub(super) fn of<'p>(
    actions: &FlowActions<'_>,
    origin: Origin,
    headers: Headers,
    kernel: Abilities,
    port: &dyn Fn(DpPort) -> Option<&'p PortFacts>,
) -> Outcome<Vec<Action>> {
    let mut list = List {
        done: Vec::new(),
        through_output: 0,
        cookie: origin.cookie(),
        checksums: CsumFlags::NONE,
        tunnel: None,
        released: false,
        headers,
        kernel,
    };
    for action in actions.iter() {
        if let FlowAction::Drop(_) = action {
            break;
        }
        list.take(&action, port)?;
    }
    list.finish()
}

struct List {
    done: Vec<Action>,
    /// How many of them there are up to the last output: what comes after has no effect.
    through_output: usize,
    cookie: Cookie,
    /// Checksums that the rewrites since the last other action spoilt.
    checksums: CsumFlags,
    /// The tunnel that was set, until packets are sent there.
    tunnel: Option<TunnelSet>,
    /// Whether packets have forgotten the tunnel they came out of.
    released: bool,
    headers: Headers,
    kernel: Abilities,
}

impl List {
    fn take<'p>(
        &mut self,
        action: &FlowAction<'_>,
        port: &dyn Fn(DpPort) -> Option<&'p PortFacts>,
    ) -> Outcome<()> {
        let why = match action {
            FlowAction::Output(to) => {
                let port = port(*to).ok_or(Untranslatable::UnknownPort(*to))?;
                return self.output(port);
            }
            FlowAction::Set(field) => return self.set(field),
            FlowAction::PushVlan { tpid, tci } => return self.push_vlan(*tpid, *tci),
            FlowAction::PopVlan => return self.pop_vlan(),
            FlowAction::PushMpls { lse, ethertype } => return self.push_mpls(*lse, *ethertype),
            FlowAction::PopMpls(ethertype) => return self.pop_mpls(*ethertype),
            FlowAction::DecTtl(_) => return self.dec_ttl(),
            // Nothing is tracked here.
            FlowAction::CtClear => return Ok(()),
            FlowAction::Userspace(_) => Done::Userspace,
            FlowAction::Sample { .. } | FlowAction::Psample { .. } => Done::Sample,
            FlowAction::Recirc(_) => Done::Recirculate,
            FlowAction::Hash { .. } => Done::Hash,
            FlowAction::Ct(_) => Done::Conntrack,
            FlowAction::Meter(_) => Done::Meter,
            FlowAction::Trunc(_) => Done::Truncate,
            FlowAction::Clone(_) => Done::Clone,
            FlowAction::CheckPacketLength { .. } => Done::CheckLength,
            FlowAction::PushEth { .. } | FlowAction::PopEth => Done::Ethernet,
            FlowAction::PushNsh(_) | FlowAction::PopNsh => Done::Nsh,
            FlowAction::AddMpls { .. } => Done::AddMpls,
            FlowAction::Unknown { attr, .. } => Done::Unknown(*attr),
            // Those that end the list were taken before.
            _ => Done::Unknown(0),
        };
        Err(Untranslatable::Action(why))
    }

    fn push(&mut self, kind: ActionKind) {
        self.done.push(Action::new(kind, Control::Pipe));
    }

    /// Actions that Open vSwitch has share one counter for all processors.
    fn push_counted(&mut self, kind: ActionKind) {
        self.done.push(Action { flags: ActionFlags::NO_PERCPU_STATS, ..Action::new(kind, Control::Pipe) });
    }

    /// Before anything else than a rewrite: the checksums that rewrites spoilt.
    fn settle_checksums(&mut self) {
        let update = core::mem::take(&mut self.checksums);
        if update != CsumFlags::NONE {
            self.push(ActionKind::Csum(Csum { update }));
        }
    }

    /// A packet that came out of a tunnel forgets it before it is sent on, or it would be sent back through it.
    fn release(&mut self) {
        if self.headers.of_tunnel && !core::mem::replace(&mut self.released, true) {
            self.push(ActionKind::TunnelKey(TunnelKey::Release));
        }
    }

    fn output(&mut self, port: &PortFacts) -> Outcome<()> {
        self.settle_checksums();
        self.release();
        if port.kind == PortKind::Tunnel {
            // Set for every output anew: a driver takes it for the next one only.
            let set = self.tunnel.clone().ok_or(Untranslatable::Action(Done::OutputWithoutTunnel))?;
            self.push_counted(ActionKind::TunnelKey(TunnelKey::Set(Box::new(set))));
        }
        let direction = match port.kind {
            PortKind::Internal => {
                // `PACKET_HOST`: what is received there is for this host.
                self.push(ActionKind::Skbedit(Skbedit { packet_type: Some(0), ..Skbedit::default() }));
                Direction::Ingress
            }
            _ => Direction::Egress,
        };
        let target = MirredTarget::Device(port.ifindex);
        self.push_counted(ActionKind::Mirred(Mirred { target, direction, copy: true }));
        self.through_output = self.done.len();
        Ok(())
    }

    fn set(&mut self, field: &SetField<'_>) -> Outcome<()> {
        let cannot = Untranslatable::Action(Done::Set(field.key));
        match field.key {
            KEY_TUNNEL => {
                let tunnel = field.keys().ok().and_then(|keys| keys.tunnel).filter(|_| !field.masked);
                self.tunnel = Some(tunnel::set(&tunnel.ok_or(cannot)?, self.kernel)?);
            }
            KEY_MPLS => {
                let entry = field.keys().ok().and_then(|keys| keys.mpls[0]);
                self.set_mpls(entry.ok_or(cannot)?)?;
            }
            _ => {
                let rewrite = rewrite::of(field, &mut self.headers)?;
                self.rewrite(rewrite);
            }
        }
        Ok(())
    }

    fn push_vlan(&mut self, tpid: EtherType, tci: u16) -> Outcome<()> {
        // The action takes no id of all ones (`tcf_vlan_init()`).
        if !tpid.is_vlan() || tci & 0x1000 == 0 || tci & 0xfff == 0xfff {
            return Err(Untranslatable::Action(Done::Vlan));
        }
        self.settle_checksums();
        let (id, prio) = (tci & 0xfff, Some((tci >> 13) as u8));
        self.push_counted(ActionKind::Vlan(Vlan::Push { id, protocol: Some(tpid), prio }));
        self.headers.tags += 1;
        Ok(())
    }

    /// Where there is no tag, nothing happens (`skb_vlan_pop()`).
    fn pop_vlan(&mut self) -> Outcome<()> {
        if self.headers.tags == 0 {
            return Ok(());
        }
        self.settle_checksums();
        self.push_counted(ActionKind::Vlan(Vlan::Pop));
        self.headers.tags -= 1;
        Ok(())
    }

    /// The kernel datapath lets labels in only where there is no tag, and before these types only.
    fn push_mpls(&mut self, lse: u32, ethertype: EtherType) -> Outcome<()> {
        let before = [EtherType::IPV4, EtherType::IPV6, EtherType::ARP, RARP];
        let is_before = self.headers.ethertype.is_some_and(|of| before.contains(&of) || keys::is_mpls(of));
        let ttl = lse as u8;
        // The action takes a time to live of 0 for none, and puts in another.
        if self.headers.tags != 0 || !is_before || !keys::is_mpls(ethertype) || ttl == 0 {
            return Err(Untranslatable::Action(Done::Mpls));
        }
        self.settle_checksums();
        self.push(ActionKind::Mpls(Mpls {
            command: MplsCommand::Push,
            protocol: Some(ethertype),
            label: Some(lse >> 12),
            tc: Some((lse >> 9 & 7) as u8),
            ttl: Some(ttl),
            bos: Some((lse >> 8 & 1) as u8),
        }));
        self.headers.now_is(Some(ethertype));
        Ok(())
    }

    fn pop_mpls(&mut self, ethertype: EtherType) -> Outcome<()> {
        let has_label = self.headers.ethertype.is_some_and(keys::is_mpls);
        let has_name = ethertype.0 >= 0x600 && ethertype != EtherType::TEB;
        if self.headers.tags != 0 || !has_label || !has_name {
            return Err(Untranslatable::Action(Done::Mpls));
        }
        self.settle_checksums();
        self.push(ActionKind::Mpls(Mpls {
            command: MplsCommand::Pop,
            protocol: Some(ethertype),
            label: None,
            tc: None,
            ttl: None,
            bos: None,
        }));
        // Nobody looked whether what was uncovered is of that type.
        self.headers.now_is(Some(ethertype).filter(|ethertype| keys::is_mpls(*ethertype)));
        Ok(())
    }

    fn set_mpls(&mut self, entry: Masked<u32>) -> Outcome<()> {
        let cannot = Untranslatable::Action(Done::Set(KEY_MPLS));
        if self.headers.tags != 0 || !self.headers.ethertype.is_some_and(keys::is_mpls) {
            return Err(Untranslatable::Action(Done::SetOfOther));
        }
        let part = |shift: u32, ones: u32| match entry.mask >> shift & ones {
            0 => Ok(None),
            mask if mask == ones => Ok(Some(entry.value >> shift & ones)),
            _ => Err(cannot),
        };
        let (label, tc, bos, ttl) = (part(12, 0xfffff)?, part(9, 7)?, part(8, 1)?, part(0, 0xff)?);
        if ttl == Some(0) {
            return Err(cannot);
        }
        if entry.mask == 0 {
            return Ok(());
        }
        self.settle_checksums();
        self.push(ActionKind::Mpls(Mpls {
            command: MplsCommand::Modify,
            protocol: None,
            label,
            tc: tc.map(|tc| tc as u8),
            ttl: ttl.map(|ttl| ttl as u8),
            bos: bos.map(|bos| bos as u8),
        }));
        Ok(())
    }

    /// TC has no exception for packets whose time is over, so that it has to be certain. Open vSwitch itself matches the time
    /// to live, and sets it; only others use this action.
    fn dec_ttl(&mut self) -> Outcome<()> {
        let ttl = self.headers.ttl.filter(|ttl| *ttl > 1).ok_or(Untranslatable::Action(Done::DecTtl))?;
        let rewrite = rewrite::time_to_live(ttl - 1, &mut self.headers)?;
        self.rewrite(rewrite);
        Ok(())
    }

    fn rewrite(&mut self, rewrite: rewrite::Rewrite) {
        if !rewrite.pedit.keys.is_empty() {
            self.checksums = self.checksums | rewrite.checksums;
            self.push(ActionKind::Pedit(rewrite.pedit));
        }
    }

    fn finish(mut self) -> Outcome<Vec<Action>> {
        self.done.truncate(self.through_output);
        match self.done.last_mut() {
            Some(last) => {
                last.control = Control::Stolen;
                if let ActionKind::Mirred(mirred) = &mut last.kind {
                    mirred.copy = false;
                }
            }
            None => self.done.push(Action {
                flags: ActionFlags::NO_PERCPU_STATS,
                ..Action::new(ActionKind::Gact(Gact::default()), Control::Drop)
            }),
        }
        if self.done.len() > ACTIONS_MAX {
            return Err(Untranslatable::TooManyActions);
        }
        for action in &mut self.done {
            if matches!(action.kind, ActionKind::Mirred(_) | ActionKind::Gact(_)) {
                action.cookie = Some(self.cookie);
            }
        }
        Ok(self.done)
    }
}
