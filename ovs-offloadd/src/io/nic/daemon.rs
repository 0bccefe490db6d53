//! Draining a NIC: asked of the daemon that runs, if one does.

use std::path::PathBuf;
use std::time::Duration;

use netlink_wire::devlink::Handle;
use serde::Deserialize;

use super::{Daemon, NicHands, Places, READ_WITHIN};
use crate::daemon::PROGRAM;
use crate::io::rundir::control_socket;
use crate::io::unixctl::{Client, CommandError};
use crate::lifecycle::observed::Drain;

/// The part of `nic list` that matters here.
#[derive(Debug, Deserialize)]
struct NicRow {
    nic: u16,
    devlink: String,
    entries: u64,
    in_flight: u64,
    /// None in a mode that empties no NIC.
    draining: Option<bool>,
    /// The first NIC of the same card, which has all counts.
    shares_entries_with: Option<u16>,
}

fn socket(places: &Places) -> Option<PathBuf> {
    match &places.daemon {
        Daemon::At(socket) => Some(socket.clone()),
        Daemon::Found => control_socket(&places.rundir, PROGRAM).ok(),
    }
}

/// The NICs that a running daemon knows, by its numbers; none where there is no daemon, or it knows none.
pub(super) async fn numbers(places: &Places, limit: Duration) -> Option<Vec<(u16, Handle)>> {
    let mut client = Client::new(socket(places)?);
    let text = client.command("nic/list", &["--output=json"], limit).await.ok()?;
    let rows: Vec<NicRow> = serde_json::from_str(&text).ok()?;
    let numbers: Vec<_> =
        rows.into_iter().filter_map(|row| Some((row.nic, row.devlink.parse().ok()?))).collect();
    (!numbers.is_empty()).then_some(numbers)
}

impl NicHands {
    fn socket(&self) -> Option<PathBuf> {
        socket(&self.places)
    }

    /// The NICs that a running daemon knows; none where there is none.
    fn rows(&mut self, socket: PathBuf) -> Result<Option<Vec<NicRow>>, String> {
        let mut client = Client::new(socket);
        let answer = self.runtime.block_on(client.command("nic/list", &["--output=json"], READ_WITHIN));
        let text = match answer {
            Ok(text) => text,
            // It has ended since; Open vSwitch goes on without.
            Err(CommandError::Unreachable { .. }) => return Ok(None),
            Err(error) => return Err(error.to_string()),
        };
        serde_json::from_str(&text).map(Some).map_err(|error| format!("the daemon's answer: {error}"))
    }

    /// The number under which the daemon counts this NIC's entries. Of the one that we have had emptied: a NIC in legacy
    /// mode belongs to no switch any more.
    fn number(&self, rows: &[NicRow]) -> Option<u16> {
        let handle = self.handle.to_string();
        let own = || rows.iter().find(|row| row.devlink == handle);
        // Rules of a card are emptied together, since those of one NIC may send to ports of the other.
        self.drained.or_else(|| own().map(|row| row.shares_entries_with.unwrap_or(row.nic)))
    }

    /// How a running daemon stands with this NIC; none where there is no daemon, or it does not know
    /// the NIC, or only observes.
    pub(super) fn drain_state(&mut self) -> Result<Option<Drain>, String> {
        let Some(socket) = self.socket() else { return Ok(None) };
        let Some(rows) = self.rows(socket)? else { return Ok(None) };
        let number = self.number(&rows);
        let row = rows.into_iter().find(|row| Some(row.nic) == number);
        Ok(row.and_then(|row| Some(Drain { on: row.draining?, in_hardware: row.entries + row.in_flight })))
    }

    /// Has the daemon empty the NIC and keep it empty, or use it again.
    pub(super) fn drain(&mut self, on: bool) -> Result<(), String> {
        let Some(socket) = self.socket() else { return Ok(()) };
        let Some(rows) = self.rows(socket.clone())? else { return Ok(()) };
        let Some(number) = self.number(&rows) else { return Ok(()) };
        let nic = format!("--nic={number}");
        let params: &[&str] = if on { &[&nic] } else { &[&nic, "--off"] };
        let mut client = Client::new(socket);
        let answer = self.runtime.block_on(client.command("drain", params, READ_WITHIN));
        answer.map_err(|error| error.to_string())?;
        self.drained = on.then_some(number);
        Ok(())
    }
}
