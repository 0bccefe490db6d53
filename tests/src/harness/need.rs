//! What a test needs of the guest beyond Open vSwitch, and what the caller requires to be there.

use std::process::{Command, Stdio};

/// Something a guest may lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// The simulated SmartNIC's module.
    Simnic,
    /// A kernel with `CONFIG_NET_TC_SKB_EXT`, for conntrack flows in TC.
    Ct,
    /// OVN.
    Ovn,
    /// The daemon and its control program.
    Daemon,
    /// strongSwan, with a charon that takes commands.
    Strongswan,
    /// Libreswan, and the `ovs-monitor-ipsec` that has it protect tunnels.
    Libreswan,
}

impl Need {
    /// Every need.
    pub const ALL: [Self; 6] =
        [Self::Simnic, Self::Ct, Self::Ovn, Self::Daemon, Self::Strongswan, Self::Libreswan];

    /// The name in `REQUIRE`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Simnic => "simnic",
            Self::Ct => "ct",
            Self::Ovn => "ovn",
            Self::Daemon => "daemon",
            Self::Strongswan => "strongswan",
            Self::Libreswan => "libreswan",
        }
    }

    /// Nothing when the guest has it, or the reason why a test cannot run.
    pub fn lacking(self) -> Option<String> {
        let (has, reason) = match self {
            Self::Simnic => {
                (succeeds("modinfo", &["simnic"]), "this guest has no simnic module for its kernel")
            }
            Self::Ct => {
                (kernel_has_skb_ext(), "this guest's kernel lacks CONFIG_NET_TC_SKB_EXT: use --kernel ct")
            }
            Self::Ovn => (succeeds("ovn-controller", &["--version"]), "this guest has no OVN"),
            Self::Daemon => (succeeds("ovs-offloadctl", &["--version"]), "this guest has no ovs-offloadd"),
            Self::Strongswan => (is_program("charon-systemd"), "this guest has no strongSwan"),
            Self::Libreswan => {
                let is_there =
                    is_program("ipsec") && is_program("/usr/share/openvswitch/scripts/ovs-monitor-ipsec");
                (is_there, "this guest has no Libreswan: use --release trixie")
            }
        };
        (!has).then(|| reason.to_owned())
    }
}

/// What the caller requires, from the text of `REQUIRE`; the error names a word that is no need.
pub(super) fn required(text: &str) -> Result<Vec<Need>, String> {
    let mut needs = Vec::new();
    for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        match Need::ALL.into_iter().find(|need| need.name() == word) {
            Some(need) => needs.push(need),
            None if word == "all" => needs.extend(Need::ALL),
            None => {
                return Err(format!(
                    "REQUIRE names `{word}`, which is none of simnic, ct, ovn, daemon, strongswan, libreswan, all"
                ));
            }
        }
    }
    Ok(needs)
}

/// Only the lab's own kernels have the option, and say so in their release.
fn kernel_has_skb_ext() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    release.trim().ends_with("-lab-ct") || release.trim().ends_with("-lab-debug")
}

/// Whether it is there, of a program that cannot be asked.
fn is_program(name: &str) -> bool {
    succeeds("sh", &["-c", &format!("command -v {name}")])
}

fn succeeds(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_requirement_is_an_error_and_not_nothing() {
        assert_eq!(required("simnic, ct"), Ok(vec![Need::Simnic, Need::Ct]));
        assert_eq!(required("all").map(|needs| needs.len()), Ok(Need::ALL.len()));
        assert!(required("simnik").is_err());
    }
}
