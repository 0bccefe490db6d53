//! Tunnels that are marked for IPsec as they are shown, and the text of them. There is no key in any of it.

use serde::Serialize;

use super::text::table;

/// A tunnel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TunnelView {
    /// The interface's name.
    pub tunnel: String,
    /// `vxlan`, `geneve` or `gre`.
    pub kind: String,
    /// `options:local_ip`; none for the address that the route has.
    pub local: Option<String>,
    /// `options:remote_ip`.
    pub remote: Option<String>,
    /// The connection's name in the IKE daemon; none where the tunnel can have none.
    pub connection: Option<String>,
    /// `psk`, `self-signed` or `ca`.
    pub auth: Option<&'static str>,
    /// What it may have of a NIC: `packet`, `crypto`, `auto` or `none`, as OVSDB or the configuration says.
    pub offload: Option<&'static str>,
    /// What of that is asked for at this time: where it is `auto`, its rank decides. None while nobody is driven.
    pub asks: Option<&'static str>,
    /// What it has: the least of its security associations, `packet`, `crypto` or `none`; none while not all of them are known.
    pub carried: Option<&'static str>,
    /// Why a NIC does no more for it, where it may have the most.
    pub why_not_more: Option<String>,
    /// `up`, `renewing`, `loaded`, `refused`, `rejected`, `waiting` or `left`.
    pub state: &'static str,
    /// Why it is in that state.
    pub reason: Option<String>,
    /// What of a NIC's demands its security associations will not meet, where a NIC is to be asked.
    pub unmet: Vec<String>,
    /// How often it was initiated since it was up last.
    pub initiated: u32,
}

/// Tunnels in rows, with what is to be said of each under them.
pub fn tunnel_list(tunnels: &[TunnelView], width: Option<u16>) -> String {
    if tunnels.is_empty() {
        return "no tunnel is marked for IPsec (options:psk, remote_cert or remote_name)\n".to_owned();
    }
    let head = [
        ("tunnel", false),
        ("type", false),
        ("local", false),
        ("remote", false),
        ("auth", false),
        ("offload", false),
        ("has", false),
        ("state", false),
    ];
    let dash = |text: Option<&str>| text.unwrap_or("-").to_owned();
    let rows = tunnels.iter().map(|tunnel| {
        vec![
            tunnel.tunnel.clone(),
            tunnel.kind.clone(),
            dash(tunnel.local.as_deref()),
            dash(tunnel.remote.as_deref()),
            dash(tunnel.auth),
            dash(tunnel.offload),
            dash(tunnel.carried),
            tunnel.state.to_owned(),
        ]
    });
    let mut out = table(&head, width, rows);
    if !out.ends_with('\n') {
        out.push('\n');
    }
    for tunnel in tunnels {
        let refusals = tunnel.unmet.iter().map(|unmet| format!("a NIC would refuse mode packet: {unmet}"));
        let own = tunnel.reason.iter().chain(&tunnel.why_not_more).cloned();
        for sentence in own.chain(refusals) {
            out.push_str(&format!("{}: {sentence}\n", tunnel.tunnel));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_for_a_tunnels_state_stands_under_the_rows() {
        assert!(tunnel_list(&[], None).starts_with("no tunnel is marked"));
        let up = TunnelView {
            tunnel: "tun0".into(),
            kind: "geneve".into(),
            remote: Some("192.0.2.2".into()),
            auth: Some("psk"),
            offload: Some("auto"),
            carried: Some("none"),
            why_not_more: Some("it moves little".into()),
            state: "up",
            unmet: vec!["its tag is short".into()],
            ..TunnelView::default()
        };
        let rejected = TunnelView {
            tunnel: "tun1".into(),
            state: "rejected",
            reason: Some("no peer".into()),
            ..TunnelView::default()
        };
        let text = tunnel_list(&[up, rejected], None);
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines[1].starts_with("tun0") && lines[1].contains("192.0.2.2") && lines[1].ends_with("up"),
            "{text}"
        );
        assert!(lines[0].contains("has") && lines[1].contains("none"), "{text}");
        assert_eq!(lines[3], "tun0: it moves little");
        assert_eq!(&lines[4..], ["tun0: a NIC would refuse mode packet: its tag is short", "tun1: no peer"]);
    }
}
