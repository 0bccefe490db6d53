//! How far each tunnel is, in words.

use std::collections::BTreeMap;
use std::mem::discriminant;

use ipsec_drive::libreswan::IkeDaemon;
use ipsec_drive::{
    Carried, Connection, ConnectionName, Millis, Missed, Mover, Progress, Rank, Ranked, Seen, State,
    TunnelRow, Wanted,
};
use policies::Rate;
use tracing::{info, warn};

use super::{Monitor, Orders, Rows, Standing, libreswan};
use crate::ctl::tunnel::TunnelView;
use crate::ipsec::{self, Demand};

/// What is known of connections.
pub(super) type Known = BTreeMap<ConnectionName, Progress>;

/// Tunnels while nobody is driven.
pub(super) fn idle(orders: &Orders, standing: &Standing, kernel: &Seen) -> Vec<TunnelView> {
    let Some(rows) = orders.rows.as_ref() else { return Vec::new() };
    let (state, reason) = match standing {
        Standing::Off => ("left", "ipsec.drive is false: others may protect it".to_owned()),
        Standing::MonitorRuns(monitor) => {
            let no_word = match monitor.ike {
                Some(IkeDaemon::Strongswan) => ", whose ipsec.conf has no word for offload",
                Some(IkeDaemon::Libreswan) | None => "",
            };
            ("left", format!("{monitor} protects it (pid {}){no_word}", monitor.pid))
        }
        Standing::Alone(why) => ("waiting", why.clone()),
        Standing::Driving(_) => ("waiting", String::new()),
    };
    let wanted = ipsec_drive::wanted(&rows.tunnels, &rows.host, orders.offload);
    let of_tunnels = by_tunnel(&wanted);
    let is_libreswan = |monitor: &Monitor| monitor.ike == Some(IkeDaemon::Libreswan);
    let view = |row: &TunnelRow| {
        let unmet = |connection: &Connection| ipsec::unmet(connection, None);
        let mut view = TunnelView { state, reason: Some(reason.clone()), ..view(row, &of_tunnels, unmet) };
        if matches!(standing, Standing::MonitorRuns(monitor) if is_libreswan(monitor)) {
            view.offload = Some(orders.offload.word());
            libreswan::view(row, orders, kernel, &mut view);
        }
        view
    };
    rows.tunnels.iter().map(view).collect()
}

/// Tunnels while charon is driven.
pub(super) fn of(
    rows: &Rows,
    wanted: &Wanted,
    known: &Known,
    (mover, now): (&Mover, Millis),
    unmet: impl Fn(&Connection) -> Vec<Demand>,
) -> Vec<TunnelView> {
    let of_tunnels = by_tunnel(wanted);
    let view = |row: &TunnelRow| {
        let mut view = view(row, &of_tunnels, &unmet);
        if let Some(reason) = wanted.rejected.get(&row.name) {
            (view.state, view.reason) = ("rejected", Some(reason.to_string()));
        }
        if let Some(&connection) = of_tunnels.get(&*row.name) {
            if let Some(progress) = known.get(&connection.name) {
                view.initiated = progress.initiated;
                (view.state, view.reason) = words(progress);
            }
            let ranked = mover.ranked(now, connection);
            let carried = mover.carried(&connection.name).map(|carriage| carriage.least);
            view.asks = Some(ranked.map_or(connection.offload, |ranked| ranked.asks).word());
            view.carried = carried.map(Carried::word);
            view.why_not_more = ranked.and_then(|ranked| why_not_more(&ranked, carried));
        }
        view
    };
    rows.tunnels.iter().map(view).collect()
}

/// Why packets of the mark that the host has for it are not dropped where nothing protects them; none where they are, or have no mark.
pub(super) fn unguarded(wanted: &Wanted, refused: Option<&str>) -> Option<String> {
    let no_mark = wanted.no_mark.as_ref();
    let no_mark =
        no_mark.map(|text| format!("other_config:ipsec_skb_mark is {text:?}, which is no value/mask"));
    no_mark.or_else(|| {
        refused.map(|why| format!("other_config:ipsec_skb_mark is not in force: charon says {why}"))
    })
}

/// Whether nothing is to be done about it but for waiting.
pub(super) fn is_settled(view: &TunnelView) -> bool {
    matches!(view.state, "up" | "rejected")
}

fn words(progress: &Progress) -> (&'static str, Option<String>) {
    let tries = |of: &str| match progress.initiated {
        0 => None,
        tries => Some(format!("{of} (tried {tries} times; charon's log says more)")),
    };
    match &progress.state {
        State::Waiting => ("waiting", None),
        State::Refused(why) => ("refused", Some(why.clone())),
        State::Loaded => ("loaded", tries("the peer does not answer, or they do not agree")),
        State::Renewing => {
            ("renewing", tries("what was there with other settings stays until there is more"))
        }
        State::Up => ("up", None),
    }
}

/// Why no NIC does more for a connection that may have the most there is.
fn why_not_more(ranked: &Ranked, carried: Option<Carried>) -> Option<String> {
    let missed = ranked.missed.map(|(missed, times)| {
        let what = match missed {
            Missed::CameInSoftware => "came up in software",
            Missed::DidNotComeUp => "did not come up, though the peer is known",
            Missed::PeerIsSilent => "had no answer of the peer",
            Missed::NotLoaded => "was not loaded by charon",
        };
        match times {
            1 => format!("asked of a NIC, it {what}"),
            times => format!("asked of a NIC {times} times, it {what}"),
        }
    });
    let rank = match ranked.rank {
        Rank::Unknown => None,
        Rank::Held => {
            return match (ranked.packet_again_ms, carried) {
                (Some(ms), _) => Some(format!(
                    "it did not come up with mode packet, and has crypto; packet is asked for again in {} s",
                    ms.div_ceil(1_000)
                )),
                (None, Some(Carried::Crypto)) => Some(
                    "the NIC did not take mode packet, which charon asks for again at each rekey".to_owned(),
                ),
                _ => None,
            };
        }
        Rank::Moving => Some("it is on its way into the NIC".to_owned()),
        Rank::Leaving => Some("its entry goes to a tunnel that moves more".to_owned()),
        Rank::TooSlow { rate, needs } => Some(format!(
            "it moves {}, and an entry is for {} and more",
            Rate::BytesPerSecond(rate),
            Rate::BytesPerSecond(needs)
        )),
        Rank::InLine { rank, of } => Some(format!("it is {rank}. of {of} in line for an entry of the NIC")),
        Rank::Waits { ms } => Some(format!("it is asked for again in {} s", ms.div_ceil(1_000))),
    };
    let sentences: Vec<String> = missed.into_iter().chain(rank).collect();
    (!sentences.is_empty()).then(|| sentences.join("; "))
}

/// The connection of each tunnel.
fn by_tunnel(wanted: &Wanted) -> BTreeMap<&str, &Connection> {
    let mut by_tunnel = BTreeMap::new();
    for connection in wanted.connections.values() {
        by_tunnel.extend(connection.tunnels.iter().map(|tunnel| (&**tunnel, connection)));
    }
    by_tunnel
}

fn view(
    row: &TunnelRow,
    of_tunnels: &BTreeMap<&str, &Connection>,
    unmet: impl Fn(&Connection) -> Vec<Demand>,
) -> TunnelView {
    let connection = of_tunnels.get(&*row.name).copied();
    TunnelView {
        tunnel: row.name.clone(),
        kind: row.kind.clone(),
        local: row.local_ip.clone(),
        remote: row.remote_ip.clone(),
        connection: connection.map(|connection| connection.name.to_string()),
        auth: connection.map(|connection| connection.auth.word()),
        offload: connection.map(|connection| connection.offload.word()),
        asks: None,
        carried: None,
        why_not_more: None,
        state: "waiting",
        reason: None,
        unmet: connection.map(unmet).into_iter().flatten().map(|demand| demand.to_string()).collect(),
        initiated: 0,
    }
}

/// What was logged of each connection last.
#[derive(Debug, Default)]
pub(super) struct Log {
    known: Known,
    unmet: BTreeMap<ConnectionName, Vec<Demand>>,
}

impl Log {
    /// Logs demands of NICs that are not met, each once while it is not: how many rules an uplink has may change all the time.
    pub(super) fn unmet(&mut self, wanted: &Wanted, unmet: impl Fn(&Connection) -> Vec<Demand>) {
        let all = wanted.connections.values().map(|connection| (connection, unmet(connection)));
        let mut now_unmet = BTreeMap::new();
        for (connection, unmet) in all.filter(|(_, unmet)| !unmet.is_empty()) {
            let before = self.unmet.get(&connection.name).map_or(&[][..], Vec::as_slice);
            let is_new =
                |unmet: &&Demand| !before.iter().any(|before| discriminant(before) == discriminant(*unmet));
            for unmet in unmet.iter().filter(is_new) {
                warn!(connection = %connection.name, offload = connection.offload.word(), %unmet, "a NIC would refuse it");
            }
            now_unmet.insert(connection.name.clone(), unmet);
        }
        self.unmet = now_unmet;
    }

    /// Logs what is otherwise than before.
    pub(super) fn changes(&mut self, known: &Known) {
        for (connection, progress) in known {
            if self.known.get(connection).is_some_and(|before| before.state == progress.state) {
                continue;
            }
            match &progress.state {
                State::Waiting => {}
                State::Refused(why) => warn!(%connection, %why, "strongSwan refuses a connection"),
                State::Loaded => info!(%connection, "connection loaded"),
                State::Renewing => info!(%connection, "connection loaded with other settings"),
                State::Up => info!(%connection, "connection is up"),
            }
        }
        for connection in self.known.keys().filter(|connection| !known.contains_key(connection)) {
            info!(%connection, "connection unloaded");
        }
        self.known.clone_from(known);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipsec_drive::{Host, Offload};

    const NOW: Millis = Millis(0);

    /// Demands without those of devices.
    fn alone(connection: &Connection) -> Vec<Demand> {
        ipsec::unmet(connection, None)
    }

    fn rows() -> Rows {
        let row = |name: &str, options: &[(&str, &str)]| {
            let options = options.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
            TunnelRow::read(name, "geneve", &options).unwrap()
        };
        let good = [("psk", "CANARY"), ("remote_ip", "192.0.2.2"), ("ipsec_replay-window", "512")];
        let tunnels = vec![row("tun0", &good), row("tun1", &[("psk", "CANARY"), ("remote_ip", "flow")])];
        Rows { host: Host::default(), tunnels, offloads: Vec::new() }
    }

    #[test]
    fn each_tunnel_is_shown_with_its_state_and_the_reason_for_it() {
        let rows = rows();
        let wanted = ipsec_drive::wanted(&rows.tunnels, &rows.host, Offload::Packet);
        let name = wanted.connections.keys().next().unwrap().clone();
        let shown = |state: State, initiated: u32| {
            let known = [(name.clone(), Progress { state, initiated })].into();
            let views = of(&rows, &wanted, &known, (&Mover::default(), NOW), alone);
            assert!(!format!("{views:?}").contains("CANARY"));
            assert_eq!(views[1].state, "rejected");
            assert!(views[1].reason.as_deref().unwrap().starts_with("options:remote_ip is \"flow\""));
            (views[0].state, views[0].reason.clone(), is_settled(&views[0]))
        };
        assert_eq!(shown(State::Up, 0), ("up", None, true));
        assert_eq!(shown(State::Refused("no".into()), 0), ("refused", Some("no".into()), false));
        let (state, reason, _) = shown(State::Loaded, 3);
        assert_eq!(state, "loaded");
        assert!(reason.unwrap().contains("tried 3 times"));
        let view = &of(&rows, &wanted, &Known::new(), (&Mover::default(), NOW), alone)[0];
        assert_eq!((view.asks, view.carried), (Some("packet"), None));
        assert_eq!((view.auth, view.offload, view.state), (Some("psk"), Some("packet"), "waiting"));
        assert_eq!(view.unmet, ["its replay window is 512 packets, and NICs have 32, 64, 128 and 256 alone"]);
    }

    #[test]
    fn why_a_nic_does_no_more_is_a_sentence() {
        let why = |rank, missed, packet_again_ms, carried| {
            let ranked = Ranked { rank, asks: Offload::Auto, missed, packet_again_ms };
            why_not_more(&ranked, Some(carried)).unwrap_or_default()
        };
        let software = Carried::Software;
        assert_eq!(why(Rank::Held, None, None, Carried::Packet), "");
        assert!(why(Rank::Held, None, None, Carried::Crypto).contains("at each rekey"));
        assert!(why(Rank::Held, None, Some(1_001), Carried::Crypto).ends_with("asked for again in 2 s"));
        assert_eq!(
            why(Rank::TooSlow { rate: 1_000, needs: 125_000 }, None, None, software),
            "it moves 8 kbit/s, and an entry is for 1 Mbit/s and more"
        );
        assert_eq!(
            why(Rank::Waits { ms: 240_000 }, Some((Missed::CameInSoftware, 2)), None, software),
            "asked of a NIC 2 times, it came up in software; it is asked for again in 240 s"
        );
        assert_eq!(
            why(Rank::InLine { rank: 3, of: 9 }, None, None, software),
            "it is 3. of 9 in line for an entry of the NIC"
        );
    }

    #[test]
    fn a_tunnel_that_is_left_to_others_says_to_whom() {
        let orders = Orders { rows: Some(rows()), ..Orders::default() };
        let left = |ike| {
            let views = idle(&orders, &Standing::MonitorRuns(Monitor { pid: 7, ike }), &Seen::NotYet);
            assert_eq!(views[0].state, "left");
            views[0].reason.clone().unwrap()
        };
        assert_eq!(left(None), "ovs-monitor-ipsec protects it (pid 7)");
        assert_eq!(left(Some(IkeDaemon::Libreswan)), "ovs-monitor-ipsec with Libreswan protects it (pid 7)");
        assert!(left(Some(IkeDaemon::Strongswan)).ends_with("whose ipsec.conf has no word for offload"));
    }
}
