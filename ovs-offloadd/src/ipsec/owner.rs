//! Which IKE daemon made a security association: the kernel does not know.

use std::collections::BTreeSet;

use ipsec_drive::EspId;
use netlink_wire::xfrm::Sa;

/// The least reqid that pluto gives (`IPSEC_MANUAL_REQID_MAX` + 1 of Libreswan).
const PLUTO_REQID: u32 = 0x4000;
/// Seconds by which one has to be older than a listing to be missed in it.
const MISSED_S: u64 = 5;

/// What charon listed last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listed {
    /// Its security associations of ESP.
    pub sas: BTreeSet<EspId>,
    /// Seconds since then.
    pub age_s: u64,
}

/// The IKE daemons that are there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owners {
    /// What charon has; none where it is not asked.
    pub charon: Option<Listed>,
    /// Whether Libreswan's pluto runs.
    pub pluto: bool,
}

impl Owners {
    /// `charon` of what that lists; `pluto` where that runs, of what has a reqid of those that it gives; `none` of what is neither's though
    /// charon has been asked since; and `unknown`.
    pub fn of(&self, sa: &Sa, age_s: u64) -> &'static str {
        let id = EspId { dst: sa.id.dst, spi: sa.id.spi.0 };
        let is_missed = |listed: &Listed| age_s > listed.age_s.saturating_add(MISSED_S);
        match &self.charon {
            Some(listed) if listed.sas.contains(&id) => "charon",
            _ if self.pluto && sa.reqid.0 >= PLUTO_REQID => "pluto",
            Some(listed) if is_missed(listed) => "none",
            _ => "unknown",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::sa;
    use super::*;
    use netlink_wire::xfrm::Reqid;

    #[test]
    fn an_ike_daemon_has_what_it_lists_and_what_is_of_its_numbers_and_nobody_what_was_missed() {
        let (of_charon, by_hand) = (sa(1), sa(2));
        let of_pluto = netlink_wire::xfrm::Sa { reqid: Reqid(16_389), ..sa(3) };
        let id = EspId { dst: of_charon.id.dst, spi: 1 };
        let charon = Some(Listed { sas: [id].into(), age_s: 10 });
        let of = |charon: &Option<Listed>, pluto, age_s| {
            let owners = Owners { charon: charon.clone(), pluto };
            [&of_charon, &by_hand, &of_pluto].map(|sa| owners.of(sa, age_s))
        };
        assert_eq!(of(&None, false, 60), ["unknown"; 3]);
        assert_eq!(of(&charon, false, 60), ["charon", "none", "none"]);
        assert_eq!(of(&charon, false, 12), ["charon", "unknown", "unknown"], "it may be newer than the list");
        assert_eq!(of(&charon, true, 60), ["charon", "none", "pluto"]);
        assert_eq!(of(&None, true, 60), ["unknown", "unknown", "pluto"]);
    }
}
