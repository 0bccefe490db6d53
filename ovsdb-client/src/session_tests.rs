use super::*;
use crate::condition::Clause;
use crate::replica::Inconsistent;

const SECOND: Duration = Duration::from_secs(1);
const UUID: &str = "00000000-0000-0000-0000-000000000001";

crate::table! {
    struct Port in "Port" {
        name: String,
    }
}

fn session() -> (Session, Instant) {
    session_of(SessionConfig {
        monitor: Monitor::new("db").rows::<Port>(),
        probe_interval: Some(SECOND),
        leader_only: false,
    })
}

fn session_of(config: SessionConfig) -> (Session, Instant) {
    let now = Instant::now();
    let mut session = Session::new(config);
    session.connected(now);
    (session, now)
}

/// The only frame that waits to be sent.
fn sent(session: &mut Session) -> Value {
    let frame = session.poll_send().expect("a frame waits to be sent");
    assert!(session.poll_send().is_none(), "only one frame waits to be sent");
    serde_json::from_slice(&frame).unwrap()
}

fn receive(session: &mut Session, message: &Value) -> Result<(), LinkError> {
    session.handle_frame(message.to_string().as_bytes())
}

/// Answers the only frame that waits to be sent, which has to be of a method.
fn answer(session: &mut Session, method: &str, result: Value) -> Value {
    let request = sent(session);
    assert_eq!(request["method"], method);
    receive(session, &json!({"id": request["id"], "result": result, "error": null})).unwrap();
    request
}

fn refuse(session: &mut Session, method: &str, error: Value) -> Result<(), LinkError> {
    let request = sent(session);
    assert_eq!(request["method"], method);
    receive(session, &json!({"id": request["id"], "result": null, "error": error}))
}

fn schema() -> Value {
    json!({"name": "db", "version": "1.0.0", "tables": {"Port": {"columns": {"name": {"type": "string"}}}}})
}

fn one_row(name: &str) -> Value {
    json!({"Port": {UUID: {"initial": {"name": name}}}})
}

fn live() -> (Session, Instant) {
    let (mut session, now) = session();
    answer(&mut session, "get_schema", schema());
    answer(&mut session, "monitor_cond_since", json!([false, UUID, one_row("a")]));
    assert!(session.is_live());
    while session.poll_event().is_some() {}
    (session, now)
}

fn reconnect(session: &mut Session, why: &LinkError, now: Instant) {
    session.disconnected(why);
    assert!(!session.is_live());
    session.connected(now);
    while session.poll_event().is_some() {}
}

#[test]
fn an_older_server_is_monitored_by_an_older_method() {
    let (mut session, _) = session();
    answer(&mut session, "get_schema", schema());
    refuse(&mut session, "monitor_cond_since", json!("unknown method")).unwrap();
    refuse(&mut session, "monitor_cond", json!({"error": "unknown method"})).unwrap();
    let row = json!({"Port": {UUID: {"new": {"name": "a"}}}});
    let request = answer(&mut session, "monitor", row);
    assert_eq!(request["params"], json!(["db", "db", {"Port": [{"columns": ["name"]}]}]));
    assert!(session.is_live() && session.tables().len() == 1);
    let update = json!({"method": "update", "params": ["db", {"Port": {UUID: {"old": {"name": "a"}, "new": {"name": "b"}}}}], "id": null});
    receive(&mut session, &update).unwrap();
    assert_eq!(session.tables().rows::<Port>().next().unwrap().unwrap().1.name, "b");
}

#[test]
fn a_monitor_that_is_refused_for_another_reason_is_not_tried_by_an_older_method() {
    let (mut session, _) = session();
    answer(&mut session, "get_schema", schema());
    let refused =
        refuse(&mut session, "monitor_cond_since", json!({"error": "syntax error", "details": "d"}));
    assert!(matches!(refused, Err(LinkError::Refused { .. })), "{refused:?}");
}

#[test]
fn the_next_connection_asks_for_what_came_after_the_last_update() {
    let (mut session, now) = live();
    let second = "00000000-0000-0000-0000-000000000002";
    let update = json!({"method": "update3", "params": ["db", second, {"Port": {UUID: {"modify": {"name": "b"}}}}], "id": null});
    receive(&mut session, &update).unwrap();
    reconnect(&mut session, &LinkError::Silent, now);
    answer(&mut session, "get_schema", schema());
    let changes = json!({"Port": {UUID: {"modify": {"name": "c"}}}});
    let request = answer(&mut session, "monitor_cond_since", json!([true, second, changes]));
    assert_eq!(request["params"][3], second);
    assert!(matches!(session.poll_event(), Some(SessionEvent::Changes(changes)) if changes.len() == 1));
    assert!(matches!(session.poll_event(), Some(SessionEvent::Synchronised { continued: true, .. })));
}

#[test]
fn rows_that_go_with_another_schema_or_condition_are_fetched_afresh() {
    let (mut session, now) = live();
    reconnect(&mut session, &LinkError::Silent, now);
    answer(
        &mut session,
        "get_schema",
        json!({"name": "db", "tables": {"Port": {"columns": {"name": {"type": {"key": "string"}}}}}}),
    );
    let request = answer(&mut session, "monitor_cond_since", json!([true, UUID, {}]));
    assert_eq!(request["params"][3], UUID, "the same type written otherwise is the same schema");

    reconnect(&mut session, &LinkError::Silent, now);
    session.set_condition("Port", Condition::Any(vec![Clause::equal("name", "a")]));
    answer(&mut session, "get_schema", schema());
    let request = answer(&mut session, "monitor_cond_since", json!([false, UUID, one_row("a")]));
    assert_eq!(request["params"][3], "00000000-0000-0000-0000-000000000000");
    assert_eq!(request["params"][2]["Port"][0]["where"], json!([["name", "==", "a"]]));
}

#[test]
fn an_update_of_an_unknown_row_fetches_everything_afresh() {
    let (mut session, now) = live();
    let unknown = "00000000-0000-0000-0000-00000000000f";
    let update = json!({"method": "update3", "params": ["db", UUID, {"Port": {unknown: {"modify": {"name": "x"}}}}], "id": null});
    let error = receive(&mut session, &update).unwrap_err();
    assert!(matches!(&error, LinkError::Inconsistent(Inconsistent { table, .. }) if table == "Port"));
    reconnect(&mut session, &error, now);
    answer(&mut session, "get_schema", schema());
    let request = answer(&mut session, "monitor_cond_since", json!([false, UUID, one_row("a")]));
    assert_eq!(request["params"][3], "00000000-0000-0000-0000-000000000000");
    assert!(
        matches!(session.poll_event(), Some(SessionEvent::Synchronised { continued: false, .. })),
        "the row is as it was, so there is nothing to report"
    );
}

#[test]
fn bad_messages_end_the_connection_and_leave_the_rows() {
    for bad in [
        json!({"method": "update3", "params": ["db", UUID], "id": null}),
        json!({"method": "update3", "params": ["db", "x", {}], "id": null}),
        json!({"method": "update3", "params": ["other", UUID, {}], "id": null}),
        json!({"method": "update2", "params": ["db", {}], "id": null}),
        json!({"method": "update3", "params": ["db", UUID, {"Port": {UUID: {"modify": {"name": 5}}}}], "id": null}),
        json!({"method": "update3", "params": ["db", UUID, {"Port": {UUID: {"modify": {"colour": "x"}}}}], "id": null}),
        json!({"method": "monitor_canceled", "params": ["db"], "id": null}),
        json!({"method": "locked", "params": [], "id": null}),
        json!({"id": 999, "result": {}, "error": null}),
        json!({"id": "x", "result": {}, "error": null}),
        json!([]),
    ] {
        let (mut session, _) = live();
        assert!(receive(&mut session, &bad).is_err(), "{bad}");
        assert!(session.poll_event().is_none(), "{bad}");
        assert_eq!(session.tables().rows::<Port>().next().unwrap().unwrap().1.name, "a");
    }
}

#[test]
fn replies_of_the_wrong_form_end_the_connection() {
    for (schema_reply, monitor_reply) in [
        (json!([]), None),
        (json!({"name": "db", "tables": []}), None),
        (schema(), Some(json!({}))),
        (schema(), Some(json!([false, UUID]))),
        (schema(), Some(json!([0, UUID, {}]))),
        (schema(), Some(json!([false, UUID, {"Bridge": {}}]))),
        (schema(), Some(json!([false, UUID, {"Port": {UUID: {"modify": {}}}}]))),
    ] {
        let (mut session, _) = session();
        let request = sent(&mut session);
        let reply = json!({"id": request["id"], "result": schema_reply, "error": null});
        let Some(monitor_reply) = monitor_reply else {
            assert!(receive(&mut session, &reply).is_err(), "{schema_reply}");
            continue;
        };
        receive(&mut session, &reply).unwrap();
        let request = sent(&mut session);
        let reply = json!({"id": request["id"], "result": monitor_reply, "error": null});
        assert!(receive(&mut session, &reply).is_err(), "{monitor_reply}");
        assert!(session.tables().is_empty());
    }
}

#[test]
fn a_silent_server_is_probed_once_and_then_given_up() {
    let (mut session, now) = live();
    session.handle_timeout(now + SECOND / 2).unwrap();
    assert!(session.poll_send().is_none(), "it is too early");
    assert_eq!(session.poll_timeout(), Some(now + SECOND));
    session.handle_timeout(now + SECOND).unwrap();
    assert_eq!(sent(&mut session)["method"], "echo");
    assert_eq!(session.poll_timeout(), Some(now + 2 * SECOND));
    session.heard(now + SECOND + SECOND / 2);
    session.handle_timeout(now + 2 * SECOND).unwrap();
    assert!(session.poll_send().is_none(), "it was heard");
    session.handle_timeout(now + 3 * SECOND).unwrap();
    assert!(matches!(session.handle_timeout(now + 4 * SECOND), Err(LinkError::Silent)));
}

#[test]
fn the_servers_own_echo_is_answered_and_its_other_requests_are_refused() {
    let (mut session, _) = live();
    receive(&mut session, &json!({"id": "echo", "method": "echo", "params": [1, "x"]})).unwrap();
    assert_eq!(sent(&mut session), json!({"id": "echo", "result": [1, "x"], "error": null}));
    receive(&mut session, &json!({"id": 5, "method": "format", "params": []})).unwrap();
    assert_eq!(sent(&mut session), json!({"id": 5, "result": null, "error": "unknown method"}));
}

#[test]
fn a_request_in_flight_when_the_connection_breaks_has_an_unknown_outcome() {
    let (mut session, _) = live();
    session.request(Token(7), "transact", &crate::jsonrpc::raw(&["db"]).unwrap());
    session.disconnected(&LinkError::Silent);
    assert!(matches!(
        session.poll_event(),
        Some(SessionEvent::Answer(Token(7), Err(RequestError::OutcomeUnknown)))
    ));
    session.request(Token(8), "transact", &crate::jsonrpc::raw(&["db"]).unwrap());
    assert!(matches!(session.poll_event(), Some(SessionEvent::Answer(Token(8), Err(RequestError::Busy)))));
}

#[test]
fn requests_in_flight_are_bounded() {
    let (mut session, _) = live();
    let params = crate::jsonrpc::raw(&["db"]).unwrap();
    for token in 0..IN_FLIGHT_MAX as u64 {
        assert!(session.accepts_requests());
        session.request(Token(token), "echo", &params);
    }
    assert!(!session.accepts_requests());
    session.request(Token(0), "echo", &params);
    assert!(matches!(session.poll_event(), Some(SessionEvent::Answer(_, Err(RequestError::Busy)))));
}

#[test]
fn conditions_set_while_a_change_is_on_its_way_follow_it() {
    let (mut session, _) = live();
    session.set_condition("Port", Condition::Never);
    let first = sent(&mut session);
    assert_eq!(first["params"], json!(["db", "db", {"Port": [{"where": [false]}]}]));
    session.set_condition("Port", Condition::Any(vec![Clause::equal("name", "b")]));
    assert!(session.poll_send().is_none(), "one change at a time");
    receive(&mut session, &json!({"id": first["id"], "result": {}, "error": null})).unwrap();
    assert!(session.poll_event().is_none(), "the second is not in force yet");
    answer(&mut session, "monitor_cond_change", json!({}));
    assert!(matches!(session.poll_event(), Some(SessionEvent::ConditionsApplied)));
}

fn databases(leader: bool) -> Value {
    let row = json!({"name": "db", "model": "clustered", "connected": true, "leader": leader});
    json!({"Database": {UUID: {"initial": row}}})
}

fn leader_only() -> Session {
    let (mut session, _) = session_of(SessionConfig {
        monitor: Monitor::new("db").rows::<Port>(),
        probe_interval: None,
        leader_only: true,
    });
    let column = |kind: &str| json!({"type": kind});
    let columns = json!({"name": column("string"), "model": column("string"),
        "connected": column("boolean"), "leader": column("boolean")});
    answer(
        &mut session,
        "get_schema",
        json!({"name": "_Server", "tables": {"Database": {"columns": columns}}}),
    );
    session
}

#[test]
fn a_server_that_does_not_lead_is_left_when_only_the_leader_will_do() {
    let mut session = leader_only();
    let request = sent(&mut session);
    let reply = json!({"id": request["id"], "result": [false, UUID, databases(false)], "error": null});
    assert!(matches!(receive(&mut session, &reply), Err(LinkError::NotLeader { .. })));

    let mut session = leader_only();
    answer(&mut session, "monitor_cond_since", json!([false, UUID, databases(true)]));
    answer(&mut session, "get_schema", schema());
    answer(&mut session, "monitor_cond_since", json!([false, UUID, one_row("a")]));
    assert!(session.is_live());
    let deposed = json!({"method": "update3", "id": null,
        "params": ["_Server", UUID, {"Database": {UUID: {"modify": {"leader": false}}}}]});
    assert!(matches!(receive(&mut session, &deposed), Err(LinkError::NotLeader { .. })));
}

#[test]
fn locks_are_asked_for_on_every_connection_and_stolen_only_once() {
    let (mut session, now) = live();
    session.lock("l", true);
    answer(&mut session, "steal", json!({"locked": true}));
    assert!(matches!(session.poll_event(), Some(SessionEvent::Lock { held: true, .. })));
    session.lock("l", false);
    assert!(session.poll_send().is_none(), "it is ours");
    session.disconnected(&LinkError::Silent);
    assert!(matches!(session.poll_event(), Some(SessionEvent::Lock { held: false, .. })));
    session.connected(now);
    answer(&mut session, "get_schema", schema());
    answer(&mut session, "monitor_cond_since", json!([true, UUID, {}]));
    while session.poll_event().is_some() {}
    answer(&mut session, "lock", json!({"locked": false}));
    assert!(session.poll_event().is_none());
    receive(&mut session, &json!({"method": "locked", "params": ["l"], "id": null})).unwrap();
    assert!(matches!(session.poll_event(), Some(SessionEvent::Lock { held: true, .. })));
    session.unlock("l");
    answer(&mut session, "unlock", json!({}));
    assert!(matches!(session.poll_event(), Some(SessionEvent::Lock { held: false, .. })));
    receive(&mut session, &json!({"method": "locked", "params": ["l"], "id": null})).unwrap();
    assert!(session.poll_event().is_none(), "nobody wants it any more");
}

#[test]
fn a_client_that_monitors_nothing_needs_no_schema() {
    let (mut session, _) =
        session_of(SessionConfig { monitor: Monitor::new("db"), probe_interval: None, leader_only: false });
    answer(&mut session, "echo", json!([]));
    assert!(session.is_live());
}
