//! Open vSwitch as far as TC sees it: megaflows it remembers, a main thread that runs commands, revalidators that
//! compare with memory and not with TC.

use crate::kernel::Kernel;
use crate::rng::Rng;
use crate::rule::Rule;
use netlink_wire::Ufid;
use offload_engine::dpctl::FlowText;
use offload_engine::{Answer, CommandError, OpId};
use std::collections::{BTreeMap, VecDeque};

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
    /// It asked for a filter in TC and has not been told that it is gone.
    pub(crate) mapped: bool,
}

/// Open vSwitch.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ovs {
    pub(crate) ukeys: BTreeMap<Ufid, Ukey>,
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
    /// An upcall installs a megaflow, or installs it again.
    pub(crate) fn install(&mut self, kernel: &mut Kernel, ufid: Ufid, actions: u16) {
        if let Some(ukey) = self.ukeys.get(&ufid)
            && ukey.mapped
        {
            return;
        }
        if kernel.find(ufid).is_some() {
            return;
        }
        self.ukeys.insert(ufid, Ukey { actions, mapped: true });
        kernel.create(Rule { ufid, actions });
    }

    /// The OpenFlow tables changed: a revalidator makes the filter anew with other actions.
    pub(crate) fn modify(&mut self, kernel: &mut Kernel, ufid: Ufid, actions: u16) {
        let Some(ukey) = self.ukeys.get_mut(&ufid) else { return };
        if !ukey.mapped || ukey.actions == actions {
            return;
        }
        ukey.actions = actions;
        if let Some(address) = kernel.find(ufid) {
            kernel.delete(address);
        }
        kernel.create(Rule { ufid, actions });
    }

    /// A megaflow went idle, or nothing wants it any more.
    pub(crate) fn delete(&mut self, kernel: &mut Kernel, ufid: Ufid) {
        if self.ukeys.remove(&ufid).is_some()
            && let Some(address) = kernel.find(ufid)
        {
            kernel.delete(address);
        }
    }

    /// A round of the revalidators: filters nobody remembers are deleted, megaflows whose filter is gone forgotten.
    pub(crate) fn revalidate(&mut self, kernel: &mut Kernel) {
        let orphans: Vec<_> = kernel
            .filters
            .iter()
            .filter(|(_, filter)| !self.ukeys.contains_key(&filter.rule.ufid))
            .map(|(address, _)| *address)
            .collect();
        for address in orphans {
            kernel.delete(address);
        }
        self.ukeys.retain(|ufid, _| kernel.find(*ufid).is_some());
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
        let address = kernel.find(ufid).ok_or_else(|| CommandError::Failed("no such flow".into()))?;
        let actions = kernel.filters[&address].rule.actions;
        Ok(FlowText { ufid, key: "in_port(1)".into(), actions: actions.to_string() })
    }

    fn modify_as_told(
        &mut self,
        kernel: &mut Kernel,
        flow: &FlowText,
        rng: &mut Rng,
    ) -> Result<(), CommandError> {
        let actions = flow.actions.parse().map_err(|_| CommandError::Failed("parsing actions".into()))?;
        let rule = Rule { ufid: flow.ufid, actions };
        match kernel.find(flow.ufid) {
            Some(address) => {
                kernel.delete(address);
                // Revalidators run beside the main thread: something else may take the handle meanwhile.
                if rng.one_in(8) {
                    let other = ufid(1000 + rng.below(50));
                    self.install(kernel, other, 1);
                }
                kernel.create(rule);
            }
            None if self.resurrects => {
                kernel.create(rule);
            }
            None => {}
        }
        Ok(())
    }

    fn delete_as_told(&mut self, kernel: &mut Kernel, ufid: Ufid) -> Result<(), CommandError> {
        let address = kernel.find(ufid).ok_or_else(|| CommandError::Failed("no such flow".into()))?;
        kernel.delete(address);
        Ok(())
    }
}
