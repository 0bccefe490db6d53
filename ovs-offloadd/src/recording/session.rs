//! The daemon's side: what the control socket answers about recordings.

use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use offload_engine::recording::{BUFFER_BYTES_MAX, NoSession, SessionId};
use offload_engine::{Engine, Micros};
use serde::{Deserialize, Serialize};
use tracing::info;

use crate::ctl::RecordingQuery;

/// To `recording/start`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Started {
    /// The session's number.
    pub(super) session: u64,
}

/// To `recording/read`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Part {
    /// The records, in base 64.
    pub(super) records: String,
    /// Whether there is more already.
    pub(super) has_more: bool,
    /// Whether this is the end of a recording that was stopped.
    pub(super) is_last: bool,
    /// Megaflows in the recording now.
    pub(super) flows: u32,
}

/// To `recording/stop`.
#[derive(Debug, Serialize)]
struct Done {
    done: &'static str,
}

/// Answers as one JSON document.
pub(crate) fn answer(engine: &mut Engine, now: Micros, query: &RecordingQuery) -> Result<String, String> {
    let refused = |why: NoSession| why.to_string();
    let json = |error: serde_json::Error| error.to_string();
    match *query {
        RecordingQuery::Start => {
            let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let session = engine.start_recording(now, since_1970.as_secs(), BUFFER_BYTES_MAX);
            let session = session.map_err(refused)?;
            info!(%session, "recording the flow table");
            serde_json::to_string(&Started { session: session.0 }).map_err(json)
        }
        RecordingQuery::Read { session, from } => {
            let chunk = engine.read_recording(now, SessionId(session), from).map_err(refused)?;
            let part = Part {
                records: BASE64.encode(&chunk.bytes),
                has_more: chunk.has_more,
                is_last: chunk.is_last,
                flows: chunk.flows,
            };
            serde_json::to_string(&part).map_err(json)
        }
        RecordingQuery::Stop { session } => {
            engine.stop_recording(now, SessionId(session)).map_err(refused)?;
            info!(session, "the recording is stopped");
            serde_json::to_string(&Done { done: "the recording is stopped" }).map_err(json)
        }
    }
}
