//! What a server may send: any bytes are cut, parsed and applied, or refused without harm.
#![no_main]

use std::time::Instant;

use libfuzzer_sys::fuzz_target;
use ovsdb_client::Monitor;
use ovsdb_client::jsonrpc::{Framer, Limits};
use ovsdb_client::session::{Session, SessionConfig};

ovsdb_client::table! {
    struct Thing in "T" {
        name: String,
        maybe: Option<i64>,
        ratio: ovsdb_client::Real,
        tags: Vec<String>,
        options: std::collections::BTreeMap<String, i64>,
        friends: Vec<ovsdb_client::Uuid>,
    }
}

const SCHEMA: &str = r#"{"id":1,"error":null,"result":{"name":"d","tables":{"T":{"columns":{
    "name":{"type":"string"},"maybe":{"type":{"key":"integer","min":0}},"ratio":{"type":"real"},
    "tags":{"type":{"key":"string","min":0,"max":"unlimited"}},
    "options":{"type":{"key":"string","value":"integer","min":0,"max":"unlimited"}},
    "friends":{"type":{"key":"uuid","min":0,"max":"unlimited"}}}}}}}"#;
const ROWS: &str = r#"{"id":2,"error":null,"result":[false,"00000000-0000-0000-0000-000000000001",
    {"T":{"00000000-0000-0000-0000-000000000001":{"initial":{"name":"a","tags":["set",["x","y"]]}}}}]}"#;

fn frames(input: &[u8], piece: usize) -> (Vec<Vec<u8>>, bool) {
    let mut framer = Framer::new(Limits { message_bytes_max: 4096, ..Limits::OVSDB });
    let mut found = Vec::new();
    for bytes in input.chunks(piece) {
        framer.extend(bytes);
        loop {
            match framer.next_frame() {
                Ok(Some(frame)) => found.push(frame.to_vec()),
                Ok(None) => break,
                Err(_) => return (found, false),
            }
        }
    }
    (found, true)
}

fuzz_target!(|input: &[u8]| {
    let (whole, is_whole) = frames(input, input.len().max(1));
    let pieces = frames(input, 3);
    assert_eq!((&whole, is_whole), (&pieces.0, pieces.1), "pieces do not matter");

    let monitor = Monitor::new("d").rows::<Thing>();
    let mut session = Session::new(SessionConfig { monitor, probe_interval: None, leader_only: false });
    session.connected(Instant::now());
    // An even first byte: the input comes instead of the replies, and else after them.
    if input.first().is_none_or(|byte| byte % 2 == 1) {
        session.handle_frame(SCHEMA.as_bytes()).expect("the schema is a good one");
        session.handle_frame(ROWS.as_bytes()).expect("the rows fit the schema");
        assert!(session.is_live() && session.tables().len() == 1);
    }
    for frame in whole {
        let before = session.tables().clone();
        let answer = session.handle_frame(&frame);
        while session.poll_send().is_some() {}
        while session.poll_event().is_some() {}
        if answer.is_err() {
            assert_eq!(*session.tables(), before, "a bad message changes nothing");
            break;
        }
        for row in session.tables().rows::<Thing>() {
            row.expect("every row fits the type that the schema was checked against");
        }
    }
});
