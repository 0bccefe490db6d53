//! Policies of IPsec, as they stand in the log.

use netlink_wire::xfrm::Prefix;
use offload_engine::IpsecPolicy;
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct IpsecEntry {
    priority: u32,
    inbound: bool,
    /// Address and bits.
    peer: Option<(String, u8)>,
    proto: u8,
    dport: (u16, u16),
    encrypts: bool,
    /// Logs of before tell of none.
    #[serde(default)]
    in_host: bool,
    #[serde(default)]
    partly: bool,
}

impl IpsecEntry {
    pub(super) fn of(policy: &IpsecPolicy) -> Self {
        let &IpsecPolicy { priority, inbound, peer, proto, dport, encrypts, in_host, partly } = policy;
        let peer = peer.map(|peer| (peer.address.to_string(), peer.bits));
        Self { priority, inbound, peer, proto, dport, encrypts, in_host, partly }
    }

    pub(super) fn policy(self) -> Result<IpsecPolicy, String> {
        let Self { priority, inbound, peer, proto, dport, encrypts, in_host, partly } = self;
        let prefix = |(address, bits): (String, u8)| {
            let address = address.parse().map_err(|_| format!("{address} is no address"))?;
            Ok::<_, String>(Prefix { address, bits })
        };
        let peer = peer.map(prefix).transpose()?;
        Ok(IpsecPolicy { priority, inbound, peer, proto, dport, encrypts, in_host, partly })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_read_from_the_log_as_it_was_told() {
        let peer = Prefix { address: "2001:db8::2".parse().unwrap(), bits: 128 };
        let policy = IpsecPolicy {
            priority: 7,
            inbound: true,
            peer: Some(peer),
            proto: 17,
            dport: (6081, !0),
            encrypts: true,
            in_host: true,
            partly: true,
        };
        let text = serde_json::to_string(&IpsecEntry::of(&policy)).unwrap();
        let read: IpsecEntry = serde_json::from_str(&text).unwrap();
        assert_eq!(read.policy(), Ok(policy), "{text}");
        let broken = text.replace("2001:db8::2", "nowhere");
        assert!(serde_json::from_str::<IpsecEntry>(&broken).unwrap().policy().is_err());
    }
}
