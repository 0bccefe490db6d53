//! The OVSDB client against a real ovsdb-server of the guest's release.

mod consumer;
mod failure;
mod lock;
mod server;
mod sync;
mod transact;
mod transport;

use lab_tests::harness::{Test, fact};

use failure::{
    a_server_killed_in_the_middle_of_a_reply_costs_a_reconnection_and_nothing_else,
    a_server_that_stops_answering_is_noticed_and_comes_back,
    dropped_futures_neither_lose_an_update_nor_put_the_stream_out_of_step,
    what_a_slow_consumer_leaves_is_a_difference_and_not_a_queue,
};
use lock::{
    a_lock_goes_from_one_client_to_the_other_and_can_be_stolen, a_lock_is_asked_for_again_after_a_restart,
};
use sync::{
    a_cluster_continues_where_the_last_connection_ended, a_condition_can_be_changed_while_rows_flow,
    a_restart_yields_only_what_really_changed, open_vswitchs_own_rows_are_read_as_typed_rows,
    rows_follow_the_server, what_the_schema_lacks_is_named,
};
use transact::{
    a_wait_whose_future_is_dropped_is_cancelled_at_the_server, every_operation_has_its_result,
    every_refusal_names_its_operation_and_its_reason,
};
use transport::{a_server_with_a_foreign_certificate_is_refused, rows_arrive_over_every_transport};

pub(crate) const TESTS: &[Test] = &[
    fact!(rows_arrive_over_every_transport).per_release(),
    fact!(a_server_with_a_foreign_certificate_is_refused).per_release(),
    fact!(every_operation_has_its_result).per_release(),
    fact!(every_refusal_names_its_operation_and_its_reason).per_release(),
    fact!(a_wait_whose_future_is_dropped_is_cancelled_at_the_server).per_release(),
    fact!(rows_follow_the_server).per_release(),
    fact!(a_condition_can_be_changed_while_rows_flow).per_release(),
    fact!(a_restart_yields_only_what_really_changed).per_release(),
    fact!(a_cluster_continues_where_the_last_connection_ended).per_release(),
    fact!(open_vswitchs_own_rows_are_read_as_typed_rows).per_release(),
    fact!(what_the_schema_lacks_is_named).per_release(),
    fact!(a_server_killed_in_the_middle_of_a_reply_costs_a_reconnection_and_nothing_else).per_release(),
    fact!(a_server_that_stops_answering_is_noticed_and_comes_back).per_release(),
    fact!(dropped_futures_neither_lose_an_update_nor_put_the_stream_out_of_step).per_release(),
    fact!(what_a_slow_consumer_leaves_is_a_difference_and_not_a_queue).per_release(),
    fact!(a_lock_goes_from_one_client_to_the_other_and_can_be_stolen).per_release(),
    fact!(a_lock_is_asked_for_again_after_a_restart).per_release(),
];
