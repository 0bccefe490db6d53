//! What a probe saw drivers refuse, before any megaflow needed it.
//!
//! A rule is kept back only where it contains a match or an action that was refused by itself, at a port of the same kind
//! and toward ports of the same kind: a driver may take on a representor what it refuses on the uplink.

use crate::ports::{NicId, PortKind, Ports};
use crate::refusal::Refusal;
use alloc::string::String;
use alloc::vec::Vec;
use tc_flower::action::MirredTarget;
use tc_flower::{ActionKind, Filter, Parts};

/// Refusals kept at most; a probe tries some 130 filters, at each kind of port of a NIC.
const REFUSALS_MAX: usize = 1024;

/// One match or action that a driver refused with EOPNOTSUPP, when simpler rules were taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbedRefusal {
    /// Whose driver.
    pub nic: NicId,
    /// At what kind of port.
    pub at: PortKind,
    /// Toward what kind of port, where the refused rule had an output.
    pub toward: Option<PortKind>,
    /// What was refused: a rule with all of these.
    pub parts: Parts,
    /// Its name: `ct_state +inv`.
    pub what: String,
    /// The driver's words.
    pub why: String,
}

impl ProbedRefusal {
    fn applies(&self, ports: &Ports, nic: NicId, at: PortKind, filter: &Filter, parts: &Parts) -> bool {
        self.nic == nic
            && self.at == at
            && parts.contain(&self.parts)
            && self.toward.is_none_or(|toward| all_outputs_are(ports, filter, toward))
    }
}

/// Whether every output of `filter` is a port of this kind.
fn all_outputs_are(ports: &Ports, filter: &Filter, kind: PortKind) -> bool {
    filter.actions.iter().all(|action| match &action.kind {
        ActionKind::Mirred(mirred) => match mirred.target {
            MirredTarget::Device(ifindex) => ports.get(ifindex).is_some_and(|port| port.kind == kind),
            MirredTarget::Block(_) => false,
        },
        _ => true,
    })
}

/// All that probes saw.
#[derive(Clone, Debug, Default)]
pub(crate) struct Probed(Vec<ProbedRefusal>);

impl Probed {
    /// This is what probes saw, and nothing else.
    pub(crate) fn are(&mut self, mut refusals: Vec<ProbedRefusal>) {
        refusals.truncate(REFUSALS_MAX);
        refusals.retain(|refusal| !refusal.parts.is_empty());
        self.0 = refusals;
    }

    /// The driver of one NIC may answer differently now. Returns whether there was anything to forget.
    pub(crate) fn forget(&mut self, nic: NicId) -> bool {
        let before = self.0.len();
        self.0.retain(|refusal| refusal.nic != nic);
        self.0.len() < before
    }

    /// Whether nothing is known of a NIC: then no rule need be taken apart.
    pub(crate) fn is_empty(&self, nic: NicId) -> bool {
        self.0.iter().all(|refusal| refusal.nic != nic)
    }

    /// Why `filter` need not be tried.
    pub(crate) fn verdict(&self, ports: &Ports, nic: NicId, filter: &Filter) -> Option<Refusal> {
        let at = ports.at(filter.address.location)?.kind;
        let parts = Parts::of(filter);
        let refusal = self.0.iter().find(|refusal| refusal.applies(ports, nic, at, filter, &parts))?;
        Some(Refusal::probed(&refusal.what, &refusal.why))
    }
}
