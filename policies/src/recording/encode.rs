//! Records as bytes.

use alloc::vec::Vec;

use super::headers::{bytes, code};
use super::wire::Put;
use super::{Amount, Epoch, Flow, Home, Key, Move, NAME_BYTES_MAX, Port, Record, Start};
use crate::language::{Header, Locality};

pub(super) const START: u8 = 1;
pub(super) const NAME: u8 = 2;
pub(super) const PORT: u8 = 3;
pub(super) const FORM: u8 = 4;
/// A megaflow of version 1, without namespace and chassis.
pub(super) const FLOW_1: u8 = 5;
pub(super) const MOVED: u8 = 6;
pub(super) const GONE: u8 = 7;
pub(super) const EPOCH: u8 = 8;
pub(super) const END: u8 = 9;
pub(super) const FLOW: u8 = 10;

/// Who forwarded what a reading tells of.
pub(super) const BY_SOFTWARE: u64 = 0;
pub(super) const BY_HARDWARE: u64 = 1;
pub(super) const BY_BOTH: u64 = 2;

/// Localities, by their codes.
pub(super) const LOCALITIES: [Locality; 4] =
    [Locality::Unknown, Locality::SameNode, Locality::CrossNode, Locality::External];

/// Appends a record to `out`.
pub fn write(out: &mut Vec<u8>, record: &Record<'_>) {
    match record {
        Record::Start(start) => write_start(out, start),
        Record::Name(kind, text) => {
            out.byte(NAME);
            out.byte(*kind as u8);
            let text = cut(text);
            out.byte(text.len() as u8);
            out.extend_from_slice(text.as_bytes());
        }
        Record::Port(Port { name, iface_id }) => {
            out.byte(PORT);
            out.reference(*name);
            out.reference(*iface_id);
        }
        Record::Form(form) => write_form(out, form),
        Record::Flow(flow) => write_flow(out, flow),
        Record::Moved(moves) => write_moves(out, moves),
        Record::Gone(number) => {
            out.byte(GONE);
            out.number(u64::from(*number));
        }
        Record::Epoch(epoch) => write_epoch(out, epoch),
        Record::End(ending) => {
            out.byte(END);
            out.byte(*ending as u8);
        }
    }
}

/// As much of a name as fits.
pub(super) fn cut(text: &str) -> &str {
    let end = (0..=NAME_BYTES_MAX.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text.get(..end.unwrap_or(0)).unwrap_or_default()
}

fn write_start(out: &mut Vec<u8>, start: &Start) {
    out.byte(START);
    out.number(start.wall_s);
    out.number(start.epoch.0);
    out.byte(start.is_anonymised.into());
}

fn write_form(out: &mut Vec<u8>, form: &[(Header, u128)]) {
    out.byte(FORM);
    out.byte(form.len() as u8);
    for (header, mask) in form {
        out.byte(code(*header));
        out.wide(*mask, bytes(*header));
    }
}

/// 0 for "not known", 1 for no, 2 for yes.
fn answer(told: Option<bool>) -> u8 {
    told.map_or(0, |told| u8::from(told) + 1)
}

fn write_flow(out: &mut Vec<u8>, flow: &Flow<'_>) {
    out.byte(FLOW);
    out.number(u64::from(flow.number));
    out.signed(flow.appeared_us);
    out.byte(match flow.home {
        Home::Tc => 0,
        Home::Datapath => 1,
    });
    out.reference(flow.nic.map(u32::from));
    out.reference(flow.key.map(|key| key.form));
    if let Some(Key { fields, values, .. }) = flow.key {
        for ((header, _), value) in fields.iter().zip(values) {
            out.wide(*value, bytes(*header));
        }
    }
    out.reference(flow.inport);
    out.reference(flow.outports.map(|ports| ports.len() as u32));
    for port in flow.outports.unwrap_or_default() {
        out.number(u64::from(*port));
    }
    for name in [flow.encap, flow.tenant, flow.workload, flow.namespace, flow.chassis] {
        out.reference(name);
    }
    let answers = [flow.rewrites, flow.drops, flow.recirculates, flow.encrypted];
    out.byte(answers.into_iter().rev().fold(0, |byte, told| byte << 2 | answer(told)));
    let locality = LOCALITIES.iter().position(|locality| *locality == flow.locality);
    out.byte(locality.unwrap_or(0) as u8);
}

fn write_moves(out: &mut Vec<u8>, moves: &[Move]) {
    out.byte(MOVED);
    out.number(moves.len() as u64);
    let mut next = 0;
    for Move { flow, moved } in moves {
        // Numbers ascend.
        out.number(u64::from(flow.saturating_sub(next)));
        next = flow.saturating_add(1);
        let total = moved.total();
        let who = match (moved.software.is_zero(), moved.hardware.is_zero()) {
            (_, true) => BY_SOFTWARE,
            (true, false) => BY_HARDWARE,
            (false, false) => BY_BOTH,
        };
        // More packets than that no counter of the kernel's has counted in one epoch.
        out.number(total.packets.min(u64::MAX >> 2) << 2 | who);
        out.number(total.bytes);
        if who == BY_BOTH {
            write_amount(out, moved.hardware);
        }
    }
}

fn write_amount(out: &mut Vec<u8>, amount: Amount) {
    out.number(amount.packets);
    out.number(amount.bytes);
}

fn write_epoch(out: &mut Vec<u8>, epoch: &Epoch) {
    out.byte(EPOCH);
    out.number(epoch.past.0);
    write_amount(out, epoch.stray.software);
    write_amount(out, epoch.stray.hardware);
    for number in [epoch.promotions, epoch.demotions, epoch.merged.into(), epoch.left_out.into()] {
        out.number(number);
    }
}
