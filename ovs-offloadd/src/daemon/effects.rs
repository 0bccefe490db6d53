//! How effects are carried out: which socket, file or thread each goes to, and what is answered to one that cannot go there.

use std::collections::VecDeque;

use netlink_wire::Errno;
use offload_engine::{Answer, CommandError, Effect, Event, Refused};
use tracing::{error, info, warn};

use super::journal::Journal;
use super::{Daemon, datapath, guard, now, take_told, tc, vswitchd};
use crate::inventory::Inventory;

/// What effects are carried out with.
pub(super) struct Carry<'d> {
    tc: &'d mut tc::Tc,
    datapath: &'d mut datapath::KernelDatapath,
    vswitchd: &'d vswitchd::Vswitchd,
    journal: &'d Journal,
    journal_error: &'d mut Option<String>,
    inventory: &'d mut Inventory,
    guard: &'d mut guard::Guard,
    events: &'d mut VecDeque<Event>,
}

pub(super) fn carry_out(carry: Carry<'_>, effect: Effect) {
    let mut events = Vec::new();
    let command = |command, op| match carry.vswitchd.send(op, command) {
        Ok(()) => None,
        Err(answer) => Some(Event::Answer { op, answer }),
    };
    match effect {
        Effect::DumpFilters { round, location, terse } => carry.tc.dump(round, location, terse, &mut events),
        Effect::DumpMegaflows { round } => {
            let mut told = Vec::new();
            carry.datapath.dump(round, &mut told);
            take_told(carry.inventory, told, &mut events);
        }
        Effect::Replace { op, request, unless_counted } => {
            carry.tc.replace(op, &request, unless_counted, &mut events);
        }
        Effect::AddFilter { op, filter } if carry.guard.may_make(now()) => {
            carry.tc.add(op, &filter, &mut events);
        }
        Effect::AddFilter { op, .. } => {
            let extack = Some("the guard's lease has run out".to_owned());
            let result = Err(Refused { errno: Errno::EAGAIN, extack });
            events.push(Event::Answer { op, answer: Answer::Added { made: None, result, took: None } });
        }
        Effect::TookOver { devices, rules } => {
            if rules > 0 {
                info!(rules, "rules of an earlier ovs-offloadd are taken over");
            }
            carry.guard.took_over(devices.into_iter().map(|device| device.0).collect(), &mut events);
        }
        Effect::Shed { port, on: true } => {
            warn!(%port, "more new megaflows come by a port than limits.new-flows-max; all of that port stay in software until that is over");
        }
        Effect::Shed { port, on: false } => info!(%port, "megaflows of the port may go to hardware again"),
        Effect::DeleteFilter { op, address } => carry.tc.delete(op, &address, &mut events),
        Effect::Detrace { op, ufid } => events.extend(command(vswitchd::Command::Detrace(ufid), op)),
        Effect::ReadFlow { op, ufid } => events.extend(command(vswitchd::Command::Read(ufid), op)),
        Effect::ModifyFlow { op, flow } => match carry.journal_error {
            None => events.extend(command(vswitchd::Command::Modify(flow), op)),
            // Without a journal a crash would leave a race behind that nobody repairs.
            Some(why) => {
                let failed = CommandError::Failed(format!("the journal cannot be written: {why}"));
                events.push(Event::Answer { op, answer: Answer::CommandDone(Err(failed)) });
            }
        },
        Effect::DeleteFlow { op, ufid } => events.extend(command(vswitchd::Command::Delete(ufid), op)),
        Effect::Journal(flows) => {
            *carry.journal_error = carry.journal.write(&flows).err().map(|error| error.to_string());
            if let Some(why) = carry.journal_error {
                error!(%why, "cannot write the journal; counters cannot be carried over until it can be");
            }
        }
    }
    carry.events.extend(events);
}

impl Daemon {
    pub(super) fn carry(&mut self) -> Carry<'_> {
        Carry {
            tc: &mut self.tc,
            datapath: &mut self.datapath,
            vswitchd: &self.vswitchd,
            journal: &self.journal,
            journal_error: &mut self.journal_error,
            inventory: &mut self.inventory,
            guard: &mut self.guard,
            events: &mut self.events,
        }
    }
}
