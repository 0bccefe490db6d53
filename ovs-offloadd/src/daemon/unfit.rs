//! What of a datapath flow Open vSwitch cannot put into TC, where that can be seen.
//!
//! Source: Open vSwitch 3.5, `lib/netdev-offload-tc.c`, `test_key_and_mask()` and `parse_put_flow_actions()`.

use netlink_wire::RecircId;
use netlink_wire::ovs_flow::{FlowAction, FlowActions, FlowKeys, Megaflow};

/// Most actions of one TC filter that Open vSwitch makes (`TCA_ACT_MAX_NUM`).
const ACTIONS_MAX: usize = 16;

/// The likely reason why a flow is in the kernel datapath.
pub(super) fn reason(flow: &Megaflow<'_>, shares_recirc_ids: bool) -> Option<String> {
    let by_actions = flow.actions.as_ref().and_then(unfit_actions);
    let by_keys = flow.keys.as_ref().and_then(|keys| unfit_keys(keys, shares_recirc_ids));
    let by_recirculation = needs_chain_restore(flow, shares_recirc_ids).then_some(
        "it recirculates its packets, and this kernel does not share recirculation ids with TC \
         (CONFIG_NET_TC_SKB_EXT is off)",
    );
    by_actions.or(by_keys).or(by_recirculation).map(str::to_owned)
}

/// Whether it is recirculation alone, on its way in or out, that keeps a flow out of TC.
pub(super) fn needs_chain_restore(flow: &Megaflow<'_>, shares_recirc_ids: bool) -> bool {
    let recirculated =
        |keys: &FlowKeys| keys.recirc_id.is_some_and(|recirc_id| recirc_id.value != RecircId(0));
    let recirculates =
        |actions: &FlowActions<'_>| actions.iter().any(|action| matches!(action, FlowAction::Recirc(_)));
    !shares_recirc_ids
        && (flow.keys.as_ref().is_some_and(recirculated) || flow.actions.as_ref().is_some_and(recirculates))
        && flow.actions.as_ref().and_then(unfit_actions).is_none()
        && flow.keys.as_ref().and_then(|keys| unfit_keys(keys, true)).is_none()
}

fn unfit_actions(actions: &FlowActions<'_>) -> Option<&'static str> {
    if actions.iter().count() > ACTIONS_MAX {
        return Some("it has more than 16 actions");
    }
    actions.iter().find_map(|action| {
        Some(match action {
            FlowAction::Userspace(_) => "it sends packets to ovs-vswitchd (controller, sFlow, slow path)",
            FlowAction::Sample { .. } => "it samples packets",
            FlowAction::Hash { .. } => "it computes a hash (bond or select group)",
            FlowAction::Trunc(_) => "it truncates packets",
            FlowAction::Clone(_) => "it clones packets",
            FlowAction::AddMpls { .. } => "it adds an MPLS label below the network header",
            FlowAction::PushEth { .. } | FlowAction::PopEth => "it pushes or pops an Ethernet header",
            FlowAction::PushNsh(_) | FlowAction::PopNsh => "it pushes or pops an NSH header",
            _ => return None,
        })
    })
}

fn unfit_keys(keys: &FlowKeys, shares_recirc_ids: bool) -> Option<&'static str> {
    let looks_at = |mask: Option<u32>| mask.is_some_and(|mask| mask != 0);
    if let Some(recirc_id) = keys.recirc_id
        && recirc_id.value != RecircId(0)
        && !shares_recirc_ids
    {
        return Some(
            "it is recirculated, and this kernel does not share recirculation ids with TC \
             (CONFIG_NET_TC_SKB_EXT is off)",
        );
    }
    if looks_at(keys.dp_hash.map(|key| key.mask)) {
        return Some("it matches the datapath's hash (bond or select group)");
    }
    if looks_at(keys.skb_mark.filter(|key| key.value != 0).map(|key| key.mask)) {
        return Some("it matches the packet mark");
    }
    if looks_at(keys.priority.map(|key| key.mask)) {
        return Some("it matches the packet's priority");
    }
    if keys.nd.is_some() {
        return Some("it matches IPv6 neighbour discovery");
    }
    if keys.nsh.is_some() {
        return Some("it matches NSH");
    }
    (!keys.unknown.is_empty()).then_some("it matches a key that is not known here")
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_wire::Masked;

    #[test]
    fn a_recirculated_flow_needs_shared_ids() {
        let recirculated = Some(Masked::exact(RecircId(5)));
        let keys = FlowKeys { recirc_id: recirculated, ..FlowKeys::default() };
        assert!(unfit_keys(&keys, false).unwrap().contains("CONFIG_NET_TC_SKB_EXT"));
        assert_eq!(unfit_keys(&keys, true), None);
        let first_pass = FlowKeys { recirc_id: Some(Masked::exact(RecircId(0))), ..FlowKeys::default() };
        assert_eq!(unfit_keys(&first_pass, false), None);
    }

    #[test]
    fn a_key_that_every_value_fits_is_no_reason() {
        let any = Some(Masked::new(0, 0));
        let keys = FlowKeys { dp_hash: any, skb_mark: any, priority: any, ..FlowKeys::default() };
        assert_eq!(unfit_keys(&keys, true), None);
        let hashed = FlowKeys { dp_hash: Some(Masked::new(1, 0xf)), ..FlowKeys::default() };
        assert!(unfit_keys(&hashed, true).is_some());
    }
}
