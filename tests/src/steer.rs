//! Mode steer, end to end: flows of a real Open vSwitch moved into the NIC and out of it.

mod changes;
pub(crate) mod conntrack;
mod pace;
mod policy;
mod promotion;
mod recording;
mod restarts;
mod totals;
pub(crate) mod tunnels;
mod workload;

use std::time::Duration;

use lab_tests::harness::{
    Daemon, Demo, Failure, Lab, Need, Outcome, Ovs, Receiver, Sender, Simnic, Stream, Test, fact, wait_for,
};
use serde_json::Value;

use changes::{
    an_idle_flow_disappears_and_one_that_only_hardware_sees_does_not,
    an_openflow_change_holds_after_one_revalidation_and_the_flow_is_promoted_again,
};
use conntrack::{
    a_connection_to_a_translated_address_moves_into_the_nic,
    an_established_connection_moves_into_the_nic_as_a_unit_and_an_acl_is_denied_there,
    what_recirculation_joins_is_held_back_where_the_kernel_cannot_go_on_and_says_so,
};
use pace::flows_that_have_counted_come_into_the_nic_with_either_counters;
use policy::a_rule_keeps_a_flow_in_software_and_its_reload_moves_just_that_flow;
use promotion::a_fast_flow_moves_into_the_nic_without_a_loss_and_a_slow_one_stays;
use recording::{
    a_recorded_flow_table_has_the_totals_and_the_share_that_the_daemon_counted,
    what_was_recorded_while_flows_moved_replays_the_same,
};
use restarts::{
    a_port_that_is_removed_and_added_again_has_its_flows_promoted_again,
    nothing_is_lost_while_the_database_server_is_away,
    rules_that_the_nic_lost_in_a_reset_are_noticed_and_placed_again,
    the_flow_is_promoted_again_after_vswitchd_was_killed,
};
use totals::{
    openflow_counters_of_promoted_flows_go_on_and_never_fall,
    totals_are_what_was_sent_across_promotions_demotions_and_restarts,
};
use tunnels::a_tunnelled_flow_is_placed_on_both_hosts_and_their_representors_are_silent;
use tunnels::kinds::every_kind_of_tunnel_is_placed_on_both_hosts_and_its_neighbour_is_followed;
use workload::a_rule_follows_the_namespace_that_the_database_gives_a_port;

pub(crate) const TESTS: &[Test] = &[
    fact!(a_fast_flow_moves_into_the_nic_without_a_loss_and_a_slow_one_stays).needs(NEEDS).per_release(),
    fact!(a_rule_keeps_a_flow_in_software_and_its_reload_moves_just_that_flow).needs(NEEDS),
    fact!(a_rule_follows_the_namespace_that_the_database_gives_a_port).needs(NEEDS),
    fact!(openflow_counters_of_promoted_flows_go_on_and_never_fall).needs(NEEDS).per_release(),
    fact!(an_openflow_change_holds_after_one_revalidation_and_the_flow_is_promoted_again)
        .needs(NEEDS)
        .per_release(),
    fact!(an_idle_flow_disappears_and_one_that_only_hardware_sees_does_not).needs(NEEDS).per_release(),
    fact!(what_was_recorded_while_flows_moved_replays_the_same).needs(NEEDS),
    fact!(a_recorded_flow_table_has_the_totals_and_the_share_that_the_daemon_counted).needs(NEEDS),
    fact!(the_flow_is_promoted_again_after_vswitchd_was_killed).needs(NEEDS).per_release(),
    fact!(nothing_is_lost_while_the_database_server_is_away).needs(NEEDS).per_release(),
    fact!(a_port_that_is_removed_and_added_again_has_its_flows_promoted_again).needs(NEEDS).per_release(),
    fact!(rules_that_the_nic_lost_in_a_reset_are_noticed_and_placed_again).needs(NEEDS).per_release(),
    fact!(totals_are_what_was_sent_across_promotions_demotions_and_restarts).needs(NEEDS).per_release(),
    fact!(a_tunnelled_flow_is_placed_on_both_hosts_and_their_representors_are_silent).needs(NEEDS),
    fact!(every_kind_of_tunnel_is_placed_on_both_hosts_and_its_neighbour_is_followed).needs(NEEDS),
    fact!(what_recirculation_joins_is_held_back_where_the_kernel_cannot_go_on_and_says_so).needs(NEEDS),
    fact!(flows_that_have_counted_come_into_the_nic_with_either_counters).needs(NEEDS).long(),
    fact!(a_connection_to_a_translated_address_moves_into_the_nic).needs(NEEDS_CT),
    fact!(an_established_connection_moves_into_the_nic_as_a_unit_and_an_acl_is_denied_there).needs(NEEDS_CT),
];

const NEEDS: &[Need] = &[Need::Simnic, Need::Daemon];
const NEEDS_CT: &[Need] = &[Need::Simnic, Need::Daemon, Need::Ct];
/// Ports at the receiver: a flow far above the policy's rate, and one far below.
const FAST: u16 = 7001;
const SLOW: u16 = 7003;
/// What the fast flow sends: 6.6 Mbit/s.
const FAST_PER_S: u64 = 600;
/// Packets of what is sent until it is stopped: more than any test has time for.
const UNTIL_STOPPED: u64 = 1_000_000;
/// The longest an emulated guest may take until a flow is where it belongs.
const PLACED_WITHIN: Duration = Duration::from_secs(40);
/// The NIC of the demo topology that Open vSwitch is on.
const NIC: Simnic = Simnic::existing(0);

/// The daemon as a user of this Open vSwitch sets it up: exact OpenFlow counters where a bare replacement would take
/// something out of them, which is since 3.2.
fn start_daemon(lab: &Lab, ovs: &Ovs) -> Outcome<Daemon> {
    Daemon::start(lab, ovs, &config(ovs)?)
}

/// The same daemon, which records what happens in `log`.
fn start_recording_daemon(lab: &Lab, ovs: &Ovs, log: &str) -> Outcome<Daemon> {
    Daemon::start_with(lab, ovs, &config(ovs)?, &["--record", log])
}

fn config(ovs: &Ovs) -> Outcome<String> {
    let counters = if version(ovs)? < (3, 2) { "fast" } else { "exact" };
    Ok(format!("mode = \"steer\"\nsteer.counters = \"{counters}\"\npolicy.min-rate = \"1 Mbit/s\"\n"))
}

/// Open vSwitch's version: major and minor.
pub(crate) fn version(ovs: &Ovs) -> Outcome<(u32, u32)> {
    let text = ovs.appctl(&["version"])?;
    let unreadable = || Failure::new(format!("`ovs-appctl version` answers {text}"));
    let word = text.lines().next().and_then(|line| line.split_whitespace().last()).ok_or_else(unreadable)?;
    let mut parts = word.split('.').map(str::parse);
    match (parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Ok((major, minor)),
        _ => Err(unreadable()),
    }
}

/// Has Open vSwitch decide about `port` of UDP by itself, so that what goes there is a megaflow of its own.
fn set_rule(ovs: &Ovs, port: u16, actions: &str) -> Outcome {
    ovs.ofctl(&["add-flow", "br0", &format!("priority=100,udp,tp_dst={port},actions={actions}")]).map(drop)
}

/// A stream from vm0, going on until it is stopped, to `port` of the remote host, and its receiver.
struct Traffic {
    sender: Sender,
    receiver: Receiver,
}

impl Traffic {
    /// The fast flow, until it is stopped.
    fn fast(demo: &Demo<'_>) -> Outcome<Self> {
        let stream = Stream {
            from_port: 10_001,
            count: UNTIL_STOPPED,
            rate_per_s: FAST_PER_S,
            payload_bytes: 1400,
            ..Stream::default()
        };
        Self::start(demo, FAST, stream)
    }

    fn start(demo: &Demo<'_>, port: u16, stream: Stream<'_>) -> Outcome<Self> {
        let to = format!("{}:{port}", Demo::REMOTE);
        let receiver = Receiver::start(&demo.remote, &to)?;
        Ok(Self { sender: Sender::start_stoppable(&demo.vm0, Stream { to: &to, ..stream })?, receiver })
    }

    /// Stops it and waits until all has come: packets sent, and how many of them are missing.
    fn stop(self) -> Outcome<(u64, u64)> {
        let sent = self.sender.stop()?;
        let received = self.receiver.finish()?;
        lab_tests::ensure!(received.duplicated == 0, "packets came twice: {received:?}");
        lab_tests::ensure!(received.socket_drops == 0, "the receiver was too slow: {received:?}");
        Ok((sent, sent.saturating_sub(received.packets)))
    }
}

/// The megaflow from vm0 to UDP `port`, as our tables have it.
fn flow_to(daemon: &Daemon, port: u16) -> Outcome<Option<Value>> {
    let to = format!("udp(dst={port})");
    let flows = daemon.flows()?;
    Ok(flows
        .into_iter()
        .find(|flow| flow["port"] == "sn0pf0vf0" && flow["key"].as_str().unwrap_or_default().contains(&to)))
}

/// Waits until the megaflow to UDP `port` is in hardware: what our tables say of it then.
fn in_hardware(daemon: &Daemon, port: u16) -> Outcome<Value> {
    wait_for(&format!("the flow to port {port} is in hardware"), PLACED_WITHIN, || {
        Ok(flow_to(daemon, port)?.filter(|flow| flow["placement"] == "hardware"))
    })
}

fn ufid(flow: &Value) -> &str {
    flow["ufid"].as_str().and_then(|ufid| ufid.strip_prefix("ufid:")).unwrap_or_default()
}
