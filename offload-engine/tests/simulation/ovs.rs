//! Open vSwitch as far as TC sees it: megaflows it remembers, a main thread that runs commands, revalidators that
//! compare with memory and not with TC.

use crate::kernel::Kernel;
use crate::rng::Rng;
use crate::rule::Rule;
use netlink_wire::Ufid;
use offload_engine::dpctl::FlowText;
use offload_engine::{Answer, CommandError, OpId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use tc_flower::FilterAddress;

/// A command that waits for the main thread. Without an `op` whoever asked has died.
#[derive(Clone, Debug)]
pub(crate) enum Command {
    Read { op: Option<OpId>, ufid: Ufid },
    Modify { op: Option<OpId>, flow: FlowText },
    Delete { op: Option<OpId>, ufid: Ufid },
}

/// What Open vSwitch remembers of a megaflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ukey {
    pub(crate) actions: u16,
}

/// Open vSwitch.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ovs {
    pub(crate) ukeys: BTreeMap<Ufid, Ukey>,
    /// Where the TC provider put each flow (`ufid_to_tc`): flows are changed and deleted by address, dumped by cookie.
    pub(crate) mapping: BTreeMap<Ufid, FilterAddress>,
    pub(crate) socket: VecDeque<Command>,
    /// OVS 4.0: `dpctl/mod-flow` of a flow that is gone makes it anew.
    pub(crate) resurrects: bool,
}

pub(crate) fn ufid(number: u64) -> Ufid {
    let mut bytes = [0; 16];
    bytes[8..].copy_from_slice(&number.to_be_bytes());
    Ufid::from_bytes(bytes)
}

impl Ovs {
    /// Deletes what is at the flow's address; false where the provider knows no such flow.
    fn unmap(&mut self, kernel: &mut Kernel, ufid: Ufid) -> bool {
        let Some(address) = self.mapping.remove(&ufid) else { return false };
        kernel.delete(address);
        true
    }

    fn put(&mut self, kernel: &mut Kernel, ufid: Ufid, actions: u16) {
        self.unmap(kernel, ufid);
        let address = kernel.create(Rule { ufid, actions });
        self.mapping.insert(ufid, address);
    }

    /// An upcall installs a megaflow, unless it is remembered as installed.
    pub(crate) fn install(&mut self, kernel: &mut Kernel, ufid: Ufid, actions: u16) {
        if let std::collections::btree_map::Entry::Vacant(vacant) = self.ukeys.entry(ufid) {
            vacant.insert(Ukey { actions });
            self.put(kernel, ufid, actions);
        }
    }

    /// The OpenFlow tables changed: a revalidator makes the filter anew with other actions.
    pub(crate) fn modify(&mut self, kernel: &mut Kernel, ufid: Ufid, actions: u16) {
        let Some(ukey) = self.ukeys.get_mut(&ufid).filter(|ukey| ukey.actions != actions) else { return };
        ukey.actions = actions;
        self.put(kernel, ufid, actions);
    }

    /// A megaflow went idle, or nothing wants it any more.
    pub(crate) fn delete(&mut self, kernel: &mut Kernel, ufid: Ufid) {
        if self.ukeys.remove(&ufid).is_some() {
            self.unmap(kernel, ufid);
        }
    }

    /// A round of the revalidators: flows nobody remembers are deleted, as far as the provider knows them; megaflows
    /// that a dump does not show are forgotten (OVS 3.5, `FDR_FLOW_MISSING_DP`).
    pub(crate) fn revalidate(&mut self, kernel: &mut Kernel) {
        let dumped: BTreeSet<Ufid> = kernel.filters.values().map(|filter| filter.rule.ufid).collect();
        for ufid in dumped.iter().filter(|ufid| !self.ukeys.contains_key(ufid)).copied().collect::<Vec<_>>() {
            self.unmap(kernel, ufid);
        }
        for ufid in self.ukeys.keys().filter(|ufid| !dumped.contains(ufid)).copied().collect::<Vec<_>>() {
            self.delete(kernel, ufid);
        }
    }

    /// The main thread gets to the next command. Returns the answer, unless whoever asked has died.
    pub(crate) fn run_command(&mut self, kernel: &mut Kernel, rng: &mut Rng) -> Option<(OpId, Answer)> {
        let (op, answer) = match self.socket.pop_front()? {
            Command::Read { op, ufid } => (op, Answer::FlowRead(self.read(kernel, ufid))),
            Command::Modify { op, flow } => {
                (op, Answer::CommandDone(self.modify_as_told(kernel, &flow, rng)))
            }
            Command::Delete { op, ufid } => (op, Answer::CommandDone(self.delete_as_told(kernel, ufid))),
        };
        Some((op?, answer))
    }

    fn read(&self, kernel: &Kernel, ufid: Ufid) -> Result<FlowText, CommandError> {
        let address = self.mapping.get(&ufid).ok_or_else(no_such_flow)?;
        let actions = kernel.filters.get(address).ok_or_else(no_such_flow)?.rule.actions;
        Ok(FlowText { ufid, key: "in_port(1)".into(), actions: actions.to_string() })
    }

    fn modify_as_told(
        &mut self,
        kernel: &mut Kernel,
        flow: &FlowText,
        rng: &mut Rng,
    ) -> Result<(), CommandError> {
        let actions = flow.actions.parse().map_err(|_| CommandError::Failed("parsing actions".into()))?;
        if !self.mapping.contains_key(&flow.ufid) && !self.resurrects {
            return Ok(());
        }
        if self.unmap(kernel, flow.ufid) && rng.one_in(8) {
            // Revalidators and handlers run beside the main thread: something else may take the handle meanwhile.
            self.install(kernel, ufid(1000 + rng.below(50)), 1);
        }
        self.put(kernel, flow.ufid, actions);
        Ok(())
    }

    fn delete_as_told(&mut self, kernel: &mut Kernel, ufid: Ufid) -> Result<(), CommandError> {
        if self.unmap(kernel, ufid) { Ok(()) } else { Err(no_such_flow()) }
    }
}

fn no_such_flow() -> CommandError {
    CommandError::Failed("deleting flow (No such file or directory)".into())
}
