//! Who tells of NICs: multicast groups, and what was heard of each.

use std::time::Duration;

use netlink_wire::devlink;
use netlink_wire::ethtool::{self, FeatureBit};
use netlink_wire::genl::FamilyId;
use tracing::warn;

use crate::io::netlink::{Asker, Protocol, Socket};

/// Longest wait for a family's number.
const FAMILY_LIMIT: Duration = Duration::from_secs(2);

/// Who tells, as a label of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Link,
    Devlink,
    Ethtool,
    Uevent,
}

impl Source {
    pub(crate) const ALL: [Self; 4] = [Self::Link, Self::Devlink, Self::Ethtool, Self::Uevent];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Link => "link",
            Self::Devlink => "devlink",
            Self::Ethtool => "ethtool",
            Self::Uevent => "uevent",
        }
    }
}

/// What was heard of one source.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Heard {
    /// Notifications.
    pub(crate) notifications: u64,
    /// Rows of the inventory that they wrote or removed. A notification about something else writes none.
    pub(crate) updates: u64,
}

/// The families that tell of NICs, as far as the kernel has them.
pub(super) struct Families {
    pub(super) devlink: Option<FamilyId>,
    pub(super) ethtool: Option<(FamilyId, FeatureBit)>,
}

/// Joins the groups of devlink and ethtool.
pub(super) async fn join(generic: &Socket) -> Families {
    let mut families = Families { devlink: None, ethtool: None };
    let Ok(mut asker) = Asker::open(Protocol::Generic, FAMILY_LIMIT)
        .inspect_err(|why| warn!(%why, "cannot ask for generic netlink families"))
    else {
        return families;
    };
    for (name, group) in [(devlink::FAMILY, devlink::GROUP), (ethtool::FAMILY, ethtool::GROUP)] {
        let report = match asker.family_report(name).await {
            Ok(report) => report,
            Err(why) => {
                warn!(%why, "changes of NICs or features will not be heard");
                continue;
            }
        };
        if let Some(number) = report.group(group)
            && let Err(error) = generic.join(number.0)
        {
            warn!(%error, name, "cannot hear notifications");
        }
        if name == devlink::FAMILY {
            families.devlink = Some(report.id);
            continue;
        }
        let names = asker.ask(
            usize::MAX,
            |seq| ethtool::get_feature_names(report.id, seq),
            |message| FeatureBit::find(message, ethtool::HW_TC_OFFLOAD),
        );
        let bit = names.await.ok().and_then(|found| found.into_iter().next());
        families.ethtool = bit.map(|bit| (report.id, bit));
    }
    families
}
