//! The messages to send. Each is one whole request, to be answered on the socket that sent it.

use crate::action;
use crate::{Chain, EtherType, Filter, FilterAddress, FilterFlags, Handle, Location, Prio, Unsupported};
use alloc::vec::Vec;
use netlink_wire::message::flags;
use netlink_wire::{Ifindex, MessageWriter, Seq};

/// `RTM_NEWQDISC`
const RTM_NEWQDISC: u16 = 36;
/// `RTM_GETQDISC`
const RTM_GETQDISC: u16 = 38;
/// `TC_H_CLSACT`
const TC_H_CLSACT: u32 = 0xffff_fff1;
/// `ffff:`, the only one that the kernel takes for it.
const CLSACT_HANDLE: u32 = 0xffff_0000;
/// `RTM_NEWTFILTER`
pub const RTM_NEWTFILTER: u16 = 44;
/// `RTM_DELTFILTER`
pub const RTM_DELTFILTER: u16 = 45;
/// `RTM_GETTFILTER`
pub const RTM_GETTFILTER: u16 = 46;
/// `RTNLGRP_TC`: the multicast group that reports filters, chains, qdiscs and actions.
pub const RTNLGRP_TC: u32 = 4;

pub(crate) const TCA_KIND: u16 = 1;
pub(crate) const TCA_OPTIONS: u16 = 2;
pub(crate) const TCA_CHAIN: u16 = 11;
const TCA_DUMP_FLAGS: u16 = 15;
const TCA_DUMP_FLAGS_TERSE: u32 = 1;

/// How much a dump is to tell of each filter.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Detail {
    /// Everything.
    Full,
    /// `TCA_DUMP_FLAGS_TERSE`: flags, and of each action its kind, cookie and counters.
    Terse,
}

/// What becomes of a filter's actions when it is replaced.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ReplaceActions {
    /// The kernel makes new ones, whose counters start at 0. The only way from skip_hw into hardware: an action born
    /// under skip_hw can never serve a filter without it (`tcf_action_init()`). Meters stay who they are.
    Fresh,
    /// The filter keeps its actions and their counters. Good for demoting.
    Kept,
}

/// A request about the filters of one location, with `struct tcmsg` and `TCA_CHAIN` filled in.
fn begin(kind: u16, flags: u16, address: &FilterAddress, seq: Seq) -> MessageWriter {
    let mut writer = MessageWriter::new(kind, flags | flags::REQUEST, seq);
    let (ifindex, parent) = address.location.to_tcmsg();
    let info = (u32::from(address.prio.0) << 16) | u32::from(address.protocol.0.to_be());
    let mut header = [0; 20];
    header[4..8].copy_from_slice(&ifindex.to_ne_bytes());
    header[8..12].copy_from_slice(&address.handle.0.to_ne_bytes());
    header[12..16].copy_from_slice(&parent.to_ne_bytes());
    header[16..20].copy_from_slice(&info.to_ne_bytes());
    writer.fixed(&header);
    writer
}

/// Asks for the qdiscs of all devices.
pub fn dump_qdiscs(seq: Seq) -> Vec<u8> {
    let mut writer = MessageWriter::new(RTM_GETQDISC, flags::REQUEST | flags::DUMP, seq);
    writer.fixed(&[0; 20]);
    writer.finish().expect("a request of fixed size")
}

/// Asks for all filters of a location, of one chain or of all.
pub fn dump(location: Location, chain: Option<Chain>, detail: Detail, seq: Seq) -> Vec<u8> {
    let nowhere =
        FilterAddress { location, chain: Chain(0), prio: Prio(0), protocol: EtherType(0), handle: Handle(0) };
    let mut writer = begin(RTM_GETTFILTER, flags::DUMP, &nowhere, seq);
    if let Some(chain) = chain {
        writer.put_u32(TCA_CHAIN, chain.0);
    }
    if detail == Detail::Terse {
        writer.put_bitfield32(TCA_DUMP_FLAGS, TCA_DUMP_FLAGS_TERSE, TCA_DUMP_FLAGS_TERSE);
    }
    writer.finish().expect("a request of fixed size")
}

/// Asks for one filter. The answer is the filter, or ENOENT.
pub fn get(address: &FilterAddress, seq: Seq) -> Vec<u8> {
    let mut writer = begin(RTM_GETTFILTER, 0, address, seq);
    put_kind_and_chain(&mut writer, address);
    writer.finish().expect("a request of fixed size")
}

/// Deletes one filter.
pub fn delete(address: &FilterAddress, seq: Seq) -> Vec<u8> {
    let mut writer = begin(RTM_DELTFILTER, flags::ACK, address, seq);
    put_kind_and_chain(&mut writer, address);
    writer.finish().expect("a request of fixed size")
}

/// Replaces one filter by this one at the same address; ENOENT where there is none.
///
/// Without `NLM_F_CREATE`, so that a filter which its owner has just deleted does not come back without an owner.
///
/// # Errors
/// A filter longer than a message can be, or with an action that is not understood.
pub fn replace(filter: &Filter, actions: ReplaceActions, seq: Seq) -> Result<Vec<u8>, Unsupported> {
    write_filter(filter, actions, flags::ACK, seq)
}

/// Adds a filter where there is none at this address; EEXIST otherwise. With handle 0 the kernel chooses the handle and
/// reports it in the message it echoes before the ack.
///
/// # Errors
/// A filter longer than a message can be, or with an action that is not understood.
pub fn add(filter: &Filter, seq: Seq) -> Result<Vec<u8>, Unsupported> {
    let flags = flags::ACK | flags::ECHO | flags::CREATE | flags::EXCLUSIVE;
    write_filter(filter, ReplaceActions::Fresh, flags, seq)
}

/// Makes the qdisc `clsact` of a device, with hooks for filters and nothing else; EEXIST where the device has one, or
/// `ingress`. A success is not answered.
pub fn add_clsact(device: Ifindex, seq: Seq) -> Vec<u8> {
    let flags = flags::REQUEST | flags::CREATE | flags::EXCLUSIVE;
    let mut writer = MessageWriter::new(RTM_NEWQDISC, flags, seq);
    let mut header = [0; 20];
    header[4..8].copy_from_slice(&device.0.to_ne_bytes());
    header[8..12].copy_from_slice(&CLSACT_HANDLE.to_ne_bytes());
    header[12..16].copy_from_slice(&TC_H_CLSACT.to_ne_bytes());
    writer.fixed(&header);
    writer.put_text(TCA_KIND, "clsact");
    writer.finish().expect("a request of fixed size")
}

fn put_kind_and_chain(writer: &mut MessageWriter, address: &FilterAddress) {
    writer.put_text(TCA_KIND, "flower");
    if address.chain != Chain(0) {
        writer.put_u32(TCA_CHAIN, address.chain.0);
    }
}

fn write_filter(
    filter: &Filter,
    actions: ReplaceActions,
    flags: u16,
    seq: Seq,
) -> Result<Vec<u8>, Unsupported> {
    let mut writer = begin(RTM_NEWTFILTER, flags, &filter.address, seq);
    put_kind_and_chain(&mut writer, &filter.address);
    let options = writer.begin(TCA_OPTIONS);
    crate::keys::put_filter_options(&mut writer, filter);
    let list = writer.begin(crate::keys::TCA_FLOWER_ACT);
    action::put_actions(&mut writer, &filter.actions, filter.flags, actions)?;
    writer.end(list);
    writer.put_u32(crate::keys::TCA_FLOWER_FLAGS, (filter.flags & FilterFlags::REQUESTABLE).0);
    writer.end(options);
    Ok(writer.finish()?)
}
