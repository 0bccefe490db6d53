//! A NIC as it is shown, and how it stands to what the configuration declares of it.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::ctl::inventory::{HealthSum, NicBondView, ResourceView};
use crate::nics::Difference;

/// A NIC.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct NicView {
    /// Its number.
    pub nic: u16,
    /// Driver.
    pub driver: String,
    /// Devlink handle.
    pub devlink: String,
    /// `phys_switch_id`.
    pub switch_id: String,
    /// Eswitch mode.
    pub eswitch_mode: String,
    /// Entries used.
    pub entries: u64,
    /// Entries there is room for, if known.
    pub capacity: Option<u64>,
    /// Whether the capacity was learned from refusals.
    pub capacity_learned: bool,
    /// Most installs per second now; nothing while none of its flows is known, or in mode `observe`.
    pub installs_per_s_max: Option<u64>,
    /// Whether that was learned from how long the driver takes.
    pub installs_learned: bool,
    /// Entries of others in the same table.
    pub foreign: u64,
    /// Flows worth an entry that wait for one.
    pub waiting: u64,
    /// Changes that wait for the kernel's answer.
    pub in_flight: u64,
    /// Rules moved into it since start.
    pub promotions: u64,
    /// Rules moved out of it by us.
    pub demotions: u64,
    /// Promotions that came to nothing since start, by reason.
    pub refusals: BTreeMap<&'static str, u64>,
    /// Its PCI address; none for what is not on PCI.
    pub pci_address: Option<String>,
    /// Its eswitch's inline mode.
    pub inline_mode: Option<String>,
    /// Its eswitch's encap mode: whether it does tunnels.
    pub encap_mode: Option<String>,
    /// Version of the firmware that runs.
    pub firmware: Option<String>,
    /// Serial number.
    pub serial: Option<String>,
    /// Virtual functions there are.
    pub vfs: u32,
    /// Virtual functions there can be.
    pub vfs_max: Option<u32>,
    /// Sub-functions there are.
    pub sfs: u32,
    /// Ports of its eswitch: uplinks and representors.
    pub ports: u32,
    /// Those of them whose function is on another host.
    pub external_ports: u32,
    /// Representors by state: `up`, `no_carrier`, `down`, and `absent` where it has no network device here.
    pub representors: BTreeMap<&'static str, u64>,
    /// `healthy`, or `error` where a health reporter is in error; none where it has none.
    pub health: Option<&'static str>,
    /// What its health reporters have counted, by name.
    pub health_errors: BTreeMap<String, HealthSum>,
    /// Its last reload failed and it does not work.
    pub reload_failed: bool,
    /// The NIC that its entries are counted with, where that has the same switch id.
    pub shares_entries_with: Option<u16>,
    /// Whether it is as the configuration declares it (`[[device]]`); none where it is not declared.
    pub declared: Option<NicDeclaredView>,
    /// Bonds that its uplinks are members of.
    pub bonds: Vec<NicBondView>,
    /// Its resources; `nic show` has them with their parts.
    #[serde(skip)]
    pub resources: Vec<ResourceView>,
    /// Whether it is kept empty; nothing in mode `observe`, which empties none.
    pub draining: Option<bool>,
}

/// A declared NIC beside what it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NicDeclaredView {
    /// `as_declared` or `differs`.
    pub state: &'static str,
    /// What is otherwise now.
    pub differences: Vec<Difference>,
    /// What came of the last look that puts such things right, in a sentence; none before the first.
    pub last_look: Option<String>,
}

impl NicDeclaredView {
    /// From what the inventory sees and what the last look ended with: whether all was reached, and a sentence.
    pub fn new(differences: Vec<Difference>, last_look: Option<&(bool, String)>) -> Self {
        let is_so = differences.is_empty() && last_look.is_none_or(|(reached, _)| *reached);
        let state = if is_so { "as_declared" } else { "differs" };
        Self { state, differences, last_look: last_look.map(|(_, sentence)| sentence.clone()) }
    }
}

/// A NIC that the configuration declares (`[[device]]`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeclaredView {
    /// Its devlink handle.
    pub devlink: String,
    /// Whether it is as declared.
    pub reached: bool,
    /// What came of the last look, in a sentence.
    pub sentence: String,
}
