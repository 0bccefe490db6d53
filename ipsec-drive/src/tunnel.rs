//! A tunnel's row of OVSDB, as far as IPsec is concerned.

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString as _};

use crate::Secret;

/// Types of interfaces that `ovs-monitor-ipsec` protects.
const KINDS: [&str; 3] = ["vxlan", "geneve", "gre"];
/// What makes it protect one.
const MARKS: [&str; 3] = ["psk", "remote_name", "remote_cert"];
/// How options for the IKE daemon begin.
const CUSTOM: &str = "ipsec_";
/// Most options for the IKE daemon that are kept of a tunnel.
const CUSTOM_MAX: usize = 64;

/// An interface that is marked for IPsec, its columns as they are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelRow {
    /// `name`.
    pub name: String,
    /// `type`: `vxlan`, `geneve` or `gre`.
    pub kind: String,
    /// `options:remote_ip`.
    pub remote_ip: Option<String>,
    /// `options:local_ip`.
    pub local_ip: Option<String>,
    /// `options:dst_port`.
    pub dst_port: Option<String>,
    /// `options:psk`.
    pub psk: Option<Secret>,
    /// `options:remote_cert`: a file.
    pub remote_cert: Option<String>,
    /// `options:remote_name`: the common name of the peer's certificate.
    pub remote_name: Option<String>,
    /// `options:ipsec_X`, by `X`.
    pub custom: BTreeMap<String, String>,
}

impl TunnelRow {
    /// Reads the row of an interface; none where `ovs-monitor-ipsec` would not protect it: it is no tunnel, or has none of `psk`,
    /// `remote_name` and `remote_cert`.
    pub fn read(name: &str, kind: &str, options: &BTreeMap<String, String>) -> Option<Self> {
        if !KINDS.contains(&kind) || !MARKS.iter().any(|mark| options.contains_key(*mark)) {
            return None;
        }
        let option = |key: &str| options.get(key).filter(|value| !value.is_empty()).cloned();
        let custom = options.iter().filter_map(|(key, value)| Some((key.strip_prefix(CUSTOM)?, value)));
        Some(Self {
            name: name.to_string(),
            kind: kind.to_string(),
            remote_ip: option("remote_ip"),
            local_ip: option("local_ip"),
            dst_port: option("dst_port"),
            psk: options.get("psk").filter(|psk| !psk.is_empty()).map(|psk| Secret::new(psk.as_bytes())),
            remote_cert: option("remote_cert"),
            remote_name: option("remote_name"),
            custom: custom
                .take(CUSTOM_MAX)
                .map(|(key, value)| (key.to_string(), value.to_string()))
                .collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
    }

    #[test]
    fn tunnels_are_read_that_ovs_monitor_ipsec_would_protect() {
        for mark in MARKS {
            assert!(TunnelRow::read("tun0", "geneve", &options(&[(mark, "x")])).is_some(), "{mark}");
        }
        assert_eq!(TunnelRow::read("tun0", "geneve", &options(&[("remote_ip", "192.0.2.2")])), None);
        assert_eq!(TunnelRow::read("eth0", "", &options(&[("psk", "x")])), None);
        assert_eq!(TunnelRow::read("tun0", "stt", &options(&[("psk", "x")])), None);
        let row = TunnelRow::read(
            "tun0",
            "vxlan",
            &options(&[("psk", "x"), ("ipsec_nic-offload", "packet"), ("key", "7")]),
        );
        assert_eq!(row.unwrap().custom, options(&[("nic-offload", "packet")]));
    }
}
