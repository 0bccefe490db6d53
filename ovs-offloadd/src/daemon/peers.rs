//! Those whom the daemon is connected to: whether they are there, and what Open vSwitch's two, ovs-vswitchd and OVSDB, say.

use offload_engine::{Event, OvsVersion, Peer};
use tracing::{info, warn};

use super::{Daemon, broken, ovsdb, vswitchd};

/// The state of a connection, for `status`.
#[derive(Debug, Default, Clone)]
pub(super) struct Connection {
    pub(super) up: bool,
    pub(super) detail: Option<String>,
    pub(super) losses: u64,
}

impl Connection {
    /// Takes the new state; returns whether the engine has to hear of it.
    pub(super) fn set(&mut self, state: Result<(), String>) -> bool {
        let was_up = self.up;
        self.up = state.is_ok();
        self.losses += u64::from(was_up && !self.up);
        self.detail = state.err();
        was_up != self.up
    }
}

impl Daemon {
    pub(super) fn take_said(&mut self, said: vswitchd::Said, events: &mut Vec<Event>) -> Result<(), String> {
        match said {
            vswitchd::Said::Answer(op, answer) => {
                // The order of changes in TC is what races are judged by.
                self.tc.drain_notifications(events).map_err(broken)?;
                events.push(Event::Answer { op, answer });
            }
            vswitchd::Said::Rests(op, reading) => {
                // The round that has just ended may have deleted the flow.
                self.tc.drain_notifications(events).map_err(broken)?;
                self.readings.push((op, reading));
            }
            vswitchd::Said::Version(version) => {
                self.vswitchd_version = Some(version);
                self.tell_ovs(events);
            }
            vswitchd::Said::Up(state) => {
                let why = state.as_ref().err().cloned();
                if self.vswitchd_connection.set(state) {
                    match why {
                        None => info!("ovs-vswitchd is there"),
                        Some(why) => warn!(%why, "ovs-vswitchd is not there"),
                    }
                    self.tc.drain_notifications(events).map_err(broken)?;
                    events.push(Event::Peer { peer: Peer::Vswitchd, up: self.vswitchd_connection.up });
                }
            }
        }
        Ok(())
    }

    pub(super) fn take_news(&mut self, news: ovsdb::News, events: &mut Vec<Event>) -> Result<(), String> {
        match news {
            ovsdb::News::Connection(state) => {
                if let Err(why) = &state {
                    warn!(%why, "OVSDB is not there");
                }
                if self.ovsdb_connection.set(state) {
                    events.push(Event::Peer { peer: Peer::Ovsdb, up: self.ovsdb_connection.up });
                }
            }
            ovsdb::News::State(state) => {
                let state = *state;
                let changed = self.config.take_external_ids(
                    state.external_ids.iter().map(|(key, value)| (key.as_str(), value.as_str())),
                );
                (self.interfaces, self.tunnels) = (state.interfaces, state.chassis);
                self.ike.found(state.ipsec);
                self.southbound.found(&state.external_ids, &self.interfaces);
                self.tell_interfaces(events);
                self.nics.something_changed();
                self.ovs_settings = Some(state.settings);
                self.ovs_version = state.version;
                self.tell_ovs(events);
                if changed {
                    self.apply_config(events);
                }
                self.become_ready(&state.settings)?;
            }
        }
        Ok(())
    }

    /// Tells of interfaces and chassis what both databases know.
    pub(super) fn tell_interfaces(&mut self, events: &mut Vec<Event>) {
        let mut interfaces = self.interfaces.clone();
        for row in interfaces.values_mut() {
            if let Some(workload) = &mut row.workload {
                self.southbound.known.complete(row.iface_id.as_deref(), workload);
            }
        }
        self.inventory.interfaces_are(interfaces);
        let chassis = self.southbound.known.chassis_beside(&self.tunnels);
        if self.chassis != chassis {
            events.push(Event::Chassis(chassis.clone()));
            self.chassis = chassis;
        }
    }

    /// Tells what is set in OVSDB and what version runs: as ovs-vswitchd says it, else as OVSDB has it.
    fn tell_ovs(&mut self, events: &mut Vec<Event>) {
        let Some(mut settings) = self.ovs_settings else { return };
        if let Some(version) = self.vswitchd_version.as_deref().and_then(OvsVersion::parse) {
            settings.version = Some(version);
        }
        events.push(Event::Ovs(settings));
    }
}
